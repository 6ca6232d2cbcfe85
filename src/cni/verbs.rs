//! Implements the five CNI commands that work on leases.
//!
//! For each command, this module determines which parts of the configuration are required, and translates the
//! outcome from the engine into a CNI result or error.
//! Invariant: an ADD with an invalid environment or configuration is refused before anything is leased. A DEL
//! needs only the location and the owner of the leases from its configuration.

use super::Output;
use super::env::{EnvError, Invocation, Verb};
use super::error::{DECODING, ENVIRONMENT, Failure, INCOMPATIBLE_VERSION, IO, NETNS};
use super::result;
use super::result::Answer;
use crate::alloc::{Check, DefineNetwork, Del, Gc, Status, Target};
use crate::config::{Cleanup, CniVersion, Config, Dialect, Level, Netconf};
use crate::engine;
use crate::engine::HostLocalFolder;
use crate::error::{Error, Refusal, StoreError};
use crate::migrate::host_local_import;
use crate::model::{Netns, Owner};
use crate::net::Addr;
use crate::store;
use crate::store::Store;
use crate::sys::host::Facts;

/// The plugin's own network namespace.
const OWN_NETNS: &str = "/proc/self/ns/net";

/// How often an ADD is attempted at most, if the network's definition changes during each attempt.
const TRIES: u32 = 5;

/// A call with a valid environment and a decoded configuration.
struct Call {
    invocation: Invocation,
    netconf: Netconf,
    facts: Facts,
}

/// Runs the command, if the configuration's CNI version has this command.
pub fn dispatch(
    mut invocation: Invocation,
    netconf: Netconf,
    facts: &dyn Fn() -> Facts,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let text = netconf.version();
    let version = match &invocation.verb {
        Verb::Add | Verb::Del => config_version(text)?,
        Verb::Check => version_since(text, "CHECK", CniVersion::V0_4_0)?,
        Verb::Gc => version_since(text, "GC", CniVersion::V1_1_0)?,
        Verb::Status => version_since(text, "STATUS", CniVersion::V1_1_0)?,
        // The caller has already handled VERSION.
        Verb::Version => return Ok(()),
        Verb::Unknown(word) => {
            let msg = format!("unknown CNI_COMMAND: {word}");
            return Err(Failure::new(ENVIRONMENT, msg));
        }
    };
    invocation.inputs.one_per_family = version.one_per_family();
    let facts = Facts { trace: invocation.trace.take(), ..facts() };
    let mut call = Call { invocation, netconf, facts };
    match call.invocation.verb {
        Verb::Add => call.add(version, output),
        Verb::Del => call.del(output),
        Verb::Check => call.check(output),
        Verb::Gc => call.gc(output),
        Verb::Status => call.status(output),
        Verb::Version | Verb::Unknown(_) => Ok(()),
    }
}

impl Call {
    fn add(&mut self, version: CniVersion, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut netns = self.netns()?;
        let (mut config, mut store) = self.config(output)?;
        let Cleanup { dialect, set, network, owner, .. } = config.cleanup.clone();
        let owner = owner.ok_or_else(no_container)?;
        let cx = self.facts.context_of(&config.cleanup.store);
        let mut tries = 1;
        let (routes, dns, added) = loop {
            let (mut own, define) = self.as_defined(config, &mut *store, output)?;
            let add = own.take_add(owner.clone(), netns, define);
            let legacy = HostLocalFolder::of(&own.cleanup);
            match engine::add(&mut *store, add, legacy, &cx) {
                // The network's definition has changed since this call read it, so try again with the new
                // definition.
                Err(Error::Refused(Refusal::Redefined { .. })) if tries < TRIES => tries += 1,
                done => {
                    let added = done.map_err(|error| Failure::of(&error, &network))?;
                    break (own.routes, own.dns, added);
                }
            }
            netns = self.netns()?;
            config = self.netconf.config(&self.invocation.inputs)?;
        };
        for warning in &added.warnings {
            output.journal.warn(warning);
        }
        let answer = Answer { grants: &added.grants, routes: &routes, dns: &dns };
        let written =
            result::render(version, dialect, answer).and_then(|bytes| output.answer(&bytes));
        if let Err(e) = written {
            let undone = engine::undo(&mut *store, &set, &owner, &added.created, &cx);
            let outcome = match undone {
                Ok(()) => "the lease of this call was freed".to_owned(),
                Err(e) => format!("the lease of this call could not be freed: {e}"),
            };
            let msg = format!("cannot write the result to standard output: {e}; {outcome}");
            return Err(Failure::new(IO, msg));
        }
        if output.journal.is_written(Level::Info) {
            let all = added.grants.iter().map(|g| format!("{}/{}", g.addr, g.prefix));
            let all = all.collect::<Vec<_>>().join(",");
            output.journal.learn("address", all.as_str());
            output.journal.done(Level::Info, format!("network {network}: leased {all} to {owner}"));
        }
        Ok(())
    }

    fn del(&mut self, output: &mut Output<'_>) -> Result<(), Failure> {
        let mut done = Ok(());
        // If the cleanup for one dialect fails, the cleanup for the other dialect is still tried.
        for cleanup in self.netconf.cleanups(&self.invocation.inputs) {
            self.attach(&cleanup, output);
            done = done.and(self.free(&cleanup, output));
        }
        done
    }

    fn free(&self, cleanup: &Cleanup, output: &mut Output<'_>) -> Result<(), Failure> {
        let Some(target) = target(cleanup) else {
            if !self.netconf.is_bare() {
                output.journal.warn(
                    "this DEL frees nothing: neither the configuration nor the environment names a \
                     container",
                );
            }
            return Ok(());
        };
        let mut store = open(cleanup)?;
        let old = (cleanup.dialect == Dialect::Consul).then(|| cleanup.network.clone());
        let (set, rewind) = (cleanup.set.clone(), cleanup.rewind);
        let del = Del { set, target, rewind, undo: false, legacy: old };
        let legacy = HostLocalFolder::of(cleanup);
        let freed =
            match engine::del(&mut *store, del, legacy, &self.facts.context_of(&cleanup.store)) {
                Ok(freed) => freed,
                // The configuration has no settings for addresses, so this file is only the default one. If
                // another program wrote the file, it contains no lease of this container.
                Err(Error::Store(error @ StoreError::Foreign { .. })) if self.netconf.is_bare() => {
                    output.journal.done(Level::Info, error.to_string());
                    return Ok(());
                }
                Err(error) => return Err(Failure::of(&error, &cleanup.network)),
            };
        if output.journal.is_written(Level::Info) {
            let all =
                freed.iter().map(|lease| lease.addr.to_string()).collect::<Vec<_>>().join(",");
            let network = &cleanup.network;
            let event = freed.first().map_or_else(
                || format!("network {network}: no lease to free"),
                |lease| format!("network {network}: freed {all}, which {} held", lease.owner),
            );
            output.journal.learn("address", all);
            output.journal.done(Level::Info, event);
        }
        Ok(())
    }

    fn check(&mut self, output: &mut Output<'_>) -> Result<(), Failure> {
        let (config, mut store) = self.config(output)?;
        let (mut config, _) = self.as_defined(config, &mut *store, output)?;
        let expected = self.netconf.prev_addresses()?;
        let check = Check {
            set: config.cleanup.set.clone(),
            owner: config.cleanup.owner.take().ok_or_else(no_container)?,
            sets: std::mem::take(&mut config.sets),
            expected: expected.clone(),
        };
        let failed = |error: Error| Failure::of(&error, &config.cleanup.network);
        let cx = self.facts.context_of(&config.cleanup.store);
        if let Err(error) = engine::check(&mut *store, check, &cx) {
            let held = match &error {
                Error::Refused(Refusal::Missing { owner }) => {
                    before_takeover(&config, owner).map_err(failed)?
                }
                _ => None,
            };
            let fits =
                |held: Vec<Addr>| expected.is_none_or(|e| held.iter().all(|a| e.contains(a)));
            if !held.is_some_and(fits) {
                return Err(failed(error));
            }
        }
        output.journal.done(Level::Debug, "the leases match `prevResult`");
        Ok(())
    }

    fn gc(&mut self, output: &mut Output<'_>) -> Result<(), Failure> {
        let cleanup = self.cleanup(output);
        let mut store = open(&cleanup)?;
        let valid = self.netconf.take_valid_attachments()?.into();
        let gc = Gc { set: cleanup.set, network: cleanup.network.clone(), valid, after: None };
        let freed = engine::gc(&mut *store, gc, &self.facts.context_of(&cleanup.store))
            .map_err(|error| Failure::of(&error, &cleanup.network))?;
        output.journal.learn("freed", freed.to_string());
        let event = format!("network {}: stale leases freed: {freed}", cleanup.network);
        output.journal.done(Level::Info, event);
        Ok(())
    }

    fn status(&mut self, output: &mut Output<'_>) -> Result<(), Failure> {
        let (config, mut store) = self.config(output).map_err(Failure::for_status)?;
        let (config, _) =
            self.as_defined(config, &mut *store, output).map_err(Failure::for_status)?;
        let cx = self.facts.context_of(&config.cleanup.store);
        let status = Status {
            set: config.cleanup.set,
            network: config.cleanup.network.clone(),
            sets: config.sets,
            strict: config.cooldown.strict,
        };
        match engine::status(&mut *store, status, &cx) {
            // By default, a full range is only a warning. If STATUS fails, a runtime treats the node as a
            // node without a network, and Kubernetes then evicts the node's pods.
            Err(Error::Refused(full @ Refusal::Exhausted { .. }))
                if !config.status_fails_when_full =>
            {
                output.journal.warn(&full.to_string());
            }
            done => {
                done.map_err(|error| Failure::of(&error, &config.cleanup.network).for_status())?;
            }
        }
        output.journal.done(Level::Debug, "an ADD would succeed");
        Ok(())
    }

    /// Returns the container's network namespace. The plugin's own network namespace is refused, because the
    /// address would then be assigned to the host.
    fn netns(&self) -> Result<Option<Netns>, Failure> {
        let Some(path) = self.invocation.netns.clone() else {
            return Ok(None);
        };
        let inode = (self.facts.inode)(&path);
        if inode.is_some() && inode == (self.facts.inode)(OWN_NETNS) && !self.invocation.own_netns {
            let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
            return Err(Failure::new(NETNS, msg).details(path));
        }
        Ok(Some(self.facts.netns(path)))
    }

    /// Returns the complete configuration, and opens its store.
    fn config(&self, output: &mut Output<'_>) -> Result<(Config, Box<dyn Store>), Failure> {
        match self.netconf.config(&self.invocation.inputs) {
            Ok(config) => {
                self.attach(&config.cleanup, output);
                for warning in &config.warnings {
                    output.journal.warn(&warning.to_string());
                }
                let store = open(&config.cleanup)?;
                Ok((config, store))
            }
            Err(error) => {
                // Attach the log file of the configuration, so that this error is logged there too.
                self.cleanup(output);
                Err(error.into())
            }
        }
    }

    /// Returns the configuration to use: if `config` has `define` and the cluster stores a definition of the
    /// network, the stored definition replaces the one in `config`. Also returns the definition and its
    /// version, which an ADD compares with the stored version when it commits.
    fn as_defined(
        &self,
        mut config: Config,
        store: &mut dyn Store,
        output: &mut Output<'_>,
    ) -> Result<(Config, Option<DefineNetwork>), Failure> {
        let Some(text) = config.define.take() else { return Ok((config, None)) };
        let network = config.cleanup.network.clone();
        let stored = engine::definition(store, &network)
            .map_err(|error| Failure::of(&error.into(), &network))?;
        let version = stored.as_ref().map(|stored| stored.version);
        let Some(stored) = stored else {
            return Ok((config, Some(DefineNetwork { network, text, version })));
        };
        let place =
            format!("definition of network {network} in the cluster, version {}", stored.version);
        let defined = self.netconf.defined(&stored.text);
        let defined = defined.and_then(|netconf| netconf.config(&self.invocation.inputs));
        let defined = defined.map_err(|e| e.within(&place))?;
        if (&defined.sets, &defined.routes, &defined.dns)
            != (&config.sets, &config.routes, &config.dns)
        {
            output.journal.warn(&format!(
                "this configuration differs from the {place} (written by {}), which takes precedence; \
                 definition: {}; configuration: {text}; to make them equal, change the configuration, or \
                 run `sublet network set {network} FILE`",
                stored.by, stored.text
            ));
        }
        Ok((defined, Some(DefineNetwork { network, text, version })))
    }

    fn cleanup(&self, output: &mut Output<'_>) -> Cleanup {
        let cleanup = self.netconf.cleanup(&self.invocation.inputs);
        self.attach(&cleanup, output);
        cleanup
    }

    fn attach(&self, cleanup: &Cleanup, output: &mut Output<'_>) {
        output.journal.attach(&cleanup.log, cleanup.network.as_str(), self.facts.now);
    }
}

fn open(cleanup: &Cleanup) -> Result<Box<dyn Store>, Failure> {
    store::open(&cleanup.store).map_err(|error| Failure::of(&error.into(), &cleanup.network))
}

/// Returns what a DEL frees; `None` if the configuration and the environment name neither an owner nor an
/// address. In the ECS dialect, if an `id` and an address are configured, the leases of the `id` are freed
/// only if it holds the address. An address without an `id` is freed regardless of its holder.
fn target(cleanup: &Cleanup) -> Option<Target> {
    let owner = cleanup.owner.clone();
    if cleanup.dialect != Dialect::Ecs || cleanup.addrs.is_empty() {
        return owner.map(Target::Owner);
    }
    let addrs = cleanup.addrs.clone();
    Some(match owner {
        Some(owner @ Owner::Id(_)) => Target::OwnerAt(owner, addrs),
        _ => Target::Addresses(addrs),
    })
}

/// Returns the addresses that host-local leased to a container, if host-local's folder has not been imported
/// yet.
fn before_takeover(config: &Config, owner: &Owner) -> Result<Option<Vec<Addr>>, Error> {
    match (&config.cleanup.legacy_dir, owner.attachment()) {
        (Some(dir), Some(attachment)) => Ok(host_local_import::holds(dir, attachment)?),
        _ => Ok(None),
    }
}

fn no_container() -> Failure {
    EnvError::Missing(vec!["CNI_CONTAINERID"]).into()
}

/// Returns the CNI version of a configuration, or an error with code 1.
fn config_version(text: &str) -> Result<CniVersion, Failure> {
    CniVersion::find(text).ok_or_else(|| {
        let known = CniVersion::texts().join("\" \"");
        Failure::new(INCOMPATIBLE_VERSION, "incompatible CNI versions")
            .details(format!("config is {text:?}, plugin supports [\"{known}\"]"))
    })
}

/// Returns the version of a configuration for a command that version `since` introduced. An older version is
/// an error with code 1. Text that is not a version is an error with code 6 here, but with code 1 for ADD and
/// DEL.
fn version_since(text: &str, command: &str, since: CniVersion) -> Result<CniVersion, Failure> {
    let asked = numbers(text).map_err(|why| Failure::new(DECODING, why))?;
    let needed = numbers(since.word()).unwrap_or_default();
    if asked < needed {
        let msg = format!("config version does not allow {command}");
        return Err(Failure::new(INCOMPATIBLE_VERSION, msg));
    }
    config_version(text)
}

fn numbers(text: &str) -> Result<[u32; 3], String> {
    let text = if text.is_empty() { "0.1.0" } else { text };
    let mut numbers = [0; 3];
    for (i, part) in text.split('.').enumerate() {
        let slot = numbers
            .get_mut(i)
            .ok_or_else(|| format!("invalid version {text:?}: too many parts"))?;
        *slot = part.parse().map_err(|_| {
            format!(
                "invalid version {text:?}: {part:?} is not a number; write \"cniVersion\" as 1.1.0"
            )
        })?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_version_is_answered_with_the_known_ones() {
        let failure = config_version("9.9.9").unwrap_err();
        assert_eq!((failure.code, failure.msg.as_str()), (1, "incompatible CNI versions"));
        assert_eq!(
            failure.details.as_deref(),
            Some(
                "config is \"9.9.9\", plugin supports [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \
                 \"0.4.0\" \"1.0.0\" \"1.1.0\"]"
            )
        );
    }

    #[test]
    fn a_command_needs_its_version() {
        let gate =
            |text| version_since(text, "CHECK", CniVersion::V0_4_0).map_err(|f| (f.code, f.msg));
        assert_eq!(gate("0.4.0"), Ok(CniVersion::V0_4_0));
        let refused = (1, "config version does not allow CHECK".to_owned());
        assert_eq!(gate("0.3.1"), Err(refused.clone()));
        assert_eq!(gate(""), Err(refused));
        assert_eq!(gate("0.5.0").unwrap_err().1, "incompatible CNI versions");
        assert_eq!(gate("adsfsadf").unwrap_err().0, 6);
        assert_eq!(gate("1.0.0.0").unwrap_err().0, 6);
        assert_eq!(gate("1..0").unwrap_err().0, 6);
    }
}
