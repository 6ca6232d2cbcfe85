//! RESTORE: writes records that were read from another store.

use super::fs::FileSystem;
use super::policy::{Policy, Reservation, spans};
use super::{Embedded, Result};
use crate::alloc::{Command, Context, Drain, Outcome, Plan, Record, Restore};
use crate::error::Refusal;
use crate::model::{Kind, Lease, Owner, StaticName};

impl<F: FileSystem> Embedded<F> {
    /// Runs a RESTORE. Leases are written to the file that an ADD with the same `persist` would use. Pools
    /// are written to the durable file. Reservations and draining ranges are written to the policy.
    pub(super) fn restore(
        &mut self,
        command: &Command,
        restore: &Restore,
        cx: &Context,
    ) -> Result<Plan> {
        let usual = std::mem::replace(&mut self.persist, restore.persist);
        let plan = self.restore_as(command, restore, cx);
        self.persist = usual;
        plan
    }

    fn restore_as(&self, command: &Command, restore: &Restore, cx: &Context) -> Result<Plan> {
        if restore.dry_run {
            return self.look(command, cx);
        }
        let Some(set) = &restore.set else { return self.serve_pool(command, cx) };
        let is_reserved = |record: &Record| match record {
            Record::Lease(lease) => lease.kind == Kind::Reserved,
            Record::Draining(_) => true,
            _ => false,
        };
        let first = restore.records.iter().take_while(|record| is_reserved(record)).count();
        if first > 0 {
            return self.restore_reservations(&restore.records[..first], cx);
        }
        let others = restore.records.iter().take_while(|record| !is_reserved(record));
        let part = Restore { records: others.cloned().collect(), ..restore.clone() };
        self.allocate(&Command::Restore(part), set, cx)
    }

    fn restore_reservations(&self, records: &[Record], cx: &Context) -> Result<Plan> {
        self.make_folder()?;
        let lock = self.lock(&self.durable())?;
        let before = Policy::read(&self.fs, &self.names.policy())?;
        let mut after = before.clone();
        let mut leases = Vec::new();
        for record in records {
            if let Record::Draining(range) = record {
                let drain = Drain { set: range.set.clone(), span: range.span, undo: false };
                after.drain(&drain, range.since);
            }
            if let Record::Lease(lease) = record
                && before.find(&lease.set, lease.addr).is_none()
            {
                leases.push(lease);
                after.reserve(&Reservation {
                    set: lease.set.clone(),
                    span: spans(&[lease.addr])[0],
                    note: lease.origin.note.clone(),
                    holder: lease.origin.holder.clone(),
                    name: name_of(lease).cloned(),
                    time: lease.time,
                });
            }
        }
        let clash = self.declare(&lock, &before, after, cx, &|file, lock| {
            let found = self.read(file, lock, |tables| {
                let mut found = leases
                    .iter()
                    .filter_map(|l| Some((l, tables.lease(&l.set, l.addr).transpose()?)));
                let in_the_way = |(entry, lease): &(&&Lease, Result<Lease>)| {
                    lease
                        .as_ref()
                        .map_or(true, |lease| !name_of(entry).is_some_and(|name| name.has(lease)))
                };
                found.find(in_the_way).map(|(_, lease)| lease).transpose()
            })?;
            Ok(found.flatten())
        })?;
        Ok(match clash {
            Some(holder) => {
                let owner = Box::new(Owner::Reservation(holder.addr));
                Plan::refuse(Refusal::Clash { holder: Box::new(holder), owner })
            }
            None => Plan::only(Outcome::Restored { done: records.len(), clashes: Vec::new() }),
        })
    }
}

/// Returns the name for which an address is reserved.
fn name_of(reservation: &Lease) -> Option<&StaticName> {
    match &reservation.owner {
        Owner::Named(name) => Some(name),
        _ => None,
    }
}
