//! Results of other libraries (`tests/vectors`) as cases that any backend can run.
//!
//! Shapes are this crate's own: attention [B, H, N, D], recurrences [T, B, I]. Every tensor of a file is used or the
//! file fails to load, except gradients and what flows into them.

mod entmax;
mod flex;
mod keras;
mod layers;
mod onnx;
mod onnxruntime;
mod speechbrain;
mod tensorflow;
mod tfa;
mod torch;
mod transformers;

use std::collections::BTreeMap;
use std::path::PathBuf;

use regard::attention::{Attention, AttentionInputs, AttentionOutputs, Mask, Rotary};
use regard::compare;
use regard::reference::Float;
use regard::rnn::{Rnn, RnnInputs, RnnOutputs, RnnStack};
use regard::tensor::{Array, DType, Layout};
use regard::{Error, Result};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value;

pub(crate) use transformers::tables;

pub(crate) use layers::{MultiHeadCase, WrapperCase, layer_names, multi_head_cases, wrapper_cases};

/// Cases that are not run, each with the reason.
pub(crate) const NOT_COVERED: &[(&str, &str)] =
    &[("onnx/test_flexattention_prob_mod", "a user's function of the weights: only scores have one")];

/// The folders of `tests/vectors`.
const FOLDERS: [&str; 12] = [
    "onnx",
    "onnxruntime",
    "torch",
    "lstm",
    "mha",
    "flex",
    "keras",
    "tensorflow",
    "tfa",
    "transformers",
    "speechbrain",
    "entmax",
];

/// A tensor that must come out, each element within `atol + rtol · |want|`.
#[derive(Debug, Clone)]
pub(crate) struct Expect {
    pub(crate) tensor: &'static str,
    pub(crate) want: Array<f32>,
    pub(crate) rtol: f64,
    pub(crate) atol: f64,
}

impl Expect {
    /// Share of the allowance that the worst element uses; over `slack` is an error.
    pub(crate) fn check<T: Float>(&self, got: Option<&Array<T>>, slack: f64) -> Result<f64> {
        let got = got.ok_or_else(|| Error::missing(self.tensor, "an output"))?;
        let verdict = compare::close(self.tensor, got, &self.want, self.rtol * slack, self.atol * slack)?;
        verdict.check(self.tensor)
    }
}

/// Attention of one call.
#[derive(Debug, Clone)]
pub(crate) struct AttentionCase {
    pub(crate) name: String,
    pub(crate) options: Attention,
    pub(crate) inputs: AttentionInputs<Array<f32>>,
    /// What the library stored query, key and value as, where a device can do the same; f32 for all else.
    pub(crate) storage: DType,
    pub(crate) expect: Vec<Expect>,
}

impl AttentionCase {
    /// Stored as f32.
    fn new(
        entry: &Entry,
        options: Attention,
        inputs: AttentionInputs<Array<f32>>,
        expect: impl Into<Vec<Expect>>,
    ) -> Self {
        Self { name: entry.name.clone(), options, inputs, storage: DType::F32, expect: expect.into() }
    }

    /// The worst share of the tolerances, each widened by `slack` (1 for the reference).
    pub(crate) fn check<T: Float>(&self, got: &AttentionOutputs<Array<T>>, slack: f64) -> Result<f64> {
        worst(self.expect.iter().map(|expect| {
            let tensor = match expect.tensor {
                "output" => Some(&got.output),
                "weights" => got.weights.as_ref(),
                "lse" => got.lse.as_ref(),
                "scores" => got.scores.as_ref(),
                "present_key" => got.present_key.as_ref(),
                "present_value" => got.present_value.as_ref(),
                _ => None,
            };
            // The library's result is of the type that it stores.
            let rounded = tensor
                .filter(|_| self.storage == DType::F16)
                .map(|tensor| tensor.map(|&x| T::from_f32(half::f16::from_f64(x.to_f64()).to_f32())));
            expect.check(rounded.as_ref().or(tensor), slack)
        }))
    }
}

/// A recurrent encoder of one call.
#[derive(Debug, Clone)]
pub(crate) struct RnnCase {
    pub(crate) name: String,
    pub(crate) options: Rnn,
    pub(crate) stack: RnnStack<Array<f32>>,
    pub(crate) inputs: RnnInputs<Array<f32>>,
    pub(crate) expect: Vec<Expect>,
}

impl RnnCase {
    /// The worst share of the tolerances, each widened by `slack` (1 for the reference).
    pub(crate) fn check<T: Float>(&self, got: &RnnOutputs<Array<T>>, slack: f64) -> Result<f64> {
        worst(self.expect.iter().map(|expect| {
            let tensor = match expect.tensor {
                "output" => Some(&got.output),
                "final_h" => Some(&got.final_h),
                "final_c" => got.final_c.as_ref(),
                _ => None,
            };
            expect.check(tensor, slack)
        }))
    }
}

/// A rotary embedding by itself.
#[derive(Debug, Clone)]
pub(crate) struct RotaryCase {
    pub(crate) name: String,
    /// [B, H, N, D].
    pub(crate) x: Array<f32>,
    /// Cosines and sines [positions, width / 2].
    pub(crate) tables: [Array<f32>; 2],
    /// [B, N].
    pub(crate) positions: Option<Array<u32>>,
    pub(crate) rotary: Rotary,
    pub(crate) expect: Expect,
}

/// Rows written into a cache.
#[derive(Debug, Clone)]
pub(crate) struct AppendCase {
    pub(crate) name: String,
    /// [B, H, C, D].
    pub(crate) cache: Array<f32>,
    /// [B, H, n, D].
    pub(crate) rows: Array<f32>,
    pub(crate) starts: Vec<usize>,
    pub(crate) wrap: bool,
    pub(crate) expect: Expect,
}

/// Softmax, log-softmax or hardmax along one axis.
#[derive(Debug, Clone)]
pub(crate) struct SoftmaxCase {
    pub(crate) name: String,
    /// `Softmax`, `LogSoftmax` or `Hardmax`.
    pub(crate) op: String,
    pub(crate) axis: usize,
    pub(crate) x: Array<f32>,
    pub(crate) expect: Expect,
}

impl SoftmaxCase {
    /// Runs `f`, which works along the last axis, with this case's axis put last.
    pub(crate) fn run<T: Float>(&self, f: impl FnOnce(&Array<T>) -> Result<Array<T>>) -> Result<f64> {
        let last = self.x.shape().len() - 1;
        let mut order: Vec<usize> = (0..=last).collect();
        order.swap(self.axis, last);
        let x = self.x.map(|&x| T::from_f32(x)).permute(&order)?;
        self.expect.check(Some(&f(&x)?.permute(&order)?), 1.0)
    }
}

/// Attention of all sources.
pub(crate) fn attention_cases() -> Vec<AttentionCase> {
    let sources = [
        onnx::attention,
        torch::attention,
        flex::attention,
        keras::attention,
        tfa::attention,
        transformers::attention,
        speechbrain::attention,
        entmax::attention,
    ];
    sources.iter().flat_map(|source| source()).collect()
}

/// Rotary embeddings of ONNX and transformers.
pub(crate) fn rotary_cases() -> Vec<RotaryCase> {
    [onnx::rotary(), transformers::rotary()].concat()
}

/// Appends of ONNX.
pub(crate) fn append_cases() -> Vec<AppendCase> {
    onnx::append()
}

/// Recurrences of PyTorch, Keras, TensorFlow 1, ONNX and onnxruntime.
pub(crate) fn rnn_cases() -> Vec<RnnCase> {
    [torch::rnn(), keras::rnn(), tensorflow::rnn(), onnx::rnn(), onnxruntime::rnn()].concat()
}

/// Softmax, log-softmax and hardmax of PyTorch and ONNX.
pub(crate) fn softmax_cases() -> Vec<SoftmaxCase> {
    [torch::softmax(), onnx::softmax()].concat()
}

/// The names of all cases, as `folder/case`.
pub(crate) fn all_names() -> Vec<String> {
    FOLDERS.iter().flat_map(|folder| index(folder)).map(|entry| entry.name).collect()
}

/// Prints folder, operator, cases and how many passed, for what one device made of the cases of some names; fails with
/// every case that did not pass. A case may be run in several ways; it passes when all of them do.
pub(crate) fn report(device: &str, results: impl IntoIterator<Item = (String, Result<f64>)>) {
    let operator: BTreeMap<String, String> =
        FOLDERS.iter().flat_map(|folder| index(folder)).map(|entry| (entry.name, entry.op)).collect();
    let mut shares: BTreeMap<String, f64> = BTreeMap::new();
    let mut failures = Vec::new();
    for (name, result) in results {
        let share = result.unwrap_or_else(|error| {
            failures.push(format!("{name}: {error}"));
            f64::INFINITY
        });
        let worst = shares.entry(name).or_insert(0.0);
        *worst = worst.max(share);
    }
    let mut rows: BTreeMap<(&str, &str), (usize, usize, f64)> = BTreeMap::new();
    for (name, share) in &shares {
        let folder = name.split('/').next().unwrap();
        let (cases, passed, worst) = rows.entry((folder, &operator[name])).or_default();
        (*cases, *passed, *worst) = (*cases + 1, *passed + usize::from(*share <= 1.0), worst.max(*share));
    }
    println!("{:<14}{:<28}{:>6}{:>8}  worst error / tolerance", "source", "op", "cases", "passed");
    for ((folder, op), (cases, passed, worst)) in &rows {
        println!("{folder:<14}{op:<28}{cases:>6}{passed:>8}  {worst:.2}");
    }
    println!("{device}: {} cases", shares.len());
    assert!(!shares.is_empty());
    assert!(failures.is_empty(), "{device}: {} failed\n{}", failures.len(), failures.join("\n"));
}

fn worst(shares: impl Iterator<Item = Result<f64>>) -> Result<f64> {
    shares.into_iter().try_fold(0.0, |worst: f64, share| Ok(worst.max(share?)))
}

/// One case of an `index.json`.
struct Entry {
    /// `folder/case`.
    name: String,
    op: String,
    json: Value,
    path: PathBuf,
}

fn index(folder: &str) -> Vec<Entry> {
    let folder_path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(folder);
    let text = std::fs::read_to_string(folder_path.join("index.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let entry = |case: &Value| Entry {
        name: format!("{folder}/{}", case["case"].as_str().unwrap()),
        op: case["op"].as_str().unwrap().to_owned(),
        path: folder_path.join(case["file"].as_str().unwrap()),
        json: case.clone(),
    };
    json["cases"].as_array().unwrap().iter().map(entry).collect()
}

/// The cases of some operators in one folder, without those that are listed as not covered.
fn entries(folder: &str, ops: &[&str]) -> Vec<Entry> {
    let listed = |entry: &Entry| NOT_COVERED.iter().any(|(name, _)| *name == entry.name);
    index(folder).into_iter().filter(|entry| ops.contains(&entry.op.as_str()) && !listed(entry)).collect()
}

impl Entry {
    fn attribute(&self, name: &str) -> &Value {
        &self.json["attributes"][name]
    }

    fn flag(&self, name: &str) -> bool {
        match self.attribute(name) {
            Value::Bool(flag) => *flag,
            Value::Number(number) => number.as_i64() != Some(0),
            _ => false,
        }
    }

    fn integer(&self, name: &str) -> Option<i64> {
        self.attribute(name).as_i64()
    }

    fn number(&self, name: &str) -> Option<f32> {
        self.attribute(name).as_f64().map(|x| x as f32)
    }

    /// The tensors of the case's file.
    fn tensors(&self) -> Tensors {
        let bytes = std::fs::read(&self.path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let stored = |view: TensorView<'_>| Stored {
            dtype: view.dtype(),
            shape: view.shape().to_vec(),
            data: view.data().to_vec(),
        };
        let named = file.iter().map(|(name, view)| (name.to_owned(), stored(view)));
        Tensors { case: self.name.clone(), left: named.collect() }
    }

    /// Every source but ONNX: a few times the library's own f32 error, and not below 1e-6 of the tensor's size.
    fn expect(&self, tensor: &'static str, stored: &str, want: Array<f32>) -> Expect {
        let f32_error = self.json["f32_err"][stored].as_f64().unwrap();
        let size = want.data().iter().filter(|x| x.is_finite()).fold(0.0, |size: f32, x| size.max(x.abs()));
        Expect { tensor, want, rtol: 0.0, atol: (4.0 * f32_error).max(1e-6 * f64::from(size)) }
    }
}

/// The tensors of one file that no one has used yet.
struct Tensors {
    case: String,
    left: BTreeMap<String, Stored>,
}

/// A tensor as the file has it.
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl Tensors {
    fn take(&mut self, name: &str) -> Array<f32> {
        self.get(name).unwrap_or_else(|| panic!("{}: no tensor {name}", self.case))
    }

    /// Widened to f32.
    fn get(&mut self, name: &str) -> Option<Array<f32>> {
        self.left.remove(name).map(|stored| stored.floats())
    }

    /// Integers and bools; of those below 0 there are none, but for block tables, whose −1 is page 0 here: any page may stand
    /// where a row has none.
    fn integers(&mut self, name: &str) -> Option<Array<u32>> {
        self.left.remove(name).map(|stored| stored.integers())
    }

    /// Fails unless every tensor was used; gradients (`grad.*`) and their inputs (`in.d*`) are not.
    fn finish(self) {
        let unused = |name: &&String| !name.starts_with("grad.") && !name.starts_with("in.d");
        let left: Vec<&String> = self.left.keys().filter(unused).collect();
        assert!(left.is_empty(), "{}: unused tensors {left:?}", self.case);
    }
}

fn each<const N: usize, T>(bytes: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
    bytes.chunks_exact(N).map(|chunk| f(chunk.try_into().unwrap())).collect()
}

impl Stored {
    fn floats(&self) -> Array<f32> {
        let bytes = &self.data;
        let data = match self.dtype {
            Dtype::F64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Dtype::F32 => each(bytes, f32::from_le_bytes),
            Dtype::F16 => each(bytes, |b| half::f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => each(bytes, |b| half::bf16::from_le_bytes(b).to_f32()),
            Dtype::I32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
            Dtype::I64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
            Dtype::U8 | Dtype::BOOL => each(bytes, |[b]| f32::from(b)),
            other => panic!("no rule for {other:?}"),
        };
        Array::new(&self.shape, data).unwrap()
    }

    fn integers(&self) -> Array<u32> {
        let bytes = &self.data;
        let data = match self.dtype {
            Dtype::I32 => each(bytes, |b| i32::from_le_bytes(b).max(0) as u32),
            Dtype::I64 => each(bytes, |b| u32::try_from(i64::from_le_bytes(b).max(0)).unwrap()),
            Dtype::U8 | Dtype::BOOL => each(bytes, |[b]| u32::from(b)),
            other => panic!("no integers: {other:?}"),
        };
        Array::new(&self.shape, data).unwrap()
    }
}

/// Inputs whose scores [B, N, M] are given: those of one head, through a mask over zeros.
fn of_scores(scores: Array<f32>) -> AttentionInputs<Array<f32>> {
    let &[batch, queries, keys] = scores.shape() else { panic!("rank 3 expected") };
    let zeros = |n: usize| Array::filled(&[batch, 1, n, 1], 0.0);
    let mut inputs = AttentionInputs::new(zeros(queries), zeros(keys), zeros(keys));
    inputs.mask = Some(Mask::Float(lift_mask(scores)));
    inputs
}

/// [B, N, H·D] to [B, H, N, D].
fn split_heads<T: Clone>(x: &Array<T>, heads: usize) -> Array<T> {
    let packed = Layout::contiguous(x.shape());
    let dim = x.shape()[2] / heads;
    x.gather(&packed.split(2, heads, dim).unwrap().permute(&[0, 2, 1, 3]).unwrap()).unwrap()
}

/// A mask [B, Nk] or [B, Nq, Nk] as [B, 1, ·, Nk].
fn lift_mask<T>(mask: Array<T>) -> Array<T> {
    match *mask.shape() {
        [batch, keys] => mask.reshape(&[batch, 1, 1, keys]).unwrap(),
        [batch, queries, keys] => mask.reshape(&[batch, 1, queries, keys]).unwrap(),
        _ => panic!("rank 2 or 3 expected"),
    }
}
