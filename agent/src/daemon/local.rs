//! The door for local programs: opened once the spool takes batches, closed
//! before the flow is drained, so that what was answered is stored.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{DOOR_CLOSES, join};
use crate::door::local::LocalRoutes;
use crate::door::{Door, Limits, serve};

/// An open door.
pub(super) struct LocalDoor {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl LocalDoor {
    pub(super) fn open(door: Door, routes: LocalRoutes) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(door, Arc::new(routes), Limits::LOCAL, stop.clone()));
        Self { task, stop }
    }

    /// New programs are refused at once; those inside get their answer.
    pub(super) async fn close(self) {
        self.stop.cancel();
        join("the door for local programs", self.task, DOOR_CLOSES).await;
    }
}
