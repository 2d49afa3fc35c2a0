//! The spool's figures to events. [`Watch`] is pure; [`spawn`] looks whenever
//! the spool publishes.

use std::collections::BTreeMap;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::name::{SPOOL_ALARM, SPOOL_LOSS, SPOOL_PRESSURE, SPOOL_RECOVERED};
use super::{Events, Name};
use crate::clock::Clock;
use crate::status::SpoolStatus;

/// The least time between two loss events of one class and reason.
const LOSS_EVERY_NS: u64 = 60_000_000_000;

/// What was seen last.
#[derive(Debug, Default)]
pub struct Watch {
    pressed: bool,
    alarm: Option<String>,
    /// By class and reason: items said so far, and when.
    lost: BTreeMap<(String, String), (u64, u64)>,
    begun: bool,
}

/// Somebody who is told: [`Events::emit`] or a test.
type Tell<'a> = &'a mut dyn FnMut(Name, &[(&str, f64)], &[(&str, &str)]);

impl Watch {
    /// Says what has changed. Losses from before the first look are history:
    /// the status counts since the state folder was made.
    pub fn look(&mut self, now: u64, spool: &SpoolStatus, tell: Tell<'_>) {
        let used = spool.bytes as f64 / spool.limit_bytes.max(1) as f64;
        let pressed = spool.limit_bytes > 0 && used >= if self.pressed { 0.7 } else { 0.8 };
        if pressed && !self.pressed {
            let figures = [
                ("usage", spool.bytes as f64),
                ("limit", spool.limit_bytes as f64),
            ];
            tell(SPOOL_PRESSURE, &figures, &[]);
        }
        self.pressed = pressed;
        if self.alarm != spool.alarm {
            match &spool.alarm {
                Some(alarm) => tell(SPOOL_ALARM, &[], &[("error", alarm)]),
                None => tell(SPOOL_RECOVERED, &[], &[]),
            }
            self.alarm.clone_from(&spool.alarm);
        }
        for lost in &spool.lost {
            let key = (lost.class.clone(), lost.reason.clone());
            let Some((said, at)) = self.lost.get_mut(&key) else {
                // Classes times reasons: few.
                let (said, at) = if self.begun {
                    (0, 0)
                } else {
                    (lost.items, now)
                };
                self.lost.insert(key.clone(), (said, at));
                if self.begun {
                    self.say_loss(now, &key, lost.items, tell);
                }
                continue;
            };
            if lost.items > *said && now.saturating_sub(*at) >= LOSS_EVERY_NS {
                self.say_loss(now, &key, lost.items, tell);
            }
        }
        self.begun = true;
    }

    fn say_loss(&mut self, now: u64, key: &(String, String), items: u64, tell: Tell<'_>) {
        let Some(said) = self.lost.get_mut(key) else {
            return;
        };
        let fresh = items.saturating_sub(said.0);
        *said = (items, now);
        let (class, reason) = key;
        let metadata = [("class", class.as_str()), ("reason", reason.as_str())];
        tell(SPOOL_LOSS, &[("items", fresh as f64)], &metadata);
    }
}

/// Watches until `stop`, or until the spool ends.
pub fn spawn(
    mut spool: watch::Receiver<SpoolStatus>,
    events: Events,
    clock: Clock,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let mut seen = Watch::default();
    tokio::spawn(async move {
        loop {
            let status = spool.borrow_and_update().clone();
            // Not before the spool has said anything at all.
            if status.as_of_boot_ns > 0 {
                seen.look(
                    clock.boot_ns(),
                    &status,
                    &mut |name, measurements, metadata| {
                        events.emit(name, measurements, metadata);
                    },
                );
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = spool.changed() => if changed.is_err() { return },
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::LostStatus;

    const MINUTE: u64 = 60_000_000_000;

    fn said(watch: &mut Watch, now: u64, spool: &SpoolStatus) -> Vec<String> {
        let mut said = Vec::new();
        watch.look(now, spool, &mut |name, measurements, _| {
            let first = measurements.first().map_or(0.0, |(_, value)| *value);
            said.push(format!("{} {first}", name.as_str()));
        });
        said
    }

    fn filled(bytes: u64) -> SpoolStatus {
        SpoolStatus {
            bytes,
            limit_bytes: 100,
            ..SpoolStatus::default()
        }
    }

    fn lost(items: u64) -> SpoolStatus {
        SpoolStatus {
            lost: vec![LostStatus {
                class: "normal".into(),
                reason: "quota".into(),
                frames: 1,
                items,
                first_unix_ns: 0,
                last_unix_ns: 0,
            }],
            ..SpoolStatus::default()
        }
    }

    #[test]
    fn pressure_is_said_once_until_it_has_eased() {
        let mut watch = Watch::default();
        let all: Vec<_> = [79, 80, 95, 71, 85, 69, 81]
            .into_iter()
            .flat_map(|bytes| said(&mut watch, 0, &filled(bytes)))
            .collect();
        assert_eq!(all, ["sonde.spool.pressure 80", "sonde.spool.pressure 81"]);
    }

    #[test]
    fn losses_are_said_once_a_minute_with_what_came_since() {
        let mut watch = Watch::default();
        assert!(said(&mut watch, 0, &SpoolStatus::default()).is_empty());
        let mut all = Vec::new();
        for (seconds, items) in [(1, 5), (2, 6), (30, 9), (62, 10), (200, 10)] {
            all.extend(said(&mut watch, seconds * MINUTE / 60, &lost(items)));
        }
        assert_eq!(all, ["sonde.spool.loss 5", "sonde.spool.loss 5"]);
    }

    #[test]
    fn losses_of_earlier_runs_are_not_news() {
        let mut watch = Watch::default();
        assert!(said(&mut watch, 0, &lost(7)).is_empty());
        assert_eq!(said(&mut watch, MINUTE, &lost(8)), ["sonde.spool.loss 1"]);
    }

    #[test]
    fn an_alarm_and_its_end_are_said() {
        let mut watch = Watch::default();
        let alarmed = SpoolStatus {
            alarm: Some("no space".into()),
            ..SpoolStatus::default()
        };
        assert_eq!(said(&mut watch, 0, &alarmed), ["sonde.spool.alarm 0"]);
        assert!(said(&mut watch, 0, &alarmed).is_empty());
        assert_eq!(
            said(&mut watch, 0, &SpoolStatus::default()),
            ["sonde.spool.recovered 0"]
        );
    }
}
