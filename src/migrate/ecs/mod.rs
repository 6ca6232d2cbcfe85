//! Reads the lease file of the original ecs-ipam.
//!
//! The keys and values are those of `ecs-ipam/ipstore` (amazon-ecs-cni-plugins 2026.01.0), in a single bucket
//! named `IPAM`. A key is an address; an IPv6 address is preceded by a `6`. A value is an eight-byte counter,
//! followed by the owner's `id` or by a word that marks a gateway. Two more keys contain the last allocated
//! addresses.
//! Invariant: the result contains every address that is leased in the file.

mod bolt;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::alloc::ForeignLease;
use crate::error::StoreError;
use crate::model::{Kind, Owner, Wait};
use crate::net::{Addr, Family};
use crate::store::{Lock, lock_to_read};

/// The content of a lease file, and the lock that keeps the original ecs-ipam from using the file.
pub struct Leases {
    /// The leases and gateways.
    pub leases: Vec<ForeignLease>,
    /// The last addresses that were allocated or freed.
    pub cursors: Vec<Addr>,
    /// The entries that are invalid, each with the reason.
    pub skipped: Vec<(String, String)>,
    _lock: Lock,
}

/// The maximum size of a file, in bytes. A file with a million leases is a fifth of this size.
const LARGEST: u64 = 1 << 28;
/// The maximum length of an `id`, in bytes.
const LONGEST_ID: usize = 4096;
const COUNTER: usize = 8;

/// Locks and reads a lease file of the original ecs-ipam. The lock is held as long as the result exists.
pub fn read(path: &Path, wait: Wait) -> Result<Leases, StoreError> {
    let (lock, file) = lock_to_read(path, wait)?;
    let bytes = content(&file, path)?;
    let foreign = |what: String| StoreError::Foreign {
        path: path.to_owned(),
        what,
        advice: "pass the lease file of the original ecs-ipam".to_owned(),
    };
    let entries = match bolt::bucket(&bytes, b"IPAM") {
        Ok(Some(entries)) => entries,
        Ok(None) => {
            return Err(foreign("the file is a bolt file without the bucket `IPAM`".to_owned()));
        }
        Err(damage) => {
            return Err(foreign(format!("the file is not a complete bolt file: {damage}")));
        }
    };
    let (leases, cursors, skipped) = (Vec::new(), Vec::new(), Vec::new());
    let mut read = Leases { leases, cursors, skipped, _lock: lock };
    for (key, value) in entries {
        read.entry(key, value);
    }
    Ok(read)
}

fn content(file: &File, path: &Path) -> Result<Vec<u8>, StoreError> {
    let io = |e| StoreError::io("read", path, e);
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io(std::io::Error::other(format!("the file is larger than {LARGEST} bytes"))));
    }
    Ok(bytes)
}

impl Leases {
    fn entry(&mut self, key: &[u8], value: &[u8]) {
        let payload = value.get(COUNTER..).unwrap_or_default();
        let text = str::from_utf8(payload).ok();
        let skip = |why: &str| (shown(key), why.to_owned());
        match str::from_utf8(key) {
            Ok(last @ ("lastKnownIP" | "lastKnownIPv6")) => {
                let family = if last == "lastKnownIP" { Family::V4 } else { Family::V6 };
                match text.and_then(|t| t.parse::<Addr>().ok()).filter(|a| a.family() == family) {
                    Some(addr) => self.cursors.push(addr),
                    // If the last address is unknown, the original starts at the beginning of the range, and
                    // so does sublet.
                    None => self.skipped.push(skip("the value is not an address")),
                }
            }
            Ok(key) => match address(key) {
                Some(addr) => self.lease(addr, key, text),
                None => self.skipped.push(skip("the key is not an address")),
            },
            Err(_) => self.skipped.push(skip("the key is not valid UTF-8")),
        }
    }

    fn lease(&mut self, addr: Addr, key: &str, id: Option<&str>) {
        let (kind, owner) = match id {
            Some("GateWay" | "GateWayV6") => (Kind::Gateway, Owner::Gateway(addr)),
            Some(id) if id.len() <= LONGEST_ID => (Kind::Dynamic, Owner::Id(id.to_owned())),
            _ => {
                let why = "the id is invalid, so the address was leased without an id; free the lease by \
                           address";
                self.skipped.push((key.to_owned(), why.to_owned()));
                (Kind::Dynamic, Owner::Id(String::new()))
            }
        };
        self.leases.push(ForeignLease { addr, kind, owner });
    }
}

/// Returns the address in a key. A `6` precedes an IPv6 address. Only a colon identifies such an address,
/// because an IPv4 address may also begin with a 6.
fn address(key: &str) -> Option<Addr> {
    let text = if key.contains(':') { key.strip_prefix('6')? } else { key };
    text.parse().ok()
}

/// Returns a key in printable form.
fn shown(key: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(key).chars().take(64).collect();
    text.escape_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(entries: &[(&[u8], &[u8])]) -> Leases {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (lock, _) = lock_to_read(file.path(), Wait::Try).unwrap();
        let (leases, cursors, skipped) = (Vec::new(), Vec::new(), Vec::new());
        let mut read = Leases { leases, cursors, skipped, _lock: lock };
        for (key, payload) in entries {
            read.entry(key, &[&[1, 0, 0, 0, 0, 0, 0, 0], *payload].concat());
        }
        read
    }

    #[test]
    fn keys_of_both_families() {
        let read = all(&[
            (b"60.0.0.1", b"GateWay"),
            (b"60.0.0.2", b"a"),
            (b"62001:db8::1", b"GateWayV6"),
            (b"6::2", b""),
            (b"lastKnownIP", b"60.0.0.2"),
            (b"lastKnownIPv6", b"60.0.0.2"),
        ]);
        let rows: Vec<String> =
            read.leases.iter().map(|l| format!("{} {}", l.addr, l.owner)).collect();
        let expected =
            ["60.0.0.1 the gateway", "60.0.0.2 id a", "2001:db8::1 the gateway", "::2 id "];
        assert_eq!(rows, expected);
        assert_eq!(read.cursors, ["60.0.0.2".parse().unwrap()]);
        assert_eq!(read.skipped.len(), 1);
    }

    #[test]
    fn an_address_is_leased_whatever_its_id_is() {
        let long = vec![b'x'; LONGEST_ID + 1];
        let read =
            all(&[(b"10.0.0.2", b"\xff"), (b"10.0.0.3", &long), (b"nope", b""), (b"\xff", b"")]);
        assert_eq!(read.leases.len(), 2);
        assert!(read.leases.iter().all(|l| l.owner == Owner::Id(String::new())));
        assert_eq!(read.skipped.len(), 4);
    }

    #[test]
    fn what_is_no_such_file_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "garbage").unwrap();
        let error = read(file.path(), Wait::Try).err().unwrap();
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert!(read(Path::new("/nowhere/x"), Wait::Try).is_err());
        assert!(read(Path::new("/"), Wait::Try).is_err());
    }
}
