//! Which cases a smaller sample runs.

use std::collections::{BTreeMap, BTreeSet};

use super::{Job, Sample};
use crate::gpu::{Gpu, Run};
use crate::wgsl::Variant;

/// A program by its key, and how much text a compiler has to read for it.
type Programs = BTreeMap<String, usize>;

/// The jobs of a sample. Programs are chosen one job after the other, each time that one whose programs show the most that
/// is new for the text that a compiler has yet to read; then every job is taken that the chosen programs run.
pub(super) fn of(sample: Sample, gpu: &Gpu, jobs: Vec<Job>) -> Vec<Job> {
    if sample == Sample::All {
        return jobs;
    }
    let shown: Vec<(Programs, BTreeSet<String>)> = jobs.iter().map(|job| shown(job, gpu, sample)).collect();
    let (mut chosen, mut seen) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let worth = |(programs, aspects): &(Programs, BTreeSet<String>)| {
            let new = aspects.iter().filter(|aspect| !seen.contains(*aspect)).count();
            let text: usize = programs.iter().filter(|(key, _)| !chosen.contains(*key)).map(|(_, text)| text).sum();
            (new > 0).then(|| new as f64 / (1 + text) as f64)
        };
        let candidates = shown.iter().filter_map(|shown| Some((worth(shown)?, shown)));
        // The first of several that are alike.
        let best = candidates.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let Some((_, (programs, aspects))) = best else { break };
        chosen.extend(programs.keys());
        seen.extend(aspects);
    }
    let runs = |(programs, _): &(Programs, BTreeSet<String>)| programs.keys().all(|key| chosen.contains(key));
    jobs.into_iter().zip(&shown).filter(|(_, shown)| runs(shown)).map(|(job, _)| job).collect()
}

/// The programs of a job, and what it is an example of. What is refused has none: it is told when it is run.
pub(super) fn shown(job: &Job, gpu: &Gpu, sample: Sample) -> (Programs, BTreeSet<String>) {
    let mut run = Run::new(gpu);
    let (mut programs, mut aspects) = (Programs::new(), BTreeSet::new());
    if job.case.record(&mut run, job.storage, job.plan.as_ref()).is_ok() {
        aspects.extend(job.case.path(job.storage, gpu.caps()));
        for dispatch in run.recording().dispatches() {
            let space = gpu.caps().params_space(dispatch.bindings.len());
            programs.entry(dispatch.variant.key()).or_insert_with(|| dispatch.variant.source(space).len());
            aspects.extend(aspects_of(&dispatch.variant, sample));
        }
    }
    (programs, aspects)
}

/// What a program is an example of: its kernel, and in a quick sample each type and constant of it.
fn aspects_of(variant: &Variant, sample: Sample) -> Vec<String> {
    let kernel = variant.kernel.name();
    let mut aspects = vec![kernel.to_owned()];
    if sample == Sample::Quick {
        aspects.extend(variant.subgroups.then(|| format!("{kernel} by subgroups")));
        aspects.extend(variant.aliases.iter().map(|(alias, dtype)| format!("{kernel} {alias}={dtype}")));
        aspects.extend(variant.overrides.iter().map(|(name, value)| format!("{kernel} {name}={value}")));
    }
    aspects
}
