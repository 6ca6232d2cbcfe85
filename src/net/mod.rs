//! Addresses, prefixes, ranges and range sets.
//!
//! `ipnet` does the arithmetic of prefixes. This module has the rules for ranges, with host-local's messages.
//! Invariant: values of these types are always valid.

mod addr;
mod range;
mod set;

pub use addr::{Addr, Family, Subnet, parse_addr, parse_cidr};
pub use range::{GatewaySpec, Range, RangeError, RangeSpec, Span, hosts};
pub use set::{RangeSet, SetError, describe, overlaps};
