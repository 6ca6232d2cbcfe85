//! Parses host-local's part of a configuration: ranges and routes.
//!
//! The checks, their order and their messages are those of host-local
//! (`ipam/host-local/backend/allocator/config.go` of the CNI plugins). The rules for one range or one set are
//! in [`crate::net`].
//! Invariant: the resulting sets are disjoint.

use crate::config::cidr::{Cidr, addr, cidr};
use crate::config::error::{ConfigError, Warning};
use crate::config::fields::{Fields, Node};
use crate::config::{Route, keys};
use crate::net::{
    Addr, Family, GatewaySpec, Range, RangeError, RangeSet, RangeSpec, Span, overlaps,
};

/// The maximum number of ranges in all range sets of a configuration together.
const MOST_RANGES: usize = 1024;

/// The parts of a configuration from which the ranges are read.
pub struct Sources<'a> {
    /// The top level of the configuration, for `runtimeConfig.ipRanges`.
    pub root: &'a Fields<'a>,
    /// The object `ipam`.
    pub ipam: &'a Fields<'a>,
    /// The excluded addresses. They apply to all ranges.
    pub exclude: &'a [Span],
    /// Whether host bits of a subnet are ignored (as cni-ipam-consul does) or refused.
    pub mask: bool,
    /// The configuration's CNI version, if this version allows only one address per family.
    pub one_per_family: Option<&'a str>,
}

/// A range, as it is written in the configuration.
struct Draft<'a> {
    /// The object that contains the range, for the location of an error.
    fields: Fields<'a>,
    subnet: Option<Cidr>,
    start: Option<Addr>,
    end: Option<Addr>,
    gateway: GatewaySpec,
}

/// Returns the range sets in this order: `runtimeConfig.ipRanges`, `subnet`, `ranges`. An error contains the
/// errors of all ranges.
pub fn range_sets(
    sources: &Sources,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<RangeSet>, ConfigError> {
    let mut errors = Vec::new();
    let mut drafts = match sources.root.object("runtimeConfig")? {
        Some(runtime) => draft_sets(&runtime, "ipRanges", warnings, &mut errors),
        None => Vec::new(),
    };
    let own = draft(sources.ipam).map_err(|e| errors.push(e)).ok();
    if sources.ipam.get("subnet").is_some() {
        drafts.push(vec![own]);
    } else if let Some(key) =
        ["rangeStart", "rangeEnd", "gateway"].iter().find(|k| sources.ipam.has(k))
    {
        let text = format!("ipam.{key} has no effect without ipam.subnet");
        warnings.push(Warning::new(sources.ipam.path_of(key), text));
    }
    drafts.extend(draft_sets(sources.ipam, "ranges", warnings, &mut errors));
    let count = drafts.iter().map(Vec::len).sum();
    let bound =
        ConfigError::bound(sources.ipam.path(), "ranges in its range sets", count, MOST_RANGES);
    if let Err(e) = bound {
        errors.push(e);
        drafts.clear();
    } else if drafts.is_empty() && errors.is_empty() {
        // If there are no ranges, the reason may be a misspelled key.
        let mut text = vec!["no IP ranges specified; set ipam.subnet or ipam.ranges".to_owned()];
        text.extend(warnings.iter().map(ToString::to_string));
        errors.push(ConfigError::invalid(text.join("; ")).at(sources.ipam.path()));
    }
    let mut sets = Vec::with_capacity(drafts.len());
    for (i, drafts) in drafts.iter().enumerate() {
        match range_set(drafts, sources, warnings) {
            Ok(set) => sets.extend(set),
            Err(e) => errors.push(e.within(&format!("invalid range set {i}"))),
        }
    }
    ConfigError::all(&errors)?;
    if let Some(version) = sources.one_per_family {
        for family in [Family::V4, Family::V6] {
            if sets.iter().filter(|set| set.family() == family).count() > 1 {
                return Err(ConfigError::invalid(format!(
                    "CNI version {version} does not support more than 1 address per family"
                )));
            }
        }
    }
    let overlapping = overlaps(&sets).into_iter().map(|(i, j)| {
        let second = drafts.get(j).and_then(|set| set.iter().flatten().next());
        let second = second.map_or("ipam", |draft| draft.fields.path());
        ConfigError::invalid(format!("range set {i} overlaps with {j}")).at(second)
    });
    ConfigError::all(&overlapping.collect::<Vec<_>>())?;
    Ok(sets)
}

/// Returns the ranges of each set. Each invalid range or list of ranges becomes `None`, and its error is
/// added to `errors`.
fn draft_sets<'a>(
    fields: &Fields<'a>,
    name: &str,
    warnings: &mut Vec<Warning>,
    errors: &mut Vec<ConfigError>,
) -> Vec<Vec<Option<Draft<'a>>>> {
    let mut keep = |e| errors.push(e);
    let mut sets = Vec::new();
    for set in fields.list(name).map_err(&mut keep).unwrap_or_default() {
        // As in Go, `null` counts as an empty list. An empty range set is refused later.
        let ranges = if set.is_null() { Ok(Vec::new()) } else { set.list() };
        let Ok(ranges) = ranges.map_err(&mut keep) else {
            sets.push(vec![None]);
            continue;
        };
        let mut read = |range: Node<'a>| {
            let fields = if range.is_null() { Fields::default() } else { range.fields()? };
            keys::warn_of_typos(&fields, keys::RANGE, warnings);
            draft(&fields)
        };
        sets.push(ranges.into_iter().map(|range| read(range).map_err(&mut keep).ok()).collect());
    }
    sets
}

fn draft<'a>(fields: &Fields<'a>) -> Result<Draft<'a>, ConfigError> {
    let none = fields
        .get("gateway")
        .is_some_and(|node| node.text().is_ok_and(|text| text.eq_ignore_ascii_case("none")));
    let subnet = fields.get("subnet").map(|node| cidr(&node)).transpose();
    let (start, end) = (addr(fields, "rangeStart"), addr(fields, "rangeEnd"));
    let gateway = if none { Ok(None) } else { addr(fields, "gateway") };
    ConfigError::all(
        [subnet.as_ref().err(), start.as_ref().err(), end.as_ref().err(), gateway.as_ref().err()]
            .into_iter()
            .flatten(),
    )?;
    let gateway = gateway?.map_or(GatewaySpec::Default, GatewaySpec::At);
    Ok(Draft {
        fields: fields.clone(),
        subnet: subnet?,
        start: start?,
        end: end?,
        gateway: if none { GatewaySpec::None } else { gateway },
    })
}

/// Makes one range set; `None` if one of its ranges is invalid, in which case the error has already been
/// reported.
fn range_set(
    drafts: &[Option<Draft>],
    sources: &Sources,
    warnings: &mut Vec<Warning>,
) -> Result<Option<RangeSet>, ConfigError> {
    let (mut ranges, mut errors) = (Vec::with_capacity(drafts.len()), Vec::new());
    for draft in drafts.iter().flatten() {
        match range(draft, sources) {
            Ok(range) => ranges.push(range),
            Err(e) => errors.push(e),
        }
    }
    ConfigError::all(&errors)?;
    if ranges.len() < drafts.len() {
        return Ok(None);
    }
    for (range, draft) in ranges.iter().zip(drafts.iter().flatten()) {
        if let Some(gateway) = range.gateway().filter(|g| !range.subnet().contains(*g)) {
            let text = format!(
                "the gateway {gateway} is outside the subnet {}; containers cannot reach the gateway directly",
                range.subnet()
            );
            warnings.push(Warning::new(draft.fields.path_of("gateway"), text));
        }
    }
    RangeSet::new(ranges).map(Some).map_err(|e| {
        let last = drafts.iter().flatten().last();
        let place = last.map_or("ipam.ranges", |draft| draft.fields.path());
        ConfigError::invalid(e.to_string()).at(place)
    })
}

/// Makes one range. If it is invalid, the returned error contains all of its errors.
fn range(draft: &Draft, sources: &Sources) -> Result<Range, ConfigError> {
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
    let mut spec = RangeSpec {
        subnet: if sources.mask { subnet.net.trunc() } else { subnet.net },
        start: draft.start,
        end: draft.end,
        gateway: draft.gateway,
        exclude: sources.exclude.to_vec(),
    };
    let mut errors = Vec::new();
    loop {
        let wrong = match Range::new(&spec) {
            Ok(range) if errors.is_empty() => return Ok(range),
            Ok(_) => break,
            Err(e) => e,
        };
        // Leave out the invalid value, and check the other values, so that all errors of the range are
        // reported together.
        let key = match wrong {
            RangeError::HostBits { .. } => {
                spec.subnet = spec.subnet.trunc();
                "subnet"
            }
            RangeError::StartAfterEnd(..) => {
                (spec.start, spec.end) = (None, None);
                "rangeStart"
            }
            RangeError::Start(..) | RangeError::StartAfterDefaultEnd(..) => {
                spec.start = None;
                "rangeStart"
            }
            RangeError::End(..) | RangeError::EndBeforeDefaultStart(..) => {
                spec.end = None;
                "rangeEnd"
            }
        };
        let error = ConfigError::invalid(wrong.to_string()).at(draft.fields.path_of(key));
        errors.push(match wrong.meaning() {
            Some(meaning) => error.meaning(meaning),
            None => error,
        });
    }
    ConfigError::all(&errors)?;
    Err(ConfigError::invalid("invalid range"))
}

/// Parses `routes`. The destination's host bits are kept as written.
pub fn routes(ipam: &Fields, warnings: &mut Vec<Warning>) -> Result<Vec<Route>, ConfigError> {
    let mut read = |item: Node| {
        let fields = item.fields()?;
        keys::warn_of_typos(&fields, keys::ROUTE, warnings);
        let route = route(&fields)?;
        // As in Go, leave out the values of `mtu`, `advmss` and `priority` that are zero. In `table` and
        // `scope`, zero differs from an absent value.
        let positive = |name| Ok(fields.integer(name)?.filter(|n| *n != 0));
        Ok(Route {
            mtu: positive("mtu")?,
            advmss: positive("advmss")?,
            priority: positive("priority")?,
            table: fields.integer("table")?,
            scope: fields.integer("scope")?,
            ..route
        })
    };
    let routes: Vec<_> = ipam.list("routes")?.into_iter().map(&mut read).collect();
    ConfigError::all(routes.iter().filter_map(|route| route.as_ref().err()))?;
    routes.into_iter().collect()
}

/// Parses the `dst` and `gw` of a route.
pub fn route(fields: &Fields) -> Result<Route, ConfigError> {
    let Some(dst) = fields.get("dst") else {
        let path = fields.path();
        let why =
            format!("{path}.dst is missing; a route needs a destination, for example 0.0.0.0/0");
        return Err(ConfigError::invalid(why).at(path));
    };
    let net = cidr(&dst)?.net;
    let gw = addr(fields, "gw")?.map(|gw| gw.to_string());
    Ok(Route { dst: net.to_string(), net: Some(net.into()), gw, ..Route::default() })
}
