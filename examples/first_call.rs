//! What a program waits for: opening the device, the first call of an operation, which builds its pipelines, and the
//! second, which finds them built. Mesa's software driver compiles on first use and keeps the result on disk: with
//! `MESA_SHADER_CACHE_DIR` at an empty folder it starts cold, run again there it is warm.
//!
//! ```sh
//! cargo run --release --example first_call
//! ```

use std::time::Instant;

use regard::Gpu;
use regard::attention::{Attention, AttentionInputs};
use regard::gpu::Open;
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Cell, Rnn, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType};

/// Prints how long something took.
fn timed<T>(what: &str, f: impl FnOnce() -> regard::Result<T>) -> regard::Result<T> {
    let start = Instant::now();
    let value = f()?;
    println!("{what:<40} {:>9.1} ms", start.elapsed().as_secs_f64() * 1e3);
    Ok(value)
}

fn main() -> regard::Result<()> {
    let wave = |shape: &[usize], f: f32| Array::from_fn(shape, |i| (i as f32 * f).sin());
    let gpu = timed("Gpu::open", || Gpu::open(&Open::default()))?;

    // [B = 1, H = 8, N = 256, D = 64]
    let heads = |f| wave(&[1, 8, 256, 64], f);
    let inputs = AttentionInputs::new(heads(0.37), heads(0.71), heads(0.93)).upload(&gpu, DType::F32)?;
    for call in ["first", "second"] {
        timed(&format!("attention 1×8×256×64, {call} call"), || {
            Attention::default().run(&gpu, &inputs)?.output.download(&gpu)
        })?;
    }

    // T = 64, B = 1, I = H = 128
    let weights = RnnWeights::new(wave(&[512, 128], 0.71), wave(&[512, 128], 0.37));
    let lstm = GpuRnn::upload(&gpu, &Rnn::new(Cell::Lstm), &vec![vec![weights]], DType::F32)?;
    let inputs = RnnInputs::new(wave(&[64, 1, 128], 0.93)).upload(&gpu, DType::F32)?;
    for call in ["first", "second"] {
        timed(&format!("LSTM of 64 steps and 128 units, {call} call"), || lstm.run(&gpu, &inputs)?.download(&gpu))?;
    }
    println!("on {}", gpu.adapter());
    Ok(())
}
