//! Finds every readable record of a damaged file.
//!
//! redb stops at the first corrupt page, so this module reads all pages one by one. Each record has its own
//! checksum, which also covers its key. So a record with a correct checksum was written by sublet, but
//! perhaps long ago. To find out whether the record is current, this module looks up its key with redb. If
//! redb finds the same record, the record is current. If redb finds no record or a different one, the record
//! is outdated. If redb cannot read that part of the tree, the record is doubtful.
//!
//! This module knows the format of redb's leaf pages (file format 3), just as [`super::pages`] knows the
//! format of the tree. Invariant: for each key that redb can look up, this module returns only the record
//! that redb finds.

use super::fs::{Access, FileSystem, read_all};
use super::lock::Lock;
use super::view::{Each, Kv};
use super::{Embedded, LeaseFile, Result};
use crate::error::StoreError;
use crate::store::codec;

/// Whether a record is known to be part of the last commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The record is part of the last commit.
    Current,
    /// The record was once written, and may have been replaced or removed since then.
    Doubtful,
}

/// A function that receives the key and the value of each record, and whether the record is current.
pub type Found<'a> = dyn FnMut(&[u8], &[u8], Standing) -> Result<()> + 'a;

const PAGE: usize = 4096;
const LEAF: u8 = 1;

/// Calls `each` with every current or doubtful record, in no particular order and possibly more than once.
/// Returns whether the whole file could be read.
pub fn records<F: FileSystem>(
    store: &Embedded<F>,
    file: &LeaseFile,
    lock: &Lock<F>,
    each: &mut Found<'_>,
) -> Result<bool> {
    // If redb can read the whole file, it returns all records, so there is no need to search the pages.
    let scan = |each: &mut Each<'_>| {
        store.read(file, lock, |tables| tables.kv.scan(&[], &[0xff], each)).map(drop)
    };
    if scan(&mut |_, _| Ok(true)).is_ok() {
        scan(&mut |key, value| each(key, value, Standing::Current).map(|()| true))?;
        return Ok(true);
    }
    let path = &file.path;
    let io = |e| StoreError::io("read the lease store", path, e);
    let opened = store.fs.open(path, Access::Read).map_err(io)?;
    let bytes = opened.map_or(Ok(Vec::new()), |file| read_all(&file, u64::MAX)).map_err(io)?;
    let mut opens = true;
    for offset in (PAGE..bytes.len()).step_by(PAGE) {
        let pairs: Vec<(&[u8], &[u8])> = leaf(&bytes[offset..]).unwrap_or_default();
        let pairs: Vec<_> = pairs.into_iter().filter(|(k, v)| codec::is_whole(k, v)).collect();
        let mut rest = &pairs[..];
        while !rest.is_empty() {
            // After redb has encountered a corrupt page, it refuses all further reads, so open the file
            // again.
            let (mut done, mut opened) = (0, false);
            if !opens {
                rest.iter().try_for_each(|(key, value)| each(key, value, Standing::Doubtful))?;
                break;
            }
            let looked = store.read(file, lock, |tables| {
                opened = true;
                for (key, value) in rest {
                    let now = tables.kv.get(key)?;
                    if now.as_deref() == Some(value) {
                        each(key, value, Standing::Current)?;
                    }
                    done += 1;
                }
                Ok(())
            });
            if looked.is_err()
                && let Some((key, value)) = rest.get(done)
            {
                each(key, value, Standing::Doubtful)?;
                done += 1;
            }
            opens = opened;
            rest = &rest[done..];
        }
    }
    Ok(false)
}

/// Returns the keys and values on a leaf page of a table in which keys and values have variable sizes.
fn leaf(page: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    if *page.first()? != LEAF {
        return None;
    }
    let number = |at: usize| -> Option<usize> {
        Some(u32::from_le_bytes(*page.get(at..)?.first_chunk()?) as usize)
    };
    let pairs = usize::from(u16::from_le_bytes(*page.get(2..)?.first_chunk()?));
    let (keys, values) = (4, 4 + 4 * pairs);
    let mut key_from = 4 + 8 * pairs;
    let mut value_from = number(keys + 4 * pairs.checked_sub(1)?)?;
    let mut found = Vec::with_capacity(pairs);
    for n in 0..pairs {
        let (key_to, value_to) = (number(keys + 4 * n)?, number(values + 4 * n)?);
        found.push((page.get(key_from..key_to)?, page.get(value_from..value_to)?));
        (key_from, value_from) = (key_to, value_to);
    }
    Some(found)
}
