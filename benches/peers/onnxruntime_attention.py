#!/usr/bin/env python3
"""ONNX Runtime's attention on the cases of `regard bench --suite attention`, on each provider that is installed.

    python3 benches/peers/onnxruntime_attention.py --compare BENCH.json [--output MERGED.json] [--filter RE] [--providers cpu,cuda,webgpu]

Two operators: `Attention` (ONNX opset 23; grouped heads, added masks) and com.microsoft's `MultiHeadAttention` (as many
key heads as query heads). The same inputs, the same check of the answer on the same rows, one JSON object a line on
standard output: the median time of a run whose inputs and output stay where the provider keeps them, on the host's clock,
and how long `regard`'s row `auto` takes as a share of it. `--output` writes the figures of both to one file, which `regard
bench --show` prints as one table and `--plot` draws. What a provider refuses, or gets wrong, is named on standard error;
additive scores have no operator. Needs onnxruntime (or onnxruntime-gpu, onnxruntime-webgpu), onnx and numpy.
"""

import argparse
import time

import numpy as np
import onnxruntime as ort
from common import Table, arguments, timed
from onnx import TensorProto, helper

PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "cpu"),
    "cuda": ("CUDAExecutionProvider", "cuda"),
    "webgpu": ("WebGpuExecutionProvider", "cpu"),
}


def packed(array):
    """[B, H, N, D] as [B, N, H · D]."""
    batch, heads, rows, dim = array.shape
    return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(batch, rows, heads * dim)


def attention(case, dtype):
    """ONNX `Attention`: inputs [B, H, N, D]."""
    inputs = {"query": case.query, "key": case.key, "value": case.value}
    if case.mask is not None:
        inputs["mask"] = case.mask
    node = helper.make_node("Attention", list(inputs), ["output"], is_causal=int(case.causal))
    return node, {name: array.astype(dtype) for name, array in inputs.items()}, lambda output: output


def multi_head(case, dtype):
    """com.microsoft `MultiHeadAttention`: inputs [B, N, H · D]."""
    if case.query_heads != case.kv_heads:
        raise ValueError("MultiHeadAttention has no grouped heads")
    inputs = {"query": packed(case.query), "key": packed(case.key), "value": packed(case.value)}
    names = list(inputs)
    if case.mask is not None:
        # bias, key_padding_mask, attention_bias
        names += ["", "", "mask"]
        inputs["mask"] = case.mask
    node = helper.make_node(
        "MultiHeadAttention",
        names,
        ["output"],
        domain="com.microsoft",
        num_heads=case.query_heads,
        unidirectional=int(case.causal),
    )
    shape = (case.batch, case.queries, case.query_heads, case.value_dim)
    unpacked = lambda output: output.reshape(shape).transpose(0, 2, 1, 3)
    return node, {name: array.astype(dtype) for name, array in inputs.items()}, unpacked


OPERATORS = {"Attention": attention, "MultiHeadAttention": multi_head}


def session(node, inputs, dtype, provider):
    element = TensorProto.FLOAT16 if dtype == np.float16 else TensorProto.FLOAT
    value = lambda name, shape: helper.make_tensor_value_info(name, element, shape)
    graph = helper.make_graph(
        [node], "attention", [value(name, array.shape) for name, array in inputs.items()], [value("output", None)]
    )
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    # What a provider has not is refused, not quietly computed by another.
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=[provider], enable_fallback=False)


def main():
    parser = arguments(__doc__, lambda text: argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--providers", default=",".join(PROVIDERS), help="of cpu, cuda, webgpu; those there are")
    args = parser.parse_args()
    table = Table(args.compare, args.filter)
    there = [name for name in args.providers.split(",") if PROVIDERS[name][0] in ort.get_available_providers()]
    for case in table.cases():
        dtype = np.float16 if case.dtype == "f16" else np.float32
        for provider, (operator, build) in ((p, o) for p in there for o in OPERATORS.items()):
            way = f"ort {provider} {operator}"
            if case.additive:
                table.refuse(case, way, "no operator for additive scores")
                continue
            try:
                node, inputs, unpacked = build(case, dtype)
                name, memory = PROVIDERS[provider]
                run_of = session(node, inputs, dtype, name)
                binding = run_of.io_binding()
                for key, array in inputs.items():
                    binding.bind_ortvalue_input(key, ort.OrtValue.ortvalue_from_numpy(array, memory, 0))
                binding.bind_output("output", memory)

                def run():
                    start = time.perf_counter_ns()
                    run_of.run_with_iobinding(binding)
                    binding.synchronize_outputs()
                    return float(time.perf_counter_ns() - start)

                run()
                error = case.error_ratio(unpacked(binding.copy_outputs_to_cpu()[0]))
                if error > 1:
                    table.refuse(case, way, f"wrong: {error:.1f} times the tolerance")
                    continue
                table.add(case, way, f"onnxruntime {ort.__version__}, {name}", timed(run), error)
            except Exception as refusal:  # the runtime's own exceptions have no common base but this
                table.refuse(case, way, refusal)
    if args.output:
        table.save(args.output)


if __name__ == "__main__":
    main()
