//! What goes wrong on a device: lost before, between and in mid-work, memory that runs out, invalid use, drivers that
//! fail. Each is an error on every thread, and a fresh device works afterwards.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use regard::attention::{Algorithm, Attention, AttentionInputs, Causal, ScoreMod};
use regard::gpu::{Gpu, Open, Run};
use regard::ops::rnn::GpuRnn;
use regard::rnn::{Cell, Rnn, RnnInputs, RnnWeights};
use regard::tensor::{Array, DType, Layout};
use regard::wgpu::{self, BufferUsages};
use regard::{Error, Result, Tensor, reference};

use crate::gpu::{device_with, devices_with, gpu, open};

fn wave(shape: &[usize], f: f32) -> Array<f32> {
    Array::from_fn(shape, |i| (i as f32 * f).sin())
}

fn qkv(queries: usize, dim: usize) -> AttentionInputs<Array<f32>> {
    let kv = |f| wave(&[1, 2, 9, dim], f);
    AttentionInputs::new(wave(&[1, 2, queries, dim], 0.3), kv(0.7), kv(1.1))
}

fn same(got: &Array<f32>, want: &Array<f32>) {
    assert_eq!(got.shape(), want.shape());
    let worst = got.data().iter().zip(want.data()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-5, "off by {worst}");
}

/// A device of this crate's, and one of an embedder's, with its own callbacks or none.
fn devices() -> [Gpu; 2] {
    let (device, queue) = device_with(|_| {});
    [open(Open::default()), Gpu::from_wgpu(device, queue).unwrap()]
}

/// One of a few calls, each with programs of its own, whose answer is checked where there is one.
fn call(gpu: &Gpu, number: usize) -> Result<()> {
    if number % 3 == 2 {
        let options = Rnn::new(if number.is_multiple_of(2) { Cell::Lstm } else { Cell::Rnn });
        let weights =
            RnnWeights::new(wave(&[8 * options.cell.gates(), 5], 0.3), wave(&[8 * options.cell.gates(), 8], 0.7));
        let (stack, inputs) = (vec![vec![weights]], RnnInputs::new(wave(&[6, 2, 5], 0.2)));
        let got = GpuRnn::upload(gpu, &options, &stack, DType::F32)?.run(gpu, &inputs.upload(gpu, DType::F32)?)?;
        let got = got.output.download(gpu)?;
        same(&got, &reference::rnn(&options, &stack, &inputs).unwrap().output);
        return Ok(());
    }
    // A dimension of its own is a program of its own.
    let inputs = qkv(1 + number % 7, 4 * (1 + number % 5));
    let path = if number.is_multiple_of(2) { Algorithm::Staged } else { Algorithm::Auto };
    let options =
        Attention { path, causal: number.is_multiple_of(4).then_some(Causal::TopLeft), ..Attention::default() };
    let got = options.run(gpu, &inputs.upload(gpu, DType::F32)?)?.output.download(gpu)?;
    same(&got, &reference::attention(&options, &inputs).unwrap().output);
    Ok(())
}

fn assert_lost<T: std::fmt::Debug>(result: Result<T>) {
    assert!(matches!(result, Err(Error::DeviceLost(_))), "{result:?}");
}

/// Runs this on a thread and fails when it does not end.
fn ends<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(f()));
    match receiver.recv_timeout(Duration::from_secs(60)) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => std::panic::resume_unwind(thread.join().unwrap_err()),
    }
}

#[test]
fn a_device_lost_between_any_two_steps_is_an_error_from_then_on() {
    type Step = fn(&Gpu) -> Result<()>;
    let all: [(&str, Step); 8] = [
        ("upload", |gpu| Tensor::upload(gpu, "x", &wave(&[3, 4], 0.5), DType::F32).map(drop)),
        ("attention", |gpu| call(gpu, 0)),
        ("recurrence", |gpu| call(gpu, 2)),
        ("wait", Gpu::wait),
        ("submit nothing", |gpu| Run::new(gpu).submit()),
        ("encode", |gpu| {
            let x = Tensor::upload(gpu, "x", &wave(&[3, 4], 0.5), DType::F32)?;
            let mut encoder = gpu.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut run = Run::new(gpu);
            regard::ops::linear::contiguous(&mut run, &x.permute(&[1, 0])?)?;
            run.encode(&mut encoder)
        }),
        ("times", |gpu| Run::new(gpu).submit_and_time().map(drop)),
        ("rates", |gpu| regard::device::Rates::measure(gpu).map(drop)),
    ];
    for first in 0..all.len() {
        for gpu in devices() {
            gpu.device().destroy();
            // Whichever call comes first finds it out, and all others know.
            for (name, step) in all[first..].iter().chain(&all[..first]) {
                let result = step(&gpu);
                assert!(matches!(result, Err(Error::DeviceLost(_))), "{name} after {}: {result:?}", all[first].0);
            }
        }
    }
    for gpu in devices() {
        let inputs = qkv(3, 8).upload(&gpu, DType::F32).unwrap();
        let mut run = Run::new(&gpu);
        let outputs = Attention::default().record(&mut run, &inputs).unwrap();
        gpu.device().destroy();
        assert_lost(run.submit());
        assert_lost(outputs.output.download(&gpu));
    }
    for gpu in devices() {
        let inputs = qkv(3, 8).upload(&gpu, DType::F32).unwrap();
        let outputs = Attention::default().run(&gpu, &inputs).unwrap();
        gpu.device().destroy();
        assert_lost(outputs.output.download(&gpu));
    }
    call(&open(Open::default()), 0).unwrap();
}

#[test]
fn an_embedder_may_say_why_its_device_is_lost() {
    let (device, queue) = device_with(|_| {});
    let gpu = Gpu::from_wgpu(device.clone(), queue).unwrap();
    let callback = gpu.clone();
    device.set_device_lost_callback(move |_, _| callback.mark_lost("unplugged"));
    let inputs = qkv(3, 5).upload(&gpu, DType::F32).unwrap();
    device.destroy();
    let _ = device.poll(wgpu::PollType::Poll);
    assert_eq!(Attention::default().run(&gpu, &inputs).unwrap_err(), Error::DeviceLost("unplugged".into()));
}

#[test]
fn every_thread_hears_of_a_device_lost_in_mid_work() {
    let mut heard = 0;
    // In the middle of pipeline building at first; then with a few programs that are there, in uploads, work and reads.
    for (kinds, delay) in [(usize::MAX, 0), (usize::MAX, 50), (6, 20), (6, 150)] {
        for gpu in devices() {
            if kinds == 6 {
                (0..kinds).for_each(|number| call(&gpu, number).unwrap());
            }
            let done = std::sync::Arc::new(AtomicUsize::new(0));
            let threads: Vec<_> = (0..8)
                .map(|thread| {
                    let (gpu, done) = (gpu.clone(), done.clone());
                    std::thread::spawn(move || {
                        (thread..).map(|number| call(&gpu, number % kinds)).find_map(|result| match result {
                            Ok(()) => {
                                done.fetch_add(1, Ordering::Relaxed);
                                None
                            }
                            Err(error) => Some(error),
                        })
                    })
                })
                .collect();
            std::thread::sleep(Duration::from_millis(delay));
            gpu.device().destroy();
            for thread in threads {
                let error = ends(move || thread.join().unwrap());
                assert!(matches!(error, Some(Error::DeviceLost(_))), "after {delay} ms: {error:?}");
                heard += 1;
            }
            println!("after {delay} ms: {} calls were right, 8 threads heard", done.load(Ordering::Relaxed));
            assert_lost(call(&gpu, 0));
            call(&open(Open::default()), 0).unwrap();
        }
    }
    assert_eq!(heard, 4 * 2 * 8);
}

#[test]
fn a_wait_for_work_in_flight_ends_when_the_device_is_lost() {
    for gpu in devices() {
        // Hundreds of milliseconds of one submission on two cores.
        let inputs =
            AttentionInputs::new(wave(&[1, 8, 512, 64], 0.3), wave(&[1, 8, 512, 64], 0.7), wave(&[1, 8, 512, 64], 1.1));
        let inputs = inputs.upload(&gpu, DType::F32).unwrap();
        let staged = Attention { path: Algorithm::Staged, ..Attention::default() };
        staged.run(&gpu, &inputs).unwrap();
        gpu.wait().unwrap();
        let (sender, receiver) = mpsc::channel();
        let waiting = gpu.clone();
        let thread = std::thread::spawn(move || {
            let outputs = staged.run(&waiting, &inputs)?;
            sender.send(()).unwrap();
            outputs.output.download(&waiting)
        });
        receiver.recv().unwrap();
        gpu.device().destroy();
        // The copy may have been submitted in time; then what was computed is there to be read.
        let read = ends(move || thread.join().unwrap());
        assert!(matches!(read, Ok(_) | Err(Error::DeviceLost(_))), "{read:?}");
        assert_lost(gpu.wait());
    }
}

/// A read that nobody polls for ends when the loss becomes known in any way, and never with numbers that are not there.
#[test]
fn a_read_that_waits_ends_with_the_device() {
    type Lose = fn(&Gpu);
    let marked: Lose = |gpu| gpu.mark_lost("unplugged");
    let noticed: Lose = |gpu| {
        gpu.device().destroy();
        assert_lost(Tensor::upload(gpu, "y", &wave(&[3, 4], 0.5), DType::F32));
    };
    for lose in [marked, noticed] {
        for gpu in devices() {
            let tensor = Tensor::upload(&gpu, "x", &wave(&[3, 4], 0.5), DType::F32).unwrap();
            let mut read = std::pin::pin!(tensor.download_async(&gpu));
            let woken = std::sync::Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            assert!(read.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(woken.0.load(Ordering::Relaxed), 0, "nothing is asked for before there is something");
            lose(&gpu);
            assert_eq!(woken.0.load(Ordering::Relaxed), 1);
            match read.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(Ok(got)) => assert_eq!(got, wave(&[3, 4], 0.5)),
                ended => assert!(matches!(ended, Poll::Ready(Err(Error::DeviceLost(_)))), "{ended:?}"),
            }
        }
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl std::task::Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn an_error_of_the_callers_own_is_told_once_and_ends_nothing() {
    let gpu = open(Open::default());
    let inputs = qkv(3, 5).upload(&gpu, DType::F32).unwrap();
    let (size, usage) = (16, BufferUsages::MAP_READ | BufferUsages::STORAGE);
    let _ = gpu.device().create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    assert!(matches!(Attention::default().run(&gpu, &inputs), Err(Error::Gpu(_))));
    assert!(Attention::default().run(&gpu, &inputs).is_ok());
}

/// On an embedder's device, whose errors that no scope catches would end the program.
#[test]
fn invalid_use_is_an_error_and_the_next_call_works() {
    let [(device, queue), (other, _)] = devices_with(|_| {});
    let gpu = Gpu::from_wgpu(device.clone(), queue.clone()).unwrap();
    let buffer = |device: &wgpu::Device, usage| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("embedder's"),
            size: 4096,
            usage,
            mapped_at_creation: false,
        })
    };
    let over = |buffer: &wgpu::Buffer, offset| {
        let layout = Layout { offset, ..Layout::contiguous(&[1, 2, 9, 8]) };
        Tensor::from_buffer("part", buffer.clone(), layout, DType::F32).unwrap()
    };
    let good = qkv(9, 8).upload(&gpu, DType::F32).unwrap();
    let all = BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
    let (foreign, destroyed) = (buffer(&other, all), buffer(&device, all));
    let mapped = buffer(&device, BufferUsages::MAP_READ | BufferUsages::COPY_DST);
    destroyed.destroy();
    let invalid = [
        ("foreign", foreign),
        ("destroyed", destroyed),
        ("no STORAGE", buffer(&device, BufferUsages::COPY_SRC)),
        ("for reading", mapped),
    ];
    let attention = Attention::default();
    for (name, buffer) in &invalid {
        let mut inputs = good.clone();
        inputs.key = over(buffer, 0);
        let refused = attention.run(&gpu, &inputs).unwrap_err();
        println!("{name}: {refused}");
        assert!(matches!(refused, Error::Gpu(_) | Error::Shape { .. }), "{name}: {refused}");
        call(&gpu, 0).unwrap();

        // The caller's encoder goes on as if nothing had been asked for, but for a buffer that is destroyed later.
        let mut encoder = device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let mut run = Run::new(&gpu);
        attention.record(&mut run, &inputs).unwrap();
        assert!(run.encode(&mut encoder).is_err(), "{name}");
        let mut run = Run::new(&gpu);
        let outputs = attention.record(&mut run, &good).unwrap();
        run.encode(&mut encoder).unwrap();
        queue.submit([encoder.finish()]);
        same(&outputs.output.download(&gpu).unwrap(), &reference::attention(&attention, &qkv(9, 8)).unwrap().output);

        if *name != "no STORAGE" {
            let read = over(buffer, 0).download(&gpu);
            assert!(matches!(read, Err(Error::Gpu(_) | Error::Shape { .. })), "{name}: {read:?}");
        }
        call(&gpu, 2).unwrap();
    }
}

#[test]
fn a_dispatch_that_reads_what_it_writes_is_refused() {
    let gpu = gpu();
    let attention = Attention::default();
    let packed = Tensor::upload(gpu, "packed", &wave(&[4 * 2 * 9 * 8], 0.3), DType::F32).unwrap();
    let part = |k: usize| packed.with_layout(Layout { offset: k * 144, ..Layout::contiguous(&[1, 2, 9, 8]) }).unwrap();
    let inputs = AttentionInputs::new(part(0), part(1), part(2));
    // Onto the keys, and beside them in the same buffer, which WebGPU does not allow either.
    for output in [part(1), part(3)] {
        let mut run = Run::new(gpu);
        attention.record_into(&mut run, &inputs, &output).unwrap();
        let error = run.submit().unwrap_err();
        println!("{error}");
        assert!(
            matches!(&error, Error::Shape { tensor, axis, .. } if tensor == "output" && axis == "buffer"),
            "{error}"
        );
        call(gpu, 0).unwrap();
    }
}

/// wgpu does not say which device an encoder is of, so the mistake shows where the encoder's owner finishes it.
#[test]
fn an_encoder_of_another_device_fails_at_its_own_finish() {
    let [one, other] = devices_with(|_| {}).map(|(device, queue)| Gpu::from_wgpu(device, queue).unwrap());
    let inputs = qkv(3, 8).upload(&one, DType::F32).unwrap();
    let mut encoder = other.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    let mut run = Run::new(&one);
    Attention::default().record(&mut run, &inputs).unwrap();
    let encoded = run.encode(&mut encoder);
    let scope = other.device().push_error_scope(wgpu::ErrorFilter::Validation);
    let finished = encoder.finish();
    let error = pollster::block_on(scope.pop());
    assert!(encoded.is_err() || error.is_some(), "nobody was told");
    drop(finished);
    for gpu in [&one, &other] {
        call(gpu, 0).unwrap();
    }
}

#[test]
fn a_program_that_does_not_compile_fails_for_everyone_and_is_forgotten() {
    let gpu = open(Open::default());
    let inputs = qkv(3, 8).upload(&gpu, DType::F32).unwrap();
    let with = |source: String| Attention {
        score_mod: Some(ScoreMod::new(source, None)),
        path: Algorithm::Staged,
        ..Attention::default()
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for k in 0..20 {
                    let source = format!(
                        "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 {{ return nothing{k}; }}"
                    );
                    let error = with(source).run(&gpu, &inputs).unwrap_err();
                    assert!(matches!(&error, Error::Option { option, .. } if option == "score_mod"), "{error}");
                }
            });
        }
    });
    assert_eq!(gpu.counts().pipelines, 0);
    // All scratch memory is back: a good run of the same needs no more than 8 bad ones at once.
    let scratch = gpu.counts().scratch_bytes;
    call(&gpu, 0).unwrap();
    assert!(gpu.counts().scratch_bytes <= scratch.max(4096), "{} after {scratch}", gpu.counts().scratch_bytes);
}

#[test]
fn two_devices_do_not_disturb_each_other() {
    let bits = |gpu: &Gpu| {
        let inputs = qkv(33, 16).upload(gpu, DType::F32).unwrap();
        let attention = Attention::default().run(gpu, &inputs).unwrap().output.download(gpu).unwrap();
        attention.data().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    let (one, other) = (&open(Open::default()), &open(Open::default()));
    let want = bits(one);
    for _ in 0..3 {
        assert!(bits(other) == want && bits(one) == want, "in turns");
    }
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| (0..30).for_each(|_| assert!(bits(one) == want, "while the other works and is lost")));
            scope.spawn(|| while call(other, 1).is_ok() {});
        }
        std::thread::sleep(Duration::from_millis(150));
        other.device().destroy();
    });
    assert_lost(call(other, 1));
    assert!(bits(one) == want, "after the other is lost");
}

/// Buffers of two wgpu instances have the same numbers: without a word of ours one would be taken for the other.
#[test]
fn a_tensor_of_another_gpu_is_refused() {
    let (one, other) = (open(Open::default()), open(Open::default()));
    let mut inputs = qkv(3, 8).upload(&one, DType::F32).unwrap();
    let foreign = qkv(3, 8).upload(&other, DType::F32).unwrap();
    inputs.value = foreign.value.narrow(2, 0, 9).unwrap();
    for error in [Attention::default().run(&one, &inputs).unwrap_err(), foreign.key.download(&one).unwrap_err()] {
        assert!(matches!(&error, Error::Shape { axis, .. } if axis == "device"), "{error}");
    }
    for gpu in [&one, &other, &one.clone()] {
        call(gpu, 0).unwrap();
    }
    inputs.value = Tensor::upload(&one.clone(), "value", &qkv(3, 8).value, DType::F32).unwrap();
    Attention::default().run(&one, &inputs).unwrap();
}

/// Calls of the driver that fail as a real one may: in a process of its own, under a Vulkan layer.
#[cfg(target_os = "linux")]
mod driver {
    use std::path::PathBuf;

    use super::*;

    /// VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_DEVICE_LOST, VK_ERROR_OUT_OF_HOST_MEMORY, VK_ERROR_UNKNOWN.
    const RESULTS: [i32; 4] = [-2, -4, -1, -13];

    /// Every fallible call of the driver between the upload of tensors and the download of an answer.
    const CALLS: [&str; 16] = [
        "vkAllocateMemory",
        "vkCreateBuffer",
        "vkCreateShaderModule",
        "vkCreateDescriptorSetLayout",
        "vkCreatePipelineLayout",
        "vkCreateComputePipelines",
        "vkCreateDescriptorPool",
        "vkAllocateDescriptorSets",
        "vkCreateCommandPool",
        "vkAllocateCommandBuffers",
        "vkBeginCommandBuffer",
        "vkEndCommandBuffer",
        "vkQueueSubmit",
        "vkWaitSemaphores",
        "vkGetSemaphoreCounterValue",
        "vkMapMemory",
    ];

    #[test]
    fn what_fails_in_the_driver_is_an_error() {
        if let Some(told) = std::env::var_os("REGARD_FAULT") {
            return under_the_layer(told.into());
        }
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libfaults.so");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/faults.c");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let compiled = std::process::Command::new(compiler)
            .args(["-shared", "-fPIC", "-fvisibility=hidden", "-o"])
            .arg(&library)
            .arg(source)
            .status()
            .unwrap();
        assert!(compiled.success());
        let manifest = serde_json::json!({
            "file_format_version": "1.0.0",
            "layer": {
                "name": "VK_LAYER_REGARD_faults", "type": "INSTANCE", "library_path": library, "api_version": "1.3.0",
                "implementation_version": "1", "description": "calls that fail as told",
                "functions": {
                    "vkGetInstanceProcAddr": "regard_instance_proc_addr",
                    "vkGetDeviceProcAddr": "regard_device_proc_addr",
                },
            },
        });
        std::fs::write(folder.path().join("faults.json"), manifest.to_string()).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "faults::driver::what_fails_in_the_driver_is_an_error", "--nocapture"]);
        child.env("REGARD_FAULT", folder.path().join("told")).env("VK_LAYER_PATH", folder.path());
        let output = child.env("VK_INSTANCE_LAYERS", "VK_LAYER_REGARD_faults").output().unwrap();
        let (told, panics) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("{told}");
        assert!(output.status.success(), "{told}\n{panics}");
    }

    fn under_the_layer(told: PathBuf) {
        let tell = |text: &str| std::fs::write(&told, text).unwrap();
        let (mut lost, mut memory, mut other, mut unheard) = (0, 0, 0, Vec::new());
        // `tests/run`: one of the first two results on one of the two kinds of device; else all on both.
        let whole = crate::gpu::whole();
        for (number, call) in CALLS.into_iter().enumerate() {
            for result in if whole { &RESULTS[..] } else { &RESULTS[number / 2 % 2..][..1] } {
                tell("");
                for gpu in
                    devices().into_iter().skip(if whole { 0 } else { number % 2 }).step_by(2 - usize::from(whole))
                {
                    super::call(&gpu, 0).unwrap();
                    gpu.trim();
                    let waits = Tensor::upload(&gpu, "x", &wave(&[3, 4], 0.5), DType::F32).unwrap();
                    tell(&format!("{call} {result}"));
                    // Many threads, programs that are there and programs that are new, more memory than is at hand.
                    let errors: Vec<Error> = std::thread::scope(|scope| {
                        let work = |thread: usize| {
                            let gpu = &gpu;
                            move || (0..40).find_map(|k| super::call(gpu, thread + k).and_then(|()| large(gpu)).err())
                        };
                        let threads: Vec<_> = (0..3).map(|thread| scope.spawn(work(thread))).collect();
                        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
                    });
                    tell("");
                    for error in &errors {
                        match error {
                            Error::DeviceLost(_) => lost += 1,
                            Error::OutOfMemory(_) => memory += 1,
                            Error::Gpu(_) => other += 1,
                            error => panic!("{call} {result}: {error:?}"),
                        }
                    }
                    if errors.is_empty() {
                        unheard.push(format!("{call} {result}"));
                    }
                    // The device goes on, or is lost for good: nothing in between.
                    match (super::call(&gpu, 1), waits.download(&gpu)) {
                        (Ok(()), read) => assert_eq!(read.unwrap(), wave(&[3, 4], 0.5), "{call} {result}"),
                        (Err(Error::DeviceLost(_)), read) => assert_lost(read),
                        (Err(error), _) => panic!("{call} {result}: {errors:?}, and afterwards {error:?}"),
                    }
                    println!("{call} {result}: {}", errors.first().map_or("nothing".to_owned(), |e| format!("{e:?}")));
                }
                super::call(&open(Open::default()), 2).unwrap();
            }
        }
        println!("lost {lost}, out of memory {memory}, other {other}; not called: {unheard:?}");
        reset_behind_a_fence(tell);
    }

    /// A driver that resets the device for work that took too long says that the work is done, and tells of the loss when
    /// something is submitted next: no answer before that.
    fn reset_behind_a_fence(tell: impl Fn(&str)) {
        for gpu in devices() {
            super::call(&gpu, 0).unwrap();
            let tensor = Tensor::upload(&gpu, "x", &wave(&[3, 4], 0.5), DType::F32).unwrap();
            let mut context = Context::from_waker(Waker::noop());
            let mut read = std::pin::pin!(tensor.download_async(&gpu));
            assert!(read.as_mut().poll(&mut context).is_pending());
            gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
            tell("vkQueueSubmit -4");
            assert_lost(pollster::block_on(read));
            tell("");
            assert_lost(super::call(&gpu, 1));
        }
        for gpu in devices() {
            super::call(&gpu, 0).unwrap();
            let run = Run::new(&gpu);
            run.submit().unwrap();
            gpu.device().poll(wgpu::PollType::wait_indefinitely()).unwrap();
            tell("vkQueueSubmit -4");
            assert_lost(gpu.wait());
            tell("");
        }
    }

    /// Memory that no block of the driver's has room for.
    fn large(gpu: &Gpu) -> Result<()> {
        let allowed = gpu.caps().max_binding_bytes.min(128 << 20) as usize;
        let held: Vec<_> = (0..3).map(|_| Tensor::uninitialized(gpu, "large", &[allowed / 4], DType::F32)).collect();
        held.into_iter().collect::<Result<Vec<_>>>().map(drop)
    }
}
