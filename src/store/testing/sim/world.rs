//! The hosts of a simulation, what their operators and runtimes do, and what must be true.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::disk::{self, Disk, Fate, Process, SimFs};
use super::random::Random;
use crate::alloc::{
    Add, Command, Context, Cooldown, Del, ForeignLease, Gc, Legacy, Outcome, Record, Reserve,
    Strategy, Target, Unreserve,
};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{
    Attachment, BootId, ContainerId, IfName, Kind, Lease, NetworkName, Node, Origin, Owner,
    Persist, Pod, SetName, Wait,
};
use crate::net::{Addr, RangeSet};
use crate::store::testing::contract::{add, addr, set};
use crate::store::{Embedded, Store, StoreReader};

/// What a failed check says.
pub type Finding = String;

/// A network and a container.
type Key = (usize, u8);

const NETWORKS: [&str; 3] = ["a", "b", "c"];
const SHARED: &str = "together";
const STORE: &str = "/data/leases.redb";

/// What a runtime knows of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Container {
    /// An ADD was answered: exactly these are its leases.
    Live(Vec<Addr>),
    /// A call failed or was killed: it may hold these, or (`None`) any.
    Open(Option<Vec<Addr>>),
}

/// Whether an address is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserved {
    Perhaps,
    Certainly,
}

/// A network's configuration, which an operator edits.
#[derive(Clone, Debug)]
struct Settings {
    is_shared: bool,
    persist: Persist,
    strategy: Strategy,
    cooldown: Cooldown,
    sticky: bool,
    ranges: usize,
}

impl Settings {
    fn new(random: &mut Random) -> Settings {
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

    fn sets(&self) -> Vec<RangeSet> {
        match self.ranges {
            0 => vec![set("10.0.0.0/28")],
            1 => vec![set("10.0.0.0/28 10.0.0.4 10.0.0.9")],
            2 => vec![set("10.0.0.0/29"), set("fd00::/125")],
            _ => vec![set("10.0.0.0/23 10.0.0.250 10.0.1.5")],
        }
    }

    fn set(&self, network: usize) -> SetName {
        SetName(if self.is_shared { SHARED } else { NETWORKS[network] }.to_owned())
    }
}

#[derive(Debug)]
struct Host {
    disk: Disk,
    machine: String,
    boot: u64,
    /// Its clock against the simulation's, in seconds.
    skew: i64,
    settings: Vec<Settings>,
    containers: BTreeMap<Key, Container>,
    /// By set and address.
    reserved: BTreeMap<(SetName, Addr), Reserved>,
    /// Those that two programs had leased when they were reserved.
    contested: BTreeSet<(SetName, Addr)>,
    /// host-local's folder of each network that was not adopted.
    folders: BTreeMap<usize, Vec<ForeignLease>>,
    /// Containers and reservations that a suspended call is about.
    busy: BTreeSet<Key>,
    reserving: BTreeSet<(SetName, Addr)>,
    /// The runs that are suspended.
    running: Vec<Arc<Process>>,
    /// The disk refuses writes.
    is_full: bool,
}

/// All of it.
pub struct World {
    hosts: Vec<Host>,
    random: Random,
    boots: u64,
    /// Steps of all processes that have ended.
    pub steps: u64,
    pub trace: Vec<String>,
    finding: Option<Finding>,
    depth: usize,
}

type Shared = Rc<RefCell<World>>;

fn attachment(network: usize, container: u8) -> Attachment {
    Attachment {
        network: NetworkName::new(NETWORKS[network]).unwrap(),
        container: ContainerId::new(format!("c{container}")).unwrap(),
        ifname: Some(IfName::new("eth0").unwrap()),
    }
}

fn owner(key: Key) -> Owner {
    Owner::Attachment(attachment(key.0, key.1))
}

fn key_of(lease: &Lease) -> Option<Key> {
    let Owner::Attachment(a) = &lease.owner else { return None };
    let network = NETWORKS.iter().position(|name| a.network.as_str() == *name)?;
    Some((network, a.container.as_str().strip_prefix('c')?.parse().ok()?))
}

impl World {
    pub fn new(seed: u64) -> World {
        disk::set_clock(Duration::from_secs(1_000_000));
        let mut world = World {
            hosts: Vec::new(),
            random: Random::new(seed, 0),
            boots: 0,
            steps: 0,
            trace: Vec::new(),
            finding: None,
            depth: 0,
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
            reserved: BTreeMap::new(),
            contested: BTreeSet::new(),
            folders: BTreeMap::new(),
            busy: BTreeSet::new(),
            reserving: BTreeSet::new(),
            running: Vec::new(),
            is_full: false,
        }
    }

    fn context(&mut self, host: usize) -> Context {
        let seed = self.random.next();
        let host = &self.hosts[host];
        Context {
            now: disk::clock().as_secs().saturating_add_signed(host.skew),
            boot: Some(BootId(format!("b{}", host.boot))),
            node: Node { name: "node".to_owned(), machine: host.machine.clone() },
            seed,
            ..Context::default()
        }
    }

    fn note(&mut self, text: impl std::fmt::Display) {
        self.trace.push(format!("{}{text}", "  ".repeat(self.depth)));
    }

    fn found(&mut self, what: String) {
        if self.finding.is_none() {
            self.note(format_args!("FINDING: {what}"));
            self.finding = Some(what);
        }
    }
}

/// One decision of the outside world, and everything that follows from it.
pub fn turn(world: &Shared, random: Random) -> Result<(), Finding> {
    {
        let world = &mut *world.borrow_mut();
        world.random = random;
        world.depth = 0;
        disk::set_clock(disk::clock() + Duration::from_millis(world.random.next() % 8000));
    }
    act(world, None);
    if world.borrow().finding.is_none() {
        let hosts = world.borrow().hosts.len();
        (0..hosts).for_each(|host| look(world, host));
    }
    world.borrow().finding.clone().map_or(Ok(()), Err)
}

/// Something happens on a host.
fn act(world: &Shared, host: Option<usize>) {
    let (host, choice) = {
        let world = &mut *world.borrow_mut();
        let hosts = world.hosts.len();
        (host.unwrap_or_else(|| world.random.below(hosts)), world.random.below(100))
    };
    match choice {
        0..40 => add_container(world, host),
        40..62 => delete(world, host),
        62..66 => collect(world, host),
        66..72 => reserve(world, host),
        72..76 => unreserve(world, host),
        76..86 => edit(world, host),
        86..90 => reboot(world, host),
        90..92 => clock_jump(world, host),
        92..94 => host_local_was_here(world, host),
        94..95 => clone(world, host),
        95..97 => fill_disk(world, host),
        _ => {}
    }
}

/// Runs a command as a process of its own, which may be killed, fail or be suspended.
fn run(world: &Shared, host: usize, persist: Persist, command: &Command) -> Ran {
    let (process, fs, cx, errors) = {
        let world = &mut *world.borrow_mut();
        let fate = world.fate();
        let process = Process::new(fate);
        let cx = world.context(host);
        let may_fail = fate.is_some() || world.depth > 0 || world.hosts[host].is_full;
        world.hosts[host].running.push(process.clone());
        (process.clone(), world.hosts[host].disk.of(&process), cx, may_fail)
    };
    let others = world.clone();
    disk::meanwhile(Some(Box::new(move || suspended(&others, host))));
    let wait = Wait::For(Duration::from_secs(1));
    let mut store = Embedded::on(fs, PathBuf::from(STORE), persist, wait);
    let answer = store.apply(command, &cx);
    disk::meanwhile(None);
    let world = &mut *world.borrow_mut();
    world.hosts[host].running.retain(|other| !Arc::ptr_eq(other, &process));
    world.steps += process.steps();
    if process.is_dead() {
        return Ran::Killed;
    }
    match answer {
        Ok(outcome) => Ran::Done(outcome),
        Err(Error::Refused(refusal)) => Ran::Refused(refusal),
        Err(Error::Store(error)) => {
            let is_harmless = errors || !process.is_undisturbed();
            if !is_harmless || matches!(error, StoreError::Damaged { .. }) {
                let kind = format!("{command:?}");
                let kind = kind.split('(').next().unwrap_or_default();
                world.found(format!("h{host} {kind}: {error}"));
            }
            Ran::Failed(error)
        }
    }
}

/// How a process ended.
enum Ran {
    Done(Outcome),
    Refused(Refusal),
    Failed(StoreError),
    Killed,
}

impl World {
    fn fate(&mut self) -> Option<(u64, Fate)> {
        // An ADD takes some seventy steps.
        let at = 1 + self.random.next() % 90;
        let errors = [libc_errno::EIO, libc_errno::ENOSPC, libc_errno::ENOMEM, libc_errno::ESTALE];
        let fate = match self.random.below(12) {
            0 => Fate::KilledBefore,
            1 => Fate::KilledAfter,
            2 => Fate::Fails(*self.random.pick(&errors)),
            3 | 4 if self.depth < 2 => Fate::Suspended,
            _ => return None,
        };
        Some((at, fate))
    }
}

mod libc_errno {
    pub const EIO: i32 = 5;
    pub const ENOMEM: i32 = 12;
    pub const ENOSPC: i32 = 28;
    pub const ESTALE: i32 = 116;
}

/// What others do while a process is suspended.
fn suspended(world: &Shared, host: usize) {
    let turns = {
        let world = &mut *world.borrow_mut();
        world.note("... is suspended; meanwhile:");
        world.depth += 1;
        1 + world.random.below(3)
    };
    for _ in 0..turns {
        act(world, Some(host));
    }
    let world = &mut *world.borrow_mut();
    world.depth -= 1;
    world.note("... goes on");
}

/// A network and a container that no suspended call is about.
fn choose(world: &mut World, host: usize) -> Option<Key> {
    let key = (world.random.below(NETWORKS.len()), u8::try_from(world.random.below(14)).unwrap());
    (!world.hosts[host].busy.contains(&key)).then_some(key)
}

fn add_container(world: &Shared, host: usize) {
    let (key, mut command, persist, before) = {
        let world = &mut *world.borrow_mut();
        let Some(key) = choose(world, host) else { return };
        let of_host = &mut world.hosts[host];
        let settings = of_host.settings[key.0].clone();
        let before = of_host.containers.get(&key).cloned();
        of_host.busy.insert(key);
        let held = match &before {
            Some(Container::Live(addrs) | Container::Open(Some(addrs))) => Some(addrs.clone()),
            _ => None,
        };
        if !matches!(before, Some(Container::Live(_))) {
            of_host.containers.insert(key, Container::Open(held));
        }
        let pod =
            Pod { namespace: "ns".into(), name: format!("p{}", key.1 / 2), uid: String::new() };
        let attachment = attachment(key.0, key.1);
        let folder = of_host.folders.get(&key.0).cloned();
        // host-local's lock is held by another ADD that adopts its folder.
        if folder.is_some() && of_host.busy.iter().any(|busy| busy.0 == key.0 && busy.1 >= 14) {
            of_host.busy.remove(&key);
            return;
        }
        for lease in folder.iter().flatten() {
            // Adopted, or not, whatever becomes of the call.
            let Owner::Attachment(a) = &lease.owner else { continue };
            let old = (key.0, a.container.as_str()[1..].parse().unwrap());
            of_host.containers.entry(old).or_insert(Container::Open(Some(vec![lease.addr])));
            of_host.busy.insert(old);
        }
        let sets = settings.sets();
        let command = Add {
            set: settings.set(key.0),
            network: attachment.network.clone(),
            owner: owner(key),
            strategy: settings.strategy,
            cooldown: settings.cooldown,
            sticky: settings.sticky,
            origin: Origin { attachment: Some(attachment), pod: Some(pod), ..Origin::default() },
            legacy: folder.map_or(Legacy::Absent, |leases| Legacy::Read(leases, vec![])),
            ..add("x", &sets)
        };
        (key, command, settings.persist, before)
    };
    let ran = loop {
        let ran = run(world, host, persist, &Command::Add(command.clone()));
        let Ran::Done(Outcome::Contested(contested)) = ran else { break ran };
        // As the engine does: what two programs have leased is reserved, the rest is adopted.
        for contested in contested {
            let at = (contested.lease.set.clone(), contested.lease.addr);
            world.borrow_mut().hosts[host].reserving.insert(at.clone());
            world.borrow_mut().hosts[host].reserved.entry(at.clone()).or_insert(Reserved::Perhaps);
            world.borrow_mut().hosts[host].contested.insert(at.clone());
            let reserve =
                Reserve { set: at.0.clone(), addrs: vec![at.1], note: None, holder: None };
            if let Ran::Done(_) = run(world, host, persist, &Command::ReserveContested(reserve)) {
                world.borrow_mut().hosts[host].reserved.insert(at.clone(), Reserved::Certainly);
            }
            world.borrow_mut().hosts[host].reserving.remove(&at);
            if let Legacy::Read(leases, _) = &mut command.legacy {
                leases.retain(|lease| lease.addr != at.1);
            }
        }
    };
    let world = &mut *world.borrow_mut();
    let name = format!("h{host} ADD {}/c{}", NETWORKS[key.0], key.1);
    let of_host = &mut world.hosts[host];
    of_host.busy.retain(|busy| *busy != key && (busy.0 != key.0 || busy.1 < 14));
    match ran {
        Ran::Done(Outcome::Added(added)) => {
            let addrs: Vec<Addr> = added.grants.iter().map(|grant| grant.addr).collect();
            of_host.folders.remove(&key.0);
            let same = match &before {
                // Another range set in the configuration means one more address.
                Some(Container::Live(before)) => before.iter().all(|addr| addrs.contains(addr)),
                _ => true,
            };
            of_host.containers.insert(key, Container::Live(addrs.clone()));
            world.note(format!("{name} -> {addrs:?}"));
            if !same {
                world.found(format!("{name} got another address than before: {before:?}"));
            }
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => {
            world.note(format!("{name} -> {refusal:?}"));
            // A refusal changes nothing.
            match before {
                Some(before) => drop(world.hosts[host].containers.insert(key, before)),
                None => drop(world.hosts[host].containers.remove(&key)),
            }
        }
        Ran::Failed(error) => world.note(format!("{name} failed: {error}")),
        Ran::Killed => world.note(format!("{name} was killed")),
    }
}

fn delete(world: &Shared, host: usize) {
    let (key, del, persist) = {
        let world = &mut *world.borrow_mut();
        let Some(key) = choose(world, host) else { return };
        let of_host = &mut world.hosts[host];
        of_host.busy.insert(key);
        if let Some(Container::Live(addrs)) = of_host.containers.get(&key).cloned() {
            of_host.containers.insert(key, Container::Open(Some(addrs)));
        }
        if let Some(leases) = of_host.folders.get_mut(&key.0) {
            leases.retain(|lease| lease.owner != owner(key));
        }
        let settings = &of_host.settings[key.0];
        let target = Target::Owner(owner(key));
        let set = settings.set(key.0);
        (key, Del { set, target, rewind: false, undo: false, legacy: None }, settings.persist)
    };
    let ran = run(world, host, persist, &Command::Del(del));
    let world = &mut *world.borrow_mut();
    world.hosts[host].busy.remove(&key);
    let name = format!("h{host} DEL {}/c{}", NETWORKS[key.0], key.1);
    match ran {
        Ran::Done(Outcome::Freed(freed)) => {
            world.note(format!("{name} -> {} freed", freed.len()));
            world.hosts[host].containers.remove(&key);
        }
        Ran::Done(other) => world.found(format!("{name}: {other:?}")),
        Ran::Refused(refusal) => world.found(format!("{name}: {refusal:?}")),
        Ran::Failed(error) => world.note(format!("{name} failed: {error}")),
        Ran::Killed => world.note(format!("{name} was killed")),
    }
}

/// GC: everything but the live containers of a network is freed.
fn collect(world: &Shared, host: usize) {
    let (network, gc, persist, judged) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        let of_host = &world.hosts[host];
        let is_dead = |key: &Key| !matches!(of_host.containers[key], Container::Live(_));
        let of_network: Vec<Key> =
            of_host.containers.keys().copied().filter(|key| key.0 == network).collect();
        let judged: Vec<Key> = of_network
            .iter()
            .copied()
            .filter(|key| is_dead(key) && !of_host.busy.contains(key))
            .collect();
        let mut valid: Vec<_> = (0..14)
            .filter(|c| !judged.contains(&(network, *c)))
            .map(|c| (attachment(network, c).container, IfName::new("eth0").unwrap()))
            .collect();
        valid.sort();
        let settings = &of_host.settings[network];
        let gc = Gc {
            set: settings.set(network),
            network: attachment(network, 0).network,
            valid: valid.into(),
            after: None,
        };
        (network, gc, settings.persist, judged)
    };
    let ran = run(world, host, persist, &Command::Gc(gc));
    let world = &mut *world.borrow_mut();
    world.note(format!("h{host} GC {}: {}", NETWORKS[network], matches!(ran, Ran::Done(_))));
    if let Ran::Done(_) = ran {
        for key in judged {
            world.hosts[host].containers.remove(&key);
        }
    }
}

fn reserve(world: &Shared, host: usize) {
    let (at, persist) = {
        let world = &mut *world.borrow_mut();
        let network = world.random.below(NETWORKS.len());
        let settings = &world.hosts[host].settings[network];
        let (set, persist) = (settings.set(network), settings.persist);
        let addr = addr(&format!("10.0.0.{}", world.random.below(16)));
        if !world.hosts[host].reserving.insert((set.clone(), addr)) {
            return;
        }
        world.hosts[host].reserved.entry((set.clone(), addr)).or_insert(Reserved::Perhaps);
        ((set, addr), persist)
    };
    let command = Reserve { set: at.0.clone(), addrs: vec![at.1], note: None, holder: None };
    let ran = run(world, host, persist, &Command::Reserve(command));
    let world = &mut *world.borrow_mut();
    world.hosts[host].reserving.remove(&at);
    world.note(format!("h{host} reserve {} {}: {}", at.0, at.1, matches!(ran, Ran::Done(_))));
    match ran {
        Ran::Done(_) => drop(world.hosts[host].reserved.insert(at, Reserved::Certainly)),
        Ran::Refused(Refusal::Held { .. }) => {
            let of_host = &world.hosts[host];
            let is_reserved = of_host.reserved.get(&at) == Some(&Reserved::Certainly);
            if is_reserved && !of_host.contested.contains(&at) {
                world.found(format!("{} {} was reserved and is leased", at.0, at.1));
            }
        }
        Ran::Refused(refusal) => world.found(format!("reserve {} {}: {refusal:?}", at.0, at.1)),
        Ran::Failed(_) | Ran::Killed => {}
    }
}

fn unreserve(world: &Shared, host: usize) {
    let (at, persist) = {
        let world = &mut *world.borrow_mut();
        let all: Vec<_> = world.hosts[host].reserved.keys().cloned().collect();
        if all.is_empty() {
            return;
        }
        let at = world.random.pick(&all).clone();
        if !world.hosts[host].reserving.insert(at.clone()) {
            return;
        }
        world.hosts[host].reserved.insert(at.clone(), Reserved::Perhaps);
        (at, world.hosts[host].settings[0].persist)
    };
    let command = Unreserve { set: at.0.clone(), addrs: vec![at.1] };
    let ran = run(world, host, persist, &Command::Unreserve(command));
    let world = &mut *world.borrow_mut();
    world.hosts[host].reserving.remove(&at);
    world.note(format!("h{host} unreserve {} {}: {}", at.0, at.1, matches!(ran, Ran::Done(_))));
    if let Ran::Done(_) = ran {
        world.hosts[host].reserved.remove(&at);
    }
}

/// An operator edits a network's configuration.
fn edit(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let network = world.random.below(NETWORKS.len());
    let settings = Settings::new(&mut world.random);
    world.note(format!("h{host} edit {}: {settings:?}", NETWORKS[network]));
    world.hosts[host].settings[network] = settings;
}

/// The host goes down, orderly or by a power cut, and comes up again. Containers end with it.
fn reboot(world: &Shared, host: usize) {
    let running = std::mem::take(&mut world.borrow_mut().hosts[host].running);
    for process in running {
        process.kill();
    }
    // Which leases survive: those in the durable file.
    let mut durable = BTreeSet::new();
    {
        let disk = world.borrow().hosts[host].disk.copied();
        let cx = world.borrow_mut().context(host);
        let process = Process::new(None);
        let mut store = open(disk.of(&process));
        let walked = store.records(&cx, &mut |record, persist| {
            if let (Record::Lease(lease), Persist::Disk) = (&record, persist) {
                durable.extend(key_of(lease));
            }
            Ok(())
        });
        if let Err(error) = walked {
            world.borrow_mut().found(format!("before a reboot: {error}"));
        }
    }
    let world = &mut *world.borrow_mut();
    let is_cut = world.random.one_in(2);
    world.note(format!("h{host} {}", if is_cut { "power cut" } else { "reboot" }));
    world.boots += 1;
    let boots = world.boots;
    let of_host = &mut world.hosts[host];
    if is_cut {
        of_host.disk.cut(&mut world.random);
    } else {
        of_host.disk.shut_down();
    }
    of_host.boot = boots;
    for (key, container) in &mut of_host.containers {
        match container {
            Container::Live(_) if durable.contains(key) => {}
            Container::Live(addrs) | Container::Open(Some(addrs)) => {
                *container = Container::Open(Some(addrs.clone()));
            }
            Container::Open(None) => {}
        }
    }
    // A container that is known to be gone, with a boot lease: nothing may be left of it.
    let gone = |key: &Key| !durable.contains(key) && !of_host.busy.contains(key);
    of_host.containers.retain(|key, _| !gone(key));
}

fn clock_jump(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let jump = *world.random.pick(&[-100_000_i64, -60, -1, 60, 5_000_000]);
    world.hosts[host].skew = (world.hosts[host].skew + jump).clamp(-900_000, 20_000_000);
    world.note(format!("h{host} the clock jumps by {jump} s"));
}

/// A host-local served the network before, or again: it has a folder with leases of containers.
fn host_local_was_here(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let network = world.random.below(NETWORKS.len());
    let mut leases: Vec<ForeignLease> = Vec::new();
    for container in 14..17 {
        let at = addr(&format!("10.0.0.{}", 2 + world.random.below(6)));
        let key = (network, container);
        let known = world.hosts[host].containers.contains_key(&key);
        if !known && leases.iter().all(|lease| lease.addr != at) {
            leases.push(ForeignLease { addr: at, kind: Kind::Dynamic, owner: owner(key) });
        }
    }
    let of_host = &mut world.hosts[host];
    if of_host.busy.iter().all(|key| key.0 != network) && !of_host.folders.contains_key(&network) {
        let text: Vec<_> = leases.iter().map(|l| format!("{} {}", l.owner, l.addr)).collect();
        of_host.folders.insert(network, leases);
        world.note(format!("h{host} host-local has leases of {}: {text:?}", NETWORKS[network]));
    }
}

/// The disk is copied to another machine, with the same machine ID or another.
fn clone(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    if world.hosts.len() >= 3 || world.depth > 0 {
        return;
    }
    let disk = world.hosts[host].disk.copied();
    disk.set_full(false);
    let machine = if world.random.one_in(2) {
        world.hosts[host].machine.clone()
    } else {
        format!("machine-{}", world.hosts.len())
    };
    let mut new = world.new_host(disk, machine);
    let old = &world.hosts[host];
    new.settings.clone_from(&old.settings);
    new.reserved.clone_from(&old.reserved);
    new.contested.clone_from(&old.contested);
    for (key, container) in &old.containers {
        let addrs = match container {
            Container::Live(addrs) => Some(addrs.clone()),
            Container::Open(addrs) => addrs.clone(),
        };
        new.containers.insert(*key, Container::Open(addrs));
    }
    world.note(format!("h{host} is cloned as h{}", world.hosts.len()));
    world.hosts.push(new);
}

fn fill_disk(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let is_full = !world.hosts[host].is_full;
    world.hosts[host].is_full = is_full;
    world.hosts[host].disk.set_full(is_full);
    world.note(format!("h{host} the disk is {}", if is_full { "full" } else { "free again" }));
}

fn open(fs: SimFs) -> Embedded<SimFs> {
    Embedded::on(fs, PathBuf::from(STORE), Persist::Boot, Wait::Try)
}

/// What `list` and `doctor` say is what was answered.
fn look(world: &Shared, host: usize) {
    let world = &mut *world.borrow_mut();
    let cx = world.context(host);
    // On a copy: looking must not depend on a disk that is full.
    let process = Process::new(None);
    let disk = world.hosts[host].disk.copied();
    disk.set_full(false);
    let mut store = open(disk.of(&process));
    let mut rows: Vec<Lease> = Vec::new();
    if let Err(error) = store.list(&cx, &mut |lease| rows.push(lease)) {
        return world.found(format!("h{host} list: {error}"));
    }
    let mut problems = Vec::new();
    if world.random.one_in(20) {
        let examined = store.problems(&cx, &mut |problem| problems.push(problem));
        if let Err(error) = examined {
            return world.found(format!("h{host} doctor: {error}"));
        }
    }
    let is_expected = |what: &str| {
        what.contains("overlap") || what.contains("yet to come") || what.contains("left behind")
    };
    if let Some(problem) = problems.iter().find(|p| !is_expected(&p.what)) {
        return world.found(format!("h{host} doctor: {}: {}", problem.place, problem.what));
    }
    if let Some(what) = compare(&world.hosts[host], &rows) {
        world.found(format!("h{host} {what}"));
    }
}

fn compare(host: &Host, rows: &[Lease]) -> Option<Finding> {
    let mut of_network: BTreeMap<(usize, Addr), &Lease> = BTreeMap::new();
    let mut of_set: BTreeMap<(&SetName, Addr), &Lease> = BTreeMap::new();
    let mut held: BTreeMap<Key, Vec<Addr>> = BTreeMap::new();
    for row in rows {
        if let Some(other) = of_set.insert((&row.set, row.addr), row) {
            return Some(format!(
                "{} has two holders: {} and {}",
                row.addr, other.owner, row.owner
            ));
        }
        if row.kind == Kind::Reserved {
            if !host.reserved.contains_key(&(row.set.clone(), row.addr)) {
                return Some(format!("{} is reserved, and nobody asked for it", row.addr));
            }
            continue;
        }
        let Some(key) = key_of(row) else { return Some(format!("unknown holder {}", row.owner)) };
        if let Some(other) = of_network.insert((key.0, row.addr), row) {
            return Some(format!(
                "{} has two holders: {} and {}",
                row.addr, other.owner, row.owner
            ));
        }
        held.entry(key).or_default().push(row.addr);
    }
    for addrs in held.values_mut() {
        addrs.sort_unstable();
    }
    for (key, container) in &host.containers {
        let name = format!("{}/c{}", NETWORKS[key.0], key.1);
        let now = held.remove(key);
        match container {
            Container::Live(addrs) => {
                let mut addrs = addrs.clone();
                addrs.sort_unstable();
                if now.as_ref() != Some(&addrs) {
                    return Some(format!("{name} was leased {addrs:?} and now has {now:?}"));
                }
            }
            Container::Open(Some(addrs)) => {
                if let Some(now) = now
                    && now.iter().all(|addr| !addrs.contains(addr))
                    && !addrs.is_empty()
                {
                    return Some(format!("{name} had {addrs:?} and now has {now:?}"));
                }
            }
            Container::Open(None) => {}
        }
    }
    if let Some((key, addrs)) = held.into_iter().next() {
        return Some(format!("{}/c{} is gone and still has {addrs:?}", NETWORKS[key.0], key.1));
    }
    let lost = host.reserved.iter().find(|(at, reserved)| {
        let row = of_set.get(&(&at.0, at.1));
        let kept = |row: &&Lease| row.kind == Kind::Reserved || host.contested.contains(at);
        **reserved == Reserved::Certainly && !row.is_some_and(kept)
    });
    lost.map(|((set, addr), _)| format!("{addr} of {set} was reserved and is not any more"))
}
