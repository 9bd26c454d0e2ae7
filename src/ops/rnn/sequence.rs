//! A sequence as dispatches: X·W of all steps as one product, then the recurrence on the path the plan has chosen.

use super::weights::{LayerWeights, Weights};
use crate::device::Caps;
use crate::epilogue::Epilogue;
use crate::error::{Error, Result};
use crate::kernels::recurrent::{Recurrence, Stage, StateLayout};
use crate::kernels::{copy, matmul, merge, recurrent, recurrent_loop, recurrent_norm};
use crate::plan::RnnPlan;
use crate::problem::RnnProblem;
use crate::recording::{Recording, View};
use crate::rnn::{Cell, Merge, Reset, Rnn, RnnAlgorithm, RnnInputs, RnnOutputs, Steps};
use crate::tensor::DType;

/// Records a stack on plain views. The outputs are dense views that the caller has made.
///
/// # Errors
/// [`Error::Limit`] when a dispatch does not fit the device.
#[expect(clippy::too_many_arguments, reason = "what is asked, how it is run, on what")]
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    options: &Rnn,
    problem: &RnnProblem,
    plan: &RnnPlan,
    weights: &Weights<View>,
    inputs: &RnnInputs<View>,
    outputs: &RnnOutputs<View>,
) -> Result<()> {
    let sequence = Sequence { caps, options, problem, plan, weights, inputs, outputs };
    match plan.path {
        RnnAlgorithm::Wavefront => sequence.wavefront(recording),
        _ => sequence.layers(recording),
    }
}

struct Sequence<'a> {
    caps: &'a Caps,
    options: &'a Rnn,
    problem: &'a RnnProblem,
    plan: &'a RnnPlan,
    weights: &'a Weights<View>,
    inputs: &'a RnnInputs<View>,
    outputs: &'a RnnOutputs<View>,
}

impl Sequence<'_> {
    /// Where the states of so many layers lie, which shaders index with 32 bits.
    fn state_layout(&self, layers: usize) -> Result<StateLayout> {
        let layout = StateLayout::new(self.options, self.problem);
        let (needed, allowed) = (layers.saturating_mul(layout.layer) as u64, u64::from(u32::MAX));
        if needed > allowed {
            return Err(Error::Limit { what: "elements of the state of a recurrence".into(), needed, allowed });
        }
        Ok(layout)
    }

    /// A scratch tensor [T, B, width] whose rows begin at multiples of 4 elements, so that products read four at a time.
    fn layer_output(&self, recording: &mut Recording, width: usize) -> Result<View> {
        let (steps, batch) = (self.problem.steps, self.problem.batch);
        let whole = recording.scratch("layer output", &[steps, batch, width.next_multiple_of(4)], DType::F32);
        Ok(whole.with(whole.layout.narrow(2, 0, width)?))
    }

    /// Memory for X·W + b of all steps and directions of a layer: [T, B, directions · G · units].
    fn gates(&self, recording: &mut Recording) -> View {
        let p = self.problem;
        let columns = p.directions * self.options.cell.gates() * p.hidden.next_multiple_of(4);
        recording.scratch("gates", &[p.steps, p.batch, columns], DType::F32)
    }

    /// Fills that.
    fn input_product(
        &self,
        recording: &mut Recording,
        layer: &LayerWeights<View>,
        input: &View,
        gates: &View,
    ) -> Result<()> {
        let weight = layer.weight_ih.with(layer.weight_ih.layout.permute(&[1, 0])?);
        let epilogue = Epilogue { bias: layer.bias_ih.as_ref(), ..Epilogue::default() };
        matmul::record(recording, self.caps, &[(input, &weight)], &epilogue, gates)
    }

    /// Puts the initial values of `layers` layers from `first` on into `state`.
    fn start(
        &self,
        recording: &mut Recording,
        layout: StateLayout,
        state: &View,
        first: usize,
        layers: usize,
    ) -> Result<()> {
        let lstm = self.options.cell == Cell::Lstm;
        if self.inputs.initial_h.is_none() || (lstm && self.inputs.initial_c.is_none()) {
            recording.clear(state.slot);
        }
        for l in 0..layers {
            if let Some(h) = &self.inputs.initial_h {
                copy::record(recording, self.caps, &self.of_layer(h, first + l)?, &layout.h(state, l, 0))?;
            }
            if let Some(c) = &self.inputs.initial_c {
                copy::record(recording, self.caps, &self.of_layer(c, first + l)?, &layout.c(state, l))?;
            }
        }
        Ok(())
    }

    /// A layer's part of [layers · directions, B, width].
    fn of_layer(&self, view: &View, layer: usize) -> Result<View> {
        let directions = self.problem.directions;
        Ok(view.with(view.layout.narrow(0, layer * directions, directions)?))
    }

    /// Writes the final state of layer `layer`, which is the `l`-th in `state`.
    fn finish(
        &self,
        recording: &mut Recording,
        layout: StateLayout,
        state: &View,
        l: usize,
        layer: usize,
    ) -> Result<()> {
        let steps = if self.plan.path == RnnAlgorithm::Persistent { 0 } else { self.problem.steps };
        let h = layout.h(state, l, steps);
        copy::record(recording, self.caps, &h, &self.of_layer(&self.outputs.final_h, layer)?)?;
        if let Some(c) = &self.outputs.final_c {
            copy::record(recording, self.caps, &layout.c(state, l), &self.of_layer(c, layer)?)?;
        }
        if layer + 1 == self.problem.layers && self.options.steps == Steps::Last {
            // h [directions, B, P] becomes [B, directions · P], or is merged.
            let p = self.problem;
            let rows = h.with(h.layout.permute(&[1, 0, 2])?);
            let output = &self.outputs.output;
            if self.options.merge == Merge::Concat {
                let each = output.with(output.layout.split(1, p.directions, p.state)?);
                copy::record(recording, self.caps, &rows, &each)?;
            } else {
                let source = rows.with(rows.layout.split(0, 1, p.batch)?);
                let target = output.with(output.layout.split(0, 1, p.batch)?);
                merge::record(recording, self.caps, self.options.merge, &source, &target)?;
            }
        }
        Ok(())
    }

    /// Layer after layer.
    fn layers(&self, recording: &mut Recording) -> Result<()> {
        let p = self.problem;
        let layout = self.state_layout(1)?;
        let mut input = self.inputs.input.clone();
        // The same memory for every layer.
        let gates = self.gates(recording);
        let state = recording.scratch("state", &[layout.layer], DType::F32);
        for (l, layer) in self.weights.layers.iter().enumerate() {
            self.input_product(recording, layer, &input, &gates)?;
            self.start(recording, layout, &state, l, 1)?;
            let top = l + 1 == p.layers;
            let emit = !(top && self.options.steps == Steps::Last);
            let merged = match (top, emit) {
                (true, true) => self.outputs.output.clone(),
                (true, false) => recording.scratch("no output", &[1, 1, p.directions * p.state], DType::F32),
                (false, _) => self.layer_output(recording, p.width)?,
            };
            let concat = self.options.merge == Merge::Concat || !emit;
            let output = if concat {
                merged.with(merged.layout.split(2, p.directions, p.state)?)
            } else {
                recording.scratch("output of both directions", &[p.steps, p.batch, p.directions, p.state], DType::F32)
            };
            let recurrence = Recurrence {
                options: self.options,
                problem: p,
                gates: &gates,
                weight: &layer.weight_hh,
                weight_below: None,
                projection: layer.weight_hr.as_ref(),
                vectors: layer.vectors.as_ref(),
                has_bias: self.weights.has_bias,
                peepholes: self.weights.peepholes,
                norms: layer.norms.as_ref(),
                lengths: self.inputs.lengths.as_ref(),
                state: &state,
                output: &output,
                emit,
            };
            match &self.plan.persistent {
                Some(plan) => recurrent_loop::record(recording, self.caps, plan, &recurrence)?,
                None => (0..p.steps).try_for_each(|step| self.step(recording, &recurrence, step))?,
            }
            if !concat {
                merge::record(recording, self.caps, self.options.merge, &output, &merged)?;
            }
            self.finish(recording, layout, &state, 0, l)?;
            input = merged;
        }
        Ok(())
    }

    /// The dispatches of one step of one layer.
    fn step(&self, recording: &mut Recording, of: &Recurrence<'_>, step: usize) -> Result<()> {
        let mut stage = |stage: Stage| recurrent::record(recording, self.caps, self.plan.step, of, stage, step);
        match self.options.cell {
            Cell::Gru { reset: Reset::Before } => {
                stage(Stage::Reset)?;
                stage(Stage::Update)?;
            }
            _ if self.options.layer_norm.is_some() => {
                stage(Stage::Product)?;
                recurrent_norm::record(recording, self.caps, of, step)?;
            }
            _ => stage(Stage::Step)?,
        }
        if of.projection.is_some() {
            recurrent::record(recording, self.caps, self.plan.step, of, Stage::Project, step)?;
        }
        Ok(())
    }

    /// All layers at once, each a step behind the one below it.
    fn wavefront(&self, recording: &mut Recording) -> Result<()> {
        let p = self.problem;
        let layout = self.state_layout(p.layers)?;
        let Some(stack) = &self.weights.stacked else {
            return Err(Error::missing("weights of all layers", "in one piece, for a wavefront"));
        };
        let gates = self.gates(recording);
        self.input_product(recording, &self.weights.layers[0], &self.inputs.input, &gates)?;
        let state = recording.scratch("state", &[p.layers * layout.layer], DType::F32);
        self.start(recording, layout, &state, 0, p.layers)?;
        let emit = self.options.steps == Steps::All;
        let output = match self.options.steps {
            Steps::All => self.outputs.output.with(self.outputs.output.layout.split(2, 1, p.state)?),
            Steps::Last => recording.scratch("no output", &[1, 1, 1, p.state], DType::F32),
        };
        let recurrence = Recurrence {
            options: self.options,
            problem: p,
            gates: &gates,
            weight: &stack.weight_hh,
            weight_below: Some(&stack.weight_ih),
            projection: None,
            vectors: stack.vectors.as_ref(),
            has_bias: self.weights.stacked_bias,
            peepholes: self.weights.peepholes,
            norms: None,
            lengths: self.inputs.lengths.as_ref(),
            state: &state,
            output: &output,
            emit,
        };
        for step in 0..p.steps + p.layers - 1 {
            recurrent::record(recording, self.caps, self.plan.step, &recurrence, Stage::Step, step)?;
        }
        (0..p.layers).try_for_each(|l| self.finish(recording, layout, &state, l, l))
    }
}
