#!/usr/bin/env python3
"""PyTorch's scaled_dot_product_attention on the cases of `regard bench --suite attention`, each of its backends.

    python3 benches/peers/torch_sdpa.py --compare BENCH.json [--output MERGED.json] [--filter RE] [--device cuda|cpu]

The same inputs, the same check of the answer on the same rows, one JSON object a line on standard output: the median time
and how long `regard`'s row `auto` takes as a share of it (1 is level, below 1 is faster). `--output` writes the figures of
both to one file, which `regard bench --show` prints as one table and `--plot` draws. A backend that refuses a case, or
gets it wrong, is named on standard error. Additive scores run as PyTorch's plain operations. Needs torch and numpy.
"""

import argparse
import time

import torch
from common import Table, arguments, timed
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}


def timer(device):
    """A function that runs `work` and gives the nanoseconds from its start to its end on the device."""
    if device == "cpu":

        def on_host(work):
            start = time.perf_counter_ns()
            work()
            return float(time.perf_counter_ns() - start)

        return on_host

    def on_card(work):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) * 1e6

    return on_card


def forms(case, device):
    """What computes a case, by name."""
    dtype = torch.float16 if case.dtype == "f16" else torch.float32
    upload = lambda array, kind=dtype: None if array is None else torch.from_numpy(array).to(device, kind)
    query, key, value, mask = (upload(array) for array in (case.query, case.key, case.value, case.mask))
    if case.additive:
        v = upload(case.v, torch.float32)

        def additive():
            scores = torch.tanh(query.float().unsqueeze(-2) + key.float().unsqueeze(-3)) @ v
            return torch.softmax(scores, -1).to(dtype) @ value

        return {"torch eager": additive}

    def backend(which):
        def run():
            with sdpa_kernel([which]):
                return torch.nn.functional.scaled_dot_product_attention(
                    query,
                    key,
                    value,
                    attn_mask=mask,
                    is_causal=case.causal,
                    enable_gqa=case.query_heads != case.kv_heads,
                )

        return run

    return {f"torch {name}": backend(which) for name, which in BACKENDS.items()}


@torch.inference_mode()
def main():
    parser = arguments(__doc__, lambda text: argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    table, run = Table(args.compare, args.filter), timer(args.device)
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    plan = f"PyTorch {torch.__version__}, {where}"
    for case in table.cases():
        for way, form in forms(case, args.device).items():
            try:
                error = case.error_ratio(form().float().cpu().numpy())
                if error > 1:
                    table.refuse(case, way, f"wrong: {error:.1f} times the tolerance")
                    continue
                table.add(case, way, plan, timed(lambda: run(form)), error)
            except RuntimeError as refusal:
                table.refuse(case, way, refusal)
    if args.output:
        table.save(args.output)


if __name__ == "__main__":
    main()
