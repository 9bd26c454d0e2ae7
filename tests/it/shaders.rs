//! Every variant of every shader, without a GPU: it parses, validates, keeps to the limits and can be lowered for
//! Vulkan, Metal and Direct3D; Rust's uniform structs lie as the shaders' do.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::process::Command;

use naga::back::{hlsl, msl, spv};
use naga::proc::Layouter;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, ArraySize, Expression, Module, Scalar, ShaderStage, StorageAccess, TypeInner, VectorSize};
use regard::device::Caps;
use regard::kernels::{self, flash_rows};
use regard::recording::{Binding, Dispatch};
use regard::tensor::DType;
use regard::wgsl::{Access, Kernel, ParamsSpace, UniformType, Variant};

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
        let rows = ["ROW_BLOCKS", "ROW_QUADS", "P_ENTRIES"].contains(name);
        (*name, if rows { value * 2.0 } else { *value })
    };
    Variant { overrides: variant.overrides.iter().map(doubled).collect(), ..variant.clone() }
}

/// Every dispatch of the table's recordings, on every kind of device.
fn dispatches() -> impl Iterator<Item = Dispatch> {
    let card = Caps::default().with(|caps| caps.f16 = true);
    let software = card.with(|caps| caps.software = true);
    let subgroups = card.with(|caps| {
        caps.subgroups = true;
        caps.min_subgroup = 8;
        caps.max_subgroup = 64;
    });
    let lanes = software.with(|caps| {
        caps.subgroups = true;
        caps.min_subgroup = 8;
        caps.max_subgroup = 8;
    });
    let cooperative = |side: u32| {
        subgroups.with(|caps| {
            caps.cooperative = Some(side);
            caps.max_subgroup = 4 * side;
        })
    };
    let caps = [card, software, lanes, cooperative(8), cooperative(16), subgroups];
    let recordings = caps.into_iter().flat_map(|caps| recordings::every_kind(&caps));
    recordings.flat_map(|recording| recording.dispatches().cloned().collect::<Vec<_>>())
}

/// Every variant that any of them uses, by a text that tells them apart.
fn variants() -> BTreeMap<String, Variant> {
    let mut found = BTreeMap::new();
    for Dispatch { variant, .. } in dispatches() {
        let key = |variant: &Variant| format!("{} {:?}", variant.label(), variant.score_mod);
        if variant.kernel == flash_rows::KERNEL && variant.overrides.contains(&("ROW_BLOCKS", 1.0)) {
            let long = for_long_problems(&variant);
            found.insert(key(&long), long);
        }
        found.insert(key(&variant), variant);
    }
    found
}

#[test]
fn every_variant_lowers_for_every_backend() {
    let variants = variants();
    for kernel in kernels::ALL {
        assert!(variants.values().any(|v| v.kernel == *kernel), "no recording uses {kernel:?}");
    }
    // Programs are told apart as the texts are, and found again.
    let distinct: HashSet<&Variant> = variants.values().collect();
    assert_eq!(distinct.len(), variants.len());
    assert!(variants.values().all(|variant| distinct.contains(&variant.clone())));
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

/// A kernel of each, with a parsed program of it.
fn programs() -> Vec<(&'static Kernel, Variant, Module)> {
    let variants = variants();
    let program = |variant: &Variant| {
        let kernel = variant.kernel.built_in().unwrap();
        (kernel, variant.clone(), parse(variant, ParamsSpace::Uniform).0)
    };
    variants.values().map(program).collect()
}

fn lies_alike(module: &Module, ty: naga::Handle<naga::Type>, declared: &UniformType, path: &str) {
    let (members, span) = match &module.types[ty].inner {
        TypeInner::Struct { members, span } => (members, *span),
        TypeInner::Array { base, size: ArraySize::Constant(count), stride } => {
            assert_eq!((count.get() * stride) as usize, declared.size, "{path}");
            return lies_alike(module, *base, &UniformType { size: *stride as usize, ..*declared }, path);
        }
        number => return assert_eq!(number.size(module.to_ctx()) as usize, declared.size, "{path}"),
    };
    let found: Vec<_> = members.iter().map(|m| (m.name.as_deref().unwrap(), m.offset as usize)).collect();
    let expected: Vec<_> = declared.members.iter().map(|member| (member.name, member.offset)).collect();
    assert_eq!(found, expected, "{path}");
    // The whole may be shorter in WGSL, which rounds up only what lies inside another struct.
    assert_eq!(span.next_multiple_of(16) as usize, declared.size, "{path}");
    for (member, declared) in members.iter().zip(declared.members) {
        lies_alike(module, member.ty, declared.ty, &format!("{path}.{}", declared.name));
    }
}

#[test]
fn uniform_structs_lie_alike_in_rust_and_wgsl() {
    for (kernel, _, module) in programs() {
        let params = module.global_variables.iter().map(|(_, variable)| variable);
        let params = params
            .into_iter()
            .find(|variable| variable.space == AddressSpace::Uniform && variable.name.as_deref() == Some("params"));
        lies_alike(&module, params.unwrap().ty, kernel.params, kernel.name);
    }
}

/// What an array's elements are declared to be, in a program with these element types.
fn element(declared: &str, variant: &Variant) -> TypeInner {
    let name = declared.trim_start_matches("vec4<").trim_end_matches('>');
    let aliased = variant.aliases.iter().find(|(alias, _)| *alias == name).map(|(_, dtype)| *dtype);
    let scalar = match (aliased, name) {
        (Some(DType::Q8), _) => return TypeInner::Scalar(Scalar::U32),
        (Some(DType::F32), _) | (None, "f32") => Scalar::F32,
        (Some(DType::F16), _) => Scalar { width: 2, ..Scalar::F32 },
        (Some(DType::U32), _) | (None, "u32") => Scalar::U32,
        other => panic!("{other:?}"),
    };
    if declared == name { TypeInner::Scalar(scalar) } else { TypeInner::Vector { size: VectorSize::Quad, scalar } }
}

#[test]
fn kernels_declare_what_their_shaders_do() {
    for (kernel, variant, module) in programs() {
        let name = variant.label();
        let mut found = BTreeMap::new();
        for (_, variable) in module.global_variables.iter() {
            let AddressSpace::Storage { access } = variable.space else { continue };
            let TypeInner::Array { base, .. } = module.types[variable.ty].inner else { panic!("{name}") };
            let access = if access.contains(StorageAccess::STORE) { Access::Write } else { Access::Read };
            let at = variable.binding.as_ref().unwrap();
            // Products read and write numbers or quads of them, as the tensors lie.
            let inner = match module.types[base].inner {
                TypeInner::Vector { scalar, .. } if kernel.name.starts_with("matmul") => TypeInner::Scalar(scalar),
                ref inner => inner.clone(),
            };
            found.insert(at.binding, (variable.name.clone().unwrap(), inner, access));
        }
        let declared = kernel.buffers.iter();
        let declared = declared.map(|b| (b.name.to_owned(), element(b.element, &variant), b.access));
        assert_eq!(found, (1..).zip(declared).collect(), "{name}");

        let named = variant.aliases.iter().map(|(alias, _)| *alias).collect::<BTreeSet<_>>();
        let elements = kernel.buffers.iter().map(|b| b.element.trim_start_matches("vec4<").trim_end_matches('>'));
        assert_eq!(named, elements.filter(|element| element.ends_with("elem")).collect(), "{name}");

        // Constants that are computed from others are nobody's to set.
        let is_set =
            |init: Option<_>| init.is_none_or(|e| matches!(module.global_expressions[e], Expression::Literal(_)));
        let constants = module.overrides.iter().filter(|(_, constant)| is_set(constant.init));
        let found: BTreeSet<_> = constants.map(|(_, constant)| constant.name.as_deref().unwrap()).collect();
        let files = variant.files(ParamsSpace::Uniform);
        let declared: BTreeSet<_> = files.iter().flat_map(|file| file.overrides).copied().collect();
        assert_eq!(found, declared, "{name}");
        let set: BTreeSet<_> = variant.overrides.iter().map(|(constant, _)| *constant).collect();
        assert!(set.is_subset(&declared) && set.len() == variant.overrides.len(), "{name}");
    }
}

#[test]
fn dispatches_bind_what_kernels_declare() {
    for dispatch in dispatches() {
        let kernel = dispatch.variant.kernel.built_in().unwrap();
        let bound = dispatch.bindings.iter().map(|binding| match binding {
            Binding::Read(_) | Binding::Unused => Access::Read,
            Binding::Write(_) => Access::Write,
        });
        assert!(bound.eq(kernel.buffers.iter().map(|buffer| buffer.access)), "{kernel:?}: {:?}", dispatch.bindings);
        assert_eq!(dispatch.params.len(), kernel.params.size, "{kernel:?}");
    }
}

#[test]
fn every_shader_file_is_some_kernels() {
    let shaders = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let files = |folder: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(shaders.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let names = entries.filter(|path| path.is_file()).map(|path| path.file_name().unwrap().to_owned());
        names.map(|name| Path::new(folder).join(name).to_str().unwrap().to_owned()).collect()
    };
    let listed: Vec<String> = kernels::ALL.iter().map(|kernel| format!("{}.wgsl", kernel.name)).collect();
    assert!(listed.is_sorted());
    assert_eq!(files(""), listed.into_iter().collect());
    let used = kernels::ALL.iter().flat_map(|kernel| kernel.every_file()).map(|file| file.path.to_owned());
    assert_eq!(&files("") | &files("common"), used.collect());
    // A kernel's own file is the last one.
    for kernel in kernels::ALL {
        assert_eq!(kernel.every_file().last().unwrap().path, format!("{}.wgsl", kernel.name));
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
            let name = variant.kernel.name().to_owned();
            let enable = if variant.subgroups { "enable subgroups;\n" } else { "" };
            // naga has subgroup operations without that line, and does not know it.
            (enable.to_owned() + &variant.source(ParamsSpace::Storage), name)
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
    for kernel in kernels::ALL {
        let aliases = ["elem", "k_elem", "w_elem", "out_elem"].map(|alias| (alias, DType::F32));
        let variant = Variant::new(kernel, aliases, []);
        for line in variant.source(ParamsSpace::Uniform).lines() {
            let code = line.split("//").next().unwrap_or("").trim();
            let declares = code.starts_with("var ") || code.contains("(var ");
            assert!(!declares || code.contains('='), "{kernel:?}: `{code}`");
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
