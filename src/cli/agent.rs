//! `sublet agent`: keeps sublet installed on a node, and frees stale leases on that node.
//!
//! The agent repeats what `sublet install` and `sublet gc --netns --yes` do.
//! Invariant: the agent keeps no state in memory that is not on disk as well. If a step fails, the agent
//! reports the failure and tries the step again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;

use super::gc::{Gc, seconds};
use super::install::Install;
use super::{Call, World, explained, misuse};
use crate::config;
use crate::model::Face;
use crate::sys::host;
use crate::sys::host::Facts;
use crate::sys::process::Stop;

/// Keep sublet installed, and free the leases of containers that are gone.
///
/// Runs until SIGTERM. When it starts, it installs the same files as `sublet install` with the same options.
/// It installs them again within a second after a file was deleted or replaced, or after the file of --conf
/// was changed. Once per --gc-every it frees the same leases as `sublet gc --netns --yes --quiet`. In a
/// container, freeing leases needs the process IDs of the host and `CAP_SYS_PTRACE`.
#[derive(Debug, Args)]
pub struct Agent {
    #[command(flatten)]
    install: Install,
    /// Time between two searches for stale leases; 0s disables the searches
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = config::duration)]
    gc_every: Duration,
    /// Keep leases that are younger than this
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    grace: u64,
}

/// The time between two checks of the installed files.
const LOOK: Duration = Duration::from_secs(1);

impl Agent {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        if call.as_json {
            return Err(misuse("`sublet agent` does not support `-o json`; omit the option"));
        }
        let stop = Stop::catch().context("cannot wait for signals")?;
        let mut installed = self.install.state();
        self.restore(call)?;
        let mut collected: Option<Instant> = None;
        let mut refusal = None;
        loop {
            // Read the state before writing the files, so that the next check detects changes made during the
            // writing.
            let found = self.install.state();
            if refusal.is_some() || found != installed {
                let failed = self.restore(call).err().map(|e| explained(&e));
                if let Some(text) = failed.as_ref().filter(|_| failed != refusal) {
                    writeln!(call.stderr, "sublet: {text}")?;
                }
                (installed, refusal) = (found, failed);
            }
            let is_due = collected.is_none_or(|last| last.elapsed() >= self.gc_every);
            if is_due && !self.gc_every.is_zero() {
                self.collect(call)?;
                collected = Some(Instant::now());
            }
            call.stdout.flush()?;
            if stop.came_within(LOOK) {
                return Ok(());
            }
        }
    }

    /// Installs each file that is missing or different, and prints the changes. If the configuration is
    /// invalid, the other files are still installed.
    fn restore(&self, call: &mut Call<'_>) -> Result<()> {
        let conf = self.install.configuration();
        let rows = self.install.put(conf.as_ref().ok().and_then(Option::as_ref))?;
        for row in rows.iter().filter(|row| row.is_change()) {
            writeln!(call.stdout, "{row}")?;
        }
        conf.map(drop).context("the configuration was not installed")
    }

    /// Frees stale leases. If this fails, prints the error; the agent tries again after `--gc-every`.
    fn collect(&self, call: &mut Call<'_>) -> Result<()> {
        let facts = host::facts(call.world.env).named(call.args.node_name.as_deref());
        let facts = Facts { face: Face::Cli, ..facts };
        let mut call = Call {
            args: call.args,
            format: call.format,
            as_json: false,
            world: World { facts: &facts, ..call.world },
            stdout: &mut *call.stdout,
            stderr: &mut *call.stderr,
            screen: call.screen,
        };
        match Gc::unattended(self.grace).run(&mut call) {
            Err(e) => Ok(writeln!(call.stderr, "sublet: gc: {}", explained(&e))?),
            Ok(()) => Ok(()),
        }
    }
}
