//! The option names of the protocol, and the texts of errors that do not come from the allocator. They are
//! identical to those in moby's `ipamapi`, because users and scripts search for them.

/// The value of [`ADDRESS_TYPE`] with which `RequestAddress` requests the gateway's address. It is also the
/// key of the gateway in the response to `RequestPool`.
pub const GATEWAY: &str = "com.docker.network.gateway";
/// The option of `RequestAddress` that states the purpose of the address.
pub const ADDRESS_TYPE: &str = "RequestAddressType";
/// The option to allocate addresses in ascending order, without immediately reusing a freed address. Swarm
/// sets this option.
pub const SERIAL: &str = "com.docker.network.ipam.serial";
/// The option with the endpoint's MAC address.
pub const MAC: &str = "com.docker.network.endpoint.macaddress";
/// The option with the container's name (dockerd 28.4 and later).
pub const ENDPOINT: &str = "com.docker.network.endpoint.name";
/// kontena-ipam's option: the name under which hosts share a pool.
pub const NETWORK: &str = "network";

/// The text of Docker's `ErrInvalidAddressSpace`.
pub const INVALID_SPACE: &str = "invalid address space";
/// The text of Docker's `ErrInvalidPool`.
pub const INVALID_POOL: &str = "invalid address pool";
/// The text of Docker's `ErrInvalidSubPool`.
pub const INVALID_SUB_POOL: &str = "invalid address subpool";
/// The text of Docker's `ErrBadPool`.
pub const BAD_POOL: &str = "address space does not contain specified address pool";
