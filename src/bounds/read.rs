//! The shaders' files whose indices were followed for the proofs.

/// A hash of a shader's code, without comments and spaces (FNV-1a).
pub(super) fn fingerprint(text: &str) -> u64 {
    let code = text.lines().flat_map(|line| line.split("//").next().unwrap_or_default().bytes());
    let dense = code.filter(|byte| !byte.is_ascii_whitespace());
    dense.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Each file as it was then, by [`fingerprint`].
#[rustfmt::skip]
pub(super) const FILES: [(&str, u64); 49] = [
    ("common/activation.wgsl", 0x0283_8c51_90d7_5f6c),
    ("common/additive.wgsl", 0xc6a9_7b38_70e6_b375),
    ("common/blocks.wgsl", 0xd8c8_0dcb_5042_ebcb),
    ("common/cell.wgsl", 0x26a4_b096_e178_509e),
    ("common/fused.wgsl", 0x372c_532b_9771_19cc),
    ("common/group_shared.wgsl", 0xec83_a175_3f87_2fd6),
    ("common/group_subgroup.wgsl", 0x4327_5aa8_1e9e_4f07),
    ("common/hidden.wgsl", 0xb7f8_53f9_0660_b794),
    ("common/key_plain.wgsl", 0xcebe_d91d_f8e3_a9a7),
    ("common/key_q8.wgsl", 0x5821_9d09_d22f_73cd),
    ("common/layout.wgsl", 0xe80d_3e76_9b78_7707),
    ("common/mask.wgsl", 0x3864_8297_e39f_78eb),
    ("common/math.wgsl", 0x5cd6_ae45_ef8f_4ee7),
    ("common/online_softmax.wgsl", 0xe94a_6f9e_0266_8228),
    ("common/pages.wgsl", 0x7070_8ebf_85a1_091d),
    ("common/pair.wgsl", 0xd88c_0c94_987c_d34a),
    ("common/params_storage.wgsl", 0xabaf_67b0_3ec6_588c),
    ("common/params_uniform.wgsl", 0xd96b_2581_1aaf_12f9),
    ("common/positions.wgsl", 0x0c2f_a8a2_119d_d675),
    ("common/product.wgsl", 0xaf1d_926b_9b70_fb1a),
    ("common/product_w_any.wgsl", 0xd755_c216_f392_776f),
    ("common/product_w_columns.wgsl", 0x9b79_e8bc_e575_c742),
    ("common/product_w_depth.wgsl", 0xcc74_fe6f_3240_2496),
    ("common/product_x_any.wgsl", 0x3e6b_27ce_4755_4411),
    ("common/product_x_depth.wgsl", 0x3c37_a62b_5728_aa11),
    ("common/product_y_any.wgsl", 0x67a5_a0bc_2770_e223),
    ("common/product_y_columns.wgsl", 0xa8a3_0fb7_9cb7_3590),
    ("common/q8.wgsl", 0x45ac_bd94_40a4_5868),
    ("common/query_rows_broadcast.wgsl", 0xc389_3463_327c_4604),
    ("common/query_rows_direct.wgsl", 0x2995_ae55_791b_7e47),
    ("common/reduce4_shared.wgsl", 0x70c4_68dd_eecc_e7cd),
    ("common/reduce4_subgroup.wgsl", 0xa11f_ff8b_7733_11c9),
    ("common/score_mod_none.wgsl", 0x1a1e_bc0b_9983_8d56),
    ("common/split_k_shared.wgsl", 0x3751_ca43_fb67_a7db),
    ("common/split_k_subgroup.wgsl", 0x8e15_52c3_36ac_5a58),
    ("common/tile.wgsl", 0xa158_c11f_244a_fd99),
    ("common/tile_visibility.wgsl", 0x2046_6f34_dd00_53f5),
    ("common/value_plain.wgsl", 0xddc1_0f1f_6761_3961),
    ("common/value_q8.wgsl", 0x96da_832a_ded9_9d6e),
    ("common/x_rows_broadcast.wgsl", 0xf2a7_8c91_7c29_aeba),
    ("common/x_rows_direct.wgsl", 0xc664_f47c_b83a_1d6f),
    ("flash.wgsl", 0xe6da_0e76_02ab_4917),
    ("flash_rows.wgsl", 0x1773_779e_f0a9_e1d4),
    ("flash_split.wgsl", 0x8cec_4f22_8feb_9f1e),
    ("matmul.wgsl", 0x5891_e59c_8910_b063),
    ("matmul_sum.wgsl", 0x0de7_ec71_9ed4_8716),
    ("matmul_tiled.wgsl", 0xca7f_a49e_e0d7_f286),
    ("recurrent.wgsl", 0x87cc_0305_8de8_193d),
    ("recurrent_loop.wgsl", 0x1db6_3771_9de4_1c20),
];
