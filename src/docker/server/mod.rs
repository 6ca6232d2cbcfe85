//! subletd: the driver behind sockets.
//!
//! Owns: the life of the process: listening, readiness, the drain at SIGTERM, the timer of cleanup.
//! Does not own: what a request means (`api`), where the driver is found (`listen`).
//! Invariant: all sockets listen before readiness is told; at the end every request that came in is
//! answered, and what was not delivered is undone.

mod desk;
mod http;
mod listen;
mod tls;

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use listenfd::ListenFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use self::desk::{Bench, Desk};
use super::api::Driver;
use super::cleanup;
use super::cleanup::Terms;
use super::dockerd;
use crate::alloc::Context;
use crate::config::Level;
use crate::model::StoreSpec;
use crate::store;
use crate::sys::host;
use crate::telemetry::log::{Entry, Log};
pub use listen::Client;

/// How long requests that came in before the end may take after it.
const DRAIN: Duration = Duration::from_secs(15);

/// How long a connection that is idle at the end, and the queue of those that are not accepted yet, may
/// bring one more request: dockerd sent it before the end.
const LAST_CALL: Duration = Duration::from_millis(250);

/// TCP, and who may come.
pub struct Tcp {
    /// HOST:PORT.
    pub address: String,
    /// Where dockerd looks for it.
    pub spec: PathBuf,
    /// Plain TCP on an address that others reach.
    pub insecure: bool,
    /// Certificate, key, and the authority of the clients; and what is written for dockerd.
    pub tls: Option<(PathBuf, PathBuf, PathBuf, Client)>,
}

/// Cleanup by the clock.
pub struct Timer {
    /// How often.
    pub every: Duration,
    /// dockerd's socket.
    pub docker: PathBuf,
    /// What may be freed.
    pub terms: Terms,
}

/// Everything that the server is told.
pub struct Plan {
    /// Unix sockets.
    pub sockets: Vec<PathBuf>,
    /// TCP.
    pub tcp: Option<Tcp>,
    /// What the driver knows beside its store.
    pub driver: Driver,
    /// Which store.
    pub store: StoreSpec,
    /// Node and boot.
    pub cx: Context,
    /// How long a request may take.
    pub timeout: Duration,
    /// Where lines go.
    pub log: Log,
    /// Cleanup by the clock.
    pub timer: Option<Timer>,
    /// Systemd's socket for notices, if it wants any.
    pub notify: Option<std::ffi::OsString>,
}

/// Serves until SIGTERM or SIGINT.
pub fn run(plan: Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let Plan { sockets, tcp, driver, store, cx, timeout, log, timer, notify } = plan;
    let cleaner = Cleaner { store: store.clone(), driver: driver.clone(), cx: cx.clone() };
    let bench = Bench { driver, store, cx, timeout, log: log.clone() };
    let (desk, threads) = Desk::open(bench)?;
    let served = runtime.block_on(async {
        let mut doors = Doors { desk: desk.clone(), timeout, log: log.clone(), placed: Vec::new() };
        let (stop, stopping) = watch::channel(false);
        // Every connection holds one; when all are gone the channel ends.
        let (alive, mut gone) = mpsc::channel::<()>(1);
        let mut handed = ListenFd::from_env();
        if handed.len() > 0 {
            doors.activated(&mut handed, &stopping, &alive)?;
        } else {
            doors.unix(&sockets, &stopping, &alive)?;
            if let Some(tcp) = &tcp {
                doors.tcp(tcp, &stopping, &alive)?;
            }
        }
        drop(alive);
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        tell(notify.as_deref(), "READY=1");
        log.write(&Entry::new(Level::Info, "ready"));
        if let Some(timer) = timer {
            tokio::spawn(clean_by_the_clock(timer, cleaner, log.clone(), stopping.clone()));
        }
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tell(notify.as_deref(), "STOPPING=1");
        log.write(&Entry::new(Level::Info, "stopping: requests that are here are answered"));
        // Nobody finds us any more; those that did are served.
        doors.placed.clear();
        let _ = stop.send(true);
        let _ = tokio::time::timeout(DRAIN, gone.recv()).await;
        Ok(())
    });
    // Ends the connections that did not drain; what they owe is undone by the threads.
    drop(runtime);
    drop(desk);
    for thread in threads {
        let _ = thread.join();
    }
    served
}

/// Tells systemd, if it asked.
fn tell(socket: Option<&std::ffi::OsStr>, what: &str) {
    let Some(name) = socket.filter(|name| !name.is_empty()) else { return };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(rest) => SocketAddr::from_abstract_name(rest),
        None => SocketAddr::from_pathname(name),
    };
    if let (Ok(address), Ok(from)) = (address, UnixDatagram::unbound()) {
        let _ = from.send_to_addr(what.as_bytes(), &address);
    }
}

/// Opens listeners, and serves who comes in.
struct Doors {
    desk: Desk,
    timeout: Duration,
    log: Log,
    placed: Vec<listen::Placed>,
}

type Stop = watch::Receiver<bool>;
type Alive = mpsc::Sender<()>;

/// Where connections come from.
enum Door {
    Unix(tokio::net::UnixListener),
    Tcp(tokio::net::TcpListener, Option<TlsAcceptor>),
}

/// One that came, not shaken hands with.
enum Guest {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream, Option<TlsAcceptor>),
}

impl Door {
    async fn next(&self) -> std::io::Result<Guest> {
        Ok(match self {
            Door::Unix(listener) => Guest::Unix(listener.accept().await?.0),
            Door::Tcp(listener, acceptor) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Guest::Tcp(stream, acceptor.clone())
            }
        })
    }
}

impl Guest {
    async fn serve(self, desk: Desk, timeout: Duration, stop: Stop) {
        match self {
            Guest::Unix(stream) => http::serve(stream, desk, timeout, stop).await,
            Guest::Tcp(stream, None) => http::serve(stream, desk, timeout, stop).await,
            Guest::Tcp(stream, Some(acceptor)) => {
                let shaken = tokio::time::timeout(timeout, acceptor.accept(stream)).await;
                if let Ok(Ok(stream)) = shaken {
                    http::serve(stream, desk, timeout, stop).await;
                }
            }
        }
    }
}

impl Doors {
    fn unix(&mut self, paths: &[PathBuf], stop: &Stop, alive: &Alive) -> Result<()> {
        for path in paths {
            let (listener, placed) = listen::unix(path)?;
            self.placed.push(placed);
            self.accept(unix_door(listener)?, stop, alive);
            self.log.write(&Entry::new(Level::Info, format!("listening on {}", path.display())));
        }
        Ok(())
    }

    fn tcp(&mut self, tcp: &Tcp, stop: &Stop, alive: &Alive) -> Result<()> {
        let listener = TcpListener::bind(&tcp.address)
            .with_context(|| format!("cannot listen on {}", tcp.address))?;
        let at = listener.local_addr()?;
        if tcp.tls.is_none() && !at.ip().is_loopback() && !tcp.insecure {
            bail!(
                "{at} is reachable from outside and whoever reaches it leases addresses: use \
                 --tls-cert, --tls-key and --tls-ca, a loopback address, or say --insecure"
            );
        }
        let acceptor = match &tcp.tls {
            Some((cert, key, ca, _)) => Some(tls::acceptor(cert, key, ca)?),
            None => None,
        };
        let client = tcp.tls.as_ref().map(|(.., client)| client);
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        self.accept(Door::Tcp(listener, acceptor), stop, alive);
        self.placed.push(listen::spec(&tcp.spec, at, client)?);
        self.log.write(&Entry::new(Level::Info, format!("listening on {at}")));
        Ok(())
    }

    /// Sockets that systemd opened; it removes them too.
    fn activated(&mut self, handed: &mut ListenFd, stop: &Stop, alive: &Alive) -> Result<()> {
        for at in 0..handed.len() {
            match handed.take_unix_listener(at) {
                Ok(Some(listener)) => self.accept(unix_door(listener)?, stop, alive),
                _ => bail!("socket {at} that was handed over is no unix socket"),
            }
        }
        let text = format!("listening on {} sockets that were handed over", handed.len());
        self.log.write(&Entry::new(Level::Info, text));
        Ok(())
    }

    fn accept(&self, door: Door, stop: &Stop, alive: &Alive) {
        let (desk, timeout, log) = (self.desk.clone(), self.timeout, self.log.clone());
        let (mut stop, alive) = (stop.clone(), alive.clone());
        tokio::spawn(async move {
            loop {
                let came = tokio::select! {
                    came = door.next() => Some(came),
                    () = stopped(&mut stop) => {
                        tokio::time::timeout(LAST_CALL, door.next()).await.ok()
                    }
                };
                let guest = match came {
                    None => return,
                    Some(Ok(guest)) => guest,
                    Some(Err(e)) => {
                        let text = format!("cannot accept a connection: {e}");
                        log.write(&Entry::new(Level::Error, text));
                        // Out of descriptors, say: for better times.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (desk, stop, alive) = (desk.clone(), stop.clone(), alive.clone());
                tokio::spawn(async move {
                    guest.serve(desk, timeout, stop).await;
                    drop(alive);
                });
            }
        });
    }
}

fn unix_door(listener: UnixListener) -> Result<Door> {
    listener.set_nonblocking(true)?;
    Ok(Door::Unix(tokio::net::UnixListener::from_std(listener)?))
}

/// Waits for the end.
async fn stopped(stop: &mut Stop) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// What cleanup needs: a way of its own to the store, so that no request waits for it.
struct Cleaner {
    store: StoreSpec,
    driver: Driver,
    cx: Context,
}

/// Cleans up again and again. A listing that fails frees nothing, and is tried again at the next turn.
async fn clean_by_the_clock(timer: Timer, cleaner: Cleaner, log: Log, mut stop: Stop) {
    let cleaner = Arc::new(cleaner);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            () = tokio::time::sleep(timer.every) => {}
        }
        let report = match dockerd::list(&timer.docker).await {
            Ok(listing) => {
                let (cleaner, terms) = (cleaner.clone(), timer.terms.clone());
                let work = tokio::task::spawn_blocking(move || {
                    let cx = Context { now: host::now(), ..cleaner.cx.clone() };
                    let mut store = store::open(&cleaner.store)?;
                    cleanup::clean(&mut *store, &cx, &cleaner.driver.settings, &listing, &terms)
                });
                work.await.unwrap_or_else(|e| Err(e.into()))
            }
            Err(e) => Err(e),
        };
        let (level, text) = match report {
            Ok(report) if report.is_empty() => (Level::Debug, "cleanup: nothing to do".to_owned()),
            Ok(report) => (Level::Info, format!("cleanup: {report}")),
            Err(e) => (Level::Warn, format!("cleanup: nothing was freed: {e:#}")),
        };
        log.write(&Entry::new(level, text).with("command", "cleanup"));
    }
}
