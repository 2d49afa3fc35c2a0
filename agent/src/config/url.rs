//! Where an uplink goes: `scheme://host[:port][/path]`, and nothing else.
//!
//! Refuses what other URL parsers take: user and password (a secret has no
//! place in this file), queries and fragments (a signal's path is appended, so
//! they would end up in its middle), and host names that no resolver takes.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::problem::quoted;
use super::value::Wrong;

/// A checked URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// `http`, `https`, `mqtt` or `mqtts`.
    pub scheme: &'static str,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port, filled in from the scheme when it was left out.
    pub port: u16,
    /// With its leading `/` and no trailing one; empty if there is none.
    pub path: String,
    /// Whether the path was given as it must be used (it ended without `/`).
    pub given: String,
}

impl Url {
    /// Reads one of `schemes`; `path`: whether a path may follow.
    ///
    /// # Errors
    /// What is wrong with it and what to write instead.
    pub fn parse(text: &str, schemes: &[&'static str], path: bool) -> Result<Self, Wrong> {
        let forms: Vec<_> = schemes.iter().map(|s| format!("{s}://HOST:PORT")).collect();
        let expected = format!("expected {}", forms.join(" or "));
        if text.contains('@') {
            return Err(Wrong::secret(
                "has a user name or password in its URL",
                "remove everything up to the @; secrets come from password_file or headers_file",
            ));
        }
        if text.len() > 2048 || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Wrong::new(
                "is not a URL: it has spaces, control characters or letters outside ASCII, or is over 2048 bytes",
                expected,
            ));
        }
        let wrong = |what: String| Wrong::new(what, expected.clone());
        let Some((scheme, rest)) = text.split_once("://") else {
            let first = schemes.last().copied().unwrap_or_default();
            return Err(Wrong::new(
                format!("{} has no scheme", quoted(text)),
                format!("did you mean \"{first}://{text}\"? {expected}"),
            ));
        };
        let lower = scheme.to_ascii_lowercase();
        let Some(scheme) = schemes.iter().copied().find(|known| **known == *lower) else {
            return Err(wrong(format!("has the scheme {}", quoted(scheme))));
        };
        if rest.contains(['?', '#']) {
            return Err(Wrong::new(
                "has a query or a fragment",
                "end the URL before the ? or #; put keys into headers_file",
            ));
        }
        let (authority, given) = match rest.find('/') {
            Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
            None => (rest, ""),
        };
        if !path && given.len() > 1 {
            return Err(wrong("has a path, and this one takes none".into()));
        }
        if !given.is_empty() && !is_target(given) {
            return Err(wrong(
                "has a path with characters that do not belong there".into(),
            ));
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let Some((address, port)) = rest.split_once(']') else {
                    return Err(wrong("has a [ without ]".into()));
                };
                if address.parse::<Ipv6Addr>().is_err() {
                    return Err(wrong(format!("{} is not an IPv6 address", quoted(address))));
                }
                match port.strip_prefix(':') {
                    Some(port) => (address, Some(port)),
                    None if port.is_empty() => (address, None),
                    None => return Err(wrong(format!("has {} after the ]", quoted(port)))),
                }
            }
            None if authority.matches(':').count() > 1 => {
                return Err(Wrong::new(
                    "has an IPv6 address without brackets, or two ports",
                    format!("write the address as [::1]; {expected}"),
                ));
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if !authority.starts_with('[') {
            check_host(host).map_err(wrong)?;
        }
        let port = match port {
            None => default_port(scheme),
            Some(text) => match text.parse::<u16>() {
                Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => port,
                _ => {
                    return Err(Wrong::new(
                        format!("has the port {}", quoted(text)),
                        format!(
                            "a port is a number from 1 to 65535, usually {}",
                            usual_port(scheme)
                        ),
                    ));
                }
            },
        };
        Ok(Self {
            scheme,
            host: host.to_string(),
            port,
            path: given.trim_end_matches('/').to_string(),
            given: given.to_string(),
        })
    }

    /// Whether the scheme means TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, "https" | "mqtts")
    }

    /// Whether both reach the same server in the same way.
    pub fn same_server(&self, other: &Url) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Url {
            scheme,
            host,
            port,
            path,
            ..
        } = self;
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}{path}"),
            false => write!(f, "{scheme}://{host}:{port}{path}"),
        }
    }
}

/// Whether it can stand in a request line.
pub(super) fn is_target(text: &str) -> bool {
    !text.contains(['?', '#'])
        && text.len() <= 1024
        && text.parse::<http::uri::PathAndQuery>().is_ok()
}

fn check_host(host: &str) -> Result<(), String> {
    if host.is_empty() {
        return Err("has no host".into());
    }
    if host.parse::<Ipv4Addr>().is_ok() {
        return Ok(());
    }
    // A name whose last label is a number is a mistyped address (RFC 3696, section 2).
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "{} is neither a host name nor an IPv4 address",
            quoted(host)
        ));
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    match name.len() <= 253 && name.split('.').all(label) {
        true => Ok(()),
        false => Err(format!("{} is not a host name", quoted(host))),
    }
}

fn default_port(scheme: &str) -> u16 {
    match scheme {
        "https" => 443,
        "mqtt" => 1883,
        "mqtts" => 8883,
        _ => 80,
    }
}

fn usual_port(scheme: &str) -> u16 {
    match scheme {
        "mqtt" => 1883,
        "mqtts" => 8883,
        _ => 4318,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP: [&str; 2] = ["http", "https"];

    fn check(text: &str, expected: (&str, &str, u16, &str)) {
        let url = Url::parse(text, &HTTP, true).expect(text);
        assert_eq!((url.scheme, &*url.host, url.port, &*url.path), expected);
        let again = Url::parse(&url.to_string(), &HTTP, true).unwrap();
        assert!(again.same_server(&url) && again.path == url.path);
    }

    #[test]
    fn takes_names_addresses_ports_and_paths() {
        check(
            "https://otel.example.com",
            ("https", "otel.example.com", 443, ""),
        );
        check("http://localhost:4318/", ("http", "localhost", 4318, ""));
        check(
            "HTTPS://10.0.0.1:4318/otlp/",
            ("https", "10.0.0.1", 4318, "/otlp"),
        );
        check("http://[::1]:4318/a/b", ("http", "::1", 4318, "/a/b"));
        check("http://[fe80::1]", ("http", "fe80::1", 80, ""));
        check("http://my_collector.", ("http", "my_collector.", 80, ""));
    }

    #[test]
    fn refuses_what_cannot_be_reached_or_should_not_be_there() {
        for text in [
            "",
            "localhost:4318",
            "ftp://x",
            "http://",
            "http://:4318",
            "http://x:0",
            "http://x:65536",
            "http://x:",
            "http://x:+1",
            "http://x:4a",
            "http://::1:4318",
            "http://[::1",
            "http://[::zz]:1",
            "http://[::1]4318",
            "http://x/?a=1",
            "http://x/#f",
            "http://a b",
            "http://é",
            "http://-x",
            "http://a..b",
            "http://999.1.1.1",
            "http://1.2.3",
            "http://x\n",
            "mqtt://x",
            "http://[fe80::1%25eth0]:1",
        ] {
            assert!(Url::parse(text, &HTTP, true).is_err(), "{text:?}");
        }
        assert!(Url::parse("mqtts://h/x", &["mqtt", "mqtts"], false).is_err());
        assert!(Url::parse("mqtts://h/", &["mqtt", "mqtts"], false).is_ok());
        assert!(Url::parse(&format!("http://{}", "a".repeat(5000)), &HTTP, true).is_err());
    }

    #[test]
    fn a_password_in_a_url_is_refused_without_repeating_it() {
        let wrong = Url::parse("https://me:hunter2@x:1", &HTTP, true).unwrap_err();
        assert!(wrong.secret);
        assert!(!format!("{wrong:?}").contains("hunter2"));
    }
}
