//! Which jobs are due. Owns no clock, task or job: the caller says what time
//! it is and what a random number is.
//!
//! Times are of the boot clock, which never steps and goes on through a
//! suspend: setting the wall clock moves no run. Times that passed during a
//! suspend, or while nobody asked, are one run, not many.

use std::collections::BTreeMap;

use super::job::Schedule;

/// The jobs that run by themselves.
#[derive(Clone, Debug, Default)]
pub struct Agenda {
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    schedule: Schedule,
    /// The time without its jitter; the next one is an interval later.
    base_ns: u64,
    due_ns: u64,
}

impl Agenda {
    /// Takes over a configuration. A job whose schedule stays the same keeps
    /// its times. `random`: any number, each time another.
    pub fn set(
        &mut self,
        jobs: impl IntoIterator<Item = (String, Schedule)>,
        now_ns: u64,
        mut random: impl FnMut() -> u64,
    ) {
        let mut before = std::mem::take(&mut self.entries);
        for (name, schedule) in jobs {
            let kept = before.remove(&name);
            let entry = match kept.filter(|entry| entry.schedule == schedule) {
                Some(entry) => entry,
                None => {
                    let first = match schedule.at_start {
                        true => now_ns,
                        false => now_ns.saturating_add(nanos(schedule.every)),
                    };
                    Entry::at(schedule, first, random())
                }
            };
            self.entries.insert(name, entry);
        }
    }

    /// The jobs that are due, each once, the longest due first; their next
    /// times are set.
    pub fn due(&mut self, now_ns: u64, mut random: impl FnMut() -> u64) -> Vec<String> {
        let mut due = Vec::new();
        for (name, entry) in &mut self.entries {
            if entry.due_ns <= now_ns {
                due.push((entry.due_ns, name.clone()));
                entry.advance(now_ns, random());
            }
        }
        due.sort();
        due.into_iter().map(|(_, name)| name).collect()
    }

    /// When the next job is due; `None`: there is none.
    pub fn next_ns(&self) -> Option<u64> {
        self.entries.values().map(|entry| entry.due_ns).min()
    }

    /// When this job is due.
    pub fn due_of(&self, name: &str) -> Option<u64> {
        self.entries.get(name).map(|entry| entry.due_ns)
    }
}

impl Entry {
    fn at(schedule: Schedule, base_ns: u64, random: u64) -> Self {
        let jitter = nanos(schedule.jitter);
        Self {
            schedule,
            base_ns,
            due_ns: base_ns.saturating_add(random % jitter.saturating_add(1)),
        }
    }

    /// To the first time after now that lies on the same grid.
    fn advance(&mut self, now_ns: u64, random: u64) {
        let every = nanos(self.schedule.every).max(1);
        let passed = now_ns.saturating_sub(self.base_ns) / every;
        let steps = every.saturating_mul(passed.saturating_add(1));
        *self = Self::at(self.schedule, self.base_ns.saturating_add(steps), random);
    }
}

fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn every(seconds: u64, jitter: u64, at_start: bool) -> Schedule {
        Schedule {
            every: Duration::from_secs(seconds),
            jitter: Duration::from_secs(jitter),
            at_start,
        }
    }

    fn agenda(jobs: &[(&str, Schedule)], now_s: u64) -> Agenda {
        let mut agenda = Agenda::default();
        let jobs = jobs.iter().map(|(name, at)| ((*name).to_owned(), *at));
        agenda.set(jobs, now_s * SECOND, || 0);
        agenda
    }

    fn due(agenda: &mut Agenda, now_s: u64) -> Vec<String> {
        agenda.due(now_s * SECOND, || 0)
    }

    #[test]
    fn a_job_is_due_after_each_interval_or_first_at_the_start() {
        let mut agenda = agenda(
            &[("late", every(60, 0, false)), ("now", every(60, 0, true))],
            100,
        );
        assert_eq!(due(&mut agenda, 100), ["now"]);
        assert_eq!(agenda.next_ns(), Some(160 * SECOND));
        assert_eq!(due(&mut agenda, 159), [""; 0]);
        assert_eq!(due(&mut agenda, 160), ["late", "now"]);
        assert_eq!(due(&mut agenda, 160), [""; 0]);
    }

    #[test]
    fn times_missed_during_a_suspend_are_one_run_and_the_grid_stays() {
        let mut agenda = agenda(&[("j", every(60, 0, false))], 0);
        assert_eq!(due(&mut agenda, 3_610), ["j"]);
        assert_eq!(agenda.due_of("j"), Some(3_660 * SECOND));
    }

    #[test]
    fn a_run_that_is_noticed_late_does_not_move_the_next_one() {
        let mut agenda = agenda(&[("j", every(60, 0, false))], 0);
        assert_eq!(due(&mut agenda, 71), ["j"]);
        assert_eq!(agenda.due_of("j"), Some(120 * SECOND));
    }

    #[test]
    fn jitter_delays_each_run_anew_within_its_bound_and_does_not_add_up() {
        let mut random = 0;
        let mut next = || {
            random += 7_777_777_777;
            random
        };
        let mut agenda = Agenda::default();
        agenda.set([("j".into(), every(60, 10, false))], 0, &mut next);
        let mut delays = Vec::new();
        for n in 1..=100 {
            let at = agenda.due_of("j").unwrap();
            let delay = at - n * 60 * SECOND;
            assert!(delay <= 10 * SECOND, "{n}: {delay}");
            delays.push(delay);
            assert_eq!(agenda.due(at, &mut next).len(), 1);
        }
        delays.dedup();
        assert_eq!(delays.len(), 100);
    }

    #[test]
    fn a_clock_that_seems_to_go_back_runs_nothing_twice() {
        let mut agenda = agenda(&[("j", every(60, 0, true))], 1000);
        assert_eq!(due(&mut agenda, 1000), ["j"]);
        assert_eq!(due(&mut agenda, 10), [""; 0]);
        assert_eq!(agenda.due_of("j"), Some(1060 * SECOND));
    }

    #[test]
    fn a_reload_keeps_the_times_of_jobs_that_stay() {
        let mut agenda = agenda(&[("a", every(60, 0, false)), ("b", every(60, 0, false))], 0);
        let jobs = [
            ("a".to_owned(), every(60, 0, false)),
            ("b".to_owned(), every(30, 0, false)),
            ("c".to_owned(), every(5, 0, true)),
        ];
        agenda.set(jobs, 50 * SECOND, || 0);
        let at = |name| agenda.due_of(name).map(|ns| ns / SECOND);
        assert_eq!((at("a"), at("b"), at("c")), (Some(60), Some(80), Some(50)));
        let mut gone = agenda.clone();
        gone.set([], 50 * SECOND, || 0);
        assert_eq!(gone.next_ns(), None);
    }

    #[test]
    fn rude_values_do_not_overflow() {
        let schedule = Schedule {
            every: Duration::MAX,
            jitter: Duration::MAX,
            at_start: false,
        };
        let mut agenda = Agenda::default();
        agenda.set([("j".into(), schedule)], u64::MAX - 1, || u64::MAX);
        assert_eq!(agenda.due(u64::MAX, || u64::MAX), ["j"]);
    }
}
