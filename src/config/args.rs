//! Parses what the runtime requests outside of `ipam`: the environment variable `CNI_ARGS`, and the keys
//! `args.cni` and `runtimeConfig` of the network configuration.
//!
//! This module implements Go's grammar of `CNI_ARGS` with Go's messages. The order of precedence of requested
//! addresses is: `IP` in `CNI_ARGS`, then `args.cni.ips`, then `runtimeConfig.ips`. The module `host_local`,
//! not this one, reads `runtimeConfig.ipRanges`.
//! Invariant: an address is requested at most once.

use super::error::ConfigError;
use super::fields::Fields;
use crate::alloc::Requested;
use crate::model::{Attachment, Origin, Pod};
use crate::net::{Addr, parse_addr};

/// The maximum number of addresses in `args.cni.ips` or `runtimeConfig.ips`.
const MOST_REQUESTED: usize = 1024;

/// The content of `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    /// The value of `IP`: the requested address.
    pub(super) ip: Option<Addr>,
    /// The value of `MAC`, as written.
    pub(super) mac: Option<String>,
    /// `NAME`: the container's name.
    name: Option<String>,
    pod: Pod,
}

impl Args {
    /// Parses `CNI_ARGS` as the CNI project's plugins do: an invalid pair or an unknown key is an error.
    pub(super) fn parse(text: &str) -> Result<Args, ConfigError> {
        let mut args = Args::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            let Some((key, value)) = pair.split_once('=').filter(|(_, v)| !v.contains('=')) else {
                return Err(ConfigError::invalid(format!(
                    "ARGS: invalid pair {pair:?}; write CNI_ARGS as KEY=VALUE;KEY=VALUE without a \
                     trailing semicolon"
                )));
            };
            let wrong = |why: String| {
                ConfigError::invalid(format!("ARGS: error parsing value of pair {pair:?}: {why}"))
            };
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = parse_bool(value).ok_or_else(|| {
                        wrong(format!(
                            "boolean unmarshal error: invalid input {value}; use 1, 0, true or false"
                        ))
                    })?;
                }
                "IP" if value.is_empty() => {}
                "IP" => {
                    let ip = parse_addr(value);
                    args.ip = Some(ip.ok_or_else(|| wrong(format!("invalid IP address {value}")))?);
                }
                _ if args.record(key, value) => {}
                _ => unknown.push(format!("{pair:?}")),
            }
        }
        if unknown.is_empty() || ignore_unknown {
            Ok(args)
        } else {
            Err(ConfigError::invalid(format!(
                "ARGS: unknown args [{}]; if another plugin uses these arguments, add IgnoreUnknown=1 to \
                 CNI_ARGS",
                unknown.join(" ")
            )))
        }
    }

    /// Parses `CNI_ARGS` for the ECS dialect. Keeps only the values that are recorded with the lease (pod,
    /// name, MAC address), and never fails, because the original ecs-ipam ignored `CNI_ARGS`.
    pub(super) fn parse_leniently(text: &str) -> Args {
        let mut args = Args::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            args.record(key, value);
        }
        args
    }

    /// Keeps the value of an argument that is only recorded with the lease. Returns false if `key` is not the
    /// name of such an argument.
    fn record(&mut self, key: &str, value: &str) -> bool {
        match key {
            "MAC" => self.mac = Some(value.to_owned()).filter(|mac| !mac.is_empty()),
            "NAME" => self.name = Some(value.to_owned()).filter(|name| !name.is_empty()),
            "K8S_POD_NAMESPACE" => value.clone_into(&mut self.pod.namespace),
            "K8S_POD_NAME" => value.clone_into(&mut self.pod.name),
            "K8S_POD_UID" => value.clone_into(&mut self.pod.uid),
            "K8S_POD_INFRA_CONTAINER_ID" => {}
            _ => return false,
        }
        true
    }

    /// Returns the origin of the request: attachment, pod and MAC address. The caller adds the network
    /// namespace.
    pub(super) fn origin(&self, root: &Fields, attachment: Option<Attachment>) -> Origin {
        let endpoint = in_args(root, "name").or_else(|| self.name.clone());
        Origin { attachment, pod: self.pod(), mac: mac(root, self), endpoint, ..Origin::default() }
    }

    /// Returns the pod, if both its namespace and its name are present.
    fn pod(&self) -> Option<Pod> {
        let named = !self.pod.namespace.is_empty() && !self.pod.name.is_empty();
        named.then(|| self.pod.clone())
    }
}

fn parse_bool(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

/// Returns the requested addresses, in their order of precedence and without duplicates. Prefix lengths are
/// ignored.
pub(super) fn wanted(root: &Fields, args: &Args) -> Result<Vec<Requested>, ConfigError> {
    let mut addrs: Vec<Addr> = args.ip.into_iter().collect();
    let in_args = root.object("args")?.map(|args| args.object("cni"));
    for source in [in_args.transpose()?.flatten(), root.object("runtimeConfig")?] {
        let Some(source) = source else { continue };
        let items = source.list("ips")?;
        ConfigError::bound(&source.path_of("ips"), "addresses", items.len(), MOST_REQUESTED)?;
        for item in items {
            let text = item.text()?;
            let addr = parse_addr(text).ok_or_else(|| {
                ConfigError::invalid(format!(
                    "invalid IP address {text:?}; {} takes an address, with or without a prefix length",
                    item.path()
                ))
                .at(item.path())
            })?;
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
    }
    Ok(addrs.into_iter().map(|addr| Requested { addr, prefix: None }).collect())
}

/// Returns the text of `key` in `args.cni`; `None` if the value is not text. A wrong type is not an error,
/// because the value is only recorded.
fn in_args(root: &Fields, key: &str) -> Option<String> {
    root.object("args").ok()??.object("cni").ok()??.text(key).ok()?.map(str::to_owned)
}

/// Returns the requested MAC address: `runtimeConfig.mac`, else `mac` in `args.cni`, else `MAC` in
/// `CNI_ARGS`. This is the order of precedence in the CNI project's plugins. Returns `None` if the MAC
/// address is invalid, because it is only recorded.
fn mac(root: &Fields, args: &Args) -> Option<String> {
    let capability = root.object("runtimeConfig").ok().flatten();
    let capability = capability.and_then(|c| c.text("mac").ok()?.map(str::to_owned));
    let mac = capability.or_else(|| in_args(root, "mac")).or_else(|| args.mac.clone())?;
    is_mac(&mac).then(|| mac.to_ascii_lowercase().replace('-', ":"))
}

/// Returns whether the text is a MAC address: 6 octets for Ethernet, 8 for EUI-64, 20 for InfiniBand.
fn is_mac(text: &str) -> bool {
    let octets: Vec<&str> = text.split([':', '-']).collect();
    let is_octet = |o: &&str| o.len() == 2 && o.bytes().all(|b| b.is_ascii_hexdigit());
    [6, 8, 20].contains(&octets.len()) && octets.iter().all(is_octet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Args::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn go_s_messages() {
        assert!(error("a").starts_with("ARGS: invalid pair \"a\""));
        assert!(error("IP=10.1.2.3;").starts_with("ARGS: invalid pair \"\""));
        assert!(error("IP=1=2").starts_with("ARGS: invalid pair \"IP=1=2\""));
        assert_eq!(
            error("IP=zzz"),
            "ARGS: error parsing value of pair \"IP=zzz\": invalid IP address zzz"
        );
        assert!(
            error("ip=10.1.2.3;FOO=x")
                .starts_with("ARGS: unknown args [\"ip=10.1.2.3\" \"FOO=x\"]")
        );
        assert!(error("IgnoreUnknown=yes").contains("boolean unmarshal error: invalid input yes"));
        assert!(error("FOO=x;IgnoreUnknown=0").starts_with("ARGS: unknown args"));
    }

    #[test]
    fn the_mac_is_the_nearest_that_is_one() {
        let found = |json: &str, args: &str| {
            let Ok(super::super::json::Json::Object(pairs)) =
                super::super::json::Json::parse(json.as_bytes())
            else {
                panic!("an object")
            };
            mac(&Fields::root(&pairs), &Args::parse_leniently(args))
        };
        let both = r#"{"args":{"cni":{"mac":"02:00:00:00:00:0B"}},"runtimeConfig":{"mac":"0a-00-00-00-00-0c"}}"#;
        assert_eq!(found(both, "MAC=02:00:00:00:00:0a").unwrap(), "0a:00:00:00:00:0c");
        let args = r#"{"args":{"cni":{"mac":"02:00:00:00:00:0B"}}}"#;
        assert_eq!(found(args, "MAC=02:00:00:00:00:0a").unwrap(), "02:00:00:00:00:0b");
        assert_eq!(found("{}", "MAC=02:00:00:00:00:0a").unwrap(), "02:00:00:00:00:0a");
        for bad in ["x", "02:00", "02:00:00:00:00:0g", "02:00:00:00:00:000", ""] {
            assert_eq!(found("{}", &format!("MAC={bad}")), None, "{bad}");
        }
        assert_eq!(found(r#"{"runtimeConfig":{"mac":7},"args":[]}"#, ""), None);
    }

    #[test]
    fn a_container_has_the_nearest_name() {
        let named = |json: &str, args: &str| {
            let Ok(super::super::json::Json::Object(pairs)) =
                super::super::json::Json::parse(json.as_bytes())
            else {
                panic!("an object")
            };
            Args::parse(args).unwrap().origin(&Fields::root(&pairs), None).endpoint
        };
        let conf = r#"{"args":{"cni":{"name":"db"}}}"#;
        assert_eq!(named(conf, "NAME=web").as_deref(), Some("db"));
        assert_eq!(named("{}", "NAME=web").as_deref(), Some("web"));
        assert_eq!(named(r#"{"args":{"cni":{"name":7}}}"#, "NAME="), None);
    }

    #[test]
    fn kubernetes_names_the_pod() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;\
                    K8S_POD_INFRA_CONTAINER_ID=abc;K8S_POD_UID=u1;OTHER=x;MAC=02:00:00:00:00:01";
        let args = Args::parse(text).unwrap();
        assert_eq!(args.pod().unwrap().name, "web-0");
        assert_eq!(args.mac.as_deref(), Some("02:00:00:00:00:01"));
        assert_eq!(Args::parse("K8S_POD_NAME=web-0").unwrap().pod(), None);
        assert_eq!(Args::parse("").unwrap(), Args::default());
        assert_eq!(Args::parse_leniently("x;=;;K8S_POD_NAME=a;K8S_POD_NAMESPACE=b;IP=x").ip, None);
        assert!(Args::parse_leniently("x;K8S_POD_NAME=a;K8S_POD_NAMESPACE=b=c").pod().is_some());
    }
}
