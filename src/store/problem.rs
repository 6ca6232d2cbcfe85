//! The findings of `sublet doctor`, as plain data.

use std::path::{Path, PathBuf};

/// A problem of a store, or something that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the record of a server.
    pub place: String,
    /// What is wrong, and where.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// Whether [`super::Store::repair`] repairs it.
    pub mendable: bool,
}

impl Problem {
    /// A problem of a file or folder.
    pub fn of(
        path: &Path,
        what: impl Into<String>,
        advice: impl Into<String>,
        mendable: bool,
    ) -> Problem {
        let place = path.display().to_string();
        Problem { place, what: what.into(), advice: advice.into(), mendable }
    }
}

/// The result of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// Copies of the damaged files.
    pub copies: Vec<PathBuf>,
    /// The number of recovered leases.
    pub kept: usize,
    /// What could not be recovered: the address or record, and what happened to it.
    pub notes: Vec<String>,
}
