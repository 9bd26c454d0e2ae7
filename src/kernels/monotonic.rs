//! Monotonic alignments (`shaders/monotonic.wgsl`).

use super::visibility::{List, Visibility};
use super::{View4, switch};
use crate::attention::Monotonic;
use crate::device::Caps;
use crate::error::{Error, Result};
use crate::plan::{RowPlan, grid};
use crate::recording::{Binding, Dispatch, Recording, View};
use crate::wgsl::{Buffer, Kernel, Source, Uniform, Variant, file, files, params};

pub static KERNEL: Kernel = Kernel {
    name: "monotonic",
    sources: &[
        Source::File(&files::LAYOUT),
        Source::File(&files::MATH),
        Source::File(&files::HIDDEN),
        Source::File(&files::REDUCE_SHARED),
        Source::File(&file!("monotonic.wgsl", ["MODE", "TEMPERATURE", "START", "KEY_LENGTHS"])),
    ],
    buffers: &[Buffer::write("scores", "f32"), Buffer::write("alignment", "f32"), Buffer::read("vectors", "u32")],
    params: &Params::TYPE,
};

params! {
    /// Uniform of `monotonic.wgsl`.
    struct Params {
        scores: View4,
        alignment: View4,
        heads: u32,
        temperature: f32,
        not_a_number: f32,
        kv_lengths: List,
    }
}

/// The alignment before the first query of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// All of it at key 0.
    AtFirstKey,
    /// As the caller gave it; what lies past the key lengths does not count.
    Given,
    /// As the call before left it.
    Carried,
}

/// Turns scores [B, Hq, Nq', Nk] (f32, hidden ones marked) into alignments, in place, one query after the other;
/// `alignment` [B, Hq, 1, Nk] holds the one before the first query, unless all of that is at key 0, and then the one after
/// the last.
///
/// # Errors
/// [`Error::Shape`] when the shapes do not fit, [`Error::Limit`] when a row or the grid does not.
pub fn record(
    recording: &mut Recording,
    caps: &Caps,
    form: Monotonic,
    visibility: &Visibility,
    temperature: Option<f32>,
    before: Before,
    [scores, alignment]: [&View; 2],
) -> Result<()> {
    let &[batch, heads, queries, keys] = scores.shape() else {
        return Err(Error::shape("scores", "rank", 4, scores.shape().len()));
    };
    if alignment.shape() != [batch, heads, 1, keys] {
        let expected = format!("[{batch}, {heads}, 1, {keys}]");
        return Err(Error::shape("alignment", "shape", expected, format!("{:?}", alignment.shape())));
    }
    let row = RowPlan::new("a monotonic alignment", batch * heads, keys, 4, caps)?;
    // Four walks over a stretch, and twice the stretches before it.
    let per_query = row.iterations + 2 * (u64::from(row.lanes) + 1) + 1;
    let at_once = (caps.max_iterations.saturating_sub(row.iterations) / per_query) as usize;
    if at_once == 0 {
        let what = format!("loop iterations of a monotonic alignment over {keys} keys");
        return Err(Error::Limit { what, needed: per_query, allowed: caps.max_iterations });
    }
    for first in (0..queries).step_by(at_once) {
        let count = at_once.min(queries - first);
        let params = Params {
            scores: View4::new(&scores.with(scores.layout.narrow(2, first, count)?))?,
            alignment: View4::new(alignment)?,
            heads: (batch * heads) as u32,
            temperature: temperature.unwrap_or(1.0),
            not_a_number: f32::NAN,
            kv_lengths: visibility.positions.kv_lengths,
        };
        let form = match form {
            Monotonic::Parallel => 0,
            Monotonic::Recursive => 1,
            Monotonic::Hard => 2,
        };
        recording.push(Dispatch {
            variant: Variant::new(
                &KERNEL,
                [],
                [
                    ("LANES", f64::from(row.lanes)),
                    ("MODE", f64::from(form)),
                    ("TEMPERATURE", switch(temperature.is_some())),
                    ("START", switch(before == Before::AtFirstKey && first == 0)),
                    match before == Before::Given && first == 0 {
                        true => visibility.key_lengths(),
                        false => ("KEY_LENGTHS", 0.0),
                    },
                ],
            ),
            params: params.bytes(),
            bindings: vec![Binding::Write(scores.slot), Binding::Write(alignment.slot), visibility.vectors],
            grid: grid("a monotonic alignment", (batch * heads) as u64, caps)?,
            iterations: per_query * count as u64 + row.iterations,
            workgroup_bytes: 0,
            flops: 8 * (batch * heads * count * keys) as u64,
            bytes: 8 * (batch * heads * count * keys) as u64,
        });
    }
    Ok(())
}
