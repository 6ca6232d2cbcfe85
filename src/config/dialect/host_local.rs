//! host-local's part of a configuration: ranges and routes.
//!
//! Owns: which ranges there are, in which order, and the rules over all of them, in host-local's
//! words (plugins, `ipam/host-local/backend/allocator/config.go`). Does not own: the rules inside
//! one range or set ([`crate::net`]).
//! Invariant: the sets that come out are disjoint.

use crate::config::cidr::{Cidr, addr, cidr};
use crate::config::error::{ConfigError, Warning};
use crate::config::fields::Fields;
use crate::config::{Route, keys};
use crate::net::{
    Addr, Family, GatewaySpec, Range, RangeError, RangeSet, RangeSpec, Span, check_disjoint,
};

/// The most ranges of one configuration, of all range sets together.
const MOST_RANGES: usize = 1024;

/// What ranges are made from.
pub struct Sources<'a> {
    /// The whole configuration, for `runtimeConfig.ipRanges`.
    pub root: &'a Fields<'a>,
    /// `ipam`.
    pub ipam: &'a Fields<'a>,
    /// Left out of all ranges.
    pub exclude: &'a [Span],
    /// A subnet's host bits are ignored (cni-ipam-consul) instead of refused.
    pub mask: bool,
    /// The configuration's version, if it knows only one address per family.
    pub one_per_family: Option<&'a str>,
}

/// A range as written.
struct Draft<'a> {
    /// As it is written, for the place of what is wrong with it.
    fields: Fields<'a>,
    subnet: Option<Cidr>,
    start: Option<Addr>,
    end: Option<Addr>,
    gateway: GatewaySpec,
}

/// The range sets: `runtimeConfig.ipRanges`, then `subnet`, then `ranges`.
pub fn range_sets(
    sources: &Sources,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<RangeSet>, ConfigError> {
    let mut drafts = match sources.root.object("runtimeConfig")? {
        Some(runtime) => draft_sets(&runtime, "ipRanges", warnings)?,
        None => Vec::new(),
    };
    let own = draft(sources.ipam)?;
    if own.subnet.is_some() {
        drafts.push(vec![own]);
    } else if let Some(key) =
        ["rangeStart", "rangeEnd", "gateway"].iter().find(|k| sources.ipam.has(k))
    {
        let text = format!("ipam.{key} does nothing without ipam.subnet");
        warnings.push(Warning::new(sources.ipam.path_of(key), text));
    }
    drafts.extend(draft_sets(sources.ipam, "ranges", warnings)?);
    let count = drafts.iter().map(Vec::len).sum();
    ConfigError::bound(sources.ipam.path(), "ranges in its range sets", count, MOST_RANGES)?;
    if drafts.is_empty() {
        // They may well say where the ranges went.
        let mut text = vec!["no IP ranges specified; give ipam.subnet or ipam.ranges".to_owned()];
        text.extend(warnings.iter().map(ToString::to_string));
        return Err(ConfigError::invalid(text.join("; ")).at(sources.ipam.path()));
    }
    let mut sets = Vec::with_capacity(drafts.len());
    for (i, drafts) in drafts.iter().enumerate() {
        let set = range_set(drafts, sources, warnings)
            .map_err(|e| e.within(&format!("invalid range set {i}")))?;
        sets.push(set);
    }
    if let Some(version) = sources.one_per_family {
        for family in [Family::V4, Family::V6] {
            if sets.iter().filter(|set| set.family() == family).count() > 1 {
                return Err(ConfigError::invalid(format!(
                    "CNI version {version} does not support more than 1 address per family"
                )));
            }
        }
    }
    check_disjoint(&sets).map_err(|(i, j)| {
        let second = drafts.get(j).and_then(|set| set.first()).map_or("ipam", |d| d.fields.path());
        ConfigError::invalid(format!("range set {i} overlaps with {j}")).at(second)
    })?;
    Ok(sets)
}

fn draft_sets<'a>(
    fields: &Fields<'a>,
    name: &str,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Vec<Draft<'a>>>, ConfigError> {
    let mut sets = Vec::new();
    for set in fields.list(name)? {
        // Go reads `null` as an empty list, which the rules refuse later.
        let ranges = if set.is_null() { Vec::new() } else { set.list()? };
        let mut drafts = Vec::new();
        for range in ranges {
            let fields = if range.is_null() { Fields::default() } else { range.fields()? };
            keys::warn_of_typos(&fields, keys::RANGE, warnings);
            drafts.push(draft(&fields)?);
        }
        sets.push(drafts);
    }
    Ok(sets)
}

fn draft<'a>(fields: &Fields<'a>) -> Result<Draft<'a>, ConfigError> {
    let none = fields
        .get("gateway")
        .is_some_and(|node| node.text().is_ok_and(|text| text.eq_ignore_ascii_case("none")));
    Ok(Draft {
        fields: fields.clone(),
        subnet: fields.get("subnet").map(|node| cidr(&node)).transpose()?,
        start: addr(fields, "rangeStart")?,
        end: addr(fields, "rangeEnd")?,
        gateway: if none {
            GatewaySpec::None
        } else {
            addr(fields, "gateway")?.map_or(GatewaySpec::Default, GatewaySpec::At)
        },
    })
}

fn range_set(
    drafts: &[Draft],
    sources: &Sources,
    warnings: &mut Vec<Warning>,
) -> Result<RangeSet, ConfigError> {
    let mut ranges = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let Some(subnet) = draft.subnet else {
            let text = "IP <nil> not v4 nor v6; every range needs a subnet";
            return Err(ConfigError::invalid(text).at(draft.fields.path()));
        };
        if subnet.mapped {
            return Err(ConfigError::invalid(format!(
                "IPNet IP and Mask version mismatch; write the IPv4 subnet as {}",
                subnet.net
            ))
            .at(draft.fields.path_of("subnet")));
        }
        let range = Range::new(&RangeSpec {
            subnet: if sources.mask { subnet.net.trunc() } else { subnet.net },
            start: draft.start,
            end: draft.end,
            gateway: draft.gateway,
            exclude: sources.exclude.to_vec(),
        })
        .map_err(|e| {
            let key = match e {
                RangeError::HostBits { .. } => "subnet",
                RangeError::Start(..) | RangeError::StartAfterDefaultEnd(..) => "rangeStart",
                RangeError::End(..) => "rangeEnd",
            };
            ConfigError::invalid(e.to_string()).at(draft.fields.path_of(key))
        })?;
        if let Some(gateway) = range.gateway().filter(|g| !range.subnet().contains(*g)) {
            let text = format!(
                "the gateway {gateway} lies outside its subnet {}; containers cannot reach it directly",
                range.subnet()
            );
            warnings.push(Warning::new(draft.fields.path_of("gateway"), text));
        }
        ranges.push(range);
    }
    RangeSet::new(ranges).map_err(|e| {
        let place = drafts.last().map_or("ipam.ranges", |d| d.fields.path());
        ConfigError::invalid(e.to_string()).at(place)
    })
}

/// `routes`, answered with the destination's host bits as they were written.
pub fn routes(ipam: &Fields, warnings: &mut Vec<Warning>) -> Result<Vec<Route>, ConfigError> {
    let mut routes = Vec::new();
    for item in ipam.list("routes")? {
        let fields = item.fields()?;
        keys::warn_of_typos(&fields, keys::ROUTE, warnings);
        let route = route(&fields)?;
        // Go leaves a zero out of the answer, except where it can tell it from nothing.
        let positive = |name| Ok(fields.integer(name)?.filter(|n| *n != 0));
        routes.push(Route {
            mtu: positive("mtu")?,
            advmss: positive("advmss")?,
            priority: positive("priority")?,
            table: fields.integer("table")?,
            scope: fields.integer("scope")?,
            ..route
        });
    }
    Ok(routes)
}

/// A route's `dst` and `gw`.
pub fn route(fields: &Fields) -> Result<Route, ConfigError> {
    let Some(dst) = fields.get("dst") else {
        let path = fields.path();
        let why = format!("{path}.dst is missing; a route needs a destination, as 0.0.0.0/0");
        return Err(ConfigError::invalid(why).at(path));
    };
    let net = cidr(&dst)?.net;
    let gw = addr(fields, "gw")?.map(|gw| gw.to_string());
    Ok(Route { dst: net.to_string(), net: Some(net.into()), gw, ..Route::default() })
}
