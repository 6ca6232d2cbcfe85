//! Formats the result of an ADD for each CNI version, and formats errors.
//!
//! The output is identical, byte for byte, to the reference implementation's output. It has the same order of
//! keys, four spaces of indentation, and no newline at the end. The characters `<`, `>` and `&` are escaped.
//! Invariant: a result has neither `interfaces` nor `ips[].interface`, because an IPAM plugin creates no
//! interfaces.

use std::io;

use serde::Serialize;
use serde_json::json;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_with::skip_serializing_none;

use super::error::Failure;
use crate::config::{CniVersion, Dialect, Dns, Route};
use crate::model::Grant;
use crate::net::Family;

/// The values in the result of an ADD.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The addresses of the container, in the order of the range sets.
    pub grants: &'a [Grant],
    /// The routes of the container.
    pub routes: &'a [Route],
    /// The name resolution of the container.
    pub dns: &'a Dns,
}

/// Formats the result for `version`. In the ECS dialect, a result for version 0.3.0 contains no version, as
/// in the original ecs-ipam, which supported no other version.
pub fn render(version: CniVersion, dialect: Dialect, answer: Answer<'_>) -> io::Result<Vec<u8>> {
    let Answer { grants, routes, dns } = answer;
    let silent = dialect == Dialect::Ecs && version == CniVersion::V0_3_0;
    let mut wire = Wire {
        cni_version: (!silent).then_some(version.word()),
        ip4: None,
        ip6: None,
        ips: None,
        routes: &[],
        dns: Some(dns),
    };
    if version.one_per_family() {
        wire.ip4 = FamilyIp::new(Family::V4, answer);
        wire.ip6 = FamilyIp::new(Family::V6, answer);
        return pretty(&wire);
    }
    let tagged = version < CniVersion::V1_0_0;
    wire.ips = Some(grants.iter().map(|grant| WireIp::new(grant, tagged)).collect());
    wire.routes = routes;
    if tagged {
        return pretty(&wire);
    }
    wire.dns = wire.dns.filter(|dns| **dns != Dns::default());
    // Converting to a `Value` sorts the keys, as the reference implementation does from version 1.0.0 on.
    pretty(&serde_json::to_value(wire)?)
}

/// Formats the result of VERSION. As in the reference implementation, this result is one line, although all
/// other results are indented.
pub fn render_versions() -> Vec<u8> {
    let newest = CniVersion::NEWEST.word();
    let answer = json!({ "cniVersion": newest, "supportedVersions": CniVersion::texts() });
    format!("{answer}\n").into_bytes()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireFailure<'a> {
    cni_version: &'static str,
    #[serde(flatten)]
    failure: &'a Failure,
}

/// Formats an error, in the layout of the reference implementation.
pub fn render_failure(failure: &Failure, version: CniVersion) -> Vec<u8> {
    // Writing strings and a number into memory never fails.
    pretty(&WireFailure { cni_version: version.word(), failure }).unwrap_or_default()
}

/// Formats JSON as Go's `json.MarshalIndent` does.
fn pretty(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    let formatter = PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut Serializer::with_formatter(&mut bytes, formatter))?;
    if !bytes.iter().any(|b| b"<>&".contains(b)) {
        return Ok(bytes);
    }
    // These characters occur only inside strings, where the escaped form has the same meaning.
    let text = String::from_utf8_lossy(&bytes).replace('<', "\\u003c").replace('>', "\\u003e");
    Ok(text.replace('&', "\\u0026").into_bytes())
}

/// The content of a result, for serialization. Before CNI version 0.3.0, the addresses are in `ip4` and
/// `ip6`, each with the routes of the same family. From 0.3.0 on, the addresses are in `ips`, and the routes
/// in `routes`.
#[skip_serializing_none]
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Wire<'a> {
    cni_version: Option<&'static str>,
    ip4: Option<FamilyIp>,
    ip6: Option<FamilyIp>,
    ips: Option<Vec<WireIp>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    routes: &'a [Route],
    dns: Option<&'a Dns>,
}

#[skip_serializing_none]
#[derive(Serialize)]
struct FamilyIp {
    ip: String,
    gateway: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<Route>,
}

impl FamilyIp {
    /// Returns the first address of a family with the routes of this family. The format cannot represent
    /// routes of a family that has no address.
    fn new(family: Family, answer: Answer<'_>) -> Option<FamilyIp> {
        let grant = answer.grants.iter().find(|g| g.addr.family() == family)?;
        let of_family = |route: &&Route| route.net.is_some_and(|net| net.family() == family);
        let bare = |route: &Route| Route {
            dst: route.dst.clone(),
            gw: route.gw.clone(),
            ..Route::default()
        };
        Some(FamilyIp {
            ip: cidr(grant),
            gateway: grant.gateway.map(|gw| gw.to_string()),
            routes: answer.routes.iter().filter(of_family).map(bare).collect(),
        })
    }
}

#[skip_serializing_none]
#[derive(Serialize)]
struct WireIp {
    /// The address family; present only before 1.0.0.
    version: Option<&'static str>,
    address: String,
    gateway: Option<String>,
}

impl WireIp {
    fn new(grant: &Grant, tagged: bool) -> WireIp {
        WireIp {
            version: tagged.then_some(match grant.addr.family() {
                Family::V4 => "4",
                Family::V6 => "6",
            }),
            address: cidr(grant),
            gateway: grant.gateway.map(|gw| gw.to_string()),
        }
    }
}

fn cidr(grant: &Grant) -> String {
    format!("{}/{}", grant.addr, grant.prefix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Subnet;

    fn grant(addr: &str, prefix: u8, gateway: Option<&str>) -> Grant {
        Grant {
            addr: addr.parse().unwrap(),
            prefix,
            gateway: gateway.map(|gw| gw.parse().unwrap()),
        }
    }

    fn route(dst: &str, gw: Option<&str>) -> Route {
        Route {
            dst: dst.to_owned(),
            net: crate::net::parse_cidr(dst).map(Subnet::from),
            gw: gw.map(str::to_owned),
            ..Route::default()
        }
    }

    fn text(version: &str, dialect: Dialect, answer: Answer<'_>) -> String {
        let version = CniVersion::find(version).unwrap();
        String::from_utf8(render(version, dialect, answer).unwrap()).unwrap()
    }

    /// Returns the result without white space.
    fn short(version: &str, answer: Answer<'_>) -> String {
        text(version, Dialect::Native, answer).replace(['\n', ' '], "")
    }

    #[test]
    fn an_error_is_one_object() {
        let failure = Failure::new(4, "no <x>").details("why");
        assert_eq!(
            String::from_utf8(render_failure(&failure, CniVersion::V0_4_0)).unwrap(),
            "{\n    \"cniVersion\": \"0.4.0\",\n    \"code\": 4,\n    \
             \"msg\": \"no \\u003cx\\u003e\",\n    \"details\": \"why\"\n}"
        );
        let bare = Failure::new(7, "m").details("");
        let text = String::from_utf8(render_failure(&bare, CniVersion::NEWEST)).unwrap();
        assert!(!text.contains("details"), "{text}");
    }

    #[test]
    fn each_shape() {
        let grants = [grant("10.1.2.2", 24, Some("10.1.2.1")), grant("2001:db8:1::2", 64, None)];
        let routes = [
            route("0.0.0.0/0", None),
            Route {
                mtu: Some(1400),
                advmss: Some(0),
                priority: Some(100),
                table: Some(0),
                scope: Some(253),
                ..route("2001:db8:2::/64", Some("2001:db8:3::1"))
            },
        ];
        let dns = Dns {
            nameservers: vec!["192.0.2.3".into()],
            domain: Some("example.com".into()),
            search: vec!["a.example".into()],
            options: vec!["ndots:2".into()],
        };
        let answer = Answer { grants: &grants, routes: &routes, dns: &dns };
        assert_eq!(
            short("0.1.0", answer),
            r#"{"cniVersion":"0.1.0","ip4":{"ip":"10.1.2.2/24","gateway":"10.1.2.1","routes":[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"2001:db8:1::2/64","routes":[{"dst":"2001:db8:2::/64","gw":"2001:db8:3::1"}]},"dns":{"nameservers":["192.0.2.3"],"domain":"example.com","search":["a.example"],"options":["ndots:2"]}}"#
        );
        assert_eq!(
            short("0.4.0", answer),
            r#"{"cniVersion":"0.4.0","ips":[{"version":"4","address":"10.1.2.2/24","gateway":"10.1.2.1"},{"version":"6","address":"2001:db8:1::2/64"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"2001:db8:2::/64","gw":"2001:db8:3::1","mtu":1400,"priority":100,"table":0,"scope":253}],"dns":{"nameservers":["192.0.2.3"],"domain":"example.com","search":["a.example"],"options":["ndots:2"]}}"#
        );
        assert_eq!(
            short("1.1.0", answer),
            r#"{"cniVersion":"1.1.0","dns":{"domain":"example.com","nameservers":["192.0.2.3"],"options":["ndots:2"],"search":["a.example"]},"ips":[{"address":"10.1.2.2/24","gateway":"10.1.2.1"},{"address":"2001:db8:1::2/64"}],"routes":[{"dst":"0.0.0.0/0"},{"dst":"2001:db8:2::/64","gw":"2001:db8:3::1","mtu":1400,"priority":100,"scope":253,"table":0}]}"#
        );
    }

    #[test]
    fn what_is_empty() {
        let answer =
            Answer { grants: &[grant("10.1.2.2", 24, None)], routes: &[], dns: &Dns::default() };
        let ip = r#"{"address":"10.1.2.2/24"}"#;
        assert_eq!(
            short("0.2.0", answer),
            r#"{"cniVersion":"0.2.0","ip4":{"ip":"10.1.2.2/24"},"dns":{}}"#
        );
        assert_eq!(
            short("0.3.0", answer),
            r#"{"cniVersion":"0.3.0","ips":[{"version":"4","address":"10.1.2.2/24"}],"dns":{}}"#
        );
        let plain = format!(r#"{{"cniVersion":"1.0.0","ips":[{ip}]}}"#);
        assert_eq!(short("1.0.0", answer), plain);
    }

    #[test]
    fn ecs_0_3_0_is_met_byte_for_byte() {
        let answer = Answer {
            grants: &[grant("10.0.0.2", 24, Some("10.0.0.1"))],
            routes: &[route("169.254.170.2/32", None), route("169.254.170.0/20", Some("10.0.0.1"))],
            dns: &Dns::default(),
        };
        let expected = r#"{
    "ips": [
        {
            "version": "4",
            "address": "10.0.0.2/24",
            "gateway": "10.0.0.1"
        }
    ],
    "routes": [
        {
            "dst": "169.254.170.2/32"
        },
        {
            "dst": "169.254.170.0/20",
            "gw": "10.0.0.1"
        }
    ],
    "dns": {}
}"#;
        assert_eq!(text("0.3.0", Dialect::Ecs, answer), expected);
        assert!(text("0.3.1", Dialect::Ecs, answer).contains("cniVersion"));
    }

    #[test]
    fn go_escapes_angle_brackets() {
        let nowhere = Route { dst: "<nil>".into(), ..Route::default() };
        let answer = Answer {
            grants: &[grant("10.0.0.2", 24, None)],
            routes: &[nowhere],
            dns: &Dns::default(),
        };
        assert!(short("0.3.0", answer).contains(r#""dst":"\u003cnil\u003e""#));
    }
}
