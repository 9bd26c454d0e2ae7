//! What follows a matrix product before it is stored.

use crate::rnn::Activation;

/// What follows the sums of a product, in this order: the bias and the residual are added, then the activation.
#[derive(Debug)]
pub struct Epilogue<'a, A> {
    /// f32 `[N]`.
    pub bias: Option<&'a A>,
    /// Another tensor of the shape of the output, f32 or f16.
    pub residual: Option<&'a A>,
    /// After both.
    pub activation: Option<Activation>,
}

impl<A> Clone for Epilogue<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Epilogue<'_, A> {}

impl<A> Default for Epilogue<'_, A> {
    fn default() -> Self {
        Self { bias: None, residual: None, activation: None }
    }
}
