//! Parses network configurations: converts bytes to a [`Config`].
//!
//! This module parses JSON as Go does, and implements the dialects and the precedence of requested addresses.
//! All messages about a configuration come from here.
//! Invariant: a [`Config`] is completely valid. A DEL never fails because of an error that only matters for
//! an ADD.

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
mod statics;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_with::skip_serializing_none;

pub use cluster::store;
pub use duration::positive as duration;
pub use error::{ConfigError, Warning};
use fields::Fields;
pub use locate::Position;
pub use locations::HOST_LOCAL_DIR;
pub use netconf::Netconf;

use crate::alloc::{Add, Cooldown, DefineNetwork, Legacy, OnDuplicate, Requested, Strategy};
use crate::model::{ContainerId, IfName, Netns, NetworkName, Origin, Owner};
use crate::model::{SetName, StaticName, StoreSpec, words};
use crate::net::{Addr, RangeSet, Subnet};

/// The program for which a configuration was written. It determines the configuration's keys and rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// sublet. Its keys include host-local's keys.
    Native,
    /// ecs-ipam of amazon-ecs-cni-plugins: `ipv4-subnet` and related keys.
    Ecs,
    /// cni-ipam-consul: `consul_addr`, `consul_port`, `dc`.
    Consul,
}

/// Inputs that are not part of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The container ID (`CNI_CONTAINERID`).
    pub container: Option<ContainerId>,
    /// The interface name (`CNI_IFNAME`).
    pub ifname: Option<IfName>,
    /// `CNI_ARGS` as passed; empty if unset.
    pub args: String,
    /// The value of `IPAM_DB_PATH`: the path of the lease file.
    pub db_path: Option<String>,
    /// The value of `IPAM_DB_CONNECTION_TIMEOUT`: how long to wait for the lock of the lease file.
    pub db_timeout: Option<String>,
    /// The value of `ECS_CNI_LOG_FILE`.
    pub log_file: Option<String>,
    /// The value of `ECS_CNI_LOGLEVEL`.
    pub log_level: Option<String>,
    /// Whether the configuration's CNI version (before 0.3.0) allows only one address per family.
    pub one_per_family: bool,
}

/// A complete and valid configuration. ADD, CHECK and STATUS require one; DEL and GC need only a [`Cleanup`].
#[derive(Clone, Debug)]
pub struct Config {
    /// The owner, the location of the leases, and what a DEL with the same configuration frees.
    pub cleanup: Cleanup,
    /// The range sets. An ADD leases one address from each range set.
    pub sets: Vec<RangeSet>,
    /// The requested addresses, in the order of their precedence.
    pub wanted: Vec<Requested>,
    /// How a free address is chosen.
    pub strategy: Strategy,
    /// How long a freed address cools down.
    pub cooldown: Cooldown,
    /// Whether a pod gets its former address, if that address is free.
    pub sticky: bool,
    /// The addresses that the key `static` assigns to the container's name. No other container gets them,
    /// because [`Config::sets`] excludes all addresses in `static`.
    pub statics: Vec<Addr>,
    /// All addresses in the key `static`, each with the name to which it is assigned.
    pub assigned: BTreeMap<Addr, StaticName>,
    /// What an ADD does if the container already has a lease.
    pub on_duplicate: OnDuplicate,
    /// Whether STATUS fails if a range is full. If not, STATUS only warns.
    pub status_fails_when_full: bool,
    /// Whether gateways are recorded as leased (ECS).
    pub claim_gateways: bool,
    /// The attachment, the pod and the MAC address. The caller adds the network namespace.
    pub origin: Origin,
    /// The definition of the network (ranges, routes and name resolution), if the cluster stores it.
    pub define: Option<String>,
    /// The routes that are returned with the addresses.
    pub routes: Vec<Route>,
    /// The name resolution to return with the addresses.
    pub dns: Dns,
    /// Warnings for the operator, for example about a misspelled key or a gateway outside its subnet.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Makes the ADD command for `owner` by moving values out of this configuration. `routes` and `dns`
    /// remain, because the caller needs them for the result.
    pub fn take_add(
        &mut self,
        owner: Owner,
        netns: Option<Netns>,
        define: Option<DefineNetwork>,
    ) -> Add {
        Add {
            set: self.cleanup.set.clone(),
            network: self.cleanup.network.clone(),
            owner,
            sets: std::mem::take(&mut self.sets),
            requested: std::mem::take(&mut self.wanted),
            strategy: self.strategy,
            cooldown: self.cooldown,
            sticky: self.sticky,
            on_duplicate: self.on_duplicate,
            claim_gateways: self.claim_gateways,
            origin: Origin { netns, ..std::mem::take(&mut self.origin) },
            statics: std::mem::take(&mut self.statics),
            gone: Vec::new(),
            // cni-ipam-consul stored its leases in the same Consul cluster, and they may not have been
            // imported yet.
            legacy: match self.cleanup.dialect {
                Dialect::Consul => Legacy::Unread,
                _ => Legacy::Absent,
            },
            define,
        }
    }
}

/// The values that a DEL or GC needs. They can be determined even from an invalid configuration.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// The dialect of the configuration.
    pub dialect: Dialect,
    /// The network's name; `ecs` in the ECS dialect.
    pub network: NetworkName,
    /// The set of leases of the network.
    pub set: SetName,
    /// The owner of the leases; `None` if the call names no owner (STATUS, GC).
    pub owner: Option<Owner>,
    /// The addresses in the keys `ipv4-address` and `ipv6-address` (ECS dialect), which a DEL frees.
    pub addrs: Vec<Addr>,
    /// Whether a DEL moves the cursor back to the freed address (ECS dialect).
    pub rewind: bool,
    /// The store that contains the leases.
    pub store: StoreSpec,
    /// host-local's folder for this network. The first ADD imports its leases. `None` if the dialect or the
    /// store never imports from host-local.
    pub legacy_dir: Option<PathBuf>,
    /// The settings of the log.
    pub log: Log,
}

/// A route. An ADD returns it exactly as written in the configuration.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The destination in CIDR notation. Its host bits are kept if the original plugin of the dialect keeps
    /// them.
    pub dst: String,
    /// The destination as a prefix without host bits.
    #[serde(skip)]
    pub net: Option<Subnet>,
    /// The address of the next hop.
    pub gw: Option<String>,
    /// The path MTU, in bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub mtu: Option<i64>,
    /// The advertised MSS, in bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub advmss: Option<i64>,
    /// The metric.
    #[serde(skip_serializing_if = "is_unset")]
    pub priority: Option<i64>,
    /// The routing table; 0 is a valid table.
    pub table: Option<i64>,
    /// The scope, as in `ip route`; 0 is a valid scope.
    pub scope: Option<i64>,
}

#[allow(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes fields by reference"
)]
fn is_unset(number: &Option<i64>) -> bool {
    matches!(number, None | Some(0))
}

/// The name resolution. An ADD returns it exactly as written in the configuration.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// The name servers to use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain; never empty.
    pub domain: Option<String>,
    /// The search list for names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// The options for the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// The settings of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// A file to append to. Warnings and errors also go to standard error.
    pub file: Option<PathBuf>,
    /// The lowest level that is written.
    pub level: Level,
    /// The format of the lines.
    pub format: LogFormat,
}

words! {
    /// The format of a log line.
    #[derive(Default)]
    pub enum LogFormat {
        /// Text for people.
        #[default]
        Text = "text",
        /// One JSON object.
        Json = "json",
    }
}

words! {
    /// The severity of a log line. As a setting, the lowest severity that is written.
    #[derive(Default)]
    pub enum Level {
        /// Details, such as a successful CHECK.
        Debug = "debug",
        /// An allocation or a release.
        #[default]
        Info = "info",
        /// A warning for the operator.
        Warn = "warning",
        /// A failure.
        Error = "error",
        /// As a setting: nothing is written.
        Off = "off",
    }
}

words! {
    /// A version of the CNI specification.
    pub enum CniVersion {
        /// The first version: ADD and DEL, with one address per family.
        V0_1_0 = "0.1.0",
        /// Adds the command VERSION.
        V0_2_0 = "0.2.0",
        /// Adds several addresses per family, and chaining.
        V0_3_0 = "0.3.0",
        /// Corrects mistakes in 0.3.0.
        V0_3_1 = "0.3.1",
        /// Adds CHECK.
        V0_4_0 = "0.4.0",
        /// Removes the `version` of each address in a result.
        V1_0_0 = "1.0.0",
        /// Adds GC and STATUS.
        V1_1_0 = "1.1.0",
    }
}

impl CniVersion {
    /// The newest version. A result has this version if no configuration names another.
    pub const NEWEST: CniVersion = CniVersion::V1_1_0;

    /// Returns the version with exactly this text; empty text means 0.1.0.
    pub fn find(text: &str) -> Option<CniVersion> {
        if text.is_empty() { Some(CniVersion::V0_1_0) } else { CniVersion::from_word(text) }
    }

    /// Returns the texts of all versions, oldest first.
    pub fn texts() -> Vec<&'static str> {
        CniVersion::ALL.iter().map(|version| version.word()).collect()
    }

    /// Returns whether a result can contain at most one address of each family.
    pub fn one_per_family(self) -> bool {
        self < CniVersion::V0_3_0
    }
}

impl LogFormat {
    /// Returns the format with this name, in upper or lower case.
    pub fn named(word: &str) -> Option<LogFormat> {
        LogFormat::from_word(&word.trim().to_ascii_lowercase())
    }
}

/// Parses the value of `name`, which must be the word for one of the values in `all`. Returns the default if
/// the key is absent.
fn choice<T: Copy + Default>(
    fields: &Fields,
    name: &str,
    all: &[T],
    word: fn(T) -> &'static str,
) -> Result<T, ConfigError> {
    let Some(text) = fields.text(name)? else {
        return Ok(T::default());
    };
    let found = all.iter().find(|value| word(**value).eq_ignore_ascii_case(text));
    found.copied().ok_or_else(|| {
        let words: Vec<&str> = all.iter().map(|value| word(*value)).collect();
        fields.bad_text(name, text, &format!("use one of {}", words.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_matched_exactly() {
        for version in CniVersion::ALL {
            assert_eq!(CniVersion::find(version.word()), Some(*version));
            let name = format!("V{}", version.word().replace('.', "_"));
            assert_eq!(format!("{version:?}"), name);
        }
        assert_eq!(CniVersion::find(""), Some(CniVersion::V0_1_0));
        assert_eq!(CniVersion::find("0.2"), None);
        assert_eq!(CniVersion::find("v1.0.0"), None);
    }

    #[test]
    fn what_a_version_can_do() {
        let single: Vec<_> = CniVersion::ALL.iter().filter(|v| v.one_per_family()).collect();
        assert_eq!(format!("{single:?}"), "[V0_1_0, V0_2_0]");
    }
}
