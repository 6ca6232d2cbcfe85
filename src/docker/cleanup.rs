//! Frees what the local dockerd no longer knows: leases of endpoints that it forgot, pools of networks
//! that it removed while the driver was away. dockerd tells of each release once, and never again.
//!
//! Owns: comparing a listing with the pools of this node. Does not own: what may be freed at all
//! (`alloc`), asking dockerd.
//! Invariant: nothing is freed that is in the listing, was leased since, is a gateway or an auxiliary
//! address, belongs to another node, or to a swarm.

use std::collections::BTreeMap;
use std::fmt;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::dockerd::Listing;
use super::settings::Settings;
use crate::alloc::{Context, Sweep};
use crate::engine;
use crate::model::{Pool, PoolId};
use crate::net::{Addr, Subnet};
use crate::store::Store;

/// What may be freed.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Only tell.
    pub dry_run: bool,
    /// What was leased this long before the listing is left alone.
    pub grace: Duration,
    /// What answers a ping is left alone.
    pub probe: bool,
}

/// What was freed, or would be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    dry_run: bool,
    /// Of each pool its addresses, and whether the pool went too.
    pools: BTreeMap<PoolId, (Vec<Addr>, bool)>,
}

impl Report {
    /// Whether there is nothing to tell.
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

/// Compares, and frees.
pub fn clean(
    store: &mut dyn Store,
    cx: &Context,
    settings: &Settings,
    listing: &Listing,
    terms: &Terms,
) -> Result<Report> {
    let mut report = Report { dry_run: terms.dry_run, ..Report::default() };
    let before = listing.started.saturating_sub(terms.grace.as_secs());
    for pool in store.pools()? {
        let known = match known(&pool, settings, listing) {
            Known::Addresses(addrs) => Some(addrs),
            Known::Nothing => None,
            Known::NotOurs => continue,
        };
        let mut sweep =
            Sweep { pool: pool.id.clone(), known, before, dry: true, alive: Vec::new() };
        let (candidates, gone) = engine::sweep(store, sweep.clone(), cx)?;
        if candidates.is_empty() && !gone {
            continue;
        }
        if terms.probe {
            sweep.alive = answering(&candidates)?;
        }
        sweep.dry = terms.dry_run;
        let (freed, gone) = engine::sweep(store, sweep, cx)?;
        if gone || !freed.is_empty() {
            report.pools.insert(pool.id, (freed, gone));
        }
    }
    Ok(report)
}

/// What a listing says of a pool.
enum Known {
    /// A network has it; these addresses are in use.
    Addresses(Vec<Addr>),
    /// No network has it.
    Nothing,
    /// The listing does not tell: a swarm's.
    NotOurs,
}

fn known(pool: &Pool, settings: &Settings, listing: &Listing) -> Known {
    if pool.space != settings.local {
        return Known::NotOurs;
    }
    // A range as large as the subnet is none.
    let part = |sub: Option<Subnet>| sub.filter(|sub| sub.len() > pool.subnet.len());
    let same = |(subnet, sub): &(Subnet, Option<Subnet>)| {
        *subnet == pool.subnet && (pool.shared.is_some() || part(*sub) == pool.sub)
    };
    let mut addrs = Vec::new();
    let mut found = false;
    for network in &listing.networks {
        if network.shared == pool.shared && network.pools.iter().any(same) {
            if network.swarm {
                return Known::NotOurs;
            }
            found = true;
            addrs.extend(network.addrs.iter().filter(|a| pool.subnet.contains(**a)));
        }
    }
    addrs.sort_unstable();
    if found { Known::Addresses(addrs) } else { Known::Nothing }
}

/// How many pings run at a time.
const AT_ONCE: usize = 32;

/// Those that answer a ping within a second.
fn answering(addrs: &[Addr]) -> Result<Vec<Addr>> {
    let mut alive = Vec::new();
    for some in addrs.chunks(AT_ONCE) {
        let ping = |addr: &Addr| {
            Command::new("ping")
                .args(["-c", "1", "-W", "1", &addr.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("cannot run ping, so nothing is known to be unused")
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
