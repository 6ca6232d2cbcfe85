//! The versions of the CNI specification that `sublet` speaks: how each version writes a result, and
//! the answer to VERSION.

use std::{fmt, io};

use serde::Serialize;

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

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    cni_version: &'static str,
    supported_versions: [&'static str; VERSIONS.len()],
}

/// The answer to VERSION. One line, while every other answer is indented: so it is in the reference
/// implementation.
pub fn list() -> io::Result<Vec<u8>> {
    let list = List { cni_version: CniVersion::NEWEST.as_str(), supported_versions: VERSIONS };
    let mut bytes = serde_json::to_vec(&list)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_matched_exactly() {
        for version in SUPPORTED {
            assert_eq!(CniVersion::find(version.as_str()), Some(version));
            let name = format!("V{}", version.as_str().replace('.', "_"));
            assert_eq!(format!("{version:?}"), name);
        }
        assert_eq!(CniVersion::find(""), Some(CniVersion::V0_1_0));
        assert_eq!(CniVersion::find("0.2"), None);
        assert_eq!(CniVersion::find("v1.0.0"), None);
    }

    #[test]
    fn what_a_version_can_do() {
        let single: Vec<_> = SUPPORTED.iter().filter(|v| v.one_per_family()).collect();
        assert_eq!(format!("{single:?}"), "[V0_1_0, V0_2_0]");
    }
}
