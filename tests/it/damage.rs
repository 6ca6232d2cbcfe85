//! Tests damaged lease files. The result must be correct data, or an error that says what to do, but never a
//! wrong address.
//!
//! Most cases run thousands of times in this process, through the library. Some cases run the program, to
//! test its output.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use redb::{Database, DatabaseError, TableDefinition};
use sublet::alloc::Outcome;
use sublet::error::{Error, StoreError};
use sublet::model::{Kind, Lease, Persist};
use sublet::net::Addr;
use sublet::store::Store;
use tempfile::TempDir;

use crate::lab::{Call, Dice, Lab, addresses, conf};
use crate::store_check as check;

const PAGE: usize = 4096;

/// A valid store, a folder for damaged copies of it, and the counts of the results.
struct Patient {
    folder: TempDir,
    persist: Persist,
    whole: Vec<u8>,
    /// The content of the store's lock file.
    lock: Vec<u8>,
    truth: BTreeMap<Addr, Lease>,
    refused: usize,
    unharmed: usize,
}

impl Patient {
    /// Makes a store with this number of leases. Five more leases are made and freed, so that the file has
    /// unused pages.
    fn new(leases: usize, persist: Persist) -> Patient {
        let folder = TempDir::new_in("/dev/shm").unwrap();
        let file = folder.path().join("leases.redb");
        let store = &mut *check::open(&file, persist);
        for n in 0..leases + 5 {
            check::given(store, &format!("c{n}"), &check::now()).unwrap();
        }
        for n in leases..leases + 5 {
            store.apply(&check::del(&format!("c{n}")), &check::now()).unwrap();
        }
        let truth = check::list(store, &check::now()).unwrap();
        let truth: BTreeMap<_, _> = truth.into_iter().map(|l| (l.addr, l)).collect();
        assert_eq!(truth.len(), leases);
        let mut patient = Patient {
            folder,
            persist,
            whole: vec![],
            lock: vec![],
            truth,
            refused: 0,
            unharmed: 0,
        };
        patient.whole = fs::read(patient.file("")).unwrap();
        patient.lock = fs::read(patient.file(".lock")).unwrap();
        patient
    }

    fn file(&self, suffix: &str) -> PathBuf {
        let boot = check::now().boot.unwrap().0;
        let name = match (self.persist, suffix) {
            (Persist::Disk, _) => format!("leases.redb{suffix}"),
            (Persist::Boot, ".lock") => "leases.redb.boot.lock".to_owned(),
            (Persist::Boot, _) => format!("leases.redb.boot-{boot}{suffix}"),
        };
        self.folder.path().join(name)
    }

    /// Returns the indexes of the pages that contain a byte other than zero.
    fn used(&self) -> Vec<usize> {
        let pages = self.whole.chunks(PAGE).enumerate();
        pages.filter(|(_, page)| page.iter().any(|b| *b != 0)).map(|(n, _)| n).collect()
    }

    /// Makes four calls on a store with these bytes. Counts the store as refused if any call was refused, and
    /// as unharmed otherwise. Returns whether all four calls were refused.
    fn try_with(&mut self, bytes: &[u8], name: &str) -> bool {
        let noticed = check::quietly(|| self.used_with(bytes, name));
        *(if noticed > 0 { &mut self.refused } else { &mut self.unharmed }) += 1;
        noticed == 4
    }

    fn place(&self, bytes: &[u8]) {
        fs::write(self.file(""), bytes).unwrap();
        fs::write(self.file(".lock"), &self.lock).unwrap();
    }

    /// Makes four calls on a store with these bytes, and checks that the results are correct or errors.
    /// Returns how many calls were refused.
    fn used_with(&self, bytes: &[u8], name: &str) -> usize {
        let cx = check::now();
        let store = &mut *check::open(&self.folder.path().join("leases.redb"), self.persist);
        let mut refused = 0;
        let mut refuse = |error: &Error, what: &str| {
            refused += 1;
            is_damage(error, &format!("{name}: {what}"));
            let after = fs::read(self.file("")).unwrap();
            assert!(after == bytes, "{name}: {what} was refused and wrote");
        };
        self.place(bytes);
        match check::list(store, &cx) {
            Ok(rows) => {
                assert!(rows.iter().eq(self.truth.values()), "{name}: listed {rows:?}");
            }
            Err(error) => refuse(&error, "list"),
        }
        match given(store, "new") {
            Ok(addr) => assert!(!self.truth.contains_key(&addr), "{name}: {addr} is held"),
            Err(error) => refuse(&error, "ADD"),
        }
        let lease = self.truth.values().nth(self.truth.len() / 2).unwrap();
        let container = check::row(lease).0;
        self.place(bytes);
        match given(store, &container) {
            Ok(addr) => assert_eq!(addr, lease.addr, "{name}: {container} has another"),
            Err(error) => refuse(&error, "ADD again"),
        }
        self.place(bytes);
        match store.apply(&check::del(&container), &cx) {
            Ok(outcome) => {
                assert_eq!(outcome, Outcome::Freed(vec![lease.clone()]), "{name}: {container}");
            }
            Err(error) => refuse(&error, "DEL"),
        }
        refused
    }

    /// Asserts that many of the changes to the file were refused, and that many did no harm because they
    /// changed unused parts.
    fn both(&self, name: &str) {
        assert!(
            self.refused > 50 && self.unharmed > 50,
            "{name}: {} {}",
            self.refused,
            self.unharmed
        );
    }
}

fn given(store: &mut dyn Store, container: &str) -> Result<Addr, Error> {
    match store.apply(&check::add(container), &check::now())? {
        Outcome::Added(added) => Ok(added.grants[0].addr),
        other => panic!("{other:?}"),
    }
}

/// Asserts that an error is about the store and says what to do.
fn is_damage(error: &Error, name: &str) {
    let text = error.to_string();
    match error {
        Error::Store(StoreError::Damaged { .. }) => {
            assert!(text.contains("sublet doctor"), "{name}: {text}");
        }
        Error::Store(StoreError::Foreign { advice, .. }) => assert!(!advice.is_empty(), "{name}"),
        other => panic!("{name}: {other}"),
    }
}

#[test]
fn a_flipped_bit() {
    for persist in [Persist::Boot, Persist::Disk] {
        flip(Patient::new(60, persist));
    }
}

fn flip(mut patient: Patient) {
    let mut dice = Dice(19);
    let used = patient.used();
    for _ in 0..2000 {
        let bit = usize::try_from(dice.below(8 * 4096)).unwrap();
        let page = *dice.pick(&used);
        let mut bytes = patient.whole.clone();
        bytes[page * PAGE + bit / 8] ^= 1 << (bit % 8);
        patient.try_with(&bytes, &format!("bit {bit} of page {page}"));
    }
    patient.both("bits");
}

/// Flips every bit of the part of the header that redb's checksums do not cover, and every third bit of the
/// rest of the header.
#[test]
fn a_bit_of_the_header() {
    for persist in [Persist::Boot, Persist::Disk] {
        flip_in_header(Patient::new(60, persist));
    }
}

fn flip_in_header(mut patient: Patient) {
    for bit in (0..64 * 8).chain((64 * 8..320 * 8).step_by(3)) {
        let mut bytes = patient.whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        patient.try_with(&bytes, &format!("bit {bit} of the header"));
    }
    patient.both("header");
}

#[test]
fn the_head_of_a_page() {
    let mut patient = Patient::new(60, Persist::Disk);
    let mut dice = Dice(23);
    for page in patient.used() {
        for _ in 0..20 {
            let byte = usize::try_from(dice.below(64)).unwrap();
            let mut bytes = patient.whole.clone();
            bytes[page * PAGE + byte] = dice.next().to_le_bytes()[0];
            patient.try_with(&bytes, &format!("byte {byte} of page {page}"));
        }
    }
    patient.both("heads");
}

#[test]
fn pages_swapped_doubled_zeroed_and_random() {
    let mut patient = Patient::new(60, Persist::Disk);
    let mut dice = Dice(29);
    let used = patient.used();
    for n in 0..used.len() {
        for m in 0..used.len() {
            let (a, b) = (used[n] * PAGE, used[m] * PAGE);
            let mut bytes = patient.whole.clone();
            match n.cmp(&m) {
                Ordering::Equal => bytes[a..a + PAGE].fill(0),
                Ordering::Less => {
                    let (left, right) = bytes.split_at_mut(b);
                    left[a..a + PAGE].swap_with_slice(&mut right[..PAGE]);
                }
                Ordering::Greater => bytes.copy_within(a..a + PAGE, b),
            }
            patient.try_with(&bytes, &format!("pages {} and {}", used[n], used[m]));
        }
        let mut bytes = patient.whole.clone();
        bytes[used[n] * PAGE..][..PAGE].fill_with(|| dice.next().to_le_bytes()[0]);
        patient.try_with(&bytes, &format!("noise in page {}", used[n]));
    }
    patient.both("pages");
}

#[test]
fn truncated_anywhere() {
    let mut patient = Patient::new(3, Persist::Disk);
    let whole = patient.whole.clone();
    for len in (0..PAGE).chain((PAGE..whole.len()).step_by(512)) {
        let refused = patient.try_with(&whole[..len], &format!("{len} bytes"));
        let used = patient.used().last().unwrap() * PAGE;
        assert!(refused || len > used, "{len} of {} bytes are taken for a store", whole.len());
    }
    // Also test a file with 512 additional bytes at its end.
    let mut bytes = whole;
    bytes.resize(bytes.len() + 512, 0);
    patient.try_with(&bytes, "512 bytes more");
    assert!(patient.refused > PAGE);
}

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("sublet");

/// Changes the versions in a lease file, as if another build of sublet had written it.
fn with_schema(file: &Path, version: u8, schema: u8) {
    let database = loop {
        match Database::open(file) {
            // Another test may have started a child process that holds the lock until it executes its
            // program. Try again.
            Err(DatabaseError::DatabaseAlreadyOpen) => std::thread::yield_now(),
            database => break database.unwrap(),
        }
    };
    let transaction = database.begin_write().unwrap();
    {
        // The record contains a version, a schema number, and a CRC32C of the key and the two numbers.
        let record = [version, schema];
        let sum = crc32c::crc32c_append(crc32c::crc32c(b"Mschema"), &record);
        let value = [&record[..], &sum.to_le_bytes()].concat();
        let mut table = transaction.open_table(TABLE).unwrap();
        table.insert(&b"Mschema"[..], &*value).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn a_file_of_another_version_is_refused_and_left_as_it_is() {
    for (version, schema, opens) in
        [(2, 2, true), (1, 1, false), (2, 1, false), (2, 3, false), (3, 2, false), (9, 9, false)]
    {
        let lab = Lab::new();
        let store = &mut *check::open(&lab.store(), Persist::Disk);
        given(store, "a").unwrap();
        let file = lab.join("data/leases.redb");
        with_schema(&file, version, schema);
        let before = fs::read(&file).unwrap();
        let name = format!("version {version}, schema {schema}");
        match check::list(store, &check::now()) {
            Ok(rows) => assert!(opens && rows.len() == 1, "{name}: {rows:?}"),
            Err(error) => {
                let adding = given(store, "new").unwrap_err();
                let repairing = store.repair(&check::now()).unwrap_err().into();
                for error in [error, adding, repairing] {
                    let text = error.to_string();
                    assert!(
                        !opens && text.contains("a different version of sublet"),
                        "{name}: {text}"
                    );
                }
                assert_eq!(fs::read(&file).unwrap(), before, "{name}");
            }
        }
    }
}

#[test]
fn another_program_s_file() {
    let lab = Lab::new();
    fs::create_dir(lab.join("data")).unwrap();
    let database = Database::create(lab.join("data/leases.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    let table: TableDefinition<u32, u32> = TableDefinition::new("theirs");
    transaction.open_table(table).unwrap().insert(1, 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let store = &mut *check::open(&lab.store(), Persist::Disk);
    is_damage(&given(store, "new").unwrap_err(), "foreign");
    is_damage(&check::list(store, &check::now()).unwrap_err(), "foreign");
}

/// No matter what the file contains, the program must print exactly one JSON document.
#[test]
fn what_the_program_prints() {
    let patient = Patient::new(60, Persist::Disk);
    let used = patient.used();
    let mut dice = Dice(31);
    let mut errors = 0;
    for round in 0..60_usize {
        let mut bytes = patient.whole.clone();
        let page = used[round % used.len()] * PAGE;
        match round % 4 {
            0 => bytes[page..page + PAGE].fill(0),
            1 => bytes[page..page + PAGE].fill_with(|| dice.next().to_le_bytes()[0]),
            2 => bytes.copy_within(used[1] * PAGE..(used[1] + 1) * PAGE, page),
            _ => bytes[round * 7 % 320] ^= 1 << (round % 8),
        }
        let lab = Lab::new();
        fs::create_dir(lab.join("data")).unwrap();
        let mut conf = conf(&lab.data_dir(), check::SUBNET);
        conf["ipam"]["persist"] = "disk".into();
        for (command, container) in [("ADD", "new"), ("CHECK", "c7"), ("ADD", "c7"), ("DEL", "c7")]
        {
            fs::write(lab.join("data/leases.redb"), &bytes).unwrap();
            fs::write(lab.join("data/leases.redb.lock"), &patient.lock).unwrap();
            let answer = Call::cni(command, container, &conf).run();
            assert!(!answer.stderr.contains("panicked"), "{answer:?}");
            if answer.code != Some(0) {
                let (code, msg) = answer.error();
                assert_eq!(code, 104, "{command}: {msg}");
                errors += 1;
            } else if command == "ADD" {
                let got = addresses(&answer.ok()).remove(0).parse().unwrap();
                let holder = patient.truth.get(&got).map(|l| check::row(l).0);
                let expected = (container == "c7").then(|| "c7".to_owned());
                assert_eq!(holder, expected, "{got} for {container}");
            } else {
                answer.silent();
            }
        }
    }
    assert!(errors > 50, "{errors}");
}

impl Patient {
    /// Replaces the store with these bytes and repairs it. Returns whether the repair changed anything or was
    /// refused.
    fn repaired(&self, bytes: &[u8], name: &str) -> bool {
        let cx = check::now();
        let store = &mut *check::open(&self.folder.path().join("leases.redb"), self.persist);
        self.place(bytes);
        let mut found = Vec::new();
        store.problems(&cx, &mut |problem| found.push(problem)).unwrap();
        let listed = check::list(store, &cx);
        assert!(listed.is_ok() || !found.is_empty(), "{name}: {listed:?}");
        assert_eq!(fs::read(self.file("")).unwrap(), bytes, "{name}: looking has written");
        let repair = match store.repair(&cx) {
            Ok(repair) => repair,
            // A repair is refused if it can read nothing in the file.
            Err(error) => {
                is_damage(&Error::Store(error), name);
                assert_eq!(fs::read(self.file("")).unwrap(), bytes, "{name}: refused, and wrote");
                return true;
            }
        };
        for copy in &repair.copies {
            assert_eq!(fs::read(copy).unwrap(), bytes, "{name}: the copy is another");
            fs::remove_file(copy).unwrap();
        }
        assert_eq!(
            found.iter().any(|p| p.repairable),
            !repair.copies.is_empty(),
            "{name}: {found:?}"
        );
        store.problems(&cx, &mut |problem| panic!("{name}: {problem:?}")).unwrap();
        let rows: BTreeMap<_, _> =
            check::list(store, &cx).unwrap().into_iter().map(|l| (l.addr, l)).collect();
        for (addr, lease) in &self.truth {
            let now = rows.get(addr).unwrap_or_else(|| panic!("{name}: {addr} is lost"));
            assert!(now.owner == lease.owner || now.kind == Kind::Reserved, "{name}: {now:?}");
        }
        let new = given(store, "new").unwrap();
        assert!(!rows.contains_key(&new), "{name}: {new} is held");
        !repair.copies.is_empty()
    }
}

/// After a repair, `doctor` must find no problems, and no address that was leased may be free.
#[test]
fn a_repair_loses_no_lease() {
    for persist in [Persist::Boot, Persist::Disk] {
        let patient = Patient::new(60, persist);
        let mut dice = Dice(37);
        let used = patient.used();
        let mut repaired = 0;
        for round in 0..150_usize {
            let page = used[round % used.len()] * PAGE;
            let mut bytes = patient.whole.clone();
            match round % 5 {
                0 => bytes[page..page + PAGE].fill(0),
                1 => bytes[page..page + PAGE].fill_with(|| dice.next().to_le_bytes()[0]),
                2 => bytes.copy_within(used[1] * PAGE..(used[1] + 1) * PAGE, page),
                3 => bytes[usize::try_from(dice.below(320)).unwrap()] ^= 1 << (round % 8),
                _ => bytes[page + usize::try_from(dice.below(4096)).unwrap()] ^= 1 << (round % 8),
            }
            let name = format!("{persist:?}: round {round}, page {}", page / PAGE);
            repaired += usize::from(check::quietly(|| patient.repaired(&bytes, &name)));
        }
        assert!(repaired > 50 && repaired < 150, "{repaired} of 150");
    }
}
