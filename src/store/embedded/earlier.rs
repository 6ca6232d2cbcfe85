//! Reads the files of earlier boots: their history, and the former addresses of sticky pods.
//!
//! No decision about a lease depends on these files, so unreadable files are skipped. A file is removed only
//! if it is readable, belongs to this machine, and its boot ended longer ago than the configured `age` of
//! `history`. The newest of these files is never removed.

#![allow(
    clippy::redundant_closure,
    reason = "function paths fail here, because their lifetimes are not general enough"
)]

use std::path::PathBuf;

use super::fs::FileSystem;
use super::{Embedded, Result, database, history, keys};
use crate::alloc::{Context, PodKey, View};
use crate::error::StoreError;
use crate::model::{BootId, SetName, Timestamp};
use crate::net::Addr;

/// The lease file of an earlier boot of this machine.
pub struct EarlierBoot {
    /// The path of the file.
    pub path: PathBuf,
    /// When the file was created, in seconds since 1970.
    pub begun: Timestamp,
    /// When the boot ended, in seconds since 1970: the time at which the next boot created its file. For the
    /// latest of the earlier boots, this is the time that the caller of `earlier_boots` passed.
    pub ended: Timestamp,
}

impl<F: FileSystem> Embedded<F> {
    /// Returns all boot files in the store's folder, and their boot IDs.
    pub(super) fn boot_files(&self) -> Result<Vec<(BootId, PathBuf)>> {
        let folder = self.names.folder();
        let names =
            self.fs.list(folder).map_err(|e| StoreError::io("read the folder", folder, e))?;
        let boot = |name: &std::ffi::OsString| self.names.boot_of(name.to_str()?);
        Ok(names.iter().filter_map(boot).map(|id| (id.clone(), self.names.boot(&id))).collect())
    }

    /// Returns the readable files of earlier boots of this machine, newest first. `ended` is the time at
    /// which the latest of these boots ended.
    pub(super) fn earlier_boots(&self, mut ended: Timestamp, cx: &Context) -> Vec<EarlierBoot> {
        let others = self.boot_files().unwrap_or_default();
        let mut found: Vec<EarlierBoot> = others
            .into_iter()
            .filter(|(id, _)| cx.boot.as_ref() != Some(id) && !cx.node.machine.is_empty())
            .filter_map(|(_, path)| {
                let (machine, begun) = self.read_earlier(&path, |tables| {
                    let machine: Vec<u8> = tables.value(keys::MACHINE)?.unwrap_or_default();
                    Ok((machine, history::begun(tables)?.unwrap_or_default()))
                })?;
                let is_ours = machine == cx.node.machine.as_bytes();
                is_ours.then_some(EarlierBoot { path, begun, ended: cx.now })
            })
            .collect();
        found.sort_by_key(|boot| std::cmp::Reverse(boot.begun));
        for boot in &mut found {
            boot.ended = std::mem::replace(&mut ended, boot.begun);
        }
        found
    }

    /// Reads a boot file without taking the second lock, because no process writes to the file of an earlier
    /// boot. The only record that is read from the current boot's file is its creation time, which never
    /// changes. Returns `None` if the file cannot be read.
    pub(super) fn read_earlier<T>(
        &self,
        path: &std::path::Path,
        work: impl FnOnce(&database::Looked<'_>) -> Result<T>,
    ) -> Option<T> {
        database::read(&self.fs, path, None, &self.patience, work).ok().flatten()
    }

    /// Returns the address that a pod had in a range set during the previous boot.
    pub(super) fn earlier_former(
        &self,
        set: &SetName,
        pod: &PodKey,
        range: Addr,
        cx: &Context,
    ) -> Option<Addr> {
        let newest = self.earlier_boots(cx.now, cx).into_iter().next()?;
        self.read_earlier(&newest.path, |tables| tables.former(set, pod, range)).flatten()
    }

    /// Removes the boot files whose history has expired. If a file cannot be removed, a later boot tries
    /// again.
    pub(super) fn remove_earlier(&self, cx: &Context) {
        let age = self.history.age();
        for boot in self.earlier_boots(cx.now, cx).iter().skip(1) {
            if boot.ended.saturating_add(age) < cx.now {
                let _ = self.fs.remove(&boot.path);
            }
        }
    }
}
