//! A device's health, from a fake root to the collector.

use std::path::Path;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use sonde_tests::ledger::{Ledger, text};
use sonde_tests::world::{LATER, Otlp, SOON, finish};

/// A Raspberry Pi's tree as far as it is asked for here, with a chip on a stuck bus.
const FILES: [(&str, &str); 17] = [
    ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
    ("sys/class/thermal/thermal_zone0/temp", "-12500\n"),
    ("sys/class/hwmon/hwmon0/name", "pwmfan\n"),
    ("sys/class/hwmon/hwmon0/fan1_input", "1200\n"),
    ("sys/class/hwmon/hwmon0/in0_input", "garbage\n"),
    ("sys/class/hwmon/hwmon0/in1_input", "4980\n"),
    ("sys/class/hwmon/hwmon1/name", "rpi_volt\n"),
    ("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "1\n"),
    ("sys/block/mmcblk0/device/life_time", "0x02 0x05\n"),
    ("sys/block/mmcblk0/device/pre_eol_info", "0x01\n"),
    ("sys/class/net/eth0/operstate", "up\n"),
    ("sys/class/net/eth0/speed", "100\n"),
    ("sys/class/net/eth0/carrier_changes", "3\n"),
    (
        "proc/pressure/memory",
        "some avg10=12.50 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n",
    ),
    ("proc/vmstat", "pgfault 1000\npgmajfault 40\noom_kill 2\n"),
    (
        "proc/self/mountinfo",
        "25 1 254:0 / / rw,noatime - ext4 /dev/vda rw\n",
    ),
    ("proc/loadavg", "0.50 0.25 0.12 1/80 11206\n"),
];

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The last value of a metric whose attributes hold all of these words.
fn value(ledger: &Ledger, metric: &str, words: &[&str]) -> Option<f64> {
    let points = ledger.points();
    let of = points.iter().rev().find(|point| {
        let rest = point.series.strip_prefix(metric);
        let exact = rest.is_some_and(|rest| !rest.starts_with(['.', '_']));
        exact && words.iter().all(|word| point.series.contains(word))
    });
    of.and_then(|point| point.value)
}

#[tokio::test]
async fn the_health_of_a_device_below_a_fake_root_is_at_the_collector() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("health");
    let root = gateway.path("root");
    for (path, text) in FILES {
        write(&root, path, text);
    }
    // Opening it for reading blocks, as a register behind a stuck bus does.
    write(&root, "sys/class/hwmon/hwmon2/name", "lm75\n");
    let stuck = root.join("sys/class/hwmon/hwmon2/temp1_input");
    let made = std::process::Command::new("mkfifo").arg(&stuck).status();
    assert!(made.unwrap().success());
    gateway.text("paths.root", &root.display().to_string());
    let mut agent = gateway.start();
    otlp.tick(3).await;
    agent
        .wait("the stuck chip and the garbage", SOON, |status| {
            let mut reasons = status
                .gauges
                .iter()
                .filter_map(|gauge| gauge.missing.as_deref());
            reasons.clone().any(|reason| reason == "timeout")
                && reasons.any(|reason| reason == "garbage")
        })
        .await
        .unwrap();
    let ledger = otlp.collector.book.copy();
    for (metric, words, wanted) in [
        ("hw.temperature", ["thermal_zone0", "cpu-thermal"], -12.5),
        ("hw.fan.speed", ["pwmfan/hwmon0/fan1", ""], 1200.0),
        ("hw.voltage", ["pwmfan/hwmon0/in1", ""], 4.98),
        ("sonde.hw.alarm", ["rpi_volt", "lcrit_alarm"], 1.0),
        (
            "hw.physical_disk.endurance_utilization",
            ["mmcblk0", "remaining"],
            0.5,
        ),
        ("sonde.flash.pre_eol", ["mmcblk0", ""], 1.0),
        ("hw.network.up", ["eth0", ""], 1.0),
        ("hw.network.bandwidth.limit", ["eth0", ""], 12_500_000.0),
        ("sonde.pressure.time", ["memory", "some"], 1.5),
        ("sonde.pressure.share", ["memory", "some"], 0.125),
        ("sonde.memory.oom_kills", ["", ""], 2.0),
        ("sonde.filesystem.read_only", ["/dev/vda", ""], 0.0),
        // One stuck chip takes nobody with it.
        ("sonde.load.1m", ["", ""], 0.5),
    ] {
        assert_eq!(value(&ledger, metric, &words), Some(wanted), "{metric}");
    }
    assert_eq!(value(&ledger, "hw.voltage", &["in0"]), None);
    assert_eq!(value(&ledger, "hw.temperature", &["lm75"]), None);

    // The file system gives up writing: a gauge, and an event upstream.
    write(
        &root,
        "proc/self/mountinfo",
        "25 1 254:0 / / rw,noatime - ext4 /dev/vda ro\n",
    );
    let book = &otlp.collector.book;
    let told = |ledger: &Ledger| {
        let is = |record: &&LogRecord| record.event_name == "sonde.filesystem.read_only";
        let logs = ledger.logs();
        let record = logs.into_iter().find(is);
        let point = record.and_then(|record| {
            let found = record.attributes.iter().find(|kv| kv.key == "mountpoint");
            found.map(|kv| text(kv.value.as_ref()))
        });
        point.as_deref() == Some("/")
            && value(ledger, "sonde.filesystem.read_only", &["/dev/vda"]) == Some(1.0)
    };
    book.wait("the event and the gauge", LATER, told)
        .await
        .unwrap();
    // Whoever hangs on the bus does not hold up the end.
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("health");
}
