//! Frees the addresses and pools that the local dockerd no longer lists. dockerd sends each release only
//! once. If subletd is not running at that time, or the release is lost, the address or pool stays in use
//! until a cleanup frees it.
//!
//! This module compares the store with dockerd's list. The allocator decides what may be freed.
//! Invariant: a cleanup never frees an address that dockerd lists or that may be in use. It also keeps
//! gateways and auxiliary addresses, addresses that were leased after dockerd's list was requested, and
//! everything that belongs to another node or to a swarm.

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::args::Limits;
use super::dockerd::Listing;
use super::settings::Settings;
use crate::alloc;
use crate::alloc::{Context, Sweep};
use crate::engine;
use crate::model::{Pool, PoolId};
use crate::net::{Addr, Subnet};
use crate::store::{FileSystem as _, Os, Store};

/// What a cleanup freed, or what a dry run would free.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    dry_run: bool,
    /// The freed addresses of each pool, and whether the pool itself is freed too.
    pools: BTreeMap<PoolId, (Vec<Addr>, bool)>,
}

impl Report {
    /// Returns whether nothing was freed.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.dry_run { "would free" } else { "freed" };
        for (at, (pool, (addrs, gone))) in self.pools.iter().enumerate() {
            let all: Vec<String> = addrs.iter().map(ToString::to_string).collect();
            let comma = if at == 0 { "" } else { "; " };
            let what = if *gone { "pool" } else { "addresses of pool" };
            write!(f, "{comma}{word} {what} {pool} ({})", all.join(" "))?;
        }
        Ok(())
    }
}

/// The longest time that can pass between dockerd sending a request and subletd finishing it.
const UNDER_WAY: Duration = Duration::from_secs(10);

/// Compares the pools of this node with dockerd's networks, and frees the addresses and pools that dockerd
/// does not list. Before it frees anything, it waits for the grace period, but no longer than [`UNDER_WAY`],
/// because dockerd may have sent a release just before it returned its list. If the cleanup freed the address
/// first, another request could lease it, and the late release would then free the new lease.
pub fn clean(
    store: &mut dyn Store,
    cx: &Context,
    settings: &Settings,
    listing: &Listing,
    limits: &Limits,
) -> Result<Report> {
    let mut report = Report { dry_run: limits.dry_run, ..Report::default() };
    let before = listing.started.saturating_sub(limits.grace.as_secs());
    let pools = store.pools()?;
    let all: Vec<Listed> =
        pools.iter().map(|pool| listed(pool, &pools, settings, listing)).collect();
    let is_served = |listed: &Listed| matches!(listed, Listed::Addresses(_));
    if limits.only_if_served && !all.iter().any(is_served) {
        return Ok(report);
    }
    let mut waits = !limits.dry_run;
    for (pool, listed) in pools.into_iter().zip(all) {
        let listed = match listed {
            Listed::Addresses(addrs) => Some(addrs),
            Listed::Nothing => None,
            Listed::Unknown => continue,
        };
        let mut sweep =
            Sweep { pool: pool.id.clone(), known: listed, before, dry: true, alive: Vec::new() };
        let found = engine::collect(store, alloc::Command::Sweep(sweep.clone()), cx)?;
        if found.freed.is_empty() && !found.pool {
            continue;
        }
        if std::mem::take(&mut waits) {
            Os.pause(limits.grace.min(UNDER_WAY));
        }
        if limits.probe {
            sweep.alive = reachable(&found.freed)?;
        }
        sweep.dry = limits.dry_run;
        let done = engine::collect(store, alloc::Command::Sweep(sweep), cx)?;
        if done.pool || !done.freed.is_empty() {
            report.pools.insert(pool.id, (done.freed, done.pool));
        }
    }
    Ok(report)
}

/// Whether one of dockerd's networks uses a pool.
enum Listed {
    /// A network uses the pool, and has these addresses.
    Addresses(Vec<Addr>),
    /// No network uses the pool.
    Nothing,
    /// It cannot be determined whether the pool is in use: the pool belongs to a swarm, or it may belong to a
    /// network that dockerd lists with a different subnet.
    Unknown,
}

/// Determines whether one of dockerd's networks uses `pool`. `pools` are all pools of the node. dockerd 26
/// and later list the requested subnet instead of the allocated subnet: a network that was created with
/// `--subnet 0.0.0.0/20` is listed with the subnet 0.0.0.0/20. The pool of such a network can be determined
/// only from the addresses in the network.
fn listed(pool: &Pool, pools: &[Pool], settings: &Settings, listing: &Listing) -> Listed {
    if pool.space != settings.local {
        return Listed::Unknown;
    }
    if pool.shared.is_none() && pool.id != PoolId::plain(&pool.space, pool.subnet, pool.sub) {
        return imported(pool, pools, listing);
    }
    // A sub-pool (`--ip-range`) that covers the whole subnet counts as no sub-pool.
    let part = |sub: Option<Subnet>| sub.filter(|sub| sub.len() > pool.subnet.len());
    let same = |(subnet, sub): &(Subnet, Option<Subnet>)| {
        *subnet == pool.subnet && (pool.shared.is_some() || part(*sub) == pool.sub)
    };
    let mut addrs = Vec::new();
    let (mut found, mut unknown) = (false, false);
    for network in listing.networks.iter().filter(|network| network.shared == pool.shared) {
        let inside = |pool: &Pool| network.addrs.iter().any(|addr| pool.subnet.contains(*addr));
        // If dockerd lists a network without a subnet, the network may use any pool.
        let is_any = network.pools.is_empty();
        let asks = |(subnet, _): &&(Subnet, Option<Subnet>)| is_any_block(*subnet, pool.subnet);
        let asked = network.pools.iter().filter(asks).count() + usize::from(is_any);
        if network.pools.iter().any(same) || (asked > 0 && inside(pool)) {
            if network.swarm {
                return Listed::Unknown;
            }
            found = true;
            addrs.extend(network.addrs.iter().filter(|a| pool.subnet.contains(**a)));
        } else {
            let may_have = |subnet: Subnet| {
                is_alike(subnet, pool.subnet) || (is_any && subnet.family() == pool.subnet.family())
            };
            let has = |other: &&Pool| {
                other.space == pool.space && may_have(other.subnet) && inside(other)
            };
            unknown |= asked > pools.iter().filter(has).count();
        }
    }
    addrs.sort_unstable();
    match (found, unknown) {
        (true, _) => Listed::Addresses(addrs),
        (false, true) => Listed::Unknown,
        (false, false) => Listed::Nothing,
    }
}

/// Determines whether one of dockerd's networks uses a pool that was imported from gipam. gipam ignored the
/// requested subnet and allocated its next block, but dockerd lists the requested subnet. Therefore the pool
/// of a network can be determined only from the addresses in the network.
fn imported(pool: &Pool, pools: &[Pool], listing: &Listing) -> Listed {
    let family = pool.subnet.family();
    let (mut addrs, mut unknown) = (Vec::new(), false);
    for network in &listing.networks {
        addrs.extend(network.addrs.iter().filter(|addr| pool.subnet.contains(**addr)));
        let has = network.pools.iter().filter(|(subnet, _)| subnet.family() == family).count()
            + usize::from(network.pools.is_empty());
        let shown = |other: &&Pool| {
            (other.space == pool.space && other.subnet.family() == family)
                && network.addrs.iter().any(|addr| other.subnet.contains(*addr))
        };
        unknown |= has > pools.iter().filter(shown).count();
    }
    addrs.sort_unstable();
    match (addrs.is_empty(), unknown) {
        (false, _) => Listed::Addresses(addrs),
        (true, true) => Listed::Unknown,
        (true, false) => Listed::Nothing,
    }
}

/// Returns whether a listed subnet stands for any free subnet of the same size (`0.0.0.0/20`, `::/64`).
fn is_any_block(listed: Subnet, subnet: Subnet) -> bool {
    listed.first().bits() == 0 && is_alike(listed, subnet)
}

fn is_alike(one: Subnet, other: Subnet) -> bool {
    one.family() == other.family() && one.len() == other.len()
}

/// The number of pings that run at the same time.
const PARALLEL_PINGS: usize = 32;

/// Returns the addresses that answer a ping within a second.
fn reachable(addrs: &[Addr]) -> Result<Vec<Addr>> {
    let mut alive = Vec::new();
    for some in addrs.chunks(PARALLEL_PINGS) {
        let ping = |addr: &Addr| {
            Command::new("ping")
                .args(["-c", "1", "-W", "1", &addr.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context(
                    "cannot run `ping`, so sublet cannot verify that an address is unused; install `ping`, \
                     or omit `--probe`",
                )
        };
        let running = some.iter().map(ping).collect::<Result<Vec<_>>>()?;
        for (addr, mut child) in some.iter().zip(running) {
            if child.wait()?.success() {
                alive.push(*addr);
            }
        }
    }
    alive.sort_unstable();
    Ok(alive)
}
