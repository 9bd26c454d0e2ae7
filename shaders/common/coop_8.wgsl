// Cooperative matrices of 8 × 8: a subgroup computes c += a · b, f16 operands and f32 accumulators.
alias matrix_a = coop_mat8x8<f16, A>;
alias matrix_b = coop_mat8x8<f16, B>;
alias matrix_c = coop_mat8x8<f32, C>;
override SIDE: u32 = 8u;
