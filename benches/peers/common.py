"""What the attention peers share: the inputs of `regard bench`, the check of an answer, and its table of figures.

The cases, their shapes and what `regard` took are read from the file that `regard bench --suite attention --json
BENCH.json` wrote; nothing is listed twice. Needs numpy.
"""

import json
import statistics
import sys

import numpy as np

# Operations that the reference may take for a check; beyond that, rows are left out.
MOST_CHECKED = 3e8

# What the generator gives first from seed 1 at size 1.7, and last of 2000 from seed 5 at size 1.
FIRST = [0.16391672, 1.2861332, -1.5854625, -1.5010741, 0.55444396, 0.8710124]
LATE = 0.6489556


def numbers(shape, seed, size):
    """Numbers in ±size: a linear congruential generator, the upper 24 bits of each state (src/workload)."""
    factor, step = np.uint32(1_664_525), np.uint32(1_013_904_223)
    start = np.uint32((seed * 747_796_405 + 1) % 2**32)
    count = int(np.prod(shape))
    # The state after k steps is factor^k · start + step · (1 + factor + … + factor^(k−1)), modulo 2³².
    powers = np.cumprod(np.full(count, factor, np.uint32), dtype=np.uint32)
    sums = np.cumsum(np.concatenate([np.ones(1, np.uint32), powers[:-1]]), dtype=np.uint32)
    state = powers * start + step * sums
    unit = (state >> np.uint32(8)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)
    return (unit * np.float32(size)).reshape(shape)


def check_generator():
    """Fails unless the generator is that of the test `numbers_are_those_that_the_peers_get`."""
    first = numbers([2, 3], 1, 1.7).ravel()
    late = numbers([1, 2, 1000], 5, 1.0).ravel()[1999]
    assert np.array_equal(first, np.array(FIRST, np.float32)) and late == np.float32(LATE), (first, late)


class Case:
    """A case of the file with its inputs, and the truth about some of its rows."""

    def __init__(self, row):
        self.row, shape = row, row["shape"]
        self.name = row["work"]
        for key, value in shape.items():
            setattr(self, key, value)
        b, hq, hkv = self.batch, self.query_heads, self.kv_heads
        self.query = numbers([b, hq, self.queries, self.dim], 1, 1.7)
        self.key = numbers([b, hkv, self.keys, self.dim], 2, 1.7)
        self.value = numbers([b, hkv, self.keys, self.value_dim], 3, 1.7)
        self.mask = numbers([1, 1, self.queries, self.keys], 4, 1.0) if self.masked else None
        self.v = None
        if self.additive:
            self.v = numbers([self.dim], 5, np.float32(4) / np.sqrt(np.float32(self.dim)))
        self.truth = None

    def sample(self):
        """Heads (of all batch rows) and queries, evenly apart, the first and the last among them."""
        each = 2 * (self.dim + self.value_dim) + (10 * self.dim if self.additive else 0)
        most = MOST_CHECKED / (each * self.keys)
        everything = self.batch * self.query_heads
        heads = int(np.clip(most // self.queries, min(4, everything), everything))
        rows = int(np.clip(most // heads, min(8, self.queries), self.queries))
        spread = lambda count, all_: [k * (all_ - 1) // max(count - 1, 1) for k in range(count)]
        return spread(heads, everything), spread(rows, self.queries)

    def reference(self, heads, rows, dtype):
        """Attention by its definition, of some rows of some heads."""
        stored = lambda x: x.astype(np.float16) if dtype == np.float32 and self.dtype == "f16" else x
        flat = lambda x: stored(x).reshape(-1, *x.shape[2:])
        query, key, value = flat(self.query), flat(self.key), flat(self.value)
        group = self.query_heads // self.kv_heads
        outputs = []
        for head in heads:
            q, k, v = (x.astype(dtype) for x in (query[head][rows], key[head // group], value[head // group]))
            if self.additive:
                scores = np.stack([np.tanh(row + k) @ self.v.astype(dtype) for row in q])
            else:
                scores = q @ k.T * dtype(1 / np.sqrt(self.dim))
            if self.mask is not None:
                scores = scores + self.mask[0, 0][rows].astype(dtype)
            if self.causal:
                scores = np.where(np.arange(self.keys) <= np.array(rows)[:, None], scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            outputs.append(weights / weights.sum(-1, keepdims=True) @ v)
        return np.stack(outputs)

    def error_ratio(self, output):
        """The largest error as a share of the tolerance: twice that of the same plain code in f32 (which rounds inputs
        and output to f16 where they are), and 8 units in the last place of the largest element."""
        if self.truth is None:
            heads, rows = self.sample()
            oracle = self.reference(heads, rows, np.float64)
            baseline = self.reference(heads, rows, np.float32)
            if self.dtype == "f16":
                baseline = baseline.astype(np.float16)
            ulp = np.finfo(np.float16 if self.dtype == "f16" else np.float32).eps
            error = np.abs(baseline.astype(np.float64) - oracle).max()
            self.truth = heads, rows, oracle, 2 * error + 8 * ulp * np.abs(oracle).max()
        heads, rows, oracle, tolerance = self.truth
        got = np.asarray(output).reshape(-1, self.queries, self.value_dim)[heads][:, rows].astype(np.float64)
        error = np.abs(got - oracle).max()
        return float(error / tolerance) if np.isfinite(error) else float("inf")


def timed(run, least=10, budget=1e9, most=200):
    """Nanoseconds of several runs; `run` gives those of one."""
    for _ in range(3):
        run()
    times = []
    while len(times) < least or (sum(times) < budget and len(times) < most):
        times.append(run())
    return times


class Table:
    """The figures of one machine, to which rows are added."""

    def __init__(self, path, pattern):
        import re

        check_generator()
        with open(path, encoding="utf-8") as file:
            self.report = json.load(file)
        found = {row["work"]: row for row in self.report["cases"] if row.get("shape") and re.search(pattern, row["work"])}
        self.rows = list(found.values())
        if not self.rows:
            sys.exit(f"{path}: no attention case has such a name")

    def cases(self):
        """One after the other: their inputs are large."""
        return (Case(row) for row in self.rows)

    def refuse(self, case, way, reason):
        """Notes why something was not timed."""
        line = f"{case.name} {way}: {' '.join(str(reason).split())[:200]}"
        self.report["not_run"].append(line)
        print(line, file=sys.stderr, flush=True)

    def add(self, case, way, plan, times, error):
        """Puts a row behind those of the same work, and prints it beside what `regard` chose."""
        median = statistics.median(times)
        row = case.row | {
            "name": f"{case.name} {way}",
            "way": way,
            "path": way,
            "plan": plan,
            "median_ns": median,
            "minimum_ns": min(times),
            "compile_ns": None,
            "runs": len(times),
            "dispatches": 0,
            "gflops": case.row["flops"] / median,
            "gbps": case.row["bytes"] / median,
            "times_floor": median / case.row["floor_ns"],
            "error_ratio": error,
        }
        rows = self.report["cases"]
        rows[:] = [old for old in rows if old["name"] != row["name"]]
        at = max(k for k, old in enumerate(rows) if old["work"] == case.name)
        rows.insert(at + 1, row)
        ours = next((old["median_ns"] for old in rows if old["name"] == f"{case.name} auto"), None)
        printed = {"name": row["name"], "median_ns": median, "gflops": row["gflops"], "error_ratio": error, "plan": plan}
        if ours is not None:
            printed |= {"regard_median_ns": ours, "regard_over_peer": ours / median}
        print(json.dumps(printed), flush=True)

    def save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.report, file, indent=2)
            file.write("\n")


def arguments(description, parser_of):
    """The options that every peer has."""
    parser = parser_of(description)
    parser.add_argument(
        "--compare",
        metavar="BENCH.json",
        required=True,
        help="what `regard bench --suite attention --json BENCH.json` wrote on this machine: the cases are those of it",
    )
    parser.add_argument("--filter", default="", metavar="RE", help="only cases whose name matches")
    parser.add_argument("--output", metavar="FILE.json", help="write the figures of both: `regard bench --show FILE.json`")
    return parser
