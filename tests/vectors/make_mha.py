#!/usr/bin/env python3
"""PyTorch multi-head and grouped attention beyond torch/ -> OUT/<case>.safetensors + OUT/index.json.

    pip install torch==2.15.0 numpy safetensors ;  python make_mha.py OUT

Inputs and weights are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far torch's own
f32 run is from that. Weights under torch's own names; `in.key_padding` and a bool `in.attn_mask` are 1 where a key is
to be ignored, torch's own sense for this class; in `SDPA` a bool `in.mask` is 1 where a key takes part.
"""
import sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, torch
from folder import Folder
from torch.nn.functional import scaled_dot_product_attention

torch.set_num_threads(1)
F = Folder(sys.argv[1], f"torch {torch.__version__}", 20261127)
tensors = lambda d: {k: torch.from_numpy(v) for k, v in d.items()}


def mha(name, B, Nq, Nk, E, H, kdim=None, vdim=None, bias=True, bias_kv=False, zero_attn=False, average=False, pad=None, mask=None, causal=False, self_attn=False, note=None):
    """mask: "bool" or "float", [Nq, Nk], or with " heads" after it [B * H, Nq, Nk]."""
    options = dict(kdim=kdim, vdim=vdim, bias=bias, add_bias_kv=bias_kv, add_zero_attn=zero_attn, batch_first=True)
    make = lambda dtype: torch.nn.MultiheadAttention(E, H, **options).to(getattr(torch, dtype))
    weights = {k: F.draw(*v.shape, scale=0.3 if v.ndim == 1 else 1.0 if "bias" in k else v.shape[1] ** -0.5) for k, v in make("float32").state_dict().items()}
    inputs = {"q": F.draw(B, Nq, E)}
    if not self_attn:
        inputs |= {"k": F.draw(B, Nk, kdim or E), "v": F.draw(B, Nk, vdim or E)}
    if pad:
        inputs["key_padding"] = np.arange(Nk)[None] >= np.array(pad)[:, None]
    shape = (B * H, Nq, Nk) if mask and "heads" in mask else (Nq, Nk)
    if mask:
        inputs["attn_mask"] = F.rng.random(shape) < 0.3 if "bool" in mask else F.draw(*shape)
        if "bool" in mask:
            inputs["attn_mask"][..., 0] = False
    if causal:
        inputs["attn_mask"] = np.triu(np.ones(shape, bool), 1)

    def run(i, w, dtype):
        m, i = make(dtype), tensors(i)
        m.load_state_dict(tensors(w))
        k, v = (i["q"],) * 2 if self_attn else (i["k"], i["v"])
        padding = i.get("key_padding")
        if mask and "float" in mask and padding is not None:  # torch wants both masks of one type
            padding = torch.zeros(padding.shape, dtype=i["q"].dtype).masked_fill(padding, -torch.inf)
        with torch.no_grad():
            y, a = m(i["q"], k, v, key_padding_mask=padding, attn_mask=i.get("attn_mask"), average_attn_weights=average)
        return {"y": y.numpy(), "weights": a.numpy()}

    extra = bias_kv + zero_attn
    attributes = {"embed": E, "heads": H, "kdim": kdim or E, "vdim": vdim or E, "bias": bias, "add_bias_kv": bias_kv, "add_zero_attn": zero_attn, "average_attn_weights": average,
                  "causal": causal, "self_attention": self_attn, "key_padding": "1 = ignore this key" if pad else None,
                  "attn_mask": None if "attn_mask" not in inputs else "added, [B*H,Tq,Tk]" if mask == "float heads" else "added, [Tq,Tk]" if mask == "float" else "1 = ignore this key, " + ("[B*H,Tq,Tk]" if len(shape) == 3 else "[Tq,Tk]"),
                  "layout": f"[B,T,E]; out.weights [B,{'' if average else 'H,'}Tq,Tk{f' + {extra}' if extra else ''}]", "in_proj": "rows of in_proj_weight: q, k, v; bias_k and bias_v are one more key and value, then comes the zero one"}
    F.put(name, "MultiheadAttention", attributes, inputs, weights, run, note)


def sdpa(name, B, H, Hkv, Nq, Nk, D, Dv=None, causal=False, mask=None, scale=None, note=None):
    """mask: "bool" or "float" and the shape that it broadcasts from."""
    inputs = {"q": F.draw(B, H, Nq, D), "k": F.draw(B, Hkv, Nk, D), "v": F.draw(B, Hkv, Nk, Dv or D)}
    if mask:
        inputs["mask"] = F.draw(*mask[1]) if mask[0] == "float" else F.rng.random(mask[1]) > 0.4

    def run(i, w, dtype):
        i = tensors(i)
        y = scaled_dot_product_attention(i["q"], i["k"], i["v"], attn_mask=i.get("mask"), is_causal=causal, scale=scale, enable_gqa=H != Hkv)
        return {"y": y.numpy()}

    F.put(name, "SDPA", {"batch": B, "heads": H, "kv_heads": Hkv, "q_len": Nq, "k_len": Nk, "head_dim": D, "v_dim": Dv or D, "mask": mask and mask[0], "causal": causal,
                         "scale": scale or D**-0.5, "scale_given": scale is not None, "layout": "[B,H,N,D]"}, inputs, {}, run, note)


mha("mha_bias_kv", 2, 5, 7, 12, 3, bias_kv=True)
mha("mha_bias_kv_causal", 2, 7, 7, 12, 3, bias_kv=True, causal=True, self_attn=True, note="the added key is not masked")
mha("mha_zero_attn_pad", 3, 5, 7, 16, 4, zero_attn=True, pad=[7, 3, 0], note="the last batch row sees the zero key only, whose value is 0")
mha("mha_bias_kv_zero_attn_pad", 2, 4, 6, 20, 5, bias_kv=True, zero_attn=True, pad=[6, 2])
mha("mha_no_bias_bias_kv", 2, 3, 5, 8, 2, bias=False, bias_kv=True)
mha("mha_kdim_vdim_no_bias_pad", 3, 5, 8, 18, 3, kdim=10, vdim=14, bias=False, pad=[8, 4, 1])
mha("mha_kdim_vdim_zero_attn", 2, 4, 7, 12, 2, kdim=9, vdim=15, zero_attn=True)
mha("mha_bool_mask_pad", 3, 6, 9, 16, 4, pad=[9, 5, 2], mask="bool")
mha("mha_float_mask", 2, 5, 8, 12, 3, mask="float")
mha("mha_float_mask_pad", 3, 5, 8, 12, 3, pad=[8, 6, 3], mask="float")
mha("mha_bool_mask_heads", 2, 5, 7, 12, 4, mask="bool heads")
mha("mha_float_mask_heads_pad", 2, 5, 7, 12, 4, pad=[4, 7], mask="float heads")
mha("mha_average_weights_pad", 3, 4, 6, 20, 5, average=True, pad=[6, 3, 1])
mha("mha_average_weights_bias_kv", 2, 5, 7, 12, 3, average=True, bias_kv=True)
sdpa("sdpa_gqa_causal_5x12", 2, 6, 2, 5, 12, 8, causal=True)
sdpa("sdpa_gqa_causal_12x5", 2, 6, 3, 12, 5, 8, Dv=10, causal=True, note="the last queries see all keys")
sdpa("sdpa_mqa_causal_17x33", 1, 5, 1, 17, 33, 16, Dv=24, causal=True)
sdpa("sdpa_gqa_decode", 3, 8, 2, 1, 45, 16, Dv=12)
sdpa("sdpa_gqa_bool_heads", 2, 6, 2, 7, 11, 8, mask=("bool", (1, 6, 7, 11)), note="some rows may see no key: y is 0")
sdpa("sdpa_gqa_float_batch", 3, 4, 2, 7, 11, 8, Dv=6, mask=("float", (3, 1, 7, 11)), scale=0.5)
sdpa("sdpa_gqa_float_keys", 2, 6, 3, 4, 9, 8, mask=("float", (1, 1, 1, 9)))
sdpa("sdpa_bool_queries", 2, 3, 3, 8, 5, 16, mask=("bool", (8, 1)), note="a mask [Nq, 1]: whole rows see no key")
F.finish()
