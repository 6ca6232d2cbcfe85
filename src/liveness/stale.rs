//! Decides from the evidence which leases are stale, that is, whose containers are gone.
//!
//! A container is provably gone in two cases. First, its network namespace, identified by its inode and not
//! just by its path, is gone. This is checked only on the machine, in the boot and in the mount namespace in
//! which the namespace was recorded. Second, the container runtime does not list the container.
//! Invariant: if a fact is missing, the lease stays. The evidence is gathered after the lease is read, and
//! the lease is freed only if it has not changed since it was read. Therefore an ADD that happens in the
//! meantime keeps its lease. The only exception is a container that comes back at that very moment with the
//! same ID, and with a network namespace that has the same path and inode.

use std::collections::{BTreeMap, BTreeSet};

use crate::alloc::Context;
use crate::error::shown_network;
use crate::model::{Kind, Lease, Netns, Owner};

/// The evidence about the leases of a machine.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The current time, this machine, and this boot.
    pub cx: Context,
    /// The grace period, in seconds. Leases younger than this are not examined, because their containers may
    /// still be starting.
    pub grace: u64,
    /// The network namespaces of this machine.
    pub namespaces: Namespaces,
    /// Whether a missing network namespace alone is proof that the container is gone.
    pub by_netns: bool,
    /// The containers of each container runtime that was queried.
    pub listings: Vec<Listing>,
}

/// The network namespaces of this machine.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// The mount namespace in which [`Namespaces::paths`] were looked up.
    pub mount_ns: Option<u64>,
    /// The state of each path that a lease records.
    pub paths: BTreeMap<String, PathState>,
    /// The inode numbers of the namespaces that a process, a mount or an open file holds.
    pub held: BTreeSet<u64>,
    /// The reason why `held` may be incomplete; `None` if it is complete.
    pub gap: Option<String>,
}

impl Namespaces {
    /// Returns why the network namespace at a path is gone. Returns `None` if the namespace exists, if this
    /// cannot be determined, or if the path was not looked up.
    pub fn gone(&self, path: &str) -> Option<String> {
        match self.paths.get(path)? {
            PathState::Missing => Some(format!("the container's network namespace {path} is gone")),
            PathState::Inode(_, inode) if self.gap.is_none() && !self.held.contains(inode) => {
                Some(format!("{path} is not a network namespace"))
            }
            PathState::Inode(..) | PathState::Unknown => None,
        }
    }
}

/// What was found at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// Nothing exists at the path.
    Missing,
    /// A file with this device and inode exists at the path.
    Inode(u64, u64),
    /// The path could not be looked up.
    Unknown,
}

/// All containers of one runtime.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// The name of the runtime, for messages.
    pub runtime: String,
    /// The IDs of the runtime's containers, including stopped containers.
    pub containers: BTreeSet<String>,
}

/// The state of a lease's container, with the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// The container exists.
    Alive(String),
    /// The container is gone.
    Stale(String),
    /// It cannot be determined whether the container exists.
    Unknown(String),
}

/// The conclusion about a lease's container, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// `running`, `gone` or `unknown`; `None` if the lease is not for a container.
    pub container: Option<&'static str>,
    /// The evidence for the conclusion.
    pub reason: Option<&'a str>,
    /// The suggested next command, which is safe to run; `None` if there is nothing to do.
    pub next: Option<String>,
}

impl Liveness {
    /// Returns the conclusion for a lease that was assessed with this result.
    pub fn verdict(&self, lease: &Lease) -> Verdict<'_> {
        let (container, reason) = match self {
            Liveness::Alive(why) => ("running", why),
            Liveness::Stale(why) => ("gone", why),
            Liveness::Unknown(why) => ("unknown", why),
        };
        let network = shown_network(lease);
        let is_pool = matches!(lease.owner, Owner::Pool(..));
        let next = match (lease.kind, self) {
            (Kind::Reserved, _) => Some(format!("sublet unreserve {network} {}", lease.addr)),
            (Kind::Gateway | Kind::Aux, _) => None,
            _ if is_pool => Some("subletd cleanup --dry-run".to_owned()),
            (_, Liveness::Alive(_)) => None,
            (_, Liveness::Stale(_)) => Some(format!("sublet gc --network {network}")),
            (_, Liveness::Unknown(_)) => Some(format!("sublet gc --dry-run --network {network}")),
        };
        let is_container = lease.kind.collectable() && !is_pool;
        Verdict {
            container: is_container.then_some(container),
            reason: is_container.then_some(reason.as_str()),
            next,
        }
    }
}

/// The state of a lease's network namespace.
enum NetnsState {
    Alive,
    Gone(String),
    /// A network namespace with the recorded inode number exists. It may be the recorded namespace, or a
    /// later namespace to which the kernel gave the same number.
    Held,
    Unknown(String),
}

/// Returns for each lease whether its container exists.
pub fn assess(leases: &[Lease], evidence: &Evidence) -> Vec<Liveness> {
    // If the queried runtimes list none of these containers, another runtime may have created them, so the
    // missing entries prove nothing.
    let is_theirs = leases.iter().any(|lease| runtime_of(lease, evidence).is_some());
    leases.iter().map(|lease| assess_one(lease, is_theirs, evidence)).collect()
}

fn assess_one(lease: &Lease, is_theirs: bool, evidence: &Evidence) -> Liveness {
    use Liveness::{Alive, Stale, Unknown};
    if lease.node.machine.is_empty() || lease.node.machine != evidence.cx.node.machine {
        return Unknown(format!(
            "the address was leased on another machine (node {:?})",
            lease.node.name
        ));
    }
    let age = evidence.cx.now.checked_sub(lease.time);
    if age.is_none_or(|age| age < evidence.grace) {
        return Unknown(format!(
            "the lease is younger than the grace period of {} s",
            evidence.grace
        ));
    }
    let netns = netns_state(lease, evidence);
    let runtimes: Vec<&str> = evidence.listings.iter().map(|l| l.runtime.as_str()).collect();
    let runtimes = runtimes.join(" or ");
    match (&netns, runtime_of(lease, evidence)) {
        (_, Some(runtime)) => return Alive(format!("{runtime} lists the container")),
        (NetnsState::Alive, None) if is_theirs && lease.attachment().is_some() => {
            return Unknown(format!(
                "the container is not listed by {runtimes}, but the container's network namespace still \
                 exists"
            ));
        }
        (NetnsState::Alive, None) => {
            return Alive("the container's network namespace exists".to_owned());
        }
        (NetnsState::Gone(why), None) if evidence.by_netns => return Stale(why.clone()),
        (NetnsState::Held, None) => {
            return Unknown(
                "a network namespace with the inode of the container's network namespace is still \
                 in use"
                    .to_owned(),
            );
        }
        _ => {}
    }
    match (evidence.listings.as_slice(), lease.attachment(), netns) {
        ([], _, NetnsState::Unknown(why)) => Unknown(why),
        ([], ..) => Unknown("no evidence was requested".to_owned()),
        (_, None, _) => Unknown("the lease names no container".to_owned()),
        _ if !is_theirs => Unknown(format!(
            "none of the containers with leases is listed by {runtimes}, so the containers may belong to \
             another runtime"
        )),
        _ => Stale(format!("the container is not listed by {runtimes}")),
    }
}

/// Returns the name of the runtime that lists a lease's container.
fn runtime_of<'e>(lease: &Lease, evidence: &'e Evidence) -> Option<&'e str> {
    let container = lease.attachment()?.container.as_str();
    let knows = |listing: &&Listing| listing.containers.contains(container);
    evidence.listings.iter().find(knows).map(|listing| listing.runtime.as_str())
}

fn netns_state(lease: &Lease, evidence: &Evidence) -> NetnsState {
    let unknown = |why: &str| NetnsState::Unknown(why.to_owned());
    let namespaces = &evidence.namespaces;
    let Some(Netns { path, inode, mount_ns }) = &lease.origin.netns else {
        return unknown("the lease records no network namespace");
    };
    if lease.boot.is_none() || lease.boot != evidence.cx.boot {
        return unknown(
            "the lease may be from an earlier boot, so the inode does not identify the container's network \
             namespace",
        );
    }
    let Some((device, inode)) = *inode else {
        return unknown(
            "the container's network namespace could not be opened when the address was leased",
        );
    };
    let here = mount_ns.is_some() && *mount_ns == namespaces.mount_ns;
    let found = namespaces.paths.get(path).copied().unwrap_or(PathState::Unknown);
    if here && found == PathState::Inode(device, inode) {
        return NetnsState::Alive;
    }
    if namespaces.held.contains(&inode) {
        return NetnsState::Held;
    }
    if !here {
        return unknown(
            "the container's network namespace was recorded in a different mount namespace",
        );
    }
    if let Some(gap) = &namespaces.gap {
        return NetnsState::Unknown(gap.clone());
    }
    match found {
        PathState::Unknown => {
            unknown("cannot look up the path of the container's network namespace")
        }
        PathState::Missing => {
            NetnsState::Gone(format!("the container's network namespace {path} is gone"))
        }
        PathState::Inode(..) => {
            NetnsState::Gone(format!("{path} now leads to a different network namespace"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Attachment, BootId, ContainerId, Kind, NetworkName, Node, Origin, Owner, SetName,
    };

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

    fn at(now: u64) -> Context {
        let Lease { node, boot, .. } = lease();
        Context { now, boot, node, ..Context::default() }
    }

    /// Returns evidence that the container of the test's lease is gone.
    fn gone() -> Evidence {
        Evidence {
            cx: at(1000),
            grace: 60,
            namespaces: Namespaces {
                mount_ns: Some(9),
                paths: [("/run/netns/a".into(), PathState::Missing)].into(),
                ..Namespaces::default()
            },
            by_netns: true,
            listings: Vec::new(),
        }
    }

    fn assess_lease(lease: &Lease, evidence: &Evidence) -> Liveness {
        assess(std::slice::from_ref(lease), evidence).remove(0)
    }

    fn is_stale(lease: &Lease, evidence: &Evidence) -> bool {
        matches!(assess_lease(lease, evidence), Liveness::Stale(_))
    }

    #[test]
    fn a_lease_is_not_stale_if_any_fact_is_missing() {
        type Change<T> = fn(&mut T);
        assert!(is_stale(&lease(), &gone()));
        let mut elsewhere = gone();
        let path = "/run/netns/a".to_owned();
        elsewhere.namespaces.paths.insert(path.clone(), PathState::Inode(4, 71));
        assert!(is_stale(&lease(), &elsewhere), "another namespace has its path");

        let facts: [(&str, Change<Evidence>); 9] = [
            ("machine", |e| e.cx.node.machine = "other".into()),
            ("no boot", |e| e.cx.boot = None),
            ("boot", |e| e.cx.boot = Some(BootId("c".into()))),
            ("mounts", |e| e.namespaces.mount_ns = Some(8)),
            ("no mounts", |e| e.namespaces.mount_ns = None),
            ("held", |e| e.namespaces.held = [70].into()),
            ("gap", |e| e.namespaces.gap = Some("no root".into())),
            ("paths", |e| e.namespaces.paths.clear()),
            ("clock", |e| e.cx.now = 99),
        ];
        for (about, change) in facts {
            let mut evidence = gone();
            change(&mut evidence);
            assert!(!is_stale(&lease(), &evidence), "{about}");
        }
        let mut evidence = gone();
        evidence.namespaces.paths.insert(path, PathState::Unknown);
        assert!(!is_stale(&lease(), &evidence), "unreadable");
        for now in [100, 159] {
            assert!(!is_stale(&lease(), &Evidence { cx: at(now), ..gone() }), "young");
        }
        assert!(is_stale(&lease(), &Evidence { cx: at(160), ..gone() }));
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
            assert!(!is_stale(&lease, &gone()), "{about}");
        }
    }

    #[test]
    fn a_runtime_that_knows_no_container_of_the_leases_proves_nothing() {
        let listing = |ids: &[&str]| Listing {
            runtime: "docker".into(),
            containers: ids.iter().map(|id| (*id).to_owned()).collect(),
        };
        let mut evidence = Evidence { by_netns: false, ..gone() };
        assert!(!is_stale(&lease(), &evidence), "no evidence");
        evidence.listings = vec![listing(&["stranger"])];
        assert!(!is_stale(&lease(), &evidence));
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
        let found = assess(&[lease(), other.clone()], &evidence);
        assert!(matches!(found[0], Liveness::Stale(_)), "{found:?}");
        assert!(matches!(found[1], Liveness::Alive(_)), "{found:?}");
        // A container that the runtime lists is alive, even if its network namespace is gone.
        evidence = Evidence { listings: vec![listing(&["c1"])], ..gone() };
        assert!(matches!(assess_lease(&lease(), &evidence), Liveness::Alive(_)));
        // If the runtime lists none of the containers, a container whose network namespace exists is alive.
        evidence.listings = vec![listing(&["c2"])];
        evidence.namespaces.paths.insert("/run/netns/a".into(), PathState::Inode(4, 70));
        assert!(matches!(assess_lease(&lease(), &evidence), Liveness::Alive(_)));
        // The runtime lists the container `c2`, but not the container of the first lease. That container's
        // network namespace still exists and may be in use, so the container's state is unknown.
        let found = assess(&[lease(), other], &evidence);
        assert!(matches!(&found[0], Liveness::Unknown(why) if why.contains("still exists")));
    }
}
