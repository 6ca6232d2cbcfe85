//! Verifies every page before redb sees it.
//!
//! redb stores a checksum of each page beside the reference to it, from the header down to the leaves. On
//! an ordinary read it checks none of them: it accepts a page that is damaged, outdated or from another
//! place, or panics, or even aborts. This module does what redb does when it repairs a file: a verified
//! page supplies the checksums of the pages below it.
//!
//! It knows the part of redb's file format (version 3) that locates pages and their checksums. The header
//! has its own checksums, which redb verifies.
//! Invariant: unknown content is passed on unchanged, for redb to interpret, so this module can only add
//! refusals.

use std::collections::BTreeMap;
use std::io;

use twox_hash::XxHash3_128;

/// The supported version of the file format.
const FORMAT: u8 = 3;
const PAGE: u64 = 4096;
const HEADER: usize = 320;
/// The size of a header's slot. One of the two slots has the last commit, the other has the previous or next
/// one.
const SLOT: usize = 128;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// The sizes of a page number and of a checksum, in bytes.
const NUMBER: usize = 8;
const SUM: usize = 16;

/// A flag in the header: the second slot is the current one.
const SECOND: u8 = 1;
const FLAGS: usize = 9;
/// The offset of the first slot, and the offset of the transaction number in a slot.
const SLOTS: usize = 64;
const TRANSACTION: usize = 104;

/// The expected checksums of pages that have not been read yet, by offset.
#[derive(Debug, Default)]
pub struct Pages {
    expected: BTreeMap<u64, (u128, Shape)>,
    /// `None` until the header was read.
    regions: Option<Regions>,
}

/// The file after its first page: regions of the same size, each with a header and pages.
#[derive(Clone, Copy, Debug)]
struct Regions {
    header: u64,
    size: u64,
}

/// The layout of the tree that a page belongs to.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// The size of each key in bytes, if it is fixed.
    key: Option<usize>,
    value: Option<usize>,
    /// Whether the tree's values are the roots of other trees.
    tables: bool,
}

const TABLES: Shape = Shape { key: None, value: None, tables: true };

impl Pages {
    /// Verifies bytes that were read at this offset.
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

    /// Forgets the checksums of pages that are overwritten.
    pub fn forget(&mut self, offset: u64, len: usize) {
        let places = offset.max(1)..offset + len as u64;
        while let Some((&place, _)) = self.expected.range(places.clone()).next() {
            self.expected.remove(&place);
        }
    }

    /// Reads the roots of the last commit, if redb uses them without reading every page.
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

    /// Records the checksum of a page. A page number consists of a region, an index in pages of its size,
    /// and the size.
    fn expect(&mut self, number: u64, sum: u128, shape: Shape) -> Option<()> {
        const TWENTY_BITS: u64 = 0x000f_ffff;
        let regions = self.regions?;
        let order = number >> 59;
        let index = number & (TWENTY_BITS >> order);
        let region = (number >> 20) & TWENTY_BITS;
        // A damaged header may contain any size.
        let place = region.saturating_mul(regions.size).saturating_add(regions.header);
        let place = place.saturating_add(PAGE + index * (PAGE << order));
        self.expected.insert(place, (sum, shape));
        Some(())
    }

    /// A branch contains the checksums of all children, then their numbers.
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

/// The number of the last transaction in a header. Numbers only grow.
pub fn last_commit(header: &[u8]) -> Option<u64> {
    let slot = usize::from(header.get(FLAGS)? & SECOND);
    number_at(header, SLOTS + SLOT * slot + TRANSACTION)
}

/// The end of a leaf's last value, which is the end of the checksummed part.
fn leaf_end(page: &[u8], shape: Shape) -> Option<usize> {
    let pairs = usize::from(u16_at(page, 2)?);
    let last = 4 * pairs.checked_sub(1)?;
    // The ends of keys and of values, if they have different sizes.
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

/// The end of a branch's last key.
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
