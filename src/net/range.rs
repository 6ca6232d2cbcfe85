//! A range: a subnet, its first and last address, its gateway, and its excluded addresses.
//!
//! The rules, their order and their messages are those of host-local (in the CNI plugins,
//! `ipam/host-local/backend/allocator/range.go`). sublet adds rules for /31, /32, /127 and /128, a range
//! without a gateway, excluded addresses, and a `rangeStart` that comes after the default end. Invariant:
//! `start <= end`, and both lie in the subnet. `spans` are in ascending order and do not overlap. They lie
//! between `start` and `end`, and contain neither the gateway nor an excluded address.

use std::fmt;

use ipnet::IpNet;

use super::{Addr, Family, Subnet};

/// A span: consecutive addresses of one family, including the first and the last address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The first address.
    pub first: Addr,
    /// The last address, which is not before `first`.
    pub last: Addr,
}

impl Span {
    /// Makes the span from `first` to `last`; `None` if `last` is before `first`, or if their families
    /// differ.
    pub fn new(first: Addr, last: Addr) -> Option<Span> {
        (first.family() == last.family() && first <= last).then_some(Span { first, last })
    }

    /// Returns whether `addr` lies in the span.
    pub fn contains(self, addr: Addr) -> bool {
        self.first <= addr && addr <= self.last
    }

    /// Returns whether the two spans have an address in common.
    pub fn overlaps(self, other: Span) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Returns the number of addresses. For the span of all IPv6 addresses, the result is 2^128 - 1, because
    /// the correct number does not fit.
    pub fn size(self) -> u128 {
        (self.last.bits() - self.first.bits()).saturating_add(1)
    }

    /// Returns every address, in order.
    pub fn addresses(self) -> impl Iterator<Item = Addr> {
        std::iter::successors(Some(self.first), |addr| addr.next())
            .take_while(move |addr| self.contains(*addr))
    }

    /// Returns the prefix whose addresses, or whose host addresses, are exactly the addresses of this span;
    /// `None` if there is no such prefix.
    pub fn prefix(self) -> Option<Subnet> {
        let prefix = self.first.enclosing(self.last);
        (self == hosts(prefix) || self == prefix.into()).then_some(prefix)
    }

    /// Returns the span in CIDR notation, if it consists of all addresses or of all host addresses of a
    /// prefix. Otherwise returns `first-last`.
    pub fn brief(self) -> String {
        self.prefix().map_or_else(|| self.to_string(), |prefix| prefix.to_string())
    }

    /// Returns the part of the span that starts at `from`; `None` if it is empty.
    pub fn starting(self, from: Addr) -> Option<Span> {
        Span::new(self.first.max(from), self.last)
    }

    /// Returns the part of the span that ends at `to`; `None` if it is empty.
    pub fn up_to(self, to: Addr) -> Option<Span> {
        Span::new(self.first, self.last.min(to))
    }

    /// Returns the parts of the span before and after `other`; the whole span if the two have no address in
    /// common.
    pub fn without(self, other: Span) -> impl Iterator<Item = Span> {
        let whole = (!self.overlaps(other)).then_some(self);
        let inside = self.overlaps(other);
        let before = other.first.prev().and_then(|last| self.up_to(last)).filter(|_| inside);
        let behind = other.last.next().and_then(|first| self.starting(first)).filter(|_| inside);
        whole.into_iter().chain(before).chain(behind)
    }
}

impl From<Subnet> for Span {
    fn from(subnet: Subnet) -> Span {
        Span { first: subnet.first(), last: subnet.last() }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A range as configured, before the rules are applied.
#[derive(Clone, Debug)]
pub struct RangeSpec {
    /// The subnet as written in the configuration, including host bits.
    pub subnet: IpNet,
    /// The first allocatable address. The default is the address after the network address.
    pub start: Option<Addr>,
    /// The last allocatable address. The default is the address before the broadcast address (IPv4), or the
    /// last address (IPv6).
    pub end: Option<Addr>,
    /// The gateway. The default is the address after the network address.
    pub gateway: GatewaySpec,
    /// The spans that are excluded from allocation.
    pub exclude: Vec<Span>,
}

impl RangeSpec {
    /// Makes the range of a whole subnet, with default values for all other settings.
    pub fn of(subnet: IpNet) -> RangeSpec {
        let (start, end, exclude) = (None, None, Vec::new());
        RangeSpec { subnet, start, end, gateway: GatewaySpec::Default, exclude }
    }
}

/// The gateway as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GatewaySpec {
    /// No gateway is configured, so the gateway is the first host address of the subnet.
    Default,
    /// The configured gateway is "none": containers get no gateway, and the first host address can be
    /// allocated.
    None,
    /// The gateway is this address, inside or outside the range.
    At(Addr),
}

/// The reason why a range is invalid. For an error that host-local also reports, the text is host-local's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The subnet has host bits.
    #[error(
        "Network has host bits set. For a subnet mask of length {} the network address is {}",
        .meant.len(),
        .meant.first()
    )]
    HostBits {
        /// The subnet without host bits, which was probably meant.
        meant: Subnet,
    },
    /// `rangeStart` lies outside the subnet.
    #[error("RangeStart {0} not in network {1}")]
    Start(Addr, Subnet),
    /// `rangeStart` comes after `rangeEnd`.
    #[error("RangeStart {0} not in network {2}")]
    StartAfterEnd(Addr, Addr, Subnet),
    /// `rangeEnd` lies outside the subnet.
    #[error("RangeEnd {0} not in network {1}")]
    End(Addr, Subnet),
    /// `rangeEnd` comes before the first host address of the subnet, which is the default start.
    #[error("RangeEnd {0} not in network {2}")]
    EndBeforeDefaultStart(Addr, Addr, Subnet),
    /// `rangeStart` comes after the default end of the subnet.
    #[error(
        "RangeStart {0} not in network {2}: it comes after the last address to allocate, {1}; set \
         rangeEnd as well"
    )]
    StartAfterDefaultEnd(Addr, Addr, Subnet),
}

impl RangeError {
    /// Returns an explanation of the error, if host-local's text does not explain it well.
    pub fn meaning(&self) -> Option<String> {
        Some(match self {
            RangeError::StartAfterEnd(_, end, subnet) if !subnet.contains(*end) => {
                format!("rangeEnd {end} is not in subnet {subnet}")
            }
            RangeError::StartAfterEnd(start, end, _) => {
                format!("rangeStart {start} lies after rangeEnd {end}")
            }
            RangeError::EndBeforeDefaultStart(end, start, _) => format!(
                "rangeEnd {end} lies before {start}, the first host of the subnet; set rangeStart as well"
            ),
            RangeError::StartAfterDefaultEnd(start, end, _) => format!(
                "rangeStart {start} lies after {end}, the last host of the subnet; set rangeEnd as well"
            ),
            RangeError::Start(..) | RangeError::End(..) | RangeError::HostBits { .. } => {
                return None;
            }
        })
    }
}

/// A valid range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    subnet: Subnet,
    bounds: Span,
    gateway: Option<Addr>,
    spans: Vec<Span>,
}

impl Range {
    /// Checks the rules in host-local's order (host bits, gateway, start, end), and makes the range.
    pub fn new(spec: &RangeSpec) -> Result<Range, RangeError> {
        let subnet = Subnet::strict(spec.subnet).map_err(|meant| RangeError::HostBits { meant })?;
        let gateway = match spec.gateway {
            GatewaySpec::Default => default_gateway(subnet),
            GatewaySpec::None => None,
            GatewaySpec::At(addr) => Some(addr),
        };
        let usual = hosts(subnet);
        let start = spec.start.unwrap_or(usual.first);
        if !subnet.contains(start) {
            return Err(RangeError::Start(start, subnet));
        }
        if let (Some(_), Some(end)) = (spec.start, spec.end.filter(|end| start > *end)) {
            return Err(RangeError::StartAfterEnd(start, end, subnet));
        }
        let end = spec.end.unwrap_or(usual.last);
        if !subnet.contains(end) {
            return Err(RangeError::End(end, subnet));
        }
        let Some(bounds) = Span::new(start, end) else {
            // Only one of the two bounds is configured, and it lies beyond the default value of the other
            // bound.
            return Err(if spec.start.is_some() {
                RangeError::StartAfterDefaultEnd(start, end, subnet)
            } else {
                RangeError::EndBeforeDefaultStart(end, start, subnet)
            });
        };
        let spans = usable(bounds, gateway, &spec.exclude);
        Ok(Range { subnet, bounds, gateway, spans })
    }

    /// Returns the subnet. Its prefix length is the prefix length of the leases.
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// Returns the span from the first to the last address. It includes the gateway and excluded addresses.
    pub fn bounds(&self) -> Span {
        self.bounds
    }

    /// Returns the gateway, if the range has one.
    pub fn gateway(&self) -> Option<Addr> {
        self.gateway
    }

    /// Returns the allocatable spans, in ascending order. The result is empty if the gateway and the excluded
    /// addresses cover the whole range.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Returns whether `addr` lies between the first and the last address.
    pub fn contains(&self, addr: Addr) -> bool {
        self.bounds.contains(addr)
    }

    /// Returns whether `addr` is allocatable: inside the range, not the gateway, and not excluded.
    pub fn gives(&self, addr: Addr) -> bool {
        self.spans.iter().any(|span| span.contains(addr))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bounds.fmt(f)
    }
}

/// Returns the address after the network address, as host-local does; `None` if the subnet has only one
/// address.
fn default_gateway(subnet: Subnet) -> Option<Addr> {
    (subnet.len() < subnet.family().bits()).then(|| subnet.first().next()).flatten()
}

/// Returns the addresses of a subnet that hosts can use, from the first to the last host address. The first
/// host address follows the network address. The last host address precedes the broadcast address (IPv4), or
/// is the last address (IPv6). A subnet with one or two addresses has no network address and no broadcast
/// address (RFC 3021, RFC 6164), so hosts can use all its addresses.
pub fn hosts(subnet: Subnet) -> Span {
    let whole = Span::from(subnet);
    if subnet.len() + 1 >= subnet.family().bits() {
        return whole;
    }
    let first = whole.first.next().unwrap_or(whole.first);
    let last = match subnet.family() {
        Family::V4 => whole.last.prev().unwrap_or(whole.last),
        Family::V6 => whole.last,
    };
    Span { first, last }
}

/// Returns the addresses between the bounds, without the gateway and the excluded addresses.
fn usable(bounds: Span, gateway: Option<Addr>, exclude: &[Span]) -> Vec<Span> {
    let mut holes: Vec<Span> = exclude.iter().copied().filter(|h| h.overlaps(bounds)).collect();
    holes.extend(gateway.and_then(|g| Span::new(g, g)).filter(|h| h.overlaps(bounds)));
    holes.sort_unstable();
    let mut spans = Vec::new();
    let mut from = Some(bounds.first);
    for hole in holes {
        let Some(at) = from else { break };
        if hole.last < at {
            continue;
        }
        spans.extend(hole.first.prev().and_then(|last| Span::new(at, last)));
        from = hole.last.next();
    }
    spans.extend(from.and_then(|at| Span::new(at, bounds.last)));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    fn spec(cidr: &str) -> RangeSpec {
        RangeSpec::of(cidr.parse().unwrap())
    }

    fn shape(spec: &RangeSpec) -> String {
        match Range::new(spec) {
            Ok(r) => format!("{r} gw {:?} gives {:?}", r.gateway(), r.spans()),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn small_subnets_have_no_network_address() {
        assert_eq!(
            shape(&spec("10.0.0.0/31")),
            "10.0.0.0-10.0.0.1 gw Some(10.0.0.1) gives [10.0.0.0-10.0.0.0]"
        );
        assert_eq!(
            shape(&RangeSpec { gateway: GatewaySpec::None, ..spec("10.0.0.0/31") }),
            "10.0.0.0-10.0.0.1 gw None gives [10.0.0.0-10.0.0.1]"
        );
        assert_eq!(
            shape(&spec("10.0.0.7/32")),
            "10.0.0.7-10.0.0.7 gw None gives [10.0.0.7-10.0.0.7]"
        );
        assert_eq!(
            shape(&spec("fd00::/127")),
            "fd00::-fd00::1 gw Some(fd00::1) gives [fd00::-fd00::]"
        );
        assert_eq!(shape(&spec("fd00::9/128")), "fd00::9-fd00::9 gw None gives [fd00::9-fd00::9]");
    }

    #[test]
    fn exclusions_and_the_gateway_split_the_range() {
        let s = RangeSpec {
            gateway: GatewaySpec::At(addr("10.0.0.4")),
            exclude: vec![
                Span::new(addr("10.0.0.6"), addr("10.0.0.8")).unwrap(),
                Span::new(addr("10.0.0.7"), addr("10.0.0.20")).unwrap(),
                Span::new(addr("9.0.0.0"), addr("9.0.0.9")).unwrap(),
            ],
            ..spec("10.0.0.0/24")
        };
        let r = Range::new(&s).unwrap();
        assert_eq!(
            format!("{:?}", r.spans()),
            "[10.0.0.1-10.0.0.3, 10.0.0.5-10.0.0.5, 10.0.0.21-10.0.0.254]"
        );
        assert!(r.contains(addr("10.0.0.7")) && !r.gives(addr("10.0.0.7")));
    }

    #[test]
    fn everything_may_be_excluded() {
        let s = RangeSpec {
            exclude: vec![Span::new(addr("10.0.0.0"), addr("10.0.0.255")).unwrap()],
            ..spec("10.0.0.0/24")
        };
        assert!(Range::new(&s).unwrap().spans().is_empty());
    }

    #[test]
    fn a_start_behind_the_default_end_is_refused() {
        let s = RangeSpec { start: Some(addr("10.0.0.3")), ..spec("10.0.0.0/30") };
        assert!(shape(&s).starts_with("RangeStart 10.0.0.3 not in network 10.0.0.0/30"));
    }

    #[test]
    fn the_last_addresses_of_all_do_not_overflow() {
        let s = RangeSpec {
            start: Some(addr("255.255.255.254")),
            end: Some(addr("255.255.255.255")),
            exclude: vec![Span::new(addr("255.255.255.255"), addr("255.255.255.255")).unwrap()],
            ..spec("255.255.255.0/24")
        };
        assert_eq!(Range::new(&s).unwrap().spans().len(), 1);
        assert_eq!(
            shape(&spec("8000::/1")).split(' ').next().unwrap().len(),
            "8000::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".len()
        );
    }
}
