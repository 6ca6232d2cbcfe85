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
    /// Whose it is, where the leases are, and what a DEL of the same configuration frees.
    pub cleanup: Cleanup,
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
    /// STATUS fails if a range is full, and does not only warn.
    pub status_fails_when_full: bool,
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
    /// What an operator should know: unknown keys that are close to known ones, a gateway outside
    /// its subnet.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Returns the ADD of this configuration for `owner`. `routes` and `dns` stay.
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

/// What a DEL or GC needs. There is always one, whatever the configuration looks like.
#[derive(Clone, Debug)]
pub struct Cleanup {
    /// Whose it is.
    pub dialect: Dialect,
    /// The network's name; `ecs` in the ECS dialect.
    pub network: NetworkName,
    /// The set of leases.
    pub set: SetName,
    /// The owner to lease for or to free; `None` where nothing names one (STATUS, GC).
    pub owner: Option<Owner>,
    /// Addresses named by the configuration (ECS).
    pub addrs: Vec<Addr>,
    /// Move the cursor to what was freed (ECS).
    pub rewind: bool,
    /// Where the leases are.
    pub store: StoreSpec,
    /// host-local's folder of this network, which the first ADD takes over.
    pub legacy_dir: Option<PathBuf>,
    /// Where to write the log.
    pub log: Log,
}

/// A route, as it is answered: as it was configured.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Destination in CIDR notation, host bits kept where the original keeps them.
    pub dst: String,
    /// Its family and prefix.
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
    /// Routing table; 0 is one.
    pub table: Option<i64>,
    /// Scope, as in `ip route`; 0 is one.
    pub scope: Option<i64>,
}

#[allow(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "serde passes a field so")]
fn is_unset(number: &Option<i64>) -> bool {
    matches!(number, None | Some(0))
}

/// Name resolution, as it is answered: as configured.
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

words! {
    /// How a log line is written.
    #[derive(Default)]
    pub enum LogFormat {
        /// For a person.
        #[default]
        Text = "text",
        /// One JSON object.
        Json = "json",
    }
}

words! {
    /// Weight of a log line.
    #[derive(Default)]
    pub enum Level {
        /// Everything.
        Debug = "debug",
        /// Each lease given and freed.
        #[default]
        Info = "info",
        /// What an operator should look at.
        Warn = "warning",
        /// Failures.
        Error = "error",
        /// Nothing.
        Off = "off",
    }
}

words! {
    /// A version of the specification.
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
    /// The newest: what we answer with where no configuration says another.
    pub const NEWEST: CniVersion = CniVersion::V1_1_0;

    /// The version with exactly this text; none at all means 0.1.0.
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
    /// The format of a word, in any case.
    pub fn named(word: &str) -> Option<LogFormat> {
        LogFormat::from_word(&word.trim().to_ascii_lowercase())
    }
}

/// The value of `name` where it is one of a few words; absent is the default.
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
