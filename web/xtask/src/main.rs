//! What `wasm-bindgen --target web` does, from the library that it is made of: `xtask IN.wasm OUT`.

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(input), Some(output)) = (arguments.next(), arguments.next()) else {
        anyhow::bail!("usage: xtask IN.wasm OUT");
    };
    let mut bindgen = wasm_bindgen_cli_support::Bindgen::new();
    bindgen.input_path(&input).web(true)?.typescript(true).omit_default_module_path(false).remove_name_section(true);
    bindgen.generate(&output)
}
