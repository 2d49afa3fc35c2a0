//! The handle on real files.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::clock::ClockTrust;
use crate::config::Durability;
use crate::frame::{Class, Codec, Signals, TraceContext};

const OTLP: UplinkName = UplinkName::Otlp;
const LONG: Duration = Duration::from_secs(20);

fn options(dir: &std::path::Path) -> Options {
    Options {
        dir: dir.join("state/spool"),
        limits: SpoolLimits {
            quota: 8 << 20,
            reserve: 0,
            memory: 1 << 20,
            loss_window: Duration::from_secs(60),
            write_budget: 0,
            durability: Durability::Window,
            outbox_in_memory: false,
        },
        subscriptions: vec![Subscription {
            uplink: OTLP,
            required: true,
            signals: vec![Signal::Metrics, Signal::Traces],
        }],
        boot_id: [7; 16],
        clock: Clock::new(ClockTrust::Always),
    }
}

fn batch(class: Class, body: &str) -> Batch {
    let now = Clock::new(ClockTrust::Always).now();
    Batch {
        signal: Signal::Metrics,
        class,
        codec: Codec::Identity,
        items: 3,
        first: now,
        last: now,
        context: Some(TraceContext {
            trace_id: [1; 16],
            span_id: [2; 8],
            flags: 1,
            state: "".into(),
        }),
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

async fn drain(spool: &Spool) -> Vec<Frame> {
    let mut out = Vec::new();
    for lane in [Lane::Live, Lane::Backlog] {
        while let Some(frame) = spool.next(OTLP, lane, Signals::ALL).await {
            spool.settle(OTLP, frame.id, Outcome::Delivered);
            out.push(frame);
        }
    }
    out
}

fn segments(dir: &std::path::Path) -> usize {
    let chains = std::fs::read_dir(dir.join("state/spool")).unwrap();
    let folders = chains.flatten().filter(|entry| entry.path().is_dir());
    folders
        .map(|entry| std::fs::read_dir(entry.path()).unwrap().count())
        .sum()
}

#[tokio::test]
async fn acknowledged_in_time_means_no_flash_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    let id = spool.store(batch(Class::Normal, "one")).await.unwrap();
    let frames = drain(&spool).await;
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].id, id);
    assert!(!frames[0].resent);
    assert_eq!(frames[0].batch.body, "one");
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    assert_eq!(segments(dir.path()), 0);
    assert_eq!(
        spool.store(batch(Class::Normal, "late")).await,
        Err(Refused::Stopped)
    );
}

#[tokio::test]
async fn a_batch_may_be_held_back_only_while_nobody_takes_it_and_flash_does() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    let mut horizon = spool.horizon();
    let mut held = async |some: bool| {
        let held = horizon.wait_for(|hold| hold.is_some() == some);
        *tokio::time::timeout(LONG, held).await.unwrap().unwrap()
    };
    let hold = held(true).await.unwrap();
    let window = Duration::from_secs(60);
    assert!(hold < window && hold > window * 3 / 4);
    spool.link(OTLP, true);
    held(false).await;
    spool.link(OTLP, false);
    held(true).await;
    let mut always = options(dir.path());
    always.limits.durability = Durability::Always;
    spool
        .reconfigure(always.limits, always.subscriptions.clone())
        .await;
    held(false).await;
    // What is optional is never written: it is not held back for the window's sake.
    always.subscriptions[0].required = false;
    spool
        .reconfigure(options(dir.path()).limits, always.subscriptions)
        .await;
    held(false).await;
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
}

#[tokio::test]
async fn the_cursor_files_room_is_counted_as_written_and_only_once() {
    let dir = tempfile::tempdir().unwrap();
    for expected in [32 << 10, 0] {
        let spool = Spool::start(options(dir.path())).unwrap();
        assert_eq!(spool.status().borrow().written_bytes, expected);
        assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    }
}

#[tokio::test]
async fn a_stop_says_how_much_it_could_not_write() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state"), "a file is in the way").unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    for _ in 0..2 {
        spool.store(batch(Class::Normal, "one")).await.unwrap();
    }
    let unwritten = Stopped::Unwritten {
        frames: 2,
        items: 6,
    };
    assert_eq!(spool.stop(LONG).await, unwritten);
}

#[tokio::test]
async fn without_flash_a_message_is_refused_or_delivered_or_knowingly_kept_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state"), "a file is in the way").unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    let refused = spool.store(batch(Class::Outbox, "lost")).await;
    assert_eq!(refused, Err(Refused::NoDisk));
    // An uplink that is up may take it: then it is not lost.
    spool.link(OTLP, true);
    let (stored, ()) = tokio::join!(spool.store(batch(Class::Outbox, "sent")), async {
        let mut pending = spool.pending(OTLP);
        pending
            .wait_for(|pending| pending.backlog > 0)
            .await
            .unwrap();
        assert_eq!(drain(&spool).await.len(), 1);
    });
    assert!(stored.is_ok());
    spool.link(OTLP, false);
    let mut limits = options(dir.path()).limits;
    limits.outbox_in_memory = true;
    spool
        .reconfigure(limits, options(dir.path()).subscriptions)
        .await;
    assert!(spool.store(batch(Class::Outbox, "kept")).await.is_ok());
    let mut status = spool.status();
    let kept = status.wait_for(|status| status.frames == 1);
    tokio::time::timeout(LONG, kept)
        .await
        .expect("in time")
        .unwrap();
}

#[tokio::test]
async fn a_message_that_a_stop_could_not_write_is_not_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state"), "a file is in the way").unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    let (stored, _) = tokio::join!(spool.store(batch(Class::Outbox, "waits")), async {
        let mut pending = spool.pending(OTLP);
        pending
            .wait_for(|pending| pending.backlog > 0)
            .await
            .unwrap();
        spool.stop(LONG).await
    });
    assert_eq!(stored, Err(Refused::NoDisk));
}

#[tokio::test]
async fn what_was_stored_survives_a_restart_and_goes_once_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut ids = Vec::new();
    let spool = Spool::start(options(dir.path())).unwrap();
    for n in 0..50 {
        let class = Class::ALL[n % 4];
        ids.push(
            spool
                .store(batch(class, &format!("body {n}")))
                .await
                .unwrap(),
        );
    }
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);

    let spool = Spool::start(options(dir.path())).unwrap();
    assert_eq!(spool.status().borrow().recovered_frames, 50);
    assert_eq!(spool.pending(OTLP).borrow().backlog, 50);
    assert_eq!(spool.pending(OTLP).borrow().items, 150);
    spool.link(OTLP, true);
    let frames = drain(&spool).await;
    assert_eq!(
        frames[0].id, ids[48],
        "the newest that is not a message comes first, on the live lane"
    );
    let mut got: Vec<FrameId> = frames.iter().map(|frame| frame.id).collect();
    got.sort();
    assert_eq!(got, ids);
    assert!(
        frames
            .iter()
            .all(|frame| frame.resent && frame.batch.context.is_some())
    );
    let next = spool.store(batch(Class::Normal, "after")).await.unwrap();
    assert!(next.seq > ids[49].seq);
    assert_eq!(drain(&spool).await.len(), 1);
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    assert_eq!(segments(dir.path()), 0);

    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    assert_eq!(drain(&spool).await, Vec::new());
}

#[tokio::test]
async fn messages_are_given_oldest_first_on_every_lane_and_keep_their_place_beside_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.subscriptions[0].signals.push(Signal::Message);
    let spool = Spool::start(options).unwrap();
    let messages = Signals::NONE.with(Signal::Message);
    let rest = Signals::ALL.without(Signal::Message);
    let mut ids = Vec::new();
    let store = async |n: usize| {
        let mut message = batch(Class::Outbox, &format!("message {n}"));
        message.signal = Signal::Message;
        spool.store(batch(Class::Normal, "rest")).await.unwrap();
        spool.store(message).await.unwrap()
    };
    for n in 0..5 {
        ids.push(store(n).await);
    }
    spool.link(OTLP, true);
    for n in 5..8 {
        ids.push(store(n).await);
    }
    assert_eq!(spool.next(OTLP, Lane::Live, messages).await, None);
    let mut got = Vec::new();
    while let Some(frame) = spool.next(OTLP, Lane::Backlog, messages).await {
        got.push(frame.id);
        // Now and then one comes back, and is the next again.
        if got.len() % 3 == 0 {
            spool.settle(OTLP, frame.id, Outcome::Returned);
            let again = spool.next(OTLP, Lane::Backlog, messages).await.unwrap();
            assert_eq!(again.id, frame.id);
        }
        spool.settle(OTLP, frame.id, Outcome::Delivered);
        // The rest takes turns on both lanes.
        for lane in [Lane::Live, Lane::Backlog] {
            let other = spool.next(OTLP, lane, rest).await;
            assert!(other.is_none_or(|frame| frame.batch.signal != Signal::Message));
        }
    }
    assert_eq!(got, ids);
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
}

#[tokio::test]
async fn an_expired_message_is_counted_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    let id = spool.store(batch(Class::Outbox, "late")).await.unwrap();
    let frame = spool.next(OTLP, Lane::Backlog, Signals::ALL).await.unwrap();
    assert_eq!(frame.id, id);
    spool.settle(OTLP, id, Outcome::Expired);
    let lost = |status: &crate::status::SpoolStatus| {
        let mut lost = status.lost.iter();
        lost.any(|lost| (lost.reason.as_str(), lost.frames) == ("expired", 1))
    };
    spool.status().wait_for(lost).await.unwrap();
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
}

#[tokio::test]
async fn half_acknowledged_is_not_sent_again_after_a_clean_stop() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    for n in 0..10 {
        spool
            .store(batch(Class::Normal, &format!("{n}")))
            .await
            .unwrap();
    }
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    for _ in 0..4 {
        let frame = spool.next(OTLP, Lane::Backlog, Signals::ALL).await.unwrap();
        spool.settle(OTLP, frame.id, Outcome::Delivered);
    }
    let open = spool.next(OTLP, Lane::Backlog, Signals::ALL).await.unwrap();
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let spool = Spool::start(options(dir.path())).unwrap();
    assert_eq!(spool.pending(OTLP).borrow().backlog, 6);
    spool.link(OTLP, true);
    let again = spool.next(OTLP, Lane::Backlog, Signals::ALL).await.unwrap();
    assert_eq!(again.id, open.id);
    assert!(again.resent);
}

#[tokio::test]
async fn critical_is_on_flash_at_once_when_nobody_takes_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    let mut status = spool.status();
    spool.store(batch(Class::Critical, "boot")).await.unwrap();
    let synced = status.wait_for(|status| status.syncs > 1);
    tokio::time::timeout(LONG, synced)
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(segments(dir.path()), 1);
}

#[tokio::test]
async fn a_second_agent_on_the_folder_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let first = Spool::start(options(dir.path())).unwrap();
    let error = Spool::start(options(dir.path())).unwrap_err();
    assert!(error.to_string().contains("state/spool"), "{error}");
    assert_eq!(first.stop(LONG).await, Stopped::Whole);
    assert!(Spool::start(options(dir.path())).is_ok());
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_means_memory_only_with_an_alarm() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("state"), "a file is in the way").unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    let status = spool.status().borrow().clone();
    assert!(status.path.is_none());
    assert!(status.alarm.unwrap().contains("state/spool"));
    spool.link(OTLP, true);
    spool.store(batch(Class::Normal, "one")).await.unwrap();
    assert_eq!(drain(&spool).await.len(), 1);
}

#[tokio::test]
async fn returned_and_condemned_frames_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    spool.store(batch(Class::Normal, "one")).await.unwrap();
    let frame = spool.next(OTLP, Lane::Live, Signals::ALL).await.unwrap();
    assert_eq!(
        spool.next(OTLP, Lane::Live, Signals::ALL).await,
        None,
        "it is in flight"
    );
    spool.settle(OTLP, frame.id, Outcome::Returned);
    let again = spool.next(OTLP, Lane::Live, Signals::ALL).await.unwrap();
    assert!(again.resent);
    spool.settle(OTLP, again.id, Outcome::Condemned("400 bad".into()));
    assert_eq!(spool.next(OTLP, Lane::Live, Signals::ALL).await, None);
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let status = spool.status().borrow().clone();
    assert_eq!(status.lost[0].reason, "condemned");
    assert_eq!(status.lost[0].items, 3);
}

#[tokio::test]
async fn a_signal_nobody_takes_and_a_body_too_long_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    let mut logs = batch(Class::Normal, "x");
    logs.signal = Signal::Logs;
    assert!(spool.store(logs).await.is_ok());
    let mut long = batch(Class::Bulk, "x");
    long.body = Bytes::from(vec![0; crate::frame::MAX_BODY + 1]);
    assert_eq!(spool.store(long).await, Err(Refused::TooLarge));
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let status = spool.status().borrow().clone();
    let reasons: Vec<&str> = status
        .lost
        .iter()
        .map(|lost| lost.reason.as_str())
        .collect();
    assert_eq!(reasons, ["no_uplink", "too_large"]);
    assert_eq!(
        status.syncs, 2,
        "the cursor file, the losses at the stop, nothing else"
    );
}

#[tokio::test]
async fn a_dead_uplink_does_not_hold_back_another_and_an_optional_one_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.subscriptions.push(Subscription {
        uplink: UplinkName::Mqtt,
        required: false,
        signals: vec![Signal::Metrics],
    });
    let spool = Spool::start(options).unwrap();
    spool.link(OTLP, true);
    for n in 0..20 {
        spool
            .store(batch(Class::Normal, &format!("{n}")))
            .await
            .unwrap();
    }
    assert_eq!(drain(&spool).await.len(), 20);
    assert_eq!(
        spool.next(UplinkName::Mqtt, Lane::Live, Signals::ALL).await,
        None,
        "it is down"
    );
    assert!(
        spool
            .next(UplinkName::Mqtt, Lane::Backlog, Signals::ALL)
            .await
            .is_some()
    );
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    assert_eq!(segments(dir.path()), 0);
    let status = spool.status().borrow().clone();
    // The cursor file once, and the losses at the stop.
    assert_eq!((status.syncs, status.lost.len()), (2, 1));
    assert_eq!(
        (status.lost[0].reason.as_str(), status.lost[0].frames),
        ("optional", 19)
    );
}

#[tokio::test]
async fn always_means_on_flash_before_it_is_given_out() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path());
    options.limits.durability = Durability::Always;
    let spool = Spool::start(options).unwrap();
    spool.link(OTLP, true);
    for n in 0..5 {
        spool
            .store(batch(Class::Normal, &format!("{n}")))
            .await
            .unwrap();
        let frame = spool.next(OTLP, Lane::Live, Signals::ALL).await.unwrap();
        assert!(!frame.resent);
        assert_eq!(segments(dir.path()), 1);
        spool.settle(OTLP, frame.id, Outcome::Delivered);
    }
}

#[tokio::test]
async fn what_only_bears_the_name_of_the_cursor_file_does_not_stop_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/spool");
    std::fs::create_dir_all(&state).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, state.join("cursors"), fifo, mode, 0).unwrap();
    for _ in 0..2 {
        let spool = Spool::start(options(dir.path())).unwrap();
        spool.store(batch(Class::Critical, "one")).await.unwrap();
        assert_eq!(spool.stop(LONG).await, Stopped::Whole);
        std::fs::remove_file(state.join("cursors")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", state.join("cursors")).unwrap();
    }
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    assert_eq!(drain(&spool).await.len(), 2);
}

#[tokio::test]
async fn what_takes_the_place_of_its_files_while_it_runs_costs_what_was_in_them() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state/spool");
    for n in 0..2 {
        let spool = Spool::start(options(dir.path())).unwrap();
        spool
            .store(batch(Class::Normal, &format!("{n}")))
            .await
            .unwrap();
        assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    }
    let spool = Spool::start(options(dir.path())).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    for name in ["normal/0000000000000001.seg", "cursors"] {
        std::fs::remove_file(state.join(name)).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, state.join(name), fifo, mode, 0).unwrap();
    }
    spool.link(OTLP, true);
    let frames = tokio::time::timeout(LONG, drain(&spool))
        .await
        .expect("not stopped for good");
    let bodies: Vec<_> = frames.iter().map(|frame| &frame.batch.body[..]).collect();
    assert_eq!(bodies, [b"1"]);
    spool.link(OTLP, false);
    spool.store(batch(Class::Critical, "last")).await.unwrap();
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let lost = spool.status().borrow().lost.clone();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!((&*lost[0].reason, lost[0].frames), ("removed", 1));
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    assert_eq!(drain(&spool).await.len(), 1);
}

#[tokio::test]
async fn a_folder_that_is_moved_away_takes_along_only_what_was_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    let mut status = spool.status();
    spool.store(batch(Class::Critical, "one")).await.unwrap();
    let synced = status.wait_for(|status| status.syncs > 1);
    let synced = tokio::time::timeout(LONG, synced).await;
    drop(synced.expect("in time").unwrap());
    std::fs::rename(dir.path().join("state"), dir.path().join("elsewhere")).unwrap();
    spool.store(batch(Class::Critical, "two")).await.unwrap();
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let lost = spool.status().borrow().lost.clone();
    assert_eq!(lost.len(), 1, "{lost:?}");
    assert_eq!((&*lost[0].reason, lost[0].frames), ("removed", 1));
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    let frames = drain(&spool).await;
    let bodies: Vec<_> = frames.iter().map(|frame| &frame.batch.body[..]).collect();
    assert_eq!(bodies, [b"two"]);
}

#[tokio::test]
async fn a_segment_that_somebody_made_huge_neither_holds_up_the_start_nor_costs_what_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.store(batch(Class::Normal, "one")).await.unwrap();
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let name = dir.path().join("state/spool/normal/0000000000000001.seg");
    let file = std::fs::OpenOptions::new().write(true).open(name).unwrap();
    file.set_len(1 << 40).unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    assert_eq!(drain(&spool).await.len(), 1);
    assert!(spool.status().borrow().lost.is_empty());
}

#[tokio::test]
async fn a_heap_of_files_without_a_header_takes_neither_memory_nor_time() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.store(batch(Class::Normal, "one")).await.unwrap();
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    let folder = dir.path().join("state/spool/normal");
    for id in 2..5000 {
        std::fs::write(folder.join(format!("{id:016x}.seg")), [b'x'; 300]).unwrap();
    }
    let spool = Spool::start(options(dir.path())).unwrap();
    assert!(std::fs::read_dir(&folder).unwrap().count() < 100);
    spool.link(OTLP, true);
    assert_eq!(drain(&spool).await.len(), 1);
    assert!(spool.status().borrow().lost.is_empty());
}

#[tokio::test]
async fn the_backlog_of_the_first_format_survives_an_upgrade() {
    let vectors =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/spool/inspect/vectors");
    for name in ["sealed.seg", "open.seg"] {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state/spool");
        std::fs::create_dir_all(state.join("normal")).unwrap();
        std::fs::copy(vectors.join("cursors"), state.join("cursors")).unwrap();
        let segment = state.join("normal/000000000000002a.seg");
        std::fs::copy(vectors.join(name), segment).unwrap();
        let mut options = options(dir.path());
        options.subscriptions[0].signals = Signal::ALL.to_vec();
        let spool = Spool::start(options).unwrap();
        let lost = spool.status().borrow().lost.clone();
        assert_eq!((&*lost[0].reason, lost[0].items), ("quota", 300));
        assert_eq!(lost.len(), 1);
        spool.link(OTLP, true);
        let frames = drain(&spool).await;
        let seqs: Vec<u64> = frames.iter().map(|frame| frame.id.seq).collect();
        assert!(seqs.contains(&41) && !seqs.contains(&42), "{seqs:?}");
        let id = spool.store(batch(Class::Normal, "new")).await.unwrap();
        assert!(id.seq >= 46);
    }
}

#[tokio::test]
async fn the_folder_may_vanish_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::start(options(dir.path())).unwrap();
    let mut status = spool.status();
    spool.store(batch(Class::Critical, "one")).await.unwrap();
    let synced = status.wait_for(|status| status.syncs > 1);
    tokio::time::timeout(LONG, synced)
        .await
        .expect("in time")
        .unwrap();
    std::fs::remove_dir_all(dir.path().join("state")).unwrap();
    spool.link(OTLP, true);
    for n in 0..200 {
        spool
            .store(batch(Class::Normal, &format!("{n}")))
            .await
            .unwrap();
    }
    let frames = drain(&spool).await;
    assert!(frames.len() >= 200);
    spool.link(OTLP, false);
    spool.store(batch(Class::Outbox, "last")).await.unwrap();
    assert_eq!(spool.stop(LONG).await, Stopped::Whole);
    // The folder is there again, and locked as before.
    let spool = Spool::start(options(dir.path())).unwrap();
    spool.link(OTLP, true);
    let frames = drain(&spool).await;
    assert!(frames.iter().any(|frame| frame.batch.body == "last"));
    assert!(Spool::start(options(dir.path())).is_err(), "locked");
}
