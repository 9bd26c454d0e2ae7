//! Text to source ids and target ids to text, as the card says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use unicode_normalization::UnicodeNormalization;

use super::card::check::LONGEST;
use super::card::{Card, Part, Prepare, TooLong, Unknown};
use crate::error::{Error, Result};

/// A text to read, with values for the options of the model's source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceText {
    /// The text.
    pub text: String,
    /// Value by option name, such as `country` → `DZ`.
    pub options: BTreeMap<String, String>,
}

impl<T: Into<String>> From<T> for SourceText {
    fn from(text: T) -> Self {
        Self { text: text.into(), options: BTreeMap::new() }
    }
}

/// One source as the encoder reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Source ids, the padding of a model with `pad_to` included.
    pub ids: Vec<u32>,
    /// How many of them are not padding.
    pub real: usize,
    /// One label for each id: its token, or for padding nothing.
    pub labels: Vec<String>,
}

/// A text as sources: usually one; none when nothing is left of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// The sources in order.
    pub sources: Vec<Source>,
    /// What was skipped, replaced or cut off.
    pub warnings: Vec<String>,
}

/// The vocabularies of a card, ready for look-ups.
#[derive(Debug, Clone)]
pub(super) struct Symbols {
    source: HashMap<String, u32>,
    /// What each target id adds to a text.
    text: Vec<String>,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) first_step_forbidden: Vec<u32>,
    pub(super) always_forbidden: Vec<u32>,
}

/// A token that stands in for a symbol without one, and what that symbol was.
enum Symbol<'a> {
    Known(u32),
    Unknown(&'a str),
}

impl Symbols {
    /// Of a card that has been checked.
    pub(super) fn new(card: &Card) -> Self {
        let index = |vocab: &[Option<String>]| -> HashMap<String, u32> {
            vocab.iter().zip(0..).filter_map(|(token, id)| Some((token.clone()?, id))).collect()
        };
        let (source, target) = (index(&card.source.vocab), index(&card.target.vocab));
        let id = |token: &String| target.get(token).copied().unwrap_or_default();
        let in_text = |token: &&String| !card.target.not_in_text.contains(token);
        let text = |token: &Option<String>| token.as_ref().filter(in_text).cloned().unwrap_or_default();
        Self {
            source,
            text: card.target.vocab.iter().map(text).collect(),
            start: id(&card.target.start),
            end: id(&card.target.end),
            first_step_forbidden: card.decoding.first_step_forbidden.iter().map(id).collect(),
            always_forbidden: card.decoding.always_forbidden.iter().map(id).collect(),
        }
    }

    /// The sources of a text.
    pub(super) fn read(&self, card: &Card, text: &SourceText) -> Result<Prepared> {
        if let Some(option) = text.options.keys().find(|o| !card.source.options.contains_key(*o)) {
            let known: Vec<&str> = card.source.options.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "no such options".to_owned() } else { known.join(", ") };
            return Err(Error::option(option, format!("model `{}` has {known}", card.name)));
        }
        let mut reader = Reader { symbols: self, card, text, warnings: Vec::new(), warned: BTreeSet::new() };
        let count = text.text.chars().count();
        if count > LONGEST {
            return Err(reader.refuse(format!("{count} characters, at most {LONGEST} are read at once")));
        }
        let (prepared, split) = prepare(&card.source.prepare, &text.text);
        let mut sources = Vec::new();
        if split {
            for word in prepared.split_whitespace() {
                sources.extend(reader.source(word)?);
            }
        } else {
            sources.extend(reader.source(&prepared)?);
        }
        if sources.is_empty() {
            reader.warnings.push("nothing in it that the model reads".to_owned());
        }
        Ok(Prepared { sources, warnings: reader.warnings })
    }

    /// The text of target ids, up to the end token.
    pub(super) fn text(&self, card: &Card, ids: &[u32]) -> String {
        let shown = ids.iter().take_while(|&&id| id != self.end);
        let text: String = shown.filter_map(|&id| self.text.get(id as usize)).map(String::as_str).collect();
        if card.target.strip { text.trim().to_owned() } else { text }
    }

    /// One label for each target id.
    pub(super) fn labels(&self, card: &Card, ids: &[u32]) -> Vec<String> {
        let label = |&id: &u32| match card.target.vocab.get(id as usize) {
            _ if id == self.end => "<end>".to_owned(),
            Some(Some(token)) => token.clone(),
            _ => String::new(),
        };
        ids.iter().map(label).collect()
    }
}

struct Reader<'a> {
    symbols: &'a Symbols,
    card: &'a Card,
    text: &'a SourceText,
    warnings: Vec<String>,
    /// Symbols that a warning has named.
    warned: BTreeSet<String>,
}

impl Reader<'_> {
    fn refuse(&self, reason: String) -> Error {
        const SHOWN: usize = 40;
        let mut text: String = self.text.text.chars().take(SHOWN).collect();
        if text.len() < self.text.text.len() {
            text.push('…');
        }
        Error::Text { text, reason }
    }

    fn warn_once(&mut self, symbol: &str, warning: String) {
        if self.warned.insert(symbol.to_owned()) {
            self.warnings.push(warning);
        }
    }

    /// The id of a symbol, or what the card puts in its place.
    fn id(&mut self, symbol: Symbol) -> Result<Option<u32>> {
        let unknown = match symbol {
            Symbol::Known(id) => return Ok(Some(id)),
            Symbol::Unknown(unknown) => unknown,
        };
        let mut chars = unknown.chars();
        let name = match (chars.next(), chars.next()) {
            (Some(c), None) => format!("`{}` (U+{:04X})", c.escape_debug(), u32::from(c)),
            _ => format!("`{unknown}`"),
        };
        match &self.card.source.unknown {
            Unknown::Error => {
                Err(self.refuse(format!("{name} is not among the symbols of model `{}`", self.card.name)))
            }
            Unknown::Drop => {
                self.warn_once(unknown, format!("{name} is not among the model's symbols: skipped"));
                Ok(None)
            }
            Unknown::Token(token) => {
                self.warn_once(unknown, format!("{name} is not among the model's symbols: read as `{token}`"));
                Ok(self.symbols.source.get(token).copied())
            }
        }
    }

    fn symbol<'s>(&self, token: &'s str) -> Symbol<'s> {
        self.symbols.source.get(token).map_or(Symbol::Unknown(token), |&id| Symbol::Known(id))
    }

    /// The token of an option: of its value by the map, else by the template, else the default.
    fn option(&mut self, name: &str) -> Result<Option<u32>> {
        let (card, text) = (self.card, self.text);
        let Some(option) = card.source.options.get(name) else { return Ok(None) };
        let token = match text.options.get(name).filter(|value| !value.is_empty()) {
            None => option.default.clone(),
            Some(value) => match (option.map.get(value), &option.template) {
                (Some(token), _) => token.clone(),
                (None, Some(template)) => template.replace("{}", &value.to_uppercase()),
                (None, None) => {
                    let warning = format!("{name} `{value}` is not known to the model: read as `{}`", option.default);
                    self.warn_once(value, warning);
                    option.default.clone()
                }
            },
        };
        self.id(self.symbol(&token))
    }

    /// One source; none when nothing of the text is among the model's symbols.
    fn source(&mut self, text: &str) -> Result<Option<Source>> {
        let spec = &self.card.source;
        let room = spec.pad_to.or(spec.max_length).unwrap_or(LONGEST) - (spec.build.len() - 1);
        let mut characters = Vec::new();
        for c in text.chars() {
            characters.extend(self.id(self.symbol(c.encode_utf8(&mut [0; 4])))?);
        }
        if characters.is_empty() {
            return Ok(None);
        }
        let count = characters.len();
        if count > room {
            let (range, which) = match spec.too_long {
                TooLong::KeepFirst => (0..room, "first"),
                TooLong::KeepLast => (count - room..count, "last"),
                TooLong::Error => return Err(self.refuse(format!("{count} characters, the model reads {room}"))),
            };
            characters = characters[range].to_vec();
            self.warnings.push(format!("{count} characters, the model reads {room}: only the {which} {room} are read"));
        }
        let mut ids = Vec::new();
        for part in &spec.build {
            match part {
                Part::Text => ids.append(&mut characters),
                Part::Option(name) => ids.extend(self.option(name)?),
                Part::Token(token) => ids.extend(self.id(self.symbol(token))?),
            }
        }
        let real = ids.len();
        let label = |&id: &u32| spec.vocab.get(id as usize).cloned().flatten().unwrap_or_default();
        let mut labels: Vec<String> = ids.iter().map(label).collect();
        ids.resize(real.max(spec.pad_to.unwrap_or(0)), spec.pad_id);
        labels.resize(ids.len(), String::new());
        Ok(Some(Source { ids, real, labels }))
    }
}

/// A text after the steps of the card, and whether it is to be split at spaces.
fn prepare(steps: &[Prepare], text: &str) -> (String, bool) {
    let (mut text, mut split) = (text.to_owned(), false);
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
                split = true;
                text
            }
        };
    }
    (text, split)
}
