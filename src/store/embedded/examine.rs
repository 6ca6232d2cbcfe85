//! What is wrong with an embedded store, and mending it.
//!
//! Owns: what is looked at, and that nothing is lost by a repair: the damaged file is kept, what can be
//! read is written anew, and an address whose lease cannot be read is set aside, never given.
//! Invariant: a repair ends with the old file or the new one, whole, under the name.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Embedded;
use super::backend::Flush;
use super::database;
use super::database::Writer;
use super::lock::Lock;
use super::repair;
use super::repair::Standing;
use super::view::{Kv, KvMut, Tables};
use super::{boot, check, files, keys, occupancy};
use crate::alloc::{Addresses, Context, NetworkRanges, View};
use crate::error::StoreError;
use crate::model::{Kind, Lease, Node, Origin, Owner, SetName};
use crate::net::Addr;
use crate::store::{Problem, Repair, codec};

const REPAIR: &str =
    "run `sublet doctor --repair`: it keeps a copy, and every lease that can be read";

impl Embedded {
    /// Tells of everything that is wrong.
    pub(super) fn examine(
        &self,
        cx: &Context,
        each: &mut dyn FnMut(Problem),
    ) -> Result<(), StoreError> {
        self.patience.renew();
        let [boot_lock, keep_lock] = self.lock_all()?;
        if let Err(error) = self.mark(cx) {
            each(problem(&self.files.boot_mark(), &error, true));
        }
        let mut definitions = Vec::new();
        for path in self.counting(cx) {
            let lock = if path == *self.files.boot_leases() { &boot_lock } else { &keep_lock };
            match look_at(&path, lock, cx, &mut definitions) {
                Ok(faults) => {
                    for (kind, what) in faults {
                        let (what, advice, mendable) = match kind {
                            "clock" => {
                                (what, "set the clock right; nothing else is to be done", false)
                            }
                            kind => (format!("{kind}: {what}"), REPAIR, true),
                        };
                        let place = path.display().to_string();
                        each(Problem { place, what, advice: advice.to_owned(), mendable });
                    }
                }
                Err(error) => each(problem(&path, &error, true)),
            }
        }
        overlaps(&definitions, each);
        self.oddities(each);
        Ok(())
    }

    /// The locks of both files, so far as there are any; nobody makes a file meanwhile.
    fn lock_all(&self) -> Result<[Lock; 2], StoreError> {
        let lock = |path: &Path| files::lock_to_look(path, &self.patience);
        Ok([lock(self.files.boot_leases())?, lock(&self.files.keep())?])
    }

    fn mark(&self, cx: &Context) -> Result<(), StoreError> {
        self.boot(cx).map_or(Ok(()), |boot| boot::read(&self.files, boot, cx).map(drop))
    }

    /// The files whose leases count, or may count.
    fn counting(&self, cx: &Context) -> Vec<PathBuf> {
        let mut paths = vec![self.files.keep()];
        if self.boot_leases_live(cx).unwrap_or(true) {
            paths.insert(0, self.files.boot_leases().to_owned());
        }
        paths.retain(|path| fs::symlink_metadata(path).is_ok());
        paths
    }

    /// What lies around the files and should not, or not like that.
    fn oddities(&self, each: &mut dyn FnMut(Problem)) {
        let mut tell = |path: &Path, what: &str, advice: &str, mendable| {
            let place = path.display().to_string();
            each(Problem { place, what: what.to_owned(), advice: advice.to_owned(), mendable });
        };
        for path in self.leftovers() {
            let what = "it was left behind by a process that was killed while it made a file";
            tell(&path, what, "remove it, or run `sublet doctor --repair`", true);
        }
        for path in [self.files.boot_leases().to_owned(), self.files.keep()] {
            let Ok(found) = fs::metadata(&path) else { continue };
            if found.is_file() && found.mode() & 0o077 != 0 {
                let what = format!(
                    "its mode is {:o}: others than its owner have access",
                    found.mode() & 0o777
                );
                tell(&path, &what, &format!("chmod 600 {}", path.display()), false);
            }
        }
        let folder = self.files.folder();
        if files::is_shared(&folder) {
            let what = "it is on a network file system, where locks may not hold";
            tell(&folder, what, "move it to a disk of this host, or use a cluster store", false);
        }
    }

    /// Under the locks nobody is at them.
    fn leftovers(&self) -> Vec<PathBuf> {
        let new = |path: &Path| files::beside(path, ".new");
        let next = self.files.next_boot();
        // Whatever a killed beginning of a boot carried over is needed until the next store is there.
        let carried = !self.files.boot_leases().exists();
        let mut paths = vec![
            new(self.files.boot_leases()),
            new(&self.files.keep()),
            new(&self.files.boot_mark()),
            new(&next),
        ];
        paths.extend((!carried).then_some(next));
        paths.retain(|path| fs::symlink_metadata(path).is_ok_and(|found| found.is_file()));
        paths
    }

    /// Mends what can be mended.
    pub(super) fn mend(&self, cx: &Context) -> Result<Repair, StoreError> {
        self.patience.renew();
        if !self.files.folder().is_dir() {
            return Ok(Repair::default());
        }
        let locks = [self.files.boot_leases().to_owned(), self.files.keep()].map(|path| {
            let lock = files::lock(&path, &self.patience);
            lock.map(|lock| (path, lock))
        });
        let mut repair = Repair::default();
        if let Err(StoreError::Damaged { .. }) = self.mark(cx) {
            let mark = self.files.boot_mark();
            repair.copies.push(set_aside(&mark, cx)?);
            fs::remove_file(&mark).map_err(|e| StoreError::io("remove", &mark, e))?;
            repair
                .notes
                .push(format!("{}: removed, the leases tell of their boot", mark.display()));
        }
        let counting = self.counting(cx);
        for lock in locks {
            let (path, lock) = lock?;
            if !counting.contains(&path) || files::probe(&path, false)?.is_none() {
                continue;
            }
            let sound = look_at(&path, &lock, cx, &mut Vec::new());
            let sound = sound.is_ok_and(|faults| faults.iter().all(|(kind, _)| *kind == "clock"));
            if !sound {
                rebuild(&path, &lock, cx, &mut repair)?;
            }
        }
        for path in self.leftovers() {
            fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))?;
            repair.notes.push(format!("{}: removed", path.display()));
        }
        Ok(repair)
    }
}

fn look_at(
    path: &Path,
    lock: &Lock,
    cx: &Context,
    definitions: &mut Vec<NetworkRanges>,
) -> Result<Vec<check::Fault>, StoreError> {
    let faults = database::look(path, Some(lock), |tables| {
        let faults = check::faults(tables, cx.now, path)?;
        if faults.is_empty() {
            definitions.extend(tables.networks()?);
        }
        Ok(faults)
    })?;
    Ok(faults.unwrap_or_default())
}

fn problem(path: &Path, error: &StoreError, mendable: bool) -> Problem {
    let place = path.display().to_string();
    match error {
        StoreError::Damaged { what, .. } => {
            Problem { place, what: what.clone(), advice: REPAIR.to_owned(), mendable }
        }
        StoreError::Foreign { what, advice, .. } => {
            Problem { place, what: what.clone(), advice: advice.clone(), mendable: false }
        }
        other => Problem {
            place,
            what: other.to_string(),
            advice: "see to it that it can be read".to_owned(),
            mendable: false,
        },
    }
}

/// Networks that can give the same address to two containers.
fn overlaps(definitions: &[NetworkRanges], each: &mut dyn FnMut(Problem)) {
    for (n, one) in definitions.iter().enumerate() {
        for other in &definitions[n + 1..] {
            let overlap = one.bounds.iter().any(|a| other.bounds.iter().any(|b| a.overlaps(*b)));
            if one.set != other.set && overlap {
                each(Problem {
                    place: format!("networks {} and {}", one.network, other.network),
                    what:
                        "their ranges overlap, and each has its own leases: both can give the same \
                           address"
                            .to_owned(),
                    advice: "set \"shared\" in both if they share a segment".to_owned(),
                    mendable: false,
                });
            }
        }
    }
}

/// A copy that outlives a power cut, beside the original.
fn set_aside(path: &Path, cx: &Context) -> Result<PathBuf, StoreError> {
    for n in 0.. {
        let suffix = if n == 0 { String::new() } else { format!(".{n}") };
        let copy = files::beside(path, &format!(".damaged-{}{suffix}", cx.now));
        let io = |e| StoreError::io("write the copy", &copy, e);
        let mut new = match fs::OpenOptions::new().write(true).create_new(true).open(&copy) {
            Ok(new) => new,
            Err(e) if e.kind() == ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(io(e)),
        };
        let copied = (|| {
            let mut old = File::open(path)?;
            new.set_permissions(old.metadata()?.permissions())?;
            io::copy(&mut old, &mut new)?;
            new.sync_all()
        })();
        if copied.is_err() {
            // Half of one, on a full disk perhaps, is of no use.
            let _ = fs::remove_file(&copy);
        }
        copied.map_err(io)?;
        files::flush_names(&copy)?;
        return Ok(copy);
    }
    Err(StoreError::io("write a copy of", path, ErrorKind::AlreadyExists.into()))
}

/// Writes a file anew, from what can be read of it.
fn rebuild(path: &Path, lock: &Lock, cx: &Context, repair: &mut Repair) -> Result<(), StoreError> {
    // What is not ours is nobody's to repair.
    if let Err(error @ StoreError::Foreign { .. }) = files::open(path, false) {
        return Err(error);
    }
    let copy = set_aside(path, cx)?;
    let done = database::create(path, Flush::ToDisk, |tables| {
        let mut work = Work {
            tables,
            cx,
            repair: &mut *repair,
            found: false,
            doubtful: BTreeSet::new(),
            unread: BTreeSet::new(),
        };
        for standing in [Standing::Current, Standing::Doubtful] {
            repair::records(path, lock, &mut |key, value, found| {
                if found == standing { work.take(key, value, standing) } else { Ok(()) }
            })?;
        }
        if !work.found {
            let what = "nothing of it can be read".to_owned();
            return Err(StoreError::Damaged { path: path.to_owned(), what });
        }
        let whole =
            repair::records(path, lock, &mut |key, value, _| work.look_for_lost(key, value))?;
        if !whole {
            work.note(GAPS.to_owned());
        }
        work.set_aside_unread()
    });
    if let Err(error) = done {
        // The original is as it was; best effort, for a copy of it does no harm.
        let _ = fs::remove_file(&copy);
        return Err(error);
    }
    repair.copies.push(copy);
    // What the last holder vouched for was in another file.
    lock.leave_note(&[]);
    files::flush_names(path)
}

struct Work<'a, 't, 'w, 'k> {
    tables: &'a mut Tables<'t, Writer<'w, 'k>>,
    cx: &'a Context,
    repair: &'a mut Repair,
    /// Whether anything could be read at all.
    found: bool,
    /// Leases that may have ended since.
    doubtful: BTreeSet<(SetName, Addr)>,
    /// Addresses that are known to be taken, by whom is not.
    unread: BTreeSet<(SetName, Addr)>,
}

impl Work<'_, '_, '_, '_> {
    /// One record; those that can be made from others are made from them.
    fn take(&mut self, key: &[u8], value: &[u8], standing: Standing) -> Result<(), StoreError> {
        let check::Nature::Told(kind) = check::nature(key) else { return Ok(()) };
        self.found = true;
        let home = key.first() == Some(&b'H') && standing == Standing::Doubtful;
        if home
            || key == keys::SCHEMA
            || (key.first() != Some(&b'L') && self.tables.kv.get(key)?.is_some())
        {
            return Ok(());
        }
        match check::read(key, value) {
            Ok(Some(lease)) => self.lease(lease, standing),
            Ok(None) => {
                // A doubtful record that contradicts another is the older one.
                if check::write(self.tables, key, value).is_err() {
                    self.note(format!("{kind} {}: left out", check::shown(key)));
                }
                Ok(())
            }
            Err(codec::Bad(what)) => {
                if let Some(at) = keys::read_lease(key) {
                    self.unread.insert(at);
                } else {
                    self.note(format!("{kind} {}: left out, {what}", check::shown(key)));
                }
                Ok(())
            }
        }
    }

    fn lease(&mut self, lease: Lease, standing: Standing) -> Result<(), StoreError> {
        let (set, addr) = (lease.set.clone(), lease.addr);
        if standing == Standing::Doubtful && self.unread.contains(&(set.clone(), addr)) {
            return Ok(());
        }
        if let Some(there) = self.tables.lease(&set, addr)? {
            // What is sure stays; of two doubtful ones the younger.
            let sure = !self.doubtful.contains(&(set.clone(), addr));
            if standing == Standing::Current
                || sure
                || there.owner == lease.owner
                || there.time > lease.time
            {
                return Ok(());
            }
            self.free(&there)?;
            self.repair.kept -= 1;
            if there.time == lease.time {
                self.unread.insert((set, addr));
                return Ok(());
            }
        } else if standing == Standing::Doubtful
            && self.tables.cooling_of(&set, addr)?.is_some_and(|c| c.freed > lease.time)
        {
            // Freed since.
            return Ok(());
        }
        // An owner has one address of a range; of which of two is not known, neither is given away.
        let held = self.tables.of(&set, &lease.owner)?;
        if standing == Standing::Doubtful && held.iter().any(|l| l.range == lease.range) {
            self.unread.insert((set, addr));
            return Ok(());
        }
        let key = keys::lease(&set, addr);
        let mut lease = lease;
        if standing == Standing::Doubtful {
            lease.origin.note = Some(DOUBTFUL.to_owned());
            // Of a set that has moved to the other file there is no lease here.
            self.tables.kv.put(&keys::home(&set), &[])?;
            self.doubtful.insert((set, addr));
        }
        check::write(self.tables, &key, &codec::lease(&key, &lease))?;
        self.repair.kept += 1;
        Ok(())
    }

    fn free(&mut self, lease: &Lease) -> Result<(), StoreError> {
        let change = crate::alloc::Change::Free { lease: lease.clone(), until: None };
        super::changes::make(self.tables, &change, self.cx.now).map(drop)
    }

    /// Addresses that an index knows as taken.
    fn look_for_lost(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if let Some(set) = keys::read_owner_set(key) {
            for addr in codec::read_addrs(key, value).unwrap_or_default() {
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

    fn lost(&mut self, set: &SetName, addr: Addr) -> Result<(), StoreError> {
        if !occupancy::taken(self.tables, set, addr)? {
            self.unread.insert((set.clone(), addr));
        }
        Ok(())
    }

    /// What is taken by nobody knows whom is given to nobody.
    fn set_aside_unread(&mut self) -> Result<(), StoreError> {
        for (set, addr) in std::mem::take(&mut self.unread) {
            if self.tables.lease(&set, addr)?.is_some() {
                continue;
            }
            let lease = Lease {
                set: set.clone(),
                addr,
                prefix: addr.family().bits(),
                kind: Kind::Reserved,
                owner: Owner::Reservation(addr),
                range: addr,
                node: Node::clone(&self.cx.node),
                boot: self.cx.boot.clone(),
                origin: Origin { note: Some(UNREAD.to_owned()), ..Origin::default() },
                time: self.cx.now,
                cooldown: 0,
            };
            let change = crate::alloc::Change::Put(lease);
            super::changes::make(self.tables, &change, self.cx.now)?;
            self.note(format!(
                "{addr} of {set}: its lease cannot be read, it is reserved; once no container has it: \
                 sublet unreserve {set} {addr}"
            ));
        }
        Ok(())
    }

    fn note(&mut self, note: String) {
        self.repair.notes.push(note);
    }
}

/// What nobody can make good.
const GAPS: &str = "not all of the file could be read; a lease every trace of which is gone is not known \
                    any more: compare `sublet list` with your containers before new ones start";
/// What is written beside a lease of which nobody knows whether it was freed since.
const DOUBTFUL: &str = "read from a damaged file; it may have been freed since";
/// What is written beside an address whose lease is lost.
const UNREAD: &str = "its lease could not be read when the store was repaired";
