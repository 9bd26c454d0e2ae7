// The parameters of a dispatch, where uniforms are fast: every card.
@group(0) @binding(0) var<uniform> params: Params;
