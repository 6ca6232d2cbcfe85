//! The names for which addresses can be reserved.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Lease, NameError, Origin, check_name};

/// The maximum length of a name, in bytes. In Kubernetes, a namespace has at most 63 bytes, and a pod's name
/// at most 253.
const LONGEST: usize = 320;

name!(
    /// A name for which an address can be reserved: a pod as `namespace/name`, or the name of a container.
    StaticName,
    |text: &str| {
        if text.len() > LONGEST {
            return Err(NameError::TooLong);
        }
        let (first, second) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        check_name(first).and_then(|()| second.map_or(Ok(()), check_name))
    }
);

impl StaticName {
    /// Returns the name of a request's container: the pod if it is known, otherwise the container's name.
    /// `None` if the request has neither, or if no address can be reserved for the name.
    pub fn of(origin: &Origin) -> Option<StaticName> {
        let name = match &origin.pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => origin.endpoint.clone()?,
        };
        StaticName::new(name).ok()
    }

    /// Returns whether the container of a request with this origin has this name.
    pub fn is_of(&self, origin: &Origin) -> bool {
        StaticName::of(origin).as_ref() == Some(self)
    }

    /// Returns whether a container with this name has the lease.
    pub fn has(&self, lease: &Lease) -> bool {
        lease.kind.collectable() && self.is_of(&lease.origin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pod;

    #[test]
    fn a_name_is_a_pods_or_a_containers() {
        for good in ["shop/db-0", "db-0", "a.b/c_d", "X1"] {
            assert_eq!(StaticName::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "shop/", "/db-0", "a/b/c", "a b", "-a", "a/-b", "\u{e4}", "a\n"] {
            assert!(StaticName::new(bad).is_err(), "{bad:?}");
        }
        assert_eq!(StaticName::new("a".repeat(321)), Err(NameError::TooLong));
    }

    #[test]
    fn the_pod_comes_before_the_containers_name() {
        let pod = Pod { namespace: "shop".into(), name: "db-0".into(), uid: "u".into() };
        let endpoint = Some("db".to_owned());
        let named = Origin { endpoint, ..Origin::default() };
        assert_eq!(StaticName::of(&named).unwrap().as_str(), "db");
        let both = Origin { pod: Some(pod), ..named };
        assert_eq!(StaticName::of(&both).unwrap().as_str(), "shop/db-0");
        assert_eq!(StaticName::of(&Origin::default()), None);
    }
}
