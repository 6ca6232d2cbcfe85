//! Builds HTTP responses: status, headers, compression and entity tags.
//!
//! Invariant: the headers of every response prevent the browser from loading content from other sites, from
//! caching the response, and from showing it in a frame. Only the page's own files may be cached, and the
//! browser must revalidate them before each use.

use std::hash::{DefaultHasher, Hasher};
use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use super::leases::Done;
use crate::sys::percent::encode;

/// The content type of the API's responses.
pub const JSON: &str = "application/json";
/// The content type of the Prometheus text format. Prometheus requires the version.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The content security policy: no content from other sites, no inline scripts or styles, no frames.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The security headers of every response.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The header that repeats the `next` value (the cursor of the next page), percent-encoded.
const NEXT: HeaderName = HeaderName::from_static("sublet-next");

/// Bodies of fewer bytes than this are not compressed.
const SMALL: usize = 1024;

/// A response before it is converted to HTTP.
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The content type.
    pub kind: &'static str,
    /// The content.
    pub body: Bytes,
    /// The cursor of the next page, percent-encoded.
    next: Option<String>,
    /// The entity tag. It changes whenever the content changes, except for the `time` field.
    etag: Option<String>,
    /// Whether a browser may cache the response.
    keep: bool,
    /// Whether the body is compressed.
    is_gzip: bool,
}

impl Answer {
    /// Creates a JSON response.
    pub fn json(value: &impl Serialize) -> Answer {
        // Serialization cannot fail: the values are numbers, strings, and maps with string keys.
        let mut body = serde_json::to_vec(value).unwrap_or_default();
        body.push(b'\n');
        Answer::of(JSON, body)
    }

    /// Creates the response for a page of a list. A header repeats `next`, so that a client can request the
    /// next page before it has parsed this page.
    pub fn page(page: Done) -> Answer {
        Answer {
            next: page.next.map(|next| encode(&next.to_string())),
            ..Answer::of(JSON, page.text)
        }
    }

    /// Creates a response with the content type `kind`.
    pub fn of(kind: &'static str, body: impl Into<Bytes>) -> Answer {
        Answer {
            status: StatusCode::OK,
            kind,
            body: body.into(),
            next: None,
            etag: None,
            keep: false,
            is_gzip: false,
        }
    }

    /// Creates the response for a file of the page. Browsers may cache it.
    pub fn asset(kind: &'static str, text: &'static str) -> Answer {
        let mut hasher = DefaultHasher::new();
        hasher.write(text.as_bytes());
        let answer = Answer::of(kind, text).tagged(format!("{:016x}", hasher.finish()));
        Answer { keep: true, ..answer }
    }

    /// Sets the entity tag, which must change whenever the content changes.
    pub fn tagged(self, etag: String) -> Answer {
        Answer { etag: Some(etag), ..self }
    }

    /// Creates an error response: a JSON object whose `error` field says why the request failed.
    pub fn no(status: u16, why: &str) -> Answer {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer { status, ..Answer::json(&json!({ "error": why })) }
    }

    /// Compresses the body if the client accepts gzip. If the client already has this version of the body,
    /// replaces the answer with an empty one with status 304. Compressing a long body takes some
    /// milliseconds.
    pub fn packed(mut self, request: &HeaderMap) -> Answer {
        let is_gzip = accepts_gzip(request);
        // An entity tag identifies one encoding of the content, so the compressed body needs its own tag.
        self.etag = self.etag.map(|tag| format!("\"{tag}{}\"", if is_gzip { "-gzip" } else { "" }));
        let known = request.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let is_known = |tag: &String| {
            known.is_some_and(|known| {
                known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
            })
        };
        if self.etag.as_ref().is_some_and(is_known) {
            (self.status, self.body) = (StatusCode::NOT_MODIFIED, Bytes::new());
        }
        if is_gzip && self.body.len() >= SMALL {
            let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
            // Writing into memory cannot fail. If it did, the body would be sent uncompressed.
            if packer.write_all(&self.body).is_ok()
                && let Ok(body) = packer.finish()
            {
                (self.body, self.is_gzip) = (body.into(), true);
            }
        }
        self
    }

    /// Converts the answer to an HTTP response. hyper adds the content length, and omits the body for HEAD.
    pub fn response(mut self) -> Response<Full<Bytes>> {
        let etag = self.etag.take().and_then(|tag| HeaderValue::try_from(tag).ok());
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        let cache = if self.keep { "no-cache" } else { "no-store" };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
        headers.extend(etag.map(|etag| (header::ETAG, etag)));
        let next = self.next.take().and_then(|next| HeaderValue::try_from(next).ok());
        headers.extend(next.map(|next| (NEXT, next)));
        if self.is_gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// Returns whether the client accepts gzip: `Accept-Encoding` lists gzip with a weight other than 0.
fn accepts_gzip(request: &HeaderMap) -> bool {
    let texts = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|one| {
        let (name, weight) = one.split_once(';').unwrap_or((one, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("gzip") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_sent_only_if_it_is_accepted() {
        let accepts = |text: &str| {
            let mut request = HeaderMap::new();
            request.insert(header::ACCEPT_ENCODING, HeaderValue::from_str(text).unwrap());
            accepts_gzip(&request)
        };
        for text in ["gzip", "br, gzip", "deflate,GZIP;q=0.5", "gzip; q=1.0"] {
            assert!(accepts(text), "{text}");
        }
        for text in ["", "br", "gzip;q=0", "gzip;q=0.0", "gzip;q=x", "xgzip", "identity"] {
            assert!(!accepts(text), "{text}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
