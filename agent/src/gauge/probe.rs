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

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::helper::{Helpers, MAX_LIST};
use super::{Attribute, Descriptor, Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

mod number;

use number::{NumberFile, Slot};
pub use number::{count, flag, millionths, thousandths};

/// How long what was found is believed. A look costs some system calls per
/// device, a sensor that was plugged in can wait a minute for its first value.
pub const LOOK_NS: u64 = 60_000_000_000;
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
    files: Mutex<Vec<NumberFile>>,
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
            let mut slots = Vec::with_capacity(spec.points.len());
            for point in &spec.points {
                let id = out.series(point.gauge, &point.attributes);
                ids.push(id);
                slots.push(Slot {
                    id,
                    parse: point.parse,
                    value: None,
                });
            }
            files.push(NumberFile {
                path: spec.path.clone(),
                slow: spec.slow,
                keep: keep && !spec.slow,
                file: None,
                vanished: false,
                slots,
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
        for slot in files.iter_mut().flat_map(|file| &mut file.slots) {
            if let Some(value) = slot.value.take() {
                out.put(slot.id, value);
            }
        }
        files.iter().any(|file| file.vanished)
    }
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
pub(crate) mod testing;
#[cfg(test)]
mod tests;
