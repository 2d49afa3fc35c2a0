//! Puts answers into the outbox, one after the other, so that `running` never
//! overtakes `received`.

use std::future::Future;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::answer::CONTENT_TYPE;
use crate::message::{Message, Qos};
use crate::outbox::{Origin, Outbox};
use crate::trace::propagation::Carried;
use crate::vitals;

/// Answers that wait for the outbox; whoever makes more waits too.
pub(super) const QUEUE: usize = 64;

/// Where answers go.
pub(crate) trait Post: Send + Sync + 'static {
    /// Stores a message; resolves after the sync.
    ///
    /// # Errors
    /// Why it was not taken, for people.
    fn post(&self, message: Message) -> impl Future<Output = Result<(), String>> + Send;
}

impl Post for Outbox {
    async fn post(&self, message: Message) -> Result<(), String> {
        let posted = Outbox::post(self, message, Origin::Agent).await;
        posted.map(|_| ()).map_err(|refusal| refusal.to_string())
    }
}

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Letter {
    /// The command whose end it is.
    pub(super) ends: Option<u64>,
    pub(super) topic: String,
    pub(super) correlation: Option<Bytes>,
    pub(super) answer: Bytes,
    /// What it is a child of.
    pub(super) within: Carried,
}

/// What became of one: whose end it was, and why it was not taken.
pub(super) type Posted = (Option<u64>, Result<(), String>);

/// Runs until nobody can send letters any more.
pub(super) async fn run(
    outbox: impl Post,
    mut letters: mpsc::Receiver<Letter>,
    posted: mpsc::UnboundedSender<Posted>,
) {
    while let Some(letter) = letters.recv().await {
        vitals::ANSWERS.received(&letters);
        let message = Message {
            topic: letter.topic,
            payload: letter.answer,
            qos: Qos::AtLeastOnce,
            text: true,
            content_type: Some(CONTENT_TYPE.to_owned()),
            correlation: letter.correlation,
            context: letter.within.context,
            baggage: letter.within.baggage,
            ..Message::default()
        };
        let result = outbox.post(message).await;
        // Nobody listens any more at the very end.
        let _ = posted.send((letter.ends, result));
    }
}
