//! Text to source ids and target ids to text, as the card says.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::card::check::LONGEST;
use super::card::{Card, Part, TooLong, Unknown};
use super::prepare::prepare;
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
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Symbols {
    source: HashMap<String, u32>,
    /// What each target id adds to a text.
    text: Vec<String>,
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) first_step_forbidden: Vec<u32>,
    pub(super) always_forbidden: Vec<u32>,
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
        let mut reader = Reader { symbols: self, card, text, skipped: Named::default(), replaced: Named::default() };
        let count = text.text.chars().count();
        if count > LONGEST {
            return Err(reader.refuse(format!("{count} characters, at most {LONGEST} are read at once")));
        }
        let mut warnings = Vec::new();
        let mut read = Vec::new();
        for part in prepare(&card.source.prepare, &text.text) {
            let characters = reader.characters(&part)?;
            if !characters.is_empty() {
                read.push(reader.cut(characters, &mut warnings)?);
            }
        }
        let count = read.len();
        let mut sources = Vec::with_capacity(count);
        for (n, characters) in read.into_iter().enumerate() {
            let place = if count == 1 { None } else { Some(n + 1 == count) };
            sources.push(reader.source(characters, place, &mut warnings)?);
        }
        if sources.is_empty() {
            warnings.push("nothing in it that the model reads".to_owned());
        }
        let unread = reader.skipped.told("skipped").into_iter();
        let stand_in = match &card.source.unknown {
            Unknown::Token(token) => reader.replaced.told(&format!("read as `{token}`")),
            _ => None,
        };
        Ok(Prepared { sources, warnings: unread.chain(stand_in).chain(warnings).collect() })
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

/// Characters to be named in a warning: each once, in the order of the text.
#[derive(Default)]
struct Named {
    seen: BTreeSet<char>,
    first: Vec<char>,
}

impl Named {
    /// Characters written out; more are counted.
    const SHOWN: usize = 8;

    fn add(&mut self, characters: impl IntoIterator<Item = char>) {
        for c in characters {
            if self.seen.insert(c) && self.first.len() < Self::SHOWN {
                self.first.push(c);
            }
        }
    }

    /// `what` was done to them, in a sentence; nothing if there are none.
    fn told(&self, what: &str) -> Option<String> {
        let symbols = match self.seen.len() {
            0 => return None,
            1 => "is not among the model's symbols",
            _ => "are not among the model's symbols",
        };
        Some(format!("{} {symbols}: {what}", self.names()))
    }

    fn names(&self) -> String {
        let name = |c: &char| format!("`{}` (U+{:04X})", shown(c.encode_utf8(&mut [0; 4])), u32::from(*c));
        let mut names = self.first.iter().map(name).collect::<Vec<_>>().join(", ");
        if self.seen.len() > self.first.len() {
            names.push_str(&format!(" and {} more", self.seen.len() - self.first.len()));
        }
        names
    }
}

/// A text to stand between backquotes: what cannot be seen is escaped, quotes and backslashes stand for themselves.
pub(in crate::seq2seq) fn shown(text: &str) -> String {
    const PLAIN: [char; 3] = ['\'', '"', '\\'];
    let piece = |piece: &str| {
        let escaped = piece.trim_end_matches(PLAIN);
        format!("{}{}", escaped.escape_debug(), &piece[escaped.len()..])
    };
    text.split_inclusive(PLAIN).map(piece).collect()
}

struct Reader<'a> {
    symbols: &'a Symbols,
    card: &'a Card,
    text: &'a SourceText,
    /// Characters that were left out.
    skipped: Named,
    /// Characters that a token stands in for.
    replaced: Named,
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

    /// The ids of a part's characters; none where it has no character that the model knows, white space aside.
    fn characters(&mut self, part: &str) -> Result<Vec<u32>> {
        let card = self.card;
        let reads = |c: char| card.source.reads.as_ref().is_none_or(|ranges| ranges.iter().any(|r| r.contains(c)));
        let (mut ids, mut unknown, mut knows) = (Vec::new(), Vec::new(), false);
        for c in part.chars() {
            let id = self.symbols.source.get(c.encode_utf8(&mut [0; 4])).copied();
            match id {
                _ if !reads(c) => self.skipped.add([c]),
                Some(id) => {
                    knows |= !c.is_whitespace();
                    ids.push(id);
                }
                None => {
                    unknown.push(c);
                    if let Unknown::Token(token) = &card.source.unknown {
                        ids.extend(self.symbols.source.get(token));
                    }
                }
            }
        }
        match &card.source.unknown {
            Unknown::Error if !unknown.is_empty() => {
                let mut named = Named::default();
                named.add(unknown);
                let known = if named.seen.len() == 1 { "is not" } else { "are not" };
                return Err(self.refuse(format!(
                    "{} {known} among the symbols of model `{}`",
                    named.names(),
                    card.name
                )));
            }
            Unknown::Token(_) if knows => self.replaced.add(unknown),
            _ => self.skipped.add(unknown),
        }
        Ok(if knows { ids } else { Vec::new() })
    }

    /// The characters that a source has room for.
    fn cut(&self, mut characters: Vec<u32>, warnings: &mut Vec<String>) -> Result<Vec<u32>> {
        let spec = &self.card.source;
        let room = spec.pad_to.or(spec.max_length).unwrap_or(LONGEST) - (spec.build.len() - 1);
        let count = characters.len();
        if count > room {
            let (range, which) = match spec.too_long {
                TooLong::KeepFirst => (0..room, "first"),
                TooLong::KeepLast => (count - room..count, "last"),
                TooLong::Error => return Err(self.refuse(format!("{count} characters, the model reads {room}"))),
            };
            characters = characters[range].to_vec();
            warnings.push(format!("{count} characters, the model reads {room}: only the {which} {room} are read"));
        }
        Ok(characters)
    }

    /// The id of a token that stands in no text: a fixed one of the build, or an option's.
    fn token(&self, token: &str, warnings: &mut Vec<String>) -> Result<Option<u32>> {
        let symbols = &self.symbols.source;
        if let Some(&id) = symbols.get(token) {
            return Ok(Some(id));
        }
        let mut warn = |what: &str| {
            let warning = format!("`{token}` is not among the model's symbols: {what}");
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        };
        match &self.card.source.unknown {
            Unknown::Error => {
                Err(self.refuse(format!("`{token}` is not among the symbols of model `{}`", self.card.name)))
            }
            Unknown::Drop => {
                warn("skipped");
                Ok(None)
            }
            Unknown::Token(other) => {
                warn(&format!("read as `{other}`"));
                Ok(symbols.get(other).copied())
            }
        }
    }

    /// The token of an option: of its value by the map, else by the template, else the default. `place` tells whether
    /// one of several sources is the last.
    fn option(&self, name: &str, place: Option<bool>, warnings: &mut Vec<String>) -> Result<Option<u32>> {
        let Some(option) = self.card.source.options.get(name) else { return Ok(None) };
        let token = match self.text.options.get(name).filter(|value| !value.is_empty()) {
            None => match (&option.several, place) {
                (Some(several), Some(true)) => several.last.clone(),
                (Some(several), Some(false)) => several.others.clone(),
                _ => option.default.clone(),
            },
            Some(value) => match (option.map.get(value), &option.template) {
                (Some(token), _) => token.clone(),
                (None, Some(template)) => template.replace("{}", &value.to_uppercase()),
                (None, None) => {
                    let warning = format!("{name} `{value}` is not known to the model: read as `{}`", option.default);
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                    option.default.clone()
                }
            },
        };
        self.token(&token, warnings)
    }

    /// The source around the characters of a part.
    fn source(&self, mut characters: Vec<u32>, place: Option<bool>, warnings: &mut Vec<String>) -> Result<Source> {
        let spec = &self.card.source;
        let mut ids = Vec::new();
        for part in &spec.build {
            match part {
                Part::Text => ids.append(&mut characters),
                Part::Option(name) => ids.extend(self.option(name, place, warnings)?),
                Part::Token(token) => ids.extend(self.token(token, warnings)?),
            }
        }
        let real = ids.len();
        let label = |&id: &u32| spec.vocab.get(id as usize).cloned().flatten().unwrap_or_default();
        let mut labels: Vec<String> = ids.iter().map(label).collect();
        ids.resize(real.max(spec.pad_to.unwrap_or(0)), spec.pad_id);
        labels.resize(ids.len(), String::new());
        Ok(Source { ids, real, labels })
    }
}
