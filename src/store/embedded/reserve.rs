//! RESERVE, UNRESERVE and DRAIN: change the policy file.
//!
//! The new policy is written to a temporary file and flushed under the first lock. It is renamed to its final
//! name under both locks, so every ADD sees either the old policy or the new policy. A leased address cannot
//! be reserved; this is checked while both locks are held.

use super::fs::FileSystem;
use super::lock::Lock;
use super::policy::{LIMIT, Policy, Reservation, spans};
use super::view::Kv;
use super::{Embedded, LeaseFile, Result, files, history, keys, policy};
use crate::alloc;
use crate::alloc::{Change, Command, Context, Drain, Outcome, Plan, Reserve, Unreserve};
use crate::error::{Refusal, StoreError};
use crate::model::{Lease, SetName, StaticName};
use crate::net::{Addr, Span};

/// A function that searches a lease file for a lease that prevents the reservation. Returns `None` if there
/// is no such lease.
type InTheWay<'a, F> = dyn Fn(&LeaseFile, &Lock<F>) -> Result<Option<Lease>> + 'a;

impl<F: FileSystem> Embedded<F> {
    /// RESERVE: reserves either all addresses or none. If `contested` is set, even leased addresses are
    /// reserved.
    pub(super) fn reserve(&self, reserve: &Reserve, contested: bool, cx: &Context) -> Result<Plan> {
        self.make_folder()?;
        let set = &reserve.set;
        let lock = self.lock(&self.durable())?;
        let before = Policy::read(&self.fs, &self.names.policy())?;
        let spans = spans(&reserve.addrs);
        let mut after = before.clone();
        let mut new = Vec::new();
        for span in &spans {
            let entry = Reservation {
                set: set.clone(),
                span: *span,
                note: reserve.note.clone(),
                holder: reserve.holder.clone(),
                name: reserve.name.clone(),
                time: cx.now,
            };
            if let Some(other) = before.of_other_name(&entry) {
                let addr = other.span.first.max(entry.span.first);
                return Ok(refuse(other.lease(addr)));
            }
            new.extend(after.reserve(&entry));
        }
        let reserved: Vec<Addr> = new.iter().flat_map(|span| span.addresses()).collect();
        let put = |addr: &Addr| after.find(set, *addr).map(|entry| Change::Put(entry.lease(*addr)));
        let plan = Plan {
            changes: reserved.iter().filter_map(put).collect(),
            outcome: Ok(Outcome::Reserved(reserved.clone())),
        };
        let changed = after.entries != before.entries;
        let leased = self.declare(&lock, &before, after, cx, &|file, lock| {
            if contested {
                return Ok(None);
            }
            let name = reserve.name.as_ref();
            let found = self.read(file, lock, |tables| first_lease(tables, set, &new, name))?;
            Ok(found.flatten())
        })?;
        if let Some(holder) = leased {
            return Ok(refuse(holder));
        }
        if changed {
            self.record_events(lock, &Command::Reserve(reserve.clone()), &plan, cx);
        }
        Ok(plan)
    }

    /// UNRESERVE: ends the reservations of the given addresses. Addresses that are not reserved are skipped.
    pub(super) fn unreserve(&self, unreserve: &Unreserve, cx: &Context) -> Result<Plan> {
        let path = self.names.policy();
        if !self.is_there(&path)? {
            return Ok(Plan::only(Outcome::Freed(Vec::new())));
        }
        let lock = self.lock(&self.durable())?;
        let before = Policy::read(&self.fs, &path)?;
        let mut after = before.clone();
        let mut ended = Vec::new();
        for span in spans(&unreserve.addrs) {
            ended.extend(after.unreserve(&unreserve.set, span));
        }
        let lease = |entry: &Reservation| -> Vec<Lease> {
            entry.span.addresses().map(|addr| entry.lease(addr)).collect()
        };
        let freed: Vec<Lease> = ended.iter().flat_map(lease).collect();
        let changed = after.entries != before.entries;
        self.declare(&lock, &before, after, cx, &|_, _| Ok(None))?;
        let free = |lease: &Lease| Change::Free { lease: lease.clone(), until: None };
        let plan =
            Plan { changes: freed.iter().map(free).collect(), outcome: Ok(Outcome::Freed(freed)) };
        if changed {
            self.record_events(lock, &Command::Unreserve(unreserve.clone()), &plan, cx);
        }
        Ok(plan)
    }

    /// DRAIN: starts or stops draining a range. Existing leases in the range are kept.
    pub(super) fn drain(&self, drain: &Drain, cx: &Context) -> Result<Plan> {
        self.make_folder()?;
        let lock = self.lock(&self.durable())?;
        let before = Policy::read(&self.fs, &self.names.policy())?;
        let mut after = before.clone();
        let changed = after.drain(drain, cx.now);
        self.declare(&lock, &before, after, cx, &|_, _| Ok(None))?;
        let plan = Plan::only(Outcome::Drained { changed });
        if changed {
            self.record_events(lock, &Command::Drain(drain.clone()), &plan, cx);
        }
        Ok(plan)
    }

    /// Replaces the policy and returns `None`. If `in_the_way` finds a lease in one of the files, changes
    /// nothing and returns this lease.
    pub(super) fn declare(
        &self,
        lock: &Lock<F>,
        before: &Policy,
        mut after: Policy,
        cx: &Context,
        in_the_way: &InTheWay<'_, F>,
    ) -> Result<Option<Lease>> {
        let path = self.names.policy();
        if let Some(lease) = in_the_way(&self.durable(), lock)? {
            return Ok(Some(lease));
        }
        if (&after.entries, &after.draining) == (&before.entries, &before.draining) {
            // A killed process may have replaced the policy file without flushing its name, so flush the name
            // before anything depends on it.
            if self.is_there(&path)? {
                files::sync_names(&self.fs, &path)?;
            }
            return Ok(None);
        }
        if after.count() > LIMIT && after.count() > before.count() {
            return Err(StoreError::Unavailable {
                doing: "add entries to".to_owned(),
                place: path.display().to_string(),
                source: format!(
                    "the file would have {} entries, but at most {LIMIT} are allowed; reserve or drain \
                     ranges (FIRST-LAST) instead of single addresses",
                    after.count()
                )
                .into(),
            });
        }
        // The new nonce must differ from the nonce in every copy of the policy. Normally it is enough that it
        // differs from the last nonce. If the policy file was removed, the last nonce is unknown, so the new
        // nonce is random. It is never 0, because 0 means that there is no file.
        after.nonce = before.nonce.wrapping_add(cx.seed | 1).max(1);
        let boot = self.of_boot_if_any(cx)?;
        let (mut second, mut leased) = (None, None);
        let replaced = policy::replace(&self.fs, &path, &after, || {
            if let Some(boot) = &boot {
                let lock = self.lock(boot)?;
                leased = in_the_way(boot, &lock)?;
                second = Some(lock);
            }
            if leased.is_some() {
                // This error only aborts the replacement. It is never reported, because the caller gets the
                // lease instead.
                return Err(StoreError::io("reserve in", &path, std::io::ErrorKind::Other.into()));
            }
            Ok(())
        });
        drop(second);
        if leased.is_some() {
            return Ok(leased);
        }
        replaced?;
        files::sync_names(&self.fs, &path).map_err(StoreError::after_the_change)?;
        Ok(None)
    }

    /// Records a policy change in the history and the counters, in the file that has the set's leases. If
    /// that file does not exist or cannot be written, the change takes effect without being recorded.
    fn record_events(&self, lock: Lock<F>, command: &Command, plan: &Plan, cx: &Context) {
        drop(lock);
        let Some(set) = command.set() else { return };
        let files = self.lease_files_own_first(cx).unwrap_or_default();
        let Ok(Some(file)) = self.home(Some(set), files) else { return };
        let Some(verb) = alloc::verb(command) else { return };
        let ending = alloc::ending(&plan.outcome);
        let events: Vec<_> =
            plan.changes.iter().filter_map(|change| alloc::event(change, command, cx)).collect();
        let _ = self.lock(&file).and_then(|lock| {
            let work = |tables: &mut super::Writable<'_, '_>| {
                history::append(tables, &events, self.history, cx.now)?;
                history::count(tables, &(set.clone(), cx.face, verb, ending))?;
                Ok(std::ops::ControlFlow::Continue(()))
            };
            super::database::write(
                &self.fs,
                &file.path,
                file.flush,
                &lock,
                &self.patience,
                None,
                work,
            )
        });
    }
}

fn refuse(holder: Lease) -> Plan {
    let (index, ranges) = (0, holder.addr.to_string());
    Plan::refuse(Refusal::Held { index, ranges, holder: Box::new(holder) })
}

/// Returns the first lease whose address is in these spans. Skips leases of containers called `name`, because
/// the addresses are being reserved for those containers.
fn first_lease<K: Kv>(
    tables: &super::Tables<'_, K>,
    set: &SetName,
    spans: &[Span],
    name: Option<&StaticName>,
) -> Result<Option<Lease>> {
    let mut found = None;
    for span in spans {
        let end = keys::behind(&keys::lease(set, span.last));
        tables.kv.scan(&keys::lease(set, span.first), &end, &mut |key, value| {
            let lease = tables.whole(crate::store::codec::read_lease(key, value))?;
            found = Some(lease).filter(|lease| !name.is_some_and(|name| name.has(lease)));
            Ok(found.is_none())
        })?;
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}
