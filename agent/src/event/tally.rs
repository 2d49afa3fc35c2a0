//! Metrics of events: how often each happened, and what was measured last.
//! Bounded: local programs choose their names, and each is a series.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Event, Handler, lock};

/// Names of local programs that get series of their own; the rest counts as `other`.
const MAX_LOCAL: usize = 32;

/// Measurements that get series of their own, over all events.
const MAX_MEASURED: usize = 64;

/// See the module; a clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    counted: Vec<Counted>,
    measured: Vec<Measured>,
    local: usize,
}

#[derive(Debug)]
struct Counted {
    name: Box<str>,
    count: u64,
}

#[derive(Debug)]
struct Measured {
    event: Box<str>,
    key: Box<str>,
    value: f64,
    /// Not read since it was measured.
    fresh: bool,
}

impl Tally {
    /// How often each happened.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        let state = lock(&self.0);
        let counts = state.counted.iter();
        counts.map(|it| (it.name.to_string(), it.count)).collect()
    }

    /// Each name with its count, in the order in which they first happened.
    pub fn each_count(&self, mut look: impl FnMut(&str, u64)) {
        let state = lock(&self.0);
        state.counted.iter().for_each(|it| look(&it.name, it.count));
    }

    /// Each event, key and value that was measured since the last time somebody looked.
    pub fn each_fresh(&self, mut look: impl FnMut(&str, &str, f64)) {
        for it in &mut lock(&self.0).measured {
            if std::mem::take(&mut it.fresh) {
                look(&it.event, &it.key, it.value);
            }
        }
    }
}

impl Handler for Tally {
    fn handle(&mut self, event: &Event<'_>) -> Result<(), String> {
        let mut state = lock(&self.0);
        let known = state.counted.iter().any(|it| *it.name == *event.name);
        let name = if known {
            event.name
        } else if event.own.is_some() {
            state.add(event.name)
        } else if state.local < MAX_LOCAL {
            state.local += 1;
            state.add(event.name)
        } else {
            state.add("other")
        };
        if let Some(it) = state.counted.iter_mut().find(|it| *it.name == *name) {
            it.count += 1;
        }
        if name == "other" {
            return Ok(());
        }
        for (key, value) in event.measurements {
            let same = |it: &&mut Measured| *it.event == *name && *it.key == **key;
            if let Some(it) = state.measured.iter_mut().find(same) {
                (it.value, it.fresh) = (*value, true);
            } else if state.measured.len() < MAX_MEASURED {
                state.measured.push(Measured {
                    event: name.into(),
                    key: (*key).into(),
                    value: *value,
                    fresh: true,
                });
            }
        }
        Ok(())
    }
}

impl State {
    fn add<'a>(&mut self, name: &'a str) -> &'a str {
        if !self.counted.iter().any(|it| *it.name == *name) {
            self.counted.push(Counted {
                name: name.into(),
                count: 0,
            });
        }
        name
    }
}
