//! The listener of the page.
//!
//! Invariant: only this host can connect unless the operator allows others; a connection carries one request
//! and ends.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;

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

/// What every request needs.
struct Host {
    cache: Cache,
    names: Vec<String>,
    log: Log,
}

/// Listens on `address` (HOST:PORT), and serves a store from a thread of its own. Only if `public`, others
/// than this host can reach the address. `names` are allowed in requests beside addresses and localhost.
pub fn open(
    address: &str,
    public: bool,
    names: Vec<String>,
    store: StoreSpec,
    cx: Context,
    log: Log,
) -> Result<()> {
    let listener = listen(address, public)?;
    let at = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    log.write(&Entry::new(Level::Info, format!("the status page is at http://{at}/")));
    let host = Arc::new(Host { cache: Cache::new(store, cx), names, log });
    // Ends with the process.
    std::thread::Builder::new().name("page".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, host.clone()) => {}
                () = drop_idle(&host) => {}
            }
        });
    })?;
    Ok(())
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
                .half_close(true)
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
            let work = tokio::task::spawn_blocking(move || {
                let answer = host.answer(&question);
                answer.unwrap_or_else(|why| Answer::no(StatusCode::SERVICE_UNAVAILABLE, &why))
            });
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
    Ok(answer.response())
}

impl Host {
    fn answer(&self, question: &Question) -> Result<Answer, Why> {
        Ok(match question {
            Question::Asset(kind, text) => Answer::of(kind, *text),
            Question::Pools => {
                let snapshot = self.cache.snapshot()?;
                Answer::json(&snapshot.pools(&self.cache.cx.node, &self.cache.place()))
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
