//! Whose lease is provably lost: facts in, a verdict with its reason out.
//!
//! Owns: what counts as proof. A network namespace that is gone, by its number and not by its name,
//! on the machine, in the boot and in the mount namespace in which it was recorded; or a container
//! runtime that does not know the container. Does not own: learning the facts (`liveness`,
//! `runtimes`), freeing.
//! Invariant: whatever is not known speaks for the lease. A lease is judged by facts that were
//! gathered after it was read, and freed only if it is still as it was read: what an ADD did in
//! between shows, but for a container that came back within that moment under the same ID with a
//! namespace of the same path and number.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BootId, Lease, Netns, Timestamp};

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The time.
    pub now: Timestamp,
    /// A lease younger than this is not judged, in seconds: its container may be on its way.
    pub grace: u64,
    /// This machine.
    pub machine: String,
    /// This boot.
    pub boot: Option<BootId>,
    /// The network namespaces of this machine.
    pub namespaces: Namespaces,
    /// Whether a namespace that is gone is proof enough.
    pub by_netns: bool,
    /// What the container runtimes that were asked know.
    pub listings: Vec<Listing>,
}

/// The network namespaces of this machine.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// The mount namespace in which [`Namespaces::paths`] were looked up.
    pub mount_ns: Option<u64>,
    /// What is behind the leases' paths.
    pub paths: BTreeMap<String, Found>,
    /// Numbers of those that a process, a mount or an open file holds.
    pub held: BTreeSet<u64>,
    /// Why `held` may lack some.
    pub gap: Option<String>,
}

/// What is behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// Device and inode.
    Inode(u64, u64),
    /// It could not be looked up.
    Unknown,
}

/// Everything that one container runtime knows.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Which runtime, for the reason.
    pub runtime: String,
    /// Its containers, by ID, running or not.
    pub containers: BTreeSet<String>,
}

/// What is concluded of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its container lives.
    Alive(String),
    /// Nobody uses it any more.
    Lost(String),
    /// Neither is certain.
    CannotTell(String),
}

/// What its namespace says of a lease.
enum Sign {
    Alive,
    Gone(String),
    /// The number is in use, by this namespace or by a later one.
    Held,
    Unknown(String),
}

/// Judges leases, one verdict for each.
pub fn judge(leases: &[Lease], evidence: &Evidence) -> Vec<Verdict> {
    // A runtime that knows none of them may not be theirs.
    let known = |lease: &Lease| listed(lease, evidence).is_some();
    let theirs = leases.iter().any(known);
    leases.iter().map(|lease| one(lease, theirs, evidence)).collect()
}

fn one(lease: &Lease, theirs: bool, evidence: &Evidence) -> Verdict {
    use Verdict::{Alive, CannotTell, Lost};
    if lease.node.machine.is_empty() || lease.node.machine != evidence.machine {
        return CannotTell(format!("made on another machine, node {:?}", lease.node.name));
    }
    let age = evidence.now.checked_sub(lease.time);
    if age.is_none_or(|age| age < evidence.grace) {
        return CannotTell(format!("younger than the grace period of {} s", evidence.grace));
    }
    let netns = netns(lease, evidence);
    match (&netns, listed(lease, evidence)) {
        (Sign::Alive, _) => return Alive("its network namespace is there".to_owned()),
        (_, Some(runtime)) => return Alive(format!("{runtime} knows its container")),
        (Sign::Gone(why), None) if evidence.by_netns => return Lost(why.clone()),
        (Sign::Held, None) => {
            return CannotTell("a network namespace of its number is still in use".to_owned());
        }
        _ => {}
    }
    let runtimes: Vec<&str> = evidence.listings.iter().map(|l| l.runtime.as_str()).collect();
    let runtimes = runtimes.join(" and ");
    match (evidence.listings.as_slice(), lease.attachment(), netns) {
        ([], _, Sign::Unknown(why)) => CannotTell(why),
        ([], ..) => CannotTell("nothing was asked that could tell".to_owned()),
        (_, None, _) => CannotTell("it names no container".to_owned()),
        _ if !theirs => CannotTell(format!(
            "{runtimes} knows none of these containers, so it may not be the runtime that made them"
        )),
        _ => Lost(format!("{runtimes} knows no such container")),
    }
}

/// The runtime that knows a lease's container.
fn listed<'e>(lease: &Lease, evidence: &'e Evidence) -> Option<&'e str> {
    let container = lease.attachment()?.container.as_str();
    let knows = |listing: &&Listing| listing.containers.contains(container);
    evidence.listings.iter().find(knows).map(|listing| listing.runtime.as_str())
}

fn netns(lease: &Lease, evidence: &Evidence) -> Sign {
    let unknown = |why: &str| Sign::Unknown(why.to_owned());
    let namespaces = &evidence.namespaces;
    let Some(Netns { path, inode, mount_ns }) = &lease.origin.netns else {
        return unknown("no network namespace was recorded with it");
    };
    if lease.boot.is_none() || lease.boot != evidence.boot {
        return unknown("made in another boot, whose namespaces have other numbers");
    }
    let Some((device, inode)) = *inode else {
        return unknown("its network namespace could not be opened when it was made");
    };
    let here = mount_ns.is_some() && *mount_ns == namespaces.mount_ns;
    let found = namespaces.paths.get(path).copied().unwrap_or(Found::Unknown);
    if here && found == Found::Inode(device, inode) {
        return Sign::Alive;
    }
    if namespaces.held.contains(&inode) {
        return Sign::Held;
    }
    if !here {
        return unknown("its network namespace was recorded from another mount namespace");
    }
    if let Some(gap) = &namespaces.gap {
        return Sign::Unknown(gap.clone());
    }
    match found {
        Found::Unknown => unknown("the path of its network namespace cannot be looked up"),
        Found::Nothing => Sign::Gone(format!("its network namespace {path} is gone")),
        Found::Inode(..) => Sign::Gone(format!("{path} is another network namespace now")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attachment, ContainerId, Kind, NetworkName, Node, Origin, Owner, SetName};

    fn lease() -> Lease {
        let attachment = Attachment {
            network: NetworkName::new("net").unwrap(),
            container: ContainerId::new("c1").unwrap(),
            ifname: None,
        };
        let addr = "10.0.0.2".parse().unwrap();
        let netns = Netns { path: "/run/netns/a".into(), inode: Some((4, 70)), mount_ns: Some(9) };
        Lease {
            set: SetName("net".into()),
            addr,
            prefix: 24,
            kind: Kind::Dynamic,
            owner: Owner::Attachment(attachment.clone()),
            range: addr,
            node: Node { name: "n".into(), machine: "m".into() },
            boot: Some(BootId("b".into())),
            origin: Origin {
                attachment: Some(attachment),
                netns: Some(netns),
                ..Origin::default()
            },
            time: 100,
            cooldown: 0,
        }
    }

    /// All that proves it lost.
    fn gone() -> Evidence {
        Evidence {
            now: 1000,
            grace: 60,
            machine: "m".into(),
            boot: Some(BootId("b".into())),
            namespaces: Namespaces {
                mount_ns: Some(9),
                paths: [("/run/netns/a".into(), Found::Nothing)].into(),
                ..Namespaces::default()
            },
            by_netns: true,
            listings: Vec::new(),
        }
    }

    fn verdict(lease: &Lease, evidence: &Evidence) -> Verdict {
        judge(std::slice::from_ref(lease), evidence).remove(0)
    }

    fn lost(lease: &Lease, evidence: &Evidence) -> bool {
        matches!(verdict(lease, evidence), Verdict::Lost(_))
    }

    #[test]
    fn every_missing_fact_speaks_for_the_lease() {
        type Change<T> = fn(&mut T);
        assert!(lost(&lease(), &gone()));
        let mut elsewhere = gone();
        let path = "/run/netns/a".to_owned();
        elsewhere.namespaces.paths.insert(path.clone(), Found::Inode(4, 71));
        assert!(lost(&lease(), &elsewhere), "another namespace has its path");

        let facts: [(&str, Change<Evidence>); 9] = [
            ("machine", |e| e.machine = "other".into()),
            ("no boot", |e| e.boot = None),
            ("boot", |e| e.boot = Some(BootId("c".into()))),
            ("mounts", |e| e.namespaces.mount_ns = Some(8)),
            ("no mounts", |e| e.namespaces.mount_ns = None),
            ("held", |e| e.namespaces.held = [70].into()),
            ("gap", |e| e.namespaces.gap = Some("no root".into())),
            ("paths", |e| e.namespaces.paths.clear()),
            ("clock", |e| e.now = 99),
        ];
        for (about, change) in facts {
            let mut evidence = gone();
            change(&mut evidence);
            assert!(!lost(&lease(), &evidence), "{about}");
        }
        let mut evidence = gone();
        evidence.namespaces.paths.insert(path, Found::Unknown);
        assert!(!lost(&lease(), &evidence), "unreadable");
        for now in [100, 159] {
            assert!(!lost(&lease(), &Evidence { now, ..gone() }), "young");
        }
        assert!(lost(&lease(), &Evidence { now: 160, ..gone() }));
        let records: [(&str, Change<Lease>); 5] = [
            ("no machine", |l| l.node.machine.clear()),
            ("no boot", |l| l.boot = None),
            ("no netns", |l| l.origin.netns = None),
            ("not opened", |l| l.origin.netns.as_mut().unwrap().inode = None),
            ("no mounts", |l| l.origin.netns.as_mut().unwrap().mount_ns = None),
        ];
        for (about, change) in records {
            let mut lease = lease();
            change(&mut lease);
            assert!(!lost(&lease, &gone()), "{about}");
        }
    }

    #[test]
    fn a_runtime_that_knows_none_of_them_proves_nothing() {
        let listing = |ids: &[&str]| Listing {
            runtime: "docker".into(),
            containers: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let mut evidence = Evidence { by_netns: false, ..gone() };
        assert!(!lost(&lease(), &evidence), "nothing was asked");
        evidence.listings = vec![listing(&["stranger"])];
        assert!(!lost(&lease(), &evidence));
        let other = Lease {
            origin: Origin {
                attachment: Some(Attachment {
                    container: ContainerId::new("c2").unwrap(),
                    ..lease().attachment().unwrap().clone()
                }),
                ..Origin::default()
            },
            owner: Owner::Id("c2".into()),
            ..lease()
        };
        evidence.listings = vec![listing(&["c2"])];
        let verdicts = judge(&[lease(), other], &evidence);
        assert!(matches!(verdicts[0], Verdict::Lost(_)), "{verdicts:?}");
        assert!(matches!(verdicts[1], Verdict::Alive(_)), "{verdicts:?}");
        // What the runtime knows is not freed for its namespace.
        evidence = Evidence { listings: vec![listing(&["c1"])], ..gone() };
        assert!(matches!(verdict(&lease(), &evidence), Verdict::Alive(_)));
        // Nor is what has its namespace, whatever a runtime says.
        evidence.listings = vec![listing(&["c2"])];
        evidence.namespaces.paths.insert("/run/netns/a".into(), Found::Inode(4, 70));
        assert!(matches!(verdict(&lease(), &evidence), Verdict::Alive(_)));
    }
}
