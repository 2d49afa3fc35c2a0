//! Performs one connection: moves bytes between a stream and the [`Session`],
//! frames from [`Frames`] into it and verdicts back. Decides nothing itself.
//!
//! Memory: one publish is encoded at a time, and the next only when the kernel
//! has taken it all, so the buffer holds one frame (at most 96 KiB and its
//! properties). What the broker sends is bounded by
//! [`packet::MAX_INCOMING`](super::packet::MAX_INCOMING).

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::inbox::{Inbox, Subscribed};
use super::packet;
use super::piece::{Piece, PieceId};
use super::reason::{End, Reaction};
use super::session::{Attempt, Change, Plan, Session, Verdict, closed, not_mqtt};
use crate::config::Tls;
use crate::uplink::Stop;
use crate::uplink::tls::{self, TlsError};

/// Room for a read; acknowledgements have 4 bytes.
const READ: usize = 2 * 1024;

/// While more than this waits to be sent, nothing is read: a broker that makes
/// us answer but does not listen must not fill our memory.
const MAX_OUT: usize = 160 * 1024;

/// How often [`Frames::look`] is called.
const LOOK: Duration = Duration::from_secs(5);

/// How long a goodbye on a connection that is over anyway may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where frames come from and verdicts go.
pub(super) trait Frames {
    /// The broker has accepted us.
    fn online(&mut self);

    /// Waits until [`take`](Self::take) may be called. Dropping it loses nothing.
    fn ready(&mut self) -> impl Future<Output = ()> + Send;

    /// A frame, if there is one after all. Not raced with anything: bounded.
    /// `drain`: we are about to end, pacing no longer matters.
    fn take(&mut self, drain: bool) -> impl Future<Output = Option<Piece>> + Send;

    /// What became of one.
    fn settled(&mut self, id: PieceId, verdict: Verdict);

    /// The broker hung up without a word while this one alone was
    /// unacknowledged. `Some`: that was once too often.
    fn suspect(&mut self, _id: PieceId) -> Option<Verdict> {
        None
    }

    /// Called every [`LOOK`] while connected, for figures that change by themselves.
    fn look(&mut self) {}
}

/// Runs until the connection is over. Frames without a verdict by then were not acknowledged.
pub(super) async fn run<S, F>(
    stream: S,
    plan: &Plan,
    attempt: &Attempt,
    frames: &mut F,
    inbox: &mut Inbox,
    stop: &Stop,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    F: Frames + Send,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut out = BytesMut::new();
    let session = match Session::begin(plan, attempt, &mut out) {
        Ok(session) => session,
        Err(end) => return end,
    };
    let mut link = Link {
        tls: attempt.tls.as_ref(),
        reader,
        writer,
        session,
        began: Instant::now(),
        input: BytesMut::new(),
        out,
        unflushed: true,
        drained: false,
        look_at: Instant::now() + LOOK,
    };
    inbox.begin();
    let end = match link.drive(frames, inbox, stop).await {
        Ok(()) => End::finished(),
        // Everything was delivered before the goodbye: what happens to that is no trouble.
        Err(_) if link.session.leaving() => End::finished(),
        Err(mut end) => {
            let (any, alone) = link.session.outstanding();
            if end.hung_up && any && end.reaction == Reaction::Retry {
                end.reaction = Reaction::OneByOne;
                end.blame = alone.and_then(|id| Some((id, frames.suspect(id)?)));
            }
            if let Some((id, verdict)) = end.blame.clone() {
                frames.settled(id, verdict);
            }
            end
        }
    };
    inbox.ended(link.session.asking());
    link.farewell(&end).await;
    end
}

struct Link<'a, R, W> {
    tls: Option<&'a (String, Tls)>,
    reader: R,
    writer: W,
    session: Session<'a>,
    began: Instant,
    input: BytesMut,
    out: BytesMut,
    unflushed: bool,
    /// We are to finish, and nothing more is to be sent.
    drained: bool,
    look_at: Instant,
}

/// What woke us.
enum Wake {
    Read(io::Result<usize>),
    Written(io::Result<()>),
    /// A message for us is safe and may be acknowledged.
    TakenIn(u16),
    Due,
    Ready,
    Finish,
    Now,
}

impl<R, W> Link<'_, R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    /// `Ok`: we left as we wanted.
    async fn drive<F: Frames>(
        &mut self,
        frames: &mut F,
        inbox: &mut Inbox,
        stop: &Stop,
    ) -> Result<(), End> {
        loop {
            let finishing = stop.finish.is_cancelled();
            if self.session.gone() && self.out.is_empty() && !self.unflushed {
                return Ok(());
            }
            if finishing && self.step_out(frames).await {
                return Ok(());
            }
            match self.wait(frames, inbox, stop, finishing).await {
                Wake::Now => return Ok(()),
                Wake::Finish => {}
                Wake::Read(got) => self.read(got, frames, inbox)?,
                Wake::TakenIn(pkid) => {
                    let now = self.began.elapsed();
                    self.session.take_in(pkid, now, &mut self.out);
                    self.digest(now, frames, inbox)?;
                }
                Wake::Written(done) => {
                    done.map_err(|error| self.broken(&error))?;
                    if self.out.is_empty()
                        && !self.unflushed
                        && let Some(id) = self.session.written()
                    {
                        frames.settled(id, Verdict::Delivered);
                    }
                }
                Wake::Due => {
                    self.session.tick(self.began.elapsed(), &mut self.out)?;
                    if self.look_at <= Instant::now() {
                        self.look_at = Instant::now() + LOOK;
                        frames.look();
                    }
                }
                Wake::Ready => self.send_next(frames, false).await,
            }
        }
    }

    async fn wait<F: Frames>(
        &mut self,
        frames: &mut F,
        inbox: &mut Inbox,
        stop: &Stop,
        finishing: bool,
    ) -> Wake {
        let due = (self.began + self.session.wake_at()).min(self.look_at);
        let writing = !self.out.is_empty() || self.unflushed;
        let hungry = !finishing && self.out.is_empty() && self.session.room();
        let listening = self.out.len() < MAX_OUT;
        let reading = listening && self.session.has_room_in();
        if reading {
            self.input.reserve(READ);
        }
        tokio::select! {
            biased;
            () = stop.now.cancelled() => Wake::Now,
            got = self.reader.read_buf(&mut self.input), if reading => Wake::Read(got),
            done = write(&mut self.writer, &mut self.out, &mut self.unflushed), if writing => Wake::Written(done),
            pkid = inbox.acknowledged(), if listening => Wake::TakenIn(pkid),
            () = sleep_until(due) => Wake::Due,
            () = stop.finish.cancelled(), if !finishing => Wake::Finish,
            () = frames.ready(), if hungry => Wake::Ready,
        }
    }

    fn read<F: Frames>(
        &mut self,
        got: io::Result<usize>,
        frames: &mut F,
        inbox: &mut Inbox,
    ) -> Result<(), End> {
        let connecting = self.session.connecting();
        if got.map_err(|error| self.broken(&error))? == 0 {
            return Err(closed(connecting));
        }
        let now = self.began.elapsed();
        self.session.heard(now);
        if connecting && !packet::may_be_answer(&self.input) {
            return Err(not_mqtt());
        }
        self.digest(now, frames, inbox)
    }

    /// Takes packets out of what was read, as long as there is room for them.
    fn digest<F: Frames>(
        &mut self,
        now: Duration,
        frames: &mut F,
        inbox: &mut Inbox,
    ) -> Result<(), End> {
        let connecting = self.session.connecting();
        while self.session.has_room_in() {
            let packet = packet::decode(&mut self.input).map_err(|malformed| {
                if connecting {
                    return not_mqtt();
                }
                End::retry(format!(
                    "the broker sent what is not MQTT 5: {malformed}; trying again"
                ))
            })?;
            let Some(packet) = packet else { break };
            match self.session.received(packet, now, &mut self.out)? {
                Some(Change::Online) => frames.online(),
                Some(Change::Settled(id, verdict)) => {
                    if matches!(verdict, Verdict::TooLarge(_)) {
                        // It may have been cut: there is more to drain.
                        self.drained = false;
                    }
                    frames.settled(id, verdict);
                }
                Some(Change::Arrived(pkid, message)) => {
                    let let_go = inbox.deliver(pkid, message);
                    if let_go {
                        self.session.take_in(pkid, now, &mut self.out);
                    }
                }
                Some(Change::Subscribed(Ok(()))) => inbox.answered(Subscribed::Yes),
                Some(Change::Subscribed(Err(why))) => {
                    log::warn!("uplink mqtt: no commands: {why}");
                    inbox.answered(Subscribed::Refused(why));
                }
                None => {}
            }
            if self.session.gone() {
                break;
            }
        }
        if self.input.is_empty() && self.input.capacity() > 2 * READ {
            // One long reason must not hold its room for the rest of the connection.
            self.input = BytesMut::new();
        }
        self.unflushed |= !self.out.is_empty();
        Ok(())
    }

    /// Sends one frame, if there is one; the rest follows when it is written.
    async fn send_next<F: Frames>(&mut self, frames: &mut F, drain: bool) {
        let Some(piece) = frames.take(drain).await else {
            self.drained = drain;
            return;
        };
        let now = self.began.elapsed();
        if let Some(verdict) = self.session.publish(&piece, now, &mut self.out) {
            frames.settled(piece.id(), verdict);
        }
        self.unflushed |= !self.out.is_empty();
    }

    /// Works towards the end that `stop.finish` asks for; `true`: there is nothing to wait for.
    async fn step_out<F: Frames>(&mut self, frames: &mut F) -> bool {
        if self.session.connecting() {
            return true;
        }
        if self.session.leaving() {
            return false;
        }
        while !self.drained && self.out.is_empty() && self.session.room() {
            self.send_next(frames, true).await;
        }
        if self.drained && self.session.idle() {
            self.session.leave(self.began.elapsed(), &mut self.out);
            self.unflushed = true;
        }
        false
    }

    fn broken(&self, error: &io::Error) -> End {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return closed(self.session.connecting());
        }
        let refusal = self
            .tls
            .and_then(|(host, files)| tls::explain(error, host, files));
        if let Some(refusal) = refusal.filter(TlsError::is_about_our_certificate) {
            return End::hold(refusal.to_string());
        }
        let reset = matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        );
        End {
            hung_up: reset && !self.session.connecting(),
            ..End::retry(format!("the connection broke: {error}; trying again"))
        }
    }

    /// Tells the broker that we go, where it may still listen; then closes. A
    /// code other than 0 lets it publish the last will.
    async fn farewell(mut self, end: &End) {
        let polite = self.session.online() && self.out.is_empty();
        if polite && matches!(end.reaction, Reaction::Hold | Reaction::Finished) {
            packet::disconnect(packet::WITH_WILL, &mut self.out);
        }
        let close = async {
            if polite {
                while self.out.has_remaining() {
                    self.writer.write_buf(&mut self.out).await?;
                }
            }
            self.writer.shutdown().await
        };
        // It is over either way.
        let _ = timeout(FAREWELL, close).await;
    }
}

/// Writes what is there, or else flushes it. Dropped half-way, it goes on where it was.
async fn write<W: AsyncWrite + Unpin>(
    writer: &mut W,
    out: &mut BytesMut,
    unflushed: &mut bool,
) -> io::Result<()> {
    if out.is_empty() {
        writer.flush().await?;
        *unflushed = false;
        return Ok(());
    }
    *unflushed = true;
    if writer.write_buf(out).await? == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    if out.is_empty() {
        // A frame's room is given back, not kept for the next.
        *out = BytesMut::new();
    }
    Ok(())
}
