//! Which frames are meant, and going through them.

use std::io;

use bytes::Bytes;

use super::Place;
use crate::config::UplinkName;
use crate::frame::{Class, FrameId, Signal, Signals};
use crate::spool::Subscription;
use crate::spool::cursor::Ledger;
use crate::spool::format::{FrameHeader, Kind, signal_slot};
use crate::spool::inspect::{self, Opened, Piece, Segment};

/// What an uplink is to get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Wants {
    pub(in crate::cli) uplink: UplinkName,
    pub(in crate::cli) signals: Signals,
    /// Nobody told: it is taken to want all that it could.
    pub(in crate::cli) assumed: bool,
}

impl From<Subscription> for Wants {
    fn from(subscription: Subscription) -> Self {
        let none = Signals::NONE;
        let signals = subscription.signals.into_iter();
        Self {
            uplink: subscription.uplink,
            signals: signals.fold(none, Signals::with),
            assumed: false,
        }
    }
}

/// Which frames are meant; the default is all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// One, by its seq, and by its epoch if that was given too.
    pub frame: Option<(Option<u32>, u64)>,
    /// Of one class.
    pub class: Option<Class>,
    /// Of one signal.
    pub signal: Option<Signal>,
    /// That an uplink has not acknowledged.
    pub pending: Option<UplinkName>,
    /// With readings at or after this wall time, in nanoseconds since 1970.
    pub since: Option<u64>,
}

/// A frame that is meant.
#[derive(Debug)]
pub(in crate::cli) struct Frame {
    pub(in crate::cli) class: Class,
    pub(in crate::cli) id: FrameId,
    pub(in crate::cli) signal: Signal,
    pub(in crate::cli) header: FrameHeader,
    /// `None`: it is not what was written, or was not asked for.
    pub(in crate::cli) body: Option<Bytes>,
}

impl Selection {
    fn takes(&self, place: &Place, ledger: &Ledger, class: Class, frame: &Frame) -> bool {
        let header = &frame.header;
        self.frame.is_none_or(|(epoch, seq)| {
            seq == header.seq && epoch.is_none_or(|epoch| epoch == frame.id.epoch)
        }) && self.signal.is_none_or(|signal| signal == frame.signal)
            && self.since.is_none_or(|since| header.last.unix_ns >= since)
            && self.pending.is_none_or(|uplink| {
                place.is_wanted(uplink, frame.signal)
                    && !inspect::is_done(ledger, uplink, class, header)
            })
    }

    /// Whether a sealed segment can hold any, by its footer.
    fn may_be_in(&self, ledger: &Ledger, class: Class, segment: &Segment) -> bool {
        let Some(stats) = segment.footer else {
            return true;
        };
        self.frame
            .is_none_or(|(_, seq)| (stats.seqs.0..=stats.seqs.1).contains(&seq))
            && self
                .signal
                .is_none_or(|signal| stats.mask() & (1 << signal_slot(signal)) != 0)
            && self.since.is_none_or(|since| stats.last.unix_ns >= since)
            && self
                .pending
                .is_none_or(|uplink| inspect::done_all(ledger, uplink, class, &stats) != Some(true))
    }
}

impl Place {
    /// Whether an uplink is to get a signal.
    pub(in crate::cli) fn is_wanted(&self, uplink: UplinkName, signal: Signal) -> bool {
        let mut wants = self.wants.iter();
        wants.any(|wants| wants.uplink == uplink && wants.signals.contains(signal))
    }
}

/// Does something with each frame that is meant: most valuable class first,
/// oldest first. `bodies`: with their bodies.
pub(in crate::cli) fn each(
    place: &Place,
    select: &Selection,
    ledger: &Ledger,
    bodies: bool,
    work: &mut dyn FnMut(&Frame) -> io::Result<()>,
) -> io::Result<()> {
    let all = place.folder.segments()?;
    for (index, &named) in all.iter().enumerate() {
        if select.class.is_some_and(|class| class != named.class) {
            continue;
        }
        let opened = place.folder.segment(named, all.get(index + 1).copied())?;
        let Opened::Segment(segment) = opened else {
            continue;
        };
        if select.may_be_in(ledger, named.class, &segment) {
            in_segment(place, select, ledger, (named.class, &segment, bodies), work)?;
        }
    }
    Ok(())
}

fn in_segment(
    place: &Place,
    select: &Selection,
    ledger: &Ledger,
    (class, segment, bodies): (Class, &Segment, bool),
    work: &mut dyn FnMut(&Frame) -> io::Result<()>,
) -> io::Result<()> {
    let mut walk = segment.walk(bodies);
    while let Some(piece) = walk.next()? {
        let Piece::Frame(at, header) = piece else {
            continue;
        };
        let Some(signal) = header.signal.filter(|_| header.kind == Kind::Data) else {
            continue;
        };
        let mut frame = Frame {
            class,
            id: inspect::id_of(segment, &header),
            signal,
            header,
            body: None,
        };
        if !select.takes(place, ledger, class, &frame) {
            continue;
        }
        if bodies {
            frame.body = walk.payload(at, &frame.header)?;
        }
        work(&frame)?;
    }
    Ok(())
}
