//! Compares the networks in files with the stores. Finds overlaps with the ranges of other networks, and
//! leases that contradict the configuration of their network.
//!
//! Invariant: stores are only read.

use std::collections::HashSet;
use std::fmt;

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::{Claim, File};
use crate::alloc::Context;
use crate::cli::astray::Astray;
use crate::cli::tables::{named, number_of};
use crate::cli::{World, lease_file, open::StoreArgs};
use crate::config;
use crate::config::Config;
use crate::error::StoreError;
use crate::model::{Persist, StoreSpec};
use crate::net::{Addr, Range, RangeSet, Span};
use crate::store;
use crate::store::Store;

/// Existing leases that contradict a configuration.
#[derive(Serialize)]
pub(super) struct Conflict {
    /// The kind of conflict: `gatewayHeld` or `movedAway`.
    kind: &'static str,
    pub(super) file: String,
    network: String,
    /// The number of leases that contradict the configuration.
    leases: usize,
    /// The first lease that contradicts the configuration, with its holder.
    lease: String,
}

impl Conflict {
    /// Returns whether the conflict is an error. If a container holds the gateway's address, the network does
    /// not work. Leases outside the ranges are only a warning, because they end with their containers.
    pub(super) fn is_error(&self) -> bool {
        self.kind == "gatewayHeld"
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Conflict { file, network, leases, lease, .. } = self;
        if self.is_error() {
            return write!(
                f,
                "{file}: a container holds the gateway address of network {network}: {lease}; choose a \
                 different gateway, or delete the container"
            );
        }
        write!(
            f,
            "{file}: network {network} has {} outside its ranges, for example {lease}; a repeated ADD for a \
             container with such a lease fails; delete and recreate these containers",
            number_of(*leases, "lease")
        )
    }
}

/// A store, and the configurations that use it, each with its file name.
type Compared<'a> = (StoreSpec, Vec<(&'a str, &'a Config)>);

/// Returns the stores to compare, each with the configurations that use it. If an option or the environment
/// names a store, all configurations are compared with this store. Otherwise each configuration names its own
/// store.
pub(super) fn stores<'a>(
    args: &StoreArgs,
    world: World<'_>,
    files: &'a [File],
) -> Result<Vec<Compared<'a>>> {
    let configs = files.iter().flat_map(|file| {
        let configs = file.found.parts.iter().filter_map(|part| part.config.as_ref());
        configs.map(|config| (&*file.name, config))
    });
    if let Some(json) = args.cluster() {
        return Ok(vec![(config::store(json).context("--store")?.0, configs.collect())]);
    }
    if let Some(path) = args.named(world.env)? {
        return Ok(vec![(lease_file(path, Persist::Boot), configs.collect())]);
    }
    let mut stores: Vec<Compared<'a>> = Vec::new();
    for (name, config) in configs {
        match stores.iter_mut().find(|(spec, _)| same_place(spec, &config.cleanup.store)) {
            Some((_, configs)) => configs.push((name, config)),
            None => stores.push((config.cleanup.store.clone(), vec![(name, config)])),
        }
    }
    Ok(stores)
}

/// Returns whether two configurations store their leases in the same place, even if other settings differ.
fn same_place(one: &StoreSpec, other: &StoreSpec) -> bool {
    match (one, other) {
        (StoreSpec::Embedded { path, .. }, StoreSpec::Embedded { path: other, .. }) => {
            path == other
        }
        _ => one == other,
    }
}

/// Compares configurations with a store. Adds to `claims` the ranges of the store's pools, and of its
/// networks that no file configures. (For a network in a file, the file already describes the future ranges.)
/// Returns the conflicts with the store's leases; none if the store does not exist yet.
pub(super) fn compare(
    claims: &mut Vec<Claim>,
    spec: &StoreSpec,
    configs: &[(&str, &Config)],
    world: World<'_>,
) -> Result<Vec<Conflict>, StoreError> {
    let place = place_of(spec);
    let cx = world.facts.context_of(spec);
    let mut store = store::open(spec)?;
    claim_others(claims, &place, &mut *store, &cx)?;
    let mut found = Vec::new();
    let ranges = configs.iter().map(|(_, config)| {
        let bounds = config.sets.iter().flat_map(RangeSet::ranges).map(Range::bounds);
        (config.cleanup.set.clone(), config.cleanup.network.to_string(), bounds.collect())
    });
    let mut astray = Astray::new(ranges);
    let gateways: Vec<(usize, Addr)> = configs
        .iter()
        .enumerate()
        .flat_map(|(i, (_, config))| {
            let ranges = config.sets.iter().flat_map(RangeSet::ranges);
            ranges.filter_map(Range::gateway).map(move |gateway| (i, gateway))
        })
        .collect();
    store.list(&cx, &mut |lease| {
        astray.take(&lease);
        let held = gateways.iter().filter(|(i, gateway)| {
            *gateway == lease.addr
                && configs[*i].1.cleanup.set == lease.set
                && lease.kind.collectable()
        });
        found.extend(held.map(|(i, _)| Conflict {
            kind: "gatewayHeld",
            file: configs[*i].0.to_owned(),
            network: configs[*i].1.cleanup.network.to_string(),
            leases: 1,
            lease: named(&lease, ""),
        }));
    })?;
    for (network, leases, first) in astray.found() {
        let of_it = |(_, config): &&(&str, &Config)| config.cleanup.network.as_str() == network;
        found.push(Conflict {
            kind: "movedAway",
            file: configs.iter().find(of_it).map_or("", |(file, _)| *file).to_owned(),
            network: network.to_owned(),
            leases,
            lease: named(first, ""),
        });
    }
    Ok(found)
}

/// Returns the name that messages use for a store.
pub(super) fn place_of(spec: &StoreSpec) -> String {
    match spec {
        StoreSpec::Embedded { path, .. } => path.display().to_string(),
        _ => "the cluster".to_owned(),
    }
}

/// Adds to `claims` the ranges of a store's pools, and of its networks that no file configures.
pub(super) fn claim_others(
    claims: &mut Vec<Claim>,
    place: &str,
    store: &mut dyn Store,
    cx: &Context,
) -> Result<(), StoreError> {
    let asked: HashSet<String> = claims.iter().map(|claim| claim.network.clone()).collect();
    let claim = |network: &str, set: &str, bounds: Span| Claim {
        place: place.to_owned(),
        network: network.to_owned(),
        set: set.to_owned(),
        bounds,
        is_from_file: false,
    };
    for known in store.networks(cx)? {
        let network = known.network.as_str();
        if !asked.contains(network) {
            claims.extend(known.bounds.iter().map(|bounds| claim(network, &known.set.0, *bounds)));
        }
    }
    for pool in store.pools()? {
        claims.push(claim(&pool.id.0, &pool.set().0, pool.subnet.into()));
    }
    Ok(())
}
