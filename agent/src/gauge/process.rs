//! This process, from `/proc/self` (proc(5)).
//!
//! ```text
//! stat    pid (comm) state … utime(14) stime(15) … num_threads(20) … vsize(23) rss(24) …
//! ```
//!
//! `comm` may hold blanks and brackets, so fields count from the last `)`.
//! Resident memory is `stat`'s, in pages: the kernel batches it per thread,
//! which on a process of a few threads is off by less than its rounding.

use std::path::{Path, PathBuf};

use super::cpu::{seconds, ticks_per_second};
use super::file::KernelFile;
use super::load::count_numbers;
use super::readings::text;
use super::table::{PROCESS_CPU, PROCESS_FILES, PROCESS_MEMORY, PROCESS_THREADS, PROCESS_VIRTUAL};
use super::{Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;

/// Reads `/proc/self`.
#[derive(Debug)]
pub struct Process {
    stat: KernelFile,
    files: PathBuf,
    /// Since Linux 6.2 the folder's size says how many descriptors are open
    /// (`proc_fd_getattr` in fs/proc/fd.c); elsewhere, and before, they are listed.
    sized: bool,
    series: Option<[Option<SeriesId>; 6]>,
    page: u64,
    per_second: f64,
}

impl Process {
    /// Below `root`.
    pub fn new(root: &Path) -> Self {
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        Self {
            stat: KernelFile::new(root.join("proc/self/stat")),
            files: root.join("proc/self/fd"),
            sized: root == Path::new("/"),
            series: None,
            page,
            per_second: ticks_per_second(),
        }
    }
}

impl Source for Process {
    fn family(&self) -> Family {
        Family::Process
    }

    fn read(&mut self, _now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let [user, system, threads, size, resident] =
            parse(self.stat.head(2048)?).ok_or(Missing::Garbage)?;
        let ids = *self.series.get_or_insert_with(|| {
            [
                out.series(&PROCESS_MEMORY, &[]),
                out.series(&PROCESS_VIRTUAL, &[]),
                out.series(&PROCESS_CPU, &[("cpu.mode", text("user"))]),
                out.series(&PROCESS_CPU, &[("cpu.mode", text("system"))]),
                out.series(&PROCESS_FILES, &[]),
                out.series(&PROCESS_THREADS, &[]),
            ]
        });
        let values = [
            resident
                .checked_mul(self.page)
                .ok_or(Missing::Garbage)
                .and_then(Value::whole),
            Value::whole(size),
            seconds(user, self.per_second),
            seconds(system, self.per_second),
            self.open_files(),
            Value::whole(threads),
        ];
        for (id, value) in ids.into_iter().zip(values) {
            out.put(id, value);
        }
        Ok(())
    }
}

impl Process {
    fn open_files(&self) -> Result<Value, Missing> {
        if self.sized
            && let Ok(folder) = rustix::fs::stat(&self.files)
            && let Ok(open) = u64::try_from(folder.st_size)
            && open > 0
        {
            return Value::whole(open);
        }
        // The folder's own descriptor is one of them while it is read.
        Value::whole(count_numbers(&self.files)?.saturating_sub(1))
    }
}

/// utime, stime, num_threads, vsize, rss.
fn parse(stat: &str) -> Option<[u64; 5]> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let mut number = |skip: usize| fields.nth(skip)?.parse::<u64>().ok();
    // Behind the name, field 3 (state) comes first.
    Some([number(11)?, number(0)?, number(4)?, number(2)?, number(0)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Registry;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b) (c) S 1 42 42 0 -1 4194304 1 0 0 0 250 50 0 0 20 0 7 0 100 2097152 300 18446744073709551615";
        assert_eq!(parse(stat), Some([250, 50, 7, 2_097_152, 300]));
        for bad in [
            "",
            "1 (x",
            "1 (x) S 1",
            "1 (x) S a a a a a a a a a a a a a a a a a a a a a a",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_real_kernel_tells_about_this_test() {
        let mut out = Readings::new(Registry::default());
        Process::new(Path::new("/"))
            .read(Stamp::default(), &mut out)
            .unwrap();
        for (name, least) in [
            ("process.memory.usage", 100_000.0),
            ("process.unix.file_descriptor.count", 3.0),
            ("process.thread.count", 1.0),
        ] {
            let value = out.value(name).and_then(Result::ok).map(Value::as_f64);
            assert!(
                value.is_some_and(|value| value >= least),
                "{name} {value:?}"
            );
        }
    }
}
