//! Clients of a `subletd`. Each client leases and frees addresses of one shared pool, and requests and
//! releases the pool itself. Like dockerd, a client never repeats a call. During the run, this program
//! repeatedly kills `subletd` and starts it again.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::clients::{Chance, nanos, note};
use super::event::{Answer, Ask, Event};

/// The maximum number of addresses that a client has at the same time.
const HELD: usize = 3;
/// The time after which a client stops waiting for a response. It is longer than `subletd`'s own time limit
/// for a request.
const PATIENCE: Duration = Duration::from_secs(12);
const POOL: &str = "consistency";

#[derive(clap::Args)]
pub struct Pools {
    /// The path of subletd.
    subletd: PathBuf,
    /// The store of the cluster, as JSON in the form of the key `store` of a configuration.
    store: String,
    /// The node name under which `subletd` runs.
    #[arg(long)]
    node: String,
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// How long the clients run, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// The time between two kills of `subletd`, in seconds; 0 for no kills.
    #[arg(long, default_value_t = 0)]
    kill_every: u64,
    /// The file to which the history is written. The socket is in the same folder.
    #[arg(long)]
    out: PathBuf,
}

impl Pools {
    pub fn run(&self) -> Result<()> {
        let file = File::create(&self.out).with_context(|| self.out.display().to_string())?;
        let out = Mutex::new(BufWriter::new(file));
        let socket = self.out.with_extension("sock");
        let mut daemon = self.start(&socket)?;
        let client = |n: usize| Client { node: &self.node, n, socket: &socket, out: &out };
        let first = client(self.clients);
        while !first.join()? {}
        let end = Instant::now() + Duration::from_secs(self.seconds);
        thread::scope(|scope| {
            let clients: Vec<_> =
                (0..self.clients).map(|n| scope.spawn(move || client(n).work(end))).collect();
            let pause = Duration::from_secs(self.kill_every);
            while self.kill_every > 0 && Instant::now() + 2 * pause < end {
                thread::park_timeout(pause);
                daemon.end();
                daemon = self.start(&socket)?;
            }
            for client in clients {
                // The thread has already printed its panic message.
                client.join().unwrap_or_else(|_| bail!("a client ended early"))?;
            }
            Ok::<_, anyhow::Error>(())
        })?;
        // Do not free the remaining addresses: the judge checks that the store still lists them.
        out.into_inner().map_err(|e| anyhow::anyhow!("{e}"))?.flush()?;
        Ok(())
    }

    fn start(&self, socket: &Path) -> Result<Daemon> {
        let child = Command::new(&self.subletd)
            .args(["--log-level", "error", "--timeout", "8s", "--node", &self.node])
            .args(["--store", &self.store])
            .arg("--socket")
            .arg(socket)
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| self.subletd.display().to_string())?;
        Ok(Daemon(child))
    }
}

/// A `subletd` process that is killed when the value is dropped.
struct Daemon(Child);

impl Daemon {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Clone, Copy)]
struct Client<'a> {
    node: &'a str,
    n: usize,
    socket: &'a Path,
    out: &'a Mutex<BufWriter<File>>,
}

impl Client<'_> {
    fn work(&self, end: Instant) -> Result<()> {
        let name = format!("{}-{}", self.node, self.n);
        let mut chance = Chance::of(&name);
        let mut held: Vec<(String, String)> = Vec::new();
        let (mut round, mut uses) = (0_u64, 0);
        while Instant::now() < end {
            round += 1;
            match chance.below(10) {
                0 => uses += usize::from(self.join()?),
                1 if uses > 0 => {
                    uses -= 1;
                    self.ask(Ask::Leave, self.node, "ReleasePool", &json!({"PoolID": POOL}))?;
                }
                2..6 if held.len() < HELD => {
                    let container = format!("{name}-{round}");
                    match self.request(&container)? {
                        Answer::Address(address) => held.push((container, address)),
                        // dockerd does not start a container that got no address. Record a successful DEL,
                        // because the container holds nothing.
                        _ => self.note(Ask::Del, &container, nanos(), Answer::Fine)?,
                    }
                }
                _ if !held.is_empty() => {
                    let (container, address) = held.swap_remove(chance.below(held.len()));
                    let address = address.split('/').next().unwrap_or_default();
                    let body = json!({"PoolID": POOL, "Address": address});
                    self.ask(Ask::Del, &container, "ReleaseAddress", &body)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Requests the shared pool. Returns whether the request succeeded.
    fn join(&self) -> Result<bool> {
        let body = json!({"AddressSpace": "sublet-local", "Pool": "10.78.0.0/26",
            "Options": {"network": POOL}});
        Ok(self.ask(Ask::Join, self.node, "RequestPool", &body)? == Answer::Fine)
    }

    fn request(&self, container: &str) -> Result<Answer> {
        self.ask(Ask::Add, container, "RequestAddress", &json!({"PoolID": POOL, "Address": ""}))
    }

    /// Sends one request and records the event. Returns an error if the response is one that a correct
    /// `subletd` never sends.
    fn ask(&self, ask: Ask, name: &str, method: &str, body: &Value) -> Result<Answer> {
        let asked = nanos();
        let answer = match self.call(method, body) {
            // Wait before the next attempt, because a daemon that is not running refuses a connection
            // immediately.
            Err(_) => {
                thread::park_timeout(Duration::from_millis(50));
                Answer::Error(11)
            }
            Ok((200, reply)) => match (reply["Error"].as_str(), reply["Address"].as_str()) {
                (None, Some(address)) => Answer::Address(address.to_owned()),
                (None, None) => Answer::Fine,
                (Some("no available addresses on this pool"), _) => Answer::Error(100),
                (Some(_), _) => bail!("{method} {name}: {reply}"),
            },
            // The response reports that the cluster did not respond in time.
            Ok(_) => Answer::Error(11),
        };
        self.note(ask, name, asked, answer.clone())?;
        Ok(answer)
    }

    fn note(&self, ask: Ask, name: &str, asked: u128, answer: Answer) -> Result<()> {
        let container = name.to_owned();
        note(self.out, &Event { container, ask, asked, answered: nanos(), answer })
    }

    /// Sends a request. Returns the HTTP status and the body of the response.
    fn call(&self, method: &str, body: &Value) -> Result<(u16, Value)> {
        let body = body.to_string();
        let mut stream = UnixStream::connect(self.socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST /IpamDriver.{method} HTTP/1.1\r\nHost: \r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, serde_json::from_str(body)?))
    }
}
