#!/usr/bin/env python3
"""PyTorch's Transformer encoder, decoder and both -> OUT/<case>.safetensors + OUT/index.json.

    pip install torch==2.15.0 numpy safetensors ;  python make_transformer.py OUT

Inputs and weights are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far torch's own
f32 run is from that. Weights under torch's own names; a padding mask is 1 where a position is to be ignored as a key,
torch's own sense. A padded position is a query like any other, so its row in the output is what torch computes there.
"""
import sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, torch
from folder import Folder
from torch import nn

torch.set_num_threads(1)
torch.backends.mha.set_fastpath_enabled(False)  # the fast path puts 0 where a query is padding
F = Folder(sys.argv[1], f"torch {torch.__version__}", 20261202)
tensors = lambda d: {k: torch.from_numpy(v) for k, v in d.items()}


def weight(name, shape):
    """Layer norms that are not 1 and 0, and scores wide enough that the softmax is far from even."""
    if "norm" in name:
        return F.draw(*shape, scale=0.3) + np.float32(name.endswith("weight"))
    return F.draw(*shape, scale=0.3 if len(shape) == 1 else 1.4 * shape[1] ** -0.5)


def padding(lengths, n):
    return np.arange(n)[None] >= np.array(lengths)[:, None]


def put(name, op, make, call, inputs, attributes, note):
    weights = {k: weight(k, tuple(v.shape)) for k, v in make().state_dict().items()}

    def run(i, w, dtype):
        m = make().to(getattr(torch, dtype)).eval()
        m.load_state_dict(tensors(w))
        with torch.no_grad():
            return {"y": call(m, tensors(i)).numpy()}

    masks = {k: v for k, v in {"src_padding": "1 = ignore this key, [B,S]", "memory_padding": "1 = ignore this key, [B,S]", "tgt_padding": "1 = ignore this key, [B,T]",
                               "src_mask": "1 = ignore this key, [S,S]", "tgt_mask": "1 = ignore this key, [T,T]"}.items() if k in inputs}
    F.put(name, op, {**attributes, "masks": masks, "layout": "[B,N,E]; in_proj_weight: rows of q, k, v"}, inputs, weights, run, note)


def layer(kind, E, H, ff, o):
    return kind(E, H, ff, dropout=0, activation=o["activation"], layer_norm_eps=o["eps"], batch_first=True, norm_first=o["norm_first"], bias=o["bias"])


def options(norm_first=False, activation="relu", bias=True, eps=1e-5):
    return {"norm_first": norm_first, "activation": activation, "bias": bias, "eps": eps}


def described(E, H, ff, o):
    return {"d_model": E, "heads": H, "feedforward": ff, "norm_first": o["norm_first"], "activation": o["activation"], "bias": o["bias"], "layer_norm_eps": o["eps"]}


def encoder(name, B, S, E, H, ff, lengths=None, norm=False, causal=False, layers=2, note=None, **given):
    o = options(**given)
    inputs = {"src": F.draw(B, S, E)}
    if lengths:
        inputs["src_padding"] = padding(lengths, S)
    if causal:
        inputs["src_mask"] = np.triu(np.ones((S, S), bool), 1)
    make = lambda: nn.TransformerEncoder(layer(nn.TransformerEncoderLayer, E, H, ff, o), layers, norm=nn.LayerNorm(E, eps=o["eps"], bias=o["bias"]) if norm else None, enable_nested_tensor=False)
    call = lambda m, i: m(i["src"], mask=i.get("src_mask"), src_key_padding_mask=i.get("src_padding"))
    put(name, "TransformerEncoder", make, call, inputs, {**described(E, H, ff, o), "layers": layers, "final_norm": norm, "causal": causal, "src_lengths": lengths}, note)


def decoder(name, B, T, S, E, H, ff, lengths=None, tgt_lengths=None, norm=False, causal=True, layers=2, note=None, **given):
    o = options(**given)
    inputs = {"tgt": F.draw(B, T, E), "memory": F.draw(B, S, E)}
    if causal:
        inputs["tgt_mask"] = np.triu(np.ones((T, T), bool), 1)
    if lengths:
        inputs["memory_padding"] = padding(lengths, S)
    if tgt_lengths:
        inputs["tgt_padding"] = padding(tgt_lengths, T)
    make = lambda: nn.TransformerDecoder(layer(nn.TransformerDecoderLayer, E, H, ff, o), layers, norm=nn.LayerNorm(E, eps=o["eps"], bias=o["bias"]) if norm else None)
    call = lambda m, i: m(i["tgt"], i["memory"], tgt_mask=i.get("tgt_mask"), memory_key_padding_mask=i.get("memory_padding"), tgt_key_padding_mask=i.get("tgt_padding"))
    put(name, "TransformerDecoder", make, call, inputs, {**described(E, H, ff, o), "layers": layers, "final_norm": norm, "causal": causal, "memory_lengths": lengths, "tgt_lengths": tgt_lengths}, note)


def both(name, B, S, T, E, H, ff, lengths=None, tgt_lengths=None, layers=(2, 3), note=None, **given):
    """src_padding hides keys from the encoder and from the decoder's attention to the memory."""
    o = options(**given)
    inputs = {"src": F.draw(B, S, E), "tgt": F.draw(B, T, E), "tgt_mask": np.triu(np.ones((T, T), bool), 1)}
    if lengths:
        inputs["src_padding"] = padding(lengths, S)
    if tgt_lengths:
        inputs["tgt_padding"] = padding(tgt_lengths, T)
    make = lambda: nn.Transformer(E, H, *layers, ff, dropout=0, activation=o["activation"], layer_norm_eps=o["eps"], batch_first=True, norm_first=o["norm_first"], bias=o["bias"])
    call = lambda m, i: m(i["src"], i["tgt"], tgt_mask=i["tgt_mask"], src_key_padding_mask=i.get("src_padding"), memory_key_padding_mask=i.get("src_padding"), tgt_key_padding_mask=i.get("tgt_padding"))
    put(name, "Transformer", make, call, inputs, {**described(E, H, ff, o), "encoder_layers": layers[0], "decoder_layers": layers[1], "final_norm": True, "causal": True, "src_lengths": lengths, "tgt_lengths": tgt_lengths}, note)


encoder("encoder_post_relu", 2, 9, 16, 4, 28)
encoder("encoder_post_gelu_norm_pad", 3, 8, 18, 3, 32, lengths=[8, 5, 1], activation="gelu", norm=True)
encoder("encoder_post_relu_pad", 3, 10, 20, 2, 24, lengths=[4, 10, 7], eps=1e-3)
encoder("encoder_post_gelu_no_bias_pad", 2, 7, 16, 2, 40, lengths=[7, 3], activation="gelu", bias=False, norm=True)
encoder("encoder_pre_relu", 2, 6, 24, 6, 36, norm_first=True)
encoder("encoder_pre_gelu_norm_pad", 3, 9, 16, 4, 48, lengths=[6, 9, 2], norm_first=True, activation="gelu", norm=True)
encoder("encoder_pre_relu_no_bias", 2, 5, 20, 5, 30, norm_first=True, bias=False)
encoder("encoder_pre_gelu_norm_causal", 2, 11, 16, 1, 32, norm_first=True, activation="gelu", norm=True, causal=True, note="one head")
encoder("encoder_post_relu_causal_pad", 3, 8, 16, 2, 24, lengths=[8, 3, 5], causal=True)
decoder("decoder_post_relu_pad", 3, 7, 9, 16, 4, 28, lengths=[9, 4, 1])
decoder("decoder_post_gelu_norm_pads", 3, 8, 6, 18, 3, 32, lengths=[6, 2, 5], tgt_lengths=[8, 5, 2], activation="gelu", norm=True)
decoder("decoder_post_relu_no_masks", 2, 5, 8, 16, 2, 24, causal=False)
decoder("decoder_pre_relu_no_bias_pad", 2, 6, 7, 20, 4, 30, lengths=[7, 3], norm_first=True, bias=False)
decoder("decoder_pre_gelu_norm_pad", 3, 9, 5, 16, 2, 40, lengths=[5, 5, 2], norm_first=True, activation="gelu", norm=True)
both("transformer_post_relu_pad", 3, 9, 7, 16, 4, 28, lengths=[9, 6, 2])
both("transformer_post_gelu_pads", 2, 6, 8, 18, 3, 24, lengths=[6, 3], tgt_lengths=[5, 8], activation="gelu")
both("transformer_pre_gelu_pad", 3, 8, 6, 16, 2, 32, lengths=[5, 8, 1], norm_first=True, activation="gelu")
both("transformer_pre_relu_no_bias", 2, 5, 7, 20, 5, 30, norm_first=True, bias=False)
F.finish()
