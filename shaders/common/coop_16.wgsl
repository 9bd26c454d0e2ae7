// Cooperative matrices of 16 × 16: a subgroup computes left · right + sum.
alias left_factor = coop_mat16x16<f16, A>;
alias right_factor = coop_mat16x16<f16, B>;
alias sum_matrix = coop_mat16x16<f32, C>;
override SIDE: u32 = 16u;
