//! The protocol's names: paths, options, and the texts of errors that do not come from the allocator. They
//! are those of moby's `ipamapi`, because users and scripts search for them.

/// `RequestAddress` has this option if it requests the gateway's address; `RequestPool` may return a gateway
/// under it.
pub const GATEWAY: &str = "com.docker.network.gateway";
/// The option with the purpose of an address.
pub const ADDRESS_TYPE: &str = "RequestAddressType";
/// Allocate addresses in turn (swarm).
pub const SERIAL: &str = "com.docker.network.ipam.serial";
/// The endpoint's MAC address.
pub const MAC: &str = "com.docker.network.endpoint.macaddress";
/// The container's name (dockerd 28.4 and later).
pub const ENDPOINT: &str = "com.docker.network.endpoint.name";
/// kontena's option: the name under which hosts share a pool.
pub const NETWORK: &str = "network";

/// `ErrInvalidAddressSpace`.
pub const INVALID_SPACE: &str = "invalid address space";
/// `ErrInvalidPool`.
pub const INVALID_POOL: &str = "invalid address pool";
/// `ErrInvalidSubPool`.
pub const INVALID_SUB_POOL: &str = "invalid address subpool";
/// `ErrBadPool`.
pub const BAD_POOL: &str = "address space does not contain specified address pool";
