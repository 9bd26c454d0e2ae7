//! Models against what their original runtimes answered, batches, texts that are odd.

use std::path::PathBuf;

use crate::gpu::some;

use regard::Error;
use regard::seq2seq::{Decoding, Model, Network, SourceText, Transliteration, transliterate};

use crate::golden::{Device, agreement, cases, cpu, reference, source};

pub(crate) fn folder(model: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models").join(model)
}

fn model(name: &str) -> Model {
    Model::from_folder(&folder(name)).unwrap()
}

fn run(model: &Model, texts: &[SourceText], decoding: &Decoding, device: Device) -> Vec<Transliteration> {
    transliterate(model, &mut *device(model), texts, decoding).unwrap()
}

/// The GPU that all tests share.
pub(crate) fn on_gpu(model: &Model) -> Box<dyn Network + '_> {
    Box::new(model.network(regard::gpu::Run::new(crate::gpu::gpu())).unwrap())
}

fn one(model: &Model, text: &str) -> Transliteration {
    run(model, &[text.into()], &Decoding::default(), cpu).remove(0)
}

/// Every golden answer of a model, in batches of mixed lengths: all source ids, the share of texts given, scores
/// within 1e-3, attention weights within 2e-3.
fn golden_answers(name: &str, searches: &[(&str, usize)], share: f64, device: Device) {
    let (model, all) = (model(name), cases(&folder(name)));
    for &(key, beam) in searches {
        let found = agreement(&model, &all, key, beam, device);
        println!("{name} {key}: {found:?}");
        assert_eq!((found.cases, found.ids), (all.len(), all.len()), "{name} {key}: {found:?}");
        assert!(found.equal as f64 >= share * found.cases as f64, "{name} {key}: {found:?}");
        assert!(found.score < 1e-3, "{name} {key}: {found:?}");
        assert!(found.weight < 2e-3, "{name} {key}: {found:?}");
        let matrices = all.iter().filter(|c| beam == 1 && !c["attention"].is_null()).count();
        assert_eq!(found.matrices, matrices);
    }
}

/// arabic-names: 336 names and name-country-role triples.
fn arabic_names(device: Device) {
    golden_answers("arabic-names", &[("greedy", 1), ("beam2", 2)], 0.995, device);
}

/// khmer: 100 words.
fn khmer(device: Device) {
    golden_answers("khmer", &[("greedy", 1), ("beam3", 3)], 1.0, device);
}

/// Each text alone, all in one batch and in batches of 3: the same texts, scores and weights to rounding.
fn batch_mates_do_not_matter(device: Device) {
    let names = ["من", "عبد الرحمن", "القحطاني", "د", "محمد", "عبد الفضيل بن عليه الدين", "فارس"];
    let words = ["a", "sihanoukville", "khmer", "phnompenhcity", "tro"];
    let mut hinted = SourceText::from("شريف");
    hinted.options.insert("country".to_owned(), "DZ".to_owned());
    let names: Vec<SourceText> = names.into_iter().map(SourceText::from).chain([hinted]).collect();
    let words: Vec<SourceText> = words.into_iter().map(SourceText::from).collect();
    for (model, texts) in [(model("arabic-names"), names), (model("khmer"), words)] {
        for beam in some([3, 1], 2) {
            let decoding = Decoding { beam, top: beam, weights: true, ..Decoding::default() };
            let alone: Vec<_> =
                texts.iter().flat_map(|t| run(&model, std::slice::from_ref(t), &decoding, device)).collect();
            for batch in [3, 64] {
                let together = run(&model, &texts, &Decoding { batch, ..decoding }, device);
                for (a, b) in alone.iter().zip(&together) {
                    assert_eq!(a.output, b.output);
                    assert_eq!(a.candidates.len(), b.candidates.len());
                    for (a, b) in a.candidates.iter().zip(&b.candidates) {
                        assert_eq!(a.text, b.text);
                        assert!((a.score - b.score).abs() <= 1e-5, "{a:?} {b:?}");
                    }
                    assert_eq!((&a.source_labels, &a.target_labels), (&b.source_labels, &b.target_labels));
                    let (a, b) = (a.weights.as_ref().unwrap(), b.weights.as_ref().unwrap());
                    assert_eq!(a.shape(), b.shape());
                    assert!(a.data().iter().zip(b.data()).all(|(a, b)| (a - b).abs() <= 1e-5));
                }
            }
        }
    }
}

#[test]
fn arabic_names_on_the_cpu() {
    arabic_names(cpu);
}

#[test]
fn arabic_names_by_the_reference() {
    arabic_names(reference);
}

#[test]
fn khmer_on_the_cpu() {
    khmer(cpu);
}

#[test]
fn khmer_by_the_reference() {
    khmer(reference);
}

#[test]
fn batch_mates_do_not_matter_on_the_cpu() {
    batch_mates_do_not_matter(cpu);
}

#[test]
fn arabic_names_on_the_gpu() {
    arabic_names(on_gpu);
}

#[test]
fn khmer_on_the_gpu() {
    khmer(on_gpu);
}

#[test]
fn batch_mates_do_not_matter_on_the_gpu() {
    batch_mates_do_not_matter(on_gpu);
}

#[test]
fn the_comparison_with_golden_answers_can_fail() {
    let (model, mut some) = (model("khmer"), cases(&folder("khmer")));
    some.retain(|case| !case["attention"].is_null());
    some.truncate(3);
    some[0]["greedy"]["text"] = "ក".into();
    some[1]["greedy"]["score"] = 0.0.into();
    some[2]["ids"][0] = 9.into();
    some[2]["attention"][0][0] = 5.0.into();
    let found = agreement(&model, &some, "greedy", 1, cpu);
    assert_eq!((found.cases, found.ids, found.equal), (3, 2, 2));
    assert!(found.score > 0.1 && found.weight > 1.0, "{found:?}");
}

#[test]
fn names_as_they_are_typed() {
    let model = model("arabic-names");
    let expected = [
        ("محمد", "Mohamed"),
        ("عبد الرحمن", "Abderrahmane"),
        ("القحطاني", "Al-Qahtani"),
        // vowel marks, tatweel, an invisible mark, spaces at the ends and inside
        ("  مُحَمَّد ", "Mohamed"),
        ("محـــمد\u{200f}", "Mohamed"),
        ("عبد   الرحمن", "Abderrahmane"),
        ("عبد-الرحمن.", "Abderrahmane"),
        // presentation forms
        ("ﻣﺤﻤﺪ", "Mohamed"),
    ];
    for (name, wanted) in expected {
        let found = one(&model, name);
        assert_eq!(found.output, wanted, "{name}");
        assert_eq!(found.warnings, Vec::<String>::new(), "{name}");
        assert_eq!(found.input, name);
    }
    // Persian letters are read as their Arabic counterparts
    assert_eq!(one(&model, "کریم").candidates, one(&model, "كريم").candidates);
}

#[test]
fn candidates_are_distinct_and_sorted_and_the_first_is_the_answer() {
    let model = model("arabic-names");
    let texts: Vec<SourceText> = ["محمد", "جاده"].map(SourceText::from).to_vec();
    let decoding = Decoding { beam: 8, top: 5, weights: true, ..Decoding::default() };
    for found in run(&model, &texts, &decoding, cpu) {
        assert_eq!(found.candidates.len(), 5);
        assert_eq!((&found.output, found.score), (&found.candidates[0].text, found.candidates[0].score));
        assert!(found.candidates.windows(2).all(|pair| pair[0].score >= pair[1].score));
        let mut texts: Vec<_> = found.candidates.iter().map(|c| &c.text).collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 5);
        // the weights are those of the answer, letter by letter: each row sums to 1
        assert_eq!(found.target_labels.last().unwrap(), "<end>");
        assert_eq!(found.target_labels[..found.target_labels.len() - 1].concat(), found.output);
        let weights = found.weights.unwrap();
        assert_eq!(weights.shape(), [found.target_labels.len(), found.source_labels.len()]);
        for row in weights.data().chunks_exact(found.source_labels.len()) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-4);
        }
    }
}

#[test]
fn symbols_outside_the_vocabulary_are_named() {
    let arabic = model("arabic-names");
    // What is not Arabic is left out, though the vocabulary, which is the Latin side's too, has some of it.
    let found = one(&arabic, "م\u{1f600}ح1مJohnد\u{1f600}");
    assert_eq!(
        found.warnings,
        ["`\u{1f600}` (U+1F600), `1` (U+0031), `J` (U+004A), `o` (U+006F), `h` (U+0068), `n` (U+006E) are not among \
          the model's symbols: skipped"]
    );
    assert_eq!((&found.output, &found.source_labels), (&"Mohamed".to_owned(), &one(&arabic, "محمد").source_labels));
    // A letter that the model's authors had no token for is read as theirs.
    let found = one(&arabic, "پرويز");
    assert_eq!(found.warnings, ["`پ` (U+067E) is not among the model's symbols: read as `<UNK>`"]);
    assert_eq!(found.source_labels[2], "<UNK>");
    assert!(!found.output.is_empty());
    // Many are counted.
    let found = one(&arabic, "محمد abcdefghijklmnopqrstuvwxyz");
    assert_eq!(found.output, "Mohamed");
    assert!(found.warnings[0].contains("`h` (U+0068) and 18 more are not among"), "{:?}", found.warnings);

    let khmer = model("khmer");
    let found = one(&khmer, "Khmer2 2!");
    assert_eq!(found.output, one(&khmer, "khmer").output);
    assert_eq!(found.warnings, ["`2` (U+0032), `!` (U+0021) are not among the model's symbols: skipped"]);
    assert_eq!(found.source_labels.len(), 25);
    assert_eq!(found.source_labels[..6], ["k", "h", "m", "e", "r", ""]);
}

#[test]
fn texts_of_nothing_give_nothing() {
    let nothing = "nothing in it that the model reads";
    let (khmer, arabic) = (model("khmer"), model("arabic-names"));
    let texts: Vec<SourceText> = ["", "  ", "123", "ខ្មែរ", "\0\0", "tro"].map(SourceText::from).to_vec();
    let found = run(&khmer, &texts, &Decoding { weights: true, ..Decoding::default() }, cpu);
    for found in &found[..5] {
        assert_eq!((found.output.as_str(), found.candidates.len(), &found.weights), ("", 0, &None));
        assert_eq!(found.warnings.last().unwrap(), nothing);
    }
    assert_eq!(found[4].warnings[0], "`\\0` (U+0000) is not among the model's symbols: skipped");
    assert_eq!(found[5].output, "ត្រុ");
    assert!(run(&khmer, &[], &Decoding::default(), cpu).is_empty());
    // Not even the token for unknown letters makes a name of nothing.
    for text in ["John Smith", "123", "١٢٣", "\u{1f600}", "हिन्दी", "пушкин", "پ", "ِِ", "-.,!", "\u{202b}\u{202c}"]
    {
        let found = one(&arabic, text);
        assert_eq!((found.output.as_str(), found.candidates.len()), ("", 0), "{text}");
        assert_eq!(found.warnings.last().unwrap(), nothing, "{text}");
    }
    // Beside a name that it reads, what it cannot read is named.
    let found = one(&arabic, "محمد Smith پ");
    assert_eq!((found.output.as_str(), found.warnings.len()), ("Mohamed", 1));
    assert!(found.warnings[0].contains("`پ` (U+067E)"), "{:?}", found.warnings);
}

/// Marks of direction and the byte order mark change no answer of any model.
#[test]
fn marks_of_direction_count_for_nothing() {
    let marks =
        "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}\u{feff}";
    for (name, text) in [("arabic-names", "محمد أحمد"), ("khmer", "srolanh bay")] {
        let model = model(name);
        let plain = one(&model, text);
        assert!(plain.warnings.is_empty() && !plain.output.is_empty());
        for mark in marks.chars() {
            let marked: String = text.chars().flat_map(|c| [mark, c, mark]).collect();
            let found = one(&model, &marked);
            assert_eq!(found, Transliteration { input: marked.clone(), ..plain.clone() }, "U+{:04X}", mark as u32);
        }
    }
}

/// A text of several names is answered name by name, as the model's authors do it.
#[test]
fn names_are_split_and_words_that_belong_together_are_not() {
    let arabic = model("arabic-names");
    let read = |text: &str| -> Vec<String> {
        let read = arabic.read(&text.into()).unwrap();
        assert!(read.warnings.is_empty(), "{text}: {:?}", read.warnings);
        read.sources.iter().map(|s| s.labels[2..s.real - 1].concat()).collect()
    };
    for (text, parts) in [
        ("محمد أحمد", vec!["محمد", "أحمد"]),
        ("محمد  أحمد-علي،حسن", vec!["محمد", "أحمد", "علي", "حسن"]),
        ("عبد الرحمن محمد", vec!["عبد الرحمن", "محمد"]),
        ("عبدالرحمن محمد", vec!["عبد الرحمن", "محمد"]),
        ("عبدالا", vec!["عبدالا"]),
        ("خالد بن عبد العزيز آل سعود", vec!["خالد", "بن عبد العزيز", "آل سعود"]),
        ("سيف الدين جار الله", vec!["سيف الدين", "جار الله"]),
        ("الله", vec!["الله"]),
        ("محمد بن", vec!["محمد", "بن"]),
    ] {
        assert_eq!(read(text), parts, "{text}");
    }
    let both = one(&arabic, "محمد أحمد");
    assert_eq!(both.output, "Mohamed Ahmed");
    // Each part has the role of its place, unless the caller gives one for all.
    let roles = |text: &SourceText| -> Vec<String> {
        arabic.read(text).unwrap().sources.iter().map(|s| s.labels[1].clone()).collect()
    };
    let mut text = SourceText::from("محمد علي أحمد");
    assert_eq!(roles(&text), ["<ROLE_GIVEN>", "<ROLE_GIVEN>", "<ROLE_SURNAME>"]);
    assert_eq!(roles(&"محمد".into()), ["<ROLE_UNKNOWN>"]);
    assert_eq!(roles(&"محمد Smith".into()), ["<ROLE_UNKNOWN>"]);
    text.options.insert("role".to_owned(), "given".to_owned());
    assert_eq!(roles(&text), ["<ROLE_GIVEN>"; 3]);
    assert_eq!(both.candidates[0].text, "Mohamed Ahmed");

    let khmer = model("khmer");
    let [both, first, second] = ["srolanh bay", "srolanh", "bay"].map(|text| one(&khmer, text).output);
    assert_eq!(both, format!("{first} {second}"));
}

#[test]
fn long_texts_are_cut_as_the_card_says_or_refused() {
    let (arabic, khmer) = (model("arabic-names"), model("khmer"));
    // 40 ids less country, role and end
    let found = one(&arabic, &"م".repeat(50));
    assert_eq!(found.warnings, ["50 characters, the model reads 37: only the first 37 are read"]);
    assert_eq!((found.source_labels.len(), found.source_labels.last().unwrap().as_str()), (40, "<EOS>"));
    let (long, short) = (one(&khmer, "zzzzzphnompenhphnompenhphnom"), one(&khmer, "zzphnompenhphnompenhphnom"));
    assert_eq!(long.warnings, ["28 characters, the model reads 25: only the last 25 are read"]);
    assert_eq!(long.candidates, short.candidates);
    // word by word
    let found = one(&arabic, &format!("محمد {}", "م".repeat(50)));
    assert!(found.output.starts_with("Mohamed ") && found.warnings.len() == 1, "{found:?}");
    let error = arabic.read(&"م".repeat(70_000).into()).unwrap_err();
    assert!(matches!(&error, Error::Text { text, .. } if text.chars().count() == 41), "{error}");
}

#[test]
fn options_choose_tokens() {
    let arabic = model("arabic-names");
    let mut text = SourceText::from("شريف");
    text.options.insert("country".to_owned(), "dz".to_owned());
    text.options.insert("role".to_owned(), "surname".to_owned());
    let read = arabic.read(&text).unwrap();
    assert_eq!(read.sources[0].labels[..3], ["<DZ>", "<ROLE_SURNAME>", "ش"]);
    assert!(read.warnings.is_empty());

    text.options.insert("country".to_owned(), "FR".to_owned());
    text.options.insert("role".to_owned(), "uncle".to_owned());
    let read = arabic.read(&text).unwrap();
    assert_eq!(read.sources[0].labels[..2], ["<UNK>", "<ROLE_UNKNOWN>"]);
    assert_eq!(read.warnings.len(), 2, "{:?}", read.warnings);
    assert!(read.warnings[0].contains("<FR>") && read.warnings[1].contains("`uncle`"), "{:?}", read.warnings);

    let error = model("khmer").read(&text).unwrap_err();
    assert!(matches!(&error, Error::Option { option, .. } if option == "country"), "{error}");
}

#[test]
fn searches_that_cannot_be_are_refused() {
    let khmer = model("khmer");
    let right = Decoding::default();
    for (wrong, name) in [
        (Decoding { beam: 0, ..right }, "beam"),
        (Decoding { beam: 82, ..right }, "beam"),
        (Decoding { top: 0, ..right }, "top"),
        (Decoding { batch: 0, ..right }, "batch"),
    ] {
        let error = transliterate(&khmer, &mut *cpu(&khmer), &["tro".into()], &wrong).unwrap_err();
        assert!(matches!(&error, Error::Option { option, .. } if option == name), "{error}");
    }
    // as wide as the vocabulary is fine
    assert!(!run(&khmer, &["tro".into()], &Decoding { beam: 81, ..right }, cpu)[0].output.is_empty());
}

#[test]
fn a_network_that_has_not_started_says_so() {
    let khmer = model("khmer");
    let mut network = cpu(&khmer);
    let driver = network.driver();
    let refused = driver.wait(network.step(vec![0], vec![0], 1, false));
    assert!(matches!(refused, Err(Error::Missing { .. })));
}

#[cfg(feature = "cli")]
#[test]
fn built_in_models_are_those_in_the_folder() {
    for name in Model::BUILT_IN {
        let (built_in, folder) = (Model::built_in(name).unwrap(), model(name));
        assert_eq!(built_in.card(), folder.card());
        assert!(built_in == folder, "{name}: other weights");
        assert_eq!(built_in.card().name, name);
    }
    assert!(matches!(Model::built_in("klingon"), Err(Error::Option { .. })));
    let golden = cases(&folder("khmer"));
    assert_eq!(one(&Model::built_in("khmer").unwrap(), &source(&golden[0]).text).output, "ស្រឡាញ់");
}
