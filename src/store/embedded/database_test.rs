//! Tests that sublet never reports an intact file as damaged. The tests run transactions that write large
//! keys and values, make the file grow, remove all records, or are rolled back. Some transactions use redb
//! directly, with table types and commit settings that sublet does not use, because the checks of pages must
//! accept every valid redb file.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::path::Path;

use redb::{
    Database, Durability, MultimapTableDefinition, ReadableDatabase, ReadableMultimapTable,
    ReadableTable, TableDefinition,
};

use super::backend;
use super::backend::Flush;
use super::database::{read, write, write_new};
use super::files;
use super::fs::Os;
use super::lock::{Patience, lock_file};
use super::view::{Kv, KvMut};
use crate::model::Wait;

const VARIABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("variable values");
const TEXT: TableDefinition<&str, u32> = TableDefinition::new("variable keys");
const FIXED: TableDefinition<u32, [u8; 8]> = TableDefinition::new("neither");
const KEYS: TableDefinition<u64, ()> = TableDefinition::new("keys alone");
const MULTI: MultimapTableDefinition<u64, u64> = MultimapTableDefinition::new("many values");

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

struct Dice(u64);

impl Dice {
    /// Returns a random number less than `limit` (splitmix64).
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 1).unwrap() % limit
    }

    fn bytes(&mut self, longest: usize) -> Vec<u8> {
        let longest = [longest, 9_000, 200][self.below(20).min(2)];
        let first = self.below(256);
        (0..self.below(longest)).map(|n| (first + n).to_le_bytes()[0]).collect()
    }

    fn key(&mut self) -> Vec<u8> {
        let mut key = format!("z{}", self.below(400)).into_bytes();
        let len = key.len() + [5_000, 300, 1][self.below(30).min(2)];
        key.resize(len, b'/');
        key
    }
}

fn all(kv: &impl Kv) -> Pairs {
    let mut pairs = Pairs::new();
    kv.scan(b"z", b"{", &mut |key, value| {
        pairs.insert(key.to_vec(), value.to_vec());
        Ok(true)
    })
    .unwrap();
    pairs
}

/// Runs one transaction through the store's code. Returns the expected content after the transaction.
fn ours(path: &Path, flush: Flush, dice: &mut Dice, before: &Pairs) -> Pairs {
    let lock = lock_file(&path.with_extension("lock"), Wait::Try).unwrap();
    let mut after = before.clone();
    let commit = dice.below(8) > 0;
    let patience = Patience::new(Wait::Try);
    write(&Os, path, flush, &lock, &patience, None, |tables| {
        if dice.below(20) == 0 {
            for key in all(&tables.kv).keys() {
                tables.kv.remove(key)?;
            }
            after.clear();
        }
        for _ in 0..[0, 300, 12][dice.below(10).min(2)] {
            let key = dice.key();
            if dice.below(3) == 0 {
                tables.kv.remove(&key)?;
                after.remove(&key);
            } else {
                let value = dice.bytes(2_000_000);
                tables.kv.put(&key, &value)?;
                after.insert(key, value);
            }
        }
        Ok(if commit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })
    .unwrap();
    let now = read(&Os, path, Some(&lock), &patience, |tables| Ok(all(&tables.kv)));
    let now = now.unwrap().unwrap();
    let expected = if commit { after } else { before.clone() };
    assert!(now == expected, "it holds something else");
    now
}

/// Runs several transactions with redb alone, without the store's code.
fn theirs(path: &Path, dice: &mut Dice) {
    let mut database = Database::open(path).unwrap();
    for _ in 0..4 {
        let mut transaction = database.begin_write().unwrap();
        match dice.below(4) {
            0 => transaction.set_quick_repair(true),
            1 => transaction.set_two_phase_commit(true),
            2 => transaction.set_durability(Durability::None).unwrap(),
            _ => drop(transaction.persistent_savepoint().unwrap()),
        }
        {
            let mut variable = transaction.open_table(VARIABLE).unwrap();
            let mut text = transaction.open_table(TEXT).unwrap();
            let mut fixed = transaction.open_table(FIXED).unwrap();
            let mut keys = transaction.open_table(KEYS).unwrap();
            let mut multi = transaction.open_multimap_table(MULTI).unwrap();
            for _ in 0..dice.below(600) {
                let n = u32::try_from(dice.below(2_000)).unwrap();
                let long = u64::from(n);
                variable.insert(long, &*dice.bytes(50_000)).unwrap();
                text.insert(&*n.to_string(), 4).unwrap();
                fixed.insert(n, long.to_le_bytes()).unwrap();
                keys.insert(long, ()).unwrap();
                multi.insert(long % 20, long).unwrap();
            }
            if dice.below(4) == 0 {
                variable.retain(|_, _| false).unwrap();
                keys.retain(|n, ()| n % 2 == 0).unwrap();
            }
        }
        if dice.below(6) == 0 {
            transaction.abort().unwrap();
        } else {
            transaction.commit().unwrap();
        }
    }
    if dice.below(4) == 0 {
        // Compaction fails while there are savepoints. The test does not need the compaction, so ignore the
        // error.
        let _ = database.compact();
    }
}

/// Reads, through the store's backend, the tables that [`theirs`] wrote.
fn read_theirs(path: &Path) {
    let (backend, switch) =
        backend::new::<Os>(File::open(path).unwrap(), path, None, None).unwrap();
    let database = Database::builder().create_with_backend(backend).unwrap();
    let transaction = database.begin_read().unwrap();
    macro_rules! read {
        ($($table:expr),*) => {$(
            for pair in transaction.open_table($table).unwrap().iter().unwrap() {
                pair.unwrap();
            }
        )*};
    }
    read!(VARIABLE, TEXT, FIXED, KEYS);
    for pair in transaction.open_multimap_table(MULTI).unwrap().iter().unwrap() {
        assert!(pair.unwrap().1.all(|value| value.is_ok()));
    }
    switch.leave();
}

#[test]
fn an_ordinary_life_is_no_damage() {
    let mut longest = 0;
    for seed in 0..3 {
        let mut dice = Dice(seed);
        let flush = if seed % 2 == 0 { Flush::Never } else { Flush::ToDisk };
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = folder.path().join("leases");
        let fill = |file, name: &Path| write_new::<Os>(file, name, flush, |_| Ok(()));
        files::create(&Os, &path, fill).unwrap();
        let mut pairs = Pairs::new();
        for round in 1..=36 {
            pairs = ours(&path, flush, &mut dice, &pairs);
            longest = longest.max(fs::metadata(&path).unwrap().len());
            if seed % 3 == 0 && round % 10 == 0 {
                theirs(&path, &mut dice);
                read_theirs(&path);
            }
        }
        drop(lock_file(&path.with_extension("lock"), Wait::Try).unwrap());
        assert!(Database::open(&path).unwrap().check_integrity().unwrap(), "seed {seed}");
    }
    assert!(longest > 64 << 20, "the file grew to {longest} bytes only");
}
