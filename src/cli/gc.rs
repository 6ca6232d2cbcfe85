//! `sublet gc`: frees stale leases, that is, leases of containers whose DEL was lost.
//!
//! [`crate::liveness`] decides which leases are stale.
//! Invariant: the leases are read first, and the evidence is gathered afterwards. A lease is freed only if it
//! has not changed since it was read. If a runtime does not respond, nothing is freed.

use std::cell::Cell;
use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::screen::{Progress, visible};
use super::tables::{named, number_of};
use super::{Call, misuse};
use crate::alloc::Target;
use crate::config;
use crate::error::shown_network;
use crate::liveness;
use crate::liveness::runtimes;
use crate::liveness::stale;
use crate::liveness::stale::{Evidence, Liveness};
use crate::model::Lease;
use crate::rows::{FreedRow, LeaseRow};
use crate::sys::host::Facts;

/// Free the leases of containers that are provably gone.
///
/// Leases whose state cannot be determined are listed with the reason. With --json, leases of running
/// containers are listed as well. Leases of other machines are only counted. Without --containerd, --crictl
/// or --docker, network namespaces are the only evidence, as with --netns.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each flag is an option of the command line")]
pub struct Gc {
    /// Free leases whose network namespace is gone. Applies only to leases made in this boot, on this machine
    /// and in the current mount namespace
    #[arg(long)]
    netns: bool,
    /// Free leases whose container is unknown to containerd
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true,
          default_missing_value = runtimes::CONTAINERD, visible_alias = "containerd-address")]
    containerd: Option<PathBuf>,
    /// The program that queries containerd
    #[arg(long, value_name = "PROGRAM", default_value = "ctr", requires = "containerd")]
    ctr: String,
    /// Free leases whose container is unknown to Docker
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true,
          default_missing_value = runtimes::DOCKER)]
    docker: Option<PathBuf>,
    /// Free leases whose pod sandbox is unknown to the CRI runtime that crictl queries
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, require_equals = true,
          default_missing_value = "crictl")]
    crictl: Option<String>,
    /// Free leases of this network only
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Keep leases that are younger than this
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    grace: u64,
    /// Print what would be freed without freeing it
    #[arg(long)]
    dry_run: bool,
    /// Omit leases whose state cannot be determined
    #[arg(long, short)]
    quiet: bool,
    /// Free without asking
    #[arg(long, short)]
    yes: bool,
}

/// Parses a duration, and rounds it up to whole seconds.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let nanos = config::duration::parse(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos
        .map(|n| n.div_ceil(1_000_000_000))
        .ok_or_else(|| "use a duration such as 90s, 5m or 1h".to_owned())
}

impl Gc {
    /// Returns the options for a `sublet gc` that uses network namespaces as evidence and frees stale leases
    /// without asking.
    pub(super) fn unattended(grace: u64) -> Gc {
        Gc {
            netns: true,
            containerd: None,
            ctr: String::new(),
            docker: None,
            crictl: None,
            network: None,
            grace,
            dry_run: false,
            quiet: true,
            yes: true,
        }
    }

    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let mut open = call.open()?;
        // Skip the leases of other machines: a cluster may have hundreds of thousands, and each can be
        // examined only on its own machine.
        let machine = open.cx.node.machine.clone();
        let elsewhere = Cell::new(0_usize);
        let wanted = |l: &Lease| {
            let network = self.network.as_deref().is_none_or(|n| n == shown_network(l));
            let is_wanted = network && l.kind.collectable();
            let is_known = !machine.is_empty() && !l.node.machine.is_empty();
            let is_elsewhere = is_wanted && is_known && l.node.machine != machine;
            elsewhere.set(elsewhere.get() + usize::from(is_elsewhere));
            is_wanted && !is_elsewhere
        };
        let leases = open.leases(&wanted)?;
        if leases.is_empty() && elsewhere.get() == 0 {
            open.check_network(self.network.as_deref())?;
        }
        let verdicts = stale::assess(&leases, &self.evidence(&leases, call.world.facts)?);
        let judged: Vec<(&Lease, &Liveness)> = leases.iter().zip(&verdicts).collect();
        let lost = judged.iter().filter(|(_, v)| matches!(v, Liveness::Stale(_))).count();
        let free = lost > 0 && !self.dry_run && self.may_free(&judged, lost, call)?;
        let mut done_of = Vec::with_capacity(judged.len());
        let progress = Progress::new(Some(if free { lost } else { 0 }), "freeing");
        for (lease, verdict) in &judged {
            let is_lost = matches!(verdict, Liveness::Stale(_));
            let unchanged = || Target::Unchanged(Box::new(Lease::clone(lease)));
            done_of.push(free && is_lost && open.free(lease, unchanged())?);
            if is_lost {
                progress.step();
            }
        }
        drop(progress);
        let mut rows = Vec::new();
        let (mut freed, mut unclear) = (0, 0);
        for ((lease, verdict), done) in judged.into_iter().zip(done_of) {
            freed += usize::from(done);
            unclear += usize::from(matches!(verdict, Liveness::Unknown(_)));
            if call.as_json {
                let word = match verdict {
                    Liveness::Alive(_) => "alive",
                    Liveness::Stale(_) => "lost",
                    Liveness::Unknown(_) => "cannotTell",
                };
                let (verdict, reason) = (Some(word), Some(reason(verdict)));
                rows.push(FreedRow { lease: LeaseRow::new(lease), verdict, reason, freed: done });
            } else if let Some(word) = self.word(verdict, done) {
                print(lease, verdict, word, call)?;
            }
        }
        if call.as_json {
            return call.json_rows(&rows);
        }
        let alive = leases.len() - lost - unclear;
        let dry = if self.dry_run { " (dry run)" } else { "" };
        let others = match elsewhere.get() {
            0 => String::new(),
            n => format!(", {n} of other machines (run `sublet gc` on these machines)"),
        };
        Ok(writeln!(
            call.stderr,
            "{lost} stale, {freed} freed{dry}, {unclear} undetermined, {alive} in use{others}"
        )?)
    }

    fn evidence(&self, leases: &[Lease], facts: &Facts) -> Result<Evidence> {
        let mut listings = Vec::new();
        let nothing = |e: anyhow::Error| e.context("nothing was freed");
        if let Some(socket) = &self.containerd {
            listings.push(runtimes::containerd(socket, &self.ctr).map_err(nothing)?);
        }
        if let Some(socket) = &self.docker {
            listings.push(runtimes::docker(socket).map_err(nothing)?);
        }
        if let Some(crictl) = &self.crictl {
            listings.push(runtimes::crictl(crictl).map_err(nothing)?);
        }
        let by_netns = self.netns || listings.is_empty();
        Ok(liveness::evidence(leases, &facts.context(), self.grace, by_netns, listings))
    }

    fn may_free(
        &self,
        judged: &[(&Lease, &Liveness)],
        lost: usize,
        call: &mut Call<'_>,
    ) -> Result<bool> {
        if self.yes {
            return Ok(true);
        }
        if call.as_json {
            return Err(misuse(format!(
                "cannot ask for confirmation with `-o json`; pass `--yes` to free {}, or `--dry-run` to list the leases",
                number_of(lost, "stale lease")
            )));
        }
        for (lease, verdict) in judged.iter().filter(|(_, v)| matches!(v, Liveness::Stale(_))) {
            print(lease, verdict, "stale", call)?;
        }
        call.confirm(&format!("free {}", number_of(lost, "stale lease")))
    }

    /// Returns the word that begins a lease's line; `None` for a running container's lease, which is not
    /// printed.
    fn word(&self, verdict: &Liveness, done: bool) -> Option<&'static str> {
        match verdict {
            Liveness::Alive(_) => None,
            Liveness::Unknown(_) if self.quiet => None,
            Liveness::Unknown(_) => Some("undetermined"),
            Liveness::Stale(_) if done => Some("freed"),
            Liveness::Stale(_) if self.dry_run => Some("stale"),
            Liveness::Stale(_) => Some("kept"),
        }
    }
}

fn print(lease: &Lease, verdict: &Liveness, word: &str, call: &mut Call<'_>) -> Result<()> {
    let why = visible(reason(verdict));
    Ok(writeln!(call.stdout, "{word}: {}: {why}", named(lease, ""))?)
}

fn reason(verdict: &Liveness) -> &str {
    match verdict {
        Liveness::Alive(why) | Liveness::Stale(why) | Liveness::Unknown(why) => why,
    }
}
