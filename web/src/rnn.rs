//! Recurrent encoders over typed arrays.

use regard::backend::Backend;
use regard::rnn::{Cell, Direction, Reset, Rnn, RnnInputs, RnnWeights};
use regard::tensor::Array;
use serde::Deserialize;
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::{one, parsed, thrown};

/// One layer, with weights as PyTorch has them: `weight_ih` [gates · hidden, input], `weight_hh` [gates · hidden, hidden] and
/// biases [gates · hidden], for each direction one behind the other.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layer {
    /// `lstm`, `gru` or `rnn`.
    cell: String,
    steps: usize,
    #[serde(default = "one")]
    batch: usize,
    input: usize,
    hidden: usize,
    #[serde(default)]
    bidirectional: bool,
    /// Of each batch row, how many steps are real.
    lengths: Option<Vec<u32>>,
}

/// What a recurrence gives.
#[wasm_bindgen]
pub struct Encoded {
    arrays: [Vec<f32>; 2],
    final_c: Option<Vec<f32>>,
}

#[wasm_bindgen]
impl Encoded {
    /// [steps, batch, directions · hidden].
    #[wasm_bindgen(getter)]
    pub fn output(&self) -> Vec<f32> {
        self.arrays[0].clone()
    }

    /// [directions, batch, hidden].
    #[wasm_bindgen(getter)]
    pub fn final_h(&self) -> Vec<f32> {
        self.arrays[1].clone()
    }

    /// [directions, batch, hidden], of an LSTM.
    #[wasm_bindgen(getter)]
    pub fn final_c(&self) -> Option<Vec<f32>> {
        self.final_c.clone()
    }
}

#[wasm_bindgen]
impl Engine {
    /// A recurrent layer over a sequence [steps, batch, input]; `layer` as JSON says the shapes and options.
    pub async fn rnn(
        &self,
        layer: String,
        input: Vec<f32>,
        weight_ih: Vec<f32>,
        weight_hh: Vec<f32>,
        bias_ih: Option<Vec<f32>>,
        bias_hh: Option<Vec<f32>>,
    ) -> Result<Encoded, JsError> {
        let l: Layer = parsed(&layer)?;
        let cell = match l.cell.as_str() {
            "lstm" => Cell::Lstm,
            "gru" => Cell::Gru { reset: Reset::After },
            "rnn" => Cell::Rnn,
            other => return Err(JsError::new(&format!("`cell` is `{other}`; lstm, gru and rnn are known"))),
        };
        let directions = if l.bidirectional { 2 } else { 1 };
        let rows = cell.gates() * l.hidden;
        // Both directions' rows lie one behind the other.
        let part = |name: &str, data: &[f32], shape: &[usize], d: usize| {
            let count: usize = shape.iter().product();
            if data.len() != directions * count {
                let wanted = format!("`{name}`: expected {} numbers, found {}", directions * count, data.len());
                return Err(JsError::new(&wanted));
            }
            Array::new(shape, data[d * count..(d + 1) * count].to_vec()).map_err(thrown)
        };
        let mut weights = Vec::with_capacity(directions);
        for d in 0..directions {
            let bias = |name, data: &Option<Vec<f32>>| data.as_ref().map(|b| part(name, b, &[rows], d)).transpose();
            weights.push(RnnWeights {
                bias_ih: bias("bias_ih", &bias_ih)?,
                bias_hh: bias("bias_hh", &bias_hh)?,
                ..RnnWeights::new(
                    part("weight_ih", &weight_ih, &[rows, l.input], d)?,
                    part("weight_hh", &weight_hh, &[rows, l.hidden], d)?,
                )
            });
        }
        let direction = if l.bidirectional { Direction::Bidirectional } else { Direction::Forward };
        let options = Rnn { direction, ..Rnn::new(cell) };
        let mut run = self.device.run();
        let network = run.recurrence(&options, &vec![weights]).map_err(thrown)?;
        let input = Array::new(&[l.steps, l.batch, l.input], input).map_err(thrown)?;
        let mut inputs = RnnInputs::new(run.constant("input", &input).map_err(thrown)?);
        if let Some(lengths) = l.lengths {
            let lengths = Array::new(&[lengths.len()], lengths).map_err(thrown)?;
            inputs.lengths = Some(run.integers("lengths", &lengths).map_err(thrown)?);
        }
        let outputs = run.rnn(&network, &inputs).map_err(thrown)?;
        let mut wanted = vec![&outputs.output, &outputs.final_h];
        wanted.extend(&outputs.final_c);
        let mut read = run.read(&wanted).await.map_err(thrown)?.into_iter().map(Array::into_data);
        let arrays = [read.next().unwrap_or_default(), read.next().unwrap_or_default()];
        Ok(Encoded { arrays, final_c: read.next() })
    }
}
