//! The step that soft attention began with: an LSTM encoder over a sequence, scores as dot products with a decoder
//! state, α = softmax(e), y = Σ αᵢ·xᵢ. `BasicLSTMCell` under `dynamic_rnn`: forget bias 1, states past the length kept.
//!
//! ```sh
//! cargo run --release --example article
//! ```

use regard::attention::{Attention, AttentionInputs, Score};
use regard::gpu::{Open, Run};
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Cell, Rnn, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType};
use regard::{Gpu, Tensor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gpu = Gpu::open(&Open::default())?;
    let (steps, batch, inputs, hidden) = (7, 2, 5, 8);
    let wave = |shape: &[usize], f: f32| Array::from_fn(shape, |i| (i as f32 * f).sin() * 0.5);

    // TensorFlow's one kernel [I + H, 4·H], gates i, j, f, o.
    let weights = RnnWeights::from_tensorflow(&wave(&[inputs + hidden, 4 * hidden], 0.71), None)?;
    let options = Rnn { forget_bias: 1.0, ..Rnn::new(Cell::Lstm) };
    let encoder = GpuRnn::upload(&gpu, &options, &vec![vec![weights]], DType::F32)?;

    let mut run = Run::new(&gpu);
    let sequence = RnnInputs {
        lengths: Some(Tensor::upload_u32(&gpu, "lengths", &Array::new(&[batch], vec![7, 4])?)?),
        ..RnnInputs::new(Tensor::upload(&gpu, "input", &wave(&[steps, batch, inputs], 0.37), DType::F32)?)
    };
    let encoded = encoder.record(&mut run, &sequence)?;

    // [T, B, H] → [B, 1, T, H]; the query is one decoder state per row, [B, 1, 1, H].
    let states = encoded.output.with_layout(encoded.output.layout().split(2, 1, hidden)?.permute(&[1, 2, 0, 3])?)?;
    let decoder = Tensor::upload(&gpu, "decoder state", &wave(&[batch, 1, 1, hidden], 0.9), DType::F32)?;
    let attention = Attention { score: Score::Dot, weights: true, ..Attention::default() };
    let mut inputs = AttentionInputs::new(decoder, states.clone(), states);
    inputs.kv_lengths = sequence.lengths.clone();
    let attended = attention.record(&mut run, &inputs)?;
    run.submit()?;

    println!("α = {:.3?}", attended.weights.map(|w| w.download(&gpu)).transpose()?.map(Array::into_data));
    println!("y = {:.3?}", attended.output.download(&gpu)?.into_data());
    Ok(())
}
