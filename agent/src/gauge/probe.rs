//! Small files of `/sys` that hold one number each: found again and again,
//! kept open, read aside.
//!
//! Most of a device's health is told that way: thermal zones, hwmon chips,
//! flash wear, links, watchdogs. A family says only where such files are and
//! what each means ([`Look`]); the rest is here once:
//!
//! - A file costs one `pread` a tick. It is opened at its first reading and
//!   again after a failure.
//! - Devices come and go: the tree is looked through every [`LOOK_NS`], and at
//!   once when a file says that its device is gone. What has vanished is
//!   [`Missing::Gone`] once.
//! - A read can block for seconds (a register on a stuck I2C bus) or for ever.
//!   The files of one device are a [`Folder`]; folders are read on helper
//!   threads, so a stuck one is [`Missing::Timeout`], alone, and is asked again
//!   after 1, 2, 4 … 64 readings only.
//! - Limits and totals change seldom: a `slow` file is read once per look.
//! - A family has a limit on series. What is beyond it is counted.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::io::Errno;

use super::helper::{Helpers, MAX_LIST};
use super::{Attribute, Descriptor, Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// How long what was found is believed. A look costs some system calls per
/// device, a sensor that was plugged in can wait a minute for its first value.
pub const LOOK_NS: u64 = 60_000_000_000;
/// A file that holds one number is shorter; what is longer is something else.
const MAX_BYTES: usize = 256;
/// The most readings that a stuck folder is passed over.
const MAX_REST: u32 = 64;

/// Makes a value of a file's text, which comes trimmed and is not empty.
pub type Parse = fn(&str) -> Result<Value, Missing>;

/// Says where a family's files are below a root.
pub type Look = fn(&Path, &mut Found);

/// What was found in one look.
#[derive(Debug, Default)]
pub struct Found {
    folders: Vec<(PathBuf, Vec<Spec>)>,
}

/// One file and what it tells.
#[derive(Debug)]
struct Spec {
    path: PathBuf,
    slow: bool,
    points: Vec<Point>,
}

/// One series of a file.
#[derive(Debug)]
struct Point {
    gauge: &'static Descriptor,
    attributes: Vec<(&'static str, Attribute)>,
    parse: Parse,
}

/// The helpers of all probes: they are asked one after the other, so one set serves all.
pub type Shared = Arc<Mutex<Helpers<Folder, ()>>>;

/// The files of one device, which answer or hang together.
#[derive(Clone)]
pub struct Folder(Arc<Contents>);

struct Contents {
    /// Slow files too.
    whole: AtomicBool,
    files: Mutex<Vec<Open>>,
}

struct Open {
    path: PathBuf,
    slow: bool,
    keep: bool,
    file: Option<File>,
    /// The device went away: look for it again.
    vanished: bool,
    values: Vec<(Option<SeriesId>, Parse, Option<Result<Value, Missing>>)>,
}

/// Reads one family.
pub struct Probe {
    family: Family,
    root: PathBuf,
    look: Look,
    limit: usize,
    keep: bool,
    shared: Shared,
    units: Vec<Unit>,
    all: Arc<[Folder]>,
    looked_ns: Option<u64>,
}

struct Unit {
    key: PathBuf,
    specs: Vec<Spec>,
    ids: Vec<Option<SeriesId>>,
    folder: Folder,
    /// Readings to pass over, and how many it will be after the next timeout.
    rest: u32,
    next_rest: u32,
}

/// Helpers for [`Probe::new`].
pub fn shared() -> Shared {
    Arc::new(Mutex::new(helpers()))
}

fn helpers() -> Helpers<Folder, ()> {
    Helpers::new(Arc::new(|folder: &Folder| {
        folder.read();
        Ok(())
    }))
}

impl PartialEq for Folder {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a parser makes of it is given by the rest.
impl PartialEq for Spec {
    fn eq(&self, other: &Self) -> bool {
        let same =
            |a: &Point, b: &Point| a.gauge.name == b.gauge.name && a.attributes == b.attributes;
        self.path == other.path
            && self.points.len() == other.points.len()
            && self
                .points
                .iter()
                .zip(&other.points)
                .all(|(a, b)| same(a, b))
    }
}

impl Found {
    /// A series of `file`, a file of the device whose folder is `device`.
    /// Series of one file come one after the other; attributes are sorted by key.
    pub fn add(
        &mut self,
        device: &Path,
        file: &str,
        gauge: &'static Descriptor,
        attributes: &[(&'static str, Attribute)],
        parse: Parse,
    ) {
        self.push(device, file, false, gauge, attributes, parse);
    }

    /// The same for a file that is read once per look only.
    pub fn add_slow(
        &mut self,
        device: &Path,
        file: &str,
        gauge: &'static Descriptor,
        attributes: &[(&'static str, Attribute)],
        parse: Parse,
    ) {
        self.push(device, file, true, gauge, attributes, parse);
    }

    fn push(
        &mut self,
        device: &Path,
        file: &str,
        slow: bool,
        gauge: &'static Descriptor,
        attributes: &[(&'static str, Attribute)],
        parse: Parse,
    ) {
        if self.folders.last().is_none_or(|(last, _)| last != device) {
            self.folders.push((device.to_owned(), Vec::new()));
        }
        let Some((_, specs)) = self.folders.last_mut() else {
            return;
        };
        let point = Point {
            gauge,
            attributes: attributes.to_vec(),
            parse,
        };
        let path = device.join(file);
        match specs.last_mut().filter(|spec| spec.path == path) {
            Some(spec) => spec.points.push(point),
            None => specs.push(Spec {
                path,
                slow,
                points: vec![point],
            }),
        }
    }
}

impl Probe {
    /// A family's files below `root`, at most `limit` series. `keep`: files
    /// stay open, for families that are read often.
    pub fn new(
        family: Family,
        root: &Path,
        look: Look,
        limit: usize,
        keep: bool,
        shared: Shared,
    ) -> Self {
        Self {
            family,
            root: root.to_owned(),
            look,
            limit,
            keep,
            shared,
            units: Vec::new(),
            all: Arc::new([]),
            looked_ns: None,
        }
    }

    /// Looks for devices; what has not changed keeps its open files.
    fn look(&mut self, out: &mut Readings) {
        let mut found = Found::default();
        (self.look)(&self.root, &mut found);
        let before = std::mem::take(&mut self.units);
        let known: Vec<_> = before.iter().flat_map(|unit| unit.ids.clone()).collect();
        let mut old: Vec<Option<Unit>> = before.into_iter().map(Some).collect();
        let (mut room, mut left_out) = (self.limit, 0);
        for (key, mut specs) in found.folders {
            let mut points = 0;
            specs.retain(|spec| {
                let fits = points + spec.points.len() <= room && self.units.len() < MAX_LIST;
                match fits {
                    true => points += spec.points.len(),
                    false => left_out += spec.points.len(),
                }
                fits
            });
            if specs.is_empty() {
                continue;
            }
            room -= points;
            let same = |unit: &Option<Unit>| {
                unit.as_ref()
                    .is_some_and(|unit| unit.key == key && unit.specs == specs)
            };
            let kept = old
                .iter_mut()
                .find(|unit| same(unit))
                .and_then(Option::take);
            let unit = kept.unwrap_or_else(|| Unit::new(key, specs, self.keep, out));
            left_out += unit.ids.iter().filter(|id| id.is_none()).count();
            self.units.push(unit);
        }
        out.leave_out(self.family, left_out);
        let now: Vec<_> = self
            .units
            .iter()
            .flat_map(|unit| unit.ids.clone())
            .collect();
        for id in known.into_iter().filter(|id| !now.contains(id)) {
            out.put(id, Err(Missing::Gone));
        }
        self.all = self.units.iter().map(|unit| unit.folder.clone()).collect();
    }
}

impl Source for Probe {
    fn family(&self) -> Family {
        self.family
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let passed = |at: u64| now.boot_ns.saturating_sub(at) >= LOOK_NS;
        let whole = self.looked_ns.is_none_or(passed);
        if whole {
            self.looked_ns = Some(now.boot_ns);
            self.look(out);
        }
        if self.units.is_empty() {
            return Err(Missing::Unsupported);
        }
        let rests = self.units.iter().any(|unit| unit.rest > 0);
        let some: Arc<[Folder]>;
        let list = if rests {
            let awake = self.units.iter().filter(|unit| unit.rest == 0);
            some = awake.map(|unit| unit.folder.clone()).collect();
            &some
        } else {
            &self.all
        };
        for folder in list.iter() {
            folder.0.whole.store(whole, Ordering::Relaxed);
        }
        for unit in &mut self.units {
            if unit.rest > 0 {
                unit.rest -= 1;
                unit.absent(Missing::Timeout, out);
            }
        }
        let mut vanished = false;
        let units = &mut self.units;
        let mut helpers = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        helpers.ask(list, |at, answer| {
            let folder = list.get(at);
            let unit = units.iter_mut().find(|unit| Some(&unit.folder) == folder);
            let Some(unit) = unit else { return };
            match answer {
                Ok(()) => {
                    unit.next_rest = 1;
                    vanished |= unit.folder.put(out);
                }
                Err(missing) => {
                    unit.rest = unit.next_rest;
                    unit.next_rest = (unit.next_rest * 2).min(MAX_REST);
                    unit.absent(missing, out);
                }
            }
        });
        if vanished {
            self.looked_ns = None;
        }
        Ok(())
    }
}

impl Unit {
    fn new(key: PathBuf, specs: Vec<Spec>, keep: bool, out: &Readings) -> Self {
        let mut ids = Vec::new();
        let mut files = Vec::with_capacity(specs.len());
        for spec in &specs {
            let mut values = Vec::with_capacity(spec.points.len());
            for point in &spec.points {
                let id = out.series(point.gauge, &point.attributes);
                ids.push(id);
                values.push((id, point.parse, None));
            }
            files.push(Open {
                path: spec.path.clone(),
                slow: spec.slow,
                keep: keep && !spec.slow,
                file: None,
                vanished: false,
                values,
            });
        }
        Self {
            key,
            specs,
            ids,
            folder: Folder(Arc::new(Contents {
                whole: AtomicBool::new(true),
                files: Mutex::new(files),
            })),
            rest: 0,
            next_rest: 1,
        }
    }

    fn absent(&self, missing: Missing, out: &mut Readings) {
        for id in &self.ids {
            out.put(*id, Err(missing));
        }
    }
}

impl Folder {
    /// On a helper thread: may block.
    fn read(&self) {
        let whole = self.0.whole.load(Ordering::Relaxed);
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        for file in files.iter_mut().filter(|file| whole || !file.slow) {
            file.read();
        }
    }

    /// Takes the values out; whether a device said that it is gone.
    fn put(&self, out: &mut Readings) -> bool {
        // A helper that was late may still be at it; then there is nothing new.
        let Ok(mut files) = self.0.files.try_lock() else {
            return false;
        };
        for (id, _, value) in files.iter_mut().flat_map(|file| &mut file.values) {
            if let Some(value) = value.take() {
                out.put(*id, value);
            }
        }
        files.iter().any(|file| file.vanished)
    }
}

impl Open {
    fn read(&mut self) {
        let mut buffer = [0; MAX_BYTES];
        let read = self.fill(&mut buffer);
        let text = read.and_then(|length| {
            let bytes = buffer.get(..length).unwrap_or_default();
            let text = std::str::from_utf8(bytes).map_err(|_| Missing::Garbage)?;
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            (!text.is_empty()).then_some(text).ok_or(Missing::Garbage)
        });
        for (_, parse, value) in &mut self.values {
            *value = Some(text.and_then(|text| parse(text)));
        }
    }

    fn fill(&mut self, buffer: &mut [u8; MAX_BYTES]) -> Result<usize, Missing> {
        let length = self.try_fill(buffer).map_err(|error| {
            // ENXIO has no kind of its own.
            let no_device = [Errno::NODEV, Errno::NXIO, Errno::NOENT]
                .into_iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
            self.vanished = no_device;
            if no_device {
                Missing::Gone
            } else {
                Missing::of(&error)
            }
        })?;
        if length == MAX_BYTES {
            return Err(Missing::Garbage);
        }
        Ok(length)
    }

    fn try_fill(&mut self, buffer: &mut [u8; MAX_BYTES]) -> std::io::Result<usize> {
        self.vanished = false;
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let length = file.read_at(buffer, 0)?;
        self.file = Some(file).filter(|_| self.keep);
        Ok(length)
    }
}

/// A whole number as it stands.
pub fn whole(text: &str) -> Result<Value, Missing> {
    text.parse().map(Value::Int).map_err(|_| Missing::Garbage)
}

/// A count: whole and not negative.
pub fn count(text: &str) -> Result<Value, Missing> {
    text.parse::<u64>()
        .map_err(|_| Missing::Garbage)
        .and_then(Value::whole)
}

/// 0 or 1; any other number is neither.
pub fn flag(text: &str) -> Result<Value, Missing> {
    match text {
        "0" => Ok(Value::Int(0)),
        "1" => Ok(Value::Int(1)),
        _ => Err(Missing::Garbage),
    }
}

/// Thousandths, as hwmon and thermal zones give them.
pub fn thousandths(text: &str) -> Result<Value, Missing> {
    let milli: i64 = text.parse().map_err(|_| Missing::Garbage)?;
    Value::grained(milli as f64 / 1000.0, 1000.0)
}

/// Millionths, rounded to thousandths: no power meter here knows more.
pub fn millionths(text: &str) -> Result<Value, Missing> {
    let micro: i64 = text.parse().map_err(|_| Missing::Garbage)?;
    Value::grained(micro as f64 / 1e6, 1000.0)
}

/// Names in a folder that begin so, sorted as people count (`hwmon2` before
/// `hwmon10`), at most [`MAX_LIST`].
pub fn entries(folder: &Path, prefix: &str) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort_unstable_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    names.truncate(MAX_LIST);
    names
}

/// The last part of where a link leads: how the kernel calls a device.
pub fn target(link: &Path) -> Option<String> {
    let target = std::fs::read_link(link).ok()?;
    target.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::gauge::Registry;

    /// A fake root.
    pub(crate) struct Tree(pub(crate) tempfile::TempDir);

    impl Tree {
        pub(crate) fn new(files: &[(&str, &str)]) -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            for (path, text) in files {
                tree.write(path, text);
            }
            tree
        }

        pub(crate) fn path(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
            let path = self.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }

        pub(crate) fn link(&self, path: &str, target: &str) {
            let path = self.path(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        }

        pub(crate) fn probe(&self, family: Family, look: Look) -> Probe {
            // Whatever else the machine does meanwhile.
            let helpers = helpers().patient(std::time::Duration::from_millis(600));
            let shared = Arc::new(Mutex::new(helpers));
            Probe::new(family, self.0.path(), look, 64, true, shared)
        }
    }

    /// One reading of a source.
    pub(crate) fn read(source: &mut dyn Source, at_s: u64) -> Readings {
        let mut out = Readings::new(Registry::default());
        let _ = read_into(source, at_s, &mut out);
        out
    }

    /// The next reading of a source.
    pub(crate) fn read_into(
        source: &mut dyn Source,
        at_s: u64,
        out: &mut Readings,
    ) -> Result<(), Missing> {
        out.clear();
        let now = Stamp {
            unix_ns: 0,
            boot_ns: at_s * 1_000_000_000,
        };
        source.read(now, out)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{Tree, read, read_into};
    use super::*;
    use crate::gauge::readings::found;
    use crate::gauge::{Registry, table};

    /// Each `sys/x/*` has a file `value`, and a limit.
    fn look(root: &Path, out: &mut Found) {
        let folder = root.join("sys/x");
        for name in entries(&folder, "") {
            let device = folder.join(&name);
            let id = [("hw.id", found(&name))];
            out.add(&device, "value", &table::TEMPERATURE, &id, thousandths);
            if device.join("max").exists() {
                out.add_slow(&device, "max", &table::TEMPERATURE_LIMIT, &id, thousandths);
            }
        }
    }

    fn of(out: &Readings, name: &str) -> Option<Result<Value, Missing>> {
        out.value(&format!("hw.temperature hw.id={name}"))
    }

    #[test]
    fn whatever_a_file_holds_is_a_value_or_typed_absence() {
        let tree = Tree::new(&[
            ("sys/x/cold/value", "-40500\n"),
            ("sys/x/empty/value", ""),
            ("sys/x/word/value", "N/A\n"),
            ("sys/x/wild/value", "99999999999999999999\n"),
        ]);
        tree.write("sys/x/binary/value", [0xff, 0, 0xfe]);
        let huge = tree.path("sys/x/huge");
        std::fs::create_dir(&huge).unwrap();
        let file = File::create(huge.join("value")).unwrap();
        file.set_len(1 << 40).unwrap();
        // Reading a folder fails as a register that does not answer.
        std::fs::create_dir_all(tree.path("sys/x/error/value")).unwrap();
        std::fs::create_dir(tree.path("sys/x/nothing")).unwrap();
        let out = read(&mut tree.probe(Family::Temperature, look), 1);
        assert_eq!(of(&out, "cold"), Some(Ok(Value::Float(-40.5))));
        for name in ["empty", "word", "wild", "binary", "huge"] {
            assert_eq!(of(&out, name), Some(Err(Missing::Garbage)), "{name}");
        }
        for name in ["error", "nothing"] {
            assert_eq!(of(&out, name), Some(Err(Missing::Gone)), "{name}");
        }
        assert_eq!(out.as_slice().len(), 8);
    }

    #[test]
    fn a_machine_without_such_a_thing_is_unsupported() {
        let tree = Tree::new(&[]);
        let mut out = Readings::new(Registry::default());
        let mut probe = tree.probe(Family::Temperature, look);
        assert_eq!(
            read_into(&mut probe, 1, &mut out),
            Err(Missing::Unsupported)
        );
        assert!(out.as_slice().is_empty());
    }

    #[test]
    fn devices_come_and_go_and_keep_their_series() {
        let tree = Tree::new(&[("sys/x/a/value", "1000"), ("sys/x/b/value", "2000")]);
        let mut probe = tree.probe(Family::Temperature, look);
        let mut out = Readings::new(Registry::default());
        read_into(&mut probe, 1, &mut out).unwrap();
        let first = out.as_slice().to_vec();
        std::fs::remove_dir_all(tree.path("sys/x/b")).unwrap();
        tree.write("sys/x/c/value", "3000");
        // Within the minute nobody looks.
        read_into(&mut probe, 30, &mut out).unwrap();
        assert_eq!(of(&out, "c"), None);
        read_into(&mut probe, 62, &mut out).unwrap();
        assert_eq!(of(&out, "a"), Some(Ok(Value::Float(1.0))));
        assert_eq!(of(&out, "b"), Some(Err(Missing::Gone)));
        assert_eq!(of(&out, "c"), Some(Ok(Value::Float(3.0))));
        read_into(&mut probe, 63, &mut out).unwrap();
        assert_eq!(of(&out, "b"), None, "gone is said once");
        tree.write("sys/x/b/value", "2500");
        read_into(&mut probe, 124, &mut out).unwrap();
        assert_eq!(of(&out, "b"), Some(Ok(Value::Float(2.5))));
        assert!(
            first
                .iter()
                .all(|(id, _)| out.as_slice().iter().any(|(other, _)| other == id))
        );
    }

    #[test]
    fn limits_are_read_once_a_minute_and_values_each_time() {
        let tree = Tree::new(&[("sys/x/a/value", "1000"), ("sys/x/a/max", "90000")]);
        let mut probe = tree.probe(Family::Temperature, look);
        let mut out = Readings::new(Registry::default());
        let lengths: Vec<_> = [1, 11, 50, 61, 62]
            .map(|at| {
                read_into(&mut probe, at, &mut out).unwrap();
                out.as_slice().len()
            })
            .into();
        assert_eq!(lengths, [2, 1, 1, 2, 1]);
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let tree = Tree::new(&[]);
        for n in 0..70 {
            tree.write(&format!("sys/x/{n}/value"), "1000");
        }
        let mut probe = tree.probe(Family::Temperature, look);
        let mut out = Readings::new(Registry::default());
        read_into(&mut probe, 1, &mut out).unwrap();
        assert_eq!(
            (out.as_slice().len(), out.left_out(Family::Temperature)),
            (64, 6)
        );
        for n in 10..20 {
            std::fs::remove_dir_all(tree.path(&format!("sys/x/{n}"))).unwrap();
        }
        read_into(&mut probe, 61, &mut out).unwrap();
        assert_eq!(out.left_out(Family::Temperature), 0);
    }

    #[test]
    fn a_stuck_device_is_a_timeout_alone_and_rests() {
        let tree = Tree::new(&[("sys/x/a/value", "1000"), ("sys/x/c/value", "3000")]);
        std::fs::create_dir(tree.path("sys/x/b")).unwrap();
        // Opening it for reading blocks until somebody opens it for writing.
        let stuck = tree.path("sys/x/b/value");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &stuck,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let mut probe = tree.probe(Family::Temperature, look);
        let mut out = Readings::new(Registry::default());
        for at in 1..20 {
            read_into(&mut probe, at, &mut out).unwrap();
            assert_eq!(of(&out, "a"), Some(Ok(Value::Float(1.0))));
            assert_eq!(of(&out, "b"), Some(Err(Missing::Timeout)));
            assert_eq!(of(&out, "c"), Some(Ok(Value::Float(3.0))));
        }
        // It answers at last: nothing, and then a number.
        drop(File::options().write(true).open(&stuck).unwrap());
        std::fs::remove_file(&stuck).unwrap();
        tree.write("sys/x/b/value", "2000");
        let mut at = 20;
        while of(&out, "b") != Some(Ok(Value::Float(2.0))) {
            at += 1;
            // The helper that hung has to have its turn as well.
            assert!(at < 100_000, "it is never asked again");
            read_into(&mut probe, at, &mut out).unwrap();
        }
    }
}
