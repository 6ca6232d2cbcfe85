//! The state of a folder: the leases and reservations that `sublet list` prints, and the lease files that
//! host-local would use.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

/// The holder of each address: a container ID, or a reservation.
pub type State = BTreeMap<String, String>;

/// Returns the state that the rows of `sublet list --json` and the lease files in host-local's folder
/// describe. Fails if an address has two holders.
pub fn state(rows: &[Value], folder: &Path) -> Result<State, String> {
    let mut state = State::new();
    let mut put = |address: String, holder: String| match state.get(&address) {
        Some(other) if *other != holder => {
            Err(format!("{address} has two holders: {other} and {holder}"))
        }
        _ => {
            state.insert(address, holder);
            Ok(())
        }
    };
    for row in rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let named = [text("containerID"), text("id"), text("kind")];
        put(text("address"), named.into_iter().find(|name| !name.is_empty()).unwrap())?;
    }
    for (name, content) in lease_files(folder) {
        put(name, content.lines().next().unwrap_or_default().trim().to_owned())?;
    }
    Ok(state)
}

/// Returns the name and the content of each lease file in host-local's folder. Returns nothing if a text file
/// has taken the folder's place, because sublet imported the folder.
fn lease_files(folder: &Path) -> Vec<(String, String)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let files = entries.map(|entry| entry.unwrap().path());
    let named = files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), path));
    let leases = named.filter(|(name, _)| name.parse::<IpAddr>().is_ok());
    leases.map(|(name, path)| (name, fs::read_to_string(path).unwrap())).collect()
}

/// Copies a folder to a new path, including the permissions of its files.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&source, &target);
        } else {
            fs::copy(source, target).unwrap();
        }
    }
}

/// Returns a hash of the names, contents, permissions and links of the files in a folder. If two hashes are
/// equal, the test treats the folders as identical.
pub fn fingerprint(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    hash(folder, &mut hasher);
    hasher.finish()
}

fn hash(folder: &Path, hasher: &mut DefaultHasher) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let found = fs::symlink_metadata(&path).unwrap();
        (&path, found.mode(), found.nlink()).hash(hasher);
        if found.is_dir() {
            hash(&path, hasher);
        } else {
            fs::read(&path).unwrap().hash(hasher);
        }
    }
}
