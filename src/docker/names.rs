//! The protocol's names: paths, options, and the texts of errors that no decision of the allocator
//! stands behind. The seed is moby's `ipamapi`; users and scripts search for these very texts.

/// `RequestAddress` for a gateway says so under this option; `RequestPool` may answer with one.
pub const GATEWAY: &str = "com.docker.network.gateway";
/// The option that says what an address is for.
pub const ADDRESS_TYPE: &str = "RequestAddressType";
/// Ask for addresses in turn (swarm).
pub const SERIAL: &str = "com.docker.network.ipam.serial";
/// The endpoint's MAC address.
pub const MAC: &str = "com.docker.network.endpoint.macaddress";
/// The container's name (dockerd 28.4 and later).
pub const ENDPOINT: &str = "com.docker.network.endpoint.name";
/// kontena's: the name under which hosts share a pool.
pub const NETWORK: &str = "network";

/// `ErrInvalidAddressSpace`.
pub const INVALID_SPACE: &str = "invalid address space";
/// `ErrInvalidPool`.
pub const INVALID_POOL: &str = "invalid address pool";
/// `ErrInvalidSubPool`.
pub const INVALID_SUB_POOL: &str = "invalid address subpool";
/// `ErrBadPool`.
pub const BAD_POOL: &str = "address space does not contain specified address pool";
