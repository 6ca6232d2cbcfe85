//! Addresses and prefixes in the text of a configuration.
//!
//! Owns: what Go's `net` takes as an address or in CIDR notation, and its messages. Does not own:
//! ranges.
//! Invariant: a [`Cidr`]'s length does not exceed the width of the address as written.

use std::fmt;
use std::net::IpAddr;

use super::error::ConfigError;
use super::fields::{Fields, Node};
use super::raw::quote;
use crate::net::{Addr, Family, Span, Subnet};

/// An address with a prefix length, host bits kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cidr {
    ip: IpAddr,
    len: u8,
}

impl Cidr {
    /// CIDR notation, if `text` is that.
    pub(super) fn parse(text: &str) -> Option<Cidr> {
        let (ip, len) = text.split_once('/')?;
        let ip: IpAddr = ip.parse().ok()?;
        let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let len: u8 = len.parse().ok().filter(|_| digits)?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        (len <= width).then_some(Cidr { ip, len })
    }

    /// Whether it is an IPv4 address written as an IPv6 one (`::ffff:10.0.0.0/120`).
    pub(super) fn mapped(self) -> bool {
        self.ip.is_ipv6() && self.addr().family() == Family::V4
    }

    /// The family, if the notation is that family's own.
    pub(super) fn family(self) -> Option<Family> {
        (!self.mapped()).then(|| self.addr().family())
    }

    /// The address.
    pub(super) fn addr(self) -> Addr {
        Addr::from(self.ip)
    }

    /// The prefix length in bits, of the family of [`Cidr::addr`].
    pub(super) fn len(self) -> u8 {
        if self.mapped() { self.len.saturating_sub(96) } else { self.len }
    }

    /// The prefix without host bits.
    pub(super) fn subnet(self) -> Option<Subnet> {
        Subnet::masked(self.addr(), self.len())
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len())
    }
}

/// The value as CIDR notation.
pub(super) fn cidr(node: &Node) -> Result<Cidr, ConfigError> {
    let text = node.text()?;
    Cidr::parse(text).ok_or_else(|| bad_cidr(text, node.path()))
}

/// Go's message for what is no CIDR notation.
pub(super) fn bad_cidr(text: &str, path: &str) -> ConfigError {
    ConfigError::invalid(format!(
        "invalid CIDR address: {}; {path} takes an address and a prefix length, as 10.1.2.0/24 or \
         fd00::/64",
        cut(text)
    ))
    .at(path)
}

/// The value of `name` as an address; an empty text is absent.
pub(super) fn addr(fields: &Fields, name: &str) -> Result<Option<Addr>, ConfigError> {
    let Some(node) = fields.get(name) else {
        return Ok(None);
    };
    let text = node.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        ConfigError::invalid(format!(
            "invalid IP address: {}; {} takes an address without a prefix length, as 10.1.2.1 \
             or fd00::1",
            cut(text),
            node.path()
        ))
        .at(node.path())
    })
}

/// An address with or without a prefix length.
pub(super) fn addr_with_or_without_prefix(text: &str) -> Option<Addr> {
    match Cidr::parse(text) {
        Some(cidr) => Some(cidr.addr()),
        None => text.parse().ok(),
    }
}

/// One address, a run (`first-last`) or a prefix.
pub(super) fn span(node: &Node) -> Result<Span, ConfigError> {
    let text = node.text()?;
    let one = |text: &str| text.trim().parse::<Addr>().ok();
    let span = match text.split_once('-') {
        Some((first, last)) => one(first).zip(one(last)).and_then(|(a, b)| Span::new(a, b)),
        None => match Cidr::parse(text.trim()) {
            Some(cidr) => cidr.subnet().map(Span::from),
            None => one(text).and_then(|a| Span::new(a, a)),
        },
    };
    span.ok_or_else(|| {
        ConfigError::invalid(format!(
            "{} is {}; it takes an address (10.1.2.9), a range from the lower to the higher \
             address (10.1.2.10-10.1.2.20) or a CIDR (10.1.2.128/25)",
            node.path(),
            quote(text)
        ))
        .at(node.path())
    })
}

/// `text` as it is, cut if it is long.
fn cut(text: &str) -> String {
    match text.char_indices().nth(64) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_takes() {
        for (text, shown) in [
            ("10.1.2.3/24", "10.1.2.3/24"),
            ("10.1.2.3/024", "10.1.2.3/24"),
            ("2001:DB8::/64", "2001:db8::/64"),
            ("::ffff:10.1.2.0/120", "10.1.2.0/24"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(Cidr::parse(text).map(|c| c.to_string()).as_deref(), Some(shown));
        }
        for text in [
            "",
            "/",
            "10.1.2.3",
            "10.1.2.3/",
            "10.1.2.3/+8",
            "10.1.2.3/33",
            "10.1.2.3/256",
            "::/129",
            "010.1.2.3/24",
            "10.1.2/24",
            "fe80::1%eth0/64",
            "10.1.2.3/24/1",
            " 10.1.2.3/24",
            "x/8",
        ] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }
}
