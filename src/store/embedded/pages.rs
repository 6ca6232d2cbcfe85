//! Every page is verified before redb sees it.
//!
//! redb keeps a checksum of each page beside the reference to it, from the header down to the leaves,
//! and looks at none of them on an ordinary read: a page that was damaged, or is an old one, or
//! another's, is believed, or makes redb panic, even abort. So the same is done here as redb does
//! when it repairs a file: a page that was read and found right tells the checksums of those below.
//!
//! Owns: the part of redb's file format (version 3) that tells which page is where, and of which
//! checksum. Does not own: the header, which redb checks; it has checksums of its own.
//! Invariant: what is not understood is passed on as it is, for redb to judge; so this only adds
//! refusals.

use std::collections::BTreeMap;
use std::io;

use twox_hash::XxHash3_128;

/// The version of the file format that is understood.
const FORMAT: u8 = 3;
const PAGE: u64 = 4096;
const HEADER: usize = 320;
/// The header has two: the last commit's, and the one before or the next.
const SLOT: usize = 128;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// Bytes of a page's number, and of its checksum.
const NUMBER: usize = 8;
const SUM: usize = 16;

/// In the header's flags: the second of the two counts.
const SECOND: u8 = 1;
const FLAGS: usize = 9;
/// Where the header's halves begin, and where in one its transaction's number is.
const SLOTS: usize = 64;
const TRANSACTION: usize = 104;

/// What is known of pages that were not read yet, by their place in the file.
#[derive(Debug, Default)]
pub struct Pages {
    expected: BTreeMap<u64, (u128, Shape)>,
    /// Once the header was read.
    regions: Option<Regions>,
}

/// The file behind its first page: regions of one size, each with pages behind a header.
#[derive(Clone, Copy, Debug)]
struct Regions {
    header: u64,
    size: u64,
}

/// Of the tree that a page belongs to.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// Bytes of each key, if all have as many.
    key: Option<usize>,
    value: Option<usize>,
    /// Its values are the roots of other trees.
    tables: bool,
}

const TABLES: Shape = Shape { key: None, value: None, tables: true };

impl Pages {
    /// Checks what was read from this place.
    pub fn verify(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if offset == 0 {
            self.read_header(bytes);
            return Ok(());
        }
        let Some((sum, shape)) = self.expected.get(&offset).copied() else {
            return Ok(());
        };
        let end = match bytes.first() {
            Some(&LEAF) => leaf_end(bytes, shape),
            Some(&BRANCH) => branch_end(bytes, shape),
            _ => None,
        };
        let used = end.and_then(|end| bytes.get(..end));
        if used.map(XxHash3_128::oneshot) != Some(sum) {
            let what = format!("the page at offset {offset} is corrupt");
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        if bytes.first() == Some(&BRANCH) {
            self.read_branch(bytes, shape);
        } else if shape.tables {
            self.read_tables(bytes);
        }
        Ok(())
    }

    /// What is written now is not what was expected before.
    pub fn forget(&mut self, offset: u64, len: usize) {
        let places = offset.max(1)..offset + len as u64;
        while let Some((&place, _)) = self.expected.range(places.clone()).next() {
            self.expected.remove(&place);
        }
    }

    /// The roots of the last commit, if redb goes by them without looking at every page.
    fn read_header(&mut self, bytes: &[u8]) -> Option<()> {
        const TWO_PHASES: u8 = 4;
        let header = bytes.get(..HEADER)?;
        let flags = header[FLAGS];
        if flags & TWO_PHASES == 0 || u64::from(u32_at(header, 12)?) != PAGE {
            self.expected.clear();
            return None;
        }
        let of_region = u64::from(u32_at(header, 16)?) * PAGE;
        let size = of_region + u64::from(u32_at(header, 20)?) * PAGE;
        self.regions = Some(Regions { header: of_region, size });
        let slot = &header[SLOTS + SLOT * usize::from(flags & SECOND)..][..SLOT];
        if slot[0] != FORMAT {
            self.expected.clear();
            return None;
        }
        for (there, root) in [(1, 8), (2, 40)] {
            if slot[there] != 0 {
                self.expect(number_at(slot, root)?, sum_at(slot, root + NUMBER)?, TABLES);
            }
        }
        Some(())
    }

    /// A page's number: an index in a region, counted in pages of its size, and the size.
    fn expect(&mut self, number: u64, sum: u128, shape: Shape) -> Option<()> {
        const TWENTY_BITS: u64 = 0x000f_ffff;
        let regions = self.regions?;
        let order = number >> 59;
        let index = number & (TWENTY_BITS >> order);
        let region = (number >> 20) & TWENTY_BITS;
        // A header that is damaged may name any size.
        let place = region.saturating_mul(regions.size).saturating_add(regions.header);
        let place = place.saturating_add(PAGE + index * (PAGE << order));
        self.expected.insert(place, (sum, shape));
        Some(())
    }

    /// The checksums of all children, then their numbers.
    fn read_branch(&mut self, page: &[u8], shape: Shape) -> Option<()> {
        let children = usize::from(u16_at(page, 2)?) + 1;
        for n in 0..children {
            let sum = sum_at(page, 8 + SUM * n)?;
            self.expect(number_at(page, 8 + SUM * children + NUMBER * n)?, sum, shape)?;
        }
        Some(())
    }

    /// Each value is the definition of a table: its kind, length, root and widths.
    fn read_tables(&mut self, page: &[u8]) -> Option<()> {
        const ORDINARY: u8 = 3;
        let pairs = usize::from(u16_at(page, 2)?);
        let end = |n: usize| Some(u32_at(page, 4 + 4 * n)? as usize);
        let mut from = end(pairs.checked_sub(1)?)?;
        for n in 0..pairs {
            let to = end(pairs + n)?;
            let table = page.get(from..to)?;
            from = to;
            if table.first() == Some(&ORDINARY) && *table.get(9)? != 0 {
                let width = |at: usize| match table.get(at)? {
                    0 => Some(None),
                    _ => Some(Some(u32_at(table, at + 1)? as usize)),
                };
                let shape = Shape { key: width(42)?, value: width(47)?, tables: false };
                self.expect(number_at(table, 10)?, sum_at(table, 10 + NUMBER)?, shape)?;
            }
        }
        Some(())
    }
}

/// The number of the transaction that a header names as the last; they only grow.
pub fn last_commit(header: &[u8]) -> Option<u64> {
    let slot = usize::from(header.get(FLAGS)? & SECOND);
    number_at(header, SLOTS + SLOT * slot + TRANSACTION)
}

/// Behind the last value of a leaf: so far goes its checksum.
fn leaf_end(page: &[u8], shape: Shape) -> Option<usize> {
    let pairs = usize::from(u16_at(page, 2)?);
    let last = 4 * pairs.checked_sub(1)?;
    // The ends of keys and of values, where they differ in width.
    let table = |width: Option<usize>| if width.is_none() { 4 * pairs } else { 0 };
    let keys = match shape.key {
        Some(width) => 4 + table(shape.value) + width * pairs,
        None => u32_at(page, 4 + last)? as usize,
    };
    match shape.value {
        Some(width) => Some(keys + width * pairs),
        None => Some(u32_at(page, 4 + table(shape.key) + last)? as usize),
    }
}

/// Behind the last key of a branch.
fn branch_end(page: &[u8], shape: Shape) -> Option<usize> {
    let keys = usize::from(u16_at(page, 2)?);
    let start = 8 + (NUMBER + SUM) * (keys + 1);
    match shape.key {
        Some(width) => Some(start + width * keys),
        None => Some(u32_at(page, start + 4 * keys.checked_sub(1)?)? as usize),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn sum_at(bytes: &[u8], at: usize) -> Option<u128> {
    Some(u128::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}
