//! Maps errors to the error codes of the CNI specification.
//!
//! This module selects the code and makes the `details`. The message is the text of the error itself.
//! Invariant: the code alone tells a runtime what to do. For example, a full range never has the same code as
//! an unavailable store, because only the store may be available again soon.

use serde::Serialize;
use serde_with::skip_serializing_none;

use super::env::EnvError;
use crate::config::ConfigError;
use crate::error::{Error, Refusal, StoreError};
use crate::model::NetworkName;
use crate::net::Addr;

/// The configuration's CNI version is not supported, or does not have the command.
pub const INCOMPATIBLE_VERSION: u32 = 1;
/// An environment variable is missing or malformed.
pub const ENVIRONMENT: u32 = 4;
/// Reading standard input or writing standard output failed.
pub const IO: u32 = 5;
/// Standard input is not a valid JSON configuration.
pub const DECODING: u32 = 6;
/// The configuration is not valid.
pub const CONFIGURATION: u32 = 7;
/// `CNI_NETNS` is not the container's network namespace.
pub const NETNS: u32 = 8;
/// The call failed, but the same call may succeed later. Its changes may have been applied only if the message
/// says so.
pub const TRY_AGAIN: u32 = 11;
/// STATUS: an ADD would fail.
pub const NOT_AVAILABLE: u32 = 50;
/// ADD: the range is full.
pub const EXHAUSTED: u32 = 100;
/// Another container has leased the address, or this container has leased a different address.
pub const HELD: u32 = 101;
/// The requested address cannot be leased.
pub const NOT_IN_RANGE: u32 = 102;
/// CHECK: the lease is missing or different.
pub const NOT_AS_ADDED: u32 = 103;
/// The store is damaged, or was written by another program.
pub const DAMAGED: u32 = 104;
/// A bug in sublet.
pub const INTERNAL: u32 = 999;

/// An error, in the form that a runtime receives.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The error code.
    pub code: u32,
    /// The text for an operator: what failed, and what to do.
    pub msg: String,
    /// Details: a JSON object for errors about leases, text for other errors.
    pub details: Option<String>,
}

impl Failure {
    /// Makes a failure without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Failure {
        Failure { code, msg: msg.into(), details: None }
    }

    /// Adds details, unless they are empty.
    #[must_use]
    pub fn details(mut self, details: impl Into<String>) -> Failure {
        self.details = Some(details.into()).filter(|d| !d.is_empty());
        self
    }

    /// Returns the failure for an error. `network` is the network in the configuration.
    pub fn of(error: &Error, network: &NetworkName) -> Failure {
        let code = match error {
            Error::Refused(refusal) => refusal_code(refusal),
            Error::Store(error) => store_code(error),
        };
        let details = Details::new(error, network);
        Failure::new(code, error.to_string())
            .details(serde_json::to_string(&details).unwrap_or_default())
    }

    /// Converts the failure for STATUS, which uses its own code (`NOT_AVAILABLE`) if an ADD would fail now.
    #[must_use]
    pub fn for_status(mut self) -> Failure {
        if matches!(self.code, EXHAUSTED | TRY_AGAIN) {
            self.code = NOT_AVAILABLE;
        }
        self
    }
}

impl From<EnvError> for Failure {
    fn from(error: EnvError) -> Failure {
        Failure::new(ENVIRONMENT, error.to_string()).details(error.details().unwrap_or_default())
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        let code = if error.is_decode() { DECODING } else { CONFIGURATION };
        Failure::new(code, error.to_string()).details(error.details().unwrap_or_default())
    }
}

fn refusal_code(refusal: &Refusal) -> u32 {
    match refusal {
        Refusal::Exhausted { .. } => EXHAUSTED,
        Refusal::Held { .. }
        | Refusal::Predecessor { .. }
        | Refusal::Duplicate { .. }
        | Refusal::Misfit { .. }
        | Refusal::NowGateway { .. }
        | Refusal::GatewayHeld { .. }
        | Refusal::Clash { .. }
        | Refusal::Cooling { .. }
        | Refusal::Draining { .. } => HELD,
        Refusal::NotInRange { .. } | Refusal::IsGateway { .. } | Refusal::Excluded { .. } => {
            NOT_IN_RANGE
        }
        Refusal::Missing { .. } | Refusal::Lost { .. } | Refusal::Different { .. } => NOT_AS_ADDED,
        Refusal::Takeover { .. }
        | Refusal::OldKeys { .. }
        | Refusal::NotImported { .. }
        | Refusal::Redefined { .. } => TRY_AGAIN,
        // Only Docker requests pools, so no CNI command gets this refusal.
        Refusal::Pool(_) => NOT_IN_RANGE,
    }
}

fn store_code(error: &StoreError) -> u32 {
    match error {
        StoreError::Locked { .. }
        | StoreError::Unavailable { .. }
        | StoreError::Unanswered { .. } => TRY_AGAIN,
        StoreError::Damaged { .. }
        | StoreError::BadRecord { .. }
        | StoreError::Foreign { .. }
        | StoreError::OtherVersion { .. } => DAMAGED,
        StoreError::SharedFolder { .. }
        | StoreError::Claimed { .. }
        | StoreError::Unreadable { .. } => CONFIGURATION,
    }
}

/// The JSON object in `details`, which contains the facts of the message in a form for programs.
#[skip_serializing_none]
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    network: String,
    range_set: Option<String>,
    address: Option<String>,
    holder: Option<String>,
}

impl Details {
    fn new(error: &Error, network: &NetworkName) -> Details {
        let (mut ranges, mut address, mut holder) = (None, None, None);
        match error {
            Error::Refused(refusal) => {
                (ranges, address) = match refusal {
                    Refusal::Exhausted { ranges, .. } | Refusal::Held { ranges, .. } => {
                        (Some(ranges), None)
                    }
                    Refusal::NotInRange { ranges, addrs } => (Some(ranges), addrs.first()),
                    Refusal::Cooling { addr, .. }
                    | Refusal::Draining { addr, .. }
                    | Refusal::Lost { addr, .. }
                    | Refusal::Excluded { addr, .. }
                    | Refusal::IsGateway { addr, .. } => (None, Some(addr)),
                    _ => (None, None),
                };
                if let Some(lease) = refusal.lease() {
                    (address, holder) = (Some(&lease.addr), Some(lease.owner.to_string()));
                }
            }
            Error::Store(StoreError::Locked { holders, .. }) if !holders.is_empty() => {
                let pids: Vec<String> = holders.iter().map(ToString::to_string).collect();
                holder = Some(format!("process {}", pids.join(", ")));
            }
            Error::Store(_) => {}
        }
        Details {
            network: network.to_string(),
            range_set: ranges.cloned(),
            address: address.map(Addr::to_string),
            holder,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;

    fn of(error: impl Into<Error>) -> Failure {
        Failure::of(&error.into(), &NetworkName::new("net").unwrap())
    }

    fn refused(refusal: Refusal) -> Failure {
        of(Error::Refused(refusal))
    }

    fn exhausted() -> Failure {
        let network = NetworkName::new("net").unwrap();
        let ranges = "10.0.0.1-10.0.0.6".to_owned();
        refused(Refusal::Exhausted { index: 0, network, ranges, cooling: false, draining: false })
    }

    fn locked() -> Failure {
        of(StoreError::Locked {
            path: "/s.lock".into(),
            waited: Duration::from_secs(5),
            holders: vec![7],
        })
    }

    #[test]
    fn details_are_an_object_in_a_string() {
        assert_eq!(
            exhausted().details.as_deref(),
            Some(r#"{"network":"net","rangeSet":"10.0.0.1-10.0.0.6"}"#)
        );
        assert_eq!(locked().details.as_deref(), Some(r#"{"network":"net","holder":"process 7"}"#));
        let gateway = refused(Refusal::IsGateway { index: 0, addr: "10.0.0.1".parse().unwrap() });
        assert_eq!(gateway.details.as_deref(), Some(r#"{"network":"net","address":"10.0.0.1"}"#));
    }

    #[test]
    fn a_decision_and_an_accident_have_codes_of_their_own() {
        assert_eq!(exhausted().code, 100);
        assert_eq!(locked().code, 11);
        let path = PathBuf::from("/s");
        let what = String::from("torn");
        assert_eq!(of(StoreError::Damaged { path, what }).code, 104);
        assert_eq!(of(StoreError::Unreadable { why: String::new() }).code, 7);
        let full = StoreError::io("write", "/s".as_ref(), std::io::ErrorKind::StorageFull.into());
        assert_eq!(of(full).code, 11);
        let why = String::from("x");
        let network = NetworkName::new("net").unwrap();
        assert_eq!(refused(Refusal::Takeover { network, why }).code, 11);
    }

    #[test]
    fn status_tells_what_is_not_available() {
        assert_eq!(exhausted().for_status().code, 50);
        assert_eq!(locked().for_status().code, 50);
        assert_eq!(Failure::new(DAMAGED, "").for_status().code, DAMAGED);
    }
}
