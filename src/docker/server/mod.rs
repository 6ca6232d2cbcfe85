//! The server of `subletd`: its sockets, its startup and shutdown, and the times at which it cleans up.
//!
//! Invariant: the server reports that it is ready only once it is listening on all sockets. At shutdown, it
//! answers every request that has already arrived. If a response cannot be delivered, its change is undone.

mod http;
mod listen;
mod tls;
mod worker;

use std::ffi::{OsStr, OsString};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use listenfd::ListenFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};
use tokio_rustls::TlsAcceptor;

use self::worker::Queue;
use super::args::{Limits, Tcp};
use super::cleanup;
use super::dockerd;
use crate::config::Level;
use crate::error::with_causes;
use crate::store;
use crate::telemetry::log::Entry;
pub use worker::Backend;

/// The maximum time that open requests may take after the shutdown has begun.
const DRAIN: Duration = Duration::from_secs(15);

/// How long the server waits at shutdown for requests that dockerd has already sent, on idle connections or
/// on connections that have not been accepted yet.
const LINGER: Duration = Duration::from_millis(250);

/// When and how the server cleans up, that is, frees the addresses and pools that dockerd no longer lists.
pub struct Cleanup {
    /// The time between two cleanups. `None` means that the server cleans up only after dockerd has activated
    /// the driver.
    pub every: Option<Duration>,
    /// The path of dockerd's socket.
    pub docker: PathBuf,
    /// What a cleanup must not free.
    pub limits: Limits,
}

/// The configuration of the server.
pub struct ServerConfig {
    /// The paths of the unix sockets.
    pub sockets: Vec<PathBuf>,
    /// The TCP address, if there is one.
    pub tcp: Tcp,
    /// The driver and its store.
    pub backend: Backend,
    /// When and how to clean up.
    pub cleanup: Cleanup,
    /// systemd's notification socket, if systemd expects notifications.
    pub notify: Option<OsString>,
}

/// Runs the server until SIGTERM or SIGINT.
pub fn run(config: ServerConfig) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ServerConfig { sockets, tcp, backend, cleanup, notify } = config;
    let backend = Arc::new(backend);
    let (queue, workers) = Queue::start(&backend)?;
    let served = runtime.block_on(async {
        let (stop, stopping) = watch::channel(false);
        // Every connection holds a sender of this channel, so the channel closes once all connections have
        // ended.
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let (backend, queue) = (backend.clone(), queue.clone());
        let activated = Arc::new(Notify::new());
        let mut listeners = Listeners {
            backend,
            queue,
            stopping,
            alive,
            activated: activated.clone(),
            published: Vec::new(),
        };
        let mut inherited = ListenFd::from_env();
        if inherited.len() > 0 {
            listeners.inherit(&mut inherited)?;
        } else {
            listeners.unix(&sockets)?;
            if let Some(address) = &tcp.address {
                listeners.tcp(address, &tcp)?;
            }
        }
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        notify_systemd(notify.as_deref(), "READY=1");
        listeners.backend.log(Level::Info, "ready");
        let cleanup = Arc::new(cleanup);
        for activated in [None, Some(activated)] {
            let (backend, stopping) = (listeners.backend.clone(), listeners.stopping.clone());
            tokio::spawn(clean_repeatedly(cleanup.clone(), activated, backend, stopping));
        }
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        notify_systemd(notify.as_deref(), "STOPPING=1");
        // Dropping the listeners removes the socket files, so new clients can no longer connect.
        listeners.backend.log(Level::Info, "stopping: finishing open requests");
        drop(listeners);
        let _ = stop.send(true);
        let _ = tokio::time::timeout(DRAIN, ended.recv()).await;
        Ok(())
    });
    // Shutting down the runtime ends the connections that are still open. The workers then undo the changes
    // whose responses were not delivered. A cleanup that waits for dockerd delays the exit by at most
    // `DRAIN`.
    runtime.shutdown_timeout(DRAIN);
    drop(queue);
    for worker in workers {
        let _ = worker.join();
    }
    served
}

/// Sends a notification to systemd, if systemd expects notifications.
fn notify_systemd(socket: Option<&OsStr>, state: &str) {
    let Some(name) = socket.filter(|name| !name.is_empty()) else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(rest) => SocketAddr::from_abstract_name(rest),
        None => SocketAddr::from_pathname(name),
    };
    if let (Ok(address), Ok(from)) = (address, UnixDatagram::unbound()) {
        let _ = from.send_to_addr(state.as_bytes(), &address);
    }
}

type Stopping = watch::Receiver<bool>;

/// Opens sockets, and serves the connections on them.
struct Listeners {
    backend: Arc<Backend>,
    queue: Queue,
    stopping: Stopping,
    alive: mpsc::Sender<()>,
    /// Notified when a dockerd activates the plugin over a unix socket. Such a dockerd runs on this host, so
    /// a cleanup can read its list of networks.
    activated: Arc<Notify>,
    published: Vec<listen::Published>,
}

/// A stream of a unix socket or of TCP, with or without TLS.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Box<dyn Socket>> {
        Ok(match self {
            Listener::Unix(listener) => Box::new(listener.accept().await?.0),
            Listener::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        })
    }
}

impl Listeners {
    fn unix(&mut self, paths: &[PathBuf]) -> Result<()> {
        for path in paths {
            let (listener, published) = listen::unix(path)?;
            self.published.push(published);
            self.serve_unix(listener)?;
            self.backend.log(Level::Info, format!("listening on {}", path.display()));
        }
        Ok(())
    }

    fn tcp(&mut self, address: &str, tcp: &Tcp) -> Result<()> {
        let listener = std::net::TcpListener::bind(address)
            .with_context(|| format!("cannot listen on {address}"))?;
        let at = listener.local_addr()?;
        if tcp.tls.is_none() && !at.ip().is_loopback() && !tcp.insecure {
            bail!(
                "{at} is reachable from other hosts, which could then lease addresses; pass `--tls-cert`, \
                 `--tls-key` and `--tls-ca`, use a loopback address, or pass `--insecure`"
            );
        }
        let acceptor = tcp.tls.as_ref().map(tls::acceptor).transpose()?;
        listener.set_nonblocking(true)?;
        self.serve(Listener::Tcp(TcpListener::from_std(listener)?), acceptor);
        self.published.push(listen::publish_tcp(tcp, at)?);
        self.backend.log(Level::Info, format!("listening on {at}"));
        Ok(())
    }

    /// Uses the sockets that systemd has opened and passed to this process. systemd also removes them.
    fn inherit(&mut self, inherited: &mut ListenFd) -> Result<()> {
        for at in 0..inherited.len() {
            match inherited.take_unix_listener(at) {
                Ok(Some(listener)) => self.serve_unix(listener)?,
                _ => bail!(
                    "inherited socket {at} is not a unix socket; correct the systemd socket unit"
                ),
            }
        }
        let text = format!("listening on inherited sockets: {}", inherited.len());
        self.backend.log(Level::Info, text);
        Ok(())
    }

    fn serve_unix(&self, listener: std::os::unix::net::UnixListener) -> Result<()> {
        listener.set_nonblocking(true)?;
        self.serve(Listener::Unix(UnixListener::from_std(listener)?), None);
        Ok(())
    }

    fn serve(&self, listener: Listener, tls: Option<TlsAcceptor>) {
        let (backend, queue, alive) =
            (self.backend.clone(), self.queue.clone(), self.alive.clone());
        let mut stopping = self.stopping.clone();
        let activated = matches!(listener, Listener::Unix(_)).then(|| self.activated.clone());
        tokio::spawn(async move {
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => Some(accepted),
                    () = stopped(&mut stopping) => {
                        tokio::time::timeout(LINGER, listener.accept()).await.ok()
                    }
                };
                let stream = match accepted {
                    None => return,
                    Some(Ok(stream)) => stream,
                    Some(Err(e)) => {
                        backend.log(Level::Error, format!("cannot accept a connection: {e}"));
                        // The error may be temporary, such as too many open files.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (queue, stopping, alive) = (queue.clone(), stopping.clone(), alive.clone());
                let (tls, timeout) = (tls.clone(), backend.timeout);
                let activated = activated.clone();
                tokio::spawn(async move {
                    match tls {
                        None => http::serve(stream, queue, timeout, stopping, activated).await,
                        Some(tls) => {
                            let shaken = tokio::time::timeout(timeout, tls.accept(stream)).await;
                            if let Ok(Ok(stream)) = shaken {
                                http::serve(stream, queue, timeout, stopping, None).await;
                            }
                        }
                    }
                    drop(alive);
                });
            }
        });
    }
}

/// Waits until the shutdown begins.
async fn stopped(stopping: &mut Stopping) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

/// The maximum number of attempts to clean up after an activation. The first attempts may fail, because
/// dockerd does not respond while it is starting.
const TRIES: u32 = 5;

/// Cleans up after each notification on `activated` or, if `activated` is `None`, at the configured interval.
/// After an activation, it first gives dockerd time to load its networks. Each cleanup opens the store for
/// itself, so that no request waits for it. If dockerd does not respond, nothing is freed.
async fn clean_repeatedly(
    cleanup: Arc<Cleanup>,
    activated: Option<Arc<Notify>>,
    backend: Arc<Backend>,
    mut stopping: Stopping,
) {
    let (delay, tries) = match (&activated, cleanup.every) {
        (Some(_), _) => (cleanup.limits.grace.max(Duration::from_secs(1)), TRIES),
        (None, Some(every)) => (every, 1),
        (None, None) => return,
    };
    let limits = Limits { only_if_served: activated.is_some(), ..cleanup.limits.clone() };
    loop {
        let begin = async {
            if let Some(activated) = &activated {
                activated.notified().await;
            }
        };
        tokio::select! {
            () = stopped(&mut stopping) => return,
            () = begin => {}
        }
        for _ in 0..tries {
            tokio::select! {
                () = stopped(&mut stopping) => return,
                () = tokio::time::sleep(delay) => {}
            }
            if clean_once(cleanup.docker.clone(), limits.clone(), &backend).await {
                break;
            }
        }
    }
}

/// Cleans up once, and logs what was freed. Returns whether dockerd responded.
async fn clean_once(docker: PathBuf, limits: Limits, backend: &Arc<Backend>) -> bool {
    let own = backend.clone();
    let work = tokio::task::spawn_blocking(move || {
        let listing = dockerd::list(&docker)?;
        let mut store = store::open(&own.store)?;
        cleanup::clean(&mut *store, &own.context(), &own.driver.settings, &listing, &limits)
    });
    let report = work.await.unwrap_or_else(|e| Err(e.into()));
    let is_done = report.is_ok();
    let (level, text) = match report {
        Ok(report) if report.is_empty() => (Level::Debug, "cleanup: nothing to do".to_owned()),
        Ok(report) => (Level::Info, format!("cleanup: {report}")),
        Err(e) => (Level::Warn, format!("cleanup: nothing was freed: {}", with_causes(e.as_ref()))),
    };
    backend.log.write(&Entry::new(level, text).with("command", "cleanup"));
    is_done
}
