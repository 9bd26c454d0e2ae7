//! Weights as the kernels read them: the depth outermost, the gates side by side, units rounded up to multiples of 4.

use crate::error::Result;
use crate::gpu::{Gpu, Tensor};
use crate::kernels::recurrent::vector_rows;
use crate::kernels::recurrent_norm::NORM_ROWS;
use crate::plan::RnnPlan;
use crate::problem::RnnWidths;
use crate::rnn::{Rnn, RnnAlgorithm, RnnStack, RnnWeights};
use crate::tensor::{Array, DType, Layout};

/// Weights of one layer, all directions side by side; D directions, G gates, H* and P* rounded up to multiples of 4.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerWeights<A> {
    /// W [I, D·G·H*].
    pub weight_ih: A,
    /// b, with the forget bias in it [D·G·H*]; not with a layer normalisation, after which it is added.
    pub bias_ih: Option<A>,
    /// U [D, P, G, H*].
    pub weight_hh: A,
    /// b', b and peepholes [D, 2·G + 3, H*].
    pub vectors: Option<A>,
    /// R [D, H, P*].
    pub weight_hr: Option<A>,
    /// Gains and shifts [D, 18, H*].
    pub norms: Option<A>,
}

/// Weights of all layers behind one another, for a wavefront; one direction.
#[derive(Debug, Clone, PartialEq)]
pub struct StackedWeights<A> {
    /// U [L, P, G, H*].
    pub weight_hh: A,
    /// W of the layers above the lowest [L − 1, P, G, H*].
    pub weight_ih: A,
    /// b', b and peepholes [L, 2·G + 3, H*].
    pub vectors: Option<A>,
}

/// Weights of a stack.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights<A> {
    /// Layer by layer.
    pub layers: Vec<LayerWeights<A>>,
    /// The same in one piece, where a wavefront can run.
    pub stacked: Option<StackedWeights<A>>,
    /// Whether the vectors of a layer that runs by itself have biases.
    pub has_bias: bool,
    /// Whether the vectors of a wavefront have.
    pub stacked_bias: bool,
    /// Whether the vectors have peepholes.
    pub peepholes: bool,
}

impl<A> Weights<A> {
    /// Each tensor through a function that is told its name.
    pub fn map<'a, B>(&'a self, mut f: impl FnMut(&'static str, &'a A) -> B) -> Weights<B> {
        let layers = self.layers.iter().map(|layer| LayerWeights {
            weight_ih: f("weight_ih", &layer.weight_ih),
            bias_ih: layer.bias_ih.as_ref().map(|a| f("bias_ih", a)),
            weight_hh: f("weight_hh", &layer.weight_hh),
            vectors: layer.vectors.as_ref().map(|a| f("bias_hh, peephole", a)),
            weight_hr: layer.weight_hr.as_ref().map(|a| f("weight_hr", a)),
            norms: layer.norms.as_ref().map(|a| f("norms", a)),
        });
        let layers = layers.collect();
        let stacked = self.stacked.as_ref().map(|stack| StackedWeights {
            weight_hh: f("weight_hh of all layers", &stack.weight_hh),
            weight_ih: f("weight_ih of all layers", &stack.weight_ih),
            vectors: stack.vectors.as_ref().map(|a| f("biases of all layers", a)),
        });
        let Self { has_bias, stacked_bias, peepholes, .. } = *self;
        Weights { layers, stacked, has_bias, stacked_bias, peepholes }
    }
}

impl<A: Clone> Weights<A> {
    /// Only what a path reads.
    pub fn of_path(&self, path: RnnAlgorithm) -> Self {
        let mut some = self.clone();
        if path == RnnAlgorithm::Wavefront {
            some.layers.truncate(1);
        } else {
            some.stacked = None;
        }
        some
    }
}

/// Where the numbers of a weight go.
#[derive(Debug, Clone, Copy)]
struct Packing {
    gates: usize,
    hidden: usize,
    state: usize,
}

impl Packing {
    /// H*.
    fn units(self) -> usize {
        self.hidden.next_multiple_of(4)
    }

    /// [G·H, K] of each direction as [K, D, G, H*], or [D, K, G, H*] where the directions are outermost.
    fn matrix(self, of: &[&Array<f32>], outermost: bool) -> Result<Array<f32>> {
        let (units, directions, depth) = (self.units(), of.len(), of[0].shape()[1]);
        let line = self.gates * units;
        let mut out = vec![0.0; directions * depth * line];
        for (d, weight) in of.iter().enumerate() {
            for (row, values) in weight.data().chunks(depth).enumerate() {
                let at = row / self.hidden * units + row % self.hidden;
                for (k, &value) in values.iter().enumerate() {
                    let group = if outermost { d * depth + k } else { k * directions + d };
                    out[group * line + at] = value;
                }
            }
        }
        let shape: &[usize] =
            if outermost { &[directions, depth, self.gates, units] } else { &[depth, directions * line] };
        Array::new(shape, out)
    }

    /// [P, H] of each direction as [D, H, P*].
    fn projection(self, of: &[&Array<f32>]) -> Result<Array<f32>> {
        Self { gates: 1, hidden: self.state, state: self.hidden }.matrix(of, true)?.reshape(&[
            of.len(),
            self.hidden,
            self.state.next_multiple_of(4),
        ])
    }

    /// Rows of H numbers each, behind one another, as rows of H*.
    fn rows(self, values: &[f32], out: &mut Vec<f32>) {
        for row in values.chunks(self.hidden) {
            out.extend_from_slice(row);
            out.resize(out.len().next_multiple_of(self.units()), 0.0);
        }
    }

    /// The same of a tensor, or as many numbers `default` where there is none.
    fn rows_or(self, of: Option<&Array<f32>>, rows: usize, default: f32, out: &mut Vec<f32>) {
        match of {
            Some(array) => self.rows(array.data(), out),
            None => out.resize(out.len() + rows * self.units(), default),
        }
    }
}

/// b with the forget bias in it, [G·H].
fn input_bias(options: &Rnn, hidden: usize, weights: &RnnWeights<Array<f32>>) -> Option<Array<f32>> {
    let mut bias = weights.bias_ih.clone();
    if options.forget_bias != 0.0 {
        let filled = bias.get_or_insert_with(|| Array::filled(&[options.cell.gates() * hidden], 0.0));
        filled.data_mut()[hidden..2 * hidden].iter_mut().for_each(|b| *b += options.forget_bias);
    }
    bias
}

impl Weights<Array<f32>> {
    /// Packs host weights.
    fn pack(options: &Rnn, widths: &RnnWidths, stack: &RnnStack<Array<f32>>, wavefront: bool) -> Result<Self> {
        let packing = Packing { gates: options.cell.gates(), hidden: widths.hidden, state: widths.state };
        let (gates, units) = (packing.gates, packing.units());
        let normed = options.layer_norm.is_some();
        let any = |f: &dyn Fn(&RnnWeights<Array<f32>>) -> bool| stack.iter().flatten().any(f);
        let peepholes = any(&|w| w.peephole.is_some());
        let input_bias_given = options.forget_bias != 0.0 || any(&|w| w.bias_ih.is_some());
        let hidden_bias = any(&|w| w.bias_hh.is_some());
        let has_bias = hidden_bias || (normed && input_bias_given);
        let stacked_bias = hidden_bias || input_bias_given;
        let with_vectors = peepholes || has_bias || (wavefront && stacked_bias);
        let with_norms = any(&|w| w.norm_ih.is_some() || w.norm_hh.is_some() || w.norm_c.is_some());
        let layers = stack.iter().map(|layer| {
            let all =
                |f: fn(&RnnWeights<Array<f32>>) -> Option<&Array<f32>>| layer.iter().filter_map(f).collect::<Vec<_>>();
            let (mut vectors, mut norms, mut bias) = (Vec::new(), Vec::new(), Vec::new());
            for weights in layer {
                let b = input_bias(options, widths.hidden, weights);
                packing.rows_or(b.as_ref(), gates, 0.0, &mut bias);
                packing.rows_or(weights.bias_hh.as_ref(), gates, 0.0, &mut vectors);
                packing.rows_or(b.as_ref(), gates, 0.0, &mut vectors);
                packing.rows_or(weights.peephole.as_ref(), 3, 0.0, &mut vectors);
                let halves = [(&weights.norm_ih, gates), (&weights.norm_hh, gates), (&weights.norm_c, 1)];
                for (norm, rows) in halves.into_iter().filter(|_| normed) {
                    match norm {
                        Some(norm) => packing.rows(norm.data(), &mut norms),
                        None => {
                            norms.resize(norms.len() + rows * units, 1.0);
                            norms.resize(norms.len() + rows * units, 0.0);
                        }
                    }
                }
            }
            let directions = layer.len();
            let projections = all(|w| w.weight_hr.as_ref());
            Ok(LayerWeights {
                weight_ih: packing.matrix(&all(|w| Some(&w.weight_ih)), false)?,
                bias_ih: (!normed && input_bias_given)
                    .then(|| Array::new(&[directions * gates * units], bias))
                    .transpose()?,
                weight_hh: packing.matrix(&all(|w| Some(&w.weight_hh)), true)?,
                vectors: with_vectors
                    .then(|| Array::new(&[directions, vector_rows(options.cell), units], vectors))
                    .transpose()?,
                weight_hr: (!projections.is_empty()).then(|| packing.projection(&projections)).transpose()?,
                norms: with_norms.then(|| Array::new(&[directions, NORM_ROWS, units], norms)).transpose()?,
            })
        });
        let layers: Vec<_> = layers.collect::<Result<_>>()?;
        let stacked = wavefront.then(|| Self::behind_one_another(&layers)).transpose()?;
        Ok(Self { layers, stacked, has_bias, stacked_bias, peepholes })
    }

    fn behind_one_another(layers: &[LayerWeights<Array<f32>>]) -> Result<StackedWeights<Array<f32>>> {
        let join = |of: Vec<&Array<f32>>, one: &[usize]| {
            let shape: Vec<usize> = [of.len()].into_iter().chain(one.iter().copied()).collect();
            Array::new(&shape, of.iter().flat_map(|a| a.data().iter().copied()).collect())
        };
        let recurrent = &layers[0].weight_hh.shape()[1..];
        let vectors: Vec<_> = layers.iter().filter_map(|layer| layer.vectors.as_ref()).collect();
        let shape = vectors.first().map(|a| a.shape()[1..].to_vec());
        Ok(StackedWeights {
            weight_hh: join(layers.iter().map(|layer| &layer.weight_hh).collect(), recurrent)?,
            weight_ih: join(layers[1..].iter().map(|layer| &layer.weight_ih).collect(), recurrent)?,
            vectors: shape.map(|shape| join(vectors, &shape)).transpose()?,
        })
    }
}

impl Weights<Tensor> {
    /// Packs and uploads; what is there in one piece is not uploaded again layer by layer.
    pub(super) fn upload(
        gpu: &Gpu,
        options: &Rnn,
        widths: &RnnWidths,
        stack: &RnnStack<Array<f32>>,
        dtype: DType,
    ) -> Result<Self> {
        let wavefront = RnnPlan::wavefront(options, widths, stack.len(), dtype, gpu.caps()).is_ok();
        let packed = Weights::pack(options, widths, stack, wavefront)?;
        let upload = |name: &str, array: &Array<f32>| {
            let stored = if name.starts_with("weight") { dtype } else { DType::F32 };
            Tensor::upload(gpu, name, array, stored)
        };
        let optional = |name: &str, array: &Option<Array<f32>>| array.as_ref().map(|a| upload(name, a)).transpose();
        let stacked = match &packed.stacked {
            None => None,
            Some(stack) => Some(StackedWeights {
                weight_hh: upload("weight_hh", &stack.weight_hh)?,
                weight_ih: upload("weight_ih", &stack.weight_ih)?,
                vectors: optional("vectors", &stack.vectors)?,
            }),
        };
        let layers = packed.layers.iter().enumerate().map(|(l, layer)| {
            // The part of a stacked tensor that is this layer's, in the layer's own shape.
            let part = |name: &str, whole: Option<&Tensor>, number: usize, array: &Array<f32>| match whole {
                None => upload(name, array),
                Some(whole) => whole
                    .with_layout(Layout { offset: number * array.data().len(), ..Layout::contiguous(array.shape()) }),
            };
            let whole = stacked.as_ref();
            Ok(LayerWeights {
                weight_ih: match l {
                    0 => upload("weight_ih", &layer.weight_ih)?,
                    _ => part("weight_ih", whole.map(|s| &s.weight_ih), l - 1, &layer.weight_ih)?,
                },
                bias_ih: optional("bias_ih", &layer.bias_ih)?,
                weight_hh: part("weight_hh", whole.map(|s| &s.weight_hh), l, &layer.weight_hh)?,
                vectors: layer
                    .vectors
                    .as_ref()
                    .map(|a| part("vectors", whole.and_then(|s| s.vectors.as_ref()), l, a))
                    .transpose()?,
                weight_hr: optional("weight_hr", &layer.weight_hr)?,
                norms: optional("norms", &layer.norms)?,
            })
        });
        let layers = layers.collect::<Result<_>>()?;
        let Weights { has_bias, stacked_bias, peepholes, .. } = packed;
        Ok(Self { layers, stacked, has_bias, stacked_bias, peepholes })
    }
}
