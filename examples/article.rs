//! Soft attention as it began, as one call: an LSTM reads a sequence, and a decoder state asks what to look at.
//!
//! ```text
//! enc_1 … enc_n = lstm(input)      TensorFlow's BasicLSTMCell under dynamic_rnn
//! e_i = enc_i · dec                how well each of them goes with the decoder's state
//! α   = softmax(e)                 shares that sum to 1
//! y   = Σ α_i · enc_i              what the decoder is told
//! ```
//!
//! ```sh
//! cargo run --release --example article
//! ```

use regard::Gpu;
use regard::gpu::Open;
use regard::layers::GpuAttentiveEncoder;
use regard::layers::{AttentiveEncoder, AttentiveInputs, AttentiveWeights};
use regard::rnn::{Cell, Rnn, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType};

/// T, B, I, H.
const STEPS: usize = 7;
const BATCH: usize = 2;
const INPUT: usize = 5;
const HIDDEN: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let wave = |shape: &[usize], f: f32| Array::from_fn(shape, |i| (i as f32 * f).sin() * 1.5);

    // BasicLSTMCell keeps one kernel [I + H, 4·H] with gates i, j, f, o, and adds 1 to the forget gate when it runs.
    let cell = RnnWeights::from_tensorflow(&wave(&[INPUT + HIDDEN, 4 * HIDDEN], 0.71), None)?;
    let layer = AttentiveEncoder::new(Rnn { forget_bias: 1.0, ..Rnn::new(Cell::Lstm) });
    let weights = AttentiveWeights::new(vec![vec![cell]]);

    // Two sequences in one batch; the second ends after 4 of 7 steps. One decoder state asks about each.
    let lengths = Some(Array::new(&[BATCH], vec![7, 4])?);
    let sequences = RnnInputs { lengths, ..RnnInputs::new(wave(&[STEPS, BATCH, INPUT], 0.37)) };
    let inputs = AttentiveInputs::new(sequences, wave(&[BATCH, 1, HIDDEN], 0.9));

    // All steps, scores, softmax and weighted sum: nothing read back in between.
    let gpu = Gpu::open(&Open::default())?;
    let encoder = GpuAttentiveEncoder::upload(&gpu, &layer, &weights, DType::F32)?;
    let outputs = encoder.run(&gpu, &inputs.upload(&gpu, DType::F32)?)?.download(&gpu)?;

    let alpha = outputs.weights.ok_or("the layer was asked for its weights")?;
    println!("on {}", gpu.adapter().name);
    for (alpha, y) in alpha.data().chunks(STEPS).zip(outputs.context.data().chunks(HIDDEN)) {
        println!("α = {alpha:.3?}, together {:.3}\n  y = {y:.3?}", alpha.iter().sum::<f32>());
    }

    // The same on the CPU in double precision.
    let truth = layer.reference::<f64>(&weights.map(Array::cast), &inputs.map_numbers(Array::cast))?;
    let far = |(&got, &want): (&f32, &f64)| (f64::from(got) - want).abs();
    let worst = outputs.context.data().iter().zip(truth.context.data()).map(far).fold(0.0, f64::max);
    println!("largest difference of y from the reference: {worst:.1e}");
    Ok(())
}
