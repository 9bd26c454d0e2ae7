#!/usr/bin/env python3
"""PyTorch nn.LSTM with a projection, beyond torch/ -> OUT/<case>.safetensors + OUT/index.json.

    pip install torch==2.15.0 numpy==2.4.6 safetensors ;  python make_lstm.py OUT

Inputs and weights are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far torch's own
f32 run is from that. Weights under torch's own names. With `in.lengths` the batch is packed.
"""
import sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, torch
from folder import Folder

torch.set_num_threads(1)
F = Folder(sys.argv[1], f"torch {torch.__version__}", 20261202)
tensors = lambda d: {k: torch.from_numpy(v) for k, v in d.items()}


def lstm(name, T, B, I, H, P, layers=1, bi=False, lengths=None, state=True, bias=True, batch_first=False):
    options = dict(num_layers=layers, bidirectional=bi, bias=bias, proj_size=P, batch_first=batch_first)
    make = lambda dtype: torch.nn.LSTM(I, H, **options).to(getattr(torch, dtype))
    weights = {k: F.draw(*v.shape, scale=0.3 if v.ndim == 1 else v.shape[1] ** -0.5) for k, v in make("float32").state_dict().items()}
    states = layers * (2 if bi else 1)
    inputs = {"x": F.draw(*((B, T, I) if batch_first else (T, B, I)))}
    inputs |= {"h0": F.draw(states, B, P or H), "c0": F.draw(states, B, H)} if state else {}

    def run(i, w, dtype):
        m, i = make(dtype), tensors(i)
        m.load_state_dict(tensors(w))
        x, start = i["x"], (i["h0"], i["c0"]) if state else None
        with torch.no_grad():
            if lengths:
                x = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), batch_first, enforce_sorted=False)
            y, (h, c) = m(x, start)
            if lengths:
                y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first, total_length=T)
        return {"y": y.numpy(), "hn": h.numpy(), "cn": c.numpy()}

    inputs |= {"lengths": np.array(lengths, "i4")} if lengths else {}
    attributes = {"layers": layers, "bidirectional": bi, "hidden": H, "input": I, "proj_size": P, "bias": bias, "gates": "i,f,g,o", "lengths": lengths,
                  "initial_state": "given" if state else "zeros", "batch_first": batch_first, "layout": "x, y [T,B,*], or [B,T,*] if batch_first; h0, c0, hn, cn [layers*directions,B,*]"}
    F.put(name, "LSTM", attributes, inputs, weights, run)


lstm("proj", 6, 3, 5, 13, 7)
lstm("proj_packed_no_bias", 7, 4, 5, 9, 4, lengths=[3, 7, 1, 5], bias=False)
lstm("proj_1", 5, 2, 3, 10, 1, state=False)
lstm("proj_bi_packed", 6, 3, 5, 11, 6, bi=True, lengths=[6, 2, 4])
lstm("proj_3_layers_batch_first", 6, 2, 5, 12, 7, layers=3, batch_first=True)
lstm("proj_3_layers_bi_packed", 5, 3, 4, 10, 7, layers=3, bi=True, lengths=[2, 5, 3])
lstm("proj_65_33", 3, 2, 10, 65, 33, state=False)

F.finish()
