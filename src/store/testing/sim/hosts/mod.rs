//! Simulates hosts that run the code of the embedded store, and the actions of their operators and runtimes.
//! Checks the conditions that must hold.

mod checks;
mod commands;
mod containers;
mod machines;
mod operators;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use self::commands::run;
use super::disk::{Disk, SimFs};
use super::docker::{self, Docker, Engine};
use super::pools::Pools;
use super::process::{Process, Ran, clock, set_clock};
use super::random::Random;
use super::runs::{Simulation, Story};
use super::settings::{NETWORKS, Named, Settings, attachment};
use crate::alloc::{Command, Context, ForeignLease, Outcome};
use crate::model::{BootId, Lease, Node, Owner, Persist, SetName, Wait};
use crate::net::{Addr, Span};
use crate::store::Embedded;
use crate::store::testing::contract;

/// Identifies a container on a host: its network and its number.
type Key = (usize, u8);

const STORE: &str = "/data/leases.redb";

/// What a runtime knows about the leases of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Container {
    /// An ADD has returned exactly these leases.
    Live(Vec<Addr>),
    /// A call failed or was killed, so the container may hold these addresses. If there is no list, it may
    /// hold any address.
    Open(Option<Vec<Addr>>),
}

/// The range that operators drain: the upper half of 10.0.0.0/28.
fn draining() -> Span {
    Span::new(contract::addr("10.0.0.8"), contract::addr("10.0.0.15")).unwrap()
}

/// How certain it is that an address is reserved, or that a range is draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserved {
    Perhaps,
    Certainly,
}

#[derive(Debug)]
struct Host {
    disk: Disk,
    machine: String,
    boot: u64,
    /// How far the host's clock is ahead of the simulation's clock, in seconds.
    skew: i64,
    settings: Vec<Settings>,
    containers: BTreeMap<Key, Container>,
    /// The live containers whose last ADD got no response. They may have an additional address of another
    /// range set.
    unsure: BTreeSet<Key>,
    /// The reservations, by set of leases and address.
    reserved: BTreeMap<(SetName, Addr), Reserved>,
    /// The names that have a static address, or may have one because a command got no response.
    named: Named,
    /// The sets of leases in which the range [`draining`] is, or may be, draining.
    draining: BTreeMap<SetName, Reserved>,
    /// A counter that grows whenever an operator tries to end the draining of a range.
    undone: u64,
    /// The addresses that were reserved because two programs had leased them.
    contested: BTreeSet<(SetName, Addr)>,
    /// For each network, the leases in host-local's folder, if the folder has not been imported yet.
    folders: BTreeMap<usize, Vec<ForeignLease>>,
    /// The containers for which a call is suspended. `reserving` contains the reservations for which a call
    /// is suspended.
    busy: BTreeSet<Key>,
    reserving: BTreeSet<(SetName, Addr)>,
    /// Whether an operator's `drain` command is suspended.
    is_draining: bool,
    docker: Engine,
    pools: Pools,
    /// The processes that have begun and have not ended. All of them are suspended, except the process that
    /// is running.
    running: Vec<Arc<Process>>,
    /// Whether the disk is full, so that writes fail.
    is_full: bool,
}

/// The state of the whole simulation.
pub struct World {
    hosts: Vec<Host>,
    random: Random,
    boots: u64,
    story: Story,
    /// The number of steps at the last thorough check.
    checked: u64,
}

type Shared = Rc<RefCell<World>>;

pub struct Hosts(Shared);

fn owner(key: Key) -> Owner {
    Owner::Attachment(attachment(key.0, &format!("c{}", key.1)))
}

fn key_of(lease: &Lease) -> Option<Key> {
    let Owner::Attachment(a) = &lease.owner else { return None };
    let network = NETWORKS.iter().position(|name| a.network.as_str() == *name)?;
    Some((network, a.container.as_str().strip_prefix('c')?.parse().ok()?))
}

impl World {
    fn new(seed: u64) -> World {
        set_clock(Duration::from_secs(1_000_000));
        let mut world = World {
            hosts: Vec::new(),
            random: Random::new(seed, 0),
            boots: 0,
            story: Story::default(),
            checked: 0,
        };
        let host = world.new_host(Disk::default(), "machine-0".to_owned());
        world.hosts.push(host);
        world
    }

    fn new_host(&mut self, disk: Disk, machine: String) -> Host {
        self.boots += 1;
        Host {
            disk,
            machine,
            boot: self.boots,
            skew: 0,
            settings: NETWORKS.iter().map(|_| Settings::new(&mut self.random)).collect(),
            containers: BTreeMap::new(),
            unsure: BTreeSet::new(),
            reserved: BTreeMap::new(),
            named: BTreeMap::new(),
            draining: BTreeMap::new(),
            undone: 0,
            contested: BTreeSet::new(),
            folders: BTreeMap::new(),
            busy: BTreeSet::new(),
            reserving: BTreeSet::new(),
            is_draining: false,
            docker: Engine::default(),
            pools: Pools::default(),
            running: Vec::new(),
            is_full: false,
        }
    }

    fn context(&mut self, host: usize) -> Context {
        let seed = self.random.next();
        let host = &self.hosts[host];
        Context {
            now: clock().as_secs().saturating_add_signed(host.skew),
            boot: Some(BootId(format!("b{}", host.boot))),
            node: Node { name: "node".to_owned(), machine: host.machine.clone() },
            seed,
            ..Context::default()
        }
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.story.note(text);
    }

    fn found(&mut self, what: String) {
        self.story.found(what);
    }
}

impl Simulation for Hosts {
    // Most runs are short, because a run creates a store only at its beginning, and creation must be tested
    // often.
    const TURNS: usize = 25;

    fn new(seed: u64) -> Hosts {
        Hosts(Rc::new(RefCell::new(World::new(seed))))
    }

    fn turn(&self, random: Random) {
        let world = &self.0;
        {
            let world = &mut *world.borrow_mut();
            world.random = random;
            world.story.depth = 0;
            set_clock(clock() + Duration::from_millis(world.random.next() % 8000));
        }
        act(world, None);
        if world.borrow().story.finding.is_none() {
            let is_due = world.borrow().story.steps >= world.borrow().checked + 1000;
            let hosts = world.borrow().hosts.len();
            for host in 0..hosts {
                checks::look(world, host, is_due);
            }
            if is_due {
                let steps = world.borrow().story.steps;
                world.borrow_mut().checked = steps;
            }
        }
    }

    fn with_story(&self, act: &mut dyn FnMut(&mut Story)) {
        act(&mut self.0.borrow_mut().story);
    }
}

/// Makes a random event happen on the given host or, if there is none, on a random host.
fn act(world: &Shared, host: Option<usize>) {
    let (host, choice) = {
        let world = &mut *world.borrow_mut();
        let hosts = world.hosts.len();
        (host.unwrap_or_else(|| world.random.below(hosts)), world.random.below(100))
    };
    match choice {
        0..32 => containers::add(world, host),
        32..50 => containers::delete(world, host),
        50..53 => containers::collect(world, host),
        53..58 => operators::reserve(world, host),
        58..61 => operators::unreserve(world, host),
        61..69 => operators::edit(world, host),
        69..73 => machines::reboot(world, host),
        73..75 => machines::clock_jump(world, host),
        75..77 => operators::host_local_was_here(world, host),
        77..78 => machines::clone(world, host),
        78..80 => machines::fill_disk(world, host),
        80..97 => docker::act(world, host),
        97..99 => operators::drain(world, host),
        _ => {}
    }
}

impl Docker for World {
    fn engine(&mut self, host: usize) -> &mut Engine {
        &mut self.hosts[host].docker
    }

    fn pools(&mut self, host: usize) -> &mut Pools {
        &mut self.hosts[host].pools
    }

    fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    fn story(&mut self) -> &mut Story {
        &mut self.story
    }

    fn now(&self, host: usize) -> u64 {
        clock().as_secs().saturating_add_signed(self.hosts[host].skew)
    }

    fn run(world: &Shared, host: usize, command: &Command) -> Ran<Outcome> {
        run(world, host, Persist::Disk, command)
    }
}

fn open(fs: SimFs) -> Embedded<SimFs> {
    Embedded::on(fs, PathBuf::from(STORE), Persist::Boot, Wait::Try)
}
