//! Modules without run-time checks: of which dispatches it is proved that they need none, what the proofs look at, and who gets
//! such a module. The case table with and without checks, bit for bit, is two configurations of `table.rs`.

use std::collections::{BTreeMap, BTreeSet};

use regard::attention::{Algorithm, Attention, AttentionInputs, Causal, ScoreMod};
use regard::bounds;
use regard::device::{Caps, DeviceKind};
use regard::gpu::{Gpu, Run};
use regard::recording::{Binding, Dispatch, Recording, Slot};
use regard::tensor::DType;
use regard::wgsl::UniformType;
use regard::{Result, Tensor};

use crate::gpu::{cards, gpu, open};
use crate::recordings;

/// Recordings of all kinds, on a card and on the CPU.
fn every_kind() -> Vec<Recording> {
    [DeviceKind::Discrete, DeviceKind::Software]
        .into_iter()
        .flat_map(|kind| {
            let caps = Caps::of(kind).with(|caps| {
                (caps.f16, caps.subgroups, caps.min_subgroup, caps.max_subgroup) = (true, true, 8, 32);
                (caps.max_storage_buffers, caps.max_workgroup_bytes) = (16, 32 << 10);
            });
            recordings::every_kind(&caps)
        })
        .collect()
}

fn is_proved(dispatch: &Dispatch, recording: &Recording) -> bool {
    bounds::holds(dispatch, &|slot| Some(recording.info(slot)?.bytes))
}

fn name(dispatch: &Dispatch) -> &str {
    dispatch.variant.kernel.name()
}

/// Proved dispatches, each with its recording.
fn proved(recordings: &[Recording]) -> impl Iterator<Item = (&Recording, &Dispatch)> {
    let all = recordings.iter().flat_map(|recording| recording.dispatches().map(move |dispatch| (recording, dispatch)));
    all.filter(|(recording, dispatch)| is_proved(dispatch, recording))
}

/// What the planner makes is proved, but for score functions and for operands in quads whose last iteration ends past them.
#[test]
fn what_is_planned_is_proved() {
    let recordings = every_kind();
    let mut counts: BTreeMap<&str, [usize; 2]> = bounds::PROOFS.iter().map(|(name, _)| (*name, [0; 2])).collect();
    for (recording, dispatch) in recordings.iter().flat_map(|r| r.dispatches().map(move |dispatch| (r, dispatch))) {
        let holds = is_proved(dispatch, recording);
        assert!(!holds || dispatch.variant.score_mod.is_none(), "{}", dispatch.variant.label());
        match counts.get_mut(name(dispatch)) {
            Some(counts) if dispatch.variant.score_mod.is_none() => counts[usize::from(holds)] += 1,
            Some(_) => {}
            None => assert!(!holds, "{}", dispatch.variant.label()),
        }
    }
    for (kernel, [not, proved]) in counts {
        println!("{kernel}: {proved} proved, {not} not");
        // The shapes here are odd ones: products whose depth is no multiple of a tile's have checks.
        assert!(
            proved > not / 2 && (proved > not || kernel.starts_with("matmul")),
            "{kernel}: {proved} proved, {not} not"
        );
    }
}

/// A buffer that is bound for nothing, as no statistics are stored.
fn is_spare(recording: &Recording, slot: Slot) -> bool {
    recording.info(slot).is_none_or(|info| info.name == "no stats")
}

/// No proof holds of a buffer that is shorter than what is in it.
#[test]
fn a_buffer_of_half_the_length_is_not_enough() {
    let recordings = every_kind();
    let mut seen: BTreeMap<(String, &str), [usize; 2]> = BTreeMap::new();
    for (recording, dispatch) in proved(&recordings) {
        let kernel = dispatch.variant.kernel.built_in().unwrap();
        for (binding, buffer) in dispatch.bindings.iter().zip(kernel.buffers) {
            let (Binding::Read(slot) | Binding::Write(slot)) = *binding else { continue };
            if is_spare(recording, slot) {
                continue;
            }
            let shorter = |part: u64| {
                let bytes = |s: Slot| Some(recording.info(s)?.bytes / if s == slot { part } else { 1 });
                bounds::holds(dispatch, &bytes)
            };
            let counts = seen.entry((name(dispatch).to_owned(), buffer.name)).or_default();
            counts[usize::from(shorter(u64::MAX))] += 1;
            counts[0] += usize::from(!shorter(2));
        }
    }
    for ((kernel, buffer), [refused, taken]) in &seen {
        println!("{kernel} {buffer}: {refused} refused, {taken} taken of an empty buffer");
        assert!(*refused > 0, "{kernel}: `{buffer}` may be of any length");
    }
}

/// Each word of a uniform with its name; of an array the first.
fn words(ty: &UniformType, at: usize, name: &str, to: &mut Vec<(String, usize)>) {
    for member in ty.members {
        let (name, at) = (format!("{name}{}", member.name), at + member.offset);
        if member.ty.members.is_empty() {
            to.extend((0..member.ty.size / 4).map(|n| (format!("{name}[{n}]"), at + 4 * n)));
        } else {
            words(member.ty, at, &format!("{name}."), to);
        }
    }
}

/// Every parameter that an index is made of is looked at: somewhere a proof fails where it lies.
#[test]
fn a_parameter_that_lies_is_found_out() {
    const ATTENTION: &str = "batch heads group row_tiles splits tiles head_quads value_quads positions.queries positions.keys \
        query.offset query.strides[0] query.strides[1] query.strides[2] key.offset key.strides[0] key.strides[1] key.strides[2] \
        value.offset value.strides[2] output.offset output.strides[2]";
    const SHORT_LISTS: &str = "positions.kv_lengths[0] positions.cu_seqlens_q[0] positions.cu_seqlens_k[1] positions.sequences \
        mask.view.offset mask.view.strides[3] blocks.view.offset blocks.queries blocks.keys pages.start \
        pages.page_step pages.count stats.offset";
    const PRODUCT: &str = "x.offset w.offset y.offset x.strides[2] w.strides[2] y.strides[2] rows batches row_tiles column_tiles \
        tiles w.shape[3] bias";
    const STEP: &str = "output.offset output.strides[0] batch units depth gate_count quads row_quads directions row_tiles \
        unit_tiles tiles step steps first_layer layer_state operand result old row_state sums vector_rows lengths weight_start \
        below_start vectors_start input_depth operand_flip result_flip";
    const STEPS: &str = "output.offset batch units gate_count directions hidden row_stride row_state vector_rows lengths \
        weight_start vectors_start last steps";
    let looked_at = [
        ("flash", vec![ATTENTION]),
        ("flash_rows", vec![ATTENTION]),
        ("flash_split", vec![ATTENTION, SHORT_LISTS, "v[0] units"]),
        ("matmul", vec![PRODUCT, "splits split_quads bias_stride residual.offset"]),
        ("matmul_tiled", vec![PRODUCT]),
        ("matmul_sum", vec!["x.offset rows batches splits y.offset"]),
        ("recurrent", vec![STEP]),
        ("recurrent_loop", vec![STEPS]),
    ];
    assert!(bounds::PROOFS.iter().map(|(name, _)| *name).eq(looked_at.iter().map(|(name, _)| *name)));
    let recordings = every_kind();
    let mut found: BTreeSet<(&str, String)> = BTreeSet::new();
    for (recording, dispatch) in proved(&recordings) {
        let kernel = dispatch.variant.kernel.built_in().unwrap();
        let mut all = Vec::new();
        words(kernel.params, 0, "", &mut all);
        for (word, at) in all {
            let mut lying = dispatch.clone();
            lying.params[at..at + 4].copy_from_slice(&0x7fff_fff0u32.to_le_bytes());
            if !found.contains(&(kernel.name, word.clone())) && !is_proved(&lying, recording) {
                found.insert((kernel.name, word));
            }
        }
    }
    let wanted = looked_at.iter().flat_map(|(name, lists)| {
        let words = lists.iter().flat_map(|list| list.split_whitespace());
        words.map(move |word| (*name, if word.ends_with(']') { word.to_owned() } else { format!("{word}[0]") }))
    });
    let missed: Vec<_> = wanted.filter(|word| !found.contains(word)).collect();
    assert!(missed.is_empty(), "{missed:?}");
}

/// Pipelines that a run builds on a device, and those of them without checks.
fn built(gpu: &Gpu, record: impl FnOnce(&mut Run<'_>) -> Result<()>) -> [u64; 2] {
    let before = gpu.counts();
    let mut run = Run::new(gpu);
    record(&mut run).and_then(|()| run.prepare().map(drop)).unwrap();
    let after = gpu.counts();
    [after.pipelines - before.pipelines, after.trusted - before.trusted]
}

/// Attention of 70 queries over as many keys.
fn attend(options: &Attention) -> impl Fn(&mut Run<'_>) -> Result<()> {
    move |run| {
        let tensor = |name: &'static str| Tensor::uninitialized(run.gpu(), name, &[1, 2, 70, 64], DType::F32);
        let inputs = AttentionInputs::new(tensor("query")?, tensor("key")?, tensor("value")?);
        options.record(run, &inputs).map(drop)
    }
}

#[test]
fn only_what_is_proved_goes_without_checks() {
    let fused = Attention { path: Algorithm::Fused, causal: Some(Causal::TopLeft), ..Attention::default() };
    for plain in [gpu(), cards()[0]] {
        // A device of its own, whose pipelines nobody else builds.
        let gpu = open(regard::gpu::Open { trusted: true, as_card: !plain.caps().software, ..Default::default() });
        assert_eq!(built(&gpu, attend(&fused))[1], 1);
        let user = "fn score_mod(score: f32, b: u32, h: u32, i: u32, j: u32) -> f32 { return score; }";
        let scored = Attention { score_mod: Some(ScoreMod::new(user, None)), ..fused.clone() };
        assert_eq!(built(&gpu, attend(&scored))[1], 0);
        // One key more than there are, told by hand: the same program, with checks.
        let lie = |run: &mut Run<'_>| {
            attend(&fused)(run)?;
            let mut dispatch = run.recording().dispatches().next().unwrap().clone();
            let mut all = Vec::new();
            words(dispatch.variant.kernel.built_in().unwrap().params, 0, "", &mut all);
            let (_, at) = all.iter().find(|(word, _)| word == "positions.keys[0]").unwrap();
            dispatch.params[*at..at + 4].copy_from_slice(&71u32.to_le_bytes());
            run.recording_mut().push(dispatch);
            Ok(())
        };
        assert_eq!(built(&gpu, lie), [1, 0]);
    }
}
