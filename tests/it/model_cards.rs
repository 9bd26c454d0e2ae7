//! Model cards that lack a field, contradict themselves or contradict their tensors.

use std::fs;

use regard::Error;
use regard::seq2seq::card::{Lengths, Mask, Rule};
use regard::seq2seq::{Decoding, Model, transliterate};
use serde_json::{Value, json};

use crate::golden::cpu;
use crate::seq2seq::folder;

fn card(model: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder(model).join("model.json")).unwrap()).unwrap()
}

/// A model with one place of its card changed, or, without a value, removed.
fn changed(model: &str, pointer: &str, value: Option<Value>) -> Result<Model, Error> {
    let mut card = card(model);
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = card.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => Some(parent.remove(name).expect("nothing to remove")),
    };
    Model::from_bytes(&card.to_string(), &fs::read(folder(model).join("weights.safetensors")).unwrap())
}

/// Asserts that a change is refused at a field, for a reason that has these words.
fn refused(model: &str, pointer: &str, value: Option<Value>, field: &str, words: &str) {
    match changed(model, pointer, value.clone()) {
        Err(Error::Card { field: found, reason, .. }) => {
            assert_eq!(found, field, "{pointer} = {value:?}: {reason}");
            assert!(reason.words().contains(words), "{pointer} = {value:?}: `{reason}` lacks `{words}`");
        }
        other => {
            panic!("{pointer} = {value:?}: expected a card error, found {:?}", other.map(|m| m.card().name.clone()))
        }
    }
}

#[test]
fn explanations_in_the_card_do_not_matter() {
    for name in ["/task", "/step", "/quirks", "/schema", "/package", "/tensors"] {
        changed("khmer", name, None).unwrap();
    }
    let model = changed("khmer", "/encoder/rnn/lengths", Some(json!("respect (so that padding is skipped)"))).unwrap();
    assert_eq!(model.card().encoder.rnn.lengths, Lengths::Respect);
    let model = changed("khmer", "/decoding/rule", None).unwrap();
    assert_eq!((model.card().decoding.rule, model.card().attention.mask), (Rule::FixedWidth, Mask::None));
}

#[test]
fn missing_fields_are_named() {
    for (pointer, field) in [
        ("/name", "name"),
        ("/kind", "kind"),
        ("/source", "source"),
        ("/source/vocab", "source.vocab"),
        ("/source/build", "source.build"),
        ("/source/unknown", "source.unknown"),
        ("/target/end", "target.end"),
        ("/encoder/rnn/hidden", "encoder.rnn.hidden"),
        ("/encoder/embedding/weight", "encoder.embedding.weight"),
        ("/bridge/kind", "bridge.kind"),
        ("/attention/score", "attention.score"),
        ("/attention/when", "attention.when"),
        ("/attention/query", "attention.query"),
        ("/attention/query/source", "attention.query.source"),
        ("/attention/mask", "attention.mask"),
        ("/decoder/rnn/cell", "decoder.rnn.cell"),
        ("/output/weight", "output.weight"),
        ("/decoding/max_steps", "decoding.max_steps"),
        ("/weights/file", "weights.file"),
    ] {
        refused("khmer", pointer, None, field, "missing");
    }
    refused("khmer", "/attention/v", None, "attention.v", "missing");
    refused("khmer", "/output/input_parts", None, "output.input_parts", "missing");
    refused("khmer", "/decoder/rnn/input_parts", None, "decoder.rnn.input_parts", "missing");
    refused("khmer", "/encoder/projection/out", None, "encoder.projection.out", "missing");
    refused("arabic-names", "/bridge/weight", None, "bridge.weight", "missing");
}

#[test]
fn unknown_choices_are_named_with_those_there_are() {
    for (pointer, value, words) in [
        ("/kind", "rnn", "expected `seq2seq`"),
        ("/attention/score", "cosine", "expected one of `dot`, `general`, `additive`"),
        ("/attention/when", "never", "`before_rnn` or `after_rnn`"),
        ("/attention/mask", "causal", "`source_length` or `none`"),
        ("/attention/query/source", "encoder", "`previous_hidden`"),
        ("/encoder/rnn/cell", "sru", "`lstm`, `gru`, `rnn`"),
        ("/encoder/rnn/reset", "during", "`after` or `before`"),
        ("/encoder/rnn/lengths", "guess (at will)", "`respect` or `ignore`"),
        ("/encoder/rnn/activation", "step", "Sigmoid"),
        ("/decoder/rnn/state", "random", "`carried`"),
        ("/bridge/kind", "rope", "`mean_linear`"),
        ("/source/too_long", "fold", "`keep_first`"),
        ("/decoding/default", "sample", "`greedy` or `beam`"),
        ("/decoding/rule", "any", "`fixed_width` or `finished_list`"),
    ] {
        let field = pointer[1..].replace('/', ".");
        refused("khmer", pointer, Some(json!(value)), &field, words);
    }
    refused("khmer", "/encoder/rnn/hidden", Some(json!(-64)), "encoder.rnn.hidden", "-64");
    refused("khmer", "/encoder/rnn/hidden", Some(json!("64")), "encoder.rnn.hidden", "64");
    refused("khmer", "/source/prepare", Some(json!(["rot13"])), "source.prepare[0]", "`nfkc`");
    refused("khmer", "/source/prepare", Some(json!([{"drop": ["z..a"]}])), "source.prepare[0].drop[0]", "z..a");
    refused(
        "khmer",
        "/source/prepare",
        Some(json!([{"split_words": {"after": []}}])),
        "source.prepare[0].split_words.after",
        "`with_next`",
    );
    refused("khmer", "/source/reads", Some(json!(["z..a"])), "source.reads[0]", "z..a");
    refused(
        "arabic-names",
        "/source/options/role/several",
        Some(json!({"last": "<ROLE_UNCLE>", "others": "<ROLE_GIVEN>"})),
        "source.options.role.several",
        "`<ROLE_UNCLE>` is not in source.vocab",
    );
    refused("khmer", "/source/prepare", Some(json!([{"drop": ["U+D800"]}])), "source.prepare[0].drop[0]", "U+D800");
}

#[test]
fn cards_that_contradict_themselves_are_refused() {
    for (model, pointer, value, field, words) in [
        ("khmer", "/encoder/rnn/input", json!(33), "encoder.rnn.input", "expected 32"),
        ("khmer", "/encoder/embedding/size", json!(29), "encoder.embedding.size", "expected 28"),
        ("khmer", "/decoder/embedding/size", json!(80), "decoder.embedding.size", "expected 81"),
        ("khmer", "/encoder/projection/in", json!(64), "encoder.projection.in", "expected 128"),
        ("khmer", "/output/in", json!(64), "output.in", "expected 128"),
        ("khmer", "/output/out", json!(80), "output.out", "expected 81"),
        ("khmer", "/output/input_parts", json!(["combined"]), "output.input_parts", "`combined` is not known yet"),
        (
            "khmer",
            "/decoder/rnn/input_parts",
            json!(["context"]),
            "decoder.rnn.input_parts",
            "`context` is not known yet",
        ),
        (
            "khmer",
            "/attention/when",
            json!("before_rnn"),
            "attention.query.source",
            "`decoder_output` is not known yet",
        ),
        ("khmer", "/decoder/rnn/bidirectional", json!(true), "decoder.rnn.bidirectional", "forward"),
        ("khmer", "/decoder/rnn/input", json!(64), "decoder.rnn.input", "expected 32"),
        ("khmer", "/encoder/rnn/gates", json!(["z", "r", "n"]), "encoder.rnn.gates", "\"r\", \"z\", \"n\""),
        ("khmer", "/encoder/rnn/layers", json!(0), "encoder.rnn.layers", "1 to"),
        ("khmer", "/encoder/rnn/hidden", json!(u64::MAX), "encoder.rnn.hidden", "1 to"),
        ("khmer", "/bridge/kind", json!("final_state"), "bridge.kind", "one direction"),
        ("khmer", "/bridge/kind", json!("final_state_concat"), "decoder.rnn.hidden", "expected 128"),
        ("khmer", "/attention/score", json!("general"), "attention.query.projection", "or as attention.key.projection"),
        ("khmer", "/attention/score", json!("dot"), "attention.v", "only `additive`"),
        ("khmer", "/source/pad_to", json!(1u64 << 40), "source.pad_to", "found 1099511627776"),
        ("khmer", "/source/pad_to", json!(0), "source.pad_to", "found 0"),
        ("khmer", "/source/pad_id", json!(28), "source.pad_id", "0 to 27"),
        ("khmer", "/source/unknown", json!("<nope>"), "source.unknown", "`<nope>`"),
        ("khmer", "/source/build", json!([]), "source.build", "{text}"),
        ("khmer", "/source/build", json!(["{text}", "{country}"]), "source.build", "{country}"),
        ("khmer", "/source/vocab", json!(["a", "b", "a"]), "source.vocab", "`a` stands twice"),
        ("khmer", "/target/start", json!("<s>"), "target.start", "`<s>`"),
        ("khmer", "/decoding/always_forbidden", json!(["<s>"]), "decoding.always_forbidden", "`<s>`"),
        ("khmer", "/decoding/max_steps", json!(0), "decoding.max_steps", "1 to"),
        ("khmer", "/decoding/beam_width", json!(0), "decoding.beam_width", "1 to"),
        ("arabic-names", "/bridge/kind", json!("final_state"), "bridge.kind", "one direction"),
        ("arabic-names", "/decoder/rnn/cell", json!("lstm"), "decoder.rnn.gates", "\"i\""),
        ("arabic-names", "/attention/query/projection", json!(null), "attention.query.projection", "missing"),
    ] {
        refused(model, pointer, Some(value), field, words);
    }
}

#[test]
fn cards_that_contradict_their_tensors_are_refused() {
    for (model, pointer, value, field, words) in [
        (
            "khmer",
            "/encoder/embedding/weight",
            json!("nope"),
            "encoder.embedding",
            "`nope` is not in weights.safetensors",
        ),
        (
            "khmer",
            "/encoder/rnn/prefix",
            json!("decoder.rnn"),
            "encoder.rnn",
            "`decoder.rnn.weight_ih_l0_reverse` is not in",
        ),
        ("khmer", "/output/bias", json!("attention.v"), "output", "`attention.v`: expected [81], found [64]"),
        ("khmer", "/attention/v", json!("output.bias"), "attention.v", "`output.bias`: expected [64], found [81]"),
        ("khmer", "/attention/query/source", json!("token_embedding"), "attention.query.source", "expected 64"),
        ("arabic-names", "/decoder/rnn/layers", json!(3), "decoder.rnn", "`decoder.rnn.weight_ih_l2` is not in"),
        (
            "arabic-names",
            "/encoder/rnn/layers",
            json!(1),
            "tensors",
            "`encoder.rnn.bias_hh_l1` is listed, but no layer",
        ),
        ("arabic-names", "/bridge/kind", json!("zeros"), "tensors", "`bridge.bias` is listed, but no layer"),
        ("arabic-names", "/attention/combine", json!(null), "output.input_parts", "`combined` is not known"),
        ("arabic-names", "/weights/sha256", json!("00"), "weights.sha256", "expected 00"),
        (
            "khmer",
            "/tensors/attention.v/shape",
            json!([64, 1]),
            "tensors",
            "`attention.v`: expected [64, 1], found [64]",
        ),
    ] {
        refused(model, pointer, Some(value), field, words);
    }
    // Widths that agree with each other, but not with the tensors.
    let mut wrong = card("khmer");
    wrong["decoder"]["rnn"]["hidden"] = json!(63);
    wrong["output"]["in"] = json!(127);
    let weights = fs::read(folder("khmer").join("weights.safetensors")).unwrap();
    let Err(Error::Card { field, reason, .. }) = Model::from_bytes(&wrong.to_string(), &weights) else { panic!() };
    let wanted = "`decoder.rnn.weight_ih_l0`: expected [189, 32], found [192, 32]";
    assert_eq!((field.as_str(), reason.words()), ("decoder.rnn", wanted));
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let mut card = card("khmer");
    card["weights"].as_object_mut().unwrap().remove("sha256");
    let mut weights = fs::read(folder("khmer").join("weights.safetensors")).unwrap();
    let last = weights.len() - 4;
    weights[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    let Err(Error::Card { field, reason, .. }) = Model::from_bytes(&card.to_string(), &weights) else { panic!() };
    assert!(field == "output" && reason.words().ends_with("is NaN"), "{field}: {reason}");
}

#[test]
fn folders_that_are_no_models_are_refused() {
    let weights = fs::read(folder("khmer").join("weights.safetensors")).unwrap();
    let place = tempfile::tempdir().unwrap();
    let (model, tensors) = (place.path().join("model.json"), place.path().join("weights.safetensors"));
    let load = || Model::from_folder(place.path()).map(|m| m.card().name.clone());
    let file_error = |at: &std::path::Path| assert!(matches!(load(), Err(Error::File { path, .. }) if path == at));

    file_error(&model);
    fs::write(&model, card("khmer").to_string()).unwrap();
    file_error(&tensors);
    fs::write(&tensors, &weights[..weights.len() - 1]).unwrap();
    file_error(&tensors);
    fs::write(&tensors, &weights).unwrap();
    assert_eq!(load().unwrap(), "khmer");

    fs::write(&model, [0xff, 0xfe]).unwrap();
    file_error(&model);
    for json in ["", "{", "[]", "null", "{} {}"] {
        fs::write(&model, json).unwrap();
        assert!(matches!(load(), Err(Error::Card { .. })), "{json}");
    }
    fs::write(&model, card("khmer").to_string() + "x").unwrap();
    assert!(matches!(load(), Err(Error::Card { .. })));
    for outside in ["/etc/passwd", "../weights.safetensors", "sub/weights.safetensors", "", ".."] {
        let mut card = card("khmer");
        card["weights"]["file"] = json!(outside);
        fs::write(&model, card.to_string()).unwrap();
        assert!(matches!(load(), Err(Error::Card { field, .. }) if field == "weights.file"), "{outside}");
    }
}

/// Every pointer in a card to something that is no object, of long lists the first two entries alone.
fn leaves(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(name, value)| leaves(value, format!("{at}/{name}"), out)),
        Value::Array(list) => {
            out.push(at.clone());
            list.iter().take(2).enumerate().for_each(|(k, value)| leaves(value, format!("{at}/{k}"), out));
        }
        _ => out.push(at),
    }
}

#[test]
fn no_value_in_a_card_makes_it_panic() {
    let mut whole = card("khmer");
    whole["weights"].as_object_mut().unwrap().remove("sha256");
    for explanation in ["tensors", "package", "step", "quirks", "task", "schema"] {
        whole.as_object_mut().unwrap().remove(explanation);
    }
    let weights = fs::read(folder("khmer").join("weights.safetensors")).unwrap();
    let mut pointers = Vec::new();
    leaves(&whole, String::new(), &mut pointers);
    assert!(pointers.len() > 70, "{}", pointers.len());
    let odd = json!([
        null,
        true,
        -1,
        0,
        1,
        2,
        31,
        1u64 << 40,
        u64::MAX,
        1e308,
        -0.5,
        "",
        "\n",
        "a",
        "U+",
        "..",
        [],
        [[]],
        ["context"],
        {}
    ]);
    let (mut loaded, mut refused) = (0, 0);
    for pointer in pointers {
        for value in odd.as_array().unwrap() {
            let mut card = whole.clone();
            *card.pointer_mut(&pointer).unwrap() = value.clone();
            let Ok(model) = Model::from_bytes(&card.to_string(), &weights) else {
                refused += 1;
                continue;
            };
            loaded += 1;
            let decoding = Decoding { beam: 2, top: 2, weights: true, ..Decoding::default() };
            let _ = transliterate(&model, &mut *cpu(&model), &["Khae".into()], &decoding);
        }
    }
    assert!(loaded > 100 && refused > 1000, "{loaded} {refused}");
}
