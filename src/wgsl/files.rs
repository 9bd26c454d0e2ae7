//! The shader files that kernels share, each with the `override` constants that it declares.

use super::File;

/// The text of a file of `shaders/`, with the `override` constants that it declares and a program may set.
macro_rules! file {
    ($path:literal, [$($name:literal),* $(,)?]) => {
        $crate::wgsl::File {
            path: $path,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $path)),
            overrides: &[$($name),*],
        }
    };
}
pub(crate) use file;

pub(crate) static ACTIVATION: File = file!("common/activation.wgsl", []);
pub(crate) static ADDITIVE: File = file!("common/additive.wgsl", ["SCORE", "HAS_V", "NORMED"]);
pub(crate) static BLOCKS: File = file!("common/blocks.wgsl", ["BLOCKS"]);
pub(crate) static CELL: File = file!(
    "common/cell.wgsl",
    [
        "ACTIVATION_0",
        "ACTIVATION_1",
        "ACTIVATION_2",
        "ACTIVATION_3",
        "ACTIVATION_OUTPUT",
        "RUNTIME_ACTIVATIONS",
        "LENGTHS",
        "CLIP",
        "CELL_CLIP",
        "INPUT_FORGET",
    ]
);
pub(crate) static COOP_8: File = file!("common/coop_8.wgsl", ["SIDE"]);
pub(crate) static COOP_16: File = file!("common/coop_16.wgsl", ["SIDE"]);
pub(crate) static COOP_TILES: File = file!(
    "common/coop_tiles.wgsl",
    [
        "LANES",
        "SUBGROUPS_M",
        "SUBGROUPS_N",
        "TILE_N",
        "SCORE_MATRICES",
        "OUTPUT_MATRICES",
        "BLOCK_MATRICES",
        "QUERY_MATRICES",
        "ROW_LANES",
        "HEAD_QUADS",
        "VALUE_QUADS",
        "KEY_LANES",
        "Q_ENTRIES",
        "KV_ENTRIES",
        "CARRIED"
    ]
);
pub(crate) static FUSED: File = file!("common/fused.wgsl", ["LSE", "MAX_SUM"]);
pub(crate) static GROUP_SHARED: File = file!("common/group_shared.wgsl", ["LANES"]);
pub(crate) static GROUP_SUBGROUP: File = file!("common/group_subgroup.wgsl", ["LANES"]);
pub(crate) static HIDDEN: File = file!("common/hidden.wgsl", []);
pub(crate) static KEY_PLAIN: File = file!("common/key_plain.wgsl", []);
pub(crate) static KEY_Q8: File = file!("common/key_q8.wgsl", []);
pub(crate) static LAYOUT: File = file!("common/layout.wgsl", []);
pub(crate) static MASK: File = file!("common/mask.wgsl", ["MASK", "ALIBI"]);
pub(crate) static MATH: File = file!("common/math.wgsl", []);
pub(crate) static ONLINE_SOFTMAX: File = file!("common/online_softmax.wgsl", ["SINKS", "TEMPERATURE"]);
pub(crate) static PAGES: File = file!("common/pages.wgsl", ["PAGED"]);
pub(crate) static PAIR: File = file!("common/pair.wgsl", ["SOFTCAP", "SCORE_MOD"]);
pub(crate) static PARAMS_STORAGE: File = file!("common/params_storage.wgsl", []);
pub(crate) static PARAMS_UNIFORM: File = file!("common/params_uniform.wgsl", []);
pub(crate) static POSITIONS: File =
    file!("common/positions.wgsl", ["CAUSAL", "WINDOW", "KEY_LENGTHS", "QUERY_LENGTHS", "SEQUENCES"]);
pub(crate) static PRODUCT: File =
    file!("common/product.wgsl", ["TAIL", "FLAT", "HAS_BIAS", "HAS_RESIDUAL", "ACCUMULATE", "ACTIVATION"]);
pub(crate) static PRODUCT_W_ANY: File = file!("common/product_w_any.wgsl", ["W_LAYOUT"]);
pub(crate) static PRODUCT_W_COLUMNS: File = file!("common/product_w_columns.wgsl", ["W_LAYOUT"]);
pub(crate) static PRODUCT_W_DEPTH: File = file!("common/product_w_depth.wgsl", ["W_LAYOUT"]);
pub(crate) static PRODUCT_X_ANY: File = file!("common/product_x_any.wgsl", ["X_LAYOUT"]);
pub(crate) static PRODUCT_X_DEPTH: File = file!("common/product_x_depth.wgsl", ["X_LAYOUT"]);
pub(crate) static PRODUCT_Y_ANY: File = file!("common/product_y_any.wgsl", ["Y_LAYOUT"]);
pub(crate) static PRODUCT_Y_COLUMNS: File = file!("common/product_y_columns.wgsl", ["Y_LAYOUT"]);
pub(crate) static Q8: File = file!("common/q8.wgsl", []);
pub(crate) static TILE_VISIBILITY: File = file!("common/tile_visibility.wgsl", ["HAS_MASK_MAP"]);
pub(crate) static READ_PLAIN: File = file!("common/read_plain.wgsl", []);
pub(crate) static READ_Q8: File = file!("common/read_q8.wgsl", []);
pub(crate) static REDUCE_SHARED: File = file!("common/reduce_shared.wgsl", ["LANES"]);
pub(crate) static REDUCE4_SHARED: File = file!("common/reduce4_shared.wgsl", []);
pub(crate) static REDUCE4_SUBGROUP: File = file!("common/reduce4_subgroup.wgsl", ["ONE_SUBGROUP"]);
pub(crate) static X_ROWS_DIRECT: File = file!("common/x_rows_direct.wgsl", ["BROADCAST"]);
pub(crate) static X_ROWS_BROADCAST: File = file!("common/x_rows_broadcast.wgsl", ["BROADCAST", "LANES", "K_SPLITS"]);
pub(crate) static SCORE_MOD_NONE: File = file!("common/score_mod_none.wgsl", []);
pub(crate) static SPLIT_K_SHARED: File = file!("common/split_k_shared.wgsl", ["LANES", "K_SPLITS"]);
pub(crate) static SPLIT_K_SUBGROUP: File = file!("common/split_k_subgroup.wgsl", ["LANES", "K_SPLITS"]);
pub(crate) static QUERY_ROWS_DIRECT: File = file!("common/query_rows_direct.wgsl", []);
pub(crate) static QUERY_ROWS_BROADCAST: File = file!("common/query_rows_broadcast.wgsl", []);
pub(crate) static TILE: File = file!("common/tile.wgsl", []);
pub(crate) static VALUE_PLAIN: File = file!("common/value_plain.wgsl", []);
pub(crate) static VALUE_Q8: File = file!("common/value_q8.wgsl", []);
pub(crate) static WRITE_PLAIN: File = file!("common/write_plain.wgsl", []);
pub(crate) static WRITE_Q8: File = file!("common/write_q8.wgsl", []);
pub(crate) static FLASH: File = file!("flash.wgsl", ["HEAD_TAIL", "VALUE_TAIL", "SLICES"]);
pub(crate) static FLASH_ROWS: File = file!("flash_rows.wgsl", ["ROW_BLOCKS", "ROW_QUADS", "P_ENTRIES", "VALUE_TILES"]);
pub(crate) static FLASH_COOP: File = file!("flash_coop.wgsl", []);
pub(crate) static FLASH_SPLIT: File =
    file!("flash_split.wgsl", ["TILE_N", "VALUE_LANES", "QUERY_QUADS", "HEAD_TAIL", "BRANCHES"]);
pub(crate) static SCORE: File = file!("score.wgsl", ["LANES", "ROWS", "SCORE", "HAS_V", "NORMED", "STAGE"]);

/// Every file that may stand beside a user's score function: those of the kernels that call one.
pub(super) static BESIDE_SCORE_MOD: [&File; 36] = [
    &ADDITIVE,
    &BLOCKS,
    &COOP_16,
    &COOP_8,
    &COOP_TILES,
    &FUSED,
    &GROUP_SHARED,
    &GROUP_SUBGROUP,
    &HIDDEN,
    &KEY_PLAIN,
    &KEY_Q8,
    &LAYOUT,
    &MASK,
    &MATH,
    &ONLINE_SOFTMAX,
    &PAGES,
    &PAIR,
    &PARAMS_STORAGE,
    &PARAMS_UNIFORM,
    &POSITIONS,
    &Q8,
    &QUERY_ROWS_BROADCAST,
    &QUERY_ROWS_DIRECT,
    &REDUCE4_SHARED,
    &REDUCE4_SUBGROUP,
    &SCORE_MOD_NONE,
    &SPLIT_K_SHARED,
    &SPLIT_K_SUBGROUP,
    &TILE_VISIBILITY,
    &VALUE_PLAIN,
    &VALUE_Q8,
    &FLASH,
    &FLASH_COOP,
    &FLASH_ROWS,
    &FLASH_SPLIT,
    &SCORE,
];
