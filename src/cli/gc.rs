//! `sublet gc`: frees stale leases, whose DEL was lost.
//!
//! [`crate::liveness`] judges which leases are stale.
//! Invariant: the leases are read first and the evidence is gathered then; a lease is freed only if it is
//! still as it was read; a runtime that does not answer frees nothing.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::screen::{Progress, visible};
use super::tables::named;
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

/// Free the leases of containers that are provably gone, and list those nobody can tell of.
///
/// With --json the leases that live are listed as well.
/// Without --containerd, --crictl or --docker the network namespaces alone are asked, as --netns does.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub struct Gc {
    /// Free those whose network namespace is gone. It is told by its number, and only of leases made
    /// in this boot, on this machine and in the mount namespace that this runs in
    #[arg(long)]
    netns: bool,
    /// Free those whose container containerd does not know
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true,
          default_missing_value = runtimes::CONTAINERD, visible_alias = "containerd-address")]
    containerd: Option<PathBuf>,
    /// The program through which containerd is asked
    #[arg(long, value_name = "PROGRAM", default_value = "ctr", requires = "containerd")]
    ctr: String,
    /// Free those whose container Docker does not know
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true,
          default_missing_value = runtimes::DOCKER)]
    docker: Option<PathBuf>,
    /// Free leases whose pod sandbox the CRI runtime does not know, according to this crictl
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, require_equals = true,
          default_missing_value = "crictl")]
    crictl: Option<String>,
    /// Only this network's
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// Free nothing that is younger than this
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    grace: u64,
    /// Print what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave out those that nobody can tell of
    #[arg(long, short)]
    quiet: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// A Go duration in whole seconds, rounded up.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let nanos = config::duration::parse(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(|n| n.div_ceil(1_000_000_000)).ok_or_else(|| "say 90s, 5m or 1h".to_owned())
}

impl Gc {
    /// Frees whatever the network namespaces prove to be stale, without a question.
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
        let wanted = |l: &Lease| {
            let network = self.network.as_deref().is_none_or(|n| n == shown_network(l));
            network && l.kind.collectable()
        };
        let leases = open.leases(&wanted)?;
        if leases.is_empty() {
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
        let dry = if self.dry_run { " (a dry run)" } else { "" };
        Ok(writeln!(
            call.stderr,
            "{lost} lost, {freed} freed{dry}, {unclear} unclear, {alive} alive"
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
                "-o json does not ask: pass --yes to free {lost} leases, or --dry-run to list them"
            )));
        }
        for (lease, verdict) in judged.iter().filter(|(_, v)| matches!(v, Liveness::Stale(_))) {
            print(lease, verdict, "lost", call)?;
        }
        call.confirm(&format!("free these {lost} leases"))
    }

    /// How a line begins; those that live are not worth one.
    fn word(&self, verdict: &Liveness, done: bool) -> Option<&'static str> {
        match verdict {
            Liveness::Alive(_) => None,
            Liveness::Unknown(_) if self.quiet => None,
            Liveness::Unknown(_) => Some("cannot tell"),
            Liveness::Stale(_) if done => Some("freed"),
            Liveness::Stale(_) if self.dry_run => Some("lost"),
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
