// Scores of hidden keys, and the least score a visible key can have: visible scores are raised to it, so that the mask
// alone decides what is hidden. Finite, because WGSL has no infinite constants and compilers may assume there are none.
const HIDDEN = -3.4028234e38;
const LEAST_VISIBLE = -3.402823e38;
