//! Starts real servers for tests, on the loopback interface. Each server has its own ports and its own data
//! folder.
//!
//! Invariant: a server ends together with its test, even if the test is killed. If a server cannot be
//! started, the test fails.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::model::{Consul, Etcd, History, Persist, Servers};
use crate::store::cluster::Server;
use crate::store::cluster::backoff::pause;
use crate::store::cluster::consul::Consul as ConsulClient;
use crate::store::cluster::etcd::Etcd as EtcdClient;

/// A running server.
pub struct Running {
    child: Child,
    command: Command,
    /// The folder with the server's data. It is removed when this value is dropped.
    pub folder: TempDir,
    /// The URL of the server: `http://127.0.0.1:port`.
    pub endpoint: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_ports<const N: usize>() -> [u16; N] {
    // Keep all listeners open until the last one is bound, so that the ports are different.
    let held = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    held.map(|listener| listener.local_addr().unwrap().port())
}

fn start(endpoint: String, folder: TempDir, program: &str, args: &[String]) -> Running {
    // With `setpriv --pdeathsig`, the kernel kills the server when this process ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).args(args);
    let log = folder.path().join("log");
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let child = command.spawn().unwrap_or_else(|e| panic!("setpriv (util-linux): {e}"));
    Running { child, command, folder, endpoint }
}

impl Running {
    /// Sends a signal to the server, such as `STOP` or `CONT`.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Kills the server, and starts it again with the same data.
    pub fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = self.command.spawn().unwrap();
    }

    /// Waits until the server responds.
    pub fn await_ready(mut self, probe: &dyn Server) -> Running {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let soon = Instant::now() + Duration::from_millis(500);
            let last = match probe.list("ready/", soon) {
                Ok(_) => return self,
                Err(e) => e.to_string(),
            };
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(self.folder.path().join("log"));
                panic!("no server ({ended:?}): {last}\n{}", log.unwrap_or_default());
            }
            pause(Duration::from_millis(50), end);
        }
    }

    /// Returns the settings for clients of the server, with a prefix for their keys.
    pub fn servers(&self, prefix: &str) -> Servers {
        Servers {
            endpoints: vec![self.endpoint.clone()],
            prefix: prefix.to_owned(),
            ca: None,
            identity: None,
            timeout: Duration::from_secs(20),
            persist: Persist::Boot,
            history: History::Standing,
            notes: self.folder.path().join("notes"),
        }
    }

    /// Makes an etcd client, with a prefix for its keys.
    pub fn etcd(&self, prefix: &str) -> Etcd {
        Etcd { servers: self.servers(prefix), login: None }
    }

    /// Makes a Consul client, with a prefix for its keys.
    pub fn consul(&self, prefix: &str) -> Consul {
        Consul { servers: self.servers(prefix), dc: None, token: None }
    }
}

/// Starts an etcd server with one member, and waits until it responds.
pub fn ready_etcd() -> Running {
    let server = etcd(&[]);
    let probe = EtcdClient::new(&server.etcd("tests")).unwrap();
    server.await_ready(&probe)
}

/// Starts a Consul server, and waits until it responds.
pub fn ready_consul() -> Running {
    let server = consul("");
    let probe = ConsulClient::new(&server.consul("tests")).unwrap();
    server.await_ready(&probe)
}

/// Starts an etcd server with one member (Debian: `etcd-server`).
pub fn etcd(more: &[&str]) -> Running {
    etcd_by("http", more)
}

/// Starts an etcd server with one member, which clients reach by `http` or `https`.
pub fn etcd_by(scheme: &str, more: &[&str]) -> Running {
    let [client, peer] = free_ports();
    let endpoint = format!("{scheme}://127.0.0.1:{client}");
    let peer = format!("http://127.0.0.1:{peer}");
    member("one", endpoint, &peer, &format!("one={peer}"), more)
}

fn member(name: &str, endpoint: String, peer: &str, cluster: &str, more: &[&str]) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        format!("--name={name}"),
        format!("--data-dir={}", folder.path().join("data").display()),
        format!("--listen-client-urls={endpoint}"),
        format!("--advertise-client-urls={endpoint}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster={cluster}"),
    ];
    let more = more.iter().map(|arg| (*arg).to_owned());
    start(endpoint, folder, "etcd", &args.into_iter().chain(more).collect::<Vec<_>>())
}

/// Starts three etcd members of one cluster on this host.
pub fn etcd_of_three() -> [Running; 3] {
    let ports: [u16; 6] = free_ports();
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let cluster = format!("a={},b={},c={}", url(ports[3]), url(ports[4]), url(ports[5]));
    let one = |i: usize, name| member(name, url(ports[i]), &url(ports[i + 3]), &cluster, &[]);
    [one(0, "a"), one(1, "b"), one(2, "c")]
}

/// Starts a Consul server (`scripts/get-consul.sh` downloads it), with additional configuration in HCL.
pub fn consul(config: &str) -> Running {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let found = Command::new(root.join("scripts/get-consul.sh")).output().unwrap();
    let program = String::from_utf8_lossy(&found.stdout).trim().to_owned();
    let complaint = String::from_utf8_lossy(&found.stderr);
    assert!(found.status.success() && !program.is_empty(), "no Consul: {complaint}");
    let folder = tempfile::tempdir().unwrap();
    let [http, server, serf] = free_ports();
    let file = folder.path().join("more.hcl");
    std::fs::write(&file, config).unwrap();
    let args = [
        "agent".to_owned(),
        "-server".to_owned(),
        "-bootstrap-expect=1".to_owned(),
        "-node=one".to_owned(),
        "-bind=127.0.0.1".to_owned(),
        format!("-data-dir={}", folder.path().join("data").display()),
        format!("-config-file={}", file.display()),
        format!("-http-port={http}"),
        format!("-server-port={server}"),
        format!("-serf-lan-port={serf}"),
        "-serf-wan-port=-1".to_owned(),
        "-dns-port=-1".to_owned(),
        "-grpc-port=-1".to_owned(),
    ];
    start(format!("http://127.0.0.1:{http}"), folder, &program, &args)
}
