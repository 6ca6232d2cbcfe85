//! The HTTP client for etcd and Consul. It is blocking, and can use several endpoints.
//!
//! It handles fail-over, timeouts, TLS and size limits. [`super::etcd`] and [`super::consul`] encode the
//! requests and interpret the responses.
//! Invariant: once a server may have received a request that changes something, the client does not send that
//! request again. A [`Failure`] says whether the request may have been applied. No message contains a secret.
//! Proxy settings in the environment are ignored, because a node connects to its store directly.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use ureq::config::Config;
use ureq::http::{Request as HttpRequest, Uri};
use ureq::tls::{ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, DefaultConnector, NextTimeout, Transport,
};
use ureq::{Agent, AsSendBody, Error};

use super::backoff::pause;
use super::cache::file_name;
use super::server::Commit;
use crate::error::StoreError;
use crate::model::Servers;
use crate::sys::files;

/// The maximum length of a response, in bytes. The longest responses are one page of a listing, and the list
/// of the names of a million keys.
const LONGEST_ANSWER: u64 = 128 << 20;
/// The maximum length of a file with certificates, a key or a password, in bytes. A system's complete list of
/// certificate authorities is shorter.
const LONGEST_FILE: u64 = 4 << 20;
/// The maximum time to connect to an endpoint. A running host accepts a connection much faster.
const CONNECT: Duration = Duration::from_secs(2);
/// How long the recorded endpoint stays valid. A process records the endpoint that responded last, and other
/// processes then start with that endpoint.
const REMEMBERED: Duration = Duration::from_secs(600);
/// The wait before a request is sent to all endpoints again, if the servers are running but cannot serve the
/// request, for example during an election.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// The files with the system's certificate authorities: on Debian, Alpine and Arch, and on Fedora and RHEL.
const SYSTEM_CA: [&str; 2] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// A password or token. It can be sent, but not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Makes a secret from this text.
    #[cfg(test)]
    pub fn new(text: String) -> Secret {
        Secret(text)
    }

    /// Reads a secret from a file, and removes surrounding white space.
    pub fn read(path: &Path) -> Result<Secret, StoreError> {
        Secret::parse(&read(path)?).ok_or_else(|| {
            unusable(path, "the file must contain exactly one line of ASCII characters")
        })
    }

    /// Makes a secret from one line of ASCII characters, and removes surrounding white space.
    pub fn parse(text: &str) -> Option<Secret> {
        let text = text.trim();
        let plain = !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b));
        plain.then(|| Secret(text.to_owned()))
    }

    /// Returns the text of the secret, to be put into a request.
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

/// A request to a server.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'static str,
    /// The path and the query of the request.
    pub path: &'a str,
    /// The body, as JSON; empty for a GET.
    pub body: &'a [u8],
    /// The name and the value of a header that contains a secret.
    pub secret: Option<(&'static str, &'a Secret)>,
    /// Whether the request changes nothing. Such a request may be sent again, also to another server.
    pub retryable: bool,
}

/// A server's response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Reply {
    /// Returns the beginning of the body as one line, for messages.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// The reason why a request has no usable response.
#[derive(Debug)]
pub enum Failure {
    /// Nothing was changed: either no server received the request, or a server received it and rejected it.
    NotApplied(String),
    /// A server may have received the request, and may apply it now or later.
    Unknown(String),
}

impl Failure {
    /// Makes the failure for a response that can be parsed, but that no correct server sends.
    pub fn malformed() -> Failure {
        Failure::Unknown("the server sent an unexpected response".to_owned())
    }

    /// Returns the same kind of failure with a changed text.
    pub fn map(self, change: impl FnOnce(&str) -> String) -> Failure {
        match self {
            Failure::NotApplied(why) => Failure::NotApplied(change(&why)),
            Failure::Unknown(why) => Failure::Unknown(change(&why)),
        }
    }

    /// Returns the text of the failure.
    pub fn why(self) -> String {
        let (Failure::NotApplied(why) | Failure::Unknown(why)) = self;
        why
    }
}

/// Resolves the host names of endpoints. An IP address is used directly, because the default resolver starts
/// a thread for each request, even for an IP address.
#[derive(Debug, Default)]
struct Lookup(DefaultResolver);

impl Resolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let endpoint = uri.scheme().zip(uri.authority());
        let text = endpoint.and_then(|(scheme, at)| DefaultResolver::host_and_port(scheme, at));
        let Some(addr) = text.and_then(|text| text.parse().ok()) else {
            return self.0.resolve(uri, config, timeout);
        };
        let mut only = self.empty();
        only.push(addr);
        Ok(only)
    }
}

/// The HTTP client.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    /// The product that the servers run, for messages.
    product: &'static str,
    /// The text by which a permanent server error (status 500 or above) is recognized. A request that fails
    /// with this text is not repeated. `None` if all server errors of the product are temporary.
    permanent: Option<&'static str>,
    endpoints: Vec<String>,
    /// The index of the endpoint that responded last; `None` before the first request.
    current: Cell<Option<usize>>,
    /// Whether an endpoint has failed since an endpoint last responded.
    has_failed: Cell<bool>,
    /// The index of the endpoint to try first. It is chosen at random, so that the clients use all endpoints
    /// evenly.
    first: usize,
    /// The file in which processes record which endpoint responded after another endpoint had failed. Later
    /// processes start with that endpoint.
    memory: PathBuf,
    /// Whether at least one byte of the request was written to a connection.
    has_written: Arc<AtomicBool>,
    timeout: Duration,
}

impl Client {
    /// Makes a client for these servers. Reads the certificates, but does not connect to a server.
    pub fn new(
        product: &'static str,
        permanent: Option<&'static str>,
        servers: &Servers,
    ) -> Result<Client, StoreError> {
        let config = Agent::config_builder()
            .proxy(None)
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent("sublet")
            .accept("application/json");
        // TLS is set up only if an endpoint uses it.
        let encrypted = servers.endpoints.iter().any(|e| e.starts_with("https://"));
        let config = if encrypted { config.tls_config(tls(servers)?) } else { config };
        let has_written = Arc::new(AtomicBool::new(false));
        let connector = DefaultConnector::new().chain(Witness(has_written.clone()));
        Ok(Client {
            agent: Agent::with_parts(config.build(), connector, Lookup::default()),
            product,
            permanent,
            endpoints: servers.endpoints.clone(),
            current: Cell::new(None),
            has_failed: Cell::new(false),
            first: usize::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or(0),
            memory: servers.notes.join(file_name("server", &servers.endpoints.join(" "))),
            has_written,
            timeout: servers.timeout,
        })
    }

    /// Returns the endpoint to try first.
    #[cfg(test)]
    pub fn asks_first(&self) -> String {
        self.endpoints[self.current()].clone()
    }

    /// Returns the index of the endpoint to try first. This is the endpoint that responded last to this
    /// process, or that responded recently to another process. If there is neither, the endpoint was chosen
    /// at random.
    fn current(&self) -> usize {
        let remembered = || {
            if self.endpoints.len() < 2 {
                return None;
            }
            let age = std::fs::metadata(&self.memory).ok()?.modified().ok()?.elapsed().ok()?;
            let text = files::read(&self.memory, 16).ok().filter(|_| age < REMEMBERED)?;
            text.parse().ok()
        };
        let at = self.current.get().or_else(remembered).unwrap_or(self.first);
        at % self.endpoints.len()
    }

    /// Returns the servers, for messages.
    pub fn place(&self) -> String {
        format!("{} at {}", self.product, self.endpoints.join(", "))
    }

    /// Makes the error for a request that has failed. `doing` says what the request was supposed to do, such
    /// as "read from".
    pub fn unavailable(&self, doing: &str, failure: Failure) -> StoreError {
        StoreError::unavailable(doing, self.place(), failure.why())
    }

    /// Returns the outcome of a commit. [`Failure::Unknown`] becomes [`Commit::Unknown`], which is not an
    /// error.
    pub fn committed(&self, outcome: Result<Commit, Failure>) -> Result<Commit, StoreError> {
        let doing = "commit to";
        match outcome {
            Ok(commit) => Ok(commit),
            Err(failure @ Failure::NotApplied(_)) => Err(self.unavailable(doing, failure)),
            Err(Failure::Unknown(why)) => Ok(Commit::Unknown(StoreError::Unanswered {
                doing: doing.to_owned(),
                place: self.place(),
                source: why.into(),
            })),
        }
    }

    /// Parses a response as JSON.
    pub fn parse<T: DeserializeOwned>(&self, reply: &Reply) -> Result<T, Failure> {
        serde_json::from_slice(&reply.body).map_err(|e| {
            Failure::Unknown(format!("the response is not a valid {} response: {e}", self.product))
        })
    }

    /// Sends a request to one server after another, until a server responds or `until` is reached. If a
    /// server is running but cannot serve the request at present, sends the request again, but only if the
    /// request is `retryable`. If no server is running, fails without waiting.
    pub fn send(&self, request: Request<'_>, until: Instant) -> Result<Reply, Failure> {
        // Limit the time to that of one request: `until` may be much later, because a listing consists of
        // many requests.
        let until = until.min(Instant::now() + self.timeout);
        loop {
            let (mut why, mut is_any_up) = (String::new(), false);
            for _ in 0..self.endpoints.len() {
                let at = self.current();
                let endpoint = &self.endpoints[at];
                let failure = match self.ask(endpoint, request, until) {
                    Ok(reply) if request.retryable && self.is_transient(&reply) => {
                        is_any_up = true;
                        self.failure(&reply, &reply.text())
                    }
                    Ok(reply) => {
                        self.current.set(Some(at));
                        if self.has_failed.take() {
                            // If the record cannot be written, the next process may try the failed endpoint
                            // again.
                            let _ = files::put(&self.memory, at.to_string().as_bytes(), "new");
                        }
                        return Ok(reply);
                    }
                    Err(failure) => failure,
                };
                self.has_failed.set(true);
                self.current.set(Some(at + 1));
                let failure = failure.map(|why| format!("{endpoint}: {why}"));
                if matches!(failure, Failure::Unknown(_)) && !request.retryable {
                    return Err(failure);
                }
                why = failure.why();
                if Instant::now() >= until {
                    return Err(Failure::NotApplied(why));
                }
            }
            if !is_any_up {
                return Err(Failure::NotApplied(why));
            }
            pause(RETRY_AFTER, until);
        }
    }

    /// Returns whether the response is a server error that is probably temporary, such as a missing leader.
    fn is_transient(&self, reply: &Reply) -> bool {
        reply.status >= 500 && self.permanent.is_none_or(|text| !reply.text().contains(text))
    }

    /// Makes the failure for a response with a status other than 200. `why` explains the status. A server
    /// error that may be temporary means that the request may still be applied. Any other status means that
    /// the server rejected the request, with two exceptions: 408 and 499 ("client closed the connection").
    /// etcd's gateway also sends these while its server is stopping, and then the request may still be
    /// applied.
    pub fn failure(&self, reply: &Reply, why: &str) -> Failure {
        let why = format!("{} {why}", reply.status);
        let may_be_applied = self.is_transient(reply) || [408, 499].contains(&reply.status);
        if may_be_applied { Failure::Unknown(why) } else { Failure::NotApplied(why) }
    }

    fn ask(&self, endpoint: &str, request: Request<'_>, until: Instant) -> Result<Reply, Failure> {
        // Do not use all the time for this server: if it does not respond, the other servers must still be
        // tried.
        let share = match u32::try_from(self.endpoints.len()) {
            Ok(1) | Err(_) => self.timeout,
            Ok(others) => self.timeout / (others + 1),
        };
        let left = until.saturating_duration_since(Instant::now()).min(share);
        if left.is_zero() {
            return Err(Failure::NotApplied("the time limit of the call was reached".to_owned()));
        }
        let mut http = HttpRequest::builder()
            .method(request.method)
            .uri(format!("{endpoint}{}", request.path))
            .header("content-type", "application/json");
        if let Some((name, secret)) = request.secret {
            http = http.header(name, secret.expose());
        }
        let (mut none, mut json) = ((), request.body);
        let body = if request.method == "GET" { none.as_body() } else { json.as_body() };
        let http = http.body(body).map_err(|e| Failure::NotApplied(e.to_string()))?;
        let http = self
            .agent
            .configure_request(http)
            .timeout_global(Some(left))
            // The limits of these steps add up to less than the total timeout, so that other servers can
            // still be tried.
            .timeout_resolve(Some(left / 5))
            .timeout_connect(Some(CONNECT.min(left * 3 / 4)))
            .build();
        self.has_written.store(false, Ordering::Relaxed);
        let encrypted = endpoint.starts_with("https://");
        let reply = self.agent.run(http);
        let mut reply = reply.map_err(|error| self.classify(&error, encrypted))?;
        let body = reply.body_mut().with_config().limit(LONGEST_ANSWER).read_to_vec();
        let body = body.map_err(|e| Failure::Unknown(e.to_string()))?;
        Ok(Reply { status: reply.status().as_u16(), body })
    }

    /// Converts an error to a failure. The kind of failure depends on whether a server may have received a
    /// byte of the request.
    fn classify(&self, error: &Error, encrypted: bool) -> Failure {
        let text = match error {
            Error::Timeout(timeout) => format!("the server did not respond in time ({timeout})"),
            // If a server requires a client certificate, it may close the connection before it reports an
            // error.
            Error::Io(e) if encrypted && !is_tls(e) && self.has_written.load(Ordering::Relaxed) => {
                format!("{error}; the server may require a different client certificate")
            }
            error => error.to_string(),
        };
        if self.has_written.load(Ordering::Relaxed) {
            Failure::Unknown(text)
        } else {
            Failure::NotApplied(text)
        }
    }
}

/// A flag that is set as soon as a byte of a request is written to a connection. With TLS, the handshake does
/// not count.
#[derive(Debug)]
struct Witness(Arc<AtomicBool>);

/// A connection that sets `has_written` when a byte is written to the connection.
#[derive(Debug)]
struct Witnessed<T> {
    inner: T,
    has_written: Arc<AtomicBool>,
}

impl<T: Transport> Connector<T> for Witness {
    type Out = Witnessed<T>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<T>,
    ) -> Result<Option<Witnessed<T>>, Error> {
        let has_written = self.0.clone();
        Ok(chained.map(|inner| Witnessed { inner, has_written }))
    }
}

impl<T: Transport> Transport for Witnessed<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.has_written.store(true, Ordering::Relaxed);
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.inner.await_input(timeout)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

fn is_tls(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

fn tls(servers: &Servers) -> Result<TlsConfig, StoreError> {
    let roots = match &servers.ca {
        Some(path) => certificates(path)?,
        None => authorities()?,
    };
    let identity = |(cert, key): &(PathBuf, PathBuf)| {
        let private = PrivateKey::from_pem(read(key)?.as_bytes())
            .map_err(|_| unusable(key, "the file contains no private key in PEM format"))?;
        Ok(ClientCert::new_with_certs(&certificates(cert)?, private))
    };
    let identity = servers.identity.as_ref().map(identity).transpose()?;
    Ok(TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(identity)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build())
}

/// Returns the certificate authorities that the system trusts.
fn authorities() -> Result<Vec<ureq::tls::Certificate<'static>>, StoreError> {
    for path in SYSTEM_CA.map(Path::new) {
        if files::look(path).map_err(|e| StoreError::io("access", path, e))?.is_some() {
            return certificates(path);
        }
    }
    Err(unusable(
        SYSTEM_CA[0].as_ref(),
        "this host has no list of certificate authorities; set `caFile`",
    ))
}

fn certificates(path: &Path) -> Result<Vec<ureq::tls::Certificate<'static>>, StoreError> {
    let text = read(path)?;
    let items: Result<Vec<PemItem<'_>>, _> = parse_pem(text.as_bytes()).collect();
    let items = items.map_err(|_| unusable(path, "the file is not a PEM file"))?;
    let certificate = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let found: Vec<_> = items.into_iter().filter_map(certificate).collect();
    if found.is_empty() {
        return Err(unusable(path, "the file contains no certificate in PEM format"));
    }
    Ok(found)
}
