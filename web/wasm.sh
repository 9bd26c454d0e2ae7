# For scripts in this folder: `wasm` is cargo for WebAssembly with SIMD128. Where the compiler has no standard library for that, it is
# built from the source beside this file.
target=wasm32-unknown-unknown
out="$PWD/target"
wasm_flags=(--target "$target" --target-dir "$out")
wasm_environment=(RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+simd128 --cfg getrandom_backend=\"wasm_js\"")
if ! ls "$(rustc --print sysroot)/lib/rustlib/$target/lib"/libstd-*.rlib >/dev/null 2>&1; then
    if [ "$(rustc --version | cut -d' ' -f2)" != 1.95.0 ]; then
        echo "No standard library for $target: rustup target add $target" >&2
        exit 1
    fi
    if [ ! -e target/std-1.95.0/library ]; then
        mkdir -p target/std-1.95.0
        tar -C target/std-1.95.0 -xf std-1.95.0.tar.xz
    fi
    # Cargo takes the library's source from here, and the stable compiler its unstable features.
    wasm_environment+=(RUSTC_BOOTSTRAP=1 "__CARGO_TESTS_ONLY_SRC_ROOT=$PWD/target/std-1.95.0/library")
    wasm_flags+=(-Zbuild-std=std,panic_abort,test)
fi

wasm() { env "${wasm_environment[@]}" cargo "$@" --locked "${wasm_flags[@]}"; }
