//! Asks the flush task to hand the spans that others hang on ([`DURABLE`]) to
//! the spool now, as `critical`: before a message that carries the context of
//! one leaves, they are on flash (the spool sees to that).

use crate::vitals;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanData;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::DURABLE;

/// Who asks waits at most so long; then its message goes first.
const PATIENCE: Duration = Duration::from_secs(1);

/// Those who wait at once; the flush answers all with one frame.
const QUEUE: usize = 16;

/// The handle; cheap to clone.
#[derive(Clone, Debug)]
pub struct Keeper(mpsc::Sender<oneshot::Sender<()>>);

/// Who waits.
pub(super) type Waiting = mpsc::Receiver<oneshot::Sender<()>>;

impl Keeper {
    pub(super) fn new() -> (Self, Waiting) {
        let (asks, waiting) = mpsc::channel(QUEUE);
        (Self(asks), waiting)
    }

    /// Every such span that has ended is in the spool, unless that takes over a second.
    pub async fn keep(&self) {
        let (done, kept) = oneshot::channel();
        let keep = async {
            // At a stop everything is sent anyway.
            if self.0.send(done).await.is_ok() {
                vitals::KEEPING.sent(&self.0);
                let _ = kept.await;
            }
        };
        let _ = timeout(PATIENCE, keep).await;
    }
}

/// Whether others hang on it.
pub(super) fn is_durable(span: &SpanData) -> bool {
    let mut attributes = span.attributes.iter();
    attributes.any(|attribute| attribute.key.as_str() == DURABLE)
}
