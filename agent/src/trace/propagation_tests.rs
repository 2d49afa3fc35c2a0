//! The cases that W3C publishes with Trace Context (`test/test.py`) and Baggage
//! (`test/test_baggage.py`), and the carriers that are Sonde's own concern.

use super::*;

const TRACE: &str = "12345678901234567890123456789012";
const PARENT_00: &str = "00-12345678901234567890123456789012-1234567890123456-00";
const PARENT_01: &str = "00-12345678901234567890123456789012-1234567890123456-01";

/// What a `traceparent` alone makes of itself on the next hop.
fn passed(traceparent: &str) -> Option<String> {
    extract([("traceparent", traceparent)])
        .context
        .map(|context| context.traceparent())
}

fn accepted(traceparent: &str) {
    assert_eq!(
        passed(traceparent).as_deref(),
        Some(PARENT_01),
        "{traceparent:?}"
    );
}

fn refused(traceparent: &str) {
    assert_eq!(passed(traceparent), None, "{traceparent:?}");
}

/// What several `tracestate` fields become; the trace itself goes on in any case.
fn state_of(fields: &[&str]) -> String {
    let all = [("traceparent", PARENT_00)].into_iter();
    let carried = extract(all.chain(fields.iter().map(|value| ("tracestate", *value))));
    let context = carried.context.unwrap();
    assert_eq!(context.traceparent(), PARENT_00);
    context.state.into()
}

fn baggage_of(fields: &[&str]) -> String {
    let carried = extract(fields.iter().map(|value| ("baggage", *value)));
    assert_eq!(carried.context, None);
    carried.baggage.into()
}

// traceparent

#[test]
fn nothing_carried_is_no_context_and_sends_nothing() {
    let carried = extract([]);
    assert_eq!(carried, Carried::default());
    assert!(fields(&carried).is_empty());
    assert!(environment(&carried).is_empty());
}

#[test]
fn traceparent_alone_continues_the_trace() {
    accepted(PARENT_01);
}

#[test]
fn a_repeated_traceparent_restarts_the_trace() {
    let other = "00-12345678901234567890123456789011-1234567890123456-01";
    for second in [other, PARENT_01, "", "garbage"] {
        let both = [
            ("traceparent", PARENT_01),
            ("tracestate", "foo=1"),
            ("TraceParent", second),
        ];
        assert_eq!(extract(both).context, None, "{second:?}");
    }
}

#[test]
fn other_names_are_not_traceparent() {
    for name in ["trace-parent", "trace.parent", "traceparent ", ""] {
        assert_eq!(extract([(name, PARENT_01)]).context, None, "{name:?}");
    }
}

#[test]
fn http_header_names_may_have_any_case() {
    for name in ["TraceParent", "TrAcEpArEnT", "TRACEPARENT"] {
        assert!(extract([(name, PARENT_01)]).context.is_some(), "{name}");
    }
    for name in ["TraceState", "TrAcEsTaTe", "TRACESTATE"] {
        let context = extract([("traceparent", PARENT_00), (name, "foo=1")]).context;
        assert_eq!(&*context.unwrap().state, "foo=1", "{name}");
    }
    assert_eq!(&*extract([("Baggage", "a=1")]).baggage, "a=1");
}

#[test]
fn version_00_has_nothing_after_the_flags() {
    refused(&format!("{PARENT_01}."));
    refused(&format!("{PARENT_01}-"));
    refused(&format!("{PARENT_01}-what-the-future-will-be-like"));
}

#[test]
fn a_future_version_is_read_as_far_as_it_is_known_and_sent_as_version_00() {
    let future = format!("cc-{TRACE}-1234567890123456-01");
    accepted(&future);
    accepted(&format!("{future}-what-the-future-will-be-like"));
    accepted(&format!("{future}-"));
    refused(&format!("{future}.what-the-future-will-be-like"));
    refused(&format!("cc-{TRACE}-1234567890123456-1"));
    refused(&format!("cc-{TRACE}-1234567890123456-011"));
}

#[test]
fn version_ff_is_invalid() {
    refused(&format!("ff-{TRACE}-1234567890123456-01"));
    refused(&format!("ff-{TRACE}-1234567890123456-01-more"));
}

#[test]
fn a_wrong_version_is_invalid() {
    for version in [".0", "0.", "000", "0000", "0", "", "CC", "0x"] {
        refused(&format!("{version}-{TRACE}-1234567890123456-01"));
    }
}

#[test]
fn a_wrong_trace_id_is_invalid() {
    for id in [
        "00000000000000000000000000000000",
        ".2345678901234567890123456789012",
        "1234567890123456789012345678901.",
        "123456789012345678901234567890123",
        "1234567890123456789012345678901",
        "1234567890ABCDEF1234567890ABCDEF",
        "",
    ] {
        refused(&format!("00-{id}-1234567890123456-01"));
    }
}

#[test]
fn a_wrong_parent_id_is_invalid() {
    for id in [
        "0000000000000000",
        ".234567890123456",
        "123456789012345.",
        "12345678901234567",
        "123456789012345",
        "123456789012345F",
        "",
    ] {
        refused(&format!("00-{TRACE}-{id}-01"));
    }
}

#[test]
fn wrong_flags_are_invalid() {
    for flags in [".0", "0.", "001", "1", "", "0A"] {
        refused(&format!("00-{TRACE}-1234567890123456-{flags}"));
    }
}

#[test]
fn reserved_flags_are_not_passed_on() {
    let flags = |flags| passed(&format!("00-{TRACE}-1234567890123456-{flags}")).unwrap();
    assert!(flags("ff").ends_with("-03"), "sampled and random stay");
    assert!(flags("fc").ends_with("-00"));
    assert!(flags("09").ends_with("-01"));
}

#[test]
fn white_space_around_traceparent_is_not_part_of_it() {
    for (before, after) in [(" ", ""), ("\t", ""), ("", " "), ("", "\t"), ("\t ", " \t")] {
        accepted(&format!("{before}{PARENT_01}{after}"));
    }
    refused(&format!("\n{PARENT_01}"));
    refused(&format!("\u{a0}{PARENT_01}"));
}

#[test]
fn letters_of_several_bytes_do_not_break_the_parser() {
    for at in 0..PARENT_01.len() {
        let mut text = PARENT_01.to_owned();
        text.replace_range(at..=at, "ä");
        refused(&text);
        text.pop();
        refused(&text);
    }
}

// tracestate

#[test]
fn tracestate_without_traceparent_is_discarded() {
    assert_eq!(extract([("tracestate", "foo=1,bar=2")]), Carried::default());
}

#[test]
fn an_invalid_traceparent_takes_tracestate_along() {
    let fields = [
        ("traceparent", "garbage"),
        ("tracestate", "foo=1"),
        ("baggage", "a=1"),
    ];
    let carried = extract(fields);
    assert_eq!(carried.context, None);
    assert_eq!(&*carried.baggage, "a=1", "which is not about the trace");
}

#[test]
fn tracestate_goes_on_in_its_order() {
    assert_eq!(state_of(&["foo=1,bar=2"]), "foo=1,bar=2");
    assert_eq!(state_of(&["baz=3,bar=2,foo=1"]), "baz=3,bar=2,foo=1");
    assert_eq!(
        state_of(&["foo=1,bar=2", "rojo=1,congo=2", "baz=3"]),
        "foo=1,bar=2,rojo=1,congo=2,baz=3"
    );
}

#[test]
fn other_names_are_not_tracestate() {
    for name in ["trace-state", "trace.state"] {
        let context = extract([("traceparent", PARENT_00), (name, "foo=1")]).context;
        assert_eq!(&*context.unwrap().state, "");
    }
}

#[test]
fn empty_members_and_fields_are_skipped() {
    assert_eq!(state_of(&[""]), "");
    assert_eq!(state_of(&["foo=1", ""]), "foo=1");
    assert_eq!(state_of(&["", "foo=1"]), "foo=1");
    assert_eq!(state_of(&[",, \t,foo=1, ,"]), "foo=1");
}

#[test]
fn a_repeated_key_discards_tracestate() {
    for fields in [
        &["foo=1,foo=1"] as &[&str],
        &["foo=1,foo=2"],
        &["foo=1", "foo=1"],
        &["foo=1", "bar=1", "foo=2"],
    ] {
        assert_eq!(state_of(fields), "", "{fields:?}");
    }
}

#[test]
fn every_allowed_character_goes_on() {
    let key = "abcdefghijklmnopqrstuvwxyz0123456789_-*/";
    let value: String = (' '..='~').filter(|c| *c != ',' && *c != '=').collect();
    for key in [key.to_owned(), format!("{key}@a-z0-9_-*/"), "0foo".into()] {
        let member = format!("{key}={value}");
        assert_eq!(state_of(&[&member]), member);
    }
}

#[test]
fn white_space_around_members_is_not_part_of_them() {
    let three = "foo=1,bar=2,baz=3";
    assert_eq!(state_of(&["foo=1 \t , \t bar=2, \t baz=3"]), three);
    assert_eq!(state_of(&["foo=1\t \t,\t \tbar=2,\t \tbaz=3"]), three);
    for text in [" foo=1", "\tfoo=1", "foo=1 ", "foo=1\t", "\t foo=1 \t"] {
        assert_eq!(state_of(&[text]), "foo=1", "{text:?}");
    }
    assert_eq!(state_of(&["foo=  1 2 ,bar=2"]), "foo=  1 2,bar=2");
}

#[test]
fn a_wrong_key_discards_tracestate() {
    for key in [
        "foo ",
        "FOO",
        "foo.bar",
        "foo@",
        "@foo",
        "foo@@bar",
        "foo@bar@baz",
        "foo@1bar",
        "_foo",
        "foo\tbar",
        "föö",
        "",
    ] {
        assert_eq!(state_of(&[&format!("{key}=1,bar=2")]), "", "{key:?}");
    }
    assert_eq!(state_of(&["foobarbaz"]), "");
}

#[test]
fn a_list_has_32_members_at_most() {
    let list = |count| {
        let members: Vec<_> = (1..=count).map(|i| format!("bar{i:02}={i:02}")).collect();
        members.join(",")
    };
    assert_eq!(state_of(&[&list(32)]), list(32));
    assert_eq!(state_of(&[&list(33)]), "");
    let (front, back) = (list(32), "bar33=33");
    assert_eq!(state_of(&[&front, back]), "");
    assert_eq!(state_of(&[&front, ",,"]), front, "empty ones do not count");
}

#[test]
fn a_key_has_256_characters_at_most_241_of_a_tenant_14_of_a_vendor() {
    for (key, valid) in [
        ("z".repeat(256), true),
        ("z".repeat(257), false),
        (format!("{}@{}", "t".repeat(241), "v".repeat(14)), true),
        (format!("{}@v", "t".repeat(242)), false),
        (format!("t@{}", "v".repeat(15)), false),
    ] {
        let member = format!("{key}=1");
        let expected = if valid {
            format!("foo=1,{member}")
        } else {
            String::new()
        };
        assert_eq!(state_of(&["foo=1", &member]), expected);
    }
}

#[test]
fn a_wrong_value_discards_tracestate() {
    for value in ["bar=baz", "", " ", "a\u{7f}", "ä", "a\tb"] {
        assert_eq!(state_of(&[&format!("foo={value},bar=3")]), "", "{value:?}");
    }
    assert_eq!(state_of(&[&format!("foo={}", "x".repeat(257))]), "");
}

#[test]
fn what_is_too_long_loses_long_members_first_then_the_last_ones() {
    let fits = format!("foo={},bar={}", "x".repeat(256), "y".repeat(512 - 265));
    assert_eq!(fits.len(), 512);
    assert_eq!(state_of(&[&fits]), fits);

    let long = format!("long={}", "x".repeat(124));
    assert_eq!(long.len(), 129);
    let short = |i: u8| format!("s{i}={}", "y".repeat(125));
    assert_eq!(short(1).len(), 128);
    let list = [short(1), long, short(2), short(3), short(4)].join(",");
    assert_eq!(state_of(&[&list]), [short(1), short(2), short(3)].join(","));
}

// baggage

#[test]
fn baggage_goes_on_with_its_encoding_and_properties() {
    for text in [
        "SomeKey=SomeValue",
        "SomeKey=SomeValue;SomeProp,SomeKey2=SomeValue2;ValueProp=PropVal",
        "SomeKey \t = \t SomeValue \t ; \t SomeProp \t = \t PropVal",
        "SomeKey=SomeValue=equals",
        "SomeKey=%09%20%22%27%3B%3Dasdf%21%40%23%24%25%5E%26%2A%28%29",
        "SomeKey=SomeValue;SomeProp;SecondProp=PropValue",
        "userId=alice,serverNode=DF%2028,isProduction=false",
        "empty=,a=1;p=",
        "a=1,a=2",
    ] {
        assert_eq!(baggage_of(&[text]), text);
    }
    assert_eq!(
        baggage_of(&["userId =   alice", "", " b = 2 , c = 3"]),
        "userId =   alice,b = 2,c = 3"
    );
}

#[test]
fn only_the_members_of_baggage_that_are_wrong_are_dropped() {
    for wrong in [
        "key",
        "=value",
        "a b=1",
        "a=1 2",
        "a=\"q\"",
        "a=b\\c",
        "a=ä",
        "ä=a",
        "a=1;",
        "a=1;;p",
        "a=1;p q",
        "a=1;p=\"",
        "a\u{7f}=1",
        "a=\n",
    ] {
        assert_eq!(
            baggage_of(&[&format!("x=1,{wrong},y=2")]),
            "x=1,y=2",
            "{wrong:?}"
        );
    }
}

#[test]
fn sixty_four_members_and_8192_bytes_go_on_whole() {
    let members: Vec<_> = (0..64).map(|i| format!("key{i}=value")).collect();
    assert_eq!(baggage_of(&[&members.join(",")]), members.join(","));

    let long = format!("a={}", "0123456789".repeat(819));
    assert_eq!(long.len(), 8192);
    assert_eq!(baggage_of(&[&long]), long);
    assert_eq!(baggage_of(&[&format!("{long}x")]), "");

    let members: Vec<_> = (0..512).map(|i| format!("{i:03}=0123456789a")).collect();
    let many = format!("{}b", members.join(","));
    assert_eq!(many.len(), 8192);
    assert_eq!(baggage_of(&[&many]), many);
}

#[test]
fn baggage_that_is_too_long_loses_whole_members() {
    let long = format!("a={}", "0".repeat(8000));
    let other = format!("b={}", "0".repeat(8000));
    assert_eq!(baggage_of(&[&long, &other, "c=1"]), format!("{long},c=1"));
}

// carriers

#[test]
fn mqtt_user_properties_have_lower_case_names() {
    let mixed = [
        ("TraceParent", PARENT_00),
        ("traceparent", PARENT_01),
        ("Tracestate", "no=1"),
        ("tracestate", "foo=1"),
        ("Baggage", "no=1"),
        ("baggage", "a=1"),
    ];
    let carried = extract_mqtt(mixed);
    let pairs = fields(&carried);
    let sent: Vec<_> = pairs.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let expected = [
        ("traceparent", PARENT_01),
        ("tracestate", "foo=1"),
        ("baggage", "a=1"),
    ];
    assert_eq!(sent, expected);
    assert_eq!(extract_mqtt(sent), carried);

    let twice = [("traceparent", PARENT_01), ("traceparent", PARENT_01)];
    assert_eq!(extract_mqtt(twice).context, None);
}

#[test]
fn an_environment_carries_all_three_both_ways() {
    let carried = from_env(|name| match name {
        "TRACEPARENT" => Some(PARENT_01.into()),
        "TRACESTATE" => Some("foo=1, bar=2".into()),
        "BAGGAGE" => Some("a=1;p".into()),
        "traceparent" => Some("00-no".into()),
        _ => None,
    });
    let expected = [
        ("TRACEPARENT", PARENT_01.to_owned()),
        ("TRACESTATE", "foo=1,bar=2".to_owned()),
        ("BAGGAGE", "a=1;p".to_owned()),
    ];
    assert_eq!(environment(&carried), expected);
    assert_eq!(from_env(|_| None), Carried::default());
}

// spans

#[test]
fn a_span_continues_what_was_carried_and_passes_it_on() {
    use opentelemetry::trace::{Span as _, Tracer as _};

    let (tracer, _) = super::super::testing::tracer();
    let vendor = "tenant@vendor_of_14_c=1";
    let carried = extract([
        (
            "traceparent",
            "00-12345678901234567890123456789012-1234567890123456-03",
        ),
        ("tracestate", &format!("foo= 1,{vendor}")),
        ("baggage", "a=1"),
    ]);
    let span = tracer.start_with_context("work", &carried.parent());
    let context = span.span_context();
    assert_eq!(context.trace_id().to_string(), TRACE);
    assert_eq!(
        context.trace_state().header(),
        "foo= 1",
        "what the SDK takes"
    );

    let next = carried.within(context);
    let expected = format!("00-{TRACE}-{}-03", context.span_id());
    assert_eq!(
        fields(&next),
        [
            ("traceparent", expected),
            ("tracestate", format!("foo= 1,{vendor}")),
            ("baggage", "a=1".to_owned()),
        ]
    );
}

#[test]
fn a_span_of_another_trace_takes_only_the_baggage_on() {
    use opentelemetry::trace::{Span as _, Tracer as _};

    let (tracer, _) = super::super::testing::tracer();
    let carried = Carried {
        context: None,
        ..extract([("baggage", "a=1")])
    };
    let span = tracer.start_with_context("work", &carried.parent());
    assert!(span.span_context().is_valid());
    let stranger = extract([
        ("traceparent", PARENT_01),
        ("tracestate", "foo=1"),
        ("baggage", "a=1"),
    ]);
    let next = stranger.within(span.span_context());
    assert_eq!(&*next.context.as_ref().unwrap().state, "");
    assert_eq!(&*next.baggage, "a=1");
    assert_eq!(next, carried.within(span.span_context()));
    assert_eq!(carried.within(&SpanContext::NONE).context, None);
}

#[test]
fn a_context_survives_the_way_through_the_sdk() {
    let context = parse(PARENT_01, "foo=1,bar=2").unwrap();
    assert_eq!(context_of(&remote(&context)), context);
    assert!(remote(&context).is_remote());
}
