//! Embedding look-ups and linear layers.

use super::Random;
use crate::rnn::Activation;
use crate::tensor::Array;

/// Rows of a table through a linear layer.
#[derive(Debug, Clone)]
pub struct LinearCase {
    /// Unique in the table.
    pub name: String,
    /// [V, K].
    pub table: Array<f32>,
    /// Rows of the table.
    pub ids: Vec<u32>,
    /// [N, K].
    pub weight: Array<f32>,
    /// `[N]`.
    pub bias: Option<Array<f32>>,
    /// After the bias.
    pub activation: Option<Activation>,
}

/// Each activation once.
pub const ACTIVATIONS: [Activation; 14] = [
    Activation::Sigmoid,
    Activation::Tanh,
    Activation::Relu,
    Activation::Affine { alpha: 0.7, beta: -0.2 },
    Activation::LeakyRelu { alpha: 0.1 },
    Activation::ThresholdedRelu { alpha: 0.8 },
    Activation::ScaledTanh { alpha: 1.7, beta: 0.6 },
    Activation::HardSigmoid { alpha: 0.2, beta: 0.5 },
    Activation::Elu { alpha: 1.3 },
    Activation::Softsign,
    Activation::Softplus,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
];

/// Every size around the tiles, every activation.
pub fn linear() -> Vec<LinearCase> {
    let mut table = Vec::new();
    let mut add = |name: String, [rows, columns, depth]: [usize; 3], bias: bool, activation| {
        let mut random = Random::new(&name);
        let bias = bias.then(|| random.array(&[columns]));
        table.push(LinearCase {
            table: random.array(&[11, depth]),
            ids: (0..rows).map(|_| random.below(11) as u32).collect(),
            weight: random.array(&[columns, depth]),
            name,
            bias,
            activation,
        });
    };
    for rows in [1, 3, 4, 5, 17] {
        for columns in [1, 31, 32, 33, 257] {
            let depth = 3 + (rows * columns) % 97;
            add(format!("linear {rows}×{columns}×{depth}"), [rows, columns, depth], columns % 2 == 1, None);
        }
    }
    // More terms than one invocation may add up in its loop, four an iteration.
    add("linear 2×3×270000".to_owned(), [2, 3, 270_000], true, Some(Activation::Tanh));
    // One tile, whose depth is divided between workgroups.
    add("linear 40×24×5000".to_owned(), [40, 24, 5000], true, Some(Activation::Relu));
    // Enough for the largest tiles of a card.
    add("linear 1030×520×12".to_owned(), [1030, 520, 12], true, None);
    for activation in ACTIVATIONS {
        add(format!("linear {activation:?}"), [5, 9, 20], true, Some(activation));
    }
    table
}
