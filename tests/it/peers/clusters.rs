//! Starts real servers for tests of whole programs: etcd and Consul on loopback, each with its own ports and
//! folder.
//!
//! A server always ends together with its test, even if the test is killed. If a server cannot be started,
//! the test fails.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::lab::signal;

/// A running server.
pub struct Server {
    child: Child,
    folder: TempDir,
    engine: &'static str,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Returns `HOST:PORT` of the server.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Returns the URL for clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Returns the value of `--store` for this server, with a prefix for its keys.
    pub fn store(&self, prefix: &str) -> String {
        self.conf(prefix).to_string()
    }

    /// Returns the value of `store` in a configuration for this server.
    pub fn conf(&self, prefix: &str) -> Value {
        json!({ self.engine: { "endpoints": [self.endpoint()], "prefix": prefix } })
    }

    /// Sends a signal to the server, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Sends one plain HTTP request. Returns the status and the body.
    pub fn http(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        self.try_http(method, path, body).unwrap()
    }

    fn try_http(&self, method: &str, path: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let form = if path.starts_with("/v2/") { "x-www-form-urlencoded" } else { "json" };
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: x\r\nContent-Type: application/{form}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        let status = reply.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        Ok((status, reply.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned()))
    }

    fn ready(mut self, path: &str, word: &str) -> Server {
        let begin = Instant::now();
        loop {
            if self.try_http("GET", path, "").is_ok_and(|(_, text)| text.contains(word)) {
                return self;
            }
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || begin.elapsed() > Duration::from_secs(60) {
                let log = std::fs::read_to_string(self.folder.path().join("log"));
                panic!("no {} ({ended:?})\n{}", self.engine, log.unwrap_or_default());
            }
            #[expect(clippy::disallowed_methods, reason = "a test waits for another process")]
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn ports<const N: usize>() -> [u16; N] {
    // Reserve all ports at the same time, so that no port is returned twice.
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn start(engine: &'static str, port: u16, folder: TempDir, program: &str, args: &[&str]) -> Server {
    let log = File::create(folder.path().join("log")).unwrap();
    // `setpriv` lets the kernel kill the server when the test's process ends.
    let child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", program])
        .args(args)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn();
    Server { child: child.unwrap(), folder, engine, port }
}

/// Starts an etcd server with one member. It also serves the old API (`/v2/keys`), which kontena-ipam used.
pub fn etcd() -> Server {
    let folder = tempfile::tempdir().unwrap();
    let [client, peer] = ports();
    let data = folder.path().join("data").display().to_string();
    let client_url = format!("http://127.0.0.1:{client}");
    let peer_url = format!("http://127.0.0.1:{peer}");
    let cluster = format!("default={peer_url}");
    let args = [
        "--enable-v2=true",
        "--data-dir",
        &data,
        "--listen-client-urls",
        &client_url,
        "--advertise-client-urls",
        &client_url,
        "--listen-peer-urls",
        &peer_url,
        "--initial-advertise-peer-urls",
        &peer_url,
        "--initial-cluster",
        &cluster,
    ];
    start("etcd", client, folder, "etcd", &args).ready("/health", "true")
}

/// Starts a Consul server. `scripts/get-consul.sh` downloads the program.
pub fn consul() -> Server {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = Command::new(root.join("scripts/get-consul.sh")).output().unwrap();
    let program = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    assert!(found.status.success(), "no Consul: {}", String::from_utf8_lossy(&found.stderr));
    let folder = tempfile::tempdir().unwrap();
    let [http, server, serf] = ports();
    let data = folder.path().join("data").display().to_string();
    let [http_text, server, serf] = [http, server, serf].map(|port| port.to_string());
    let args = [
        "agent",
        "-server",
        "-bootstrap-expect=1",
        "-node=one",
        "-bind=127.0.0.1",
        "-data-dir",
        &data,
        "-http-port",
        &http_text,
        "-server-port",
        &server,
        "-serf-lan-port",
        &serf,
        "-serf-wan-port=-1",
        "-dns-port=-1",
        "-grpc-port=-1",
    ];
    start("consul", http, folder, &program, &args).ready("/v1/status/leader", ":")
}
