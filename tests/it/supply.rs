//! What this crate is made of: where its packages come from, under which licences, and which compiler they want.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use spdx::{Expression, LicenseReq, Licensee, ParseMode};

/// `cargo metadata` of the locked packages; an error as well where `Cargo.lock` is not there or not what `Cargo.toml` asks
/// for. Never over the network.
fn metadata(more: &[&str]) -> Result<Value, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--offline", "--locked", "--all-features", "--format-version", "1"])
        .args(more)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(serde_json::from_slice(&output.stdout).unwrap())
}

/// Every package of the normal, build and dev tree but this crate: of all platforms where they have been downloaded
/// (`cargo fetch` does that), else of this one.
fn packages() -> Vec<Value> {
    let (platforms, metadata) = match metadata(&[]) {
        Ok(metadata) => ("every platform", metadata),
        Err(_) => ("this platform; `cargo fetch` gets the others", {
            let version = Command::new("rustc").arg("-vV").output().unwrap().stdout;
            let version = String::from_utf8(version).unwrap();
            let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            metadata(&["--filter-platform", host]).unwrap()
        }),
    };
    let used: Vec<&Value> = metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect();
    let all = metadata["packages"].as_array().unwrap().iter();
    let others: Vec<Value> = all.filter(|p| used.contains(&&p["id"]) && p["name"] != "regard").cloned().collect();
    println!("{} packages of {platforms}", others.len());
    assert!(others.len() > 100);
    others
}

fn told(package: &Value) -> String {
    format!("{} {}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap())
}

/// The strings of `allow` in `deny.toml`.
fn allowed() -> Vec<Licensee> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml")).unwrap();
    let list = text.split_once("\nallow = [").unwrap().1.split_once(']').unwrap().0;
    list.split(',').map(|licence| Licensee::parse(licence.trim().trim_matches('"')).unwrap()).collect()
}

/// Whether an expression of `Cargo.toml` can be satisfied with the licences on the list.
fn permitted(expression: &str, allowed: &[Licensee]) -> bool {
    let holds = |req: &LicenseReq| allowed.iter().any(|licensee| licensee.satisfies(req));
    Expression::parse_mode(expression, ParseMode::LAX).is_ok_and(|expression| expression.evaluate(holds))
}

#[test]
fn every_licence_is_on_the_list() {
    let allowed = allowed();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused = Vec::new();
    for package in packages() {
        let licence = package["license"].as_str().unwrap_or("none");
        *counts.entry(licence.to_owned()).or_default() += 1;
        if !permitted(licence, &allowed) {
            refused.push(format!("{}: {licence}", told(&package)));
        }
    }
    for (licence, packages) in counts {
        println!("{packages:4} {licence}");
    }
    assert!(refused.is_empty(), "not on the list of deny.toml: {refused:#?}");
}

#[test]
fn other_licences_are_refused() {
    let allowed = allowed();
    for good in ["MIT", "MIT/Apache-2.0", "MIT OR GPL-3.0-only", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(permitted(good, &allowed), "{good}");
    }
    for bad in
        ["GPL-3.0-only", "MIT AND LGPL-2.1-or-later", "MPL-2.0", "none", "", "Apache-2.0 WITH Classpath-exception-2.0"]
    {
        assert!(!permitted(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_package_comes_from_the_registry() {
    let registry = |package: &Value| package["source"].as_str().is_some_and(|source| source.starts_with("registry+"));
    let others: Vec<String> = packages().iter().filter(|package| !registry(package)).map(told).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// What `rust-version` says holds for every package that is built.
#[test]
fn no_package_wants_a_newer_compiler() {
    let numbers = |version: &str| version.split('.').map(|part| part.parse().unwrap()).collect::<Vec<u32>>();
    let ours = numbers(env!("CARGO_PKG_RUST_VERSION"));
    let newer =
        |package: &Value| package["rust_version"].as_str().is_some_and(|theirs| numbers(theirs)[..2] > ours[..2]);
    let newer: Vec<String> = packages().iter().filter(|package| newer(package)).map(told).collect();
    assert!(newer.is_empty(), "{newer:?}");
}
