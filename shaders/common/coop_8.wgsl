// Cooperative matrices of 8 × 8: a subgroup computes left · right + sum.
alias left_factor = coop_mat8x8<f16, A>;
alias right_factor = coop_mat8x8<f16, B>;
alias sum_matrix = coop_mat8x8<f32, C>;
override SIDE: u32 = 8u;
