//! Reads the `CNI_*` variables and returns a typed [`Invocation`].
//!
//! This module defines which variables each command requires, and which values are malformed. It only lists
//! missing variables: whether they are acceptable depends on the configuration, which the caller reads later.
//! Invariant: a malformed value is an error at once. Missing variables are collected in the order of `TABLE`,
//! because the reference implementation lists all of them in one error.

use std::ffi::OsString;

use crate::config::Inputs;
use crate::model::{ContainerId, IfName, NameError};
use crate::sys::host::Env;

/// The command in `CNI_COMMAND`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Lease addresses.
    Add,
    /// Free addresses.
    Del,
    /// Compare leases with prevResult.
    Check,
    /// Free the leases of containers that the runtime no longer lists.
    Gc,
    /// Check whether an ADD would succeed.
    Status,
    /// Report the supported versions.
    Version,
    /// Any other text. It is reported as an error only after the configuration has been checked.
    Unknown(String),
}

impl Verb {
    /// Returns the command for the text in `CNI_COMMAND`. The text is case-sensitive.
    pub fn new(text: &str) -> Verb {
        match text {
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "GC" => Verb::Gc,
            "STATUS" => Verb::Status,
            "VERSION" => Verb::Version,
            _ => Verb::Unknown(text.to_owned()),
        }
    }
}

/// The checked content of the environment.
#[derive(Debug)]
pub struct Invocation {
    /// The command in `CNI_COMMAND`.
    pub verb: Verb,
    /// The variables that the configuration parser needs.
    pub inputs: Inputs,
    /// The value of `CNI_NETNS`.
    pub netns: Option<String>,
    /// `CNI_NETNS_OVERRIDE`: whether `CNI_NETNS` may be the plugin's own network namespace.
    pub own_netns: bool,
    /// The trace ID in `TRACEPARENT`, if the variable is set and valid.
    pub trace: Option<String>,
    /// The variables that the command requires but that are not set, in the order of `TABLE`.
    pub missing: Vec<&'static str>,
}

/// An error in the environment. The CNI error code is always 4.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// Required variables are missing.
    #[error("required env variables [{}] missing", .0.join(","))]
    Missing(Vec<&'static str>),
    /// A value is malformed according to the specification.
    #[error("{msg}")]
    Malformed {
        /// The text of the error.
        msg: &'static str,
        /// The malformed value, or the rule that it breaks.
        details: String,
    },
    /// The value of this variable is not UTF-8.
    #[error("the value of {0} is not valid UTF-8")]
    NotText(&'static str),
}

impl EnvError {
    /// Returns the malformed value, or the rule that it breaks.
    pub fn details(&self) -> Option<&str> {
        match self {
            EnvError::Malformed { details, .. } if !details.is_empty() => Some(details),
            _ => None,
        }
    }
}

const ADD_CHECK_DEL: &[Verb] = &[Verb::Add, Verb::Check, Verb::Del];

/// The variables, in the order in which missing variables are reported. Each entry lists the commands that
/// require the variable, and then the commands that accept the variable but do not require it.
const TABLE: [(&str, &[Verb], &[Verb]); 6] = [
    ("CNI_CONTAINERID", ADD_CHECK_DEL, &[]),
    ("CNI_NETNS", &[Verb::Add, Verb::Check], &[]),
    ("CNI_IFNAME", ADD_CHECK_DEL, &[]),
    ("CNI_ARGS", &[], ADD_CHECK_DEL),
    ("CNI_PATH", &[Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status], &[]),
    ("CNI_NETNS_OVERRIDE", &[], &[Verb::Add]),
];

/// Reads the variables that the command `verb` requires or accepts.
pub fn read(verb: Verb, env: &Env<'_>) -> Result<Invocation, EnvError> {
    let (inputs, missing) = (Inputs::default(), Vec::new());
    let parent = env("TRACEPARENT").and_then(|text| text.into_string().ok());
    let trace = parent.as_deref().and_then(trace_id).map(str::to_owned);
    let mut found = Invocation { verb, inputs, netns: None, own_netns: false, trace, missing };
    for (name, needed, used) in TABLE {
        let needed = needed.contains(&found.verb);
        if !needed && !used.contains(&found.verb) {
            continue;
        }
        let text = match env(name).map(OsString::into_string) {
            Some(Ok(text)) if !text.is_empty() => text,
            // A DEL must work even if variables that only an ADD needs are malformed.
            Some(Err(_)) if needed || found.verb != Verb::Del => {
                return Err(EnvError::NotText(name));
            }
            _ if needed => {
                found.missing.push(name);
                continue;
            }
            _ => continue,
        };
        match name {
            "CNI_CONTAINERID" => found.inputs.container = Some(container(text)?),
            "CNI_NETNS" => found.netns = Some(text),
            "CNI_IFNAME" => found.inputs.ifname = Some(ifname(text)?),
            "CNI_ARGS" => found.inputs.args = text,
            "CNI_NETNS_OVERRIDE" => {
                found.own_netns = text == "1" || text.eq_ignore_ascii_case("true");
            }
            _ => {}
        }
    }
    found.inputs.db_path = own(env, "IPAM_DB_PATH")?;
    found.inputs.db_timeout = own(env, "IPAM_DB_CONNECTION_TIMEOUT")?;
    found.inputs.log_file = own(env, "ECS_CNI_LOG_FILE")?;
    found.inputs.log_level = own(env, "ECS_CNI_LOGLEVEL")?;
    Ok(found)
}

/// Returns a variable that the CNI specification does not define; a blank value counts as unset. Text that is
/// not UTF-8 is an error even for a DEL. The variable may name the store, and a DEL that used a different
/// store would free nothing.
fn own(env: &Env<'_>, name: &'static str) -> Result<Option<String>, EnvError> {
    match env(name).map(OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok((!text.trim().is_empty()).then_some(text)),
        Some(Err(_)) => Err(EnvError::NotText(name)),
    }
}

fn container(text: String) -> Result<ContainerId, EnvError> {
    ContainerId::new(text.clone()).map_err(|_| EnvError::Malformed {
        msg: "invalid characters in containerID",
        details: text,
    })
}

fn ifname(text: String) -> Result<IfName, EnvError> {
    IfName::new(text).map_err(|why| {
        let (msg, details) = match why {
            NameError::TooLong => {
                ("interface name is too long", "interface name should be less than 16 characters")
            }
            NameError::Dots => ("interface name is . or ..", ""),
            NameError::Empty | NameError::Characters | NameError::InterfaceCharacters => {
                ("interface name contains / or : or whitespace characters", "")
            }
        };
        EnvError::Malformed { msg, details: details.to_owned() }
    })
}

/// Returns the trace ID in a `TRACEPARENT` (W3C Trace Context, version 00); `None` if the text is not valid.
fn trace_id(text: &str) -> Option<&str> {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        parts.next().filter(|part| part.len() == digits && part.bytes().all(is_hex))
    };
    let (version, id, _, _) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    (version == "00" && id.bytes().any(|b| b != b'0') && parts.next().is_none()).then_some(id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn the_trace_of_a_traceparent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")), Some(id));
        for bad in [
            "",
            "00",
            &format!("01-{id}-00f067aa0ba902b7-01"),
            &format!("00-{id}-00f067aa0ba902b7-01-x"),
            &format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            &format!("00-{id}-00F067aa0ba902b7-01"),
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }

    fn read_of(verb: &str, vars: &[(&str, &str)]) -> Result<Invocation, EnvError> {
        read(Verb::new(verb), &|name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn each_verb_names_what_it_lacks() {
        let all = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"];
        let table: [(&str, &[&str]); 7] = [
            ("ADD", &all),
            ("CHECK", &all),
            ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"]),
            ("GC", &["CNI_PATH"]),
            ("STATUS", &["CNI_PATH"]),
            ("VERSION", &[]),
            ("NOPE", &[]),
        ];
        for (verb, missing) in table {
            assert_eq!(read_of(verb, &[]).unwrap().missing, missing, "{verb}");
        }
        let empty = read_of("GC", &[("CNI_PATH", "")]).unwrap();
        assert_eq!(
            EnvError::Missing(empty.missing).to_string(),
            "required env variables [CNI_PATH] missing"
        );
    }

    #[test]
    fn a_malformed_value_goes_before_missing_ones() {
        let bad = |name, value| read_of("ADD", &[(name, value)]).unwrap_err();
        let id = bad("CNI_CONTAINERID", "some-%%container-id");
        assert_eq!(id.to_string(), "invalid characters in containerID");
        assert_eq!(id.details(), Some("some-%%container-id"));
        let long = bad("CNI_IFNAME", "1234567890123456");
        assert_eq!(long.to_string(), "interface name is too long");
        assert_eq!(long.details(), Some("interface name should be less than 16 characters"));
        for (name, msg) in [
            (".", "interface name is . or .."),
            ("..", "interface name is . or .."),
            ("test/test", "interface name contains / or : or whitespace characters"),
            ("test:test", "interface name contains / or : or whitespace characters"),
            ("test test1", "interface name contains / or : or whitespace characters"),
        ] {
            assert_eq!(bad("CNI_IFNAME", name).to_string(), msg);
        }
    }

    #[test]
    fn a_value_is_checked_only_where_it_is_needed() {
        let vars = [("CNI_CONTAINERID", "%"), ("CNI_IFNAME", "a b"), ("CNI_PATH", "/p")];
        assert!(read_of("GC", &vars).is_ok());
        assert!(read_of("NOPE", &vars).is_ok());
        assert!(read_of("DEL", &vars).is_err());
    }

    #[test]
    fn a_value_that_is_no_text_is_named() {
        let env = |bad: &'static str| {
            move |name: &str| (name == bad).then(|| OsString::from_vec(vec![b'a', 0xff]))
        };
        let read = |verb, bad| read(Verb::new(verb), &env(bad)).map(|_| ());
        for bad in ["CNI_CONTAINERID", "CNI_NETNS", "CNI_ARGS", "IPAM_DB_PATH"] {
            assert_eq!(read("ADD", bad), Err(EnvError::NotText(bad)));
        }
        assert_eq!(read("DEL", "CNI_ARGS"), Ok(()));
        assert_eq!(read("DEL", "CNI_NETNS"), Ok(()));
        assert_eq!(
            read("DEL", "IPAM_DB_PATH").unwrap_err().to_string(),
            "the value of IPAM_DB_PATH is not valid UTF-8"
        );
    }

    #[test]
    fn the_override_is_one_or_true() {
        for (text, allowed) in [("1", true), ("TruE", true), ("yes", false), ("", false)] {
            let found = read_of("ADD", &[("CNI_NETNS_OVERRIDE", text)]).unwrap();
            assert_eq!(found.own_netns, allowed, "{text}");
        }
    }
}
