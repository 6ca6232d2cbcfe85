//! Measures how much time IPAM adds to an ADD of a real main plugin. The bridge plugin runs with sublet, with
//! host-local, and with the plugin `static`, which only returns a configured address. The durations are
//! compared with those of `static`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::bed::{id, run};
use super::latency::order;
use super::report::Results;
use super::{Tools, say};

const IPAMS: [&str; 4] = ["static", "host-local", "sublet boot", "sublet disk"];

pub fn measure(tools: &Tools, results: &mut Results) -> Result<()> {
    if !tools.own_net {
        say("no network namespace of our own: the IPAM tax is left out");
        return Ok(());
    }
    say("the IPAM tax");
    let path = tools.work.join("cni");
    fs::create_dir_all(&path)?;
    for plugin in ["bridge", "static", "host-local"] {
        symlink(tools.plugins.join(plugin), path.join(plugin))?;
    }
    symlink(&tools.sublet, path.join("sublet"))?;
    let made = Command::new("ip").args(["netns", "add", "tax"]).status()?;
    ensure!(made.success(), "ip netns add failed");
    let rounds = if tools.quick { 20 } else { 220 };
    series(tools, &path, rounds, "tax", results)?;
    say("the same beside a process that writes and flushes");
    let _writer = Writer::start(tools)?;
    series(tools, &path, rounds, "tax busy", results)
}

fn conf(tools: &Tools, ipam: &str) -> Value {
    let (kind, persist) = ipam.split_once(' ').unwrap_or((ipam, "boot"));
    let data = tools.work.join("tax").join(ipam.replace(' ', "-"));
    let ipam = match kind {
        "static" => json!({"type": kind, "addresses": [{"address": "10.9.200.1/16"}]}),
        "host-local" => json!({"type": kind, "dataDir": data, "subnet": "10.9.0.0/16"}),
        _ => {
            json!({"type": kind, "dataDir": data, "subnet": "10.9.0.0/16", "persist": persist})
        }
    };
    let name = format!("tax-{kind}");
    json!({"cniVersion": "1.0.0", "name": name, "type": "bridge", "bridge": "tax0", "ipam": ipam})
}

fn series(
    tools: &Tools,
    path: &Path,
    rounds: usize,
    name: &str,
    results: &mut Results,
) -> Result<()> {
    let bridge = [path.join("bridge")];
    let env = [("CNI_PATH", path), ("CNI_NETNS", Path::new("/run/netns/tax"))];
    for round in 0..rounds + 3 {
        for at in order(IPAMS.len(), round) {
            let ipam = IPAMS[at];
            let conf = conf(tools, ipam).to_string();
            let added = run(&bridge, "ADD", &id(round), conf.as_bytes(), &env)?;
            ensure!(added.ok, "bridge with {ipam}: {}", added.stdout);
            if round >= 3 {
                results.samples.push(&format!("{name}/{ipam}"), added.ms);
            }
            let freed = run(&bridge, "DEL", &id(round), conf.as_bytes(), &env)?;
            ensure!(freed.ok, "bridge with {ipam}: {}", freed.stdout);
        }
    }
    Ok(())
}

/// A process that keeps writing and flushing on the same disk, as load.
struct Writer(Child);

impl Writer {
    fn start(tools: &Tools) -> Result<Writer> {
        let file = tools.work.join("churn");
        let child = Command::new(std::env::current_exe()?)
            .arg("churn")
            .arg(file)
            .stdin(Stdio::null())
            .spawn()
            .context("start the writer")?;
        Ok(Writer(child))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Killing the process fails if it has already ended, so ignore the result.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
