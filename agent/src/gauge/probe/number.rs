//! A file that holds one number, and what its text can mean.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use rustix::io::Errno;

use super::super::{Missing, SeriesId, Value};
use super::Parse;

/// A file that holds one number is shorter; what is longer is something else.
const MAX_BYTES: usize = 256;

/// Such a file.
pub(super) struct NumberFile {
    pub(super) path: PathBuf,
    /// Read once per look only.
    pub(super) slow: bool,
    /// Whether it stays open.
    pub(super) keep: bool,
    pub(super) file: Option<File>,
    /// Its device went away: look for it again.
    pub(super) vanished: bool,
    pub(super) slots: Vec<Slot>,
}

/// What one series has of it.
pub(super) struct Slot {
    pub(super) id: Option<SeriesId>,
    pub(super) parse: Parse,
    /// Until it is taken.
    pub(super) value: Option<Result<Value, Missing>>,
}

impl NumberFile {
    /// May block.
    pub(super) fn read(&mut self) {
        let mut buffer = [0; MAX_BYTES];
        let read = self.fill(&mut buffer);
        let text = read.and_then(|length| {
            let bytes = buffer.get(..length).unwrap_or_default();
            let text = std::str::from_utf8(bytes).map_err(|_| Missing::Garbage)?;
            let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
            (!text.is_empty()).then_some(text).ok_or(Missing::Garbage)
        });
        for slot in &mut self.slots {
            slot.value = Some(text.and_then(slot.parse));
        }
    }

    fn fill(&mut self, buffer: &mut [u8; MAX_BYTES]) -> Result<usize, Missing> {
        let length = self.try_fill(buffer).map_err(|error| {
            // ENXIO has no kind of its own.
            let no_device = [Errno::NODEV, Errno::NXIO, Errno::NOENT]
                .into_iter()
                .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()));
            self.vanished = no_device;
            if no_device {
                Missing::Gone
            } else {
                Missing::of(&error)
            }
        })?;
        if length == MAX_BYTES {
            return Err(Missing::Garbage);
        }
        Ok(length)
    }

    fn try_fill(&mut self, buffer: &mut [u8; MAX_BYTES]) -> std::io::Result<usize> {
        self.vanished = false;
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let length = file.read_at(buffer, 0)?;
        self.file = Some(file).filter(|_| self.keep);
        Ok(length)
    }
}

/// A count: whole and not negative.
pub fn count(text: &str) -> Result<Value, Missing> {
    text.parse::<u64>()
        .map_err(|_| Missing::Garbage)
        .and_then(Value::whole)
}

/// 0 or 1; any other number is neither.
pub fn flag(text: &str) -> Result<Value, Missing> {
    match text {
        "0" => Ok(Value::Int(0)),
        "1" => Ok(Value::Int(1)),
        _ => Err(Missing::Garbage),
    }
}

/// Thousandths, as hwmon and thermal zones give them.
pub fn thousandths(text: &str) -> Result<Value, Missing> {
    let milli: i64 = text.parse().map_err(|_| Missing::Garbage)?;
    Value::grained(milli as f64 / 1000.0, 1000.0)
}

/// Millionths, rounded to thousandths: no power meter here knows more.
pub fn millionths(text: &str) -> Result<Value, Missing> {
    let micro: i64 = text.parse().map_err(|_| Missing::Garbage)?;
    Value::grained(micro as f64 / 1e6, 1000.0)
}
