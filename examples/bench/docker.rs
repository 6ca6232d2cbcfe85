//! Measures `RequestAddress` through subletd's socket: the number of requests per second, and the duration of
//! each request.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::say;
use super::stats::Sample;

/// The name of the pool for which all requests are made. Its subnet is in 10.0.0.0/8.
const POOL: &str = "bench";

/// A subletd process that is killed when the value is dropped.
struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Daemon {
    /// Starts subletd with a new store. Its pool has `leases` leases, which subletd imports at the start from
    /// a lease file in gipam's format.
    fn start(program: &Path, folder: &Path, leases: u32) -> Result<Daemon> {
        fs::create_dir_all(folder)?;
        let addrs: Vec<String> = (0..leases)
            .map(|n| format!("\"{}\"", std::net::Ipv4Addr::from(0x0a00_0001 + n)))
            .collect();
        let file = folder.join("lease.json");
        let pool = format!("{{\"id\":\"{POOL}\",\"v\":4,\"pool\":\"10.0.0.0/8\",\"allocated\":[");
        fs::write(&file, format!("{{\"allocated\":[{pool}{}]}}]}}", addrs.join(",")))?;
        let socket = folder.join("x.sock");
        let child = Command::new(program)
            .args(["--log-level", "error", "--timeout", "60s"])
            .arg("--store")
            .arg(folder.join("leases.redb"))
            .arg("--socket")
            .arg(&socket)
            .arg("--file")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()?;
        let daemon = Daemon { child, socket };
        let begin = Instant::now();
        while UnixStream::connect(&daemon.socket).is_err() {
            ensure!(begin.elapsed() < Duration::from_secs(120), "subletd does not listen");
            thread::yield_now();
        }
        Ok(daemon)
    }
}

/// A connection to subletd.
struct Client(BufReader<UnixStream>);

impl Client {
    fn call(&mut self, method: &str, body: &str) -> Result<String> {
        let request = format!(
            "POST /IpamDriver.{method} HTTP/1.1\r\nHost: \r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes())?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection ended");
            if let Some(number) = line.strip_prefix("content-length: ") {
                length = number.trim().parse()?;
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        Ok(String::from_utf8(body)?)
    }
}

/// Sends `total` requests through `connections` connections at the same time. Returns the number of requests
/// per second, and the duration of each request in milliseconds.
fn run(socket: &Path, connections: usize, total: usize) -> Result<(f64, Sample)> {
    let left = AtomicUsize::new(total);
    let body = format!("{{\"PoolID\":\"{POOL}\",\"Address\":\"\",\"Options\":null}}");
    let begin = Instant::now();
    let samples = thread::scope(|scope| {
        let work = || -> Result<Vec<f64>> {
            let mut client = Client(BufReader::new(UnixStream::connect(socket)?));
            let mut times = Vec::new();
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                let begin = Instant::now();
                let answer = client.call("RequestAddress", &body)?;
                times.push(begin.elapsed().as_secs_f64() * 1e3);
                if !answer.starts_with("{\"Address\"") {
                    bail!("RequestAddress: {answer}");
                }
            }
            Ok(times)
        };
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    });
    let samples: Result<Vec<Vec<f64>>> = samples;
    let seconds = begin.elapsed().as_secs_f64();
    let mut sample = Sample::default();
    samples?.into_iter().flatten().for_each(|time| sample.push(time));
    #[expect(clippy::cast_precision_loss, reason = "at most a few thousand")]
    let per_second = sample.len() as f64 / seconds;
    Ok((per_second, sample))
}

/// Measures subletd with several numbers of leases and connections. Writes docs/bench-docker.md.
pub fn measure(program: &Path, work: &Path) -> Result<()> {
    let mut text = String::from(
        "# RequestAddress over subletd's socket\n\nWritten by `scripts/bench.sh docker`. Each request is \
         one transaction, which is on disk before subletd responds. Times are in ms.\n\n\
         | leases before | connections | requests | a second | p50 | p99 | max |\n\
         |--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for leases in [0, 100_000] {
        for connections in [1, 8, 64] {
            let folder = work.join(format!("{leases}-{connections}"));
            let daemon = Daemon::start(program, &folder, leases)?;
            run(&daemon.socket, connections, 200)?;
            let (rate, sample) = run(&daemon.socket, connections, 3000)
                .with_context(|| format!("{connections} connections, {leases} leases"))?;
            let row = format!(
                "| {leases} | {connections} | {} | {rate:.0} | {:.2} | {:.2} | {:.2} |",
                sample.len(),
                sample.p50(),
                sample.p99(),
                sample.max()
            );
            say(&row);
            writeln!(text, "{row}")?;
        }
    }
    fs::create_dir_all("docs")?;
    fs::write("docs/bench-docker.md", text)?;
    say("docs/bench-docker.md is written");
    Ok(())
}
