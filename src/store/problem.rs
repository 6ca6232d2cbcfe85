//! What `sublet doctor` finds, as plain data.

use std::path::{Path, PathBuf};

/// Something about a store that is wrong, or that its operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or the record of a server.
    pub place: String,
    /// What was found, and where in it.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// Whether [`super::Store::repair`] mends it.
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

/// What a repair did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repair {
    /// The damaged files as they were.
    pub copies: Vec<PathBuf>,
    /// How many leases were read, and are as they were.
    pub kept: usize,
    /// What was not: the address or record, and what became of it.
    pub notes: Vec<String>,
}
