//! Checks a store through the library, without running the program. This module contains the conditions that
//! every store must meet. The tests use the network that `lab::conf` defines.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Once;
use std::time::Duration;

use sublet::alloc::{
    Add, Collected, Command, Context, Cooldown, Del, Gc, Legacy, OnDuplicate, Outcome, Reserve,
    Strategy, Target,
};
use sublet::error::Error;
use sublet::model::{
    Attachment, BootId, ContainerId, History, IfName, Kind, Lease, NetworkName, Origin, Owner,
    Persist, SetName, StoreSpec, Wait,
};
use sublet::net::{Addr, Range, RangeSet, RangeSpec};
use sublet::store::Store;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs code in which redb may panic. The store catches the panic. This function prevents the panic message
/// from being printed.
pub fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        sublet::sys::panic::record();
        let record = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            record(info);
            // The message of a panic in the test itself is still printed.
            let ours = info.location().is_some_and(|l| l.file().starts_with("tests/"));
            if ours || !QUIET.get() {
                loud(info);
            }
        }));
    });
    QUIET.set(true);
    let answer = work();
    QUIET.set(false);
    answer
}

/// The subnet from which the tests lease all addresses.
pub const SUBNET: &str = "10.4.0.0/16";

/// The address of each container, by container ID.
pub type Leases = BTreeMap<String, String>;

/// The expected content of a store: the leases that callers have received. For some containers, it is unknown
/// whether they have a lease, because a call for them did not finish.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Truth {
    pub acknowledged: Leases,
    pub open: BTreeSet<String>,
    pub reserved: usize,
}

/// Opens the store whose path is `file`.
pub fn open(file: &Path, persist: Persist) -> Box<dyn Store> {
    let spec = StoreSpec::Embedded {
        path: file.to_owned(),
        persist,
        // `Wait::Try` could fail, because another test may start a child process at this moment. Until the
        // child executes its program, it also holds the locks of this process.
        wait: Wait::For(Duration::from_secs(10)),
        history: History::default(),
    };
    sublet::store::open(&spec).unwrap()
}

/// Returns a context with the boot ID and the machine-id of this machine, as the real program would use.
pub fn now() -> Context {
    sublet::sys::host::facts(&|_| None).context()
}

/// Returns a context with the machine-id of this machine, but with another boot ID.
pub fn rebooted() -> Context {
    Context { boot: Some(BootId("another".to_owned())), ..now() }
}

fn set() -> SetName {
    SetName("mynet".to_owned())
}

fn network() -> NetworkName {
    NetworkName::new("mynet").unwrap()
}

fn owner(container: &str) -> Attachment {
    Attachment {
        network: network(),
        container: ContainerId::new(container).unwrap(),
        ifname: Some(IfName::new("eth0").unwrap()),
    }
}

pub fn add(container: &str) -> Command {
    let spec = RangeSpec::of(SUBNET.parse().unwrap());
    let sets = vec![RangeSet::new(vec![Range::new(&spec).unwrap()]).unwrap()];
    Command::Add(Add {
        set: set(),
        network: network(),
        owner: Owner::Attachment(owner(container)),
        sets,
        requested: vec![],
        strategy: Strategy::RoundRobin,
        cooldown: Cooldown::default(),
        sticky: false,
        on_duplicate: OnDuplicate::Same,
        claim_gateways: false,
        origin: Origin { attachment: Some(owner(container)), ..Origin::default() },
        statics: Vec::new(),
        gone: Vec::new(),
        legacy: Legacy::Absent,
        define: None,
    })
}

pub fn del(container: &str) -> Command {
    let target = Target::Owner(Owner::Attachment(owner(container)));
    Command::Del(Del { set: set(), target, rewind: false, undo: false, legacy: None })
}

/// Returns a command that reserves `count` addresses. The first address has the offset `from` in the subnet.
pub fn reserve(from: u32, count: u32) -> Command {
    let base = 10 << 24 | 4 << 16;
    let addr = |n: u32| std::net::IpAddr::from(std::net::Ipv4Addr::from(base + n));
    let addrs = (from..from + count).map(|n| addr(n).to_string().parse().unwrap()).collect();
    Command::Reserve(Reserve { set: set(), addrs, note: None, holder: None, name: None })
}

/// Runs an ADD. Returns its address, or an error text if the ADD fails.
pub fn given(store: &mut dyn Store, container: &str, cx: &Context) -> Result<Addr, String> {
    match store.apply(&add(container), cx) {
        Ok(Outcome::Added(added)) => Ok(added.grants[0].addr),
        other => Err(format!("ADD {container}: {other:?}")),
    }
}

pub fn list(store: &mut dyn Store, cx: &Context) -> Result<Vec<Lease>, Error> {
    let mut all = Vec::new();
    store.list(cx, &mut |lease| all.push(lease))?;
    Ok(all)
}

/// Returns the container ID and the address of a lease. The container ID is empty if the lease has none.
pub fn row(lease: &Lease) -> (String, String) {
    let container = lease.attachment().map(|a| a.container.as_str().to_owned());
    (container.unwrap_or_default(), lease.addr.to_string())
}

/// Checks that the store can be opened, has the expected content, and can lease and free addresses. At the
/// end, the store is empty.
pub fn store(file: &Path, persist: Persist, cx: &Context, truth: &Truth) -> Result<(), String> {
    let store = &mut *open(file, persist);
    let leases = list(store, cx).map_err(|e| format!("list: {e}"))?;
    let rows: Vec<_> = leases.iter().filter(|l| l.kind != Kind::Reserved).map(row).collect();
    let held: Leases = rows.iter().cloned().collect();
    let addresses: BTreeSet<Addr> = leases.iter().map(|l| l.addr).collect();
    if held.len() != rows.len() || addresses.len() != leases.len() {
        return Err(format!("one lease is listed twice: {rows:?}"));
    }
    if leases.len() - rows.len() != truth.reserved {
        return Err(format!("{} reservations of {}", leases.len() - rows.len(), truth.reserved));
    }
    for (container, address) in &truth.acknowledged {
        if !truth.open.contains(container) && held.get(container) != Some(address) {
            return Err(format!("{container} has lost {address}: {rows:?}"));
        }
    }
    for (container, address) in &held {
        let known = truth.acknowledged.get(container);
        if known.is_some_and(|a| a != address) || known.is_none() && !truth.open.contains(container)
        {
            return Err(format!("{container} must not have {address}: {rows:?}"));
        }
    }
    // A repeated ADD must return the existing lease, and a new ADD a free address.
    if let Some((container, address)) = held.iter().next() {
        let again = given(store, container, cx)?;
        if again.to_string() != *address {
            return Err(format!("{container} had {address} and gets {again}"));
        }
    }
    let new = given(store, "probe", cx)?;
    if addresses.contains(&new) {
        return Err(format!("{new} is given twice: {rows:?}"));
    }
    let all = Gc { set: set(), network: network(), valid: [].into(), after: None };
    match store.apply(&Command::Gc(all), cx) {
        Ok(Outcome::Collected(Collected { freed, done: true, .. }))
            if freed.len() == rows.len() + 1 => {}
        other => return Err(format!("freeing {} leases and one: {other:?}", rows.len())),
    }
    match list(store, cx) {
        Ok(rest) if rest.len() == truth.reserved => Ok(()),
        rest => Err(format!("all was freed, and there is {rest:?}")),
    }
}
