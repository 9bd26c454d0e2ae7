//! The naive CPU reference.
