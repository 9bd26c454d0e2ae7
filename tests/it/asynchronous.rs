//! Calls that do not block: their futures, and who brings them to an end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use regard::attention::{Attention, AttentionInputs};
use regard::backend::{Backend, Cpu};
use regard::device::Rates;
use regard::gpu::{Gpu, Open, Run};
use regard::models::{Beam, CausalModel, Generation, Sampling};
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Cell, Rnn, RnnInputs, RnnWeights};
use regard::seq2seq::{Decoding, transliterate_async};
use regard::tensor::{Array, DType};
use regard::{Error, Result, Tensor};

use crate::gpu::gpu;

fn numbers(shape: &[usize], seed: f32) -> Array {
    Array::from_fn(shape, |k| ((k as f32 + 1.0) * (seed + 0.37)).sin())
}

/// A future that may go to another thread, unchanged.
fn sent<F: Future + Send>(future: F) -> F {
    future
}

/// Every asynchronous call, on the one thread that polls the device too; all futures can be sent. None hangs, and each gives
/// what the call that blocks gives.
#[test]
fn every_call_ends_on_one_thread() {
    let own = Gpu::open(&Open::default()).unwrap();
    let gpu = &own;
    let x = numbers(&[1, 2, 5, 8], 0.3);
    let inputs = AttentionInputs::new(x.clone(), x.clone(), x.clone()).upload(gpu, DType::F32).unwrap();
    let outputs = Attention { weights: true, ..Attention::default() }.run(gpu, &inputs).unwrap();
    assert_eq!(gpu.drive(sent(outputs.download_async(gpu))).unwrap(), outputs.download(gpu).unwrap());
    let tensor = &outputs.output;
    assert_eq!(gpu.drive(sent(tensor.download_async(gpu))).unwrap(), tensor.download(gpu).unwrap());
    let ids = Tensor::upload_u32(gpu, "ids", &Array::filled(&[3], 7)).unwrap();
    assert_eq!(gpu.drive(sent(ids.download_u32_async(gpu))).unwrap().data(), [7, 7, 7]);
    gpu.drive(sent(gpu.settled())).unwrap();

    let record = |run: &mut Run<'_>| Attention::default().record(run, &inputs).unwrap().output;
    let mut run = Run::new(gpu);
    let output = record(&mut run);
    let read = gpu.drive(sent(run.clone().submit_and_read_async(&[&output]))).unwrap();
    assert_eq!(read, run.clone().submit_and_read(&[&output]).unwrap());
    assert!(gpu.drive(sent(run.clone().submit_timed_async())).unwrap().len() == run.recording().dispatches().count());
    assert!(gpu.drive(sent(run.clone().submit_and_time_async())).unwrap() > 0.0);
    let mut prepared = run.prepare().unwrap();
    assert_eq!(gpu.drive(sent(prepared.submit_and_read_async(&[&output]))).unwrap()[0], read[0]);
    assert!(gpu.drive(sent(gpu.time_async(|_| Ok(())))).unwrap() >= 0.0);
    assert!(gpu.drive(Rates::measure_async(gpu)).unwrap().measured);

    let weights = RnnWeights::new(numbers(&[8, 3], 0.1), numbers(&[8, 2], 0.2));
    let rnn = GpuRnn::upload(gpu, &Rnn::new(Cell::Lstm), &vec![vec![weights]], DType::F32).unwrap();
    let sequence = RnnInputs::new(numbers(&[4, 1, 3], 0.5)).upload(gpu, DType::F32).unwrap();
    let encoded = rnn.run(gpu, &sequence).unwrap();
    assert_eq!(gpu.drive(sent(encoded.download_async(gpu))).unwrap(), encoded.download(gpu).unwrap());

    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/causal/gpt2");
    let model = CausalModel::from_folder(&folder).unwrap();
    let mut network = model.network(Run::new(gpu)).unwrap();
    let texts = [vec![1, 2], vec![3]];
    let options = Generation { most: 10, sampling: Sampling::Greedy, end: None };
    let found = gpu.drive(sent(network.generate_async(&texts, &options))).unwrap();
    assert_eq!(found, network.generate(&texts, &options).unwrap());
    let beam = Beam { width: 2, most: 4, end: None, length_exponent: 1.0 };
    let found = gpu.drive(sent(network.beam_async(&texts, &beam))).unwrap();
    assert_eq!(found, network.beam(&texts, &beam).unwrap());

    let names = regard::seq2seq::Model::from_folder(&crate::seq2seq::folder("khmer")).unwrap();
    let mut network = names.network(Run::new(gpu)).unwrap();
    let (texts, decoding) = (["khmer".into()], Decoding::default());
    let answers = transliterate_async(&names, &mut network, &texts, &decoding);
    assert!(!gpu.drive(sent(answers)).unwrap()[0].output.is_empty());

    let mut cpu = Cpu::new();
    let value = cpu.constant("x", &x).unwrap();
    assert_eq!(at_once(sent(cpu.read(&[&value]))).unwrap()[0], x);
}

/// What needs no device is there at the first poll.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("the CPU waits for nobody"),
    }
}

/// Several reads at once come to an end together, in whatever order they are polled.
#[test]
fn reads_side_by_side_are_driven_together() {
    let gpu = gpu();
    let tensors: Vec<Tensor> =
        (0..20).map(|k| Tensor::upload(gpu, "x", &numbers(&[k + 1], k as f32), DType::F32).unwrap()).collect();
    let mut reads: Vec<Pin<Box<dyn Future<Output = Result<Array>>>>> =
        tensors.iter().map(|x| Box::pin(x.download_async(gpu)) as Pin<Box<dyn Future<Output = _>>>).collect();
    let mut found: Vec<Option<Array>> = vec![None; reads.len()];
    let all = std::future::poll_fn(|context| {
        for (read, found) in reads.iter_mut().zip(&mut found).rev().filter(|(_, found)| found.is_none()) {
            if let Poll::Ready(array) = read.as_mut().poll(context) {
                *found = Some(array?);
            }
        }
        if found.iter().all(Option::is_some) { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    gpu.drive(all).unwrap();
    for (k, found) in found.into_iter().enumerate() {
        assert_eq!(found.unwrap(), numbers(&[k + 1], k as f32));
    }
}

/// A future that waits for something else than the device is waited for as well, and its error is told.
#[test]
fn whatever_else_a_future_waits_for() {
    let gpu = gpu();
    let (tell, told) = std::sync::mpsc::channel::<u32>();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        tell.send(5).unwrap();
    });
    // Wakes nobody.
    let silent = std::future::poll_fn(|_| told.try_recv().map_or(Poll::Pending, |n| Poll::Ready(Ok(n))));
    assert_eq!(gpu.drive(silent).unwrap(), 5);
    thread.join().unwrap();
    let failing = async { Err::<(), _>(Error::option("x", "is wrong")) };
    assert!(gpu.drive(failing).unwrap_err().to_string().contains("is wrong"));
}

/// Who waits for a device that is gone is told so.
#[test]
fn a_lost_device_ends_what_is_driven() {
    let own = Gpu::open(&Open::default()).unwrap();
    let x = Tensor::upload(&own, "x", &numbers(&[4], 0.1), DType::F32).unwrap();
    own.mark_lost("pulled out");
    let error = own.drive(x.download_async(&own)).unwrap_err();
    assert!(matches!(error, Error::DeviceLost(_)), "{error}");
    let never = std::future::pending::<Result<()>>();
    assert!(matches!(own.drive(never).unwrap_err(), Error::DeviceLost(_)));
}
