//! Runs random commands on a host with lease files and on the model in memory. Both must return equal results
//! and have equal leases.
//!
//! Three networks share one store. Between commands, `persist`, `shared` and `history` are changed, the host
//! reboots, and new host-local folders appear. After each step, the result and the listing are compared with
//! those of the model. Because the lease file and the model use the same allocator, [`Ledger`] also checks
//! the listing against the results that commands have returned.
//!
//! The test does not compare history, counters or the paths in warnings. (`history_test` checks history and
//! counters.)

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use proptest::prelude::*;
use proptest::strategy::Strategy as Generate;
use proptest::test_runner::Config;

use super::contract::{add, addr, set};
use super::host::{Host, boot, listed};
use super::memory::Machine;
use crate::alloc::{
    Add, Added, Check, Command, Context, Cooldown, Del, Drain, Gc, OnDuplicate, Outcome, Requested,
    Reserve, Status, Strategy, Target, Unreserve,
};
use crate::engine;
use crate::error::{Error, Refusal};
use crate::model::{
    Attachment, ContainerId, History, IfName, Kind, Lease, NetworkName, Origin, Owner, Persist,
    Pod, SetName, Wait,
};
use crate::net::{Addr, Range, RangeSet, Span};
use crate::store::{Embedded, Store, StoreReader};

/// Whether the test changes `shared` between calls.
const EDITS_SHARED: bool = true;

const NETWORKS: u8 = 3;
const CONTAINERS: u8 = 6;

/// Returns range sets that are small enough to be full at times. Some ranges cross the boundary between two
/// occupancy blocks (the lease file's bitmaps, each of 512 addresses).
fn sets(choice: u8) -> Vec<RangeSet> {
    match choice % 4 {
        0 => vec![set("10.0.1.248/29")],
        1 => vec![set("10.0.0.0/22 10.0.1.250 10.0.2.5")],
        2 => vec![set("10.0.1.248/29"), set("fd00::/125")],
        _ => vec![set("fd00::/64 fd00::1fa fd00::206"), set("10.0.1.248/29")],
    }
}

fn strategy(choice: u8) -> Strategy {
    [Strategy::RoundRobin, Strategy::Lowest, Strategy::Random, Strategy::Hash]
        [usize::from(choice % 4)]
}

#[derive(Clone, Debug)]
enum Op {
    Add {
        net: u8,
        who: u8,
        ranges: u8,
        wish: Option<u8>,
        how: u8,
        cool: u8,
        same: bool,
    },
    Del {
        net: u8,
        who: u8,
        undo: bool,
        rewind: bool,
    },
    DelAt {
        net: u8,
        at: u8,
    },
    Check {
        net: u8,
        who: u8,
    },
    Status {
        net: u8,
        ranges: u8,
    },
    Gc {
        net: u8,
        valid: u8,
    },
    Reserve {
        net: u8,
        at: u8,
        count: u8,
        note: bool,
    },
    Unreserve {
        net: u8,
        at: u8,
        count: u8,
    },
    Drain {
        net: u8,
        at: u8,
        count: u8,
        undo: bool,
    },
    Wait {
        seconds: u8,
    },
    Persist {
        net: u8,
    },
    Shared {
        net: u8,
    },
    History,
    Reboot {
        power_cut: bool,
    },
    /// Replaces host-local's folder of a network. Each lease consists of the address, the container, and
    /// whether host-local recorded the interface. `last` is the address that host-local leased last.
    Folder {
        net: u8,
        leases: Vec<(u8, u8, bool)>,
        last: Option<u8>,
    },
}

fn op() -> impl Generate<Value = Op> {
    let net = || 0..NETWORKS;
    let who = || 0..CONTAINERS;
    let at = || prop_oneof![3 => 10..15_u8, 1 => 0..24_u8];
    let ranges = || prop_oneof![3 => Just(0), 1 => any::<u8>()];
    let lease = (at(), who(), prop::bool::weighted(0.7));
    prop_oneof![
        16 => (net(), who(), ranges(), prop::option::weighted(0.2, at()), any::<u8>(), 0..40_u8,
               prop::bool::weighted(0.9))
            .prop_map(|(net, who, ranges, wish, how, cool, same)| {
                Op::Add { net, who, ranges, wish, how, cool, same }
            }),
        8 => (net(), who(), any::<bool>(), any::<bool>())
            .prop_map(|(net, who, undo, rewind)| Op::Del { net, who, undo, rewind }),
        1 => (net(), at()).prop_map(|(net, at)| Op::DelAt { net, at }),
        2 => (net(), who()).prop_map(|(net, who)| Op::Check { net, who }),
        1 => (net(), ranges()).prop_map(|(net, ranges)| Op::Status { net, ranges }),
        1 => (net(), any::<u8>()).prop_map(|(net, valid)| Op::Gc { net, valid }),
        2 => (net(), at(), 1..5_u8, any::<bool>())
            .prop_map(|(net, at, count, note)| Op::Reserve { net, at, count, note }),
        2 => (net(), at(), 1..9_u8)
            .prop_map(|(net, at, count)| Op::Unreserve { net, at, count }),
        2 => (net(), at(), 1..9_u8, any::<bool>())
            .prop_map(|(net, at, count, undo)| Op::Drain { net, at, count, undo }),
        3 => (0..60_u8).prop_map(|seconds| Op::Wait { seconds }),
        3 => net().prop_map(|net| Op::Persist { net }),
        2 => net().prop_map(|net| Op::Shared { net }),
        1 => Just(Op::History),
        3 => prop::bool::weighted(0.3).prop_map(|power_cut| Op::Reboot { power_cut }),
        2 => (net(), prop::collection::vec(lease, 1..4), prop::option::of(at()))
            .prop_map(|(net, leases, last)| Op::Folder { net, leases, last }),
    ]
}

/// Returns the address that the number `at` stands for. The address may be inside or outside the ranges.
/// Numbers below 16 stand for IPv4 addresses, other numbers for IPv6 addresses.
fn at(at: u8) -> Addr {
    match at {
        0..16 => addr(&format!("10.0.1.{}", 240 + at)),
        _ => addr(&format!("fd00::{}", at - 16)),
    }
}

fn some(first: u8, count: u8) -> Vec<Addr> {
    (first..first + count).map(at).collect()
}

/// Returns the span of `count` addresses, beginning with the address number `first`. If it would contain both
/// IPv4 and IPv6 addresses, the span ends at the last IPv4 address.
fn span(first: u8, count: u8) -> Span {
    let is_alike = |addr: &Addr| addr.family() == at(first).family();
    let last = some(first, count).into_iter().rfind(is_alike);
    Span { first: at(first), last: last.unwrap_or(at(first)) }
}

fn network(net: u8) -> NetworkName {
    NetworkName::new(format!("net{net}")).unwrap()
}

fn attachment(net: u8, who: u8) -> Attachment {
    Attachment {
        network: network(net),
        container: ContainerId::new(format!("c{who}")).unwrap(),
        ifname: Some(IfName::new("eth0").unwrap()),
    }
}

fn owner(net: u8, who: u8) -> Owner {
    Owner::Attachment(attachment(net, who))
}

/// The settings in the networks' configurations, which change between commands.
#[derive(Clone, Copy, Debug)]
struct Settings {
    persist: [Persist; NETWORKS as usize],
    shared: [bool; NETWORKS as usize],
    history: bool,
}

impl Settings {
    fn set(self, net: u8) -> SetName {
        SetName(if self.shared[usize::from(net)] { "lan".into() } else { format!("net{net}") })
    }
}

impl Op {
    fn net(&self) -> u8 {
        match *self {
            Op::Add { net, .. }
            | Op::Del { net, .. }
            | Op::DelAt { net, .. }
            | Op::Check { net, .. }
            | Op::Status { net, .. }
            | Op::Gc { net, .. }
            | Op::Reserve { net, .. }
            | Op::Unreserve { net, .. }
            | Op::Drain { net, .. }
            | Op::Persist { net }
            | Op::Shared { net }
            | Op::Folder { net, .. } => net,
            Op::Wait { .. } | Op::History | Op::Reboot { .. } => 0,
        }
    }

    fn command(&self, set: SetName) -> Option<Command> {
        let net = self.net();
        Some(match *self {
            Op::Add { who, ranges, wish, how, cool, same, .. } => {
                let name = format!("c{}", who / 2);
                let pod = Pod { namespace: "ns".into(), name, uid: String::new() };
                let attachment = Some(attachment(net, who));
                Command::Add(Add {
                    set,
                    network: network(net),
                    owner: owner(net, who),
                    requested: wish
                        .map(|n| Requested { addr: at(n), prefix: None })
                        .into_iter()
                        .collect(),
                    strategy: strategy(how),
                    cooldown: Cooldown { seconds: u32::from(cool), strict: how & 8 != 0 },
                    sticky: how & 0x30 != 0,
                    on_duplicate: if same { OnDuplicate::Same } else { OnDuplicate::Error },
                    claim_gateways: how & 0xc0 == 0,
                    origin: Origin { attachment, pod: Some(pod), ..Origin::default() },
                    ..add("c", &sets(ranges))
                })
            }
            Op::Del { who, undo, rewind, .. } => {
                let target = Target::Owner(owner(net, who));
                Command::Del(Del { set, target, rewind, undo, legacy: None })
            }
            Op::DelAt { at: n, .. } => {
                let target = Target::Addresses(vec![at(n)]);
                Command::Del(Del { set, target, rewind: false, undo: false, legacy: None })
            }
            Op::Check { who, .. } => {
                let expected = (who % 2 == 0).then(|| vec![at(8 + who)]);
                Command::Check(Check { set, owner: owner(net, who), sets: sets(who), expected })
            }
            Op::Status { net, ranges } => Command::Status(Status {
                set,
                network: network(net),
                sets: sets(ranges),
                strict: ranges & 4 != 0,
            }),
            Op::Gc { valid, .. } => Command::Gc(Gc {
                set,
                network: network(net),
                valid: alive(valid).into(),
                after: None,
            }),
            Op::Reserve { at, count, note, .. } => {
                let note = note.then(|| format!("note {at}"));
                Command::Reserve(Reserve {
                    set,
                    addrs: some(at, count),
                    note,
                    holder: None,
                    name: None,
                })
            }
            Op::Unreserve { at, count, .. } => {
                Command::Unreserve(Unreserve { set, addrs: some(at, count) })
            }
            Op::Drain { at, count, undo, .. } => {
                Command::Drain(Drain { set, span: span(at, count), undo })
            }
            _ => return None,
        })
    }
}

/// Returns the attachments that a GC lists as valid. Each bit of `valid` stands for a container.
fn alive(valid: u8) -> Vec<(ContainerId, IfName)> {
    let all = (0..CONTAINERS).filter(|who| valid & (1 << who) != 0);
    all.map(|who| (attachment(0, who).container, IfName::new("eth0").unwrap())).collect()
}

/// Replaces host-local's folder of a network with a folder that has the given leases.
fn write_folder(host: &Host, net: u8, leases: &[(u8, u8, bool)], last: Option<u8>) {
    let dir = host.folder.path().join(network(net).as_str());
    let _ = fs::remove_file(&dir);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    for (n, who, ifname) in leases {
        let ifname = if *ifname { "\r\neth0" } else { "" };
        fs::write(dir.join(at(*n).to_string()), format!("c{who}{ifname}")).unwrap();
    }
    if let Some(last) = last {
        fs::write(dir.join("last_reserved_ip.0"), at(last).to_string()).unwrap();
    }
}

/// Runs a command as the CNI plugin does: an ADD imports host-local's folder if necessary, and a DEL removes
/// the container's files from the folder.
fn run(
    store: &mut dyn Store,
    host: &Host,
    command: &Command,
    cx: &Context,
) -> Result<Outcome, Error> {
    match command {
        Command::Add(add) => {
            let (network, dir) = (&add.network, host.folder.path().join(add.network.as_str()));
            let legacy = engine::HostLocalFolder { dir: &dir, network, wait: Wait::Try };
            engine::add(store, add.clone(), Some(legacy), cx).map(Outcome::Added)
        }
        Command::Del(del) => {
            let Target::Owner(Owner::Attachment(attachment)) = &del.target else {
                return store.apply(command, cx);
            };
            let (network, dir) =
                (&attachment.network, host.folder.path().join(attachment.network.as_str()));
            let legacy = engine::HostLocalFolder { dir: &dir, network, wait: Wait::Try };
            engine::del(store, del.clone(), Some(legacy), cx).map(Outcome::Freed)
        }
        _ => store.apply(command, cx),
    }
}

/// Returns a result in a form that can be compared: without paths and without the order of owners, because
/// both differ in the model.
fn comparable(mut answer: Result<Outcome, Error>) -> String {
    match &mut answer {
        Ok(Outcome::Collected(step)) => step.freed.sort_unstable(),
        Ok(Outcome::Freed(freed)) => freed.sort_by(|a, b| (&a.set, a.addr).cmp(&(&b.set, b.addr))),
        Ok(Outcome::Added(added)) => {
            for warning in &mut added.warnings {
                if let Some((start, rest)) = warning.split_once(" in /")
                    && let Some((_, end)) = rest.split_once(", ")
                {
                    *warning = format!("{start}, {end}");
                }
            }
        }
        Err(Error::Store(error)) => panic!("{error}"),
        _ => {}
    }
    match answer {
        Ok(outcome) => format!("{outcome:?}"),
        Err(error) => format!("{error:?}"),
    }
}

type Key = (SetName, Addr);

/// The state of the store, derived only from the results of the commands. The lease file and the model use
/// the same allocator, so a comparison of the two cannot reveal an allocator bug. The ledger does not use the
/// allocator, so it can.
#[derive(Default)]
struct Ledger {
    listed: BTreeMap<Key, Lease>,
    gateways: BTreeMap<Key, Lease>,
    reserved: BTreeSet<Key>,
    draining: BTreeSet<Key>,
    /// Whether the leases of a set are durable. The first lease of the set determines this.
    home: BTreeMap<SetName, bool>,
    /// When the cooldown of a freed address ends. The key's boolean is true if the lease was durable.
    cooling: BTreeMap<(bool, SetName, Addr), u64>,
    /// The last address of a sticky pod in a range set, and the boot in which the pod had that address. The
    /// key's boolean is true if the lease was durable.
    former: BTreeMap<(bool, SetName, String, Addr), (Addr, u32)>,
}

/// Returns the set in which an ADD leases: a set that has leases of the ADD's network, otherwise the set that
/// `shared` names.
fn set_of(add: &Add, listed: &BTreeMap<Key, Lease>) -> SetName {
    let of_network = |lease: &&Lease| {
        lease.kind.collectable() && lease.attachment().is_some_and(|a| a.network == add.network)
    };
    listed.values().find(of_network).map_or_else(|| add.set.clone(), |lease| lease.set.clone())
}

/// The state that the ledger does not contain: settings, time and boots.
struct World {
    settings: Settings,
    now: u64,
    boot: u32,
    /// The latest earlier boot whose boot file is valid; 0 if there is none.
    newest: u32,
    /// Whether host-local's folder still has leases of the calling network that were not imported.
    has_folder: bool,
}

impl Ledger {
    /// Returns the listed leases of containers and the reservations, and stores the gateways separately. The
    /// record of a gateway is created with the first lease that needs it and disappears with the lease file,
    /// so gateways follow different rules from leases.
    fn holders(&mut self, listed: Vec<Lease>) -> BTreeMap<Key, Lease> {
        let all = listed.into_iter().map(|lease| ((lease.set.clone(), lease.addr), lease));
        let (gateways, holders) = all.partition(|(_, lease)| lease.kind == Kind::Gateway);
        self.gateways = gateways;
        holders
    }

    /// Returns whether the leases of this set survive a reboot.
    fn home(&self, op: &Op, set: &SetName, world: &World) -> bool {
        let own = world.settings.persist[usize::from(op.net())] == Persist::Disk;
        self.home.get(set).copied().unwrap_or(own)
    }

    /// Checks the result that a command returned, and the changes that it made to the listing.
    fn judge(
        &mut self,
        op: &Op,
        command: &Command,
        answer: &Result<Outcome, Error>,
        after: Vec<Lease>,
        world: &World,
    ) {
        let after = self.holders(after);
        let before = std::mem::replace(&mut self.listed, after.clone());
        let gone: Vec<&Lease> = before
            .iter()
            .filter(|(key, old)| after.get(*key).is_none_or(|new| new.owner != old.owner))
            .map(|(_, lease)| lease)
            .collect();
        let new: Vec<&Lease> = after
            .iter()
            .filter(|(key, new)| before.get(*key).is_none_or(|old| old.owner != new.owner))
            .map(|(_, lease)| lease)
            .collect();
        // If sublet and host-local have both leased an address, sublet also reserves the address. The
        // reservation is listed only when the lease has ended.
        let is_contested = |lease: &&&Lease| {
            let note = lease.origin.note.as_deref().unwrap_or_default();
            lease.kind == Kind::Reserved && note.contains("by host-local")
        };
        self.reserved.extend(new.iter().filter(is_contested).map(|l| (l.set.clone(), l.addr)));
        let is_kept = |lease: &&&Lease| self.reserved.contains(&(lease.set.clone(), lease.addr));
        let reserved_again = new.iter().filter(is_kept).count();
        match (command, answer) {
            (Command::Add(add), Ok(Outcome::Added(added))) => {
                // host-local may not have recorded the interface of an imported lease. The ADD may then add
                // the interface to the owner's name. Otherwise, no owner may lose a lease.
                for lease in gone {
                    let heir = &after[&(lease.set.clone(), lease.addr)];
                    let (old, new) = (lease.attachment().unwrap(), heir.attachment().unwrap());
                    assert!(old.ifname.is_none() && old.container == new.container, "{lease:?}");
                    assert_eq!(heir.owner, add.owner);
                }
                self.judge_grants(op, add, added, &before, world);
            }
            (Command::Del(Del { target, undo, set, .. }), Ok(_)) => {
                let may_go = |lease: &Lease| match target {
                    Target::Owner(Owner::Attachment(owner)) => {
                        lease.attachment().is_some_and(|a| {
                            (&a.network, &a.container) == (&owner.network, &owner.container)
                        })
                    }
                    Target::Addresses(addrs) => lease.set == *set && addrs.contains(&lease.addr),
                    _ => false,
                };
                assert!(gone.iter().all(|l| l.kind.collectable() && may_go(l)), "{gone:?}");
                let is_left = |lease: &&Lease| match target {
                    Target::Owner(owner) => lease.owner == *owner,
                    _ => lease.kind.collectable() && may_go(lease),
                };
                assert_eq!(after.values().find(is_left), None);
                assert_eq!(new.len(), reserved_again);
                self.cool(op, &gone, !undo, world);
            }
            (Command::Gc(gc), Ok(_)) => {
                let is_stale = |lease: &Lease| {
                    let of = lease.attachment().filter(|a| a.network == gc.network);
                    lease.kind.collectable()
                        && of.is_some_and(|a| gc.valid.iter().all(|(c, _)| *c != a.container))
                };
                assert!(gone.iter().all(|lease| is_stale(lease)), "{gone:?}");
                assert_eq!(after.values().find(|lease| is_stale(lease)), None);
                assert_eq!(new.len(), reserved_again);
                self.cool(op, &gone, true, world);
            }
            (Command::Reserve(asked), Ok(_)) => {
                assert!(gone.is_empty(), "{gone:?}");
                self.reserved.extend(asked.addrs.iter().map(|a| (asked.set.clone(), *a)));
                assert!(
                    new.iter().all(|l| asked.addrs.contains(&l.addr) && l.kind == Kind::Reserved)
                );
            }
            (Command::Unreserve(asked), Ok(_)) => {
                let of = |l: &Lease| l.set == asked.set && asked.addrs.contains(&l.addr);
                assert!(gone.iter().all(|l| l.kind == Kind::Reserved && of(l)), "{gone:?}");
                assert_eq!(new, [] as [&Lease; 0]);
                self.reserved.retain(|(set, a)| *set != asked.set || !asked.addrs.contains(a));
            }
            (Command::Drain(asked), Ok(_)) => {
                assert_eq!((&gone, &new), (&vec![], &vec![]));
                let keys = asked.span.addresses().map(|addr| (asked.set.clone(), addr));
                let keys: BTreeSet<Key> = keys.collect();
                self.draining.retain(|key| !keys.contains(key));
                self.draining.extend(keys.into_iter().filter(|_| !asked.undo));
            }
            (_, answer) => {
                assert_eq!((&gone, &new), (&vec![], &vec![]), "{answer:?}");
                if let (Command::Add(add), Err(Error::Refused(Refusal::Exhausted { index, .. }))) =
                    (command, answer)
                    && !world.has_folder
                {
                    let free = self.free(op, add, &add.sets[*index], &before, world);
                    assert_eq!(free, None, "refused as exhausted");
                }
            }
        }
        self.judge_listing(&after);
    }

    /// Returns an address in a range set that an ADD could lease. A cooling address is included only if the
    /// cooldown is not strict.
    fn free(
        &self,
        op: &Op,
        add: &Add,
        ranges: &RangeSet,
        taken: &BTreeMap<Key, Lease>,
        world: &World,
    ) -> Option<Addr> {
        let set = set_of(add, taken);
        let home = self.home(op, &set, world);
        let spans = ranges.ranges().iter().flat_map(Range::spans);
        let mut all = spans.flat_map(|span| {
            let next = |a: &Addr| a.next().filter(|a| span.contains(*a));
            std::iter::successors(Some(span.first), next)
        });
        all.find(|a| {
            let until = self.cooling.get(&(home, set.clone(), *a));
            let cools = add.cooldown.strict && until.is_some_and(|until| *until > world.now);
            let key = (set.clone(), *a);
            !cools && !taken.contains_key(&key) && !self.draining.contains(&key)
        })
    }

    fn judge_grants(
        &mut self,
        op: &Op,
        add: &Add,
        added: &Added,
        before: &BTreeMap<Key, Lease>,
        world: &World,
    ) {
        let own: Vec<Lease> =
            self.listed.values().filter(|lease| lease.owner == add.owner).cloned().collect();
        // There may be more leases than range sets, because host-local may have leased several addresses of a
        // range to an owner.
        assert!(own.len() >= add.sets.len(), "{own:?}");
        let set = set_of(add, before);
        assert!(own.iter().all(|lease| lease.set == set), "{own:?} not in {set}");
        let home = self.home(op, &set, world);
        for (grant, ranges) in added.grants.iter().zip(&add.sets) {
            assert!(own.iter().any(|l| l.addr == grant.addr), "{grant:?} is not listed");
            assert!(ranges.range_of(grant.addr).is_some(), "{grant:?}");
            let wished = add.requested.iter().find(|w| ranges.range_of(w.addr).is_some());
            assert!(wished.is_none_or(|w| w.addr == grant.addr), "{grant:?}");
            if !added.created.contains(&grant.addr) {
                continue;
            }
            let key = (set.clone(), grant.addr);
            assert!(
                !before.contains_key(&key) && !self.reserved.contains(&key),
                "{key:?} is taken"
            );
            assert!(!self.draining.contains(&key), "{key:?} is draining");
            let pod = add.origin.pod.as_ref().filter(|_| add.sticky).map(|pod| pod.name.clone());
            let sticky = pod.map(|pod| (home, set.clone(), pod, ranges.key()));
            let former = sticky.as_ref().and_then(|key| self.former.get(key)).copied();
            if let Some((addr, of_boot)) = former
                && wished.is_none()
                && (home || [world.boot, world.newest].contains(&of_boot))
                && ranges.range_of(addr).is_some_and(|range| range.gives(addr))
                && !before.contains_key(&(set.clone(), addr))
                && !self.draining.contains(&(set.clone(), addr))
                && self.listed.get(&(set.clone(), addr)).is_none_or(|l| l.owner == add.owner)
            {
                assert_eq!(grant.addr, addr, "a sticky pod's former address");
            }
            let cooling = self.cooling.remove(&(home, set.clone(), grant.addr));
            let cools = cooling.is_some_and(|until| until > world.now);
            if cools && former.map(|f| f.0) != Some(grant.addr) {
                assert!(!add.cooldown.strict, "{grant:?} is cooling down");
            }
            if let Some(key) = sticky {
                // Within a file, each address is recorded as the former address of only one pod. The records
                // of earlier boots stay, because their files do not change.
                self.former.retain(|(h, s, ..), f| {
                    (*h, s, f.0) != (home, &set, grant.addr) || (!home && f.1 != world.boot)
                });
                self.former.insert(key, (grant.addr, world.boot));
            }
        }
        // An address that both sublet and host-local have leased stays reserved, no matter which program
        // frees it. The warning names the command that ends the reservation.
        let unreserve = |warning: &String| {
            let mut words =
                warning.split_once("`sublet unreserve ")?.1.trim_end_matches('`').split(' ');
            Some((SetName(words.next()?.to_owned()), words.next()?.parse().ok()?))
        };
        self.reserved.extend(added.warnings.iter().filter_map(unreserve));
        self.cooling.retain(|(h, s, a), _| {
            (*h, s) != (home, &set) || !self.listed.contains_key(&(s.clone(), *a))
        });
        self.home.entry(set).or_insert(home);
    }

    fn cool(&mut self, op: &Op, freed: &[&Lease], cools: bool, world: &World) {
        for lease in freed.iter().filter(|lease| cools && lease.cooldown > 0) {
            let home = self.home(op, &lease.set, world);
            let until = world.now + u64::from(lease.cooldown);
            self.cooling.insert((home, lease.set.clone(), lease.addr), until);
        }
    }

    /// Checks the conditions that must hold for every listing.
    fn judge_listing(&mut self, listed: &BTreeMap<Key, Lease>) {
        let mut addrs = BTreeSet::new();
        for lease in listed.values().filter(|lease| lease.kind.collectable()) {
            let network = lease.attachment().map(|a| &a.network);
            assert!(addrs.insert((network, lease.addr)), "{lease:?} has two holders");
        }
        let is_listed = |key| listed.contains_key(key) || self.gateways.contains_key(key);
        let lost = self.reserved.iter().find(|key| !is_listed(*key));
        assert_eq!(lost, None, "a reservation is lost");
        self.home.retain(|set, _| {
            listed.values().any(|lease| lease.set == *set && lease.kind.collectable())
        });
    }

    /// Checks that the reboot has ended every boot lease and no durable lease.
    fn judge_reboot(&mut self, after: Vec<Lease>) {
        let after = self.holders(after);
        let is_container = |lease: &&Lease| lease.kind.collectable();
        let stays = |lease: &&Lease| self.home.get(&lease.set) == Some(&true);
        let kept: Vec<&Lease> = self.listed.values().filter(is_container).filter(stays).collect();
        assert_eq!(after.values().filter(is_container).collect::<Vec<_>>(), kept);
        self.cooling.retain(|(durable, ..), _| *durable);
        self.judge_listing(&after);
        self.listed = after;
    }
}

proptest! {
    #![proptest_config(Config {
        cases: if super::long() { 20 * CASES } else { CASES },
        failure_persistence: None,
        ..Config::default()
    })]

    #[test]
    fn redb_behaves_as_the_model(
        ops in prop::collection::vec(op(), 1..80),
        disk in any::<[bool; 3]>(),
        shared in any::<[bool; 3]>(),
    ) {
        live(&ops, disk, shared);
    }
}

const CASES: u32 = 60;

fn live(ops: &[Op], disk: [bool; 3], shared: [bool; 3]) {
    // This test does not check flushes, so the folder is on tmpfs.
    let folder = || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (host, models) = (Host { folder: folder() }, Host { folder: folder() });
    let mut model = Machine::default();
    let mut ledger = Ledger::default();
    let persist = disk.map(|disk| if disk { Persist::Disk } else { Persist::Boot });
    let settings = Settings { persist, shared, history: true };
    let mut world = World { settings, now: 1000, boot: 1, newest: 0, has_folder: false };
    for (i, op) in ops.iter().enumerate() {
        let net = usize::from(op.net());
        match op {
            Op::Wait { seconds } => world.now += u64::from(*seconds),
            Op::Persist { .. } => {
                world.settings.persist[net] = match world.settings.persist[net] {
                    Persist::Boot => Persist::Disk,
                    Persist::Disk => Persist::Boot,
                };
            }
            Op::Shared { .. } => world.settings.shared[net] ^= EDITS_SHARED,
            Op::History => world.settings.history ^= true,
            Op::Folder { net, leases, last } => {
                for host in [&host, &models] {
                    write_folder(host, *net, leases, *last);
                }
            }
            Op::Reboot { power_cut } => {
                let old = host.of_boot(world.boot);
                if old.exists() && *power_cut {
                    fs::write(&old, b"torn").unwrap();
                } else if old.exists() {
                    world.newest = world.boot;
                }
                model.reboot(*power_cut);
                world.boot += 1;
                world.now += 30;
                let cx = Context { now: world.now, ..boot(world.boot) };
                ledger.judge_reboot(listed(&mut host.store(Persist::Boot), &cx));
            }
            _ => {}
        }
        let cx = Context { now: world.now, seed: world.now, ..boot(world.boot) };
        let persist = world.settings.persist[net];
        let kept = History::Kept { count: 20, age: 100 };
        let history = if world.settings.history { kept } else { History::Off };
        let mut store = Embedded::new(host.path(""), persist, Wait::Try).keeping(history);
        model.persist = persist;
        if let Some(command) = op.command(world.settings.set(op.net())) {
            let answer = run(&mut store, &host, &command, &cx);
            world.has_folder = host.folder.path().join(network(op.net()).as_str()).is_dir();
            ledger.judge(op, &command, &answer, listed(&mut store, &cx), &world);
            let expected = run(&mut model, &models, &command, &cx);
            assert_eq!(comparable(answer), comparable(expected), "{op:?}");
        }
        // The listings must be the same with each value of `persist`, so the test alternates between both
        // values.
        model.persist = [Persist::Boot, Persist::Disk][i % 2];
        let all = listed(&mut host.store(model.persist), &cx);
        assert_eq!(sorted(all), listed(&mut model, &cx), "{op:?}");
        let draining = host.store(model.persist).draining(&cx).unwrap();
        assert_eq!(draining, model.draining(&cx).unwrap(), "{op:?}");
        store.problems(&cx, &mut |p| assert!(p.what.contains("overlap"), "{p:?}")).unwrap();
    }
}

fn sorted(mut leases: Vec<Lease>) -> Vec<Lease> {
    leases.sort_by(|a, b| (&a.set, a.addr).cmp(&(&b.set, b.addr)));
    leases
}
