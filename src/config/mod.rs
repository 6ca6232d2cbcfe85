//! Network configurations: bytes in, [`Config`] out.
//!
//! Owns: JSON as Go reads it, the dialects, the precedence of requested addresses, every message
//! about a configuration. Does not own: which CNI versions exist, what a lease is stored as.
//! Invariant: a [`Config`] is valid as a whole; what is only wrong for an ADD never stops a DEL.

mod args;
mod cidr;
mod cluster;
pub mod define;
mod dialect;
mod dns;
pub mod duration;
mod error;
mod fields;
mod json;
mod keys;
pub mod lint;
mod locate;
mod locations;
mod netconf;
mod runtime;

use std::path::PathBuf;

pub use cluster::store;
pub use duration::positive as duration;
pub use error::{ConfigError, Warning};
use fields::Fields;
pub use locate::Position;
pub use netconf::Netconf;

use crate::alloc::{Cooldown, OnDuplicate, Requested, Strategy};
use crate::model::{ContainerId, IfName, NetworkName, Origin, Owner, SetName, StoreSpec};
use crate::net::{Addr, RangeSet, Subnet};

/// The specification's versions that a configuration may name, oldest first; `cni::CniVersion` has one
/// variant for each, in this order.
pub const VERSIONS: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Which program's configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Ours, which is host-local's and more.
    Native,
    /// amazon-ecs-cni-plugins' ecs-ipam: `ipv4-subnet` and its kin.
    Ecs,
    /// cni-ipam-consul: `consul_addr`, `consul_port`, `dc`.
    Consul,
}

/// What comes with a configuration from outside of it.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `CNI_CONTAINERID`.
    pub container: Option<ContainerId>,
    /// `CNI_IFNAME`.
    pub ifname: Option<IfName>,
    /// `CNI_ARGS` as it was passed; empty if unset.
    pub args: String,
    /// `IPAM_DB_PATH`.
    pub db_path: Option<String>,
    /// `IPAM_DB_CONNECTION_TIMEOUT`.
    pub db_timeout: Option<String>,
    /// `ECS_CNI_LOG_FILE`.
    pub log_file: Option<String>,
    /// `ECS_CNI_LOGLEVEL`.
    pub log_level: Option<String>,
    /// The configuration's version knows only one address per family (before 0.3.0).
    pub one_per_family: bool,
}

/// A whole, valid configuration: what ADD, CHECK and STATUS need.
#[derive(Clone, Debug)]
pub struct Config {
    /// Whose it is.
    pub dialect: Dialect,
    /// The network's name; `ecs` in the ECS dialect.
    pub network: NetworkName,
    /// The set of leases to draw from.
    pub set: SetName,
    /// For whom: `None` only where no container is named (STATUS, GC).
    pub owner: Option<Owner>,
    /// One address is leased from each.
    pub sets: Vec<RangeSet>,
    /// Addresses asked for, in order of precedence.
    pub wanted: Vec<Requested>,
    /// Which free address to take.
    pub strategy: Strategy,
    /// How long a freed address is kept back.
    pub cooldown: Cooldown,
    /// A pod gets its former address.
    pub sticky: bool,
    /// What a repeated ADD gets.
    pub on_duplicate: OnDuplicate,
    /// Gateways are recorded as leases (ECS).
    pub claim_gateways: bool,
    /// Attachment, pod and MAC; the face adds the network namespace.
    pub origin: Origin,
    /// What the network is, where the cluster is to keep that: its ranges, routes and name resolution.
    pub define: Option<String>,
    /// Answered with the addresses.
    pub routes: Vec<Route>,
    /// Answered with the addresses.
    pub dns: Dns,
    /// Where the leases are.
    pub store: StoreSpec,
    /// host-local's folder of this network, which the first ADD takes over.
    pub legacy_dir: Option<PathBuf>,
    /// Where to write the log, besides standard error.
    pub log: Log,
    /// What an operator should know: unknown keys that are close to known ones, a gateway outside
    /// its subnet.
    pub warnings: Vec<Warning>,
}

/// What a DEL or GC needs. There is always one, whatever the configuration looks like.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// Whose it is.
    pub dialect: Dialect,
    /// The network's name; `ecs` in the ECS dialect.
    pub network: NetworkName,
    /// The set of leases.
    pub set: SetName,
    /// The owner to free; `None` where nothing names one.
    pub owner: Option<Owner>,
    /// Addresses named by the configuration (ECS).
    pub addrs: Vec<Addr>,
    /// Move the cursor to what was freed (ECS).
    pub rewind: bool,
    /// Where the leases are.
    pub store: StoreSpec,
    /// host-local's folder of this network.
    pub legacy_dir: Option<PathBuf>,
    /// Where to write the log.
    pub log: Log,
}

/// A route, answered as it was configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Destination as it is answered: CIDR notation, host bits kept where the original keeps them.
    pub dst: String,
    /// Its family and prefix.
    pub net: Option<Subnet>,
    /// Next hop.
    pub gw: Option<Addr>,
    /// Path MTU in bytes.
    pub mtu: Option<i64>,
    /// Advertised MSS in bytes.
    pub advmss: Option<i64>,
    /// Metric.
    pub priority: Option<i64>,
    /// Routing table.
    pub table: Option<i64>,
    /// Scope, as in `ip route`.
    pub scope: Option<i64>,
}

/// Name resolution, answered as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers.
    pub nameservers: Vec<String>,
    /// Local domain.
    pub domain: Option<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// Where log lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// A file to append to, besides standard error.
    pub file: Option<PathBuf>,
    /// The lowest level that is written.
    pub level: Level,
    /// How lines are written.
    pub format: LogFormat,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl LogFormat {
    /// The format of a word.
    pub fn named(word: &str) -> Option<LogFormat> {
        match word.trim().to_ascii_lowercase().as_str() {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        }
    }
}

/// Weight of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything.
    Debug,
    /// Each lease given and freed.
    #[default]
    Info,
    /// What an operator should look at.
    Warn,
    /// Failures.
    Error,
    /// Nothing.
    Off,
}

/// The value of `name` where it is one of a few words; absent is the default.
fn choice<T: Copy + Default>(
    fields: &Fields,
    name: &str,
    words: &[(&str, T)],
) -> Result<T, ConfigError> {
    let Some(text) = fields.text(name)? else {
        return Ok(T::default());
    };
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        ConfigError::invalid(format!(
            "{}.{name} is {}; it takes one of {}",
            fields.path(),
            json::quote(text),
            words.join(", ")
        ))
        .at(fields.path_of(name))
    })
}
