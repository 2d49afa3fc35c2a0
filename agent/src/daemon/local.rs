//! The doors for local programs: opened once the spool takes batches, closed
//! before the flow is drained, so that what was answered is stored.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{DOOR_CLOSES, join};
use crate::config::Config;
use crate::door::local::LocalRoutes;
use crate::door::port::PortRoutes;
use crate::door::receiver::{Receiver, Running};
use crate::door::{Door, Limits, bind_port, serve};
use crate::vitals;

/// Between two attempts at a port that another program has.
const PORT_RETRY: Duration = Duration::from_secs(30);

/// Open doors.
pub(super) struct LocalDoor {
    doors: Vec<JoinHandle<()>>,
    stop: CancellationToken,
    receiver: Receiver,
    keeper: Running,
}

impl LocalDoor {
    pub(super) fn open(door: Door, routes: LocalRoutes, keeper: Running, config: &Config) -> Self {
        let stop = CancellationToken::new();
        let receiver = routes.receiver.clone();
        let mut doors = Vec::new();
        if let Some(at) = config.receiver.listen {
            let routes = Arc::new(PortRoutes {
                receiver: receiver.clone(),
                remote: config.receiver.allow_remote,
            });
            doors.push(vitals::DOOR.spawn(port(at, routes, stop.clone())));
        }
        let routes = Arc::new(routes);
        doors.push(vitals::DOOR.spawn(serve(door, routes, Limits::LOCAL, stop.clone())));
        Self {
            doors,
            stop,
            receiver,
            keeper,
        }
    }

    /// After a reload.
    pub(super) fn reload(&self, config: &Config) {
        self.receiver.set_length(config.batch.length);
    }

    /// New programs are refused at once; those inside get their answer, and
    /// what was answered goes to the spool.
    pub(super) async fn close(self) {
        self.stop.cancel();
        for door in self.doors {
            join("the door for local programs", door, DOOR_CLOSES).await;
        }
        join("the receiver", self.keeper.stop(), DOOR_CLOSES).await;
    }
}

/// A port that is taken stops nothing else: it is tried again.
async fn port(at: SocketAddr, routes: Arc<PortRoutes>, stop: CancellationToken) {
    let receiver = routes.receiver.clone();
    let mut said = false;
    loop {
        match bind_port(at).await {
            Ok(door) => {
                receiver.port(at.to_string(), None);
                return serve(door, routes, Limits::LOCAL, stop).await;
            }
            Err(error) => {
                let why = format!("could not listen on {at}: {error}");
                if !said {
                    log::error!(
                        "{why}; local programs reach the socket only. Free the port or change receiver.listen"
                    );
                }
                said = true;
                receiver.port(at.to_string(), Some(why));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(PORT_RETRY) => {}
        }
    }
}
