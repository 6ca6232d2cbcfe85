//! Addresses and prefixes, based on the standard library's `IpAddr` and on `ipnet`'s `IpNet`.
//!
//! Invariants: an IPv4-mapped IPv6 address is parsed as an IPv4 address, as in Go's package `net`. A
//! [`Subnet`] has no host bits.

use std::fmt;
use std::iter;
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// The address family: IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, 32 bits.
    V4,
    /// IPv6, 128 bits.
    V6,
}

impl Family {
    /// Returns the width of an address in bits: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }
}

/// An IP address. Addresses are ordered by family, then by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr(IpAddr);

impl Addr {
    /// Returns the address with this number; `None` if the number is too large for the family.
    pub fn from_bits(family: Family, bits: u128) -> Option<Addr> {
        Some(Addr(match family {
            Family::V4 => Ipv4Addr::from_bits(bits.try_into().ok()?).into(),
            Family::V6 => Ipv6Addr::from_bits(bits).into(),
        }))
    }

    /// Returns the family of the address.
    pub const fn family(self) -> Family {
        if self.0.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// Returns the address as a number.
    pub fn bits(self) -> u128 {
        match self.0 {
            IpAddr::V4(v4) => v4.to_bits().into(),
            IpAddr::V6(v6) => v6.to_bits(),
        }
    }

    /// Returns the next address; `None` if this is the last address of the family.
    pub fn next(self) -> Option<Addr> {
        Addr::from_bits(self.family(), self.bits().checked_add(1)?)
    }

    /// Returns the previous address; `None` if this is the first address of the family.
    pub fn prev(self) -> Option<Addr> {
        Addr::from_bits(self.family(), self.bits().checked_sub(1)?)
    }

    /// Returns the prefix of length `len` that contains the address. If `len` is larger than the width of an
    /// address, returns the prefix that contains only the address.
    pub fn prefix(self, len: u8) -> Subnet {
        IpNet::new(self.0, len).unwrap_or(self.0.into()).into()
    }

    /// Returns the longest prefix that contains both this address and another address of the same family.
    pub fn enclosing(self, other: Addr) -> Subnet {
        let mut around = iter::successors(Some(IpNet::from(self.0)), IpNet::supernet);
        let found = around.find(|net| net.contains(&other.0));
        found.map_or(self.prefix(0), Subnet)
    }

    /// Returns the address as a value of the standard library's type.
    pub const fn ip(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        Addr(ip.to_canonical())
    }
}

impl FromStr for Addr {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Addr, Self::Err> {
        text.parse().map(IpAddr::into)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses CIDR notation, and keeps the host bits. An IPv4-mapped prefix becomes an IPv4 prefix.
///
/// This function corrects two differences between `ipnet` and Go: `ipnet` accepts leading zeros in an
/// address, and refuses leading zeros in a prefix length.
pub fn parse_cidr(text: &str) -> Option<IpNet> {
    let (ip, len) = text.split_once('/')?;
    let len: u8 = len.parse().ok().filter(|_| !len.starts_with('+'))?;
    let ip: IpAddr = ip.parse().ok()?;
    let addr = ip.to_canonical();
    let mapped = if addr == ip { 0 } else { 96 };
    IpNet::new(addr, len.checked_sub(mapped)?).ok()
}

/// Parses an address, with or without a prefix length.
pub fn parse_addr(text: &str) -> Option<Addr> {
    parse_cidr(text).map(|net| net.addr().into()).or_else(|| text.parse().ok())
}

/// A prefix without host bits, such as 10.1.2.0/24.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet(IpNet);

impl Subnet {
    /// Makes the prefix `base/len`; `None` if `base` has host bits, or if `len` is larger than the width of
    /// an address.
    pub fn new(base: Addr, len: u8) -> Option<Subnet> {
        IpNet::new(base.0, len).ok().and_then(|net| Subnet::strict(net).ok())
    }

    /// Makes the prefix of length `len` that contains `addr`; `None` if `len` is larger than the width of an
    /// address.
    pub fn masked(addr: Addr, len: u8) -> Option<Subnet> {
        IpNet::new(addr.0, len).ok().map(Subnet::from)
    }

    /// Returns the prefix if it has no host bits. Otherwise returns, as `Err`, the prefix without its host
    /// bits.
    pub fn strict(net: IpNet) -> Result<Subnet, Subnet> {
        let subnet = Subnet::from(net);
        if subnet.0 == net { Ok(subnet) } else { Err(subnet) }
    }

    /// Returns the first address, which is the network address.
    pub fn first(self) -> Addr {
        Addr(self.0.network())
    }

    /// Returns the last address. In IPv4, this is the broadcast address.
    pub fn last(self) -> Addr {
        Addr(self.0.broadcast())
    }

    /// Returns the prefix length, in bits.
    #[allow(clippy::len_without_is_empty, reason = "a length in bits, and no subnet is empty")]
    pub fn len(self) -> u8 {
        self.0.prefix_len()
    }

    /// Returns the family of the prefix.
    pub fn family(self) -> Family {
        self.first().family()
    }

    /// Returns whether `addr` lies in the prefix.
    pub fn contains(self, addr: Addr) -> bool {
        self.0.contains(&addr.0)
    }
}

impl From<IpNet> for Subnet {
    /// Makes the prefix, and clears its host bits.
    fn from(net: IpNet) -> Subnet {
        Subnet(net.trunc())
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_whole_family_is_a_prefix() {
        let all = Subnet::new(addr("::"), 0).unwrap();
        assert_eq!(all.last().bits(), u128::MAX);
        assert!(all.last().next().is_none());
        assert!(addr("255.255.255.255").next().is_none());
        assert!(addr("0.0.0.0").prev().is_none());
    }

    #[test]
    fn host_bits_name_the_network_that_was_meant() {
        let meant = Subnet::new(addr("192.0.2.0"), 24).unwrap();
        assert_eq!(Subnet::strict(parse_cidr("192.0.2.12/24").unwrap()), Err(meant));
        assert_eq!(Subnet::new(addr("192.0.2.12"), 24), None);
        assert_eq!(Subnet::new(addr("192.0.2.0"), 33), None);
        assert_eq!(addr("192.0.2.12").prefix(33), Subnet::new(addr("192.0.2.12"), 32).unwrap());
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        assert_eq!(addr("::ffff:10.0.0.1"), addr("10.0.0.1"));
    }
}
