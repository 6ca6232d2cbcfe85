//! ecs-ipam's dialect: `id`, `ipv4-subnet` and its kin, one set of leases for the whole store.
//!
//! Owns: its keys and rules, in its order and, from the cause on, its words. Does not own: how a
//! gateway is recorded. Differs from the original where that is at fault: host bits of a subnet
//! are ignored, so the default gateway is the first host; IPv4 /0 is refused.
//! Invariant: an address or gateway that comes out lies in its subnet and is neither the network
//! nor the broadcast address.

use crate::alloc::{Cooldown, OnDuplicate, Requested, Strategy};
use crate::config::args;
use crate::config::args::Args;
use crate::config::cidr::{Cidr, addr, addr_with_or_without_prefix, bad_cidr, cidr};
use crate::config::error::{ConfigError, Warning};
use crate::config::fields::Fields;
use crate::config::netconf::{Netconf, Rules, attachment};
use crate::config::place::Place;
use crate::config::{Cleanup, Config, Dialect, Dns, Inputs, Route, keys};
use crate::model::{NetworkName, Origin, Owner, SetName};
use crate::net::{Addr, Family, GatewaySpec, Range, RangeSet, RangeSpec, Subnet};

/// Claimed by a key of one family, or by `id` where no range is written host-local's way.
pub const RULES: Rules = Rules {
    dialect: Dialect::Ecs,
    claims: |ipam| {
        let own = |half: &Half| half.all().iter().any(|key| ipam.has(key));
        let native = ["subnet", "ranges", "rangeStart", "rangeEnd"];
        HALVES.iter().any(own) || ipam.get("id").is_some() && !native.iter().any(|k| ipam.has(k))
    },
    name: |_| Ok(NetworkName::ecs()),
    config,
    cleanup,
};

/// The keys of one family.
struct Half {
    family: Family,
    word: &'static str,
    subnet: &'static str,
    address: &'static str,
    gateway: &'static str,
    routes: &'static str,
    /// Longest prefix that leaves an address to give.
    longest: u8,
}

impl Half {
    const fn all(&self) -> [&'static str; 4] {
        [self.subnet, self.address, self.gateway, self.routes]
    }
}

const HALVES: [Half; 2] = [
    Half {
        family: Family::V4,
        word: "ipv4",
        subnet: "ipv4-subnet",
        address: "ipv4-address",
        gateway: "ipv4-gateway",
        routes: "ipv4-routes",
        longest: 30,
    },
    Half {
        family: Family::V6,
        word: "ipv6",
        subnet: "ipv6-subnet",
        address: "ipv6-address",
        gateway: "ipv6-gateway",
        routes: "ipv6-routes",
        longest: 126,
    },
];

/// `id`; an empty one is absent.
pub fn id<'a>(ipam: &Fields<'a>) -> Result<Option<&'a str>, ConfigError> {
    ipam.text("id")
}

fn owner(id: Option<&str>, inputs: &Inputs) -> Option<Owner> {
    match id {
        Some(id) => Some(Owner::Id(id.to_owned())),
        None => attachment(&NetworkName::ecs(), inputs).map(Owner::Attachment),
    }
}

fn config(conf: &Netconf, inputs: &Inputs) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let ipam = conf.ipam()?;
    keys::warn_of_near(&ipam, keys::IPAM, &mut warnings);
    if ipam.flag("define").unwrap_or(true) {
        let text = "ipam.define does nothing with ecs-ipam's keys";
        warnings.push(Warning::new("ipam.define", text));
    }
    let place = Place { ipam: &ipam, inputs, dialect: Dialect::Ecs };
    let id = id(&ipam)?;
    let (mut sets, mut wanted, mut routes) = (Vec::new(), Vec::new(), Vec::new());
    for half in &HALVES {
        if let Some((set, address)) = range_set(&ipam, half)? {
            sets.push(set);
            wanted.extend(address);
        }
        echo(&ipam, half, &mut routes)?;
    }
    if sets.is_empty() {
        return Err(ConfigError::invalid(
            "at least one subnet (ipv4 or ipv6) is required; give ipam.ipv4-subnet or ipam.ipv6-subnet",
        ));
    }
    let args = Args::parse_leniently(&inputs.args);
    let network = NetworkName::ecs();
    Ok(Config {
        dialect: Dialect::Ecs,
        set: SetName(network.to_string()),
        owner: owner(id, inputs),
        sets,
        wanted,
        strategy: Strategy::RoundRobin,
        cooldown: Cooldown::default(),
        sticky: false,
        on_duplicate: OnDuplicate::Same,
        claim_gateways: true,
        origin: Origin {
            attachment: attachment(&network, inputs),
            netns: None,
            pod: args.pod(),
            mac: args::mac(&conf.root(), &args),
            endpoint: None,
            note: None,
            holder: None,
        },
        define: None,
        routes,
        dns: Dns::default(),
        store: place.store(&mut warnings)?,
        legacy_dir: None,
        log: place.log(&mut warnings)?,
        network,
        warnings,
    })
}

fn cleanup(conf: &Netconf, inputs: &Inputs) -> Cleanup {
    let ipam = conf.ipam_anyway();
    let place = Place { ipam: &ipam, inputs, dialect: Dialect::Ecs };
    let address = |half: &Half| addr_with_or_without_prefix(ipam.text(half.address).ok()??);
    let network = NetworkName::ecs();
    Cleanup {
        dialect: Dialect::Ecs,
        set: SetName(network.to_string()),
        owner: owner(id(&ipam).ok().flatten(), inputs),
        addrs: HALVES.iter().filter_map(address).collect(),
        rewind: true,
        store: place.store_anyway(),
        legacy_dir: None,
        log: place.log_anyway(),
        network,
    }
}

/// One family's range and the address asked for; nothing without a subnet.
fn range_set(
    ipam: &Fields,
    half: &Half,
) -> Result<Option<(RangeSet, Option<Requested>)>, ConfigError> {
    let address = ipam.get(half.address).map(|node| cidr(&node)).transpose()?;
    let gateway = addr(ipam, half.gateway)?;
    let Some(node) = ipam.get_or_null(half.subnet) else {
        return Ok(None);
    };
    if node.is_null() {
        return Err(bad_cidr("", node.path()));
    }
    let subnet = subnet(cidr(&node)?, half).map_err(|e| e.at(node.path()))?;
    if let Some(address) = address {
        verify(address.addr(), address.family(), subnet, half, "address", "ip")
            .map_err(|e| e.at(ipam.way_to(half.address)))?;
    }
    if let Some(gateway) = gateway {
        verify(gateway, Some(gateway.family()), subnet, half, "gateway", "gateway")
            .map_err(|e| e.at(ipam.way_to(half.gateway)))?;
    }
    let range = Range::new(&RangeSpec {
        addr: subnet.first(),
        len: subnet.len(),
        start: None,
        end: None,
        gateway: gateway.map_or(GatewaySpec::Default, GatewaySpec::At),
        exclude: Vec::new(),
    });
    let set = range
        .map_err(|e| e.to_string())
        .and_then(|range| RangeSet::new(vec![range]).map_err(|e| e.to_string()))
        .map_err(|e| ConfigError::invalid(e).within(node.path()).at(node.path()))?;
    let wanted =
        address.map(|address| Requested { addr: address.addr(), prefix: Some(address.len()) });
    Ok(Some((set, wanted)))
}

fn subnet(cidr: Cidr, half: &Half) -> Result<Subnet, ConfigError> {
    let Half { word, longest, .. } = half;
    let wrong = |why: &str| {
        let key = half.subnet;
        ConfigError::invalid(format!("invalid {word} subnet: {cidr}; ipam.{key} {why}"))
    };
    if cidr.family() != Some(half.family) {
        return Err(wrong("takes a prefix of that family"));
    }
    if cidr.len() > *longest {
        return Err(ConfigError::invalid(format!(
            "no available ip in the subnet; ipam.{} is {cidr}, and the longest prefix that leaves \
             an address is /{longest}",
            half.subnet
        )));
    }
    if half.family == Family::V4 && cidr.len() == 0 {
        return Err(wrong("cannot be all of the family"));
    }
    cidr.subnet().ok_or_else(|| wrong("is too long"))
}

/// The rules for an address or gateway inside its subnet.
fn verify(
    addr: Addr,
    family: Option<Family>,
    subnet: Subnet,
    half: &Half,
    key: &str,
    noun: &str,
) -> Result<(), ConfigError> {
    let word = half.word;
    let why = if family != Some(half.family) {
        format!("invalid {word} {key}: {addr}; ipam.{word}-{key} takes one of that family")
    } else if !subnet.contains(addr) {
        format!(
            "ip {addr} is not within the subnet {subnet}; ipam.{word}-{key} must lie in ipam.{}",
            half.subnet
        )
    } else if half.family == Family::V6 && addr == subnet.first() {
        format!("{noun} specified is the network address: {addr}; choose another ipam.{word}-{key}")
    } else if half.family == Family::V4 && (addr == subnet.first() || addr == subnet.last()) {
        format!(
            "{noun} specified is reserved by default: {addr}; it is the network or broadcast \
             address of {subnet}, choose another ipam.{word}-{key}"
        )
    } else {
        return Ok(());
    };
    Err(ConfigError::invalid(why))
}

/// What Go prints for a destination that is absent.
const NO_DST: &str = "<nil>";

/// The routes of one family's key, as they are written, of whichever family they are.
fn echo(ipam: &Fields, half: &Half, routes: &mut Vec<Route>) -> Result<(), ConfigError> {
    for item in ipam.list(half.routes)? {
        let fields = item.fields()?;
        let dst = fields.get("dst").map(|node| cidr(&node)).transpose()?;
        routes.push(Route {
            dst: dst.map_or_else(|| NO_DST.to_owned(), |dst| dst.to_string()),
            net: dst.and_then(Cidr::subnet),
            gw: addr(&fields, "gw")?,
            ..Route::default()
        });
    }
    Ok(())
}
