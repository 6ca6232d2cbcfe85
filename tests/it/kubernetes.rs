//! Checks that the files in packaging/kubernetes and packaging/helm agree: they must name the program's
//! version, and must contain the same alert rules as packaging/prometheus. `scripts/kubernetes.sh` renders
//! the files.

use std::path::Path;

use serde_norway::Value;

use crate::tidy::{read, root};

fn yaml(path: &str) -> Value {
    serde_norway::from_str(&read(&root().join(path))).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn every_version_is_that_of_the_program() {
    let version = env!("CARGO_PKG_VERSION");
    let chart = yaml("packaging/helm/sublet/Chart.yaml");
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
    assert_eq!(yaml("packaging/helm/sublet/values.yaml")["image"]["tag"], version);
    for path in ["base/daemonset.yaml", "components/page/kustomization.yaml"] {
        let text = read(&root().join("packaging/kubernetes").join(path));
        let images: Vec<&str> =
            text.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        assert!(!images.is_empty(), "{path}");
        assert!(images.iter().all(|i| *i == format!("sublet:{version}")), "{path}: {images:?}");
    }
}

#[test]
fn the_rules_are_those_of_prometheus() {
    let rules = yaml("packaging/prometheus/sublet.rules.yml");
    assert_eq!(yaml("packaging/kubernetes/monitoring/rules.yaml")["spec"], rules);
    let linked = root().join("packaging/helm/sublet/sublet.rules.yml");
    assert!(linked.is_symlink());
    assert_eq!(
        read(&linked),
        read(Path::new(&root().join("packaging/prometheus/sublet.rules.yml")))
    );
}
