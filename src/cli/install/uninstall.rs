//! `sublet uninstall`: restores the plugins that sublet replaced, and then removes the program.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::folder::{Folder, Row};
use super::rollback::Networks;
use super::{CONF_DIR, HOST_LOCAL, REPLACED, SUBLET, SUBLETD, configuration, program_in};
use crate::cli::export::host_local::Exported;
use crate::cli::{Call, explained};
use crate::config::HOST_LOCAL_DIR;

/// Remove this program from a folder of plugins.
///
/// Restores each plugin that sublet replaced. Before it restores host-local, it writes the leases to
/// host-local's folders, as `sublet export host-local` does. Do not start or stop containers meanwhile. The
/// lease store stays.
#[derive(Debug, Args)]
pub struct Uninstall {
    /// Folder of the runtime's plugins, such as /opt/cni/bin
    #[arg(long, value_name = "DIR", overrides_with = "to")]
    to: PathBuf,
    /// Restore only the plugin NAME; may be repeated
    #[arg(long = "as", value_name = "NAME", value_parser = REPLACED,
          conflicts_with_all = ["bin", "conf"])]
    names: Vec<String>,
    /// Folder on PATH with subletd and a link to sublet
    #[arg(long, value_name = "DIR", overrides_with = "bin")]
    bin: Option<PathBuf>,
    /// Network configuration that `install` copied; the copy is removed if it is unchanged
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// Folder of the runtime's network configurations
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,
    /// Folder for the leases of networks without a dataDir
    #[arg(long, value_name = "DIR", default_value = HOST_LOCAL_DIR)]
    networks: PathBuf,
}

impl Uninstall {
    pub(in crate::cli) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let (mut rows, mut exported) = (Vec::new(), Vec::new());
        if let Some(to) = Folder::find(&self.to)? {
            let conf_dir = self.conf.as_ref().map(|_| &*self.conf_dir);
            to.refuse_same(&[("--bin", self.bin.as_deref()), ("--conf-dir", conf_dir)])?;
            exported = self.give_back(&to, &mut rows, call)?;
            if self.names.is_empty() {
                self.remove(&to, &mut rows)?;
                self.warn(call)?;
            }
        }
        if call.as_json {
            return call.json(&json!({ "files": rows, "exported": exported }));
        }
        exported.iter().try_for_each(|exported| exported.print(call.stdout))?;
        rows.iter().try_for_each(|row| writeln!(call.stdout, "{row}"))?;
        if rows.is_empty() {
            writeln!(call.stdout, "{}: nothing to remove", self.to.display())?;
        }
        Ok(())
    }

    /// Restores the plugins that sublet replaced. Before it restores host-local, it exports the leases.
    fn give_back(
        &self,
        to: &Folder,
        rows: &mut Vec<Row>,
        call: &mut Call<'_>,
    ) -> Result<Vec<Exported>> {
        let mut exported = Vec::new();
        for name in REPLACED {
            if !self.names.is_empty() && !self.names.iter().any(|wanted| wanted == name) {
                continue;
            }
            let is_replaced = to.is_link_to(name, Path::new(SUBLET))?;
            if !is_replaced && !to.is_restored(name)? {
                continue;
            }
            let is_host_local = name == HOST_LOCAL;
            let networks = is_host_local.then(|| Networks::read(&self.conf_dir)).transpose()?;
            if let Some(networks) = &networks {
                exported.extend(networks.export(&self.networks, call)?);
            }
            if is_replaced {
                rows.push(to.restore(name)?);
            }
            if let Some(networks) = &networks {
                // After the export but before host-local was restored, an ADD may have imported a folder into
                // the store again. So export once more.
                exported.extend(networks.export(&self.networks, call)?);
                networks.check_exported(&self.networks, call)?;
            }
            to.forget(name)?;
        }
        Ok(exported)
    }

    /// Warns about configurations that still need the program.
    fn warn(&self, call: &mut Call<'_>) -> Result<()> {
        match Networks::read(&self.conf_dir) {
            Ok(networks) => networks.of_sublet.iter().try_for_each(|(network, file)| {
                writeln!(
                    call.stderr,
                    "sublet: {file}: network {network} still uses sublet; change the configuration"
                )
            })?,
            Err(e) => writeln!(call.stderr, "sublet: {}", explained(&e))?,
        }
        Ok(())
    }

    /// Removes the configuration first, so that it never names a program that is missing. Then removes the
    /// names on PATH, and finally the program.
    fn remove(&self, to: &Folder, rows: &mut Vec<Row>) -> Result<()> {
        if let Some((name, conf)) = self.conf.as_deref().map(configuration).transpose()?
            && let Some(folder) = Folder::find(&self.conf_dir)?
        {
            if folder.is_already(&name, &conf)? {
                rows.push(folder.restore(&name)?);
            }
            if folder.is_restored(&name)? {
                folder.forget(&name)?;
            }
        }
        if let Some(path) = &self.bin
            && let Some(bin) = Folder::find(path)?
        {
            if bin.is_link_to(SUBLET, &program_in(&self.to)?)? {
                rows.push(bin.restore(SUBLET)?);
            }
            if bin.is_restored(SUBLET)? {
                bin.forget(SUBLET)?;
            }
            rows.extend(bin.remove(SUBLETD)?);
            bin.forget(SUBLETD)?;
        }
        rows.extend(to.remove(SUBLET)?);
        to.forget(SUBLET)
    }
}
