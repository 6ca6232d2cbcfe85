//! Pools as bytes.
//!
//! Owns: their fields, in a file and in a cluster.

use serde::{Deserialize, Serialize};

use super::{AddrV1, Bad, seal, unseal};
use crate::model::{Node, Pool, PoolId};
use crate::net::Subnet;
use crate::store::embedded::keys;

#[derive(Serialize, Deserialize)]
struct PoolV1<'a> {
    space: &'a str,
    subnet: (AddrV1, u8),
    sub: Option<(AddrV1, u8)>,
    shared: Option<&'a str>,
    gateway: Option<AddrV1>,
    /// Node, machine, how often.
    #[serde(borrow)]
    users: Vec<(&'a str, &'a str, u32)>,
    time: u64,
}

fn subnet(subnet: Subnet) -> (AddrV1, u8) {
    (subnet.first().into(), subnet.len())
}

fn read_subnet((base, len): (AddrV1, u8)) -> Result<Subnet, Bad> {
    Subnet::new(base.try_into()?, len).ok_or(Bad("a subnet that is none"))
}

/// A pool as the record under `key`.
pub fn pool(key: &[u8], pool: &Pool) -> Vec<u8> {
    seal(key, &pool_v1(pool))
}

fn pool_v1(pool: &Pool) -> PoolV1<'_> {
    let users = pool.users.iter().map(|(n, count)| (&*n.name, &*n.machine, *count)).collect();
    PoolV1 {
        space: &pool.space,
        subnet: subnet(pool.subnet),
        sub: pool.sub.map(subnet),
        shared: pool.shared.as_deref(),
        gateway: pool.gateway.map(Into::into),
        users,
        time: pool.time,
    }
}

/// The pool in the record under `key`, which says what it is called.
pub fn read_pool(key: &[u8], bytes: &[u8]) -> Result<Pool, Bad> {
    let id = keys::read_pool(key).ok_or(Bad("a pool under a wrong key"))?;
    read_pool_of(key, id, bytes)
}

/// The pool of this name, in the record under `key`.
pub fn read_pool_of(key: &[u8], id: PoolId, bytes: &[u8]) -> Result<Pool, Bad> {
    pool_from_v1(id, unseal(key, bytes)?)
}

/// All pools of a space as they were made, in a cluster: who makes one compares them all.
pub fn pools(key: &[u8], pools: &[Pool]) -> Vec<u8> {
    let records: Vec<_> = pools.iter().map(|p| (&*p.id.0, pool_v1(p))).collect();
    seal(key, &records)
}

/// All pools of a space as they were made.
pub fn read_pools(key: &[u8], bytes: &[u8]) -> Result<Vec<Pool>, Bad> {
    let raw: Vec<(&str, PoolV1<'_>)> = unseal(key, bytes)?;
    raw.into_iter().map(|(id, raw)| pool_from_v1(PoolId(id.to_owned()), raw)).collect()
}

fn pool_from_v1(id: PoolId, raw: PoolV1<'_>) -> Result<Pool, Bad> {
    let user = |(name, machine, count): &(&str, &str, u32)| {
        (Node { name: (*name).to_owned(), machine: (*machine).to_owned() }, *count)
    };
    Ok(Pool {
        id,
        space: raw.space.to_owned(),
        subnet: read_subnet(raw.subnet)?,
        sub: raw.sub.map(read_subnet).transpose()?,
        shared: raw.shared.map(str::to_owned),
        gateway: raw.gateway.map(TryInto::try_into).transpose()?,
        users: raw.users.iter().map(user).collect(),
        time: raw.time,
    })
}

/// The pool that an index names.
pub fn pool_id(key: &[u8], id: &PoolId) -> Vec<u8> {
    seal(key, &id.0)
}

/// The pool that an index names.
pub fn read_pool_id(key: &[u8], bytes: &[u8]) -> Result<PoolId, Bad> {
    unseal::<&str>(key, bytes).map(|id| PoolId(id.to_owned()))
}
