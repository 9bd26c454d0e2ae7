//! Sizes with something left over everywhere, for AddressSanitizer too (`tests/sanitizer`).

use super::{Cpu, CpuTensor};
use crate::attention::{Attention, AttentionInputs, Causal};
use crate::backend::{Backend, Epilogue, Reference, Value};
use crate::rnn::{Activation, Cell, Reset, Rnn, RnnInputs, RnnWeights};
use crate::tensor::{Array, DType};

/// Numbers in ±1 that differ from one seed to the next.
fn numbers(shape: &[usize], seed: usize) -> Array {
    Array::from_fn(shape, |k| ((k * 7919 + seed * 104_729) as f32 * 0.618_034).fract() * 2.0 - 1.0)
}

fn near(found: &CpuTensor, wanted: &Array<f64>, what: &str) {
    assert_eq!(found.shape(), wanted.shape(), "{what}");
    for (found, wanted) in found.to_array().data().iter().zip(wanted.data()) {
        assert!((f64::from(*found) - wanted).abs() < 2e-5 * wanted.abs().max(1.0), "{what}: {found}, not {wanted}");
    }
}

#[test]
fn attention_of_odd_sizes() {
    for mut cpu in Cpu::new().levels() {
        for (queries, keys, dim, value_dim) in
            [(1, 1, 1, 1), (3, 7, 5, 3), (9, 65, 17, 33), (33, 129, 31, 15), (50, 300, 64, 70), (2, 1500, 19, 21)]
        {
            let inputs = AttentionInputs::new(
                numbers(&[1, 2, queries, dim], 1),
                numbers(&[1, 1, keys, dim], 2),
                numbers(&[1, 1, keys, value_dim], 3),
            );
            for weights in [false, true] {
                let options = Attention { causal: Some(Causal::BottomRight), weights, ..Attention::default() };
                let exact = inputs.map_numbers(Array::cast);
                let wanted = Reference::<f64>::default().attention(&options, &exact).unwrap();
                let stored = AttentionInputs::<CpuTensor>::stored(&inputs, DType::F32).unwrap();
                let found = cpu.attention(&options, &stored).unwrap();
                let what = format!("{} {queries} {keys} {dim} {value_dim}", cpu.instructions());
                near(&found.output, &wanted.output, &what);
                for (found, wanted) in found.weights.iter().zip(&wanted.weights) {
                    near(found, wanted, &what);
                }
            }
        }
    }
}

#[test]
fn recurrences_of_odd_sizes() {
    let cells = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];
    for mut cpu in Cpu::new().levels() {
        for cell in cells {
            for (steps, batch, input, hidden) in [(1, 1, 1, 1), (3, 2, 5, 7), (4, 15, 9, 33), (2, 31, 3, 65)] {
                let gates = cell.gates() * hidden;
                let layer = |seed| RnnWeights {
                    bias_ih: Some(numbers(&[gates], seed)),
                    bias_hh: Some(numbers(&[gates], seed + 1)),
                    ..RnnWeights::new(numbers(&[gates, input], seed + 2), numbers(&[gates, hidden], seed + 3))
                };
                let (options, stack) = (Rnn::new(cell).bidirectional(), vec![vec![layer(1), layer(5)]]);
                let inputs = RnnInputs::new(numbers(&[steps, batch, input], 9));
                let mut reference = Reference::<f64>::default();
                let exact = reference.recurrence(&options, &stack).unwrap();
                let wanted = reference.rnn(&exact, &inputs.map_numbers(Array::cast)).unwrap();
                let network = cpu.recurrence(&options, &stack).unwrap();
                let found = cpu.rnn(&network, &inputs.map_numbers(|x: &Array| CpuTensor::from(x.clone()))).unwrap();
                near(&found.output, &wanted.output, &format!("{} {cell:?} {batch} {hidden}", cpu.instructions()));
            }
        }
    }
}

#[test]
fn products_of_odd_sizes() {
    for mut cpu in Cpu::new().levels() {
        for (rows, units, width) in [(0, 3, 4), (1, 1, 1), (5, 17, 9), (29, 33, 65), (130, 47, 31)] {
            let (x, weight, bias) = (numbers(&[rows, width], 1), numbers(&[units, width], 2), numbers(&[units], 3));
            let mut reference = Reference::<f64>::default();
            let of = |array: &Array| array.cast::<f64>();
            let bias_of = of(&bias);
            let epilogue = Epilogue { bias: Some(&bias_of), activation: Some(Activation::Gelu), ..Epilogue::default() };
            let wanted = reference.linear(&[(&of(&x), &of(&weight))], epilogue).unwrap();
            let [x, weight, bias] = [x, weight, bias].map(CpuTensor::from);
            let epilogue = Epilogue { bias: Some(&bias), activation: Some(Activation::Gelu), ..Epilogue::default() };
            let found = cpu.linear(&[(&x, &weight)], epilogue).unwrap();
            near(&found, &wanted, &format!("{} {rows} {units} {width}", cpu.instructions()));
        }
    }
}
