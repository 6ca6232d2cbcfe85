//! Parses name resolution: `dns` inside `ipam`, and the file that `resolvConf` names.
//!
//! This module reads resolv.conf as host-local does (`host-local/dns.go`).
//! Invariant: a field in the file that `resolvConf` names overrides the same field of `dns`.

use std::io;
use std::path::Path;

use super::Dns;
use super::error::ConfigError;
use super::fields::Fields;
use crate::sys::files;

/// The maximum size of a resolv.conf file, in bytes. The resolvers of C libraries read much less.
const LARGEST: u64 = 1 << 20;

/// Returns the name resolution from `dns` and from the file that `resolvConf` names.
pub(super) fn dns(ipam: &Fields) -> Result<Dns, ConfigError> {
    let mut dns = match ipam.object("dns")? {
        Some(fields) => Dns {
            nameservers: words(&fields, "nameservers")?,
            domain: fields.text("domain")?.map(str::to_owned),
            search: words(&fields, "search")?,
            options: words(&fields, "options")?,
        },
        None => Dns::default(),
    };
    if let Some(path) = ipam.text("resolvConf")? {
        let file = parse(&read(path).map_err(|e| e.at(ipam.path_of("resolvConf")))?);
        let or = |first: Vec<String>, second| if first.is_empty() { second } else { first };
        dns = Dns {
            nameservers: or(file.nameservers, dns.nameservers),
            domain: file.domain.or(dns.domain),
            search: or(file.search, dns.search),
            options: or(file.options, dns.options),
        };
    }
    Ok(dns)
}

fn words(fields: &Fields, name: &str) -> Result<Vec<String>, ConfigError> {
    let items = fields.list(name)?;
    items.iter().map(|item| item.text().map(str::to_owned)).collect()
}

fn read(path: &str) -> Result<String, ConfigError> {
    files::read(Path::new(path), LARGEST).map_err(|e| {
        ConfigError::invalid(format!(
            "open {path}: {}; ipam.resolvConf must name a readable file",
            system_message(&e)
        ))
    })
}

/// Returns the operating system's error text in the form that Go prints: in lower case, without the number.
fn system_message(e: &io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

fn parse(text: &str) -> Dns {
    let mut dns = Dns::default();
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        let mut fields = line.split_whitespace();
        let (Some(keyword), Some(first)) = (fields.next(), fields.next()) else {
            continue;
        };
        let all = std::iter::once(first).chain(fields).map(str::to_owned);
        match keyword {
            "nameserver" => dns.nameservers.push(first.to_owned()),
            "domain" => dns.domain = Some(first.to_owned()),
            "search" => dns.search.extend(all),
            "options" => dns.options.extend(all),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_lines_count_and_comments_do_not() {
        let dns = parse(
            "\n  nameserver 192.0.2.0\n\tnameserver 192.0.2.1\n#nameserver 1\n;nameserver 192.0.2.2\nnameserver\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.0", "192.0.2.1"]);
    }

    #[test]
    fn a_pipe_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        files::make_pipe(&path);
        let error = read(path.to_str().unwrap()).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }

    #[test]
    fn all_fields() {
        let dns = parse(
            "nameserver 192.0.2.0\nnameserver 192.0.2.2\ndomain old.com\ndomain example.com\n\
             search example.net example.org\nsearch example.gov\noptions one two three\noptions four\n",
        );
        assert_eq!(dns.nameservers, ["192.0.2.0", "192.0.2.2"]);
        assert_eq!(dns.domain.as_deref(), Some("example.com"));
        assert_eq!(dns.search, ["example.net", "example.org", "example.gov"]);
        assert_eq!(dns.options, ["one", "two", "three", "four"]);
    }
}
