//! Facts and services of the operating system.

pub mod files;
pub mod host;
pub mod panic;
pub mod percent;
pub mod process;
pub mod stream;
