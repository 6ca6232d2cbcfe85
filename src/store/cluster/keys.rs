//! Keys of a cluster's records: paths that a person can read.
//!
//! Owns: their form, relative to the configured prefix.
//!
//! ```text
//! ip/<set>/<chunk>/<address>        who has it: the truth. Hexadecimal of fixed width, so that paths
//!                                   sort as addresses do; the chunk is the enclosing /24, or /120
//!                                   (`v6-...`: behind all of IPv4), listed at once
//! cooling/<set>/<address>           that the address is kept back: written with its record, to be
//!                                   found without looking at all of them
//! own/<set>/<node>/<owner...>       all that an owner holds; of one node, so that GC lists one node
//! cursor/<set>/<range>              the address given last: a hint
//! sticky/<set>/<ns>/<pod>/<range>   a pod's former address: a hint
//! stuck/<set>/<address>             which sticky key names it
//! pool/<pool>                       a pool; written anew with each lease through it
//! space/<space>                     all pools of a space, as they were made
//! adopted/<network>                 another program's leases of this network were taken over
//! node/<node>                       which machine has this name, and in which boot
//! net/<network>                     a network's definition, where its nodes keep one
//! ranges/<network>                  its ranges, as the last ADD that wrote them had them: a hint
//! past/<node>/<volume>/<record>     what happened in one transaction
//! ```
//!
//! Invariant: a name is one segment, whatever text it holds, and no listed prefix ends within one.

use std::fmt::Write as _;

use super::server::KeyRange;
use crate::alloc::PodKey;
use crate::model::{NetworkName, Node, Owner, PoolId, SetName, Timestamp};
use crate::net::{Addr, Family, Span};
use crate::sys::percent;

/// A name as one segment: what is no letter, digit, `-`, `_`, `.` or `~` as %XX, and never empty or
/// of dots alone, which servers take for steps in a path.
fn push_name(path: &mut String, name: &str) {
    match name {
        "" => path.push('%'),
        dots if dots.bytes().all(|b| b == b'.') => *path += &dots.replace('.', "%2E"),
        name => *path += &percent::encode(name),
    }
    path.push('/');
}

fn read_name(text: &str) -> Option<String> {
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

fn of(kind: &str, set: &SetName) -> String {
    let mut path = format!("{kind}/");
    push_name(&mut path, &set.0);
    path
}

/// Who has an address.
pub fn address(set: &SetName, addr: Addr) -> String {
    chunk(set, addr) + &hex(addr)
}

/// All addresses of a [`chunk_of`].
pub fn chunk(set: &SetName, addr: Addr) -> String {
    let mut hex = hex(addr);
    hex.truncate(hex.len() - 2);
    let mark = if addr.family() == Family::V6 { "v6-" } else { "" };
    format!("{}{mark}{hex}/", addresses(set))
}

/// The addresses of a chunk.
pub fn chunk_of(addr: Addr) -> Span {
    let at = |bits| Addr::from_bits(addr.family(), bits).unwrap_or(addr);
    Span { first: at(addr.bits() & !0xff), last: at(addr.bits() | 0xff) }
}

/// From a span's first address to its last.
pub fn key_range(set: &SetName, span: Span) -> KeyRange {
    KeyRange { first: address(set, span.first), last: address(set, span.last) }
}

/// All addresses of a set.
pub fn addresses(set: &SetName) -> String {
    of("ip", set)
}

/// All addresses of all sets.
pub const ADDRESSES: &str = "ip/";

/// Set and address of an [`address`] path.
pub fn read_address(path: &str) -> Option<(SetName, Addr)> {
    let mut parts = path.strip_prefix(ADDRESSES)?.split('/');
    let (set, _chunk, addr) = (parts.next()?, parts.next()?, parts.next()?);
    let found = (SetName(read_name(set)?), read_hex(addr)?);
    (parts.next().is_none() && address(&found.0, found.1) == path).then_some(found)
}

/// What an owner of this node holds; `None`: an address of a pool is its own owner, and what is
/// leased of it stands under the address alone.
pub fn owner(set: &SetName, node: &Node, owner: &Owner) -> Option<String> {
    // Whoever leased for a container without its interface did not say on which node it is.
    let nobody = Node::default();
    let nameless = matches!(owner, Owner::Attachment(a) if a.ifname.is_none());
    let mut path = node_owners(set, if nameless { &nobody } else { node });
    match owner {
        Owner::Attachment(a) => {
            path.push_str("cni/");
            push_name(&mut path, a.network.as_str());
            push_name(&mut path, a.container.as_str());
            push_name(&mut path, a.ifname.as_ref().map_or("", |i| i.as_str()));
        }
        Owner::Id(id) => {
            path.push_str("id/");
            push_name(&mut path, id);
        }
        Owner::Gateway(addr) => {
            let _ = write!(path, "gateway/{}/", hex(*addr));
        }
        Owner::Reservation(addr) => {
            let _ = write!(path, "reserved/{}/", hex(*addr));
        }
        Owner::Pool(..) => return None,
    }
    // The slash went into each prefix; a record's own name has none.
    path.pop();
    Some(path)
}

/// What all owners hold.
pub const OWNERS: &str = "own/";

/// The set of an [`owner`] path.
pub fn read_owner_set(path: &str) -> Option<SetName> {
    let (set, _) = path.strip_prefix(OWNERS)?.split_once('/')?;
    read_name(set).map(SetName)
}

/// What the owners of this node hold of a set.
pub fn node_owners(set: &SetName, node: &Node) -> String {
    let mut path = of("own", set);
    push_name(&mut path, &node.name);
    path
}

/// All addresses given last.
pub const CURSOR: &str = "cursor/";

/// Set and range of a [`cursor`] path.
pub fn read_cursor(path: &str) -> Option<(SetName, Addr)> {
    let (set, range) = path.strip_prefix(CURSOR)?.split_once('/')?;
    Some((SetName(read_name(set)?), read_hex(range)?))
}

/// That an address is kept back.
pub fn cooling(set: &SetName, addr: Addr) -> String {
    set_cooling(set) + &hex(addr)
}

/// All addresses of a set that are kept back.
pub fn set_cooling(set: &SetName) -> String {
    of("cooling", set)
}

/// All of all sets.
pub const COOLING: &str = "cooling/";

/// The address of a [`cooling`] path of this set.
pub fn read_cooling(set: &SetName, path: &str) -> Option<Addr> {
    let addr = read_hex(path.strip_prefix(&set_cooling(set))?)?;
    (cooling(set, addr) == path).then_some(addr)
}

/// The address given last from a range set.
pub fn cursor(set: &SetName, range: Addr) -> String {
    of("cursor", set) + &hex(range)
}

/// All pods' former addresses.
pub const STICKY: &str = "sticky/";

/// Set, pod and range of a [`sticky`] path.
pub fn read_sticky(path: &str) -> Option<(SetName, PodKey, Addr)> {
    let mut parts = path.strip_prefix(STICKY)?.split('/');
    let mut name = || read_name(parts.next()?);
    let (set, pod) = (SetName(name()?), PodKey { namespace: name()?, name: name()? });
    let range = read_hex(parts.next()?)?;
    parts.next().is_none().then_some((set, pod, range))
}

/// A pod's former address in a range set.
pub fn sticky(set: &SetName, pod: &PodKey, range: Addr) -> String {
    let mut path = of("sticky", set);
    push_name(&mut path, &pod.namespace);
    push_name(&mut path, &pod.name);
    path + &hex(range)
}

/// Which pod's address this was.
pub fn sticky_of(set: &SetName, addr: Addr) -> String {
    of("stuck", set) + &hex(addr)
}

/// A pool.
pub fn pool(id: &PoolId) -> String {
    let mut path = POOLS.to_owned();
    push_name(&mut path, &id.0);
    path.pop();
    path
}

/// All pools of all spaces.
pub const POOLS: &str = "pool/";

/// That another program's leases of a network were taken over.
pub fn adopted(network: &NetworkName) -> String {
    format!("{ADOPTED}{network}")
}

/// All networks of which that is so.
pub const ADOPTED: &str = "adopted/";

/// The network of an [`adopted`] path.
pub fn read_adopted(path: &str) -> Option<NetworkName> {
    NetworkName::new(path.strip_prefix(ADOPTED)?).ok()
}

/// What is known of a node.
pub fn node(name: &str) -> String {
    let mut path = NODES.to_owned();
    push_name(&mut path, name);
    path.pop();
    path
}

/// All nodes.
pub const NODES: &str = "node/";

/// The name in a [`node`] path.
pub fn read_node(path: &str) -> Option<String> {
    let name = read_name(path.strip_prefix(NODES)?)?;
    (node(&name) == path).then_some(name)
}

/// A network's definition.
pub fn definition(name: &NetworkName) -> String {
    format!("{NETWORKS}{name}")
}

/// All networks that are defined.
pub const NETWORKS: &str = "net/";

/// The name in a [`definition`] path.
pub fn read_definition(path: &str) -> Option<NetworkName> {
    NetworkName::new(path.strip_prefix(NETWORKS)?).ok()
}

/// A network's ranges.
pub fn ranges(name: &NetworkName) -> String {
    format!("{RANGES}{name}")
}

/// All networks whose ranges are known.
pub const RANGES: &str = "ranges/";

/// The network of a [`ranges`] path.
pub fn read_ranges(path: &str) -> Option<NetworkName> {
    NetworkName::new(path.strip_prefix(RANGES)?).ok()
}

/// What happened, of all nodes.
pub const HISTORY: &str = "past/";

/// What this node did.
pub fn node_history(node: &str) -> String {
    let mut path = HISTORY.to_owned();
    push_name(&mut path, node);
    path
}

/// The volume of a node's history that was begun then.
pub fn history_segment(node: &str, begun: Timestamp) -> String {
    format!("{}{begun:012x}/", node_history(node))
}

/// A record of it: what was done then, by the process with this seed and its how manieth.
pub fn history(node: &str, begun: Timestamp, now: Timestamp, seed: u64, serial: u64) -> String {
    format!("{}{now:012x}-{seed:016x}-{serial}", history_segment(node, begun))
}

/// Node and volume of a [`history`] path.
pub fn read_history(path: &str) -> Option<(String, Timestamp)> {
    let mut parts = path.strip_prefix(HISTORY)?.split('/');
    let (node, begun) = (read_name(parts.next()?)?, parts.next()?);
    Some((node, u64::from_str_radix(begun, 16).ok()?))
}

/// All spaces.
pub const SPACES: &str = "space/";

/// All pools of a space.
pub fn space(name: &str) -> String {
    let mut path = "space/".to_owned();
    push_name(&mut path, name);
    path.pop();
    path
}

/// Whether it is about pools: compared by everything that has looked at it.
pub fn is_pool_or_space(path: &str) -> bool {
    path.starts_with(POOLS) || path.starts_with("space/")
}

/// Whether it is who has an address.
pub fn is_address(path: &str) -> bool {
    path.starts_with(ADDRESSES)
}

/// Whether it is what an owner holds.
pub fn is_owner(path: &str) -> bool {
    path.starts_with("own/")
}

/// Whether it is which machine has a name.
pub fn is_node(path: &str) -> bool {
    path.starts_with(NODES)
}

/// What begins a path on whose record everything rests that has looked at it, and compares it.
pub const ALWAYS_COMPARED: [&str; 5] = [POOLS, "space/", NODES, NETWORKS, ADOPTED];

fn is_guard(path: &str) -> bool {
    ALWAYS_COMPARED.iter().any(|prefix| path.starts_with(prefix))
}

/// Whether a record decides who has what, and is therefore compared; the others are hints.
pub fn is_compared(path: &str) -> bool {
    is_address(path) || is_owner(path) || is_guard(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_is_one_segment() {
        for name in ["", ".", "..", "a/b", "%", "%%2F", "net-1_a.b~c", "\u{e4}\0 \n", "..a"] {
            let set = SetName(name.to_owned());
            for addr in ["10.0.0.7", "fd00::7"] {
                let addr = addr.parse().unwrap();
                let path = address(&set, addr);
                assert_eq!(path.split('/').count(), 4, "{path}");
                assert!(path.split('/').all(|s| !["", ".", ".."].contains(&s)), "{path}");
                assert!(path.starts_with(&chunk(&set, addr)) && path.starts_with(&addresses(&set)));
                assert_eq!(read_address(&path), Some((set.clone(), addr)));
            }
        }
        assert_eq!(
            address(&SetName("net".into()), "10.0.0.7".parse().unwrap()),
            "ip/net/0a0000/0a000007"
        );
        let set = SetName("a/b".into());
        let pod = PodKey { namespace: "n".into(), name: String::new() };
        let (range, path) = (addr("fd00::1"), cursor(&set, addr("fd00::1")));
        assert_eq!(read_cursor(&path), Some((set.clone(), range)));
        assert_eq!(read_sticky(&sticky(&set, &pod, range)), Some((set, pod, range)));
        for id in ["l/10.0.0.0/8/10.1.0.0/16", "", "..", "net\u{e4}"].map(|id| PoolId(id.into())) {
            assert_eq!(pool(&id).split('/').count(), 2);
            assert_eq!(node(&id.0).split('/').count(), 2);
            assert_eq!(read_node(&node(&id.0)), Some(id.0));
        }
        let (node, begun) = ("n/1", 1_800_000_000);
        let path = history(node, begun, begun + 7, u64::MAX, 3);
        assert!(
            path.starts_with(&history_segment(node, begun))
                && history_segment(node, begun).ends_with('/')
        );
        assert_eq!(read_history(&path), Some((node.to_owned(), begun)));
        for bad in ["ip/net/0a0000/0a0100", "ip/net/0a0000/0a000007/x", "ip/net", "own/net/n"] {
            assert_eq!(read_address(bad), None, "{bad}");
        }
    }

    #[test]
    fn owners_do_not_run_into_each_other() {
        let (set, node) =
            (SetName("s".into()), Node { name: "n/1".into(), machine: String::new() });
        let id = |text: &str| owner(&set, &node, &Owner::Id(text.to_owned())).unwrap();
        assert_eq!(id("a"), "own/s/n%2F1/id/a");
        assert_ne!(id("a/b"), id("a%2Fb"));
        assert!(id("").starts_with(&node_owners(&set, &node)));
    }
}
