//! What an embedded store has to tell: all leases, the past, the counters.
//!
//! Owns: how the answers of the two files, and of the boot before, become one. Changes nothing.
//! Invariant: the addresses of a set come in their order; what is in both files comes once.

use std::collections::BTreeMap;

use super::Embedded;
use super::database;
use super::database::Looked;
use super::lock::Lock;
use super::{files, history, keys};
use crate::alloc::{Context, Holder, NetworkRanges, View};
use crate::error::StoreError;
use crate::model::{Counter, Event, Kind, Lease, SetName};
use crate::net::{Addr, Family};
use crate::store::{EachOccupied, EventFilter};

/// What is done with a file.
type Look<'a> = dyn FnMut(&Looked<'_>) -> Result<(), StoreError> + 'a;

/// Who has an address, beside the leases of the walk.
type Beside = BTreeMap<(SetName, Addr), Holder>;

impl Embedded {
    /// Looks at each of the files, and again if there is more work, under the locks of them all.
    fn look_around(&self, cx: &Context, works: &mut [&mut Look<'_>]) -> Result<(), StoreError> {
        self.patience.renew();
        let mut places = self.places(cx)?;
        // Locks have an order.
        places.sort_by_key(|place| place.path != *self.files.boot_leases());
        let lock = |path| files::lock_to_look(path, &self.patience);
        let locks: Vec<Lock> = places.iter().map(|p| lock(&p.path)).collect::<Result<_, _>>()?;
        for work in works {
            for (place, lock) in places.iter().zip(&locks) {
                database::look(&place.path, Some(lock), |tables| work(tables))?;
            }
        }
        Ok(())
    }

    /// Every lease.
    pub(super) fn walk_leases(
        &self,
        cx: &Context,
        each: &mut dyn FnMut(Lease),
    ) -> Result<(), StoreError> {
        self.walk(false, cx, &mut |_, _, holder| {
            if let Holder::Leased(lease) = holder {
                each(*lease);
            }
        })
    }

    /// Every address that nobody else can have.
    pub(super) fn walk_taken(
        &self,
        cx: &Context,
        each: &mut EachOccupied<'_>,
    ) -> Result<(), StoreError> {
        self.walk(true, cx, &mut |set, addr, holder| each(set, addr, &holder))
    }

    /// Every lease, and what cools if that is asked for. A reservation may be in both files; it comes
    /// where its address has its turn, as a cooling address does.
    fn walk(
        &self,
        cooling: bool,
        cx: &Context,
        each: &mut dyn FnMut(&SetName, Addr, Holder),
    ) -> Result<(), StoreError> {
        let beside = std::cell::RefCell::new(Beside::new());
        let mut first = |tables: &Looked<'_>| {
            let mut beside = beside.borrow_mut();
            if cooling {
                tables.coolings(&mut |set, cooling| {
                    beside.insert((set, cooling.addr), Holder::Cooling(cooling));
                })?;
            }
            tables.reserved(&mut |lease| {
                beside.insert((lease.set.clone(), lease.addr), Holder::Leased(Box::new(lease)));
            })
        };
        let mut second = |tables: &Looked<'_>| {
            let mut beside = beside.borrow_mut();
            let mut set: Option<SetName> = None;
            let mut send = |key: (SetName, Addr), holder| each(&key.0, key.1, holder);
            tables.leases(None, &mut |lease| {
                if lease.kind == Kind::Reserved {
                    return true;
                }
                let key = (lease.set.clone(), lease.addr);
                if !beside.is_empty() {
                    if let Some(before) = set.take().filter(|before| *before != lease.set) {
                        take_until(&mut beside, &before, None, &mut send);
                    }
                    take_until(&mut beside, &lease.set, Some(lease.addr), &mut send);
                    beside.remove(&key);
                    set = Some(lease.set.clone());
                }
                send(key, Holder::Leased(Box::new(lease)));
                true
            })?;
            if let Some(last) = set {
                take_until(&mut beside, &last, None, &mut send);
            }
            Ok(())
        };
        self.look_around(cx, &mut [&mut first, &mut second])?;
        beside.into_inner().into_iter().for_each(|((set, addr), holder)| each(&set, addr, holder));
        Ok(())
    }

    /// The networks' ranges. Where both files have a network's, the one counts that has its leases.
    pub(super) fn walk_networks(&self, cx: &Context) -> Result<Vec<NetworkRanges>, StoreError> {
        let mut all = BTreeMap::new();
        let mut look = |tables: &Looked<'_>| {
            use super::view::Kv;
            for definition in tables.networks()? {
                let here = tables.kv.get(&keys::home(&definition.set))?.is_some();
                if here || !all.contains_key(&definition.network) {
                    all.insert(definition.network.clone(), definition);
                }
            }
            Ok(())
        };
        self.look_around(cx, &mut [&mut look])?;
        Ok(all.into_values().collect())
    }

    /// What happened.
    pub(super) fn walk_history(
        &self,
        cx: &Context,
        filter: &mut EventFilter<'_>,
    ) -> Result<Vec<Event>, StoreError> {
        let (mut all, mut begun) = (Vec::new(), None);
        let mut look = |tables: &Looked<'_>| {
            all.extend(history::events(tables, filter)?);
            begun = begun.or(history::begun(tables)?);
            Ok(())
        };
        self.look_around(cx, &mut [&mut look])?;
        let ended = if self.boot_leases_live(cx)? {
            self.files.last_boot()
        } else {
            self.files.boot_leases().to_owned()
        };
        // Nothing of it was flushed: what a power cut has torn tells nothing.
        let before = database::look(&ended, None, |tables| {
            history::of_ended_boot(tables, begun.unwrap_or(cx.now), cx, filter)
        });
        all.extend(before.ok().flatten().unwrap_or_default());
        all.sort_by_key(|event| event.time);
        Ok(all)
    }

    /// How often what was asked for.
    pub(super) fn walk_counters(&self, cx: &Context) -> Result<Vec<Counter>, StoreError> {
        let mut all: BTreeMap<_, Counter> = BTreeMap::new();
        let mut look = |tables: &Looked<'_>| {
            for c in history::counters(tables)? {
                let key = (c.set.clone(), c.face, c.verb, c.ending);
                all.entry(key)
                    .and_modify(|all| all.count = all.count.saturating_add(c.count))
                    .or_insert(c);
            }
            Ok(())
        };
        self.look_around(cx, &mut [&mut look])?;
        Ok(all.into_values().collect())
    }
}

/// Takes out what comes before an address of a set, or all that is left of the set.
fn take_until(
    beside: &mut Beside,
    set: &SetName,
    until: Option<Addr>,
    send: &mut dyn FnMut((SetName, Addr), Holder),
) {
    let Some(lowest) = Addr::from_bits(Family::V4, 0) else { return };
    while let Some((key, _)) = beside.range((set.clone(), lowest)..).next()
        && key.0 == *set
        && until.is_none_or(|until| key.1 < until)
    {
        let key = key.clone();
        if let Some(holder) = beside.remove(&key) {
            send(key, holder);
        }
    }
}
