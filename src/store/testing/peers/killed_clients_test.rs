//! Tests in which clients of real servers are killed before or after their transactions arrive. Each client
//! records a history: which address its containers held, and when. The tests check these histories.
//!
//! Every command has its own store, as in a separate process. Some transactions are lost, some get no
//! response, and some arrive late. Some clients are killed: a killed client sends nothing more and leaves its
//! in-flight note (a file that says that a transaction may be pending). Afterwards, another process repeats
//! the command or runs the opposite command. The histories are sound if no two containers held an address at
//! the same time, and if exactly the addresses held at the end have leases.
//!
//! Control runs omit the comparisons, the fence or the nonce of the protocol. Their histories must be
//! unsound, which proves that the checks find faults.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::contract::{add, at, del, leases, set};
use super::linearizability_test::{Held, doubly_held, wait};
use super::servers;
use crate::alloc::{Command, Context, Outcome};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Face, Node, Persist};
use crate::net::Addr;
use crate::store::Store;
use crate::store::cluster::check::assert_sound;
use crate::store::cluster::consul::Consul;
use crate::store::cluster::etcd::Etcd;
use crate::store::cluster::server::{
    Commit, Entries, Entry, Expect, KeyRange, Operation, Server, Write,
};
use crate::store::cluster::{ClusterStore, LocalCache, keys};

const CLIENTS: u64 = 12;
/// How long a late transaction takes to arrive. [`UNANSWERED`] is how long a client waits for a response that
/// never comes.
const LATE: Duration = Duration::from_millis(40);
const UNANSWERED: Duration = Duration::from_millis(8);

/// The part of the cluster protocol that a control run omits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// Transactions compare nothing.
    Compare,
    /// Transactions do not compare the node's record. A fence, which writes that record, therefore has no
    /// effect.
    Fence,
    /// A client assumes that its transaction was applied if there is any record at the paths of the
    /// transaction. It does not check whether its own transaction wrote the record.
    Nonce,
}

/// A connection between a server and a client that may be killed.
struct Network<S> {
    server: S,
    /// The connection that applies a transaction after its sender was killed.
    late: Cell<Option<S>>,
    without: Without,
    chance: u64,
    is_killed: Cell<bool>,
    /// The nonce of the client's transaction that got no response. Used in the control run without nonces.
    unanswered: Cell<Option<[u8; 16]>>,
}

impl<S: Server> Network<S> {
    fn alive(&self) -> Result<(), StoreError> {
        let killed = || StoreError::unavailable("reach", self.server.place(), "killed");
        if self.is_killed.get() { Err(killed()) } else { Ok(()) }
    }

    fn stripped(&self, operations: &[Operation]) -> Vec<Operation> {
        let is_kept = |operation: &&Operation| match self.without {
            Without::Fence => {
                operation.write != Write::Keep || !operation.path.starts_with(keys::NODE)
            }
            Without::Compare => operation.write != Write::Keep,
            Without::Nothing | Without::Nonce => true,
        };
        let mut kept: Vec<Operation> = operations.iter().filter(is_kept).cloned().collect();
        if self.without == Without::Compare {
            for operation in &mut kept {
                operation.expect = Expect::Anything;
            }
        }
        kept
    }

    /// Waits, and returns the outcome that a client gets if the server does not respond.
    fn unanswered(&self, operations: &[Operation]) -> Commit {
        let nonce = operations.iter().find_map(|operation| match &operation.write {
            Write::Put(value) => value.first_chunk().copied(),
            _ => None,
        });
        self.unanswered.set(nonce);
        wait(u64::try_from(UNANSWERED.as_millis()).unwrap());
        Commit::Unknown(StoreError::unavailable("commit to", self.server.place(), "no answer"))
    }
}

impl<S: Server + Send + 'static> Server for Network<S> {
    fn place(&self) -> String {
        self.server.place()
    }

    fn max_operations(&self) -> usize {
        self.server.max_operations()
    }

    fn get(&self, paths: &[&str], until: Instant) -> Result<Entries, StoreError> {
        self.alive()?;
        let mut found = self.server.get(paths, until)?;
        if let (Without::Nonce, Some(nonce)) = (self.without, self.unanswered.get()) {
            for entry in found.values_mut().flatten() {
                entry.value[..16].copy_from_slice(&nonce);
            }
        }
        Ok(found)
    }

    fn list(&self, prefix: &str, until: Instant) -> Result<BTreeMap<String, Entry>, StoreError> {
        self.alive()?;
        self.server.list(prefix, until)
    }

    fn count(
        &self,
        folder: &str,
        ranges: &[KeyRange],
        until: Instant,
    ) -> Result<Vec<u64>, StoreError> {
        self.alive()?;
        self.server.count(folder, ranges, until)
    }

    fn commit(&self, operations: &[Operation], until: Instant) -> Result<Commit, StoreError> {
        self.alive()?;
        let sent = self.stripped(operations);
        let is_node = operations.iter().all(|operation| operation.path.starts_with(keys::NODE));
        let (what, kills) = (self.chance % 40, !self.chance.is_multiple_of(3));
        match what {
            _ if is_node => return self.server.commit(&sent, until),
            0 => {}
            1 => drop(self.server.commit(&sent, until)?),
            2 | 3 => {
                if let Some(server) = self.late.take() {
                    thread::spawn(move || {
                        wait(u64::try_from(LATE.as_millis()).unwrap());
                        drop(server.commit(&sent, Instant::now() + Duration::from_secs(20)));
                    });
                }
            }
            _ => return self.server.commit(&sent, until),
        }
        self.is_killed.set(kills);
        Ok(self.unanswered(operations))
    }
}

/// A client: its history, and how many of its commands got a response and how many did not.
struct Client<'a, S, F: Fn() -> S> {
    make: &'a F,
    without: Without,
    folder: &'a Path,
    number: u64,
    chance: u64,
    history: Vec<Held>,
    answered: usize,
    unanswered: usize,
}

impl<S: Server + Send + 'static, F: Fn() -> S> Client<'_, S, F> {
    fn next(&mut self) -> u64 {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        self.chance >> 33
    }

    /// Runs a command in its own store, as a separate process. Returns `None` if the command got no response.
    fn apply(&mut self, command: &Command) -> Option<Result<Outcome, Error>> {
        let network = Network {
            server: (self.make)(),
            late: Cell::new(Some((self.make)())),
            without: self.without,
            chance: self.next(),
            is_killed: Cell::new(false),
            unanswered: Cell::new(None),
        };
        let name = format!("node-{}", self.number);
        // There are two clients on each node.
        let node = Node { name: format!("node-{}", self.number / 2), machine: name };
        let cx = Context {
            node: Node { machine: format!("m-{}", self.number / 2), ..node },
            seed: self.next(),
            face: Face::Cni,
            ..at(1)
        };
        let cache = LocalCache::new(self.folder, "cluster".to_owned());
        let limit = Duration::from_secs(20);
        let done = ClusterStore::new(network, limit, Persist::Boot, cache).apply(command, &cx);
        match done {
            Err(Error::Store(e)) => {
                assert!(!matches!(e, StoreError::BadRecord { .. }), "{e}");
                self.unanswered += 1;
                None
            }
            known => {
                self.answered += 1;
                Some(known)
            }
        }
    }

    /// Deletes a container. Repeats the DEL until there is a response.
    fn delete(&mut self, name: &str) {
        loop {
            match self.apply(&del(name)) {
                Some(Ok(Outcome::Freed(_))) => return,
                None => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Leases an address for a container. Repeats the ADD until there is a response. If `may_give_up` is set,
    /// it may instead delete the container after a failed ADD. Returns false if the container certainly has
    /// no lease.
    fn lease(&mut self, name: &str, may_give_up: bool) -> bool {
        loop {
            match self.apply(&Command::Add(add(name, &[set("10.0.0.0/27")]))) {
                Some(Ok(Outcome::Added(added))) => {
                    let addr = added.grants[0].addr;
                    self.history.push(Held { addr, from: Instant::now(), to: None });
                    return true;
                }
                Some(Err(Error::Refused(Refusal::Exhausted { .. }))) => return false,
                None if may_give_up && self.next().is_multiple_of(2) => {
                    self.delete(name);
                    return false;
                }
                None => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn work(&mut self, stop: &AtomicBool) {
        let mut round = 0;
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let name = format!("c-{}-{round}", self.number);
            if !self.lease(&name, true) {
                continue;
            }
            loop {
                let millis = self.next() % 8;
                wait(millis);
                // The last container keeps its address. At the end, the test checks that this address has a
                // lease.
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                self.history.last_mut().unwrap().to = Some(Instant::now());
                if self.apply(&del(&name)).is_some() {
                    break;
                }
                // Sometimes the container is added again, although its DEL got no response.
                if self.next().is_multiple_of(2) && self.lease(&name, false) {
                    continue;
                }
                self.delete(&name);
                break;
            }
        }
    }
}

/// Runs the clients for `millis` milliseconds, and checks their histories. Returns how many commands got a
/// response and how many did not. If the histories are unsound, returns the reason.
fn run<S: Server + Send + 'static>(
    make: &(impl Fn() -> S + Sync),
    without: Without,
    millis: u64,
) -> Result<(usize, usize), String> {
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let work = |number| {
        let (history, chance) = (Vec::new(), number * 0x9e37_79b9 + 7);
        let folder = folder.path();
        let (answered, unanswered) = (0, 0);
        let mut client =
            Client { make, without, folder, number, chance, history, answered, unanswered };
        let done = catch_unwind(AssertUnwindSafe(|| client.work(&stop)));
        let ended = done.map_err(|panic| format!("a client ended early: {panic:?}"));
        ended.map(|()| (client.history, client.answered, client.unanswered))
    };
    let clients = thread::scope(|scope| {
        let work = &work;
        let clients: Vec<_> =
            (0..CLIENTS).map(|number| scope.spawn(move || work(number))).collect();
        wait(millis);
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Result<Vec<_>, _>>()
    })?;
    // Wait until the late transactions have arrived.
    wait(200);
    let (mut history, mut answered, mut unanswered) = (Vec::new(), 0, 0);
    for client in clients {
        history.extend(client.0);
        answered += client.1;
        unanswered += client.2;
    }
    let twice = doubly_held(&history);
    if !twice.is_empty() {
        return Err(format!("{twice:?} had two holders"));
    }
    let cache = LocalCache::new(folder.path(), "cluster".to_owned());
    let store = ClusterStore::new(make(), Duration::from_secs(20), Persist::Boot, cache);
    let found = catch_unwind(AssertUnwindSafe(|| {
        assert_sound(&make());
        leases(&mut { store })
    }));
    let found = found.map_err(|_| "records contradict each other".to_owned())?;
    let mut kept: Vec<Addr> =
        history.iter().filter(|held| held.to.is_none()).map(|held| held.addr).collect();
    kept.sort();
    let leased: Vec<Addr> = found.iter().map(|lease| lease.addr).collect();
    let agrees = kept == leased;
    agrees.then_some((answered, unanswered)).ok_or(format!("held {kept:?}, leased {leased:?}"))
}

/// Runs clients and checks that their histories are sound, and that the histories of the control runs are
/// unsound. `make` makes a client of a server, with a prefix for its keys.
fn judge<S: Server + Send + 'static>(make: impl Fn(&str) -> S + Sync) {
    let (answered, unanswered) = run(&|| make("sound"), Without::Nothing, 10_000).unwrap();
    assert!(answered > 300 && unanswered > 20, "{answered} answers, {unanswered} without one");
    for without in [Without::Compare, Without::Fence, Without::Nonce] {
        let verdict = (0..5).map(|round| {
            let prefix = format!("control-{without:?}-{round}");
            run(&|| make(&prefix), without, 2000)
        });
        let verdicts: Vec<_> = verdict.take_while(Result::is_ok).collect();
        assert!(verdicts.len() < 5, "without {without:?} every history is sound: {verdicts:?}");
    }
}

#[test]
fn histories_on_etcd_are_sound() {
    let server = servers::ready_etcd();
    judge(|prefix| Etcd::new(&server.etcd(prefix)).unwrap());
}

#[test]
fn histories_on_consul_are_sound() {
    let server = servers::ready_consul();
    judge(|prefix| Consul::new(&server.consul(prefix)).unwrap());
}
