//! Addresses, prefixes, ranges and range sets.
//!
//! Owns: prefix arithmetic for both families (128 bits inside, so that a /1 of IPv6 is no special
//! case) and the rules for a range, with host-local's messages. Does not own: JSON, what is taken.
//! Invariant: a value of these types is valid; an invalid one cannot be built.

mod addr;
mod range;
mod set;

pub use addr::{Addr, Family, Subnet, SubnetError};
pub use range::{GatewaySpec, Range, RangeError, RangeSpec, Span, hosts};
pub use set::{RangeSet, SetError, check_disjoint, describe};
