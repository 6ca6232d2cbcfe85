//! Parses the key `static`, which assigns addresses to pods and containers by name.
//!
//! Invariant: each address is assigned to only one name, and lies in a range of the network.

use std::collections::BTreeMap;

use super::error::ConfigError;
use super::fields::{Fields, Node, join};
use crate::model::{Origin, StaticName};
use crate::net::{Addr, RangeSet, Span};

/// The maximum number of names.
const MOST_NAMES: usize = 4096;

/// The maximum number of addresses for one name.
const MOST_ADDRESSES: usize = 16;

/// The assigned addresses, each with the name to which it is assigned and with its path in the configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Statics(BTreeMap<Addr, (StaticName, String)>);

impl Statics {
    /// Parses the key `static` in `ipam`.
    pub(super) fn read(ipam: &Fields) -> Result<Statics, ConfigError> {
        let mut statics = Statics::default();
        let Some(object) = ipam.object("static")? else { return Ok(statics) };
        ConfigError::bound(object.path(), "names", object.pairs().len(), MOST_NAMES)?;
        // If a key occurs several times, the last value takes effect.
        let names: BTreeMap<_, _> = object.pairs().iter().map(|(key, json)| (key, json)).collect();
        for (key, json) in names {
            let place = join(object.path(), key);
            let name = StaticName::new(key.clone()).map_err(|_| {
                ConfigError::invalid(format!(
                    "{place} is not the name of a pod (namespace/name) or of a container"
                ))
                .at(&place)
            })?;
            let addrs = Node::new(place.clone(), json).list()?;
            ConfigError::bound(&place, "addresses", addrs.len(), MOST_ADDRESSES)?;
            for node in addrs {
                let text = node.text()?;
                let addr = text
                    .parse::<Addr>()
                    .map_err(|_| node.bad_text(text, "use an address without a prefix length"))?;
                if let Some((other, _)) = statics.0.get(&addr).filter(|(other, _)| *other != name) {
                    let text =
                        format!("{} is {addr}, which is already assigned to {other}", node.path());
                    return Err(ConfigError::invalid(text).at(node.path()));
                }
                statics.0.insert(addr, (name.clone(), node.path().to_owned()));
            }
        }
        Ok(statics)
    }

    /// Returns all assigned addresses as spans, because a search for a free address must skip them.
    pub(super) fn spans(&self) -> impl Iterator<Item = Span> {
        self.0.keys().map(|addr| Span { first: *addr, last: *addr })
    }

    /// Returns all assigned addresses, each with its name.
    pub(super) fn names(self) -> BTreeMap<Addr, StaticName> {
        self.0.into_iter().map(|(addr, (name, _))| (addr, name)).collect()
    }

    /// Fails if an assigned address can never be leased, because it lies in no range or is a gateway.
    pub(super) fn check(&self, sets: &[RangeSet]) -> Result<(), ConfigError> {
        for (addr, (_, place)) in &self.0 {
            let range = sets.iter().find_map(|set| set.range_of(*addr));
            let text = match range {
                None => format!("{place} is {addr}, which lies in no range"),
                Some(range) if range.gateway() == Some(*addr) => {
                    format!("{place} is {addr}, which is the gateway")
                }
                Some(_) => continue,
            };
            return Err(ConfigError::invalid(text).at(place));
        }
        Ok(())
    }

    /// Returns the addresses that are assigned to the container in the request.
    pub(super) fn of(&self, origin: &Origin) -> Vec<Addr> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let name = StaticName::of(origin);
        let own = self.0.iter().filter(|(_, (of, _))| name.as_ref() == Some(of));
        own.map(|(addr, _)| *addr).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::RangeSet;
    use crate::config::{Config, ConfigError, Inputs, Netconf};

    fn config(statics: &str, args: &str) -> Result<Config, ConfigError> {
        let text = format!(
            r#"{{"cniVersion":"1.0.0","name":"net","ipam":{{"type":"sublet","static":{statics},
                "ranges":[[{{"subnet":"10.1.2.0/24"}}],[{{"subnet":"fd00::/64"}}]]}}}}"#
        );
        let inputs = Inputs { args: args.to_owned(), ..Inputs::default() };
        Netconf::decode(text.as_bytes()).unwrap().config(&inputs)
    }

    const DB: &str = r#"{"shop/db-0":["fd00::3","10.1.2.3"],"web":["10.1.2.4"]}"#;

    #[test]
    fn a_name_has_its_addresses_and_nobody_else() {
        for (args, expected) in [
            ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=db-0", "[10.1.2.3 fd00::3]"),
            ("NAME=web", "[10.1.2.4]"),
            ("K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;NAME=web", "[]"),
            ("", "[]"),
        ] {
            let config = config(DB, args).unwrap();
            let own: Vec<_> = config.statics.iter().map(ToString::to_string).collect();
            assert_eq!(format!("[{}]", own.join(" ")), expected);
            let gives = |text: &str| {
                let addr = text.parse().unwrap();
                config.sets.iter().flat_map(RangeSet::ranges).any(|range| range.gives(addr))
            };
            assert!(!gives("10.1.2.3") && !gives("10.1.2.4") && !gives("fd00::3"));
            assert!(gives("10.1.2.5"));
        }
    }

    #[test]
    fn an_address_that_nobody_can_have_is_an_error() {
        for (statics, why) in [
            (
                r#"{"shop/db-0":["10.1.3.3"]}"#,
                "ipam.static.shop/db-0[0] is 10.1.3.3, which lies in no range",
            ),
            (r#"{"db":["10.1.2.1"]}"#, "ipam.static.db[0] is 10.1.2.1, which is the gateway"),
            (r#"{"a":["10.1.2.3"],"b":["10.1.2.3"]}"#, "10.1.2.3, which is already assigned to a"),
            (r#"{"a/b/c":["10.1.2.3"]}"#, "ipam.static.a/b/c is not the name of a pod"),
            (r#"{"a":["10.1.2.3/24"]}"#, "without a prefix length"),
            (r#"{"a":"10.1.2.3"}"#, "must be a list"),
            ("[]", "must be an object"),
        ] {
            let error = config(statics, "").unwrap_err().to_string();
            assert!(error.contains(why), "{statics}: {error}");
        }
    }
}
