//! `sublet plan`: reports what a changed configuration would do to the existing leases.
//!
//! Invariant: nothing is leased, written or created.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use serde::Serialize;

use super::standing::{claim_others, place_of, stores};
use super::{Overlap, ProblemsFound, claims, file, overlaps, print_findings};
use crate::cli::Call;
use crate::cli::screen::{Tone, visible};
use crate::cli::table::{Table, cell, maybe};
use crate::cli::tables::{age, number_of};
use crate::config::Config;
use crate::config::lint::Finding;
use crate::error::shown_network;
use crate::model::{Kind, Lease, Owner, Timestamp, short};
use crate::net::{Range, RangeSet};
use crate::rows::LeaseRow;
use crate::store;

/// Show what a changed configuration would do to the existing leases.
///
/// Compares the networks in the file with the leases, reservations and ranges in the store. A lease is
/// stranded if its address would be outside the ranges or excluded. Conflicts are a lease of the new gateway,
/// a lease or reservation of an address that is `static` for another name, a reservation outside the ranges,
/// and an overlap with another network's range. Exits with 0 if the file has no error and nothing is stranded
/// or in conflict, otherwise with 1. Changes nothing.
#[derive(Debug, Args)]
pub struct Plan {
    /// A network configuration or a list of plugins; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// The effect of a configuration on a lease or a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Effect {
    Kept,
    /// The address would be outside the ranges, so a repeated ADD for the container would fail.
    Outside,
    /// The address would be excluded. The container keeps it, but once it is freed, it is not leased again.
    Excluded,
    /// The address would be the gateway.
    Gateway,
    /// The configuration would assign the address to this other name (key `static`).
    Static(String),
    /// The reservation would have no effect, because no range contains its address.
    ReservedOutside,
}

impl Effect {
    fn of(config: &Config, lease: &Lease) -> Effect {
        let (set, network) = (&config.cleanup.set, config.cleanup.network.as_str());
        let (addr, is_reserved) = (lease.addr, lease.kind == Kind::Reserved);
        let is_in_set = lease.set == *set;
        // Compare the network's name, not its set of leases: after a change of `shared`, the leases may still
        // be in the previous set.
        let is_own = lease.kind.collectable() && shown_network(lease) == network;
        let mut ranges = config.sets.iter().flat_map(RangeSet::ranges);
        if is_in_set
            && lease.kind.collectable()
            && ranges.clone().any(|range| range.gateway() == Some(addr))
        {
            return Effect::Gateway;
        }
        if !(is_own || is_reserved && is_in_set) {
            return Effect::Kept;
        }
        let Some(range) = ranges.find(|range: &&Range| range.contains(addr)) else {
            return if is_reserved { Effect::ReservedOutside } else { Effect::Outside };
        };
        if let Some(name) = config.assigned.get(&addr) {
            let is_for_it = match &lease.owner {
                Owner::Named(of) => of == name,
                _ => !is_reserved && name.is_of(&lease.origin),
            };
            return if is_for_it { Effect::Kept } else { Effect::Static(name.to_string()) };
        }
        let is_excluded = !range.gives(addr) && !is_reserved;
        if is_excluded { Effect::Excluded } else { Effect::Kept }
    }

    /// Returns the effect and its reason as they appear in JSON.
    fn words(&self) -> (&'static str, &'static str) {
        match self {
            Effect::Kept => ("kept", ""),
            Effect::Outside => ("stranded", "outside"),
            Effect::Excluded => ("stranded", "excluded"),
            Effect::Gateway => ("conflict", "gateway"),
            Effect::Static(_) => ("conflict", "static"),
            Effect::ReservedOutside => ("conflict", "outside"),
        }
    }

    /// Returns the text for a table.
    fn text(&self) -> String {
        match self {
            Effect::Kept => "kept".to_owned(),
            Effect::Outside => "stranded: outside the ranges".to_owned(),
            Effect::Excluded => "stranded: excluded".to_owned(),
            Effect::Gateway => "conflict: would be the gateway".to_owned(),
            Effect::Static(name) => format!("conflict: would be static for {name}"),
            Effect::ReservedOutside => "conflict: reserved outside the ranges".to_owned(),
        }
    }
}

/// A lease or a reservation that is stranded or in conflict.
#[derive(Serialize)]
struct Row<'a> {
    effect: &'static str,
    reason: &'static str,
    lease: LeaseRow<'a>,
}

/// The effects of a configuration on the leases of its network.
struct Network<'a> {
    config: &'a Config,
    place: String,
    /// The number of the network's leases that are neither stranded nor in conflict.
    kept: usize,
    others: Vec<(Effect, Lease)>,
}

#[derive(Serialize)]
struct NetworkRow<'a> {
    network: &'a str,
    set: &'a str,
    /// The store that contains the leases.
    store: &'a str,
    kept: usize,
    stranded: usize,
    conflicts: usize,
    leases: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    networks: Vec<NetworkRow<'a>>,
    overlaps: &'a [Overlap],
    findings: &'a [Finding],
}

impl Network<'_> {
    fn count(&self, word: &str) -> usize {
        self.others.iter().filter(|(effect, _)| effect.words().0 == word).count()
    }

    fn row(&self) -> NetworkRow<'_> {
        let leases = self.others.iter().map(|(effect, lease)| {
            let (effect, reason) = effect.words();
            Row { effect, reason, lease: LeaseRow::new(lease) }
        });
        NetworkRow {
            network: self.config.cleanup.network.as_str(),
            set: &self.config.cleanup.set.0,
            store: &self.place,
            kept: self.kept,
            stranded: self.count("stranded"),
            conflicts: self.count("conflict"),
            leases: leases.collect(),
        }
    }
}

impl Plan {
    pub(in crate::cli) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let file = file(&self.file)?;
        let files = [file];
        let findings = &files[0].found.findings;
        let is_wrong = findings.iter().any(|finding| finding.error);
        let mut claims = claims(&files);
        if claims.is_empty() && !is_wrong {
            return Err(anyhow!("{} has no network that uses sublet", files[0].name));
        }
        if call.args.cluster().is_none() && call.args.named(call.world.env)?.is_some() {
            // This fails if the lease file that the operator named does not exist.
            call.open()?;
        }
        let mut networks = Vec::new();
        for (spec, configs) in stores(call.args, call.world, &files)? {
            let (place, cx) = (place_of(&spec), call.world.facts.context_of(&spec));
            let unread = || format!("cannot read the leases in {place}");
            let mut store = store::open(&spec).with_context(unread)?;
            claim_others(&mut claims, &place, &mut *store, &cx).with_context(unread)?;
            let network =
                |(_, config)| Network { config, place: place.clone(), kept: 0, others: Vec::new() };
            let first = networks.len();
            networks.extend(configs.into_iter().map(network));
            let listed = store.list(&cx, &mut |lease| {
                for network in &mut networks[first..] {
                    match Effect::of(network.config, &lease) {
                        Effect::Kept => {
                            let name = network.config.cleanup.network.as_str();
                            let is_own = shown_network(&lease) == name && lease.kind.collectable();
                            network.kept += usize::from(is_own);
                        }
                        effect => network.others.push((effect, lease.clone())),
                    }
                }
            });
            listed.with_context(unread)?;
        }
        let overlaps = overlaps(&claims);
        let name = &*files[0].name;
        if call.as_json {
            let networks = networks.iter().map(Network::row).collect();
            call.json(&Report { file: name, networks, overlaps: &overlaps, findings })?;
        } else {
            print_findings(&files[0], call)?;
            for network in &networks {
                print(network, call)?;
            }
            for overlap in &overlaps {
                let word = call.screen.paint(Tone::Bad, "conflict:");
                writeln!(call.stdout, "{word} {}", visible(&overlap.to_string()))?;
            }
        }
        let is_fine = networks.iter().all(|network| network.others.is_empty());
        if is_fine && overlaps.is_empty() && !is_wrong { Ok(()) } else { Err(ProblemsFound.into()) }
    }
}

fn print(network: &Network<'_>, call: &mut Call<'_>) -> Result<()> {
    let NetworkRow { network: name, store, kept, stranded, conflicts, .. } = network.row();
    writeln!(
        call.stdout,
        "network {} in {}: {} kept, {stranded} stranded, {conflicts} in conflict",
        visible(name),
        visible(store),
        number_of(kept, "lease"),
    )?;
    let now: Timestamp = call.world.facts.now;
    let rows = network.others.iter().map(|(effect, lease)| (effect, LeaseRow::new(lease)));
    let table = Table::of(rows)
        .whole("ADDRESS", |(_, row)| cell(row.address.0))
        .whole("EFFECT", |(effect, _)| {
            let is_conflict = effect.words().0 == "conflict";
            cell(effect.text()).toned(if is_conflict { Tone::Bad } else { Tone::Odd })
        })
        .text("POD", 12, |(_, row)| maybe(row.pod()))
        .text("CONTAINER", 8, |(_, row)| {
            let LeaseRow { id, container_id, endpoint, reserved_for, note, .. } = row;
            let names = [id, container_id, endpoint, reserved_for, note];
            maybe(names.iter().find_map(|name| name.as_deref()).map(short))
        })
        .number("AGE", move |(_, row)| cell(age(now, row.time.0)));
    Ok(write!(call.stdout, "{}", table.render(&call.screen))?)
}
