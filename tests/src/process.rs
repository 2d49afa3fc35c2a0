//! What the kernel says a process costs: from `/proc`, not from the process.

use std::fs;

/// Bytes of memory of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident now (`VmRSS`).
    pub resident: u64,
    /// The most it ever was (`VmHWM`).
    pub peak: u64,
}

/// Reads a process's memory; `None` when it has ended.
pub fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    };
    Some(Memory {
        resident: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

/// Nanoseconds of processor time of a process's living threads, from each
/// thread's `schedstat` (exact, where `stat` counts in hundredths of a second).
/// `None` when it has ended.
pub fn cpu_ns(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let spent = |path: std::path::PathBuf| -> Option<u64> {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Some(tasks.flatten().filter_map(|task| spent(task.path())).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_memory_and_uses_time() {
        let own = std::process::id();
        let before = cpu_ns(own).unwrap();
        let mut sum = 0_u64;
        while cpu_ns(own).unwrap() <= before {
            sum = sum.wrapping_mul(31).wrapping_add(7);
        }
        let memory = memory(own).unwrap();
        assert!(
            memory.resident > 100_000 && memory.peak >= memory.resident,
            "{sum}"
        );
    }

    #[test]
    fn nobody_costs_nothing() {
        assert_eq!(memory(u32::MAX), None);
        assert_eq!(cpu_ns(u32::MAX), None);
    }
}
