//! Before `sublet uninstall` restores host-local, finds and exports the leases that host-local needs.
//!
//! The runtime's configurations show which networks have their own `dataDir`, and which networks use sublet.
//! Invariant: a configuration that cannot be parsed is an error, because it may be the only file that names
//! the store of its network. If the leases in that store were ignored, host-local would lease their addresses
//! a second time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::{HOST_LOCAL, SUBLET};
use crate::cli::Call;
use crate::cli::check::{File, files_in};
use crate::cli::export::host_local;
use crate::cli::export::host_local::{Chosen, Exported};
use crate::cli::open::{DEFAULT, OpenStore};
use crate::config::HOST_LOCAL_DIR;
use crate::model::{Persist, StoreSpec};
use crate::sys::files;

/// The networks in the runtime's folder of configurations.
#[derive(Default)]
pub struct Networks {
    /// The networks that use sublet, each with the file of its configuration.
    pub of_sublet: BTreeMap<String, String>,
    /// The host-local networks that set `dataDir`, each with its `dataDir`.
    data_dirs: BTreeMap<String, PathBuf>,
    /// The lease files of host-local networks that set `dataDir`, each with the `dataDir`.
    stores: BTreeMap<PathBuf, PathBuf>,
}

impl Networks {
    /// Reads a folder of configurations. If the folder does not exist, there are no networks.
    pub fn read(conf_dir: &Path) -> Result<Networks> {
        let mut networks = Networks::default();
        if files::look(conf_dir)?.is_some() {
            files_in(conf_dir)?.iter().try_for_each(|file| networks.add(file))?;
        }
        Ok(networks)
    }

    fn add(&mut self, File { name: file, found }: &File) -> Result<()> {
        let unknown = || {
            format!(
                "cannot determine where {file} stores leases; correct the file, or move the file out of the \
                 folder; `sublet check {file}` lists its errors"
            )
        };
        if found.parts.is_empty() && found.findings.iter().any(|finding| finding.error) {
            bail!("{}", unknown());
        }
        for part in &found.parts {
            let of_sublet = part.ipam == SUBLET;
            if !of_sublet && part.ipam != HOST_LOCAL {
                continue;
            }
            let Some(cleanup) = &part.cleanup else { bail!("{}", unknown()) };
            let network = cleanup.network.to_string();
            if of_sublet {
                self.of_sublet.insert(network, file.clone());
                continue;
            }
            let StoreSpec::Embedded { path, .. } = &cleanup.store else {
                bail!(
                    "the leases of network {network} are in a cluster, which host-local cannot read; delete \
                     the containers of the network, then remove ipam.store from {file}"
                );
            };
            let dir = cleanup.legacy_dir.as_deref().and_then(Path::parent);
            if let Some(dir) = dir.filter(|dir| *dir != Path::new(HOST_LOCAL_DIR)) {
                self.stores.insert(path.clone(), dir.to_owned());
                self.data_dirs.insert(network, dir.to_owned());
            }
        }
        Ok(())
    }

    /// Exports the leases of every network whose configuration does not name sublet to host-local's folders.
    /// For a network without `dataDir`, the folder is in `usual`.
    pub fn export(&self, usual: &Path, call: &mut Call<'_>) -> Result<Vec<Exported>> {
        let mut exported = Vec::new();
        for (mut open, dir) in self.open(usual, call)? {
            let chosen = self.choose(&mut open, &dir)?;
            exported.extend(host_local::export(&chosen, &mut open, false, call.stderr)?);
        }
        Ok(exported)
    }

    /// Fails if new leases were made during the export.
    pub fn check_exported(&self, usual: &Path, call: &mut Call<'_>) -> Result<()> {
        self.open(usual, call)?
            .iter_mut()
            .try_for_each(|(open, dir)| self.choose(open, dir)?.check_is_empty())
    }

    /// Opens the stores that exist. Returns each store with its `dataDir`, which applies to networks in the
    /// store that no configuration names.
    fn open(&self, usual: &Path, call: &mut Call<'_>) -> Result<Vec<(OpenStore, PathBuf)>> {
        let named = call.args.named(call.world.env)?;
        let is_named = named.is_some();
        let own = named.unwrap_or_else(|| PathBuf::from(DEFAULT));
        let mut stores = self.stores.clone();
        stores.insert(own.clone(), usual.to_owned());
        let mut opened = Vec::new();
        for (path, dir) in stores {
            // `Persist::Boot` opens the durable leases as well as the boot leases.
            let open = call.open_file(path.clone(), Persist::Boot)?;
            if open.exists()? {
                opened.push((open, dir));
            } else if is_named && path == own {
                return Err(open.missing());
            }
        }
        Ok(opened)
    }

    fn choose(&self, open: &mut OpenStore, dir: &Path) -> Result<Chosen> {
        host_local::choose(open, &|network| {
            let dir = self.data_dirs.get(network).map_or(dir, PathBuf::as_path);
            (!self.of_sublet.contains_key(network)).then(|| dir.to_owned())
        })
    }
}
