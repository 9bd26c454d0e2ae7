//! Decoder-only language models: Hugging Face's GPT-2 and LLaMA, logit by logit, on every backend.

use std::path::{Path, PathBuf};

use regard::backend::{Backend, Cpu, Reference};
use regard::gpu::{Gpu, Open, Run};
use regard::models::{Beam, CausalModel, CausalNetwork, Generation, Sampling};
use regard::store::Store;
use regard::tensor::Array;
use serde_json::Value;

use crate::gpu::gpu;

fn folders() -> Vec<PathBuf> {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/causal");
    let mut folders: Vec<_> = std::fs::read_dir(vectors).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    assert_eq!(folders.len(), 3);
    folders
}

/// Within four times the library's own error in f32 and a few units in the last place of the largest.
pub(crate) fn near(got: &[f32], wanted: &[f32], error: f64, what: &str) {
    assert_eq!(got.len(), wanted.len(), "{what}");
    let size = wanted.iter().fold(1.0f32, |size, x| size.max(x.abs()));
    let tolerance = 4.0 * error + 4e-6 * f64::from(size);
    for (got, wanted) in got.iter().zip(wanted) {
        let off = f64::from((got - wanted).abs());
        assert!(off <= tolerance, "{what}: {got}, not {wanted}: {off:.1e} over {tolerance:.1e}");
    }
}

/// The prompts, and what they are followed by.
struct Expected {
    store: Store,
    errors: Value,
    prompts: Vec<Vec<u32>>,
    /// [texts, 20].
    tokens: Array<u32>,
}

impl Expected {
    fn of(folder: &Path) -> Self {
        let store = Store::open(&folder.join("expected.safetensors")).unwrap();
        let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
        let errors = serde_json::from_str::<Value>(&text).unwrap()["f32_err"].clone();
        let (padded, lengths) = (store.get_u32("in.prompts").unwrap(), store.get_u32("in.lengths").unwrap());
        let rows = padded.data().chunks_exact(padded.shape()[1]).zip(lengths.data());
        let prompts = rows.map(|(row, &length)| row[..length as usize].to_vec()).collect();
        let tokens = store.get_u32("out.tokens").unwrap();
        Self { store, errors, prompts, tokens }
    }

    fn error(&self, tensor: &str) -> f64 {
        self.errors[tensor].as_f64().unwrap()
    }

    fn continuation(&self, text: usize) -> &[u32] {
        &self.tokens.data()[text * 20..][..20]
    }
}

fn run<B: Backend + Clone>(b: B, folder: &Path, what: &str) {
    let model = CausalModel::from_folder(folder).unwrap();
    let expected = Expected::of(folder);
    let what = format!("{} {what}", folder.display());
    // Each prompt by itself, token by token from its beginning, and all of its continuation.
    let logits = expected.store.get("out.logits").unwrap();
    let words = model.words();
    let mut network = model.network(b.clone()).unwrap();
    for (n, prompt) in expected.prompts.iter().enumerate() {
        let tensor = format!("out.prompt_logits.{n}");
        let of_prompt = expected.store.get(&tensor).unwrap();
        let mut last = network.start(&[prompt[..1].to_vec()]).unwrap();
        for (k, wanted) in of_prompt.data().chunks_exact(words).enumerate() {
            near(last.data(), wanted, expected.error(&tensor), &format!("{what}, {tensor}, {k}"));
            if k + 1 < prompt.len() {
                last = network.step(&prompt[k + 1..=k + 1]).unwrap();
            }
        }
        for (k, token) in expected.continuation(n).iter().enumerate() {
            let wanted = &logits.data()[(n * 20 + k) * words..][..words];
            near(last.data(), wanted, expected.error("out.logits"), &format!("{what}, text {n}, token {k}"));
            last = network.step(&[*token]).unwrap();
        }
    }
    // All at once, of different lengths.
    let greedy = Generation { most: 20, sampling: Sampling::Greedy, end: None };
    let answers = network.generate(&expected.prompts, &greedy).unwrap();
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(answer, expected.continuation(n), "{what}, text {n}");
    }
    // A text ends with the token that ends it, the others go on.
    let end = expected.continuation(0)[3];
    let answers = network.generate(&expected.prompts, &Generation { end: Some(end), ..greedy }).unwrap();
    let stop = expected.continuation(0).iter().position(|&token| token == end).unwrap();
    assert_eq!(answers[0], expected.continuation(0)[..=stop]);
}

#[test]
fn hugging_faces_language_models_agree_on_every_backend() {
    for folder in folders() {
        run(Reference::<f64>::default(), &folder, "f64");
        for cpu in Cpu::new().levels() {
            let name = cpu.instructions();
            run(cpu, &folder, name);
        }
        run(Run::new(gpu()), &folder, "GPU");
    }
}

/// The first token that is drawn follows the distribution that it is drawn from, and the same seed draws the same.
#[test]
fn tokens_are_drawn_from_the_largest() {
    let folder = &folders()[0];
    let model = CausalModel::from_folder(folder).unwrap();
    let expected = Expected::of(folder);
    let mut network = model.network(Cpu::new()).unwrap();
    let logits = network.start(&expected.prompts[..1]).unwrap();
    let (k, temperature) = (4, 1.5);
    let mut order: Vec<usize> = (0..model.words()).collect();
    order.sort_by(|&a, &b| logits.data()[b].total_cmp(&logits.data()[a]));
    let power = |token: usize| f64::from((logits.data()[token] - logits.data()[order[0]]) / temperature).exp();
    let sum: f64 = order[..k].iter().map(|&token| power(token)).sum();
    let draws = 2000;
    let texts = vec![expected.prompts[0].clone(); 50];
    let mut counts = vec![0; model.words()];
    for seed in 0..draws / 50 {
        let sampling = Sampling::TopK { k, temperature, seed };
        let options = Generation { most: 1, sampling, end: None };
        let answers = network.generate(&texts, &options).unwrap();
        assert_eq!(answers, network.generate(&texts, &options).unwrap());
        answers.iter().for_each(|answer| counts[answer[0] as usize] += 1);
    }
    for (token, &count) in counts.iter().enumerate() {
        let share = if order[..k].contains(&token) { power(token) / sum } else { 0.0 };
        let spread = (share * (1.0 - share) * f64::from(draws)).sqrt();
        let off = (f64::from(count) - share * f64::from(draws)).abs();
        assert!(off <= 4.5 * spread, "token {token}: {count} of {draws}, expected {share:.3}");
    }
}

/// A beam as wide as there are words finds the best two tokens of all; a narrow one no better; of width 1 it is greedy search.
#[test]
fn beams_find_the_most_probable() {
    for (folder, backend) in folders().into_iter().zip(["CPU", "GPU", "CPU"]) {
        match backend {
            "GPU" => search(Run::new(gpu()), &folder),
            _ => search(Cpu::new(), &folder),
        }
    }
}

fn search<B: Backend>(b: B, folder: &Path) {
    let model = CausalModel::from_folder(folder).unwrap();
    let expected = Expected::of(folder);
    let mut network = model.network(b).unwrap();
    let words = model.words();
    let log_softmax = |logits: &[f32]| -> Vec<f64> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&x| f64::from(x - largest).exp()).sum();
        logits.iter().map(|&x| f64::from(x - largest) - sum.ln()).collect()
    };
    let prompt = expected.prompts[1].clone();
    let first = log_softmax(network.start(std::slice::from_ref(&prompt)).unwrap().data());
    // Every text of one more token at once: what each could go on with.
    let longer: Vec<Vec<u32>> = (0..words as u32).map(|token| [&prompt[..], &[token]].concat()).collect();
    let second = network.start(&longer).unwrap();
    let mut pairs: Vec<(f64, [u32; 2])> = Vec::new();
    for (token, logits) in second.data().chunks_exact(words).enumerate() {
        let next = log_softmax(logits).into_iter().enumerate();
        pairs.extend(next.map(|(other, log)| (first[token] + log, [token as u32, other as u32])));
    }
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let wide = Beam { width: words, most: 2, end: None, length_exponent: 0.0 };
    let found = network.beam(std::slice::from_ref(&prompt), &wide).unwrap().remove(0);
    assert_eq!(found[0].tokens, pairs[0].1);
    assert!((found[0].log_probability - pairs[0].0).abs() < 1e-4);

    let texts = &expected.prompts;
    let narrow = Beam { width: 1, most: 20, end: None, length_exponent: 0.0 };
    for (n, found) in network.beam(texts, &narrow).unwrap().iter().enumerate() {
        assert_eq!(found[0].tokens, expected.continuation(n));
    }
    // Several texts, of which some end: the sums are those of the tokens, and each is a text's own.
    let some = Beam { width: 4, most: 6, end: Some(expected.continuation(0)[2]), length_exponent: 1.0 };
    let together = network.beam(texts, &some).unwrap();
    for (text, beam) in texts.iter().zip(&together) {
        let alone = network.beam(std::slice::from_ref(text), &some).unwrap().remove(0);
        assert_eq!(beam.len(), 4);
        for (a, b) in alone.iter().zip(beam) {
            assert!((a.log_probability - b.log_probability).abs() < 1e-3, "{alone:?}, {beam:?}");
        }
        let best = &beam[0];
        let mut sum = 0.0;
        let mut logits = network.start(std::slice::from_ref(text)).unwrap();
        for &token in &best.tokens {
            sum += log_softmax(logits.data())[token as usize];
            logits = network.step(&[token]).unwrap();
        }
        assert!((sum - best.log_probability).abs() < 1e-3, "{sum}, {best:?}");
    }
    assert!(network.beam(texts, &Beam { width: 0, ..some }).is_err());
}

/// Reading texts is one submission; a greedy search then asks for eight tokens at once, and draws and beams for one. Steps are
/// recorded once: what goes again has the dispatches of the first time.
#[test]
fn tokens_are_few_submissions() {
    let folder = &folders()[1];
    let model = CausalModel::from_folder(folder).unwrap();
    let own = Gpu::open(&Open::default()).unwrap();
    let mut network = model.network(Run::new(&own)).unwrap();
    let texts = [vec![1, 2, 3], vec![4]];
    let mut counted = |what: &str, submits: u64, work: &mut dyn FnMut(&mut CausalNetwork<'_, Run<'_>>)| {
        let before = own.counts();
        work(&mut network);
        let after = own.counts();
        assert_eq!(after.submits - before.submits, submits, "{what}");
        assert_eq!(after.downloads - before.downloads, submits, "{what}");
        after.dispatches - before.dispatches
    };
    let greedy = |most| Generation { most, sampling: Sampling::Greedy, end: None };
    // Two gated layers with rotary positions: eleven dispatches each, embedding, last norm, logits, largest.
    let reading = counted("reading", 1, &mut |network| drop(network.generate(&texts, &greedy(1)).unwrap()));
    let step = counted("one more", 2, &mut |network| drop(network.generate(&texts, &greedy(2)).unwrap())) - reading;
    assert_eq!(step, 2 * 11 + 4);
    let more = counted("eight more", 2, &mut |network| drop(network.generate(&texts, &greedy(9)).unwrap())) - reading;
    assert_eq!(more, 8 * step);
    let again = counted("again", 4, &mut |network| drop(network.generate(&texts, &greedy(25)).unwrap())) - reading;
    assert_eq!(again, 24 * step);
    let drawn = Generation { most: 5, sampling: Sampling::TopK { k: 3, temperature: 1.0, seed: 7 }, end: None };
    counted("draws", 5, &mut |network| drop(network.generate(&texts, &drawn).unwrap()));
    let beam = Beam { width: 3, most: 5, end: None, length_exponent: 0.0 };
    counted("beams", 5, &mut |network| drop(network.beam(&texts, &beam).unwrap()));
}

/// A text that outgrows its cache goes on in a larger one.
#[test]
fn a_cache_grows_with_its_texts() {
    for folder in folders() {
        let model = CausalModel::from_folder(&folder).unwrap();
        let expected = Expected::of(&folder);
        let text: Vec<u32> =
            expected.prompts[0].iter().chain(expected.continuation(0)).copied().cycle().take(50).collect();
        let mut cpu = model.network(Cpu::new()).unwrap();
        let whole = cpu.start(std::slice::from_ref(&text)).unwrap();
        let mut gpu = model.network(Run::new(gpu())).unwrap();
        let (mut of_cpu, mut of_gpu) =
            (cpu.start(&[text[..1].to_vec()]).unwrap(), gpu.start(&[text[..1].to_vec()]).unwrap());
        for &token in &text[1..] {
            (of_cpu, of_gpu) = (cpu.step(&[token]).unwrap(), gpu.step(&[token]).unwrap());
        }
        near(of_cpu.data(), whole.data(), 1e-5, "CPU");
        near(of_gpu.data(), whole.data(), 1e-5, "GPU");
    }
}

#[test]
fn what_cannot_go_on_is_refused() {
    let model = CausalModel::from_folder(&folders()[0]).unwrap();
    let mut network = model.network(Cpu::new()).unwrap();
    let told = |error: regard::Error, wanted: &str| assert!(error.to_string().contains(wanted), "{error}");
    told(network.step(&[1]).unwrap_err(), "`start` comes first");
    told(network.start(&[]).unwrap_err(), "texts");
    told(network.start(&[vec![1], vec![]]).unwrap_err(), "text 1");
    told(network.start(&[vec![1; model.positions() + 1]]).unwrap_err(), "at most");
    told(network.start(&[vec![model.words() as u32]]).unwrap_err(), "below");
    network.start(&[vec![1], vec![2, 3]]).unwrap();
    told(network.step(&[1]).unwrap_err(), "texts");
    for (k, temperature, wanted) in [(0, 1.0, "`k`"), (3, 0.0, "`temperature`"), (3, f32::NAN, "`temperature`")] {
        let sampling = Sampling::TopK { k, temperature, seed: 1 };
        let options = Generation { most: 1, sampling, end: None };
        told(network.generate(&[vec![1]], &options).unwrap_err(), wanted);
    }
}
