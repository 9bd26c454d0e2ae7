//! Tells what the compiler has: AVX-512 intrinsics came with Rust 1.89.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(avx512)");
    if autocfg::new().probe_rustc_version(1, 89) {
        autocfg::emit("avx512");
    }
}
