//! Long recordings: watchdogs count submissions, so a recording that would keep the device busy for too long is submitted
//! in several.

use std::time::Duration;

use super::{Chunk, chunks};
use crate::device::Caps;
use crate::recording::{Command, Dispatch, Recording};

/// Neighbouring commands, or chunks of them, that are submitted together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Submission {
    /// In order.
    pub steps: Vec<Step>,
    /// How long they take at most, by [`Rates::longest`](crate::device::Rates::longest), with what launching them costs.
    pub takes: Duration,
}

/// A command of a recording, or some of the chunks that it is run in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Number of the command.
    pub command: usize,
    /// Of a dispatch, the [chunks](chunks()) that belong here; none of a fill with zeros.
    pub chunks: Vec<Chunk>,
    /// It begins here.
    pub first: bool,
    /// It ends here.
    pub last: bool,
}

/// The submissions that a recording is run in, one after the other: as few as keep each within
/// [`Caps::longest_submission`], as far as the [chunks](chunks()) of its dispatches can be parted. At least one.
pub fn submissions(recording: &Recording, caps: &Caps) -> Vec<Submission> {
    within(recording, caps, caps.longest_submission)
}

/// As [`submissions`], all in one.
pub(crate) fn whole(recording: &Recording, caps: &Caps) -> Submission {
    within(recording, caps, Duration::MAX).pop().unwrap_or_default()
}

fn within(recording: &Recording, caps: &Caps, longest: Duration) -> Vec<Submission> {
    let mut done = Vec::new();
    let mut current = Submission::default();
    let mut next = |current: &mut Submission, takes: Duration| {
        let sum = current.takes.saturating_add(takes);
        let full = sum > longest && !current.steps.is_empty();
        if full {
            done.push(std::mem::take(current));
        }
        current.takes = if full { takes } else { sum };
    };
    for (command, what) in recording.commands().iter().enumerate() {
        match what {
            Command::Clear(slot) => {
                let bytes = recording.info(*slot).map_or(0, |info| info.bytes);
                next(&mut current, launch(caps) + caps.rates.longest(0, bytes));
                current.steps.push(Step { command, chunks: Vec::new(), first: true, last: true });
            }
            Command::Dispatch(dispatch) => {
                let chunks = chunks(dispatch, caps);
                if let [whole] = chunks[..] {
                    next(&mut current, chunk_time(dispatch, whole, caps));
                    current.steps.push(Step { command, chunks, first: true, last: true });
                    continue;
                }
                let count = chunks.len();
                for (number, chunk) in chunks.into_iter().enumerate() {
                    next(&mut current, chunk_time(dispatch, chunk, caps));
                    let last = number + 1 == count;
                    match current.steps.last_mut().filter(|step| step.command == command) {
                        Some(step) => {
                            step.chunks.push(chunk);
                            step.last = last;
                        }
                        None => current.steps.push(Step { command, chunks: vec![chunk], first: number == 0, last }),
                    }
                }
            }
        }
    }
    done.push(current);
    done
}

/// What launching something costs beside its work.
fn launch(caps: &Caps) -> Duration {
    Duration::from_nanos(caps.rates.dispatch as u64)
}

/// How long a chunk of a dispatch takes. Fewer workgroups than the device runs side by side leave the rest of it idle.
fn chunk_time(dispatch: &Dispatch, chunk: Chunk, caps: &Caps) -> Duration {
    let count = |[x, y]: [u32; 2]| (u64::from(x) * u64::from(y)).max(1);
    let (own, all) = (count(chunk.grid), count(dispatch.grid));
    let share = |n: u64| match own == all {
        true => n,
        false => u64::try_from(u128::from(n) * u128::from(own) / u128::from(all)).unwrap_or(u64::MAX),
    };
    let busy = caps.rates.longest(share(dispatch.flops), share(dispatch.bytes));
    let workers = u64::from(caps.workers.max(1));
    let waves = busy.as_nanos() * u128::from(workers) / u128::from(own.min(workers));
    launch(caps) + Duration::from_nanos(u64::try_from(waves).unwrap_or(u64::MAX / 2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::chunks::tests::dispatch;
    use crate::tensor::DType;

    /// Dispatches of so many workgroups and operations, with a fill before the third.
    fn recording(dispatches: &[([u32; 2], u64)]) -> Recording {
        let mut recording = Recording::new();
        let scratch = recording.scratch("x", &[1 << 20], DType::F32);
        for (number, &(grid, flops)) in dispatches.iter().enumerate() {
            if number == 2 {
                recording.clear(scratch.slot);
            }
            recording.push(dispatch(grid, flops, 0));
        }
        recording
    }

    #[test]
    fn every_part_is_in_one_submission_in_order_and_none_is_longer_than_it_must() {
        let work = [([64, 1], 1 << 20), ([1000, 17], 1 << 33), ([1, 1], 1 << 24), ([640, 1], 1 << 22), ([0, 1], 0)];
        let recording = recording(&work);
        for micros in [0, 50, 500, 5000, 500_000, u64::MAX] {
            let longest = Duration::from_micros(micros);
            let caps = Caps::default().with(|caps| {
                caps.longest_dispatch = Duration::from_millis(2);
                caps.longest_submission = longest;
            });
            let submissions = submissions(&recording, &caps);
            let (mut expected, mut position, mut begun) = (Vec::new(), 0, false);
            for submission in &submissions {
                let pieces: usize = submission.steps.iter().map(|step| step.chunks.len().max(1)).sum();
                assert!(pieces == 1 || submission.takes <= longest, "{micros}: {:?}", submission.takes);
                for step in &submission.steps {
                    assert_eq!((step.command, step.first), (position, !begun));
                    (position, begun) = (position + usize::from(step.last), !step.last);
                    expected.extend(step.chunks.iter().map(|chunk| (step.command, *chunk)));
                }
            }
            assert_eq!(position, recording.commands().len(), "{micros}");
            let all = recording.commands().iter().enumerate().filter_map(|(number, command)| match command {
                Command::Dispatch(dispatch) => Some((number, chunks(dispatch, &caps))),
                Command::Clear(_) => None,
            });
            let all: Vec<_> = all.flat_map(|(number, chunks)| chunks.into_iter().map(move |p| (number, p))).collect();
            assert_eq!(expected, all, "{micros}");
            // Two neighbours would not have fitted into one.
            assert!(submissions.windows(2).all(|pair| pair[0].takes + pair[1].takes > longest), "{micros}");
            assert_eq!(submissions.len() == 1, micros == u64::MAX || micros == 500_000, "{micros}");
            let sum: Duration = submissions.iter().map(|submission| submission.takes).sum();
            assert_eq!(sum, whole(&recording, &caps).takes);
        }
        assert_eq!(super::submissions(&Recording::new(), &Caps::default()), [Submission::default()]);
    }

    /// A single workgroup has a share of the device; a thousand launches of nothing take their time too.
    #[test]
    fn idle_lanes_and_launches_count() {
        let caps = Caps::default();
        let time = |work: &[([u32; 2], u64)]| whole(&recording(work), &caps).takes;
        assert!(time(&[([1, 1], 1 << 24)]) > 30 * time(&[([640, 1], 1 << 24)]));
        assert!(time(&[([1, 1], 0); 1000]) >= Duration::from_millis(3));
    }
}
