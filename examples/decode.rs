//! Grouped-query decoding with a key–value cache in pages: a prompt at once, then token after token, each in one
//! submission that projects, turns, appends and attends; through a cache of f32, then through one of 8-bit numbers. The
//! whole sequence is computed in one causal call on the CPU as well, in f64, and compared.
//!
//! ```sh
//! cargo run --release --example decode
//! ```

use std::time::{Duration, Instant};

use regard::attention::{Attention, AttentionInputs, Causal, Rotary, RotaryEmbedding};
use regard::gpu::{Open, Run};
use regard::ops::cache::{CacheShape, KvCache};
use regard::ops::linear::{Epilogue, linear};
use regard::ops::rotary::rotary;
use regard::tensor::{Array, DType};
use regard::{Gpu, Result, Tensor, reference};

const BATCH: usize = 2;
const QUERY_HEADS: usize = 8;
const KV_HEADS: usize = 2;
const HEAD_DIM: usize = 32;
const WIDTH: usize = QUERY_HEADS * HEAD_DIM;
const PROMPT: usize = 48;
const TOKENS: usize = 32;
const PAGE: usize = 16;

/// Queries, keys and values of tokens [B, n, E].
struct Layer {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cos: Tensor,
    sin: Tensor,
}

impl Layer {
    /// Records one step over new tokens [B, n, E]; gives the attended values [B, Hq, n, D].
    fn step(&self, run: &mut Run<'_>, cache: &mut KvCache, tokens: &Tensor) -> Result<Tensor> {
        let n = tokens.shape()[1];
        // [B, n, H·D] seen as [B, H, n, D], without a copy.
        let mut heads = |weight: &Tensor, count: usize| {
            linear(run, &[(tokens, weight)], &Epilogue::default()).and_then(|x| x.heads(count))
        };
        let query = heads(&self.query, QUERY_HEADS)?;
        let key = heads(&self.key, KV_HEADS)?;
        let value = heads(&self.value, KV_HEADS)?;

        let positions = cache.positions(run, n)?;
        let tables = [&self.cos, &self.sin];
        let query = rotary(run, &query, tables, Some(&positions), Rotary::default())?;
        let key = rotary(run, &key, tables, Some(&positions), Rotary::default())?;
        cache.append(run, &key, &value, None)?;
        let inputs = cache.inputs(run, &query, None)?;
        let attention = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
        Ok(attention.record(run, &inputs)?.output)
    }
}

/// Reproducible numbers of about unit size.
fn numbers(shape: &[usize], seed: u32) -> Array {
    let mut state = seed;
    Array::from_fn(shape, |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    })
}

/// [B, n, E] of all tokens, cut to `length` from `start`.
fn slice(all: &Array, start: usize, length: usize) -> Result<Array> {
    all.gather(&regard::tensor::Layout::contiguous(all.shape()).narrow(1, start, length)?)
}

/// What one pass over all tokens gave.
struct Decoded {
    /// [B, Hq, n, D] of each step.
    outputs: Vec<Tensor>,
    /// How long each step took.
    times: Vec<Duration>,
    /// Bytes of the keys and values that are held.
    held: u64,
}

/// The prompt, then one token at a time, through a cache that stores `dtype`.
fn decode(gpu: &Gpu, layer: &Layer, tokens: &Array, dtype: DType) -> Result<Decoded> {
    let shape = CacheShape {
        layers: 1,
        batch: BATCH,
        kv_heads: KV_HEADS,
        capacity: PROMPT + TOKENS,
        key_dim: HEAD_DIM,
        value_dim: HEAD_DIM,
    };
    let pages = BATCH * (PROMPT + TOKENS).div_ceil(PAGE);
    let mut cache = KvCache::paged(gpu, shape, PAGE, pages, dtype)?;
    // (first token, how many)
    let steps = std::iter::once((0, PROMPT)).chain((PROMPT..PROMPT + TOKENS).map(|token| (token, 1)));
    let (mut outputs, mut times) = (Vec::new(), Vec::new());
    for (start, n) in steps {
        let new = Tensor::upload(gpu, "tokens", &slice(tokens, start, n)?, DType::F32)?;
        let begun = Instant::now();
        let mut run = Run::new(gpu);
        let output = layer.step(&mut run, &mut cache, &new)?;
        run.submit()?;
        gpu.wait()?;
        times.push(begun.elapsed());
        outputs.push(output);
    }
    let used = pages - cache.free_pages().unwrap_or(0);
    let held =
        cache.tensors(0)?.map(|pool| dtype.bytes_of(pool.layout().elements() / pages * used) as u64).iter().sum();
    Ok(Decoded { outputs, times, held })
}

fn main() -> Result<()> {
    let gpu = Gpu::open(&Open::default())?;
    eprintln!("on {}", gpu.adapter());
    let tokens = numbers(&[BATCH, PROMPT + TOKENS, WIDTH], 1);
    let scaled = |rows: usize, seed: u32| numbers(&[rows, WIDTH], seed).map(|x| x * 2.0 / (WIDTH as f32).sqrt());
    let weights = [scaled(WIDTH, 2), scaled(KV_HEADS * HEAD_DIM, 3), scaled(KV_HEADS * HEAD_DIM, 4)];
    let [cos, sin] = Rotary::tables(10_000.0, HEAD_DIM, PROMPT + TOKENS)?;
    let upload = |name: &str, array: &Array| Tensor::upload(&gpu, name, array, DType::F32);
    let layer = Layer {
        query: upload("query weight", &weights[0])?,
        key: upload("key weight", &weights[1])?,
        value: upload("value weight", &weights[2])?,
        cos: upload("cos", &cos)?,
        sin: upload("sin", &sin)?,
    };

    // The same at once: projections, rotary embedding and causal attention over everything.
    let wide = |array: &Array| array.cast::<f64>();
    let heads = |weight: &Array, count: usize| -> Result<Array<f64>> {
        let x = reference::linear(&wide(&tokens), &wide(weight), None, None)?;
        x.reshape(&[BATCH, PROMPT + TOKENS, count, HEAD_DIM])?.permute(&[0, 2, 1, 3])
    };
    let mut inputs = AttentionInputs::new(
        heads(&weights[0], QUERY_HEADS)?,
        heads(&weights[1], KV_HEADS)?,
        heads(&weights[2], KV_HEADS)?,
    );
    inputs.rotary = Some(RotaryEmbedding::new(Rotary::default(), [wide(&cos), wide(&sin)]));
    let options = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
    let whole = reference::attention(&options, &inputs)?.output;

    for dtype in [DType::F32, DType::Q8] {
        let Decoded { outputs, times, held } = decode(&gpu, &layer, &tokens, dtype)?;
        let (mut worst, mut start) = (0.0f64, 0);
        for output in &outputs {
            let got = output.download(&gpu)?;
            let n = got.shape()[2];
            let want = whole.gather(&regard::tensor::Layout::contiguous(whole.shape()).narrow(2, start, n)?)?;
            let difference = got.data().iter().zip(want.data()).map(|(got, want)| (f64::from(*got) - want).abs());
            worst = difference.fold(worst, f64::max);
            start += n;
        }
        let (prompt, mut later) = (times[0], times[1..].to_vec());
        later.sort();
        println!("a cache of {dtype}: {BATCH} × {} keys and values in {held} bytes", PROMPT + TOKENS);
        println!(
            "  prompt of {PROMPT}: {prompt:.1?} (with building the pipelines); a token: {:.1?}",
            later[later.len() / 2]
        );
        println!("  largest difference from one causal call in f64: {worst:.1e}");
    }
    Ok(())
}
