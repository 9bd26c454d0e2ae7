// The program's own files, under the names that they know each other by.
#[path = "../../src/cli"]
mod program {
    pub(crate) mod attend;
    pub(crate) mod bench;
    pub(crate) mod chart;
    pub(crate) mod check;
    pub(crate) mod date;
    pub(crate) mod device;
    pub(crate) mod drawing;
    pub(crate) mod embed;
    pub(crate) mod encode;
    pub(crate) mod example;
    pub(crate) mod explain;
    pub(crate) mod failure;
    pub(crate) mod heatmap;
    pub(crate) mod info;
    pub(crate) mod kept;
    pub(crate) mod line;
    pub(crate) mod lines;
    pub(crate) mod merge;
    pub(crate) mod output;
    pub(crate) mod picture;
    pub(crate) mod progress;
    pub(crate) mod stream;
    pub(crate) mod tensors;
    pub(crate) mod time;
    pub(crate) mod transliterate;
    pub(crate) mod tune;
    pub(crate) mod validate;
}
use program::*;
