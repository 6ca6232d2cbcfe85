//! Imports the leases that cni-ipam-consul stored in Consul. The key `<network>/<address>` contains `{"ip",
//! "mac", "id"}`, and the key `<network>` contains the network.
//!
//! An operator runs the import with `sublet import consul`. Until then, an ADD is refused. The import takes
//! several transactions. The last one writes the import mark, which records that the network has been
//! imported. Every transaction checks that the mark is absent. Otherwise, an import that continued after
//! another import had written the mark would bring back leases that have been freed since. If there are no
//! old keys, the first ADD writes the mark. The old keys are never changed.

use crate::alloc::{Command, Context, ForeignLease, Import, Imported, Outcome};
use crate::error::{Error, Refusal, StoreError};
use crate::model::{Attachment, ContainerId, Kind, NetworkName, Owner, SetName};
use crate::net::Addr;
use crate::store::{OldKey, Store};

/// The number of leases that one transaction imports. A lease needs two records, or three if its address was
/// cooling down or was leased in an earlier boot.
const PORTION: usize = 20;

/// Imports the leases of a network, unless the import mark (the record of an earlier import) exists. If an
/// import is interrupted, the next import completes it. cni-ipam-consul must be stopped on all nodes first,
/// because it overwrites keys without checking whether they have changed.
pub fn import(
    store: &mut dyn Store,
    set: &SetName,
    network: &NetworkName,
    dry_run: bool,
    cx: &Context,
) -> Result<Imported, Error> {
    let portion = |leases: &[ForeignLease], partial, dry_run| {
        let (adopts, leases) = (Some(network.clone()), leases.to_vec());
        let set = set.clone();
        Command::Import(Import { set, leases, cursors: Vec::new(), adopts, partial, dry_run })
    };
    if store.apply(&portion(&[], false, true), cx)? == Outcome::Imported(Imported::Before) {
        return Ok(Imported::Before);
    }
    let leases = old_leases(store, network)?;
    let (mut all_taken, mut all_present) = (Vec::new(), Vec::new());
    let mut portions = leases.chunks(PORTION);
    loop {
        let leases = portions.next().unwrap_or_default();
        let is_last = portions.len() == 0;
        match store.apply(&portion(leases, !is_last, dry_run), cx)? {
            Outcome::Imported(Imported::Done { taken, present }) => {
                all_taken.extend(taken);
                all_present.extend(present);
            }
            Outcome::Imported(Imported::Before) => return Ok(Imported::Before),
            other => return Err(other.unexpected()),
        }
        if is_last {
            return Ok(Imported::Done { taken: all_taken, present: all_present });
        }
    }
}

/// Fails with [`Refusal::NotImported`] if cni-ipam-consul has leases in the network. If `container` is given,
/// only that container's leases count. The caller must have checked that the import mark (the record of the
/// import) is absent.
pub fn require_none(
    store: &mut dyn Store,
    network: &NetworkName,
    container: Option<&ContainerId>,
) -> Result<(), Error> {
    let leases = old_leases(store, network)?;
    let is_in_use = |lease: &ForeignLease| {
        let of = lease.owner.attachment().map(|attachment| &attachment.container);
        container.is_none_or(|container| of == Some(container))
    };
    if !leases.iter().any(is_in_use) {
        return Ok(());
    }
    Err(Refusal::NotImported { network: network.clone(), count: leases.len() }.into())
}

fn old_leases(store: &mut dyn Store, network: &NetworkName) -> Result<Vec<ForeignLease>, Error> {
    let Some(cluster) = store.cluster() else {
        let doing = "read the leases of cni-ipam-consul from";
        let why = "cni-ipam-consul stores leases in Consul; name this Consul with `--store`";
        return Err(StoreError::unavailable(doing, "a lease file", why).into());
    };
    let keys = cluster.old_keys(network)?;
    let leases = keys.iter().filter_map(|key| lease(network, key).transpose());
    let refused = |why| Error::Refused(Refusal::OldKeys { network: network.clone(), why });
    leases.collect::<Result<_, String>>().map_err(refused)
}

/// Returns the lease in a key of cni-ipam-consul; `None` for the key of the network itself.
fn lease(network: &NetworkName, (key, value): &OldKey) -> Result<Option<ForeignLease>, String> {
    let Some(name) = key.strip_prefix(network.as_str()).and_then(|k| k.strip_prefix('/')) else {
        return Ok(None);
    };
    let addr: Addr = name.parse().map_err(|_| format!("the key {key} is not an address"))?;
    let value: serde_json::Value = serde_json::from_slice(value)
        .map_err(|_| format!("the value of {key} is not valid JSON"))?;
    let id = value["id"].as_str().unwrap_or_default();
    let container = ContainerId::new(id).map_err(|_| {
        format!("the value of {key} has \"id\" {id:?}, which is not a container ID")
    })?;
    let attachment = Attachment { network: network.clone(), container, ifname: None };
    Ok(Some(ForeignLease { addr, kind: Kind::Dynamic, owner: Owner::Attachment(attachment) }))
}
