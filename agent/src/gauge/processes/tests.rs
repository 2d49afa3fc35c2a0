use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::gauge::Registry;

const SECOND: u64 = 1_000_000_000;

/// A `/proc` and `/sys/fs/cgroup` of our own, and a source that looks there.
struct Rig {
    root: TempDir,
    config: watch::Sender<Watches>,
    source: Processes,
    out: Readings,
    now: Stamp,
}

fn rig(watches: &[(&str, By)]) -> Rig {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("proc/1")).unwrap();
    let watches = watches.iter().cloned();
    let watches: Watches = watches.map(|(name, by)| (name.to_owned(), by)).collect();
    let (config, seen) = watch::channel(watches);
    Rig {
        source: Processes::new(root.path(), seen),
        root,
        config,
        out: Readings::new(Registry::default()),
        now: Stamp {
            unix_ns: 0,
            boot_ns: 10_000 * SECOND,
        },
    }
}

fn named(name: &str) -> By {
    By::Name(name.into())
}

impl Rig {
    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A process that started so many seconds after boot, used so much CPU in
    /// either mode and read and wrote so many bytes.
    fn process(&self, pid: u32, name: &str, start_s: u64, cpu_s: u64, io: u64) {
        self.state(pid, name.as_bytes(), "S", start_s, cpu_s, 2);
        let io = format!("rchar: 1\nread_bytes: {io}\nwrite_bytes: {io}\n");
        self.write(&format!("proc/{pid}/io"), io);
        for open in ["0", "1", "2"] {
            self.write(&format!("proc/{pid}/fd/{open}"), "");
        }
    }

    fn state(&self, pid: u32, name: &[u8], state: &str, start_s: u64, cpu_s: u64, threads: u32) {
        let hz = ticks_per_second() as u64;
        let (start, cpu) = (start_s * hz, cpu_s * hz);
        let mut stat = format!("{pid} (").into_bytes();
        stat.extend_from_slice(name);
        let rest = format!(
            ") {state} 1 1 1 0 -1 4194304 1 0 0 0 {cpu} {cpu} 0 0 20 0 {threads} 0 {start} 8192000 300 18446744073709551615\n"
        );
        stat.extend_from_slice(rest.as_bytes());
        self.write(&format!("proc/{pid}/stat"), stat);
        let mut comm = name.to_vec();
        comm.push(b'\n');
        self.write(&format!("proc/{pid}/comm"), comm);
    }

    fn end(&self, pid: u32) {
        fs::remove_dir_all(self.root.path().join(format!("proc/{pid}"))).unwrap();
    }

    fn born(&self, last: u32) {
        self.write("proc/loadavg", format!("0.1 0.1 0.1 1/9 {last}\n"));
    }

    /// A tick, so many seconds after the last.
    fn tick(&mut self, seconds: u64) {
        self.now.boot_ns += seconds * SECOND;
        self.out.clear();
        assert_eq!(self.source.read(self.now, &mut self.out), Ok(()));
    }

    fn get(&self, gauge: &str, name: &str) -> Option<Result<f64, Missing>> {
        let value = self
            .out
            .value(&format!("{gauge} sonde.process.name={name}"));
        value.map(|value| value.map(Value::as_f64))
    }

    fn count(&self, name: &str) -> Option<Result<f64, Missing>> {
        self.get("sonde.process.count", name)
    }

    fn user(&self, name: &str) -> Option<Result<f64, Missing>> {
        self.get("process.cpu.time cpu.mode=user", name)
    }

    /// Since when sums count that began in this tick, in seconds after boot.
    fn begun(&self) -> Vec<u64> {
        let beginnings = self.out.beginnings().iter();
        beginnings.map(|(_, since)| since / SECOND).collect()
    }
}

#[test]
fn a_process_is_told_by_its_name_and_all_its_figures_come_from_its_files() {
    let mut rig = rig(&[("broker", named("mosquitto"))]);
    rig.process(70, "mosquitto", 4_000, 9, 4096);
    rig.process(71, "mosquitto2", 4_000, 100, 1);
    rig.tick(0);
    for (gauge, value) in [
        ("sonde.process.count", 1.0),
        ("sonde.process.restarts", 0.0),
        (
            "process.memory.usage",
            300.0 * rustix::param::page_size() as f64,
        ),
        ("process.memory.virtual", 8_192_000.0),
        ("process.cpu.time cpu.mode=user", 9.0),
        ("process.cpu.time cpu.mode=system", 9.0),
        ("process.disk.io disk.io.direction=read", 4096.0),
        ("process.disk.io disk.io.direction=write", 4096.0),
        ("process.thread.count", 2.0),
        ("process.unix.file_descriptor.count", 3.0),
        ("process.uptime", 6_000.0),
    ] {
        assert_eq!(rig.get(gauge, "broker"), Some(Ok(value)), "{gauge}");
    }
    assert_eq!(rig.begun(), [4_000; 4]);
    rig.tick(10);
    // They go on counting.
    assert!(rig.begun().is_empty());
}

#[test]
fn a_restart_is_counted_and_its_sums_count_from_its_own_start() {
    let mut rig = rig(&[("p", named("p"))]);
    rig.process(70, "p", 100, 50, 0);
    rig.tick(0);
    rig.end(70);
    rig.process(75, "p", 9_999, 1, 0);
    rig.tick(10);
    assert_eq!(rig.user("p"), Some(Ok(1.0)));
    assert_eq!(rig.get("sonde.process.restarts", "p"), Some(Ok(1.0)));
    assert_eq!(rig.begun(), [9_999; 4]);
    // The same number, another process: it only shows in the start time.
    rig.process(75, "p", 10_005, 2, 0);
    rig.tick(10);
    assert_eq!(rig.get("sonde.process.restarts", "p"), Some(Ok(2.0)));
    assert_eq!(
        (rig.user("p"), rig.begun()),
        (Some(Ok(2.0)), vec![10_005; 4])
    );
    // Also when the new one has used more than the old one ever did.
    rig.end(75);
    rig.process(80, "p", 10_015, 90, 0);
    rig.tick(10);
    assert_eq!(
        (rig.user("p"), rig.begun()),
        (Some(Ok(90.0)), vec![10_015; 4])
    );
}

#[test]
fn a_process_that_is_down_is_zero_and_its_figures_are_gone_once() {
    let mut rig = rig(&[("p", named("p"))]);
    rig.tick(0);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
    rig.process(70, "p", 100, 5, 0);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(1.0)));
    // Its first sight is no restart.
    assert_eq!(rig.get("sonde.process.restarts", "p"), Some(Ok(0.0)));
    rig.end(70);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
    assert_eq!(
        (rig.user("p"), rig.get("process.uptime", "p")),
        (Some(Err(Missing::Gone)), Some(Err(Missing::Gone)))
    );
    rig.tick(10);
    assert_eq!((rig.count("p"), rig.user("p")), (Some(Ok(0.0)), None));
    rig.process(90, "p", 10_025, 1, 0);
    rig.tick(10);
    assert_eq!(
        (rig.count("p"), rig.user("p")),
        (Some(Ok(1.0)), Some(Ok(1.0)))
    );
    assert_eq!(rig.get("sonde.process.restarts", "p"), Some(Ok(1.0)));
}

#[test]
fn several_that_match_are_summed_and_an_ended_workers_time_stays_in_the_sum() {
    let mut rig = rig(&[("web", named("worker"))]);
    for pid in 70..73 {
        rig.process(pid, "worker", 100 + u64::from(pid), 10, 100);
    }
    rig.tick(0);
    assert_eq!(
        (rig.count("web"), rig.user("web")),
        (Some(Ok(3.0)), Some(Ok(30.0)))
    );
    assert_eq!(rig.begun(), [170; 4]);
    rig.end(70);
    rig.process(74, "worker", 10_001, 1, 0);
    rig.tick(10);
    assert_eq!(
        (rig.count("web"), rig.user("web")),
        (Some(Ok(3.0)), Some(Ok(31.0)))
    );
    assert_eq!(
        rig.get("process.disk.io disk.io.direction=read", "web"),
        Some(Ok(300.0))
    );
    // Those that ran beside it still do: nothing was restarted.
    assert_eq!(rig.get("sonde.process.restarts", "web"), Some(Ok(0.0)));
    assert!(rig.begun().is_empty());
    for pid in [71, 72, 74] {
        rig.end(pid);
    }
    rig.process(90, "worker", 10_012, 2, 0);
    rig.tick(10);
    assert_eq!(
        (rig.count("web"), rig.user("web")),
        (Some(Ok(1.0)), Some(Ok(2.0)))
    );
    assert_eq!(rig.get("sonde.process.restarts", "web"), Some(Ok(1.0)));
}

#[test]
fn hostile_names_shift_no_field_and_match_only_themselves() {
    let evil = "a) R 1 (b";
    let mut rig = rig(&[("evil", named(evil)), ("a", named("a")), ("b", named("b"))]);
    rig.process(70, evil, 4_000, 9, 1);
    // A name that is no text, with a line break in it, and the end of the line.
    rig.state(71, b"\xff\xfe\n) S 1 (a", "S", 1, 1, 1);
    rig.process(72, "", 1, 1, 1);
    rig.tick(0);
    assert_eq!(
        (rig.count("evil"), rig.user("evil")),
        (Some(Ok(1.0)), Some(Ok(9.0)))
    );
    assert_eq!(
        (rig.count("a"), rig.count("b")),
        (Some(Ok(0.0)), Some(Ok(0.0)))
    );
}

#[test]
fn zombies_and_what_now_runs_another_program_do_not_count() {
    let mut rig = rig(&[("p", named("p"))]);
    rig.process(70, "p", 100, 5, 0);
    rig.state(71, b"p", "Z", 200, 1, 1);
    rig.state(72, b"p", "X", 200, 1, 1);
    // Its first thread has ended, the others run.
    rig.state(73, b"p", "Z", 200, 1, 3);
    rig.tick(0);
    assert_eq!(rig.count("p"), Some(Ok(2.0)));
    rig.state(70, b"p", "Z", 100, 7, 1);
    rig.tick(10);
    // A zombie's last word is in the sum.
    assert_eq!(
        (rig.count("p"), rig.user("p")),
        (Some(Ok(1.0)), Some(Ok(8.0)))
    );
    rig.state(73, b"other", "S", 200, 1, 3);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
}

#[test]
fn an_executable_counts_also_after_it_was_replaced() {
    let file = "/usr/sbin/gatewayd";
    let by = || By::Executable(file.into());
    let mut rig = rig(&[("d", by())]);
    rig.process(70, "gatewayd", 100, 5, 0);
    rig.process(71, "gatewayd", 100, 5, 0);
    rig.process(72, "gatewayd", 100, 5, 0);
    let exe = |pid: u32| rig.root.path().join(format!("proc/{pid}/exe"));
    symlink(file, exe(70)).unwrap();
    symlink(format!("{file} (deleted)"), exe(71)).unwrap();
    symlink("/usr/local/sbin/gatewayd", exe(72)).unwrap();
    rig.tick(0);
    assert_eq!(rig.count("d"), Some(Ok(2.0)));
}

#[test]
fn a_pid_file_names_the_process_until_it_names_another_or_none() {
    let mut rig = rig(&[("d", By::PidFile("/run/d.pid".into()))]);
    rig.tick(0);
    assert_eq!(rig.count("d"), Some(Ok(0.0)));
    rig.process(70, "d", 100, 5, 0);
    rig.process(71, "d", 10_001, 1, 0);
    rig.write("run/d.pid", "70\n");
    rig.tick(10);
    assert_eq!(
        (rig.count("d"), rig.user("d")),
        (Some(Ok(1.0)), Some(Ok(5.0)))
    );
    rig.write("run/d.pid", " 71 more words");
    rig.tick(10);
    assert_eq!(
        (rig.count("d"), rig.user("d")),
        (Some(Ok(1.0)), Some(Ok(1.0)))
    );
    assert_eq!(rig.get("sonde.process.restarts", "d"), Some(Ok(1.0)));
    for stale in ["999", "4294967295"] {
        rig.write("run/d.pid", stale);
        rig.tick(10);
        assert_eq!(rig.count("d"), Some(Ok(0.0)), "{stale}");
    }
    for garbage in ["", "x", "-1", "0", "99999999999", "+7", "\u{fffd}"] {
        rig.write("run/d.pid", "70");
        rig.tick(10);
        rig.write("run/d.pid", garbage);
        // What was known runs on whatever the file says.
        rig.tick(10);
        assert_eq!(rig.count("d"), Some(Ok(1.0)), "{garbage}");
        rig.end(70);
        rig.tick(10);
        assert_eq!(rig.count("d"), Some(Err(Missing::Garbage)), "{garbage}");
        rig.process(70, "d", 100, 5, 0);
    }
    // A pipe must not hold the tick up.
    let path = rig.root.path().join("run/d.pid");
    fs::remove_file(&path).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    rig.tick(10);
}

#[test]
fn a_unit_is_all_processes_of_its_control_group_in_whatever_slice() {
    let unit = |name: &str| By::Unit(name.into());
    let mut rig = rig(&[
        ("broker", unit("b.service")),
        ("modem", unit("m@1.service")),
    ]);
    rig.tick(0);
    // No control groups at all: nobody knows.
    assert_eq!(rig.count("broker"), Some(Err(Missing::Unsupported)));
    rig.write("sys/fs/cgroup/system.slice/cgroup.procs", "");
    rig.tick(10);
    assert_eq!(rig.count("broker"), Some(Ok(0.0)));
    for pid in 70..74 {
        rig.process(pid, &format!("any{pid}"), 100, 1, 0);
    }
    let slice = "sys/fs/cgroup/system.slice";
    rig.write(&format!("{slice}/b.service/cgroup.procs"), "70\n71\n0\n");
    rig.write(&format!("{slice}/b.service/sub/cgroup.procs"), "72\n9999\n");
    let inner = format!("{slice}/system-m.slice/m@1.service/cgroup.procs");
    rig.write(&inner, "73\n");
    rig.tick(10);
    assert_eq!(
        (rig.count("broker"), rig.user("broker")),
        (Some(Ok(3.0)), Some(Ok(3.0)))
    );
    assert_eq!(rig.count("modem"), Some(Ok(1.0)));
    fs::remove_dir_all(rig.root.path().join(format!("{slice}/b.service"))).unwrap();
    rig.tick(10);
    assert_eq!(
        (rig.count("broker"), rig.count("modem")),
        (Some(Ok(0.0)), Some(Ok(1.0)))
    );
    // It may come back elsewhere.
    rig.write(
        "sys/fs/cgroup/my.slice/my-own.slice/b.service/cgroup.procs",
        "70\n",
    );
    rig.tick(10);
    assert_eq!(rig.count("broker"), Some(Ok(1.0)));
    assert_eq!(rig.get("sonde.process.restarts", "broker"), Some(Ok(1.0)));
}

#[test]
fn what_nobody_may_see_is_typed_and_not_zero() {
    let mut rig = rig(&[("p", named("p")), ("q", named("q"))]);
    rig.process(70, "p", 100, 5, 0);
    // Without I/O accounting there is no such file; cut short it says nothing.
    fs::remove_file(rig.root.path().join("proc/70/io")).unwrap();
    rig.tick(0);
    let read = "process.disk.io disk.io.direction=read";
    assert_eq!(rig.get(read, "p"), Some(Err(Missing::Unsupported)));
    assert_eq!(rig.user("p"), Some(Ok(5.0)));
    rig.write("proc/70/io", "read_bytes: lots\nwrite_bytes: 1\n");
    rig.tick(10);
    assert_eq!(rig.get(read, "p"), Some(Err(Missing::Garbage)));
    rig.tick(10);
    assert_eq!(rig.get(read, "p"), None, "told once");
    rig.write("proc/70/io", "read_bytes: 7\nwrite_bytes: 1\n");
    rig.tick(10);
    assert_eq!(rig.get(read, "p"), Some(Ok(7.0)));
    // A /proc that hides others' processes: what is not seen may run.
    rig.end(1);
    rig.tick(60);
    assert_eq!(
        (rig.count("p"), rig.count("q")),
        (Some(Ok(1.0)), Some(Err(Missing::Denied)))
    );
}

#[test]
fn a_steady_tick_looks_through_nothing_and_a_missing_process_only_where_something_started() {
    let mut rig = rig(&[("p", named("p"))]);
    rig.born(100);
    rig.tick(0);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
    // Nothing was started, says the kernel, twice: no look, so it is not found.
    rig.process(70, "p", 100, 5, 0);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
    rig.born(101);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(1.0)));
    // Known: others of its name are looked for now and then.
    rig.process(71, "p", 10_020, 5, 0);
    rig.born(102);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(1.0)));
    rig.tick(30);
    assert_eq!(rig.count("p"), Some(Ok(2.0)));
    // What was started first runs its parent's program: its own one is seen a tick later.
    rig.end(70);
    rig.end(71);
    rig.process(72, "sh", 10_060, 0, 0);
    rig.born(103);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
    rig.process(72, "p", 10_060, 0, 0);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(1.0)));
    // However quiet it seems, after a minute it is looked for.
    rig.end(72);
    for _ in 0..3 {
        rig.tick(1);
    }
    rig.process(73, "p", 10_090, 0, 0);
    rig.tick(1);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
    rig.tick(60);
    assert_eq!(rig.count("p"), Some(Ok(1.0)));
}

#[test]
fn what_a_look_could_not_tell_is_not_known_at_the_ticks_without_one_either() {
    let mut rig = rig(&[("p", By::Executable("/bin/p".into()))]);
    rig.born(100);
    rig.tick(0);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
    rig.source.watched[0].unknown = Some(Missing::Denied);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Err(Missing::Denied)));
    // The next look finds that it may see them all.
    rig.born(101);
    rig.tick(10);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
}

#[test]
fn a_number_that_another_process_got_is_not_believed_while_the_file_stays_as_it_was() {
    let mut rig = rig(&[("d", By::PidFile("/run/d.pid".into()))]);
    rig.process(70, "d", 100, 5, 0);
    rig.write("run/d.pid", "70\n");
    rig.tick(10);
    assert_eq!(rig.count("d"), Some(Ok(1.0)));
    rig.end(70);
    rig.process(70, "other", 10_050, 5, 0);
    rig.tick(10);
    assert_eq!(rig.count("d"), Some(Err(Missing::Gone)));
    assert_eq!(rig.user("d"), Some(Err(Missing::Gone)));
    assert_eq!(rig.get("sonde.process.restarts", "d"), Some(Ok(0.0)));
    // It is said once, and why.
    rig.tick(10);
    assert_eq!(rig.count("d"), None);
    let by = [("sonde.process.name", "d")];
    let mut status = [crate::status::sample::gauge(
        "sonde.process.count",
        "{process}",
        &by,
        0.0,
    )];
    status[0].missing = Some("gone".into());
    annotate(&rig.config.borrow(), &mut status);
    let why = status[0].why.clone().unwrap();
    assert!(why.starts_with("/run/d.pid is stale"), "{why}");
    // Who writes it anew means it.
    fs::remove_file(rig.root.path().join("run/d.pid")).unwrap();
    rig.tick(10);
    rig.write("run/d.pid", "70");
    rig.tick(10);
    assert_eq!(rig.count("d"), Some(Ok(1.0)));
}

#[test]
fn a_pid_file_from_before_its_process_is_stale_unless_the_clock_was_set_meanwhile() {
    // Booted at this second; now it is 10,000 s later.
    const BOOT_S: u64 = 1_700_000_000;
    let at = |path: std::path::PathBuf, unix_s: u64| {
        let file = fs::File::options().append(true).open(path).unwrap();
        let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(unix_s);
        file.set_modified(when).unwrap();
    };
    for (early_s, written_s, start_s, stale) in [
        // Left from the boot before.
        (5, -3600, 100, true),
        // Of this boot, and the process came long after.
        (5, 50, 200, true),
        // As it is.
        (5, 200, 199, false),
        // Within what the clock may have been off.
        (5, 150, 200, false),
        // The clock was set after the file was written.
        (-1_000_000, -999_900, 100, false),
        (-30, -20, 100, false),
        (100_000, -3600, 100, false),
    ] {
        let mut rig = rig(&[("d", By::PidFile("/run/d.pid".into()))]);
        rig.now.unix_ns = (BOOT_S + 10_000) * SECOND;
        rig.process(70, "d", start_s, 5, 0);
        for (path, seconds) in [("dev/null", early_s), ("run/d.pid", written_s)] {
            rig.write(path, "70");
            at(
                rig.root.path().join(path),
                BOOT_S.saturating_add_signed(seconds),
            );
        }
        rig.tick(0);
        let expected = if stale { Err(Missing::Gone) } else { Ok(1.0) };
        assert_eq!(
            rig.count("d"),
            Some(expected),
            "{early_s} {written_s} {start_s}"
        );
    }
}

#[test]
fn a_reload_changes_what_is_watched_and_forgets_nothing_that_stays() {
    let mut rig = rig(&[("p", named("p")), ("q", named("q"))]);
    rig.process(70, "p", 100, 5, 0);
    rig.process(71, "q", 100, 5, 0);
    rig.tick(0);
    rig.end(70);
    rig.process(75, "p", 10_001, 1, 0);
    rig.tick(10);
    assert_eq!(rig.get("sonde.process.restarts", "p"), Some(Ok(1.0)));
    let watches = [("p".to_owned(), named("p")), ("r".to_owned(), named("q"))];
    rig.config.send_replace(watches.into());
    rig.tick(10);
    assert_eq!(rig.get("sonde.process.restarts", "p"), Some(Ok(1.0)));
    assert_eq!((rig.count("q"), rig.count("r")), (None, Some(Ok(1.0))));
    rig.config.send_replace(Watches::new());
    rig.tick(10);
    assert!(rig.out.as_slice().is_empty());
    // Nobody configures any more.
    rig.config = watch::Sender::new(Watches::new());
    rig.tick(10);
}

#[test]
fn too_many_that_match_are_bounded() {
    let mut rig = rig(&[("p", named("p"))]);
    for pid in 100..(100 + u32::try_from(MAX_KNOWN).unwrap() + 20) {
        rig.state(pid, b"p", "S", 100, 1, 1);
    }
    rig.tick(0);
    assert_eq!(rig.count("p"), Some(Ok(MAX_KNOWN as f64)));
}

#[test]
fn garbage_in_the_files_is_no_process_and_no_panic() {
    let mut rig = rig(&[("p", named("p"))]);
    for (at, stat) in [
        &b""[..],
        b"70",
        b"70 (p",
        b"70 (p)",
        b"70 )p( S 1",
        b"70 (p) S 1 1 1 0 -1 x",
        b"70 (p) S 1 1 1 0 -1 4194304 1 0 0 0 99999999999999999999999 1 0 0 20 0 1 0 1 1 1",
        &[0; 4096],
    ]
    .into_iter()
    .enumerate()
    {
        let pid = 70 + at;
        rig.write(&format!("proc/{pid}/stat"), stat);
        rig.write(&format!("proc/{pid}/comm"), "p\n");
    }
    rig.write("proc/90/comm", "p\n");
    rig.write("proc/notanumber/comm", "p\n");
    rig.tick(0);
    assert_eq!(rig.count("p"), Some(Ok(0.0)));
}

#[test]
fn the_real_kernel_tells_about_this_test() {
    let pid = std::process::id();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    fs::write(&file, pid.to_string()).unwrap();
    let me = std::env::current_exe().unwrap();
    let watches = [
        ("exe".to_owned(), By::Executable(me)),
        ("file".to_owned(), By::PidFile(file)),
    ];
    let (_config, seen) = watch::channel(Watches::from(watches));
    let mut source = Processes::new(Path::new("/"), seen);
    let mut out = Readings::new(Registry::default());
    let clock = crate::clock::Clock::new(crate::clock::ClockTrust::Always);
    source.read(clock.now(), &mut out).unwrap();
    for name in ["exe", "file"] {
        for (gauge, least) in [
            ("sonde.process.count", 1.0),
            ("process.memory.usage", 100_000.0),
            ("process.thread.count", 1.0),
            ("process.unix.file_descriptor.count", 3.0),
            ("process.disk.io disk.io.direction=read", 0.0),
        ] {
            let value = out.value(&format!("{gauge} sonde.process.name={name}"));
            let value = value.and_then(Result::ok).map(Value::as_f64);
            assert!(
                value.is_some_and(|value| value >= least),
                "{gauge} {value:?}"
            );
        }
        let uptime = out.value(&format!("process.uptime sonde.process.name={name}"));
        let uptime = uptime.and_then(Result::ok).map(Value::as_f64).unwrap();
        assert!((0.0..600.0).contains(&uptime), "{uptime}");
    }
}
