//! Layers with their weights on the GPU: upload, `record`, `run`, download.

mod attentive;
mod decoder;
mod multi_head;
mod visual;

pub use attentive::GpuAttentiveEncoder;
pub use decoder::GpuAttentionDecoder;
pub use multi_head::GpuMultiHeadAttention;
pub use visual::GpuVisualAttention;
