//! The HTTP server of the status page.
//!
//! Invariants: Unless the operator allows other hosts, only clients on this host can connect. Each connection
//! serves one request and is then closed.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use http_body_util::Full;
use hyper::Response;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use tokio::sync::Semaphore;

use super::answer::Answer;
use super::api;
use super::api::{Question, Request};
use super::connections::{Connections, Id};
use super::host;
use super::host::Stores;
use crate::alloc::Context;
use crate::config::Level;
use crate::model::StoreSpec;
use crate::sys::panic;
use crate::sys::stream::Stream;
use crate::telemetry::log::{Entry, Log};

/// How long a connection may last, from accepting it to sending the last byte of the response.
const LONGEST: Duration = Duration::from_secs(30);

/// The maximum size of a request's head, in bytes.
const HEAD: usize = 16 << 10;

/// The maximum numbers of requests that are processed at the same time: first for the API, then for
/// `/metrics` and `/healthz`. The limits are separate, so that a slow API request never delays a scrape or a
/// probe.
const AT_ONCE: [usize; 2] = [4, 2];

/// The state that all requests share.
struct Host {
    stores: Stores,
    names: Vec<String>,
    log: Log,
    connections: Connections,
    room: [Arc<Semaphore>; 2],
}

/// Listens on `address` (HOST:PORT) and serves the stores from a new thread. Unless `public`, `address` must
/// be a loopback address. In a request, the host may be an IP address, `localhost`, or one of `names`.
pub fn open(
    address: &str,
    public: bool,
    names: Vec<String>,
    stores: Vec<(StoreSpec, Context)>,
    log: Log,
) -> Result<()> {
    let listener = listen(address, public)?;
    let at = listener.local_addr()?;
    listener.set_nonblocking(true)?;
    // Idle threads use memory, so create only as many threads as there can be requests in progress.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(AT_ONCE[0] + AT_ONCE[1])
        .build()?;
    log.write(&Entry::new(Level::Info, format!("serving the status page at http://{at}/")));
    let (connections, room) =
        (Connections::default(), AT_ONCE.map(|places| Arc::new(Semaphore::new(places))));
    let stores = Stores::new(stores)?;
    let host = Arc::new(Host { stores, names, log, connections, room });
    // The thread runs until the process exits.
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
            "--http {outside} is reachable from other hosts, which could then read all leases; use a loopback \
             address (127.0.0.1:{}), or pass `--http-public`",
            outside.port()
        );
    }
    TcpListener::bind(&all[..]).with_context(cannot)
}

async fn drop_idle(host: &Host) {
    loop {
        tokio::time::sleep(Duration::from_secs(10)).await;
        host.stores.drop_idle();
    }
}

async fn accept(listener: TcpListener, host: Arc<Host>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(e) => {
            host.log.write(&Entry::new(Level::Error, format!("cannot serve the status page: {e}")));
            return;
        }
    };
    let mut id = 0;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                let text = format!("cannot accept a connection to the status page: {e}");
                host.log.write(&Entry::new(Level::Error, text));
                // Retry after a pause: the cause may pass, for example if the process is out of descriptors.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        id += 1;
        let open = Open { host: host.clone(), id };
        let task = tokio::spawn(async move {
            let service = service_fn(|request| respond(request, open.host.clone(), id));
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .half_close(true)
                .max_buf_size(HEAD)
                .serve_connection(Stream::plain(stream), service);
            // A timeout or an error means that the client is too slow or has disconnected: close the
            // connection.
            let _ = tokio::time::timeout(LONGEST, connection).await;
        });
        host.connections.add(id, task.abort_handle());
        // Let the open connections make progress before the next one is accepted.
        tokio::task::yield_now().await;
    }
}

/// An open connection. Dropping it removes the connection from the list of open connections.
struct Open {
    host: Arc<Host>,
    id: Id,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.host.connections.ended(self.id);
    }
}

async fn respond(
    request: hyper::Request<Incoming>,
    host: Arc<Host>,
    id: Id,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let began = Instant::now();
    host.connections.asked(id);
    let (head, _) = request.into_parts();
    let (path, query) = (head.uri.path(), head.uri.query());
    let answer = match api::read(&head.method, path, query, &head.headers, &host.names) {
        Ok(Request { question: Question::Asset(kind, text), .. }) => {
            Answer::asset(kind, text).packed(&head.headers)
        }
        Ok(asked) => answer(&host, asked, head.headers.clone()).await,
        Err((status, why)) => Answer::no(status.as_u16(), &why),
    };
    let level = if answer.status.is_server_error() { Level::Warn } else { Level::Debug };
    let mut entry = Entry::new(level, path)
        .with("face", "web")
        .with("command", head.method.as_str())
        .with("outcome", answer.status.as_str());
    entry.took = Some(began.elapsed());
    host.log.write(&entry);
    let response = answer.response();
    let bytes = response.body().size_hint().lower();
    host.connections.sending(id, usize::try_from(bytes).unwrap_or(usize::MAX));
    Ok(response)
}

/// Computes a response on a worker thread, because reading a store blocks.
async fn answer(host: &Arc<Host>, asked: Request, request: HeaderMap) -> Answer {
    let is_probe = matches!(asked.question, Question::Metrics | Question::Health);
    let room = host.room[usize::from(is_probe)].clone().acquire_owned().await;
    let own = host.clone();
    let work = tokio::task::spawn_blocking(move || {
        // The work continues even if the client disconnects. Hold the permit until the work ends, so that the
        // limit on concurrent requests still holds.
        let _room = room;
        let answer = host::answer(&own.stores, &asked);
        answer.unwrap_or_else(|fault| Answer::no(503, &fault.text)).packed(&request)
    });
    work.await.unwrap_or_else(|e| {
        let why = e.try_into_panic().map_or_else(|e| e.to_string(), |p| panic::explain(&*p).msg);
        Answer::no(500, &why)
    })
}
