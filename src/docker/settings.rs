//! The operator's settings for the driver: address spaces and supernets.
//!
//! Invariant: the two address spaces have different names that are valid in a pool ID, and a pool is not
//! larger than its supernet.

use crate::alloc::Block;
use crate::net::{Family, Span, Subnet, parse_cidr};

/// The settings of a driver.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address space for networks of one host.
    pub local: String,
    /// The address space for networks of a swarm.
    pub global: String,
    /// The supernets of automatic IPv4 pools, in the order in which they are tried.
    pub v4: Vec<Block>,
    /// The supernets of automatic IPv6 pools, in the order in which they are tried.
    pub v6: Vec<Block>,
    /// Prefixes that automatic pools avoid, besides the host's routes.
    pub avoid: Vec<Span>,
    /// Whether dockerd should send MAC addresses.
    pub mac: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            local: "sublet-local".to_owned(),
            global: "sublet-global".to_owned(),
            v4: Vec::new(),
            v6: Vec::new(),
            avoid: Vec::new(),
            mac: false,
        }
    }
}

impl Settings {
    /// Returns the supernets of an address family.
    pub fn blocks(&self, family: Family) -> &[Block] {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    /// Sets the two address spaces from the text `LOCAL,GLOBAL`.
    pub fn set_spaces(&mut self, text: &str) -> Result<(), String> {
        let name = |t: &str| {
            let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
            !t.is_empty() && t.len() <= 64 && t.bytes().all(good)
        };
        match text.split_once(',') {
            Some((local, global)) if local != global && name(local) && name(global) => {
                (self.local, self.global) = (local.to_owned(), global.to_owned());
                Ok(())
            }
            _ => Err(format!(
                "{text:?} does not have the form LOCAL,GLOBAL; use two different names of letters, digits, \
                 '_', '.' and '-'"
            )),
        }
    }
}

/// Parses a supernet in CIDR notation. If host bits are set, the error suggests the prefix that was probably
/// meant.
pub fn supernet(text: &str) -> Result<Subnet, String> {
    let net = parse_cidr(text)
        .ok_or_else(|| format!("{text:?} is not a prefix such as 10.80.0.0/12 or fd00:1::/48"))?;
    Subnet::strict(net).map_err(|subnet| format!("{text} has host bits; use {subnet}"))
}

/// Makes a supernet whose automatic pools have the prefix length `len`.
pub fn block(within: Subnet, len: u8) -> Result<Block, String> {
    if len < within.len() || len > within.family().bits() {
        return Err(format!(
            "blocks of /{len} do not fit into {within}; use a prefix length from {} to {}",
            within.len(),
            within.family().bits()
        ));
    }
    Ok(Block { within, len })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_its_supernet() {
        let within = supernet("10.80.0.0/12").unwrap();
        assert!(block(within, 24).is_ok() && block(within, 12).is_ok());
        for bad in [11, 33] {
            assert!(block(within, bad).is_err());
        }
        for bad in ["foo", "10.80.0.0", "10.80.0.0/x", "10.80.0.0/33", "10.80.0.1/12", "/8", ""] {
            assert!(supernet(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spaces_are_two() {
        let mut settings = Settings::default();
        assert!(settings.set_spaces("kontenalocal,kontenaglobal").is_ok());
        assert_eq!(settings.global, "kontenaglobal");
        for bad in ["a", "a,a", ",b", "a/b,c", "a,b c"] {
            assert!(settings.set_spaces(bad).is_err(), "{bad}");
        }
    }
}
