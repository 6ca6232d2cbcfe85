//! Validates JSON with docs/schema.json and docs/openapi.json.
//!
//! This module supports only those keywords of JSON Schema that these two files use. Any other keyword fails
//! the test. A library for all of JSON Schema would add about thirty crates.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use serde_json::{Value, json};

static SCHEMA: LazyLock<Value> = LazyLock::new(|| document("schema.json"));
static OPENAPI: LazyLock<Value> = LazyLock::new(|| document("openapi.json"));

fn document(name: &str) -> Value {
    let path = format!("{}/docs/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Returns the paths that docs/openapi.json contains.
pub fn paths() -> BTreeSet<String> {
    OPENAPI["paths"].as_object().unwrap().keys().cloned().collect()
}

/// Fails the test if a response of the JSON API does not match docs/openapi.json.
pub fn check_answer(path: &str, status: u16, answer: &Value) {
    let response = &OPENAPI["paths"][path]["get"]["responses"][status.to_string()];
    let schema = &response["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "docs/openapi.json has no {status} of {path}");
    if let Err(fault) = fits(answer, schema) {
        panic!("docs/openapi.json, {path}: {fault}");
    }
}

/// Returns the names of the commands in docs/schema.json.
pub fn commands() -> BTreeSet<String> {
    SCHEMA["properties"].as_object().unwrap().keys().cloned().collect()
}

/// Fails the test if the JSON output of a command does not match docs/schema.json.
pub fn check(command: &str, printed: &Value) {
    if let Err(fault) = fits(&json!({ command: printed }), &SCHEMA) {
        panic!("docs/schema.json: {fault}");
    }
}

fn fits(value: &Value, schema: &Value) -> Result<(), String> {
    let no = |why: &str| Err(format!("{why}: {value} by {schema}"));
    for (keyword, rule) in schema.as_object().unwrap() {
        let fits_rule = |other: &&Value| fits(value, other).is_ok();
        let length = || value.as_array().map(|items| items.len() as u64);
        let is_right = match keyword.as_str() {
            "$schema" | "title" | "description" | "$defs" => true,
            "$ref" => {
                // Only docs/openapi.json has references to components.
                let (_, target) = rule.as_str().unwrap().split_once('#').unwrap();
                let is_api = target.starts_with("/components/");
                let document = if is_api { &OPENAPI } else { &SCHEMA };
                fits(value, document.pointer(target).unwrap())?;
                true
            }
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "array" => value.is_array(),
                "string" => value.is_string(),
                "boolean" => value.is_boolean(),
                "integer" => value.as_number().is_some_and(|n| !n.to_string().contains(['.', 'e'])),
                other => panic!("type {other}"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "const" => rule == value,
            "minimum" => value.as_f64() >= rule.as_f64(),
            "maximum" => value.as_f64() <= rule.as_f64(),
            "minItems" => length() >= rule.as_u64(),
            "maxItems" => length() <= rule.as_u64(),
            "anyOf" => rule.as_array().unwrap().iter().any(|other| fits_rule(&other)),
            "oneOf" => rule.as_array().unwrap().iter().filter(fits_rule).count() == 1,
            "format" => value.as_str().is_some_and(|text| has_format(text, rule.as_str().unwrap())),
            "items" => {
                value.as_array().into_iter().flatten().try_for_each(|item| fits(item, rule))?;
                true
            }
            "required" => rule
                .as_array()
                .unwrap()
                .iter()
                .all(|key| value.get(key.as_str().unwrap()).is_some()),
            "properties" => {
                for (key, rule) in rule.as_object().unwrap() {
                    value.get(key).map_or(Ok(()), |value| fits(value, rule))?;
                }
                true
            }
            "additionalProperties" => {
                let known = |key: &str| schema["properties"].get(key).is_some();
                let mut more =
                    value.as_object().into_iter().flatten().filter(|(key, _)| !known(key));
                match rule {
                    Value::Bool(allowed) => *allowed || more.next().is_none(),
                    rule => more.all(|(_, value)| fits(value, rule).is_ok()),
                }
            }
            other => panic!("keyword {other}"),
        };
        if !is_right {
            return no(keyword);
        }
    }
    Ok(())
}

fn has_format(text: &str, format: &str) -> bool {
    let is_address = |text: &str| text.parse::<std::net::IpAddr>().is_ok();
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "cidr" => text.split_once('/').is_some_and(|(addr, length)| {
            is_address(addr) && length.parse::<u8>().is_ok_and(|bits| bits <= 128)
        }),
        // A time must be in UTC, with a precision of one second.
        "date-time" => {
            text.len() == "2026-01-31T22:56:40Z".len() && text.parse::<jiff::Timestamp>().is_ok()
        }
        other => panic!("format {other}"),
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let row = json!({"network": "n", "address": "10.0.0.2", "kind": "dynamic", "time": "2026-01-31T22:56:40Z"});
    let is_list = |value: &Value| fits(&json!({"list": [value]}), &SCHEMA).is_ok();
    assert!(is_list(&row));
    for (key, wrong) in [
        ("network", json!(7)),
        ("network", Value::Null),
        ("address", json!("10.0.0")),
        ("kind", json!("odd")),
        ("time", json!("yesterday")),
        ("prefix", json!(129)),
        ("netnsInode", json!([1])),
        ("colour", json!("blue")),
    ] {
        let mut row = row.clone();
        row[key] = wrong;
        assert!(!is_list(&row), "{row}");
    }
    assert!(fits(&json!({"lits": []}), &SCHEMA).is_err());
}
