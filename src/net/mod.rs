//! Addresses, prefixes, ranges and range sets.
//!
//! Prefix arithmetic is `ipnet`'s; here are the rules for a range, with host-local's messages. JSON
//! and leases are elsewhere.
//! Invariant: a value of these types is valid; an invalid one cannot be built.

mod addr;
mod range;
mod set;

pub use addr::{Addr, Family, Subnet, parse_addr, parse_cidr};
pub use range::{GatewaySpec, Range, RangeError, RangeSpec, Span, hosts};
pub use set::{RangeSet, SetError, describe, overlaps};
