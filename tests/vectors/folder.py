"""One folder of vectors: what the make_*.py beside it share. Needs numpy and safetensors."""
import hashlib, json, os
import numpy as np
from safetensors.numpy import save_file

STORED = {"f": "f4", "b": "u1", "i": "i4"}
NAMES = {"f4": "f32", "u1": "u8", "i4": "i32"}


def stored(a):
    a = np.asarray(a)
    return np.ascontiguousarray(a.astype(STORED[a.dtype.kind]))  # a scalar becomes [1]


class Folder:
    def __init__(self, path, library, seed):
        self.path, self.library, self.seed, self.cases = path, library, seed, []
        self.computed = "float64, CPU"
        self.rng = np.random.default_rng(seed)
        os.makedirs(path, exist_ok=True)

    def draw(self, *shape, scale=1.0):
        return self.rng.standard_normal(shape).astype("f4") * np.float32(scale)

    def put(self, name, op, attributes, inputs, weights, run, note=None):
        """run(inputs, weights, dtype) -> {output: array}, called in f64, which is stored, and in f32, for f32_err."""
        cast = lambda d, t: {k: v.astype(t) if v.dtype == np.float32 else v for k, v in d.items()}
        exact, f32 = ({k: np.asarray(v) for k, v in run(cast(inputs, t), cast(weights, t), t).items()} for t in ("float64", "float32"))
        err = {}
        for k, v in exact.items():
            assert v.dtype == np.float64 and f32[k].dtype == np.float32 and not np.isnan(v).any(), (name, k)
            finite = np.isfinite(v)
            assert (v[~finite] == f32[k][~finite]).all(), (name, k)
            err[k] = np.abs(v - f32[k], where=finite, out=np.zeros_like(v)).max()
        self.keep(name, op, attributes, inputs, weights, exact, err, note)

    def keep(self, name, op, attributes, inputs, weights, outputs, errors, note=None):
        """The outputs as they are, with their errors in f32."""
        tensors = {p + k: stored(v) for p, d in (("in.", inputs), ("w.", weights), ("out.", outputs)) for k, v in d.items()}
        file = name + ".safetensors"
        path = os.path.join(self.path, file)
        save_file(tensors, path)
        os.chmod(path, 0o644)
        self.cases.append({
            "case": name, "file": file, "op": op, "attributes": attributes, **({"note": note} if note else {}),
            "tensors": {k: {"dtype": NAMES[v.dtype.str[1:]], "shape": list(v.shape)} for k, v in tensors.items()},
            "f32_err": {"out." + k: float(f"{v:.3g}") for k, v in errors.items()}, "bytes": os.path.getsize(path), "sha256": hashlib.sha256(open(path, "rb").read()).hexdigest(),
        })

    def finish(self):
        index = {"library": self.library, "numpy": np.__version__, "seed": self.seed, "computed": self.computed,
                 "stored": "float32 (masks u8, integers i32)", "cases": self.cases}
        with open(os.path.join(self.path, "index.json"), "w") as f:
            json.dump(index, f, indent=1)
        print(len(self.cases), "cases,", sum(c["bytes"] for c in self.cases), "bytes; largest f32_err:")
        for c in sorted(self.cases, key=lambda c: -max(c["f32_err"].values()))[:6]:
            print(" ", c["case"], c["f32_err"])
