//! The listener of the page.
//!
//! Invariant: only this host can connect unless the operator allows others; a connection carries one request
//! and ends.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::{Semaphore, oneshot};

use super::api;
use super::api::{Answer, JSON, PROMETHEUS, Question};
use super::cache::{Cache, Why};
use super::metrics;
use crate::alloc::Context;
use crate::config::Level;
use crate::model::StoreSpec;
use crate::rows::{EventRow, LeaseRow, Time};
use crate::sys::stream::Stream;
use crate::sys::{host, panic};
use crate::telemetry::counters;
use crate::telemetry::log::{Entry, Log};

/// Connections at a time; the kernel keeps the next ones waiting.
const AT_ONCE: usize = 32;

/// How long a connection may take, its answer included.
const LONGEST: Duration = Duration::from_secs(30);

/// The largest head of a request, in bytes.
const HEAD: usize = 16 << 10;

/// Options of the page.
pub struct PageOptions {
    /// HOST:PORT.
    pub address: String,
    /// Also an address that others reach.
    pub public: bool,
    /// Names under which it may be asked for, beside addresses and localhost.
    pub names: Vec<String>,
    /// Which store.
    pub store: StoreSpec,
    /// Node and boot.
    pub cx: Context,
    /// Where lines go.
    pub log: Log,
}

/// A page that is served until this is dropped.
pub struct Site {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Where it listens.
    pub at: SocketAddr,
}

impl Drop for Site {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What every request needs.
struct Host {
    cache: Cache,
    names: Vec<String>,
    log: Log,
}

/// Listens, and serves from a thread of its own.
pub fn open(options: PageOptions) -> Result<Site> {
    let PageOptions { address, public, names, store, cx, log } = options;
    let listener = listen(&address, public)?;
    let at = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    log.write(&Entry::new(Level::Info, format!("the status page is at http://{at}/")));
    let host = Arc::new(Host { cache: Cache::new(store, cx), names, log });
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("page".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, host.clone()) => {}
                () = drop_idle(&host) => {}
                _ = stopped => {}
            }
        });
        // A read that hangs on its disk does not keep the process.
        runtime.shutdown_timeout(Duration::from_secs(1));
    })?;
    Ok(Site { stop: Some(stop), thread: Some(thread), at })
}

fn listen(address: &str, public: bool) -> Result<TcpListener> {
    let cannot = || format!("cannot listen on --http {address}");
    let all: Vec<SocketAddr> = address.to_socket_addrs().with_context(cannot)?.collect();
    if let Some(outside) = all.iter().find(|at| !at.ip().is_loopback()).filter(|_| !public) {
        bail!(
            "--http {outside} is reachable from outside, and whoever reaches it reads all leases: use a \
             loopback address (127.0.0.1:{}), or say --http-public",
            outside.port()
        );
    }
    TcpListener::bind(&all[..]).with_context(cannot)
}

async fn drop_idle(host: &Host) {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        host.cache.drop_idle();
    }
}

async fn accept(listener: TcpListener, host: Arc<Host>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => {
            host.log.write(&Entry::new(Level::Error, format!("no status page: {e}")));
            return;
        }
    };
    let room = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                let text = format!("cannot accept a connection to the status page: {e}");
                host.log.write(&Entry::new(Level::Error, text));
                // Out of descriptors, say: for better times.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let host = host.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| respond(request, host.clone()));
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .max_buf_size(HEAD)
                .serve_connection(Stream::plain(stream), service);
            // Whoever is too slow, or goes away, gets no more.
            let _ = tokio::time::timeout(LONGEST, connection).await;
            drop(place);
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    host: Arc<Host>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let began = Instant::now();
    let (head, _) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query());
    let answer = match api::read(&head.method, path, query, &head.headers, &host.names) {
        Ok(Question::Asset(kind, text)) => Answer::of(kind, text),
        Ok(question) => {
            let host = host.clone();
            // Looking blocks: not in the thread that serves the others.
            let work = tokio::task::spawn_blocking(move || host.answer(&question));
            work.await.unwrap_or_else(|e| {
                let why =
                    e.try_into_panic().map_or_else(|e| e.to_string(), |p| panic::explain(&*p).msg);
                Answer::no(StatusCode::INTERNAL_SERVER_ERROR, &why)
            })
        }
        Err((status, why)) => Answer::no(status, &why),
    };
    let level = if answer.status.is_server_error() { Level::Warn } else { Level::Debug };
    let mut entry = Entry::new(level, path)
        .with("face", "web")
        .with("command", head.method.as_str())
        .with("outcome", answer.status.as_str());
    entry.took = Some(began.elapsed());
    host.log.write(&entry);
    Ok(answer.response(&head.method))
}

impl Host {
    fn answer(&self, question: &Question) -> Answer {
        let answer = self.try_answer(question);
        answer.unwrap_or_else(|why| Answer::no(StatusCode::SERVICE_UNAVAILABLE, &why))
    }

    fn try_answer(&self, question: &Question) -> Result<Answer, Why> {
        Ok(match question {
            Question::Asset(kind, text) => Answer::of(kind, *text),
            Question::Pools => {
                let snapshot = self.cache.snapshot()?;
                Answer::json(&snapshot.pools(self.cache.node(), &self.cache.place()))
            }
            Question::Leases(network) => {
                Answer::of(JSON, self.cache.snapshot()?.leases(network.as_deref()))
            }
            Question::Nodes => Answer::json(&self.cache.snapshot()?.nodes()),
            Question::Problems => {
                let problems = self.cache.problems();
                Answer::json(&json!({ "looked": problems.looked, "problems": problems.rows }))
            }
            Question::History(addr) => {
                let (leases, events) = self.cache.history(*addr)?;
                let leases: Vec<LeaseRow<'_>> = leases.iter().map(LeaseRow::new).collect();
                let events: Vec<EventRow<'_>> = events.iter().map(EventRow::new).collect();
                Answer::json(&json!({
                    "time": Time(host::now()),
                    "address": addr.to_string(),
                    "leases": leases,
                    "events": events,
                }))
            }
            Question::Metrics => {
                let text = metrics::text(
                    self.cache.snapshot().ok().as_deref(),
                    &self.cache.problems(),
                    &counters::now(),
                );
                Answer::of(PROMETHEUS, text)
            }
        })
    }
}
