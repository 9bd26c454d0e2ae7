// The parameters of a dispatch on drivers that run on the CPU. Mesa's (lavapipe) compiles a shader anew for each set of
// uniforms that a loop bound depends on, and keeps every version; it does not look into storage buffers.
@group(0) @binding(0) var<storage, read> params: Params;
