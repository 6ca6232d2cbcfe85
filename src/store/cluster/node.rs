//! This machine as a node of the cluster: the node's name, and the node's record, which all transactions of
//! the node compare.
//!
//! To advance the record means to write it again. After that, every transaction that compares an earlier
//! version of the record fails. A node advances its record in three cases: to claim its name once in a boot,
//! to fence transactions that may be in flight although no process waits for them, and when the leases of its
//! earlier boots have been removed.
//! Invariant: every transaction that changes leases or pools compares the record. As soon as another machine
//! or a later boot owns the name, the former owner can lease nothing under the name. A lease counts as ended
//! only if the record of its node says that the lease's boot is over. A transaction that leases the address
//! of an ended lease compares that record.

use std::time::Instant;

use super::backoff;
use super::cache::LocalCache;
use super::notes::{Left, Note, Notes};
use super::records::checked;
use super::server::{Commit, Entries, Entry, Expect, Operation, Server, Write};
use super::transaction::{new_nonce, stamped};
use super::view::ClusterView;
use super::{keys, records};
use crate::alloc::{Command, Context};
use crate::error::StoreError;
use crate::model::NodeRecord;
use crate::store::codec;

/// The kinds of commands: whether a command changes anything, and whether it may run while another machine
/// owns the node name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The command changes nothing.
    Reads,
    /// The command changes nothing, and reports whether the node may lease.
    ChecksName,
    /// The command frees an owner's leases, whichever machine owns the name.
    Frees,
    /// The command frees leases, and fails if another machine owns the node name. (A copy of the machine has
    /// the same Docker networks, so it could otherwise free the leases of the original machine.)
    FreesOwn,
    /// The command leases addresses, or frees leases that other machines with the same node name may have
    /// made. It claims the node name.
    Leases,
}

impl Role {
    /// Returns the role of a command.
    pub fn of(command: &Command) -> Role {
        match command {
            Command::Status(_) => Role::ChecksName,
            command if command.only_looks() => Role::Reads,
            Command::Add(_)
            | Command::Gc(_)
            | Command::Reserve(_)
            | Command::Drain(_)
            | Command::Import(_)
            | Command::RequestPool(_)
            | Command::RequestAddress(_)
            | Command::AdoptPool(_)
            | Command::Sweep(_) => Role::Leases,
            Command::ReleasePool(_) | Command::ReleaseAddress(_) => Role::FreesOwn,
            _ => Role::Frees,
        }
    }

    fn changes(self) -> bool {
        matches!(self, Role::Frees | Role::FreesOwn | Role::Leases)
    }
}

/// How many times a node tries to advance its record. A try fails if no response arrives, or if another
/// process changes the record first.
const TRIES: u32 = 8;

/// This machine as a node, during one command.
pub struct Member<'a> {
    server: &'a dyn Server,
    cache: &'a LocalCache,
    until: Instant,
    role: Role,
    /// The context of the command, with this machine's node name in the cluster.
    pub cx: Context,
    /// The node's record on the server; `None` if there is none.
    pub record: Option<(Entry, NodeRecord)>,
    /// The path at which to create this machine's `machine/` record, which stores its node name. `None` if
    /// the record already exists or is not needed.
    unnamed: Option<String>,
    /// The number of a turn (see [`NodeRecord::turn`]) in which this boot owned the node name; `None` if no
    /// such turn is known.
    owned: Option<u64>,
    /// The ID of the folder with the in-flight notes (see [`super::notes`]). Processes with the same ID see
    /// each other's notes.
    folder: u64,
    note: Option<Note>,
    /// Whether a transaction was sent that may still be applied.
    pub is_in_flight: bool,
    /// Whether the node's record is from the local cache, and this command has not read it from the server.
    pub is_from_cache: bool,
    /// Whether this process cannot create an in-flight note. Every command then fences.
    pub is_blind: bool,
}

impl<'a> Member<'a> {
    /// Begins a command on this node. If the command changes records, first fences all transactions that
    /// earlier commands left in flight: writes the node's record again, so that these transactions fail. Then
    /// creates the in-flight note of the command.
    pub fn enter(
        server: &'a dyn Server,
        cache: &'a LocalCache,
        role: Role,
        cx: &Context,
        until: Instant,
    ) -> Result<Member<'a>, StoreError> {
        let mut cx = cx.clone();
        let record = cache.node(&cx);
        if let Some((_, record)) = &record {
            cx.node.name.clone_from(&record.node.name);
        }
        let owned = record.as_ref().map(|(_, record)| record.turn);
        let is_cached = record.is_some();
        let folder = if role.changes() { cache.id(false, &cx) } else { 0 };
        let mut member = Member {
            server,
            cache,
            until,
            role,
            cx,
            record,
            unnamed: None,
            owned,
            folder,
            note: None,
            is_in_flight: false,
            is_from_cache: is_cached,
            is_blind: false,
        };
        if !is_cached
            || role.changes() && (member.is_foreign() || member.notes().look() != Left::Nothing)
        {
            member.join()?;
        }
        if role.changes() && !member.is_blind {
            let name = u128::from_be_bytes(new_nonce(member.cx.seed));
            member.note = member.notes().begin(name).ok();
            if member.note.is_none() {
                member.notes().give_up();
                member.become_blind();
                member.fence()?;
            }
        }
        Ok(member)
    }

    /// Reads the node's record. If the command changes records, also fences transactions that were left in
    /// flight. Claims the node name if the command needs it.
    fn join(&mut self) -> Result<(), StoreError> {
        self.fetch()?;
        if !self.role.changes() {
            return self.settle(false, false);
        }
        // If the folder of notes cannot be written, there is no lock, and each process fences by itself.
        let _lock = self.notes().lock(self.server, self.until);
        let left = self.notes().look();
        self.settle(left != Left::Nothing, matches!(left, Left::Abandoned(_)))?;
        // Use the folder of the current record: if the record is new, the notes are now in a different
        // folder.
        if self.notes().clear(left).is_err() {
            self.become_blind();
            self.settle(false, false)?;
        }
        Ok(())
    }

    /// Records that this process cannot create an in-flight note. The other processes must then fence this
    /// process's transactions without having seen a note.
    fn become_blind(&mut self) {
        self.is_blind = true;
        self.folder = self.cache.id(true, &self.cx);
    }

    /// Returns whether the process that last wrote the node's record uses another folder of in-flight notes.
    /// If so, that process may have transactions in flight whose notes this process cannot see.
    fn is_foreign(&self) -> bool {
        self.node().is_some_and(|record| record.notes != self.folder)
    }

    fn notes(&self) -> Notes {
        self.cache.notes(self.node(), &self.cx)
    }

    fn node(&self) -> Option<&NodeRecord> {
        self.record.as_ref().map(|(_, record)| record)
    }

    /// Returns the version of the node's record; `None` if there is no record.
    pub fn version(&self) -> Option<u64> {
        self.record.as_ref().map(|(entry, _)| entry.version)
    }

    /// Returns whether leases of this machine's earlier boots may still exist.
    pub fn has_earlier(&self) -> bool {
        self.node().is_none_or(|record| record.has_earlier)
    }

    /// Returns the path of the node's record.
    pub fn path(&self) -> String {
        keys::node(&self.cx.node.name)
    }

    /// Returns the path of the node's record, and the record as it is on the server. A view starts with this
    /// record.
    pub fn known(&self) -> (String, Option<Entry>) {
        (self.path(), self.record.as_ref().map(|(entry, _)| entry.clone()))
    }

    /// Fences: writes the node's record again, so that every transaction of this node that is still in flight
    /// fails.
    pub fn fence(&mut self) -> Result<(), StoreError> {
        self.fetch()?;
        self.settle(true, true)
    }

    /// Returns whether the command changes records.
    pub fn changes(&self) -> bool {
        self.role.changes()
    }

    /// Replaces the node's record if the view knows a newer one. The view must have read or compared the
    /// record. The process that wrote the newer record may have transactions in flight whose notes this
    /// process cannot see. If so, fences those transactions. Returns whether the record has changed. Fails if
    /// another machine or boot owns the name.
    pub fn learn_from(&mut self, view: &ClusterView<'_>) -> Result<bool, StoreError> {
        self.is_from_cache = false;
        let now = view.known.borrow().get(&self.path()).cloned();
        let is_new = |now: &Option<Entry>| now.as_ref().map(|e| e.version) != self.version();
        let Some(now) = now.filter(is_new) else { return Ok(false) };
        match now {
            Some(entry) => self.record = Some(self.decoded(&self.path(), entry)?),
            None => self.fetch()?,
        }
        self.settle(false, false)?;
        view.known.borrow_mut().remember([self.known()].into());
        Ok(true)
    }

    /// Records in the node's record that no lease of this machine's earlier boots is left.
    pub fn forget_earlier_boots(&mut self) -> Result<(), StoreError> {
        if let Some(record) = self.node().filter(|record| record.has_earlier) {
            // If another process changes the record first, the next command tries again.
            self.advance(NodeRecord { has_earlier: false, ..record.clone() })?;
        }
        Ok(())
    }

    /// Reads the node's record. The machine keeps the node name that it had when it first leased in this
    /// cluster, because the host name may have changed since then.
    fn fetch(&mut self) -> Result<(), StoreError> {
        let (path, machine) = (self.path(), self.machine_path());
        let paths = [Some(&*path), machine.as_deref()];
        let mut found =
            self.server.get(&paths.into_iter().flatten().collect::<Vec<_>>(), self.until)?;
        self.is_from_cache = false;
        self.unnamed = machine.filter(|machine| found.get(machine) == Some(&None));
        if let Some((machine, Some(entry))) = found.iter().find(|(found, _)| **found != path) {
            let name: String = checked(self.server, machine, records::plain(machine, entry))?;
            if name != self.cx.node.name {
                self.cx.node.name = name;
                found = self.server.get(&[&self.path()], self.until)?;
            }
        }
        let path = self.path();
        let entry = found.remove(&path).flatten();
        self.record = entry.map(|entry| self.decoded(&path, entry)).transpose()?;
        Ok(())
    }

    fn machine_path(&self) -> Option<String> {
        let Context { by_host_name, node, .. } = &self.cx;
        (*by_host_name && !node.machine.is_empty())
            .then(|| keys::named(keys::MACHINE, &node.machine))
    }

    fn decoded(&self, path: &str, entry: Entry) -> Result<(Entry, NodeRecord), StoreError> {
        let record = checked(self.server, path, records::node(path, &entry))?;
        Ok((entry, record))
    }

    /// Claims the node name if the command needs it. Fences if `fences` is set, or if this process cannot see
    /// the notes of the process that wrote the record.
    ///
    /// A node without a record needs no fence, because no transaction in flight compares the record. If
    /// `fences` and `must_exist` are both set, the missing record is created nevertheless.
    fn settle(&mut self, mut fences: bool, must_exist: bool) -> Result<(), StoreError> {
        for lost in 1..=TRIES {
            if let Some(record) = self.node()
                && matches!(self.role, Role::Leases | Role::FreesOwn | Role::ChecksName)
            {
                self.check_owner(record)?;
            }
            let claims = self.role == Role::Leases && self.needs_claim();
            let is_foreign = self.role.changes() && self.is_foreign();
            let after = match self.node() {
                Some(record) if (fences || is_foreign) && !claims => record.clone(),
                record if claims || fences && must_exist => self.claim(record),
                _ => {
                    self.remember();
                    return Ok(());
                }
            };
            let before = self.version();
            if self.advance(after)? {
                fences = false;
            } else {
                backoff::after_lost_races(self.server, lost, self.cx.seed, self.until);
                self.fetch()?;
                // If the record has changed, another process has written it. That write was already a fence,
                // so no further fence is needed.
                fences &= self.version() == before;
            }
        }
        let why = format!(
            "the record of node {} was changed during every attempt; check that no second machine \
             uses the same node name",
            self.cx.node.name
        );
        Err(StoreError::unavailable("write to", self.server.place(), why))
    }

    fn remember(&self) {
        if let Some((entry, record)) = &self.record {
            // If this fails, the next command reads the record from the server.
            let _ = self.cache.write_node(&self.cx, entry, record);
        }
    }

    fn needs_claim(&self) -> bool {
        let cx = &self.cx;
        self.node().is_none_or(|record| {
            // A caller without a known machine or boot must not claim the name of another machine.
            let is_unsure = cx.node.machine.is_empty() && !record.node.machine.is_empty();
            !is_unsure && cx.boot.is_some() && record.boot != cx.boot
        })
    }

    /// Makes a node record which states that this boot owns the node name.
    fn claim(&self, before: Option<&NodeRecord>) -> NodeRecord {
        let Context { node, boot, booted, now, seed, .. } = self.cx.clone();
        let (first, id) = before.map_or((now, seed), |before| (before.first, before.id));
        let turn = before.map_or(0, |before| before.turn).max(self.owned.unwrap_or(0));
        let (has_earlier, notes) = (true, self.folder);
        NodeRecord { node, id, boot, first, since: now, booted, has_earlier, turn, notes }
    }

    /// Writes the node's record with the next turn number. Returns `false` if another process changed the
    /// record first, or if it is unknown whether the write was applied.
    fn advance(&mut self, record: NodeRecord) -> Result<bool, StoreError> {
        let record = NodeRecord { turn: record.turn + 1, notes: self.folder, ..record };
        let (path, nonce) = (self.path(), new_nonce(self.cx.seed));
        let expect = self.version().map_or(Expect::Absent, Expect::Version);
        let value = stamped(&nonce, codec::node(path.as_bytes(), &record));
        let write = Write::Put(value.clone());
        let mut operations = vec![Operation { path: path.clone(), expect, write }];
        if let Some(path) = self.unnamed.clone().filter(|_| self.record.is_none()) {
            let name = codec::seal(path.as_bytes(), &self.cx.node.name);
            let write = Write::Put(stamped(&nonce, name));
            operations.push(Operation { path, expect: Expect::Absent, write });
        }
        let version = match self.server.commit(&operations, self.until)? {
            Commit::Done(version) => version,
            Commit::Conflict(_) => return Ok(false),
            Commit::Full(error) => return Err(error),
            Commit::Unknown(_) => {
                let found = self.server.get(&[&path], self.until)?.remove(&path).flatten();
                match found.filter(|entry| entry.is_by(&nonce)) {
                    Some(entry) => entry.version,
                    None => return Ok(false),
                }
            }
        };
        self.owned = (record.boot == self.cx.boot).then_some(record.turn).or(self.owned);
        self.record = Some((Entry { version, value }, record));
        self.remember();
        Ok(true)
    }

    /// Fails if another machine or boot owns the node name. A machine without a machine-id is treated as
    /// equal to any other machine.
    fn check_owner(&self, record: &NodeRecord) -> Result<(), StoreError> {
        let cx = &self.cx;
        let machines = [&record.node.machine, &cx.node.machine];
        let is_other = machines[0] != machines[1] && !machines.iter().any(|m| m.is_empty());
        // If this boot owned the name and then lost it, there are two explanations: the boot is over, or
        // another machine has the same machine-id. If the record is older than the record that this boot
        // wrote, the server was restored from a backup.
        let is_newer = self.owned.is_some_and(|turn| record.turn >= turn);
        if is_other || is_newer && record.boot != cx.boot {
            let (place, node) = (self.server.place(), cx.node.clone());
            return Err(StoreError::Claimed { place, node, by: Box::new(record.clone()) });
        }
        Ok(())
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        if let Some(note) = self.note.take()
            && !self.is_in_flight
        {
            note.remove();
        }
    }
}

/// Returns whether a node record states that this boot of this machine owns the node name.
pub fn is_ours(record: &NodeRecord, cx: &Context) -> bool {
    cx.boot.is_some() && record.boot == cx.boot && record.node.machine == cx.node.machine
}

/// Removes a node's record, so that other machines can use the node name. Returns `false`, and removes
/// nothing, if another machine or boot has claimed the name since `record` was read.
pub fn forget(
    server: &dyn Server,
    record: &NodeRecord,
    until: Instant,
) -> Result<bool, StoreError> {
    let path = keys::node(&record.node.name);
    let machine = keys::named(keys::MACHINE, &record.node.machine);
    for _ in 0..TRIES {
        let mut found: Entries = server.get(&[&path, &machine], until)?;
        let Some(entry) = found.remove(&path).flatten() else { return Ok(true) };
        let now = checked(server, &path, records::node(&path, &entry))?;
        if (&now.node, &now.boot) != (&record.node, &record.boot) {
            return Ok(false);
        }
        let is_its = |of: &Entry| {
            records::plain::<String>(&machine, of).is_ok_and(|name| name == now.node.name)
        };
        let its_machine = found.remove(&machine).flatten().filter(is_its);
        let removed = [(&path, Some(entry)), (&machine, its_machine)].into_iter();
        let remove = |(path, entry): (&String, Option<Entry>)| {
            let (path, expect) = (path.clone(), Expect::Version(entry?.version));
            Some(Operation { path, expect, write: Write::Delete })
        };
        match server.commit(&removed.filter_map(remove).collect::<Vec<_>>(), until)? {
            Commit::Done(_) => return Ok(true),
            Commit::Conflict(_) => {}
            Commit::Full(error) | Commit::Unknown(error) => return Err(error),
        }
    }
    Ok(false)
}
