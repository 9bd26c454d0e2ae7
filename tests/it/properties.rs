//! What must hold of the reference whatever the numbers, in f64 to near exactness.
