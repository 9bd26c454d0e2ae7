#!/usr/bin/env python3
"""PyTorch's nn.LSTM and nn.GRU (cuDNN on an NVIDIA card) on the shapes of `cargo bench --bench recurrent`.

One JSON object a line on standard output: cell, shape, device, dtype, median and least time of the whole sequence, ns a
step, GFLOP/s. Needs torch only.

    python3 benches/peers/torch_rnn.py [--device cuda|cpu] [--dtype float32|float16] [--tf32] [--compare BENCH.json]

`--compare` takes the file that `regard bench --suite recurrent --json BENCH.json` wrote on the same machine and adds, for
each shape, how long the row `auto` takes as a share of PyTorch's time: 1 is level, below 1 is faster.
"""

import argparse
import json
import statistics
import time

import torch

# T, B, inputs and units H, layers, directions.
SHAPES = [
    (1, 1, 256, 1, 1),
    (128, 1, 256, 1, 1),
    (128, 16, 256, 1, 1),
    (128, 64, 256, 1, 1),
    (128, 16, 256, 1, 2),
    (512, 1, 128, 1, 1),
    (100, 64, 512, 4, 1),
]


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


@torch.inference_mode()
def measure(cell, shape, device, dtype):
    steps, batch, hidden, layers, directions = shape
    torch.manual_seed(0)
    module = getattr(torch.nn, cell)
    network = module(hidden, hidden, num_layers=layers, bidirectional=directions == 2).to(device, dtype).eval()
    inputs = torch.randn(steps, batch, hidden, device=device, dtype=dtype)
    run = timer(device)
    times = []
    for _ in range(5):
        run(lambda: network(inputs))
    spent = 0.0
    while len(times) < 10 or (spent < 1e9 and len(times) < 200):
        took = run(lambda: network(inputs))
        times.append(took)
        spent += took
    gates = {"LSTM": 4, "GRU": 3}[cell]
    widths = sum(hidden + hidden * (1 if layer == 0 else directions) for layer in range(layers))
    flops = 2 * steps * batch * directions * gates * hidden * widths
    median = statistics.median(times)
    return {
        "cell": cell.lower(),
        "steps": steps,
        "batch": batch,
        "hidden": hidden,
        "layers": layers,
        "directions": directions,
        "median_ns": median,
        "minimum_ns": min(times),
        "runs": len(times),
        "ns_per_step": median / steps,
        "gflops": flops / median,
    }


def row_name(row):
    """The row of `regard bench` for the same work."""
    cell = ("bi-" if row["directions"] == 2 else "") + row["cell"]
    layers = f" L{row['layers']}" if row["layers"] > 1 else ""
    return f"{cell} T{row['steps']} B{row['batch']} H{row['hidden']}{layers} auto"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16"])
    parser.add_argument("--tf32", action="store_true", help="let cuDNN and cuBLAS round f32 factors to TF32")
    parser.add_argument("--compare", metavar="BENCH.json", help="figures of `regard bench` on this machine")
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = args.tf32
    torch.backends.cuda.matmul.allow_tf32 = args.tf32
    ours = {}
    if args.compare:
        with open(args.compare, encoding="utf-8") as file:
            ours = {case["name"]: case["median_ns"] for case in json.load(file)["cases"]}
    where = {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "cudnn": torch.backends.cudnn.version() if args.device == "cuda" else None,
        "dtype": args.dtype,
        "tf32": args.tf32,
    }
    for cell in ("LSTM", "GRU"):
        for shape in SHAPES:
            row = measure(cell, shape, args.device, getattr(torch, args.dtype))
            took = ours.get(row_name(row))
            if took is not None:
                row |= {"regard_median_ns": took, "regard_over_torch": took / row["median_ns"]}
            print(json.dumps(where | row), flush=True)


if __name__ == "__main__":
    main()
