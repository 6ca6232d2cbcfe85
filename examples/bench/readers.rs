//! Measures ADDs while four readers read a large store. The readers are a `list` whose output no process
//! reads, a `doctor` that runs repeatedly, a client that requests `/metrics` every second, and the status
//! page. Reports the slowest ADD, and the memory that each reader needs.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bed::{Bed, id};
use super::report::Results;
use super::{Tools, say};

/// The address at which subletd serves the status page, in the benchmark's network namespace.
const PORT: &str = "127.0.0.1:29780";

/// The paths that the status page requests at each refresh.
const PAGE: [&str; 5] =
    ["/", "/api/v1/pools", "/api/v1/leases", "/api/v1/nodes", "/api/v1/problems"];

/// A program that is killed when the value is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns the peak memory of a process in KiB (`VmHWM`); 0 after the process has ended.
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|kib| kib.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn start(program: &Path, args: &[&str]) -> Result<Running> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    Ok(Running(command.spawn().with_context(|| format!("start {}", program.display()))?))
}

fn get(path: &str) -> Result<()> {
    let mut stream = TcpStream::connect(PORT)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {PORT}\r\nConnection: close\r\n\r\n")?;
    let (mut buffer, mut head) = (vec![0; 1 << 16], Vec::new());
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        if head.len() < 16 {
            head.extend_from_slice(&buffer[..n]);
        }
    }
    ensure!(head.starts_with(b"HTTP/1.1 200"), "{path}: {}", String::from_utf8_lossy(&head));
    Ok(())
}

/// Measures `rounds` ADDs while no reader runs, and `rounds` ADDs while the four readers run.
pub fn measure(tools: &Tools, bed: &Bed, rounds: usize, results: &mut Results) -> Result<()> {
    let name = |what: &str| format!("{:?}/readers/{what}", bed.plugin);
    say(&format!("{rounds} ADDs of {} beside four readers", bed.plugin.name()));
    let store = bed.dir.join("leases.redb").display().to_string();
    let round = |kind: &str, results: &mut Results| -> Result<()> {
        for n in 0..rounds {
            let id = id(n);
            results.samples.push(&name(kind), bed.must("ADD", &id)?.ms);
            bed.must("DEL", &id)?;
        }
        Ok(())
    };
    round("idle", results)?;
    let socket = bed.dir.join("readers.sock").display().to_string();
    let page = start(&tools.subletd, &["--store", &store, "--socket", &socket, "--http", PORT])?;
    let begin = Instant::now();
    while TcpStream::connect(PORT).is_err() {
        ensure!(begin.elapsed() < Duration::from_secs(60), "subletd does not listen on {PORT}");
        thread::yield_now();
    }
    let list = start(&tools.sublet, &["list", "--json", "--store", &store])?;
    let (done, doctors, pages) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let largest = AtomicU64::new(0);
    let going = || !done.load(Ordering::Relaxed);
    let measured = thread::scope(|scope| -> Result<()> {
        let doctor = scope.spawn(|| -> Result<()> {
            while going() {
                let mut doctor = start(&tools.sublet, &["doctor", "--store", &store])?;
                while doctor.0.try_wait()?.is_none() && going() {
                    largest.fetch_max(peak(doctor.0.id()), Ordering::Relaxed);
                    #[expect(
                        clippy::disallowed_methods,
                        reason = "samples the memory use at intervals"
                    )]
                    thread::sleep(Duration::from_millis(20));
                }
                doctors.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let metrics = scope.spawn(|| -> Result<()> {
            while going() {
                get("/metrics")?;
                #[expect(clippy::disallowed_methods, reason = "runs once a second")]
                thread::sleep(Duration::from_secs(1));
            }
            Ok(())
        });
        let browser = scope.spawn(|| -> Result<()> {
            while going() {
                PAGE.iter().try_for_each(|path| get(path))?;
                pages.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        let measured = round("beside", results);
        done.store(true, Ordering::Relaxed);
        for reader in [doctor, metrics, browser] {
            reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??;
        }
        measured
    });
    measured?;
    #[expect(clippy::cast_precision_loss, reason = "the memory of a process in KiB fits")]
    let mut fact = |what: &str, kib: u64| results.facts.insert(name(what), kib as f64 / 1024.0);
    fact("list MiB", peak(list.0.id()));
    fact("doctor MiB", largest.load(Ordering::Relaxed));
    fact("subletd MiB", peak(page.0.id()));
    say(&format!(
        "{} runs of doctor, {} refreshes of the page",
        doctors.load(Ordering::Relaxed),
        pages.load(Ordering::Relaxed)
    ));
    Ok(())
}
