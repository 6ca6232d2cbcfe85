//! A compare-and-set server with Consul's limits, and a store over it.
//!
//! Owns: the proof that the seam carries a cluster. The server knows keys, versions, transactions
//! of at most 64 operations that happen whole or not at all, and listing by prefix; it counts round
//! trips, and on request another client gets in between, commits conflict at random, or are lost
//! before or after they are done.
//! The store answers the allocator with assumptions and learns from conflicts, as etcd and Consul
//! will: address keys are the truth, owner keys make an ADD repeatable, both in one transaction.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Store;
use crate::alloc::{
    self, Change, Command, Context, Cooling, Definition, Holder, Order, Outcome, PodKey, View,
};
use crate::error::{Error, StoreError};
use crate::model::{Lease, NetworkName, Owner, Pool, PoolId, SetName};
use crate::net::{Addr, Family, Span, Subnet};

/// Operations of one transaction (Consul 1.8).
const LIMIT: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// Set, /24 or /120, address: what a listing by prefix covers is the /24.
    Ip(SetName, u128, Addr),
    Own(SetName, Owner),
    Cursor(SetName, Addr),
    Sticky(SetName, PodKey, Addr),
    Pool(PoolId),
    /// All pools of a space: who makes one compares them all.
    Space(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Lease(Box<Lease>),
    Cooling(Cooling),
    /// All of an owner's leases: one look answers a DEL or a repeated ADD.
    Own(Vec<Lease>),
    Addr(Addr),
    Pool(Pool),
    Pools(Vec<Pool>),
}

fn ip(set: &SetName, addr: Addr) -> Key {
    Key::Ip(set.clone(), addr.bits() >> 8, addr)
}

type Version = u64;
type Entry = Option<(Version, Value)>;

/// The server.
#[derive(Default)]
pub struct Server {
    data: RefCell<BTreeMap<Key, (Version, Value)>>,
    version: Cell<Version>,
    /// Round trips so far.
    pub trips: Cell<usize>,
    /// Switched off, comparing is forgotten: the suite must notice.
    pub blind: Cell<bool>,
    /// Nonzero: the seed of a bad network. Commits conflict for no reason, are done without an
    /// answer, or are not done and not answered.
    pub trouble: Cell<u64>,
    /// Every commit is done and none is answered.
    pub mute: Cell<bool>,
    /// Runs once before the next commit: another client.
    pub intruder: RefCell<Option<Box<dyn FnOnce()>>>,
}

enum Commit {
    Done,
    Conflict(Vec<Key>),
    Lost,
}

impl Server {
    fn trip(&self) {
        self.trips.set(self.trips.get() + 1);
    }

    fn get(&self, keys: &[Key]) -> Vec<(Key, Entry)> {
        assert!(keys.len() <= LIMIT);
        self.trip();
        let data = self.data.borrow();
        keys.iter().map(|k| (k.clone(), data.get(k).cloned())).collect()
    }

    fn list(&self, belongs: impl Fn(&Key) -> bool) -> Vec<(Key, (Version, Value))> {
        self.trip();
        let data = self.data.borrow();
        data.iter().filter(|(k, _)| belongs(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    /// `compares`: the version a key must have; `writes`: what it becomes.
    fn commit(
        &self,
        compares: &BTreeMap<Key, Option<Version>>,
        writes: &BTreeMap<Key, Option<Value>>,
    ) -> Commit {
        let intruder = self.intruder.borrow_mut().take();
        if let Some(intruder) = intruder {
            intruder();
        }
        let keys: BTreeSet<&Key> = compares.keys().chain(writes.keys()).collect();
        assert!(keys.len() <= LIMIT, "{} operations", keys.len());
        self.trip();
        let trouble = self.next_trouble();
        match trouble {
            0 => return Commit::Conflict(compares.keys().cloned().collect()),
            1 => return Commit::Lost,
            _ => {}
        }
        let mut data = self.data.borrow_mut();
        let stale = |(key, version): (&Key, &Option<Version>)| {
            (data.get(key).map(|(v, _)| *v) != *version).then(|| key.clone())
        };
        let stale: Vec<Key> = compares.iter().filter_map(stale).collect();
        if !stale.is_empty() && !self.blind.get() {
            return Commit::Conflict(stale);
        }
        self.version.set(self.version.get() + 1);
        for (key, value) in writes {
            match value {
                Some(value) => data.insert(key.clone(), (self.version.get(), value.clone())),
                None => data.remove(key),
            };
        }
        if trouble == 2 || self.mute.get() { Commit::Lost } else { Commit::Done }
    }

    /// The next of the troubles: 0 a conflict, 1 not done, 2 not answered, else none.
    fn next_trouble(&self) -> u64 {
        match self.trouble.get() {
            0 => u64::MAX,
            seed => {
                let next = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                self.trouble.set(next.max(1));
                (next >> 33) % 8
            }
        }
    }
}

/// A store on such a server; one for each node.
pub struct FakeCas {
    server: Rc<Server>,
    /// What a GC listed, for its further steps. It may be out of date: the commits compare.
    listing: Option<Listing>,
}

type Owners = Rc<Vec<(Owner, Vec<Lease>)>>;
type Listing = (Owners, BTreeMap<Key, Entry>);

impl FakeCas {
    /// A node's store.
    pub fn new(server: Rc<Server>) -> FakeCas {
        FakeCas { server, listing: None }
    }
}

/// What one command knows, guesses and has used.
struct Knowledge<'a> {
    server: &'a Server,
    /// Read from the server, or told by a conflict.
    known: RefCell<BTreeMap<Key, Entry>>,
    /// Answered without looking: as absent.
    assumed: RefCell<BTreeSet<Key>>,
    /// /24s listed whole.
    chunks: RefCell<BTreeSet<(SetName, Family, u128)>>,
    /// A conflict has shown that guessing does not pay here.
    careful: Cell<bool>,
    owners: RefCell<Option<Owners>>,
}

impl Knowledge<'_> {
    /// The entry, or the assumption that there is none.
    fn guess(&self, key: Key) -> Entry {
        if let Some(entry) = self.known.borrow().get(&key) {
            return entry.clone();
        }
        let listed = match &key {
            Key::Ip(set, chunk, addr) => {
                self.chunks.borrow().contains(&(set.clone(), addr.family(), *chunk))
            }
            _ => false,
        };
        if !listed {
            self.assumed.borrow_mut().insert(key);
        }
        None
    }

    /// The entry, read if it is not known.
    fn read(&self, key: &Key) -> Entry {
        let known = self.known.borrow().get(key).cloned();
        known.unwrap_or_else(|| {
            self.learn(std::slice::from_ref(key));
            self.known.borrow().get(key).cloned().flatten()
        })
    }

    fn learn(&self, keys: &[Key]) {
        for some in keys.chunks(LIMIT) {
            for (key, entry) in self.server.get(some) {
                self.assumed.borrow_mut().remove(&key);
                self.known.borrow_mut().insert(key, entry);
            }
        }
    }

    fn list_chunk(&self, set: &SetName, family: Family, chunk: u128) {
        let id = (set.clone(), family, chunk);
        if self.chunks.borrow().contains(&id) {
            return;
        }
        let found = self.server.list(
            |k| matches!(k, Key::Ip(s, c, a) if s == set && *c == chunk && a.family() == family),
        );
        let mut known = self.known.borrow_mut();
        known.extend(found.into_iter().map(|(k, v)| (k, Some(v))));
        self.assumed.borrow_mut().retain(
            |k| !matches!(k, Key::Ip(s, c, a) if s == set && *c == chunk && a.family() == family),
        );
        self.chunks.borrow_mut().insert(id);
    }

    fn held(&self, set: &SetName, addr: Addr) -> bool {
        matches!(self.known.borrow().get(&ip(set, addr)), Some(Some(_)))
    }

    fn holder_of(entry: Entry) -> Holder {
        match entry {
            Some((_, Value::Lease(lease))) => Holder::Leased(lease),
            Some((_, Value::Cooling(cooling))) => Holder::Cooling(cooling),
            _ => Holder::Free,
        }
    }
}

impl View for Knowledge<'_> {
    fn holder(&self, set: &SetName, addr: Addr) -> Result<Holder, StoreError> {
        Ok(Self::holder_of(self.guess(ip(set, addr))))
    }

    fn of(&self, set: &SetName, owner: &Owner) -> Result<Vec<Lease>, StoreError> {
        let Some((version, Value::Own(leases))) = self.guess(Key::Own(set.clone(), owner.clone()))
        else {
            return Ok(Vec::new());
        };
        // Written in one transaction, so of one version; if not, the commit tells.
        for lease in &leases {
            let entry = Some((version, Value::Lease(Box::new(lease.clone()))));
            self.known.borrow_mut().entry(ip(set, lease.addr)).or_insert(entry);
        }
        Ok(leases)
    }

    fn cursor(&self, set: &SetName, range: Addr) -> Result<Option<Addr>, StoreError> {
        match self.read(&Key::Cursor(set.clone(), range)) {
            Some((_, Value::Addr(addr))) => Ok(Some(addr)),
            _ => Ok(None),
        }
    }

    fn next_free(
        &self,
        set: &SetName,
        span: Span,
        order: Order,
    ) -> Result<Option<Addr>, StoreError> {
        let family = span.first.family();
        let mut at = Some(span.first);
        while let Some(addr) = at.filter(|a| span.contains(*a)) {
            if order == Order::Ascending || self.careful.get() {
                self.list_chunk(set, family, addr.bits() >> 8);
            }
            if !self.held(set, addr) {
                // Free as far as is known; the commit compares.
                self.guess(ip(set, addr));
                return Ok(Some(addr));
            }
            at = addr.next();
        }
        Ok(None)
    }

    fn cooling(&self, _: &SetName, _: Family, _: usize) -> Result<Vec<Cooling>, StoreError> {
        // Cleared where they are met, not searched for.
        Ok(Vec::new())
    }

    fn first_cooling(
        &self,
        set: &SetName,
        family: Family,
        spans: &[Span],
    ) -> Result<Option<Cooling>, StoreError> {
        // Asked when nothing is free, so every chunk of the spans has been met.
        let of_spans = |(key, entry): (&Key, &Entry)| match (key, entry) {
            (Key::Ip(s, _, a), Some((_, Value::Cooling(c))))
                if s == set && a.family() == family && spans.iter().any(|s| s.contains(*a)) =>
            {
                Some(*c)
            }
            _ => None,
        };
        Ok(self.known.borrow().iter().filter_map(of_spans).min())
    }

    fn former(&self, set: &SetName, pod: &PodKey, range: Addr) -> Result<Option<Addr>, StoreError> {
        match self.read(&Key::Sticky(set.clone(), pod.clone(), range)) {
            Some((_, Value::Addr(addr))) => Ok(Some(addr)),
            _ => Ok(None),
        }
    }

    fn adopted(&self, _: &NetworkName) -> Result<bool, StoreError> {
        Ok(false)
    }

    fn defined(&self, _: &Definition) -> Result<bool, StoreError> {
        Ok(true)
    }

    fn definitions(&self) -> Result<Vec<Definition>, StoreError> {
        Ok(Vec::new())
    }

    fn page(
        &self,
        set: &SetName,
        after: Option<&Owner>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        if self.owners.borrow().is_none() {
            let mut owners: BTreeMap<Owner, Vec<Lease>> = BTreeMap::new();
            for (key, entry) in self.server.list(|k| matches!(k, Key::Ip(s, ..) if s == set)) {
                if let Value::Lease(lease) = &entry.1 {
                    owners.entry(lease.owner.clone()).or_default().push((**lease).clone());
                }
                self.known.borrow_mut().insert(key, Some(entry));
            }
            for (key, entry) in self.server.list(|k| matches!(k, Key::Own(s, _) if s == set)) {
                self.known.borrow_mut().insert(key, Some(entry));
            }
            *self.owners.borrow_mut() = Some(Rc::new(owners.into_iter().collect()));
        }
        let owners = self.owners.borrow();
        let owners = owners.as_deref().map_or(&[][..], |o| o);
        let from = after.map_or(0, |after| owners.partition_point(|(o, _)| o <= after));
        Ok(owners[from..].iter().take(limit).flat_map(|(_, leases)| leases.clone()).collect())
    }

    fn pool(&self, id: &PoolId) -> Result<Option<Pool>, StoreError> {
        Ok(match self.read(&Key::Pool(id.clone())) {
            Some((_, Value::Pool(pool))) => Some(pool),
            _ => None,
        })
    }

    fn overlapping(&self, space: &str, subnet: Subnet) -> Result<Option<Pool>, StoreError> {
        let mut pools = self.pools(space);
        pools.retain(|p| Span::from(p.subnet).overlaps(Span::from(subnet)));
        Ok(pools.into_iter().min_by_key(|p| p.subnet))
    }

    fn next_block(
        &self,
        space: &str,
        within: Subnet,
        len: u8,
        from: Addr,
    ) -> Result<Option<Subnet>, StoreError> {
        let pools = self.pools(space);
        let mut block = Subnet::masked(within.first(), len);
        while let Some(b) = block.filter(|b| within.contains(b.first())) {
            if b.first() >= from && !pools.iter().any(|p| p.subnet == b) {
                return Ok(Some(b));
            }
            block = b.last().next().and_then(|next| Subnet::masked(next, len));
        }
        Ok(None)
    }

    fn of_pool(
        &self,
        pool: &Pool,
        after: Option<Addr>,
        limit: usize,
    ) -> Result<Vec<Lease>, StoreError> {
        let set = pool.set();
        let first = self.page(&set, None, 0)?;
        debug_assert!(first.is_empty());
        let owners = self.owners.borrow();
        let hangs = |owner: &Owner| matches!(owner, Owner::Pool(id, at) if *id == pool.id && after.is_none_or(|a| *at > a));
        let all = owners.iter().flat_map(|o| o.iter()).filter(|(owner, _)| hangs(owner));
        Ok(all.flat_map(|(_, leases)| leases.clone()).take(limit).collect())
    }

    fn capacity(&self) -> usize {
        // A freed lease is two keys: its own and its owner's.
        LIMIT / 2
    }
}

impl Knowledge<'_> {
    fn pools(&self, space: &str) -> Vec<Pool> {
        match self.read(&Key::Space(space.to_owned())) {
            Some((_, Value::Pools(pools))) => pools,
            _ => Vec::new(),
        }
    }

    /// The space's pools with one of them written or gone; only a change of their number or place
    /// concerns those who make others.
    fn with_pool(&self, pool: &Pool, there: bool, writes: &mut BTreeMap<Key, Option<Value>>) {
        let mut pools = self.pools(&pool.space);
        if there && pools.iter().any(|p| p.id == pool.id) {
            return;
        }
        pools.retain(|p| p.id != pool.id);
        pools.extend(there.then(|| pool.clone()));
        let value = (!pools.is_empty()).then_some(Value::Pools(pools));
        writes.insert(Key::Space(pool.space.clone()), value);
    }

    fn writes(&self, changes: Vec<Change>, now: u64) -> BTreeMap<Key, Option<Value>> {
        let mut writes: BTreeMap<Key, Option<Value>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Put(lease) => {
                    let own = Key::Own(lease.set.clone(), lease.owner.clone());
                    let mut leases = self.owned(&own, &writes);
                    leases.retain(|l| l.addr != lease.addr);
                    leases.push(lease.clone());
                    leases.sort_by_key(|l| l.addr);
                    writes.insert(own, Some(Value::Own(leases)));
                    writes.insert(ip(&lease.set, lease.addr), Some(Value::Lease(Box::new(lease))));
                }
                Change::Free { lease, until } => {
                    let own = Key::Own(lease.set.clone(), lease.owner.clone());
                    let mut leases = self.owned(&own, &writes);
                    leases.retain(|l| l.addr != lease.addr);
                    writes.insert(own, (!leases.is_empty()).then_some(Value::Own(leases)));
                    let cooling = until.map(|until| {
                        Value::Cooling(Cooling { until, addr: lease.addr, freed: now })
                    });
                    writes.insert(ip(&lease.set, lease.addr), cooling);
                }
                Change::Thaw(set, cooling) => drop(writes.insert(ip(&set, cooling.addr), None)),
                Change::Cursor(set, range, addr) => {
                    writes.insert(Key::Cursor(set, range), Some(Value::Addr(addr)));
                }
                Change::Sticky(set, pod, range, addr) => {
                    writes.insert(Key::Sticky(set, pod, range), Some(Value::Addr(addr)));
                }
                Change::Define(_) | Change::Adopted(..) | Change::Released(_) => {}
                Change::PutPool(pool) => {
                    self.with_pool(&pool, true, &mut writes);
                    writes.insert(Key::Pool(pool.id.clone()), Some(Value::Pool(pool)));
                }
                Change::DropPool(pool) => {
                    self.with_pool(&pool, false, &mut writes);
                    writes.insert(Key::Pool(pool.id), None);
                }
            }
        }
        writes
    }

    fn owned(&self, own: &Key, writes: &BTreeMap<Key, Option<Value>>) -> Vec<Lease> {
        let known = self.known.borrow();
        let value = match writes.get(own) {
            Some(value) => value.as_ref(),
            None => known.get(own).and_then(|e| e.as_ref().map(|(_, v)| v)),
        };
        match value {
            Some(Value::Own(leases)) => leases.clone(),
            _ => Vec::new(),
        }
    }

    /// What the plan rests on: every lease and owner key that it writes or assumed. A hint (cursor,
    /// former address) is compared with nothing.
    fn compares(&self, writes: &BTreeMap<Key, Option<Value>>) -> BTreeMap<Key, Option<Version>> {
        let known = self.known.borrow();
        let pool = |k: &&Key| matches!(k, Key::Pool(_) | Key::Space(_));
        let used = writes.keys().filter(|k| matches!(k, Key::Ip(..) | Key::Own(..)) || pool(k));
        used.chain(self.assumed.borrow().iter())
            .chain(known.keys().filter(pool))
            .map(|k| (k.clone(), known.get(k).cloned().flatten().map(|(version, _)| version)))
            .collect()
    }
}

impl Store for FakeCas {
    fn apply(&mut self, command: &Command, cx: &Context) -> Result<Outcome, Error> {
        let (owners, known) = match (command, self.listing.take()) {
            (Command::Gc(gc), Some((owners, known))) if gc.after.is_some() => (Some(owners), known),
            _ => (None, BTreeMap::new()),
        };
        let mind = Knowledge {
            server: &self.server,
            known: RefCell::new(known),
            assumed: RefCell::default(),
            chunks: RefCell::default(),
            careful: Cell::new(false),
            owners: RefCell::new(owners),
        };
        for _ in 0..1000 {
            let plan = alloc::run(command, &mind, cx)?;
            if plan.changes.is_empty() {
                let assumed: Vec<Key> = mind.assumed.borrow().iter().cloned().collect();
                if assumed.is_empty() {
                    return plan.outcome.map_err(Error::Refused);
                }
                // Nothing guards this conclusion: look.
                mind.learn(&assumed);
                continue;
            }
            let writes = mind.writes(plan.changes, cx.now);
            let compares = mind.compares(&writes);
            match self.server.commit(&compares, &writes) {
                Commit::Done => {
                    let owners = mind.owners.into_inner();
                    self.listing = owners.map(|owners| (owners, mind.known.into_inner()));
                    return plan.outcome.map_err(Error::Refused);
                }
                Commit::Conflict(keys) => {
                    mind.careful.set(true);
                    mind.assumed.borrow_mut().clear();
                    mind.owners.borrow_mut().take();
                    mind.learn(&keys);
                }
                Commit::Lost => {
                    // It may have happened: everything is looked at anew.
                    mind.known.borrow_mut().clear();
                    mind.chunks.borrow_mut().clear();
                    mind.owners.borrow_mut().take();
                    let touched: BTreeSet<Key> =
                        compares.keys().chain(writes.keys()).cloned().collect();
                    let touched: Vec<Key> = touched.into_iter().collect();
                    mind.assumed.borrow_mut().clear();
                    mind.learn(&touched);
                    let known = mind.known.borrow();
                    let holds = |(key, value): (&Key, &Option<Value>)| {
                        known.get(key).cloned().flatten().map(|(_, v)| v) == *value
                    };
                    if writes.iter().all(holds) {
                        return plan.outcome.map_err(Error::Refused);
                    }
                }
            }
        }
        panic!("no end of conflicts");
    }

    fn list(&mut self, _: &Context, each: &mut dyn FnMut(Lease)) -> Result<(), StoreError> {
        let all = self.server.list(|_| true);
        let mut held = BTreeMap::new();
        for (_, (_, value)) in all {
            match value {
                Value::Lease(lease) => each(*lease),
                // An owner's key is as good as an address's: the two must agree.
                Value::Own(leases) => {
                    for lease in leases {
                        let before = held.insert((lease.set, lease.addr), lease.owner);
                        assert_eq!(before, None, "an address has two holders");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn pools(&mut self) -> Result<Vec<Pool>, StoreError> {
        let all = self.server.list(|k| matches!(k, Key::Pool(_)));
        let pool = |(_, (_, value))| match value {
            Value::Pool(pool) => Some(pool),
            _ => None,
        };
        Ok(all.into_iter().filter_map(pool).collect())
    }
}
