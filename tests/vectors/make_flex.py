#!/usr/bin/env python3
"""PyTorch FlexAttention vectors, run eagerly -> OUT/<case>.safetensors + OUT/index.json.

    pip install torch==2.15.0 numpy safetensors ;  python make_flex.py OUT

Inputs are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far torch's own f32 run is
from that. `in.mask` (1 = attend) is what the case's mask function says for each (b, h, i, j), beside the parameters
that it reads. lse is the natural log-sum-exp, -inf in a row that sees no key; such a row's y is 0.
"""
import sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, torch
from folder import Folder
from torch.nn.attention.experimental._paged_attention import PagedAttention
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, create_mask, flex_attention

torch.set_num_threads(1)
F = Folder(sys.argv[1], f"torch {torch.__version__}", 20261126)
LAYOUT = "q, k, v, y [B,H,N,D]; lse [B,H,Nq]; mask [B or 1,H or 1,Nq,Nk]"


def flex(name, B, H, Nq, Nk, D, Dv=None, Hkv=None, params={}, mask=None, per=(False, False), score=None, scale=None, attributes={}, block=(4, 8), blocks=False, note=None):
    """mask(p, b, h, i, j) and score(p, s, b, h, i, j) with p the parameters as tensors; per: mask depends on b, on h."""
    Hkv, Dv = Hkv or H, Dv or D
    inputs = {"q": F.draw(B, H, Nq, D), "k": F.draw(B, Hkv, Nk, D), "v": F.draw(B, Hkv, Nk, Dv)} | params
    axes = (B if per[0] else None, H if per[1] else None, Nq, Nk)

    def functions(p):
        mask_mod = mask and (lambda b, h, i, j: mask(p, b, h, i, j))
        score_mod = score and (lambda s, b, h, i, j: score(p, s, b, h, i, j))
        return mask_mod, score_mod, mask and create_block_mask(mask_mod, *axes, device="cpu", BLOCK_SIZE=block)

    def run(i, w, dtype):
        t = {k: torch.from_numpy(np.asarray(v)) for k, v in i.items()}
        _, score_mod, block_mask = functions(t)
        y, aux = flex_attention(t["q"], t["k"], t["v"], score_mod, block_mask, scale, enable_gqa=Hkv != H, return_aux=AuxRequest(lse=True))
        return {"y": y.numpy(), "lse": aux.lse.numpy()}

    if mask:
        mask_mod, _, block_mask = functions({k: torch.from_numpy(v) for k, v in params.items()})
        inputs["mask"] = create_mask(mask_mod, *axes, device="cpu").numpy()
        if blocks:
            inputs["block_mask"] = block_mask.to_dense().numpy().astype(bool)
    own = {"batch": B, "heads": H, "kv_heads": Hkv, "q_len": Nq, "k_len": Nk, "head_dim": D, "v_dim": Dv, "scale": scale or D**-0.5, "scale_given": scale is not None}
    F.put(name, "FlexAttention", own | attributes | ({"block_size": list(block)} if blocks else {}) | {"layout": LAYOUT}, inputs, {}, run, note)


def documents(q_lengths, k_lengths):
    """cu_seqlens and each position's document, for queries and keys."""
    p = {}
    for side, lengths in (("q", q_lengths), ("k", k_lengths)):
        p["cu_seqlens_" + side] = np.concatenate([[0], np.cumsum(lengths)]).astype("i4")
        p["document_" + side] = np.repeat(np.arange(len(lengths)), lengths).astype("i4")
    return p


def same(p, i, j):
    return p["document_q"][i] == p["document_k"][j]


def own(p, i, j, corner):
    """Query and key position within their document; corner "bottom-right" counts queries from the keys' end."""
    d = p["document_q"][i]
    q, k = p["cu_seqlens_q"], p["cu_seqlens_k"]
    shift = (k[d + 1] - k[d]) - (q[d + 1] - q[d]) if corner == "bottom-right" else 0
    return i - q[d] + shift, j - k[p["document_k"][j]]


def document(name, H, D, q_lengths, k_lengths, causal=None, window=None, note=None, **more):
    def mask(p, b, h, i, j):
        a, c = own(p, i, j, causal)
        see = same(p, i, j)
        if causal:
            see = see & (c <= a)
        if window is not None:
            see = see & (c >= a - window)
        return see

    attributes = {"mask": "document", "causal": causal, "left_window": window}
    flex(name, 1, H, sum(q_lengths), sum(k_lengths), D, params=documents(q_lengths, k_lengths), mask=mask, attributes=attributes, note=note, **more)


def paged(name, H, Nq, D, Dv, Hkv, page, pages, lengths, note=None):
    """torch.nn.attention.experimental PagedAttention; the keys of each batch row are the last ones it was given."""
    B, longest = len(lengths), max(lengths)
    store = PagedAttention(pages, page, B, device="cpu")
    for n in range(0, longest, page):  # rows grow in turn, so their pages interleave
        for b in reversed(range(B)):
            if n < lengths[b]:
                store.reserve(torch.tensor([b]), torch.tensor([min(n + page, lengths[b])]))
    k, v = F.draw(B, Hkv, longest, D), F.draw(B, Hkv, longest, Dv)
    cache = {"k": F.draw(1, Hkv, pages * page, D), "v": F.draw(1, Hkv, pages * page, Dv)}  # what no one assigned is noise
    for b, n in enumerate(lengths):
        c = {x: torch.from_numpy(a) for x, a in cache.items()}
        store.assign(torch.tensor([b]), torch.arange(n)[None], torch.from_numpy(k[b : b + 1, :, :n]), torch.from_numpy(v[b : b + 1, :, :n]), c["k"], c["v"])
    table = store.page_table[:, : -(-longest // page)].numpy().copy()
    pagewise = lambda a: np.ascontiguousarray(a.reshape(a.shape[1], pages, page, -1).transpose(1, 0, 2, 3))
    inputs = {"q": F.draw(B, H, Nq, D), "k_pages": pagewise(cache["k"]), "v_pages": pagewise(cache["v"]), "block_table": table, "kv_lengths": np.array(lengths, "i4")}

    def run(i, w, dtype):
        kv = torch.tensor(lengths)
        causal = lambda b, h, q, j: j <= q + kv[b] - Nq
        logical = create_block_mask(causal, B, None, Nq, table.shape[1] * page, device="cpu", BLOCK_SIZE=(Nq, page))
        mask = store.convert_logical_block_mask(logical, kv_len=kv)
        t = [torch.from_numpy(a.astype(dtype)) for a in (i["q"], cache["k"], cache["v"])]
        y, aux = flex_attention(*t, store.get_score_mod(None, kv_len=kv), mask, enable_gqa=Hkv != H, return_aux=AuxRequest(lse=True))
        return {"y": y.numpy(), "lse": aux.lse.numpy()}

    attributes = {"mask": "causal", "causal": "bottom-right", "page_size": page, "scale": D**-0.5, "scale_given": False,
                  "layout": "q, y [B,H,N,D]; k_pages, v_pages [pages,Hkv,page_size,D]; block_table [B,pages of the longest row], -1 past a row's end; kv_lengths [B]"}
    F.put(name, "PagedAttention", attributes, inputs, {}, run, note)


i4 = lambda *a: np.array(a, "i4")

document("flex_document", 3, 8, [5, 1, 9, 4], [5, 1, 9, 4])
document("flex_document_causal", 2, 12, [7, 3, 11], [7, 3, 11], causal="top-left")
document("flex_document_cross", 3, 8, [3, 6, 2, 5], [9, 0, 4, 11], Dv=10, note="the second sequence has queries and no keys")
document("flex_document_cross_causal", 2, 8, [3, 6, 2], [7, 4, 10], causal="top-left")
document("flex_document_cross_bottom_right", 2, 8, [3, 6, 2], [7, 4, 10], causal="bottom-right", note="in the second sequence the first two queries see no key")
document("flex_document_gqa_window", 6, 8, [13, 21, 5], [13, 21, 5], Hkv=2, Dv=10, causal="bottom-right", window=4)
document("flex_document_65", 2, 24, [31, 1, 33], [40, 30, 17])

causal = lambda p, b, h, i, j: j <= i
distance = lambda p, s, b, h, i, j: s - p["slopes"][h] * (i - j).abs()
slopes = lambda H: {"slopes": (2.0 ** (-8 * np.arange(1, H + 1) / H)).astype("f4")}
flex("flex_alibi", 2, 3, 11, 13, 8, params=slopes(3), score=distance, attributes={"score_mod": "alibi"})
flex("flex_alibi_causal_gqa", 2, 6, 17, 19, 8, Hkv=3, params=slopes(6), score=distance, mask=causal, attributes={"score_mod": "alibi", "mask": "causal", "causal": "top-left"})
flex("flex_prefix_lm", 3, 2, 11, 14, 8, Dv=6, params={"prefix": i4(5, 0, 9)}, mask=lambda p, b, h, i, j: (j <= i) | (j < p["prefix"][b]), per=(True, False), attributes={"mask": "j <= i or j < prefix[b]"})
flex("flex_window", 2, 3, 15, 18, 8, mask=lambda p, b, h, i, j: (j >= i - 3) & (j <= i + 2), attributes={"mask": "window", "left_window": 3, "right_window": 2})
flex("flex_window_sinks", 2, 3, 21, 25, 8, mask=lambda p, b, h, i, j: (j <= i) & ((j >= i - 5) | (j < 2)), attributes={"mask": "window", "causal": "top-left", "left_window": 5, "sink_tokens": 2}, blocks=True)
flex("flex_window_sinks_70", 1, 2, 70, 75, 16, Dv=24, mask=lambda p, b, h, i, j: (j <= i) & ((j >= i - 9) | (j < 4)), attributes={"mask": "window", "causal": "top-left", "left_window": 9, "sink_tokens": 4}, block=(16, 32), blocks=True)
flex("flex_window_two_sided_sinks", 1, 2, 20, 23, 8, mask=lambda p, b, h, i, j: ((j >= i - 3) & (j <= i + 1)) | (j < 3), attributes={"mask": "window", "left_window": 3, "right_window": 1, "sink_tokens": 3}, note="the first three keys are seen by all")
cap = lambda c: lambda p, s, b, h, i, j: c * torch.tanh(s / c)
flex("flex_softcap", 2, 3, 9, 12, 16, score=cap(1.5), scale=1.0, attributes={"score_mod": "softcap", "softcap": 1.5})
flex("flex_softcap_alibi_causal", 2, 4, 13, 15, 8, params=slopes(4), score=lambda p, s, b, h, i, j: distance(p, cap(2.0)(p, s, b, h, i, j), b, h, i, j), mask=causal,
     attributes={"score_mod": "softcap, then alibi", "softcap": 2.0, "mask": "causal", "causal": "top-left"})
flex("flex_score_mod", 2, 3, 10, 13, 8, score=lambda p, s, b, h, i, j: s * (1 - 0.0625 * ((3 * i + 5 * j + b) % 7)) + 0.125 * h,
     attributes={"score_mod": "s * (1 - 0.0625 * ((3 * i + 5 * j + b) % 7)) + 0.125 * h"})
flex("flex_relative_causal_gqa", 2, 4, 12, 14, 8, Dv=10, Hkv=2, score=lambda p, s, b, h, i, j: s + 0.03125 * (i - j), mask=causal,
     attributes={"score_mod": "s + 0.03125 * (i - j)", "mask": "causal", "causal": "top-left"})
flex("flex_bias_table", 2, 3, 9, 12, 8, params={"bias": F.draw(3, 20)}, score=lambda p, s, b, h, i, j: s + p["bias"][h, i - j + 11],
     attributes={"score_mod": "s + bias[h, i - j + 11]"}, note="a learned bias for each head and distance (T5 without buckets)")
flex("flex_gqa", 2, 6, 7, 11, 8, Dv=12, Hkv=2)
flex("flex_mqa_decode", 3, 5, 1, 37, 16, Dv=20, Hkv=1, params={"kv_lengths": i4(37, 12, 1)}, mask=lambda p, b, h, i, j: j < p["kv_lengths"][b], per=(True, False), attributes={"mask": "lengths"})
flex("flex_lengths", 3, 2, 9, 13, 8, params={"query_lengths": i4(9, 4, 1), "kv_lengths": i4(6, 13, 0)}, mask=lambda p, b, h, i, j: (i < p["query_lengths"][b]) & (j < p["kv_lengths"][b]), per=(True, False), attributes={"mask": "lengths"}, note="the last batch row has no keys")


def block_table(name, B, H, Nq, Nk, D, block, per, **more):
    shape = (B if per[0] else 1, H if per[1] else 1, -(-Nq // block[0]), -(-Nk // block[1]))
    table = F.rng.random(shape) < 0.45
    table[:, :, 1] = False  # one row of blocks sees nothing
    look = lambda p, b, h, i, j: p["blocks"][b if per[0] else 0, h if per[1] else 0, i // block[0], j // block[1]]
    flex(name, B, H, Nq, Nk, D, params={"blocks": table}, mask=look, per=per, block=block, attributes={"mask": "blocks", "block_size": list(block)}, **more)


block_table("flex_blocks", 2, 3, 18, 37, 8, (4, 8), (True, True))
block_table("flex_blocks_shared", 2, 4, 33, 21, 8, (16, 4), (False, False), Hkv=2, Dv=10)
block_table("flex_blocks_heads", 2, 3, 70, 75, 16, (32, 16), (False, True))

paged("paged_decode", 4, 1, 8, 10, 2, 4, 13, [17, 3, 12, 9])
paged("paged_chunk", 6, 3, 8, 12, 3, 8, 9, [8, 29, 3])
F.finish()
