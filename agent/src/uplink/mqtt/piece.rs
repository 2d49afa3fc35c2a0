//! A frame as it goes out: whole, or cut in halves until each fits the broker.
//!
//! A piece's number says where it lies in the frame, so that one name always
//! means the same bytes, also after a restart and with another limit:
//!
//! ```text
//!            1: epoch-seq
//!         ┌───────┴───────┐
//!   2: epoch-seq.2   3: epoch-seq.3
//!   ┌─────┴─────┐
//!   4           5
//! ```

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::frame::{Codec, Frame, FrameId};
use crate::message::Message;
use crate::uplink::split;

/// Halving goes no deeper: 1/1024 of [`MAX_BODY`](crate::frame::MAX_BODY) is
/// less than a topic and its properties.
const DEEPEST: u32 = 1024;

/// What one PUBLISH carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The frame; its body is this piece's.
    pub(super) frame: Frame,
    /// Of a local program's message: what to send.
    pub(super) outgoing: Option<Arc<Outgoing>>,
    number: u32,
}

/// A local program's message on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outgoing {
    /// With the context of its PRODUCER span.
    pub(super) message: Message,
    /// Seconds that are left of its expiry.
    pub(super) left: Option<u32>,
}

/// A piece's name, as it stands in the `sonde-frame` user property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PieceId {
    /// The frame it is of.
    pub(super) frame: FrameId,
    number: u32,
}

impl Piece {
    /// All of a frame.
    pub(super) fn whole(frame: Frame) -> Self {
        Self {
            frame,
            outgoing: None,
            number: 1,
        }
    }

    /// A local program's message, which cannot be cut.
    pub(super) fn message(frame: Frame, outgoing: Outgoing) -> Self {
        Self {
            outgoing: Some(Arc::new(outgoing)),
            ..Self::whole(frame)
        }
    }

    /// Its name.
    pub(super) fn id(&self) -> PieceId {
        PieceId {
            frame: self.frame.id,
            number: self.number,
        }
    }

    /// Two pieces with the same items in the same order; `None`: it cannot be cut.
    pub(super) fn halves(&self) -> Option<(Piece, Piece)> {
        if self.number >= DEEPEST {
            return None;
        }
        let batch = &self.frame.batch;
        let halves = match batch.codec {
            Codec::Identity => split::halve(batch.signal, &batch.body),
            Codec::Gzip => split::halve(batch.signal, &split::gunzip(&batch.body).ok()?),
        };
        let (one, two) = halves.ok()??;
        let half = |body: Vec<u8>, number: u32| {
            let body = match batch.codec {
                Codec::Identity => body,
                Codec::Gzip => split::gzip(&body).ok()?,
            };
            let mut frame = self.frame.clone();
            frame.batch.body = Bytes::from(body);
            Some(Piece {
                frame,
                outgoing: None,
                number,
            })
        };
        Some((half(one, self.number * 2)?, half(two, self.number * 2 + 1)?))
    }
}

impl fmt::Display for PieceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            1 => self.frame.fmt(f),
            number => write!(f, "{}.{number}", self.frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uplink::mqtt::script::frame_of_points;

    #[test]
    fn halves_of_a_packed_frame_are_packed_frames_named_by_their_place() {
        let whole = Piece::whole(frame_of_points(5, 9));
        let (one, two) = whole.halves().expect("two of nine");
        assert_eq!(one.id().to_string(), "00000007-5.2");
        assert_eq!(two.id().to_string(), "00000007-5.3");
        assert!(split::gunzip(&one.frame.batch.body).is_ok());
        assert_eq!(one.halves().expect("cut again").1.id().number, 5);
        assert_eq!(whole.halves(), Some((one, two)), "the same bytes each time");
    }

    #[test]
    fn what_cannot_be_cut_stays_whole() {
        assert_eq!(Piece::whole(frame_of_points(5, 1)).halves(), None);
        let mut nonsense = frame_of_points(5, 2);
        nonsense.batch.body = Bytes::from_static(b"\x1f\x8bnonsense");
        assert_eq!(Piece::whole(nonsense).halves(), None);
    }
}
