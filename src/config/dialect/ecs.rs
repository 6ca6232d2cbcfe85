//! The dialect of ecs-ipam: `id`, `ipv4-subnet` and related keys. All networks share one set of leases in a
//! store.
//!
//! The keys, the rules and their order, and the messages (except for how they begin) are those of the
//! original ecs-ipam. Where the original is wrong, this module deviates from it. It ignores host bits of a
//! subnet, so that the default gateway is the first host. It refuses an IPv4 prefix /0 and a route without
//! `dst`.
//! Invariant: every accepted address or gateway lies in its subnet, and is neither the network address nor
//! the broadcast address.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::host_local::route;
use crate::alloc::{Cooldown, OnDuplicate, Requested, Strategy};
use crate::config::args::Args;
use crate::config::cidr::{Cidr, addr, bad_cidr, cidr};
use crate::config::error::{ConfigError, Warning};
use crate::config::fields::Fields;
use crate::config::locations::Locations;
use crate::config::netconf::{Netconf, attachment};
use crate::config::{Cleanup, Config, Dialect, Dns, Inputs, keys};
use crate::model::{NetworkName, Owner, SetName};
use crate::net::{Addr, Family, GatewaySpec, Range, RangeSet, RangeSpec, Subnet, parse_addr};

/// Returns whether `ipam` is in the ECS dialect: it has a key of an address family, such as `ipv4-subnet`, or
/// it has `id` and no range in host-local's form.
pub fn has_own_keys(ipam: &Fields) -> bool {
    let keys = ["subnet", "address", "gateway", "routes"];
    let own = |family: &FamilyKeys| keys.iter().any(|key| ipam.has(&family.key(key)));
    let native = ["subnet", "ranges", "rangeStart", "rangeEnd"];
    FAMILIES.iter().any(own) || ipam.get("id").is_some() && !native.iter().any(|k| ipam.has(k))
}

/// The keys of one address family. They begin with the name of the family.
struct FamilyKeys {
    family: Family,
    word: &'static str,
    /// The longest prefix length with which a subnet still has an allocatable address.
    longest: u8,
}

impl FamilyKeys {
    fn key(&self, name: &str) -> String {
        format!("{}-{name}", self.word)
    }
}

const FAMILIES: [FamilyKeys; 2] = [
    FamilyKeys { family: Family::V4, word: "ipv4", longest: 30 },
    FamilyKeys { family: Family::V6, word: "ipv6", longest: 126 },
];

fn owner(id: Option<&str>, inputs: &Inputs) -> Option<Owner> {
    match id {
        Some(id) => Some(Owner::Id(id.to_owned())),
        None => attachment(&NetworkName::ecs(), inputs).map(Owner::Attachment),
    }
}

/// Returns the complete configuration.
pub fn config(conf: &Netconf, inputs: &Inputs) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let ipam = conf.ipam()?;
    keys::warn_of_typos(&ipam, keys::IPAM, &mut warnings);
    if ipam.flag("define").unwrap_or(true) {
        let text = "ipam.define has no effect in an ecs-ipam configuration; remove it";
        warnings.push(Warning::new("ipam.define", text));
    }
    let locations = Locations { ipam: &ipam, inputs, dialect: Dialect::Ecs };
    let (mut sets, mut wanted, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    let mut errors: Vec<ConfigError> = ipam.text("id").err().into_iter().collect();
    for family in &FAMILIES {
        match range_set(&ipam, family) {
            Ok(Some((set, address))) => {
                sets.push(set);
                wanted.extend(address);
            }
            Ok(None) => {}
            Err(e) => errors.push(e),
        }
        // The routes are returned as written, regardless of their address family. A route without a
        // destination is an error here. The original ecs-ipam returns `<nil>` for such a route, which no
        // runtime accepts.
        let items = ipam.list(&family.key("routes"));
        for item in items.unwrap_or_else(|e| {
            errors.push(e);
            Vec::new()
        }) {
            match item.fields().and_then(|fields| route(&fields)) {
                Ok(route) => routes.push(route),
                Err(e) => errors.push(e),
            }
        }
    }
    ConfigError::all(&errors)?;
    if sets.is_empty() {
        return Err(ConfigError::invalid(
            "at least one subnet (ipv4 or ipv6) is required; set ipam.ipv4-subnet or ipam.ipv6-subnet",
        ));
    }
    let args = Args::parse_leniently(&inputs.args);
    Ok(Config {
        sets,
        wanted,
        strategy: Strategy::RoundRobin,
        cooldown: Cooldown::default(),
        sticky: false,
        statics: Vec::new(),
        assigned: BTreeMap::new(),
        on_duplicate: OnDuplicate::Same,
        status_fails_when_full: false,
        claim_gateways: true,
        origin: args.origin(&conf.root(), attachment(&NetworkName::ecs(), inputs)),
        define: None,
        routes,
        dns: Dns::default(),
        cleanup: Cleanup { store: locations.store(&mut warnings)?, ..cleanup(conf, inputs) },
        warnings,
    })
}

/// Returns what a DEL or GC needs. Uses only the valid parts of the configuration, so it never fails.
pub fn cleanup(conf: &Netconf, inputs: &Inputs) -> Cleanup {
    let ipam = conf.ipam_or_empty();
    let locations = Locations { ipam: &ipam, inputs, dialect: Dialect::Ecs };
    let address = |family: &FamilyKeys| parse_addr(ipam.text(&family.key("address")).ok()??);
    let network = NetworkName::ecs();
    Cleanup {
        dialect: Dialect::Ecs,
        set: SetName(network.to_string()),
        owner: owner(ipam.text("id").ok().flatten(), inputs),
        addrs: FAMILIES.iter().filter_map(address).collect(),
        rewind: true,
        store: locations.store_or_default(),
        legacy_dir: None,
        log: locations.log(),
        network,
    }
}

/// Returns the range and the requested address of one address family; `None` if the configuration has no
/// subnet of this family.
fn range_set(
    ipam: &Fields,
    family: &FamilyKeys,
) -> Result<Option<(RangeSet, Option<Requested>)>, ConfigError> {
    let address = ipam.get(&family.key("address")).map(|node| cidr(&node)).transpose()?;
    let gateway = addr(ipam, &family.key("gateway"))?;
    let Some(node) = ipam.get_or_null(&family.key("subnet")) else {
        return Ok(None);
    };
    if node.is_null() {
        return Err(bad_cidr("", node.path()));
    }
    let subnet = subnet(cidr(&node)?, family).map_err(|e| e.at(node.path()))?;
    if let Some(Cidr { net, mapped }) = address {
        verify(net.addr().into(), mapped, subnet.into(), family, "address", "ip")
            .map_err(|e| e.at(ipam.path_of(&family.key("address"))))?;
    }
    if let Some(gateway) = gateway {
        verify(gateway, false, subnet.into(), family, "gateway", "gateway")
            .map_err(|e| e.at(ipam.path_of(&family.key("gateway"))))?;
    }
    let gateway = gateway.map_or(GatewaySpec::Default, GatewaySpec::At);
    let range = Range::new(&RangeSpec { gateway, ..RangeSpec::of(subnet) });
    let set = range
        .map_err(|e| e.to_string())
        .and_then(|range| RangeSet::new(vec![range]).map_err(|e| e.to_string()))
        .map_err(|e| ConfigError::invalid(e).within(node.path()).at(node.path()))?;
    let wanted = address.map(|Cidr { net, .. }| Requested {
        addr: net.addr().into(),
        prefix: Some(net.prefix_len()),
    });
    Ok(Some((set, wanted)))
}

/// Checks a subnet, and returns it without its host bits.
fn subnet(Cidr { net, mapped }: Cidr, family: &FamilyKeys) -> Result<IpNet, ConfigError> {
    let FamilyKeys { word, longest, .. } = family;
    let wrong = |why: &str| {
        let key = family.key("subnet");
        ConfigError::invalid(format!("invalid {word} subnet: {net}; ipam.{key} {why}"))
    };
    if mapped || Addr::from(net.addr()).family() != family.family {
        return Err(wrong("must be a prefix of the same address family"));
    }
    if net.prefix_len() > *longest {
        return Err(ConfigError::invalid(format!(
            "no available ip in the subnet; ipam.{} is {net}, but the longest allowed prefix length is \
             /{longest}",
            family.key("subnet")
        )));
    }
    if family.family == Family::V4 && net.prefix_len() == 0 {
        return Err(wrong("must not contain the whole address family"));
    }
    Ok(net.trunc())
}

/// Checks that an address or a gateway can be used in its subnet.
fn verify(
    addr: Addr,
    mapped: bool,
    subnet: Subnet,
    family: &FamilyKeys,
    key: &str,
    noun: &str,
) -> Result<(), ConfigError> {
    let word = family.word;
    let why = if mapped || addr.family() != family.family {
        format!("invalid {word} {key}: {addr}; ipam.{word}-{key} must be an {word} address")
    } else if !subnet.contains(addr) {
        format!(
            "ip {addr} is not within the subnet {subnet}; ipam.{word}-{key} must be in ipam.{}",
            family.key("subnet")
        )
    } else if family.family == Family::V6 && addr == subnet.first() {
        format!(
            "{noun} specified is the network address: {addr}; choose a different ipam.{word}-{key}"
        )
    } else if family.family == Family::V4 && (addr == subnet.first() || addr == subnet.last()) {
        format!(
            "{noun} specified is reserved by default: {addr}; {addr} is the network or broadcast address of \
             {subnet}; choose a different ipam.{word}-{key}"
        )
    } else {
        return Ok(());
    };
    Err(ConfigError::invalid(why))
}
