//! The configurations of networks in the simulations.

use super::random::Random;
use std::collections::{BTreeMap, BTreeSet};

use crate::alloc::{Add, Added, Cooldown, Requested, Strategy};
use crate::model::{Attachment, ContainerId, IfName, NetworkName, Persist, SetName, StaticName};
use crate::net::{Addr, GatewaySpec, Range, RangeSet, RangeSpec, Span};
use crate::store::testing::contract::{addr, set};

pub const NETWORKS: [&str; 3] = ["a", "b", "c"];
const SHARED: &str = "together";

pub fn attachment(network: usize, container: &str) -> Attachment {
    Attachment {
        network: NetworkName::new(NETWORKS[network]).unwrap(),
        container: ContainerId::new(container.to_owned()).unwrap(),
        ifname: Some(IfName::new("eth0").unwrap()),
    }
}

/// The configuration of a network, which operators change during the simulation.
#[derive(Clone, Debug)]
pub struct Settings {
    pub is_shared: bool,
    pub persist: Persist,
    pub strategy: Strategy,
    pub cooldown: Cooldown,
    pub sticky: bool,
    pub ranges: usize,
}

impl Settings {
    pub fn new(random: &mut Random) -> Settings {
        let cooldowns = [(0, false), (0, false), (30, false), (30, true)];
        let (seconds, strict) = *random.pick(&cooldowns);
        Settings {
            is_shared: random.one_in(3),
            persist: *random.pick(&[Persist::Boot, Persist::Disk]),
            strategy: *random.pick(&[
                Strategy::RoundRobin,
                Strategy::Lowest,
                Strategy::Random,
                Strategy::Hash,
            ]),
            cooldown: Cooldown { seconds, strict },
            sticky: random.one_in(3),
            ranges: random.below(5),
        }
    }

    pub fn sets(&self) -> Vec<RangeSet> {
        match self.ranges {
            0 => vec![set("10.0.0.0/28")],
            1 => vec![set("10.0.0.0/28 10.0.0.4 10.0.0.9")],
            2 => vec![set("10.0.0.0/29"), set("fd00::/125")],
            3 => vec![set("10.0.0.0/23 10.0.0.250 10.0.1.5")],
            _ => {
                let spec = RangeSpec {
                    gateway: GatewaySpec::At(addr("10.0.0.5")),
                    exclude: vec![Span { first: addr("10.0.0.8"), last: addr("10.0.0.10") }],
                    ..RangeSpec::of("10.0.0.0/28".parse().unwrap())
                };
                vec![RangeSet::new(vec![Range::new(&spec).unwrap()]).unwrap()]
            }
        }
    }

    pub fn set(&self, network: usize) -> SetName {
        SetName(if self.is_shared { SHARED } else { NETWORKS[network] }.to_owned())
    }
}

/// Picks the address that an ADD requests. One in eight ADDs of new containers requests an address. The
/// address may be outside the ranges, excluded, or a gateway.
pub fn requested(random: &mut Random, is_new: bool) -> Vec<Requested> {
    let wants = is_new && random.one_in(8);
    let addr = addr(&format!("10.0.0.{}", random.below(16)));
    Vec::from_iter(wants.then_some(Requested { addr, prefix: None }))
}

/// Maps each address to the names for which the address is reserved or may be reserved.
pub type Named = BTreeMap<(SetName, Addr), BTreeSet<StaticName>>;

/// Returns whether an ADD leased an address in a different set of leases from the one that its configuration
/// names. An ADD does so if the network already has leases in the other set.
pub fn is_in_another_set(added: &Added) -> bool {
    added.warnings.iter().any(|warning| warning.contains("under the same name"))
}

/// Returns an address in an ADD's result that the ADD must not return: a gateway, or a newly leased address
/// that is not allocatable. An excluded address is allowed if it is, or may be, reserved for the container's
/// name.
pub fn forbidden(add: &Add, added: &Added, named: &Named) -> Option<Addr> {
    let ranges = || add.sets.iter().flat_map(RangeSet::ranges);
    let is_elsewhere = is_in_another_set(added);
    let is_gateway = |addr: &Addr| ranges().any(|range| range.gateway() == Some(*addr));
    let is_named = |addr: &Addr| {
        let reserved =
            named.iter().filter(|((set, of), _)| of == addr && (is_elsewhere || *set == add.set));
        let mut reserved = reserved.flat_map(|(_, names)| names);
        reserved.any(|name| name.is_of(&add.origin)) && ranges().any(|range| range.contains(*addr))
    };
    let is_outside = |addr: &Addr| !ranges().any(|range| range.gives(*addr)) && !is_named(addr);
    let mut all = added.grants.iter().map(|grant| grant.addr);
    all.find(is_gateway).or_else(|| added.created.iter().copied().find(is_outside))
}
