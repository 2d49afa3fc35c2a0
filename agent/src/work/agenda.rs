//! The task that starts scheduled runs: waits, asks the [`schedule`], orders.
//!
//! [`schedule`]: super::schedule

use crate::vitals;
use std::time::Duration;

use tokio::time::sleep;

use super::desk::random;
use super::{Order, Origin, Refusal, Work};

/// Timers may not count a suspend, so look at the clock now and then.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// Until the desk stops.
pub async fn run(work: Work) {
    let stop = work.stopping();
    let mut changes = work.changes();
    loop {
        let now = work.clock().boot_ns();
        let due = work.agenda().due(now, random);
        for job in due {
            start(&work, job);
        }
        let next = work.agenda().next_ns();
        let wait = async {
            match next {
                Some(next) => {
                    let left = Duration::from_nanos(next.saturating_sub(now));
                    sleep(left.min(LONGEST_SLEEP)).await;
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
            // Fails only with the desk, which this task holds.
            _ = changes.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

fn start(work: &Work, job: String) {
    let order = Order {
        job: job.clone(),
        origin: Origin::Schedule,
        ..Order::default()
    };
    match work.admit(order) {
        Ok(admitted) => {
            vitals::JOBS.spawn(admitted.run());
        }
        // Counted by the desk; that it runs longer than its interval is not news each time.
        Err(Refusal::Busy | Refusal::Stopping) => {}
        Err(refusal) => log::warn!("job {job} was due and did not run: {refusal}"),
    }
}
