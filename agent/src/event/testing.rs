//! For tests of every module: events that can be awaited by name, without sleeping.

use tokio::sync::watch;

use super::{Event, Events, Handler};
use crate::clock::{Clock, ClockTrust};

/// An event as a test sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// Its numbers.
    pub measurements: Vec<(String, f64)>,
    /// Its words.
    pub metadata: Vec<(String, String)>,
    /// It names a span.
    pub has_span: bool,
}

/// Everything that was emitted, oldest first.
#[derive(Clone, Debug)]
pub struct Heard(watch::Sender<Vec<Seen>>);

/// Events, and where they end up.
pub fn events() -> (Events, Heard) {
    let events = Events::new(Clock::new(ClockTrust::Always));
    let heard = Heard(watch::Sender::new(Vec::new()));
    events.attach("test", heard.clone());
    (events, heard)
}

impl Heard {
    /// The first event of that name; waits until it is emitted.
    pub async fn named(&self, name: &str) -> Seen {
        self.first(|event| event.name == name).await
    }

    /// The first event that `is` it; waits until it is emitted.
    pub async fn first(&self, is: impl Fn(&Seen) -> bool) -> Seen {
        let mut all = self.0.subscribe();
        let all = all.wait_for(|all| all.iter().any(&is)).await.unwrap();
        all.iter().find(|event| is(event)).unwrap().clone()
    }

    /// All that were emitted so far.
    pub fn all(&self) -> Vec<Seen> {
        self.0.borrow().clone()
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.all().into_iter().map(|event| event.name).collect()
    }
}

impl Seen {
    /// A word of it.
    pub fn text(&self, key: &str) -> Option<&str> {
        let mut found = self.metadata.iter().filter(|(it, _)| it == key);
        found.next().map(|(_, value)| value.as_str())
    }
}

impl Handler for Heard {
    fn handle(&mut self, event: &Event<'_>) -> Result<(), String> {
        let number = |(key, value): &(&str, f64)| ((*key).to_owned(), *value);
        let text = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        let seen = Seen {
            name: event.name.to_owned(),
            measurements: event.measurements.iter().map(number).collect(),
            metadata: event.metadata.iter().map(text).collect(),
            has_span: event.span.is_some(),
        };
        self.0.send_modify(|all| all.push(seen));
        Ok(())
    }
}
