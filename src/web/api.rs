//! The requests of the page and the API: a [`Question`] in, an [`Answer`] out.
//!
//! Responsible for paths and for who may ask (by address, as localhost, or by an allowed name).
//! Invariant: nothing here changes anything, and every answer forbids a browser to load foreign content, to
//! keep the answer, or to show it inside another page.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use serde_json::json;

use crate::net::Addr;
use crate::sys::percent::decode;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Question {
    /// A part of the page: type and content.
    Asset(&'static str, &'static str),
    /// `/api/v1/pools`.
    Pools,
    /// `/api/v1/leases`, of one network or all.
    Leases(Option<String>),
    /// `/api/v1/nodes`.
    Nodes,
    /// `/api/v1/problems`.
    Problems,
    /// `/api/v1/history/ADDRESS`.
    History(Addr),
    /// `/metrics`.
    Metrics,
}

/// A refusal: status, and why.
pub type No = (StatusCode, String);

/// What an answer consists of.
pub struct Answer {
    /// Status.
    pub status: StatusCode,
    /// Content type.
    pub kind: &'static str,
    /// Content.
    pub body: Bytes,
}

const HTML: &str = "text/html; charset=utf-8";
/// The type of the API's answers.
pub const JSON: &str = "application/json";
/// The version of the text format that Prometheus wants to see.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page's script: its parts one after the other, as one module.
const SCRIPT: &str = concat!(
    include_str!("assets/lists.js"),
    include_str!("assets/map.js"),
    include_str!("assets/page.js")
);

/// The page, as it was built in.
const ASSETS: [(&str, &str, &str); 3] = [
    ("/", HTML, include_str!("assets/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", SCRIPT),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
];

/// Nothing from elsewhere, nothing inline, in no frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What every answer carries.
const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Understands a request line and its host.
pub fn read(
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    names: &[String],
) -> Result<Question, No> {
    if *method != Method::GET && *method != Method::HEAD {
        return Err((
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD: this changes nothing".into(),
        ));
    }
    let host = headers.get(header::HOST).map_or(Some(""), |value| value.to_str().ok());
    if !host.is_some_and(|host| is_ours(host, names)) {
        // A foreign site's name that leads here would let its scripts read all this.
        let text = "this name is not known here; ask by address, as localhost, or by a name that \
                    --http-name allows";
        return Err((StatusCode::MISDIRECTED_REQUEST, text.into()));
    }
    if let Some((_, kind, text)) = ASSETS.iter().find(|(asset, ..)| *asset == path) {
        return Ok(Question::Asset(kind, text));
    }
    if let Some(address) = path.strip_prefix("/api/v1/history/") {
        let address = decode(address);
        let addr = address.as_deref().and_then(|text| text.parse().ok());
        return addr.map(Question::History).ok_or_else(|| {
            let text = format!("{:?} is no IP address", address.unwrap_or_default());
            (StatusCode::BAD_REQUEST, text)
        });
    }
    Ok(match path {
        "/api/v1/pools" => Question::Pools,
        "/api/v1/leases" => Question::Leases(network(query)?),
        "/api/v1/nodes" => Question::Nodes,
        "/api/v1/problems" => Question::Problems,
        "/metrics" => Question::Metrics,
        _ => return Err((StatusCode::NOT_FOUND, format!("there is no {path}; see docs/api.md"))),
    })
}

/// Whether a `Host` is an address, localhost, or a name that the operator allows. A name that only
/// leads here (DNS rebinding) is none of these.
fn is_ours(host: &str, names: &[String]) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
    bare.parse::<std::net::IpAddr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// `network=NAME` of a query.
fn network(query: Option<&str>) -> Result<Option<String>, No> {
    let mut network = None;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let Some(("network", value)) = pair.split_once('=') else {
            let text = format!("{pair:?} means nothing here; there is network=NAME");
            return Err((StatusCode::BAD_REQUEST, text));
        };
        network = decode(value);
    }
    Ok(network)
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
        Answer { status: StatusCode::OK, kind, body: body.into() }
    }

    /// Why not.
    pub fn no(status: StatusCode, why: &str) -> Answer {
        Answer { status, ..Answer::json(&json!({ "error": why })) }
    }

    /// As HTTP has it; without its body for HEAD.
    pub fn response(self, method: &Method) -> Response<Full<Bytes>> {
        let length = self.body.len();
        let body = if *method == Method::HEAD { Bytes::new() } else { self.body };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        for (name, value) in HEADERS {
            headers.insert(name, HeaderValue::from_static(value));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &Method, host: Option<&str>, path: &str) -> Result<Question, u16> {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let names = ["status.example".to_owned()];
        read(method, path, query, &headers, &names).map_err(|(status, _)| status.as_u16())
    }

    #[test]
    fn who_may_ask() {
        for host in [
            "127.0.0.1:9780",
            "127.0.0.1",
            "[::1]:9780",
            "[::1]",
            "localhost",
            "LOCALHOST:80",
            "10.1.2.3:1",
            "status.example",
            "Status.Example:9780",
        ] {
            assert_eq!(ask(&Method::GET, Some(host), "/metrics"), Ok(Question::Metrics), "{host}");
        }
        for host in [
            None,
            Some(""),
            Some("evil.example:9780"),
            Some("127.0.0.1.evil.example"),
            Some("localhost.evil.example:80"),
            Some("[::1].evil"),
            Some("evil.example:127.0.0.1"),
            Some("\u{fffd}"),
        ] {
            assert_eq!(ask(&Method::GET, host, "/metrics"), Err(421), "{host:?}");
        }
    }

    #[test]
    fn what_may_be_asked() {
        let get = |path: &str| ask(&Method::GET, Some("localhost"), path);
        assert!(matches!(get("/"), Ok(Question::Asset(HTML, _))));
        assert_eq!(get("/api/v1/leases"), Ok(Question::Leases(None)));
        let named = Question::Leases(Some("my net".to_owned()));
        assert_eq!(get("/api/v1/leases?network=my%20net"), Ok(named));
        assert_eq!(get("/api/v1/leases?netwrok=x"), Err(400));
        let addr = |text: &str| Question::History(text.parse().unwrap());
        assert_eq!(get("/api/v1/history/10.1.2.3"), Ok(addr("10.1.2.3")));
        assert_eq!(get("/api/v1/history/fd00%3A%3A2"), Ok(addr("fd00::2")));
        for path in ["10.1.2", "", "%zz", "%", "%ff%fe", "../pools", "10.1.2.3/24"] {
            let path = format!("/api/v1/history/{path}");
            assert_eq!(get(&path), Err(400), "{path}");
        }
        for path in ["/api/v1/", "/api/v2/pools", "/app.js/", "/../Cargo.toml", "//"] {
            assert_eq!(get(path), Err(404), "{path}");
        }
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::CONNECT]
        {
            assert_eq!(ask(&method, Some("localhost"), "/api/v1/pools"), Err(405));
        }
        assert_eq!(ask(&Method::HEAD, Some("localhost"), "/metrics"), Ok(Question::Metrics));
    }
}
