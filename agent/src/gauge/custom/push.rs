//! Numbers that local programs push: who may say what, how often, and for how
//! many sets of attributes. Whoever is refused is told why.

use std::collections::BTreeMap;
use std::fmt;

use super::board::{Board, Custom, Slot};
use super::definition::Origin;
use super::number::Number;
use crate::gauge::naming::check_attribute;
use crate::gauge::readings::MAX_FAMILY_SERIES;
use crate::rate::{Bucket, Rate};

/// Values in a row, and after that two hundred a second.
const RATE: Rate = Rate {
    burst: 2000,
    refill_ns: 5_000_000,
};
/// Attributes of one value, those of the config not counted.
pub const MAX_ATTRIBUTES: usize = 16;

/// One number for one gauge.
#[derive(Clone, Debug, PartialEq)]
pub struct Push {
    /// The gauge's table name, or its metric name.
    pub name: String,
    /// Before scale, offset and rounding.
    pub value: Number,
    /// Besides those of the config.
    pub attributes: BTreeMap<String, String>,
}

/// Why a number was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No gauge of this name.
    Unknown(String),
    /// It is read from elsewhere.
    NotPushed(String),
    /// Several gauges have this metric name.
    Ambiguous(String),
    /// An attribute that is not allowed; which, and what is wrong with it.
    Attribute(String, &'static str),
    /// Another table has this series; which.
    Taken(String, String),
    /// One set of attributes more than this gauge may have.
    Series(String, usize),
    /// All gauges together have as many as are kept.
    Full(String),
    /// A number that cannot be true.
    Range(String, String),
    /// Too many values.
    Rate,
}

impl Refusal {
    /// As in the status.
    pub fn as_str(&self) -> &'static str {
        match self {
            Refusal::Unknown(_) => "unknown",
            Refusal::NotPushed(_) => "not_pushed",
            Refusal::Ambiguous(_) => "ambiguous",
            Refusal::Attribute(..) => "attribute",
            Refusal::Taken(..) => "taken",
            Refusal::Series(..) => "series",
            Refusal::Full(_) => "full",
            Refusal::Range(..) => "range",
            Refusal::Rate => "rate",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unknown(name) => write!(
                f,
                "no gauge {name:?} is configured; declare it with [gauge.NAME] and push = true"
            ),
            Refusal::NotPushed(name) => write!(
                f,
                "the gauge {name:?} is read by the agent and takes no pushes; only one with push = true does"
            ),
            Refusal::Ambiguous(name) => write!(
                f,
                "several gauges are named {name:?}; name the one that is meant as in [gauge.NAME]"
            ),
            Refusal::Attribute(key, wrong) => write!(f, "the attribute {key:?}: {wrong}"),
            Refusal::Taken(name, table) => write!(
                f,
                "the gauge {name:?} with these attributes is that of [gauge.{table}]; push it there"
            ),
            Refusal::Series(name, most) => write!(
                f,
                "the gauge {name:?} has {most} sets of attributes already, as many as it may; raise max_series, or use fewer"
            ),
            Refusal::Full(name) => write!(
                f,
                "the gauge {name:?}: all gauges of the configuration have {MAX_FAMILY_SERIES} sets of attributes already since the start, as many as are kept; use fewer"
            ),
            Refusal::Range(name, why) => write!(f, "the gauge {name:?}: {why}"),
            Refusal::Rate => {
                f.write_str("too many values: two hundred a second are taken; try again later")
            }
        }
    }
}

/// The rate, and what was refused. Pure.
#[derive(Debug, Default)]
pub(super) struct Admission {
    bucket: Bucket,
    refused: BTreeMap<&'static str, u64>,
    /// Whose it was, and why.
    last: Option<String>,
}

impl Admission {
    fn take(&mut self, now: u64) -> Result<(), Refusal> {
        self.bucket
            .take(RATE, now)
            .then_some(())
            .ok_or(Refusal::Rate)
    }

    pub(super) fn refused(&self) -> BTreeMap<String, u64> {
        let named = |(reason, count): (&&str, &u64)| ((*reason).to_owned(), *count);
        self.refused.iter().map(named).collect()
    }
}

impl Custom {
    /// The last number that was refused: for which gauge, and why.
    pub fn last_refused(&self) -> Option<String> {
        self.lock().admission.last.clone()
    }

    /// Takes a number; the next tick tells the last one of each series.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn push(&self, push: Push, now_ns: u64) -> Result<(), Refusal> {
        let mut board = self.lock();
        let name = cut(&push.name);
        let taken = board
            .admission
            .take(now_ns)
            .and_then(|()| board.take(push, now_ns));
        if let Err(refusal) = &taken {
            let count = board.admission.refused.entry(refusal.as_str());
            let count = count.or_default();
            *count = count.saturating_add(1);
            board.admission.last = Some(format!("{name}: {}", cut(&refusal.to_string())));
        }
        taken
    }
}

/// The beginning of what somebody else wrote, in a line.
fn cut(text: &str) -> String {
    const LIMIT: usize = 200;
    let plain = |c: char| if c.is_control() { '?' } else { c };
    text.chars().take(LIMIT).map(plain).collect()
}

impl Board {
    fn take(&mut self, push: Push, now_ns: u64) -> Result<(), Refusal> {
        let name = self.meant(&push.name)?;
        let Some(entry) = self.gauges.get(&name) else {
            return Err(Refusal::Unknown(push.name));
        };
        let Origin::Push { max_series, .. } = entry.definition.origin else {
            return Err(Refusal::NotPushed(push.name));
        };
        let mut attributes = entry.definition.attributes.clone();
        if push.attributes.len() > MAX_ATTRIBUTES {
            let key = push.attributes.into_keys().next().unwrap_or_default();
            return Err(Refusal::Attribute(key, "at most 16 are taken"));
        }
        for (key, value) in push.attributes {
            if let Err(wrong) = check_attribute(&key, &value) {
                return Err(Refusal::Attribute(key, wrong));
            }
            if attributes.contains_key(&key) {
                return Err(Refusal::Attribute(key, "the configuration has set it"));
            }
            attributes.insert(key, value);
        }
        let gauge = entry.definition.gauge.clone();
        let twin = self.gauges.iter().find(|(other, entry)| {
            **other != name && entry.definition.gauge == gauge && entry.has(&attributes)
        });
        if let Some((other, _)) = twin {
            return Err(Refusal::Taken(push.name, other.clone()));
        }
        let total: usize = self.gauges.values().map(|entry| entry.slots.len()).sum();
        let full = self.full;
        let Some(entry) = self.gauges.get_mut(&name) else {
            return Err(Refusal::Unknown(push.name));
        };
        let known = entry
            .slots
            .iter()
            .position(|slot| slot.attributes == attributes);
        if known.is_none() && entry.slots.len() >= max_series {
            return Err(Refusal::Series(push.name, max_series));
        }
        let slot = known.and_then(|at| entry.slots.get(at));
        if slot.map_or(total >= MAX_FAMILY_SERIES || full, Slot::is_refused) {
            return Err(Refusal::Full(push.name));
        }
        let value = entry.definition.shape.value(push.value);
        let refused = value.as_ref().err().map(|(_, why)| why.clone());
        match known.and_then(|at| entry.slots.get_mut(at)) {
            Some(slot) => slot.set(value, now_ns),
            None => {
                let mut slot = Slot::new(attributes, "", now_ns);
                slot.set(value, now_ns);
                entry.slots.push(slot);
            }
        }
        match refused {
            Some(why) => Err(Refusal::Range(push.name, why)),
            None => Ok(()),
        }
    }

    /// The table of a gauge's name: that of the table, or the metric's.
    fn meant(&self, name: &str) -> Result<String, Refusal> {
        if self.gauges.contains_key(name) {
            return Ok(name.to_owned());
        }
        let mut named = self
            .gauges
            .iter()
            .filter(|(_, entry)| entry.definition.gauge.name == name);
        match (named.next(), named.next()) {
            (Some((table, _)), None) => Ok(table.clone()),
            (Some(_), Some(_)) => Err(Refusal::Ambiguous(name.to_owned())),
            (None, _) => Err(Refusal::Unknown(name.to_owned())),
        }
    }
}
