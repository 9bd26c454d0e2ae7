//! A card against itself: every contradiction that shows without the tensors.

use super::{Bridge, Card, Cell, Dense, Part, Recurrence, Score, Unknown, Value, When};
use crate::error::{Cause, Error, Result};
use crate::seq2seq::text::shown;

/// No width, count or length in a card is larger, so that products of three of them fit 64 bits.
const LARGEST: usize = 1 << 20;

/// Most ids of a source and most tokens of an answer.
pub(in crate::seq2seq) const LONGEST: usize = 1 << 16;

struct Check<'a>(&'a Card);

/// Checks a card against itself.
pub(super) fn check(card: &Card) -> Result<()> {
    let c = Check(card);
    c.source()?;
    c.target()?;
    c.recurrence("encoder.rnn", &card.encoder.rnn)?;
    c.recurrence("decoder.rnn", &card.decoder.rnn)?;
    c.widths()?;
    c.bridge()?;
    c.step()
}

/// Width of the memory: of the encoder's projection, or of its outputs.
pub(in crate::seq2seq) fn memory_width(card: &Card) -> Option<usize> {
    match &card.encoder.projection {
        Some(projection) => projection.output,
        None => Some(card.encoder.rnn.width()),
    }
}

impl Check<'_> {
    fn error(&self, field: impl Into<String>, reason: impl Into<Cause>) -> Error {
        Error::Card { model: self.0.name.clone(), field: field.into(), reason: reason.into() }
    }

    fn equal(&self, field: &str, expected: usize, why: &str, found: usize) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(self.error(field, format!("expected {expected} ({why}), found {found}")))
    }

    fn between(&self, field: &str, found: usize, least: usize, most: usize) -> Result<()> {
        if (least..=most).contains(&found) {
            return Ok(());
        }
        Err(self.error(field, format!("expected {least} to {most}, found {found}")))
    }

    fn token(&self, field: &str, token: &str, vocab: &[Option<String>], which: &str) -> Result<()> {
        if vocab.iter().flatten().any(|t| t == token) {
            return Ok(());
        }
        Err(self.error(field, format!("`{}` is not in {which}.vocab", shown(token))))
    }

    fn vocab(&self, field: &str, vocab: &[Option<String>]) -> Result<()> {
        self.between(field, vocab.len(), 1, LARGEST)?;
        let mut tokens: Vec<&String> = vocab.iter().flatten().collect();
        tokens.sort_unstable();
        match tokens.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(self.error(field, format!("`{}` stands twice", shown(pair[0])))),
            None => Ok(()),
        }
    }

    fn source(&self) -> Result<()> {
        let s = &self.0.source;
        self.vocab("source.vocab", &s.vocab)?;
        let token = |field: &str, token: &str| self.token(field, token, &s.vocab, "source");
        if let Unknown::Token(unknown) = &s.unknown {
            token("source.unknown", unknown)?;
        }
        for part in &s.build {
            match part {
                Part::Text => {}
                Part::Token(t) => token("source.build", t)?,
                Part::Option(name) if s.options.contains_key(name) => {}
                Part::Option(name) => {
                    return Err(self.error("source.build", format!("`{{{name}}}` is not in source.options")));
                }
            }
        }
        if s.build.iter().filter(|&p| *p == Part::Text).count() != 1 {
            return Err(self.error("source.build", "expected `{text}` once"));
        }
        for (name, option) in &s.options {
            token(&format!("source.options.{name}.default"), &option.default)?;
            for t in option.map.values() {
                token(&format!("source.options.{name}.map"), t)?;
            }
            for t in option.several.iter().flat_map(|several| [&several.last, &several.others]) {
                token(&format!("source.options.{name}.several"), t)?;
            }
        }
        // At least one character beside the fixed tokens.
        let least = s.build.len();
        self.between("source.pad_to", s.pad_to.unwrap_or(least), least, LONGEST)?;
        self.between("source.max_length", s.max_length.unwrap_or(least), least, LONGEST)?;
        self.between("source.pad_id", s.pad_id as usize, 0, s.vocab.len() - 1)
    }

    fn target(&self) -> Result<()> {
        let (t, d) = (&self.0.target, &self.0.decoding);
        self.vocab("target.vocab", &t.vocab)?;
        let tokens = [("target.start", &t.start), ("target.end", &t.end)].into_iter();
        let tokens = tokens.chain(t.not_in_text.iter().map(|token| ("target.not_in_text", token)));
        let tokens = tokens.chain(d.first_step_forbidden.iter().map(|token| ("decoding.first_step_forbidden", token)));
        let tokens = tokens.chain(d.always_forbidden.iter().map(|token| ("decoding.always_forbidden", token)));
        for (field, token) in tokens {
            self.token(field, token, &t.vocab, "target")?;
        }
        self.between("decoding.beam_width", d.beam_width, 1, t.vocab.len())?;
        self.between("decoding.max_steps", d.max_steps, 1, LONGEST)?;
        if !d.length_alpha.is_finite() {
            return Err(self.error("decoding.length_alpha", "not finite"));
        }
        Ok(())
    }

    fn recurrence(&self, field: &str, r: &Recurrence) -> Result<()> {
        self.between(&format!("{field}.layers"), r.layers, 1, 1024)?;
        self.between(&format!("{field}.input"), r.input, 1, LARGEST)?;
        self.between(&format!("{field}.hidden"), r.hidden, 1, LARGEST)?;
        let order: &[&str] = match r.cell {
            Cell::Lstm => &["i", "f", "g", "o"],
            Cell::Gru => &["r", "z", "n"],
            Cell::Rnn => &["h"],
        };
        match &r.gates {
            Some(gates) if gates != order => {
                Err(self.error(format!("{field}.gates"), format!("expected {order:?}, found {gates:?}")))
            }
            _ => Ok(()),
        }
    }

    fn dense(&self, field: &str, dense: &Dense, input: Option<usize>, output: Option<usize>) -> Result<()> {
        let pairs =
            [("in", dense.input, input, "width of what it reads"), ("out", dense.output, output, "width needed")];
        for (name, found, expected, why) in pairs {
            if let Some(found) = found {
                self.between(&format!("{field}.{name}"), found, 1, LARGEST)?;
                self.equal(&format!("{field}.{name}"), expected.unwrap_or(found), why, found)?;
            }
        }
        Ok(())
    }

    fn widths(&self) -> Result<()> {
        let (source, target) = (&self.0.source.vocab, &self.0.target.vocab);
        let (encoder, decoder) = (&self.0.encoder, &self.0.decoder);
        for (field, e, vocab) in
            [("encoder.embedding", &encoder.embedding, source), ("decoder.embedding", &decoder.embedding, target)]
        {
            self.equal(&format!("{field}.size"), vocab.len(), "entries of the vocabulary", e.size)?;
            self.between(&format!("{field}.dim"), e.dim, 1, LARGEST)?;
        }
        self.equal("encoder.rnn.input", encoder.embedding.dim, "encoder.embedding.dim", encoder.rnn.input)?;
        if let Some(projection) = &encoder.projection {
            self.dense("encoder.projection", projection, Some(encoder.rnn.width()), None)?;
            if projection.output.is_none() {
                return Err(self.error("encoder.projection.out", "missing: the width of the memory"));
            }
        }
        if decoder.rnn.bidirectional {
            return Err(self.error("decoder.rnn.bidirectional", "a decoder reads forward"));
        }
        Ok(())
    }

    fn bridge(&self) -> Result<()> {
        let (e, d) = (&self.0.encoder.rnn, &self.0.decoder.rnn);
        match &self.0.bridge {
            Bridge::Zeros => Ok(()),
            Bridge::MeanLinear(dense) => {
                self.dense("bridge", dense, memory_width(self.0), Some(d.hidden))?;
                if d.cell == Cell::Lstm {
                    return Err(self.error("bridge.kind", "`mean_linear` gives h alone, an LSTM starts from h and c"));
                }
                Ok(())
            }
            Bridge::FinalState | Bridge::FinalStateConcat => {
                if e.bidirectional != (self.0.bridge == Bridge::FinalStateConcat) {
                    let reason = "`final_state` is for one direction, `final_state_concat` for both";
                    return Err(self.error("bridge.kind", reason));
                }
                if e.cell != d.cell {
                    return Err(self.error("bridge.kind", "encoder and decoder have different cells"));
                }
                self.equal("decoder.rnn.hidden", e.width(), "width of the encoder's last state", d.hidden)?;
                self.between("decoder.rnn.layers", d.layers, 1, e.layers)
            }
        }
    }

    /// What each place of a decoder step reads must exist by then.
    fn step(&self) -> Result<()> {
        let (a, d) = (&self.0.attention, &self.0.decoder.rnn);
        let mut known = vec![Value::TokenEmbedding, Value::PreviousHidden];
        let rnn = |known: &mut Vec<Value>| -> Result<()> {
            self.parts("decoder.rnn.input_parts", &d.input_parts, known)?;
            known.push(Value::DecoderOutput);
            Ok(())
        };
        let attend = |known: &mut Vec<Value>| -> Result<()> {
            self.parts("attention.query.source", &[a.query.source], known)?;
            known.push(Value::Context);
            Ok(())
        };
        match a.when {
            When::BeforeRnn => attend(&mut known).and_then(|()| rnn(&mut known))?,
            When::AfterRnn => rnn(&mut known).and_then(|()| attend(&mut known))?,
        }
        let mut combined = None;
        if let Some(combine) = &a.combine {
            self.parts("attention.combine.input_parts", &combine.input_parts, &known)?;
            self.dense("attention.combine", combine, self.width(&combine.input_parts, None), None)?;
            combined = combine.output;
            known.push(Value::Combined);
        }
        self.parts("output.input_parts", &self.0.output.input_parts, &known)?;
        let input = self.width(&self.0.output.input_parts, combined);
        self.dense("output", &self.0.output, input, Some(self.0.target.vocab.len()))?;
        if let Some(width) = self.width(&d.input_parts, None) {
            self.equal("decoder.rnn.input", width, "width of its input_parts", d.input)?;
        }
        let projected = a.query.projection.is_some() || a.key.projection.is_some();
        match (a.score, projected, &a.v) {
            (Score::General, false, _) => {
                let reason = "missing: W of `general`, here or as attention.key.projection";
                Err(self.error("attention.query.projection", reason))
            }
            (Score::Additive, _, None) => Err(self.error("attention.v", "missing: v of `additive`")),
            (Score::Dot | Score::General, _, Some(_)) => Err(self.error("attention.v", "only `additive` has a v")),
            _ if !a.scale.is_finite() => Err(self.error("attention.scale", "not finite")),
            _ => Ok(()),
        }
    }

    fn parts(&self, field: &str, parts: &[Value], known: &[Value]) -> Result<()> {
        if parts.is_empty() {
            return Err(self.error(field, "missing: what the layer reads"));
        }
        match parts.iter().find(|p| !known.contains(p)) {
            Some(part) => Err(self.error(field, format!("`{part}` is not known yet at this point of the step"))),
            None => Ok(()),
        }
    }

    /// Width of parts side by side, where the card alone tells it.
    fn width(&self, parts: &[Value], combined: Option<usize>) -> Option<usize> {
        parts.iter().map(|&part| width(self.0, part, combined)).sum()
    }
}

/// Width of a value inside a decoder step; `combined` is that of `attention.combine`.
pub(in crate::seq2seq) fn width(card: &Card, value: Value, combined: Option<usize>) -> Option<usize> {
    match value {
        Value::TokenEmbedding => Some(card.decoder.embedding.dim),
        Value::PreviousHidden | Value::DecoderOutput => Some(card.decoder.rnn.hidden),
        Value::Context => memory_width(card),
        Value::Combined => combined,
    }
}
