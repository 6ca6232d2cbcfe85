//! The known keys of a configuration, and the detection of misspelled keys.
//!
//! Invariant: an unknown key causes at most a warning. A key that another program knows causes no warning.

use std::collections::HashSet;

use super::error::Warning;
use super::fields::Fields;
use super::json::is_spelling_of;

/// The keys inside `ipam`.
pub(super) const IPAM: &[&str] = &[
    // sublet's keys. host-local also has the keys from `type` to `dataDir`.
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
    "static",
    "onDuplicate",
    "statusWhenFull",
    "persist",
    "shared",
    "store",
    "define",
    "lockTimeout",
    "logFile",
    "logLevel",
    "logFormat",
    "history",
    // ecs-ipam's keys, and the keys that the ECS agent adds.
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
    // cni-ipam-consul's keys.
    "consul_addr",
    "consul_port",
    "dc",
    // Keys of other plugins. They resemble keys in this list, but are not misspelled.
    "name",
    "args",
    "addresses",
    "mode",
];

/// The keys inside a range.
pub(super) const RANGE: &[&str] = &["subnet", "rangeStart", "rangeEnd", "gateway"];

/// The keys inside a route.
pub(super) const ROUTE: &[&str] = &["dst", "gw", "mtu", "advmss", "priority", "table", "scope"];

/// The keys inside `store.etcd` and `store.consul`.
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

/// Warns about each unknown key that resembles a known key.
pub(super) fn warn_of_typos(fields: &Fields, known: &[&str], warnings: &mut Vec<Warning>) {
    let mut seen = HashSet::new();
    let fresh = unknown(fields, known).filter(|key| seen.insert(*key));
    warnings.extend(fresh.filter_map(|key| typo(fields, key, known)));
}

/// Returns the warning about a key that resembles one of the `known` keys.
pub(super) fn typo(fields: &Fields, key: &str, known: &[&str]) -> Option<Warning> {
    let meant = nearest(key, known)?;
    let place = fields.join(key);
    let text = format!("unknown key {place} is ignored; did you mean {meant}?");
    Some(Warning { place, text, typo: true })
}

/// Returns the unknown keys, at most [`MAX_UNKNOWN`], because a report needs only some of them.
pub(super) fn unknown<'a>(fields: &Fields<'a>, known: &[&str]) -> impl Iterator<Item = &'a str> {
    fields
        .keys()
        .filter(|key| !known.iter().any(|name| is_spelling_of(key, name)))
        .take(MAX_UNKNOWN)
}

const MAX_UNKNOWN: usize = 100;

/// The maximum length of a key that is compared with the known keys, in bytes.
const MAX_LENGTH: usize = 40;

fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    if key.len() > MAX_LENGTH {
        return None;
    }
    let key = normalized(key);
    // In a short key, two different letters usually mean a different key, not a misspelled one.
    let typo = if key.len() <= 4 { 1 } else { 2 };
    known
        .iter()
        .map(|name| (strsim::levenshtein(&key, &normalized(name)), *name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= typo)
        .map(|(_, name)| name)
}

fn normalized(key: &str) -> String {
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
