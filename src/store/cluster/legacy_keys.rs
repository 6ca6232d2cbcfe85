//! Leases that cni-ipam-consul kept on the same server.
//!
//! Owns: their form (`<name>/<address>` -> `{"ip", "mac", "id"}`, `<name>` -> the network), taking them
//! over in portions, and what has changed of them since.
//! Invariant: that all are here is recorded after all are here; an ADD of such a network is made only
//! where that is recorded, and nothing is taken over any more from then on: who is late would bring back
//! what was freed since. The old keys stay as they are.

use std::time::Instant;

use super::{
    ClusterStore, Commit, Entry, Expect, OldKey, Operation, Server, Write, bad_record, keys,
};
use crate::alloc::{Add, Command, Context, Del, Import, Imported, Outcome};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Attachment, ContainerId, Kind, NetworkName, Owner, SetName};
use crate::net::Addr;
use crate::store::codec;

/// How many are taken over at a time: an address is two records, and one more if it cools or its lease
/// has ended.
const PORTION: usize = 20;

impl<E: Server> ClusterStore<E> {
    /// Where cni-ipam-consul's leases have not been taken over yet, they are, and then it goes on.
    pub(super) fn with_old_keys(
        &mut self,
        command: &Command,
        cx: &Context,
        until: Instant,
    ) -> Result<Outcome, Error> {
        let outcome = self.run(command, cx, until)?;
        if outcome != Outcome::ReadLegacy {
            return Ok(outcome);
        }
        match command {
            Command::Add(Add { set, network, .. })
            | Command::Del(Del { set, legacy: Some(network), .. }) => {
                self.take_old_keys(set, network, false, cx)?;
                // That has had times of its own.
                self.run(command, cx, Instant::now() + self.timeout)
            }
            _ => Ok(outcome),
        }
    }

    /// Takes all over, unless that was done; repeatable at any point.
    pub(super) fn take_old_keys(
        &mut self,
        set: &SetName,
        network: &NetworkName,
        dry_run: bool,
        cx: &Context,
    ) -> Result<Outcome, Error> {
        let mark = |dry_run| import(set, Vec::new(), Some(network), dry_run);
        let timeout = self.timeout;
        let until = || Instant::now() + timeout;
        if self.run(&mark(true), cx, until())? == Outcome::WasAdopted {
            return Ok(Outcome::WasAdopted);
        }
        let Some(old) = self.server.old_keys(network, until())? else {
            return Err(Error::Store(StoreError::Unavailable {
                doing: "find leases of cni-ipam-consul in".to_owned(),
                place: self.server.place(),
                source: "it kept them in Consul".into(),
            }));
        };
        let leases = old.iter().map(|old| read(network, old)).collect::<Result<Vec<_>, _>>();
        let leases: Vec<Imported> = leases
            .map_err(|why| Error::Refused(Refusal::OldKeys { network: network.clone(), why }))?
            .into_iter()
            .flatten()
            .collect();
        let (mut taken, mut present) = (Vec::new(), Vec::new());
        for some in leases.chunks(PORTION) {
            self.absent_guard = Some(keys::named(keys::ADOPTED, network.as_str()));
            let done = self.run(&import(set, some.to_vec(), None, dry_run), cx, until());
            self.absent_guard = None;
            match done? {
                Outcome::Imported { taken: new, present: known } => {
                    taken.extend(new);
                    present.extend(known);
                }
                other => return Ok(other),
            }
        }
        if !dry_run {
            self.note(network, old.iter().map(|old| old.entry.version).max().unwrap_or(0))?;
            self.run(&mark(false), cx, until())?;
        }
        Ok(Outcome::Imported { taken, present })
    }

    /// Remembers the last change that was seen.
    fn note(&self, network: &NetworkName, version: u64) -> Result<(), StoreError> {
        let path = keys::named(keys::OLD, network.as_str());
        let write = Write::Put(codec::number(path.as_bytes(), version));
        let operations = [Operation { path, expect: Expect::Anything, write }];
        match self.server.commit(&[&operations], Instant::now() + self.timeout)? {
            Commit::Unknown(error) => Err(error),
            Commit::Done(_) | Commit::Conflict(_) => Ok(()),
        }
    }

    /// The old keys that somebody has written since they were taken over.
    pub(super) fn find_changed_old_keys(&self) -> Result<Vec<String>, StoreError> {
        let until = Instant::now() + self.timeout;
        let mut changed = Vec::new();
        for (path, Entry { value, .. }) in self.server.list(keys::OLD, until)? {
            let bad = |what| bad_record(&self.server, &path, what);
            let network =
                keys::read_network(keys::OLD, &path).ok_or_else(|| bad("a key of another form"))?;
            let seen =
                codec::read_number(path.as_bytes(), &value).map_err(|codec::Bad(w)| bad(w))?;
            let old = self.server.old_keys(&network, until)?.unwrap_or_default();
            changed.extend(old.into_iter().filter(|o| o.entry.version > seen).map(|o| o.key));
        }
        Ok(changed)
    }
}

fn import(
    set: &SetName,
    leases: Vec<Imported>,
    adopts: Option<&NetworkName>,
    dry_run: bool,
) -> Command {
    let adopts = adopts.cloned();
    Command::Import(Import { set: set.clone(), leases, cursors: Vec::new(), adopts, dry_run })
}

/// The lease of a key; none in the network's own, and where nobody has the address.
fn read(network: &NetworkName, OldKey { key, entry }: &OldKey) -> Result<Option<Imported>, String> {
    let Some(name) = key.strip_prefix(network.as_str()).and_then(|k| k.strip_prefix('/')) else {
        return Ok(None);
    };
    let Ok(addr) = name.parse::<Addr>() else {
        return Err(format!("{key} is no address"));
    };
    let value: serde_json::Value =
        serde_json::from_slice(&entry.value).map_err(|_| format!("{key} holds no JSON"))?;
    let id = value.get("id").and_then(serde_json::Value::as_str);
    let container = id
        .and_then(|id| ContainerId::new(id).ok())
        .ok_or_else(|| format!("{key} holds no container ID but {:?}", id.unwrap_or_default()))?;
    let attachment = Attachment { network: network.clone(), container, ifname: None };
    Ok(Some(Imported { addr, kind: Kind::Dynamic, owner: Owner::Attachment(attachment) }))
}
