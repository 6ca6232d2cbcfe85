//! Parses the settings of the cluster that stores the leases: the key `store`, and cni-ipam-consul's own
//! keys.
//!
//! This module defines the keys inside `store`, their defaults and their valid values. It opens neither
//! connections nor files.
//! Invariant: an endpoint is a scheme, a host and a port. It contains no user, password or path, so messages
//! can show it.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{ConfigError, Warning};
use super::fields::{Fields, Node};
use super::json::{Json, quote};
use super::{Dialect, duration, keys};
use crate::model::{Consul, Etcd, History, Persist, Servers, StoreSpec};

const ETCD_PORT: u16 = 2379;
const CONSUL_PORT: u16 = 8500;
const PREFIX: &str = "sublet";
/// The default folder of the local cache. The folder does not survive a reboot, because `/run` is in memory.
const NOTES: &str = "/run/sublet";
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest accepted timeout. No runtime waits longer than this.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);

/// Parses a cluster's settings from JSON such as `{"etcd": {...}}`. The command line and the key `store` both
/// use this form.
pub fn store(json: &str) -> Result<(StoreSpec, Vec<Warning>), ConfigError> {
    let json = Json::parse(json.as_bytes())
        .map_err(|e| ConfigError::decode(format!("the store is not valid JSON: {e}")))?;
    let pairs = [("store".to_owned(), json)];
    let mut warnings = Vec::new();
    match from_ipam(&Fields::root(&pairs), Dialect::Native, &mut warnings)? {
        Some(spec) => Ok((spec, warnings)),
        None => Err(ConfigError::invalid("the store must be an object")),
    }
}

/// Returns whether `ipam` has keys of cni-ipam-consul.
pub(super) fn has_consul_keys(ipam: &Fields) -> bool {
    ["consul_addr", "consul_port", "dc"].iter().any(|key| ipam.has(key))
}

/// Returns the cluster that a configuration names; `None` if it names no cluster.
pub(super) fn from_ipam(
    ipam: &Fields,
    dialect: Dialect,
    warnings: &mut Vec<Warning>,
) -> Result<Option<StoreSpec>, ConfigError> {
    let store = ipam.object("store")?;
    if store.is_none() && dialect != Dialect::Consul {
        return Ok(None);
    }
    let mut fields = Fields::default();
    let mut engine = "consul";
    if let Some(store) = store {
        let written: Vec<&str> = store.keys().collect();
        let allowed: &[&str] =
            if dialect == Dialect::Consul { &["consul"] } else { &["etcd", "consul"] };
        let known = match written[..] {
            [key] => allowed.iter().find(|e| key.eq_ignore_ascii_case(e)),
            _ => None,
        };
        let Some(known) = known else {
            return Err(ConfigError::invalid(format!(
                "{} must have exactly one key, {}, but has {}",
                store.path(),
                allowed.iter().map(|e| format!("\"{e}\"")).collect::<Vec<_>>().join(" or "),
                if written.is_empty() { "none".to_owned() } else { quote(&written.join(", ")) }
            ))
            .at(store.path()));
        };
        engine = known;
        if let Some(node) = store.get_or_null(engine) {
            fields = node.fields()?;
        }
        keys::warn_of_typos(&fields, keys::CLUSTER, warnings);
    }
    if engine == "etcd" {
        let login = pair(&fields, "user", "passwordFile")?;
        let servers = servers(&fields, ETCD_PORT, None)?;
        if login.is_some() {
            warn_of_plain_text(&fields, &servers, "the password", warnings);
        }
        return Ok(Some(StoreSpec::Etcd(Box::new(Etcd {
            servers,
            login: login.map(|(user, file)| (user.to_owned(), PathBuf::from(file))),
        }))));
    }
    let is_dialect = dialect == Dialect::Consul;
    let agent = if is_dialect { Some(consul_endpoint(ipam)?) } else { None };
    let servers = servers(&fields, CONSUL_PORT, agent)?;
    if fields.has("tokenFile") && !servers.endpoints.iter().all(|e| is_loopback(e)) {
        warn_of_plain_text(&fields, &servers, "the token", warnings);
    }
    Ok(Some(StoreSpec::Consul(Box::new(Consul {
        servers,
        dc: match fields.text("dc")? {
            None if is_dialect => ipam.text("dc")?,
            dc => dc,
        }
        .map(str::to_owned),
        token: fields.text("tokenFile")?.map(PathBuf::from),
    }))))
}

fn servers(fields: &Fields, port: u16, agent: Option<String>) -> Result<Servers, ConfigError> {
    let nodes = match fields.get("endpoints") {
        Some(node) if node.is_list() => node.list()?,
        node => node.into_iter().collect(),
    };
    let endpoints: Result<Vec<String>, ConfigError> =
        nodes.iter().map(|node| endpoint(node, port)).collect();
    let mut endpoints = endpoints?;
    if endpoints.is_empty() {
        // Users of Consul and of cni-ipam-consul usually run a Consul agent on each host.
        endpoints.push(agent.unwrap_or_else(|| format!("http://127.0.0.1:{port}")));
    }
    let ca = fields.text("caFile")?.map(PathBuf::from);
    let identity = pair(fields, "certFile", "keyFile")?;
    let plain = endpoints.iter().find(|e| e.starts_with("http://"));
    if let Some(plain) = plain.filter(|_| ca.is_some() || identity.is_some()) {
        return Err(ConfigError::invalid(format!(
            "{}: {plain} is not encrypted, but a certificate is configured in `{}`; use https://, or remove \
             the certificate",
            fields.path(),
            if ca.is_some() { "caFile" } else { "certFile" }
        ))
        .at(fields.path_of("endpoints")));
    }
    Ok(Servers {
        endpoints,
        prefix: prefix(fields)?,
        ca,
        identity: identity.map(|(cert, key)| (PathBuf::from(cert), PathBuf::from(key))),
        timeout: timeout(fields)?,
        persist: Persist::default(),
        history: History::Standing,
        notes: PathBuf::from(NOTES),
    })
}

/// Warns about a password or token that would be sent unencrypted.
fn warn_of_plain_text(
    fields: &Fields,
    servers: &Servers,
    secret: &str,
    warnings: &mut Vec<Warning>,
) {
    if let Some(plain) = servers.endpoints.iter().find(|e| e.starts_with("http://")) {
        let place = fields.path_of("endpoints");
        let text = format!("{place}: {secret} is sent to {plain} without encryption; use https://");
        warnings.push(Warning::new(place, text));
    }
}

/// Returns whether the endpoint is on this host, where connections are usually not encrypted.
fn is_loopback(endpoint: &str) -> bool {
    ["http://127.", "http://localhost:", "http://[::1]:"]
        .iter()
        .any(|start| endpoint.starts_with(start))
}

/// Returns the values of two keys that must be set together; `None` if both are absent.
fn pair<'a>(
    fields: &Fields<'a>,
    one: &str,
    other: &str,
) -> Result<Option<(&'a str, &'a str)>, ConfigError> {
    let (has, lacks) = match (fields.text(one)?, fields.text(other)?) {
        (None, None) => return Ok(None),
        (Some(a), Some(b)) => return Ok(Some((a, b))),
        (Some(_), None) => (one, other),
        (None, Some(_)) => (other, one),
    };
    let why = format!("{} has `{has}` but no `{lacks}`; set both or neither", fields.path());
    Err(ConfigError::invalid(why).at(fields.path_of(has)))
}

/// Parses `http://host:port` or `https://host:port`; the port is optional.
fn endpoint(node: &Node, default_port: u16) -> Result<String, ConfigError> {
    let text = node.text()?.trim();
    let bad = || {
        // The text before an "@" may be a password, so the message does not show it.
        let shown = text.rsplit_once('@').map_or(text, |(_, host)| host);
        node.bad_text(shown, "use http://HOST:PORT or https://HOST:PORT without a path")
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    let scheme = scheme.to_ascii_lowercase();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, "")) if host.ends_with(']') => (host, Some(default_port)),
        // If the text ends with `]`, the last colon is part of an IPv6 address, and there is no port.
        Some((host, port)) if !port.ends_with(']') => {
            (host, port.parse().ok().filter(|port| *port > 0))
        }
        _ => (rest, Some(default_port)),
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_valid = bracketed.map_or(is_host(host), |ip| ip.parse::<Ipv6Addr>().is_ok());
    if !["http", "https"].contains(&&*scheme) || !is_valid {
        return Err(bad());
    }
    port.map(|port| format!("{scheme}://{host}:{port}")).ok_or_else(bad)
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Returns the endpoint of the Consul agent that `consul_addr` and `consul_port` name.
pub(super) fn consul_endpoint(ipam: &Fields) -> Result<String, ConfigError> {
    let host = ipam.text("consul_addr")?.unwrap_or("127.0.0.1");
    let host = match host.parse::<Ipv6Addr>() {
        Ok(addr) => format!("[{addr}]"),
        Err(_) if is_host(host) => host.to_owned(),
        Err(_) => {
            let takes =
                "use a host name or an address without a port; set the port in `consul_port`";
            return Err(ipam.bad_text("consul_addr", host, takes));
        }
    };
    let port = match ipam.get("consul_port") {
        None => CONSUL_PORT,
        Some(port) => {
            let number = match port.text() {
                Ok(text) => text.parse().ok(),
                Err(_) => port.integer().ok().and_then(|n| u16::try_from(n).ok()),
            };
            number.filter(|n: &u16| *n > 0).ok_or_else(|| {
                ConfigError::invalid(format!(
                    "{} must be a port number from 1 to 65535, such as \"8500\" or 8500",
                    port.path()
                ))
                .at(port.path())
            })?
        }
    };
    Ok(format!("http://{host}:{port}"))
}

fn prefix(fields: &Fields) -> Result<String, ConfigError> {
    let text = fields.text("prefix")?.unwrap_or(PREFIX);
    let trimmed = text.trim_matches('/');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let segment = |s: &str| s.bytes().all(plain) && s.bytes().any(|b| b != b'.');
    if trimmed.len() > 256 || !trimmed.split('/').all(segment) {
        let takes = "use only letters, digits, \"-\", \"_\", \".\", \"~\" and \"/\", for example clusters/one";
        return Err(fields.bad_text("prefix", text, takes));
    }
    Ok(trimmed.to_owned())
}

fn timeout(fields: &Fields) -> Result<Duration, ConfigError> {
    let Some(text) = fields.text("timeout")? else {
        return Ok(DEFAULT_TIMEOUT);
    };
    let timeout = duration::positive(text).ok();
    timeout.filter(|t| !t.is_zero() && *t <= LONGEST_TIMEOUT).ok_or_else(|| {
        let takes = format!("use {}, more than 0 and at most 10m", duration::SYNTAX);
        fields.bad_text("timeout", text, &takes)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_without_encryption_is_a_warning() {
        let warned = |json: &str| store(json).unwrap().1.len();
        let etcd = |scheme: &str| {
            format!(
                r#"{{"etcd":{{"endpoints":["{scheme}://127.0.0.1:2379"],"user":"u","passwordFile":"/p"}}}}"#
            )
        };
        assert_eq!((warned(&etcd("http")), warned(&etcd("https"))), (1, 0));
        assert_eq!(warned(r#"{"etcd":{"endpoints":["http://10.0.0.1"]}}"#), 0);
        let consul = |host: &str| {
            format!(r#"{{"consul":{{"endpoints":["http://{host}"],"tokenFile":"/t"}}}}"#)
        };
        // A token for the agent on this host causes no warning.
        assert_eq!((warned(&consul("10.0.0.1")), warned(&consul("127.0.0.1:8500"))), (1, 0));
    }
}
