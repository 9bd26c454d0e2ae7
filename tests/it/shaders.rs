//! Every variant of every shader, without a GPU: it parses, validates, keeps to the limits and can be lowered for
//! Vulkan, Metal and Direct3D; Rust's uniform structs lie as the shaders' do.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use naga::back::{hlsl, msl, spv};
use naga::proc::Layouter;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, ShaderStage, TypeInner};
use regard::kernels;
use regard::plan::Caps;
use regard::tensor::DType;
use regard::wgsl::{Kernel, ParamsSpace, Variant};

use crate::recordings;

fn parse(variant: &Variant, params: ParamsSpace) -> (Module, ModuleInfo) {
    let source = variant.source(params);
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{}: {}", variant.label(), error.emit_to_string(&source)));
    let cooperative = if variant.is_cooperative() { Capabilities::COOPERATIVE_MATRIX } else { Capabilities::empty() };
    let capabilities = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP | cooperative;
    let info = Validator::new(ValidationFlags::all(), capabilities)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}", variant.label(), error.emit_to_string(&source)));
    (module, info)
}

/// The same program as problems larger than the table's take it: 32 rows a workgroup.
fn for_long_problems(variant: &Variant) -> Variant {
    let doubled = |(name, value): &(&'static str, f64)| {
        let rows = ["BANDS", "FOURS", "WEIGHTS"].contains(name);
        (*name, if rows { value * 2.0 } else { *value })
    };
    Variant { overrides: variant.overrides.iter().map(doubled).collect(), ..variant.clone() }
}

/// Every variant that any recording of the table uses, by key.
fn variants() -> BTreeMap<String, Variant> {
    let card = Caps { f16: true, ..Caps::default() };
    let software = Caps { software: true, ..card.clone() };
    let subgroups = Caps { subgroups: true, min_subgroup: 8, max_subgroup: 64, ..card.clone() };
    let lanes = Caps { subgroups: true, min_subgroup: 8, max_subgroup: 8, ..software.clone() };
    let cooperative = |side: u32| Caps { cooperative: Some(side), max_subgroup: 4 * side, ..subgroups.clone() };
    let caps = [card, software, lanes, cooperative(8), cooperative(16), subgroups];
    let mut found = BTreeMap::new();
    for caps in caps {
        for recording in recordings::every_kind(&caps) {
            for dispatch in recording.dispatches() {
                let variant = dispatch.variant.clone();
                if variant.kernel == Kernel::FlashRows && variant.overrides.contains(&("BANDS", 1.0)) {
                    let long = for_long_problems(&variant);
                    found.insert(long.key(), long);
                }
                found.insert(variant.key(), variant);
            }
        }
    }
    found
}

#[test]
fn every_variant_lowers_for_every_backend() {
    let variants = variants();
    for kernel in Kernel::ALL {
        assert!(variants.values().any(|v| v.kernel == kernel), "no recording uses `{}`", kernel.name());
    }
    let spaces = [ParamsSpace::Uniform, ParamsSpace::Storage];
    for (variant, space) in variants.values().flat_map(|variant| spaces.map(|space| (variant, space))) {
        let name = variant.label();
        let (module, info) = parse(variant, space);
        let constants = variant.overrides.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let entry = (ShaderStage::Compute, "main");
        let (module, info) = naga::back::pipeline_constants::process_overrides(&module, &info, Some(entry), &constants)
            .unwrap_or_else(|error| panic!("{name}: {error}"));

        let options = spv::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: "main".into() };
        spv::write_vec(&module, &info, &spv::Options { lang_version: (1, 3), ..Default::default() }, Some(&options))
            .unwrap_or_else(|error| panic!("{name}, SPIR-V: {error}"));
        let options = msl::Options { lang_version: (2, 4), ..Default::default() };
        msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
            .unwrap_or_else(|error| panic!("{name}, MSL: {error}"));
        // naga's HLSL back end has no cooperative matrices: wgpu offers them on Vulkan and Metal alone.
        if !variant.is_cooperative() {
            let options = hlsl::Options { shader_model: hlsl::ShaderModel::V6_2, ..Default::default() };
            let mut text = String::new();
            hlsl::Writer::new(&mut text, &options, &hlsl::PipelineOptions::default())
                .write(&module, &info, None)
                .unwrap_or_else(|error| panic!("{name}, HLSL: {error}"));
        }

        let mut layouter = Layouter::default();
        layouter.update(module.to_ctx()).unwrap();
        let workgroup: u32 = module
            .global_variables
            .iter()
            .filter(|(_, variable)| variable.space == AddressSpace::WorkGroup)
            .map(|(_, variable)| layouter[variable.ty].size)
            .sum();
        assert!(workgroup <= Caps::default().max_workgroup_bytes, "{name}: {workgroup} bytes of workgroup memory");
        let storage = module
            .global_variables
            .iter()
            .filter(|(_, variable)| matches!(variable.space, AddressSpace::Storage { .. }))
            .count();
        // Parameters are among them only where the device has one to spare.
        let others = storage - usize::from(space == ParamsSpace::Storage);
        assert!(others as u32 <= Caps::default().max_storage_buffers, "{name}: {storage} storage buffers");
    }
    println!("{} variants", variants.len());
}

#[test]
fn uniform_structs_lie_alike_in_rust_and_wgsl() {
    let variants = variants();
    for (kernel, name, fields, size) in kernels::uniform_structs() {
        let variant = variants.values().find(|v| v.kernel == kernel).unwrap();
        let (module, _) = parse(variant, ParamsSpace::Uniform);
        let (_, ty) = module.types.iter().find(|(_, ty)| ty.name.as_deref() == Some(name)).unwrap();
        let TypeInner::Struct { members, span } = &ty.inner else { panic!("{name} is no struct") };
        let found: Vec<_> = members.iter().map(|m| (m.name.clone().unwrap(), m.offset as usize)).collect();
        let expected: Vec<_> = fields.iter().map(|(field, offset)| ((*field).to_owned(), *offset)).collect();
        assert_eq!(found, expected, "{}: {name}", kernel.name());
        assert_eq!(*span as usize, size, "{}: size of {name}", kernel.name());
    }
    // Each kernel with a uniform is in that list.
    for kernel in Kernel::ALL {
        assert!(kernels::uniform_structs().iter().any(|(k, name, ..)| *k == kernel && *name == "Params"));
    }
}

/// Browsers compile WGSL with Tint, which wants to see that all lanes come to a barrier.
#[test]
fn tint_accepts_every_kernel_where_it_is_installed() {
    if Command::new("tint").arg("--help").output().is_err() {
        println!("no `tint` program here: WGSL as browsers read it is not checked");
        return;
    }
    let sources: BTreeSet<(String, String)> = variants()
        .into_values()
        // Browsers have no such matrices; `enable wgpu_cooperative_matrix` is naga's own.
        .filter(|variant| !variant.is_cooperative())
        .map(|variant| {
            let enable = if variant.subgroups { "enable subgroups;\n" } else { "" };
            // naga has subgroup operations without that line, and does not know it.
            (enable.to_owned() + &variant.source(ParamsSpace::Storage), variant.kernel.name().to_owned())
        })
        .collect();
    let file = std::env::temp_dir().join(format!("regard-tint-{}.wgsl", std::process::id()));
    for (source, kernel) in &sources {
        std::fs::write(&file, source).unwrap();
        let run = Command::new("tint").args(["--format", "wgsl"]).arg(&file).output().unwrap();
        assert!(run.status.success(), "{kernel}: {}", String::from_utf8_lossy(&run.stderr));
    }
    std::fs::remove_file(&file).unwrap();
    println!("{} sources", sources.len());
}

/// One widely used compiler does not zero a `var` again in the next turn of a loop.
#[test]
fn every_variable_has_an_initialiser() {
    for kernel in Kernel::ALL {
        let variant = Variant {
            kernel,
            aliases: ["elem", "k_elem", "w_elem", "out_elem"].map(|alias| (alias, DType::F32)).to_vec(),
            overrides: vec![],
            score_mod: None,
            subgroups: false,
        };
        for line in variant.source(ParamsSpace::Uniform).lines() {
            let code = line.split("//").next().unwrap_or("").trim();
            let declares = code.starts_with("var ") || code.contains("(var ");
            assert!(!declares || code.contains('='), "{}: `{code}`", kernel.name());
        }
    }
}

#[test]
fn constants_are_the_same_in_rust_and_wgsl() {
    let hidden = include_str!("../../shaders/common/hidden.wgsl");
    let line = hidden.lines().find_map(|line| line.strip_prefix("const HIDDEN = ")).unwrap();
    let value: f32 = line.trim_end_matches(';').parse().unwrap();
    assert_eq!(value.to_bits(), kernels::score::HIDDEN.to_bits());
}
