// The program's own files, under the names that they know each other by.
#[path = "../../src/cli/attend.rs"]
mod attend;
#[path = "../../src/cli/bench.rs"]
mod bench;
#[path = "../../src/cli/chart.rs"]
mod chart;
#[path = "../../src/cli/check.rs"]
mod check;
#[path = "../../src/cli/date.rs"]
mod date;
#[path = "../../src/cli/device.rs"]
mod device;
#[path = "../../src/cli/drawing/mod.rs"]
mod drawing;
#[path = "../../src/cli/encode.rs"]
mod encode;
#[path = "../../src/cli/example.rs"]
mod example;
#[path = "../../src/cli/explain.rs"]
mod explain;
#[path = "../../src/cli/failure.rs"]
mod failure;
#[path = "../../src/cli/heatmap/mod.rs"]
mod heatmap;
#[path = "../../src/cli/info.rs"]
mod info;
#[path = "../../src/cli/kept.rs"]
mod kept;
#[path = "../../src/cli/line.rs"]
mod line;
#[path = "../../src/cli/merge.rs"]
mod merge;
#[path = "../../src/cli/output.rs"]
mod output;
#[path = "../../src/cli/picture.rs"]
mod picture;
#[path = "../../src/cli/progress.rs"]
mod progress;
#[path = "../../src/cli/tensors.rs"]
mod tensors;
#[path = "../../src/cli/transliterate.rs"]
mod transliterate;
#[path = "../../src/cli/tune.rs"]
mod tune;
#[path = "../../src/cli/validate.rs"]
mod validate;
