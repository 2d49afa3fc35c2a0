//! Questions that may hang: asked on helper threads, answered or [`Missing::Timeout`].
//!
//! `statvfs` on a dead network mount and a read of a register behind a stuck
//! bus cannot be cancelled. A helper that hangs is left alone with its
//! question, that thing is not asked about again until the answer comes, and
//! the others go to the second helper. There are never more than
//! [`MAX_HELPERS`]; when all hang, everything is a timeout.
//!
//! A list of questions costs two wake-ups, however long it is: the helper says
//! when it is through, and the asker looks from time to time how far it got.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::Missing;

/// One to hang and one to go on; two dead things stop the rest.
pub const MAX_HELPERS: usize = 2;
/// A local file system answers in microseconds, a register on a bus or a
/// healthy remote mount in milliseconds; a helper on a busy machine has to wait
/// for its turn. Twice this is the longest wait for one.
const PATIENCE: Duration = Duration::from_millis(250);
/// The longest list; what comes after is a timeout.
pub const MAX_LIST: usize = 256;

/// Asks about one thing.
pub type Question<Q, T> = Arc<dyn Fn(&Q) -> Result<T, Missing> + Send + Sync>;

/// Asks one question about many things.
pub struct Helpers<Q, T> {
    question: Question<Q, T>,
    patience: Duration,
    helpers: Vec<Helper<Q, T>>,
}

struct Helper<Q, T>(Arc<Desk<Q, T>>);

/// Where asker and helper meet.
struct Desk<Q, T> {
    state: Mutex<State<Q, T>>,
    changed: Condvar,
}

struct State<Q, T> {
    phase: Phase,
    list: Arc<[Q]>,
    /// Position in the list of the question that is being asked.
    at: usize,
    /// Answers to the questions before `at`, from where this helper began.
    answers: Vec<Result<T, Missing>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing to do.
    Idle,
    /// A list was handed over.
    Asking,
    /// The asker has gone on without it; the answer it hangs on is for nobody.
    Late,
    /// No more lists will come.
    Ended,
}

impl<Q, T> Helpers<Q, T>
where
    Q: Clone + PartialEq + Send + Sync + 'static,
    T: Send + 'static,
{
    /// No thread is started before the first question.
    pub fn new(question: Question<Q, T>) -> Self {
        Self {
            question,
            patience: PATIENCE,
            helpers: Vec::new(),
        }
    }

    /// For tests on busy machines.
    #[cfg(test)]
    pub(crate) fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Asks about each thing (at most [`MAX_LIST`]) and calls `each` once for
    /// every one, in no fixed order. Waits at most twice the patience for each that hangs.
    pub fn ask(&mut self, list: &Arc<[Q]>, mut each: impl FnMut(usize, Result<T, Missing>)) {
        let hanging: Vec<Q> = self.helpers.iter().filter_map(Helper::hangs_on).collect();
        if hanging.is_empty() {
            self.ask_all(list, |at| at, &mut each);
            return;
        }
        let mut kept = Vec::new();
        for (at, thing) in list.iter().enumerate() {
            if hanging.contains(thing) {
                each(at, Err(Missing::Timeout));
            } else {
                kept.push(at);
            }
        }
        let rest: Arc<[Q]> = kept
            .iter()
            .filter_map(|at| list.get(*at).cloned())
            .collect();
        self.ask_all(&rest, |at| kept.get(at).copied().unwrap_or(at), &mut each);
    }

    fn ask_all(
        &mut self,
        list: &Arc<[Q]>,
        place: impl Fn(usize) -> usize,
        each: &mut impl FnMut(usize, Result<T, Missing>),
    ) {
        let mut from = 0;
        while from < list.len().min(MAX_LIST) {
            let patience = self.patience;
            let Some(helper) = self.idle() else {
                break;
            };
            let answers = helper.ask(list, from, patience);
            for answer in answers {
                each(place(from), answer);
                from += 1;
            }
        }
        for at in from..list.len() {
            each(place(at), Err(Missing::Timeout));
        }
    }

    /// A helper with nothing to do, if need be a new one.
    fn idle(&mut self) -> Option<&mut Helper<Q, T>> {
        if let Some(at) = self.helpers.iter().position(Helper::is_idle) {
            return self.helpers.get_mut(at);
        }
        if self.helpers.len() < MAX_HELPERS {
            self.helpers.push(Helper::start(self.question.clone())?);
            return self.helpers.last_mut();
        }
        None
    }
}

impl<Q, T> Desk<Q, T> {
    /// Whoever panicked here left nothing half done.
    fn lock(&self) -> MutexGuard<'_, State<Q, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q, T> Helper<Q, T>
where
    Q: Clone + Send + Sync + 'static,
    T: Send + 'static,
{
    fn start(question: Question<Q, T>) -> Option<Self> {
        let desk = Arc::new(Desk {
            state: Mutex::new(State {
                phase: Phase::Idle,
                list: Arc::new([]),
                at: 0,
                answers: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let shared = desk.clone();
        // Not joined: a helper that hangs in the kernel never ends.
        match thread::Builder::new()
            .name("gauge-helper".into())
            .stack_size(64 * 1024)
            .spawn(move || work(&shared, &question))
        {
            Ok(_) => Some(Self(desk)),
            Err(error) => {
                log::warn!("could not start a helper thread to read what may hang: {error}");
                None
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.0.lock().phase == Phase::Idle
    }

    fn hangs_on(&self) -> Option<Q> {
        let state = self.0.lock();
        match state.phase {
            Phase::Late => state.list.get(state.at).cloned(),
            _ => None,
        }
    }

    /// The answers from `from` on: all, or those up to one that hangs and its timeout.
    fn ask(&self, list: &Arc<[Q]>, from: usize, patience: Duration) -> Vec<Result<T, Missing>> {
        let mut state = self.0.lock();
        state.phase = Phase::Asking;
        state.list = list.clone();
        state.at = from;
        state.answers.clear();
        self.0.changed.notify_all();
        let mut seen = from;
        while state.phase == Phase::Asking {
            let (next, timeout) = self
                .0
                .changed
                .wait_timeout(state, patience)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if !timeout.timed_out() || state.phase != Phase::Asking {
                continue;
            }
            if state.at > seen {
                seen = state.at;
                continue;
            }
            state.phase = Phase::Late;
            let mut answers = std::mem::take(&mut state.answers);
            answers.push(Err(Missing::Timeout));
            return answers;
        }
        std::mem::take(&mut state.answers)
    }
}

impl<Q, T> Drop for Helper<Q, T> {
    fn drop(&mut self) {
        self.0.lock().phase = Phase::Ended;
        self.0.changed.notify_all();
    }
}

/// A helper's life.
fn work<Q: Clone, T>(desk: &Desk<Q, T>, question: &Question<Q, T>) {
    let mut state = desk.lock();
    loop {
        match state.phase {
            Phase::Ended => return,
            Phase::Idle => {
                state = desk
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            // It answered after all.
            Phase::Late => state.phase = Phase::Idle,
            Phase::Asking => {
                let next = state.list.get(state.at).cloned();
                let Some(thing) = next.filter(|_| state.at < MAX_LIST) else {
                    state.phase = Phase::Idle;
                    desk.changed.notify_all();
                    continue;
                };
                drop(state);
                let answer = question(&thing);
                state = desk.lock();
                if state.phase == Phase::Asking {
                    state.answers.push(answer);
                    state.at += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    type Gate = Arc<(Mutex<bool>, Condvar)>;

    fn helpers(gate: &Gate) -> Helpers<PathBuf, usize> {
        let gate = gate.clone();
        let helpers = Helpers::new(Arc::new(move |path: &PathBuf| {
            if path.to_string_lossy().starts_with("/dead") {
                let mut open = gate.0.lock().unwrap();
                while !*open {
                    open = gate.1.wait(open).unwrap();
                }
            }
            Ok(path.as_os_str().len())
        }));
        // Whatever else the machine does meanwhile.
        helpers.patient(Duration::from_millis(600))
    }

    fn ask(helpers: &mut Helpers<PathBuf, usize>, paths: &[&str]) -> Vec<Result<usize, Missing>> {
        let paths: Arc<[PathBuf]> = paths.iter().map(PathBuf::from).collect();
        let mut answers = vec![None; paths.len()];
        helpers.ask(&paths, |at, answer| {
            assert!(answers[at].replace(answer).is_none())
        });
        answers
            .into_iter()
            .map(|answer| answer.expect("each is answered"))
            .collect()
    }

    #[test]
    fn a_dead_path_is_a_timeout_and_the_others_are_answered() {
        let gate = Gate::default();
        let mut helpers = helpers(&gate);
        let paths = ["/a", "/dead", "/bb", "/ccc"];
        for _ in 0..5 {
            assert_eq!(
                ask(&mut helpers, &paths),
                [Ok(2), Err(Missing::Timeout), Ok(3), Ok(4)]
            );
        }
        assert_eq!(helpers.helpers.len(), 2);
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
        // Its late answer frees the helper, and the path is asked again.
        while ask(&mut helpers, &paths) != [Ok(2), Ok(5), Ok(3), Ok(4)] {}
    }

    #[test]
    fn two_dead_paths_make_the_rest_time_out_without_a_third_thread() {
        let gate = Gate::default();
        let mut helpers = helpers(&gate);
        let paths = ["/a", "/dead1", "/dead2", "/b"];
        let timeout = Err(Missing::Timeout);
        assert_eq!(
            ask(&mut helpers, &paths),
            [Ok(2), timeout, timeout, timeout]
        );
        assert_eq!(ask(&mut helpers, &paths), [timeout; 4]);
        assert_eq!(helpers.helpers.len(), MAX_HELPERS);
        *gate.0.lock().unwrap() = true;
        gate.1.notify_all();
    }
}
