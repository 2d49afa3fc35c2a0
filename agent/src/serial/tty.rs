//! The thread of one line: opens the terminal device, waits for bytes, hands
//! them to the [`Link`], and tries again later when the device goes away.
//!
//! A thread and not a task, because opening a device can hang in its driver
//! for seconds, and the runtime has only one thread. It waits in `poll` for
//! bytes or for its end; there is no other wait and no loop without one. After
//! each read it rests for [`GATHER`], so a line faster than 200 KB/s fills the
//! kernel's buffer instead of the processor's time: what that loses shows as
//! gaps in the frames' numbers.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::{Mode, OFlags};
use rustix::termios::{
    ControlModes, OptionalActions, SpecialCodeIndex, Termios, ioctl_tiocexcl, isatty, tcgetattr,
    tcsetattr,
};
use tokio::sync::oneshot;

use super::link::{Link, Settings, Traced};
use crate::clock::Clock;
use crate::trace::Tracer;

/// Rest after each read: a microcontroller's frame comes in one read, not in ten.
pub const GATHER: Duration = Duration::from_millis(20);
/// What is read at once: all that the kernel keeps of a terminal's input.
const CHUNK: usize = 4096;
/// Between tries to open the device: from the first to this, doubling.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(15);

/// A running line.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) link: Arc<Mutex<Link>>,
    stop: OwnedFd,
    ended: oneshot::Receiver<()>,
}

/// Opens a terminal device at a speed; an error is in words.
type Open = dyn Fn(&Path, u32) -> Result<File, String> + Send + Sync;

/// How devices are opened.
#[derive(Clone)]
pub(super) struct Opener(Arc<Open>);

/// What remains of a line whose thread hangs in a driver.
#[derive(Debug)]
pub(super) struct Left {
    /// The line's name.
    pub(super) name: String,
    /// Its device, which nobody else opens meanwhile.
    pub(super) device: PathBuf,
    ended: oneshot::Receiver<()>,
}

/// Why the device is no longer read.
enum End {
    Stopped,
    Gone(String),
}

impl Line {
    /// Starts the thread.
    pub(super) fn start(
        link: Link,
        clock: Clock,
        tracer: Tracer,
        open: Opener,
    ) -> io::Result<Self> {
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (end, ended) = oneshot::channel();
        let settings = link.settings().clone();
        let link = Arc::new(Mutex::new(link));
        let worker = Worker {
            settings,
            link: link.clone(),
            clock,
            tracer,
            open,
            stop: stop.try_clone()?,
        };
        // Not joined: one that hangs in a driver never ends. `ended` is its last word.
        thread::Builder::new()
            .name("serial".into())
            .stack_size(128 * 1024)
            .spawn(move || {
                worker.run();
                let _ = end.send(());
            })?;
        Ok(Self { link, stop, ended })
    }

    /// Asks it to end; `Some`: it hangs and is left behind.
    pub(super) async fn stop(self, deadline: Duration) -> Option<Left> {
        // Fails only when the counter is full, and then it was asked already.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        let mut ended = self.ended;
        if tokio::time::timeout(deadline, &mut ended).await.is_ok() {
            return None;
        }
        let settings = lock(&self.link).settings().clone();
        Some(Left {
            name: settings.name.clone(),
            device: settings.device.clone(),
            ended,
        })
    }
}

impl Left {
    /// Whether it still hangs.
    pub(super) fn hangs(&mut self) -> bool {
        self.ended.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }
}

impl Opener {
    /// For tests, whose devices hang.
    #[cfg(test)]
    pub(super) fn new(
        open: impl Fn(&Path, u32) -> Result<File, String> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }
}

impl Default for Opener {
    /// Real ones.
    fn default() -> Self {
        Self(Arc::new(open))
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Opener")
    }
}

struct Worker {
    settings: Arc<Settings>,
    link: Arc<Mutex<Link>>,
    clock: Clock,
    tracer: Tracer,
    open: Opener,
    stop: OwnedFd,
}

impl Worker {
    fn run(self) {
        let name = &self.settings.name;
        let device = self.settings.device.display();
        let mut retry = FIRST_RETRY;
        loop {
            let why = match (self.open.0)(&self.settings.device, self.settings.baud) {
                Ok(mut file) => {
                    self.with(|link, now| link.opened(now));
                    log::info!("serial {name}: {device} is open");
                    let frames = self.with(|link, _| link.counts().frames);
                    let end = self.pump(&mut file);
                    if self.with(|link, _| link.counts().frames) > frames {
                        retry = FIRST_RETRY;
                    }
                    match end {
                        End::Stopped => return,
                        End::Gone(why) => why,
                    }
                }
                Err(why) => why,
            };
            let news = self.with(|link, now| link.absent(why.clone(), now));
            if news {
                log::warn!("serial {name}: {device} {why}; it is tried again");
            }
            if self.rest(retry) {
                return;
            }
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Link, u64) -> T) -> T {
        let now = self.clock.boot_ns();
        act(&mut lock(&self.link), now)
    }

    /// Until the device goes away.
    fn pump(&self, file: &mut File) -> End {
        let mut chunk = [0; CHUNK];
        let mut traced = Vec::new();
        loop {
            let mut waits = [
                PollFd::new(&self.stop, PollFlags::IN),
                PollFd::new(&*file, PollFlags::IN),
            ];
            match poll(&mut waits, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return End::Gone(format!("cannot be waited for: {error}")),
            }
            let [stop, device] = waits.map(|wait| wait.revents());
            if !stop.is_empty() {
                return End::Stopped;
            }
            // What came before a hangup is still there to be read.
            if !device.is_empty() {
                match file.read(&mut chunk) {
                    Ok(0) => return End::Gone("hung up".into()),
                    Ok(count) => {
                        let bytes = chunk.get(..count).unwrap_or_default();
                        self.with(|link, now| link.feed(bytes, now, |frame| traced.push(frame)));
                        traced.drain(..).for_each(|frame| self.span(&frame));
                    }
                    Err(error) => match error.kind() {
                        io::ErrorKind::Interrupted => continue,
                        io::ErrorKind::WouldBlock if !device.intersects(PollFlags::HUP) => {}
                        _ => return End::Gone(format!("was unplugged ({error})")),
                    },
                }
            }
            if self.rest(GATHER) {
                return End::Stopped;
            }
        }
    }

    /// Waits. `true`: it should end.
    fn rest(&self, time: Duration) -> bool {
        let mut wait = [PollFd::new(&self.stop, PollFlags::IN)];
        let until = self.clock.boot_ns() + u64::try_from(time.as_nanos()).unwrap_or(0);
        loop {
            let left = Duration::from_nanos(until.saturating_sub(self.clock.boot_ns()));
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut wait, timeout.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(0) => return false,
                // An error of poll itself: no reason to spin.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// Goes on with the sender's operation: its child says when the readings came.
    fn span(&self, frame: &Traced) {
        let context = &frame.context;
        let parent = SpanContext::new(
            TraceId::from_bytes(context.trace_id()),
            SpanId::from_bytes(context.span_id()),
            TraceFlags::new(context.flags()),
            true,
            TraceState::default(),
        );
        let builder = SpanBuilder::from_name("receive sonde.serial")
            .with_kind(SpanKind::Consumer)
            .with_attributes([
                KeyValue::new("sonde.serial.link", self.settings.name.clone()),
                KeyValue::new("sonde.serial.source", i64::from(frame.source)),
                KeyValue::new("sonde.serial.seq", i64::from(frame.seq)),
                KeyValue::new(
                    "sonde.serial.readings",
                    i64::try_from(frame.readings).unwrap_or(i64::MAX),
                ),
            ]);
        let parent = Context::new().with_remote_span_context(parent);
        self.tracer.build_with_context(builder, &parent).end();
    }
}

/// Nothing that holds the lock can leave a link half changed.
pub(super) fn lock(link: &Mutex<Link>) -> std::sync::MutexGuard<'_, Link> {
    link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A terminal as a pipe for bytes: no echo, no signals, no line editing, eight
/// bits, no parity, no flow control, no modem lines, nobody else.
fn open(path: &Path, baud: u32) -> Result<File, String> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NODEV | rustix::io::Errno::NXIO) => {
            return Err("is not there".into());
        }
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            return Err(
                "may not be opened; put the agent's user into the device's group (mostly dialout)"
                    .into(),
            );
        }
        Err(rustix::io::Errno::BUSY) => return Err("is used by another program".into()),
        Err(error) => return Err(format!("cannot be opened: {error}")),
    };
    if !isatty(&file) {
        return Err("is no serial line".into());
    }
    set_up(file.as_fd(), baud)
        .map_err(|error| format!("does not take {baud} baud, 8 bits, no parity: {error}"))?;
    Ok(File::from(file))
}

fn set_up(tty: std::os::fd::BorrowedFd<'_>, baud: u32) -> rustix::io::Result<()> {
    let mut modes: Termios = tcgetattr(tty)?;
    modes.make_raw();
    modes.set_speed(baud)?;
    modes.control_modes |= ControlModes::CREAD | ControlModes::CLOCAL;
    modes.control_modes -= ControlModes::CSTOPB | ControlModes::CRTSCTS | ControlModes::HUPCL;
    modes.special_codes[SpecialCodeIndex::VMIN] = 1;
    modes.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(tty, OptionalActions::Now, &modes)?;
    // A driver without it lets others read along; that is theirs to mend.
    let _ = ioctl_tiocexcl(tty);
    Ok(())
}
