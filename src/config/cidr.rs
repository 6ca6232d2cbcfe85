//! Parses addresses and prefixes in a configuration. Error messages begin with the messages of Go's package
//! `net`, because host-local prints these messages.

use ipnet::IpNet;

use super::error::ConfigError;
use super::fields::{Fields, Node};
use crate::net::{Addr, Span, Subnet, parse_cidr};

/// A prefix, as it is written in a configuration.
#[derive(Clone, Copy)]
pub(super) struct Cidr {
    /// The prefix, including its host bits.
    pub(super) net: IpNet,
    /// Whether the text is an IPv4 prefix in IPv6 notation (`::ffff:10.0.0.0/120`).
    pub(super) mapped: bool,
}

/// Parses a value in CIDR notation.
pub(super) fn cidr(node: &Node) -> Result<Cidr, ConfigError> {
    let text = node.text()?;
    let net = parse_cidr(text).ok_or_else(|| bad_cidr(text, node.path()))?;
    Ok(Cidr { net, mapped: net.addr().is_ipv4() && text.contains(':') })
}

/// Makes the error for a text that is not in CIDR notation. Its message begins with Go's message.
pub(super) fn bad_cidr(text: &str, path: &str) -> ConfigError {
    ConfigError::invalid(format!(
        "invalid CIDR address: {}; {path} takes an address and a prefix length, such as 10.1.2.0/24 or \
         fd00::/64",
        shorten(text)
    ))
    .at(path)
}

/// Parses the value of `name` as an address. Empty text counts as absent.
pub(super) fn addr(fields: &Fields, name: &str) -> Result<Option<Addr>, ConfigError> {
    let Some(text) = fields.text(name)? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let path = fields.path_of(name);
        ConfigError::invalid(format!(
            "invalid IP address: {}; {path} takes an address without a prefix length, such as 10.1.2.1 \
             or fd00::1",
            shorten(text)
        ))
        .at(path)
    })
}

/// Parses an address, a range (`first-last`) or a prefix.
pub(super) fn span(node: &Node) -> Result<Span, ConfigError> {
    let text = node.text()?;
    let one = |text: &str| text.trim().parse::<Addr>().ok();
    let span = match text.split_once('-') {
        Some((first, last)) => one(first).zip(one(last)).and_then(|(a, b)| Span::new(a, b)),
        None => parse_cidr(text.trim())
            .map(|net| Subnet::from(net).into())
            .or_else(|| one(text).and_then(|a| Span::new(a, a))),
    };
    span.ok_or_else(|| {
        let takes = "use an address (10.1.2.9), a range from the lower to the higher address \
                     (10.1.2.10-10.1.2.20) or a CIDR (10.1.2.128/25)";
        node.bad_text(text, takes)
    })
}

/// Returns `text`, shortened if it is long.
fn shorten(text: &str) -> String {
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
            assert_eq!(parse_cidr(text).map(|c| c.to_string()).as_deref(), Some(shown));
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
            "::ffff:10.1.2.0/24",
            "010.1.2.3/24",
            "10.1.2/24",
            "fe80::1%eth0/64",
            "10.1.2.3/24/1",
            " 10.1.2.3/24",
            "x/8",
        ] {
            assert_eq!(parse_cidr(text), None, "{text}");
        }
    }
}
