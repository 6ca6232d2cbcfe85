//! The keys of a cluster's records. They are readable paths, relative to the configured prefix.
//!
//! ```text
//! ip/<set>/<chunk>/<address>        the holder of an address; this record is authoritative. Addresses are
//!                                   hexadecimal with a fixed width, so that paths sort in address order. The
//!                                   chunk is the enclosing /24 or /120, and is listed as a whole. `v6-`
//!                                   before the chunk sorts IPv6 after IPv4
//! cooling/<set>/<address>           a cooling address. Written together with the record of the address, so
//!                                   that cooling addresses are found without listing all addresses
//! own/<node>/<set>/<owner...>       all leases of an owner. The node comes first, because all leases of a
//!                                   node are listed together after a reboot. Reservations have no node (`%`)
//! own/%/<set>/for/<name>            the addresses that are reserved for a pod or a container. While the
//!                                   container leases a reserved address, the record of the address contains
//!                                   the lease instead of the reservation
//! cursor/<set>/<range>              a hint: the address that was allocated last
//! sticky/<set>/<ns>/<pod>/<range>   a hint: a pod's former address
//! stuck/<set>/<address>             the key of the `sticky/` record that contains the address
//! pool/<pool>                       a pool. Each transaction that leases from the pool compares this record
//! space/<space>                     all pools of a Docker address space, as they were when they were created
//! adopted/<network>                 the import mark: shows that another program's leases of this network
//!                                   were imported
//! node/<node>                       the machine that owns this node name, and its boot
//! machine/<machine-id>              the node name of a machine, which it keeps if its host name changes
//! net/<network>                     the definition of a network, if it is stored in the cluster
//! drain/<set>                       the draining ranges of a set. Each transaction that leases a new address
//!                                   for a container compares this record, or its absence
//! ranges/<network>                  a hint: the ranges of a network, as the last ADD wrote them
//! past/<set>/<time>-<nonce>         the history events of one transaction
//! mark/<node>/<time>-<nonce>        shows that a transaction that changed a pool was applied
//! ```
//!
//! Invariant: each name is encoded as exactly one path component, whatever characters it contains. A prefix
//! that is listed never ends within a component.

use super::server::Nonce;
use crate::alloc::PodKey;
use crate::model::{NetworkName, Node, Owner, SetName, Timestamp};
use crate::net::{Addr, Family, Span};
use crate::sys::percent;

pub const ADDRESS: &str = "ip/";
pub const COOLING: &str = "cooling/";
pub const OWNER: &str = "own/";
/// The prefix of owner records that belong to no node, such as those of reservations.
pub const RESERVED: &str = "own/%/";
pub const CURSOR: &str = "cursor/";
pub const STICKY: &str = "sticky/";
pub const STICKY_OWNER: &str = "stuck/";
pub const POOL: &str = "pool/";
pub const SPACE: &str = "space/";
pub const ADOPTED: &str = "adopted/";
pub const NODE: &str = "node/";
pub const MACHINE: &str = "machine/";
pub const NETWORK: &str = "net/";
pub const DRAINING: &str = "drain/";
pub const RANGES: &str = "ranges/";
pub const HISTORY: &str = "past/";
pub const MARK: &str = "mark/";

/// The kinds of records that a transaction compares if the allocator has read them for the command.
pub const COMPARED_ONCE_READ: [&str; 7] = [POOL, SPACE, NODE, NETWORK, ADOPTED, RESERVED, DRAINING];

/// Returns whether a transaction that writes this record must compare it. All other kinds of records are
/// written without a comparison: hints, history, marks, and the index of cooling addresses.
pub fn is_compared(path: &str) -> bool {
    [ADDRESS, OWNER].iter().chain(&COMPARED_ONCE_READ).any(|kind| path.starts_with(kind))
}

/// Encodes a name as one path component. Every byte that is not a letter, a digit, `-`, `_`, `.` or `~` is
/// written as %XX. The result is never empty and never consists only of dots, because servers give such
/// components a special meaning.
pub fn escape(name: &str) -> String {
    match name {
        "" => "%".to_owned(),
        dots if dots.bytes().all(|b| b == b'.') => dots.replace('.', "%2E"),
        name => percent::encode(name),
    }
}

fn unescape(text: &str) -> Option<String> {
    if text == "%" { Some(String::new()) } else { percent::decode(text) }
}

fn hex(addr: Addr) -> String {
    match addr.family() {
        Family::V4 => format!("{:08x}", addr.bits()),
        Family::V6 => format!("{:032x}", addr.bits()),
    }
}

fn read_hex(text: &str) -> Option<Addr> {
    let family = match text.len() {
        8 => Family::V4,
        32 => Family::V6,
        _ => return None,
    };
    Addr::from_bits(family, u128::from_str_radix(text, 16).ok()?)
}

/// Makes the path of a record from its kind and its name.
pub fn named(kind: &str, name: &str) -> String {
    format!("{kind}{}", escape(name))
}

/// Returns the name in the path of a record of this kind.
pub fn read_name(kind: &str, path: &str) -> Option<String> {
    let name = unescape(path.strip_prefix(kind)?)?;
    (named(kind, &name) == path).then_some(name)
}

/// Returns the network in the path of a record of this kind.
pub fn read_network(kind: &str, path: &str) -> Option<NetworkName> {
    NetworkName::new(path.strip_prefix(kind)?).ok()
}

/// Makes the path of a node's record.
pub fn node(name: &str) -> String {
    named(NODE, name)
}

/// Returns the prefix of all records of this kind in a set of leases.
pub fn of_set(kind: &str, set: &SetName) -> String {
    named(kind, &set.0) + "/"
}

/// Makes the path of a record of this kind for an address in a set. For [`ADDRESS`], use [`address`] instead.
pub fn of_address(kind: &str, set: &SetName, addr: Addr) -> String {
    of_set(kind, set) + &hex(addr)
}

/// Returns the set and the address in a path that [`of_address`] made.
pub fn read_of_address(kind: &str, path: &str) -> Option<(SetName, Addr)> {
    let (set, addr) = path.strip_prefix(kind)?.split_once('/')?;
    Some((SetName(unescape(set)?), read_hex(addr)?))
}

/// Makes the path of an address's record, which contains the holder of the address.
pub fn address(set: &SetName, addr: Addr) -> String {
    chunk(set, addr) + &hex(addr)
}

/// Returns the prefix of the records of all addresses in the chunk of `addr` (see [`chunk_of`]).
pub fn chunk(set: &SetName, addr: Addr) -> String {
    let mut hex = hex(addr);
    hex.truncate(hex.len() - 2);
    let mark = if addr.family() == Family::V6 { "v6-" } else { "" };
    format!("{}{mark}{hex}/", of_set(ADDRESS, set))
}

/// Returns the chunk of an address: the /24 or /120 that contains it.
pub fn chunk_of(addr: Addr) -> Span {
    let at = |bits| Addr::from_bits(addr.family(), bits).unwrap_or(addr);
    Span { first: at(addr.bits() & !0xff), last: at(addr.bits() | 0xff) }
}

/// Returns the set and the address in a path that [`address`] made.
pub fn read_address(path: &str) -> Option<(SetName, Addr)> {
    let mut parts = path.strip_prefix(ADDRESS)?.split('/');
    let (set, _chunk, addr) = (parts.next()?, parts.next()?, parts.next()?);
    let found = (SetName(unescape(set)?), read_hex(addr)?);
    (parts.next().is_none() && address(&found.0, found.1) == path).then_some(found)
}

/// Makes the path of the record with an owner's leases on this node. Returns `None` for an address of a
/// Docker pool, which has only the record of the address: such an address is its own owner.
pub fn owner(set: &SetName, node: &Node, owner: &Owner) -> Option<String> {
    // If a lease names a container but no interface, its node is unknown, so the path contains no node.
    let no_node = Node::default();
    let is_of_any_node = match owner {
        Owner::Attachment(attachment) => attachment.ifname.is_none(),
        // The path contains no node, so that every node finds the addresses that are reserved for a name.
        Owner::Named(_) => true,
        _ => false,
    };
    let of_node = node_owners(if is_of_any_node { &no_node.name } else { &node.name }, set);
    Some(match owner {
        Owner::Attachment(a) => {
            let network = escape(a.network.as_str());
            let container = escape(a.container.as_str());
            let ifname = escape(a.ifname.as_ref().map_or("", |name| name.as_str()));
            format!("{of_node}cni/{network}/{container}/{ifname}")
        }
        Owner::Id(id) => format!("{of_node}id/{}", escape(id)),
        Owner::Gateway(addr) => format!("{of_node}gateway/{}", hex(*addr)),
        Owner::Reservation(addr) => format!("{of_node}reserved/{}", hex(*addr)),
        Owner::Named(name) => format!("{of_node}for/{}", escape(name.as_str())),
        Owner::Pool(..) => return None,
    })
}

/// Returns the set in a path that [`owner`] made.
pub fn read_owner_set(path: &str) -> Option<SetName> {
    unescape(path.strip_prefix(OWNER)?.split('/').nth(1)?).map(SetName)
}

/// Returns the prefix of the records of all owners on this node.
pub fn all_owners(node: &str) -> String {
    named(OWNER, node) + "/"
}

/// Returns the prefix of the records of all owners on this node in a set.
pub fn node_owners(node: &str, set: &SetName) -> String {
    format!("{}{}/", all_owners(node), escape(&set.0))
}

/// Makes the path of the record with a pod's former address in a range set. `range` is the address that
/// identifies the range set.
pub fn sticky(set: &SetName, pod: &PodKey, range: Addr) -> String {
    let of_set = of_set(STICKY, set);
    format!("{of_set}{}/{}/{}", escape(&pod.namespace), escape(&pod.name), hex(range))
}

/// Returns the set, the pod and the range in a path that [`sticky`] made.
pub fn read_sticky(path: &str) -> Option<(SetName, PodKey, Addr)> {
    let mut parts = path.strip_prefix(STICKY)?.split('/');
    let mut name = || unescape(parts.next()?);
    let (set, pod) = (SetName(name()?), PodKey { namespace: name()?, name: name()? });
    let range = read_hex(parts.next()?)?;
    parts.next().is_none().then_some((set, pod, range))
}

/// Makes the path of a record from its kind, its name, the time, and the nonce of the transaction that writes
/// it. The paths of one kind and name sort by time.
pub fn timed(kind: &str, name: &str, now: Timestamp, nonce: &Nonce) -> String {
    format!("{}/{now:012x}-{:032x}", named(kind, name), u128::from_be_bytes(*nonce))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_one_path_component() {
        for name in ["", ".", "..", "a/b", "%", "%%2F", "net-1_a.b~c", "\u{e4}\0 \n", "..a"] {
            let set = SetName(name.to_owned());
            for addr in ["10.0.0.7", "fd00::7"] {
                let addr = addr.parse().unwrap();
                let path = address(&set, addr);
                assert_eq!(path.split('/').count(), 4, "{path}");
                assert!(path.split('/').all(|s| !["", ".", ".."].contains(&s)), "{path}");
                assert!(
                    path.starts_with(&chunk(&set, addr))
                        && path.starts_with(&of_set(ADDRESS, &set))
                );
                assert_eq!(read_address(&path), Some((set.clone(), addr)));
            }
        }
        assert_eq!(
            address(&SetName("net".into()), "10.0.0.7".parse().unwrap()),
            "ip/net/0a0000/0a000007"
        );
        let set = SetName("a/b".into());
        let pod = PodKey { namespace: "n".into(), name: String::new() };
        let (range, path) = (addr("fd00::1"), of_address(CURSOR, &set, addr("fd00::1")));
        assert_eq!(read_of_address(CURSOR, &path), Some((set.clone(), range)));
        assert_eq!(read_sticky(&sticky(&set, &pod, range)), Some((set, pod, range)));
        for id in ["l/10.0.0.0/8/10.1.0.0/16", "", "..", "net\u{e4}"] {
            assert_eq!(named(POOL, id).split('/').count(), 2);
            assert_eq!(read_name(POOL, &named(POOL, id)).as_deref(), Some(id));
        }
        let (set, path) = (SetName("a/b".into()), |now| timed(HISTORY, "a/b", now, &[0xff; 16]));
        assert!(path(9) < path(10) && path(9).starts_with(&of_set(HISTORY, &set)));
        for bad in ["ip/net/0a0000/0a0100", "ip/net/0a0000/0a000007/x", "ip/net", "own/net/n"] {
            assert_eq!(read_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn different_owners_have_different_paths() {
        let (set, node) =
            (SetName("s".into()), Node { name: "n/1".into(), machine: String::new() });
        let id = |text: &str| owner(&set, &node, &Owner::Id(text.to_owned())).unwrap();
        assert_eq!(id("a"), "own/n%2F1/s/id/a");
        assert_eq!(read_owner_set(&id("a")), Some(set.clone()));
        assert_ne!(id("a/b"), id("a%2Fb"));
        assert!(id("").starts_with(&node_owners(&node.name, &set)));
        let name = Owner::Named(crate::model::StaticName::new("shop/db-0").unwrap());
        assert_eq!(owner(&set, &node, &name).unwrap(), "own/%/s/for/shop%2Fdb-0");
    }
}
