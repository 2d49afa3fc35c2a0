//! What reading the gauges costs, family by family: series, points, CPU time,
//! system calls and instructions per tick.
//!
//! ```text
//! cargo run --release -p sonde-agent --example gauge_cost [-- --root DIR | --fake]
//! ```
//!
//! `--fake` reads a made-up gateway's `/sys` (4 CPUs in one clock domain, two
//! thermal zones, three chips, an eMMC, two links, a watchdog) instead of this
//! machine's. Each family is read at its default interval of made-up time, so
//! looking for devices once a minute is in the figures. CPU time is that of the
//! whole process, helper threads included. System calls are counted by strace
//! and instructions by callgrind where these are installed, as the difference
//! between two runs of one family.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use sonde_agent::clock::{Clock, ClockTrust};
use sonde_agent::frame::Stamp;
use sonde_agent::gauge::{Family, Readings, Registry, Source, host_sources};

const TICKS: u64 = 600;
/// A tenth of it is enough where every step is counted exactly.
const COUNTED: u64 = 60;
const DEFAULT: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let fake = tempfile::tempdir()?;
    let root = match words.as_slice() {
        [] => PathBuf::from("/"),
        ["--root", root] => PathBuf::from(root),
        ["--fake"] => {
            build(fake.path())?;
            fake.path().to_owned()
        }
        // One family alone, under strace or valgrind.
        ["--only", root, family, ticks] => {
            only(Path::new(root), family, ticks.parse()?);
            return Ok(());
        }
        _ => return Err("usage: gauge_cost [--root DIR | --fake]".into()),
    };
    println!(
        "| family | interval | series | points a tick | CPU µs a tick | system calls | instructions |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut sum = 0.0;
    for family in Family::ALL {
        let Some(cost) = measure(&root, family) else {
            continue;
        };
        let calls = difference(&root, family, system_calls);
        let instructions = difference(&root, family, instructions);
        let every = family.rhythm().unwrap_or(DEFAULT);
        let shown = |count: Option<f64>| count.map_or("?".into(), |count| format!("{count:.1}"));
        println!(
            "| {} | {} s | {} | {:.1} | {:.1} | {} | {} |",
            family.as_str(),
            every.as_secs(),
            cost.series,
            cost.points,
            cost.cpu_us,
            shown(calls),
            instructions.map_or("?".into(), |count| format!("{count:.0}")),
        );
        sum += cost.cpu_us * DEFAULT.as_secs_f64() / every.as_secs_f64();
    }
    println!(
        "\nAll families at their default intervals: {sum:.0} CPU µs each {} s.",
        DEFAULT.as_secs()
    );
    Ok(())
}

struct Cost {
    series: usize,
    points: f64,
    cpu_us: f64,
}

fn sources(root: &Path, family: Family) -> Vec<Box<dyn Source>> {
    let mut sources = host_sources(root, &Clock::new(ClockTrust::Always));
    sources.retain(|source| source.family() == family);
    sources
}

/// Reads a family so many times; returns the values there were.
fn read(
    sources: &mut [Box<dyn Source>],
    readings: &mut Readings,
    ticks: std::ops::Range<u64>,
) -> usize {
    let mut points = 0;
    for tick in ticks {
        let every = sources.first().and_then(|source| source.family().rhythm());
        let boot_ns = (tick + 1) * every.unwrap_or(DEFAULT).as_nanos() as u64;
        let now = Stamp {
            unix_ns: 1_800_000_000_000_000_000 + boot_ns,
            boot_ns,
        };
        readings.clear();
        for source in sources.iter_mut() {
            // Absence is a cost as well.
            let _ = source.read(now, readings);
        }
        points += readings
            .as_slice()
            .iter()
            .filter(|(_, value)| value.is_ok())
            .count();
    }
    points
}

fn measure(root: &Path, family: Family) -> Option<Cost> {
    let mut sources = sources(root, family);
    if sources.is_empty() {
        return None;
    }
    let registry = Registry::default();
    let mut readings = Readings::new(registry.clone());
    // Opening the files and naming the series is paid once.
    read(&mut sources, &mut readings, 0..1);
    let before = cpu_ns();
    let points = read(&mut sources, &mut readings, 1..TICKS + 1);
    let spent = cpu_ns() - before;
    Some(Cost {
        series: registry.len(),
        points: points as f64 / TICKS as f64,
        cpu_us: spent as f64 / 1000.0 / TICKS as f64,
    })
}

fn only(root: &Path, family: &str, ticks: u64) {
    let family = Family::ALL
        .into_iter()
        .find(|known| known.as_str() == family);
    let mut sources = family
        .map(|family| sources(root, family))
        .unwrap_or_default();
    read(
        &mut sources,
        &mut Readings::new(Registry::default()),
        0..ticks + 1,
    );
}

fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

/// What a count grows by with each tick.
fn difference(root: &Path, family: Family, count: fn(&[&str]) -> Option<f64>) -> Option<f64> {
    let program = std::env::current_exe().ok()?;
    let (program, root) = (program.display().to_string(), root.display().to_string());
    let run = |ticks: u64| {
        let ticks = ticks.to_string();
        count(&[&program, "--only", &root, family.as_str(), &ticks])
    };
    Some((run(COUNTED)? - run(0)?) / COUNTED as f64)
}

fn system_calls(command: &[&str]) -> Option<f64> {
    let dir = tempfile::tempdir().ok()?;
    let file = dir.path().join("calls");
    let done = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(&file)
        .args(command)
        .output();
    if !done.ok()?.status.success() {
        return None;
    }
    let calls = std::fs::read_to_string(file).ok()?;
    let is_begun = |line: &&str| !line.contains(" resumed>");
    Some(calls.lines().filter(is_begun).count() as f64)
}

fn instructions(command: &[&str]) -> Option<f64> {
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .args(command)
        .output();
    // A program that valgrind could not run has its count all the same.
    let run = run.ok().filter(|run| run.status.success())?;
    let text = String::from_utf8(run.stderr).ok()?;
    let line = text.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// A small gateway's `/sys`.
fn build(root: &Path) -> std::io::Result<()> {
    let mut files: Vec<(String, &str)> = Vec::new();
    let mut add = |path: String, text| files.push((path, text));
    for (file, text) in [
        ("scaling_cur_freq", "600000\n"),
        ("scaling_max_freq", "1500000\n"),
        ("cpuinfo_max_freq", "1500000\n"),
    ] {
        add(
            format!("sys/devices/system/cpu/cpufreq/policy0/{file}"),
            text,
        );
    }
    for zone in [
        "sys/class/thermal/thermal_zone0",
        "sys/class/thermal/thermal_zone1",
    ] {
        for (file, text) in [
            ("type", "soc-thermal\n"),
            ("temp", "45277\n"),
            ("trip_point_0_type", "critical\n"),
            ("trip_point_0_temp", "95000\n"),
        ] {
            add(format!("{zone}/{file}"), text);
        }
    }
    for (file, text) in [
        ("type", "cpufreq-cpu0\n"),
        ("cur_state", "0\n"),
        ("max_state", "4\n"),
    ] {
        add(format!("sys/class/thermal/cooling_device0/{file}"), text);
    }
    for chip in ["sys/class/hwmon/hwmon0", "sys/class/hwmon/hwmon1"] {
        for (file, text) in [
            ("name", "ina226\n"),
            ("in1_input", "4980\n"),
            ("curr1_input", "812\n"),
            ("power1_input", "4043760\n"),
            ("temp1_input", "21500\n"),
        ] {
            add(format!("{chip}/{file}"), text);
        }
    }
    for (file, text) in [
        ("name", "pwmfan\n"),
        ("fan1_input", "1200\n"),
        ("fan1_alarm", "0\n"),
    ] {
        add(format!("sys/class/hwmon/hwmon2/{file}"), text);
    }
    for (file, text) in [("life_time", "0x01 0x02\n"), ("pre_eol_info", "0x01\n")] {
        add(format!("sys/block/mmcblk0/device/{file}"), text);
    }
    for link in ["eth0", "wlan0"] {
        for (file, text) in [
            ("operstate", "up\n"),
            ("speed", "1000\n"),
            ("carrier_changes", "2\n"),
        ] {
            add(format!("sys/class/net/{link}/{file}"), text);
        }
    }
    for (file, text) in [
        ("identity", "bcm2835\n"),
        ("state", "active\n"),
        ("timeout", "15\n"),
        ("timeleft", "12\n"),
        ("bootstatus", "0\n"),
    ] {
        add(format!("sys/class/watchdog/watchdog0/{file}"), text);
    }
    for (path, text) in files {
        let path = root.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}
