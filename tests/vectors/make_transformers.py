#!/usr/bin/env python3
"""Rotary embeddings and attention sinks of Hugging Face transformers -> OUT/<case>.safetensors + OUT/index.json.

    pip install torch==2.15.0 transformers==5.23.0 numpy safetensors ;  python make_transformers.py OUT

Inputs are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far the library's own f32 run
is from that. No model weights: the models' functions on this project's own numbers.
"""
import sys, warnings
from types import SimpleNamespace

warnings.filterwarnings("ignore")
import numpy as np, torch, transformers
from folder import Folder
from torch.nn.functional import scaled_dot_product_attention
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.gpt_neox import modeling_gpt_neox as neox
from transformers.models.gpt_oss import modeling_gpt_oss as oss
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama

torch.set_num_threads(1)
F = Folder(sys.argv[1], f"transformers {transformers.__version__} (torch {torch.__version__})", 20261128)
tensors = lambda d: {k: torch.from_numpy(v) for k, v in d.items()}


def table(module, config, rows):
    """cos and sin [rows, width / 2]; the library repeats them for the other half."""
    cos, sin = module(config)(torch.zeros(1), torch.arange(rows)[None])
    return [a[0, :, : a.shape[-1] // 2].numpy().copy() for a in (cos, sin)]


def llama_turn(q, k, cos, sin):
    both = lambda a: torch.cat([a, a], -1)[None]
    return llama.apply_rotary_pos_emb(q, k, both(cos), both(sin))


def neox_turn(q, k, cos, sin):
    both = lambda a: torch.cat([a, a], -1)[None]
    return neox.apply_rotary_pos_emb(q, k, both(cos), both(sin))


def gptj_turn(q, k, cos, sin):
    """Width first, the rest passed on, as in GPTJAttention.forward; the function itself wants [B, N, H, D]."""
    width = 2 * cos.shape[-1]
    turn = lambda x: torch.cat([gptj.apply_rotary_pos_emb(x[..., :width].transpose(1, 2), sin[None], cos[None]).transpose(1, 2), x[..., width:]], -1)
    return turn(q), turn(k)


def rotary(name, turn, cos_sin, layout, B, H, Hkv, Nq, Nk, D, Dv, offset=0, attributes={}, note=None):
    """Causal: the last query sees the last key. Key j stands at position offset + j, query i at offset + Nk - Nq + i."""
    cos, sin = cos_sin
    assert len(cos) >= offset + Nk
    inputs = {"q": F.draw(B, H, Nq, D), "k": F.draw(B, Hkv, Nk, D), "v": F.draw(B, Hkv, Nk, Dv), "cos": cos, "sin": sin}

    def run(i, w, dtype):
        i = tensors(i)
        at = lambda n: [i[x][offset + Nk - n : offset + Nk] for x in ("cos", "sin")]
        q, _ = turn(i["q"], i["q"], *at(Nq))
        _, k = turn(i["k"], i["k"], *at(Nk))
        see = torch.arange(Nk)[None] <= torch.arange(Nq)[:, None] + Nk - Nq
        y = scaled_dot_product_attention(q, k, i["v"], attn_mask=see, enable_gqa=H != Hkv)
        return {"q": q.numpy(), "k": k.numpy(), "y": y.numpy()}

    own = {"layout": layout, "width": 2 * cos.shape[1], "offset": offset, "causal": "bottom-right", "scale": D**-0.5,
           "shapes": "q, k, v, y [B,H,N,D]; cos, sin [positions, width / 2]; out.q and out.k are turned"}
    F.put(name, "Rotary", own | attributes, inputs, {}, run, note)


def tables(name, module, config, base, width, rows):
    """What is stored is the library's, in f32, and f32_err how far that is from the formula in f64."""
    def run(i, w, dtype):
        if dtype == "float64":
            return dict(zip(("cos", "sin"), (a.astype("f8") for a in table(module, config, rows))))
        angle = np.arange(rows)[:, None] * base ** (-2.0 * np.arange(width // 2) / width)
        return {"cos": np.cos(angle).astype("f4"), "sin": np.sin(angle).astype("f4")}

    F.put(name, "RotaryTables", {"base": base, "width": width, "positions": rows, "shape": "[positions, width / 2]"}, {}, {}, run)


def sinks(name, B, H, Hkv, Nq, Nk, D, Dv, visible, logits=None, attributes={}, note=None):
    """visible [B or 1, 1, Nq, Nk]; the model adds it as a mask of 0 and -inf."""
    inputs = {"q": F.draw(B, H, Nq, D), "k": F.draw(B, Hkv, Nk, D), "v": F.draw(B, Hkv, Nk, Dv), "sinks": F.draw(H) if logits is None else logits, "mask": visible}

    def run(i, w, dtype):
        i = tensors(i)
        module = SimpleNamespace(sinks=i["sinks"], num_key_value_groups=H // Hkv, training=False)
        mask = torch.zeros(visible.shape, dtype=i["q"].dtype).masked_fill(~i["mask"], -torch.inf)
        y, weights = oss.eager_attention_forward(module, i["q"], i["k"], i["v"], mask, D**-0.5)
        return {"y": y.transpose(1, 2).numpy(), "weights": weights.numpy()}

    F.put(name, "GptOssAttention", {"scale": D**-0.5, "layout": "q, k, v, y [B,H,N,D]; sinks [H]; weights [B,H,Nq,Nk], without the sink's share; mask 1 = attend"} | attributes, inputs, {}, run, note)


def llama_config(D, **rope):
    return LlamaConfig(hidden_size=4 * D, num_attention_heads=4, head_dim=D, max_position_embeddings=512, rope_parameters=rope)


default = lambda D, base=10000.0: llama_config(D, rope_type="default", rope_theta=base)
llama3 = dict(rope_type="llama3", rope_theta=500000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
R = llama.LlamaRotaryEmbedding
rotary("llama", llama_turn, table(R, default(8), 7), "half-split", 2, 6, 3, 7, 7, 8, 10, attributes={"base": 10000.0})
rotary("llama_decode", llama_turn, table(R, default(12), 9), "half-split", 2, 4, 2, 3, 9, 12, 8, attributes={"base": 10000.0})
rotary("llama_offset", llama_turn, table(R, default(8), 45), "half-split", 3, 2, 1, 5, 6, 8, 8, offset=38, attributes={"base": 10000.0})
rotary("llama3_scaled", llama_turn, table(R, llama_config(32, **llama3), 90), "half-split", 1, 4, 2, 11, 13, 32, 24, offset=70, attributes=llama3)
neox_config = GPTNeoXConfig(hidden_size=48, num_attention_heads=4, max_position_embeddings=512, rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5})
rotary("gpt_neox_partial", neox_turn, table(neox.GPTNeoXRotaryEmbedding, neox_config, 9), "half-split", 2, 3, 3, 7, 9, 12, 12, attributes={"base": 10000.0})


def gptj_table(width, rows):
    sin, cos = gptj.create_sinusoidal_positions(rows, width).numpy().reshape(rows, 2, width // 2).transpose(1, 0, 2)
    return [np.ascontiguousarray(cos), np.ascontiguousarray(sin)]


rotary("gptj", gptj_turn, gptj_table(10, 7), "interleaved", 2, 3, 3, 7, 7, 10, 12, attributes={"base": 10000.0})
rotary("gptj_partial_offset", gptj_turn, gptj_table(6, 30), "interleaved", 2, 3, 3, 5, 8, 10, 10, offset=19, attributes={"base": 10000.0})
tables("tables_16", R, default(16), 10000.0, 16, 40)
tables("tables_24_base_500000", R, default(24, 500000.0), 500000.0, 24, 33)

i, j = np.ogrid[:9, :9]
causal = (j <= i)[None, None]
sinks("sinks_causal", 2, 6, 2, 9, 9, 8, 10, causal, attributes={"causal": "top-left"})
sinks("sinks_window", 2, 4, 2, 9, 9, 12, 8, causal & (j > i - 4), attributes={"causal": "top-left", "left_window": 3})
sinks("sinks_strong", 1, 4, 2, 9, 9, 8, 8, causal, np.array([30, -30, 8, 0], "f4"), attributes={"causal": "top-left"}, note="sinks far above and far below the scores")
lengths = np.array([7, 0, 3])
padded = np.broadcast_to((np.arange(7) < lengths[:, None])[:, None, None], (3, 1, 5, 7)).copy()
sinks("sinks_padded", 3, 6, 3, 5, 7, 8, 10, padded, note="the second batch row sees no key: all weight is the sink's")
F.finish()
