//! Addresses, prefixes, ranges and range sets.
//!
//! `ipnet` implements prefix arithmetic. This module implements the rules for ranges, and reports errors with
//! host-local's messages. Invariant: values of these types are always valid.

mod addr;
mod range;
mod set;

pub use addr::{Addr, Family, Subnet, parse_addr, parse_cidr};
pub use range::{GatewaySpec, Range, RangeError, RangeSpec, Span, hosts};
pub use set::{RangeSet, SetError, describe, overlaps};
