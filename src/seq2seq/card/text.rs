//! The parts of a card about text: vocabularies, preparation, options.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// How text becomes source ids.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Source {
    /// Token by id; no token has an id whose entry is null.
    pub vocab: Vec<Option<String>>,
    /// What is done to the text before it is cut into tokens, in order.
    #[serde(default)]
    pub prepare: Vec<Prepare>,
    /// The parts of a source, in order.
    pub build: Vec<Part>,
    /// What the model reads: characters of no such range are skipped, be they in the vocabulary or not. All are read
    /// when it is left out.
    #[serde(default)]
    pub reads: Option<Vec<Range>>,
    /// Options that the build names.
    #[serde(default)]
    pub options: BTreeMap<String, SourceOption>,
    /// What becomes of a character that the model reads, and that has no token.
    pub unknown: Unknown,
    /// A fixed number of ids: shorter sources are filled up with `pad_id`, and the filling is part of the model.
    #[serde(default)]
    pub pad_to: Option<usize>,
    /// The id that fills up.
    #[serde(default)]
    pub pad_id: u32,
    /// Most ids of a source, where there is no `pad_to`.
    #[serde(default)]
    pub max_length: Option<usize>,
    /// What becomes of a text with more characters than that leaves room for.
    #[serde(default)]
    pub too_long: TooLong,
}

/// One step of the preparation of a text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prepare {
    /// Unicode normalisation form KC.
    Nfkc,
    /// Unicode lower case.
    Lowercase,
    /// Drops the characters of these ranges.
    Drop(Vec<Range>),
    /// Turns the characters of these ranges into spaces.
    Space(Vec<Range>),
    /// Replaces characters.
    Replace(BTreeMap<char, String>),
    /// One space for every run of white space, none at either end.
    CollapseSpaces,
    /// Each run of characters between spaces is a text of its own; the answers are joined by spaces.
    SplitSpaces,
    /// The same, except that some words are one text with a neighbour.
    SplitWords(Words),
}

/// Which words belong together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Words {
    /// How words begin that are written in one and are two: the beginning of a word at least two characters longer, and
    /// what is put in its place, a space in it.
    #[serde(default)]
    pub open: BTreeMap<String, String>,
    /// Words that are one text with the word after them.
    #[serde(default)]
    pub with_next: BTreeSet<String>,
    /// Words that are one text with the text before them.
    #[serde(default)]
    pub with_previous: BTreeSet<String>,
}

/// A range of characters: one (`,` or `U+002C`), or first and last (`U+064B..U+065F`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// First character.
    pub first: char,
    /// Last character.
    pub last: char,
}

impl Range {
    /// True when the character lies in the range.
    pub fn contains(self, c: char) -> bool {
        (self.first..=self.last).contains(&c)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn character(text: &str) -> Option<char> {
            let mut chars = text.chars();
            match (chars.next(), chars.next(), text.strip_prefix("U+")) {
                (Some(c), None, _) => Some(c),
                (_, _, Some(hex)) => char::from_u32(u32::from_str_radix(hex, 16).ok()?),
                _ => None,
            }
        }
        let text = String::deserialize(deserializer)?;
        let (first, last) = text.split_once("..").unwrap_or((&text, &text));
        match (character(first), character(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(D::Error::custom(format!("`{text}` is no range of characters such as `,` or `U+064B..U+065F`"))),
        }
    }
}

/// One part of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// The text, one token for each Unicode code point.
    Text,
    /// The token that an option gives.
    Option(String),
    /// This token.
    Token(String),
}

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.strip_prefix('{').and_then(|t| t.strip_suffix('}')) {
            Some("text") => Self::Text,
            Some(option) => Self::Option(option.to_owned()),
            None => Self::Token(text),
        })
    }
}

/// An option of a source: a value that the caller may give, as a token.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SourceOption {
    /// The token without a value.
    pub default: String,
    /// Token by value.
    #[serde(default)]
    pub map: BTreeMap<String, String>,
    /// The tokens without a value where the text is split into several.
    #[serde(default)]
    pub several: Option<Several>,
    /// The token of any other value: this, with `{}` replaced by the value in upper case.
    #[serde(default)]
    pub template: Option<String>,
}

/// The tokens of an option for the parts of a text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Several {
    /// Of the last part.
    pub last: String,
    /// Of each part before it.
    pub others: String,
}

/// What becomes of a character without a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    /// It is left out.
    Drop,
    /// The text is refused.
    Error,
    /// It is read as this token.
    Token(String),
}

impl<'de> Deserialize<'de> for Unknown {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(match text.as_str() {
            "drop" => Self::Drop,
            "error" => Self::Error,
            _ => Self::Token(text),
        })
    }
}

/// What becomes of a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// Its first characters are kept.
    #[default]
    KeepFirst,
    /// Its last characters are kept.
    KeepLast,
    /// It is refused.
    Error,
}

/// How target ids become text.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Target {
    /// Token by id; an id whose entry is null yields no text.
    pub vocab: Vec<Option<String>>,
    /// The token before the first.
    pub start: String,
    /// The token after the last.
    pub end: String,
    /// Tokens that yield no text.
    #[serde(default)]
    pub not_in_text: Vec<String>,
    /// White space at either end is dropped.
    #[serde(default)]
    pub strip: bool,
}
