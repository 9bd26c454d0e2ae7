//! A text on its way to the vocabulary: the steps of the card, and the parts that it is split into.

use unicode_normalization::UnicodeNormalization;

use super::card::{Prepare, Words};

/// Characters that say how a text is laid out and not what it says: Unicode's `Bidi_Control`, and the byte order mark.
/// They count for nothing to any model.
fn is_layout(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The parts of a text, each of which is read by itself, after the steps of the card; none is empty.
pub(super) fn prepare(steps: &[Prepare], text: &str) -> Vec<String> {
    let mut text: String = text.chars().filter(|&c| !is_layout(c)).collect();
    let alone = Words::default();
    let mut words = None;
    for step in steps {
        text = match step {
            Prepare::Nfkc => text.nfkc().collect(),
            Prepare::Lowercase => text.to_lowercase(),
            Prepare::Drop(ranges) => text.chars().filter(|&c| !ranges.iter().any(|r| r.contains(c))).collect(),
            Prepare::Space(ranges) => {
                text.chars().map(|c| if ranges.iter().any(|r| r.contains(c)) { ' ' } else { c }).collect()
            }
            Prepare::Replace(map) => text.chars().fold(String::new(), |mut out, c| {
                match map.get(&c) {
                    Some(replacement) => out.push_str(replacement),
                    None => out.push(c),
                }
                out
            }),
            Prepare::CollapseSpaces => text.split_whitespace().collect::<Vec<_>>().join(" "),
            Prepare::SplitSpaces => {
                words = Some(&alone);
                text
            }
            Prepare::SplitWords(together) => {
                words = Some(together);
                text
            }
        };
    }
    match words {
        None if text.is_empty() => Vec::new(),
        None => vec![text],
        Some(together) => split(together, &text),
    }
}

/// Words, those that belong together in one string. Words that draw the next one may stand in a row.
fn split(together: &Words, text: &str) -> Vec<String> {
    let open = |word: &str| {
        let (start, place) = together
            .open
            .iter()
            .find(|(start, _)| word.strip_prefix(start.as_str()).is_some_and(|rest| rest.chars().nth(1).is_some()))?;
        Some(format!("{place}{}", &word[start.len()..]))
    };
    let opened = text.split_whitespace().map(|word| open(word).unwrap_or_else(|| word.to_owned()));
    let opened = opened.collect::<Vec<_>>().join(" ");
    let mut parts: Vec<String> = Vec::new();
    let mut draws = false;
    for word in opened.split_whitespace() {
        match parts.last_mut() {
            Some(part) if draws || together.with_previous.contains(word) => {
                part.push(' ');
                part.push_str(word);
            }
            _ => parts.push(word.to_owned()),
        }
        draws = together.with_next.contains(word);
    }
    parts
}
