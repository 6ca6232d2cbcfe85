//! Reads one bucket of a bolt database file. The file is untrusted input.
//!
//! The file format is version 2, as in bbolt's `internal/common/{page,meta,bucket,inode}.go`. A file consists
//! of pages of equal size: two meta pages, of which the newer valid one is used, and a B+tree of branch and
//! leaf pages. Numbers are little-endian, as on every machine on which Amazon ECS runs. This module exists
//! because no crate both reads this format and verifies what it reads.
//! Invariant: nothing outside the file is read, and each page is read at most once. Therefore the size of the
//! file bounds the time and the memory that reading takes, even if pages overlap or form a cycle.

/// The reason why a file is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Damage(String);

fn damage<T>(what: impl Into<String>) -> Result<T, Damage> {
    Err(Damage(what.into()))
}

/// A key and its value.
pub type Entry<'a> = (&'a [u8], &'a [u8]);

const MAGIC: u32 = 0xed0c_daed;
const VERSION: u32 = 2;
const HEADER: usize = 16;
/// The size of an element in a branch or leaf page, in bytes.
const ELEMENT: usize = 16;
const BUCKET_HEADER: usize = 16;
const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const META: u16 = 0x04;
/// The flag of an element in a leaf page whose value is a bucket.
const IS_BUCKET: u32 = 0x01;

/// Returns the entries of a top-level bucket, in the order of their keys; `None` if there is no such bucket.
/// Nested buckets are left out.
pub fn bucket<'a>(file: &'a [u8], name: &[u8]) -> Result<Option<Vec<Entry<'a>>>, Damage> {
    let meta = Meta::find(file)?;
    let mut tree = Tree { file, size: meta.page_size, pages: meta.pages, read: Vec::new() };
    tree.read = vec![false; file.len() / tree.size];
    let top = tree.entries(meta.root)?;
    let Some(found) = top.iter().find(|e| e.flags & IS_BUCKET != 0 && e.key == name) else {
        return Ok(None);
    };
    let root = u64_at(found.value, 0)?;
    let elements = if root == 0 {
        // A small bucket is stored inside the page of its parent.
        leaf(found.value.get(BUCKET_HEADER..).unwrap_or_default(), "an inline bucket")?
    } else {
        tree.entries(root)?
    };
    let plain = elements.into_iter().filter(|e| e.flags & IS_BUCKET == 0);
    Ok(Some(plain.map(|e| (e.key, e.value)).collect()))
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], Damage> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    found.copied().ok_or_else(|| Damage("the file ends within a page".to_owned()))
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16, Damage> {
    bytes_at(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Damage> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Damage> {
    bytes_at(bytes, at).map(u64::from_le_bytes)
}

/// Converts a 32-bit number to a length. A number that does not fit becomes the maximum, which is larger than
/// any file on this machine.
fn size(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

struct Meta {
    page_size: usize,
    root: u64,
    /// The number of pages in use.
    pages: u64,
    transaction: u64,
}

impl Meta {
    /// Finds the newer valid meta page. The second meta page begins one page after the first, but the page
    /// size is known only from the meta pages themselves. If the first is damaged, this function therefore
    /// tries every page size that bolt allows.
    fn find(file: &[u8]) -> Result<Meta, Damage> {
        let first = Meta::read(file, 0);
        let second = match &first {
            Some(meta) => Meta::read(file, meta.page_size),
            None => (0..16).find_map(|i| Meta::read(file, 1024 << i)),
        };
        let youngest = [first, second].into_iter().flatten().max_by_key(|m| m.transaction);
        youngest.ok_or_else(|| Damage("both meta pages are incomplete".to_owned()))
    }

    fn read(file: &[u8], at: usize) -> Option<Meta> {
        let page = file.get(at..)?;
        let meta = page.get(HEADER..HEADER + 64)?;
        let whole = u16_at(page, 8).ok()? == META
            && u32_at(meta, 0).ok()? == MAGIC
            && u32_at(meta, 4).ok()? == VERSION
            && u64_at(meta, 56).ok()? == fnv1a(meta.get(..56)?);
        let page_size = size(u32_at(meta, 8).ok()?);
        let sane = page_size.is_power_of_two() && (512..=1 << 25).contains(&page_size);
        (whole && sane).then_some(Meta {
            page_size,
            root: u64_at(meta, 16).ok()?,
            pages: u64_at(meta, 40).ok()?,
            transaction: u64_at(meta, 48).ok()?,
        })
    }
}

/// Computes FNV-1a with 64 bits, as Go's package hash/fnv does.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// An element of a leaf page.
struct Element<'a> {
    flags: u32,
    key: &'a [u8],
    value: &'a [u8],
}

struct Tree<'a> {
    file: &'a [u8],
    size: usize,
    pages: u64,
    /// For each page, whether it has already been read.
    read: Vec<bool>,
}

impl<'a> Tree<'a> {
    /// Returns all elements of the leaf pages below a page, in order.
    fn entries(&mut self, root: u64) -> Result<Vec<Element<'a>>, Damage> {
        let mut found = Vec::new();
        let mut left = vec![root];
        while let Some(id) = left.pop() {
            let page = self.page(id)?;
            match u16_at(page, 8)? {
                LEAF => found.extend(leaf(page, &format!("page {id}"))?),
                BRANCH => {
                    let children: Result<Vec<u64>, Damage> = (0..usize::from(u16_at(page, 10)?))
                        .map(|i| u64_at(page, HEADER + i * ELEMENT + 8))
                        .collect();
                    // The last page in the list is read next, so the first child must be added last.
                    left.extend(children?.into_iter().rev());
                }
                flags => {
                    return damage(format!(
                        "page {id} is neither a branch nor a leaf page (flags {flags:#x})"
                    ));
                }
            }
        }
        Ok(found)
    }

    /// Returns a page together with its overflow pages.
    fn page(&mut self, id: u64) -> Result<&'a [u8], Damage> {
        let outside = || Damage(format!("page {id} is outside the file"));
        let first = usize::try_from(id).map_err(|_| outside())?;
        // The first two pages are the meta pages, which are not part of the tree.
        if first < 2 || id >= self.pages || first >= self.read.len() {
            return Err(outside());
        }
        let overflow = size(u32_at(self.file, first * self.size + 12)?);
        let last = first.checked_add(overflow).filter(|l| *l < self.read.len());
        let last = last.ok_or_else(outside)?;
        let read = self.read.get_mut(first..=last).ok_or_else(outside)?;
        if read.contains(&true) {
            return damage(format!("page {id} occurs twice in the tree"));
        }
        read.fill(true);
        self.file.get(first * self.size..(last + 1) * self.size).ok_or_else(outside)
    }
}

/// Returns the elements of a leaf page.
fn leaf<'a>(page: &'a [u8], place: &str) -> Result<Vec<Element<'a>>, Damage> {
    let mut found = Vec::new();
    let mut bytes = 0_usize;
    for i in 0..usize::from(u16_at(page, 10)?) {
        let at = HEADER + i * ELEMENT;
        let number = |offset| u32_at(page, at + offset).map(size);
        let (from, key, value) = (number(4)?, number(8)?, number(12)?);
        let start = at.saturating_add(from);
        let middle = start.saturating_add(key);
        let end = middle.saturating_add(value);
        // Refuse elements that share bytes, because their total content could be larger than the file.
        bytes = bytes.saturating_add(key).saturating_add(value);
        match (page.get(start..middle), page.get(middle..end)) {
            (Some(key), Some(value)) if bytes <= page.len() => {
                found.push(Element { flags: u32_at(page, at)?, key, value });
            }
            _ => return damage(format!("element {i} of {place} is outside {place}")),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded() -> Vec<u8> {
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/import/eni-ipam.db")).unwrap()
    }

    #[test]
    fn a_recorded_file() {
        let file = recorded();
        let entries = bucket(&file, b"IPAM").unwrap().unwrap();
        assert_eq!(entries.len(), 312);
        assert!(entries.is_sorted());
        assert_eq!(bucket(&file, b"other").unwrap(), None);
    }

    #[test]
    fn the_first_meta_page_may_be_torn() {
        let mut file = recorded();
        let whole = bucket(&file, b"IPAM").unwrap().unwrap().len();
        file[20] ^= 1;
        let found = bucket(&file, b"IPAM").unwrap().unwrap().len();
        // The other meta page belongs to the transaction before or after, so the number of entries may differ
        // by one.
        assert!(found.abs_diff(whole) <= 1, "{found} of {whole}");
        let second = Meta::read(&file, 4096).map_or(4096, |m| m.page_size);
        file[second + 20] ^= 1;
        assert!(bucket(&file, b"IPAM").unwrap_err().to_string().contains("meta"));
    }

    /// Checks that no file causes a panic. The test changes every byte at the beginning of every page (its
    /// header and first elements), in several ways. It also truncates the file at many lengths.
    #[test]
    fn hostile_files_are_errors() {
        let file = recorded();
        for len in (0..file.len()).step_by(97) {
            let _ = bucket(&file[..len], b"IPAM");
        }
        for page in 0..file.len() / 4096 {
            for at in page * 4096..page * 4096 + 400 {
                for wrong in [0, 1, 2, 0x7f, 0xff] {
                    let mut file = file.clone();
                    file[at] = wrong;
                    let _ = bucket(&file, b"IPAM");
                }
            }
        }
    }

    /// Makes a file with this number of pages. Both meta pages name page 2 as the root.
    fn forged(pages: usize) -> Vec<u8> {
        let mut file = vec![0; pages * 4096];
        for at in [0, 4096] {
            let mut meta = Vec::new();
            for number in [MAGIC, VERSION, 4096, 0] {
                meta.extend(number.to_le_bytes());
            }
            for number in [2, 0, 0, u64::try_from(pages).unwrap(), 7] {
                meta.extend(number.to_le_bytes());
            }
            meta.extend(fnv1a(&meta).to_le_bytes());
            file[at + 8..at + 10].copy_from_slice(&META.to_le_bytes());
            file[at + HEADER..at + HEADER + meta.len()].copy_from_slice(&meta);
        }
        file
    }

    fn header(file: &mut [u8], page: usize, flags: u16, count: u16, overflow: u32) {
        let at = page * 4096;
        file[at + 8..at + 10].copy_from_slice(&flags.to_le_bytes());
        file[at + 10..at + 12].copy_from_slice(&count.to_le_bytes());
        file[at + 12..at + 16].copy_from_slice(&overflow.to_le_bytes());
    }

    #[test]
    fn cycles_and_overlaps_end() {
        // In this 10 MB file, a branch page names itself as each of its children.
        let mut file = forged(2560);
        header(&mut file, 2, BRANCH, 0xffff, 2557);
        for i in 0..0xffff {
            let at = 2 * 4096 + HEADER + i * ELEMENT + 8;
            file[at..at + 8].copy_from_slice(&2_u64.to_le_bytes());
        }
        let error = bucket(&file, b"IPAM").unwrap_err();
        assert!(error.to_string().contains("twice"), "{error}");
        // In this leaf page, the values of all elements overlap, and each is 1 MB long.
        let mut file = forged(2560);
        header(&mut file, 2, LEAF, 0xffff, 2557);
        for i in 0..0xffff {
            let at = 2 * 4096 + HEADER + i * ELEMENT;
            file[at + 12..at + 16].copy_from_slice(&1_000_000_u32.to_le_bytes());
        }
        assert!(bucket(&file, b"IPAM").unwrap_err().to_string().contains("outside"));
    }
}
