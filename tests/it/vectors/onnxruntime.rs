//! onnxruntime: `LSTM`, `GRU` and `RNN` nodes with attributes that ONNX' own cases do not have.

use regard::rnn::{OnnxWeights, RnnInputs, onnx_stack};

use super::onnx::{directions_last, node_attributes};
use super::{Entry, RnnCase, entries};

pub(super) fn rnn() -> Vec<RnnCase> {
    entries("onnxruntime", &["LSTM", "GRU", "RNN"]).iter().map(case).collect()
}

fn case(entry: &Entry) -> RnnCase {
    let mut t = entry.tensors();
    let mut inputs = RnnInputs::new(t.take("in.X"));
    inputs.lengths = t.integers("in.sequence_lens");
    inputs.initial_h = t.get("in.initial_h");
    inputs.initial_c = t.get("in.initial_c");
    let weights = OnnxWeights { w: t.take("in.W"), r: t.take("in.R"), b: t.get("in.B"), p: t.get("in.P") };
    let (options, stack) = onnx_stack(&entry.op, &node_attributes(entry), &weights).unwrap();
    let mut expect = vec![entry.expect("output", "out.Y", directions_last(t.take("out.Y")))];
    for (tensor, stored) in [("final_h", "out.Y_h"), ("final_c", "out.Y_c")] {
        expect.extend(t.get(stored).map(|want| entry.expect(tensor, stored, want)));
    }
    t.finish();
    RnnCase { name: entry.name.clone(), options, stack, inputs, expect }
}
