//! A test bed: a program and its store. Its methods measure calls of the program.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::Tools;

/// A program that the benchmark measures. For sublet, the variant also selects where leases are stored and
/// how sublet was built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plugin {
    /// A program that only starts, reads its input and prints a result. It is the lower limit for every
    /// plugin.
    Floor,
    /// The same program as `Floor`, but it also writes to a file and flushes the write.
    FloorWrite,
    HostLocal,
    Boot,
    Disk,
    /// sublet with boot leases, as for `Boot`, but built for musl, as in a release.
    Musl,
}

impl Plugin {
    pub fn name(self) -> &'static str {
        match self {
            Plugin::Floor => "floor: start, read, print",
            Plugin::FloorWrite => "floor + 4 KiB + fdatasync",
            Plugin::HostLocal => "host-local",
            Plugin::Boot => "sublet boot",
            Plugin::Disk => "sublet disk",
            Plugin::Musl => "sublet boot, musl",
        }
    }
}

/// The addresses that are leased before the measurement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fill {
    /// This many addresses, from the beginning of the range.
    First(u32),
    /// All addresses of a /16 except one.
    AllButOne,
    /// All addresses of a /16.
    All,
    /// Every second address of a /12.
    EverySecond,
}

impl Fill {
    pub fn subnet(self) -> &'static str {
        match self {
            Fill::First(_) | Fill::EverySecond => "10.0.0.0/12",
            Fill::AllButOne | Fill::All => "10.0.0.0/16",
        }
    }

    /// Returns the word that selects this content on the command line of `bench fill`.
    pub fn word(self) -> String {
        match self {
            Fill::First(n) => n.to_string(),
            Fill::AllButOne => "all-but-one".to_owned(),
            Fill::All => "all".to_owned(),
            Fill::EverySecond => "every-second".to_owned(),
        }
    }

    pub fn parse(word: &str) -> Result<Fill> {
        Ok(match word {
            "all-but-one" => Fill::AllButOne,
            "all" => Fill::All,
            "every-second" => Fill::EverySecond,
            n => Fill::First(n.parse().context("a number of leases")?),
        })
    }

    /// Returns the addresses to lease before the measurement, as offsets from the first address of the
    /// subnet. The lowest allocatable offset is 2.
    pub fn taken(self) -> Box<dyn Iterator<Item = u32>> {
        match self {
            Fill::First(n) => Box::new(2..2 + n),
            // Leave two addresses free, because the ADD that fills the store leases one of them.
            Fill::AllButOne => Box::new((2..65_535).filter(|n| *n != 30_000 && *n != 30_001)),
            Fill::All => Box::new((2..65_535).filter(|n| *n != 30_000)),
            Fill::EverySecond => Box::new((2..1 << 20).step_by(2)),
        }
    }

    /// Returns the offset of the address that counts as allocated last when the store is filled. The ADD that
    /// fills the store therefore gets a known address.
    pub fn last(self) -> u32 {
        match self {
            Fill::First(n) => n + 1,
            Fill::AllButOne | Fill::All => 29_999,
            Fill::EverySecond => 2,
        }
    }
}

/// A program, its store, and the configuration that the program gets.
#[derive(Clone)]
pub struct Bed {
    pub plugin: Plugin,
    pub dir: PathBuf,
    /// The command line of the program.
    pub program: Vec<PathBuf>,
    pub conf: Value,
}

/// The result of one call.
pub struct Call {
    /// The time in milliseconds from just before the program is started until it has ended.
    pub ms: f64,
    pub ok: bool,
    pub stdout: String,
}

impl Bed {
    /// Makes a test bed without leases, in a folder of its own.
    pub fn new(tools: &Tools, plugin: Plugin, name: &str, subnet: &str) -> Bed {
        let dir = tools.work.join(name);
        let file = dir.join("floor");
        let (program, kind) = match plugin {
            Plugin::Floor => (vec![tools.floor.clone()], "floor"),
            Plugin::FloorWrite => (vec![tools.floor.clone(), "write".into(), file], "floor"),
            Plugin::HostLocal => (vec![tools.plugins.join("host-local")], "host-local"),
            Plugin::Boot | Plugin::Disk => (vec![tools.sublet.clone()], "sublet"),
            Plugin::Musl => (tools.musl.iter().cloned().collect(), "sublet"),
        };
        let mut ipam = json!({
            "type": kind, "dataDir": dir, "subnet": subnet, "routes": [{"dst": "0.0.0.0/0"}],
        });
        if plugin == Plugin::Disk {
            ipam["persist"] = "disk".into();
        }
        let conf = json!({"cniVersion": "1.0.0", "name": "bench", "type": "bridge", "ipam": ipam});
        Bed { plugin, dir, program, conf }
    }

    /// Makes a test bed whose store contains leases. A child process makes the leases, so that they use no
    /// memory in this process.
    pub fn filled(tools: &Tools, plugin: Plugin, fill: Fill, name: &str) -> Result<Bed> {
        let bed = Bed::new(tools, plugin, name, fill.subnet());
        if bed.dir.exists() {
            fs::remove_dir_all(&bed.dir)?;
        }
        fs::create_dir_all(&bed.dir)?;
        match plugin {
            Plugin::Floor => {}
            Plugin::FloorWrite => fs::write(bed.dir.join("floor"), [0; 4096])?,
            Plugin::HostLocal => super::fill::host_local(&bed.dir.join("bench"), fill)?,
            Plugin::Boot | Plugin::Disk | Plugin::Musl => {
                bed.fill(fill, "fill")?;
            }
        }
        Ok(bed)
    }

    /// Makes a test bed with a copy of another bed's store. A large store therefore needs to be filled only
    /// once to measure both boot leases and durable leases.
    pub fn like(tools: &Tools, plugin: Plugin, other: &Bed, name: &str) -> Result<Bed> {
        let bed = Bed::new(tools, plugin, name, Fill::EverySecond.subnet());
        fs::create_dir_all(&bed.dir)?;
        fs::copy(other.store(), bed.store())?;
        fs::File::open(bed.store())?.sync_all()?;
        Ok(bed)
    }

    /// Fills sublet's store with leases of the network named `network`.
    pub fn fill(&self, fill: Fill, network: &str) -> Result<()> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["fill", &fill.word(), network])
            .stdin(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("a pipe")?;
        stdin.write_all(self.conf.to_string().as_bytes())?;
        drop(stdin);
        ensure!(child.wait()?.success(), "filling {} failed", self.dir.display());
        if self.plugin != Plugin::Disk {
            // For boot leases, the durable file contains only the record of the import. Remove it, because
            // the measured calls must not find it.
            let durable = self.dir.join("leases.redb");
            if durable.exists() {
                fs::remove_file(&durable)?;
                fs::remove_file(self.dir.join("leases.redb.lock"))?;
            }
        }
        Ok(())
    }

    pub fn store(&self) -> PathBuf {
        let durable = self.dir.join("leases.redb");
        if self.plugin == Plugin::Disk {
            return durable;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        self.dir.join(format!("leases.redb.boot-{}", boot.trim()))
    }

    /// Runs the program with a CNI command for a container.
    pub fn call(&self, verb: &str, id: &str) -> Result<Call> {
        run(&self.program, verb, id, self.conf.to_string().as_bytes(), &[])
    }

    /// Runs the program with a CNI command for a container. The call must succeed.
    pub fn must(&self, verb: &str, id: &str) -> Result<Call> {
        let call = self.call(verb, id)?;
        if !call.ok {
            bail!("{verb} {id} with {} failed: {}", self.plugin.name(), call.stdout);
        }
        Ok(call)
    }

    /// Runs CHECK for a container. `added` is the result of its ADD.
    pub fn check(&self, id: &str, added: &str) -> Result<Call> {
        let mut conf = self.conf.clone();
        conf["prevResult"] = serde_json::from_str(added).context("the answer of an ADD")?;
        let call = run(&self.program, "CHECK", id, conf.to_string().as_bytes(), &[])?;
        ensure!(call.ok, "CHECK {id} with {} failed: {}", self.plugin.name(), call.stdout);
        Ok(call)
    }
}

/// Returns container ID number `n`. It has 64 characters, like those of most runtimes.
pub fn id(n: usize) -> String {
    format!("{n:08}{:056}", 0)
}

/// Runs a program with a CNI command, passes the configuration through a pipe, and waits until the program
/// ends.
pub fn run(
    program: &[PathBuf],
    verb: &str,
    id: &str,
    conf: &[u8],
    env: &[(&str, &Path)],
) -> Result<Call> {
    let (name, args) = program.split_first().context("a program")?;
    let mut command = Command::new(name);
    command.args(args).env_clear();
    command.envs([("CNI_COMMAND", verb), ("CNI_CONTAINERID", id), ("CNI_IFNAME", "eth0")]);
    command.envs([("CNI_NETNS", "/var/run/netns/bench"), ("CNI_PATH", "/usr/lib/cni")]);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    for (name, value) in env {
        command.env(name, value);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn().with_context(|| format!("start {}", name.display()))?;
    let mut stdin = child.stdin.take().context("a pipe")?;
    // A program that fails early may not read its input.
    let _ = stdin.write_all(conf);
    drop(stdin);
    let mut stdout = String::new();
    child.stdout.take().context("a pipe")?.read_to_string(&mut stdout)?;
    let status = child.wait()?;
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    Ok(Call { ms, ok: status.success(), stdout })
}
