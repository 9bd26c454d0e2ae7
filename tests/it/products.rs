//! Matrix products of every form, layout and type, against their definition in f64: on the device as it is, with no
//! optional feature, and as cards run them.

use proptest::prelude::*;
use regard::cases::ACTIVATIONS;
use regard::compare::judge;
use regard::device::Caps;
use regard::gpu::{Gpu, Run, Tensor};
use regard::ops::linear::{Epilogue, linear, linear_into};
use regard::plan::{MatmulPlan, ProductForm, ProductShape};
use regard::reference::activate;
use regard::rnn::Activation;
use regard::tensor::{Array, DType, Layout};

use crate::gpu::{cards, cooperative_gpu, drawn, gpu, minimal_gpu, random, some};
use crate::gpu_properties::{hold, wrong};

/// How a tensor lies in its buffer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Lie {
    Dense,
    /// Rows so much longer than the tensor's, from an offset on.
    Padded(usize, usize),
    /// The last two axes the other way round, padded.
    Turned(usize),
    /// Every second element.
    Sparse,
}

impl Lie {
    fn layout(self, shape: &[usize]) -> Layout {
        let [lead @ .., a, b] = shape else { panic!("rank {}", shape.len()) };
        let dense = |a: usize, b: usize| Layout::contiguous(&[lead, &[a, b]].concat());
        let narrowed = |whole: Layout, a: usize, b: usize| {
            let axis = lead.len();
            whole.narrow(axis, 0, a).and_then(|whole| whole.narrow(axis + 1, 0, b)).unwrap()
        };
        match self {
            Self::Dense => dense(*a, *b),
            Self::Padded(more, offset) => {
                let inside = narrowed(dense(a + 1, b + more), *a, *b);
                Layout { offset, ..inside }
            }
            Self::Turned(more) => {
                let inside = narrowed(dense(b + 1, a + more), *b, *a);
                let mut order: Vec<_> = (0..shape.len()).collect();
                order.swap(lead.len(), lead.len() + 1);
                inside.permute(&order).unwrap()
            }
            Self::Sparse => {
                let dense = dense(*a, *b);
                Layout { strides: dense.strides.iter().map(|s| 2 * s).collect(), offset: 1, ..dense }
            }
        }
    }
}

/// One summand: its depth, how x and w lie, their types.
#[derive(Debug, Clone, Copy)]
struct Summand {
    depth: usize,
    lies: [Lie; 2],
    types: [DType; 2],
}

#[derive(Debug, Clone)]
struct Case {
    /// Leading axes; the weights have them too where `batched`.
    lead: Vec<usize>,
    batched: bool,
    rows: usize,
    columns: usize,
    summands: Vec<Summand>,
    y: (Lie, DType),
    residual: Option<(Lie, DType)>,
    bias: bool,
    activation: Option<Activation>,
    seed: u64,
}

type Operands = (Vec<[Array<f32>; 2]>, Option<Array<f32>>, Option<Array<f32>>);

/// What lies around y and must stay; NaN lies around what is read.
const AROUND: f32 = 1000.0;

fn round(array: &Array<f32>, dtype: DType) -> Array<f32> {
    if dtype == DType::F16 { array.cast::<half::f16>().cast() } else { array.clone() }
}

impl Case {
    fn new(rows: usize, columns: usize, depth: usize) -> Self {
        let summand = Summand { depth, lies: [Lie::Dense; 2], types: [DType::F32; 2] };
        Self {
            lead: vec![],
            batched: false,
            rows,
            columns,
            summands: vec![summand],
            y: (Lie::Dense, DType::F32),
            residual: None,
            bias: false,
            activation: None,
            seed: 1,
        }
    }

    fn numbers(&self, stream: u64, shape: &[usize]) -> Array<f32> {
        random(self.seed, stream, 1.0, shape)
    }

    fn shape(&self, rows: usize, columns: usize) -> Vec<usize> {
        [&self.lead[..], &[rows, columns]].concat()
    }

    fn w_shape(&self, depth: usize) -> Vec<usize> {
        if self.batched { self.shape(self.columns, depth) } else { vec![self.columns, depth] }
    }

    /// The numbers as they are stored: x and w of each summand, residual, bias.
    fn operands(&self) -> Operands {
        let summand = |(k, s): (usize, &Summand)| {
            let x = self.numbers(10 + k as u64, &self.shape(self.rows, s.depth));
            let w = self.numbers(20 + k as u64, &self.w_shape(s.depth));
            [round(&x, s.types[0]), round(&w, s.types[1])]
        };
        let residual =
            self.residual.map(|(_, dtype)| round(&self.numbers(1, &self.shape(self.rows, self.columns)), dtype));
        let bias = self.bias.then(|| self.numbers(2, &[self.columns]));
        (self.summands.iter().enumerate().map(summand).collect(), residual, bias)
    }

    /// By definition, in either precision.
    fn expected<T: regard::reference::Float>(&self) -> Array<T> {
        let (operands, residual, bias) = self.operands();
        let (rows, columns) = (self.rows, self.columns);
        let number = |x: f32| T::from_f64(f64::from(x));
        Array::from_fn(&self.shape(rows, columns), |at| {
            let (row, n) = (at / columns, at % columns);
            let mut sum = number(0.0);
            for ([x, w], s) in operands.iter().zip(&self.summands) {
                let batch = if self.batched { row / rows } else { 0 };
                let (x, w) = (&x.data()[row * s.depth..], &w.data()[(batch * columns + n) * s.depth..]);
                for k in 0..s.depth {
                    sum += number(x[k]) * number(w[k]);
                }
            }
            sum += bias.as_ref().map_or(number(0.0), |b| number(b.data()[n]));
            sum += residual.as_ref().map_or(number(0.0), |r| number(r.data()[at]));
            self.activation.map_or(sum, |f| activate(f, sum))
        })
    }

    fn check(&self, gpu: &Gpu) -> regard::Result<f64> {
        let put = |name: &str, array: &Array<f32>, lie: Lie, dtype: DType| {
            let layout = lie.layout(array.shape());
            let around = if name == "y" { AROUND } else { f32::NAN };
            let mut whole = vec![around; layout.span() + 3];
            let places = Array::from_fn(&[whole.len()], |k| k).gather(&layout)?;
            places.data().iter().zip(array.data()).for_each(|(&place, &x)| whole[place] = x);
            let whole = Tensor::upload(gpu, name, &Array::new(&[whole.len()], whole)?, dtype)?;
            Ok::<_, regard::Error>((whole.with_layout(layout)?, whole))
        };
        let (operands, residual, bias) = self.operands();
        let summands = operands
            .iter()
            .zip(&self.summands)
            .map(|([x, w], s)| Ok([put("x", x, s.lies[0], s.types[0])?.0, put("w", w, s.lies[1], s.types[1])?.0]));
        let summands = summands.collect::<regard::Result<Vec<_>>>()?;
        let residual =
            residual.zip(self.residual).map(|(r, (lie, dtype))| put("residual", &r, lie, dtype)).transpose()?;
        let bias = bias.map(|b| Tensor::upload(gpu, "bias", &b, DType::F32)).transpose()?;
        let (lie, dtype) = self.y;
        let (y, around) = put("y", &Array::filled(&self.shape(self.rows, self.columns), -7.0), lie, dtype)?;
        let mut run = Run::new(gpu);
        let pairs: Vec<_> = summands.iter().map(|[x, w]| (x, w)).collect();
        let residual = residual.as_ref().map(|(residual, _)| residual);
        let epilogue = Epilogue { bias: bias.as_ref(), residual, activation: self.activation };
        linear_into(&mut run, &pairs, &epilogue, &y)?;
        run.submit()?;

        let whole = around.download(gpu)?;
        let places = Array::from_fn(whole.shape(), |k| k).gather(y.layout())?;
        let own: std::collections::HashSet<_> = places.data().iter().copied().collect();
        let touched = whole.data().iter().enumerate().find(|(k, x)| !own.contains(k) && **x != AROUND);
        assert_eq!(touched, None, "written beside y: {self:?}");
        let baseline = round(&self.expected::<f32>(), dtype);
        judge("y", &whole.gather(y.layout())?, &self.expected::<f64>(), &baseline, dtype)?.check(format!("{self:?}"))
    }
}

/// The device as it is, with nothing optional, as a card, as a card with nothing optional.
fn devices() -> [(&'static str, &'static Gpu); 4] {
    let [card, bare] = cards();
    [("as it is", gpu()), ("minimal", minimal_gpu()), ("card", card), ("minimal card", bare)]
}

fn check_all(cases: &[Case]) {
    for (name, gpu) in devices() {
        crate::gpu::all(name, cases, |case| format!("{case:?}"), |case| case.check(gpu));
    }
}

fn f16(case: &Case) -> bool {
    let types = case.summands.iter().flat_map(|s| s.types).chain([case.y.1]).chain(case.residual.map(|r| r.1));
    types.into_iter().any(|dtype| dtype == DType::F16)
}

/// One less, as many and one more than each tile has, of rows and of columns.
#[test]
fn sizes_around_the_tiles() {
    let mut cases = Vec::new();
    for rows in some([1, 4, 2, 3, 5, 7, 33, 8, 9, 15, 16, 65, 17, 31, 32, 63, 64], 3) {
        let columns = [1, 31, 32, 33, 63, 64, 65, 4][rows % 8];
        let depth = [1, 3, 4, 5, 15, 16, 17, 33, 20][rows % 9];
        cases.push(Case { bias: rows % 2 == 0, ..Case::new(rows, columns, depth) });
        cases.push(Case::new(rows, 36, 64));
    }
    // Enough for the largest tiles.
    cases.push(Case::new(47, 513, 64));
    cases.push(Case::new(100, 513, 1040));
    cases.push(Case { bias: true, ..Case::new(700, 780, 36) });
    check_all(&cases);
}

/// f16 operands: by cooperative matrices where the adapter lists some, with NaN beside rows, columns and depth.
#[test]
fn halves_by_matrices() {
    const LIES: [Lie; 4] = [Lie::Dense, Lie::Padded(4, 8), Lie::Turned(4), Lie::Sparse];
    let sizes = [
        [5, 1, 3],
        [9, 33, 64],
        [17, 20, 65],
        [63, 65, 61],
        [64, 64, 128],
        [65, 63, 1040],
        [130, 129, 36],
        [40, 24, 5000],
    ];
    let case = |(k, [rows, columns, depth]): (usize, [usize; 3])| {
        let summand = Summand { depth, lies: [LIES[k % 4], LIES[k / 2 % 4]], types: [DType::F16; 2] };
        Case {
            summands: vec![summand; 1 + k % 2],
            y: (LIES[k / 3 % 4], [DType::F16, DType::F32][k % 2]),
            residual: (k % 3 == 1).then_some((Lie::Dense, DType::F16)),
            bias: k % 3 > 0,
            activation: (k % 4 == 2).then_some(Activation::Relu),
            ..Case::new(rows, columns, depth)
        }
    };
    let mut cases: Vec<_> = sizes.into_iter().enumerate().map(case).collect();
    cases.push(Case { lead: vec![2, 3], batched: true, ..case((0, [20, 10, 70])) });
    cases.push(Case { lead: vec![2, 3], ..case((1, [20, 10, 70])) });
    let gpu = cooperative_gpu();
    crate::gpu::all("by matrices", cases, |case| format!("{case:?}"), |case| case.check(gpu));
    let shape = ProductShape { batches: 1, rows: 64, columns: 64, depth: 64 };
    let plan = MatmulPlan::of_operands("test", &shape, true, gpu.caps()).unwrap();
    assert_eq!(matches!(plan.form, ProductForm::Cooperative { .. }), gpu.caps().cooperative.is_some());
}

#[test]
fn nothing_to_add_up_is_the_bias_and_no_rows_are_nothing() {
    let gpu = gpu();
    let put = |shape: &[usize]| Tensor::upload(gpu, "x", &Array::filled(shape, 2.0), DType::F32).unwrap();
    let bias = put(&[5]);
    let (rows, width) = (put(&[3, 1]), put(&[5, 1]));
    let (x, w) = (rows.narrow(1, 0, 0).unwrap(), width.narrow(1, 0, 0).unwrap());
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
    let mut run = Run::new(gpu);
    let y = linear(&mut run, &[(&x, &w)], &epilogue).unwrap();
    run.submit().unwrap();
    assert_eq!(y.download(gpu).unwrap(), Array::filled(&[3, 5], 2.0));
    let none = rows.narrow(0, 0, 0).unwrap();
    let mut run = Run::new(gpu);
    let y = linear(&mut run, &[(&none, &width)], &epilogue).unwrap();
    run.submit().unwrap();
    assert_eq!(y.shape(), [0, 5]);
}

/// Every activation after bias and residual, in rows of one and in tiles.
#[test]
fn every_activation() {
    let cases: Vec<_> = some(ACTIVATIONS.into_iter().enumerate(), 3)
        .map(|(k, activation)| Case {
            activation: Some(activation),
            bias: true,
            residual: Some((Lie::Dense, DType::F32)),
            ..Case::new([1, 9][k % 2], 20, 12)
        })
        .collect();
    check_all(&cases);
}

/// Depths that an invocation's loop does not reach the end of, and few tiles over much depth.
#[test]
fn depths_are_split() {
    let software = gpu().caps();
    let planned = |caps: &Caps, [rows, columns, depth]: [usize; 3]| {
        MatmulPlan::new("test", &ProductShape { batches: 1, rows, columns, depth }, caps).unwrap()
    };
    assert!(planned(software, [2, 3, 300_000]).splits > 1);
    for card in cards() {
        assert!(planned(card.caps(), [20, 40, 5000]).splits > 1);
        assert_eq!(planned(card.caps(), [20, 40, 5000]).form, ProductForm::Tiled);
    }
    let deep = Case::new(2, 3, 300_000);
    let split = Case { bias: true, activation: Some(Activation::Tanh), ..Case::new(20, 40, 5000) };
    let odd = Case { residual: Some((Lie::Turned(1), DType::F32)), ..Case::new(3, 7, 4099) };
    let batches = Case { lead: vec![2, 3], batched: true, ..Case::new(3, 10, 1030) };
    let mut sum = Case { bias: true, ..Case::new(3, 10, 1030) };
    sum.summands.push(Summand { depth: 2000, ..sum.summands[0] });
    check_all(&[deep, split, odd, batches, sum]);
}

fn lie() -> impl Strategy<Value = Lie> {
    prop_oneof![
        2 => Just(Lie::Dense),
        2 => (0..9usize, 0..9usize).prop_map(|(more, offset)| Lie::Padded(more, offset)),
        2 => Just(Lie::Padded(4, 4)),
        1 => Just(Lie::Turned(0)),
        2 => (0..9usize).prop_map(Lie::Turned),
        1 => Just(Lie::Sparse),
    ]
}

fn dtype() -> impl Strategy<Value = DType> {
    prop_oneof![2 => Just(DType::F32), 1 => Just(DType::F16)]
}

fn case() -> impl Strategy<Value = Case> {
    let summand = || {
        let depth = prop_oneof![1..10usize, (1..10usize).prop_map(|k| 4 * k), 1..150usize];
        (depth, [lie(), lie()], [dtype(), dtype()]).prop_map(|(depth, lies, types)| Summand { depth, lies, types })
    };
    let sizes = (proptest::collection::vec(1..4usize, 0..3), any::<bool>(), 1..70usize, 1..70usize, any::<bool>());
    let activation = proptest::option::of(Just(Activation::Tanh));
    let rest = (proptest::collection::vec(summand(), 1..3), (lie(), dtype()), proptest::option::of((lie(), dtype())));
    (sizes, rest, any::<bool>(), activation, any::<u64>()).prop_map(|(sizes, rest, bias, activation, seed)| {
        let (lead, batched, rows, columns, quads) = sizes;
        let (summands, y, residual) = rest;
        let batched = batched && !lead.is_empty();
        let columns = if quads { columns.next_multiple_of(4) } else { columns };
        Case { lead, batched, rows, columns, summands, y, residual, bias, activation, seed }
    })
}

#[test]
fn any_layout_type_and_epilogue() {
    hold(drawn(40), case(), |case| {
        for (name, gpu) in devices() {
            if f16(&case) && !gpu.caps().f16 {
                continue;
            }
            case.check(gpu).map_err(|error| wrong(format!("{name}: {error}")))?;
        }
        Ok(())
    });
}
