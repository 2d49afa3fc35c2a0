//! The last events, for the status.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::{Event, Handler, lock};
use crate::status::EventStatus;

/// Events that are kept: what a person looks at.
const KEPT: usize = 16;

/// Bytes of a value that is shown; the upstream record has all of it.
const SHOWN: usize = 128;

/// See the module; a clone is the same one.
#[derive(Clone, Debug, Default)]
pub struct Recent(Arc<Mutex<VecDeque<EventStatus>>>);

impl Recent {
    /// Oldest first.
    pub fn list(&self) -> Vec<EventStatus> {
        lock(&self.0).iter().cloned().collect()
    }
}

impl Handler for Recent {
    fn handle(&mut self, event: &Event<'_>) -> Result<(), String> {
        let mut kept = lock(&self.0);
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        let number = |(key, value): &(&str, f64)| ((*key).to_owned(), *value);
        let text = |(key, value): &(&str, &str)| {
            let end = value.floor_char_boundary(SHOWN);
            (
                (*key).to_owned(),
                value.get(..end).unwrap_or_default().to_owned(),
            )
        };
        kept.push_back(EventStatus {
            name: event.name.to_owned(),
            unix_ns: event.at.unix_ns,
            measurements: event.measurements.iter().map(number).collect(),
            metadata: event.metadata.iter().map(text).collect(),
        });
        Ok(())
    }
}
