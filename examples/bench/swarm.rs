//! Measures ADDs by many processes at the same time.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use serde_json::Value;

use super::bed::{Bed, Fill, Plugin, id};
use super::report::Results;
use super::stats::Sample;
use super::{Tools, say};

/// The results of a measurement with many processes.
pub struct Swarm {
    pub plugin: Plugin,
    pub leases: u32,
    pub processes: usize,
    pub per_second: f64,
    pub failures: usize,
    pub duplicates: usize,
    pub waits: Sample,
    /// The duration of the longest ADD, in milliseconds. If a measurement has several runs, this is the
    /// median over the runs.
    pub longest: f64,
}

/// Runs `total` ADDs, of which up to `processes` run at the same time.
pub fn run(bed: &Bed, processes: usize, total: usize) -> Result<Swarm> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(f64, Option<String>)>> {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= total {
                return Ok(done);
            }
            let call = bed.call("ADD", &id(n))?;
            let answer: Option<Value> = serde_json::from_str(&call.stdout).ok();
            let address = answer
                .filter(|_| call.ok)
                .and_then(|a| a["ips"][0]["address"].as_str().map(str::to_owned));
            done.push((call.ms, address));
        }
    };
    let begin = Instant::now();
    let done: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..processes).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let seconds = begin.elapsed().as_secs_f64();
    let mut swarm = Swarm {
        plugin: bed.plugin,
        leases: 0,
        processes,
        #[expect(clippy::cast_precision_loss)]
        per_second: total as f64 / seconds,
        failures: 0,
        duplicates: 0,
        waits: Sample::default(),
        longest: f64::NAN,
    };
    let mut seen = BTreeSet::new();
    for part in done {
        for (ms, address) in part.map_err(|_| anyhow!("a thread panicked"))?? {
            swarm.waits.push(ms);
            match address {
                None => swarm.failures += 1,
                Some(address) if !seen.insert(address.clone()) => swarm.duplicates += 1,
                Some(_) => {}
            }
        }
    }
    swarm.longest = swarm.waits.max();
    Ok(swarm)
}

/// Runs `bench hold FILE`: holds a lock on the file until this process is killed or its standard input is
/// closed.
pub fn hold(lock: &str) -> Result<()> {
    let file = File::open(lock)?;
    file.lock()?;
    io::read_to_string(io::stdin())?;
    Ok(())
}

/// Measures how soon a waiting process gets the lock after the lock's holder is killed. Also measures how
/// long after its time limit a waiting process gives up.
#[expect(clippy::disallowed_methods, reason = "no event shows that another process waits")]
fn held(tools: &Tools, results: &mut Results) -> Result<()> {
    say("a lock that is held");
    let mut bed = Bed::filled(tools, Plugin::Boot, Fill::First(0), "held")?;
    bed.must("ADD", "first")?;
    let lock = bed.dir.join("leases.redb.boot.lock");
    for round in 0..if tools.quick { 20 } else { 200 } {
        let mut holder = Command::new(std::env::current_exe()?)
            .arg("hold")
            .arg(&lock)
            .stdin(Stdio::piped())
            .spawn()?;
        while File::open(&lock)?.try_lock().is_ok() {
            thread::sleep(Duration::from_millis(1));
        }
        let answered = thread::scope(|scope| -> Result<f64> {
            let add =
                scope.spawn(|| bed.call("ADD", &id(round)).map(|call| (call, Instant::now())));
            thread::sleep(Duration::from_millis(20));
            holder.kill()?;
            let killed = Instant::now();
            let (call, done) = add.join().map_err(|_| anyhow!("a thread panicked"))??;
            ensure!(call.ok, "it failed: {}", call.stdout);
            Ok((done - killed).as_secs_f64() * 1e3)
        })?;
        holder.wait()?;
        results.samples.push("killed holder", answered);
    }
    let holder = File::open(&lock)?;
    holder.lock()?;
    bed.conf["ipam"]["lockTimeout"] = "50ms".into();
    for round in 0..if tools.quick { 20 } else { 200 } {
        let call = bed.call("ADD", &id(round))?;
        ensure!(!call.ok && call.ms >= 50.0, "it did not wait: {}", call.stdout);
        results.samples.push("timeout", call.ms - 50.0);
    }
    Ok(())
}

pub fn measure(tools: &Tools, results: &mut Results) -> Result<()> {
    held(tools, results)?;
    say("many at once");
    for plugin in [Plugin::Floor, Plugin::HostLocal, Plugin::Boot, Plugin::Disk] {
        for leases in [0, 10_000] {
            for processes in [1, 8, 64] {
                let total = match (plugin, leases) {
                    (Plugin::Floor, 10_000) => continue,
                    (Plugin::HostLocal, 10_000) if tools.quick || processes < 64 => continue,
                    (Plugin::HostLocal, 10_000) => 128,
                    (Plugin::HostLocal, _) => 256,
                    _ if tools.quick => 512,
                    _ => 1_024 * processes.clamp(1, 4),
                };
                let fill = Fill::First(leases);
                let mut runs = Vec::new();
                for _ in 0..if tools.quick || plugin == Plugin::HostLocal { 1 } else { 3 } {
                    let bed = Bed::filled(tools, plugin, fill, "swarm")?;
                    // Create the store first, so that its creation is not part of the measurement.
                    bed.must("ADD", "first")?;
                    runs.push(run(&bed, processes, total)?);
                }
                runs.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
                let failures = runs.iter().map(|r| r.failures).sum();
                let duplicates = runs.iter().map(|r| r.duplicates).sum();
                let mut longest: Vec<f64> = runs.iter().map(|r| r.longest).collect();
                longest.sort_by(f64::total_cmp);
                let longest = longest[longest.len() / 2];
                let middle = runs.swap_remove(runs.len() / 2);
                results.swarms.push(Swarm { leases, failures, duplicates, longest, ..middle });
            }
        }
    }
    Ok(())
}
