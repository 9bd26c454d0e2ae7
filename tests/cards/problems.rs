//! The problems whose programs are built: what people run on cards.

use std::error::Error;

use regard::attention::{Algorithm, Attention, AttentionInputs, Causal, Mask, Score};
use regard::gpu::{Gpu, Open, Run};
use regard::ops::linear::{Epilogue, linear};
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Activation, Cell, Reset, Rnn, RnnAlgorithm, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType};
use regard::validate::{Sample, Sweep};
use regard::{Result, Tensor};

const CELLS: [Cell; 4] = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];

/// Head dims; 80 fills no power of two.
const DIMS: [usize; 4] = [64, 80, 128, 256];

/// Problems on their way to the device's compiler.
struct Problems<'a> {
    gpu: Gpu,
    /// Only those are built whose name has this in it.
    only: &'a str,
    /// Without run-time checks, where they are proved not to be needed.
    trusted: bool,
    failed: &'a mut Vec<String>,
}

impl<'a> Problems<'a> {
    fn open(cooperative: bool, only: &'a str, trusted: bool, failed: &'a mut Vec<String>) -> Result<Self> {
        Ok(Self { gpu: Gpu::open(&Open { cooperative, trusted, ..Open::default() })?, only, trusted, failed })
    }

    /// A device of its own for the next group of problems.
    fn again(&mut self) -> Result<Problems<'_>> {
        Problems::open(self.gpu.caps().cooperative.is_some(), self.only, self.trusted, self.failed)
    }

    fn build(&mut self, name: &str, record: impl FnOnce(&mut Run<'_>) -> Result<()>) {
        if !name.contains(self.only) {
            return;
        }
        let mut run = Run::new(&self.gpu);
        if let Err(error) = record(&mut run).and_then(|()| run.prepare().map(drop)) {
            self.failed.push(format!("{name}: {error}"));
        }
    }
}

/// Builds everything, or the problems whose name has `only` in it, with cooperative matrices and without where the device has
/// them; with run-time checks, or without where they are proved not to be needed. A device that does nothing frees nothing, so each group of problems has one of its own.
pub(crate) fn build(only: &str, trusted: bool) -> std::result::Result<(), Box<dyn Error>> {
    let mut failed = Vec::new();
    for cooperative in [false, true] {
        let mut problems = Problems::open(cooperative, only, trusted, &mut failed)?;
        if cooperative && problems.gpu.caps().cooperative.is_none() {
            break;
        }
        println!("{}", problems.gpu.adapter());
        attention(&mut problems)?;
        products(&mut problems)?;
        for cell in CELLS {
            for hidden in [64, 96, 128, 256, 512, 1024] {
                // They have no cooperative matrices.
                if !cooperative {
                    recurrence(&mut problems.again()?, cell, hidden)?;
                }
            }
        }
        if only.is_empty() {
            let problems = problems.again()?;
            let sweep = Sweep { sample: Sample::Quick, planned: None, again: None };
            sweep.build(&problems.gpu, |name, built| {
                if let Err(error) = built {
                    problems.failed.push(format!("{name}: {error}"));
                }
            });
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(format!("{} could not be built:\n{}", failed.len(), failed.join("\n")).into()),
    }
}

/// Ways to store a query and a cache.
fn storages(gpu: &Gpu) -> Vec<[DType; 2]> {
    let mut storages = vec![[DType::F32; 2], [DType::F32, DType::Q8]];
    if gpu.caps().f16 {
        storages.extend([[DType::F16; 2], [DType::F16, DType::Q8]]);
    }
    storages
}

fn attention(problems: &mut Problems<'_>) -> Result<()> {
    let gpu = &problems.gpu.clone();
    let tensor = |name: &'static str, shape: &[usize], dtype| Tensor::uninitialized(gpu, name, shape, dtype);
    let causal = || Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
    for [element, cache] in storages(gpu) {
        for dim in DIMS {
            // q8 is stored in blocks of 32.
            let fits = cache != DType::Q8 || dim % 32 == 0;
            if !fits {
                continue;
            }
            // B, Hq, Hkv, Nq, Nk
            for (what, options, [batch, heads, kv_heads, queries, keys], masked) in [
                ("prefill", Attention::default(), [1, 8, 8, 1024, 1024], false),
                ("causal prefill", causal(), [1, 32, 8, 2048, 2048], false),
                ("masked", Attention::default(), [2, 8, 8, 512, 512], true),
                ("staged", Attention { path: Algorithm::Staged, ..causal() }, [1, 8, 8, 512, 512], false),
                ("with log-sum-exp", Attention { lse: true, ..causal() }, [1, 8, 8, 512, 512], false),
                ("decode", causal(), [1, 32, 8, 1, 4096], false),
                ("decode 4", causal(), [1, 32, 8, 4, 4096], false),
                ("decode batch", causal(), [16, 32, 8, 1, 2048], false),
            ] {
                let key = [batch, kv_heads, keys, dim];
                // A cache that no binding of the device holds is no failure of its compiler.
                if cache.bytes_of(key.iter().product()) as u64 > gpu.caps().max_tensor_bytes() {
                    continue;
                }
                problems.build(&format!("{what} D{dim} {element} {cache}"), |run| {
                    let inputs = AttentionInputs {
                        mask: match masked {
                            true => Some(Mask::Float(tensor("mask", &[queries, keys], DType::F32)?)),
                            false => None,
                        },
                        ..AttentionInputs::new(
                            tensor("query", &[batch, heads, queries, dim], element)?,
                            tensor("key", &key, cache)?,
                            tensor("value", &key, cache)?,
                        )
                    };
                    options.record(run, &inputs).map(drop)
                });
            }
        }
    }
    // Additive scores over A = 128: a step, and a sentence with itself.
    for [batch, queries, keys] in [[16, 1, 64], [1, 512, 512]] {
        problems.build(&format!("additive {queries}×{keys}"), |run| {
            let inputs = AttentionInputs::new(
                tensor("query", &[batch, 1, queries, 128], DType::F32)?,
                tensor("key", &[batch, 1, keys, 128], DType::F32)?,
                tensor("value", &[batch, 1, keys, 128], DType::F32)?,
            );
            Attention { score: Score::Additive, ..Attention::default() }.record(run, &inputs).map(drop)
        });
    }
    Ok(())
}

/// A layer of one cell and width, and two as a wavefront, on every path.
fn recurrence(problems: &mut Problems<'_>, cell: Cell, hidden: usize) -> Result<()> {
    let gpu = &problems.gpu.clone();
    let zeros = |shape: &[usize]| Array::filled(shape, 0.0);
    for dtype in [Some(DType::F32), gpu.caps().f16.then_some(DType::F16)].into_iter().flatten() {
        let rows = cell.gates() * hidden;
        let weights = RnnWeights {
            bias_ih: Some(zeros(&[rows])),
            bias_hh: Some(zeros(&[rows])),
            ..RnnWeights::new(zeros(&[rows, hidden]), zeros(&[rows, hidden]))
        };
        for path in [RnnAlgorithm::Auto, RnnAlgorithm::Steps, RnnAlgorithm::Wavefront, RnnAlgorithm::Persistent] {
            let options = Rnn { path, ..Rnn::new(cell) };
            let layers = if path == RnnAlgorithm::Wavefront { 2 } else { 1 };
            let rnn = GpuRnn::upload(gpu, &options, &vec![vec![weights.clone()]; layers], dtype)?;
            for batch in [1, 16] {
                let inputs = RnnInputs::new(Tensor::uninitialized(gpu, "input", &[64, batch, hidden], dtype)?);
                // A path that cannot run a problem is no failure of the card.
                if rnn.plan(gpu.caps(), &inputs.map(Tensor::shape, Tensor::shape)).is_err() {
                    continue;
                }
                problems.build(&format!("{cell:?} H{hidden} B{batch} {path:?} {dtype}"), |run| {
                    rnn.record(run, &inputs).map(drop)
                });
            }
        }
    }
    Ok(())
}

fn products(problems: &mut Problems<'_>) -> Result<()> {
    let gpu = &problems.gpu.clone();
    let types = [Some(DType::F32), gpu.caps().f16.then_some(DType::F16)];
    for dtype in types.into_iter().flatten() {
        for [rows, columns, depth] in
            [[1, 1024, 1024], [4, 4096, 1024], [39, 384, 384], [128, 1536, 384], [512, 512, 512], [4096, 4096, 4096]]
        {
            for activation in [None, Some(Activation::Gelu)] {
                problems.build(&format!("linear {rows}×{columns}×{depth} {dtype}"), |run| {
                    let x = Tensor::uninitialized(gpu, "x", &[rows, depth], dtype)?;
                    let weight = Tensor::uninitialized(gpu, "weight", &[columns, depth], dtype)?;
                    let bias = Tensor::uninitialized(gpu, "bias", &[columns], DType::F32)?;
                    let epilogue = Epilogue { bias: Some(&bias), activation, ..Epilogue::default() };
                    linear(run, &[(&x, &weight)], &epilogue).map(drop)
                });
            }
        }
    }
    Ok(())
}
