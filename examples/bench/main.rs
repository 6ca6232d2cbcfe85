//! The benchmark program. `scripts/bench.sh` builds it, prepares the machine, and runs the program.
//!
//! - `bench run [--quick]` makes all measurements of lease files, and writes `docs/bench.md` and
//!   `docs/bench.svg`.
//! - `bench docker SUBLETD FOLDER` measures subletd, and writes `docs/bench-docker.md`.
//! - `bench cluster SUBLET ETCD CONSUL [--quick]` measures clusters, and writes `docs/bench-cluster.md`.
//! - `bench fill WHAT NETWORK < CONFIGURATION` fills a store.
//! - `bench churn FILE` writes and flushes until it is killed.
//! - `bench hold FILE` locks a file until it is killed.
//! - `bench swarm PROCESSES TOTAL < CONFIGURATION` runs many ADDs at the same time, so that a tracer can
//!   observe them.

mod bed;
mod cluster;
mod count;
mod docker;
mod fill;
mod latency;
mod plot;
mod readers;
mod report;
mod stats;
mod swarm;
mod tax;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

/// The paths of the measured programs, the folders, and the settings of the benchmark.
pub struct Tools {
    /// The folder in which the benchmark creates stores.
    pub work: PathBuf,
    /// The path of sublet.
    pub sublet: PathBuf,
    /// The path of subletd.
    pub subletd: PathBuf,
    /// The path of sublet built for musl; `None` if it could not be built.
    pub musl: Option<PathBuf>,
    /// A description of how sublet was built, for the report.
    pub built: String,
    /// The path of the program in `examples/floor.rs`, which only reads its input and prints a result.
    pub floor: PathBuf,
    /// The folder of Debian's plugins.
    pub plugins: PathBuf,
    /// The file that is mounted over the kernel's boot ID, so that the benchmark can simulate reboots; `None`
    /// if it cannot be mounted.
    pub boot_id: Option<PathBuf>,
    /// Whether the benchmark runs in a network namespace of its own.
    pub own_net: bool,
    /// Whether to make fewer rounds, so that the whole benchmark takes about two minutes.
    pub quick: bool,
}

impl Tools {
    fn from_env(quick: bool) -> Result<Tools> {
        #[expect(clippy::disallowed_methods, reason = "an example reads its own environment")]
        let get = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let must = |name: &str| get(name).with_context(|| format!("{name} is not set"));
        Ok(Tools {
            work: must("BENCH_WORK")?,
            sublet: must("BENCH_SUBLET")?,
            subletd: must("BENCH_SUBLETD")?,
            musl: get("BENCH_MUSL"),
            built: get("BENCH_BUILT").map_or_else(String::new, |text| text.display().to_string()),
            floor: must("BENCH_FLOOR")?,
            plugins: PathBuf::from("/usr/lib/cni"),
            boot_id: get("BENCH_BOOT_ID"),
            own_net: get("BENCH_NETNS").is_some(),
            quick,
        })
    }
}

impl Tools {
    /// Returns the programs to measure.
    pub fn plugins(&self) -> Vec<bed::Plugin> {
        use bed::Plugin::{Boot, Disk, Floor, FloorWrite, HostLocal, Musl};
        let mut plugins = vec![Floor, FloorWrite, HostLocal, Boot, Disk];
        plugins.extend(self.musl.is_some().then_some(Musl));
        plugins
    }
}

/// Prints a progress message to standard error.
pub fn say(text: &str) {
    let _ = writeln!(io::stderr(), "bench: {text}");
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match *words {
        ["run"] => measure(&Tools::from_env(false)?),
        ["run", "--quick"] => measure(&Tools::from_env(true)?),
        ["docker", program, work] => docker::measure(program.as_ref(), work.as_ref()),
        ["cluster", program, etcd, consul] => {
            cluster::measure(program.as_ref(), etcd, consul, false)
        }
        ["cluster", program, etcd, consul, "--quick"] => {
            cluster::measure(program.as_ref(), etcd, consul, true)
        }
        ["fill", what, network] => fill::sublet(bed::Fill::parse(what)?, network),
        ["churn", file] => churn(file),
        ["hold", lock] => swarm::hold(lock),
        ["swarm", processes, total] => {
            let conf = io::read_to_string(io::stdin())?;
            let mut bed = bed::Bed::new(&Tools::from_env(true)?, bed::Plugin::Disk, "-", "-");
            bed.conf = serde_json::from_str(&conf)?;
            let swarm = swarm::run(&bed, processes.parse()?, total.parse()?)?;
            writeln!(io::stdout(), "{}", swarm.per_second)?;
            Ok(())
        }
        _ => bail!("run it through scripts/bench.sh"),
    }
}

fn churn(file: &str) -> Result<()> {
    let file = File::create(file)?;
    let block = vec![7; 1 << 20];
    for n in 0.. {
        file.write_all_at(&block, (n % 64) << 20)?;
        file.sync_data()?;
    }
    Ok(())
}

fn measure(tools: &Tools) -> Result<()> {
    let mut results = report::Results::default();
    latency::measure(tools, &mut results)?;
    count::measure(tools, &mut results)?;
    swarm::measure(tools, &mut results)?;
    tax::measure(tools, &mut results)?;
    fs::create_dir_all("docs")?;
    fs::write("docs/bench.md", report::markdown(tools, &results)?)?;
    fs::write("docs/bench.svg", plot::svg(&results))?;
    for verdict in report::verdicts(&results) {
        writeln!(io::stdout(), "{verdict}")?;
    }
    say("docs/bench.md and docs/bench.svg are written");
    Ok(())
}
