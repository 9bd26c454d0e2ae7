//! How many dispatches a recurrence takes, counted on recordings made without a device, and that plans say so.

use regard::device::{Caps, DeviceKind};
use regard::plan::RnnPlan;
use regard::recording::Recording;
use regard::rnn::{Cell, Direction, LayerNorm, NormOver, Reset, Rnn, RnnAlgorithm};
use regard::tensor::DType;

use crate::recordings::{Given, rnn};

const CELLS: [Cell; 4] = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];

/// Dispatches of the recurrence itself, of X·W, and of all else.
fn counts(recording: &Recording) -> [usize; 3] {
    let mut counts = [0; 3];
    for dispatch in recording.dispatches() {
        let kind = match dispatch.variant.kernel.name() {
            name if name.starts_with("recurrent") => 0,
            "matmul" | "matmul_tiled" => 1,
            "matmul_sum" => 2,
            "copy" | "merge" => 2,
            name => panic!("{name} in a recurrence"),
        };
        counts[kind] += 1;
    }
    counts
}

/// Counts of `layers` layers over `steps` steps, which must be the plan's.
fn planned(caps: &Caps, options: &Rnn, [steps, batch, layers]: [usize; 3], given: Given) -> ([usize; 3], RnnPlan) {
    let (recording, plan) = rnn(caps, options, [steps, batch, 6, 16, layers], given, DType::F32);
    let counts = counts(&recording);
    assert_eq!(counts[0], plan.dispatches, "{options:?}, {steps} steps, {layers} layers");
    let estimate = plan.estimates.iter().find(|estimate| estimate.path == plan.path).unwrap();
    assert_eq!(estimate.dispatches, plan.dispatches);
    (counts, plan)
}

fn of_path(cell: Cell, path: RnnAlgorithm) -> Rnn {
    Rnn { path, ..Rnn::new(cell) }
}

fn devices() -> [Caps; 2] {
    [Caps::default(), Caps::of(DeviceKind::Software)]
}

const GIVEN: Given =
    Given { lengths: true, bias: true, peephole: false, initial: true, norms: false, projection: None };

/// Two a step where a GRU's reset comes before the product: what it resets is needed whole.
#[test]
fn a_layer_takes_one_dispatch_a_step_for_both_directions() {
    for caps in devices() {
        for cell in CELLS {
            let stages = if cell == (Cell::Gru { reset: Reset::Before }) { 2 } else { 1 };
            for steps in [1, 10, 100] {
                for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
                    let options = Rnn { direction, ..of_path(cell, RnnAlgorithm::Steps) };
                    for layers in [1, 3] {
                        let (found, plan) = planned(&caps, &options, [steps, 8, layers], GIVEN);
                        assert_eq!(plan.path, RnnAlgorithm::Steps);
                        assert_eq!(found[0], layers * steps * stages);
                        assert_eq!(found[1], layers, "X·W of a layer is one product for all steps and both directions");
                    }
                }
            }
        }
    }
}

#[test]
fn a_wavefront_takes_a_dispatch_a_step_and_one_more_for_each_further_layer() {
    for caps in devices() {
        for cell in [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Rnn] {
            for direction in [Direction::Forward, Direction::Reverse] {
                for (steps, layers) in [(1, 2), (10, 2), (10, 4), (100, 3)] {
                    let options = Rnn { direction, ..of_path(cell, RnnAlgorithm::Wavefront) };
                    let (found, plan) = planned(&caps, &options, [steps, 8, layers], GIVEN);
                    assert_eq!(plan.path, RnnAlgorithm::Wavefront);
                    assert_eq!(found[0], steps + layers - 1);
                    assert_eq!(found[1], 1, "X·W of the lowest layer alone is known before");
                }
            }
        }
    }
}

#[test]
fn a_persistent_layer_takes_one_dispatch() {
    for caps in devices() {
        for cell in CELLS {
            for direction in [Direction::Forward, Direction::Reverse, Direction::Bidirectional] {
                let options = Rnn { direction, ..of_path(cell, RnnAlgorithm::Persistent) };
                for (steps, layers) in [(1, 1), (1000, 1), (1000, 3)] {
                    let (found, plan) = planned(&caps, &options, [steps, 8, layers], GIVEN);
                    assert_eq!(plan.path, RnnAlgorithm::Persistent);
                    assert_eq!(found[..2], [layers, layers]);
                }
            }
        }
    }
}

/// Longer sequences are cut where an invocation would turn more often than drivers let it.
#[test]
fn a_persistent_layer_of_many_steps_is_cut() {
    let caps = Caps::default();
    let steps = 100_000;
    let (recording, plan) =
        rnn(&caps, &of_path(Cell::Lstm, RnnAlgorithm::Persistent), [steps, 1, 6, 16, 1], GIVEN, DType::F32);
    let ranges = plan.persistent.unwrap().ranges;
    assert!(ranges.len() > 1, "{steps} steps in one dispatch");
    assert_eq!(counts(&recording)[0], ranges.len());
    let ends: Vec<usize> = ranges.iter().flat_map(|&(first, last)| [first, last]).collect();
    assert_eq!((ends[0], ends[ends.len() - 1]), (0, steps));
    assert!(ends[1..ends.len() - 1].chunks_exact(2).all(|pair| pair[0] == pair[1]), "{ranges:?}");
    let dispatches = recording.dispatches().filter(|d| d.variant.kernel.name() == "recurrent_loop");
    for (dispatch, (first, last)) in dispatches.zip(ranges) {
        // at least a turn a step
        assert!(
            ((last - first) as u64..=caps.max_iterations).contains(&dispatch.iterations),
            "{}",
            dispatch.iterations
        );
    }
}

/// Layer normalisation and a projection take one dispatch a step each.
#[test]
fn what_needs_all_units_takes_dispatches_of_its_own() {
    let caps = Caps::default();
    let norm = Some(LayerNorm { over: NormOver::Products, carry: false, epsilon: 1e-3 });
    for (layer_norm, projection, stages) in [(norm, None, 2), (None, Some(5), 2), (norm, Some(16), 3)] {
        let options = Rnn { layer_norm, ..Rnn::new(Cell::Lstm) };
        let (found, plan) = planned(&caps, &options, [10, 4, 2], Given { projection, ..GIVEN });
        assert_eq!((plan.path, found[0]), (RnnAlgorithm::Steps, 2 * 10 * stages));
    }
}

/// Copies of inputs, states and results are as many for a long sequence as for a short one.
#[test]
fn nothing_else_grows_with_the_steps() {
    for caps in devices() {
        for (path, layers) in [(RnnAlgorithm::Steps, 1), (RnnAlgorithm::Wavefront, 3), (RnnAlgorithm::Persistent, 2)] {
            let options = of_path(Cell::Lstm, path);
            let [short, long] = [5, 200].map(|steps| planned(&caps, &options, [steps, 8, layers], GIVEN).0);
            assert_eq!(short[1..], long[1..], "{path:?}");
            // The input once; h and c of every layer in and out.
            assert!(long[2] <= 1 + 4 * layers, "{path:?}: {} copies", long[2]);
        }
    }
}

/// What is chosen is a path that can be asked for, and no other is estimated to be faster.
#[test]
fn the_plan_takes_the_path_that_it_estimates_fastest() {
    for caps in devices() {
        for cell in CELLS {
            for direction in [Direction::Forward, Direction::Bidirectional] {
                for shape in [[1, 1, 1], [10, 8, 1], [100, 1, 2], [100, 64, 4]] {
                    let options = Rnn { direction, ..Rnn::new(cell) };
                    let (_, plan) = planned(&caps, &options, shape, GIVEN);
                    let time = |path: RnnAlgorithm| {
                        let estimate = plan.estimates.iter().find(|estimate| estimate.path == path);
                        estimate.unwrap().nanoseconds.unwrap_or(f64::INFINITY)
                    };
                    let chosen = time(plan.path);
                    assert!(chosen.is_finite() && chosen > 0.0);
                    for path in [RnnAlgorithm::Steps, RnnAlgorithm::Wavefront, RnnAlgorithm::Persistent] {
                        assert!(chosen <= time(path), "{:?} over {path:?}", plan.path);
                    }
                    let asked = Rnn { path: plan.path, ..options };
                    assert_eq!(planned(&caps, &asked, shape, GIVEN).1.dispatches, plan.dispatches);
                }
            }
        }
    }
}
