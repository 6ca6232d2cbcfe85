//! `sublet install` and `sublet uninstall`: add the program to a runtime's plugin folder and to a folder on
//! PATH, replace other plugins with it, and reverse these changes.
//!
//! The files on disk show what is installed; nothing else records it. Every step can be repeated, so a new
//! run completes an earlier run that was killed.
//! Invariant: at any time, a runtime finds either the old program or the new program. A configuration is
//! installed only after the program that it names.

mod folder;
mod rollback;
mod uninstall;

use std::fs::{self, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::json;

use super::{Call, misuse};
use crate::config::lint::Finding;
use crate::config::{Position, lint};
use crate::sys::files;
use folder::{Folder, New, Row};
pub use uninstall::Uninstall;

/// Install this program in a folder of plugins.
///
/// Each file is replaced in one step, so its name always leads to the old or to the new program. The old file
/// is kept as NAME.old. To return to the previous sublet, run `DIR/sublet.old install --to DIR`. To return to
/// a plugin that was replaced, run `sublet uninstall --to DIR --as NAME`. Other files stay unchanged.
#[derive(Debug, Args)]
pub struct Install {
    /// Folder of the runtime's plugins, such as /opt/cni/bin
    #[arg(long, value_name = "DIR", overrides_with = "to")]
    to: PathBuf,
    /// Replace the plugin NAME with a link to sublet; may be repeated
    #[arg(long = "as", value_name = "NAME", value_parser = REPLACED)]
    names: Vec<String>,
    /// Folder on PATH for subletd and for a link to sublet
    #[arg(long, value_name = "DIR", overrides_with = "bin")]
    bin: Option<PathBuf>,
    /// Network configuration for the runtime, copied last
    #[arg(long, value_name = "FILE")]
    conf: Option<PathBuf>,
    /// Folder of the runtime's network configurations
    #[arg(long, value_name = "DIR", default_value = CONF_DIR)]
    conf_dir: PathBuf,
}

const CONF_DIR: &str = "/etc/cni/net.d";
const SUBLET: &str = "sublet";
const SUBLETD: &str = "subletd";
/// The path of the running program. The path remains valid if the program's file is renamed or replaced.
const RUNNING: &str = "/proc/self/exe";
const PROGRAM_MODE: u32 = 0o755;

const HOST_LOCAL: &str = "host-local";
/// The plugins that sublet can replace.
const REPLACED: [&str; 3] = [HOST_LOCAL, "ecs-ipam", "consul"];

impl Install {
    pub(super) fn run(&self, call: &mut Call<'_>) -> Result<()> {
        let conf = self.configuration().context("nothing was installed")?;
        let rows = self.put(conf.as_ref())?;
        if call.as_json {
            return call.json(&json!({ "files": rows }));
        }
        rows.iter().try_for_each(|row| Ok(writeln!(call.stdout, "{row}")?))
    }

    /// Returns the configuration to copy. Fails if the configuration would make its network's ADDs fail.
    pub(super) fn configuration(&self) -> Result<Option<(String, New)>> {
        let conf = self.conf.as_deref().map(configuration).transpose()?;
        if let (Some(path), Some((_, conf))) = (&self.conf, &conf) {
            check(path, conf)?;
        }
        Ok(conf)
    }

    /// Installs all files, `conf` last. A file that already has the right content is not written.
    pub(super) fn put(&self, conf: Option<&(String, New)>) -> Result<Vec<Row>> {
        let program = program(Path::new(RUNNING))?;
        let daemon = self.bin.as_ref().map(|_| daemon()).transpose()?;
        let to = Folder::make(&self.to)?;
        let conf_dir = conf.map(|_| &*self.conf_dir);
        to.refuse_same(&[("--bin", self.bin.as_deref()), ("--conf-dir", conf_dir)])?;
        let names = self.names.iter().map(String::as_str);
        to.check_names(names.clone().chain([SUBLET]))?;
        let mut rows = vec![to.put(SUBLET, &program)?];
        for name in names {
            rows.push(to.put(name, &New::Link(SUBLET.into()))?);
        }
        if let (Some(path), Some(daemon)) = (&self.bin, &daemon) {
            let bin = Folder::make(path)?;
            bin.check_names([SUBLET, SUBLETD])?;
            rows.push(bin.put(SUBLETD, daemon)?);
            rows.push(bin.put(SUBLET, &New::Link(program_in(&self.to)?))?);
        }
        if let Some((name, conf)) = conf {
            rows.push(Folder::make(&self.conf_dir)?.put(name, conf)?);
        }
        Ok(rows)
    }

    /// Returns the state of every file that [`Install::put`] writes, and of the configuration that it copies.
    /// As long as this state does not change, calling [`Install::put`] again has no effect.
    pub(super) fn state(&self) -> Vec<Result<State, ErrorKind>> {
        let names = self.names.iter().map(String::as_str).chain([SUBLET]);
        let mut written: Vec<PathBuf> = names.map(|name| self.to.join(name)).collect();
        if let Some(bin) = &self.bin {
            written.extend([SUBLET, SUBLETD].map(|name| bin.join(name)));
        }
        if let Some(name) = self.conf.as_deref().and_then(Path::file_name) {
            written.push(self.conf_dir.join(name));
        }
        let mut found: Vec<_> = written.iter().map(fs::symlink_metadata).collect();
        found.extend(self.conf.as_ref().map(fs::metadata));
        found.iter().map(|found| found.as_ref().map(State::of).map_err(io::Error::kind)).collect()
    }
}

/// The properties that show whether a file has changed. If the file is replaced or written, at least one of
/// them changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct State {
    place: (u64, u64),
    size: u64,
    /// When the content and the metadata last changed, each in seconds and nanoseconds.
    changed: [i64; 4],
}

impl State {
    fn of(m: &Metadata) -> State {
        let changed = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        State { place: (m.dev(), m.ino()), size: m.size(), changed }
    }
}

/// Returns the absolute path of the program in a folder.
fn program_in(folder: &Path) -> Result<PathBuf> {
    let whole = fs::canonicalize(folder);
    let whole = whole.with_context(|| format!("cannot access {}", folder.display()))?;
    Ok(whole.join(SUBLET))
}

/// Returns subletd, which is in the same folder as the running program.
fn daemon() -> Result<New> {
    let own = fs::read_link(RUNNING).with_context(|| format!("cannot read {RUNNING}"))?;
    program(&own.with_file_name(SUBLETD))
}

fn program(path: &Path) -> Result<New> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(New::File { bytes, mode: PROGRAM_MODE })
}

/// Fails if a configuration would make every ADD of its network fail.
fn check(path: &Path, conf: &New) -> Result<()> {
    let New::File { bytes, .. } = conf else { return Ok(()) };
    match lint::bytes_of(bytes).findings.iter().find(|finding| finding.error) {
        Some(Finding { at: Position { line, column }, text, .. }) => {
            let place = format!("{}:{line}:{column}", path.display());
            bail!("{place}: {text}")
        }
        None => Ok(()),
    }
}

/// Returns a network configuration, with the name and the mode for its copy.
fn configuration(path: &Path) -> Result<(String, New)> {
    let cannot = || format!("cannot read {}", path.display());
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return Err(misuse(format!(
            "invalid `--conf` {}: the path does not end with a file name",
            path.display()
        )));
    };
    let mut file = files::open(path).with_context(cannot)?;
    let mode = file.metadata().with_context(cannot)?.permissions().mode() & 0o777;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).with_context(cannot)?;
    Ok((name.to_owned(), New::File { bytes, mode }))
}
