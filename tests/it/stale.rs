//! Checks that the lease of a running container never counts as stale. The test uses a model of two machines
//! with mount namespaces, processes and containers. In the model, numbers and names are reused as soon as
//! they are free. The machines also change between the check of a stale lease and its release.

use std::collections::{BTreeMap, BTreeSet};

use sublet::alloc::{Add, Context, Cooldown, Del, Legacy, OnDuplicate, Strategy, Target};
use sublet::engine;
use sublet::liveness::stale;
use sublet::liveness::stale::{Evidence, Listing, Liveness, Namespaces, PathState};
use sublet::model::{
    Attachment, BootId, ContainerId, IfName, Lease, Netns, NetworkName, Node, Origin, Owner,
    Persist, SetName,
};
use sublet::net::{Addr, Range, RangeSet, RangeSpec};
use sublet::store::Store;

use crate::lab::{Dice, Lab};
use crate::store_check as check;

const STEPS: usize = 10_000;
const DEVICE: u64 = 4;
const IDS: u64 = 30;

/// A machine in the model. Like Linux, it assigns the lowest free inode number. It reuses process IDs after
/// only a few processes.
#[derive(Default)]
struct Machine {
    inodes: BTreeSet<u64>,
    pids: BTreeMap<u32, u64>,
    next_pid: u32,
    /// The inode of each mounted network namespace, by mount namespace and path.
    mounts: BTreeMap<(u64, String), u64>,
    containers: BTreeMap<String, Container>,
}

struct Container {
    netns: Netns,
    pid: Option<u32>,
    addr: Addr,
}

impl Machine {
    fn namespace(&mut self) -> u64 {
        let inode = (4_026_532_000..5_000_000_000).find(|n| !self.inodes.contains(n)).unwrap();
        self.inodes.insert(inode);
        inode
    }

    fn process(&mut self, inode: u64) -> u32 {
        loop {
            self.next_pid = (self.next_pid + 1) % 60;
            if !self.pids.contains_key(&self.next_pid) {
                self.pids.insert(self.next_pid, inode);
                return self.next_pid;
            }
        }
    }

    /// Removes network namespaces that no process, mount or open file uses.
    fn sweep(&mut self) {
        let held = self.held();
        self.inodes.retain(|n| held.contains(n));
    }

    fn held(&self) -> BTreeSet<u64> {
        self.pids.values().chain(self.mounts.values()).copied().collect()
    }

    fn look(&self, mount_ns: u64, path: &str) -> PathState {
        let pid = path.strip_prefix("/proc/").and_then(|p| p.split('/').next()?.parse().ok());
        let inode = match pid {
            Some(pid) => self.pids.get::<u32>(&pid),
            None => self.mounts.get(&(mount_ns, path.to_owned())),
        };
        inode.map_or(PathState::Missing, |inode| PathState::Inode(DEVICE, *inode))
    }

    fn destroy(&mut self, id: &str) {
        if let Some(gone) = self.containers.remove(id) {
            gone.pid.map(|pid| self.pids.remove(&pid));
            let place = (gone.netns.mount_ns.unwrap(), gone.netns.path);
            self.mounts.remove(&place);
            self.sweep();
        }
    }
}

struct World {
    dice: Dice,
    now: u64,
    fresh: u64,
    machines: [Machine; 2],
    store: Box<dyn Store>,
    freed: usize,
    proven: usize,
}

impl World {
    fn context(&self, machine: usize) -> Context {
        Context {
            now: self.now,
            // The two machines run on the same kernel, as two containers do: they have the same boot ID, but
            // different machine-ids. They share one store.
            boot: Some(BootId("boot".into())),
            node: Node { name: format!("n{machine}"), machine: format!("machine-{machine}") },
            seed: self.now,
            face: sublet::model::Face::Cli,
            ..Context::default()
        }
    }

    /// Starts a container. `in_window` means that `gc` has checked a lease but not yet freed it. During this
    /// time, the container must not reuse the name and numbers of a former container, because sublet could
    /// not notice the reuse.
    fn start(&mut self, machine: usize, in_window: bool) {
        let id = format!("m{machine}-{}", self.dice.below(IDS));
        if self.machines[machine].containers.contains_key(&id) {
            return;
        }
        self.fresh += 1;
        let mount_ns = 10 + self.dice.below(2);
        let kind = if in_window { 0 } else { self.dice.below(3) };
        let m = &mut self.machines[machine];
        let inode = m.namespace();
        let pid = m.process(inode);
        let path = match kind {
            0 => format!("/run/netns/cni-{}", self.fresh),
            1 => format!("/run/netns/{id}"),
            _ => format!("/proc/{pid}/ns/net"),
        };
        if kind < 2 {
            m.mounts.insert((mount_ns, path.clone()), inode);
        }
        let netns = Netns { path, inode: Some((DEVICE, inode)), mount_ns: Some(mount_ns) };
        let addr = self.add(machine, &id, &netns);
        let container = Container { netns, pid: Some(pid), addr };
        self.machines[machine].containers.insert(id, container);
    }

    fn add(&mut self, machine: usize, id: &str, netns: &Netns) -> Addr {
        let attachment = attachment(id);
        let spec = RangeSpec::of("10.0.0.0/24".parse().unwrap());
        let add = Add {
            set: SetName("net".into()),
            network: attachment.network.clone(),
            owner: Owner::Attachment(attachment.clone()),
            sets: vec![RangeSet::new(vec![Range::new(&spec).unwrap()]).unwrap()],
            requested: vec![],
            strategy: Strategy::Lowest,
            cooldown: Cooldown::default(),
            sticky: false,
            on_duplicate: OnDuplicate::Same,
            claim_gateways: false,
            origin: Origin {
                attachment: Some(attachment),
                netns: Some(netns.clone()),
                ..Origin::default()
            },
            statics: Vec::new(),
            gone: Vec::new(),
            legacy: Legacy::Absent,
            define: None,
        };
        let cx = self.context(machine);
        engine::add(&mut *self.store, add, None, &cx).unwrap().grants[0].addr
    }

    fn any(&mut self, machine: usize) -> Option<String> {
        let ids: Vec<String> = self.machines[machine].containers.keys().cloned().collect();
        (!ids.is_empty()).then(|| self.dice.pick(&ids).clone())
    }

    fn step(&mut self, in_window: bool) {
        let machine = usize::try_from(self.dice.below(2)).unwrap();
        match self.dice.below(12) {
            0..=3 => self.start(machine, in_window),
            4 => {
                // Repeat the ADD, as a runtime does if it has lost the response.
                if let Some(id) = self.any(machine) {
                    let netns = self.machines[machine].containers[&id].netns.clone();
                    let addr = self.add(machine, &id, &netns);
                    assert_eq!(addr, self.machines[machine].containers[&id].addr, "{id}");
                }
            }
            5 => {
                if let Some(id) = self.any(machine) {
                    self.machines[machine].destroy(&id);
                    let target = Target::Owner(Owner::Attachment(attachment(&id)));
                    let cx = self.context(machine);
                    engine::del(&mut *self.store, del(target), None, &cx).unwrap();
                }
            }
            // A container ends without a DEL.
            6 | 7 => {
                if let Some(id) = self.any(machine) {
                    self.machines[machine].destroy(&id);
                }
            }
            8 => self.shake(machine),
            9 => {
                // Another program creates or removes a namespace, with numbers and names that containers may
                // have used.
                let m = &mut self.machines[machine];
                let inode = m.namespace();
                m.process(inode);
                let name = format!("/run/netns/m{machine}-{}", self.dice.below(IDS));
                m.mounts.entry((10, name)).or_insert(inode);
            }
            10 => {
                let m = &mut self.machines[machine];
                let ours: BTreeSet<u64> =
                    m.containers.values().map(|c| c.netns.inode.unwrap().1).collect();
                m.pids.retain(|_, inode| ours.contains(inode));
                m.mounts.retain(|_, inode| ours.contains(inode));
                m.sweep();
            }
            _ => self.now += self.dice.below(30),
        }
    }

    /// A container's network namespace is held by a process and a mount. Removes one of them, while the
    /// container keeps running.
    fn shake(&mut self, machine: usize) {
        let Some(id) = self.any(machine) else { return };
        let process = self.dice.once_in(2);
        let m = &mut self.machines[machine];
        let container = m.containers.get_mut(&id).unwrap();
        let place = (container.netns.mount_ns.unwrap(), container.netns.path.clone());
        if let (true, Some(pid)) = (m.mounts.contains_key(&place), container.pid) {
            if process {
                m.pids.remove(&pid);
                container.pid = None;
            } else {
                m.mounts.remove(&place);
            }
        }
    }

    fn gc(&mut self) {
        let machine = usize::try_from(self.dice.below(2)).unwrap();
        let mount_ns = 10 + self.dice.below(2);
        let leases = self.leases();
        let m = &self.machines[machine];
        let netns = leases.iter().filter_map(|l| l.origin.netns.as_ref());
        let mut listings = Vec::new();
        let by_netns = self.dice.once_in(2);
        if !by_netns || self.dice.once_in(2) {
            // There may be two runtimes. sublet queries one of them, which knows only some of the containers.
            let part = self.dice.below(3);
            let knows = |id: &&String| part != 0 || id.ends_with(['1', '3', '5', '7', '9']);
            let containers = m.containers.keys().filter(knows).cloned().collect();
            listings.push(Listing { runtime: "docker".into(), containers });
        }
        let evidence = Evidence {
            cx: self.context(machine),
            grace: *self.dice.pick(&[0, 5, 60]),
            namespaces: Namespaces {
                mount_ns: Some(mount_ns),
                paths: netns.map(|n| (n.path.clone(), m.look(mount_ns, &n.path))).collect(),
                held: m.held(),
                gap: None,
            },
            by_netns,
            listings,
        };
        let verdicts = stale::assess(&leases, &evidence);
        for _ in 0..self.dice.below(3) {
            self.step(true);
        }
        for (lease, verdict) in leases.iter().zip(verdicts) {
            if matches!(verdict, Liveness::Stale(_)) {
                self.proven += 1;
                let target = Target::Unchanged(Box::new(lease.clone()));
                let cx = self.context(machine);
                self.freed += engine::del(&mut *self.store, del(target), None, &cx).unwrap().len();
            }
        }
        self.verify();
    }

    fn leases(&mut self) -> Vec<Lease> {
        let cx = self.context(0);
        check::list(&mut *self.store, &cx).unwrap()
    }

    /// Checks that every running container has its lease.
    fn verify(&mut self) {
        let held: BTreeMap<Addr, Owner> =
            self.leases().into_iter().map(|l| (l.addr, l.owner)).collect();
        for (id, container) in self.machines.iter().flat_map(|m| &m.containers) {
            let owner = Owner::Attachment(attachment(id));
            assert_eq!(held.get(&container.addr), Some(&owner), "{id} lives, its lease is gone");
        }
    }
}

fn del(target: Target) -> Del {
    Del { set: SetName("net".into()), target, rewind: false, undo: false, legacy: None }
}

fn attachment(id: &str) -> Attachment {
    Attachment {
        network: NetworkName::new("net").unwrap(),
        container: ContainerId::new(id).unwrap(),
        ifname: IfName::new("eth0").ok(),
    }
}

#[test]
fn no_living_container_loses_its_lease() {
    let lab = Lab::new();
    let store = check::open(&lab.store(), Persist::Boot);
    let mut world = World {
        dice: Dice(7),
        now: 1_000_000,
        fresh: 0,
        machines: Default::default(),
        store,
        freed: 0,
        proven: 0,
    };
    for _ in 0..STEPS {
        if world.dice.once_in(6) {
            world.gc();
        } else {
            world.step(false);
        }
    }
    world.verify();
    // The run proves something only if stale leases were freed, and if something happened between the check
    // of a lease and its release.
    assert!(world.freed > STEPS / 50, "only {} were freed", world.freed);
    assert!(world.proven > world.freed, "nothing ever happened between look and freeing");
}
