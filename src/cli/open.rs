//! Opens the store for a command, and provides the queries that several commands use.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use clap::Args;

use super::screen::{Progress, visible};
use super::{Call, misuse};
use crate::alloc::{Context, Del, Target};
use crate::config;
use crate::engine;
use crate::error::shown_network;
use crate::model::{History, Lease, Origin, Owner, Persist, StoreSpec, Wait};
use crate::net::Addr;
use crate::rows::PoolRow;
use crate::store;
use crate::store::{FileSystem as _, Os, Store};
use crate::sys::host;
use crate::sys::host::Env;
use crate::telemetry::usage::Usage;
use crate::trends::Trends;

/// The arguments that name the store.
#[derive(Debug, Args)]
#[allow(clippy::doc_markdown, reason = "users see these texts unchanged")]
pub struct StoreArgs {
    /// The lease file, or a cluster in JSON, such as {"etcd": {"endpoints": [...]}}
    /// [default: $IPAM_DB_PATH, else /var/lib/cni/sublet/leases.redb]
    #[arg(long, value_name = "PATH|JSON", global = true, verbatim_doc_comment)]
    pub store: Option<OsString>,
    /// This machine's node name in a cluster [default: $NODE_ID, else the host's name]
    #[arg(long, value_name = "NAME", global = true, value_parser = host::node_name)]
    pub node_name: Option<String>,
}

impl StoreArgs {
    /// Returns the JSON in `--store`, if the option names a cluster.
    pub fn cluster(&self) -> Option<&str> {
        cluster(self.store.as_ref()?)
    }

    /// Returns the file that `--store` names. Fails if the option names a cluster.
    pub fn file(&self) -> Result<Option<PathBuf>> {
        if self.cluster().is_some() {
            return Err(misuse(
                "`--store` names a cluster, but this command works only with lease files; name a lease file",
            ));
        }
        Ok(self.store.clone().map(PathBuf::from))
    }

    /// Returns the file that `--store` or the environment names.
    pub fn named(&self, env: &Env<'_>) -> Result<Option<PathBuf>> {
        let variable = || env("IPAM_DB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(self.file()?.or_else(variable))
    }
}

/// Returns the value of a store option if it is JSON, which describes a cluster; `None` if it is a path.
fn cluster(named: &OsStr) -> Option<&str> {
    let text = named.to_str()?.trim_start();
    text.starts_with('{').then_some(text)
}

/// The default lease file.
pub const DEFAULT: &str = "/var/lib/cni/sublet/leases.redb";
/// The default lease file for ECS configurations.
const ECS_DEFAULT: &str = "/data/eni-ipam.db";

/// How long a command waits for the lock of the store.
pub const WAIT: Wait = Wait::For(Duration::from_secs(5));

impl Call<'_> {
    /// Opens the store that the arguments or the environment name, otherwise the default file. Fails if a
    /// named file does not exist. If the default file does not exist yet, prints a message.
    pub fn open(&mut self) -> Result<OpenStore> {
        let open = self.open_or_create()?;
        if open.exists()? {
            return Ok(open);
        }
        if self.args.named(self.world.env)?.is_some() {
            return Err(open.missing());
        }
        writeln!(self.stderr, "no lease store on this host yet ({} does not exist)", open.place)?;
        Ok(open)
    }

    /// Opens the same store as [`Call::open`], for a command that creates the store if necessary. A store
    /// that does not exist is not an error.
    pub fn open_or_create(&mut self) -> Result<OpenStore> {
        if let (Some(_), Some(store)) = (self.args.cluster(), &self.args.store) {
            return self.open_named(store, "--store");
        }
        let path = match self.args.named(self.world.env)? {
            Some(path) => path,
            None => PathBuf::from(self.default_store()?),
        };
        // `Persist::Boot` opens both the boot leases (which end when the host reboots) and the durable
        // leases. Most commands treat both in the same way.
        self.open_file(path, Persist::Boot)
    }

    /// Returns the path of the default lease file, or of the default file for ECS if only that file exists.
    /// If both exist, prints a message about the file that is not used.
    fn default_store(&mut self) -> Result<&'static str> {
        let (usual, ecs) = (is_store(DEFAULT.as_ref())?, is_store(ECS_DEFAULT.as_ref())?);
        if usual && ecs {
            writeln!(
                self.stderr,
                "sublet: using {DEFAULT}; a second lease store exists: pass `--store {ECS_DEFAULT}` to use it"
            )?;
        }
        Ok(if ecs && !usual { ECS_DEFAULT } else { DEFAULT })
    }

    /// Opens the store that an option's value names: a file, or a cluster as JSON.
    pub fn open_named(&mut self, named: &OsStr, option: &str) -> Result<OpenStore> {
        let Some(json) = cluster(named) else {
            return self.open_file(PathBuf::from(named), Persist::Boot);
        };
        let (spec, warnings) = config::store(json).with_context(|| option.to_owned())?;
        let store = store::open(&spec)?;
        for warning in warnings {
            writeln!(self.stderr, "sublet: {option}: {warning}")?;
        }
        let place = "this cluster".to_owned();
        Ok(OpenStore { store, place, cx: self.world.facts.context_of(&spec), file: None })
    }

    /// Opens the store for Docker's pools: a cluster, or a lease file with durable leases.
    pub fn open_pools(&mut self) -> Result<OpenStore> {
        if self.args.cluster().is_some() {
            return self.open();
        }
        let path = self.args.named(self.world.env)?.unwrap_or_else(|| PathBuf::from(DEFAULT));
        self.open_file(path, Persist::Disk)
    }

    pub fn open_file(&self, path: PathBuf, persist: Persist) -> Result<OpenStore> {
        let (place, file) = (path.display().to_string(), Some(path.clone()));
        let store = store::open(&lease_file(path, persist))?;
        Ok(OpenStore { store, place, cx: self.world.facts.context(), file })
    }
}

/// Returns whether a store exists at this path: a file of durable leases, a file of boot leases, or a policy
/// file (which lists the ranges that operators reserved or are draining).
fn is_store(path: &Path) -> Result<bool> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    let names = Os.list(folder);
    let names = names.with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let Some(store) = path.file_name().map(OsStr::as_encoded_bytes) else { return Ok(false) };
    let is_ours = |name: &OsString| {
        name.as_encoded_bytes().strip_prefix(store).is_some_and(|rest| {
            rest.is_empty() || rest == b".policy" || rest.starts_with(b".boot-")
        })
    };
    Ok(names.iter().any(is_ours))
}

pub fn lease_file(path: PathBuf, persist: Persist) -> StoreSpec {
    StoreSpec::Embedded { path, persist, wait: WAIT, history: History::Standing }
}

/// An open store, and the context for commands on it.
pub struct OpenStore {
    pub store: Box<dyn Store>,
    /// The name of the store in messages.
    pub place: String,
    pub cx: Context,
    /// The path of the lease file; `None` for a cluster.
    file: Option<PathBuf>,
}

impl OpenStore {
    pub fn is_cluster(&self) -> bool {
        self.file.is_none()
    }

    /// Returns whether the store exists. A cluster is assumed to exist, because no server has been contacted
    /// yet.
    pub fn exists(&self) -> Result<bool> {
        self.file.as_deref().map_or(Ok(true), is_store)
    }

    /// Returns the error for a lease file that the operator named, but that does not exist.
    pub fn missing(&self) -> anyhow::Error {
        anyhow!("lease store {} does not exist; name a different file with `--store`", self.place)
    }

    /// Returns the context for commands on this lease. In a cluster, the context names the lease's node.
    pub fn cx_for(&self, lease: &Lease) -> Context {
        if !self.is_cluster() || lease.node == self.cx.node {
            return self.cx.clone();
        }
        // This machine does not know another node's boot ID.
        Context { node: lease.node.clone(), boot: None, ..self.cx.clone() }
    }

    /// Frees the leases that `target` selects in the set of `lease`. Returns false if it selects no lease.
    pub fn free(&mut self, lease: &Lease, target: Target) -> Result<bool> {
        let del = Del { set: lease.set.clone(), target, rewind: false, undo: false, legacy: None };
        let cx = self.cx_for(lease);
        Ok(!engine::del(&mut *self.store, del, None, &cx)?.is_empty())
    }

    /// Fails if the store has no network or pool with this name.
    pub fn check_network(&mut self, name: Option<&str>) -> Result<()> {
        match name {
            Some(name) => self.unknown(name)?.map_or(Ok(()), Err),
            None => Ok(()),
        }
    }

    /// Returns an error if no network or pool with this name has ranges or leases; otherwise `None`. The
    /// error lists the most similar names. Reads all leases only if no network or pool with this name has
    /// ranges.
    pub fn unknown(&mut self, name: &str) -> Result<Option<anyhow::Error>> {
        let defined = self.store.networks(&self.cx)?;
        let mut known: BTreeSet<String> =
            defined.into_iter().map(|d| d.network.to_string()).collect();
        known.extend(self.store.pools()?.into_iter().map(|pool| pool.id.0));
        if !known.contains(name) {
            self.store.list(&self.cx, &mut |lease| {
                let network = shown_network(&lease);
                if !known.contains(network) {
                    known.insert(network.to_owned());
                }
            })?;
        }
        Ok((!known.contains(name)).then(|| unknown_network(name, &known)))
    }

    /// Returns the usage of all ranges, or of the ranges of one network.
    pub fn usage(&mut self, network: Option<&str>) -> Result<Vec<Usage>> {
        let _busy = Progress::new(None, "counting");
        let mut usage = engine::usage(&mut *self.store, &self.cx)?;
        usage.retain(|usage| network.is_none_or(|network| usage.extent.network == network));
        Ok(usage)
    }

    /// Makes the rows for ranges.
    pub fn pool_rows(&mut self, usage: &[Usage]) -> Result<Vec<PoolRow>> {
        Ok(PoolRow::all(usage, &self.store.pools()?, "network"))
    }

    /// Makes the rows for ranges, with the allocations and releases of the last hour and the estimate of when
    /// each range will be full.
    pub fn pool_trends(&mut self, usage: &[Usage]) -> Result<Vec<PoolRow>> {
        let mut rows = self.pool_rows(usage)?;
        let trends = Trends::take(&mut *self.store, &self.cx, usage)?;
        for (at, row) in rows.iter_mut().enumerate() {
            if let Some(trend) = trends.of(at, row) {
                (row.allocated_last_hour, row.released_last_hour) = trend.last_hour().unzip();
                row.full_in = trend.full_in;
            }
        }
        Ok(rows)
    }

    /// Returns the leases that `wanted` selects.
    pub fn leases(&mut self, wanted: &dyn Fn(&Lease) -> bool) -> Result<Vec<Lease>> {
        let _busy = Progress::new(None, "reading the leases");
        let mut found = Vec::new();
        self.store.list(&self.cx, &mut |lease| {
            if wanted(&lease) {
                found.push(lease);
            }
        })?;
        Ok(found)
    }

    /// Returns the leases of an address or of a container. The name of a container may be its ID, a unique
    /// prefix of its ID with at least `shortest` bytes, an ECS `id`, or its pod as namespace/name. Fails if
    /// there is no lease, or if a prefix matches several containers.
    pub fn named(
        &mut self,
        name: &str,
        shortest: usize,
        network: Option<&str>,
    ) -> Result<Vec<Lease>> {
        let addr: Option<Addr> = name.parse().ok();
        let here = |l: &Lease| network.is_none_or(|n| shown_network(l) == n);
        let fits = |l: &Lease| match addr {
            Some(addr) if addr == l.addr => Some(Fit::Exactly),
            _ => fit(name, shortest, &l.owner, &l.origin),
        };
        let mut all = self.leases(&|l| here(l) && fits(l).is_some())?;
        if all.iter().any(|l| fits(l) == Some(Fit::Exactly)) {
            all.retain(|l| fits(l) == Some(Fit::Exactly));
            return Ok(all);
        }
        let containers: BTreeSet<&str> =
            all.iter().filter_map(|l| l.attachment()).map(|a| a.container.as_str()).collect();
        match containers.len() {
            0 => Err(anyhow!(
                "no lease of {}{} in {}; run `sublet list` to list all leases",
                name,
                network.map(|n| format!(" of network {n}")).unwrap_or_default(),
                self.place
            )),
            1 => Ok(all),
            n => {
                let shown: Vec<String> =
                    containers.iter().take(NAMED).map(|id| visible(id)).collect();
                let more = n.saturating_sub(NAMED);
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                Err(anyhow!(
                    "ambiguous container ID {name:?} matches {}{more}; pass more characters of the ID",
                    shown.join(", ")
                ))
            }
        }
    }
}

/// The maximum number of similar network names or of matching container IDs that a message lists.
const NAMED: usize = 5;

fn unknown_network(name: &str, known: &BTreeSet<String>) -> anyhow::Error {
    let mut similar: Vec<&str> = known.iter().map(String::as_str).collect();
    similar.sort_by_key(|other| strsim::damerau_levenshtein(name, other));
    let rest = similar.len().saturating_sub(NAMED);
    let shown: Vec<String> = similar.iter().take(NAMED).map(|name| visible(name)).collect();
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    let known = if shown.is_empty() { "none".to_owned() } else { shown.join(", ") };
    anyhow!("unknown network {name:?} (known: {known}{more})")
}

/// How a name given by the operator matches an owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// The name is the container's ID, the ECS `id`, or the pod as namespace/name.
    Exactly,
    /// The name is a prefix of the container's ID that is long enough.
    Begins,
}

/// Returns whether a pod has this name, or this namespace/name.
pub fn is_pod(name: &str, origin: &Origin) -> bool {
    origin.pod.as_ref().is_some_and(|pod| match name.split_once('/') {
        Some((namespace, name)) => pod.namespace == namespace && pod.name == name,
        None => pod.name == name,
    })
}

/// The minimum length of a prefix that identifies a container, in bytes. A shorter prefix could match by
/// chance.
pub const UNIQUE: usize = 4;

pub fn fit(name: &str, shortest: usize, owner: &Owner, origin: &Origin) -> Option<Fit> {
    let container = match owner {
        Owner::Attachment(attachment) => Some(attachment),
        _ => origin.attachment.as_ref(),
    };
    let container = container.map(|attachment| attachment.container.as_str());
    let id = matches!(owner, Owner::Id(id) if id == name);
    if container == Some(name) || id || name.contains('/') && is_pod(name, origin) {
        return Some(Fit::Exactly);
    }
    (name.len() >= shortest && container?.starts_with(name)).then_some(Fit::Begins)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Attachment, ContainerId, NetworkName, Pod};

    #[test]
    fn a_name_fits_a_container_an_id_or_a_pod() {
        let network = NetworkName::new("net").unwrap();
        let container = ContainerId::new("0123456789").unwrap();
        let attachment = Attachment { network, container, ifname: None };
        let [namespace, name] = ["shop", "web-0"].map(str::to_owned);
        let pod = Some(Pod { namespace, name, uid: String::new() });
        let origin = Origin { pod, attachment: Some(attachment.clone()), ..Origin::default() };
        let owner = Owner::Attachment(attachment.clone());
        let fits = |name| fit(name, UNIQUE, &owner, &origin).is_some();
        assert!(["0123456789", "0123", "shop/web-0"].iter().all(|name| fits(name)));
        assert!(!["", "012", "1234", "web-0", "shop/", "shop/web"].iter().any(|name| fits(name)));
        assert!(fit("0", 1, &owner, &origin) == Some(Fit::Begins));
        let of_id = |name| fit(name, UNIQUE, &Owner::Id("task".to_owned()), &origin);
        assert!(of_id("task") == Some(Fit::Exactly) && of_id("0123") == Some(Fit::Begins));
        let gateway = Owner::Gateway("10.0.0.1".parse().unwrap());
        assert!(fit("", UNIQUE, &gateway, &Origin::default()).is_none());
    }
}
