//! Answers as HTTP has them.
//!
//! Invariant: every answer forbids a browser to load foreign content, to keep the answer, or to show it inside
//! another page. Only the page's own parts may be kept, and are asked for again each time.

use std::hash::{DefaultHasher, Hasher};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

/// The type of the API's answers.
pub const JSON: &str = "application/json";
/// The version of the text format that Prometheus wants to see.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer carries.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// What an answer consists of.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Content type.
    pub kind: &'static str,
    /// Content.
    pub body: Bytes,
    /// Changes whenever the content does, but for the time in it.
    etag: Option<String>,
    /// Whether a browser may keep it.
    keep: bool,
}

impl Answer {
    /// A document.
    pub fn json(value: &impl Serialize) -> Answer {
        // Numbers, text and maps with text as keys: that does not fail.
        let mut body = serde_json::to_vec(value).unwrap_or_default();
        body.push(b'\n');
        Answer::of(JSON, body)
    }

    /// Content of this type.
    pub fn of(kind: &'static str, body: impl Into<Bytes>) -> Answer {
        Answer { status: StatusCode::OK, kind, body: body.into(), etag: None, keep: false }
    }

    /// A part of the page.
    pub fn asset(kind: &'static str, text: &'static str) -> Answer {
        let mut hasher = DefaultHasher::new();
        hasher.write(text.as_bytes());
        let answer = Answer::of(kind, text).tagged(format!("{:016x}", hasher.finish()));
        Answer { keep: true, ..answer }
    }

    /// The same, with a tag that changes whenever the content does.
    pub fn tagged(self, etag: String) -> Answer {
        Answer { etag: Some(etag), ..self }
    }

    /// Why not.
    pub fn no(status: u16, why: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer { status, ..Answer::json(&json!({ "error": why })) }
    }

    /// As HTTP has it, for a request with these headers. hyper adds the length, and leaves out the body for
    /// HEAD.
    pub fn response(mut self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let etag =
            self.etag.take().and_then(|tag| HeaderValue::try_from(format!("\"{tag}\"")).ok());
        if etag.is_some() && request.get(header::IF_NONE_MATCH) == etag.as_ref() {
            (self.status, self.body) = (StatusCode::NOT_MODIFIED, Bytes::new());
        }
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        let cache = if self.keep { "no-cache" } else { "no-store" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        headers.extend(etag.map(|etag| (header::ETAG, etag)));
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
