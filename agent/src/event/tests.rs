use std::sync::mpsc;

use super::name::{AGENT_READY, CLOCK_STEP, CONFIG_RELOAD};
use super::*;

fn offer(name: &str) -> Offer {
    Offer {
        name: name.to_owned(),
        ..Offer::default()
    }
}

#[tokio::test]
async fn every_attached_handler_is_told_until_it_is_detached() {
    let (events, heard) = testing::events();
    let (sender, other) = mpsc::channel();
    let id = events
        .attach("other", move |event: &Event<'_>| {
            sender
                .send(event.name.to_owned())
                .map_err(|e| e.to_string())
        })
        .unwrap();
    events.emit(CLOCK_STEP, &[("step", 3.5)], &[]);
    assert!(events.detach(id));
    assert!(!events.detach(id));
    events.emit(CONFIG_RELOAD, &[], &[]);
    assert_eq!(other.iter().collect::<Vec<_>>(), ["sonde.clock.step"]);
    let step = heard.named("sonde.clock.step").await;
    assert_eq!(step.measurements, [("step".to_owned(), 3.5)]);
    assert_eq!(heard.names(), ["sonde.clock.step", "sonde.config.reload"]);
}

#[test]
fn a_handler_that_fails_or_panics_is_detached_and_shown_and_the_rest_go_on() {
    let events = Events::new(Clock::new(crate::clock::ClockTrust::Always));
    events.attach("failing", |_: &Event<'_>| Err("disk full".to_owned()));
    events.attach("panicking", |_: &Event<'_>| panic!("a bug"));
    let heard = testing::events().1;
    events.attach("test", heard.clone());
    for _ in 0..3 {
        events.emit(CONFIG_RELOAD, &[], &[]);
    }
    assert_eq!(heard.all().len(), 3);
    let status = events.status();
    assert_eq!(status.detachments, 2);
    assert_eq!(
        status.detached,
        ["failing: disk full", "panicking: it panicked"]
    );
    assert_eq!(status.counts.get("sonde.config.reload"), Some(&3));
}

#[test]
fn an_event_from_within_a_handler_is_dropped_and_counted() {
    let (events, heard) = testing::events();
    let again = events.clone();
    events.attach("loop", move |_: &Event<'_>| {
        again.emit(AGENT_READY, &[], &[]);
        Ok(())
    });
    events.emit(CONFIG_RELOAD, &[], &[]);
    assert_eq!(heard.names(), ["sonde.config.reload"]);
    assert_eq!(events.status().refused.get("nested"), Some(&1));
}

#[test]
fn handlers_are_bounded() {
    let (events, _) = testing::events();
    let attached = (0..100).filter(|_| events.attach("x", |_: &Event<'_>| Ok(())).is_some());
    assert_eq!(attached.count(), MAX_HANDLERS - 3);
}

#[test]
fn a_thousand_names_of_local_programs_become_few_series() {
    let events = Events::new(Clock::new(crate::clock::ClockTrust::Always));
    let mut taken = 0;
    for i in 0..1000 {
        let many = Offer {
            measurements: vec![("a".into(), 1.0), ("b".into(), 2.0), ("c".into(), 3.0)],
            ..offer(&format!("program.event{i}"))
        };
        taken += u64::from(events.offer(&many).is_ok());
    }
    assert!((100..200).contains(&taken), "{taken}");
    let counts = events.status().counts;
    assert_eq!(counts.len(), 33);
    assert_eq!(counts.values().sum::<u64>(), taken);
    assert_eq!(counts.get("other"), Some(&(taken - 32)));
    let mut fresh = 0;
    events.tally().each_fresh(|_, _, _| fresh += 1);
    assert_eq!(fresh, 64);
    events.tally().each_fresh(|_, _, _| fresh += 1);
    assert_eq!(fresh, 64, "each is given once");
    let status = events.status();
    assert_eq!(status.recent.len(), 16);
    assert_eq!(status.refused.get("rate"), Some(&(1000 - taken)));
}

#[test]
fn an_event_names_the_span_it_happened_in() {
    let (events, heard) = testing::events();
    let context = crate::trace::propagation::parse(
        "00-12345678901234567890123456789012-1234567890123456-01",
        "",
    )
    .unwrap();
    crate::trace::within(&crate::trace::propagation::remote(&context), || {
        events.emit(CONFIG_RELOAD, &[], &[]);
    });
    events.emit(CONFIG_RELOAD, &[], &[]);
    let spans: Vec<_> = heard.all().iter().map(|event| event.has_span).collect();
    assert_eq!(spans, [true, false]);
}
