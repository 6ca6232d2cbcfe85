//! The problems that `sublet doctor` reports, as plain data.

use std::path::{Path, PathBuf};

/// A problem with a store, or a fact that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or server record with the problem.
    pub place: String,
    /// What is wrong, and in which part of the store.
    pub what: String,
    /// What the operator should do.
    pub advice: String,
    /// Whether [`super::Store::repair`] repairs the problem.
    pub repairable: bool,
    /// Whether records are damaged. Not every repairable problem is damage; a leftover file, for example, is
    /// not.
    pub damage: bool,
}

impl Problem {
    /// Makes a problem with a file or folder. A repairable problem counts as damage.
    pub fn of(
        path: &Path,
        what: impl Into<String>,
        advice: impl Into<String>,
        repairable: bool,
    ) -> Problem {
        let place = path.display().to_string();
        Problem { place, what: what.into(), advice: advice.into(), repairable, damage: repairable }
    }
}

/// The result of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The copies of the damaged files.
    pub copies: Vec<PathBuf>,
    /// The number of recovered leases.
    pub kept: usize,
    /// Messages for the operator. Each message names an address, record or file, and says what happened to
    /// it.
    pub notes: Vec<String>,
}
