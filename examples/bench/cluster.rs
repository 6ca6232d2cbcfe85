//! Measures ADDs on etcd and on Consul: how long they take, and how many requests they send. The durations
//! are compared with that of a bare transaction on the server. The measurements use one node and sixteen
//! nodes, and networks without leases, with many leases, and with a full range.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use sublet::alloc::{Add, Command, Context, Del, Outcome, Reserve, Target};
use sublet::error::{Error, Refusal};
use sublet::model::{Attachment, ContainerId, IfName, Owner};
use sublet::net::Addr;
use sublet::store;
use sublet::store::Store;
use sublet::sys::host;

use super::bed::{self, id};
use super::fill::add_of;
use super::say;
use super::stats::Sample;

/// The number of leases in the networks that have many leases.
const MANY: u32 = 65_000;

/// A running etcd or Consul server, and its address.
#[derive(Clone)]
struct Server {
    kind: &'static str,
    /// The host and the port, as `HOST:PORT`.
    at: String,
}

/// A network whose leases are on a server.
#[derive(Clone)]
struct Network {
    server: Server,
    name: String,
    subnet: &'static str,
}

impl Network {
    fn conf(&self) -> Value {
        let store =
            json!({ "endpoints": [format!("http://{}", self.server.at)], "timeout": "60s" });
        json!({
            "cniVersion": "1.0.0", "name": self.name, "type": "bridge",
            "ipam": {
                "type": "sublet", "subnet": self.subnet, "store": { (self.server.kind): store },
            },
        })
    }

    /// Returns the same network, but reached through the proxy at `at` instead of directly.
    fn by(&self, at: &str) -> Network {
        let server = Server { at: at.to_owned(), ..self.server.clone() };
        Network { server, ..self.clone() }
    }
}

/// A node with an open store. All its commands use one connection to the server.
struct Node {
    store: Box<dyn Store>,
    add: Add,
    cx: Context,
}

impl Node {
    fn new(network: &Network, name: &str) -> Result<Node> {
        let conf = serde_json::to_vec(&network.conf())?;
        let (add, store) = add_of(&conf, &network.name, id(0))?;
        let named = |key: &str| (key == "NODE_ID").then(|| name.into());
        let cx = host::facts(&named).context();
        Ok(Node { store: store::open(&store).map_err(|e| anyhow!("{e:?}"))?, add, cx })
    }

    fn owner(&self, n: usize) -> Result<Owner> {
        let bad = |e| anyhow!("{e:?}");
        Ok(Owner::Attachment(Attachment {
            network: self.add.network.clone(),
            container: ContainerId::new(id(n)).map_err(bad)?,
            ifname: Some(IfName::new("eth0").map_err(bad)?),
        }))
    }

    /// Runs a command. Returns the time that it took, in milliseconds, and its outcome.
    fn ask(&mut self, command: &Command) -> (f64, Result<Outcome, Error>) {
        self.cx.seed = self.cx.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let begin = Instant::now();
        let outcome = self.store.apply(command, &self.cx);
        (begin.elapsed().as_secs_f64() * 1e3, outcome)
    }

    fn add(&mut self, n: usize) -> Result<f64> {
        let add = Add { owner: self.owner(n)?, ..self.add.clone() };
        match self.ask(&Command::Add(add)) {
            (ms, Ok(_)) => Ok(ms),
            (_, Err(e)) => bail!("ADD: {e}"),
        }
    }

    fn del(&mut self, n: usize) -> Result<f64> {
        let (set, target) = (self.add.set.clone(), Target::Owner(self.owner(n)?));
        let del = Del { set, target, rewind: false, undo: false, legacy: None };
        match self.ask(&Command::Del(del)) {
            (ms, Ok(_)) => Ok(ms),
            (_, Err(e)) => bail!("DEL: {e}"),
        }
    }

    /// Reserves the addresses at these offsets from the beginning of 10.0.0.0/8.
    fn fill(&mut self, offsets: impl Iterator<Item = u32>) -> Result<()> {
        let addr = |n: u32| Addr::from(std::net::IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + n)));
        for some in offsets.map(addr).collect::<Vec<_>>().chunks(30) {
            let (addrs, set) = (some.to_vec(), self.add.set.clone());
            let reserve = Reserve { set, addrs, note: None, holder: None, name: None };
            self.ask(&Command::Reserve(reserve)).1.map_err(|e| anyhow!("RESERVE: {e}"))?;
        }
        Ok(())
    }
}

/// Starts a proxy that forwards everything to a server and counts the requests. A client sends a request on a
/// connection only after it has read the previous response. Every request therefore begins a new read, so
/// `pass` can count the reads that begin with an HTTP method.
fn proxy(to: &str) -> Result<(String, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?.to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let (to, counted) = (to.to_owned(), count.clone());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = TcpStream::connect(&to) else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (Ok(answers), Ok(back)) = (server.try_clone(), client.try_clone()) else { return };
            let count = counted.clone();
            thread::spawn(move || pass(client, server, Some(&count)));
            thread::spawn(move || pass(answers, back, None));
        }
    });
    Ok((at, count))
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: Option<&AtomicUsize>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let begins = [&b"POST "[..], b"PUT ", b"GET "].iter().any(|m| buffer[..n].starts_with(m));
        if let Some(count) = count.filter(|_| begins) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

/// A connection for measuring the smallest transaction that an ADD could use: it creates two records that
/// must not exist yet. The second field is the server.
struct Bare(BufReader<TcpStream>, Server);

impl Bare {
    fn new(server: &Server) -> Result<Bare> {
        let stream = TcpStream::connect(&server.at)?;
        stream.set_nodelay(true)?;
        Ok(Bare(BufReader::new(stream), server.clone()))
    }

    fn transaction(&mut self, n: usize) -> Result<f64> {
        let value = BASE64.encode([7; 160]);
        let keys = ["ip", "own"].map(|kind| format!("bare/{kind}/{n:08}"));
        let (method, path, body) = if self.1.kind == "etcd" {
            let keys = keys.map(|key| BASE64.encode(key));
            let compare = keys.clone().map(
                |key| json!({"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": "0"}),
            );
            let put = keys.map(|key| json!({"request_put": {"key": key, "value": value}}));
            ("POST", "/v3/kv/txn", json!({"compare": compare, "success": put}))
        } else {
            let one = |key| json!({"KV": {"Verb": "cas", "Key": key, "Index": 0, "Value": value}});
            ("PUT", "/v1/txn", json!(keys.map(one)))
        };
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.1.at,
            body.len()
        );
        let begin = Instant::now();
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut length, mut first) = (None, String::new());
        self.0.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection ended");
            let line = line.trim().to_ascii_lowercase();
            if let Some(number) = line.strip_prefix("content-length: ") {
                length = Some(number.parse()?);
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length.context("an answer without a length")?];
        self.0.read_exact(&mut body)?;
        ensure!(first.contains(" 200 "), "{first}: {}", String::from_utf8_lossy(&body));
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }
}

/// How the measured ADDs and DELs reach the server.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Bare,
    Kept,
    Process,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Bare => "bare transaction",
            Way::Kept => "kept connection",
            Way::Process => "a process each",
        }
    }
}

/// The times of the ADDs and DELs in one measurement, and the number of ADDs and DELs per second.
struct Run {
    add: Sample,
    del: Sample,
    per_second: f64,
}

/// The next number for a container or for a bare transaction. No number is used twice.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Runs `each` ADDs on each of `nodes` nodes, and a DEL after each ADD. The nodes run at the same time.
fn run(network: &Network, program: &Path, way: Way, nodes: usize, each: usize) -> Result<Run> {
    let conf = network.conf().to_string();
    let program = [program.to_owned()];
    let node = |number: usize| -> Result<Vec<(f64, f64)>> {
        let name = format!("node-{number}");
        let env = [("NODE_ID", Path::new(&name))];
        let call = |verb: &str, n: usize| -> Result<f64> {
            let call = bed::run(&program, verb, &id(n), conf.as_bytes(), &env)?;
            ensure!(call.ok, "{verb}: {}", call.stdout);
            Ok(call.ms)
        };
        let mut bare = Bare::new(&network.server)?;
        let mut kept = Node::new(network, &name)?;
        let mut times = Vec::new();
        for _ in 0..each {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            times.push(match way {
                Way::Bare => (bare.transaction(n)?, f64::NAN),
                Way::Kept => (kept.add(n)?, kept.del(n)?),
                Way::Process => (call("ADD", n)?, call("DEL", n)?),
            });
        }
        Ok(times)
    };
    // First run one ADD and one DEL on each node. They also claim the node's name, which must not be
    // measured.
    for number in 0..nodes {
        let mut first = Node::new(network, &format!("node-{number}"))?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        first.add(n)?;
        first.del(n)?;
    }
    let begin = Instant::now();
    let done: Result<Vec<Vec<(f64, f64)>>> = thread::scope(|scope| {
        let node = &node;
        let running: Vec<_> = (0..nodes).map(|n| scope.spawn(move || node(n))).collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|one| one.unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    });
    let mut run = Run { add: Sample::default(), del: Sample::default(), per_second: 0.0 };
    for (add, del) in done?.into_iter().flatten() {
        run.add.push(add);
        run.del.push(del);
    }
    #[expect(clippy::cast_precision_loss, reason = "at most a few thousand")]
    let rate = run.add.len() as f64 / begin.elapsed().as_secs_f64();
    run.per_second = rate;
    Ok(run)
}

/// Returns the average number of requests that one ADD sends to the server. `nodes` nodes run `each` ADDs
/// each, at the same time. No lease is freed during the measurement.
fn trips(network: &Network, nodes: usize, each: usize) -> Result<f64> {
    let (at, count) = proxy(&network.server.at)?;
    let by = network.by(&at);
    let first = NEXT.fetch_add(nodes * (each + 1), Ordering::Relaxed);
    let (barrier, asked) = (Barrier::new(nodes), AtomicUsize::new(0));
    let node = |number: usize| -> Result<()> {
        let mut node = Node::new(&by, &format!("node-{number}"))?;
        let from = first + number * (each + 1);
        node.add(from)?;
        node.del(from)?;
        if barrier.wait().is_leader() {
            count.store(0, Ordering::Relaxed);
        }
        barrier.wait();
        let added: Result<Vec<f64>> = (from + 1..=from + each).map(|n| node.add(n)).collect();
        if barrier.wait().is_leader() {
            asked.store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        barrier.wait();
        added?;
        (from + 1..=from + each).try_for_each(|n| node.del(n).map(drop))
    };
    let done: Result<Vec<()>> = thread::scope(|scope| {
        let node = &node;
        let running: Vec<_> = (0..nodes).map(|n| scope.spawn(move || node(n))).collect();
        let ended = running.into_iter().map(thread::ScopedJoinHandle::join);
        ended.map(|one| one.unwrap_or_else(|_| bail!("a thread panicked"))).collect()
    });
    done?;
    #[expect(clippy::cast_precision_loss, reason = "at most a few thousand")]
    let average = asked.into_inner() as f64 / (nodes * each) as f64;
    Ok(average)
}

/// Measures ADDs in a nearly full range, and ADDs that fail because the range is full.
fn dense(text: &mut String, server: &Server, quick: bool) -> Result<()> {
    let network = |name: &str| Network {
        server: server.clone(),
        name: name.to_owned(),
        subnet: "10.0.0.0/16",
    };
    let each = if quick { 20 } else { 100 };
    let spread = |n: u32| n.wrapping_mul(0x9e37_79b9) >> 16;
    let ninety = network("ninety");
    say(&format!("{}: a /16, 90 % full", server.kind));
    Node::new(&ninety, "node-0")?.fill((2..65_535).filter(|n| !spread(*n).is_multiple_of(10)))?;
    let asked = trips(&ninety, 1, each)?;
    let kept = run(&ninety, Path::new(""), Way::Kept, 1, each)?.add;
    let mut row = |what: &str, sample: &Sample, asked: f64| -> Result<()> {
        let row = format!(
            "| {} | {what} | {:.1} | {:.1} | {:.1} | {asked:.2} |",
            server.kind,
            sample.p50(),
            sample.p99(),
            sample.max()
        );
        say(&row);
        Ok(writeln!(text, "{row}")?)
    };
    row("a /16, 90 % full", &kept, asked)?;
    let full = network("full");
    say(&format!("{}: a /16 with one free address", server.kind));
    let mut one = Node::new(&full, "node-0")?;
    one.fill((2..65_535).filter(|n| *n != 30_000))?;
    let (at, count) = proxy(&server.at)?;
    let mut counted = Node::new(&full.by(&at), "node-0")?;
    // First run one ADD and one DEL. Their requests are not counted, because they also claim the node's name.
    counted.add(0)?;
    counted.del(0)?;
    count.store(0, Ordering::Relaxed);
    counted.add(0)?;
    let asked = count.load(Ordering::Relaxed);
    counted.del(0)?;
    let found = run(&full, Path::new(""), Way::Kept, 1, each.min(50))?.add;
    #[expect(clippy::cast_precision_loss, reason = "there are only a few")]
    row("the last free address of a /16", &found, asked as f64)?;
    one.add(0)?;
    let mut refused = Sample::default();
    count.store(0, Ordering::Relaxed);
    for round in 0..each.min(50) {
        let owner = one.owner(NEXT.fetch_add(1, Ordering::Relaxed))?;
        let client = if round == 0 { &mut counted } else { &mut one };
        let add = Add { owner, ..client.add.clone() };
        let (ms, outcome) = client.ask(&Command::Add(add));
        ensure!(
            matches!(outcome, Err(Error::Refused(Refusal::Exhausted { .. }))),
            "of a full range: {outcome:?}"
        );
        if round > 0 {
            refused.push(ms);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "there are only a few")]
    row("\"exhausted\", of 65,533 leases", &refused, count.load(Ordering::Relaxed) as f64)
}

/// Runs `bench cluster SUBLET ETCD CONSUL [--quick]`. Writes docs/bench-cluster.md.
pub fn measure(program: &Path, etcd: &str, consul: &str, quick: bool) -> Result<()> {
    let program = PathBuf::from(program);
    let mut text = String::from(
        "# ADD on a cluster\n\nThis page was written by `scripts/bench.sh cluster`. One etcd and then one \
         Consul ran on this machine, with their data on its disk. The clients connected over loopback. Times \
         are in ms. A \"bare transaction\" writes the two records of a lease over a kept connection, and \
         already knows their keys. \"A process each\" is one call of the plugin from start to end. \"Trips\" \
         are the HTTP requests of an ADD, which a proxy counted in a separate run.\n\n\
         | server | leases | nodes | what | ADD p50 | p99 | DEL p50 | pairs a second | trips |\n\
         |---|--:|--:|---|--:|--:|--:|--:|--:|\n",
    );
    let servers =
        [("etcd", etcd), ("consul", consul)].map(|(kind, at)| Server { kind, at: at.to_owned() });
    for server in &servers {
        for leases in [0, MANY] {
            let network = Network {
                server: server.clone(),
                name: format!("with-{leases}"),
                subnet: "10.0.0.0/12",
            };
            say(&format!("{}: {leases} leases", server.kind));
            Node::new(&network, "node-0")?.fill((0..leases).map(|n| 16 * n + 16))?;
            for nodes in [1, 16] {
                let each = match (quick, nodes) {
                    (true, 1) => 100,
                    (true, _) => 10,
                    (false, 1) => 500,
                    (false, _) => 50,
                };
                for way in [Way::Bare, Way::Kept, Way::Process] {
                    let run = run(&network, &program, way, nodes, each)?;
                    let del = format!("{:.2}", run.del.p50());
                    let (del, asked) = match way {
                        Way::Bare => ("-", "1".to_owned()),
                        Way::Kept => (&*del, format!("{:.3}", trips(&network, nodes, each)?)),
                        Way::Process => (&*del, "-".to_owned()),
                    };
                    let row = format!(
                        "| {} | {leases} | {nodes} | {} | {:.2} | {:.2} | {del} | {:.0} | {asked} |",
                        server.kind,
                        way.name(),
                        run.add.p50(),
                        run.add.p99(),
                        run.per_second
                    );
                    say(&row);
                    writeln!(text, "{row}")?;
                }
            }
        }
    }
    text.push_str(
        "\nRequests over a kept connection, in ranges that are full or nearly full:\n\n\
         | server | what | p50 | p99 | max | trips |\n|---|---|--:|--:|--:|--:|\n",
    );
    for server in &servers {
        dense(&mut text, server, quick)?;
    }
    fs::create_dir_all("docs")?;
    fs::write("docs/bench-cluster.md", text)?;
    say("docs/bench-cluster.md is written");
    Ok(())
}
