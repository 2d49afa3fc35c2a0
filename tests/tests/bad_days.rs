//! Hosts that lack what others have. The emulated gateway (docs/GATEWAY.md) has
//! more of them.

use std::collections::BTreeMap;
use std::path::Path;

use sonde_tests::agent::Gateway;
use sonde_tests::world::{END, SOON};

/// What a 32-bit ARM kernel of 2 GB shows, the two fields of high memory among
/// it. Its counters of sectors are 32 bits wide (`unsigned long`) and about to
/// wrap; no `/proc/pressure`, no `/sys/fs/cgroup`.
const FILES: [(&str, &str); 6] = [
    (
        "proc/stat",
        "cpu  4294967290 12 4294960000 4294967295 900 0 77 0 0 0\n\
         cpu0 4294967290 12 4294960000 4294967295 900 0 77 0 0 0\n\
         intr 1\nctxt 1\nbtime 1700000000\nprocesses 4000\nprocs_running 1\nprocs_blocked 0\n",
    ),
    (
        "proc/meminfo",
        "MemTotal:        2067328 kB\nMemFree:         1500000 kB\nMemAvailable:    1700000 kB\n\
         Buffers:           20000 kB\nCached:           200000 kB\nSwapCached:            0 kB\n\
         HighTotal:       1310720 kB\nHighFree:        1000000 kB\nLowTotal:         756608 kB\n\
         LowFree:          500000 kB\nSwapTotal:             0 kB\nSwapFree:              0 kB\n\
         Shmem:              4000 kB\nSReclaimable:      10000 kB\n",
    ),
    ("proc/loadavg", "0.10 0.05 0.01 1/60 4000\n"),
    (
        "proc/diskstats",
        " 179       0 mmcblk0 100 1 4294967295 3 20 2 4294967288 4 0 4294967295 7\n",
    ),
    (
        "proc/net/dev",
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n  \
         eth0: 4294967295 4294967295    0    0    0     0          0         0 4294967290 4294967290    0    0    0     0       0          0\n",
    ),
    ("sys/block/mmcblk0/size", "15269888\n"),
];

fn plant(root: &Path) {
    for (name, text) in FILES {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[tokio::test]
async fn a_32_bit_kernels_proc_is_read_to_the_last_bit_and_past_it() {
    let mut gateway = Gateway::new("arm-32");
    let root = gateway.path("root");
    plant(&root);
    gateway.text("paths.root", &root.display().to_string());
    let mut agent = gateway.start();
    let status = agent
        .wait("two ticks", SOON, |status| status.agent.ticks >= 2)
        .await
        .unwrap();
    let gauges: BTreeMap<_, _> = status
        .gauges
        .iter()
        .map(|gauge| {
            let attributes: Vec<_> = gauge.attributes.values().map(String::as_str).collect();
            (format!("{} {}", gauge.name, attributes.join(" ")), gauge)
        })
        .collect();
    let value = |name: &str| {
        let gauge = gauges
            .get(name)
            .unwrap_or_else(|| panic!("no {name} in {:?}", gauges.keys().collect::<Vec<_>>()));
        gauge
            .number()
            .unwrap_or_else(|| panic!("{name}: {gauge:?}"))
    };
    assert_eq!(value("system.memory.limit "), 2_067_328.0 * 1024.0);
    // As fine as the agent sends it.
    let near = |name: &str, wanted: f64| (value(name) - wanted).abs() < 0.01;
    assert!(near("system.cpu.time user", 42_949_672.9));
    assert_eq!(
        value("system.disk.io read mmcblk0"),
        4_294_967_295.0 * 512.0
    );
    assert_eq!(value("system.network.io eth0 receive"), 4_294_967_295.0);
    // What this kernel does not have is absent: never zero, never garbage.
    for (name, gauge) in &gauges {
        let missing = gauge.missing.as_deref();
        assert!(
            !matches!(missing, Some("garbage" | "timeout")),
            "{name}: {gauge:?}"
        );
    }
    // Past the end a counter begins again, as it does in the kernel.
    let wrapped = FILES[3].1.replace("4294967295 3", "7 3");
    std::fs::write(root.join("proc/diskstats"), wrapped).unwrap();
    agent
        .wait("the wrapped counter", SOON, |status| {
            status
                .gauges
                .iter()
                .any(|gauge| gauge.name == "system.disk.io" && gauge.number() == Some(7.0 * 512.0))
        })
        .await
        .unwrap();
    assert!(agent.terminate(END).await.unwrap().success());
}
