//! The only part that speaks wgpu: adapters, devices, buffers, pipelines, and running recordings.

mod cooperative;
mod faults;
mod groups;
mod kept;
mod map;
mod pipeline;
mod pool;
mod prepared;
mod run;
mod seal;
mod tensor;
mod timing;
mod written;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use cooperative::CooperativeShape;
pub use kept::Kept;
pub use prepared::{Footprint, Prepared};
pub use run::{Run, Timing};
pub use tensor::Tensor;

use crate::device::{Caps, DeviceKind, Features, Rates, Registers};
use crate::error::{Cause, Error, Result};
use crate::plan::Tuning;
use faults::{Faults, scoped};
use groups::Groups;
use pipeline::Pipelines;
use pool::Pool;

/// Backends that [`Gpu::open`] looks at.
const BACKENDS: wgpu::Backends = wgpu::Backends::VULKAN
    .union(wgpu::Backends::METAL)
    .union(wgpu::Backends::DX12)
    .union(wgpu::Backends::BROWSER_WEBGPU);

/// Optional features that are asked for where the adapter has them.
const WANTED: wgpu::Features = wgpu::Features::SHADER_F16
    .union(wgpu::Features::SUBGROUP)
    .union(wgpu::Features::TIMESTAMP_QUERY)
    .union(wgpu::Features::PIPELINE_CACHE);

/// Which adapter to open, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Open {
    /// Part of the adapter's name, driver or backend, in any case; `None` takes the best.
    pub adapter: Option<String>,
    /// Refuse adapters that run on the CPU.
    pub hardware_only: bool,
    /// WebGPU's default limits and no optional feature, whatever the adapter offers.
    pub minimal: bool,
    /// Plan as for a graphics card, whatever the adapter is: what runs on cards can be tested where there is none.
    pub as_card: bool,
    /// Use cooperative matrices where the adapter lists some that the kernels know. wgpu calls them experimental, so
    /// they are used only when asked for here; nothing needs them.
    pub cooperative: bool,
    /// Features to leave alone though the adapter has them: each way to do without them can be run where there are all.
    pub without: Features,
    /// In a browser: subgroup operations, which wgpu 30 cannot ask a browser for. Whoever opens the device has seen to it that
    /// `requestDevice` is called with the feature `subgroups`, as `web/package/regard.js` does.
    pub browser_subgroups: bool,
    /// Shaders without run-time checks of indices and loops, where they are proved not to need any:
    /// [`Gpu::with_trusted_modules`].
    pub trusted: bool,
}

/// wgpu's names of what is to be left alone.
fn unwanted(without: Features) -> wgpu::Features {
    let features = [(without.f16, wgpu::Features::SHADER_F16), (without.subgroups, wgpu::Features::SUBGROUP)];
    features.into_iter().filter(|(off, _)| *off).fold(wgpu::Features::empty(), |all, (_, feature)| all | feature)
}

/// What an adapter is and can do.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Adapter {
    /// Name of the device.
    pub name: String,
    /// Driver and its version.
    pub driver: String,
    /// Vulkan, Metal, Dx12, BrowserWebGpu.
    pub backend: String,
    /// Discrete, integrated, virtual, software or other.
    pub kind: DeviceKind,
    /// What the engine would use of it; of an open device, what it uses.
    pub caps: Caps,
    /// Cooperative matrices that it lists.
    pub cooperative: Vec<CooperativeShape>,
    /// Immediates (push constants) in bytes; 0 without them.
    pub immediate_bytes: u32,
    /// Whether compiled pipelines can be cached.
    pub pipeline_cache: bool,
}

impl std::fmt::Display for Adapter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}, {}, {})", self.name, self.kind, self.backend, self.driver)
    }
}

/// The vendor's PCI number.
const INTEL: u32 = 0x8086;

/// By the vendor's PCI number, of which Metal and Mesa's driver for Apple's devices give none.
fn registers(info: &wgpu::AdapterInfo) -> Registers {
    match info.vendor {
        0x106b => Registers::APPLE,
        _ if info.backend == wgpu::Backend::Metal || info.driver == "Honeykrisp" => Registers::APPLE,
        0x5143 => Registers::QUALCOMM,
        INTEL => Registers::INTEL,
        _ => Registers::CARD,
    }
}

impl Adapter {
    fn new(
        info: &wgpu::AdapterInfo,
        limits: &wgpu::Limits,
        features: wgpu::Features,
        cooperative: Vec<CooperativeShape>,
    ) -> Self {
        let kind = match info.device_type {
            wgpu::DeviceType::DiscreteGpu => DeviceKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => DeviceKind::Integrated,
            wgpu::DeviceType::VirtualGpu => DeviceKind::Virtual,
            wgpu::DeviceType::Cpu => DeviceKind::Software,
            wgpu::DeviceType::Other => DeviceKind::Other,
        };
        let immediates = features.contains(wgpu::Features::IMMEDIATES);
        Self {
            name: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            backend: format!("{:?}", info.backend),
            kind,
            caps: Caps {
                max_binding_bytes: limits.max_storage_buffer_binding_size,
                max_buffer_bytes: limits.max_buffer_size,
                max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
                max_invocations: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
                max_workgroups: limits.max_compute_workgroups_per_dimension,
                registers: registers(info),
                max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
                f16: features.contains(wgpu::Features::SHADER_F16),
                subgroups: features.contains(wgpu::Features::SUBGROUP),
                slow_subgroups: info.vendor == INTEL,
                min_subgroup: info.subgroup_min_size,
                max_subgroup: info.subgroup_max_size,
                timestamps: features.contains(wgpu::Features::TIMESTAMP_QUERY),
                cooperative: cooperative::side(
                    &cooperative,
                    features,
                    kind,
                    [info.subgroup_min_size, info.subgroup_max_size],
                ),
                ..Caps::of(kind)
            },
            cooperative,
            immediate_bytes: if immediates { limits.max_immediate_size } else { 0 },
            pipeline_cache: features.contains(wgpu::Features::PIPELINE_CACHE),
        }
    }

    /// True when name, driver or backend have `wanted` in them, in any case.
    pub fn matches(&self, wanted: &str) -> bool {
        let wanted = wanted.to_lowercase();
        [&self.name, &self.driver, &self.backend].iter().any(|text| text.to_lowercase().contains(&wanted))
    }
}

/// How often something happened on a device since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Counts {
    /// Submissions of work to the queue.
    pub submits: u64,
    /// Dispatches in them.
    pub dispatches: u64,
    /// Blocking or asynchronous reads into host memory.
    pub downloads: u64,
    /// Pipelines built.
    pub pipelines: u64,
    /// Those of them that have no run-time checks ([`Open::trusted`]).
    pub trusted: u64,
    /// Bytes of scratch buffers that exist, in use or waiting.
    pub scratch_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    submits: AtomicU64,
    dispatches: AtomicU64,
    downloads: AtomicU64,
}

/// A device with its pipelines and scratch memory. Cheap to clone; may be shared between threads.
#[derive(Debug, Clone)]
pub struct Gpu {
    inner: Arc<Inner>,
    /// What this handle plans by.
    adapter: Arc<Adapter>,
    tuning: Arc<Tuning>,
    /// Whether its modules may go without checks where they are proved not to need any.
    trusted: bool,
}

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    /// Alignment of storage and uniform offsets, in bytes.
    alignment: u64,
    pipelines: Pipelines,
    pool: Mutex<Pool>,
    groups: Mutex<Groups>,
    /// Buffers for what the host writes anew for each run, that nobody holds.
    written: Mutex<Vec<wgpu::Buffer>>,
    counters: Counters,
    faults: Arc<Faults>,
    /// A few zero bytes for bindings that a variant does not use.
    zeros: wgpu::Buffer,
}

/// Locks, whatever happened to the last holder: the data behind these locks is valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle().with_env();
    descriptor.backends &= BACKENDS;
    wgpu::Instance::new(descriptor)
}

async fn enumerate(instance: &wgpu::Instance) -> Vec<(wgpu::Adapter, Adapter)> {
    let mut adapters: Vec<_> = instance
        .enumerate_adapters(BACKENDS)
        .await
        .into_iter()
        .map(|raw| {
            let known = Adapter::new(&raw.get_info(), &raw.limits(), raw.features(), CooperativeShape::listed(&raw));
            (raw, known)
        })
        .collect();
    adapters.sort_by_key(|(_, known)| known.kind);
    adapters
}

impl Gpu {
    /// Every adapter, best first.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn adapters() -> Vec<Adapter> {
        pollster::block_on(Self::adapters_async())
    }

    /// As [`Gpu::adapters`], without blocking.
    pub async fn adapters_async() -> Vec<Adapter> {
        enumerate(&instance()).await.into_iter().map(|(_, known)| known).collect()
    }

    /// Opens an adapter: hardware first, software next.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] when none fits, [`Error::Gpu`] when the driver refuses.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open(open: &Open) -> Result<Self> {
        Self::open_with(open, |_| Kept::default())
    }

    /// As [`Gpu::open`], with what `kept` finds that earlier runs on the adapter have left.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn open_with(open: &Open, kept: impl FnOnce(&Adapter) -> Kept) -> Result<Self> {
        pollster::block_on(Self::open_async(open, kept))
    }

    /// As [`Gpu::open_with`], without blocking.
    ///
    /// # Errors
    /// As [`Gpu::open`].
    pub async fn open_async(open: &Open, kept: impl FnOnce(&Adapter) -> Kept) -> Result<Self> {
        let adapters = enumerate(&instance()).await;
        let names = adapters.iter().map(|(_, known)| known.to_string()).collect::<Vec<_>>().join("; ");
        let found = adapters.into_iter().find(|(_, known)| {
            open.adapter.as_ref().is_none_or(|wanted| known.matches(wanted))
                && !(open.hardware_only && known.kind == DeviceKind::Software)
        });
        let Some((adapter, known)) = found else {
            return Err(Error::NoAdapter(match (&open.adapter, names.is_empty()) {
                (_, true) => "no driver answers".to_owned(),
                (Some(wanted), false) => format!("none is called `{wanted}`; there are: {names}"),
                (None, false) => format!("no hardware; there are: {names}"),
            }));
        };
        let (required_features, required_limits) = if open.minimal {
            (wgpu::Features::empty(), wgpu::Limits::default())
        } else {
            let mut features = (adapter.features() & WANTED).difference(unwanted(open.without));
            let wanted = open.cooperative && !open.without.cooperative;
            if wanted && known.caps.without(open.without).cooperative.is_some() {
                features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            }
            (features, adapter.limits())
        };
        let experimental_features = if required_features.intersects(wgpu::Features::all_experimental_mask()) {
            cooperative::consent()
        } else {
            wgpu::ExperimentalFeatures::disabled()
        };
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("regard"),
                required_features,
                required_limits,
                experimental_features,
                ..Default::default()
            })
            .await
            .map_err(|error| Error::Gpu(Cause::of(error)))?;
        let mut gpu = Self::new(device, queue, CooperativeShape::listed(&adapter), kept)?;
        if open.browser_subgroups && gpu.is_in_browser() {
            let caps = &mut Arc::make_mut(&mut gpu.adapter).caps;
            caps.subgroups = caps.min_subgroup > 0 && !open.minimal && !open.without.subgroups;
        }
        if open.as_card {
            let Caps { software, workers, rates, .. } = Caps::default();
            let caps = &mut Arc::make_mut(&mut gpu.adapter).caps;
            // With all limits it is one of those that have many registers.
            let registers = if open.minimal { Registers::APPLE } else { Registers::CARD };
            *caps = Caps { software, workers, rates, registers, ..caps.clone() };
        }
        // An embedder's own device keeps the embedder's callbacks; this one is ours.
        gpu.inner.faults.watch(gpu.device());
        gpu.trusted = open.trusted;
        Ok(gpu)
    }

    /// Works on an embedder's device, with whatever limits and features it was opened with.
    ///
    /// The device keeps the embedder's callbacks. That it is lost is found out by whatever is submitted, encoded, uploaded
    /// or read next, which gives [`Error::DeviceLost`]; [`Gpu::mark_lost`], called from the embedder's device-lost
    /// callback, ends asynchronous reads as well when nobody calls anything any more.
    ///
    /// # Errors
    /// [`Error::Gpu`] when the device refuses a small buffer.
    pub fn from_wgpu(device: wgpu::Device, queue: wgpu::Queue) -> Result<Self> {
        Self::new(device, queue, Vec::new(), |_| Kept::default())
    }

    /// As [`Gpu::from_wgpu`], told the adapter that the device comes from, if it is at hand, which alone knows the shapes of its
    /// cooperative matrices, and with what `kept` finds that earlier runs on the adapter have left. The matrices are used
    /// if the device was opened with [`wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX`], `SHADER_F16` and `SUBGROUP`;
    /// pipelines are kept if it was opened with [`wgpu::Features::PIPELINE_CACHE`].
    ///
    /// # Errors
    /// As [`Gpu::from_wgpu`].
    pub fn from_wgpu_with(
        adapter: Option<&wgpu::Adapter>,
        device: wgpu::Device,
        queue: wgpu::Queue,
        kept: impl FnOnce(&Adapter) -> Kept,
    ) -> Result<Self> {
        Self::new(device, queue, adapter.map(CooperativeShape::listed).unwrap_or_default(), kept)
    }

    fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        cooperative: Vec<CooperativeShape>,
        kept: impl FnOnce(&Adapter) -> Kept,
    ) -> Result<Self> {
        let limits = device.limits();
        let mut adapter = Adapter::new(&device.adapter_info(), &limits, device.features(), cooperative);
        let Kept { tuning, rates, pipelines } = kept(&adapter);
        if let Some(rates) = rates {
            adapter.caps.rates = rates;
        }
        let faults = Arc::<Faults>::default();
        let cache = kept::pipeline_cache(&faults, &device, &adapter, pipelines.as_deref())?;
        let zeros = scoped(&faults, &device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("regard zeros"),
                size: 256,
                usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        })?;
        let alignment = limits.min_storage_buffer_offset_alignment.max(limits.min_uniform_buffer_offset_alignment);
        let inner = Inner {
            device,
            queue,
            alignment: u64::from(alignment),
            pipelines: Pipelines::new(cache),
            pool: Mutex::default(),
            groups: Mutex::default(),
            written: Mutex::default(),
            counters: Counters::default(),
            faults,
            zeros,
        };
        Ok(Self { inner: Arc::new(inner), adapter: Arc::new(adapter), tuning: Arc::new(tuning), trusted: false })
    }

    /// The same device, with another limit to how long one dispatch may take: [`Caps::longest_dispatch`]. Shorter leaves
    /// the device to others more often, such as to a desktop that it draws; [`Duration::MAX`] never cuts a dispatch.
    #[must_use]
    pub fn with_longest_dispatch(mut self, longest: Duration) -> Self {
        Arc::make_mut(&mut self.adapter).caps.longest_dispatch = longest;
        self
    }

    /// The same device, with another limit to how long one submission may take: [`Caps::longest_submission`]. With
    /// [`Duration::MAX`] a run is always submitted whole.
    #[must_use]
    pub fn with_longest_submission(mut self, longest: Duration) -> Self {
        Arc::make_mut(&mut self.adapter).caps.longest_submission = longest;
        self
    }

    /// The same device, with shaders that have no run-time checks of indices and loops wherever it is proved of a dispatch
    /// that every index is within its array and every loop ends; all others keep theirs, among them score functions and
    /// kernels of users. The results are the same to the bit. What is proved, and how, is in `src/bounds`; what it gives
    /// is in `docs/cards.md`. Browsers check all modules.
    #[must_use]
    pub fn with_trusted_modules(mut self) -> Self {
        self.trusted = true;
        self
    }

    /// Whether a browser stands between this and the device.
    fn is_in_browser(&self) -> bool {
        self.adapter.backend == "BrowserWebGpu"
    }

    /// What this device is and can do.
    pub fn adapter(&self) -> &Adapter {
        &self.adapter
    }

    /// What the planner goes by.
    pub fn caps(&self) -> &Caps {
        &self.adapter.caps
    }

    /// What was measured to be fastest on this device, in place of the planner's table.
    pub fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// The same device, planned for by these rates: [`Rates::measure`]d ones in place of those that are assumed of its kind.
    #[must_use]
    pub fn with_rates(mut self, rates: Rates) -> Self {
        Arc::make_mut(&mut self.adapter).caps.rates = rates;
        self
    }

    /// The device underneath.
    pub fn device(&self) -> &wgpu::Device {
        &self.inner.device
    }

    /// The queue underneath.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.inner.queue
    }

    /// How often things happened so far.
    pub fn counts(&self) -> Counts {
        let counters = &self.inner.counters;
        Counts {
            submits: counters.submits.load(Ordering::Relaxed),
            dispatches: counters.dispatches.load(Ordering::Relaxed),
            downloads: counters.downloads.load(Ordering::Relaxed),
            pipelines: self.inner.pipelines.built(),
            trusted: self.inner.pipelines.trusted(),
            scratch_bytes: lock(&self.inner.pool).bytes(),
        }
    }

    /// Gives scratch memory that is not in use back to the driver.
    pub fn trim(&self) {
        lock(&self.inner.pool).trim();
        lock(&self.inner.written).clear();
        lock(&self.inner.groups).clear();
    }
}
