//! One bus: a thread that reads its sensors when it is asked to.
//!
//! A thread that hangs in the kernel is left alone with its question and not
//! asked again until it is back: its sensors are timeouts meanwhile, and no
//! second thread is started for the bus. Each sensor that gave nothing is asked
//! less and less often; the reason stands until it answers again.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use super::driver::Driver;
use super::{Kind, MAX_SENSORS, Settings};
use crate::gauge::Missing;

/// Rounds that a sensor which keeps failing is left out at most: five minutes
/// at the default interval.
const MOST_SKIPPED: u32 = 31;

/// Opens a sensor's device.
pub type Open =
    Arc<dyn Fn(&Kind, &std::path::Path) -> Result<Box<dyn Driver>, Missing> + Send + Sync>;

/// One sensor's values, or why there are none, in the order of its channels.
pub type Values = Vec<Result<f64, Missing>>;

/// The handle of a bus's thread.
#[derive(Debug)]
pub struct Bus {
    sensors: Vec<Settings>,
    rounds: SyncSender<u64>,
    answers: Receiver<Answer>,
    /// Number of the last round asked for.
    round: u64,
    /// Answers of that round that have not come.
    open: usize,
}

#[derive(Debug)]
struct Answer {
    round: u64,
    sensor: usize,
    values: Values,
}

/// A sensor as its thread has it.
struct Sensor {
    kind: Kind,
    channels: usize,
    driver: Option<Box<dyn Driver>>,
    failures: u32,
    skip: u32,
    last: Values,
}

impl Bus {
    /// Starts the thread; it ends when the handle is dropped and it hangs in nothing.
    pub fn start(sensors: Vec<Settings>, root: PathBuf, open: Open) -> std::io::Result<Self> {
        let (rounds, todo) = sync_channel::<u64>(1);
        // Room for a whole round, so that the thread never waits for its asker.
        let (done, answers) = sync_channel(MAX_SENSORS);
        let mut mine: Vec<Sensor> = sensors.iter().map(Sensor::new).collect();
        let work = move || {
            for round in todo {
                for (sensor, mine) in mine.iter_mut().enumerate() {
                    let values = mine.read(&root, &open);
                    let answer = Answer {
                        round,
                        sensor,
                        values,
                    };
                    if done.send(answer).is_err() {
                        return;
                    }
                }
            }
        };
        // Not joined: a thread that hangs in the kernel never ends.
        thread::Builder::new()
            .name("bus".into())
            .stack_size(128 * 1024)
            .spawn(work)?;
        Ok(Self {
            sensors,
            rounds,
            answers,
            round: 0,
            open: 0,
        })
    }

    /// The sensors on it.
    pub fn sensors(&self) -> &[Settings] {
        &self.sensors
    }

    /// Whether it hangs with an earlier question.
    pub fn hangs(&mut self) -> bool {
        while let Ok(answer) = self.answers.try_recv() {
            // What it read belongs to a round that is over.
            if answer.round == self.round {
                self.open = self.open.saturating_sub(1);
            }
        }
        self.open > 0
    }

    /// The sensor that it hangs with: they are read in their order.
    pub fn hangs_with(&self) -> Option<&Settings> {
        let answered = self.sensors.len().checked_sub(self.open)?;
        self.sensors.get(answered)
    }

    /// Begins a round; `false`: it hangs.
    pub fn ask(&mut self) -> bool {
        if self.hangs() {
            return false;
        }
        match self.rounds.try_send(self.round.wrapping_add(1)) {
            Ok(()) => {
                self.round = self.round.wrapping_add(1);
                self.open = self.sensors.len();
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => false,
        }
    }

    /// Takes the answers of the round, each as it comes, until all have come or
    /// `left` says that there is no time any more. `false`: it hangs.
    pub fn collect(
        &mut self,
        left: impl Fn() -> Duration,
        mut each: impl FnMut(&Settings, Values),
    ) -> bool {
        while self.open > 0 {
            match self.answers.recv_timeout(left()) {
                Ok(answer) if answer.round == self.round => {
                    self.open -= 1;
                    if let Some(sensor) = self.sensors.get(answer.sensor) {
                        each(sensor, answer.values);
                    }
                }
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }
}

impl Sensor {
    fn new(settings: &Settings) -> Self {
        let channels = settings.kind.measures().len();
        Self {
            kind: settings.kind.clone(),
            channels,
            driver: None,
            failures: 0,
            skip: 0,
            last: vec![Err(Missing::First); channels],
        }
    }

    fn read(&mut self, root: &std::path::Path, open: &Open) -> Values {
        if self.skip > 0 {
            self.skip -= 1;
            return self.last.clone();
        }
        let mut values = self.try_to(root, open);
        values.resize(self.channels, Err(Missing::Garbage));
        if values.iter().any(Result::is_ok) {
            self.failures = 0;
        } else {
            // A device may have been replaced behind an open descriptor.
            self.driver = None;
            self.failures = self.failures.saturating_add(1);
            // One failure may be noise; from the second on: 1, 3, 7, … rounds.
            let doubled = 1_u32.checked_shl(self.failures - 1).unwrap_or(u32::MAX);
            self.skip = doubled.saturating_sub(1).min(MOST_SKIPPED);
        }
        self.last.clone_from(&values);
        values
    }

    fn try_to(&mut self, root: &std::path::Path, open: &Open) -> Values {
        let driver = match &mut self.driver {
            Some(driver) => driver,
            none => match open(&self.kind, root) {
                Ok(driver) => none.insert(driver),
                Err(missing) => return vec![Err(missing); self.channels],
            },
        };
        driver.read()
    }
}
