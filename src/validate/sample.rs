//! Which cases a smaller sample runs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use super::{Job, Sample};
use crate::gpu::{Gpu, Run};
use crate::wgsl::{ParamsSpace, Variant};

/// What a job is an example of, and what it costs; texts by number.
#[derive(Default)]
struct Shown {
    aspects: BTreeSet<usize>,
    /// Programs, each with the length of the text that a compiler has to read.
    programs: BTreeMap<usize, usize>,
}

/// Numbers for texts or programs, in the order in which they come.
struct Numbers<T>(HashMap<T, usize>);

impl<T: Eq + Hash> Numbers<T> {
    fn of(&mut self, what: T) -> usize {
        let next = self.0.len();
        *self.0.entry(what).or_insert(next)
    }
}

/// The jobs of a sample, those of the same programs one after the other: some drivers forget programs when there are many.
pub(super) fn of(sample: Sample, gpu: &Gpu, jobs: Vec<Job>) -> Vec<Job> {
    let (mut aspects, mut programs) = (Numbers(HashMap::new()), Numbers(HashMap::new()));
    let shown = |job: &Job| {
        let mut shown = Shown::default();
        each_variant(job, gpu, |path, variant, text| {
            let program = programs.of(variant.clone());
            shown.programs.entry(program).or_insert_with(text);
            shown.aspects.extend(path.iter().cloned().chain(shown_by(variant, sample)).map(|text| aspects.of(text)));
        });
        shown
    };
    let shown: Vec<Shown> = jobs.iter().map(shown).collect();
    let chosen = if sample == Sample::All { (0..programs.0.len()).collect() } else { choose(&shown) };
    let runs = |shown: &Shown| shown.programs.keys().all(|program| chosen.contains(program));
    let mut taken: Vec<(Job, Shown)> = jobs.into_iter().zip(shown).filter(|(_, shown)| runs(shown)).collect();
    // By the longest program first.
    taken.sort_by_cached_key(|(_, shown)| {
        let mut programs: Vec<_> = shown.programs.iter().map(|(&program, &text)| (Reverse(text), program)).collect();
        programs.sort();
        programs
    });
    taken.into_iter().map(|(job, _)| job).collect()
}

/// Programs that together show everything. They are chosen one job after the other, each time that one whose programs
/// show the most that is new for each program that a compiler has yet to read. Their texts have no say: the sample stays
/// the same when a kernel is reworded.
fn choose(shown: &[Shown]) -> BTreeSet<usize> {
    let (mut chosen, mut seen) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let worth = |shown: &Shown| {
            let new = shown.aspects.difference(&seen).count();
            let programs = shown.programs.keys().filter(|key| !chosen.contains(*key)).count();
            (new > 0).then(|| new as f64 / programs.max(1) as f64)
        };
        let candidates = shown.iter().filter_map(|shown| Some((worth(shown)?, shown)));
        // The first of several that are alike.
        let best = candidates.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let Some((_, best)) = best else { return chosen };
        chosen.extend(best.programs.keys());
        seen.extend(&best.aspects);
    }
}

/// The kernels and paths of some jobs.
pub(super) fn kernels_and_paths(jobs: &[Job], gpu: &Gpu) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for job in jobs {
        each_variant(job, gpu, |path, variant, _| {
            names.extend(path.iter().cloned().chain(shown_by(variant, Sample::Kernels)));
        });
    }
    names
}

/// Records a job and calls `found` with its path, each of its variants and the length of that one's source. What is refused
/// has none: it is reported when it is run.
fn each_variant(job: &Job, gpu: &Gpu, mut found: impl FnMut(&Option<String>, &Variant, &dyn Fn() -> usize)) {
    let mut run = Run::new(gpu);
    if job.case.record(&mut run, job.storage, job.plan.as_ref()).is_err() {
        return;
    }
    let path = job.case.path(job.storage, gpu.caps());
    let mut last = None;
    for dispatch in run.recording().dispatches() {
        // The steps of a sequence are alike.
        if last.replace(&dispatch.variant) != Some(&dispatch.variant) {
            let space = ParamsSpace::of(gpu.caps(), dispatch.bindings.len());
            found(&path, &dispatch.variant, &|| dispatch.variant.source(space).len());
        }
    }
    // What was uploaded for nothing waits for the next submission, and memory for its end. A lost device is reported by the run.
    drop(run);
    gpu.queue().submit([]);
    let _ = gpu.poll(wgpu::PollType::wait_indefinitely());
}

/// What a program is an example of: its kernel, and in a quick sample each type and constant of it.
fn shown_by(variant: &Variant, sample: Sample) -> Vec<String> {
    let kernel = variant.kernel.name();
    let mut shown = vec![kernel.to_owned()];
    if sample == Sample::Quick {
        shown.extend(variant.subgroups.then(|| format!("{kernel} by subgroups")));
        shown.extend(variant.aliases.iter().map(|(alias, dtype)| format!("{kernel} {alias}={dtype}")));
        shown.extend(variant.overrides.iter().map(|(name, value)| format!("{kernel} {name}={value}")));
    }
    shown
}
