//! Measures values that do not depend on how busy the machine is: flushes, system calls, instructions, page
//! faults and memory. Also measures how much longer a call takes if each flush takes longer.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::bed::{Bed, Call, Fill, Plugin, id, run};
use super::fill;
use super::latency::sizes;
use super::report::{Counts, Results};
use super::{Tools, say};

pub fn measure(tools: &Tools, results: &mut Results) -> Result<()> {
    say("flushes, instructions, memory");
    for plugin in tools.plugins() {
        for &size in sizes(plugin, tools.quick) {
            let name = format!("{plugin:?}/{size}");
            // This bed uses the store that the latency measurement has filled.
            let bed = Bed::new(tools, plugin, &name, Fill::First(size).subnet());
            for verb in ["ADD", "CHECK", "DEL", "STATUS"] {
                let floor = matches!(plugin, Plugin::Floor | Plugin::FloorWrite);
                if floor && verb != "ADD" {
                    continue;
                }
                // Debian's release of host-local does not have STATUS.
                if plugin == Plugin::HostLocal && verb == "STATUS" {
                    continue;
                }
                let counts = counts(tools, &bed, verb)?;
                results.counts.insert(format!("{name}/{verb}"), counts);
            }
        }
    }
    slow_flushes(tools, results)?;
    gc(tools, results)
}

/// Measures the flushes, system calls, instructions, page faults and memory of one command. Runs the command
/// once under each tool, and then frees the lease again.
fn counts(tools: &Tools, bed: &Bed, verb: &str) -> Result<Counts> {
    let file = tools.work.join("trace");
    let text = |name: &str| PathBuf::from(name);
    let option = |name: &str| PathBuf::from(format!("{name}{}", file.display()));
    let strace = [text("strace"), text("-f"), text("-o"), file.clone()];
    let valgrind = [
        text("valgrind"),
        text("--tool=callgrind"),
        text("--callgrind-out-file=/dev/null"),
        option("--log-file="),
    ];
    let usage = [tools.floor.clone(), text("usage"), file.clone()];

    wrapped(bed, &strace, verb)?;
    let trace = fs::read_to_string(&file)?;
    let flushes = ["fdatasync(", "fsync(", "sync_file_range(", "syncfs("];
    let mut counts = Counts {
        syscalls: trace.lines().filter(|l| l.contains('(')).count(),
        flushes: trace.lines().filter(|l| flushes.iter().any(|f| l.contains(f))).count(),
        ..Counts::default()
    };
    // Measure only sublet, because valgrind does not support host-local, which is a Go program.
    if bed.plugin != Plugin::HostLocal {
        wrapped(bed, &valgrind, verb)?;
        let log = fs::read_to_string(&file)?;
        let collected = log.lines().find_map(|l| l.split_once("Collected : "));
        counts.instructions = collected.and_then(|(_, n)| n.trim().parse().ok());
    }
    for _ in 0..5 {
        wrapped(bed, &usage, verb)?;
        let text = fs::read_to_string(&file)?;
        let (rss, faults) = text.trim().split_once(' ').context("memory and faults")?;
        counts.rss_kib = counts.rss_kib.max(rss.parse()?);
        counts.faults = faults.parse()?;
    }
    Ok(counts)
}

/// Runs one call of the program under `tool`, for example strace. Before every command except ADD, runs an
/// ADD. After the command, runs a DEL.
fn wrapped(bed: &Bed, tool: &[PathBuf], verb: &str) -> Result<Call> {
    let id = id(900_000);
    let mut conf = bed.conf.clone();
    if verb != "ADD" {
        let added = bed.must("ADD", &id)?;
        if verb == "CHECK" {
            conf["prevResult"] = serde_json::from_str(&added.stdout)?;
        }
        if verb == "STATUS" {
            conf["cniVersion"] = "1.1.0".into();
        }
    }
    let program = [tool, &bed.program].concat();
    let call = run(&program, verb, &id, conf.to_string().as_bytes(), &[])?;
    ensure!(call.ok, "{verb} under {}: {}", tool[0].display(), call.stdout);
    bed.must("DEL", &id)?;
    Ok(call)
}

/// Measures how much longer a call takes if each flush takes one millisecond longer. In one run, a tracer
/// delays the flushes of the program. In the other run, a tracer only observes the program. The difference
/// between these runs therefore does not include the cost of tracing.
fn slow_flushes(tools: &Tools, results: &mut Results) -> Result<()> {
    say("flushes that take 1 ms more");
    let tracer: Vec<PathBuf> =
        ["strace", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync"]
            .map(PathBuf::from)
            .into();
    let delay = ["-e", "inject=fdatasync:delay_exit=1000"].map(PathBuf::from);
    for plugin in [Plugin::FloorWrite, Plugin::Boot, Plugin::Disk] {
        for size in [0, 10_000] {
            if plugin == Plugin::FloorWrite && size > 0 {
                continue;
            }
            let name = format!("{plugin:?}/{size}");
            let bed = Bed::new(tools, plugin, &name, Fill::First(size).subnet());
            let mut delayed = bed.clone();
            delayed.program = [&tracer[..], &delay, &bed.program].concat();
            let mut plain = bed.clone();
            plain.program = [&tracer[..], &bed.program].concat();
            for round in 0..if tools.quick { 20 } else { 200 } {
                for (bed, kind) in [(&plain, "traced"), (&delayed, "delayed")] {
                    let id = id(round);
                    let added = bed.must("ADD", &id)?;
                    results.samples.push(&format!("{name}/ADD {kind}"), added.ms);
                    if plugin != Plugin::FloorWrite {
                        let freed = bed.must("DEL", &id)?;
                        results.samples.push(&format!("{name}/DEL {kind}"), freed.ms);
                    }
                }
            }
        }
    }
    // An ADD makes two flushes while it holds the lock. If each flush takes at least 1 ms, no more than 500
    // ADDs per second are possible.
    say("64 at once with such flushes");
    let bed = Bed::filled(tools, Plugin::Disk, Fill::First(0), "swarm")?;
    bed.must("ADD", "first")?;
    let this = std::env::current_exe()?;
    let driver = [this, "swarm".into(), "64".into(), "256".into()];
    let program = [&tracer[..], &delay, &driver].concat();
    let env = [
        ("BENCH_WORK", tools.work.as_path()),
        ("BENCH_SUBLET", tools.sublet.as_path()),
        ("BENCH_SUBLETD", tools.subletd.as_path()),
        ("BENCH_FLOOR", tools.floor.as_path()),
    ];
    let call = run(&program, "-", "-", bed.conf.to_string().as_bytes(), &env)?;
    let rate = call.stdout.trim().parse().context("the rate of the swarm")?;
    results.facts.insert("slow/swarm".to_owned(), rate);
    Ok(())
}

/// Measures a GC in a network with 100,000 leases, half of which are valid.
fn gc(tools: &Tools, results: &mut Results) -> Result<()> {
    say("GC");
    let valid: Vec<_> = (0..50_000)
        .map(|n| json!({"containerID": id(fill::FIRST + 2 * n), "ifname": "eth0"}))
        .collect();
    for plugin in [Plugin::Boot, Plugin::Disk] {
        let mut bed = Bed::filled(tools, plugin, Fill::First(0), &format!("{plugin:?}/gc"))?;
        fs::remove_dir_all(&bed.dir)?;
        fs::create_dir(&bed.dir)?;
        bed.fill(Fill::First(100_000), "bench")?;
        bed.conf["cniVersion"] = "1.1.0".into();
        bed.conf["cni.dev/valid-attachments"] = valid.clone().into();
        let (store, spare, file) = (bed.store(), bed.dir.join("spare"), tools.work.join("usage"));
        fs::copy(&store, &spare)?;
        let plain = bed.program.clone();
        for round in 0..if tools.quick { 2 } else { 10 } {
            for measured in [false, true] {
                fs::copy(&spare, &store)?;
                // Remove the lock files. They record the last commit, so sublet would otherwise refuse the
                // older copy of the lease file.
                for lock in ["leases.redb.lock", "leases.redb.boot.lock"] {
                    let _ = fs::remove_file(bed.dir.join(lock));
                }
                fs::File::open(&store)?.sync_all()?;
                let usage = [tools.floor.clone(), "usage".into(), file.clone()];
                bed.program = if measured { [&usage[..], &plain].concat() } else { plain.clone() };
                let call = bed.must("GC", &id(round))?;
                if measured {
                    let text = fs::read_to_string(&file)?;
                    let rss = text.split(' ').next().unwrap_or_default().parse::<f64>()?;
                    results.facts.insert(format!("{plugin:?}/gc/rss"), rss / 1024.0);
                } else {
                    results.samples.push(&format!("{plugin:?}/gc/GC"), call.ms);
                }
            }
        }
    }
    Ok(())
}
