//! Every gauge the agent has: the one place where names, units and kinds are
//! written down. `docs/GAUGES.md` is checked against it.
//!
//! Names and units: OpenTelemetry semantic conventions 1.44 (`system.*`,
//! `process.*`, `hw.*`). They have none for load averages, inodes and the
//! agent's own workings: those are `sonde.*`.

use std::borrow::Cow;

use super::{Descriptor, Family, Kind};

/// A gauge and the attributes that its series carry.
pub type Row = (&'static Descriptor, &'static [&'static str]);

macro_rules! gauges {
    ($($id:ident: $family:ident $kind:ident $name:literal [$unit:literal] ($($key:literal),*) $text:literal;)*) => {
        $(
            #[doc = $text]
            pub static $id: Descriptor = Descriptor {
                name: Cow::Borrowed($name),
                unit: Cow::Borrowed($unit),
                description: Cow::Borrowed($text),
                kind: Kind::$kind,
                family: Family::$family,
            };
        )*
        /// All of them, in the order of the documentation.
        pub static ALL: &[Row] = &[$((&$id, &[$($key),*])),*];
    };
}

gauges! {
    CPU_TIME: Cpu Counter "system.cpu.time" ["s"] ("cpu.mode") "Time all CPUs spent in a mode.";
    CPU_UTILIZATION: Cpu Gauge "system.cpu.utilization" ["1"] ("cpu.mode") "Share of all CPUs' time in a mode since the last tick.";
    LOAD_1M: Load Gauge "sonde.load.1m" ["{thread}"] () "Load average over 1 minute.";
    LOAD_5M: Load Gauge "sonde.load.5m" ["{thread}"] () "Load average over 5 minutes.";
    LOAD_15M: Load Gauge "sonde.load.15m" ["{thread}"] () "Load average over 15 minutes.";
    UPTIME: Load Gauge "system.uptime" ["s"] () "Time since boot, suspend included.";
    PROCESS_COUNT: Load UpDownCounter "system.process.count" ["{process}"] () "Processes that exist.";
    MEMORY_USAGE: Memory UpDownCounter "system.memory.usage" ["By"] ("system.memory.state") "Memory by state; used is total minus available.";
    MEMORY_UTILIZATION: Memory Gauge "system.memory.utilization" ["1"] ("system.memory.state") "Share of memory by state.";
    MEMORY_LIMIT: Memory UpDownCounter "system.memory.limit" ["By"] () "Memory that the kernel manages.";
    MEMORY_AVAILABLE: Memory UpDownCounter "system.memory.linux.available" ["By"] () "Memory that new work could use without swapping.";
    PAGING_USAGE: Memory UpDownCounter "system.paging.usage" ["By"] ("system.paging.state") "Swap by state.";
    PAGING_UTILIZATION: Memory Gauge "system.paging.utilization" ["1"] ("system.paging.state") "Share of swap by state.";
    FILESYSTEM_USAGE: Filesystem UpDownCounter "system.filesystem.usage" ["By"] ("system.device", "system.filesystem.mode", "system.filesystem.mountpoint", "system.filesystem.state", "system.filesystem.type") "File system space by state.";
    FILESYSTEM_UTILIZATION: Filesystem Gauge "system.filesystem.utilization" ["1"] ("system.device", "system.filesystem.mode", "system.filesystem.mountpoint", "system.filesystem.type") "Used share of what an unprivileged program could use.";
    FILESYSTEM_LIMIT: Filesystem UpDownCounter "system.filesystem.limit" ["By"] ("system.device", "system.filesystem.mode", "system.filesystem.mountpoint", "system.filesystem.type") "Size of a file system.";
    FILESYSTEM_INODES: Filesystem UpDownCounter "sonde.filesystem.inodes" ["{inode}"] ("system.device", "system.filesystem.mode", "system.filesystem.mountpoint", "system.filesystem.state", "system.filesystem.type") "Inodes by state; absent where the file system has no fixed number.";
    FILESYSTEM_READ_ONLY: Filesystem Gauge "sonde.filesystem.read_only" ["1"] ("system.device", "system.filesystem.mountpoint", "system.filesystem.type") "1 if the file system is read-only; a change to it is an event too.";
    DISK_IO: Disk Counter "system.disk.io" ["By"] ("disk.io.direction", "system.device") "Bytes read and written.";
    DISK_OPERATIONS: Disk Counter "system.disk.operations" ["{operation}"] ("disk.io.direction", "system.device") "Reads and writes that finished.";
    DISK_IO_TIME: Disk Counter "system.disk.io_time" ["s"] ("system.device") "Time during which the disk was busy.";
    DISK_OPERATION_TIME: Disk Counter "system.disk.operation_time" ["s"] ("disk.io.direction", "system.device") "Time of all reads and writes added up; by their number it is how long one takes.";
    DISK_IN_FLIGHT: Disk UpDownCounter "sonde.disk.in_flight" ["{operation}"] ("system.device") "Reads and writes under way.";
    NETWORK_IO: Network Counter "system.network.io" ["By"] ("network.interface.name", "network.io.direction") "Bytes received and sent.";
    NETWORK_PACKETS: Network Counter "system.network.packet.count" ["{packet}"] ("network.io.direction", "system.device") "Packets received and sent.";
    NETWORK_ERRORS: Network Counter "system.network.errors" ["{error}"] ("network.interface.name", "network.io.direction") "Packets with errors.";
    NETWORK_DROPPED: Network Counter "system.network.packet.dropped" ["{packet}"] ("network.interface.name", "network.io.direction") "Packets dropped.";
    TEMPERATURE: Temperature Gauge "hw.temperature" ["Cel"] ("hw.id", "hw.name") "Temperature as the sensor gives it.";
    TEMPERATURE_LIMIT: Temperature Gauge "hw.temperature.limit" ["Cel"] ("hw.id", "hw.limit_type", "hw.name") "Temperature at which the hardware is held back (high.degraded) or switched off (high.critical); read once a minute.";
    FAN_SPEED: Hardware Gauge "hw.fan.speed" ["rpm"] ("hw.id", "hw.name") "Speed of a fan.";
    VOLTAGE: Hardware Gauge "hw.voltage" ["V"] ("hw.id", "hw.name") "Voltage as the sensor gives it.";
    CURRENT: Hardware Gauge "sonde.hw.current" ["A"] ("hw.id", "hw.name") "Current as the sensor gives it.";
    POWER: Hardware Gauge "hw.power" ["W"] ("hw.id", "hw.name") "Power as the sensor gives it.";
    ENERGY: Hardware Counter "hw.energy" ["J"] ("hw.id", "hw.name") "Energy since the driver was loaded.";
    HUMIDITY: Hardware Gauge "sonde.hw.humidity" ["1"] ("hw.id", "hw.name") "Relative humidity.";
    ALARM: Hardware Gauge "sonde.hw.alarm" ["1"] ("hw.id", "hw.name", "sonde.alarm") "1 while a chip reports an alarm or a fault of a sensor, such as in0 lcrit_alarm of rpi_volt: under-voltage.";
    CPU_FREQUENCY: Throttling Gauge "system.cpu.frequency" ["Hz"] ("cpu.logical_number") "Clock frequency, once for the CPUs that share a clock: at the first of them.";
    CPU_FREQUENCY_LIMIT: Throttling Gauge "sonde.cpu.frequency.limit" ["Hz"] ("cpu.logical_number") "Highest frequency that is allowed now; below the maximum something holds the CPU back.";
    CPU_FREQUENCY_MAX: Throttling Gauge "sonde.cpu.frequency.max" ["Hz"] ("cpu.logical_number") "Highest frequency that the CPU can do; read once a minute.";
    COOLING_STATE: Throttling Gauge "sonde.cooling.state" ["1"] ("hw.id", "hw.name") "How hard a cooling device works, 0 not at all: a fan's step, or how far a CPU is slowed down.";
    COOLING_MAX: Throttling Gauge "sonde.cooling.state.max" ["1"] ("hw.id", "hw.name") "The hardest that it can; read once a minute.";
    THROTTLE_ACTIVE: Throttling Gauge "sonde.throttle.active" ["1"] ("sonde.reason") "1 while a Raspberry Pi's firmware holds it back: under_voltage, frequency_capped, throttled, soft_temperature_limit.";
    THROTTLE_SEEN: Throttling Gauge "sonde.throttle.seen" ["1"] ("sonde.reason") "1 if it did since the boot.";
    THROTTLE_COUNT: Throttling Counter "sonde.throttle.count" ["{event}"] ("cpu.logical_number", "sonde.scope") "Times that an x86 CPU was too hot, core or package; read once a minute.";
    PRESSURE_TIME: Pressure Counter "sonde.pressure.time" ["s"] ("sonde.resource", "sonde.stall") "Time in which some or all (full) work that could run waited for a resource: cpu, memory, io, irq.";
    PRESSURE_SHARE: Pressure Gauge "sonde.pressure.share" ["1"] ("sonde.resource", "sonde.stall") "The same as a share of the last 10 s.";
    OOM_KILLS: Kernel Counter "sonde.memory.oom_kills" ["{kill}"] () "Processes that the kernel killed because memory ran out.";
    PAGING_FAULTS: Kernel Counter "system.paging.faults" ["{fault}"] ("system.paging.fault.type") "Page faults; a major one waited for a disk.";
    ENTROPY: Kernel Gauge "sonde.entropy" ["bit"] () "Entropy that the kernel has; 256 from Linux 5.18 on.";
    ENDURANCE: Flash Gauge "hw.physical_disk.endurance_utilization" ["1"] ("hw.id", "hw.physical_disk.state") "Share of an eMMC's or UFS' rated life that is left for sure, in steps of 0.1: of the more worn of its areas.";
    LIFE_USED: Flash Gauge "sonde.flash.life.used" ["1"] ("hw.id", "sonde.flash.area") "Share of the rated life that is used, upper end of the step of 0.1; 1.1: beyond it. Area a is SLC or enhanced, b the main area.";
    PRE_EOL: Flash Gauge "sonde.flash.pre_eol" ["1"] ("hw.id") "Spare blocks that are used up: 1 normal, 2 from 80 %, 3 urgent.";
    ERASES_MAX: Flash Gauge "sonde.flash.erases.max" ["{erase}"] ("hw.id") "Erases of the UBI block that was erased most.";
    BAD_BLOCKS: Flash UpDownCounter "sonde.flash.blocks.bad" ["{block}"] ("hw.id") "Erase blocks of an MTD or UBI device that are bad.";
    FREE_BLOCKS: Flash UpDownCounter "sonde.flash.blocks.available" ["{block}"] ("hw.id") "UBI erase blocks that no volume has.";
    RESERVED_BLOCKS: Flash UpDownCounter "sonde.flash.blocks.reserved" ["{block}"] ("hw.id") "UBI erase blocks kept to replace bad ones; at 0 the next bad block makes the device read-only.";
    FLASH_READ_ONLY: Flash Gauge "sonde.flash.read_only" ["1"] ("hw.id") "1 if UBI has given up writing.";
    FLASH_CORRUPTED: Flash Gauge "sonde.flash.corrupted" ["1"] ("hw.id") "1 if a UBI volume is corrupted.";
    ECC_CORRECTED: Flash Counter "sonde.flash.ecc.corrected" ["{bit}"] ("hw.id") "Flipped bits of an MTD device that were corrected.";
    ECC_FAILURES: Flash Counter "sonde.flash.ecc.failures" ["{error}"] ("hw.id") "Reads of an MTD device that could not be corrected.";
    LINK_UP: Link UpDownCounter "hw.network.up" ["1"] ("hw.id") "1 if the link is up, or unknown as of tunnels and modems that are up; else 0.";
    LINK_SPEED: Link UpDownCounter "hw.network.bandwidth.limit" ["By/s"] ("hw.id") "Speed that the link was negotiated at; absent while it is down.";
    CARRIER_CHANGES: Link Counter "sonde.network.carrier.changes" ["{change}"] ("network.interface.name") "Times that the link came or went.";
    WIFI_SIGNAL: Link Gauge "sonde.wifi.signal" ["dB[mW]"] ("network.interface.name") "Signal level.";
    WIFI_NOISE: Link Gauge "sonde.wifi.noise" ["dB[mW]"] ("network.interface.name") "Noise level, where the driver knows it.";
    WIFI_QUALITY: Link Gauge "sonde.wifi.quality" ["1"] ("network.interface.name") "Link quality as the driver counts it, often of 70.";
    WATCHDOG_ACTIVE: Watchdog Gauge "sonde.watchdog.active" ["1"] ("hw.id", "hw.name") "1 if somebody keeps the watchdog.";
    WATCHDOG_LEFT: Watchdog Gauge "sonde.watchdog.time_left" ["s"] ("hw.id", "hw.name") "Time until it resets the machine.";
    WATCHDOG_TIMEOUT: Watchdog Gauge "sonde.watchdog.timeout" ["s"] ("hw.id", "hw.name") "Time from the last sign of life to the reset.";
    WATCHDOG_BOOT: Watchdog Gauge "sonde.watchdog.boot_status" ["1"] ("hw.id", "hw.name") "Why it says that the machine was reset, as bits (WDIOF_ in linux/watchdog.h); 0: nothing.";
    CLOCK_SYNCHRONISED: Clock Gauge "sonde.clock.synchronised" ["1"] () "1 if the wall clock is believed, by the rule in clock.trust.";
    CLOCK_SYNC_AGE: Clock Gauge "sonde.clock.synchronised.age" ["s"] () "Time since systemd-timesyncd last heard a time server, or chrony or ntpd last wrote its drift down (about hourly).";
    RTC_OFFSET: Clock Gauge "sonde.clock.rtc.offset" ["s"] ("hw.id") "How far the battery clock is ahead of the wall clock; far off with an empty battery.";
    PROCESS_MEMORY: Process UpDownCounter "process.memory.usage" ["By"] ("sonde.process.name") "Resident memory.";
    PROCESS_VIRTUAL: Process UpDownCounter "process.memory.virtual" ["By"] ("sonde.process.name") "Address space.";
    PROCESS_CPU: Process Counter "process.cpu.time" ["s"] ("cpu.mode", "sonde.process.name") "CPU time used.";
    PROCESS_FILES: Process UpDownCounter "process.unix.file_descriptor.count" ["{file_descriptor}"] ("sonde.process.name") "Open files.";
    PROCESS_THREADS: Process UpDownCounter "process.thread.count" ["{thread}"] ("sonde.process.name") "Threads.";
    PROCESS_IO: Process Counter "process.disk.io" ["By"] ("disk.io.direction", "sonde.process.name") "Bytes that a watched process had read from and written to disks.";
    PROCESS_UPTIME: Process Gauge "process.uptime" ["s"] ("sonde.process.name") "Time since the oldest of a watched process' processes started.";
    PROCESS_RUNNING: Process UpDownCounter "sonde.process.count" ["{process}"] ("sonde.process.name") "Processes that a watched process is; 0: it does not run.";
    PROCESS_RESTARTS: Process Counter "sonde.process.restarts" ["{restart}"] ("sonde.process.name") "How often a watched process was seen to be started again.";
    SENSOR_LEFT: Sensor UpDownCounter "sonde.sensor.left_behind" ["{thread}"] () "Threads that hang in the kernel with a sensor that is no longer configured; begins with the first.";
    SERIAL_LEFT: Serial UpDownCounter "sonde.serial.left_behind" ["{thread}"] () "Threads that hang in a driver with a serial line that was closed; begins with the first.";
    SERIAL_UP: Serial Gauge "sonde.serial.up" ["1"] ("sonde.serial.link") "1 while the serial line's device is open, else 0.";
    SERIAL_OPENS: Serial Counter "sonde.serial.opens" ["{open}"] ("sonde.serial.link") "Times the device was opened: one more for each time it was unplugged.";
    SERIAL_IO: Serial Counter "sonde.serial.io" ["By"] ("sonde.serial.link") "Bytes that came over the line.";
    SERIAL_FRAMES: Serial Counter "sonde.serial.frames" ["{frame}"] ("sonde.serial.link") "Good frames.";
    SERIAL_BAD: Serial Counter "sonde.serial.bad" ["{frame}"] ("sonde.reason", "sonde.serial.link") "Runs of bytes that were no good frame: broken, too_long, too_short, checksum, version, malformed; begins with the first of its kind.";
    SERIAL_LOST: Serial Counter "sonde.serial.lost" ["{frame}"] ("sonde.serial.link") "Frames that never came, seen from gaps in their numbers; begins with the first.";
    SERIAL_RESYNCS: Serial Counter "sonde.serial.resyncs" ["{resync}"] ("sonde.serial.link") "Times a good frame came after something bad; begins with the first.";
    SERIAL_SAMPLES_LOST: Serial Counter "sonde.serial.samples.lost" ["{sample}"] ("sonde.serial.link", "sonde.serial.source") "Samples that a sender says it lost before sending; begins with the first.";
    TICK: Agent Gauge "sonde.sampler.tick" ["1"] () "Number of the tick since the agent started: 1, 2, 3, without a hole.";
    POINTS: Agent Counter "sonde.sampler.points" ["{point}"] () "Data points recorded since the start, this tick included.";
    OVERRUNS: Agent Counter "sonde.sampler.overruns" ["{tick}"] () "Ticks that were skipped because an earlier one was still being read.";
    LATE: Agent Counter "sonde.sampler.late" ["{reading}"] () "Values that were read after their tick had gone on without them, and are lost; begins with the first.";
    ERRORS: Agent Counter "sonde.gauge.errors" ["{error}"] ("sonde.family") "Readings that gave no value, or families that could not be read at all; begins with a family's first error.";
    SERIES_DROPPED: Agent UpDownCounter "sonde.gauge.series.dropped" ["{series}"] ("sonde.family") "Series that are left out because their family has more than its limit; begins with the first.";
    SPOOL_USAGE: Agent UpDownCounter "sonde.spool.usage" ["By"] () "Bytes that the spool's files occupy.";
    SPOOL_FRAMES: Agent UpDownCounter "sonde.spool.frames" ["{frame}"] () "Frames that wait in the spool.";
    SPOOL_WRITTEN: Agent Counter "sonde.spool.written" ["By"] () "Bytes written to the spool's files since the start.";
    SPOOL_LOST: Agent UpDownCounter "sonde.spool.lost" ["{item}"] ("sonde.class", "sonde.reason") "Items lost since the state folder was made.";
    UPLINK_PENDING: Agent UpDownCounter "sonde.uplink.pending" ["{item}"] ("sonde.uplink") "Items that wait for an uplink.";
    UPLINK_WIRE: Agent Counter "sonde.uplink.wire.io" ["By"] ("network.io.direction", "sonde.uplink") "Bytes on the wire, TLS and headers included.";
    UPLINK_ACKED: Agent Counter "sonde.uplink.acked" ["{item}"] ("sonde.uplink") "Items that the other side acknowledged.";
    UPLINK_STATE: Agent Gauge "sonde.uplink.state" ["1"] ("sonde.uplink") "0 idle, 1 connecting, 2 up, 3 waiting, 4 circuit open.";
    JOB_RUNS: Agent Counter "sonde.job.runs" ["{run}"] ("sonde.job.name", "sonde.job.outcome") "Runs that ended, by outcome.";
    JOB_REFUSED: Agent Counter "sonde.job.refused" ["{order}"] ("sonde.job.name", "sonde.reason") "Orders that were refused.";
    JOB_RUNNING: Agent UpDownCounter "sonde.job.running" ["{run}"] ("sonde.job.name") "Runs under way.";
    JOB_DURATION: Agent Gauge "sonde.job.duration" ["s"] ("sonde.job.name") "How long the run took that ended last.";
    JOB_CPU: Agent Counter "sonde.job.cpu_time" ["s"] ("sonde.job.name") "CPU time of all runs that ended, as far as it is known.";
    UPLINK_UP: Agent Gauge "sonde.uplink.up" ["1"] ("sonde.uplink") "1 while the other side takes data, else 0.";
    UPLINK_CIRCUIT: Agent Gauge "sonde.uplink.circuit.open" ["1"] ("sonde.uplink") "1 while the circuit is open or half open, else 0.";
    UPLINK_TRANSITIONS: Agent Counter "sonde.uplink.transitions" ["{transition}"] ("sonde.transition", "sonde.uplink") "Changes of link and circuit: up, down, open, half_open, closed; begins with the first of its kind.";
    EVENT_COUNT: Agent Counter "sonde.event.count" ["{event}"] ("sonde.event") "Events since the start, by name; at most 32 names of local programs, the rest as other.";
    EVENT_MEASUREMENT: Agent Gauge "sonde.event.measurement" ["1"] ("sonde.event", "sonde.measurement") "What an event measured, in the event's unit; a point only at the tick after an event; at most 64.";
    RUNTIME_TASKS: Runtime UpDownCounter "sonde.runtime.tasks" ["{task}"] () "Tasks of the agent's event loop that exist.";
    RUNTIME_PARKS: Runtime Counter "sonde.runtime.parks" ["{park}"] () "How often the event loop had nothing to do and waited.";
    RUNTIME_BUSY: Runtime Counter "sonde.runtime.busy" ["s"] () "Time that the event loop did not wait.";
    RUNTIME_LAG: Runtime Gauge "sonde.runtime.lag" ["s"] () "The latest that the sampler's timer fired since the last point; up to a millisecond is the timer's own grain.";
    TASK_BUSY: Runtime Counter "sonde.task.busy" ["s"] ("sonde.task") "Time that a task of the agent ran: all its polls.";
    TASK_LONGEST: Runtime Gauge "sonde.task.poll.longest" ["s"] ("sonde.task") "Its longest poll since the last point: for so long all others waited.";
    QUEUE_DEPTH: Runtime UpDownCounter "sonde.queue.depth" ["{item}"] ("sonde.queue") "Items in a queue of the agent; begins with its first.";
    QUEUE_HIGH: Runtime Gauge "sonde.queue.high_water" ["{item}"] ("sonde.queue") "The most that it held since the start.";
    READ_LAST: Runtime Gauge "sonde.gauge.read.duration" ["s"] ("sonde.family") "How long a family took to read, the last time.";
    READ_LONGEST: Runtime Gauge "sonde.gauge.read.longest" ["s"] ("sonde.family") "The longest since the last point.";
    SPOOL_AGE: Runtime Gauge "sonde.spool.oldest.age" ["s"] () "Age of the oldest reading that waits; 0: nothing does.";
    SPOOL_SEGMENTS: Runtime UpDownCounter "sonde.spool.segments" ["{segment}"] () "Segment files of the spool.";
    SPOOL_SYNCS: Runtime Counter "sonde.spool.syncs" ["{sync}"] () "Times that the spool made the disk write.";
    SPOOL_SYNC_LAST: Runtime Gauge "sonde.spool.sync.duration" ["s"] () "How long the last sync of a file took.";
    SPOOL_SYNC_LONGEST: Runtime Gauge "sonde.spool.sync.longest" ["s"] () "The longest since the last point.";
    SPOOL_BUDGET_LEFT: Runtime Gauge "sonde.spool.write_budget.left" ["By"] () "What is left of the day's spool.write_budget; no point without one.";
    SPOOL_FLASH: Runtime Counter "sonde.spool.flash.written" ["By"] () "What the spool's writes cost the device, its journal included: an estimate.";
    SPOOL_DEVICE: Runtime Counter "sonde.spool.device.written" ["By"] () "What all programs wrote to the spool's device meanwhile; no point where that is not counted.";
    UPLINK_WAITING: Runtime UpDownCounter "sonde.uplink.pending.size" ["By"] ("sonde.uplink") "Bytes that wait for an uplink.";
    UPLINK_ROUND_TRIP: Runtime Gauge "sonde.uplink.round_trip" ["s"] ("sonde.uplink") "From handing a frame over to hearing that it was delivered, the last time.";
    UPLINK_ATTEMPTS: Runtime Counter "sonde.uplink.attempts" ["{frame}"] ("sonde.uplink") "Frames handed over, whatever became of them.";
    UPLINK_FAILURES: Runtime Counter "sonde.uplink.failures" ["{failure}"] ("sonde.reason", "sonde.uplink") "What kept data here: link, retry, hold, refuse, aside, condemn; begins with the first of its kind.";
    MEMORY_PEAK: Runtime UpDownCounter "sonde.process.memory.peak" ["By"] () "The most resident memory that the agent ever had.";
    MEMORY_SHARE: Runtime UpDownCounter "sonde.process.memory.pss" ["By"] () "The agent's memory with shared pages by their share.";
    FILES_LIMIT: Runtime UpDownCounter "sonde.process.file_descriptor.limit" ["{file_descriptor}"] () "Files that the agent may have open.";
    BOOT_COUNT: Boot UpDownCounter "sonde.boot.count" ["{boot}"] () "Which boot this is, counted from the first that the agent saw.";
    BOOT_REASON: Boot Gauge "sonde.boot.reason" ["1"] ("sonde.reason") "1 for the reason why the boot before this one ended.";
    AGENT_RESTARTS: Boot UpDownCounter "sonde.agent.restarts" ["{restart}"] ("sonde.reason") "Restarts of the agent in this boot, by why the run before each ended.";
    SUSPENDED: Boot Counter "sonde.host.suspended" ["s"] () "Time that this boot was suspended.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::docs::compare;
    use std::fmt::Write as _;
    use std::path::Path;

    /// The table as it stands in the documentation.
    fn rendered() -> String {
        let mut out = String::from(
            "| gauge | unit | kind | attributes | what it is |\n|---|---|---|---|---|\n",
        );
        let mut family = None;
        for (gauge, keys) in ALL {
            if family != Some(gauge.family) {
                family = Some(gauge.family);
                let _ = writeln!(out, "| **{}** | | | | |", gauge.family.as_str());
            }
            let kind = match gauge.kind {
                Kind::Gauge => "gauge",
                Kind::Counter => "counter",
                Kind::UpDownCounter => "up-down counter",
            };
            let keys: Vec<_> = keys.iter().map(|key| format!("`{key}`")).collect();
            let _ = writeln!(
                out,
                "| `{}` | `{}` | {kind} | {} | {} |",
                gauge.name,
                gauge.unit,
                keys.join(", "),
                gauge.description
            );
        }
        out
    }

    #[test]
    fn the_documentation_lists_exactly_these_gauges() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/GAUGES.md");
        let page = std::fs::read_to_string(path).unwrap();
        let table = rendered();
        let begin = page.find("| gauge | unit |").expect("a table");
        let rows = page[begin..].split_inclusive('\n');
        let rows = rows.take_while(|row| row.starts_with('|'));
        let end = begin + rows.map(str::len).sum::<usize>();
        let page = format!("{}{table}{}", &page[..begin], &page[end..]);
        compare("docs/GAUGES.md", &page);
        assert_eq!(
            page.matches("\n| `").count(),
            ALL.len(),
            "rows that no gauge stands for"
        );
    }

    #[test]
    fn names_are_unique_and_attribute_keys_are_sorted() {
        for (at, (gauge, keys)) in ALL.iter().enumerate() {
            assert!(
                ALL.iter()
                    .skip(at + 1)
                    .all(|(other, _)| other.name != gauge.name),
                "{}",
                gauge.name
            );
            assert!(keys.is_sorted(), "{}", gauge.name);
        }
    }
}
