//! Command lines, and folders that are not what they should be.

use std::ffi::OsString;

use super::*;
use crate::cli::args::{self, Command};
use crate::frame::{Class, Signal};

fn parsed(line: &str) -> Result<Options, String> {
    match args::parse(line.split_whitespace().map(OsString::from)) {
        Ok(Command::Spool(options)) => Ok(options),
        Ok(other) => panic!("{line}: {other:?}"),
        Err(wrong) => Err(wrong),
    }
}

fn refused(line: &str, part: &str) {
    let wrong = parsed(line).unwrap_err();
    assert!(wrong.contains(part), "{line}: {wrong}");
}

#[test]
fn each_act_takes_its_own_options_and_no_others() {
    let options = parsed("spool cat 42 --class normal --signal traces -c a.toml").unwrap();
    assert_eq!(options.act, Act::Cat);
    assert_eq!(options.select.frame, Some((None, 42)));
    assert_eq!(options.select.class, Some(Class::Normal));
    assert_eq!(options.select.signal, Some(Signal::Traces));
    let options = parsed("spool cat feedbeef-7 --dir /d").unwrap();
    assert_eq!(options.select.frame, Some((Some(0xfeed_beef), 7)));
    let options = parsed("spool export --to /t --pending otlp --since @5").unwrap();
    assert_eq!(options.select.pending, Some(UplinkName::Otlp));
    assert_eq!(options.select.since, Some(5_000_000_000));
    assert!(parsed("spool ls --frames --since 2h").unwrap().select.since > Some(0));
    refused("spool lss", "did you mean ls?");
    refused("spool ls --frame", "did you mean --frames?");
    refused("spool ls --class normal", "add --frames");
    refused("spool ls --frames --class norml", "did you mean normal?");
    refused("spool verify --to x", "there is no option");
    refused("spool export", "--to DIR is missing");
    refused("spool cat x-y", "is no frame");
    refused("spool cat 1 2", "one argument too many");
    refused("spool cat --since yesterday", "is no time");
    refused("spool --json", "has no command before it");
}

#[test]
fn a_folder_without_a_spool_is_said_and_one_above_it_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let env = Env::of_process();
    let (code, words) = find(Some(folder.path()), None, &env).unwrap_err();
    assert_eq!(code, FAILED);
    assert!(words.contains("holds no spool"), "{words}");
    let (_, words) = find(Some(&folder.path().join("none")), None, &env).unwrap_err();
    assert!(words.contains("--dir for a copy"), "{words}");
    std::fs::create_dir_all(folder.path().join("spool/normal")).unwrap();
    let place = find(Some(folder.path()), None, &env).unwrap();
    assert_eq!(place.dir, folder.path().join("spool"));
    let (code, _) = find(None, Some(&folder.path().join("s.toml")), &env).unwrap_err();
    assert_eq!(code, WRONG);
}

#[test]
fn a_message_is_shown_with_all_that_mqtt_gives_it() {
    let message = crate::message::Message {
        topic: "plant/1".into(),
        payload: bytes::Bytes::from_static(&[0xff, 0]),
        content_type: Some("x/y".into()),
        expiry: Some(60),
        properties: vec![("k".into(), "v".into())],
        ..crate::message::Message::default()
    };
    let mut out = Vec::new();
    let body = crate::outbox::envelope::encode(&message);
    cat::message(&mut out, &body, None).unwrap().unwrap();
    let line: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(line["topic"], "plant/1");
    assert_eq!(line["payloadBase64"], "/wA=");
    assert_eq!(line["expirySeconds"], 60);
    assert_eq!(line["userProperties"][0]["value"], "v");
    assert!(cat::message(&mut out, b"nonsense", None).is_err());
}
