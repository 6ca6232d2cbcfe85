//! Finds problems in a lease file and repairs it.
//!
//! A repair loses nothing that can be read: it keeps the damaged file, writes every readable record to a new
//! file, and reserves each address whose lease cannot be read.
//! Invariant: at any time, even if the repair is killed, the name of the file refers to either the complete
//! old file or the complete new file.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::backend;
use super::database::Writable;
use super::files::Content;
use super::fs::{Access, FileSystem, OpenFile};
use super::lock::Lock;
use super::policy::{Policy, Reservation, spans};
use super::repair::Standing;
use super::view::Kv;
use super::{
    Embedded, LeaseFile, Result, changes, check, database, files, keys, occupancy, repair,
};
use crate::alloc::{Addresses, Change, Context, NetworkRanges, Record};
use crate::error::StoreError;
use crate::model::{Lease, SetName};
use crate::net::Addr;
use crate::store::{Problem, Repair, StoreReader, codec};

const REPAIR: &str = "run `sublet doctor --repair`, which keeps a copy of the file and recovers every \
                      readable lease";

impl<F: FileSystem> Embedded<F> {
    /// Reports all problems of the store.
    pub(super) fn examine(&mut self, cx: &Context, each: &mut dyn FnMut(Problem)) -> Result<()> {
        self.patience.renew();
        for file in self.lease_files(cx)? {
            match self.faults(&file, None, cx) {
                Ok(faults) => {
                    for (kind, what) in faults {
                        each(if kind == "clock" {
                            let advice = "set the clock of this machine; the store needs no repair";
                            Problem::of(&file.path, what, advice, false)
                        } else {
                            Problem::of(&file.path, format!("{kind}: {what}"), REPAIR, true)
                        });
                    }
                }
                Err(error) => each(problem(&file.path, &error)),
            }
        }
        let policy = self.names.policy();
        if let Err(error) = Policy::read(&self.fs, &policy) {
            let advice = format!(
                "correct the line, or remove {} and make the reservations again",
                policy.display()
            );
            each(Problem::of(&policy, error.to_string(), advice, false));
        }
        overlaps(&self.networks(cx).unwrap_or_default(), each);
        self.oddities(cx, each);
        Ok(())
    }

    /// Checks a file in steps. If `lock` is passed, all steps run under this lock. Otherwise each step takes
    /// the file's lock itself.
    fn faults(
        &self,
        file: &LeaseFile,
        lock: Option<&Lock<F>>,
        cx: &Context,
    ) -> Result<Vec<check::Fault>> {
        let mut judgement = check::Judgement::default();
        loop {
            let step = |tables: &database::Looked<'_>| judgement.step(tables, cx.now);
            let more = match lock {
                Some(lock) => self.read(file, lock, step),
                None => self.read_page(file, step),
            };
            if more? != Some(true) {
                return Ok(judgement.faults());
            }
        }
    }

    /// Reports problems that are not in the records: leftover files, files that other users can access, and a
    /// folder on a network file system.
    fn oddities(&self, cx: &Context, each: &mut dyn FnMut(Problem)) {
        for path in self.leftovers(cx) {
            let what = "this temporary file was left behind by a process that was killed";
            let advice = "remove the temporary file, or run `sublet doctor --repair`";
            each(Problem { damage: false, ..Problem::of(&path, what, advice, true) });
        }
        for file in self.lease_files(cx).unwrap_or_default() {
            let Ok(Some(open)) = self.fs.open(&file.path, Access::Read) else { continue };
            if let Ok(mode) = open.mode()
                && mode & 0o077 != 0
            {
                let what = format!("the file mode {mode:o} gives other users access to the leases");
                let advice = format!("run `chmod 600 {}`", file.path.display());
                each(Problem::of(&file.path, what, advice, false));
            }
        }
        let folder = self.names.folder();
        if matches!(self.fs.is_shared(folder), Ok(true)) {
            let what = "the folder is on a network file system, where locks may not work";
            let advice = "move the folder to a local disk, or use a cluster";
            each(Problem::of(folder, what, advice, false));
        }
    }

    /// Returns the temporary files that exist. A temporary file is in use only while a process holds the lock
    /// of its lease file; otherwise a killed process has left it behind.
    fn leftovers(&self, cx: &Context) -> Vec<PathBuf> {
        let mut paths = vec![self.names.durable().to_owned(), self.names.policy()];
        paths.extend(cx.boot.as_ref().map(|boot| self.names.boot(boot)));
        paths
            .into_iter()
            .map(|path| files::temporary(&path))
            .filter(|path| matches!(self.fs.find(path), Ok(Some(_))))
            .collect()
    }

    /// Repairs everything that can be repaired.
    pub(super) fn repair_files(&self, cx: &Context) -> Result<Repair> {
        self.patience.renew();
        let mut repair = Repair::default();
        let files = self.lease_files(cx)?;
        for file in &files {
            // Take the first lock even for the repair of a boot file, because the repair may write
            // reservations to the policy.
            let lock = self.lock(&self.durable())?;
            let own = if file.lock == self.names.lock() { None } else { Some(self.lock(file)?) };
            let of_file = own.as_ref().unwrap_or(&lock);
            if !matches!(files::probe(&self.fs, &file.path, Access::Read)?, Content::Absent) {
                let faults = self.faults(file, Some(of_file), cx);
                if let Err(error @ StoreError::OtherVersion { .. }) = faults {
                    return Err(error);
                }
                if !faults.is_ok_and(|faults| faults.iter().all(|(kind, _)| *kind == "clock")) {
                    self.rebuild(file, of_file, cx, &mut repair)?;
                }
            }
            drop(own);
        }
        if !self.leftovers(cx).is_empty() {
            let _lock = self.lock(&self.durable())?;
            let of_boot = self.of_boot_if_any(cx)?;
            let _of_boot = of_boot.map(|file| self.lock(&file)).transpose()?;
            for path in self.leftovers(cx) {
                self.fs.remove(&path).map_err(|e| StoreError::io("remove", &path, e))?;
                repair.notes.push(format!("{}: removed", path.display()));
            }
        }
        Ok(repair)
    }

    /// Writes the readable records of a damaged file to a new file, which then replaces it. Addresses that
    /// are in use, but whose owner cannot be recovered, are reserved before the replacement. If the process
    /// is killed after the reservations and before the replacement, the damaged file is unchanged and the
    /// reservations remain. That is harmless: the next repair reserves the same addresses.
    fn rebuild(
        &self,
        file: &LeaseFile,
        lock: &Lock<F>,
        cx: &Context,
        repair: &mut Repair,
    ) -> Result<()> {
        let path = &file.path;
        // A file of another program is not repaired.
        if let Err(error @ StoreError::Foreign { .. }) = files::open(&self.fs, path, Access::Read) {
            return Err(error);
        }
        let aside = self.name_for_damaged(path, cx)?;
        files::replace(
            &self.fs,
            path,
            Some(&aside),
            |new, name| {
                database::write_new::<F>(new, name, file.flush, |tables| {
                    let mut work = Work {
                        tables,
                        cx,
                        repair: &mut *repair,
                        found: false,
                        doubtful: BTreeSet::new(),
                        unread: BTreeSet::new(),
                    };
                    for standing in [Standing::Current, Standing::Doubtful] {
                        repair::records(self, file, lock, &mut |key, value, found| {
                            if found == standing { work.take(key, value, standing) } else { Ok(()) }
                        })?;
                    }
                    if !work.found {
                        let what = "no record in the file is readable".to_owned();
                        return Err(StoreError::Damaged { path: path.clone(), what });
                    }
                    let whole = repair::records(self, file, lock, &mut |key, value, _| {
                        work.look_for_lost(key, value)
                    })?;
                    if !whole {
                        work.note(GAPS.to_owned());
                    }
                    let unread = work.unread_addresses()?;
                    self.reserve_unread(&unread, cx)
                })
            },
            || {
                // The lock file may contain a header note, which describes the damaged file and not the new
                // file.
                backend::forget_note(lock, path)
            },
        )?;
        repair.copies.push(aside);
        files::sync_names(&self.fs, path).map_err(StoreError::after_the_change)
    }

    /// Returns an unused name for the damaged file, in the same folder.
    fn name_for_damaged(&self, path: &Path, cx: &Context) -> Result<PathBuf> {
        for n in 0..1000 {
            let suffix = if n == 0 { String::new() } else { format!(".{n}") };
            let name = files::beside(path, &format!(".damaged-{}{suffix}", cx.now));
            if !self.is_there(&name)? {
                return Ok(name);
            }
        }
        Err(StoreError::io("keep a copy of", path, ErrorKind::AlreadyExists.into()))
    }

    /// Reserves the addresses whose leases are unreadable. The caller holds the first lock.
    fn reserve_unread(&self, unread: &[(SetName, Addr)], cx: &Context) -> Result<()> {
        let path = self.names.policy();
        let before = Policy::read(&self.fs, &path)?;
        let mut after = before.clone();
        for (set, addr) in unread {
            if before.find(set, *addr).is_none() {
                after.reserve(&Reservation {
                    set: set.clone(),
                    span: spans(&[*addr])[0],
                    note: Some(UNREAD.to_owned()),
                    holder: None,
                    name: None,
                    time: cx.now,
                });
            }
        }
        if after.entries == before.entries {
            return Ok(());
        }
        after.nonce = if cx.seed == before.nonce { !cx.seed } else { cx.seed }.max(1);
        super::policy::replace(&self.fs, &path, &after, || Ok(()))?;
        files::sync_names(&self.fs, &path).map_err(StoreError::after_the_change)
    }
}

fn problem(path: &Path, error: &StoreError) -> Problem {
    match error {
        StoreError::Damaged { what, .. } => Problem::of(path, what, REPAIR, true),
        StoreError::Foreign { what, advice, .. } => Problem::of(path, what, advice, false),
        StoreError::OtherVersion { .. } => {
            let what = "the file was written by a different version of sublet";
            Problem::of(path, what, "use that version or a newer one", false)
        }
        other => Problem::of(path, other.to_string(), "make the file readable", false),
    }
}

/// Reports networks that overlap without sharing a set of leases. Two such networks can lease the same
/// address.
fn overlaps(definitions: &[NetworkRanges], each: &mut dyn FnMut(Problem)) {
    for (n, one) in definitions.iter().enumerate() {
        for other in &definitions[n + 1..] {
            let overlap = one.bounds.iter().any(|a| other.bounds.iter().any(|b| a.overlaps(*b)));
            if one.set != other.set && overlap {
                each(Problem {
                    place: format!("networks {} and {}", one.network, other.network),
                    what:
                        "the ranges overlap, but the networks keep separate leases, so both can lease the \
                         same address"
                            .to_owned(),
                    advice: "if the networks share a segment, set the same \"shared\" in both configurations".to_owned(),
                    repairable: false,
                    damage: false,
                });
            }
        }
    }
}

struct Work<'a, 't, 'k> {
    tables: &'a mut Writable<'t, 'k>,
    cx: &'a Context,
    repair: &'a mut Repair,
    /// Whether any record could be read.
    found: bool,
    /// The addresses of the recovered leases that may have been freed after they were written.
    doubtful: BTreeSet<(SetName, Addr)>,
    /// The addresses that are in use but whose owner is unknown.
    unread: BTreeSet<(SetName, Addr)>,
}

impl Work<'_, '_, '_> {
    /// Adds one record to the new file. Derived records are not copied, because they are recomputed.
    fn take(&mut self, key: &[u8], value: &[u8], standing: Standing) -> Result<()> {
        let check::Nature::Primary(kind) = check::nature(key) else { return Ok(()) };
        self.found = true;
        if key == keys::SCHEMA
            || (key.first() != Some(&keys::LEASE) && self.tables.kv.get(key)?.is_some())
        {
            return Ok(());
        }
        match check::read(key, value) {
            Ok(Some(Record::Lease(lease))) => self.lease(lease, standing),
            Ok(_) => {
                // The records of the last commit are written first, and do not contradict each other. So a
                // record that contradicts the new file is not one of them, and is out of date.
                if check::write(self.tables, key, value).is_err() {
                    self.note(format!(
                        "{kind} {}: left out, because a newer record contradicts this record",
                        check::shown(key)
                    ));
                }
                Ok(())
            }
            Err(codec::Bad(what)) => {
                if let Some(at) = keys::read_at(keys::LEASE, key) {
                    self.unread.insert(at);
                } else {
                    self.note(format!("{kind} {}: left out: {what}", check::shown(key)));
                }
                Ok(())
            }
        }
    }

    fn lease(&mut self, mut lease: Lease, standing: Standing) -> Result<()> {
        let (set, addr) = (lease.set.clone(), lease.addr);
        if standing == Standing::Doubtful && self.unread.contains(&(set.clone(), addr)) {
            return Ok(());
        }
        if let Some(there) = self.tables.lease(&set, addr)? {
            // Two leases have the same address. A lease of the last commit wins over a doubtful lease, which
            // may have been freed. Of two doubtful leases, the newer lease wins.
            let sure = !self.doubtful.contains(&(set.clone(), addr));
            if standing == Standing::Current
                || sure
                || there.owner == lease.owner
                || there.time > lease.time
            {
                return Ok(());
            }
            self.make(&Change::Free { lease: there.clone(), until: None })?;
            self.repair.kept -= 1;
            if there.time == lease.time {
                self.unread.insert((set, addr));
                return Ok(());
            }
        } else if standing == Standing::Doubtful
            && self.tables.cooling_of(&set, addr)?.is_some_and(|c| c.freed > lease.time)
        {
            // The address was freed after this lease was made.
            return Ok(());
        }
        // An owner has at most one address in each range. If a doubtful lease (which may have been freed)
        // would be the owner's second lease in a range, its address is reserved.
        let held = self.tables.of(&set, &lease.owner)?;
        if standing == Standing::Doubtful && held.iter().any(|l| l.range == lease.range) {
            self.unread.insert((set, addr));
            return Ok(());
        }
        if standing == Standing::Doubtful {
            lease.origin.note = Some(DOUBTFUL.to_owned());
            // Mark the lease as possibly outdated. It may have ended, for example because the leases of its
            // set are in the other lease file by now.
            self.doubtful.insert((set, addr));
        }
        self.make(&Change::Put(lease))?;
        self.repair.kept += 1;
        Ok(())
    }

    fn make(&mut self, change: &Change) -> Result<()> {
        changes::make(self.tables, change, self.cx.now).map(drop)
    }

    /// Collects the addresses that an index record marks as in use, but whose lease or cooldown was not
    /// recovered.
    fn look_for_lost(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(set) = keys::read_set(keys::OWNER, key) {
            for addr in codec::unseal::<Vec<Addr>>(key, value).unwrap_or_default() {
                self.lost(&set, addr)?;
            }
        } else if let Some((set, family, 0, index)) = keys::read_block(key)
            && let Ok(bits) = codec::read_bits(key, value)
        {
            for addr in occupancy::addresses(family, index, &bits) {
                self.lost(&set, addr)?;
            }
        }
        Ok(())
    }

    fn lost(&mut self, set: &SetName, addr: Addr) -> Result<()> {
        if !occupancy::taken(self.tables, set, addr)? {
            self.unread.insert((set.clone(), addr));
        }
        Ok(())
    }

    /// Returns the addresses that are in use but whose owner cannot be recovered.
    fn unread_addresses(&mut self) -> Result<Vec<(SetName, Addr)>> {
        let mut found = Vec::new();
        for (set, addr) in std::mem::take(&mut self.unread) {
            if self.tables.lease(&set, addr)?.is_some() {
                continue;
            }
            self.note(format!(
                "{addr} of network {set}: the lease is unreadable, so the address was reserved; when no \
                 container uses the address, run `sublet unreserve {set} {addr}`"
            ));
            found.push((set, addr));
        }
        Ok(found)
    }

    fn note(&mut self, note: String) {
        self.repair.notes.push(note);
    }
}

/// The text of the report if parts of the file could not be recovered.
const GAPS: &str = "part of the file is unreadable, so leases may be missing; before you start new \
                    containers, compare `sublet list` with the running containers";
/// The note on a lease that may have been freed after it was written.
const DOUBTFUL: &str = "recovered from a damaged file; may be outdated";
/// The note on a reservation that replaces a lost lease.
const UNREAD: &str = "reserved by `sublet doctor --repair`, because the lease was unreadable";
