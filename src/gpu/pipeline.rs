//! Compiled programs, each built once: callers that want the same one wait for one build.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use super::{Gpu, lock};
use crate::bounds;
use crate::error::{Error, Result};
use crate::hash::WordMap;
use crate::recording::{Dispatch, Slot};
use crate::wgsl::{Access, FIRST_WORKGROUP, KernelRef, ParamsSpace, Variant};

/// A compute pipeline with the layout of its one bind group.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
    pub(super) label: String,
    /// Its module has no checks at run time.
    trusted: bool,
}

/// That a dispatch keeps within its buffers and arrays, which only a proof makes true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trusted(bool);

impl Trusted {
    /// Of a dispatch on this device, of whose slots `bytes` are bound.
    pub(super) fn of(gpu: &Gpu, dispatch: &Dispatch, bytes: &dyn Fn(Slot) -> Option<u64>) -> Self {
        Self(gpu.trusted && bounds::holds(dispatch, bytes))
    }
}

type Entry = Arc<OnceLock<Result<Arc<Pipeline>>>>;

/// All programs built so far, by variant.
#[derive(Debug)]
pub(super) struct Pipelines {
    /// The driver's own, which outlives this process.
    cache: Option<wgpu::PipelineCache>,
    /// With checks at run time, and without.
    entries: [Mutex<WordMap<Variant, Entry>>; 2],
    built: AtomicU64,
    trusted: AtomicU64,
}

impl Pipelines {
    pub(super) fn new(cache: Option<wgpu::PipelineCache>) -> Self {
        Self { cache, entries: Default::default(), built: AtomicU64::default(), trusted: AtomicU64::default() }
    }

    pub(super) fn cache(&self) -> Option<&wgpu::PipelineCache> {
        self.cache.as_ref()
    }

    pub(super) fn built(&self) -> u64 {
        self.built.load(Ordering::Relaxed)
    }

    pub(super) fn trusted(&self) -> u64 {
        self.trusted.load(Ordering::Relaxed)
    }

    /// The program of a dispatch, built now if nobody has yet; without checks if it is `trusted`. A build that fails does so for
    /// everyone who waits for it, and is then forgotten: memory may be there the next time, and users' programs that do not
    /// compile do not pile up.
    pub(super) fn get(&self, gpu: &Gpu, dispatch: &Dispatch, trusted: Trusted) -> Result<Arc<Pipeline>> {
        let variant = &dispatch.variant;
        let kept = &self.entries[usize::from(trusted.0)];
        let entry = {
            let mut entries = lock(kept);
            let known = entries.get(variant).cloned();
            known.unwrap_or_else(|| entries.entry(variant.clone()).or_default().clone())
        };
        let built = entry.get_or_init(|| {
            let built = build(gpu, dispatch, self.cache(), trusted).map(Arc::new);
            match &built {
                Ok(built) => {
                    self.built.fetch_add(1, Ordering::Relaxed);
                    self.trusted.fetch_add(built.trusted.into(), Ordering::Relaxed);
                }
                Err(_) => drop(lock(kept).remove(variant)),
            }
            built
        });
        built.clone()
    }
}

fn build(gpu: &Gpu, dispatch: &Dispatch, cache: Option<&wgpu::PipelineCache>, trusted: Trusted) -> Result<Pipeline> {
    let variant = &dispatch.variant;
    if !gpu.caps().f16 && variant.aliases.iter().any(|(_, dtype)| *dtype == crate::tensor::DType::F16) {
        return Err(Error::Unsupported { feature: "f16 in shaders".into(), what: "f16 tensors".into() });
    }
    let allowed = u64::from(gpu.caps().max_storage_buffers);
    let space = variant.params_space(ParamsSpace::of(gpu.caps(), dispatch.bindings.len()));
    let needed = dispatch.bindings.len() as u64 + u64::from(space == ParamsSpace::Storage);
    if needed > allowed {
        let what = format!("storage buffers of `{}`", variant.kernel.name());
        return Err(Error::Limit { what, needed, allowed });
    }
    let trusted = trusted.0 && bounds::has_been_read(variant, space);
    let device = gpu.device();
    let label = variant.label();
    let built = gpu.scoped(|| {
        let module = module(gpu, variant, space, trusted);
        let params = match space {
            ParamsSpace::Uniform => wgpu::BufferBindingType::Uniform,
            ParamsSpace::Storage => wgpu::BufferBindingType::Storage { read_only: true },
        };
        let uniform = wgpu::BufferBindingType::Uniform;
        let mut entries = vec![layout_entry(0, params, true), layout_entry(FIRST_WORKGROUP, uniform, true)];
        for (binding, access) in (1..).zip(variant.kernel.accesses()) {
            let ty = wgpu::BufferBindingType::Storage { read_only: access == Access::Read };
            entries.push(layout_entry(binding, ty, false));
        }
        let layout = device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: Some(&label), entries: &entries });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(&label),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(&label),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &variant.overrides,
                ..Default::default()
            },
            cache,
        });
        Pipeline { pipeline, layout, label: label.clone(), trusted }
    });
    match (built, &variant.kernel) {
        (Err(Error::Gpu(message)), KernelRef::Custom(kernel)) => {
            Err(Error::Kernel { kernel: kernel.name().to_owned(), reason: format!("does not compile: {message}") })
        }
        // The kernel itself always compiles, so what fails beside a user's function is that function.
        (Err(Error::Gpu(message)), KernelRef::BuiltIn(_)) if variant.score_mod.is_some() => {
            Err(Error::option("score_mod", format!("does not compile: {message}")))
        }
        (built, _) => built,
    }
}

fn module(gpu: &Gpu, variant: &Variant, space: ParamsSpace, trusted: bool) -> wgpu::ShaderModule {
    let (device, label) = (gpu.device(), variant.label());
    // Browsers want the line, which naga does not know.
    let enable = if variant.subgroups && gpu.is_in_browser() { "enable subgroups;\n" } else { "" };
    let source = enable.to_owned() + &variant.source(space);
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(&label), source: wgpu::ShaderSource::Wgsl(source.into()) };
    if !trusted {
        return device.create_shader_module(descriptor);
    }
    let mut checks = wgpu::ShaderRuntimeChecks::checked();
    (checks.bounds_checks, checks.force_loop_bounding) = (false, false);
    // SAFETY: no index of the shader may leave its array, and no loop may be endless. `crate::bounds` proves that: `has_been_read`
    // of the source as it is, and `holds` of the parameters and the lengths of the buffers of a dispatch. The pipeline is kept
    // apart from that with checks, and goes to dispatches alone of which `holds` is true (`Trusted`), each time they are
    // prepared.
    #[expect(unsafe_code, reason = "wgpu has no other way to a module without checks; the proof is above")]
    unsafe {
        device.create_shader_module_trusted(descriptor, checks)
    }
}

fn layout_entry(binding: u32, ty: wgpu::BufferBindingType, dynamic: bool) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: dynamic, min_binding_size: None },
        count: None,
    }
}
