#!/usr/bin/env python3
"""Location-aware attention of SpeechBrain -> OUT/<case>.safetensors + OUT/index.json.

    pip install speechbrain==1.1.2 torch==2.11.0 torchaudio==2.11.0 numpy safetensors ;  python make_speechbrain.py OUT

Inputs and weights are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far the library's
own f32 run is from that. One decoder step after the other, each step's weights being the next one's previous alignment;
before the first it is 1 / length on the real frames.
"""
import sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, torch
from folder import Folder
from speechbrain.nnet.attention import LocationAwareAttention

torch.set_num_threads(1)
F = Folder(sys.argv[1], f"speechbrain 1.1.2 (torch {torch.__version__})", 20261130)


def location(name, B, T, N, memory, query, units, output, channels, half, lengths, scaling=1.0, note=None):
    make = lambda dtype: LocationAwareAttention(memory, query, units, output, channels, half, scaling).to(getattr(torch, dtype))
    fan = lambda s: s[1] ** -0.5 if len(s) == 2 else 0.3 if len(s) == 1 else 1.0
    weights = {k: F.draw(*v.shape, scale=fan(v.shape)) for k, v in make("float32").state_dict().items()}
    weights["mlp_attn.weight"] *= np.float32(units**0.5)  # scores of size 1 and more, so that places differ
    weights["conv_loc.weight"] *= np.float32(2)
    lengths = np.array(lengths, "i4")
    previous = (np.arange(N) < lengths[:, None]) * (np.float32(1) / lengths.astype("f4"))[:, None]
    inputs = {"query": F.draw(B, T, query), "memory": F.draw(B, N, memory), "lengths": lengths, "previous": previous.astype("f4")}

    def run(i, w, dtype):
        m = make(dtype)
        m.load_state_dict({k: torch.from_numpy(np.asarray(v)) for k, v in w.items()})
        length = torch.from_numpy(i["lengths"]).to(getattr(torch, dtype))
        outputs, steps = [], []
        with torch.no_grad():
            for t in range(T):
                y, a = m(torch.from_numpy(i["memory"]), length, torch.from_numpy(i["query"][:, t]))
                if t == 0:
                    first = m.mask * (1 / length.float()).unsqueeze(1)
                    assert (first.numpy() == i["previous"]).all(), name
                outputs.append(y.numpy())
                steps.append(a.numpy())
        weights = np.stack(steps, 1)
        return {"weights": weights, "context": weights @ i["memory"], "output": np.stack(outputs, 1)}

    attributes = {"units": units, "channels": channels, "width": 2 * half + 1, "scale": scaling,
                  "score": "scale * mlp_attn(tanh(mlp_enc(memory) + mlp_dec(query) + mlp_loc(conv_loc(previous)))); output = mlp_out(context)",
                  "layout": "query [B,T,*]; memory [B,N,*]; previous [B,N]; weights [B,T,N]; context, output [B,T,*]; conv_loc.weight [channels,1,width]"}
    F.put(name, "LocationAwareAttention", attributes, inputs, weights, run, note)


location("location", 2, 3, 7, 6, 5, 8, 4, 3, 2, [7, 7])
location("location_lengths", 3, 4, 9, 6, 5, 8, 7, 2, 1, [9, 5, 1])
location("location_wide_scaled", 3, 5, 8, 4, 6, 10, 5, 3, 6, [3, 8, 6], scaling=2.0, note="the filter is wider than the memory")
location("location_65", 2, 3, 65, 20, 24, 32, 12, 10, 7, [65, 41])
F.finish()
