//! Promises of the delivery machine, under invented time.

use super::super::http_status::{http_date, of_status, retry_after};
use super::*;
use crate::spool::PendingSignal;

const S: u64 = SECOND_NS;

const DELIVERED: Verdict = Verdict::Delivered { rejected_items: 0 };

fn settings() -> config::Delivery {
    config::Delivery {
        required: true,
        timeout: Duration::from_secs(10),
        backoff: (Duration::from_secs(1), Duration::from_secs(300)),
        backlog_rate: None,
        first_send_jitter: Duration::ZERO,
    }
}

fn machine() -> Delivery {
    Delivery::new(settings(), 1, 0)
}

fn linked(settings: config::Delivery) -> Delivery {
    let mut delivery = Delivery::new(settings, 1, 0);
    assert_eq!(delivery.next(0, waiting(1, 1)), Step::Connect);
    delivery.connected(0);
    delivery
}

fn waiting(live: u64, backlog: u64) -> Pending {
    let metrics = PendingSignal {
        live,
        backlog,
        items: live + backlog,
        bytes: (live + backlog) * 1000,
    };
    pending([metrics, PendingSignal::default()])
}

/// Metrics and logs.
fn pending([metrics, logs]: [PendingSignal; 2]) -> Pending {
    Pending {
        live: metrics.live + logs.live,
        backlog: metrics.backlog + logs.backlog,
        items: metrics.items + logs.items,
        bytes: metrics.bytes + logs.bytes,
        signals: [
            metrics,
            PendingSignal::default(),
            logs,
            PendingSignal::default(),
        ],
    }
}

fn hold() -> Verdict {
    of_status(401, None, "")
}

/// How long after `now` the machine sits still.
fn wait(delivery: &mut Delivery, now: u64) -> u64 {
    match delivery.next(now, waiting(1, 1)) {
        Step::WaitUntil(at) => at - now,
        other => panic!("{other:?}"),
    }
}

/// Sends one frame and settles it.
fn exchange(delivery: &mut Delivery, now: u64, verdict: &Verdict) -> Option<Change> {
    let Step::Send(lane) = delivery.next(now, waiting(1, 1)) else {
        panic!("nothing to send");
    };
    delivery.took(now, lane, Signal::Metrics, 1000);
    delivery.settled(now, Signal::Metrics, verdict, 10, 1000, true)
}

#[test]
fn waits_grow_to_the_longest_and_are_random_parts_of_it() {
    let mut delivery = machine();
    let mut now = 0;
    let mut late = Vec::new();
    for attempt in 0..60 {
        assert_eq!(delivery.next(now, waiting(1, 0)), Step::Connect);
        delivery.failed(now, "refused", None);
        let wait = wait(&mut delivery, now);
        let whole = (S << attempt.min(20)).min(300 * S);
        assert!(wait >= S / 10 && wait <= whole, "{attempt}: {wait}");
        if attempt > 10 {
            late.push(wait);
        }
        now += wait;
    }
    // Full jitter: the whole width is used.
    assert!(late.iter().any(|wait| *wait < 100 * S));
    assert!(late.iter().any(|wait| *wait > 200 * S));
}

#[test]
fn two_devices_do_not_wait_alike() {
    let waits = |seed| {
        let mut delivery = Delivery::new(settings(), seed, 0);
        (0..5).fold(0, |now, _| {
            delivery.failed(now, "refused", None);
            now + wait(&mut delivery, now)
        })
    };
    assert_ne!(waits(1), waits(2));
    assert_eq!(waits(3), waits(3));
}

#[test]
fn a_success_starts_the_backoff_afresh() {
    let mut delivery = machine();
    let mut now = 0;
    for _ in 0..12 {
        delivery.failed(now, "refused", None);
        now += wait(&mut delivery, now);
    }
    delivery.connected(now);
    exchange(&mut delivery, now, &DELIVERED);
    delivery.failed(now, "reset", None);
    assert!(wait(&mut delivery, now) <= S);
}

#[test]
fn a_connection_that_never_delivers_keeps_backing_off() {
    let mut delivery = machine();
    let mut now = 0;
    let mut longest = 0;
    for _ in 0..40 {
        delivery.connected(now);
        exchange(&mut delivery, now, &of_status(503, None, ""));
        let wait = wait(&mut delivery, now);
        longest = longest.max(wait);
        now += wait;
    }
    assert!(longest > 150 * S);
}

#[test]
fn retry_after_is_the_least_wait_and_is_capped() {
    let mut delivery = linked(settings());
    let asked = Some(Duration::from_secs(100));
    exchange(&mut delivery, 0, &of_status(429, asked, ""));
    let waited = wait(&mut delivery, 0);
    assert!((100 * S..=101 * S).contains(&waited), "{waited}");
    let mut delivery = linked(settings());
    let forever = Some(Duration::from_secs(u64::MAX));
    exchange(&mut delivery, 0, &of_status(503, forever, ""));
    assert!(wait(&mut delivery, 0) <= 3601 * S);
}

#[test]
fn a_hold_opens_the_circuit_and_probes_with_one_frame_at_the_longest_backoff() {
    let mut delivery = linked(settings());
    let change = exchange(&mut delivery, 0, &hold());
    assert!(matches!(change, Some(Change::Held { reason }) if reason.contains("401")));
    assert_eq!(delivery.state(1), State::Open);
    let mut now = 0;
    for _ in 0..20 {
        let wait = wait(&mut delivery, now);
        assert!((150 * S..=300 * S).contains(&wait));
        now += wait;
        let Step::Send(lane) = delivery.next(now, waiting(5, 5)) else {
            panic!("no probe");
        };
        delivery.took(now, lane, Signal::Metrics, 1);
        assert_eq!(
            delivery.next(now, waiting(4, 5)),
            Step::Idle,
            "one at a time"
        );
        // The same reason is not said again.
        assert_eq!(
            delivery.settled(now, Signal::Metrics, &hold(), 1, 1, true),
            None
        );
    }
    now += wait(&mut delivery, now);
    let change = exchange(&mut delivery, now, &DELIVERED);
    let after = Some(Duration::from_nanos(now));
    assert_eq!(change, Some(Change::Up { after }));
    assert_eq!(delivery.state(now), State::Up);
    assert!(matches!(delivery.next(now, waiting(1, 0)), Step::Send(_)));
}

#[test]
fn a_mended_credential_is_tried_at_once() {
    let mut delivery = linked(settings());
    exchange(&mut delivery, 0, &hold());
    assert!(matches!(
        delivery.next(S, waiting(1, 0)),
        Step::WaitUntil(_)
    ));
    delivery.mended(S);
    assert!(matches!(delivery.next(S, waiting(1, 0)), Step::Send(_)));
}

#[test]
fn mending_does_not_shorten_a_backoff() {
    let mut delivery = machine();
    delivery.failed(0, "refused", Some(Duration::from_secs(60)));
    delivery.mended(0);
    assert!(wait(&mut delivery, 0) >= 60 * S);
}

#[test]
fn a_server_that_refuses_everything_cannot_empty_the_backlog() {
    let mut delivery = linked(settings());
    let no = of_status(400, None, "bad");
    for _ in 0..9 {
        assert_eq!(exchange(&mut delivery, 0, &no), None);
    }
    let change = exchange(&mut delivery, 0, &no);
    assert!(matches!(change, Some(Change::Held { reason }) if reason.contains("everything")));
    // From now on no more than one frame per longest backoff.
    let mut now = 0;
    for _ in 0..5 {
        let wait = wait(&mut delivery, now);
        assert!(wait >= 150 * S);
        now += wait;
        exchange(&mut delivery, now, &no);
    }
    let mut status = UplinkStatus::default();
    delivery.report(now, waiting(1, 1), &mut status);
    assert_eq!(status.condemned_frames, 15);
}

#[test]
fn bad_frames_among_good_ones_stop_nothing() {
    let mut delivery = linked(settings());
    for _ in 0..50 {
        exchange(&mut delivery, 0, &of_status(400, None, ""));
        exchange(&mut delivery, 0, &DELIVERED);
    }
    assert_eq!(delivery.state(0), State::Up);
}

#[test]
fn live_and_backlog_take_turns_while_both_wait_and_live_is_first() {
    let mut delivery = linked(settings());
    let mut order = Vec::new();
    for _ in 0..6 {
        let Step::Send(lane) = delivery.next(0, waiting(9, 9)) else {
            panic!();
        };
        delivery.took(0, lane, Signal::Metrics, 10);
        order.push(lane);
    }
    use Lane::{Backlog, Live};
    assert_eq!(order, [Live, Backlog, Live, Backlog, Live, Backlog]);
    assert_eq!(delivery.next(0, waiting(0, 1)), Step::Send(Backlog));
    assert_eq!(delivery.next(0, waiting(1, 0)), Step::Send(Live));
    assert_eq!(delivery.next(0, waiting(0, 0)), Step::Idle);
}

#[test]
fn the_backlog_keeps_its_rate_and_live_data_does_not_wait_for_it() {
    let mut delivery = linked(config::Delivery {
        backlog_rate: Some(1000),
        ..settings()
    });
    let (mut now, mut sent) = (0, 0);
    while now < 100 * S {
        match delivery.next(now, waiting(0, 9)) {
            Step::Send(Lane::Backlog) => {
                delivery.took(now, Lane::Backlog, Signal::Metrics, 5000);
                sent += 5000;
                assert_eq!(delivery.next(now, waiting(1, 9)), Step::Send(Lane::Live));
                delivery.took(now, Lane::Live, Signal::Metrics, 1_000_000);
            }
            Step::WaitUntil(at) => {
                assert!(at > now);
                now = at;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sent, 100_000);
}

#[test]
fn the_first_send_after_an_outage_waits_a_random_part_but_not_the_first_of_all() {
    let jittery = config::Delivery {
        first_send_jitter: Duration::from_secs(30),
        ..settings()
    };
    let mut delivery = linked(jittery.clone());
    assert!(matches!(delivery.next(0, waiting(1, 0)), Step::Send(_)));
    exchange(&mut delivery, 0, &DELIVERED);
    // An idle connection that was closed is no outage.
    assert_eq!(delivery.closed(0), None);
    delivery.connected(0);
    assert!(matches!(delivery.next(0, waiting(1, 0)), Step::Send(_)));
    let mut longest = 0;
    for _ in 0..50 {
        delivery.failed(0, "reset", None);
        delivery.not_before = 0;
        delivery.connected(0);
        let jitter = wait(&mut delivery, 0);
        assert!(jitter <= 30 * S);
        longest = longest.max(jitter);
    }
    assert!(longest > 20 * S);
}

#[test]
fn changes_are_said_once() {
    let mut delivery = machine();
    let down = delivery.failed(0, "refused", None);
    assert_eq!(
        down,
        Some(Change::Down {
            why: "refused".into()
        })
    );
    assert_eq!(delivery.failed(S, "refused", None), None);
    delivery.not_before = 0;
    delivery.connected(5 * S);
    let up = exchange(&mut delivery, 5 * S, &DELIVERED);
    assert_eq!(
        up,
        Some(Change::Up {
            after: Some(Duration::from_secs(5))
        })
    );
    assert_eq!(exchange(&mut delivery, 5 * S, &DELIVERED), None);
}

#[test]
fn the_first_success_of_all_is_no_recovery() {
    let mut delivery = linked(settings());
    assert_eq!(
        exchange(&mut delivery, 0, &DELIVERED),
        Some(Change::Up { after: None })
    );
}

#[test]
fn the_status_says_what_happens() {
    let mut delivery = linked(settings());
    exchange(&mut delivery, S, &Verdict::Delivered { rejected_items: 4 });
    delivery.failed(2 * S, "reset by peer", None);
    let mut status = UplinkStatus::default();
    delivery.report(2 * S, waiting(2, 3), &mut status);
    assert_eq!(status.state, "waiting");
    assert_eq!(
        (
            status.acked_frames,
            status.acked_items,
            status.rejected_items
        ),
        (1, 6, 4)
    );
    assert_eq!((status.pending_frames, status.pending_bytes), (5, 5000));
    assert_eq!(status.last_ack_s, Some(1.0));
    assert_eq!(status.last_error.as_deref(), Some("reset by peer"));
    assert!(
        status
            .next_attempt_s
            .is_some_and(|wait| wait > 0.0 && wait <= 1.0)
    );
    assert_eq!(status.drain_eta_s, None, "nothing drains while it is down");
}

#[test]
fn the_drain_estimate_follows_the_rate_of_the_backlog() {
    let mut delivery = linked(settings());
    let mut status = UplinkStatus::default();
    for second in 0..20 {
        exchange(&mut delivery, second * S, &DELIVERED);
    }
    let left = Pending {
        backlog: 100,
        bytes: 100_000,
        ..Pending::default()
    };
    delivery.report(20 * S, left, &mut status);
    let eta = status.drain_eta_s.unwrap();
    assert!((90.0..110.0).contains(&eta), "{eta}");
    delivery.report(20 * S, Pending::default(), &mut status);
    assert_eq!(status.drain_eta_s, None);
}

#[test]
fn only_the_data_itself_can_condemn_a_frame() {
    for code in 100..=999 {
        let verdict = of_status(code, None, "");
        let condemned = matches!(verdict, Verdict::Condemn { .. });
        assert_eq!(condemned, code == 400 || code == 422, "{code}");
        let retried = matches!(verdict, Verdict::Retry { .. });
        assert_eq!(retried, [408, 429, 502, 503, 504].contains(&code), "{code}");
        assert_eq!(verdict == Verdict::Split, code == 413);
        let delivered = matches!(verdict, Verdict::Delivered { .. });
        assert_eq!(delivered, (200..300).contains(&code), "{code}");
    }
}

#[test]
fn retry_after_reads_seconds_and_dates_and_ignores_nonsense() {
    let seconds = |text, date, unix_s| retry_after(text, date, unix_s).map(|wait| wait.as_secs());
    assert_eq!(seconds("120", None, 0), Some(120));
    assert_eq!(seconds(" 0 ", None, 0), Some(0));
    assert_eq!(seconds("99999999999999999999999", None, 0), Some(3600));
    // 784111777 is RFC 9110's own example date.
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(seconds(date, None, 784_111_777 - 90), Some(90));
    assert_eq!(seconds(date, None, 784_111_777 + 90), Some(0));
    // The device believes it is 1970; the server's own date counts.
    assert_eq!(
        seconds(date, Some("Sun, 06 Nov 1994 08:49:00 GMT"), 12),
        Some(37)
    );
    for bad in [
        "",
        "-1",
        "1.5",
        "soon",
        "Sun, 06 Nov 1994",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 25:49:37 GMT",
        "Sun, 06 Nov 99999999999999999999 08:49:37 GMT",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "ü, ü ü ü ü ü",
    ] {
        assert_eq!(seconds(bad, None, 0), None, "{bad}");
    }
}

#[test]
fn http_dates_know_leap_years() {
    assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
    assert_eq!(
        http_date("Tue, 29 Feb 2000 12:00:00 GMT"),
        Some(951_825_600)
    );
    assert_eq!(
        http_date("Fri, 31 Dec 2100 23:59:59 GMT"),
        Some(4_133_980_799)
    );
}

#[test]
fn a_server_that_closes_every_connection_at_once_is_not_dialled_in_a_loop() {
    let mut delivery = machine();
    let (mut now, mut dialled) = (0, 0);
    while now < 3600 * S {
        match delivery.next(now, waiting(1, 0)) {
            Step::Connect => {
                dialled += 1;
                delivery.connected(now);
                delivery.closed(now + 1);
            }
            Step::WaitUntil(at) => now = at,
            other => panic!("{other:?}"),
        }
    }
    assert!(dialled < 60, "{dialled}");
}

#[test]
fn an_idle_connection_may_be_closed_without_a_failure() {
    let mut delivery = linked(settings());
    assert_eq!(delivery.closed(60 * S), None);
    assert_eq!(delivery.next(60 * S, waiting(1, 0)), Step::Connect);
    assert_eq!(delivery.closed(61 * S), None, "there is none to close");
}

fn part(live: u64, backlog: u64) -> PendingSignal {
    PendingSignal {
        live,
        backlog,
        items: live + backlog,
        bytes: (live + backlog) * 1000,
    }
}

fn send(delivery: &mut Delivery, now: u64, signal: Signal, verdict: &Verdict) -> Option<Change> {
    delivery.took(now, Lane::Live, signal, 1000);
    delivery.settled(now, signal, verdict, 1, 1000, true)
}

fn refuse(why: &str) -> Verdict {
    Verdict::Refuse { reason: why.into() }
}

/// A machine that delivers metrics and was refused logs at the moment 0.
fn without_logs() -> Delivery {
    let mut delivery = linked(settings());
    send(&mut delivery, 0, Signal::Metrics, &DELIVERED);
    let change = send(&mut delivery, 0, Signal::Logs, &refuse("404"));
    assert_eq!(
        change,
        Some(Change::SignalHeld {
            signal: Signal::Logs,
            reason: "404".into()
        })
    );
    delivery
}

#[test]
fn a_lane_that_gives_nothing_keeps_neither_the_other_nor_messages_waiting() {
    use Lane::{Backlog, Live};
    let mut delivery = linked(settings());
    let mut given = 0;
    for _ in 0..6 {
        match delivery.next(0, waiting(9, 9)) {
            Step::Send(Backlog) => delivery.vain(Backlog),
            Step::Send(Live) => {
                delivery.took(0, Live, Signal::Metrics, 10);
                delivery.settled(0, Signal::Metrics, &DELIVERED, 10, 10, true);
                given += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(given, 3);
}

#[test]
fn a_refused_signal_holds_no_other() {
    let mut delivery = without_logs();
    for second in 0..100 {
        let both = pending([part(1, 0), part(5, 50)]);
        assert_eq!(delivery.next(second * S, both), Step::Send(Lane::Live));
        assert!(delivery.signals().contains(Signal::Metrics));
        assert!(!delivery.signals().contains(Signal::Logs));
        send(&mut delivery, second * S, Signal::Metrics, &DELIVERED);
        assert_eq!(delivery.state(second * S), State::Up);
    }
}

#[test]
fn only_held_data_is_nothing_to_do_until_its_probe() {
    let mut delivery = without_logs();
    let logs = pending([part(0, 0), part(5, 50)]);
    let mut now = 0;
    for _ in 0..10 {
        let Step::WaitUntil(at) = delivery.next(now, logs) else {
            panic!("it spins");
        };
        assert!((now + 150 * S..=now + 300 * S).contains(&at), "{at}");
        assert!(!delivery.has_work(now, logs));
        now = at;
        assert!(delivery.has_work(now, logs));
        assert_eq!(delivery.next(now, logs), Step::Send(Lane::Backlog));
        assert_eq!(delivery.signals(), Signals::NONE.with(Signal::Logs));
        delivery.took(now, Lane::Backlog, Signal::Logs, 1000);
        assert_eq!(delivery.next(now, logs), Step::Idle, "one at a time");
        let change = delivery.settled(now, Signal::Logs, &refuse("404"), 1, 1000, true);
        assert_eq!(change, None, "said once");
    }
    delivery.next(now, logs);
    let change = send(&mut delivery, now, Signal::Logs, &DELIVERED);
    let signal = Signal::Logs;
    assert_eq!(change, Some(Change::SignalTaken { signal }));
    let again = send(&mut delivery, now, Signal::Logs, &DELIVERED);
    assert_eq!(again, None, "said once");
    assert_eq!(delivery.free(), Signals::ALL);
}

#[test]
fn the_status_names_what_is_held_and_what_waits_for_it() {
    let delivery = without_logs();
    let mut status = UplinkStatus::default();
    delivery.report(7 * S, pending([part(0, 0), part(5, 50)]), &mut status);
    assert_eq!(status.state, "up");
    let held = HeldStatus {
        signal: "logs".into(),
        reason: "404".into(),
        since_s: 7.0,
        pending_items: 55,
    };
    assert_eq!(status.held, [held]);
}

#[test]
fn a_server_that_refuses_every_signal_is_one_open_circuit_with_one_probe_at_a_time() {
    let mut delivery = without_logs();
    let change = send(&mut delivery, 0, Signal::Metrics, &refuse("401"));
    let reason = "401".to_owned();
    assert_eq!(change, Some(Change::Held { reason }));
    assert_eq!(delivery.state(0), State::Open);
    assert!(delivery.is_down());
    let both = pending([part(1, 9), part(1, 9)]);
    let (mut now, mut probes, mut turns) = (0, 0, [0; 2]);
    while now < 3000 * S {
        match delivery.next(now, both) {
            Step::WaitUntil(at) => now = at,
            Step::Send(_) => {
                let logs = delivery.signals().contains(Signal::Logs);
                let signal = if logs { Signal::Logs } else { Signal::Metrics };
                turns[usize::from(logs)] += 1;
                probes += 1;
                send(&mut delivery, now, signal, &refuse("401"));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(probes <= 21, "{probes} probes");
    assert!(turns.into_iter().all(|count| count >= 4), "{turns:?}");
    // The token was renewed: what was refused together is tried together.
    let change = send(&mut delivery, now, Signal::Metrics, &DELIVERED);
    assert!(matches!(change, Some(Change::Up { .. })));
    assert_eq!(delivery.next(now, both), Step::Send(Lane::Backlog));
    assert_eq!(delivery.signals(), Signals::NONE.with(Signal::Logs));
}

#[test]
fn a_signal_that_was_never_tried_is_tried_although_the_first_was_refused() {
    let mut delivery = linked(settings());
    send(&mut delivery, 0, Signal::Logs, &refuse("404"));
    let both = pending([part(1, 0), part(1, 0)]);
    assert_eq!(delivery.next(S, both), Step::Send(Lane::Live));
    assert!(!delivery.signals().contains(Signal::Logs));
}

#[test]
fn a_link_that_fails_holds_every_signal_and_forgets_no_refusal() {
    let mut delivery = without_logs();
    delivery.failed(S, "reset", None);
    let both = pending([part(1, 0), part(1, 0)]);
    assert!(matches!(delivery.next(S, both), Step::WaitUntil(_)));
    delivery.not_before = 0;
    delivery.connected(2 * S);
    assert_eq!(delivery.next(2 * S, both), Step::Send(Lane::Live));
    assert!(!delivery.signals().contains(Signal::Logs));
}

#[test]
fn a_connection_that_is_accepted_ends_a_hold_that_refused_connections() {
    let mut delivery = machine();
    delivery.held(0, "bad password", false);
    assert_eq!(delivery.state(0), State::Open);
    delivery.not_before = 0;
    delivery.connected(S);
    assert!(matches!(delivery.answered(S), Some(Change::Up { .. })));
    assert_eq!(delivery.state(S), State::Up);
    // One that came over data is another matter.
    delivery.held(2 * S, "the broker ended it", false);
    delivery.not_before = 0;
    delivery.connected(3 * S);
    assert_eq!(delivery.answered(3 * S), None);
    assert_eq!(delivery.state(3 * S), State::Open);
}

#[test]
fn link_and_circuit_are_counted_at_each_turn_and_announced_at_the_first() {
    let mut delivery = linked(settings());
    let mut now = S;
    exchange(&mut delivery, now, &DELIVERED);
    assert_eq!(delivery.take_turns(), []);
    let refused = exchange(&mut delivery, now, &hold());
    assert!(matches!(refused, Some(Change::Held { .. })));
    assert_eq!(delivery.take_turns(), []);
    for probe in 0..3 {
        now += wait(&mut delivery, now);
        let Step::Send(lane) = delivery.next(now, waiting(1, 1)) else {
            panic!("no probe");
        };
        delivery.took(now, lane, Signal::Metrics, 1000);
        let first = [Turn::HalfOpen];
        assert_eq!(delivery.take_turns(), first[..usize::from(probe == 0)]);
        let verdict = if probe == 2 { DELIVERED } else { hold() };
        delivery.settled(now, Signal::Metrics, &verdict, 10, 1000, true);
    }
    assert_eq!(delivery.take_turns(), [Turn::Closed]);
    let mut status = UplinkStatus::default();
    delivery.report(now, waiting(0, 0), &mut status);
    assert_eq!((status.up, status.circuit.as_str()), (true, "closed"));
    let counted: Vec<_> = status
        .transitions
        .iter()
        .map(|(k, n)| (k.as_str(), *n))
        .collect();
    let expected = [
        ("closed", 1),
        ("down", 1),
        ("half_open", 3),
        ("open", 3),
        ("up", 2),
    ];
    assert_eq!(counted, expected);
}
