//! The operator's command line.
//!
//! Owns: arguments, exit codes (0 done, 1 failed, 2 wrong usage), asking before something is freed.
//! Does not own: what a command does to leases (`engine`), how a row looks (`output`).
//! Invariant: nothing is freed without `--yes` or a person's "y".

mod check;
mod copy;
mod doctor;
mod export;
mod gc;
mod gipam;
mod history;
mod import;
mod jsonl;
mod kontena;
mod list;
mod map;
mod network;
mod node;
mod output;
mod pools;
mod release;
mod report;
mod reserve;
pub mod screen;
mod show;
mod stats;
mod table;
mod tables;
mod watch;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead, IsTerminal, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::alloc::Context;
use crate::config;
use crate::engine;
use crate::model::{Face, History, Lease, Persist, StoreSpec, Wait};
use crate::net::Addr;
use crate::rows::PoolRow;
use crate::store;
use crate::store::Store;
use crate::sys::files;
use crate::sys::host;
use crate::sys::host::{Env, Facts};
use crate::sys::panic;
use crate::telemetry::usage::Usage;
use screen::{Progress, Screen, Tone, When};

/// Leases IP addresses to containers.
///
/// Called by a container runtime (with CNI_COMMAND set and no argument) it is a CNI IPAM plugin;
/// called by you it shows and mends what it has leased.
#[derive(Debug, Parser)]
#[allow(clippy::doc_markdown, reason = "a person sees these texts as they stand here")]
#[command(name = "sublet", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    place: Place,
    /// When there is colour
    #[arg(long, value_enum, default_value_t, global = true, value_name = "WHEN")]
    color: When,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List all leases, or one network's
    List(list::List),
    /// Show everything known of an address, a container, a pod, or a network
    Show(show::Show),
    /// Free an address, or all of a container's
    Release(release::Release),
    Gc(gc::Gc),
    Check(check::Check),
    Pools(pools::Pools),
    Map(map::Map),
    Watch(watch::Watch),
    History(history::History),
    Stats(stats::Stats),
    Doctor(doctor::Doctor),
    Reserve(reserve::Reserve),
    Unreserve(reserve::Unreserve),
    /// Look at the machines that share a cluster, and free what a dead one held
    #[command(subcommand)]
    Node(node::Node),
    /// Look at and change the definition that a cluster keeps for a network
    #[command(subcommand)]
    Network(network::Network),
    Import(import::Import),
    Export(export::Export),
    Copy(copy::Copy),
}

/// Which store.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "as above")]
struct Place {
    /// The store's file, or a cluster as in "store": {"etcd": {"endpoints": [...]}}
    /// [default: $IPAM_DB_PATH, else /var/lib/cni/sublet/leases.redb]
    #[arg(long, value_name = "PATH|JSON", global = true, verbatim_doc_comment)]
    store: Option<OsString>,
    /// This machine's name among those that share a cluster [default: $NODE_ID, else the host's name]
    #[arg(long, value_name = "NAME", global = true, value_parser = host::node_name)]
    node: Option<String>,
}

impl Place {
    /// The cluster that somebody named, as JSON.
    fn cluster(&self) -> Option<&str> {
        cluster(self.store.as_ref()?)
    }

    /// The file that `--store` names; an error if it names a cluster.
    fn file(&self) -> Result<Option<PathBuf>> {
        if self.cluster().is_some() {
            return Err(misuse("--store names a cluster; this works with a lease file alone"));
        }
        Ok(self.store.clone().map(PathBuf::from))
    }

    /// The file that somebody named, here or in the environment.
    fn named(&self, env: &Env<'_>) -> Result<Option<PathBuf>> {
        let variable = || env("IPAM_DB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(self.file()?.or_else(variable))
    }
}

/// A cluster's JSON, where that is what was written.
fn cluster(named: &OsStr) -> Option<&str> {
    let text = named.to_str()?.trim_start();
    text.starts_with('{').then_some(text)
}

/// Where leases are if nobody says otherwise; the ECS dialect's default is another.
const DEFAULT: &str = "/var/lib/cni/sublet/leases.redb";
/// The ECS dialect's.
const ECS_DEFAULT: &str = "/data/eni-ipam.db";

/// How long a person waits for the lock.
const WAIT: Wait = Wait::For(Duration::from_secs(5));

/// The streams of the process.
pub struct Terminal<'a> {
    /// Rows.
    pub stdout: &'a mut dyn Write,
    /// Everything else.
    pub stderr: &'a mut dyn Write,
    /// What they lead to.
    pub screen: Screen,
}

/// Everything else outside of the program.
#[derive(Clone, Copy)]
pub struct World<'a> {
    /// The environment.
    pub env: &'a Env<'a>,
    /// What the machine says.
    pub facts: &'a Facts,
}

/// All commands with their options and texts: what man pages and completions are made from.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Runs the command line; answers the exit code. A panic is one line and a failure.
pub fn run(args: Vec<OsString>, world: World<'_>, terminal: &mut Terminal<'_>) -> u8 {
    // Whatever a panic interrupted is dropped; all that is used afterwards is the terminal.
    let done = catch_unwind(AssertUnwindSafe(|| serve(args, world, terminal)));
    done.unwrap_or_else(|payload| fail(terminal, &anyhow!(panic::explain(&*payload).msg)))
}

fn serve(args: Vec<OsString>, world: World<'_>, terminal: &mut Terminal<'_>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are answers, everything else is a mistake.
            let (stream, code): (&mut dyn Write, u8) = if e.use_stderr() {
                (&mut *terminal.stderr, 2)
            } else {
                (&mut *terminal.stdout, 0)
            };
            let colour = if code == 0 { terminal.screen.colour } else { terminal.screen.alert };
            let text = e.render();
            let text = if colour { text.ansi().to_string() } else { text.to_string() };
            return if stream.write_all(text.as_bytes()).is_ok() { code } else { 1 };
        }
    };
    terminal.screen = terminal.screen.with(cli.color);
    let facts = &Facts { face: Face::Cli, ..world.facts.clone() };
    match carry_out(&cli, World { facts, ..world }, terminal) {
        Ok(()) => 0,
        Err(e) => fail(terminal, &e),
    }
}

fn carry_out(cli: &Cli, world: World<'_>, terminal: &mut Terminal<'_>) -> Result<()> {
    let facts = &world.facts.named(cli.place.node.as_deref());
    let world = World { facts, ..world };
    let desk = |terminal: &mut Terminal<'_>| Desk::open(&cli.place, world, terminal);
    match &cli.command {
        Command::List(list) => list.run(&mut desk(terminal)?, terminal),
        Command::Show(show) => show.run(&mut desk(terminal)?, terminal),
        Command::Release(release) => release.run(&mut desk(terminal)?, terminal),
        Command::Gc(gc) => gc.run(&mut desk(terminal)?, world.facts, terminal),
        Command::Check(check) => check.run(&cli.place, world, terminal),
        Command::Pools(pools) => pools.run(&mut desk(terminal)?, terminal),
        Command::Map(map) => map.run(&mut desk(terminal)?, terminal),
        Command::Watch(watch) => watch.run(&mut desk(terminal)?, terminal),
        Command::History(history) => history.run(&mut desk(terminal)?, terminal),
        Command::Stats(stats) => stats.run(&mut desk(terminal)?, terminal),
        Command::Doctor(doctor) => doctor.run(&mut desk(terminal)?, world.facts, terminal),
        Command::Reserve(reserve) => reserve.run(&mut desk(terminal)?, terminal),
        Command::Unreserve(unreserve) => unreserve.run(&mut desk(terminal)?, terminal),
        Command::Node(node) => node.run(&mut desk(terminal)?, terminal),
        Command::Network(network) => network.run(&mut desk(terminal)?, terminal),
        Command::Import(import) => import.run(&cli.place, world, terminal),
        Command::Export(export) => {
            if export.is_of_one_host() {
                cli.place.file()?;
            }
            export.run(&mut desk(terminal)?, terminal)
        }
        Command::Copy(copy) => copy.run(&cli.place, world, terminal),
    }
}

fn fail(terminal: &mut Terminal<'_>, error: &anyhow::Error) -> u8 {
    // `sublet list | head` is no failure worth a word.
    let closed = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let told = error.is::<Found>() || closed == Some(io::ErrorKind::BrokenPipe);
    if !told {
        let name = terminal.screen.alarm(Tone::Bad, "sublet:");
        let _ = writeln!(terminal.stderr, "{name} {error:#}");
    }
    if error.is::<Misuse>() { 2 } else { 1 }
}

/// A command found a problem and has told of it.
#[derive(Debug, thiserror::Error)]
#[error("problems were found")]
struct Found;

/// Arguments that make no sense together.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

fn misuse(text: impl Into<String>) -> anyhow::Error {
    Misuse(text.into()).into()
}

/// An open store, and what its commands are told.
struct Desk {
    store: Box<dyn Store>,
    place: String,
    cx: Context,
    cluster: bool,
}

impl Desk {
    fn open(place: &Place, world: World<'_>, terminal: &mut Terminal<'_>) -> Result<Desk> {
        if let (Some(_), Some(store)) = (place.cluster(), &place.store) {
            return Desk::on(store, "--store", world, terminal);
        }
        let path = match place.named(world.env)? {
            Some(path) => path,
            None => PathBuf::from(Desk::default_store(terminal)?),
        };
        // Leases of either persistence are shown and freed.
        Desk::at(path, Persist::Boot, world)
    }

    /// The default store that there is. Of two, one is used and the other is named.
    fn default_store(terminal: &mut Terminal<'_>) -> Result<&'static str> {
        // Where only leases of a boot are, there is no `<file>` itself.
        let is_there = |path: &str| -> Result<bool> {
            for name in [path.to_owned(), format!("{path}.boot.lock")] {
                let found = files::look(name.as_ref());
                if found.with_context(|| format!("cannot look at {name}"))?.is_some() {
                    return Ok(true);
                }
            }
            Ok(false)
        };
        Ok(match (is_there(DEFAULT)?, is_there(ECS_DEFAULT)?) {
            (false, true) => ECS_DEFAULT,
            (true, true) => {
                writeln!(
                    terminal.stderr,
                    "sublet: this is {DEFAULT}; there is another store: --store {ECS_DEFAULT}"
                )?;
                DEFAULT
            }
            (_, false) => DEFAULT,
        })
    }

    /// The store that an option names: a file, or a cluster as JSON.
    fn on(
        named: &OsStr,
        option: &str,
        world: World<'_>,
        terminal: &mut Terminal<'_>,
    ) -> Result<Desk> {
        let Some(json) = cluster(named) else {
            return Desk::at(PathBuf::from(named), Persist::Boot, world);
        };
        let (spec, warnings) = config::store(json).with_context(|| option.to_owned())?;
        let store = store::open(&spec)?;
        for warning in warnings {
            writeln!(terminal.stderr, "sublet: {option}: {warning}")?;
        }
        let place = "this cluster".to_owned();
        Ok(Desk { store, place, cx: world.facts.context(), cluster: true })
    }

    /// The lease file of Docker's pools, which outlive a boot.
    fn of_pools(place: &Place, world: World<'_>) -> Result<Desk> {
        let path = place.named(world.env)?.unwrap_or_else(|| PathBuf::from(DEFAULT));
        Desk::at(path, Persist::Disk, world)
    }

    fn at(path: PathBuf, persist: Persist, world: World<'_>) -> Result<Desk> {
        let place = path.display().to_string();
        let spec = StoreSpec::Embedded { path, persist, wait: WAIT, history: History::Standing };
        let store = store::open(&spec)?;
        Ok(Desk { store, place, cx: world.facts.context(), cluster: false })
    }

    /// What the allocator is told when it works on this lease: in a cluster, as the node that has it.
    fn cx_for(&self, lease: &Lease) -> Context {
        if !self.cluster || lease.node == self.cx.node {
            return self.cx.clone();
        }
        // Of its boots nothing is known here.
        Context { node: lease.node.clone(), boot: None, ..self.cx.clone() }
    }

    /// How full each range is, or each of one network.
    fn usage(&mut self, network: Option<&str>) -> Result<Vec<Usage>> {
        let _busy = Progress::busy("counting");
        let mut usage = engine::usage(&mut *self.store, &self.cx)?;
        usage.retain(|usage| network.is_none_or(|network| usage.extent.network == network));
        Ok(usage)
    }

    /// The rows of ranges.
    fn pool_rows(&mut self, usage: &[Usage]) -> Result<Vec<PoolRow>> {
        Ok(PoolRow::all(usage, &self.store.pools()?, "network"))
    }

    /// The leases that `which` chooses.
    fn leases(&mut self, which: &dyn Fn(&Lease) -> bool) -> Result<Vec<Lease>> {
        let _busy = Progress::busy("reading the leases");
        let mut found = Vec::new();
        self.store.list(&self.cx, &mut |lease| {
            if which(&lease) {
                found.push(lease);
            }
        })?;
        Ok(found)
    }

    /// The leases of an address, or of a container by its ID, a beginning of it that is unique, an
    /// ECS `id`, or a pod as namespace/name. An error if there is none.
    fn named(&mut self, name: &str, network: Option<&str>) -> Result<Vec<Lease>> {
        let addr: Option<Addr> = name.parse().ok();
        let here = |l: &Lease| network.is_none_or(|n| crate::error::shown_network(l) == n);
        let all = self.leases(&|l| here(l) && (addr == Some(l.addr) || bears(l, name)))?;
        let exact: Vec<Lease> =
            all.iter().filter(|l| addr == Some(l.addr) || is_named(l, name)).cloned().collect();
        if !exact.is_empty() {
            return Ok(exact);
        }
        let mut containers: Vec<&str> =
            all.iter().filter_map(|l| l.attachment()).map(|a| a.container.as_str()).collect();
        containers.sort_unstable();
        containers.dedup();
        match containers.len() {
            0 => Err(anyhow!(
                "{}{} has no lease in {}; see `sublet list`",
                name,
                network.map(|n| format!(" of network {n}")).unwrap_or_default(),
                self.place
            )),
            1 => Ok(all),
            n => Err(anyhow!("{name} begins the IDs of {n} containers; give more of it")),
        }
    }
}

/// Whether `name` is the lease's container, its ECS id, or its pod.
fn is_named(lease: &Lease, name: &str) -> bool {
    let container = lease.attachment().is_some_and(|a| a.container.as_str() == name);
    let id = matches!(&lease.owner, crate::model::Owner::Id(id) if id == name);
    let pod = lease.origin.pod.as_ref().is_some_and(|p| {
        name.split_once('/').is_some_and(|(ns, n)| ns == p.namespace && n == p.name)
    });
    container || id || pod
}

/// The same, or a beginning of a container's ID that is long enough not to be chance.
fn bears(lease: &Lease, name: &str) -> bool {
    let prefix = name.len() >= 4
        && lease.attachment().is_some_and(|a| a.container.as_str().starts_with(name));
    prefix || is_named(lease, name)
}

/// Asks a person; anything but "y" or "yes" is no. Where nobody can be asked it is an error.
fn confirm(terminal: &mut Terminal<'_>, question: &str) -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(misuse(format!("{question}: there is no terminal to ask on; say --yes")));
    }
    write!(terminal.stderr, "{question}? [y/N] ")?;
    terminal.stderr.flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("cannot read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_one_line() {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let screen = Screen::PLAIN;
        let mut terminal = Terminal { stdout: &mut stdout, stderr: &mut stderr, screen };
        let facts = host::facts(&|_| None);
        let args = vec!["sublet".into(), "list".into()];
        let world = World { env: &|_| panic!("boom"), facts: &facts };
        assert_eq!(run(args, world, &mut terminal), 1);
        assert!(stdout.is_empty());
        let text = String::from_utf8(stderr).unwrap();
        assert!(
            text.starts_with("sublet: this is a bug in sublet") && text.contains("boom"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
    }
}
