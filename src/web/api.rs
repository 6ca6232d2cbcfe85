//! Parses the requests for the page, its API and the metrics.
//!
//! Checks the method, the path, the parameters, and the host name in the request. The host must be an IP
//! address, `localhost`, or a name that the operator allows.
//!
//! Invariant: no request changes anything.

use hyper::header::{self, HeaderMap};
use hyper::{Method, StatusCode};

use super::query::{Parameters, Query};
use crate::net::Addr;
use crate::rows::Time;
use crate::sys::percent::decode;

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Question {
    /// A file of the page: its content type and its content.
    Asset(&'static str, &'static str),
    /// `/healthz`: whether all stores can be read.
    Health,
    /// `/api/v1/stores`: all stores, each with its state.
    Stores,
    /// `/api/v1/status`: the state of a store and what needs attention.
    Status,
    /// `/api/v1/pools`: the ranges of a store.
    Pools,
    /// `/api/v1/leases`: a page of leases.
    Leases(Query),
    /// `/api/v1/cooling`: a page of the addresses that are cooling down.
    Cooling(Query),
    /// `/api/v1/trends`: how full each range was during the last day.
    Trends,
    /// `/api/v1/nodes`: the nodes and namespaces that have leases.
    Nodes,
    /// `/api/v1/problems`: the problems of a store.
    Problems,
    /// `/api/v1/history/ADDRESS`: the leases and the last events of an address.
    History(Addr),
    /// `/api/v1/history?at=TIME`: who held each address at a time.
    Held(Time, Query),
    /// `/metrics`: the metrics of all stores and of this process.
    Metrics,
}

/// A parsed request.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    /// What the request asks for.
    pub question: Question,
    /// The name of the store; `None` for the first store, or for a question about all stores.
    pub store: Option<String>,
}

/// An error response: the HTTP status, and the reason.
pub type No = (StatusCode, String);

const HTML: &str = "text/html; charset=utf-8";
/// The page's script: the concatenation of several files, which the browser loads as a single module.
const SCRIPT: &str = concat!(
    include_str!("assets/base.js"),
    include_str!("assets/pools.js"),
    include_str!("assets/leases.js"),
    include_str!("assets/map.js"),
    include_str!("assets/page.js")
);

/// The files of the page, each with its path and content type. They are part of the executable.
const ASSETS: [(&str, &str, &str); 3] = [
    ("/", HTML, include_str!("assets/index.html")),
    ("/app.js", "text/javascript; charset=utf-8", SCRIPT),
    ("/style.css", "text/css; charset=utf-8", include_str!("assets/style.css")),
];

/// Parses a request. `names` are the allowed host names besides `localhost`. The error is the status and the
/// reason of the error response.
pub fn read(
    method: &Method,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
    names: &[String],
) -> Result<Request, No> {
    if *method != Method::GET && *method != Method::HEAD {
        return Err((
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET and HEAD are allowed: this API is read-only".into(),
        ));
    }
    let host = headers.get(header::HOST).map_or(Some(""), |value| value.to_str().ok());
    if !host.is_some_and(|host| is_ours(host, names)) {
        // The owner of another site can make its host name resolve to this server (DNS rebinding). That
        // site's scripts could then read all leases.
        let text = "unknown host name in the request; use an IP address, localhost, or a name that \
                    `--http-name` allows";
        return Err((StatusCode::MISDIRECTED_REQUEST, text.into()));
    }
    if let Some((_, kind, text)) = ASSETS.iter().find(|(asset, ..)| *asset == path) {
        return Ok(Request { question: Question::Asset(kind, text), store: None });
    }
    // These paths ignore query parameters, because a prober or scraper may add its own.
    let whole = match path {
        "/healthz" => Some(Question::Health),
        "/metrics" => Some(Question::Metrics),
        _ => None,
    };
    if let Some(question) = whole {
        return Ok(Request { question, store: None });
    }
    let no_path = || (StatusCode::NOT_FOUND, format!("unknown path {path}; see docs/api.md"));
    let name = path.strip_prefix("/api/v1/").ok_or_else(no_path)?;
    let wrong = |why: String| (StatusCode::BAD_REQUEST, why);
    let mut parameters = Parameters::read(query).map_err(wrong)?;
    let store = parameters.take("store");
    let question = api(name, parameters).map_err(wrong)?.ok_or_else(no_path)?;
    Ok(Request { question, store })
}

/// Returns the question for a path below `/api/v1/`; `None` if the path is unknown. The error message names
/// the invalid parameter.
fn api(name: &str, mut parameters: Parameters) -> Result<Option<Question>, String> {
    let question = match name {
        "stores" => Question::Stores,
        "status" => Question::Status,
        "pools" => Question::Pools,
        "leases" => return Ok(Some(Question::Leases(Query::read(parameters)?))),
        "cooling" => return Ok(Some(Question::Cooling(Query::read(parameters)?))),
        "history" => {
            let at =
                parameters.take("at").ok_or("`at` is missing: pass a time in RFC 3339 format")?;
            let time: jiff::Timestamp = at.parse().map_err(|_| {
                format!("invalid `at` {at:?}: use a time such as 2026-01-31T08:00:00Z")
            })?;
            // Nothing was leased before 1970, so any earlier time means 1970.
            let at = Time(u64::try_from(time.as_second()).unwrap_or(0));
            return Ok(Some(Question::Held(at, Query::read(parameters)?)));
        }
        "trends" => Question::Trends,
        "nodes" => Question::Nodes,
        "problems" => Question::Problems,
        _ => match name.strip_prefix("history/") {
            Some(address) => Question::History(address_of(address)?),
            None => return Ok(None),
        },
    };
    parameters.end("store")?;
    Ok(Some(question))
}

/// Parses a percent-encoded address in a path.
fn address_of(text: &str) -> Result<Addr, String> {
    let address = decode(text);
    let addr = address.as_deref().and_then(|text| text.parse().ok());
    addr.ok_or_else(|| format!("{:?} is not an IP address", address.unwrap_or_default()))
}

/// Returns whether the `Host` header is an IP address, `localhost`, or a name that the operator allows. Any
/// other name may belong to a foreign site that resolves it to this server (DNS rebinding).
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

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn ask(method: &Method, host: Option<&str>, path: &str) -> Result<Question, u16> {
        let mut headers = HeaderMap::new();
        if let Some(host) = host {
            headers.insert(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let names = ["status.example".to_owned()];
        let request = read(method, path, query, &headers, &names);
        request.map(|request| request.question).map_err(|(status, _)| status.as_u16())
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
        let query = |text: &str| Query::read(Parameters::read(Some(text)).unwrap()).unwrap();
        assert_eq!(get("/api/v1/leases"), Ok(Question::Leases(query(""))));
        let asked = "/api/v1/leases?network=my%20net&q=A+b&limit=9&after=10.1.2.3,docker%2Fa,b";
        let Ok(Question::Leases(read)) = get(asked) else { panic!("{asked}") };
        assert_eq!(read.network.as_deref(), Some("my net"));
        assert_eq!((read.words.concat().as_str(), read.limit), ("ab", 9));
        assert_eq!(read.after.unwrap().to_string(), "10.1.2.3,docker/a,b");
        for wrong in ["netwrok=x", "limit=0", "limit=10001", "limit=x", "after=x", "node=%zz"] {
            assert_eq!(get(&format!("/api/v1/leases?{wrong}")), Err(400), "{wrong}");
        }
        assert_eq!(get("/api/v1/pools?netwrok=x"), Err(400));
        assert_eq!(get("/metrics?any=x"), Ok(Question::Metrics));
        let uri = "/api/v1/pools?store=%2Fa%20b";
        let request = super::read(
            &Method::GET,
            "/api/v1/pools",
            uri.split('?').nth(1),
            &HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("[::1]"))]),
            &[],
        );
        assert_eq!(request.unwrap().store.as_deref(), Some("/a b"));
        let at = "/api/v1/history?at=1970-01-01T00%3A01%3A00Z&network=web";
        assert_eq!(get(at), Ok(Question::Held(Time(60), query("network=web"))));
        let early = get("/api/v1/history?at=1969-12-31T23:59:59Z");
        assert_eq!(early, Ok(Question::Held(Time(0), query(""))));
        for wrong in ["", "?at=2h", "?at=", "?at=1970-01-01T00:01:00Z&until=x"] {
            assert_eq!(get(&format!("/api/v1/history{wrong}")), Err(400), "{wrong}");
        }
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
