//! The one HTTP client: blocking, over several endpoints.
//!
//! Owns: fail-over, time limits, TLS, sizes. Does not own: what is asked, or what an answer means.
//! Invariant: a request that may have an effect is never sent twice; whether one was sent is told
//! ([`Failure`]). A secret is in no message. Proxies of the environment are ignored: a proxy between a
//! node and its store is never what is meant.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::{Request as HttpRequest, Response};
use ureq::tls::{ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, AsSendBody, Body, Error, Timeout};

use super::backoff::pause;
use crate::error::StoreError;
use crate::model::Servers;
use crate::sys::files;

/// Longest answer: a listing of several hundred thousand leases.
const LONGEST_ANSWER: u64 = 256 << 20;
/// Longest file of certificates, a key, a password: a system's whole list of authorities fits.
const LONGEST_FILE: u64 = 4 << 20;
/// Longest wait for a connection: a host that is up answers in a fraction of that.
const CONNECT: Duration = Duration::from_secs(2);
/// Between two rounds over endpoints that all are up and cannot serve: an election.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// Where Debian, Alpine and Arch, and where Fedora and its kin keep the authorities that they trust.
const SYSTEM_CA: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// A password or token; it can be sent, and not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Any text.
    #[cfg(test)]
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// One from a file, without the white space around it.
    pub fn read(path: &Path) -> Result<Secret, StoreError> {
        Secret::parse(&read(path)?)
            .ok_or_else(|| unusable(path, "it must hold one line of ASCII characters"))
    }

    /// One line of ASCII characters, without the white space around it.
    pub fn parse(text: &str) -> Option<Secret> {
        let text = text.trim();
        let plain = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b));
        plain.then(|| Secret(text.to_owned()))
    }

    /// For the request alone.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

fn read(path: &Path) -> Result<String, StoreError> {
    files::read(path, LONGEST_FILE).map_err(|e| StoreError::io("read", path, e))
}

fn unusable(path: &Path, why: &str) -> StoreError {
    StoreError::io("use", path, io::Error::new(io::ErrorKind::InvalidData, why.to_owned()))
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'static str,
    /// Path and query.
    pub path: &'a str,
    /// JSON; of a GET nothing.
    pub body: &'a [u8],
    /// A header with a secret.
    pub secret: Option<(&'static str, &'a Secret)>,
    /// It changes nothing, so it may be sent again, to another server.
    pub repeatable: bool,
    /// Words of a server's error that no repetition mends.
    pub hopeless: &'static str,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Reply {
    /// The beginning of the body as one line, for messages.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

impl Reply {
    /// Whether the request was looked at and refused. That a client hung up (408 and 499; so says etcd's
    /// gateway while its server stops) does not tell what became of the request.
    pub fn is_rejected(&self) -> bool {
        self.status < 500 && ![408, 499].contains(&self.status)
    }

    /// Whether it is a server's error that may be over in a moment: there is no leader, say.
    fn is_transient(&self, hopeless: &str) -> bool {
        self.status >= 500 && (hopeless.is_empty() || !self.text().contains(hopeless))
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// No server has got it.
    Unsent(String),
    /// A server may have got it, and may carry it out.
    Unanswered(String),
}

/// The client.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    endpoints: Vec<String>,
    /// The endpoint that answered last.
    current: Cell<usize>,
    timeout: Duration,
}

impl Client {
    /// A client of these servers; reads certificates, connects nowhere.
    pub fn new(servers: &Servers) -> Result<Client, StoreError> {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent("sublet")
            .accept("application/json");
        // TLS costs a plain connection nothing, so it is set up only where it is used.
        let encrypted = servers.endpoints.iter().any(|e| e.starts_with("https://"));
        let config = if encrypted { config.tls_config(tls(servers)?) } else { config };
        Ok(Client {
            agent: config.build().new_agent(),
            endpoints: servers.endpoints.clone(),
            current: Cell::new(0),
            timeout: servers.timeout,
        })
    }

    /// The servers, for messages.
    pub fn place(&self) -> String {
        self.endpoints.join(", ")
    }

    /// Asks one server after the other, until one answers or `until`. A server that is up and cannot
    /// serve is asked again, if the request allows that; where none is up, that is told at once.
    pub fn send(&self, request: Request<'_>, until: Instant) -> Result<Reply, Failure> {
        let mut why;
        loop {
            why = String::new();
            let mut up = false;
            for _ in 0..self.endpoints.len() {
                let at = self.current.get() % self.endpoints.len();
                match self.ask(&self.endpoints[at], request, until) {
                    Ok(reply) if request.repeatable && reply.is_transient(request.hopeless) => {
                        up = true;
                        why = format!("{}: {} {}", self.endpoints[at], reply.status, reply.text());
                    }
                    Ok(reply) => return Ok(reply),
                    Err(Failure::Unanswered(e)) if !request.repeatable => {
                        self.current.set(at + 1);
                        return Err(Failure::Unanswered(format!("{}: {e}", self.endpoints[at])));
                    }
                    Err(Failure::Unsent(e) | Failure::Unanswered(e)) => {
                        why = format!("{}: {e}", self.endpoints[at]);
                    }
                }
                self.current.set(at + 1);
                if Instant::now() >= until {
                    return Err(Failure::Unsent(why));
                }
            }
            if !up {
                return Err(Failure::Unsent(why));
            }
            pause(RETRY_AFTER, until);
        }
    }

    fn ask(&self, endpoint: &str, request: Request<'_>, until: Instant) -> Result<Reply, Failure> {
        // A server that hangs must leave time to ask the others.
        let share = match u32::try_from(self.endpoints.len()) {
            Ok(1) | Err(_) => self.timeout,
            Ok(others) => self.timeout / (others + 1),
        };
        let left = until.saturating_duration_since(Instant::now()).min(share);
        if left.is_zero() {
            return Err(Failure::Unsent("no time is left".to_owned()));
        }
        let mut http = HttpRequest::builder()
            .method(request.method)
            .uri(format!("{endpoint}{}", request.path))
            .header("content-type", "application/json");
        if let Some((name, secret)) = request.secret {
            http = http.header(name, secret.expose());
        }
        let unsent = |e: ureq::http::Error| Failure::Unsent(e.to_string());
        let reply = if request.method == "GET" {
            self.run(http.body(()).map_err(unsent)?, left)
        } else {
            self.run(http.body(request.body).map_err(unsent)?, left)
        };
        let encrypted = endpoint.starts_with("https://");
        let mut reply = reply.map_err(|e| failure(&e, encrypted))?;
        let body = reply.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec();
        let body = body.map_err(|e| Failure::Unanswered(e.to_string()))?;
        Ok(Reply { status: reply.status().as_u16(), body })
    }
}

impl Client {
    fn run(
        &self,
        http: HttpRequest<impl AsSendBody>,
        left: Duration,
    ) -> Result<Response<Body>, Error> {
        let http = self
            .agent
            .configure_request(http)
            .timeout_global(Some(left))
            // Together less than the whole: a request that has run out of time before it was sent must
            // be told as that, and not as one that was sent and not answered.
            .timeout_resolve(Some(left / 5))
            .timeout_connect(Some(CONNECT.min(left * 3 / 4)))
            .build();
        self.agent.run(http)
    }
}

/// Whether the request was on its way.
fn failure(error: &Error, encrypted: bool) -> Failure {
    let unsent = match error {
        Error::Timeout(timeout) => matches!(timeout, Timeout::Resolve | Timeout::Connect),
        Error::Io(e) => {
            // TLS refuses a peer before the request is sent, on either side.
            let tls =
                e.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>);
            let kinds = [
                io::ErrorKind::ConnectionRefused,
                io::ErrorKind::HostUnreachable,
                io::ErrorKind::NetworkUnreachable,
                io::ErrorKind::AddrNotAvailable,
            ];
            // The library has no kind for a name that cannot be resolved.
            let nameless = e.to_string().starts_with("failed to lookup address");
            tls || nameless || kinds.contains(&e.kind())
        }
        Error::HostNotFound
        | Error::ConnectionFailed
        | Error::Http(_)
        | Error::BadUri(_)
        | Error::Tls(_)
        | Error::Pem(_)
        | Error::Rustls(_) => true,
        _ => false,
    };
    let text = match error {
        Error::Timeout(timeout) => format!("no answer in time ({timeout})"),
        // A server that misses a certificate may hang up before it has said so.
        Error::Io(e) if encrypted && e.get_ref().is_none() && !unsent => {
            format!("{error}; a server that wants another client certificate hangs up like this")
        }
        error => error.to_string(),
    };
    if unsent { Failure::Unsent(text) } else { Failure::Unanswered(text) }
}

fn tls(servers: &Servers) -> Result<TlsConfig, StoreError> {
    let roots = match &servers.ca {
        Some(path) => certificates(path)?,
        None => authorities()?,
    };
    let identity = match &servers.identity {
        None => None,
        Some((cert, key)) => {
            let private = PrivateKey::from_pem(read(key)?.as_bytes())
                .map_err(|_| unusable(key, "it holds no private key in PEM form"))?;
            Some(ClientCert::new_with_certs(&certificates(cert)?, private))
        }
    };
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(identity)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// The authorities that the system trusts.
fn authorities() -> Result<Vec<ureq::tls::Certificate<'static>>, StoreError> {
    for path in SYSTEM_CA.map(Path::new) {
        if files::look(path).map_err(|e| StoreError::io("look at", path, e))?.is_some() {
            return certificates(path);
        }
    }
    Err(unusable(
        SYSTEM_CA[0].as_ref(),
        "this host has no list of authorities; name one with caFile",
    ))
}

fn certificates(path: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, StoreError> {
    let text = read(path)?;
    let mut found = Vec::new();
    for item in parse_pem(text.as_bytes()) {
        match item {
            Ok(PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(unusable(path, "it is no PEM file")),
        }
    }
    if found.is_empty() {
        return Err(unusable(path, "it holds no certificate in PEM form"));
    }
    Ok(found)
}
