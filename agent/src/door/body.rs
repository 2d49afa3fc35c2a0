//! A request's body, read whole within a bound and a deadline.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use tokio::time::timeout;

use super::{Answer, refusal};

/// Why a body was not read; the connection can carry no further request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Longer than allowed.
    TooLarge,
    /// Not whole within the deadline.
    TooSlow,
    /// The client left, or broke off the transfer.
    Broken,
}

impl Unread {
    /// What HTTP calls it (RFC 9110, 15.5).
    pub fn code(self) -> StatusCode {
        match self {
            Unread::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Unread::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Unread::Broken => StatusCode::BAD_REQUEST,
        }
    }

    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Unread::TooLarge => "the body is longer than this path takes",
            Unread::TooSlow => "the body did not arrive in time",
            Unread::Broken => "the body ended before its time",
        }
    }

    /// The answer of a path that speaks JSON.
    pub fn answer(self) -> Answer {
        refusal(self.code(), self.as_str())
    }
}

/// Reads at most `limit` bytes within `deadline`.
pub async fn read(body: Incoming, limit: usize, deadline: Duration) -> Result<Bytes, Unread> {
    let whole = read_within(body, limit, deadline, |_| true).await?;
    Ok(whole.unwrap_or_default())
}

/// The same while `room` grants each piece its bytes; `None`: it did not.
pub async fn read_within(
    body: Incoming,
    limit: usize,
    deadline: Duration,
    room: impl FnMut(usize) -> bool,
) -> Result<Option<Bytes>, Unread> {
    match timeout(deadline, collect(body, limit, room)).await {
        Ok(read) => read,
        Err(_) => Err(Unread::TooSlow),
    }
}

async fn collect(
    mut body: Incoming,
    limit: usize,
    mut room: impl FnMut(usize) -> bool,
) -> Result<Option<Bytes>, Unread> {
    // Said beforehand: nothing of it needs to be read.
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if said > limit {
        return Err(Unread::TooLarge);
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Unread::Broken)?.into_data() else {
            // Trailers: nobody needs them.
            continue;
        };
        if whole.len() + data.len() > limit {
            return Err(Unread::TooLarge);
        }
        if !room(data.len()) {
            return Ok(None);
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some(whole.freeze()))
}
