//! The versions of the CNI specification that we speak.
//!
//! Owns: the list, what each version can do, what a configuration's version is answered with when
//! it does not fit, and the answer to VERSION. Does not own: how a result looks ([`super::result`]
//! has one shape per [`Shape`]).
//! Invariant: nothing outside this file compares version texts.

use std::{fmt, io};

use serde::Serialize;

use super::error::{DECODING, Failure, INCOMPATIBLE_VERSION};
use crate::config::VERSIONS;

/// A version of the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CniVersion {
    /// 0.1.0: ADD and DEL, one address per family.
    V0_1_0,
    /// 0.2.0: VERSION.
    V0_2_0,
    /// 0.3.0: many addresses, chaining.
    V0_3_0,
    /// 0.3.1: a corrected 0.3.0.
    V0_3_1,
    /// 0.4.0: CHECK.
    V0_4_0,
    /// 1.0.0: no `version` beside an address.
    V1_0_0,
    /// 1.1.0: GC and STATUS.
    V1_1_0,
}

/// Every version, oldest first.
pub const SUPPORTED: [CniVersion; 7] = [
    CniVersion::V0_1_0,
    CniVersion::V0_2_0,
    CniVersion::V0_3_0,
    CniVersion::V0_3_1,
    CniVersion::V0_4_0,
    CniVersion::V1_0_0,
    CniVersion::V1_1_0,
];

/// How a version writes a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `ip4` and `ip6`, each with its routes.
    Nested,
    /// `ips`, each with its family as `version`.
    Tagged,
    /// `ips` without `version`; keys sorted, as the reference implementation writes them.
    Plain,
}

impl CniVersion {
    /// The newest: what we answer with where no configuration says another.
    pub const NEWEST: CniVersion = CniVersion::V1_1_0;

    /// The text in a configuration.
    pub const fn as_str(self) -> &'static str {
        VERSIONS[self as usize]
    }

    /// The version with exactly this text; none at all means 0.1.0.
    pub fn find(text: &str) -> Option<CniVersion> {
        match text {
            "" => Some(CniVersion::V0_1_0),
            _ => SUPPORTED.into_iter().find(|v| v.as_str() == text),
        }
    }

    /// The version of a configuration, or code 1.
    pub fn of_config(text: &str) -> Result<CniVersion, Failure> {
        CniVersion::find(text).ok_or_else(|| {
            let known: Vec<String> = SUPPORTED.iter().map(|v| format!("\"{v}\"")).collect();
            Failure::new(INCOMPATIBLE_VERSION, "incompatible CNI versions")
                .details(format!("config is {text:?}, plugin supports [{}]", known.join(" ")))
        })
    }

    /// How it writes a result.
    pub const fn shape(self) -> Shape {
        match self {
            CniVersion::V0_1_0 | CniVersion::V0_2_0 => Shape::Nested,
            CniVersion::V0_3_0 | CniVersion::V0_3_1 | CniVersion::V0_4_0 => Shape::Tagged,
            CniVersion::V1_0_0 | CniVersion::V1_1_0 => Shape::Plain,
        }
    }

    /// Whether a result holds at most one address of each family.
    pub fn one_per_family(self) -> bool {
        self.shape() == Shape::Nested
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The version of a configuration for a command that came with `since`. A text that is no version
/// at all is code 6 here, while ADD and DEL only look it up.
pub fn gate(text: &str, command: &str, since: CniVersion) -> Result<CniVersion, Failure> {
    let asked = numbers(text).map_err(|why| Failure::new(DECODING, why))?;
    let needed = numbers(since.as_str()).unwrap_or_default();
    if asked < needed {
        let msg = format!("config version does not allow {command}");
        return Err(Failure::new(INCOMPATIBLE_VERSION, msg));
    }
    CniVersion::of_config(text)
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    cni_version: &'static str,
    supported_versions: [&'static str; SUPPORTED.len()],
}

/// The answer to VERSION. One line, while every other answer is indented: so it is in the reference
/// implementation.
pub fn list() -> io::Result<Vec<u8>> {
    let list = List {
        cni_version: CniVersion::NEWEST.as_str(),
        supported_versions: SUPPORTED.map(CniVersion::as_str),
    };
    let mut bytes = serde_json::to_vec(&list)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn numbers(text: &str) -> Result<[u32; 3], String> {
    let text = if text.is_empty() { "0.1.0" } else { text };
    let mut numbers = [0; 3];
    for (i, part) in text.split('.').enumerate() {
        let slot = numbers
            .get_mut(i)
            .ok_or_else(|| format!("invalid version {text:?}: too many parts"))?;
        *slot = part.parse().map_err(|_| {
            format!(
                "invalid version {text:?}: {part:?} is no number; write \"cniVersion\" as 1.1.0"
            )
        })?;
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_matched_exactly() {
        for version in SUPPORTED {
            assert_eq!(CniVersion::find(version.as_str()), Some(version));
        }
        assert_eq!(CniVersion::find(""), Some(CniVersion::V0_1_0));
        assert_eq!(CniVersion::find("0.2"), None);
        assert_eq!(CniVersion::find("v1.0.0"), None);
    }

    #[test]
    fn an_unknown_version_is_answered_with_the_known_ones() {
        let failure = CniVersion::of_config("9.9.9").unwrap_err();
        assert_eq!((failure.code, failure.msg.as_str()), (1, "incompatible CNI versions"));
        assert_eq!(
            failure.details.as_deref(),
            Some(
                "config is \"9.9.9\", plugin supports [\"0.1.0\" \"0.2.0\" \"0.3.0\" \"0.3.1\" \
                 \"0.4.0\" \"1.0.0\" \"1.1.0\"]"
            )
        );
    }

    #[test]
    fn a_version_has_its_text() {
        assert_eq!(SUPPORTED.map(CniVersion::as_str), VERSIONS);
        assert_eq!(CniVersion::V0_3_1.as_str(), "0.3.1");
    }

    #[test]
    fn what_a_version_can_do() {
        let can = |command, since| {
            let can = |v: &&CniVersion| gate(v.as_str(), command, since).is_ok();
            format!("{:?}", SUPPORTED.iter().filter(can).collect::<Vec<_>>())
        };
        assert_eq!(can("CHECK", CniVersion::V0_4_0), "[V0_4_0, V1_0_0, V1_1_0]");
        assert_eq!(can("GC", CniVersion::V1_1_0), "[V1_1_0]");
        let single: Vec<_> = SUPPORTED.iter().filter(|v| v.one_per_family()).collect();
        assert_eq!(format!("{single:?}"), "[V0_1_0, V0_2_0]");
    }

    #[test]
    fn a_command_needs_its_version() {
        let gate = |text| gate(text, "CHECK", CniVersion::V0_4_0).map_err(|f| (f.code, f.msg));
        assert_eq!(gate("0.4.0"), Ok(CniVersion::V0_4_0));
        let refused = (1, "config version does not allow CHECK".to_owned());
        assert_eq!(gate("0.3.1"), Err(refused.clone()));
        assert_eq!(gate(""), Err(refused));
        assert_eq!(gate("0.5.0").unwrap_err().1, "incompatible CNI versions");
        assert_eq!(gate("adsfsadf").unwrap_err().0, 6);
        assert_eq!(gate("1.0.0.0").unwrap_err().0, 6);
        assert_eq!(gate("1..0").unwrap_err().0, 6);
    }
}
