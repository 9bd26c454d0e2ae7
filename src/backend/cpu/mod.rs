//! The CPU as a backend for use: products in blocks, vector instructions, every core.
//!
//! [`Cpu`] computes the same as [`Reference`](super::Reference), which stays naive and judges it. One tile of products serves
//! attention, linear layers and recurrences (`product`); it is compiled for AVX-512, AVX2 with FMA, NEON, SIMD128 and plain
//! arrays, and the best that the processor has is chosen when the program runs (`simd`). How work is cut depends on the
//! problem and the processor alone (`plan`): results have the same bits with any number of threads.
//!
//! What is not built for speed is handed to the reference in f32: attention with a score that is no product of query and key,
//! with weights that are no softmax, with a function of the caller's, or whose scores are asked for; recurrences with layer
//! normalisation. [`Cpu::attention_plan`] and [`Cpu::rnn_plan`] say so.

#![allow(unsafe_code)]

mod activation;
mod attention;
mod elements;
#[doc(hidden)]
pub mod form;
mod linear;
mod lockstep;
mod math;
mod memory;
mod plan;
mod product;
mod rates;
mod rnn;
mod rows;
mod simd;
mod tensor;
#[cfg(test)]
mod tests;
mod threads;

use std::convert::Infallible;

use self::plan::{Processor, StepCut};
use self::simd::Level;
use self::threads::Threads;
use super::reference::{join_data, repeat, rewrite};
use super::{Backend, Epilogue, OnHost};
use crate::attention::{Attention, AttentionInputs, AttentionOutputs, RotaryEmbedding};
use crate::backend::Value;
use crate::coverage::CoverageCost;
#[cfg(feature = "parallel")]
use crate::error::Error;
use crate::error::Result;
use crate::norm::Norm;
use crate::problem::{AttentionProblem, RnnProblem};
use crate::reference;
use crate::rnn::{Activation, Rnn, RnnInputs, RnnOutputs, RnnStack};
use crate::tensor::{Array, Layout};

pub use self::rates::CpuRates;
pub use self::rnn::CpuRnn;
pub use self::tensor::CpuTensor;

/// The CPU. A clone shares its threads.
#[derive(Debug, Clone)]
pub struct Cpu {
    level: Level,
    threads: Threads,
    cache: usize,
}

impl Default for Cpu {
    fn default() -> Self {
        Self::new()
    }
}

impl Cpu {
    /// With the best instructions that the processor has, and every core: rayon's global pool under the feature `parallel`,
    /// else the calling thread alone.
    pub fn new() -> Self {
        Self { level: Level::best(), threads: Threads::all(), cache: simd::second_level_cache() }
    }

    /// On the calling thread alone, but for what is handed to the reference, which takes rayon's threads.
    #[must_use]
    pub fn on_one_thread(self) -> Self {
        Self { threads: Threads::one(), ..self }
    }

    /// On the threads of a pool of the caller's.
    #[cfg(feature = "parallel")]
    #[must_use]
    pub fn with_pool(self, pool: std::sync::Arc<rayon::ThreadPool>) -> Self {
        Self { threads: Threads::of(pool), ..self }
    }

    /// On so many threads of its own.
    ///
    /// # Errors
    /// [`Error::Option`] where the system starts no more threads.
    #[cfg(feature = "parallel")]
    pub fn with_threads(self, threads: usize) -> Result<Self> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).build();
        let pool = pool.map_err(|error| Error::option("threads", error.to_string()))?;
        Ok(self.with_pool(std::sync::Arc::new(pool)))
    }

    /// As this one with each set of instructions that the processor has, best first, for tests and comparisons.
    pub fn levels(&self) -> Vec<Self> {
        Level::all().into_iter().map(|level| Self { level, ..self.clone() }).collect()
    }

    /// The instructions it uses: `AVX-512`, `AVX2`, `NEON`, `SIMD128` or `portable`.
    pub fn instructions(&self) -> &'static str {
        self.level.name()
    }

    /// How many threads share work.
    pub fn thread_count(&self) -> usize {
        self.threads.count()
    }

    /// Bytes of a core's second-level cache: as the processor says, else what most have at least.
    pub fn second_level_cache(&self) -> usize {
        self.cache
    }

    /// What is done for an attention, in words.
    pub fn attention_plan(&self, options: &Attention, problem: &AttentionProblem) -> String {
        if let Some(reason) = attention::handed_over(options) {
            return format!("the reference in f32: {reason}");
        }
        let whole = options.weights || options.entropy;
        attention::Blocks::new(problem, self.processor(), whole).describe(problem, self)
    }

    /// What is done for a recurrence, in words.
    pub fn rnn_plan(&self, options: &Rnn, problem: &RnnProblem) -> String {
        match rnn::handed_over(options) {
            Some(reason) => format!("the reference in f32: {reason}"),
            None => StepCut::new(problem, self.processor()).describe(problem, self),
        }
    }

    fn level(&self) -> Level {
        self.level
    }

    fn threads(&self) -> &Threads {
        &self.threads
    }

    fn processor(&self) -> Processor {
        Processor { lanes: self.level.lanes(), rows: self.level.rows(), cache: self.cache }
    }

    /// Columns of a panel of packed weights.
    fn panel(&self) -> usize {
        2 * self.level.lanes()
    }
}

impl std::fmt::Display for Cpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let threads = self.thread_count();
        write!(f, "the CPU ({}, {threads} {})", self.instructions(), if threads == 1 { "thread" } else { "threads" })
    }
}

impl Backend for Cpu {
    type Value = CpuTensor;
    type Recurrence = CpuRnn;
    type Prepared = Infallible;

    fn constant(&mut self, _: &str, array: &Array<f32>) -> Result<CpuTensor> {
        Ok(array.clone().into())
    }

    fn empty(&mut self, _: &'static str, shape: &[usize]) -> Result<CpuTensor> {
        Ok(Array::filled(shape, 0.0).into())
    }

    fn integers(&mut self, _: &str, array: &Array<u32>) -> Result<Array<u32>> {
        Ok(array.clone())
    }

    fn recurrence(&mut self, options: &Rnn, stack: &RnnStack<Array<f32>>) -> Result<CpuRnn> {
        CpuRnn::new(self, options, stack)
    }

    fn wide(&mut self, _: &str, x: &CpuTensor) -> Result<CpuTensor> {
        Ok(x.wide())
    }

    fn linear(
        &mut self,
        summands: &[(&CpuTensor, &CpuTensor)],
        epilogue: Epilogue<'_, CpuTensor>,
    ) -> Result<CpuTensor> {
        linear::linear(self, summands, epilogue)
    }

    fn attention(
        &mut self,
        options: &Attention,
        inputs: &AttentionInputs<CpuTensor>,
    ) -> Result<AttentionOutputs<CpuTensor>> {
        if attention::handed_over(options).is_none() {
            return attention::attention(self, options, inputs);
        }
        let arrays = inputs.map_numbers(CpuTensor::to_array);
        let outputs = self.threads.inside(|| reference::attention(options, &arrays))?;
        outputs.try_map(|name, array| match name {
            "output" | "present_key" | "present_value" => Ok(inputs.query.alike(array.clone())),
            _ => Ok(array.clone().into()),
        })
    }

    fn rnn(&mut self, recurrence: &CpuRnn, inputs: &RnnInputs<CpuTensor>) -> Result<RnnOutputs<CpuTensor>> {
        recurrence.run(self, inputs)
    }

    fn multiply(&mut self, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
        rows::pairs(self, a, b, |a, b| a * b)
    }

    fn add(&mut self, a: &CpuTensor, b: &CpuTensor) -> Result<CpuTensor> {
        rows::pairs(self, a, b, |a, b| a + b)
    }

    fn activate(&mut self, f: Activation, x: &CpuTensor) -> Result<CpuTensor> {
        Ok(rows::activate(self, f, x))
    }

    fn norm(
        &mut self,
        norm: Norm,
        x: &CpuTensor,
        weight: Option<&CpuTensor>,
        bias: Option<&CpuTensor>,
    ) -> Result<CpuTensor> {
        rows::norm(self, norm, x, weight, bias)
    }

    fn norm_residual(
        &mut self,
        norm: Norm,
        x: &CpuTensor,
        residual: &CpuTensor,
        weight: Option<&CpuTensor>,
        bias: Option<&CpuTensor>,
    ) -> Result<[CpuTensor; 2]> {
        let sum = self.add(x, residual)?;
        Ok([rows::norm(self, norm, &sum, weight, bias)?, sum])
    }

    fn sum(&mut self, x: &CpuTensor) -> Result<CpuTensor> {
        Ok(reference::reduce(&x.to_array(), false, None)?.into())
    }

    fn mean(&mut self, x: &CpuTensor, lengths: Option<&Array<u32>>) -> Result<CpuTensor> {
        Ok(reference::reduce(&x.to_array(), true, lengths)?.into())
    }

    fn log_sum_exp(&mut self, x: &CpuTensor) -> Result<CpuTensor> {
        rows::log_sum_exp(self, x)
    }

    fn top_k(&mut self, x: &CpuTensor, k: usize) -> Result<(CpuTensor, Array<u32>)> {
        rows::top_k(self, x, k)
    }

    fn coverage(
        &mut self,
        alignment: &CpuTensor,
        before: Option<&CpuTensor>,
        cost: CoverageCost,
    ) -> Result<[CpuTensor; 2]> {
        let before = before.map(CpuTensor::to_array);
        let (after, cost) = reference::coverage(&alignment.to_array(), before.as_ref(), cost)?;
        Ok([after.into(), cost.into()])
    }

    fn gather(&mut self, table: &CpuTensor, ids: &Array<u32>) -> Result<CpuTensor> {
        rows::embed(self, table, ids)
    }

    fn rotary(
        &mut self,
        x: &CpuTensor,
        embedding: &RotaryEmbedding<CpuTensor>,
        positions: &Array<u32>,
    ) -> Result<CpuTensor> {
        attention::rotary(x, embedding, positions)
    }

    fn append(
        &mut self,
        caches: [&mut CpuTensor; 2],
        rows: [&CpuTensor; 2],
        starts: &Array<u32>,
        table: Option<&Array<u32>>,
    ) -> Result<()> {
        caches.into_iter().zip(rows).try_for_each(|(cache, rows)| cache.append(rows, starts, table))
    }

    fn reshape(&mut self, x: &CpuTensor, shape: &[usize]) -> Result<CpuTensor> {
        x.reshape(shape)
    }

    fn permute(&mut self, x: &CpuTensor, order: &[usize]) -> Result<CpuTensor> {
        x.gather(&Layout::contiguous(x.shape()).permute(order)?)
    }

    fn slice(&mut self, x: &CpuTensor, axis: usize, start: usize, length: usize) -> Result<CpuTensor> {
        x.gather(&Layout::contiguous(x.shape()).narrow(axis, start, length)?)
    }

    fn broadcast(&mut self, x: &CpuTensor, shape: &[usize]) -> Result<CpuTensor> {
        x.gather(&Layout::contiguous(x.shape()).broadcast(shape)?)
    }

    fn join(&mut self, axis: usize, inputs: &[CpuTensor]) -> Result<CpuTensor> {
        let wide: Vec<CpuTensor> = inputs.iter().map(CpuTensor::wide).collect();
        Ok(join_data(axis, &wide, CpuTensor::data)?.into())
    }

    fn broadcast_integers(&mut self, x: &Array<u32>, shape: &[usize]) -> Result<Array<u32>> {
        repeat(x, shape)
    }

    fn reshape_integers(&mut self, x: &Array<u32>, shape: &[usize]) -> Result<Array<u32>> {
        x.clone().reshape(shape)
    }

    fn join_integers(&mut self, axis: usize, inputs: &[Array<u32>]) -> Result<Array<u32>> {
        join_data(axis, inputs, Array::data)
    }

    fn discard(&mut self) {}

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn prepare(&mut self) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn rewrite(&mut self, integers: &mut Array<u32>, array: &Array<u32>) -> Result<()> {
        rewrite(integers, array)
    }

    async fn finish(
        &mut self,
        _: Option<&mut Infallible>,
        numbers: &[&CpuTensor],
        integers: &[&Array<u32>],
    ) -> Result<OnHost> {
        let numbers = numbers.iter().map(|value| value.to_array()).collect();
        Ok(OnHost { numbers, integers: integers.iter().map(|&value| value.clone()).collect() })
    }
}
