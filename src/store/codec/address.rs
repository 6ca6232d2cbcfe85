//! Encodes and decodes addresses, subnets and ranges. They are stored as numbers, which are shorter than
//! text.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::net::{Addr, Family, Span, Subnet};

impl Serialize for Addr {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.family().bits(), self.bits()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Addr {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Addr, D::Error> {
        let (width, bits) = <(u8, u128)>::deserialize(from)?;
        let family = [Family::V4, Family::V6].into_iter().find(|family| family.bits() == width);
        let addr = family.and_then(|family| Addr::from_bits(family, bits));
        addr.ok_or_else(|| {
            D::Error::custom("an address is outside the range of its address family")
        })
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.first(), self.len()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Subnet, D::Error> {
        let (first, len) = Deserialize::deserialize(from)?;
        let subnet = Subnet::masked(first, len).filter(|subnet| subnet.first() == first);
        subnet.ok_or_else(|| D::Error::custom("a subnet has host bits"))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        (self.first, self.last).serialize(to)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Span, D::Error> {
        let (first, last) = Deserialize::deserialize(from)?;
        let span = Span::new(first, last);
        span.ok_or_else(|| D::Error::custom("a range has a last address lower than the first"))
    }
}
