//! Simulates machines that run the code of the cluster store on one simulated server, and checks the
//! conditions that must hold.

mod checks;
mod commands;
mod containers;
mod docker;
mod events;
mod machines;
mod operators;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use self::docker::Daemon;
pub use self::events::Events;
use super::pools::Pools;
use super::process::{Process, clock, set_clock};
use super::random::Random;
use super::runs::{Simulation, Story};
use super::server::SimServer;
use super::settings::{NETWORKS, Named, Settings, attachment};
use crate::alloc::Context;
use crate::model::{BootId, Face, Lease, Node, Owner, Pool, SetName};
use crate::net::{Addr, Span};
use crate::store::testing::contract;

/// The number of steps between two thorough checks. A run has about 400 steps.
const THOROUGHLY_AFTER: u64 = 150;

/// Identifies a container: its network, its machine, and its number.
type Key = (usize, usize, u8);

/// What a runtime knows about the leases of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Container {
    /// An ADD has returned these leases. If a later ADD got no response, `is_exact` is false: the container
    /// may also have an address of another range set.
    Live { set: SetName, addrs: Vec<Addr>, is_exact: bool },
    /// A call failed or was killed, so the container may hold any address.
    Open,
}

/// A freed address that is cooling down. The times are in seconds, on the clock of the machine that freed the
/// address.
#[derive(Clone, Copy, Debug)]
struct Cooling {
    machine: usize,
    freed: u64,
    until: u64,
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

/// A command that is suspended.
struct Running {
    process: Arc<Process>,
    /// The seed in the command's context. The names of the command's in-flight notes begin with this seed.
    seed: u64,
    /// Whether the command is a request of `subletd`.
    is_daemon: bool,
}

struct Machine {
    /// The host name and the machine-id of the machine.
    node: Node,
    boot: u64,
    /// When the current boot began, on the clock of the simulation.
    booted: Duration,
    /// How far the machine's clock is ahead of the simulation's clock, in seconds.
    skew: i64,
    /// All host names that the machine has had.
    names: Vec<String>,
    is_on: bool,
    /// Whether `sublet node release` is running for this machine, because the machine is gone for good.
    is_being_released: bool,
    /// Whether the machine cannot reach the server.
    is_cut_off: bool,
    /// The folder that is `/run` on this machine.
    run: PathBuf,
    running: Vec<Running>,
    daemon: Daemon,
}

/// The state of the whole simulation.
pub struct World {
    server: SimServer,
    events: Events,
    machines: Vec<Machine>,
    /// The configurations, which are the same on all machines.
    settings: Vec<Settings>,
    containers: BTreeMap<Key, Container>,
    /// For each container, the sets of leases in which it may have leases.
    tried: BTreeMap<Key, BTreeSet<SetName>>,
    /// The reservations, by set of leases and address.
    reserved: BTreeMap<(SetName, Addr), Reserved>,
    /// The names that have a static address, or may have one because a command got no response.
    named: Named,
    /// The sets of leases in which the range [`draining`] is, or may be, draining.
    draining: BTreeMap<SetName, Reserved>,
    /// A counter that grows whenever an operator tries to end the draining of a range.
    undone: u64,
    /// Whether an operator's `drain` command is suspended.
    is_draining: bool,
    /// Reservations and draining ranges that a transaction in transit may still change. Another machine sent
    /// the transaction, so the fence of a later command does not stop it.
    doubtful: BTreeSet<(SetName, Addr)>,
    cooling: BTreeMap<(SetName, Addr), Cooling>,
    /// The pools of the Docker daemons on all machines.
    pools: Pools,
    /// The containers for which a call is suspended. `reserving` contains the reservations for which a call
    /// is suspended.
    busy: BTreeSet<Key>,
    reserving: BTreeSet<(SetName, Addr)>,
    random: Random,
    boots: u64,
    story: Story,
    /// Whether the last command was affected by a failure of the server or the network.
    had_trouble: bool,
    /// The number of steps of the run at its last thorough check.
    checked: u64,
    /// The version of the server's records at the last check, with the leases and pools that the check read.
    seen: (u64, Vec<Lease>, Vec<Pool>),
    /// A temporary folder on tmpfs, which contains the `/run` folder of each machine.
    folder: TempDir,
}

/// The smallest random choice in `act` that selects a Docker request.
const DOCKER: usize = 98;

type Shared = Rc<RefCell<World>>;

pub struct Cluster(Shared);

fn name(key: Key) -> String {
    format!("m{}c{}", key.1, key.2)
}

fn owner(key: Key) -> Owner {
    Owner::Attachment(attachment(key.0, &name(key)))
}

fn key_of(lease: &Lease) -> Option<Key> {
    let Owner::Attachment(a) = &lease.owner else { return None };
    let network = NETWORKS.iter().position(|name| a.network.as_str() == *name)?;
    let (machine, number) = a.container.as_str().strip_prefix('m')?.split_once('c')?;
    Some((network, machine.parse().ok()?, number.parse().ok()?))
}

impl World {
    fn new(seed: u64, events: Events) -> World {
        set_clock(Duration::from_secs(1_000_000));
        let mut random = Random::new(seed, 0);
        let is_etcd = random.one_in(2);
        let server = SimServer::new(is_etcd, events, Random::new(seed, u64::MAX));
        let mut settings: Vec<_> = NETWORKS.iter().map(|_| Settings::new(&mut random)).collect();
        for settings in &mut settings {
            events.restrict(settings);
        }
        let mut world = World {
            server,
            events,
            machines: Vec::new(),
            settings,
            containers: BTreeMap::new(),
            tried: BTreeMap::new(),
            reserved: BTreeMap::new(),
            named: BTreeMap::new(),
            draining: BTreeMap::new(),
            undone: 0,
            is_draining: false,
            doubtful: BTreeSet::new(),
            cooling: BTreeMap::new(),
            pools: Pools::default(),
            busy: BTreeSet::new(),
            reserving: BTreeSet::new(),
            random,
            boots: 0,
            story: Story::default(),
            had_trouble: false,
            checked: 0,
            seen: (0, Vec::new(), Vec::new()),
            folder: tempfile::tempdir_in("/dev/shm").unwrap(),
        };
        world.note(if is_etcd { "a cluster of etcd" } else { "a cluster of Consul" });
        for n in 0..3 {
            world.add_machine(format!("machine-{n}"));
        }
        world
    }

    fn add_machine(&mut self, machine: String) {
        self.boots += 1;
        let n = self.machines.len();
        self.machines.push(Machine {
            node: Node { name: format!("n{n}"), machine },
            boot: self.boots,
            booted: clock(),
            skew: 0,
            names: vec![format!("n{n}")],
            is_on: true,
            is_being_released: false,
            is_cut_off: false,
            run: self.folder.path().join(n.to_string()),
            running: Vec::new(),
            daemon: Daemon::default(),
        });
    }

    fn context(&mut self, machine: usize) -> Context {
        let seed = self.random.next();
        let machine = &self.machines[machine];
        Context {
            now: clock().as_secs().saturating_add_signed(machine.skew),
            boot: Some(boot_id(machine.boot)),
            booted: Some(machine.booted.as_secs().saturating_add_signed(machine.skew)),
            node: machine.node.clone(),
            by_host_name: true,
            seed,
            face: Face::Cni,
            trace: None,
        }
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.story.note(text);
    }

    fn found(&mut self, what: String) {
        self.story.found(what);
    }
}

fn boot_id(boot: u64) -> BootId {
    BootId(format!("b{boot}"))
}

impl Simulation for Cluster {
    const TURNS: usize = 250;

    fn new(seed: u64) -> Cluster {
        Cluster(Rc::new(RefCell::new(World::new(seed, Events::of_environment()))))
    }

    fn turn(&self, random: Random) {
        let world = &self.0;
        let server = {
            let world = &mut *world.borrow_mut();
            world.random = random;
            world.story.depth = 0;
            world.server.set_random(Random::new(world.random.next(), 0));
            set_clock(clock() + Duration::from_millis(world.random.next() % 8000));
            world.server.clone()
        };
        act(world, false);
        let world = &mut *world.borrow_mut();
        let before = server.arrived_late();
        for note in server.arrive(&mut world.random) {
            world.note(note);
        }
        world.story.steps += server.arrived_late() - before;
        if world.story.finding.is_none() {
            let is_due = world.story.steps >= world.checked + THOROUGHLY_AFTER;
            if let Err(what) = checks::look(world, is_due) {
                world.found(what);
            }
            if is_due {
                world.checked = world.story.steps;
            }
            if !server.is_in_transit() {
                world.doubtful.clear();
            }
        }
    }

    fn with_story(&self, act: &mut dyn FnMut(&mut Story)) {
        act(&mut self.0.borrow_mut().story);
    }
}

/// Makes a random event happen on a machine or on the server. If `is_docker` is set, the event is a Docker
/// request.
fn act(world: &Shared, is_docker: bool) {
    let (machine, is_on, has_docker, choice) = {
        let world = &mut *world.borrow_mut();
        let machine = world.random.below(world.machines.len());
        let choice = if is_docker { DOCKER } else { world.random.below(154) };
        (machine, world.machines[machine].is_on, world.events.docker, choice)
    };
    match choice {
        0..40 if is_on => containers::add(world, machine),
        40..62 if is_on => containers::delete(world, machine),
        62..65 if is_on => containers::collect(world, machine),
        65..70 if is_on => operators::reserve(world, machine),
        70..74 if is_on => operators::unreserve(world, machine),
        74..78 => operators::edit(world),
        78..84 => machines::power(world, machine),
        84..86 => machines::clock_jump(world, machine),
        86..89 => machines::cut_off(world, machine),
        89..91 => machines::elect(world),
        91..93 => machines::fill(world),
        93..95 => machines::rename(world, machine),
        95..96 => machines::clone(world, machine),
        96..98 => operators::release_node(world),
        DOCKER..148 if is_on && has_docker => docker::act(world, machine),
        148..150 if has_docker => world.borrow_mut().kill_daemon(machine),
        150..154 if is_on => operators::drain(world, machine),
        _ => {}
    }
}
