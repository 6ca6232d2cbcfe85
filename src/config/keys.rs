//! The keys that somebody understands, and what is only close to one.
//!
//! Owns: the lists. Does not own: what the keys mean.
//! Invariant: an unknown key is at most a warning; other programs' keys are not even that.

use std::collections::HashSet;

use super::error::Warning;
use super::fields::{Fields, spells};

/// Inside `ipam`.
pub(super) const IPAM: &[&str] = &[
    // Ours, of which the first line is host-local's.
    "type",
    "subnet",
    "rangeStart",
    "rangeEnd",
    "gateway",
    "ranges",
    "routes",
    "resolvConf",
    "dataDir",
    "dns",
    "exclude",
    "strategy",
    "cooldown",
    "cooldownStrict",
    "sticky",
    "onDuplicate",
    "persist",
    "shared",
    "store",
    "define",
    "lockTimeout",
    "logFile",
    "logLevel",
    "logFormat",
    "history",
    // ecs-ipam's, and what its agent sends along.
    "id",
    "ipv4-subnet",
    "ipv4-address",
    "ipv4-gateway",
    "ipv4-routes",
    "ipv6-subnet",
    "ipv6-address",
    "ipv6-gateway",
    "ipv6-routes",
    "IgnoreUnknown",
    "timeout",
    "cniVersion",
    "connectedSubnetMaskSizeIPv4",
    "connectedSubnetMaskSizeIPv6",
    // cni-ipam-consul's.
    "consul_addr",
    "consul_port",
    "dc",
    // Of other plugins, close to one above.
    "name",
    "args",
    "addresses",
    "mode",
];

/// Inside a range.
pub(super) const RANGE: &[&str] = &["subnet", "rangeStart", "rangeEnd", "gateway"];

/// Inside a route.
pub(super) const ROUTE: &[&str] = &["dst", "gw", "mtu", "advmss", "priority", "table", "scope"];

/// Inside `store.etcd` and `store.consul`.
pub(super) const CLUSTER: &[&str] = &[
    "endpoints",
    "prefix",
    "caFile",
    "certFile",
    "keyFile",
    "timeout",
    "user",
    "passwordFile",
    "dc",
    "tokenFile",
];

/// Warns of each key that is none of `known` and looks like one of them.
pub(super) fn warn_of_near(fields: &Fields, known: &[&str], warnings: &mut Vec<Warning>) {
    let mut seen = HashSet::new();
    let fresh = unknown(fields, known).filter(|key| seen.insert(*key));
    warnings.extend(fresh.filter_map(|key| slip(fields, key, known)));
}

/// What to say of a key that looks like one of `known`.
pub(super) fn slip(fields: &Fields, key: &str, known: &[&str]) -> Option<Warning> {
    let meant = nearest(key, known)?;
    let place = fields.inside(key);
    let text = format!("unknown key {place} is ignored; did you mean {meant}?");
    Some(Warning { place, text, slip: true })
}

/// The first keys that are none of `known`: who writes more of them does not want to be told of each.
pub(super) fn unknown<'a>(fields: &Fields<'a>, known: &[&str]) -> impl Iterator<Item = &'a str> {
    fields.keys().filter(|key| !known.iter().any(|name| spells(key, name))).take(MOST)
}

const MOST: usize = 100;

/// The longest key that could be a slip of one of ours.
const LONGEST: usize = 40;

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if key.len() > LONGEST {
        return None;
    }
    let key = bare(key);
    // In a short word two letters are no slip any more.
    let slip = if key.len() <= 4 { 1 } else { 2 };
    known
        .iter()
        .map(|name| (strsim::levenshtein(&key, &bare(name)), *name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= slip)
        .map(|(_, name)| name)
}

fn bare(key: &str) -> String {
    key.chars().filter(|c| !matches!(c, '_' | '-')).map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_other_words_left_alone() {
        for (key, meant) in [
            ("range_start", "rangeStart"),
            ("subnett", "subnet"),
            ("range", "ranges"),
            ("gatway", "gateway"),
            ("ipv4_subnet", "ipv4-subnet"),
            ("lock_timeout", "lockTimeout"),
            ("consul-addr", "consul_addr"),
        ] {
            assert_eq!(nearest(key, IPAM), Some(meant), "{key}");
        }
        for key in ["daemonSocketPath", "provide", "master", "vlan", "x", ""] {
            assert_eq!(nearest(key, IPAM), None, "{key}");
        }
    }
}
