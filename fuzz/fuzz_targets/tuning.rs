//! Any bytes as a file of measured choices, and plans made with what was read.
#![no_main]
#![allow(dead_code, unused_imports)]

include!("program.rs");

use regard::attention::{Attention, AttentionInputs};
use regard::device::Caps;
use regard::plan::AttentionPlan;
use regard::problem::AttentionProblem;
use regard::tensor::DType;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok((tuning, rates)) = kept::parse(data) else { return };
    // The problems that the choices are for, and some beside them.
    let buckets: Vec<_> = tuning.iter().map(|(bucket, _)| *bucket).collect();
    let caps = [false, true].map(|software| {
        Caps::default().with(|caps| {
            caps.software = software;
            caps.max_storage_buffers = 16;
            caps.rates = rates.unwrap_or(caps.rates);
        })
    });
    for bucket in buckets.iter().take(8) {
        let kv = bucket.heads.clamp(1, 1 << 20);
        let query = [1, kv.saturating_mul(bucket.group.clamp(1, 1 << 10)), bucket.queries, bucket.score_dim];
        let (key, value) = ([1, kv, bucket.keys, bucket.score_dim], [1, kv, bucket.keys, bucket.value_dim]);
        let options = Attention::default();
        let inputs = AttentionInputs::new(&query[..], &key[..], &value[..]);
        let Ok(problem) = AttentionProblem::new(&options, &inputs) else { continue };
        for caps in &caps {
            let chosen = AttentionPlan::tuned(&options, &problem, DType::F32, caps, &tuning);
            let Ok(fused) = chosen.map(|plan| plan.fused) else { continue };
            let candidates = AttentionPlan::candidates(&options, &problem, DType::F32, caps).unwrap_or_default();
            assert!(fused.is_err() || fused.is_ok_and(|plan| candidates.contains(&plan)));
        }
    }
});
