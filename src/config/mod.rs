//! Network configurations: reads bytes and returns a [`Config`].
//!
//! Contains JSON as Go reads it, the dialects, the precedence of requested addresses, and every message
//! about a configuration.
//! Invariant: a [`Config`] is completely valid. An error that concerns only an ADD never stops a DEL.

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
use crate::model::{SetName, StoreSpec, words};
use crate::net::{Addr, RangeSet, Subnet};

/// The program whose configuration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// sublet's, a superset of host-local's.
    Native,
    /// ecs-ipam of amazon-ecs-cni-plugins: `ipv4-subnet` and related keys.
    Ecs,
    /// cni-ipam-consul: `consul_addr`, `consul_port`, `dc`.
    Consul,
}

/// Inputs from outside the configuration.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// `CNI_CONTAINERID`.
    pub container: Option<ContainerId>,
    /// `CNI_IFNAME`.
    pub ifname: Option<IfName>,
    /// `CNI_ARGS` as passed; empty if unset.
    pub args: String,
    /// `IPAM_DB_PATH`.
    pub db_path: Option<String>,
    /// `IPAM_DB_CONNECTION_TIMEOUT`.
    pub db_timeout: Option<String>,
    /// `ECS_CNI_LOG_FILE`.
    pub log_file: Option<String>,
    /// `ECS_CNI_LOGLEVEL`.
    pub log_level: Option<String>,
    /// Whether the configuration's version allows only one address per family (before 0.3.0).
    pub one_per_family: bool,
}

/// A complete, valid configuration: what ADD, CHECK and STATUS need.
#[derive(Clone, Debug)]
pub struct Config {
    /// The owner, the location of the leases, and what a DEL of the same configuration frees.
    pub cleanup: Cleanup,
    /// The range sets. One address is leased from each.
    pub sets: Vec<RangeSet>,
    /// Requested addresses, in order of precedence.
    pub wanted: Vec<Requested>,
    /// The strategy by which a free address is chosen.
    pub strategy: Strategy,
    /// The cooldown of freed addresses.
    pub cooldown: Cooldown,
    /// Whether a pod gets its former address.
    pub sticky: bool,
    /// The result of a repeated ADD.
    pub on_duplicate: OnDuplicate,
    /// Whether STATUS fails if a range is full, instead of warning.
    pub status_fails_when_full: bool,
    /// Whether gateways are recorded as leases (ECS).
    pub claim_gateways: bool,
    /// Attachment, pod and MAC; the face adds the network namespace.
    pub origin: Origin,
    /// The network's definition, if the cluster stores it: ranges, routes and name resolution.
    pub define: Option<String>,
    /// Routes, returned with the addresses.
    pub routes: Vec<Route>,
    /// Name resolution, returned with the addresses.
    pub dns: Dns,
    /// Warnings for the operator: probable typos in keys, a gateway outside its subnet.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Returns the ADD of this configuration for `owner`. `routes` and `dns` stay in the configuration.
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
            // cni-ipam-consul's leases are in the same store.
            legacy: match self.cleanup.dialect {
                Dialect::Consul => Legacy::Unread,
                _ => Legacy::Absent,
            },
            define,
        }
    }
}

/// What a DEL or GC needs. It exists for every configuration.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// The dialect.
    pub dialect: Dialect,
    /// The network's name; `ecs` in the ECS dialect.
    pub network: NetworkName,
    /// The set of leases.
    pub set: SetName,
    /// The owner to lease for or to free; `None` if the request names no owner (STATUS, GC).
    pub owner: Option<Owner>,
    /// Addresses in the configuration (ECS).
    pub addrs: Vec<Addr>,
    /// Whether the cursor moves to the freed address (ECS).
    pub rewind: bool,
    /// The store.
    pub store: StoreSpec,
    /// host-local's folder of this network, which the first ADD imports.
    pub legacy_dir: Option<PathBuf>,
    /// Where to write the log.
    pub log: Log,
}

/// A route, returned as configured.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Destination in CIDR notation. Host bits are kept if the replaced plugin keeps them.
    pub dst: String,
    /// The family and prefix of the destination.
    #[serde(skip)]
    pub net: Option<Subnet>,
    /// Next hop.
    pub gw: Option<String>,
    /// Path MTU in bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub mtu: Option<i64>,
    /// Advertised MSS in bytes.
    #[serde(skip_serializing_if = "is_unset")]
    pub advmss: Option<i64>,
    /// Metric.
    #[serde(skip_serializing_if = "is_unset")]
    pub priority: Option<i64>,
    /// Routing table; 0 is a valid table.
    pub table: Option<i64>,
    /// Scope, as in `ip route`; 0 is a valid scope.
    pub scope: Option<i64>,
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde passes a field so")]
fn is_unset(number: &Option<i64>) -> bool {
    matches!(number, None | Some(0))
}

/// Name resolution, returned as configured.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// Local domain; not empty.
    pub domain: Option<String>,
    /// Search list.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// The settings of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// A file to append to, in addition to standard error.
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
    /// The level of a log line.
    #[derive(Default)]
    pub enum Level {
        /// Everything.
        Debug = "debug",
        /// Each allocation and release.
        #[default]
        Info = "info",
        /// Warnings for the operator.
        Warn = "warning",
        /// Failures.
        Error = "error",
        /// Nothing.
        Off = "off",
    }
}

words! {
    /// A version of the CNI specification.
    pub enum CniVersion {
        /// ADD and DEL, one address per family.
        V0_1_0 = "0.1.0",
        /// VERSION.
        V0_2_0 = "0.2.0",
        /// Many addresses, chaining.
        V0_3_0 = "0.3.0",
        /// A corrected 0.3.0.
        V0_3_1 = "0.3.1",
        /// CHECK.
        V0_4_0 = "0.4.0",
        /// No `version` beside an address.
        V1_0_0 = "1.0.0",
        /// GC and STATUS.
        V1_1_0 = "1.1.0",
    }
}

impl CniVersion {
    /// The newest version. It is used for results if no configuration names a version.
    pub const NEWEST: CniVersion = CniVersion::V1_1_0;

    /// The version with exactly this text; empty text means 0.1.0.
    pub fn find(text: &str) -> Option<CniVersion> {
        if text.is_empty() { Some(CniVersion::V0_1_0) } else { CniVersion::from_word(text) }
    }

    /// The texts of all versions, oldest first.
    pub fn texts() -> Vec<&'static str> {
        CniVersion::ALL.iter().map(|version| version.word()).collect()
    }

    /// Whether a result holds at most one address of each family.
    pub fn one_per_family(self) -> bool {
        self < CniVersion::V0_3_0
    }
}

impl LogFormat {
    /// The format with this name, in any case.
    pub fn named(word: &str) -> Option<LogFormat> {
        LogFormat::from_word(&word.trim().to_ascii_lowercase())
    }
}

/// The value of `name`, which must be one of a few words; the default if absent.
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
        fields.bad_text(name, text, &format!("it takes one of {}", words.join(", ")))
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
