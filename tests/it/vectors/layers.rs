//! Layers of other libraries: PyTorch's `MultiheadAttention`, Keras' `MultiHeadAttention` and `GroupQueryAttention`,
//! TensorFlow Addons' `AttentionWrapper`.

use regard::attention::{Attention, AttentionInputs, Causal, Mask, Monotonic, Normalize, Score, ScoreWeights};
use regard::gpu::Gpu;
use regard::layers::GpuAttentionDecoder;
use regard::layers::{
    AttentionDecoder, DecoderMemory, DecoderOutput, DecoderOutputs, DecoderWeights, GpuMultiHeadAttention, Linear,
    MultiHeadAttention, MultiHeadWeights, torch_mask,
};
use regard::reference::Float;
use regard::rnn::{Activation, Cell, Reset, Rnn, RnnWeights};
use regard::tensor::{Array, DType};
use regard::{Result, Tensor};

use super::{Entry, Expect, Tensors, entries, lift_mask, worst};

/// One call of a multi-head layer; inputs [B, N, E].
#[derive(Debug, Clone)]
pub(crate) struct MultiHeadCase {
    pub(crate) name: String,
    pub(crate) layer: MultiHeadAttention,
    pub(crate) weights: MultiHeadWeights<Array<f32>>,
    pub(crate) inputs: AttentionInputs<Array<f32>>,
    /// `output` and `weights`.
    expect: Vec<Expect>,
}

impl MultiHeadCase {
    /// The worst share of the tolerances, on the CPU.
    pub(crate) fn on_cpu<T: Float>(&self) -> Result<f64> {
        let cast = |a: &Array<f32>| a.map(|&x| T::from_f32(x));
        let got = self.layer.reference(&self.weights.map(cast), &self.inputs.map_numbers(cast))?;
        self.check(&got.output, got.weights.as_ref())
    }

    pub(crate) fn on_gpu(&self, gpu: &Gpu) -> Result<f64> {
        let layer = GpuMultiHeadAttention::upload(gpu, &self.layer, &self.weights, DType::F32)?;
        let got = layer.run(gpu, &self.inputs.upload(gpu, DType::F32)?)?.download(gpu)?;
        self.check(&got.output, got.weights.as_ref())
    }

    fn check<T: Float>(&self, output: &Array<T>, weights: Option<&Array<T>>) -> Result<f64> {
        worst(self.expect.iter().map(|expect| match expect.tensor {
            "output" => expect.check(Some(output), 1.0),
            _ => expect.check(weights, 1.0),
        }))
    }
}

/// A decoder over all its steps.
#[derive(Debug, Clone)]
pub(crate) struct WrapperCase {
    pub(crate) name: String,
    decoder: AttentionDecoder,
    weights: DecoderWeights<Array<f32>>,
    memory: DecoderMemory<Array<f32>>,
    /// [T, B, I].
    input: Array<f32>,
    /// `attention`, `cell_output`, `alignments`, `final_c`.
    expect: Vec<Expect>,
}

impl WrapperCase {
    /// The worst share of the tolerances, on the CPU.
    pub(crate) fn on_cpu<T: Float>(&self) -> Result<f64> {
        let cast = |a: &Array<f32>| a.map(|&x| T::from_f32(x));
        let (weights, memory, input) = (self.weights.map(cast), self.memory.map_numbers(cast), cast(&self.input));
        self.check(|decoder| decoder.reference(&weights, &memory, &input, None))
    }

    pub(crate) fn on_gpu(&self, gpu: &Gpu) -> Result<f64> {
        let memory = self.memory.upload(gpu, DType::F32)?;
        let input = Tensor::upload(gpu, "input", &self.input, DType::F32)?;
        self.check(|decoder| {
            let decoder = GpuAttentionDecoder::upload(gpu, decoder, &self.weights, DType::F32)?;
            decoder.run(gpu, &memory, &input, None)?.download(gpu)
        })
    }

    fn check<T: Float>(&self, run: impl Fn(&AttentionDecoder) -> Result<DecoderOutputs<Array<T>>>) -> Result<f64> {
        let attended = run(&self.decoder)?;
        let cell = run(&AttentionDecoder { output: DecoderOutput::Cell, ..self.decoder.clone() })?;
        worst(self.expect.iter().map(|expect| {
            let got = match expect.tensor {
                "attention" => Some(&attended.output),
                "cell_output" => Some(&cell.output),
                "alignments" => Some(&attended.alignments),
                _ => attended.state.c.as_ref(),
            };
            expect.check(got, 1.0)
        }))
    }
}

pub(crate) fn multi_head_cases() -> Vec<MultiHeadCase> {
    let torch = ["torch", "mha"].into_iter().flat_map(|folder| entries(folder, &["MultiheadAttention"]));
    let keras = entries("keras", &["MultiHeadAttention", "GroupedQueryAttention"]);
    torch.map(|entry| of_torch(&entry)).chain(keras.iter().map(of_keras)).collect()
}

pub(crate) fn wrapper_cases() -> Vec<WrapperCase> {
    entries("tfa", &["AttentionWrapper"]).iter().map(wrapper).collect()
}

/// Every case of a layer, as `folder/case`.
pub(crate) fn layer_names() -> Vec<String> {
    let multi_head = multi_head_cases().into_iter().map(|case| case.name);
    multi_head.chain(wrapper_cases().into_iter().map(|case| case.name)).collect()
}

fn layer(entry: &Entry, causal: bool) -> MultiHeadAttention {
    let heads = entry.integer("heads").unwrap() as usize;
    MultiHeadAttention {
        kv_heads: entry.integer("kv_heads").map_or(heads, |n| n as usize),
        attention: Attention { causal: causal.then_some(Causal::TopLeft), weights: true, ..Attention::default() },
        add_zero_attn: entry.flag("add_zero_attn"),
        average_weights: entry.flag("average_attn_weights"),
        ..MultiHeadAttention::new(heads)
    }
}

fn outputs(entry: &Entry, t: &mut Tensors) -> Vec<Expect> {
    [("output", "out.y"), ("weights", "out.weights")]
        .map(|(tensor, stored)| entry.expect(tensor, stored, t.take(stored)))
        .into()
}

fn of_torch(entry: &Entry) -> MultiHeadCase {
    let mut t = entry.tensors();
    let query = t.take("in.q");
    let [key, value] = ["in.k", "in.v"].map(|name| match entry.flag("self_attention") {
        true => query.clone(),
        false => t.take(name),
    });
    let attn_mask = match entry.attribute("attn_mask").as_str() {
        Some(kind) if kind.starts_with("added") => t.get("in.attn_mask").map(Mask::Float),
        _ => t.integers("in.attn_mask").map(Mask::Bool),
    };
    let padding = t.integers("in.key_padding").map(Mask::Bool);
    // a causal mask that is given is the whole of it
    let layer = layer(entry, entry.flag("causal") && attn_mask.is_none());
    let mask = torch_mask(attn_mask.as_ref(), padding.as_ref(), query.shape()[0], layer.heads).unwrap();
    let weights = MultiHeadWeights::from_torch(|name| t.get(&format!("w.{name}"))).unwrap();
    let expect = outputs(entry, &mut t);
    t.finish();
    let inputs = AttentionInputs { mask, ..AttentionInputs::new(query, key, value) };
    MultiHeadCase { name: entry.name.clone(), layer, weights, inputs, expect }
}

fn of_keras(entry: &Entry) -> MultiHeadCase {
    let mut t = entry.tensors();
    let mut inputs = AttentionInputs::new(t.take("in.q"), t.take("in.k"), t.take("in.v"));
    inputs.mask = t.integers("in.mask").map(|mask| Mask::Bool(lift_mask(mask)));
    let layer = layer(entry, entry.flag("causal"));
    let find = |path: &str| t.get(&format!("w.{}", path.replace('/', ".")));
    let weights = MultiHeadWeights::from_keras(&layer, find).unwrap();
    let expect = outputs(entry, &mut t);
    t.finish();
    MultiHeadCase { name: entry.name.clone(), layer, weights, inputs, expect }
}

/// [B, T, W] to [T, B, W].
fn time_major(x: &Array<f32>) -> Array<f32> {
    x.permute(&[1, 0, 2]).unwrap()
}

fn wrapper(entry: &Entry) -> WrapperCase {
    let mut t = entry.tensors();
    let cell = match entry.attribute("cell").as_str() {
        Some("LSTM") => Cell::Lstm,
        Some("GRU") if entry.flag("reset_after") => Cell::Gru { reset: Reset::After },
        other => panic!("{}: cell {other:?}", entry.name),
    };
    let [kernel, recurrent, bias] =
        ["kernel", "recurrent_kernel", "bias"].map(|name| t.take(&format!("w.cell.{name}")));
    let cell_weights = RnnWeights::from_keras(cell, &kernel, &recurrent, Some(&bias)).unwrap();

    let mechanism = entry.attribute("mechanism").as_str().unwrap();
    // Dense kernels are [inputs, outputs]
    let dense = |kernel: Array<f32>| kernel.permute(&[1, 0]).unwrap();
    let keys = dense(t.take("w.memory_layer.kernel"));
    let g = t.get("w.attention_g").map(|g| g.reshape(&[1]).unwrap());
    let mut attention = Attention::default();
    let mut score = ScoreWeights::default();
    if mechanism.starts_with("Luong") {
        // h · (K·m), and the keys are the memory itself here
        attention.score = Score::General;
        attention.scale = g.map(|g| g.data()[0]);
        score.weight = Some(keys);
    } else {
        attention.score = Score::Additive;
        score.query_weight = Some(dense(t.take("w.query_layer.kernel")));
        score.key_weight = Some(keys);
        score.v = Some(t.take("w.attention_v"));
        (score.g, score.bias) = (g, t.get("w.attention_b"));
    }
    if mechanism.contains("Monotonic") {
        attention.normalize = Normalize::Monotonic(match entry.attribute("mode").as_str() {
            Some("parallel") => Monotonic::Parallel,
            Some("hard") => Monotonic::Hard,
            other => panic!("{}: mode {other:?}", entry.name),
        });
    }
    let activation = entry.attribute("attention_layer_activation").as_str();
    let mut decoder = AttentionDecoder::new(Rnn::new(cell), attention);
    decoder.activation = activation.map(|name| Activation::from_name(name).unwrap());
    let layer = t.get("w.attention_layer.kernel");
    let layer = layer.map(|kernel| Linear::with(dense(kernel), t.get("w.attention_layer.bias")));
    let memory = DecoderMemory {
        memory: t.take("in.memory"),
        lengths: t.integers("in.lengths"),
        mask: t.get("w.attention_score_bias").map(|r| Mask::Float(r.reshape(&[1]).unwrap())),
    };
    let input = time_major(&t.take("in.x"));
    let sequences = [("attention", "out.attention"), ("cell_output", "out.cell_output"), ("alignments", "out.weights")];
    let mut expect: Vec<Expect> =
        sequences.map(|(tensor, stored)| entry.expect(tensor, stored, time_major(&t.take(stored)))).into();
    if let Some(c) = t.get("out.final_c") {
        let shape = [&[1], c.shape()].concat();
        expect.push(entry.expect("final_c", "out.final_c", c.reshape(&shape).unwrap()));
    }
    t.finish();
    let weights = DecoderWeights { cell: vec![vec![cell_weights]], score, attention: layer };
    WrapperCase { name: entry.name.clone(), decoder, weights, memory, input, expect }
}
