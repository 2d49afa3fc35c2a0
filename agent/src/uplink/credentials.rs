//! What is wrong inside the files of the uplinks' credentials, told before
//! anything is sent: for `sonde check`. A running agent says the same at its
//! first attempt. What is not there, or not to be read, the configuration's
//! own warnings name.

use std::fs::File;
use std::path::Path;

use super::mqtt::password_fault;
use super::otlp_headers::Headers;
use super::tls;
use crate::config::{Config, Tls};

/// Something that keeps an uplink from its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key that names the file, or that of the certificate, key and roots together.
    pub key: &'static str,
    /// What is wrong with which file; never what is in it.
    pub what: String,
}

/// Reads the files that can be read and tries to make use of them. Blocks for that.
pub fn faults(config: &Config) -> Vec<Fault> {
    let mut found = Vec::new();
    let mut add = |key, what| found.push(Fault { key, what });
    if let Some(otlp) = &config.otlp {
        if let Some(what) = tls_fault(otlp.tls.as_ref()) {
            add("uplink.otlp.tls", what);
        }
        if let Some(path) = otlp.headers_file.as_deref().filter(|path| opens(path)) {
            let problems = match Headers::read(path) {
                Ok(headers) => headers.problems,
                Err(problem) => vec![problem],
            };
            for what in problems {
                add("uplink.otlp.headers_file", what);
            }
        }
    }
    if let Some(mqtt) = &config.mqtt {
        if let Some(what) = tls_fault(mqtt.tls.as_ref()) {
            add("uplink.mqtt.tls", what);
        }
        let path = mqtt.password_file.as_deref().filter(|path| opens(path));
        if let Some(what) = path.and_then(password_fault) {
            add("uplink.mqtt.password_file", what);
        }
    }
    found
}

fn tls_fault(files: Option<&Tls>) -> Option<String> {
    let files = files?;
    let mut named = [&files.ca_file, &files.cert_file, &files.key_file]
        .into_iter()
        .flatten();
    if !named.all(|path| opens(path)) {
        return None;
    }
    Some(tls::client_config(files).err()?.to_string())
}

/// Whether it is a file that can be read; anything else could wait for ever.
fn opens(path: &Path) -> bool {
    let file = std::fs::metadata(path).is_ok_and(|about| about.is_file());
    file && File::open(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_that_cannot_work_is_named_and_what_is_missing_is_left_to_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let (one, other) = (made("one"), made("other"));
        for (name, text) in [
            ("garbage.pem", "garbage".to_owned()),
            ("one.pem", one.cert.pem()),
            ("one.key", one.signing_key.serialize_pem()),
            ("other.key", other.signing_key.serialize_pem()),
            ("empty", String::new()),
            ("lines", "first\nsecond\n".into()),
            ("password", "right\n".into()),
            ("headers", "Authorization Bearer x\nX-Good: 1\n".into()),
            ("good-headers", "X-Good: 1\n".into()),
        ] {
            std::fs::write(at(name), text).unwrap();
        }
        let faults_of = |ca: &str, key: &str, password: &str, headers: &str| {
            let text = format!(
                "[uplink.otlp]\nendpoint = \"https://c\"\nheaders_file = \"{}\"\n\
                 [uplink.mqtt]\nurl = \"mqtts://b\"\npassword_file = \"{}\"\nusername = \"u\"\n\
                 [uplink.mqtt.tls]\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n\
                 [uplink.otlp.tls]\nca_file = \"{}\"\n",
                at(headers),
                at(password),
                at(ca),
                at("one.pem"),
                at(key),
                at("one.pem"),
            );
            let file = folder.path().join("sonde.toml");
            std::fs::write(&file, text).unwrap();
            let env = crate::config::Env {
                vars: [("HOME".to_owned(), "/home/op".into())].into(),
                root: false,
                folder: folder.path().into(),
                default_file: file,
            };
            let config = crate::config::load(None, &env).unwrap().config;
            faults(&config)
                .into_iter()
                .map(|fault| (fault.key, fault.what))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            faults_of("one.pem", "one.key", "password", "good-headers"),
            []
        );
        assert_eq!(faults_of("gone", "one.key", "gone", "gone"), []);
        for (bad, key, words) in [
            (
                faults_of("garbage.pem", "one.key", "password", "good-headers"),
                "uplink.mqtt.tls",
                "garbage.pem",
            ),
            (
                faults_of("one.pem", "other.key", "password", "good-headers"),
                "uplink.mqtt.tls",
                "do not belong together",
            ),
            (
                faults_of("one.pem", "one.key", "empty", "good-headers"),
                "uplink.mqtt.password_file",
                "is empty",
            ),
            (
                faults_of("one.pem", "one.key", "lines", "good-headers"),
                "uplink.mqtt.password_file",
                "more than one line",
            ),
            (
                faults_of("one.pem", "one.key", "password", "headers"),
                "uplink.otlp.headers_file",
                "no colon",
            ),
        ] {
            assert_eq!(bad.len(), 1, "{bad:?}");
            assert!(bad[0].0 == key && bad[0].1.contains(words), "{bad:?}");
            assert!(!bad[0].1.contains("Bearer") && !bad[0].1.contains("first"));
        }
    }
}
