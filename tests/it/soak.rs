//! The short form of `examples/soak`: answers right from many threads, pools bounded.

#[path = "../../examples/soak/work.rs"]
mod work;

use regard::gpu::Open;
use work::Soak;

use crate::gpu::open;

#[test]
fn mixed_calls_from_many_threads_are_right_and_leave_nothing_behind() {
    let gpu = open(Open::default());
    let soak = Soak::new(&gpu, 307).unwrap();
    let warm = soak.run(&gpu, 500, 8, |_| {});
    let done = soak.run(&gpu, 1500, 8, |_| {});
    println!("{} kinds; {warm:?}, then {done:?}", soak.kinds());
    assert_eq!((warm.calls, done.calls), (500, 1500));
    assert_eq!((warm.wrong, done.wrong), (0, 0));
    assert!(warm.refused > 0 && done.refused > warm.refused);
    assert!(done.pipelines <= warm.pipelines + warm.pipelines / 10, "{done:?}");
    assert!(done.scratch <= 4 * warm.scratch.max(1 << 20), "{done:?}");
    if let (Some(before), Some(after)) = (warm.resident, done.resident) {
        assert!(after <= before + before / 4 + (32 << 20), "{before} bytes resident, then {after}");
    }
}
