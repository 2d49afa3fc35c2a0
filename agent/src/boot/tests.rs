//! The machine in a fake root, the agent's folders in temporary ones.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tempfile::TempDir;

use super::record::{MAX_SEEN, hex};
use super::*;
use crate::spool::simulated::Simulated;

const S: u64 = 1_000_000_000;
const UTMP_384: usize = 384;
const UTMP_400: usize = 400;

/// A gateway: its root, and what the agent keeps.
struct Gateway {
    dir: TempDir,
    boot: u8,
    at_s: u64,
}

impl Gateway {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            boot: 1,
            at_s: 10,
        }
    }

    fn put(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.dir.path().join("root").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.dir.path().join("root").join(path)).unwrap();
    }

    fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// The next boot: what lived in memory is gone.
    fn reboot(&mut self) {
        self.boot += 1;
        self.at_s = 10;
        let _ = fs::remove_dir_all(self.dir.path().join("run"));
        let _ = fs::remove_dir_all(self.dir.path().join("root/run"));
    }

    fn start(&mut self) -> Boot {
        self.at_s += 10;
        let id = RunId {
            boot: [self.boot; 16],
            start_ns: self.at_s * S,
        };
        let root = self.dir.path().join("root");
        let evidence = Evidence::gather(&root);
        let oom = OomKills::read(&root);
        let run = self.dir.path().join("run");
        Boot::judged(&root, &self.state(), &run, id, &evidence, oom)
    }

    /// A start whose reports the spool has.
    fn settled(&mut self) -> Boot {
        let boot = self.start();
        boot.settle();
        boot
    }

    fn panic(&self, boot: &Boot, message: &str) {
        let crash = Crash {
            id: boot.0.id,
            message: message.into(),
            backtrace: String::new(),
        };
        fs::write(self.state().join("boot/panic"), crash.to_bytes()).unwrap();
    }
}

fn last_boot(boot: &Boot) -> (String, String) {
    let end = boot.status().last_boot.unwrap();
    (end.reason, end.evidence.join("; "))
}

fn last_run(boot: &Boot) -> (String, String) {
    let end = boot.status().last_run.unwrap();
    (end.reason, end.evidence.join("; "))
}

fn uids(boot: &Boot) -> Vec<String> {
    let run = lock(&boot.0.run);
    run.pending
        .iter()
        .map(|report| report.uid.clone())
        .collect()
}

/// What the judge says of the boot before, with this in the root.
fn reason_with(files: &[(&str, &[u8])]) -> (String, String) {
    let mut gateway = Gateway::new();
    drop(gateway.settled());
    gateway.reboot();
    for (path, content) in files {
        gateway.put(path, content);
    }
    last_boot(&gateway.start())
}

#[test]
fn without_anything_that_speaks_for_a_reason_it_is_unknown() {
    let (reason, evidence) = reason_with(&[]);
    assert_eq!(reason, "unknown");
    assert_eq!(evidence, "the agent was not stopped before");
}

#[test]
fn each_source_gives_its_reason_with_its_words_as_evidence() {
    let panic = b"Panic#1 Part1\n<6>[    1.0] before\n<0>[   12.345678] Kernel panic - not syncing: Fatal exception\n<0>[   12.4] after\n";
    let oom = b"<0>[   99.1] Kernel panic - not syncing: Out of memory: compulsory panic_on_oom is enabled\n";
    for (path, content, reason, evidence) in [
        (
            "sys/fs/pstore/dmesg-ramoops-0",
            panic.as_slice(),
            "panic",
            "/sys/fs/pstore/dmesg-ramoops-0: [   12.345678] Kernel panic - not syncing: Fatal exception",
        ),
        (
            "var/lib/systemd/pstore/17/dmesg.txt",
            panic,
            "panic",
            "dmesg.txt: [   12.345678] Kernel panic",
        ),
        ("sys/fs/pstore/dmesg-efi-1", oom, "oom", "Out of memory"),
        (
            "sys/fs/pstore/dmesg-ramoops-1",
            b"Panic#2 Part1\n<4>[  3.0] last words",
            "panic",
            "[  3.0] last words",
        ),
        (
            "sys/fs/pstore/dmesg-ramoops-1",
            b"Oops#1 Part1\n<4>[  3.0] BUG: bad\n",
            "unknown",
            "holds an oops",
        ),
        (
            "sys/class/watchdog/watchdog0/bootstatus",
            b"32\n",
            "watchdog",
            "reset by the watchdog",
        ),
        (
            "sys/class/watchdog/watchdog1/bootstatus",
            b"16\n",
            "power_loss",
            "16, reset for low power",
        ),
        (
            "sys/class/watchdog/watchdog0/bootstatus",
            b"1\n",
            "overheat",
            "reset for heat",
        ),
        (
            "sys/class/watchdog/watchdog0/bootstatus",
            b"0\n",
            "unknown",
            "",
        ),
        (
            "sys/bus/platform/devices/f8.rstc/power_on_reason",
            b"brown-out reset\n",
            "power_loss",
            "/sys/bus/platform/devices/f8.rstc/power_on_reason: brown-out reset",
        ),
        (
            "sys/bus/platform/devices/f8.rstc/power_on_reason",
            b"regular power-up\n",
            "power_loss",
            "regular power-up",
        ),
        (
            "sys/bus/platform/devices/f8.rstc/power_on_reason",
            b"watchdog timeout\n",
            "watchdog",
            "watchdog timeout",
        ),
        (
            "sys/bus/platform/devices/f8.rstc/power_on_reason",
            b"software reset\n",
            "unknown",
            "software reset",
        ),
        (
            "sys/bus/i2c/devices/0-0008/reset_reason",
            b"POR|WDOG\n",
            "unknown",
            "POR|WDOG",
        ),
        (
            "proc/device-tree/chosen/reset-reason",
            b"WDOG\0",
            "watchdog",
            "WDOG",
        ),
        (
            "sys/firmware/devicetree/base/chosen/board,boot-cause",
            b"POR\0",
            "power_loss",
            "POR",
        ),
        (
            "proc/device-tree/chosen/power/power_reset",
            &[0, 0, 0, 2],
            "power_loss",
            "power_reset: 0x2",
        ),
        (
            "proc/device-tree/chosen/bootloader/rsts",
            &[0, 0, 0x10, 0],
            "unknown",
            "rsts: 0x1000",
        ),
    ] {
        let (found, said) = reason_with(&[(path, content)]);
        assert_eq!(
            found,
            reason,
            "{path} {:?}",
            String::from_utf8_lossy(content)
        );
        assert!(said.contains(evidence), "{path}: {said}");
    }
}

#[test]
fn garbage_huge_binary_and_strange_files_are_no_evidence_and_stop_nothing() {
    let noise: Vec<u8> = (0..300_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    for path in [
        "sys/fs/pstore/dmesg-ramoops-0",
        "var/lib/systemd/pstore/dmesg.txt",
        "sys/class/watchdog/watchdog0/bootstatus",
        "sys/bus/platform/devices/x/power_on_reason",
        "proc/device-tree/chosen/reset-reason",
        "var/log/wtmp",
        "run/utmp",
        "proc/vmstat",
        "proc/self/cgroup",
    ] {
        for content in [
            &b""[..],
            b"\0",
            b"-1",
            b"4294967295\n",
            b"99999999999",
            &noise,
        ] {
            let (reason, said) = reason_with(&[(path, content)]);
            assert_eq!(reason, "unknown", "{path}: {said}");
        }
    }
    // A folder or a fifo under the name, and a whole crowd of records.
    let mut gateway = Gateway::new();
    drop(gateway.settled());
    gateway.reboot();
    gateway.put("sys/class/watchdog/watchdog0/bootstatus/x", "32");
    gateway.put("sys/fs/pstore/here", "");
    let root = gateway.dir.path().join("root");
    let fifo = root.join("sys/fs/pstore/dmesg-ramoops-9");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for n in 0..500 {
        gateway.put(
            &format!("sys/fs/pstore/dmesg-efi-{n}"),
            format!("noise {n}"),
        );
    }
    let (reason, said) = last_boot(&gateway.start());
    assert_eq!(reason, "unknown");
    assert!(said.contains("unread"), "{said}");
}

/// A login record in one of glibc's layouts.
fn login(layout: usize, kind: i16, user: &str, seconds: i32) -> Vec<u8> {
    let mut record = vec![0; layout];
    record[..2].copy_from_slice(&kind.to_ne_bytes());
    record[44..44 + user.len()].copy_from_slice(user.as_bytes());
    let time = if layout == UTMP_384 { 340 } else { 344 };
    record[time..time + 4].copy_from_slice(&seconds.to_ne_bytes());
    record
}

#[test]
fn a_recorded_shutdown_counts_only_if_it_came_just_before_this_boot() {
    for layout in [UTMP_384, UTMP_400] {
        let boot = |at| login(layout, 2, "reboot", at);
        let down = |at| login(layout, 1, "shutdown", at);
        let user = |at| login(layout, 7, "root", at);
        let own = Some(boot(300));
        for (wtmp, utmp, reason) in [
            // Noted before or after this boot's own record was written.
            (vec![boot(100), user(110), down(200)], None, "clean"),
            (
                vec![boot(100), down(200), boot(300), user(301)],
                own.clone(),
                "clean",
            ),
            // The last boot was not shut down; an earlier one was.
            (
                vec![boot(90), down(95), boot(100), user(110)],
                None,
                "unknown",
            ),
            (vec![boot(90), down(95), boot(100)], own.clone(), "unknown"),
            (vec![down(95), boot(100), boot(300)], own.clone(), "unknown"),
            // The clock went back: the order of the records is what counts.
            (vec![boot(900), down(950), boot(300)], own.clone(), "clean"),
            (vec![user(1)], None, "unknown"),
        ] {
            let wtmp = wtmp.concat();
            let mut files = vec![("var/log/wtmp", wtmp.as_slice())];
            files.extend(utmp.as_deref().map(|utmp| ("run/utmp", utmp)));
            let (found, said) = reason_with(&files);
            assert_eq!(found, reason, "{layout} {said}");
        }
        // Longer than what is looked at.
        let mut long = user(1).repeat(2000);
        long.extend(down(200));
        assert_eq!(reason_with(&[("var/log/wtmp", &long)]).0, "clean");
    }
}

#[test]
fn a_stop_while_the_machine_goes_down_is_clean_and_any_other_is_not() {
    for (sign, reason) in [
        (Some("System is going down. Unprivileged users"), "clean"),
        (None, "unknown"),
    ] {
        let mut gateway = Gateway::new();
        let boot = gateway.settled();
        if let Some(text) = sign {
            gateway.put("run/nologin", text);
        }
        boot.stopped(None, 0);
        drop(boot);
        gateway.reboot();
        let boot = gateway.start();
        assert_eq!(last_boot(&boot).0, reason);
        assert_eq!(last_run(&boot).0, "stopped");
    }
    // Whoever was started again after it ran when the power went.
    let mut gateway = Gateway::new();
    let boot = gateway.settled();
    gateway.put("run/nologin", "going down");
    boot.stopped(None, 0);
    drop(boot);
    drop(gateway.settled());
    gateway.reboot();
    let boot = gateway.start();
    assert_eq!(last_boot(&boot).0, "unknown");
    assert_eq!(last_run(&boot).0, "boot");
}

#[test]
fn the_power_was_off_is_a_power_loss_only_if_the_agent_had_not_been_stopped() {
    let mut gateway = Gateway::new();
    let boot = gateway.settled();
    boot.stopped(None, 0);
    drop(boot);
    gateway.reboot();
    gateway.put(
        "sys/bus/platform/devices/r/power_on_reason",
        "regular power-up",
    );
    assert_eq!(last_boot(&gateway.start()).0, "unknown");
    gateway.reboot();
    assert_eq!(last_boot(&gateway.start()).0, "power_loss");
}

#[test]
fn a_panic_belongs_to_one_boot_wherever_its_record_is_moved() {
    let record = "<0>[   12.3] Kernel panic - not syncing: once\n";
    let mut gateway = Gateway::new();
    // Nobody knows of which boot one is that was there before the agent.
    gateway.put(
        "sys/fs/pstore/dmesg-ramoops-0",
        "<0>[ 1.0] Kernel panic - not syncing: old",
    );
    let (reason, said) = last_boot(&gateway.settled());
    assert_eq!(reason, "unknown");
    assert!(said.contains("of an unknown boot"), "{said}");
    gateway.reboot();
    gateway.put("sys/fs/pstore/dmesg-ramoops-1", record);
    assert_eq!(last_boot(&gateway.settled()).0, "panic");
    gateway.reboot();
    gateway.remove("sys/fs/pstore/dmesg-ramoops-1");
    gateway.put("var/lib/systemd/pstore/1/dmesg-ramoops-1", record);
    assert_eq!(last_boot(&gateway.settled()).0, "unknown");
    gateway.reboot();
    gateway.put(
        "sys/fs/pstore/dmesg-ramoops-1",
        "[  12.4] Kernel panic - not syncing: once",
    );
    assert_eq!(last_boot(&gateway.settled()).0, "panic");
    // And however many there were.
    for n in 0..MAX_SEEN * 2 {
        gateway.reboot();
        gateway.put(
            "sys/fs/pstore/dmesg-ramoops-0",
            format!("[ {n}.0] Kernel panic - not syncing: {n}"),
        );
        let boot = gateway.settled();
        assert_eq!(last_boot(&boot).0, "panic", "{n}");
        assert!(boot.0.verdict.as_ref().unwrap().count.seen.len() <= MAX_SEEN);
    }
}

#[test]
fn the_very_first_start_has_nothing_to_tell_unless_something_speaks() {
    let mut gateway = Gateway::new();
    let boot = gateway.start();
    assert_eq!(uids(&boot), Vec::<String>::new());
    let (reason, evidence) = last_boot(&boot);
    assert_eq!(
        (reason.as_str(), evidence.as_str()),
        ("unknown", "the agent's first start here")
    );
    for (path, content) in [
        ("sys/class/watchdog/watchdog0/bootstatus", "32"),
        (
            "sys/fs/pstore/dmesg-ramoops-0",
            "<0>[ 1.0] Kernel panic - not syncing: x\n",
        ),
    ] {
        let mut gateway = Gateway::new();
        gateway.put(path, content);
        assert_eq!(uids(&gateway.start()).len(), 1, "{path}");
    }
}

#[test]
fn a_voltage_that_was_too_low_speaks_for_a_power_loss_where_nothing_speaks_against_it() {
    let mut gateway = Gateway::new();
    let boot = gateway.settled();
    boot.faint("sonde.hw.alarm rpi_volt lcrit_alarm");
    let file = gateway.state().join("boot/faint");
    let written = fs::read(&file).unwrap();
    // Once a boot, also over a restart of the agent.
    boot.faint("again");
    drop(boot);
    let boot = gateway.settled();
    assert!(boot.is_faint());
    boot.faint("and again");
    drop(boot);
    assert_eq!(fs::read(&file).unwrap(), written);
    gateway.reboot();
    let boot = gateway.settled();
    assert!(!boot.is_faint());
    let (reason, evidence) = last_boot(&boot);
    assert_eq!(reason, "power_loss");
    assert!(
        evidence.contains("too low in that boot: sonde.hw.alarm rpi_volt lcrit_alarm"),
        "{evidence}"
    );
    // It was of the boot before, not of this one.
    drop(boot);
    gateway.reboot();
    let boot = gateway.settled();
    assert_eq!(last_boot(&boot).0, "unknown");
    // Stopped in order, or reset by somebody else: it is only told.
    boot.faint("x");
    boot.stopped(None, 0);
    drop(boot);
    gateway.reboot();
    let boot = gateway.settled();
    let (reason, evidence) = last_boot(&boot);
    assert!(
        reason == "unknown" && evidence.contains("too low"),
        "{reason}: {evidence}"
    );
    boot.faint("x");
    drop(boot);
    gateway.reboot();
    gateway.put("sys/class/watchdog/watchdog0/bootstatus", "32");
    assert_eq!(last_boot(&gateway.settled()).0, "watchdog");
    // What is damaged says nothing.
    fs::write(&file, "garbage").unwrap();
    gateway.remove("sys/class/watchdog/watchdog0/bootstatus");
    gateway.reboot();
    assert_eq!(last_boot(&gateway.settled()).0, "unknown");
}

#[test]
fn boots_are_counted_once_each_and_say_the_same_at_every_start() {
    let mut gateway = Gateway::new();
    for count in 1..=5_u64 {
        for start in 0..3 {
            let boot = gateway.settled();
            assert_eq!(boot.count(), Some(count));
            let status = boot.status();
            assert_eq!(status.alarm, None);
            assert_eq!(status.last_run.is_none(), count == 1 && start == 0);
        }
        gateway.reboot();
    }
    // A boot after it that had no runs in between but the last keeps the reason.
    gateway.put("sys/class/watchdog/watchdog0/bootstatus", "32");
    assert_eq!(last_boot(&gateway.settled()).0, "watchdog");
    gateway.remove("sys/class/watchdog/watchdog0/bootstatus");
    assert_eq!(last_boot(&gateway.settled()).0, "watchdog");
}

#[test]
fn how_the_last_run_ended_is_told_apart() {
    let mut gateway = Gateway::new();
    let boot = gateway.settled();
    drop(boot);
    let boot = gateway.settled();
    assert_eq!(last_run(&boot).0, "killed");
    boot.stopped(None, 0);
    drop(boot);
    let boot = gateway.settled();
    let (reason, said) = last_run(&boot);
    assert_eq!(reason, "stopped");
    assert!(said.contains("asked to stop"), "{said}");
    gateway.panic(&boot, "panic at src/x.rs:7: boom");
    drop(boot);
    let boot = gateway.settled();
    let (reason, said) = last_run(&boot);
    assert_eq!(
        (reason.as_str(), said.as_str()),
        ("crash", "panic at src/x.rs:7: boom")
    );
    boot.stopped(Some("the mqtt uplink"), 0);
    drop(boot);
    let boot = gateway.settled();
    let (reason, said) = last_run(&boot);
    assert_eq!(reason, "crash");
    assert!(said.contains("the mqtt uplink ended by itself"), "{said}");
    // One panic in each: none is told twice.
    drop(boot);
    let boot = gateway.settled();
    assert_eq!(last_run(&boot).0, "killed");
    let restarts: Vec<_> = boot.restarts().collect();
    assert_eq!(
        restarts,
        [
            (Reason::Stopped, 1),
            (Reason::Crash, 2),
            (Reason::Killed, 2)
        ]
    );
    // A panic that the run survived is no crash.
    gateway.panic(&boot, "caught");
    boot.stopped(None, 0);
    drop(boot);
    let boot = gateway.settled();
    let (reason, said) = last_run(&boot);
    assert_eq!(reason, "stopped");
    assert!(said.contains("survived before: caught"), "{said}");
    // A panic, and then the boot ended.
    gateway.panic(&boot, "at the end");
    drop(boot);
    gateway.reboot();
    let boot = gateway.settled();
    assert_eq!(last_run(&boot).0, "crash");
    assert_eq!(boot.restarts().count(), 0);
}

#[test]
fn a_run_that_the_kernel_killed_for_memory_is_known_by_the_counts_near_it() {
    let unit = "0::/system.slice/sonde.service\n";
    let above = "sys/fs/cgroup/system.slice/memory.events";
    for (before, after, reason) in [
        // Of its own slice: it was the agent, or the counts cannot say otherwise.
        (
            vec![(above, "oom_kill 3")],
            vec![(above, "oom_kill 4")],
            "oom",
        ),
        // Elsewhere on the machine.
        (
            vec![(above, "oom_kill 3"), ("proc/vmstat", "oom_kill 3")],
            vec![("proc/vmstat", "oom_kill 9")],
            "killed",
        ),
        // Nothing but the machine's count can be read.
        (
            vec![("proc/vmstat", "oom_kill 3")],
            vec![("proc/vmstat", "oom_kill 4")],
            "oom",
        ),
        // A count that began anew says nothing.
        (
            vec![(above, "oom_kill 3")],
            vec![(above, "oom_kill 0")],
            "killed",
        ),
        (
            vec![(above, "oom_kill 3")],
            vec![(above, "garbage")],
            "killed",
        ),
    ] {
        let mut gateway = Gateway::new();
        gateway.put("proc/self/cgroup", unit);
        for (path, content) in before {
            gateway.put(path, content);
        }
        drop(gateway.settled());
        for (path, content) in after {
            gateway.put(path, content);
        }
        let (found, said) = last_run(&gateway.start());
        assert_eq!(found, reason, "{said}");
    }
}

#[test]
fn what_was_told_is_not_told_again_and_what_may_not_have_been_is_the_same_record() {
    let mut gateway = Gateway::new();
    drop(gateway.settled());
    gateway.reboot();
    // How the boot ended, and how the run did.
    let first = uids(&gateway.start());
    assert_eq!(first.len(), 2);
    // It crashed before the spool had it: the same again, and its own end once.
    let second = uids(&gateway.start());
    assert_eq!((second.len(), &second[..2]), (3, &first[..]));
    let boot = gateway.start();
    gateway.panic(&boot, "in the first second");
    drop(boot);
    let third = uids(&gateway.start());
    assert_eq!(third.len(), 5);
    assert!(third.starts_with(&second));
    assert_eq!(third.iter().collect::<BTreeSet<_>>().len(), 5);
    // Settled: only what is new is told.
    drop(gateway.settled());
    let next = uids(&gateway.start());
    assert_eq!(next.len(), 1);
    assert!(!third.contains(&next[0]));
    // A crash loop is bounded, and the first and the last are there.
    for _ in 0..50 {
        assert!(uids(&gateway.start()).len() <= MAX_PENDING);
    }
    assert!(uids(&gateway.start()).contains(&next[0]));
    gateway.reboot();
    let after = uids(&gateway.start());
    assert_eq!(after.len(), 2, "{after:?}");
}

#[test]
fn folders_that_cannot_be_used_are_told_and_stop_nothing() {
    // A file stands where the state folder should be.
    let mut gateway = Gateway::new();
    fs::write(gateway.state(), "").unwrap();
    let boot = gateway.settled();
    assert_eq!(boot.count(), Some(1));
    assert!(boot.status().alarm.unwrap().contains("state"));
    boot.stopped(None, 0);
    drop(boot);
    // The runtime folder still knows that this boot has been told of.
    let boot = gateway.start();
    assert_eq!(boot.count(), Some(1));
    assert_eq!(last_run(&boot).0, "killed");
    drop(boot);
    // The other way round: the count is kept, and a panic until it is told.
    let mut gateway = Gateway::new();
    fs::write(gateway.dir.path().join("run"), "").unwrap();
    let boot = gateway.start();
    assert!(boot.status().alarm.unwrap().contains("run"));
    gateway.panic(&boot, "kept");
    drop(boot);
    let before = uids(&gateway.start());
    let boot = gateway.start();
    assert_eq!(last_run(&boot).0, "crash");
    assert_eq!((boot.count(), uids(&boot)), (Some(1), before));
    boot.settle();
    drop(boot);
    assert_eq!(last_run(&gateway.start()).0, "unknown");
}

#[test]
fn what_the_agent_wrote_down_may_be_damaged() {
    for name in ["count", "stopped", "panic"] {
        for damage in [
            &b""[..],
            b"\xff\xfe\0",
            b"sonde boot 1\ncrc\t00000000\n",
            b"sonde boot 9\n",
        ] {
            let mut gateway = Gateway::new();
            let boot = gateway.settled();
            gateway.panic(&boot, "x");
            boot.stopped(None, 0);
            drop(boot);
            fs::write(gateway.state().join("boot").join(name), damage).unwrap();
            fs::write(gateway.dir.path().join("run/boot"), damage).unwrap();
            let boot = gateway.start();
            assert_eq!(boot.count(), Some(1));
            assert_eq!(boot.status().alarm, None);
        }
    }
    // Every shortening and every flipped bit of a count is noticed.
    let mut gateway = Gateway::new();
    let boot = gateway.settled();
    let whole = boot.0.verdict.as_ref().unwrap().count.clone();
    let bytes = whole.to_bytes();
    assert_eq!(Count::of(&bytes), Some(whole));
    for at in 0..bytes.len() {
        assert_eq!(Count::of(&bytes[..at]), None, "{at}");
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        assert_eq!(Count::of(&flipped), None, "{at}");
    }
}

#[test]
fn an_unreadable_boot_id_counts_nothing_and_says_so() {
    let mut gateway = Gateway::new();
    gateway.boot = 0;
    let boot = gateway.start();
    assert_eq!((boot.count(), boot.reason()), (None, None));
    assert!(boot.status().alarm.unwrap().contains("boot_id"));
    boot.stopped(None, 0);
    assert_eq!(uids(&boot), Vec::<String>::new());
}

#[test]
fn a_boot_costs_one_durable_write_and_starts_in_it_none() {
    let mut gateway = Gateway::new();
    drop(gateway.settled());
    let count = gateway.state().join("boot/count");
    let written = || {
        use std::os::unix::fs::MetadataExt as _;
        // Replacing a file gives it another inode.
        fs::metadata(&count).unwrap().ino()
    };
    let first = written();
    let _holds_the_inode = fs::File::open(&count).unwrap();
    for _ in 0..5 {
        drop(gateway.settled());
    }
    assert_eq!(written(), first);
    gateway.reboot();
    drop(gateway.settled());
    assert_ne!(written(), first);
}

#[test]
fn a_power_cut_at_any_call_leaves_the_old_count_or_the_new() {
    let of = |count: u64| Count {
        boot: [3; 16],
        count,
        end: End {
            reason: Reason::Unknown,
            evidence: vec!["x".repeat(200); 8],
        },
        seen: (0..40).collect(),
    };
    for seed in 0..200 {
        let mut files = Simulated::new(seed);
        replace(&mut files, COUNT, &of(1).to_bytes()).unwrap();
        let begun = files.state().calls;
        let cut = begun + seed % 9;
        files.state().cut = Some(cut);
        let done = replace(&mut files, COUNT, &of(2).to_bytes()).is_ok();
        files.crash();
        let found = read(&mut Some(files), COUNT);
        let found = Count::of(&found.unwrap()).unwrap().count;
        assert!(
            found == 2 || (found == 1 && !done),
            "{seed}: {found} {done}"
        );
    }
}

#[test]
fn a_report_is_one_critical_record_that_names_itself_by_boot_and_run() {
    let mut gateway = Gateway::new();
    drop(gateway.settled());
    gateway.reboot();
    gateway.put("sys/class/watchdog/watchdog0/bootstatus", "32");
    let boot = gateway.start();
    let reports = lock(&boot.0.run).pending.clone();
    let now = Stamp {
        unix_ns: 77,
        boot_ns: 5,
    };
    let resource = [("device.id".to_owned(), "gw".to_owned())];
    assert_eq!(report::batch(&[], &resource, now), None);
    let batch = report::batch(&reports, &resource, now).unwrap();
    assert_eq!(
        (batch.class, batch.items),
        (crate::frame::Class::Critical, 2)
    );
    let raw = crate::otlp::gunzip(&batch.body, 1 << 20).unwrap();
    let request = ExportLogsServiceRequest::decode(raw.as_slice()).unwrap();
    let records = &request.resource_logs[0].scope_logs[0].log_records;
    let word = |at: usize, key: &str| {
        let found = records[at].attributes.iter().find(|kv| kv.key == key);
        match found
            .unwrap()
            .value
            .as_ref()
            .unwrap()
            .value
            .as_ref()
            .unwrap()
        {
            Value::StringValue(text) => text.clone(),
            other => format!("{other:?}"),
        }
    };
    assert_eq!(records[0].event_name, "sonde.boot.failed");
    assert_eq!(word(0, "reason"), "watchdog");
    assert_eq!(word(0, "boot"), "IntValue(2)");
    assert_eq!(word(0, "log.record.uid"), format!("{}-boot", hex(&[2; 16])));
    assert_eq!(records[1].event_name, "sonde.agent.end");
    assert_eq!(word(1, "reason"), "boot");
    assert!(word(1, "log.record.uid").starts_with(&hex(&[1; 16])));
}
