//! The board's promises, with times that the test chooses.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::board::Custom;
use super::definition::{Definition, Extract, Origin, Shape};
use super::files::Files;
use super::number::Number;
use super::pattern::Pattern;
use super::push::{Push, Refusal};
use crate::frame::Stamp;
use crate::gauge::{Descriptor, Family, Kind, Missing, Readings, Registry, Source as _, Value};
use crate::work::testing::job;

const S: u64 = 1_000_000_000;
type Listed = Vec<(String, Result<Value, Missing>)>;

fn definition(name: &str, origin: Origin) -> Definition {
    let [name, unit, text] = [name, "1", ""].map(String::from);
    Definition {
        gauge: Descriptor::owned(name, unit, text, Kind::Gauge, Family::Custom),
        attributes: BTreeMap::new(),
        shape: Shape {
            scale: 1.0,
            offset: 0.0,
            min: None,
            max: None,
            resolution: Some(1.0),
        },
        interval: Duration::from_secs(10),
        origin,
    }
}

fn pushed(max_series: usize) -> Definition {
    let expires = Duration::from_secs(60);
    let origin = Origin::Push {
        max_series,
        expires,
    };
    Definition {
        interval: Duration::from_secs(1),
        ..definition("line.speed", origin)
    }
}

fn configured(gauges: &[(&str, Definition)]) -> Custom {
    let custom = Custom::default();
    configure(&custom, gauges, 0);
    custom
}

fn configure(custom: &Custom, gauges: &[(&str, Definition)], now: u64) {
    let gauges = gauges
        .iter()
        .map(|(name, gauge)| ((*name).to_owned(), gauge.clone()));
    custom.configure(&gauges.collect(), now);
}

fn push(name: &str, value: i64, attributes: &[(&str, &str)]) -> Push {
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    Push {
        name: name.into(),
        value: Number::Whole(value),
        attributes: attributes.iter().map(owned).collect(),
    }
}

fn collected(custom: &Custom, now: u64) -> Listed {
    let mut out = Readings::new(Registry::default());
    custom.collect(now, &mut out);
    out.listed()
}

/// Series are numbered by one registry, as in the agent.
struct Ticks(Custom, Readings);

impl Ticks {
    fn at(&mut self, now: u64) -> Listed {
        self.1.clear();
        self.0.collect(now, &mut self.1);
        self.1.listed()
    }
}

#[test]
fn the_last_push_before_a_tick_is_told_once_and_expires() {
    let custom = configured(&[("speed", pushed(4))]);
    let mut ticks = Ticks(custom.clone(), Readings::new(Registry::default()));
    assert!(ticks.at(S).is_empty());
    for value in [1, 2, 3] {
        assert_eq!(custom.push(push("speed", value, &[]), 2 * S), Ok(()));
    }
    let told = |value| vec![("line.speed".to_owned(), value)];
    assert_eq!(ticks.at(3 * S), told(Ok(Value::Int(3))));
    assert!(ticks.at(4 * S).is_empty());
    assert!(ticks.at(61 * S).is_empty());
    assert_eq!(ticks.at(62 * S), told(Err(Missing::Gone)));
    assert!(ticks.at(63 * S).is_empty());
    // Pushed oftener than its interval: the last one of it.
    for tenth in 621..630 {
        assert_eq!(custom.push(push("speed", tenth, &[]), 63 * S), Ok(()));
        assert!(ticks.at(63 * S + S / 2).is_empty());
    }
    assert_eq!(ticks.at(64 * S), told(Ok(Value::Int(629))));
    // A number that could not be true expires as well.
    let mut speed = pushed(4);
    speed.shape.max = Some(9.0);
    configure(&custom, &[("speed", speed)], 65 * S);
    custom.push(push("speed", 10, &[]), 65 * S).unwrap_err();
    assert_eq!(ticks.at(65 * S), told(Err(Missing::Garbage)));
    assert_eq!(ticks.at(125 * S), told(Err(Missing::Gone)));
    configure(&custom, &[("speed", pushed(4))], 126 * S);
    // By the metric's name as well; and it is there again.
    assert_eq!(custom.push(push("line.speed", 4, &[]), 126 * S), Ok(()));
    assert_eq!(ticks.at(127 * S), told(Ok(Value::Int(4))));
}

#[test]
fn sets_of_attributes_are_bounded_and_the_rest_is_refused_and_counted() {
    let custom = configured(&[("speed", pushed(2))]);
    for line in ["1", "2", "1"] {
        assert_eq!(custom.push(push("speed", 5, &[("line", line)]), S), Ok(()));
    }
    for _ in 0..3 {
        let refused = custom.push(push("speed", 5, &[("line", "3")]), S);
        assert_eq!(refused, Err(Refusal::Series("speed".into(), 2)));
    }
    let seen: Vec<_> = collected(&custom, S)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(seen, ["line.speed line=1", "line.speed line=2"]);
    assert_eq!(custom.refused(), [("series".to_owned(), 3)].into());
}

#[test]
fn hostile_pushes_are_refused_by_reason() {
    let mut bounded = pushed(2);
    bounded.shape.max = Some(100.0);
    bounded.attributes = [("site".to_owned(), "a".to_owned())].into();
    let file = definition("x", Origin::File("/x".into(), Extract::Whole));
    let other = Definition {
        attributes: [("site".to_owned(), "b".to_owned())].into(),
        ..bounded.clone()
    };
    let bare = Definition {
        attributes: BTreeMap::new(),
        ..bounded.clone()
    };
    let custom = configured(&[
        ("bare", bare),
        ("speed", bounded),
        ("speed2", other),
        ("file", file),
    ]);
    let refused = |push| custom.push(push, S).unwrap_err().as_str();
    assert_eq!(refused(push("none", 1, &[])), "unknown");
    assert_eq!(refused(push("file", 1, &[])), "not_pushed");
    assert_eq!(refused(push("line.speed", 1, &[])), "ambiguous");
    assert_eq!(refused(push("speed", 1, &[("site", "b")])), "attribute");
    assert_eq!(refused(push("speed", 1, &[("a b", "b")])), "attribute");
    assert_eq!(
        refused(push("speed", 1, &[("a", &"b".repeat(1000))])),
        "attribute"
    );
    let many: Vec<(String, String)> = (0..17).map(|n| (format!("k{n}"), String::new())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(refused(push("speed", 1, &many)), "attribute");
    let taken = custom.push(push("bare", 1, &[("site", "b")]), S);
    let speed2 = Refusal::Taken("bare".into(), "speed2".into());
    assert_eq!(taken, Err(speed2));
    assert_eq!(refused(push("speed", 101, &[])), "range");
    // What cannot be true is an absence of that gauge, too.
    let told = vec![("line.speed site=a".to_owned(), Err(Missing::Garbage))];
    assert_eq!(collected(&custom, S), told);
}

#[test]
fn a_flood_of_pushes_is_held_to_its_rate_and_let_in_again() {
    let custom = configured(&[("speed", pushed(2))]);
    let taken = |now| {
        (0..5000)
            .filter(|n| custom.push(push("speed", *n, &[]), now).is_ok())
            .count()
    };
    assert_eq!(taken(10 * S), 2000);
    assert_eq!(taken(11 * S), 200);
    assert_eq!(custom.refused()["rate"], 3000 + 4800);
}

#[test]
fn what_no_series_is_kept_for_is_refused_and_counted_never_taken_in_silence() {
    use crate::gauge::readings::MAX_FAMILY_SERIES;
    let custom = configured(&[
        ("a", pushed(2000)),
        ("b", definition("b", pushed(2000).origin)),
    ]);
    let say = |gauge: &str, n: usize, now| {
        let taken = custom.push(push(gauge, 1, &[("n", &n.to_string())]), now);
        taken.map_err(|refusal| refusal.as_str())
    };
    // A series that the registry does not take is noticed at its tick …
    let registry = Registry::default();
    let mut out = Readings::new(registry.clone());
    let other = configured(&[("old", pushed(2000))]);
    other.push(push("old", 1, &[("n", "old")]), 0).unwrap();
    other.collect(0, &mut out);
    for n in 0..MAX_FAMILY_SERIES {
        assert_eq!(say("a", n, n as u64 * S), Ok(()), "{n}");
    }
    let later = 2000 * S;
    assert_eq!(say("b", 0, later), Err("full"), "one more than is kept");
    assert_eq!(out.left_out(Family::Custom), 0);
    custom.collect(later, &mut out);
    assert_eq!(out.left_out(Family::Custom), 1);
    // … and refused from then on, others not.
    let last = MAX_FAMILY_SERIES - 1;
    assert_eq!(say("a", last, later), Err("full"));
    assert_eq!(say("a", 0, later), Ok(()));
    assert_eq!(custom.refused()["full"], 2);
    let last = custom.last_refused().unwrap();
    assert!(last.starts_with("a: the gauge \"a\": all gauges"), "{last}");
}

#[test]
fn a_reload_keeps_what_stayed_and_drops_what_went() {
    let custom = configured(&[("a", pushed(2)), ("b", definition("b", pushed(2).origin))]);
    custom.push(push("a", 1, &[]), S).unwrap();
    custom.push(push("b", 2, &[]), S).unwrap();
    let registry = Registry::default();
    let mut out = Readings::new(registry.clone());
    custom.collect(S, &mut out);
    let series: Vec<_> = out
        .as_slice()
        .iter()
        .map(|(id, _)| registry.get(*id).unwrap())
        .collect();
    assert!(series.iter().all(|series| custom.holds(series)));
    let mut changed = definition("b", pushed(2).origin);
    changed.shape.scale = 2.0;
    configure(&custom, &[("b", changed)], 2 * S);
    assert!(!custom.holds(&series[0]));
    assert_eq!(
        custom.push(push("a", 1, &[]), 2 * S).unwrap_err().as_str(),
        "unknown"
    );
    configure(&custom, &[], 3 * S);
    assert!(!custom.holds(&series[1]));
    assert!(collected(&custom, 3 * S).is_empty());
}

#[test]
fn the_status_says_what_was_never_pushed_and_why_a_value_is_missing() {
    let mut bounded = definition("b", pushed(2).origin);
    bounded.shape.min = Some(0.0);
    let custom = configured(&[("a", pushed(2)), ("b", bounded)]);
    custom.push(push("b", -1, &[]), S).unwrap_err();
    let mut gauges = vec![crate::status::sample::gauge("b", "1", &[], 0.0)];
    gauges[0].value = None;
    gauges[0].missing = Some("garbage".into());
    custom.annotate(40 * S, &mut gauges);
    assert_eq!(gauges[0].why.as_deref(), Some("-1 is less than 0"));
    assert_eq!(gauges[0].table.as_deref(), Some("gauge.b"));
    assert_eq!(gauges[1].name, "line.speed");
    assert_eq!(gauges[1].missing.as_deref(), Some("first"));
    assert_eq!(gauges[1].why.as_deref(), Some("nothing was pushed yet"));
    // Since it was pushed wrongly; since it should have been pushed.
    assert_eq!(gauges[0].absent_s, Some(39.0));
    assert_eq!(gauges[1].absent_s, Some(0.0));
    custom.push(push("b", 1, &[]), 50 * S).unwrap();
    gauges.pop();
    custom.annotate(60 * S, &mut gauges);
    assert_eq!(gauges[0].absent_s, None);
    gauges.pop();
    custom.annotate(70 * S, &mut gauges);
    assert_eq!(gauges[1].absent_s, Some(10.0));
}

fn commanded(seconds: u64) -> Definition {
    Definition {
        interval: Duration::from_secs(seconds),
        ..definition(
            "c",
            Origin::Command(Arc::new(job("c", &["true"])), Extract::Whole),
        )
    }
}

#[test]
fn a_command_starts_at_once_then_shortly_before_its_ticks_and_never_twice_at_once() {
    let custom = configured(&[("c", commanded(10))]);
    let start = |now| custom.commands_due(now, 4).pop();
    let mut gauges = vec![crate::status::sample::gauge("c", "1", &[], 0.0)];
    gauges[0].missing = Some("first".into());
    let mut why = |now| {
        custom.annotate(now, &mut gauges);
        gauges[0].why.clone().unwrap()
    };
    assert_eq!(why(0), "it has not run yet");
    let (name, job) = start(0).unwrap();
    assert_eq!(why(12 * S), "it has been running for 12s");
    assert!(start(60 * S).is_none());
    assert_eq!(custom.next_command(), None);
    let ran = |took: u64, now| {
        let took = Duration::from_nanos(took);
        custom.ran(&name, &job, took, Some(Ok("7\n")), now);
    };
    ran(S / 10, S);
    assert_eq!(custom.next_command(), Some(10 * S - S / 2));
    assert_eq!(collected(&custom, S), [("c".to_owned(), Ok(Value::Int(7)))]);
    assert!(start(9 * S).is_none());
    assert!(start(10 * S - S / 2).is_some());
    // It took two seconds: it is begun earlier, and not again for the same tick.
    ran(2 * S, 10 * S - S / 4);
    assert_eq!(custom.next_command(), Some(16 * S));
    // A suspend of an hour is one start.
    assert!(start(3600 * S).is_some());
    ran(S, 3600 * S);
    assert_eq!(custom.next_command(), Some(3608 * S));
}

#[test]
fn commands_take_turns_when_there_is_no_room() {
    let all = ["a", "b", "c", "d"].map(|name| (name, commanded(10)));
    let custom = configured(&all);
    let names = |due: Vec<(String, _)>| due.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let first = custom.commands_due(0, 3);
    assert!(custom.commands_due(0, 0).is_empty());
    for (name, job) in &first {
        custom.ran(name, job, Duration::ZERO, None, S);
    }
    assert_eq!(names(first), ["a", "b", "c"]);
    assert_eq!(names(custom.commands_due(20 * S, 2)), ["d", "a"]);
}

#[test]
fn what_a_command_of_an_older_configuration_printed_is_nobodys() {
    let custom = configured(&[("c", commanded(10))]);
    let (name, job) = custom.commands_due(0, 1).pop().unwrap();
    configure(&custom, &[("c", commanded(20))], S);
    custom.ran(&name, &job, Duration::ZERO, Some(Ok("7")), S);
    assert_eq!(
        collected(&custom, S),
        [("c".to_owned(), Err(Missing::First))]
    );
    // The new one has not been started by it, and is.
    assert_eq!(custom.commands_due(S, 1).len(), 1);
}

fn filed(path: &str, extract: Extract) -> Definition {
    definition("f", Origin::File(path.into(), extract))
}

struct Disk(tempfile::TempDir, Readings);

impl Disk {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self(dir, Readings::new(Registry::default()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&mut self, custom: &Custom, now: u64) -> Listed {
        let boot_ns = now;
        let stamp = Stamp {
            unix_ns: 0,
            boot_ns,
        };
        self.1.clear();
        let mut files = Files::new(custom.clone(), self.0.path());
        files.read(stamp, &mut self.1).unwrap();
        self.1.listed()
    }
}

#[test]
fn files_are_read_at_their_interval_by_pattern_pointer_or_whole() {
    let mut disk = Disk::new();
    disk.write("f", b"{\"a\": 4,\n \"b\": 5}");
    disk.write("w", b" 6\n");
    let pattern = Extract::Pattern(Pattern::parse("\"b\": {}}}").unwrap());
    let named =
        |name: &str, path: &str, extract| definition(name, Origin::File(path.into(), extract));
    let custom = configured(&[
        ("a", named("a", "/f", Extract::Pointer("/a".into()))),
        ("b", named("b", "/f", pattern)),
        ("w", named("w", "/w", Extract::Whole)),
    ]);
    let mut values = disk.read(&custom, 3 * S);
    values.sort_by(|a, b| a.0.cmp(&b.0));
    let is = |name: &str, value| (name.to_owned(), Ok(Value::Int(value)));
    assert_eq!(values, [is("a", 4), is("b", 5), is("w", 6)]);
    assert!(disk.read(&custom, 9 * S).is_empty());
    // A program replaced it.
    disk.write("new", b"7");
    std::fs::rename(disk.path("new"), disk.path("w")).unwrap();
    assert!(disk.read(&custom, 10 * S).contains(&is("w", 7)));
}

#[test]
fn special_huge_and_binary_files_are_typed_absence_and_hold_nobody_up() {
    let mut disk = Disk::new();
    let fifo = disk.path("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/dev/zero", disk.path("zero")).unwrap();
    std::fs::create_dir(disk.path("folder")).unwrap();
    disk.write("huge", &vec![b'1'; 65 * 1024]);
    disk.write("binary", &[0xff, 0, b'1']);
    disk.write("empty", b"");
    for (path, missing) in [
        ("/fifo", Missing::Unsupported),
        ("/zero", Missing::Unsupported),
        ("/folder", Missing::Unsupported),
        ("/none", Missing::Unsupported),
        ("/huge", Missing::Garbage),
        ("/binary", Missing::Garbage),
        ("/empty", Missing::Garbage),
    ] {
        let custom = configured(&[("f", filed(path, Extract::Whole))]);
        let told = vec![("f".to_owned(), Err(missing))];
        assert_eq!(disk.read(&custom, S), told, "{path}");
    }
}

#[test]
fn a_file_that_vanishes_is_gone() {
    let mut disk = Disk::new();
    disk.write("f", b"1");
    let custom = configured(&[("f", filed("/f", Extract::Whole))]);
    assert_eq!(disk.read(&custom, S)[0].1, Ok(Value::Int(1)));
    std::fs::remove_file(disk.path("f")).unwrap();
    assert_eq!(disk.read(&custom, 10 * S)[0].1, Err(Missing::Gone));
    let mut gauges = vec![crate::status::sample::gauge("f", "1", &[], 0.0)];
    gauges[0].missing = Some("gone".into());
    custom.annotate(40 * S, &mut gauges);
    let why = gauges[0].why.clone().unwrap();
    assert!(why.starts_with("/f: No such file"), "{why}");
}

#[test]
fn a_file_that_hangs_is_a_timeout_and_the_others_are_read() {
    let (open, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let question = move |path: &std::path::PathBuf| {
        if path.ends_with("dead") {
            let _ = gate.lock().unwrap().recv();
        }
        Ok(Ok("7".to_owned()))
    };
    let named = |path: &str| {
        definition(
            path,
            Origin::File(format!("/{path}").into(), Extract::Whole),
        )
    };
    let gauges = ["dead", "one", "two"].map(|path| (path, named(path)));
    let custom = configured(&gauges);
    let mut files = Files::asking(custom, Path::new("/"), Arc::new(question));
    let mut out = Readings::new(Registry::default());
    let mut at = |now, out: &mut Readings| {
        out.clear();
        let stamp = Stamp {
            unix_ns: 0,
            boot_ns: now,
        };
        files.read(stamp, out).unwrap();
        let mut listed = out.listed();
        listed.sort_by(|a, b| a.0.cmp(&b.0));
        listed
            .into_iter()
            .map(|(_, value)| value)
            .collect::<Vec<_>>()
    };
    let seven = Ok(Value::Int(7));
    for tick in 1..4 {
        let told = at(tick * 10 * S, &mut out);
        assert_eq!(told, [Err(Missing::Timeout), seven, seven]);
    }
    drop(open);
    // It answers at last, and is asked again.
    let mut tick = 4;
    while at(tick * 10 * S, &mut out) != [seven; 3] {
        tick += 1;
    }
}

#[test]
fn the_deepest_json_fits_the_stack_of_the_thread_that_reads_files() {
    let read = || {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let deep = format!("{}1{}", open.repeat(127), close.repeat(127));
            let too_deep = format!("{}1{}", open.repeat(128), close.repeat(128));
            let pointer = Extract::Pointer("/0".into());
            let pointer = if open == "[" {
                pointer
            } else {
                Extract::Pointer("/a".repeat(127))
            };
            let found = pointer.number(&deep);
            assert_eq!(found.is_ok(), open != "[", "{found:?}");
            assert!(pointer.number(&too_deep).is_err());
        }
    };
    let stack = crate::gauge::reader::STACK;
    let thread = std::thread::Builder::new().stack_size(stack).spawn(read);
    thread.unwrap().join().unwrap();
}
