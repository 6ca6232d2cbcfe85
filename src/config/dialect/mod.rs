//! The dialects, and the detection of a configuration's dialect. Each file implements the dialect of one
//! program.
//!
//! Invariant: every configuration yields a [`Cleanup`] for a DEL, even if `ipam` is invalid.

mod consul;
mod ecs;
mod host_local;
mod native;

use super::error::ConfigError;
use super::netconf::{Netconf, network_name};
use super::{Cleanup, Config, Dialect, Inputs, cluster};
use crate::model::NetworkName;

impl Netconf {
    /// Detects the dialect from the keys inside `ipam`. Consul's keys are checked first: a configuration that
    /// has one of them must never use a lease file of this node.
    pub fn dialect(&self) -> Dialect {
        let ipam = self.ipam_or_empty();
        if cluster::has_consul_keys(&ipam) {
            Dialect::Consul
        } else if ecs::has_own_keys(&ipam) {
            Dialect::Ecs
        } else {
            Dialect::Native
        }
    }

    /// Returns the network's name. The ECS dialect has only one network, `ecs`. In the Consul dialect, the
    /// default name is `default`.
    pub fn name(&self) -> Result<NetworkName, ConfigError> {
        match (self.dialect(), self.name.as_deref().unwrap_or_default()) {
            (Dialect::Ecs, _) => Ok(NetworkName::ecs()),
            (Dialect::Consul, "") => Ok(NetworkName::unnamed()),
            (_, name) => network_name(name),
        }
    }

    /// Returns whether this is an ECS configuration that identifies its owner by `id`.
    pub fn has_id(&self) -> bool {
        self.dialect() == Dialect::Ecs && matches!(self.ipam_or_empty().text("id"), Ok(Some(_)))
    }

    /// Returns the complete configuration, for ADD, CHECK and STATUS.
    pub fn config(&self, inputs: &Inputs) -> Result<Config, ConfigError> {
        match self.dialect() {
            Dialect::Ecs => ecs::config(self, inputs),
            dialect => {
                if dialect == Dialect::Consul {
                    consul::check(&self.ipam()?)?;
                }
                native::config(self, inputs, dialect)
            }
        }
    }

    /// Returns what a DEL or GC needs.
    pub fn cleanup(&self, inputs: &Inputs) -> Cleanup {
        match self.dialect() {
            Dialect::Ecs => ecs::cleanup(self, inputs),
            dialect => native::cleanup(self, inputs, dialect),
        }
    }

    /// Returns what a DEL needs. If the configuration has no settings that show its dialect, returns one
    /// [`Cleanup`] for the native dialect and one for the ECS dialect.
    pub fn cleanups(&self, inputs: &Inputs) -> Vec<Cleanup> {
        if self.is_bare() {
            vec![native::cleanup(self, inputs, Dialect::Native), ecs::cleanup(self, inputs)]
        } else {
            vec![self.cleanup(inputs)]
        }
    }
}
