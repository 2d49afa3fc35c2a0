//! A server's no is not a licence to delete: what each answer of a collector
//! makes of the data.

use sonde_agent::frame::Signal;
use sonde_agent::status::{Status, UplinkStatus};
use sonde_tests::collector::{Answer, Collector};
use sonde_tests::ledger::Ledger;
use sonde_tests::proof;
use sonde_tests::rotel::Rotel;
use sonde_tests::world::{LATER, Otlp, SOON, finish};

#[tokio::test]
async fn a_503_is_tried_again_until_it_is_taken() {
    held_then_delivered("answer-503", Answer::Status(503), Some(503)).await;
}

#[tokio::test]
async fn a_502_and_a_504_are_tried_again() {
    held_then_delivered("answer-502", Answer::Status(502), Some(502)).await;
    held_then_delivered("answer-504", Answer::Status(504), Some(504)).await;
}

#[tokio::test]
async fn answers_that_people_must_repair_hold_the_data() {
    for status in [403, 404, 500] {
        let name = format!("answer-{status}");
        held_then_delivered(&name, Answer::Status(status), Some(status)).await;
    }
}

#[tokio::test]
async fn a_redirect_holds_the_data() {
    let elsewhere = Collector::start().await.unwrap();
    let answer = Answer::Redirect(format!("{}/v1/metrics", elsewhere.url()));
    held_then_delivered("answer-307", answer, Some(307)).await;
    assert!(elsewhere.book.is_empty(), "a redirect was followed");
}

#[tokio::test]
async fn a_server_that_answers_garbage_gets_nothing_deleted() {
    held_then_delivered("answer-garbage", Answer::Garbage, None).await;
}

#[tokio::test]
async fn a_slow_loris_server_is_given_up_on_by_deadline() {
    held_then_delivered("answer-slow", Answer::SlowLoris, None).await;
}

#[tokio::test]
async fn a_200_with_a_body_nobody_understands_counts_as_delivered() {
    let otlp = Otlp::start().await;
    let mut agent = otlp.gateway("answer-odd-body").start();
    otlp.collector.answer(Answer::GarbageBody);
    otlp.tick(6).await;
    finish(&mut agent, Some(&otlp), None).await;
    let verdict = otlp.prove("answer-odd-body");
    assert_eq!(verdict.repeats(), 0);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let otlp = Otlp::start().await;
    let mut agent = otlp.gateway("answer-429").start();
    otlp.tick(2).await;
    otlp.collector.answer(Answer::TooMany { retry_after: 8 });
    otlp.collector.wait_answered(429, 1, SOON).await.unwrap();
    let from = agent.ready().await.unwrap().agent.ticks;
    agent
        .wait("5 more ticks", SOON, |status| {
            status.agent.ticks >= from + 5
        })
        .await
        .unwrap();
    assert_eq!(
        otlp.collector.answered(429),
        1,
        "asked again before the 8 s were over"
    );
    otlp.collector.answer(Answer::Accept);
    otlp.tick(from + 5).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("answer-429");
}

#[tokio::test]
async fn a_400_condemns_one_frame_counts_it_and_goes_on() {
    let otlp = Otlp::start().await;
    let mut agent = otlp.gateway("answer-400").start();
    otlp.tick(2).await;
    otlp.collector.answer_once([Answer::Status(400)]);
    let status = agent
        .wait("a condemned frame, counted as lost", SOON, |status| {
            // Two owners, who publish one after the other.
            let lost = &status.spool.lost;
            uplink(status).condemned_frames == 1
                && lost
                    .iter()
                    .any(|lost| lost.reason == "condemned" && lost.items > 0)
        })
        .await
        .unwrap();
    otlp.tick(status.agent.ticks + 2).await;
    finish(&mut agent, Some(&otlp), None).await;
    assert_eq!(
        otlp.collector.answered(400),
        1,
        "a condemned frame was sent again"
    );
}

#[tokio::test]
async fn a_413_splits_and_everything_arrives() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("answer-413");
    gateway
        .text("batch.length", "6s")
        .text("spool.loss_window", "12s");
    let mut agent = gateway.start();
    otlp.tick(6).await;
    let largest = otlp
        .collector
        .book
        .read(|ledger| ledger.of(Signal::Metrics).map(|one| one.body_bytes).max());
    otlp.collector
        .answer(Answer::LimitBytes(largest.unwrap() * 3 / 4));
    otlp.collector.wait_answered(413, 1, LATER).await.unwrap();
    let until = agent.ready().await.unwrap().agent.ticks + 6;
    otlp.tick(until).await;
    otlp.collector.answer(Answer::Accept);
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("answer-413");
    let status = gateway.stderr();
    assert!(!status.contains("panicked"), "{status}");
}

#[tokio::test]
async fn partial_success_is_counted_and_not_sent_again() {
    let otlp = Otlp::start().await;
    let mut agent = otlp.gateway("answer-partial").start();
    otlp.tick(2).await;
    otlp.collector
        .answer_once([Answer::Partial { rejected: 3 }]);
    agent
        .wait("3 rejected items", SOON, |status| {
            uplink(status).rejected_items == 3
        })
        .await
        .unwrap();
    otlp.tick(6).await;
    finish(&mut agent, Some(&otlp), None).await;
    assert_eq!(otlp.prove("answer-partial").repeats(), 0);
}

#[tokio::test]
async fn an_expired_token_deletes_nothing_and_a_new_one_delivers_all() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("answer-401");
    let token = gateway.path("headers");
    std::fs::write(&token, "Authorization: Bearer old\n").unwrap();
    gateway.text("uplink.otlp.headers_file", &token.display().to_string());
    otlp.collector
        .answer(Answer::NeedToken("Bearer old".to_owned()));
    let mut agent = gateway.start();
    otlp.tick(3).await;
    // The token expires. An hour of retries, compressed: waits of at most 1 s.
    otlp.collector
        .answer(Answer::NeedToken("Bearer new".to_owned()));
    otlp.collector.wait_answered(401, 10, LATER).await.unwrap();
    let from = agent.ready().await.unwrap().agent.ticks;
    let status = agent
        .wait("more ticks", LATER, |status| status.agent.ticks >= from + 5)
        .await
        .unwrap();
    assert_eq!(uplink(&status).condemned_frames, 0);
    assert!(status.spool.lost.is_empty(), "{:?}", status.spool.lost);
    let error = uplink(&status).last_error.clone().unwrap_or_default();
    assert!(error.contains("401"), "{error}");
    std::fs::write(&token, "Authorization: Bearer new\n").unwrap();
    otlp.tick(status.agent.ticks).await;
    finish(&mut agent, Some(&otlp), None).await;
    let verdict = otlp.prove("answer-401");
    assert_eq!(verdict.gaps(), 0);
}

#[tokio::test]
async fn a_token_file_that_is_missing_holds_the_data_until_it_comes() {
    let otlp = Otlp::start().await;
    let mut gateway = otlp.gateway("answer-no-token");
    let token = gateway.path("headers");
    gateway.text("uplink.otlp.headers_file", &token.display().to_string());
    otlp.collector
        .answer(Answer::NeedToken("Bearer new".to_owned()));
    let mut agent = gateway.start();
    let status = agent
        .wait("the missing file in the status", SOON, |status| {
            status.agent.ticks >= 6 && uplink(status).last_error.is_some()
        })
        .await
        .unwrap();
    assert!(otlp.collector.book.is_empty());
    assert!(status.spool.lost.is_empty(), "{:?}", status.spool.lost);
    std::fs::write(&token, "Authorization: Bearer new\n").unwrap();
    otlp.tick(status.agent.ticks).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove("answer-no-token");
}

#[tokio::test]
async fn a_real_collector_understands_everything() {
    let otlp = Otlp::start().await;
    let rotel = Rotel::start(otlp.collector.address()).await.unwrap();
    let mut gateway = otlp.gateway("rotel");
    gateway.otlp(&rotel.url());
    let mut agent = gateway.start();
    otlp.tick(6).await;
    otlp.collector
        .book
        .wait("spans through rotel", LATER, |ledger| {
            !ledger.spans().is_empty()
        })
        .await
        .unwrap_or_else(|error| panic!("{error}\n{}", rotel.log()));
    assert!(agent.terminate(SOON).await.unwrap().success());
    let whole = |ledger: &Ledger| proof::judge(ledger).holds();
    // rotel batches for 200 ms after it has acknowledged; what is wrong is said below.
    let _ = otlp.collector.book.wait("the rest", SOON, whole).await;
    otlp.prove("rotel");
}

/// Answers like that for some batches, then accepts: all must arrive, nothing
/// be condemned or lost, and the status have said what was wrong meanwhile.
async fn held_then_delivered(name: &str, answer: Answer, status_code: Option<u16>) {
    let otlp = Otlp::start().await;
    let mut agent = otlp.gateway(name).start();
    otlp.tick(2).await;
    otlp.collector.answer(answer);
    if let Some(code) = status_code {
        otlp.collector.wait_answered(code, 2, LATER).await.unwrap();
    }
    let held = agent
        .wait("the error in the status", SOON, |status| {
            let uplink = uplink(status);
            uplink.last_error.is_some() && uplink.state != "up"
        })
        .await
        .unwrap();
    let until = held.agent.ticks + 6;
    let held = agent
        .wait("6 more ticks", SOON, |status| status.agent.ticks >= until)
        .await
        .unwrap();
    assert_eq!(uplink(&held).condemned_frames, 0);
    assert!(held.spool.lost.is_empty(), "{:?}", held.spool.lost);
    otlp.collector.answer(Answer::Accept);
    otlp.tick(until).await;
    finish(&mut agent, Some(&otlp), None).await;
    otlp.prove(name);
}

fn uplink(status: &Status) -> &UplinkStatus {
    status
        .uplinks
        .iter()
        .find(|uplink| uplink.name == "otlp")
        .expect("the otlp uplink's status")
}
