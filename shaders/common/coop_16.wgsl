// Cooperative matrices of 16 × 16: a subgroup computes c += a · b, f16 operands and f32 accumulators.
alias matrix_a = coop_mat16x16<f16, A>;
alias matrix_b = coop_mat16x16<f16, B>;
alias matrix_c = coop_mat16x16<f32, C>;
override SIDE: u32 = 16u;
