//! The configurations of networks in the simulations.

use super::random::Random;
use crate::alloc::{Cooldown, Strategy};
use crate::model::{Attachment, ContainerId, IfName, NetworkName, Persist, SetName};
use crate::net::RangeSet;
use crate::store::testing::contract::set;

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
            ranges: random.below(4),
        }
    }

    pub fn sets(&self) -> Vec<RangeSet> {
        match self.ranges {
            0 => vec![set("10.0.0.0/28")],
            1 => vec![set("10.0.0.0/28 10.0.0.4 10.0.0.9")],
            2 => vec![set("10.0.0.0/29"), set("fd00::/125")],
            _ => vec![set("10.0.0.0/23 10.0.0.250 10.0.1.5")],
        }
    }

    pub fn set(&self, network: usize) -> SetName {
        SetName(if self.is_shared { SHARED } else { NETWORKS[network] }.to_owned())
    }
}
