//! Any bytes as a tensor file, a card, a score function: an error or an answer that keeps its word, never a panic.

use regard::attention::ScoreMod;
use regard::seq2seq::card::Card;
use regard::seq2seq::{Model, SourceText};
use regard::store::Store;
use regard::tensor::DType;
use regard::wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use regard::wgsl::{CustomKernel, Kernel, ParamsSpace, Variant};
use serde_json::Value;

/// A tensor file; whether it is one.
pub(crate) fn store(data: &[u8]) -> bool {
    let store = match Store::from_bytes("any", data) {
        Ok(store) => store,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    let names: Vec<&str> = store.names().collect();
    assert!(store.get("no such tensor of this name").is_err() || names.contains(&"no such tensor of this name"));
    for name in names {
        let shape = store.shape(name).unwrap();
        assert!(store.contains(name) && store.dtype(name).is_some());
        match (store.kind(name), store.get(name)) {
            (Some(_), Ok(array)) => assert_eq!(array.shape(), shape),
            (None, Err(error)) => assert!(error.is_request()),
            (kind, read) => panic!("{kind:?}, {}", read.is_ok()),
        }
        if let Ok(array) = store.get_u32(name) {
            assert_eq!(array.shape(), shape);
        }
    }
    true
}

/// Every place in a JSON document.
fn places(value: &mut Value) -> Vec<&mut Value> {
    let is_leaf = match &*value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => true,
    };
    if is_leaf {
        return vec![value];
    }
    match value {
        Value::Array(items) => items.iter_mut().flat_map(places).collect(),
        Value::Object(fields) => fields.values_mut().flat_map(places).collect(),
        _ => Vec::new(),
    }
}

/// A card, as text, or, after a byte of 1, one of the two that are built in with some leaves replaced; whether a model
/// comes of it.
pub(crate) fn card(data: &[u8], weights: &[u8], cards: &[&str]) -> bool {
    let text = match data {
        [1, which, edits @ ..] => {
            let mut card: Value = serde_json::from_str(cards[usize::from(*which) % cards.len()]).unwrap();
            for edit in edits.chunks(6).take(20) {
                let mut number = [0; 8];
                number[..edit.len()].copy_from_slice(edit);
                let number = u64::from_le_bytes(number);
                let mut places = places(&mut card);
                let at = (number >> 8) as usize % places.len();
                *places[at] = match number as u8 % 12 {
                    0 => Value::Null,
                    1 => Value::Bool(true),
                    2 => Value::from(0),
                    3 => Value::from(-1),
                    4 => Value::from(u64::MAX),
                    5 => Value::from(number >> 24),
                    6 => Value::from((number >> 24) % 100),
                    7 => Value::from(1e300),
                    8 => Value::from(""),
                    9 => Value::from("\u{0}{text}\u{301}"),
                    10 => Value::Array(vec![Value::Null; (number >> 24) as usize % 100]),
                    _ => Value::Object(serde_json::Map::new()),
                };
            }
            card.to_string()
        }
        data => String::from_utf8_lossy(data).into_owned(),
    };
    if let Err(error) = Card::parse("any", &text) {
        assert!(error.is_request() && !error.to_string().is_empty());
        return false;
    }
    let Ok(model) = Model::from_bytes(&text, weights) else { return false };
    for text in ["", "abc", "srolanh", "محمد", "\u{0}\u{301}\u{10ffff} \n"] {
        if let Ok(read) = model.read(&SourceText { text: text.to_owned(), options: Default::default() }) {
            assert!(read.sources.iter().all(|source| !source.ids.is_empty()));
        }
    }
    true
}

/// A score function; whether it is taken, and if so every kernel that takes it compiles with it.
pub(crate) fn score_mod(text: &str) -> bool {
    let score_mod = ScoreMod::new(text, None);
    let (checked, excerpt) = (score_mod.check(), score_mod.excerpt());
    // No entry point of a user's own is in it, or it is no score function.
    assert!(checked.is_err() || CustomKernel::new("any", text).is_err(), "{text}");
    assert!(excerpt.is_none() || checked.is_err(), "{text}");
    // A line of the source, and marks.
    assert!(excerpt.is_none_or(|excerpt| excerpt.lines().count() == 2 && excerpt.ends_with('^')), "{text}");
    if let Err(error) = checked {
        let text = error.to_string();
        assert!(text.starts_with("option `score_mod`: ") && !text.contains('\n'), "{text}");
        return false;
    }
    for kernel in regard::kernels::ALL.into_iter().filter(|kernel| kernel.takes_score_mod()) {
        compiles(kernel, text);
    }
    true
}

/// Asserts that a kernel with that score function parses and validates.
pub(crate) fn compiles(kernel: &'static Kernel, text: &str) {
    use regard::wgpu::naga;
    let aliases = ["elem", "k_elem", "v_elem", "out_elem"].map(|alias| (alias, DType::F32));
    let sizes = match kernel.name {
        "flash" => vec![("LANES_M", 16), ("LANES_N", 8), ("ROW_QUADS", 2), ("CHUNK", 8), ("VALUE_SLICES", 2)],
        _ => Vec::new(),
    };
    let variant = Variant { score_mod: Some(text.into()), sizes, ..Variant::new(kernel, aliases, []) };
    let source = variant.source(ParamsSpace::Uniform);
    let module = naga::front::wgsl::parse_str(&source)
        .unwrap_or_else(|error| panic!("{}: {}\n{text}", kernel.name, error.emit_to_string(&source)));
    let allowed = Capabilities::SHADER_FLOAT16 | Capabilities::SUBGROUP | Capabilities::COOPERATIVE_MATRIX;
    Validator::new(ValidationFlags::all(), allowed)
        .validate(&module)
        .unwrap_or_else(|error| panic!("{}: {}\n{text}", kernel.name, error.emit_to_string(&source)));
}
