//! What serial lines brought, and what they lost (see [`crate::serial`]).

use std::collections::BTreeMap;

use super::readings::{found, text};
use super::table::{
    SERIAL_BAD, SERIAL_FRAMES, SERIAL_IO, SERIAL_LEFT, SERIAL_LOST, SERIAL_OPENS, SERIAL_RESYNCS,
    SERIAL_SAMPLES_LOST, SERIAL_UP,
};
use super::{Attribute, Descriptor, Family, Missing, Readings, SeriesId, Source, Value};
use crate::frame::Stamp;
use crate::serial::link::{Link, bad};

/// Reads the lines' latest.
#[derive(Debug)]
pub struct Serial {
    lines: crate::serial::Serial,
    /// By gauge, line, and reason or sender.
    series: BTreeMap<(&'static str, String, Which), Option<SeriesId>>,
    /// Outer: there was one.
    left_behind: Option<Option<SeriesId>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    All,
    Reason(&'static str),
    Sender(u8),
}

impl Serial {
    /// Of these lines.
    pub fn new(lines: crate::serial::Serial) -> Self {
        Self {
            lines,
            series: BTreeMap::new(),
            left_behind: None,
        }
    }
}

impl Source for Serial {
    fn family(&self) -> Family {
        Family::Serial
    }

    fn read(&mut self, now: Stamp, out: &mut Readings) -> Result<(), Missing> {
        let known = &mut self.series;
        let mut any = false;
        self.lines.each(|link| {
            any = true;
            link.read(now.boot_ns, out);
            own(link, known, out);
        });
        let left = self.lines.left_behind().len();
        if left > 0 || self.left_behind.is_some() {
            let series = || out.series(&SERIAL_LEFT, &[]);
            let series = *self.left_behind.get_or_insert_with(series);
            out.put(series, Value::whole(left as u64));
        }
        if any {
            Ok(())
        } else {
            Err(Missing::Unsupported)
        }
    }
}

/// What a line says about itself. Losses begin with the first of their kind.
fn own(
    link: &Link,
    known: &mut BTreeMap<(&'static str, String, Which), Option<SeriesId>>,
    out: &mut Readings,
) {
    let name = link.settings().name.as_str();
    let mut put = |gauge: &'static Descriptor, which: Which, value: u64| {
        let std::borrow::Cow::Borrowed(key) = gauge.name else {
            return;
        };
        let id = *known
            .entry((key, name.to_owned(), which))
            .or_insert_with(|| {
                let link = ("sonde.serial.link", found(name));
                match which {
                    Which::All => out.series(gauge, &[link]),
                    Which::Reason(reason) => {
                        out.series(gauge, &[("sonde.reason", text(reason)), link])
                    }
                    Which::Sender(number) => {
                        let sender = Attribute::Int(number.into());
                        out.series(gauge, &[link, ("sonde.serial.source", sender)])
                    }
                }
            });
        out.put(id, Value::whole(value));
    };
    put(&SERIAL_UP, Which::All, u64::from(link.is_open()));
    put(&SERIAL_OPENS, Which::All, link.opens());
    put(&SERIAL_IO, Which::All, link.bytes());
    put(&SERIAL_FRAMES, Which::All, link.counts().frames);
    for (reason, count) in bad(&link.counts()) {
        if count > 0 {
            put(&SERIAL_BAD, Which::Reason(reason), count);
        }
    }
    for (gauge, count) in [
        (&SERIAL_LOST, link.lost()),
        (&SERIAL_RESYNCS, link.resyncs()),
    ] {
        if count > 0 {
            put(gauge, Which::All, count);
        }
    }
    for (sender, count) in link.samples_lost() {
        if count > 0 {
            put(&SERIAL_SAMPLES_LOST, Which::Sender(sender), count);
        }
    }
}
