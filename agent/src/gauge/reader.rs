//! The gauge-reader thread: owns every source of the host, so that a file or
//! a bus that blocks never blocks the runtime.
//!
//! One request at a time. The asker waits with a deadline of its own; while
//! the thread hangs, [`Reader::ask`] gives the buffer back and the asker types
//! the families as [`Missing::Timeout`].

use std::io;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Family, Missing, Readings, Source, host_sources};
use crate::clock::Clock;
use crate::frame::Stamp;

/// Of the thread. Room for the deepest JSON that a custom gauge may have to read.
pub const STACK: usize = 256 * 1024;

/// A set of families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families(u32);

/// How reading one family went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub family: Family,
    /// How long it took.
    pub took: Duration,
    /// Readings that should have had a value; one if the family failed as a whole.
    pub errors: u64,
    /// Whether it failed as a whole.
    pub failed: Option<Missing>,
}

/// What came of a request.
#[derive(Debug)]
pub struct Answer {
    /// The readings.
    pub readings: Readings,
    /// One for each family that was asked for and has a source.
    pub reports: Vec<Report>,
}

struct Request {
    families: Families,
    now: Stamp,
    readings: Readings,
    reply: oneshot::Sender<Answer>,
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Reader {
    requests: SyncSender<Request>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

impl Families {
    /// With one more.
    pub fn insert(&mut self, family: Family) {
        self.0 |= 1 << (family as u32);
    }

    /// Whether it is one of them.
    pub fn contains(self, family: Family) -> bool {
        self.0 & (1 << (family as u32)) != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL
            .into_iter()
            .filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for Families {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> Self {
        let mut set = Self::default();
        for family in families {
            set.insert(family);
        }
        set
    }
}

impl Reader {
    /// Starts the thread with the host's sources below `root`.
    pub fn start(root: &Path, clock: Clock) -> io::Result<Self> {
        Self::with(host_sources(root, &clock), clock)
    }

    /// Starts the thread with given sources.
    pub fn with(mut sources: Vec<Box<dyn Source>>, clock: Clock) -> io::Result<Self> {
        let (requests, todo) = sync_channel::<Request>(1);
        let (end, ended) = oneshot::channel();
        let work = move || {
            for request in todo {
                let answer = read(
                    &mut sources,
                    &clock,
                    request.families,
                    request.now,
                    request.readings,
                );
                // An asker that waits no longer takes the answer later and counts what
                // it lost; one that is gone has ended with its whole pipeline.
                let _ = request.reply.send(answer);
            }
            let _ = end.send(());
        };
        let thread = thread::Builder::new()
            .name("gauges".into())
            .stack_size(STACK)
            .spawn(work)?;
        Ok(Self {
            requests,
            ended,
            thread,
        })
    }

    /// Asks for families; the buffer comes back at once if the thread has not
    /// yet taken up an earlier request.
    pub fn ask(
        &self,
        families: Families,
        now: Stamp,
        readings: Readings,
    ) -> Result<oneshot::Receiver<Answer>, Readings> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            families,
            now,
            readings,
            reply,
        };
        match self.requests.try_send(request) {
            Ok(()) => Ok(answer),
            Err(
                std::sync::mpsc::TrySendError::Full(request)
                | std::sync::mpsc::TrySendError::Disconnected(request),
            ) => Err(request.readings),
        }
    }

    /// Ends the thread; `false`: it hangs and was left behind.
    pub async fn stop(self, deadline: Duration) -> bool {
        let Self {
            requests,
            ended,
            thread,
        } = self;
        drop(requests);
        if tokio::time::timeout(deadline, ended).await.is_err() {
            return false;
        }
        // It has sent its last word, so this does not wait.
        thread.join().is_ok()
    }
}

fn read(
    sources: &mut [Box<dyn Source>],
    clock: &Clock,
    families: Families,
    now: Stamp,
    mut readings: Readings,
) -> Answer {
    readings.clear();
    let mut reports = Vec::with_capacity(sources.len());
    for source in sources {
        let family = source.family();
        if !families.contains(family) {
            continue;
        }
        let from = readings.as_slice().len();
        let begun = clock.boot_ns();
        let failed = source.read(now, &mut readings).err();
        let took = Duration::from_nanos(clock.boot_ns().saturating_sub(begun));
        let errors = match failed {
            // Not on this machine is no error.
            Some(Missing::Unsupported) => 0,
            Some(_) => 1,
            None => readings.errors_from(from),
        };
        reports.push(Report {
            family,
            took,
            errors,
            failed,
        });
    }
    Answer { readings, reports }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ClockTrust;
    use crate::gauge::{Registry, Value, table};
    use std::sync::mpsc;

    struct Fixed(Family, Result<(), Missing>, Option<mpsc::Receiver<()>>);

    impl Source for Fixed {
        fn family(&self) -> Family {
            self.0
        }

        fn read(&mut self, _: Stamp, out: &mut Readings) -> Result<(), Missing> {
            if let Some(gate) = &self.2 {
                let _ = gate.recv();
            }
            let id = out.series(&table::LOAD_1M, &[]);
            out.put(id, Ok(Value::Int(1)));
            out.put(id, Err(Missing::Garbage));
            out.put(id, Err(Missing::First));
            self.1
        }
    }

    fn clock() -> Clock {
        Clock::new(ClockTrust::Always)
    }

    #[tokio::test]
    async fn only_what_is_due_is_read_and_errors_are_counted() {
        let sources: Vec<Box<dyn Source>> = vec![
            Box::new(Fixed(Family::Cpu, Ok(()), None)),
            Box::new(Fixed(Family::Load, Ok(()), None)),
            Box::new(Fixed(Family::Disk, Err(Missing::Denied), None)),
        ];
        let reader = Reader::with(sources, clock()).unwrap();
        let due: Families = [Family::Cpu, Family::Disk].into_iter().collect();
        let answer = reader
            .ask(due, Stamp::default(), Readings::new(Registry::default()))
            .unwrap()
            .await
            .unwrap();
        let seen: Vec<_> = answer
            .reports
            .iter()
            .map(|r| (r.family, r.errors, r.failed))
            .collect();
        assert_eq!(
            seen,
            [
                (Family::Cpu, 1, None),
                (Family::Disk, 1, Some(Missing::Denied))
            ]
        );
        assert!(reader.stop(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_reader_that_hangs_refuses_further_requests_and_does_not_block_the_stop() {
        let (open, gate) = mpsc::channel();
        let sources: Vec<Box<dyn Source>> = vec![Box::new(Fixed(Family::Cpu, Ok(()), Some(gate)))];
        let reader = Reader::with(sources, clock()).unwrap();
        let due: Families = [Family::Cpu].into_iter().collect();
        let registry = Registry::default();
        let ask = || reader.ask(due, Stamp::default(), Readings::new(registry.clone()));
        let first = ask().unwrap();
        let mut second = ask();
        // The first may not have been taken up yet, the channel holds one more.
        while second.is_ok() {
            second = ask();
        }
        assert!(second.is_err());
        assert!(!reader.stop(Duration::from_millis(1)).await);
        open.send(()).unwrap();
        assert_eq!(first.await.unwrap().reports.len(), 1);
    }

    #[tokio::test]
    async fn the_real_host_gives_readings() {
        let reader = Reader::start(Path::new("/"), clock()).unwrap();
        let due = Family::ALL.into_iter().collect();
        let answer = reader
            .ask(due, clock().now(), Readings::new(Registry::default()))
            .unwrap()
            .await
            .unwrap();
        assert!(answer.readings.as_slice().len() > 30);
        assert_eq!(
            answer.reports.len(),
            host_sources(Path::new("/"), &clock()).len()
        );
        assert!(reader.stop(Duration::from_secs(5)).await);
    }
}
