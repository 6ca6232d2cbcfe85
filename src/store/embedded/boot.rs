//! Which boot the boot leases belong to.
//!
//! Owns: `<file>.boot`. The store itself is not asked: without flushes a power cut may have left
//! anything in it. Invariant: a new store gets its name once the old one has lost it and the mark is
//! on disk; so of this machine's leases a store beside a mark of this boot holds those of this boot
//! alone, and after a power cut a mark tells that the boot has ended, whoever was killed before which flush.

use std::fs;
use std::io::ErrorKind;

use super::files;
use super::files::Files;
use crate::alloc::Context;
use crate::error::StoreError;
use crate::model::BootId;
use crate::sys;

/// Longest mark: two lines with an ID each.
const LONGEST: u64 = 4096;

/// What the mark says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The leases are of this boot.
    Current,
    /// The boot that made them has ended.
    Ended,
    /// It is another boot's, and there are leases of other machines, whose boots are not ours to
    /// judge; the boot that has ended, if it was this machine's.
    Others(Option<BootId>),
    /// There is none.
    Absent,
}

/// Reads the mark.
pub fn read(files: &Files, boot: &BootId, cx: &Context) -> Result<Mark, StoreError> {
    let path = files.boot_mark();
    let text = match sys::files::read(&path, LONGEST) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Mark::Absent),
        Err(e) if sys::files::is_none(&e) => {
            return Err(StoreError::Damaged { path, what: e.to_string() });
        }
        Err(e) => return Err(StoreError::io("read", &path, e)),
    };
    let mut lines = text.lines();
    let (Some(marked), Some(machine)) = (
        lines.next().and_then(|l| l.strip_prefix("boot ")),
        lines.next().and_then(|l| l.strip_prefix("machine ")),
    ) else {
        let what = "it does not say which boot the leases belong to".to_owned();
        return Err(StoreError::Damaged { path, what });
    };
    let others = lines.next() == Some(OTHERS);
    let ours = machine == cx.node.machine;
    Ok(match (marked == boot.0, ours, others) {
        (true, ..) => Mark::Current,
        (false, true, false) => Mark::Ended,
        (false, true, true) => Mark::Others(Some(BootId(marked.to_owned()))),
        (false, false, _) => Mark::Others(None),
    })
}

/// The mark's line that tells of leases that were carried over.
const OTHERS: &str = "and others";

/// Writes the mark; `others`: there are leases of other machines too.
pub fn write(files: &Files, boot: &BootId, others: bool, cx: &Context) -> Result<(), StoreError> {
    let last = if others { OTHERS } else { "" };
    let text = format!("boot {}\nmachine {}\n{last}\n", boot.0, cx.node.machine);
    files::make_text(&files.boot_mark(), &text)
}

/// Puts the next boot's store, which lies ready, in place of the ended boot's, which is kept beside
/// it whatever it holds.
pub fn replace(files: &Files, boot: &BootId, others: bool, cx: &Context) -> Result<(), StoreError> {
    let path = files.boot_leases();
    match fs::rename(path, files.last_boot()) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(StoreError::io("set aside the ended boot's store", path, e));
        }
        _ => {}
    }
    write(files, boot, others, cx)?;
    // No flush: after a power cut nobody asks for this boot's store.
    fs::rename(files.next_boot(), path).map_err(|e| StoreError::io("put in place", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Face, Node};

    #[test]
    fn a_mark_that_is_no_file_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().join("leases"));
        let boot = BootId("b".to_owned());
        let cx = Context {
            now: 1,
            boot: Some(boot.clone()),
            node: Node::default(),
            seed: 1,
            face: Face::Cni,
        };
        assert_eq!(read(&files, &boot, &cx).unwrap(), Mark::Absent);
        sys::files::make_pipe(&files.boot_mark());
        assert!(matches!(read(&files, &boot, &cx), Err(StoreError::Damaged { .. })));
    }
}
