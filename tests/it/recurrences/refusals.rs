//! Every refused combination of recurrence options and tensors, and what the error says.

use regard::rnn::{
    Activations, Cell, Direction, LayerNorm, Merge, NormOver, Reset, Rnn, RnnAlgorithm, RnnInputs, RnnStack, RnnWeights,
};
use regard::tensor::Array;
use regard::{Error, reference};

use super::{Tensor, numbers};

/// A request that is good before it is edited: 6 steps of 2 rows of 3 inputs.
struct Request {
    options: Rnn,
    stack: RnnStack<Tensor>,
    inputs: RnnInputs<Tensor>,
}

impl Request {
    /// Two layers of 4 units; an LSTM with a projection to 5.
    fn new(options: Rnn, projected: bool) -> Self {
        let rows = options.cell.gates() * 4;
        let state = if projected { 5 } else { 4 };
        let weights = |columns: usize| RnnWeights {
            weight_hr: projected.then(|| numbers(&[5, 4], 3.0, 1.0)),
            ..RnnWeights::new(numbers(&[rows, columns], 1.0, 1.0), numbers(&[rows, state], 2.0, 1.0))
        };
        let layer = |columns: usize| (0..options.direction.count()).map(|_| weights(columns)).collect();
        let stack = vec![layer(3), layer(options.output_width(state))];
        Self { options, stack, inputs: RnnInputs::new(numbers(&[6, 2, 3], 4.0, 1.0)) }
    }

    fn run(&self) -> Result<(), Error> {
        reference::rnn(&self.options, &self.stack, &self.inputs).map(|_| ())
    }
}

type Edit = fn(&mut Request);

fn all_refused(make: impl Fn() -> Request, cases: &[(Edit, &str)]) {
    make().run().unwrap();
    for (edit, want) in cases {
        let mut request = make();
        edit(&mut request);
        match request.run() {
            Ok(()) => panic!("accepted, but should be refused: {want}"),
            Err(error) => assert_eq!(error.to_string(), *want),
        }
    }
}

fn some(shape: &[usize]) -> Option<Tensor> {
    Some(Array::filled(shape, 1.0))
}

fn tensor(shape: &[usize]) -> Tensor {
    Array::filled(shape, 1.0)
}

#[test]
fn shapes_that_do_not_fit() {
    all_refused(
        || Request::new(Rnn::new(Cell::Gru { reset: Reset::After }).bidirectional(), false),
        &[
            (|r| r.inputs.input = tensor(&[6, 3]), "`input` rank: expected 3 [T, B, I], found 2"),
            (|r| r.inputs.input = tensor(&[6, 0, 3]), "`input` axis 1: expected at least 1, found 0"),
            (|r| r.inputs.input = tensor(&[6, 2, 4]), "`weight_ih_l0` axis 1 (input): expected 4, found 3"),
            (
                |r| r.inputs.initial_h = some(&[4, 2]),
                "`initial_h` rank: expected 3 [layers · directions, B, H], found 2",
            ),
            (
                |r| r.inputs.initial_h = some(&[2, 2, 4]),
                "`initial_h` axis 0 (layers · directions): expected 4, found 2",
            ),
            (|r| r.inputs.initial_h = some(&[4, 3, 4]), "`initial_h` axis 1 (batch): expected 2, found 3"),
            (|r| r.inputs.initial_h = some(&[4, 2, 5]), "`initial_h` axis 2 (hidden): expected 4, found 5"),
            (|r| r.inputs.initial_c = some(&[4, 2, 4]), "option `initial_c`: only an LSTM has a cell state"),
            (|r| r.inputs.lengths = Some(Array::filled(&[3], 1)), "`lengths` axis 0 (batch): expected 2, found 3"),
            (|r| r.stack.clear(), "`weight_ih_l0`: expected [G·H, I] of the first layer, found none"),
            (
                |r| {
                    r.stack[1].pop();
                },
                "`weights of layer 1` directions: expected 2, found 1",
            ),
            (|r| r.stack[0][0].weight_hh = tensor(&[12]), "`weight_hh_l0` rank: expected 2 [G·H, H], found 1"),
            (|r| r.stack[0][0].weight_hh = tensor(&[12, 0]), "`weight_hh_l0` axis 1: expected at least 1, found 0"),
            (
                |r| r.stack[0][0].weight_hh = tensor(&[13, 4]),
                "`weight_hh_l0` axis 0 (gates · hidden): expected 12, found 13",
            ),
            (
                |r| r.stack[1][1].weight_hh = tensor(&[12, 5]),
                "`weight_hh_l1_reverse` axis 1 (hidden): expected 4, found 5",
            ),
            (
                |r| r.stack[0][1].weight_ih = tensor(&[12]),
                "`weight_ih_l0_reverse` rank: expected 2 [12, 3], found 1 [12]",
            ),
            (|r| r.stack[0][0].weight_ih = tensor(&[12, 0]), "`weight_ih_l0` axis 1: expected at least 1, found 0"),
            (|r| r.stack[1][0].weight_hh = tensor(&[0, 4]), "`weight_hh_l1` axis 0: expected at least 1, found 0"),
            (|r| r.stack[1][0].weight_ih = tensor(&[12, 4]), "`weight_ih_l1` axis 1 (input): expected 8, found 4"),
            (|r| r.stack[1][0].bias_ih = some(&[8]), "`bias_ih_l1` axis 0 (gates · hidden): expected 12, found 8"),
            (|r| r.stack[0][1].bias_hh = some(&[12, 1]), "`bias_hh_l0_reverse` rank: expected 1 [12], found 2 [12, 1]"),
        ],
    );
}

#[test]
fn a_projection_that_does_not_fit() {
    all_refused(
        || Request::new(Rnn { projection_clip: Some(0.5), ..Rnn::new(Cell::Lstm) }, true),
        &[
            (|r| r.stack[0][0].weight_hr = some(&[5]), "`weight_hr_l0` rank: expected 2 [P, H], found 1"),
            (|r| r.stack[0][0].weight_hr = some(&[5, 0]), "`weight_hr_l0` axis 1: expected at least 1, found 0"),
            (|r| r.stack[0][0].weight_hr = some(&[6, 4]), "`weight_hr_l0` axis 0 (P): expected 5, found 6"),
            (
                |r| r.stack[0][0].weight_hr = some(&[5, 3]),
                "`weight_ih_l0` axis 0 (gates · hidden): expected 12, found 16",
            ),
            (|r| r.stack[1][0].weight_hr = some(&[5, 3]), "`weight_hr_l1` axis 1 (hidden): expected 4, found 3"),
            (|r| r.stack[1][0].weight_hr = some(&[4]), "`weight_hr_l1` rank: expected 2 [5, 4], found 1 [4]"),
            (
                |r| r.stack[1][0].weight_hr = None,
                "`weight_hr_l1`: expected [P, H], as the first layer has one, found none",
            ),
            (|r| r.stack[1][0].weight_ih = tensor(&[16, 4]), "`weight_ih_l1` axis 1 (input): expected 5, found 4"),
            (|r| r.inputs.initial_h = some(&[2, 2, 4]), "`initial_h` axis 2 (hidden): expected 5, found 4"),
            (|r| r.inputs.initial_c = some(&[2, 2, 5]), "`initial_c` axis 2 (hidden): expected 4, found 5"),
            (
                |r| r.inputs.initial_c = some(&[1, 2, 4]),
                "`initial_c` axis 0 (layers · directions): expected 2, found 1",
            ),
        ],
    );
    all_refused(
        || Request::new(Rnn::new(Cell::Lstm), false),
        &[
            (
                |r| r.stack[1][0].weight_hr = some(&[4, 4]),
                "option `weight_hr_l1`: the first layer has none: all have it or none has",
            ),
            (|r| r.options.projection_clip = Some(1.0), "option `projection_clip`: needs a projection, `weight_hr`"),
        ],
    );
    all_refused(
        || Request::new(Rnn::new(Cell::Rnn), false),
        &[(
            |r| r.stack.iter_mut().flatten().for_each(|weights| weights.weight_hr = some(&[4, 4])),
            "option `weight_hr_l0`: only an LSTM has a projection",
        )],
    );
}

#[test]
fn options_that_no_cell_can_have() {
    all_refused(
        || Request::new(Rnn::new(Cell::Lstm), false),
        &[
            (|r| r.options.clip = Some(0.0), "option `clip`: must be above 0 and finite, not 0"),
            (|r| r.options.clip = Some(f32::NAN), "option `clip`: must be above 0 and finite, not NaN"),
            (|r| r.options.cell_clip = Some(f32::INFINITY), "option `cell_clip`: must be above 0 and finite, not inf"),
            (
                |r| r.options.projection_clip = Some(-1.0),
                "option `projection_clip`: must be above 0 and finite, not -1",
            ),
            (|r| r.options.forget_bias = f32::NAN, "option `forget_bias`: must be finite, not NaN"),
            (
                |r| (r.options.input_forget, r.options.forget_bias) = (true, 1.0),
                "option `forget_bias`: has no effect with `input_forget`: f = 1 − i",
            ),
            (|r| r.options.merge = Merge::Sum, "option `merge`: needs two directions"),
            (
                |r| {
                    r.options.direction = Direction::Reverse;
                    r.options.reverse_activations = Some(Activations::all(regard::rnn::Activation::Relu));
                },
                "option `reverse_activations`: needs two directions",
            ),
        ],
    );
    all_refused(
        || Request::new(Rnn::new(Cell::Lstm).bidirectional(), false),
        &[(
            |r| r.options.path = RnnAlgorithm::Wavefront,
            "option `path`: a wavefront runs one direction: the second reads each layer from its end",
        )],
    );
}

#[test]
fn what_only_an_lstm_has() {
    let norm = |over| Some(LayerNorm { over, carry: true, epsilon: 1e-3 });
    assert!(Request::new(Rnn { layer_norm: norm(NormOver::Gates), ..Rnn::new(Cell::Lstm) }, false).run().is_ok());
    for cell in [Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn] {
        all_refused(
            || Request::new(Rnn::new(cell), false),
            &[
                (|r| r.options.input_forget = true, "option `input_forget`: only an LSTM has a forget gate"),
                (|r| r.options.forget_bias = 1.0, "option `forget_bias`: only an LSTM has a forget gate"),
                (|r| r.options.cell_clip = Some(1.0), "option `cell_clip`: only an LSTM has a cell state"),
                (|r| r.options.projection_clip = Some(1.0), "option `projection_clip`: only an LSTM has a projection"),
                (
                    |r| {
                        let norm = LayerNorm { over: NormOver::Products, carry: false, epsilon: 1e-3 };
                        r.options.layer_norm = Some(norm);
                    },
                    "option `layer_norm`: only an LSTM has layer normalisation",
                ),
                (|r| r.stack[1][0].peephole = some(&[3, 4]), "option `peephole_l1`: only an LSTM has peepholes"),
            ],
        );
    }
}

#[test]
fn layer_normalisation_that_does_not_fit() {
    let with = |over| Rnn { layer_norm: Some(LayerNorm { over, carry: true, epsilon: 1e-3 }), ..Rnn::new(Cell::Lstm) };
    let epsilon = |request: &mut Request, epsilon: f32| {
        request.options.layer_norm.as_mut().unwrap().epsilon = epsilon;
        request.run().unwrap_err().to_string()
    };
    for (found, shown) in [(0.0, "0"), (-1.0, "-1"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let error = epsilon(&mut Request::new(with(NormOver::Gates), false), found);
        assert_eq!(error, format!("option `layer_norm`: epsilon must be above 0 and finite, not {shown}"));
    }
    all_refused(
        || Request::new(with(NormOver::Products), false),
        &[
            (|r| r.stack[0][0].norm_ih = some(&[2, 4]), "`norm_ih_l0` shape: expected [2, 16], found [2, 4]"),
            (|r| r.stack[1][0].norm_hh = some(&[16]), "`norm_hh_l1` shape: expected [2, 16], found [16]"),
            (|r| r.stack[1][0].norm_c = some(&[2, 16]), "`norm_c_l1` shape: expected [2, 4], found [2, 16]"),
            (|r| r.stack[0][0].peephole = some(&[3, 5]), "`peephole_l0` shape: expected [3, 4], found [3, 5]"),
        ],
    );
    all_refused(
        || Request::new(with(NormOver::Gates), false),
        &[(
            |r| r.stack[0][0].norm_ih = some(&[2, 16]),
            "option `norm_ih_l0`: is for layer normalisation over products",
        )],
    );
    all_refused(
        || Request::new(Rnn::new(Cell::Lstm), false),
        &[
            (|r| r.stack[0][0].norm_hh = some(&[2, 16]), "option `norm_hh_l0`: is for layer normalisation"),
            (|r| r.stack[1][0].norm_c = some(&[2, 4]), "option `norm_c_l1`: is for layer normalisation"),
        ],
    );
}
