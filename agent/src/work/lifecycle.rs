//! One run from its start to its end, as decisions: events and the time in,
//! actions out. Knows no process, signal or timer.
//!
//! ```text
//! Running ── exited ───────────────► Clearing ─ grace over ─► Swept ─► Done
//!    │ timeout, stop                    ▲                       ▲
//!    ▼                                  │ exited                │ exited
//! Ending (SIGTERM sent) ── grace over ──┴──► Killed (SIGKILL) ──┘
//! ```
//!
//! The program that was started is the run; what it started itself belongs to
//! it. When the program has ended, the rest is asked to end too, then killed.
//! A run is over when nothing of it is left and its output was read to the
//! end, or when even SIGKILL brought no end (a process that hangs in the
//! kernel, or one that left its group and its cgroup and keeps the output open).
//!
//! Time here is how long the gateway has been awake since the run started: a
//! suspend must not use up a run's timeout.

use std::time::Duration;

use super::Outcome;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The program ended.
    Exited(Exit),
    /// Both output streams were read to their end.
    Drained,
    /// It printed more than it may, and has nothing else to do.
    Flooded,
    /// The answer to [`Action::Survey`]: whether processes of the run are left.
    Left(bool),
    /// The agent ends; what is running has this long.
    Stop(Duration),
    /// Time passed.
    Timer,
}

/// How a process ended, as the kernel says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// SIGTERM to all of the run.
    Terminate,
    /// SIGKILL to all of the run.
    Kill,
    /// Look whether processes of the run are left, other than the program itself.
    Survey,
    /// It is over.
    End(Outcome),
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    phase: Phase,
    grace: Duration,
    drained: bool,
    left: Option<bool>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Running {
        until: Duration,
    },
    Ending {
        outcome: Outcome,
        kill_at: Duration,
    },
    Killed {
        outcome: Outcome,
        leave_at: Duration,
    },
    Clearing {
        outcome: Outcome,
        asked: bool,
        kill_at: Duration,
        look_at: Duration,
    },
    Swept {
        outcome: Outcome,
        leave_at: Duration,
        look_at: Duration,
    },
    Done,
}

/// How often leftovers are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// The longest wait for a process that was killed, and for the end of its output.
const LINGER: Duration = Duration::from_secs(2);

impl Lifecycle {
    /// A run that has just started, at time zero.
    pub fn new(timeout: Duration, grace: Duration) -> Self {
        Self {
            phase: Phase::Running { until: timeout },
            grace,
            drained: false,
            left: None,
        }
    }

    /// When [`Event::Timer`] is wanted next; `None`: never, it is over.
    pub fn wake_at(&self) -> Option<Duration> {
        Some(match &self.phase {
            Phase::Running { until } => *until,
            Phase::Ending { kill_at, .. } => *kill_at,
            Phase::Killed { leave_at, .. } => *leave_at,
            Phase::Clearing {
                kill_at, look_at, ..
            } => *kill_at.min(look_at),
            Phase::Swept {
                leave_at, look_at, ..
            } => *leave_at.min(look_at),
            Phase::Done => return None,
        })
    }

    /// What to do about an event, in this order. Nothing comes after [`Action::End`].
    pub fn on(&mut self, event: Event, now: Duration) -> Vec<Action> {
        match event {
            Event::Exited(exit) => self.exited(exit, now),
            Event::Drained => {
                self.drained = true;
                self.settle(now)
            }
            Event::Flooded => self.flooded(now),
            Event::Left(left) => {
                self.left = Some(left);
                self.settle(now)
            }
            Event::Stop(within) => self.stop(within, now),
            Event::Timer => self.timer(now),
        }
    }

    fn exited(&mut self, exit: Exit, now: Duration) -> Vec<Action> {
        let own = match exit {
            Exit::Code(code) => Outcome::Exited(code),
            Exit::Signal(signal) => Outcome::Signalled(signal),
        };
        let look_at = now + LOOK;
        self.phase = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Running { .. } => Phase::Clearing {
                outcome: own,
                asked: false,
                kill_at: now + self.grace,
                look_at,
            },
            Phase::Ending { outcome, kill_at } => Phase::Clearing {
                outcome,
                asked: true,
                kill_at,
                look_at,
            },
            Phase::Killed { outcome, leave_at } => Phase::Swept {
                outcome,
                leave_at,
                look_at,
            },
            // It can end only once.
            other => {
                self.phase = other;
                return vec![];
            }
        };
        vec![Action::Survey]
    }

    /// After the program's end: is it over?
    fn settle(&mut self, now: Duration) -> Vec<Action> {
        match &mut self.phase {
            Phase::Clearing { outcome, .. } | Phase::Swept { outcome, .. }
                if self.left == Some(false) && self.drained =>
            {
                let outcome = outcome.clone();
                self.phase = Phase::Done;
                vec![Action::End(outcome)]
            }
            Phase::Clearing { asked, kill_at, .. } => match self.left {
                Some(true) if !*asked => {
                    *asked = true;
                    *kill_at = now + self.grace;
                    vec![Action::Terminate]
                }
                // Somebody who is none of ours any more keeps the output open.
                Some(false) => {
                    *kill_at = (*kill_at).min(now + LINGER);
                    vec![]
                }
                _ => vec![],
            },
            _ => vec![],
        }
    }

    /// Whatever else it would print is not read: there is nothing to wait for.
    fn flooded(&mut self, now: Duration) -> Vec<Action> {
        match self.phase {
            Phase::Running { .. } | Phase::Ending { .. } => {
                self.phase = Phase::Killed {
                    outcome: Outcome::TimedOut,
                    leave_at: now + LINGER,
                };
                vec![Action::Kill]
            }
            _ => vec![],
        }
    }

    fn stop(&mut self, within: Duration, now: Duration) -> Vec<Action> {
        // Half of it to end by itself, the rest to be killed and counted.
        let grace = self.grace.min(within / 2);
        match &mut self.phase {
            Phase::Running { .. } => {
                self.phase = Phase::Ending {
                    outcome: Outcome::Interrupted,
                    kill_at: now + grace,
                };
                vec![Action::Terminate]
            }
            Phase::Ending { kill_at, .. } | Phase::Clearing { kill_at, .. } => {
                *kill_at = (*kill_at).min(now + grace);
                vec![]
            }
            Phase::Killed { .. } | Phase::Swept { .. } | Phase::Done => vec![],
        }
    }

    fn timer(&mut self, now: Duration) -> Vec<Action> {
        match &mut self.phase {
            Phase::Running { until } if now >= *until => {
                self.phase = Phase::Ending {
                    outcome: Outcome::TimedOut,
                    kill_at: now + self.grace,
                };
                vec![Action::Terminate]
            }
            Phase::Ending { outcome, kill_at } if now >= *kill_at => {
                self.phase = Phase::Killed {
                    outcome: outcome.clone(),
                    leave_at: now + LINGER,
                };
                vec![Action::Kill]
            }
            Phase::Clearing {
                outcome, kill_at, ..
            } if now >= *kill_at => {
                self.phase = Phase::Swept {
                    outcome: outcome.clone(),
                    leave_at: now + LINGER,
                    look_at: now + LOOK,
                };
                vec![Action::Kill, Action::Survey]
            }
            Phase::Killed { outcome, leave_at }
            | Phase::Swept {
                outcome, leave_at, ..
            } if now >= *leave_at => {
                let outcome = outcome.clone();
                self.phase = Phase::Done;
                vec![Action::End(outcome)]
            }
            Phase::Clearing { look_at, .. } | Phase::Swept { look_at, .. } if now >= *look_at => {
                *look_at = now + LOOK;
                vec![Action::Survey]
            }
            _ => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(60);
    const GRACE: Duration = Duration::from_secs(5);

    fn running() -> Lifecycle {
        Lifecycle::new(TIMEOUT, GRACE)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn end(outcome: Outcome) -> Vec<Action> {
        vec![Action::End(outcome)]
    }

    #[test]
    fn a_program_that_ends_alone_ends_the_run_once_its_output_was_read() {
        let mut run = running();
        let survey = run.on(Event::Exited(Exit::Code(3)), at(1));
        assert_eq!(survey, [Action::Survey]);
        assert_eq!(run.on(Event::Left(false), at(1)), []);
        assert_eq!(run.on(Event::Drained, at(1)), end(Outcome::Exited(3)));
        assert_eq!(run.wake_at(), None);
    }

    #[test]
    fn a_program_that_closes_its_output_early_runs_on() {
        let mut run = running();
        assert_eq!(run.on(Event::Drained, at(1)), []);
        assert_eq!(run.wake_at(), Some(TIMEOUT));
        run.on(Event::Exited(Exit::Signal(11)), at(2));
        let ended = run.on(Event::Left(false), at(2));
        assert_eq!(ended, end(Outcome::Signalled(11)));
    }

    #[test]
    fn a_timeout_asks_then_kills_then_stops_waiting() {
        let mut run = running();
        assert_eq!(run.on(Event::Timer, at(59)), []);
        assert_eq!(run.on(Event::Timer, at(60)), [Action::Terminate]);
        assert_eq!(run.wake_at(), Some(at(65)));
        assert_eq!(run.on(Event::Timer, at(65)), [Action::Kill]);
        let mut stuck = run.clone();
        assert_eq!(stuck.on(Event::Timer, at(67)), end(Outcome::TimedOut));
        let survey = run.on(Event::Exited(Exit::Signal(9)), at(66));
        assert_eq!(survey, [Action::Survey]);
        run.on(Event::Drained, at(66));
        assert_eq!(run.on(Event::Left(false), at(66)), end(Outcome::TimedOut));
    }

    #[test]
    fn one_that_ends_well_after_its_timeout_has_timed_out_nevertheless() {
        let mut run = running();
        run.on(Event::Timer, at(60));
        run.on(Event::Exited(Exit::Code(0)), at(61));
        run.on(Event::Drained, at(61));
        assert_eq!(run.on(Event::Left(false), at(61)), end(Outcome::TimedOut));
    }

    #[test]
    fn what_a_program_leaves_behind_is_asked_once_then_killed() {
        let mut run = running();
        run.on(Event::Exited(Exit::Code(0)), at(1));
        assert_eq!(run.on(Event::Left(true), at(1)), [Action::Terminate]);
        assert_eq!(run.on(Event::Timer, at(2)), [Action::Survey]);
        assert_eq!(run.on(Event::Left(true), at(2)), []);
        let kill = run.on(Event::Timer, at(6));
        assert_eq!(kill, [Action::Kill, Action::Survey]);
        run.on(Event::Left(false), at(6));
        assert_eq!(run.on(Event::Drained, at(6)), end(Outcome::Exited(0)));
    }

    #[test]
    fn output_held_open_by_a_stranger_does_not_hold_the_run() {
        let mut run = running();
        run.on(Event::Exited(Exit::Code(0)), at(1));
        run.on(Event::Left(false), at(1));
        run.on(Event::Timer, at(3));
        assert_eq!(run.on(Event::Timer, at(5)), end(Outcome::Exited(0)));
    }

    #[test]
    fn a_stop_interrupts_and_leaves_time_to_kill() {
        let mut run = running();
        let told = run.on(Event::Stop(at(2)), at(10));
        assert_eq!(told, [Action::Terminate]);
        assert_eq!(run.wake_at(), Some(at(11)));
        assert_eq!(run.on(Event::Stop(at(2)), at(10)), []);
        assert_eq!(run.on(Event::Timer, at(11)), [Action::Kill]);
        run.on(Event::Exited(Exit::Signal(9)), at(11));
        run.on(Event::Left(false), at(11));
        assert_eq!(run.on(Event::Drained, at(11)), end(Outcome::Interrupted));
    }

    #[test]
    fn a_stop_shortens_the_wait_for_one_that_is_ending_already() {
        let mut run = running();
        run.on(Event::Timer, at(60));
        run.on(Event::Stop(at(2)), at(61));
        assert_eq!(run.wake_at(), Some(at(62)));
    }
}
