#!/usr/bin/env python3
"""`regard --device cpu` beside ONNX Runtime's CPU provider: attention, LSTM and GRU in f32, in one run and in turns.

    python3 benches/peers/onnxruntime_cpu.py [--regard PATH] [--threads N] [--filter RE] [--json FILE] [--limit X]

Both get the same inputs and equally many threads. Both answers are checked, against the definition in f64 and against
each other, before anything is timed. Then each round times one after the other, N runs after a warm-up: `regard attend
--time N` or `regard encode --time N`, inputs and weights already there; a session whose inputs and outputs are bound. A
figure is the median of the rounds' medians. Of ONNX Runtime the fastest operator counts that can do a case: `Attention`
(opset 23), com.microsoft's `MultiHeadAttention` and `GroupQueryAttention`; `LSTM`, `GRU` with weights as initializers.
What is wrong or refused is named on standard error and not timed. The exit status is 1 if a case could not be compared,
or if a ratio is above --limit. Needs onnxruntime, onnx, numpy and safetensors.
"""

import argparse
import datetime
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime as ort
from common import Case, check_generator, numbers
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

MICROSOFT = "com.microsoft"

# How many times the tolerance an error may be. numpy sums in blocks, and so errs less than the plain code in f32 that
# the tolerance is meant to come from.
SLACK = 4

# Seconds of rest before anything is timed: threads of ONNX Runtime and of numpy spin for up to 0.1 s after their work.
REST = 0.2

# Turns that choose among operators.
TRIALS = 3

# Cores that other programs may take while a case is timed, before a warning says so.
OTHERS = 0.1


def packed(array):
    """[B, H, N, D] as [B, N, H · D]."""
    batch, heads, rows, dim = array.shape
    return np.ascontiguousarray(array.transpose(0, 2, 1, 3)).reshape(batch, rows, heads * dim)


def unpacked(array, heads):
    """[B, N, H · D] as [B, H, N, D]."""
    batch, rows, width = array.shape
    return array.reshape(batch, rows, heads, width // heads).transpose(0, 2, 1, 3)


class Plan:
    """A graph of one node, what goes into it, and how its first output becomes that of `regard`."""

    def __init__(self, node, inputs, outputs, restore, weights=None, shared=None):
        self.node, self.inputs, self.outputs, self.restore = node, inputs, outputs, restore
        # Initializers, which a session may pack for its kernels.
        self.weights = weights or {}
        # Outputs written in place of an input, by the output's name: a cache that grows.
        self.shared = shared or {}


class Attention:
    """Attention by the shape B, Hq, Hkv, Nq, Nk, D."""

    def __init__(self, name, shape, causal=False):
        self.name, self.causal = name, causal
        keys = ("batch", "query_heads", "kv_heads", "queries", "keys", "dim")
        shape = dict(zip(keys, shape), value_dim=shape[-1], masked=False, additive=False, causal=causal, dtype="f32")
        self.case = Case({"work": name, "shape": shape})
        self.tensors = {"query": self.case.query, "key": self.case.key, "value": self.case.value}
        self.command = ["attend", *(["--causal"] if causal else [])]

    def error_ratio(self, output):
        return self.case.error_ratio(output)

    def tolerance(self):
        return self.case.truth[-1]

    def ways(self):
        case = self.case
        yield "Attention", self.attention
        yield "Attention, all [B, N, H · D]", self.attention_packed
        if case.query_heads == case.kv_heads:
            yield "MultiHeadAttention", self.multi_head
            yield "MultiHeadAttention, keys [B, H, N, D]", self.multi_head_keys
        elif case.queries == 1:
            yield "Attention, query heads of a group as rows", self.attention_rows
            yield "MultiHeadAttention, query heads of a group as rows", self.multi_head_rows
        # It is causal always; a single query may stand last and see all.
        if self.causal and case.queries == case.keys:
            yield "GroupQueryAttention", self.group_query
        if not self.causal and case.queries == 1:
            yield "GroupQueryAttention, cache in place", self.group_query_cached

    def attention(self):
        node = helper.make_node("Attention", list(self.tensors), ["output"], is_causal=int(self.causal))
        return Plan(node, self.tensors, {"output": self.case.query.shape}, lambda output: output)

    def attention_packed(self):
        case = self.case
        inputs = {name: packed(array) for name, array in self.tensors.items()}
        node = helper.make_node(
            "Attention",
            list(inputs),
            ["output"],
            is_causal=int(self.causal),
            q_num_heads=case.query_heads,
            kv_num_heads=case.kv_heads,
        )
        restore = lambda output: unpacked(output, case.query_heads)
        return Plan(node, inputs, {"output": inputs["query"].shape}, restore)

    def attention_rows(self):
        """The heads of a group share their keys: with one query each they are rows of one head."""
        query = self.grouped()
        node = helper.make_node("Attention", ["query", "key", "value"], ["output"])
        restore = lambda output: output.reshape(self.case.query.shape)
        return Plan(node, self.tensors | {"query": query}, {"output": query.shape}, restore)

    def grouped(self):
        case = self.case
        return case.query.reshape(case.batch, case.kv_heads, case.query_heads // case.kv_heads, case.dim)

    def multi_head(self):
        case = self.case
        return self.multi_head_of(case.query, packed(case.key), packed(case.value))

    def multi_head_keys(self):
        """Keys and values stay as they are: no transposition."""
        return self.multi_head_of(self.case.query, self.case.key, self.case.value)

    def multi_head_rows(self):
        return self.multi_head_of(self.grouped(), self.case.key, self.case.value)

    def multi_head_of(self, query, key, value):
        heads = query.shape[1]
        inputs = {"query": packed(query), "key": key, "value": value}
        causal = int(self.causal)
        node = helper.make_node(
            "MultiHeadAttention", list(inputs), ["output"], domain=MICROSOFT, num_heads=heads, unidirectional=causal
        )
        restore = lambda output: unpacked(output, heads).reshape(self.case.query.shape)
        return Plan(node, inputs, {"output": inputs["query"].shape}, restore)

    def group_query(self):
        case = self.case
        inputs = {"query": packed(case.query), "key": packed(case.key), "value": packed(case.value)}
        names = [*inputs, "", "", "seqlens_k", "total"]
        return self.group_query_of(names, inputs, {})

    def group_query_cached(self):
        """All keys but the last are in the cache, which is as long as it will be; the last one is put there."""
        case = self.case
        cached = lambda array: np.concatenate([array[:, :, :-1], np.zeros_like(array[:, :, -1:])], axis=2)
        inputs = {
            "query": packed(case.query),
            "key": packed(case.key[:, :, -1:]),
            "value": packed(case.value[:, :, -1:]),
            "past_key": cached(case.key),
            "past_value": cached(case.value),
        }
        shared = {"present_key": "past_key", "present_value": "past_value"}
        return self.group_query_of([*inputs, "seqlens_k", "total"], inputs, shared)

    def group_query_of(self, names, inputs, shared):
        case = self.case
        inputs = inputs | {
            "seqlens_k": np.full(case.batch, case.keys - 1, np.int32),
            "total": np.array([case.keys], np.int32),
        }
        present = (case.batch, case.kv_heads, case.keys, case.dim)
        outputs = {"output": inputs["query"].shape, "present_key": present, "present_value": present}
        node = helper.make_node(
            "GroupQueryAttention",
            names,
            list(outputs),
            domain=MICROSOFT,
            num_heads=case.query_heads,
            kv_num_heads=case.kv_heads,
        )
        return Plan(node, inputs, outputs, lambda output: unpacked(output, case.query_heads), shared=shared)


def logistic(x):
    return 1 / (1 + np.exp(-x))


class Recurrence:
    """A layer of one direction by T, B, I, H."""

    def __init__(self, name, cell, shape, reset="after"):
        self.name, self.cell, self.reset = name, cell, reset
        steps, batch, width, hidden = shape
        self.hidden, gates = hidden, {"LSTM": 4, "GRU": 3}[cell]
        bound = 1 / np.sqrt(np.float32(hidden))
        self.tensors = {
            "input": numbers([steps, batch, width], 1, 1.7),
            "weight_ih_l0": numbers([gates * hidden, width], 2, bound),
            "weight_hh_l0": numbers([gates * hidden, hidden], 3, bound),
            "bias_ih_l0": numbers([gates * hidden], 4, bound),
            "bias_hh_l0": numbers([gates * hidden], 5, bound),
        }
        self.command = ["encode", "--cell", cell.lower(), *(["--reset", reset] if cell == "GRU" else [])]
        self.truth = None

    def reference(self, dtype):
        """The outputs by definition; gates in PyTorch's order."""
        x, w, u, b, c = (array.astype(dtype) for array in self.tensors.values())
        h, cell, n = np.zeros((x.shape[1], self.hidden), dtype), dtype(0), self.hidden
        outputs = []
        for product in x @ w.T + b:
            if self.cell == "LSTM":
                i, f, g, o = np.split(product + (h @ u.T + c), 4, axis=-1)
                cell = logistic(f) * cell + logistic(i) * np.tanh(g)
                h = logistic(o) * np.tanh(cell)
            else:
                r, z = np.split(logistic(product[:, : 2 * n] + (h @ u[: 2 * n].T + c[: 2 * n])), 2, axis=-1)
                inner = lambda state: state @ u[2 * n :].T + c[2 * n :]
                new = np.tanh(product[:, 2 * n :] + (r * inner(h) if self.reset == "after" else inner(r * h)))
                h = (1 - z) * new + z * h
            outputs.append(h)
        return np.stack(outputs)

    def error_ratio(self, output):
        """The largest error as a share of the tolerance: as for attention."""
        if self.truth is None:
            oracle = self.reference(np.float64)
            error = np.abs(self.reference(np.float32).astype(np.float64) - oracle).max()
            self.truth = oracle, 2 * error + 8 * np.finfo(np.float32).eps * np.abs(oracle).max()
        oracle, tolerance = self.truth
        error = np.abs(output.astype(np.float64) - oracle).max()
        return float(error / tolerance) if np.isfinite(error) else float("inf")

    def tolerance(self):
        return self.truth[-1]

    def ways(self):
        yield self.cell, self.recurrence

    def recurrence(self):
        # Where ONNX's gates stand in PyTorch's order: i, o, f, c among i, f, g, o; z, r, h among r, z, n.
        order = {"LSTM": [0, 3, 1, 2], "GRU": [1, 0, 2]}[self.cell]

        def gates(name):
            array = self.tensors[name]
            return array.reshape(len(order), self.hidden, -1)[order].reshape(array.shape)

        weights = {
            "W": gates("weight_ih_l0")[None],
            "R": gates("weight_hh_l0")[None],
            "B": np.concatenate([gates("bias_ih_l0"), gates("bias_hh_l0")])[None],
        }
        steps, batch, _ = self.tensors["input"].shape
        outputs = {"Y": (steps, 1, batch, self.hidden), "Y_h": (1, batch, self.hidden)}
        options = {"linear_before_reset": int(self.reset == "after")}
        if self.cell == "LSTM":
            outputs["Y_c"], options = (1, batch, self.hidden), {}
        node = helper.make_node(self.cell, ["X", *weights], list(outputs), hidden_size=self.hidden, **options)
        return Plan(node, {"X": self.tensors["input"]}, outputs, lambda output: output[:, 0], weights)


def attention(shape, causal=False):
    batch, heads, kv_heads, queries, keys, dim = shape
    if queries == keys:
        name = f"attention {batch}x{heads}x{queries}x{dim}{' causal' if causal else ''}"
    else:
        name = f"decode B{batch} Hq{heads} Hkv{kv_heads} Nq{queries} Nk{keys} D{dim}"
    return name, lambda: Attention(name, shape, causal)


def recurrence(cell, shape, reset="after"):
    steps, batch, width, hidden = shape
    before = " reset before" if reset == "before" else ""
    name = f"{cell.lower()} T{steps} B{batch} I{width} H{hidden}{before}"
    return name, lambda: Recurrence(name, cell, shape, reset)


CASES = [
    attention((1, 8, 8, 1024, 1024, 64)),
    attention((1, 8, 8, 1024, 1024, 64), causal=True),
    attention((4, 8, 8, 256, 256, 64)),
    attention((1, 16, 16, 512, 512, 128)),
    attention((1, 32, 8, 1, 4096, 128)),
    recurrence("LSTM", (128, 1, 256, 256)),
    recurrence("LSTM", (128, 16, 256, 256)),
    recurrence("GRU", (128, 16, 256, 256)),
    recurrence("GRU", (128, 16, 256, 256), reset="before"),
]


class Session:
    """A plan in ONNX Runtime, its inputs and outputs bound to memory that stays."""

    def __init__(self, plan, threads):
        types = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.int32): TensorProto.INT32}
        graph = helper.make_graph(
            [plan.node],
            "peer",
            [helper.make_tensor_value_info(n, types[a.dtype], a.shape) for n, a in plan.inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in plan.outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in plan.weights.items()],
        )
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=11)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        self.restore = plan.restore
        self.binding = self.session.io_binding()
        inputs = {n: ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(a)) for n, a in plan.inputs.items()}
        for name, value in inputs.items():
            self.binding.bind_ortvalue_input(name, value)
        self.outputs = {}
        for name, shape in plan.outputs.items():
            fresh = name not in plan.shared
            value = ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32) if fresh else inputs[plan.shared[name]]
            self.binding.bind_ortvalue_output(name, value)
            self.outputs[name] = value

    def answer(self):
        self.session.run_with_iobinding(self.binding)
        return self.restore(next(iter(self.outputs.values())).numpy())

    def time(self, runs):
        """The median and the least time of some runs after one that does not count, in milliseconds."""
        times = []
        time.sleep(REST)
        for _ in range(runs + 1):
            start = time.perf_counter_ns()
            self.session.run_with_iobinding(self.binding)
            times.append((time.perf_counter_ns() - start) / 1e6)
        return statistics.median(times[1:]), min(times[1:])


class Regard:
    """The program on the CPU."""

    def __init__(self, path, threads):
        self.path = path
        self.environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}

    def run(self, *arguments):
        """What it prints on standard output."""
        command = [self.path, *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or [""]
            line = next((line for line in said if line.startswith("error")), said[-1])
            raise RuntimeError(f"exit status {done.returncode}: {line}")
        return done.stdout

    def answer(self, case, file, output):
        command, *options = case.command
        self.run(command, file, "-o", output, "--device", "cpu", *options)
        return load_file(output)["output"]

    def time(self, case, file, runs):
        """The median and the least time of some runs, in milliseconds."""
        command, *options = case.command
        time.sleep(REST)
        said = self.run(command, file, "--time", str(runs), "--json", "--device", "cpu", *options).strip()
        try:
            figures = json.loads(said.splitlines()[-1])
            return float(figures["median_ms"]), float(figures["min_ms"])
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise RuntimeError(f"no `median_ms` and `min_ms` in the last line of `{said[-200:]}`") from error


class Comparison:
    """The figures of both, case by case."""

    def __init__(self, args):
        self.args, self.regard = args, Regard(args.regard, args.threads)
        self.rows, self.not_run = [], []

    def refuse(self, name, reason):
        line = f"{name}: {' '.join(str(reason).split())[:300]}"
        self.not_run.append(line)
        print(line, file=sys.stderr, flush=True)

    def right(self, case, who, output, expected=None):
        """An answer's error as a share of the tolerance, or none if it is wrong."""
        error = case.error_ratio(output)
        if not error <= SLACK:
            return self.refuse(f"{case.name} {who}", f"wrong: {error:.1f} times the tolerance")
        if expected is not None:
            # Of every row, where the error may be that of some.
            apart = np.abs(output.astype(np.float64) - expected).max() / case.tolerance()
            if not apart <= 2 * SLACK:
                return self.refuse(f"{case.name} {who}", f"not regard's answer: {apart:.1f} times the tolerance apart")
        return error

    def fastest(self, case, expected):
        """The fastest session whose answer is right: its name, itself, its error; and the median time of each."""
        sessions, errors = {}, {}
        for way, plan in case.ways():
            try:
                session = Session(plan(), self.args.threads)
                error = self.right(case, way, session.answer(), expected)
            except Exception as refusal:  # the runtime's own exceptions have no common base but this
                self.refuse(f"{case.name} {way}", refusal)
                continue
            if error is not None:
                sessions[way], errors[way] = session, error
        if not sessions:
            return None, {}
        turns = [{way: session.time(self.args.time)[0] for way, session in sessions.items()} for _ in range(TRIALS)]
        times = {way: statistics.median(turn[way] for turn in turns) for way in sessions}
        way = min(times, key=times.get)
        return (way, sessions[way], errors[way]), times

    def compare(self, case, folder):
        file, output = os.path.join(folder, "in.safetensors"), os.path.join(folder, "out.safetensors")
        save_file(case.tensors, file)
        try:
            answer = self.regard.answer(case, file, output)
            error = self.right(case, "regard", answer)
            if error is None:
                return
            before = used_by_others()
            best, tried = self.fastest(case, answer)
            if best is None:
                return
            way, session, peer_error = best
            ours, peers = [], []
            for _ in range(self.args.rounds):
                ours.append(self.regard.time(case, file, self.args.time))
                peers.append(session.time(self.args.time))
            others = share(before, used_by_others())
        except RuntimeError as refusal:
            self.refuse(f"{case.name} regard", refusal)
            return
        middle = lambda rounds: statistics.median(median for median, _ in rounds)
        least = lambda rounds: min(minimum for _, minimum in rounds)
        row = {
            "name": case.name,
            "regard_ms": middle(ours),
            "onnxruntime_ms": middle(peers),
            "regard_over_onnxruntime": middle(ours) / middle(peers),
            "operator": way,
            "operators_ms": tried,
            "regard_min_ms": least(ours),
            "onnxruntime_min_ms": least(peers),
            "regard_rounds_ms": [median for median, _ in ours],
            "onnxruntime_rounds_ms": [median for median, _ in peers],
            "regard_error_ratio": error,
            "onnxruntime_error_ratio": peer_error,
            "cores_of_others": others,
        }
        self.rows.append(row)
        print_row(case.name, f"{row['regard_ms']:.3f}", f"{row['onnxruntime_ms']:.3f}",
                  f"{row['regard_over_onnxruntime']:.2f}", way)
        if others is not None and others > OTHERS:
            line = f"{case.name}: not alone, other programs took {others:.2f} cores meanwhile"
            print(line, file=sys.stderr, flush=True)

    def save(self, path):
        report = {
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "system": platform.platform(),
            "threads": self.args.threads,
            "regard": self.regard.run("--version").strip(),
            "onnxruntime": ort.__version__,
            "rounds": self.args.rounds,
            "runs_a_round": self.args.time,
            "cases": self.rows,
            "not_run": self.not_run,
        }
        with open(path, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
            file.write("\n")


def print_row(name, ours, peers, ratio, way):
    print(f"{name:<38} {ours:>10} {peers:>15} {ratio:>6}  {way}", flush=True)


def used_by_others():
    """Now, and the seconds of CPU that all but this program and what it ran have used; nothing where Linux is not."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, soft, steal, *_ = (int(field) for field in file.readline().split()[1:])
    except OSError:
        return None
    all_of_it = (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), all_of_it - sum(os.times()[:4])


def share(before, after):
    return None if before is None else max(0.0, (after[1] - before[1]) / (after[0] - before[0]))


def cpu_name():
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def positive(text):
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regard", default="target/release/regard", metavar="PATH", help="the program to compare")
    cores = os.cpu_count()
    parser.add_argument("--threads", type=positive, default=cores, metavar="N", help="of both; one a core by default")
    parser.add_argument("--rounds", type=positive, default=5, metavar="R", help="turns of each; 5, when left out")
    parser.add_argument("--time", type=positive, default=15, metavar="N", help="runs a turn; 15, when left out")
    parser.add_argument("--filter", default="", metavar="RE", help="only cases whose name matches")
    parser.add_argument("--json", metavar="FILE", help="write the figures, the machine and the versions")
    parser.add_argument("--limit", type=float, metavar="X", help="exit with 1 if regard takes over X times as long")
    args = parser.parse_args()
    check_generator()
    chosen = [make for name, make in CASES if re.search(args.filter, name)]
    if not chosen:
        sys.exit(f"no case matches {args.filter}; there are: {', '.join(name for name, _ in CASES)}")
    comparison = Comparison(args)
    try:
        version = comparison.regard.run("--version").strip()
    except (OSError, RuntimeError) as error:
        sys.exit(f"{args.regard}: {error}")
    print(f"{cpu_name()}, {args.threads} threads, {version}, onnxruntime {ort.__version__}", file=sys.stderr)
    print_row("case", "regard ms", "ONNX Runtime ms", "ratio", "operator")
    for make in chosen:
        with tempfile.TemporaryDirectory() as folder:
            comparison.compare(make(), folder)
    if args.json:
        comparison.save(args.json)
    limit = float("inf") if args.limit is None else args.limit
    slower = [row["name"] for row in comparison.rows if row["regard_over_onnxruntime"] > limit]
    if slower:
        print(f"above {args.limit}: {', '.join(slower)}", file=sys.stderr)
    sys.exit(1 if slower or len(comparison.rows) < len(chosen) else 0)


if __name__ == "__main__":
    main()
