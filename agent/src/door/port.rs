//! The port for programs that cannot dial a Unix socket: OTLP and nothing else.
//!
//! It asks for no password, so what a browser can be made to send is refused: a
//! page's script sends an Origin, and a name that an attacker's DNS points at
//! this machine stands in Host ("DNS rebinding").

use std::net::IpAddr;

use http::{HeaderMap, Request, StatusCode, header};
use hyper::body::Incoming;

use super::local::misdirected;
use super::receiver::Receiver;
use super::{Answer, Boxed, Routes, refusal};

/// What the port answers.
pub struct PortRoutes {
    /// `/v1/…`
    pub receiver: Receiver,
    /// Other machines may use it, by whatever name they have for it.
    pub remote: bool,
}

impl Routes for PortRoutes {
    fn answer(&self, request: Request<Incoming>) -> Boxed<'_, Answer> {
        Box::pin(async move {
            if from_browser(request.headers()) || !(self.remote || local_name(request.headers())) {
                self.receiver.count_refusal("foreign");
                return refusal(
                    StatusCode::FORBIDDEN,
                    "for programs on this machine: no Origin, and a Host of 127.0.0.1, [::1] or localhost",
                );
            }
            let Some(signal) = Receiver::signal(request.uri().path()) else {
                return refusal(
                    StatusCode::NOT_FOUND,
                    "this port takes /v1/traces, /v1/metrics and /v1/logs only",
                );
            };
            match misdirected(request.method(), request.uri().path()) {
                Some(wrong) => wrong,
                None => self.receiver.answer(signal, request).await,
            }
        })
    }

    fn connected(&self, opened: bool) {
        self.receiver.connected(opened);
    }
}

/// Fetch's own headers; no SDK sends them.
fn from_browser(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

/// Whether the one Host header names this machine's loopback.
fn local_name(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    bare.unwrap_or(name)
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_local() {
        let local = |hosts: &[&str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, host.parse().unwrap());
            }
            local_name(&headers)
        };
        for host in [
            "127.0.0.1:4318",
            "127.0.0.1",
            "LOCALHOST:4318",
            "[::1]:4318",
            "[::1]",
        ] {
            assert!(local(&[host]), "{host}");
        }
        for host in [
            "evil.example:4318",
            "10.0.0.1",
            "127.0.0.1.evil",
            "localhost.evil:1",
            "",
        ] {
            assert!(!local(&[host]), "{host}");
        }
        assert!(!local(&[]));
        assert!(!local(&["127.0.0.1", "evil"]));
    }
}
