//! What an embedder takes on with this crate.

use std::collections::BTreeSet;
use std::process::Command;

/// (depth, package) of each line of the dependency tree without default features.
fn tree() -> Vec<(usize, String)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--offline", "--locked", "--no-default-features", "--edges", "normal"])
        .args(["--prefix", "depth", "--format", " {p}", "--no-dedupe"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let line = |line: &str| -> Option<(usize, String)> {
        let (depth, package) = line.split_once(' ')?;
        Some((depth.parse().ok()?, package.split(' ').next()?.to_owned()))
    };
    String::from_utf8(output.stdout).unwrap().lines().filter_map(line).collect()
}

#[test]
fn the_library_alone_needs_wgpu_and_a_handful() {
    let tree = tree();
    let direct: BTreeSet<&str> = tree.iter().filter(|(depth, _)| *depth == 1).map(|(_, name)| name.as_str()).collect();
    assert_eq!(direct, BTreeSet::from(["bytemuck", "half", "naga", "pollster", "thiserror", "wgpu"]));
    // Beside what wgpu brings along, only what these four are made of.
    let (mut wgpu, mut own) = (BTreeSet::new(), BTreeSet::new());
    let mut of_wgpu = false;
    for (depth, name) in tree.iter().filter(|(depth, _)| *depth > 0) {
        if *depth == 1 {
            of_wgpu = name == "wgpu";
        }
        if of_wgpu { &mut wgpu } else { &mut own }.insert(name.as_str());
    }
    let more: BTreeSet<&str> = own.difference(&wgpu).copied().collect();
    println!("{} packages of wgpu, and {more:?}", wgpu.len());
    let allowed = ["bytemuck_derive", "half", "pollster", "zerocopy", "zerocopy-derive"];
    assert!(more.iter().all(|name| allowed.contains(name)), "{more:?}");
}

/// Everything may be made on one thread and used on another, and shared.
#[test]
fn everything_is_send_and_sync() {
    fn shared<T: Send + Sync>() {}
    use regard::attention::{Attention, AttentionInputs, AttentionOutputs};
    use regard::layers::{GpuAttentionDecoder, GpuAttentiveEncoder};
    use regard::ops::{cache::KvCache, rnn::GpuRnn};
    use regard::rnn::RnnInputs;
    use regard::{Error, Gpu, Tensor, gpu::Run, recording::Recording, tensor::Array};
    shared::<(Gpu, Tensor, Run<'_>, Recording, Error, Array)>();
    shared::<(Attention, AttentionInputs<Tensor>, AttentionOutputs<Tensor>, RnnInputs<Tensor>)>();
    shared::<(KvCache, GpuRnn, GpuAttentiveEncoder, GpuAttentionDecoder)>();
}
