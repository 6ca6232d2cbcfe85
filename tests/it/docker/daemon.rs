//! A running subletd in its own folder, and a client that sends requests as dockerd does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab::{Lab, signal};

pub const SUBLETD: &str = match option_env!("SUBLETD_PROGRAM") {
    Some(path) => path,
    None => env!("CARGO_BIN_EXE_subletd"),
};

/// Returns a command that runs subletd, with only PATH in its environment.
pub fn subletd(args: &[&str]) -> Command {
    let mut command = Command::new(SUBLETD);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(args);
    command
}

/// Waits until `so` returns true. If that takes more than 45 seconds, the test fails with a message that
/// names the condition, `what`.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < Duration::from_secs(45), "still waiting for {what}");
        #[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub struct Daemon {
    pub lab: Lab,
    child: Option<Child>,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    /// The path of the store, if it is not in the daemon's own folder. It is empty if the environment names
    /// the store.
    store: Option<String>,
}

impl Daemon {
    pub fn start() -> Daemon {
        Daemon::with(
            &["--address-spaces", "L,G", "--v4", "10.80.0.0/12", "--v6", "fd00:1::/48"],
            &[],
        )
    }

    /// Starts a daemon with these flags and environment variables. Its socket and its store are in its own
    /// folder.
    pub fn with(args: &[&str], env: &[(&str, &str)]) -> Daemon {
        Daemon::on(None, args, env)
    }

    /// Starts a daemon that shares its store with other daemons.
    pub fn on(store: Option<&str>, args: &[&str], env: &[(&str, &str)]) -> Daemon {
        let mut daemon = Daemon {
            store: store.map(str::to_owned),
            lab: Lab::new(),
            child: None,
            args: args.iter().map(|a| (*a).to_owned()).collect(),
            env: env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        daemon.spawn();
        daemon
    }

    pub fn socket(&self) -> PathBuf {
        self.lab.join("sublet.sock")
    }

    pub fn store(&self) -> PathBuf {
        self.lab.join("store/leases.redb")
    }

    /// Starts the daemon, for the first time or again.
    pub fn spawn(&mut self) {
        let socket = self.socket();
        let store = self.store.clone().unwrap_or_else(|| self.store().display().to_string());
        let log =
            std::fs::File::options().create(true).append(true).open(self.lab.join("log")).unwrap();
        let mut command = subletd(&["--log-level", "debug"]);
        command.arg("--socket").arg(&socket).args(&self.args);
        if !store.is_empty() {
            command.args(["--store", &store]);
        }
        command.envs(&self.env).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().unwrap();
        until("subletd", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("subletd ended: {status}\n{}", self.log());
            }
            UnixStream::connect(&socket).is_ok()
        });
        self.child = Some(child);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.lab.join("log")).unwrap_or_default()
    }

    pub fn client(&self) -> Client<UnixStream> {
        Client::new(UnixStream::connect(self.socket()).unwrap())
    }

    pub fn call(&self, path: &str, body: &str) -> (u16, Value) {
        self.client().call(path, body)
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, name: &str) {
        signal(self.child.as_ref().unwrap(), name);
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM to the daemon, and returns its exit status.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Waits until the daemon ends by itself, and returns its exit status.
    pub fn ended(&mut self) -> ExitStatus {
        self.child.take().unwrap().wait().unwrap()
    }

    /// Returns the leased addresses.
    pub fn leases(&self) -> Vec<String> {
        let rows = crate::lab::list(&self.store());
        rows.iter().map(|row| row["address"].as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A simple HTTP/1.1 client with one connection. It sends exactly the same bytes as dockerd.
pub struct Client<S: Read + Write> {
    stream: BufReader<S>,
}

impl<S: Read + Write> Client<S> {
    pub fn new(stream: S) -> Client<S> {
        Client { stream: BufReader::new(stream) }
    }

    /// Sends a request as Debian's dockerd 20.10 does: with an empty Host and without a content type.
    pub fn send(&mut self, path: &str, body: &str) {
        self.try_send(path, body).unwrap();
    }

    pub fn try_send(&mut self, path: &str, body: &str) -> std::io::Result<()> {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\nContent-Length: {}\r\n\
             Accept: application/vnd.docker.plugins.v1.2+json\r\n\r\n",
            body.len()
        );
        self.stream.get_mut().write_all(format!("{head}{body}").as_bytes())
    }

    pub fn raw(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Returns the status, head and body of the next response; `None` if the connection was closed.
    pub fn answer(&mut self) -> Option<(u16, String, String)> {
        let mut head = String::new();
        loop {
            let before = head.len();
            if self.stream.read_line(&mut head).ok()? == 0 {
                return None;
            }
            if head[before..].trim().is_empty() {
                break;
            }
        }
        let status = head.split(' ').nth(1)?.parse().ok()?;
        let length = head.lines().find_map(|l| l.strip_prefix("content-length: "))?.parse().ok()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()?;
        Some((status, head, String::from_utf8(body).unwrap()))
    }

    pub fn call(&mut self, path: &str, body: &str) -> (u16, Value) {
        self.send(path, body);
        let (status, _, body) = self.answer().expect("an answer");
        (status, serde_json::from_str(&body).unwrap())
    }
}

pub fn tcp(at: &str) -> Client<TcpStream> {
    Client::new(TcpStream::connect(at).unwrap())
}

/// Requests a pool for a test, and returns its ID.
pub fn a_pool<S: Read + Write>(client: &mut Client<S>) -> String {
    let (status, pool) =
        client.call("/IpamDriver.RequestPool", r#"{"AddressSpace":"L","Pool":"10.0.0.0/24"}"#);
    assert_eq!(status, 200, "{pool}");
    pool["PoolID"].as_str().unwrap().to_owned()
}

pub fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
