//! Calls of many kinds with known answers, and threads that make them over one device.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use regard::attention::{Algorithm, Attention, AttentionInputs, Causal, ScoreMod};
use regard::cases::{self, AttentionCase, RnnCase};
use regard::gpu::Run;
use regard::ops::cache::{CacheShape, KvCache};
use regard::ops::merge::{merge, merge_max_sum};
use regard::ops::rnn::GpuRnn;
use regard::plan::AttentionPlan;
use regard::problem::{AttentionProblem, Storage};
use regard::tensor::{Array, DType, Layout};
use regard::{Error, Gpu, Result, Tensor, baseline, compare, reference, wgpu};

/// What a call came to: an answer that was right, or the error that was asked for.
enum Outcome {
    Right,
    Refused,
}

type Work = Box<dyn Fn(&Gpu) -> Result<Outcome> + Send + Sync>;

/// One kind of call.
struct Call {
    name: String,
    work: Work,
}

/// The oracle in f64 and the baseline in f32 of each result.
type Answers = Vec<(&'static str, Array<f64>, Array)>;

fn answers<'a>(
    oracle: impl Iterator<Item = (&'static str, &'a Array<f64>)>,
    baseline: impl Iterator<Item = (&'static str, &'a Array)>,
) -> Answers {
    oracle.zip(baseline).map(|((name, oracle), (_, baseline))| (name, oracle.clone(), baseline.clone())).collect()
}

fn right<'a>(got: impl Iterator<Item = (&'static str, &'a Array)>, answers: &Answers) -> Result<Outcome> {
    let got: Vec<_> = got.collect();
    if got.len() != answers.len() {
        return Err(Error::shape("results", "number", answers.len(), got.len()));
    }
    for ((name, got), (_, oracle, baseline)) in got.into_iter().zip(answers) {
        compare::judge(name, got, oracle, baseline, DType::F32)?.check(name)?;
    }
    Ok(Outcome::Right)
}

/// The error that was asked for.
fn refused<T>(result: Result<T>, wanted: impl FnOnce(&Error) -> bool) -> Result<Outcome> {
    match result {
        Err(error) if wanted(&error) => Ok(Outcome::Refused),
        Err(error) => Err(error),
        Ok(_) => Err(Error::Gpu("what had to be refused was taken".into())),
    }
}

fn wide(array: &Array) -> Array<f64> {
    array.cast()
}

fn wave(shape: &[usize], f: f32) -> Array {
    Array::from_fn(shape, |i| (i as f32 * f).sin())
}

fn part(array: &Array, axis: usize, start: usize, length: usize) -> Result<Array> {
    array.gather(&Layout::contiguous(array.shape()).narrow(axis, start, length)?)
}

/// A case of the table on each path that takes it in turn.
fn attention(case: AttentionCase, path: Algorithm, gpu: &Gpu) -> Result<Call> {
    let AttentionCase { name, mut options, inputs, .. } = case;
    let problem = AttentionProblem::new(&options, &inputs.map(Array::shape, Array::shape))?;
    options.path = path;
    if AttentionPlan::new(&options, &problem, Storage::from(DType::F32), gpu.caps()).is_err() {
        options.path = Algorithm::Auto;
    }
    let oracle = reference::attention(&options, &inputs.map_numbers(wide))?;
    let baseline = baseline::attention(&options, &inputs, DType::F32)?;
    let answers = answers(oracle.named(), baseline.named());
    let work = move |gpu: &Gpu| {
        let got = options.run(gpu, &inputs.upload(gpu, DType::F32)?)?.download(gpu)?;
        right(got.named(), &answers)
    };
    Ok(Call { name, work: Box::new(work) })
}

fn recurrence(case: RnnCase) -> Result<Call> {
    let RnnCase { name, options, stack, inputs, .. } = case;
    let stack_wide = stack.iter().map(|layer| layer.iter().map(|w| w.map(wide)).collect()).collect();
    let oracle = reference::rnn(&options, &stack_wide, &inputs.map_numbers(wide))?;
    let baseline = baseline::rnn(&options, &stack, &inputs, DType::F32)?;
    let answers = answers(oracle.named(), baseline.named());
    let work = move |gpu: &Gpu| {
        let rnn = GpuRnn::upload(gpu, &options, &stack, DType::F32)?;
        let got = rnn.run(gpu, &inputs.upload(gpu, DType::F32)?)?.download(gpu)?;
        right(got.named(), &answers)
    };
    Ok(Call { name, work: Box::new(work) })
}

/// A prompt and two tokens over a cache of its own, each appended and attended to in one run.
fn decoding(pages: bool) -> Result<Call> {
    let [query, key, value] = [(8, 0.3), (2, 0.7), (2, 1.1)].map(|(heads, f)| wave(&[2, heads, 9, 16], f));
    let options = Attention { causal: Some(Causal::TopLeft), ..Attention::default() };
    let inputs = AttentionInputs::new(query.clone(), key.clone(), value.clone());
    let oracle = reference::attention(&options, &inputs.map_numbers(wide))?.output;
    let baseline = reference::attention(&options, &inputs)?.output;
    let steps = [(0, 7), (7, 1), (8, 1)];
    let work = move |gpu: &Gpu| {
        let shape = CacheShape { layers: 1, batch: 2, kv_heads: 2, capacity: 12, key_dim: 16, value_dim: 16 };
        let mut cache = match pages {
            true => KvCache::paged(gpu, shape, 4, 8, DType::F32)?,
            false => KvCache::new(gpu, shape, DType::F32)?,
        };
        for (start, n) in steps {
            let upload = |name, array| Tensor::upload(gpu, name, &part(array, 2, start, n)?, DType::F32);
            let mut run = Run::new(gpu);
            cache.append(&mut run, &upload("key", &key)?, &upload("value", &value)?, None)?;
            let inputs = cache.inputs(&mut run, &upload("query", &query)?, None)?;
            let output = options.record(&mut run, &inputs)?.output;
            let [got] = &run.submit_and_read(&[&output])?[..] else { return Err(Error::missing("output", "one")) };
            let of = |whole: &Array<f64>| whole.gather(&Layout::contiguous(whole.shape()).narrow(2, start, n)?);
            right([("output", got)].into_iter(), &vec![("output", of(&oracle)?, part(&baseline, 2, start, n)?)])?;
        }
        Ok(Outcome::Right)
    };
    Ok(Call { name: format!("decoding{}", if pages { " in pages" } else { "" }), work: Box::new(work) })
}

/// Partial results put together, some of which saw nothing.
fn merging(case: cases::MergeCase) -> Result<Call> {
    fn on_cpu<T: reference::Float>(by_lse: bool, partials: &[(Array<T>, Array<T>)]) -> Result<(Array<T>, Array<T>)> {
        let partials: Vec<_> = partials.iter().map(|(output, stats)| (output, stats)).collect();
        if by_lse { reference::merge(&partials) } else { reference::merge_max_sum(&partials) }
    }
    let by_lse = case.partials.iter().all(|(_, stats)| stats.shape().len() == 3);
    let wides: Vec<_> = case.partials.iter().map(|(output, stats)| (wide(output), wide(stats))).collect();
    let (oracle, oracle_stats) = on_cpu(by_lse, &wides)?;
    let (output, stats) = on_cpu(by_lse, &case.partials)?;
    let answers = vec![("output", oracle, output), ("stats", oracle_stats, stats)];
    let work = move |gpu: &Gpu| {
        let upload = |array| Tensor::upload(gpu, "part", array, DType::F32);
        let partials: Vec<_> =
            case.partials.iter().map(|(o, s)| Ok((upload(o)?, upload(s)?))).collect::<Result<Vec<_>>>()?;
        let partials: Vec<_> = partials.iter().map(|(output, stats)| (output, stats)).collect();
        let mut run = Run::new(gpu);
        let (output, stats) = if by_lse { merge(&mut run, &partials) } else { merge_max_sum(&mut run, &partials) }?;
        let got = run.submit_and_read(&[&output, &stats])?;
        right(["output", "stats"].into_iter().zip(&got), &answers)
    };
    Ok(Call { name: case.name, work: Box::new(work) })
}

/// Up and down again, dense and as a view, by waiting and without.
fn transfers() -> Vec<Call> {
    let same = |got: Array, want: &Array| match got == *want {
        true => Ok(Outcome::Right),
        false => Err(Error::Gpu("numbers came back changed".into())),
    };
    let call = |name: &str, work: Work| Call { name: name.to_owned(), work };
    let upload = |gpu: &Gpu, array: &Array| Tensor::upload(gpu, "x", array, DType::F32);
    let [dense, view, waiting] = [[3, 5, 1000], [7, 11, 13], [2, 3, 400]].map(|shape| wave(&shape, 0.37));
    let turned = view.permute(&[2, 0, 1]);
    vec![
        call("upload and download", Box::new(move |gpu| same(upload(gpu, &dense)?.download(gpu)?, &dense))),
        call(
            "download of a view",
            Box::new(move |gpu| {
                same(upload(gpu, &view)?.permute(&[2, 0, 1])?.download(gpu)?, turned.as_ref().map_err(Clone::clone)?)
            }),
        ),
        call(
            "download without blocking",
            Box::new(move |gpu| same(pollster::block_on(upload(gpu, &waiting)?.download_async(gpu))?, &waiting)),
        ),
    ]
}

/// What has to be refused.
fn mistakes() -> Vec<Call> {
    let call = |name: &str, work: Work| Call { name: name.to_owned(), work };
    let good = || AttentionInputs::new(wave(&[1, 2, 3, 4], 0.3), wave(&[1, 2, 5, 4], 0.7), wave(&[1, 2, 5, 4], 1.1));
    vec![
        call(
            "heads that do not divide",
            Box::new(move |gpu| {
                let inputs = AttentionInputs { key: wave(&[1, 3, 5, 4], 0.7), ..good() };
                let result = Attention::default().run(gpu, &inputs.upload(gpu, DType::F32)?);
                refused(result, |error| matches!(error, Error::Shape { .. }))
            }),
        ),
        call(
            "a score function that does not compile",
            Box::new(move |gpu| {
                let wgsl = "fn score_mod(s: f32, b: u32, h: u32, i: u32, j: u32) -> f32 { return nothing; }".to_owned();
                let score_mod = Some(ScoreMod::new(wgsl, None));
                let result = Attention { score_mod, ..Attention::default() }.run(gpu, &good().upload(gpu, DType::F32)?);
                refused(result, |error| matches!(error, Error::Option { option, .. } if option == "score_mod"))
            }),
        ),
        call(
            "more than a binding holds",
            Box::new(|gpu| {
                let result = Tensor::uninitialized(gpu, "huge", &[1 << 40], DType::F32);
                refused(result, |error| matches!(error, Error::Limit { .. }))
            }),
        ),
        call(
            "an output that is an input",
            Box::new(move |gpu| {
                let mut inputs = good().upload(gpu, DType::F32)?;
                inputs.query = Tensor::upload(gpu, "query", &wave(&[1, 2, 5, 4], 0.3), DType::F32)?;
                let mut run = Run::new(gpu);
                Attention::default().record_into(&mut run, &inputs, &inputs.key)?;
                refused(run.submit(), |error| matches!(error, Error::Shape { axis, .. } if axis == "buffer"))
            }),
        ),
        call(
            "a buffer that is no storage buffer",
            Box::new(move |gpu| {
                let buffer = gpu.device().create_buffer(&wgpu::BufferDescriptor {
                    label: Some("no storage"),
                    size: 4096,
                    usage: wgpu::BufferUsages::COPY_DST,
                    mapped_at_creation: false,
                });
                let mut inputs = good().upload(gpu, DType::F32)?;
                inputs.value = Tensor::from_buffer("value", buffer, Layout::contiguous(&[1, 2, 5, 4]), DType::F32)?;
                let result = Attention::default().run(gpu, &inputs);
                refused(result, |error| matches!(error, Error::Shape { axis, .. } if axis == "buffer usage"))
            }),
        ),
    ]
}

/// How it stands.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Calls made.
    pub(crate) calls: usize,
    /// Of them, wrong answers and errors that nobody asked for.
    pub(crate) wrong: usize,
    /// Of them, errors that were asked for.
    pub(crate) refused: usize,
    /// Resident memory of this process in bytes, where the system tells.
    pub(crate) resident: Option<u64>,
    /// Bytes of scratch buffers.
    pub(crate) scratch: u64,
    /// Programs built.
    pub(crate) pipelines: u64,
}

/// Calls of every kind.
pub(crate) struct Soak {
    calls: Vec<Call>,
}

impl Soak {
    /// Every `step`-th case of the tables, and all else.
    pub(crate) fn new(gpu: &Gpu, step: usize) -> Result<Self> {
        let paths = [Algorithm::Auto, Algorithm::Staged, Algorithm::Fused, Algorithm::Split];
        let attention_cases = cases::attention().into_iter().step_by(step).zip(paths.into_iter().cycle());
        let mut calls: Vec<Call> =
            attention_cases.map(|(case, path)| attention(case, path, gpu)).collect::<Result<_>>()?;
        let recurrent = cases::recurrent().into_iter().step_by(step.div_ceil(2)).map(recurrence);
        calls.extend(recurrent.collect::<Result<Vec<_>>>()?);
        // As often as these are used, beside the many above.
        for _ in 0..4 {
            calls.extend([decoding(false)?, decoding(true)?]);
            calls.extend(transfers());
            calls.extend(mistakes());
        }
        calls.extend(cases::merges().into_iter().map(merging).collect::<Result<Vec<_>>>()?);
        Ok(Self { calls })
    }

    /// Kinds of calls.
    pub(crate) fn kinds(&self) -> usize {
        self.calls.len()
    }

    /// Makes so many calls from so many threads, in an order that looks random and is always the same, and reports after
    /// every tenth of them.
    pub(crate) fn run(&self, gpu: &Gpu, calls: usize, threads: usize, mut report: impl FnMut(Progress)) -> Progress {
        let [next, done, wrong, refused] = [const { AtomicUsize::new(0) }; 4];
        let progress = || Progress {
            calls: done.load(Ordering::Relaxed),
            wrong: wrong.load(Ordering::Relaxed),
            refused: refused.load(Ordering::Relaxed),
            resident: resident(),
            scratch: gpu.counts().scratch_bytes,
            pipelines: gpu.counts().pipelines,
        };
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return;
                }
                // Knuth's multiplicative hash.
                let kind = (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                let call = &self.calls[kind as usize % self.calls.len()];
                match (call.work)(gpu) {
                    Ok(Outcome::Right) => {}
                    Ok(Outcome::Refused) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        eprintln!("call {number}, {}: {error}", call.name);
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let (mut told, mut polled) = (0, Instant::now());
            while !threads.iter().all(|thread| thread.is_finished()) {
                // Somebody has to, for those who read without blocking.
                let _ = gpu.device().poll(wgpu::PollType::Poll);
                std::thread::sleep(Duration::from_millis(2).saturating_sub(polled.elapsed()));
                polled = Instant::now();
                let tenth = done.load(Ordering::Relaxed) * 10 / calls.max(1);
                if tenth > told && tenth < 10 {
                    told = tenth;
                    report(progress());
                }
            }
        });
        let last = progress();
        report(last);
        last
    }
}

/// Resident memory in bytes, as Linux tells.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}
