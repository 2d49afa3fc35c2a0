//! Questions that may hang: asked on helper threads, answered or [`Missing::Timeout`].
//!
//! `statvfs` on a dead network mount cannot be cancelled. A helper that hangs
//! is left alone with its question, the path is not asked again until the
//! answer comes, and the other paths go to the second helper. There are never
//! more than [`MAX_HELPERS`]; when all hang, every path is a timeout.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::Missing;

/// One to hang and one to go on; two dead mounts stop the rest.
pub const MAX_HELPERS: usize = 2;
/// A local file system answers in microseconds, a healthy remote one in milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);
/// Answers that fit without a reader: those of one whole list.
pub const MAX_PATHS: usize = 64;

/// The question.
pub type Question<T> = Arc<dyn Fn(&Path) -> Result<T, Missing> + Send + Sync>;

/// Asks one question about many paths.
pub struct Helpers<T> {
    question: Question<T>,
    patience: Duration,
    helpers: Vec<Helper<T>>,
}

struct Helper<T> {
    jobs: SyncSender<Job>,
    answers: Receiver<(u64, usize, Result<T, Missing>)>,
    /// Number of its last job; answers to earlier ones come too late.
    job: u64,
    /// The list it works on, and which answer comes next; `None`: idle.
    busy: Option<(Arc<[PathBuf]>, usize)>,
    give_up: Arc<AtomicBool>,
}

struct Job {
    number: u64,
    paths: Arc<[PathBuf]>,
    from: usize,
}

impl<T: Send + 'static> Helpers<T> {
    /// No thread is started before the first question.
    pub fn new(question: Question<T>) -> Self {
        Self {
            question,
            patience: PATIENCE,
            helpers: Vec::new(),
        }
    }

    /// Asks about each path (at most [`MAX_PATHS`]) and calls `each` once for
    /// every one, in no fixed order. Waits at most `PATIENCE` for each helper that hangs.
    pub fn ask(&mut self, paths: &Arc<[PathBuf]>, mut each: impl FnMut(usize, Result<T, Missing>)) {
        for helper in &mut self.helpers {
            helper.collect();
        }
        let hanging: Vec<PathBuf> = self.helpers.iter().filter_map(Helper::hangs_on).collect();
        if hanging.is_empty() {
            self.ask_from(paths, |at| at, &mut each);
            return;
        }
        let mut kept = Vec::new();
        for (at, path) in paths.iter().enumerate() {
            if hanging.contains(path) {
                each(at, Err(Missing::Timeout));
            } else {
                kept.push(at);
            }
        }
        let rest: Arc<[PathBuf]> = kept
            .iter()
            .filter_map(|at| paths.get(*at).cloned())
            .collect();
        self.ask_from(&rest, |at| kept.get(at).copied().unwrap_or(at), &mut each);
    }

    fn ask_from(
        &mut self,
        paths: &Arc<[PathBuf]>,
        place: impl Fn(usize) -> usize,
        each: &mut impl FnMut(usize, Result<T, Missing>),
    ) {
        let mut from = 0;
        while from < paths.len().min(MAX_PATHS) {
            let patience = self.patience;
            let Some(helper) = self.idle() else {
                break;
            };
            helper.give_up.store(false, Ordering::Relaxed);
            helper.busy = Some((paths.clone(), from));
            helper.job += 1;
            let number = helper.job;
            if helper
                .jobs
                .try_send(Job {
                    number,
                    paths: paths.clone(),
                    from,
                })
                .is_err()
            {
                break;
            }
            while from < paths.len() {
                match helper.answers.recv_timeout(patience) {
                    Ok((job, _, _)) if job != number => {}
                    Ok((_, at, answer)) => {
                        each(place(at), answer);
                        from = at + 1;
                        helper.busy = Some((paths.clone(), from));
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        helper.give_up.store(true, Ordering::Relaxed);
                        each(place(from), Err(Missing::Timeout));
                        from += 1;
                        break;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            helper.collect();
        }
        for at in from..paths.len() {
            each(place(at), Err(Missing::Timeout));
        }
    }

    /// A helper with nothing to do, if need be a new one.
    fn idle(&mut self) -> Option<&mut Helper<T>> {
        if let Some(at) = self.helpers.iter().position(|helper| helper.busy.is_none()) {
            return self.helpers.get_mut(at);
        }
        if self.helpers.len() < MAX_HELPERS {
            self.helpers.push(Helper::start(self.question.clone())?);
            return self.helpers.last_mut();
        }
        None
    }
}

impl<T: Send + 'static> Helper<T> {
    fn start(question: Question<T>) -> Option<Self> {
        let (jobs, todo) = sync_channel::<Job>(1);
        let (done, answers) = sync_channel(MAX_PATHS);
        let give_up = Arc::new(AtomicBool::new(false));
        let stop = give_up.clone();
        let work = move || {
            for job in todo {
                for (at, path) in job.paths.iter().enumerate().skip(job.from).take(MAX_PATHS) {
                    if done.send((job.number, at, question(path))).is_err() {
                        return;
                    }
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        };
        // Not joined: a helper that hangs in the kernel never ends.
        match thread::Builder::new()
            .name("gauge-helper".into())
            .stack_size(64 * 1024)
            .spawn(work)
        {
            Ok(_) => Some(Self {
                jobs,
                answers,
                job: 0,
                busy: None,
                give_up,
            }),
            Err(error) => {
                log::warn!("could not start a helper thread to read file systems: {error}");
                None
            }
        }
    }

    /// Notes whether the question it hung on was answered at last.
    fn collect(&mut self) {
        if let Some((paths, next)) = &self.busy {
            let answered = self.answers.try_iter().next().is_some();
            if answered || *next >= paths.len() {
                self.busy = None;
            }
        }
    }

    fn hangs_on(&self) -> Option<PathBuf> {
        let (paths, next) = self.busy.as_ref()?;
        paths.get(*next).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Condvar, Mutex};

    type Gate = Arc<(Mutex<bool>, Condvar)>;

    fn helpers(gate: &Gate) -> Helpers<usize> {
        let gate = gate.clone();
        let mut helpers = Helpers::new(Arc::new(move |path: &Path| {
            if path.to_string_lossy().starts_with("/dead") {
                let mut open = gate.0.lock().unwrap();
                while !*open {
                    open = gate.1.wait(open).unwrap();
                }
            }
            Ok(path.as_os_str().len())
        }));
        helpers.patience = Duration::from_millis(40);
        helpers
    }

    fn ask(helpers: &mut Helpers<usize>, paths: &[&str]) -> Vec<Result<usize, Missing>> {
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
