//! The public items of a library, one a line, out of what `rustdoc --output-format json` wrote.
//!
//! ```text
//! api WITHOUT.json WITH.json
//! ```
//! The first is the library without default features, the second with them: the second part of the listing is what they
//! add. What a derive or a trait prescribes is one line, `impl Trait for Type`, without its methods.

use std::collections::HashSet;
use std::ffi::OsStr;

fn items(json: &OsStr) -> Result<Vec<String>, public_api::Error> {
    let api = public_api::Builder::from_rustdoc_json(json).omit_blanket_impls(true).omit_auto_trait_impls(true).build()?;
    let lines: Vec<_> = api.items().map(|item| (item.id(), item.parent_id(), item.to_string())).collect();
    let of_trait = |line: &str| line.starts_with("impl") && line.contains(" for ");
    let traits: HashSet<_> = lines.iter().filter(|(_, _, line)| of_trait(line)).map(|(id, _, _)| *id).collect();
    let own = |parent: Option<_>| !parent.is_some_and(|id| traits.contains(&id));
    let items = lines.into_iter().filter(|(_, parent, _)| own(*parent)).map(|(_, _, line)| line);
    Ok(items.filter(|line| !line.contains("core::marker::StructuralPartialEq")).collect())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [without, with] = &paths[..] else { return Err("two files are wanted: WITHOUT.json WITH.json".into()) };
    let (without, with) = (items(without)?, items(with)?);
    let known = |items: &[String]| items.iter().cloned().collect::<HashSet<_>>();
    let gone: Vec<_> = known(&without).difference(&known(&with)).cloned().collect();
    if !gone.is_empty() {
        return Err(format!("features may only add; with them these are gone: {gone:#?}").into());
    }
    println!("# default-features = false");
    without.iter().for_each(|line| println!("{line}"));
    println!("\n# what the default features add");
    let known = known(&without);
    with.iter().filter(|line| !known.contains(*line)).for_each(|line| println!("{line}"));
    Ok(())
}
