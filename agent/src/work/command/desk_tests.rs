//! The desk against clocks and callers that mean harm.

use bytes::Bytes;

use super::decode::Places;
use super::desk::{Desk, Limits, Resume, Weighed};
use crate::frame::{Stamp, TraceContext};
use crate::uplink::mqtt::Received;
use crate::work::journal::{Entry, State};

const SECOND: u64 = 1_000_000_000;
const MINUTE: u64 = 60 * SECOND;

fn at(boot_ns: u64) -> Stamp {
    Stamp {
        unix_ns: 1_700_000_000 * SECOND,
        boot_ns,
    }
}

fn desk() -> Desk {
    let places = Places {
        prefix: "sonde/gw".to_owned(),
        template: "sonde/{device.id}".to_owned(),
        response_topics: Vec::new(),
    };
    let limits = Limits {
        per_minute: 1_000_000,
        concurrent: 64,
        remember_ns: 60 * MINUTE,
        quota: 1 << 20,
    };
    Desk::new(places, limits, [1; 16])
}

fn message(correlation: &str, expiry: Option<u32>) -> Received {
    Received {
        topic: "sonde/gw/command/job".to_owned(),
        correlation: Some(Bytes::from(correlation.to_owned())),
        expiry,
        ..Received::default()
    }
}

/// Takes a command in; the code of its refusal otherwise.
fn take(desk: &mut Desk, message: Received, now: Stamp) -> Result<u64, &'static str> {
    match desk.weigh(message, 1, now) {
        Weighed::New(command) => Ok(desk.accept(*command, now, true)),
        Weighed::Refused(refused) => Err(refused.code.as_str()),
        Weighed::Again(_) => Err("again"),
        Weighed::Nothing => Err("nothing"),
    }
}

fn context() -> TraceContext {
    TraceContext {
        trace_id: [1; 16],
        span_id: [2; 8],
        flags: 1,
        state: Box::default(),
    }
}

fn start(desk: &mut Desk, id: u64, now: Stamp) -> bool {
    desk.start(id, context(), None, now).is_some()
}

fn end(desk: &mut Desk, id: u64) {
    desk.done(
        id,
        Bytes::from_static(b"{}"),
        None,
        crate::frame::Stamp::default(),
    );
    desk.posted(id);
}

#[test]
fn a_command_is_not_started_when_its_time_is_up_however_it_went_by() {
    let mut desk = desk();
    assert_eq!(
        take(&mut desk, message("zero", Some(0)), at(5)),
        Err("expired")
    );
    let id = take(&mut desk, message("one", Some(1)), at(SECOND)).unwrap();
    assert!(!desk.is_expired(id, at(2 * SECOND - 1)));
    assert!(desk.is_expired(id, at(2 * SECOND)));
    // Suspended for a day: the boot clock counts that.
    assert!(!start(&mut desk, id, at(86_400 * SECOND)));
    // The wall clock alone changes nothing.
    let id = take(&mut desk, message("wall", Some(60)), at(SECOND)).unwrap();
    let mut stepped = at(2 * SECOND);
    stepped.unix_ns *= 2;
    assert!(start(&mut desk, id, stepped));
    let id = take(&mut desk, message("never", None), at(SECOND)).unwrap();
    assert!(start(&mut desk, id, at(u64::MAX)));
    let id = take(&mut desk, message("far", Some(u32::MAX)), at(SECOND)).unwrap();
    assert!(start(&mut desk, id, at(86_400 * SECOND)));
}

#[test]
fn ten_thousand_names_fill_the_journal_and_room_comes_back_as_the_old_expire() {
    let mut desk = desk();
    let (mut taken, mut refused) = (0, 0);
    for number in 0..10_000 {
        let long = format!("{number:0>250}");
        match take(&mut desk, message(&long, Some(1)), at(number)) {
            Ok(id) => {
                taken += 1;
                assert!(start(&mut desk, id, at(number)));
                end(&mut desk, id);
            }
            Err(code) => {
                refused += 1;
                assert!(["unavailable", "nothing"].contains(&code), "{code}");
            }
        }
    }
    assert!(taken > 100 && refused > 9_000, "{taken} {refused}");
    let counts = desk.counts();
    assert!(counts.remembered_bytes <= counts.remembered_limit_bytes);
    assert_eq!(counts.refused["unavailable"], refused);
    // None is forgotten early: its repeat is known.
    let first = format!("{:0>250}", 0);
    let now = at(9 * MINUTE);
    assert_eq!(take(&mut desk, message(&first, Some(1)), now), Err("again"));
    // They expired after a second, and are remembered for ten minutes.
    let now = at(11 * MINUTE);
    assert!(take(&mut desk, message("new", Some(1)), now).is_ok());
    assert_eq!(desk.counts().remembered, 1);
}

#[test]
fn after_a_restart_what_was_not_acknowledged_is_forgotten_and_the_rest_runs_at_most_once() {
    let mut before = desk();
    let received = take(&mut before, message("received", None), at(1)).unwrap();
    let started = take(&mut before, message("started", None), at(2)).unwrap();
    let late = take(&mut before, message("late", Some(1)), at(3)).unwrap();
    assert!(start(&mut before, started, at(4)) && start(&mut before, late, at(5)));
    let found: Vec<Entry> = before.entries().cloned().collect();
    assert_eq!(found[0].state, State::Received);
    for idempotent in [false, true] {
        let mut desk = desk();
        let now = at(10 * SECOND);
        let needs = desk.recover(found.clone(), now, true, |_| idempotent);
        let need = match idempotent {
            true => Resume::Run,
            false => Resume::Interrupted,
        };
        assert_eq!(needs, [(started, need), (late, Resume::Interrupted)]);
        assert!(desk.entry(received).is_none());
        assert!(take(&mut desk, message("received", None), now).is_ok());
    }
}
