//! The native CPU backend: the case table, other libraries' numbers, drawn requests, any number of threads.

use std::sync::Arc;

use half::bf16;
use proptest::prelude::*;
use regard::attention::{Attention, AttentionInputs, AttentionOutputs, Causal, Mask, Window};
use regard::backend::cpu::CpuRnn;
use regard::backend::{Backend, Cpu, CpuTensor, Epilogue, Reference, Value};
use regard::baseline::{self, judge_attention, judge_rnn};
use regard::compare::judge;
use regard::gpu::Open;
use regard::rnn::{Activation, Cell, Direction, Merge, Reset, Rnn, RnnInputs, RnnOutputs, Steps};
use regard::tensor::{Array, DType};
use regard::validate::{self, Sample};
use regard::{Device, Error, Result};

use crate::gpu::{drawn, random};
use crate::gpu_properties::{self, hold, wrong};
use crate::gpu_recurrences::{self, Request};
use crate::vectors;

/// As it is, and with each set of instructions that the processor has.
fn levels() -> Vec<Cpu> {
    Cpu::new().levels()
}

fn attention(
    cpu: &Cpu,
    options: &Attention,
    inputs: &AttentionInputs<Array>,
    dtype: DType,
) -> Result<AttentionOutputs<Array>> {
    Ok(cpu.clone().attention(options, &AttentionInputs::<CpuTensor>::stored(inputs, dtype)?)?.to_arrays())
}

fn rnn(cpu: &Cpu, request: &Request<f32>, dtype: DType) -> Result<RnnOutputs<Array>> {
    let network = CpuRnn::stored(cpu, &request.options, &request.stack, dtype)?;
    Ok(cpu.clone().rnn(&network, &RnnInputs::<CpuTensor>::stored(&request.inputs, dtype)?)?.to_arrays())
}

/// The first verdict that is over its tolerance.
fn passed(verdicts: baseline::Verdicts) -> Result<()> {
    verdicts.into_iter().try_for_each(|(name, verdict)| verdict.check(name).map(drop))
}

#[test]
fn the_case_table_passes_with_each_set_of_instructions() {
    let cpu = Cpu::new();
    let rows = validate::run_on_cpu(&cpu, Sample::All, |_, _| {});
    let failures: Vec<_> = rows.iter().flat_map(|row| &row.failures).collect();
    assert!(failures.is_empty(), "{failures:#?}");
    for level in cpu.levels() {
        for kernel in ["attention", "lstm", "gru", "rnn", "linear", "primitives"] {
            let known = rows.iter().any(|row| row.kernel == kernel && row.variant.starts_with(level.instructions()));
            assert!(known, "no {kernel} with {}", level.instructions());
        }
        // Every form of the kernel.
        for form in ["along the head dimension", "one vector of queries", "two vectors of queries", "the reference"] {
            let variant = format!("{}, {form}", level.instructions());
            assert!(rows.iter().any(|row| row.variant.starts_with(&variant)), "no {variant}");
        }
    }
}

#[test]
fn other_libraries_agree() {
    for cpu in levels() {
        let of_attention = |case: vectors::AttentionCase| {
            let got = attention(&cpu, &case.options, &case.inputs, case.storage);
            (case.name.clone(), got.and_then(|got| case.check(&got, 1.0)))
        };
        let of_rnn = |case: vectors::RnnCase| {
            let run = || -> Result<_> {
                let network = CpuRnn::stored(&cpu, &case.options, &case.stack, DType::F32)?;
                let inputs = RnnInputs::<CpuTensor>::stored(&case.inputs, DType::F32)?;
                case.check(&cpu.clone().rnn(&network, &inputs)?.to_arrays(), 1.0)
            };
            (case.name.clone(), run())
        };
        let results = vectors::attention_cases().into_iter().map(of_attention);
        let results: Vec<_> = results.chain(vectors::rnn_cases().into_iter().map(of_rnn)).collect();
        vectors::report(&format!("native CPU, {}", cpu.instructions()), results);
    }
}

#[test]
fn any_attention_is_answered_as_the_oracle_would() {
    hold(drawn(150), (gpu_properties::shape(), gpu_properties::choice()), |(shape, choice)| {
        let (options, inputs) = choice.request(&shape)?;
        for cpu in levels() {
            for dtype in [DType::F32, DType::F16] {
                let got = attention(&cpu, &options, &inputs, dtype)?;
                passed(judge_attention(&options, &inputs, &got, dtype)?)
                    .map_err(|error| wrong(format!("{}, {dtype}: {error}", cpu.instructions())))?;
            }
        }
        Ok(())
    });
}

/// Long rows of keys, which are cut in ranges, whose parts are joined.
#[test]
fn long_keys_are_cut_and_joined() {
    let sizes = (1..3usize, 1..4usize, 1..40usize, 500..3000usize, 1..70usize, any::<u64>(), 0..4usize);
    hold(drawn(24), sizes, |(heads, group, queries, keys, dim, seed, kind)| {
        let draw = |stream, shape: &[usize]| random(seed, stream, 1.732, shape);
        let mut inputs = AttentionInputs::new(
            draw(1, &[1, heads * group, queries, dim]),
            draw(2, &[1, heads, keys, dim]),
            draw(3, &[1, heads, keys, dim]),
        );
        let mut options = Attention { lse: true, max_sum: true, ..Attention::default() };
        match kind {
            0 => {}
            1 => options.causal = Some(Causal::BottomRight),
            2 => options.window = Some(Window { sink_tokens: 3, ..Window::new(Some(700), Some(0)) }),
            _ => inputs.sinks = Some(draw(4, &[heads * group])),
        }
        for cpu in levels() {
            let got = attention(&cpu, &options, &inputs, DType::F32)?;
            passed(judge_attention(&options, &inputs, &got, DType::F32)?)?;
        }
        Ok(())
    });
}

#[test]
fn any_recurrence_is_answered_as_the_oracle_would() {
    let cells = [Cell::Lstm, Cell::Gru { reset: Reset::After }, Cell::Gru { reset: Reset::Before }, Cell::Rnn];
    let direction = prop_oneof![Just(Direction::Forward), Just(Direction::Reverse), Just(Direction::Bidirectional)];
    let merge = prop_oneof![Just(Merge::Concat), Just(Merge::Sum), Just(Merge::Mul), Just(Merge::Average)];
    let options = (proptest::sample::select(cells.to_vec()), direction, merge, any::<[bool; 5]>());
    hold(drawn(80), (gpu_recurrences::shape(), options), |(mut shape, (cell, direction, merge, on))| {
        let [ragged, clipped, coupled, projected, last] = on;
        let lstm = cell == Cell::Lstm;
        let options = Rnn {
            direction,
            merge: if direction == Direction::Bidirectional { merge } else { Merge::Concat },
            clip: clipped.then_some(0.8),
            cell_clip: (lstm && clipped).then_some(0.7),
            input_forget: lstm && coupled,
            forget_bias: if lstm && !coupled { 1.0 } else { 0.0 },
            steps: if last { Steps::Last } else { Steps::All },
            ..Rnn::new(cell)
        };
        if lstm && projected {
            shape.project();
        }
        let request = if ragged { shape.ragged(options) } else { shape.request(options) };
        for cpu in levels() {
            let got = rnn(&cpu, &request, DType::F32)?;
            passed(judge_rnn(&request.options, &request.stack, &request.inputs, &got, DType::F32)?)
                .map_err(|error| wrong(format!("{}: {error}", cpu.instructions())))?;
        }
        Ok(())
    });
}

/// Tiles and vectors with something left over on each axis.
#[test]
fn linear_layers_of_any_size() {
    let sizes = (0..40usize, 1..70usize, 1..90usize, 1..3usize, any::<u64>());
    hold(drawn(60), sizes, |(rows, units, width, summands, seed)| {
        let draw = |stream, shape: &[usize]| random(seed, stream, 1.0, shape);
        let x: Vec<Array> = (0..summands).map(|k| draw(k as u64, &[rows, width + 3 * k])).collect();
        let weights: Vec<Array> = (0..summands).map(|k| draw(9 + k as u64, &[units, width + 3 * k])).collect();
        let (bias, residual) = (draw(20, &[units]), draw(21, &[rows, units]));
        fn run<B: Backend>(
            b: &mut B,
            x: &[Array],
            weights: &[Array],
            [bias, residual]: [&Array; 2],
        ) -> Result<B::Value> {
            let x: Vec<_> = x.iter().map(|x| b.constant("x", x)).collect::<Result<_>>()?;
            let weights: Vec<_> = weights.iter().map(|w| b.constant("weight", w)).collect::<Result<_>>()?;
            let (bias, residual) = (b.constant("bias", bias)?, b.constant("residual", residual)?);
            let epilogue =
                Epilogue { bias: Some(&bias), residual: Some(&residual), activation: Some(Activation::GeluTanh) };
            b.linear(&x.iter().zip(&weights).collect::<Vec<_>>(), epilogue)
        }
        let oracle = run(&mut Reference::<f64>::default(), &x, &weights, [&bias, &residual])?;
        let baseline = run(&mut Reference::<f32>::default(), &x, &weights, [&bias, &residual])?;
        for mut cpu in levels() {
            let got = run(&mut cpu, &x, &weights, [&bias, &residual])?.to_array();
            judge("y", &got, &oracle, &baseline, DType::F32)?.check(cpu.instructions())?;
        }
        Ok(())
    });
}

/// The same numbers in bf16 are read as they are, and results are rounded to it.
#[test]
fn bf16_is_read_and_written() {
    let draw = |stream, shape: &[usize]| random(3, stream, 1.7, shape).cast::<bf16>();
    let x = [draw(1, &[1, 4, 37, 40]), draw(2, &[1, 2, 50, 40]), draw(3, &[1, 2, 50, 24])];
    let [query, key, value] = x.each_ref().map(|x| CpuTensor::from(x.clone()));
    let options = Attention { causal: Some(Causal::BottomRight), ..Attention::default() };
    let got = Cpu::new().attention(&options, &AttentionInputs::new(query, key, value)).unwrap().output.to_array();
    let [query, key, value] = x.map(|x| x.cast::<f32>());
    let inputs = AttentionInputs::new(query, key, value);
    let exact = attention(&Cpu::new(), &options, &inputs, DType::F32).unwrap().output;
    assert_eq!(got, exact.cast::<bf16>().cast::<f32>());
}

fn bits(array: &Array) -> Vec<u32> {
    array.data().iter().map(|x| x.to_bits()).collect()
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let draw = |stream, shape: &[usize]| random(5, stream, 1.7, shape);
    let one = Cpu::new().on_one_thread();
    let pool = |threads| Arc::new(rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap());
    let others: Vec<Cpu> = vec![
        Cpu::new(),
        Cpu::new().with_threads(2).unwrap(),
        Cpu::new().with_threads(5).unwrap(),
        Cpu::new().with_pool(pool(3)),
    ];
    assert_eq!([one.thread_count(), others[2].thread_count(), others[3].thread_count()], [1, 5, 3]);
    for [batch, heads, kv_heads, queries, keys, dim] in
        [[2, 4, 2, 150, 300, 64], [1, 8, 2, 1, 3000, 128], [1, 2, 2, 9, 5000, 32]]
    {
        let inputs = AttentionInputs::new(
            draw(1, &[batch, heads, queries, dim]),
            draw(2, &[batch, kv_heads, keys, dim]),
            draw(3, &[batch, kv_heads, keys, dim]),
        );
        let options = Attention { causal: Some(Causal::BottomRight), lse: true, ..Attention::default() };
        let want = attention(&one, &options, &inputs, DType::F32).unwrap();
        for cpu in &others {
            let got = attention(cpu, &options, &inputs, DType::F32).unwrap();
            assert_eq!(bits(&got.output), bits(&want.output), "{} threads", cpu.thread_count());
            assert_eq!(got.lse.as_ref().map(bits), want.lse.as_ref().map(bits));
        }
    }
    for (cell, batch) in [(Cell::Lstm, 1), (Cell::Gru { reset: Reset::Before }, 16), (Cell::Rnn, 33)] {
        let options = Rnn::new(cell).bidirectional();
        let request = gpu_recurrences::Shape::full([40, batch, 70, 130, 2]).request(options);
        let want = rnn(&one, &request, DType::F32).unwrap();
        for cpu in &others {
            let got = rnn(cpu, &request, DType::F32).unwrap();
            assert_eq!(bits(&got.output), bits(&want.output), "{cell:?}, {} threads", cpu.thread_count());
        }
    }
    let (x, weight) = (CpuTensor::from(draw(1, &[333, 200])), CpuTensor::from(draw(2, &[129, 200])));
    let product = |cpu: &Cpu| cpu.clone().linear(&[(&x, &weight)], Epilogue::default()).unwrap().to_array();
    let want = product(&one);
    others.iter().for_each(|cpu| assert_eq!(bits(&product(cpu)), bits(&want)));
}

/// What was packed by one for vectors of its length is used by another with vectors of its own.
#[test]
fn weights_may_be_packed_by_another() {
    let request = gpu_recurrences::Shape::full([4, 3, 7, 19, 2]).request(Rnn::new(Cell::Lstm));
    let x = CpuTensor::from(random(1, 1, 1.0, &[5, 21]));
    for mut packer in levels() {
        let network = packer.recurrence(&request.options, &request.stack).unwrap();
        let weight = CpuTensor::from(random(1, 2, 1.0, &[35, 21]));
        packer.linear(&[(&x, &weight)], Epilogue::default()).unwrap();
        for mut cpu in levels() {
            let inputs = RnnInputs::<CpuTensor>::stored(&request.inputs, DType::F32).unwrap();
            let got = cpu.rnn(&network, &inputs).unwrap().to_arrays();
            let want = rnn(&cpu, &request, DType::F32).unwrap();
            assert_eq!(bits(&got.output), bits(&want.output), "{} after {}", cpu.instructions(), packer.instructions());
            let got = cpu.linear(&[(&x, &weight)], Epilogue::default()).unwrap().to_array();
            let fresh = CpuTensor::from(weight.to_array());
            assert_eq!(bits(&got), bits(&cpu.linear(&[(&x, &fresh)], Epilogue::default()).unwrap().to_array()));
        }
    }
}

/// A NaN among the keys of one range is not lost beside larger scores in another.
#[test]
fn nan_survives_the_joining_of_ranges() {
    for all in [false, true] {
        let keys = 2048;
        let key = Array::from_fn(&[1, 1, keys, 1], |j| match j {
            0 => f32::NAN,
            j if all && j < 512 => f32::NAN,
            600 => 200.0,
            _ => 0.0,
        });
        let value = Array::filled(&[1, 1, keys, 1], 1.0);
        let inputs = AttentionInputs::new(Array::filled(&[1, 1, 1, 1], 1.0), key, value);
        let options = Attention { lse: true, max_sum: true, ..Attention::default() };
        for cpu in levels() {
            let got = attention(&cpu, &options, &inputs, DType::F32).unwrap();
            let numbers = got.output.data().iter().chain(got.lse.as_ref().unwrap().data());
            assert!(numbers.chain(got.max_sum.as_ref().unwrap().data()).all(|x| x.is_nan()), "{got:?}");
        }
    }
}

#[test]
fn masks_slopes_and_sinks_may_be_stored_in_less() {
    let draw = |stream, shape: &[usize]| random(4, stream, 1.7, shape).cast::<half::f16>().cast::<f32>();
    let mut inputs = AttentionInputs::new(draw(1, &[1, 2, 9, 8]), draw(2, &[1, 2, 30, 8]), draw(3, &[1, 2, 30, 8]));
    inputs.mask = Some(Mask::Float(draw(4, &[9, 30])));
    inputs.alibi_slopes = Some(draw(5, &[2]));
    inputs.sinks = Some(draw(6, &[2]));
    let want = attention(&Cpu::new(), &Attention::default(), &inputs, DType::F32).unwrap();
    let mut stored = AttentionInputs::<CpuTensor>::stored(&inputs, DType::F32).unwrap();
    let half = |array: &Array| CpuTensor::from(array.cast::<half::f16>());
    let Some(Mask::Float(mask)) = &inputs.mask else { panic!() };
    stored.mask = Some(Mask::Float(half(mask)));
    stored.alibi_slopes = inputs.alibi_slopes.as_ref().map(half);
    stored.sinks = inputs.sinks.as_ref().map(half);
    let got = Cpu::new().attention(&Attention::default(), &stored).unwrap().to_arrays();
    assert_eq!(bits(&got.output), bits(&want.output));
}

/// Rows that begin within a block of 8-bit numbers.
#[test]
fn tensors_of_8_bits_take_other_shapes() {
    let tensor = CpuTensor::stored("t", &random(1, 1, 1.0, &[4, 32]), DType::Q8).unwrap();
    let rows = tensor.reshape(&[8, 16]).unwrap();
    let row = Cpu::new().embed(&rows, &Array::new(&[1], vec![3]).unwrap()).unwrap().to_array();
    assert_eq!(row.data(), &tensor.to_array().data()[48..64]);
}

/// What no query sees may be anything.
#[test]
fn hidden_keys_and_values_do_not_matter() {
    let draw = |stream, shape: &[usize]| random(11, stream, 1.7, shape);
    for (queries, keys) in [(1, 700), (12, 90), (70, 400)] {
        for cpu in levels() {
            let [shape, wide] = [[2, 2, keys, 24], [2, 4, queries, 24]];
            let mut inputs = AttentionInputs::new(draw(1, &wide), draw(2, &shape), draw(3, &shape));
            inputs.kv_lengths = Some(Array::new(&[2], vec![keys as u32 - 5, 3]).unwrap());
            let options = Attention { weights: queries > 1, lse: true, ..Attention::default() };
            let want = attention(&cpu, &options, &inputs, DType::F32).unwrap();
            for poison in [f32::NAN, f32::INFINITY] {
                for (row, real) in [(0..2, keys - 5), (2..4, 3)] {
                    for (head, array) in row.flat_map(|head| [(head, 0), (head, 1)]) {
                        let array = if array == 0 { &mut inputs.key } else { &mut inputs.value };
                        array.data_mut()[(head * keys + real) * 24..(head + 1) * keys * 24].fill(poison);
                    }
                }
                let got = attention(&cpu, &options, &inputs, DType::F32).unwrap();
                assert_eq!(bits(&got.output), bits(&want.output), "{queries} {keys} {poison}");
                assert_eq!(got.weights.as_ref().map(bits), want.weights.as_ref().map(bits));
            }
        }
    }
}

#[test]
fn a_device_is_a_gpu_or_the_cpu_behind_the_same_calls() {
    let nowhere = Open { adapter: Some("no such adapter".to_owned()), ..Open::default() };
    let fallback = Device::open(&nowhere);
    assert!(matches!(fallback, Device::Cpu(_)));
    assert!(fallback.to_string().starts_with("the CPU ("), "{fallback}");
    let draw = |stream, shape: &[usize]| random(2, stream, 1.7, shape);
    let inputs = AttentionInputs::new(draw(1, &[1, 2, 5, 8]), draw(2, &[1, 2, 7, 8]), draw(3, &[1, 2, 7, 8]));
    let options = Attention { weights: true, ..Attention::default() };
    let request = gpu_recurrences::Shape::full([4, 3, 8, 16, 2]).request(Rnn::new(Cell::Lstm));
    for device in [fallback, Device::Gpu(crate::gpu::gpu().clone())] {
        let mut run = device.run();
        let tensors = run.inputs(&inputs, DType::F32).unwrap();
        let outputs = run.attention(&options, &tensors).unwrap();
        let weights = outputs.weights.clone().unwrap();
        let read = run.read_blocking(&[&outputs.output, &weights]).unwrap();
        let got = AttentionOutputs {
            output: read[0].clone(),
            weights: Some(read[1].clone()),
            ..attention(&Cpu::new(), &options, &inputs, DType::F32).unwrap()
        };
        passed(judge_attention(&options, &inputs, &got, DType::F32).unwrap()).unwrap();

        let network = run.recurrence(&request.options, &request.stack).unwrap();
        let mut wanted = RnnInputs::new(run.constant("input", &request.inputs.input).unwrap());
        wanted.initial_h = request.inputs.initial_h.as_ref().map(|h| run.constant("initial_h", h).unwrap());
        wanted.initial_c = request.inputs.initial_c.as_ref().map(|c| run.constant("initial_c", c).unwrap());
        let encoded = run.rnn(&network, &wanted).unwrap();
        let c = encoded.final_c.unwrap();
        let read = run.read_blocking(&[&encoded.output, &encoded.final_h, &c]).unwrap();
        let [output, final_h, final_c] = [0, 1, 2].map(|k| read[k].clone());
        let got = RnnOutputs { output, final_h, final_c: Some(final_c) };
        passed(judge_rnn(&request.options, &request.stack, &request.inputs, &got, DType::F32).unwrap()).unwrap();

        let x = run.constant("x", &draw(4, &[3, 6])).unwrap();
        let w = run.stored("w", &draw(5, &[2, 6]), DType::F32).unwrap();
        let y = run.linear(&[(&x, &w)], Epilogue::default()).unwrap();
        let (largest, ids) = run.top_k(&y, 1).unwrap();
        let joined = run.join(0, &[largest.clone(), largest]).unwrap();
        assert_eq!(joined.shape(), [6, 1]);
        assert_eq!(run.read_integers_blocking(&[&ids]).unwrap()[0].shape(), [3, 1]);
    }
}

#[test]
fn tensors_of_another_device_are_refused() {
    let on_gpu = Device::Gpu(crate::gpu::gpu().clone());
    let on_cpu = Device::Cpu(Cpu::new());
    let (mut gpu, mut cpu) = (on_gpu.run(), on_cpu.run());
    let x = Array::filled(&[2, 2], 1.0);
    let (there, here) = (gpu.constant("x", &x).unwrap(), cpu.constant("x", &x).unwrap());
    for error in [cpu.add(&here, &there).unwrap_err(), gpu.add(&here, &there).unwrap_err()] {
        assert!(error.to_string().contains("another device"), "{error}");
    }
    let request = gpu_recurrences::Shape::full([2, 1, 4, 4, 1]).request(Rnn::new(Cell::Rnn));
    let network = cpu.recurrence(&request.options, &request.stack).unwrap();
    let input = gpu.constant("input", &request.inputs.input).unwrap();
    assert!(gpu.rnn(&network, &RnnInputs::new(input)).is_err());
}

#[test]
fn bad_input_is_told() {
    let mut cpu = Cpu::new();
    let tensor = |shape: &[usize]| CpuTensor::from(Array::filled(shape, 1.0));
    let refused = |error: Error, wanted: &str| assert!(error.to_string().contains(wanted), "{error}");
    let (x, w) = (tensor(&[3, 4]), tensor(&[5, 6]));
    refused(cpu.linear(&[(&x, &w)], Epilogue::default()).unwrap_err(), "axis 1 (features)");
    let w = tensor(&[5, 4]);
    let bias = tensor(&[6]);
    let epilogue = Epilogue { bias: Some(&bias), ..Epilogue::default() };
    refused(cpu.linear(&[(&x, &w)], epilogue).unwrap_err(), "bias");
    refused(cpu.linear(&[], Epilogue::default()).unwrap_err(), "summands");
    refused(cpu.add(&x, &w).unwrap_err(), "axis 0");
    refused(cpu.top_k(&x, 5).unwrap_err(), "at least the 5 entries");
    refused(cpu.embed(&x, &Array::new(&[1], vec![3]).unwrap()).unwrap_err(), "below 3");
    refused(x.reshape(&[5]).unwrap_err(), "elements");
    refused(CpuTensor::stored("key", &Array::filled(&[1, 30], 1.0), DType::Q8).unwrap_err(), "a multiple of 32");
    let mut inputs = AttentionInputs::new(tensor(&[1, 1, 2, 4]), tensor(&[1, 1, 3, 4]), tensor(&[1, 1, 3, 4]));
    inputs.kv_lengths = Some(Array::new(&[1], vec![4]).unwrap());
    refused(cpu.attention(&Attention::default(), &inputs).unwrap_err(), "kv_lengths");
    let request = gpu_recurrences::Shape::full([2, 1, 4, 4, 1]).request(Rnn::new(Cell::Gru { reset: Reset::After }));
    refused(CpuRnn::stored(&cpu, &Rnn::new(Cell::Lstm), &request.stack, DType::F32).unwrap_err(), "weight_ih");
}

/// What is handed over is said, with the reason.
#[test]
fn plans_tell_what_is_done() {
    let cpu = Cpu::new();
    let shape = |n| [1, 2, n, 16];
    let plan = |options: &Attention, queries: usize| {
        let (query, key) = (shape(queries), shape(64));
        let inputs = AttentionInputs::new(&query[..], &key[..], &key[..]);
        let problem = regard::problem::AttentionProblem::new(options, &inputs).unwrap();
        cpu.attention_plan(options, &problem)
    };
    let plain = Attention::default();
    assert!(plan(&plain, 1).contains("along D and Dv"), "{}", plan(&plain, 1));
    assert!(plan(&plain, 64).contains("queries side by side"), "{}", plan(&plain, 64));
    let hard = Attention { normalize: regard::attention::Normalize::Hardmax, ..plain };
    assert_eq!(plan(&hard, 64), "the reference in f32: its weights are no softmax");
}
