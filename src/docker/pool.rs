//! Determines which pool a `RequestPool` request asks for.
//!
//! This module interprets `Pool`, `SubPool` and `V6` as moby does, and the option `network` as kontena-ipam
//! does.

use super::names::{INVALID_POOL, INVALID_SPACE, INVALID_SUB_POOL, NETWORK};
use super::settings::Settings;
use super::wire;
use crate::alloc::{Ask, Block, RequestPool, Shared};
use crate::model::PoolId;
use crate::net::{Addr, Family, Span, Subnet, parse_cidr};

/// Translates the request for the allocator. An error is moby's error text.
pub fn read(
    raw: &wire::Request,
    settings: &Settings,
    routes: &dyn Fn() -> Vec<Span>,
) -> Result<RequestPool, String> {
    let network = raw.options.as_ref().and_then(|o| o.get(NETWORK));
    let space = space(raw.address_space.as_deref().unwrap_or_default(), network, settings)?;
    let text = raw.pool.as_deref().unwrap_or_default();
    let sub = raw.sub_pool.as_deref().filter(|t| !t.is_empty());
    let family = if raw.v6 == Some(true) { Family::V6 } else { Family::V4 };
    let asked = if text.is_empty() { None } else { Some(parse_cidr(text).ok_or(INVALID_POOL)?) };
    let family = asked.map_or(family, |net| Addr::from(net.addr()).family());
    let ask = match asked {
        None => Ask::Any(settings.blocks(family).to_vec()),
        // "0.0.0.0/24" means any free subnet of this size, and "0.0.0.0/0" means any free subnet of the
        // default size.
        Some(net) if net.addr().is_unspecified() => {
            Ask::Any(sized(settings.blocks(family), net.prefix_len())?)
        }
        Some(net) => Ask::Exactly(net.into()),
    };
    let sub = match (sub, &ask) {
        (None, _) => None,
        (Some(text), Ask::Exactly(subnet)) => part(text, *subnet)?,
        (Some(_), Ask::Any(_)) => return Err(INVALID_SUB_POOL.to_owned()),
    };
    let shared = network.map(|name| shared(name, space, family, settings)).transpose()?;
    let mut avoid = Vec::new();
    if matches!(ask, Ask::Any(_)) {
        avoid.clone_from(&settings.avoid);
        if space == settings.local {
            avoid.extend(routes());
        }
    }
    Ok(RequestPool { space: space.to_owned(), ask, sub, shared, avoid })
}

/// Returns the address space of a request. A request with kontena-ipam's option `network` need not name one,
/// and then gets the local space.
fn space<'a>(
    name: &'a str,
    network: Option<&String>,
    settings: &'a Settings,
) -> Result<&'a str, String> {
    match name {
        "" if network.is_some() => Ok(&settings.local),
        "" => Err(INVALID_SPACE.to_owned()),
        known if known == settings.local || known == settings.global => Ok(known),
        unknown => Err(format!("cannot find address space {unknown}")),
    }
}

/// Returns the supernets that are large enough for pools of prefix length `len`, set to allocate such pools.
/// If `len` is 0, returns all supernets unchanged.
fn sized(blocks: &[Block], len: u8) -> Result<Vec<Block>, String> {
    if len == 0 {
        return Ok(blocks.to_vec());
    }
    let fit = blocks.iter().filter(|b| b.within.len() <= len).map(|b| Block { len, ..*b });
    let fit: Vec<Block> = fit.collect();
    if fit.is_empty() { Err(INVALID_POOL.to_owned()) } else { Ok(fit) }
}

/// Parses a sub-pool, which must lie inside the subnet. A sub-pool that covers the whole subnet counts as no
/// sub-pool.
fn part(text: &str, subnet: Subnet) -> Result<Option<Subnet>, String> {
    let sub = Subnet::from(parse_cidr(text).ok_or(INVALID_SUB_POOL)?);
    if sub.len() <= subnet.len() && sub.contains(subnet.first()) {
        return Ok(None);
    }
    if subnet.contains(sub.first()) && sub.len() > subnet.len() {
        return Ok(Some(sub));
    }
    Err(INVALID_SUB_POOL.to_owned())
}

/// Makes the name and the ID of a shared pool. For an IPv4 pool in the local address space, the ID is the
/// name, as in kontena-ipam. Other pools have longer IDs, because several pools can have the same name: a
/// dual-stack network requests two pools, and a swarm uses both address spaces.
fn shared(name: &str, space: &str, family: Family, settings: &Settings) -> Result<Shared, String> {
    if name.is_empty() {
        return Err("Network can't be nil".to_owned());
    }
    if name.len() > 255 || name.contains('/') || name.chars().any(char::is_control) {
        return Err("Network is invalid: at most 255 bytes, no '/', no control characters".into());
    }
    let id = match family {
        Family::V4 if space == settings.local => name.to_owned(),
        Family::V4 => format!("{space}/network/{name}/v4"),
        Family::V6 => format!("{space}/network/{name}/v6"),
    };
    Ok(Shared { name: name.to_owned(), id: PoolId(id) })
}

#[cfg(test)]
mod tests {
    use super::super::settings::{block, supernet};
    use super::*;

    #[test]
    fn automatic_pools_avoid_routes_and_what_the_operator_names() {
        let span = |text: &str| Span::from(supernet(text).unwrap());
        let settings = Settings {
            v4: vec![block(supernet("10.80.0.0/12").unwrap(), 24).unwrap()],
            avoid: vec![span("10.80.0.0/16")],
            ..Settings::default()
        };
        let avoided = |space: &str, pool: &str| {
            let raw = wire::Request {
                address_space: Some(space.to_owned()),
                pool: Some(pool.to_owned()),
                ..wire::Request::default()
            };
            read(&raw, &settings, &|| vec![span("192.168.0.0/16")]).unwrap().avoid
        };
        let (named, routed) = (span("10.80.0.0/16"), span("192.168.0.0/16"));
        assert_eq!(avoided("sublet-local", ""), [named, routed]);
        assert_eq!(avoided("sublet-local", "0.0.0.0/26"), [named, routed]);
        assert_eq!(avoided("sublet-global", ""), [named]);
        assert_eq!(avoided("sublet-local", "10.80.1.0/24"), []);
    }
}
