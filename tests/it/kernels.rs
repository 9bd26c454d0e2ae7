//! Every kernel variant against the f64 oracle over the whole case table, on the device at hand.

use std::time::Duration;

use regard::gpu::{Gpu, Open};
use regard::validate::{self, Row, Sample};
use regard::wgsl::Kernel;

use crate::gpu::{gpu, minimal_gpu, open};

/// Kernels that this device cannot or need not run: `fused.rs`, `products.rs` and `cooperative.rs` do where they can.
const ELSEWHERE: [Kernel; 4] = [Kernel::Flash, Kernel::MatmulTiled, Kernel::FlashCoop, Kernel::CoopRate];

fn check(rows: &[Row], whole: bool) {
    for kernel in Kernel::ALL.into_iter().filter(|kernel| !ELSEWHERE.contains(kernel)) {
        let of_kernel: Vec<_> = rows.iter().filter(|row| row.kernel == kernel.name()).collect();
        let worst = of_kernel.iter().map(|row| row.worst).fold(0.0, f64::max);
        println!("{}: {} variants, worst error ÷ tolerance {worst:.2}", kernel.name(), of_kernel.len());
        assert!(!whole || !of_kernel.is_empty(), "no case runs `{}`", kernel.name());
    }
    let unsound: Vec<_> = rows.iter().flat_map(|row| &row.unsound).collect();
    assert!(unsound.is_empty(), "{unsound:?}");
    let failures: Vec<_> = rows.iter().flat_map(|row| &row.failures).collect();
    let unique: std::collections::BTreeSet<_> = failures.into_iter().collect();
    let list: Vec<_> = unique.iter().map(|s| s.as_str()).collect();
    assert!(list.is_empty(), "{} failures\n{}", list.len(), list.join("\n"));
}

#[test]
fn every_variant_is_within_the_tolerance() {
    // A software driver compiles a device's programs one after the other: half of the cases on a device each, one of
    // which runs every workgroup as a dispatch of its own.
    let other = open(Open::default()).with_longest_dispatch(Duration::ZERO);
    let half = |gpu: &Gpu, first| validate::run(gpu, Sample { first, step: 2 }, |_, _| {}).unwrap();
    let rows = std::thread::scope(|scope| {
        let second = scope.spawn(|| half(&other, 1));
        let mut rows = half(gpu(), 0);
        rows.extend(second.join().unwrap());
        rows
    });
    check(&rows, true);
}

/// Every fifth case, all of them where `REGARD_WHOLE_TABLE` is set.
#[test]
fn and_with_default_limits_and_no_features() {
    let whole = std::env::var_os("REGARD_WHOLE_TABLE").is_some();
    let sample = if whole { Sample::ALL } else { Sample::QUICK };
    check(&validate::run(minimal_gpu(), sample, |_, _| {}).unwrap(), whole);
}
