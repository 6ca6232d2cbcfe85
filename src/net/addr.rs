//! One address and one prefix.
//!
//! Owns: conversion to and from text and `u128`. Invariant: `bits` never exceeds the family's
//! width; a [`Subnet`] has no host bits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, 32 bits.
    V4,
    /// IPv6, 128 bits.
    V6,
}

impl Family {
    /// Width of an address in bits: 32 or 128.
    pub const fn bits(self) -> u8 {
        match self {
            Family::V4 => 32,
            Family::V6 => 128,
        }
    }

    /// The largest address of the family, as a number.
    pub const fn max(self) -> u128 {
        match self {
            Family::V4 => u32::MAX as u128,
            Family::V6 => u128::MAX,
        }
    }
}

/// One IP address. Orders by family, then by number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    family: Family,
    bits: u128,
}

impl Addr {
    /// The address with this number; `None` if the family has no such address.
    pub fn from_bits(family: Family, bits: u128) -> Option<Addr> {
        (bits <= family.max()).then_some(Addr { family, bits })
    }

    /// Its family.
    pub const fn family(self) -> Family {
        self.family
    }

    /// The address as a number.
    pub const fn bits(self) -> u128 {
        self.bits
    }

    /// The address after this one; `None` after the family's last.
    pub fn next(self) -> Option<Addr> {
        Addr::from_bits(self.family, self.bits.checked_add(1)?)
    }

    /// The address before this one; `None` before the family's first.
    pub fn prev(self) -> Option<Addr> {
        Addr::from_bits(self.family, self.bits.checked_sub(1)?)
    }

    /// The prefix of `len` bits that holds it; all of it where the family has no more bits.
    pub fn prefix(self, len: u8) -> Subnet {
        let len = len.min(self.family.bits());
        let host = Subnet::host_mask(self.family, len).unwrap_or(0);
        Subnet { base: Addr { family: self.family, bits: self.bits & !host }, len }
    }

    /// The standard library's form.
    pub fn ip(self) -> IpAddr {
        match self.family {
            // Lossless: the constructor holds a V4 number below 2^32.
            Family::V4 => IpAddr::V4(Ipv4Addr::from(u32::try_from(self.bits).unwrap_or(u32::MAX))),
            Family::V6 => IpAddr::V6(Ipv6Addr::from(self.bits)),
        }
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Addr {
        match ip {
            IpAddr::V4(v4) => Addr { family: Family::V4, bits: u128::from(u32::from(v4)) },
            // As Go's net.IP does: an IPv4-mapped address is the IPv4 address.
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Addr { family: Family::V4, bits: u128::from(u32::from(v4)) },
                None => Addr { family: Family::V6, bits: u128::from(v6) },
            },
        }
    }
}

impl FromStr for Addr {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Addr, Self::Err> {
        IpAddr::from_str(text).map(Addr::from)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A prefix without host bits, such as 10.1.2.0/24.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    base: Addr,
    len: u8,
}

/// Why a prefix is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubnetError {
    /// The length exceeds the family's width in bits.
    Length,
    /// The address has host bits; here is the prefix that was probably meant.
    HostBits(Subnet),
}

impl Subnet {
    /// The prefix `base/len`; `len` in bits.
    pub fn new(base: Addr, len: u8) -> Result<Subnet, SubnetError> {
        let masked = Subnet::masked(base, len).ok_or(SubnetError::Length)?;
        if masked.base == base { Ok(masked) } else { Err(SubnetError::HostBits(masked)) }
    }

    /// The prefix of `len` bits that holds `addr`; `None` if `len` exceeds the family's width.
    pub fn masked(addr: Addr, len: u8) -> Option<Subnet> {
        let host = Subnet::host_mask(addr.family, len)?;
        Some(Subnet { base: Addr { family: addr.family, bits: addr.bits & !host }, len })
    }

    fn host_mask(family: Family, len: u8) -> Option<u128> {
        let host = family.bits().checked_sub(len)?;
        Some(if host == 128 { u128::MAX } else { (1 << host) - 1 })
    }

    /// The network address.
    pub const fn first(self) -> Addr {
        self.base
    }

    /// The last address: broadcast in IPv4.
    pub fn last(self) -> Addr {
        let host = Subnet::host_mask(self.base.family, self.len).unwrap_or(0);
        Addr { family: self.base.family, bits: self.base.bits | host }
    }

    /// Prefix length in bits.
    #[allow(clippy::len_without_is_empty, reason = "a length in bits, and no subnet is empty")]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// Its family.
    pub const fn family(self) -> Family {
        self.base.family
    }

    /// Whether `addr` lies in the prefix.
    pub fn contains(self, addr: Addr) -> bool {
        addr.family == self.base.family && self.first() <= addr && addr <= self.last()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.len)
    }
}

impl fmt::Debug for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
        assert_eq!(Subnet::new(addr("192.0.2.12"), 24), Err(SubnetError::HostBits(meant)));
        assert_eq!(Subnet::new(addr("192.0.2.0"), 33), Err(SubnetError::Length));
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_one() {
        assert_eq!(addr("::ffff:10.0.0.1"), addr("10.0.0.1"));
    }
}
