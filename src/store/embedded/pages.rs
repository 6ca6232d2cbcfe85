//! Verifies the checksum of every page before redb uses the page.
//!
//! redb stores the checksum of each page next to the reference to the page, from the header down to the
//! leaves. On an ordinary read, redb does not compare the checksums. If a page is damaged, outdated or from
//! another place in the file, redb may accept the page, panic, or even abort the process. This module works
//! like redb's own repair of a file: each verified page supplies the checksums of the pages below it.
//!
//! This module only knows the part of redb's file format (version 3) that locates pages and their checksums.
//! redb itself verifies the checksums of the header. Invariant: content that this module does not recognize
//! is passed on to redb unchanged. So this module can only refuse content that redb would accept, never the
//! reverse.

use std::collections::BTreeMap;
use std::io;

use twox_hash::XxHash3_128;

/// The version of redb's file format that this module knows.
const FORMAT: u8 = 3;
const PAGE: u64 = 4096;
const HEADER: usize = 320;
/// The size of a slot in the header, in bytes. There are two slots: one describes the last commit, the other
/// describes the previous commit or the next commit.
const SLOT: usize = 128;
const LEAF: u8 = 1;
const BRANCH: u8 = 2;
/// The sizes of a page number and of a checksum, in bytes.
const NUMBER: usize = 8;
const SUM: usize = 16;

/// A flag in the header: if it is set, the second slot is the current one.
const SECOND: u8 = 1;
const FLAGS: usize = 9;
/// The offset of the first slot within the header. `TRANSACTION` is the offset of the transaction number
/// within a slot.
const SLOTS: usize = 64;
const TRANSACTION: usize = 104;

/// The expected checksums of pages that have not been read yet, by the offset of the page.
#[derive(Debug, Default)]
pub struct Pages {
    expected: BTreeMap<u64, (u128, Shape)>,
    /// The regions of the file; `None` until the header has been read.
    regions: Option<Regions>,
}

/// The layout of the file after its first page: regions of equal size, each with a header and pages. Sizes
/// are in bytes.
#[derive(Clone, Copy, Debug)]
struct Regions {
    header: u64,
    size: u64,
}

/// The layout of the keys and values in a tree.
#[derive(Clone, Copy, Debug)]
struct Shape {
    /// The size of each key in bytes; `None` if the keys have different sizes.
    key: Option<usize>,
    value: Option<usize>,
    /// Whether each value in the tree is the root of another tree.
    tables: bool,
}

const TABLES: Shape = Shape { key: None, value: None, tables: true };

impl Pages {
    /// Verifies the checksum of a page that was read from `offset`, if the checksum is known. Remembers the
    /// checksums of the pages that the page refers to. Fails if the page is corrupt.
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

    /// Removes the checksums of pages that are being overwritten.
    pub fn forget(&mut self, offset: u64, len: usize) {
        let places = offset.max(1)..offset + len as u64;
        while let Some((&place, _)) = self.expected.range(places.clone()).next() {
            self.expected.remove(&place);
        }
    }

    /// Remembers the checksums of the root pages of the last commit. Remembers nothing if the header shows
    /// that redb will verify every page of the file itself when it opens the file.
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

    /// Records the expected checksum of a page. A page number encodes the region, the size of the page, and
    /// the index of the page among the region's pages of this size.
    fn expect(&mut self, number: u64, sum: u128, shape: Shape) -> Option<()> {
        const TWENTY_BITS: u64 = 0x000f_ffff;
        let regions = self.regions?;
        let order = number >> 59;
        let index = number & (TWENTY_BITS >> order);
        let region = (number >> 20) & TWENTY_BITS;
        // The sizes come from the header. A damaged header may contain any sizes, so the calculation must not
        // overflow.
        let place = region.saturating_mul(regions.size).saturating_add(regions.header);
        let place = place.saturating_add(PAGE + index * (PAGE << order));
        self.expected.insert(place, (sum, shape));
        Some(())
    }

    /// Reads a branch page, which contains the checksums of all child pages, followed by their page numbers.
    fn read_branch(&mut self, page: &[u8], shape: Shape) -> Option<()> {
        let children = usize::from(u16_at(page, 2)?) + 1;
        for n in 0..children {
            let sum = sum_at(page, 8 + SUM * n)?;
            self.expect(number_at(page, 8 + SUM * children + NUMBER * n)?, sum, shape)?;
        }
        Some(())
    }

    /// Reads a leaf page of the tree of tables. Each value describes a table: its kind, length and root, and
    /// the sizes of its keys and values.
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

/// Returns the number of the last committed transaction, from a header. Transaction numbers only grow.
pub fn last_commit(header: &[u8]) -> Option<u64> {
    let slot = usize::from(header.get(FLAGS)? & SECOND);
    number_at(header, SLOTS + SLOT * slot + TRANSACTION)
}

/// Returns the offset at which the last value of a leaf page ends. The checksum covers the page up to this
/// offset.
fn leaf_end(page: &[u8], shape: Shape) -> Option<usize> {
    let pairs = usize::from(u16_at(page, 2)?);
    let last = 4 * pairs.checked_sub(1)?;
    // If keys have different sizes, a leaf contains an array of the offsets at which the keys end. The same
    // applies to values.
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

/// Returns the offset at which the last key of a branch page ends.
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
