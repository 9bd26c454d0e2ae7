//! Token by token: blocks with a cache behind an embedding, and the logits of the tokens that come next.

use crate::attention::RotaryEmbedding;
use crate::backend::{Backend, IntegersOf, OnHost, Value};
use crate::error::{Error, Result};
use crate::layers::{Cache, CacheSize, Embedding, Linear, LoadedTransformer, Memory, Places};
use crate::reference::gumbel;
use crate::search::{Candidates, CandidatesOf, GridStep, Hypothesis, Rule, Search, Steps};
use crate::tensor::{Array, TensorLike};

/// Tokens that a greedy search asks a device for before it looks at them: what the first of them answers goes into the second
/// without leaving the device. Behind the end of a text they are for nothing.
const AHEAD: usize = 8;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampling {
    /// The most probable one.
    #[default]
    Greedy,
    /// Drawn from the k most probable ones, by softmax(logits / temperature) over them; the same seed draws the same.
    TopK {
        /// How many are drawn from; all, where that is more than there are.
        k: usize,
        /// Above 0.
        temperature: f32,
        /// Any number.
        seed: u32,
    },
}

/// What texts are continued with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Generation {
    /// Tokens at most.
    pub most: usize,
    /// How each is chosen.
    pub sampling: Sampling,
    /// The token that ends a text, which is its last then.
    pub end: Option<u32>,
}

/// How the most probable continuations are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Beam {
    /// Continuations that are kept of each text.
    pub width: usize,
    /// Tokens at most.
    pub most: usize,
    /// The token that ends a text, which is its last then.
    pub end: Option<u32>,
    /// In the end continuations are ordered by log-probability / length^this: 0 by the probability itself, 1 by the mean of
    /// their tokens' log-probabilities.
    pub length_exponent: f64,
}

/// A continuation that a search has found.
#[derive(Debug, Clone, PartialEq)]
pub struct Continuation {
    /// Its tokens, the one that ends it included.
    pub tokens: Vec<u32>,
    /// The sum of their log-probabilities.
    pub log_probability: f64,
}

/// An embedding, blocks that see what came before, and a layer from their last states to logits.
pub(super) struct Decoder<B: Backend> {
    pub(super) embedding: Embedding<B::Value>,
    pub(super) blocks: LoadedTransformer<B::Value>,
    pub(super) rotary: Option<RotaryEmbedding<B::Value>>,
    /// [V, E].
    pub(super) head: Linear<B::Value>,
    /// Tokens that a text may have.
    pub(super) positions: usize,
    /// Tokens that are never taken, and for each word [1, V] −∞ of these and 0 of the others.
    forbidden: (Vec<u32>, Option<B::Value>),
    running: Option<Running<B>>,
}

/// What lasts from one token to the next.
struct Running<B: Backend> {
    cache: Cache<B::Value>,
    /// Tokens of each row.
    lengths: Vec<usize>,
    /// [B, C], of a cache that rows share: where each token of a row lies.
    table: Vec<u32>,
    /// Steps that were asked for before.
    kept: Vec<Kept<B>>,
}

/// Steps that can be taken again, with other tokens at other places.
struct Kept<B: Backend> {
    steps: usize,
    wanted: Wanted,
    integers: StepIntegers<IntegersOf<B>>,
    prepared: B::Prepared,
    outputs: Outputs<B>,
}

/// What steps read that is another each time.
struct StepIntegers<I> {
    /// [B, 1].
    tokens: I,
    /// For each step and after the last one `[B]`: tokens of each row.
    places: Vec<I>,
    /// [B, C], where rows share the cache.
    table: Option<I>,
}

impl<I> StepIntegers<I> {
    fn all(&mut self) -> impl Iterator<Item = &mut I> {
        std::iter::once(&mut self.tokens).chain(&mut self.places).chain(&mut self.table)
    }
}

/// What is read of steps.
struct Outputs<B: Backend> {
    numbers: Vec<B::Value>,
    integers: Vec<IntegersOf<B>>,
}

/// What is wanted of the logits [B, V].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Themselves.
    Logits,
    /// The tokens of the largest.
    Largest,
    /// So many of the largest, and their tokens.
    TopK(usize),
    /// So many candidates of a search.
    Candidates(usize),
}

impl Wanted {
    /// `penalty` [1, V] is added where a token is taken at once.
    fn of<B: Backend>(self, b: &mut B, logits: B::Value, penalty: Option<&B::Value>) -> Result<Outputs<B>> {
        let logits = match (self, penalty) {
            (Self::Largest | Self::TopK(_), Some(penalty)) => b.add(&logits, penalty)?,
            _ => logits,
        };
        Ok(match self {
            Self::Logits => Outputs { numbers: vec![logits], integers: Vec::new() },
            Self::Largest => Outputs { numbers: Vec::new(), integers: vec![b.top_k(&logits, 1)?.1] },
            Self::TopK(k) => {
                let (values, tokens) = b.top_k(&logits, k)?;
                Outputs { numbers: vec![values], integers: vec![tokens] }
            }
            Self::Candidates(count) => {
                let CandidatesOf { numbers, tokens } = CandidatesOf::new(b, &logits, count)?;
                Outputs { numbers: numbers.into(), integers: vec![tokens] }
            }
        })
    }
}

/// What is to be held, and what blocks attend to besides.
pub(super) struct Begin<'a, A: TensorLike> {
    /// Rows for each text.
    pub(super) width: usize,
    /// Tokens that are to come, at most.
    pub(super) most: usize,
    /// With as many rows as there are texts.
    pub(super) memory: Option<&'a Memory<A>>,
}

impl<B: Backend> Decoder<B> {
    pub(super) fn new(
        embedding: Embedding<B::Value>,
        blocks: LoadedTransformer<B::Value>,
        rotary: Option<RotaryEmbedding<B::Value>>,
        head: Linear<B::Value>,
        positions: usize,
    ) -> Self {
        Self { embedding, blocks, rotary, head, positions, forbidden: (Vec::new(), None), running: None }
    }

    /// The same, which never takes these tokens.
    pub(super) fn without(self, b: &mut B, forbidden: &[u32]) -> Result<Self> {
        if forbidden.is_empty() {
            return Ok(self);
        }
        let penalty = |word: usize| if forbidden.contains(&(word as u32)) { f32::NEG_INFINITY } else { 0.0 };
        let penalty = b.constant("penalty", &Array::from_fn(&[1, self.words()], penalty))?;
        Ok(Self { forbidden: (forbidden.to_vec(), Some(penalty)), ..self })
    }

    /// The logits [B, V] of the token after each text.
    pub(super) async fn start(&mut self, b: &mut B, texts: &[Vec<u32>], begin: &Begin<'_, B::Value>) -> Result<Array> {
        let read = self.begin(b, texts, begin, Wanted::Logits).await?;
        the_numbers(read)
    }

    /// The logits [B, V] of the token after one more of each text.
    pub(super) async fn step(&mut self, b: &mut B, tokens: &[u32]) -> Result<Array> {
        let read = self.go_on(b, tokens, 1, Wanted::Logits).await?;
        the_numbers(read)
    }

    /// What each text goes on with.
    pub(super) async fn generate(
        &mut self,
        b: &mut B,
        texts: &[Vec<u32>],
        memory: Option<&Memory<B::Value>>,
        options: &Generation,
    ) -> Result<Vec<Vec<u32>>> {
        let wanted = match options.sampling {
            Sampling::Greedy => Wanted::Largest,
            Sampling::TopK { k: 0, .. } => return Err(Error::option("k", "must be at least 1")),
            Sampling::TopK { temperature, .. } if !(temperature > 0.0 && temperature.is_finite()) => {
                return Err(Error::option("temperature", format!("must be above 0 and finite, not {temperature}")));
            }
            Sampling::TopK { k, .. } => Wanted::TopK(k.min(self.words())),
        };
        let mut answers = vec![Vec::new(); texts.len()];
        if options.most == 0 {
            return Ok(answers);
        }
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        let mut read = self.begin(b, texts, &Begin { width: 1, most: options.most, memory }, wanted).await?;
        loop {
            let found = answers.first().map_or(0, Vec::len);
            let chosen = match options.sampling {
                Sampling::Greedy => read.integers,
                Sampling::TopK { temperature, seed, .. } => {
                    vec![draw(&read, temperature, seed, found * texts.len())?]
                }
            };
            let last = chosen.last().map(|tokens| tokens.data().to_vec()).unwrap_or_default();
            for tokens in &chosen {
                answers.iter_mut().zip(tokens.data()).for_each(|(answer, &token)| answer.push(token));
            }
            let found = found + chosen.len();
            let done = |answer: &Vec<u32>| options.end.is_some_and(|end| answer.contains(&end));
            if found >= options.most || answers.iter().all(done) {
                break;
            }
            // The last token is not read any more.
            let room = self.positions.saturating_sub(longest + found - 1);
            let ahead = if options.sampling == Sampling::Greedy && b.defers() { AHEAD } else { 1 };
            let steps = if (options.most - found).min(room) >= ahead { ahead } else { 1 };
            read = self.go_on(b, &last, steps, wanted).await?;
        }
        for answer in &mut answers {
            let end = answer.iter().position(|&token| Some(token) == options.end);
            answer.truncate(end.map_or(options.most, |end| end + 1));
        }
        Ok(answers)
    }

    /// The most probable continuations of each text, best first.
    pub(super) async fn beam(
        &mut self,
        b: &mut B,
        texts: &[Vec<u32>],
        memory: Option<&Memory<B::Value>>,
        options: &Beam,
    ) -> Result<Vec<Vec<Continuation>>> {
        let Beam { width, most, end, length_exponent } = *options;
        if width == 0 || width > self.words() {
            return Err(Error::option("width", format!("must be from 1 to {} words, not {width}", self.words())));
        }
        let forbidden = self.forbidden.0.clone();
        let search = Search { width, most, rule: Rule::FixedWidth, start: 0, end, forbidden: [&forbidden, &[]] };
        let mut steps = BeamSteps { decoder: self, b, texts, begin: Begin { width, most, memory }, begun: false };
        let beams = search.run(texts.len(), &mut steps).await?;
        let ordered = |mut beam: Vec<Hypothesis>| -> Vec<Continuation> {
            beam.sort_by(|a, b| b.score(length_exponent).total_cmp(&a.score(length_exponent)));
            beam.into_iter().map(|found| Continuation { tokens: found.tokens, log_probability: found.sum }).collect()
        };
        Ok(beams.into_iter().map(ordered).collect())
    }

    /// V.
    fn words(&self) -> usize {
        self.head.weight.shape()[0]
    }

    /// Reads whole texts.
    async fn begin(
        &mut self,
        b: &mut B,
        texts: &[Vec<u32>],
        begin: &Begin<'_, B::Value>,
        wanted: Wanted,
    ) -> Result<OnHost> {
        let longest = texts.iter().map(Vec::len).max().unwrap_or(0);
        if texts.is_empty() {
            return Err(Error::missing("texts", "at least one"));
        }
        if let Some(n) = texts.iter().position(Vec::is_empty) {
            return Err(Error::shape(format!("text {n}"), "tokens", "at least 1", 0));
        }
        self.check_length(longest)?;
        for text in texts {
            check_tokens("tokens", text, self.embedding.word.shape()[0])?;
        }
        let result = self.read_texts(b, texts, longest, begin, wanted).await;
        self.clean_up(b, result)
    }

    async fn read_texts(
        &mut self,
        b: &mut B,
        texts: &[Vec<u32>],
        longest: usize,
        begin: &Begin<'_, B::Value>,
        wanted: Wanted,
    ) -> Result<OnHost> {
        let wish = (longest + begin.most).min(self.positions).next_multiple_of(32);
        let rows = texts.len() * begin.width;
        let size = CacheSize { rows, capacity: wish, shared: begin.width > 1 };
        let fits = |running: &Running<B>| {
            let found = running.cache.size();
            CacheSize { capacity: size.capacity, ..found } == size && found.capacity >= size.capacity
        };
        // What was kept of the texts before serves these as well, but for a memory's keys.
        let before = self.running.take().filter(|running| begin.memory.is_none() && fits(running));
        let (cache, kept) = match before {
            Some(running) => (running.cache, running.kept),
            None => (self.blocks.cache(b, size, begin.memory)?, Vec::new()),
        };
        let capacity = cache.size().capacity;
        // Tokens of a text lie in its first row; what rows add lies in their own.
        let lengths: Vec<usize> = texts.iter().flat_map(|text| std::iter::repeat_n(text.len(), begin.width)).collect();
        let place = |k: usize| {
            let (row, token) = (k / capacity, k % capacity);
            let own = if token < lengths[row] { row / begin.width * begin.width } else { row };
            (own * capacity + token) as u32
        };
        let table: Vec<u32> = if size.shared { (0..rows * capacity).map(place).collect() } else { Vec::new() };

        let count = texts.len();
        let padded = |k: usize| texts[k / longest].get(k % longest).copied().unwrap_or(0);
        let of = |f: &dyn Fn(&Vec<u32>) -> usize| Array::from_fn(&[count], |n| f(&texts[n]) as u32);
        let tokens = b.integers("tokens", &Array::from_fn(&[count, longest], padded))?;
        let lengths_of_texts = b.integers("lengths", &of(&Vec::len))?;
        let ragged = texts.iter().any(|text| text.len() < longest);
        let first_rows = |k: usize| table[k / capacity * begin.width * capacity + k % capacity];
        let places = Places {
            starts: b.integers("starts", &of(&|_| 0))?,
            lengths: lengths_of_texts.clone(),
            positions: b.integers("positions", &Array::from_fn(&[count, longest], |k| (k % longest) as u32))?,
            counts: ragged.then_some(lengths_of_texts),
            table: match size.shared {
                true => Some(b.integers("table", &Array::from_fn(&[count, capacity], first_rows))?),
                false => None,
            },
        };
        let mut running = Running { cache, lengths, table, kept };
        let x = self.embedding.forward(b, &tokens, &places.positions)?;
        let hidden = self.blocks.forward_cached(b, &x, &places, self.rotary.as_ref(), &mut running.cache)?;
        let channels = self.blocks.channels();
        let flat = b.reshape(&hidden, &[count * longest, channels])?;
        let last = |n: usize| (n * longest + texts[n].len() - 1) as u32;
        let last = b.embed(&flat, &Array::from_fn(&[count], last))?;
        let logits = self.head.forward(b, &last)?;
        let outputs = wanted.of(b, logits, self.forbidden.1.as_ref())?;
        self.running = Some(running);
        read(b, None, &outputs).await
    }

    /// `steps` more tokens of each row, the first of which is given and each other one the most probable after the one before.
    /// What is wanted of each step, one behind the other.
    async fn go_on(&mut self, b: &mut B, tokens: &[u32], steps: usize, wanted: Wanted) -> Result<OnHost> {
        let Some(running) = &self.running else {
            return Err(Error::missing("texts", "what goes on: `start` comes first"));
        };
        if running.lengths.len() != tokens.len() {
            return Err(Error::shape("tokens", "texts", running.lengths.len(), tokens.len()));
        }
        self.check_length(running.lengths.iter().max().map_or(0, |longest| longest + steps))?;
        check_tokens("tokens", tokens, self.embedding.word.shape()[0])?;
        let result = self.take_steps(b, tokens, steps, wanted).await;
        self.clean_up(b, result)
    }

    async fn take_steps(&mut self, b: &mut B, tokens: &[u32], steps: usize, wanted: Wanted) -> Result<OnHost> {
        let mut running = self.running.take().ok_or_else(|| Error::missing("texts", "what goes on"))?;
        let needed = running.lengths.iter().max().map_or(0, |longest| longest + steps);
        if needed > running.cache.size().capacity {
            let more = (2 * running.cache.size().capacity).max(needed).min(self.positions).next_multiple_of(32);
            running.cache = self.blocks.enlarged(b, &running.cache, more)?;
            running.kept.clear();
            b.submit()?;
        }
        let rows = tokens.len();
        let capacity = running.cache.size().capacity;
        let shared = running.cache.size().shared;
        let host = StepIntegers {
            tokens: Array::new(&[rows, 1], tokens.to_vec())?,
            places: (0..=steps)
                .map(|step| Array::from_fn(&[rows], |row| (running.lengths[row] + step) as u32))
                .collect(),
            table: shared.then(|| Array::new(&[rows, capacity], running.table.clone())).transpose()?,
        };
        running.lengths.iter_mut().for_each(|length| *length += steps);
        let before = running.kept.iter().position(|kept| kept.steps == steps && kept.wanted == wanted);
        let read = match before {
            Some(n) => {
                let kept = &mut running.kept[n];
                let mut host = host;
                for (own, array) in kept.integers.all().zip(host.all()) {
                    b.rewrite(own, array)?;
                }
                read(b, Some(&mut kept.prepared), &kept.outputs).await?
            }
            None => {
                let integers = StepIntegers {
                    tokens: b.integers("tokens", &host.tokens)?,
                    places: host.places.iter().map(|array| b.integers("places", array)).collect::<Result<_>>()?,
                    table: host.table.as_ref().map(|array| b.integers("table", array)).transpose()?,
                };
                let outputs = self.record(b, &integers, &mut running.cache, wanted)?;
                match b.prepare()? {
                    None => read(b, None, &outputs).await?,
                    Some(mut prepared) => {
                        let found = read(b, Some(&mut prepared), &outputs).await?;
                        running.kept.push(Kept { steps, wanted, integers, prepared, outputs });
                        found
                    }
                }
            }
        };
        self.running = Some(running);
        Ok(read)
    }

    /// Asks for the steps.
    fn record(
        &self,
        b: &mut B,
        integers: &StepIntegers<IntegersOf<B>>,
        cache: &mut Cache<B::Value>,
        wanted: Wanted,
    ) -> Result<Outputs<B>> {
        let rows = cache.size().rows;
        let mut tokens = integers.tokens.clone();
        let mut all = Outputs { numbers: Vec::new(), integers: Vec::new() };
        for pair in integers.places.windows(2) {
            let places = Places {
                starts: pair[0].clone(),
                lengths: pair[1].clone(),
                positions: b.reshape_integers(&pair[0], &[rows, 1])?,
                counts: None,
                table: integers.table.clone(),
            };
            let x = self.embedding.forward(b, &tokens, &places.positions)?;
            let hidden = self.blocks.forward_cached(b, &x, &places, self.rotary.as_ref(), cache)?;
            let hidden = b.reshape(&hidden, &[rows, self.blocks.channels()])?;
            let logits = self.head.forward(b, &hidden)?;
            let outputs = wanted.of(b, logits, self.forbidden.1.as_ref())?;
            if let Some(next) = outputs.integers.first() {
                tokens = next.clone();
            }
            all.numbers.extend(outputs.numbers);
            all.integers.extend(outputs.integers);
        }
        Ok(all)
    }

    /// Row r goes on from row `rows[r]`: their tokens so far are the same ones.
    fn continue_rows(&mut self, rows: &[u32]) -> Result<()> {
        let Some(running) = &mut self.running else {
            return Err(Error::missing("texts", "what goes on"));
        };
        running.lengths = rows.iter().map(|&row| running.lengths[row as usize]).collect();
        let size = running.cache.size();
        if !size.shared {
            return Ok(());
        }
        let capacity = size.capacity;
        let lengths = &running.lengths;
        let table = (0..rows.len() * capacity).map(|k| {
            let (row, token) = (k / capacity, k % capacity);
            match token < lengths[row] {
                true => running.table[rows[row] as usize * capacity + token],
                false => k as u32,
            }
        });
        running.table = table.collect();
        Ok(())
    }

    fn check_length(&self, tokens: usize) -> Result<()> {
        match tokens > self.positions {
            true => Err(Error::shape("text", "tokens", format!("at most {}", self.positions), tokens)),
            false => Ok(()),
        }
    }

    /// What was asked for before an error must not be done with the next call.
    fn clean_up<T>(&mut self, b: &mut B, result: Result<T>) -> Result<T> {
        if result.is_err() {
            b.discard();
            self.running = None;
        }
        result
    }
}

/// The steps of a beam search.
struct BeamSteps<'a, B: Backend> {
    decoder: &'a mut Decoder<B>,
    b: &'a mut B,
    texts: &'a [Vec<u32>],
    begin: Begin<'a, B::Value>,
    begun: bool,
}

impl<B: Backend> Steps for BeamSteps<'_, B> {
    async fn step(&mut self, step: GridStep) -> Result<Candidates> {
        let Self { decoder, b, texts, begin, begun } = self;
        let wanted = Wanted::Candidates(step.candidates);
        if *begun {
            decoder.continue_rows(&step.parents)?;
            return Candidates::read(decoder.go_on(b, &step.tokens, 1, wanted).await?);
        }
        *begun = true;
        // Every row of a text begins alike: the first one is computed.
        let found = Candidates::read(decoder.begin(b, texts, begin, wanted).await?)?;
        let each = found.tokens.shape()[1];
        let shape = [texts.len() * begin.width, each];
        let at = |k: usize| k / each / begin.width * each + k % each;
        Ok(Candidates {
            tokens: Array::from_fn(&shape, |k| found.tokens.data()[at(k)]),
            log_probabilities: Array::from_fn(&shape, |k| found.log_probabilities.data()[at(k)]),
        })
    }
}

async fn read<B: Backend>(b: &mut B, again: Option<&mut B::Prepared>, outputs: &Outputs<B>) -> Result<OnHost> {
    let numbers: Vec<&B::Value> = outputs.numbers.iter().collect();
    b.finish(again, &numbers, &outputs.integers.iter().collect::<Vec<_>>()).await
}

/// Refuses tokens that have no row in the table of words.
pub(super) fn check_tokens(name: &str, tokens: &[u32], words: usize) -> Result<()> {
    match tokens.iter().enumerate().find(|(_, token)| **token as usize >= words) {
        Some((n, token)) => Err(Error::shape(name, format!("token {n}"), format!("below {words}"), token)),
        None => Ok(()),
    }
}

fn the_numbers(read: OnHost) -> Result<Array> {
    read.numbers.into_iter().next().ok_or_else(|| Error::missing("logits", "what was read back"))
}

/// One token a row, of the largest logits; `first` numbers the first row among all draws.
fn draw(read: &OnHost, temperature: f32, seed: u32, first: usize) -> Result<Array<u32>> {
    let both = read.numbers.first().zip(read.integers.first());
    let (values, tokens) = both.ok_or_else(|| Error::missing("logits", "what was read back"))?;
    let width = values.shape().last().copied().unwrap_or(1).max(1);
    let rows = values.data().chunks_exact(width).zip(tokens.data().chunks_exact(width));
    let draw = |(n, (values, tokens)): (usize, (&[f32], &[u32]))| {
        // The largest of scores with Gumbel noise is a draw from their softmax.
        let noisy = |&(&value, &id): &(&f32, &u32)| value / temperature + gumbel(seed, (first + n) as u32, id);
        let best = values.iter().zip(tokens).max_by(|a, b| noisy(a).total_cmp(&noisy(b)));
        best.map_or(0, |(_, &id)| id)
    };
    let drawn: Vec<u32> = rows.enumerate().map(draw).collect();
    Array::new(&[drawn.len()], drawn)
}
