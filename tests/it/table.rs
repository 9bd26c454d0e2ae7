//! The case table on devices of several kinds and by several plans, against the f64 oracle.
//!
//! Each configuration is a device, what becomes of its plans, and how much of the table `tests/run` and `tests/all` run on
//! it. All of it runs everywhere where `REGARD_WHOLE_TABLE` is set.

use std::collections::BTreeSet;
use std::time::Duration;

use regard::attention::{Algorithm, Attention};
use regard::cases::{self, AttentionCase};
use regard::device::Caps;
use regard::gpu::Gpu;
use regard::kernels;
use regard::plan::{AttentionPlan, Form};
use regard::problem::{AttentionProblem, Storage};
use regard::tensor::{Array, DType};
use regard::validate::{Row, Sample, Sweep};
use regard::wgpu::Limits;

use crate::gpu::{cards, cooperative_gpu, device_with, gpu, minimal_gpu, whole};

/// A device, and how the table is run on it.
struct Configuration {
    /// `None` where the adapter has no such device.
    device: fn() -> Option<Gpu>,
    /// Changed cases and plans of attention, if those alone are run.
    planned: Option<PlannedOn>,
    /// Whether each case is run twice, for the same bits.
    twice: bool,
    /// Whether what does not fit may be refused, if the reason is told.
    refuses: bool,
    /// How much `tests/run` runs, and `tests/all`.
    samples: [Sample; 2],
}

type PlannedOn = fn(&Caps, AttentionCase, Storage) -> Option<(AttentionCase, AttentionPlan)>;

impl Configuration {
    const fn new(device: fn() -> Option<Gpu>, samples: [Sample; 2]) -> Self {
        Self { device, planned: None, twice: false, refuses: false, samples }
    }

    const fn planned(self, planned: PlannedOn) -> Self {
        Self { planned: Some(planned), ..self }
    }

    fn sample(&self) -> Sample {
        match std::env::var_os("REGARD_WHOLE_TABLE") {
            Some(_) => Sample::All,
            None => self.samples[usize::from(whole())],
        }
    }

    /// Does `work` with a sample of the table on the device, if there is one.
    fn sweep<T>(&self, sample: Sample, work: impl FnOnce(&Gpu, Sweep<'_>) -> T) -> Option<T> {
        let gpu = (self.device)()?;
        let planned = |case: AttentionCase, storage: Storage| (self.planned?)(gpu.caps(), case, storage);
        let planned = self.planned.map(|_| &planned as _);
        Some(work(&gpu, Sweep { sample, planned, twice: self.twice }))
    }

    fn check(&self, name: &str) {
        let rows = self.sweep(self.sample(), |gpu, sweep| {
            println!("{name}: {}", gpu.adapter());
            sweep.run(gpu, |_, _| {}).unwrap()
        });
        match rows {
            Some(rows) => judge(name, &rows, self.refuses),
            None => println!("{name}: this adapter has no such device"),
        }
    }
}

/// Fails with every case that did not pass.
fn judge(name: &str, rows: &[Row], refuses: bool) {
    for kernel in kernels::ALL {
        let of_kernel: Vec<_> = rows.iter().filter(|row| row.kernel == kernel.name).collect();
        let worst = of_kernel.iter().map(|row| row.worst).fold(0.0, f64::max);
        println!("{}: {} variants, worst error ÷ tolerance {worst:.2}", kernel.name, of_kernel.len());
    }
    let unsound: Vec<_> = rows.iter().flat_map(|row| &row.unsound).collect();
    assert!(unsound.is_empty(), "{name}: {unsound:?}");
    let reasons = ["the device allows ", "the device lacks ", "no fused kernel fits this device's limits"];
    let told = |failure: &str| reasons.iter().any(|reason| failure.contains(reason));
    let all: BTreeSet<_> = rows.iter().flat_map(|row| &row.failures).map(String::as_str).collect();
    let (refused, failures): (Vec<_>, Vec<_>) = all.into_iter().partition(|failure| refuses && told(failure));
    assert!(failures.is_empty(), "{name}: {} failures\n{}", failures.len(), failures.join("\n"));
    let right: usize = rows.iter().map(|row| row.cases - row.failures.len()).sum();
    println!("{name}: {right} right, {} refused", refused.len());
    assert!(right > 0, "{name}: nothing works");
}

/// The list of configurations, and a test of each.
macro_rules! configurations {
    ($($(#[$doc:meta])* $name:ident: $configuration:expr,)*) => {
        $($(#[$doc])* #[test] fn $name() { $configuration.check(stringify!($name)); })*

        fn configurations() -> Vec<(&'static str, Configuration)> {
            vec![$((stringify!($name), $configuration)),*]
        }
    };
}

configurations! {
    /// All that the adapter has.
    as_opened: Configuration::new(|| Some(gpu().clone()), [Sample::Quick, Sample::All]),
    every_workgroup_a_dispatch_of_its_own: Configuration::new(
        || Some(gpu().clone().with_longest_dispatch(Duration::ZERO)),
        [Sample::Kernels, Sample::All],
    ),
    default_limits_and_no_features: Configuration::new(|| Some(minimal_gpu().clone()), [Sample::Kernels, Sample::Quick]),
    /// Planned as on a graphics card.
    card: Configuration::new(|| Some(cards()[0].clone()), [Sample::Quick, Sample::All]),
    card_of_default_limits_and_no_features: Configuration::new(|| Some(cards()[1].clone()), [Sample::Kernels, Sample::Quick]),
    /// All that the adapter has, cooperative matrices too: products of f16 take them.
    with_all_features: Configuration::new(with_matrices, [Sample::Kernels, Sample::Quick]),
    /// Matrices round to f16, and rescale sums whose reference moves: the same bits each time, too.
    cooperative_matrices: Configuration {
        twice: true,
        ..Configuration::new(with_matrices, [Sample::Quick, Sample::All]).planned(by_matrices)
    },
    /// Outputs that stay in matrices from tile to tile.
    carried_matrices: Configuration {
        twice: true,
        ..Configuration::new(with_matrices, [Sample::Quick, Sample::All]).planned(by_carried_matrices)
    },
    /// As where scores outgrow a binding: what depends on a query's number must count from the first of the problem.
    queries_in_ranges_of_five: Configuration::new(|| Some(gpu().clone()), [Sample::Kernels, Sample::All]).planned(in_ranges),
    /// CPU drivers give long problems to a tile that the table's cases are too small for.
    tiles_of_long_problems: Configuration::new(|| Some(gpu().clone()), [Sample::Kernels, Sample::Quick]).planned(by_long_tiles),
    few_invocations_and_workgroups: limited(|| {
        limits(|limits| {
            limits.max_compute_invocations_per_workgroup = 16;
            limits.max_compute_workgroup_size_x = 16;
            limits.max_compute_workgroup_storage_size = 4096;
            limits.max_compute_workgroups_per_dimension = 16;
        })
    }),
    bindings_of_4_kib_in_buffers_of_8: limited(|| {
        limits(|limits| {
            limits.max_storage_buffer_binding_size = 4 << 10;
            limits.max_buffer_size = 8 << 10;
        })
    }),
    four_storage_buffers: limited(|| limits(|limits| limits.max_storage_buffers_per_shader_stage = 4)),
    few_invocations_in_x: limited(|| limits(|limits| limits.max_compute_workgroup_size_x = 32)),
}

/// Every operation works or is refused with the reason, whatever an embedder's device allows.
const fn limited(device: fn() -> Option<Gpu>) -> Configuration {
    Configuration { refuses: true, ..Configuration::new(device, [Sample::Kernels, Sample::Quick]) }
}

fn limits(set: fn(&mut Limits)) -> Option<Gpu> {
    let (device, queue) = device_with(set);
    Some(Gpu::from_wgpu(device, queue).unwrap())
}

fn with_matrices() -> Option<Gpu> {
    cooperative_gpu().caps().cooperative.map(|_| cooperative_gpu().clone())
}

fn planned(caps: &Caps, case: &AttentionCase, storage: Storage) -> Option<AttentionPlan> {
    let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape)).unwrap();
    AttentionPlan::new(&case.options, &problem, storage, caps).ok()
}

fn form(plan: &AttentionPlan) -> Option<Form> {
    plan.fused.as_ref().ok().map(|fused| fused.tile.form)
}

/// Each case without what asks for scores in memory, if it can be computed by cooperative matrices then.
fn by_matrices(caps: &Caps, mut case: AttentionCase, storage: Storage) -> Option<(AttentionCase, AttentionPlan)> {
    // Once, and not again for each path.
    if case.options.path != Algorithm::Staged || storage.element != DType::F16 {
        return None;
    }
    let options = &mut case.options;
    (options.weights, options.entropy, options.scores, options.path) = (false, false, None, Algorithm::Fused);
    let plan = planned(caps, &case, storage)?;
    (form(&plan) == Some(Form::Cooperative)).then_some((case, plan))
}

fn by_carried_matrices(caps: &Caps, case: AttentionCase, storage: Storage) -> Option<(AttentionCase, AttentionPlan)> {
    let (case, plan) = by_matrices(caps, case, storage)?;
    let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape)).unwrap();
    let plans = AttentionPlan::candidates(&case.options, &problem, storage.element, caps).unwrap_or_default();
    let carried = plans.into_iter().find(|plan| plan.tile.form == Form::Carried)?;
    Some((case, plan.with_fused(carried)))
}

fn in_ranges(caps: &Caps, case: AttentionCase, storage: Storage) -> Option<(AttentionCase, AttentionPlan)> {
    const LENGTH: usize = 5;
    let queries = case.inputs.query.shape()[2];
    if case.options.path != Algorithm::Staged || queries <= LENGTH || storage != DType::F32.into() {
        return None;
    }
    let mut plan = planned(caps, &case, storage)?;
    let starts = (0..queries).step_by(LENGTH);
    plan.query_ranges = starts.map(|first| (first, (first + LENGTH).min(queries))).collect();
    Some((case, plan))
}

fn by_long_tiles(caps: &Caps, case: AttentionCase, storage: Storage) -> Option<(AttentionCase, AttentionPlan)> {
    if case.options.path != Algorithm::Fused {
        return None;
    }
    let problem = AttentionProblem::new(&case.options, &case.inputs.map(Array::shape, Array::shape)).unwrap();
    let plans = AttentionPlan::candidates(&case.options, &problem, storage.element, caps).unwrap_or_default();
    let long = plans.into_iter().find(|plan| plan.tile.form == Form::Rows && plan.tile.queries > 16)?;
    let plan = planned(caps, &case, storage)?.with_fused(long);
    Some((case, plan))
}

/// What `tests/run` runs: on each device every kernel and path of attention that the whole table has there, and over all
/// devices every kernel, path and form that there is.
#[test]
fn the_quick_run_has_every_kernel_and_every_path() {
    let mut all = BTreeSet::new();
    for (name, configuration) in configurations() {
        let there = configuration.sweep(configuration.samples[0], |gpu, sweep| sweep.kernels_and_paths(gpu));
        let [whole, quick] = there.unwrap_or_default();
        assert_eq!(quick, whole, "{name}");
        all.extend(quick);
    }
    let needs_matrices = ["flash_coop", "matmul_coop", "coop_rate"];
    let matrices = with_matrices().is_some();
    for kernel in kernels::ALL.iter().filter(|kernel| matrices || !needs_matrices.contains(&kernel.name)) {
        assert!(all.contains(kernel.name), "nothing runs `{}`", kernel.name);
    }
    if !matrices {
        println!("{} has no cooperative matrices: {needs_matrices:?} do not run here", gpu().adapter());
    }
    for path in ["attention staged", "attention fused", "attention split"] {
        assert!(all.contains(path), "no {path}");
    }
    for path in ["recurrence steps", "recurrence wavefront", "recurrence persistent"] {
        assert!(all.contains(path), "no {path}");
    }
    // Each form has a kernel of its own.
    let kernel_of = |form: Form| match form {
        Form::Rows => "flash_rows",
        Form::Tiled => "flash",
        Form::Cooperative | Form::Carried => "flash_coop",
        Form::Split => "flash_split",
        _ => panic!("{form}: which kernel?"),
    };
    let by_matrices = |form| matches!(form, Form::Cooperative | Form::Carried);
    for form in Form::ALL.into_iter().filter(|form| matrices || !by_matrices(*form)) {
        assert!(all.contains(kernel_of(form)), "no attention is computed as {form}");
    }
}

/// Each configuration has work enough to say something.
#[test]
fn every_configuration_reaches_a_part_of_the_table() {
    let attention = cases::attention();
    let staged = |case: &AttentionCase, path| {
        let options = Attention { path, ..case.options.clone() };
        AttentionCase { options, ..case.clone() }
    };
    let count = |caps: &Caps, planned: PlannedOn, path: Algorithm, dtype: DType| {
        attention.iter().filter(|case| planned(caps, staged(case, path), dtype.into()).is_some()).count()
    };
    assert!(count(gpu().caps(), in_ranges, Algorithm::Staged, DType::F32) > 150);
    assert_eq!(count(gpu().caps(), by_long_tiles, Algorithm::Fused, DType::F32) > 150, gpu().caps().software);
    let caps = cooperative_gpu().caps();
    assert_eq!(count(caps, by_matrices, Algorithm::Staged, DType::F16) > 100, caps.cooperative.is_some());
}
