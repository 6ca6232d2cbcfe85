//! Reads the host's routes. Automatic pools avoid them, as dockerd's own automatic pools do.
//!
//! This module reads `/proc/net/route`, `/proc/net/ipv6_route` and the name servers in `/etc/resolv.conf`,
//! because dockerd compares an automatic pool with all of them. An entry that cannot be read is ignored. If
//! the pool then overlaps with the entry, dockerd rejects the pool and requests another one.
//! Invariant: a default route is ignored, because every pool would overlap with it.

use std::fs;

use crate::net::{Addr, Family, Span, Subnet};

/// Returns the spans of the host's routes, and the addresses of its name servers.
pub fn host_routes() -> Vec<Span> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut spans = v4(&read("/proc/net/route"));
    spans.extend(v6(&read("/proc/net/ipv6_route")));
    spans.extend(name_servers(&read("/etc/resolv.conf")));
    spans
}

/// Parses IPv4 routes. The columns are: interface, destination, gateway, flags, ..., mask. Numbers are in the
/// host's byte order.
fn v4(text: &str) -> Vec<Span> {
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(words.get(at)?, 16).ok().map(u32::swap_bytes);
        let (destination, mask) = (number(1)?, number(7)?);
        let len = u8::try_from(mask.leading_ones()).ok()?;
        prefix(Family::V4, destination.into(), len)
    };
    text.lines().skip(1).filter_map(route).collect()
}

/// Parses IPv6 routes. The columns are: destination, its prefix length, source, its prefix length, next hop,
/// metric, ..., interface.
fn v6(text: &str) -> Vec<Span> {
    let route = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let destination = u128::from_str_radix(words.first()?, 16).ok()?;
        let len = u8::from_str_radix(words.get(1)?, 16).ok()?;
        (words.last() != Some(&"lo")).then(|| prefix(Family::V6, destination, len))?
    };
    text.lines().filter_map(route).collect()
}

fn prefix(family: Family, bits: u128, len: u8) -> Option<Span> {
    let subnet = Subnet::masked(Addr::from_bits(family, bits)?, len)?;
    (len > 0).then(|| subnet.into())
}

fn name_servers(text: &str) -> Vec<Span> {
    let server = |line: &str| {
        let addr: Addr =
            line.strip_prefix("nameserver")?.split_whitespace().next()?.parse().ok()?;
        Span::new(addr, addr)
    };
    text.lines().filter_map(server).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spans: &[Span]) -> Vec<String> {
        spans.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn tables_of_the_kernel_are_read() {
        let text = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\n\
            eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\t0\n\
            eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\n\nnonsense\n";
        assert_eq!(shown(&v4(text)), ["172.17.0.0-172.17.255.255"]);
        let text = "fd000000000000000000000000000000 40 0 0 0 0 0 0 0 eth0\n\
            00000000000000000000000000000000 00 0 0 0 0 0 0 0 eth0\n\
            00000000000000000000000000000001 80 0 0 0 0 0 0 0 lo\n";
        assert_eq!(shown(&v6(text)), ["fd00::-fd00::ffff:ffff:ffff:ffff"]);
        assert_eq!(shown(&name_servers("# x\nnameserver 10.80.0.2\n")), ["10.80.0.2-10.80.0.2"]);
    }
}
