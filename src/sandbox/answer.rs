//! Answers and their bodies, whole or cut off.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// The body of an answer.
pub(super) struct Content {
    left: Option<Bytes>,
    end: End,
}

/// How a body ends.
enum End {
    Proper,
    /// An error follows, but only at the second asking: hyper writes what it has when a body makes it wait,
    /// and throws it away when the body fails.
    CutLater,
    CutNow,
}

impl Body for Content {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(bytes) = self.left.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.end {
            End::Proper => Poll::Ready(None),
            End::CutLater => {
                self.end = End::CutNow;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            End::CutNow => Poll::Ready(Some(Err(io::Error::other("the answer is cut off on purpose")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_none() && matches!(self.end, End::Proper)
    }

    fn size_hint(&self) -> SizeHint {
        match self.end {
            End::Proper => SizeHint::with_exact(length(self.left.as_ref())),
            End::CutLater | End::CutNow => SizeHint::default(),
        }
    }
}

fn length(bytes: Option<&Bytes>) -> u64 {
    bytes.map_or(0, |bytes| u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

/// The members of a 200.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delivered<'a> {
    pub(super) status: u16,
    pub(super) request_id: &'a str,
    pub(super) client: &'a str,
    pub(super) id: &'a Map<String, Value>,
    pub(super) edge_host: String,
    pub(super) notifications: Vec<Listed<'a>>,
}

/// A notification as a 200 lists it.
#[derive(Serialize)]
pub(super) struct Listed<'a> {
    pub(super) id: &'a str,
}

impl Delivered<'_> {
    /// The 200 itself; `cut` breaks its body off in the middle.
    pub(super) fn respond(&self, cut: bool) -> Response<Content> {
        // Text with text keys cannot fail to be JSON; an empty body would only be one more fault.
        let body = Bytes::from(serde_json::to_vec(self).unwrap_or_default());
        let whole = length(Some(&body));
        let mut response = if cut {
            let half = body.slice(..body.len() / 2);
            Response::new(Content { left: Some(half), end: End::CutLater })
        } else {
            Response::new(Content { left: Some(body), end: End::Proper })
        };
        // The promise of a length is what tells a body that was cut off from one that is finished.
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(whole));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// A 204.
pub(super) fn no_content() -> Response<Content> {
    let mut response = Response::new(Content { left: None, end: End::Proper });
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// An answer that is no 2xx.
pub(super) fn refusal(status: u16, message: &str, retry_after_s: Option<u64>) -> Response<Content> {
    // An informational status would be no final answer.
    let status = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational());
    let status = status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({ "status": status.as_u16(), "message": message }).to_string();
    let mut response = Response::new(Content { left: Some(Bytes::from(body)), end: End::Proper });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    match (status, retry_after_s) {
        (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE, Some(seconds)) => {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        (StatusCode::METHOD_NOT_ALLOWED, _) => {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        _ => {}
    }
    response
}
