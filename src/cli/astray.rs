//! Finds leases that lie outside the ranges of their network, because the ranges were changed.

use std::collections::BTreeMap;

use crate::error::shown_network;
use crate::model::{Lease, SetName};
use crate::net::Span;

/// Counts the leases that lie outside the ranges of their network.
pub struct Astray {
    networks: BTreeMap<(String, String), Network>,
}

#[derive(Default)]
struct Network {
    ranges: Vec<Span>,
    count: usize,
    first: Option<Lease>,
}

impl Astray {
    /// Starts counting for these networks. Each item is a network's set of leases, its name and its ranges.
    /// The same network may occur several times, with different ranges.
    pub fn new(networks: impl IntoIterator<Item = (SetName, String, Vec<Span>)>) -> Astray {
        let mut all: BTreeMap<(String, String), Network> = BTreeMap::new();
        for (set, network, ranges) in networks {
            all.entry((set.0, network)).or_default().ranges.extend(ranges);
        }
        Astray { networks: all }
    }

    /// Counts the lease if a container holds it and its address lies outside all ranges of its network.
    pub fn take(&mut self, lease: &Lease) {
        if !lease.kind.collectable() {
            return;
        }
        let key = (lease.set.0.clone(), shown_network(lease).to_owned());
        let Some(network) = self.networks.get_mut(&key) else { return };
        if !network.ranges.iter().any(|range| range.contains(lease.addr)) {
            network.count += 1;
            network.first.get_or_insert_with(|| lease.clone());
        }
    }

    /// Returns each network that has leases outside its ranges: its name, the number of these leases, and the
    /// first of them.
    pub fn found(&self) -> impl Iterator<Item = (&str, usize, &Lease)> {
        self.networks.iter().filter_map(|((_, name), network)| {
            Some((&**name, network.count, network.first.as_ref()?))
        })
    }
}
