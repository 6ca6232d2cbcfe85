//! The dialects: one file for each program whose configurations are read, and the table from which a
//! configuration's dialect is detected.
//!
//! Invariant: a DEL gets its [`Cleanup`] whatever `ipam` looks like.

mod consul;
mod ecs;
mod host_local;
mod native;

use super::error::ConfigError;
use super::netconf::{DialectRules, Netconf};
use super::{Cleanup, Config, Dialect, Inputs};
use crate::model::NetworkName;

/// The first that claims a configuration reads it; the last claims all. Consul's is before the one
/// that leases from a file of this node.
const DIALECTS: [DialectRules; 3] = [consul::RULES, ecs::RULES, native::RULES];

impl Netconf {
    /// The dialect, detected from the keys inside `ipam`.
    pub fn dialect(&self) -> Dialect {
        self.rules().dialect
    }

    /// The network's name. The ECS dialect has one network, `ecs`; in the Consul dialect an absent
    /// name is `default`.
    pub fn name(&self) -> Result<NetworkName, ConfigError> {
        (self.rules().name)(self.name.as_deref())
    }

    /// Whether it is an ECS configuration that names its owner by `id`.
    pub fn has_id(&self) -> bool {
        self.dialect() == Dialect::Ecs && matches!(ecs::id(&self.ipam_or_empty()), Ok(Some(_)))
    }

    /// The whole configuration, for ADD, CHECK and STATUS.
    pub fn config(&self, inputs: &Inputs) -> Result<Config, ConfigError> {
        (self.rules().config)(self, inputs)
    }

    /// What a DEL or GC needs.
    pub fn cleanup(&self, inputs: &Inputs) -> Cleanup {
        (self.rules().cleanup)(self, inputs)
    }

    /// What a DEL needs where nothing tells the dialect: what each would free.
    pub fn cleanups(&self, inputs: &Inputs) -> Vec<Cleanup> {
        if self.is_bare() {
            [&native::RULES, &ecs::RULES].map(|rules| (rules.cleanup)(self, inputs)).into()
        } else {
            vec![self.cleanup(inputs)]
        }
    }

    fn rules(&self) -> &'static DialectRules {
        let ipam = self.ipam_or_empty();
        DIALECTS.iter().find(|rules| (rules.claims)(&ipam)).unwrap_or(&native::RULES)
    }
}
