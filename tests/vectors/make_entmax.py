#!/usr/bin/env python3
"""Sparsemax of the package entmax -> OUT/<case>.safetensors + OUT/index.json.

    pip install entmax==1.3 torch==2.15.0 numpy safetensors ;  python make_entmax.py OUT

Scores are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far the library's own f32 run
is from that. `in.mask` is 1 where a key takes part; the others' scores are -inf.
"""
import sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, torch
from entmax import sparsemax
from folder import Folder

F = Folder(sys.argv[1], f"entmax 1.3 (torch {torch.__version__})", 20261129)


def case(name, scores, mask=None, note=None):
    def run(i, w, dtype):
        x = torch.from_numpy(i["scores"])
        if mask is not None:
            x = x.masked_fill(~torch.from_numpy(mask), -torch.inf)
        return {"weights": sparsemax(x, dim=-1).numpy()}

    F.put(name, "Sparsemax", {"layout": "scores, weights [B,N,M], along M; mask broadcasts to them"}, {"scores": scores} | ({} if mask is None else {"mask": mask}), {}, run, note)


case("sparsemax", F.draw(2, 5, 7))
case("sparsemax_flat", F.draw(3, 4, 9, scale=0.1), note="most keys keep some weight")
case("sparsemax_sharp", F.draw(2, 3, 11, scale=6), note="most rows are one-hot")
case("sparsemax_65", F.draw(2, 3, 65))
case("sparsemax_300", F.draw(2, 2, 300, scale=0.5))
case("sparsemax_one_key", F.draw(3, 2, 1))
case("sparsemax_ties", np.round(F.draw(2, 4, 9) * 2) / np.float32(2), note="scores in steps of one half")
case("sparsemax_large", np.float32(1e4) + F.draw(2, 3, 8).round(1), note="a constant of 1e4 in each row")
lengths = np.array([9, 4, 1])
case("sparsemax_lengths", F.draw(3, 5, 9), (np.arange(9) < lengths[:, None])[:, None])
mask = F.rng.random((2, 6, 8)) < 0.5
mask[..., 3] = True
case("sparsemax_masked", F.draw(2, 6, 8), mask)
F.finish()
