//! Kernels of a user's: what they compute between this crate's, whole and in chunks, and what is refused, in which words.

use std::time::Duration;

use regard::gpu::{Gpu, Run};
use regard::ops::custom::CustomCall;
use regard::ops::linear::{Epilogue, linear};
use regard::plan::chunks;
use regard::tensor::{Array, DType, Layout};
use regard::wgpu::Limits;
use regard::wgsl::CustomKernel;
use regard::{Error, Tensor, reference};

use crate::gpu::{device_with, gpu, minimal_gpu};

/// `y = factor · x + number of the workgroup`, four elements a workgroup. By the grid, or by the number in all chunks.
fn numbered(number: &str, first: &str) -> CustomKernel {
    let source = format!(
        "struct Params {{ factor: f32, elements: u32 }}
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
{first}
@compute @workgroup_size(4)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) count: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {{
    let number = {number};
    let at = 4u * number + lane;
    if (at < params.elements) {{ y[at] = params.factor * x[at] + f32(number); }}
}}"
    );
    CustomKernel::new("numbered", &source).unwrap()
}

fn whole() -> CustomKernel {
    numbered("workgroup.x + workgroup.y * count.x", "")
}

fn divisible() -> CustomKernel {
    let first = "@group(0) @binding(16) var<uniform> first_workgroup: u32;";
    numbered("first_workgroup + workgroup.x + workgroup.y * count.x", first)
}

/// A device of an embedder's, with WebGPU's default limits.
fn embedders() -> Gpu {
    let (device, queue) = device_with(|_| {});
    Gpu::from_wgpu(device, queue).unwrap()
}

fn wave(shape: &[usize]) -> Array {
    Array::from_fn(shape, |k| (k as f32 * 0.37).sin())
}

fn upload(gpu: &Gpu, array: &Array) -> Tensor {
    Tensor::upload(gpu, "x", array, DType::F32).unwrap()
}

/// The parameters of `numbered`.
fn params(factor: f32, elements: usize) -> [u8; 8] {
    bytemuck::cast([factor.to_bits(), elements as u32])
}

const SHAPE: [usize; 2] = [23, 6];

/// A linear layer, the kernel, a linear layer; chunks that the kernel is run in, and what comes out.
fn between(gpu: &Gpu, kernel: &CustomKernel) -> (usize, Array) {
    let (x, weight) = (wave(&SHAPE), wave(&[6, 6]));
    let weight = upload(gpu, &weight);
    let mut run = Run::new(gpu);
    let before = linear(&mut run, &[(&upload(gpu, &x), &weight)], &Epilogue::default()).unwrap();
    let (_, after) = run.output("after", &SHAPE, DType::F32).unwrap();
    let (reads, writes, params) = ([&before], [&after], params(2.0, 138));
    let told = CustomCall { params: &params, flops: 1 << 30, ..CustomCall::new(&reads, &writes, [7, 5]) };
    kernel.record(&mut run, told).unwrap();
    let y = linear(&mut run, &[(&after, &weight)], &Epilogue::default()).unwrap();
    let recorded: Vec<_> = run.recording().dispatches().collect();
    assert_eq!(recorded[1].variant.label(), "numbered");
    let count = chunks(recorded[1], gpu.caps()).len();
    (count, run.submit_and_read(&[&y]).unwrap().remove(0))
}

fn expected() -> Array<f64> {
    let weight = wave(&[6, 6]).cast::<f64>();
    let mut y = reference::linear(&wave(&SHAPE).cast::<f64>(), &weight, None, None).unwrap();
    y.data_mut().iter_mut().enumerate().for_each(|(k, y)| *y = 2.0 * *y + (k / 4) as f64);
    reference::linear(&y, &weight, None, None).unwrap()
}

#[test]
fn a_kernel_between_two_of_ours() {
    let own = embedders();
    for gpu in [gpu(), minimal_gpu(), &own] {
        for kernel in [whole(), divisible()] {
            let (_, y) = between(gpu, &kernel);
            regard::compare::close("y", &y, &expected(), 1e-5, 1e-5).unwrap().check("y").unwrap();
        }
    }
    // One submission; and the same text is the same program.
    let before = own.counts();
    between(&own, &whole());
    assert_eq!((own.counts().submits, own.counts().pipelines), (before.submits + 1, before.pipelines));
}

#[test]
fn a_kernel_is_cut_where_it_says_so_only() {
    let short = gpu().clone().with_longest_dispatch(Duration::ZERO).with_longest_submission(Duration::ZERO);
    let (one, same) = between(gpu(), &divisible());
    let (many, cut) = between(&short, &divisible());
    assert_eq!((one, many), (1, 35));
    assert_eq!(same, cut);
    assert_eq!(between(&short, &whole()), (1, same));
}

#[test]
fn integers_halves_and_atomics() {
    let gpu = gpu();
    let source = "@group(0) @binding(1) var<storage, read> ids: array<u32>;
@group(0) @binding(2) var<storage, read_write> counts: array<atomic<u32>>;
@compute @workgroup_size(8) fn main(@builtin(global_invocation_id) at: vec3<u32>) {
    if (at.x < arrayLength(&ids)) { atomicAdd(&counts[ids[at.x]], 1u); }
}";
    let kernel = CustomKernel::new("histogram", source).unwrap();
    let ids = Tensor::upload_u32(gpu, "ids", &Array::new(&[7], vec![0, 2, 2, 3, 0, 2, 1]).unwrap()).unwrap();
    let counts = Tensor::upload_u32(gpu, "counts", &Array::filled(&[4], 0)).unwrap();
    let mut run = Run::new(gpu);
    kernel.record(&mut run, CustomCall::new(&[&ids], &[&counts], [1, 1])).unwrap();
    run.submit().unwrap();
    assert_eq!(counts.download_u32(gpu).unwrap().data(), [2, 1, 3, 1]);
    assert!(counts.download(gpu).unwrap_err().to_string().contains("`counts` dtype: expected f32, f16 or q8"));

    let source = "enable f16; @group(0) @binding(1) var<storage, read_write> x: array<f16>;
        @compute @workgroup_size(1) fn main() { x[0] = x[1] + 1.0h; }";
    let kernel = CustomKernel::new("half", source).unwrap();
    let record = |gpu: &Gpu, dtype| {
        let mut run = Run::new(gpu);
        let x = Tensor::upload(gpu, "x", &wave(&[2]), dtype).unwrap();
        kernel.record(&mut run, CustomCall::new(&[], &[&x], [1, 1])).and_then(|()| run.submit())
    };
    let lacks = record(minimal_gpu(), DType::F32).unwrap_err();
    assert_eq!(lacks.to_string(), "the device lacks f16 in shaders, needed for kernel `half`");
    if gpu.caps().f16 {
        record(gpu, DType::F16).unwrap();
        let width = record(gpu, DType::F32).unwrap_err();
        assert_eq!(width.to_string(), "`x` dtype: expected elements of 2 bytes, as `half` has them, found f32");
    }
}

/// What a text is refused with.
fn refusal(source: &str) -> String {
    match CustomKernel::new("mine", source) {
        Ok(_) => panic!("{source} was taken"),
        Err(error @ Error::Kernel { .. }) => {
            assert!(error.is_request());
            let text = error.to_string();
            text.strip_prefix("kernel `mine`: ").unwrap().to_owned()
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn texts_are_refused_with_the_line() {
    let main = "@compute @workgroup_size(1) fn main()";
    let x = "@group(0) @binding(1) var<storage, read> x: array<f32>;";
    let y = "@group(0) @binding(2) var<storage, read_write> y: array<f32>;";
    let starts = [
        // Does not parse; does not fit; writes what it reads.
        (format!("{x}\n{y}\n{main} {{\n    y[0] = z[0];\n}}"), "no definition in scope for identifier: `z`"),
        (
            format!("{x}\n{y}\n{main} {{\n    let one = 1u;\n    y[0] = x[0] + one;\n}}"),
            "`x[0]` is f32 and `1u` is u32",
        ),
        (format!("{x}\n{y}\n{main} {{\n    x[0] = 1.0;\n}}"), ""),
        (format!("{x}\n{y}"), "has no entry point: expected `@compute @workgroup_size(…) fn main`"),
        (
            format!("{y}\n{}", "@compute @workgroup_size(1) fn mine() {}"),
            "has the entry point `mine`: expected a compute",
        ),
        ("@fragment fn main() {}".into(), "has the entry point `main`: expected a compute shader"),
        (format!("{main} {{}} @compute @workgroup_size(1) fn other() {{}}"), "has 2 entry points"),
        (format!("{y}\n{main} {{}}"), "`y` has binding 2 where 1 comes next"),
        (format!("{} {main} {{}}", x.replace("(1)", "(0)")), "`x` has binding 0 where 1 comes next"),
        (
            format!("{} {} {main} {{}}", x.replace("(1)", "(2)"), y.replace("(2)", "(1)")),
            "`x` is read at a binding behind those that are written",
        ),
        (format!("{}\n{main} {{}}", x.replace("(0)", "(1)")), "`x`: expected group 0"),
        (
            format!("@group(0) @binding(3) var<uniform> a: f32;\n{main} {{}}"),
            "`a`: expected a uniform at binding 0 or 16",
        ),
        (format!("@group(0) @binding(16) var<uniform> a: f32;\n{main} {{}}"), "`a`: binding 16 is a `u32`"),
        (format!("@group(0) @binding(1) var a: texture_2d<f32>;\n{main} {{}}"), "`a`: expected a uniform"),
        (format!("override N: u32 = 1;\n{main} {{}}"), "has an `override`: use `const`"),
        (format!("{main} {{}}{}", " ".repeat(64 << 10)), "is 65576 bytes long; at most 65536"),
        (format!("{y} {main} {{ y[0] = 1.0{}; }}", "+1.0".repeat(1100)), "`main` has a statement of 1"),
    ];
    for (source, start) in &starts {
        let text = refusal(source);
        assert!(text.starts_with(start) && !text.contains('\n'), "{text}");
    }
    // Lines and columns are the user's.
    assert!(refusal(&starts[0].0).contains("line 4, column 12: y[0] = z[0];"), "{}", refusal(&starts[0].0));
    assert!(refusal(&starts[1].0).contains("line 5, column 12: y[0] = x[0] + one;"), "{}", refusal(&starts[1].0));
    let stored = refusal(&starts[2].0);
    assert!(stored.contains("line 4, column 5: x[0] = 1.0;"), "{stored}");
}

#[test]
fn calls_are_refused_before_they_are_recorded() {
    let own = embedders();
    for gpu in [gpu(), &own] {
        let [x, y] = [0.0, 1.0].map(|value| upload(gpu, &Array::filled(&[4, 8], value)));
        let params = params(1.0, 32);
        let (reads, writes) = ([&x], [&y]);
        let call = CustomCall { params: &params, ..CustomCall::new(&reads, &writes, [8, 1]) };
        let refusal = |call: CustomCall<'_>| {
            let mut run = Run::new(gpu);
            let error = whole().record(&mut run, call).unwrap_err();
            assert_eq!(run.recording().dispatches().count(), 0);
            error.to_string()
        };
        assert_eq!(refusal(CustomCall { reads: &[], ..call }), "kernel `numbered`: reads 1 buffers, and is given 0");
        let both = [&x, &y];
        assert_eq!(
            refusal(CustomCall { writes: &both, ..call }),
            "kernel `numbered`: writes 1 buffers, and is given 2"
        );
        let none = CustomCall { params: &[], ..call };
        assert_eq!(refusal(none), "kernel `numbered`: has 8 bytes of parameters, and is given 0");
        assert!(refusal(CustomCall { params: &[0; 17], ..call }).ends_with("is given 17"));
        let wide = gpu.caps().max_workgroups + 1;
        let limit = format!("of kernel `numbered`: needs {wide}, the device allows {}", wide - 1);
        assert_eq!(refusal(CustomCall { grid: [wide, 1], ..call }), format!("workgroups in x {limit}"));
        assert_eq!(refusal(CustomCall { grid: [1, wide], ..call }), format!("workgroups in y {limit}"));
        assert!(refusal(CustomCall { grid: [0, 1], ..call }).starts_with("option `grid`: kernel `numbered`"));
        let loops = refusal(CustomCall { iterations: u64::MAX, ..call });
        assert!(loops.starts_with("loop iterations of kernel `numbered`: needs 18446744073709551615"), "{loops}");
        let turned = x.permute(&[1, 0]).unwrap();
        let strides = refusal(CustomCall { reads: &[&turned], ..call });
        assert_eq!(strides, "`x` strides: expected contiguous, found [1, 8]");
        let slice = x.with_layout(Layout { offset: 1, ..Layout::contiguous(&[4]) }).unwrap();
        let offset = refusal(CustomCall { reads: &[&slice], ..call });
        assert_eq!(offset, "`x` offset: expected a start that can be bound, found 1 elements behind one");
        // Reads and writes one buffer: told when the run is encoded, as of this crate's kernels.
        let mut run = Run::new(gpu);
        whole().record(&mut run, CustomCall { writes: &[&x], ..call }).unwrap();
        assert!(
            run.submit().unwrap_err().to_string().starts_with("`x` buffer: expected another buffer than that of `x`")
        );
    }
    let large = |name, source: String| {
        let mut run = Run::new(&own);
        let kernel = CustomKernel::new(name, &source).unwrap();
        kernel.record(&mut run, CustomCall::new(&[], &[], [1, 1])).and_then(|()| run.submit()).unwrap_err()
    };
    let Limits { max_compute_invocations_per_workgroup: lanes, .. } = Limits::default();
    let error = large("wide", format!("@compute @workgroup_size({}) fn main() {{}}", lanes + 1));
    assert_eq!(
        error.to_string(),
        format!("invocations of a workgroup of kernel `wide`: needs {}, the device allows {lanes}", lanes + 1)
    );
    let memory = "var<workgroup> x: array<u32, 5000>; @compute @workgroup_size(1) fn main() { x[0] = 1u; }";
    let error = large("full", memory.into()).to_string();
    assert_eq!(error, "bytes of workgroup memory of kernel `full`: needs 20000, the device allows 16384");
    // What only the device's own compiler knows: WebGPU allows 64 along z.
    let error = large("deep", "@compute @workgroup_size(1, 1, 65) fn main() {}".into());
    assert!(matches!(&error, Error::Kernel { kernel, .. } if kernel == "deep"), "{error}");
    assert!(error.to_string().starts_with("kernel `deep`: does not compile: "), "{error}");
}
