#!/usr/bin/env python3
"""TensorFlow Addons vectors -> OUT/<case>.safetensors + OUT/index.json.

    pip install tensorflow-cpu==2.15.1 tensorflow-addons==0.23.0 'numpy<2' safetensors  # Python 3.11
    python make_tfa.py OUT

Inputs and weights are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far the library's
own f32 run is from that. One query or decoder step after the other, as a decoder calls these classes: each step's
attention state is the next one's.
"""
import functools, os, sys, warnings
from unittest.mock import patch

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
warnings.filterwarnings("ignore")
import numpy as np, tensorflow as tf, tensorflow_addons as tfa
from folder import Folder
from tensorflow_addons.seq2seq.attention_wrapper import _monotonic_probability_fn

tf.get_logger().setLevel("CRITICAL")
S = tfa.seq2seq
F = Folder(sys.argv[1], f"tensorflow-addons {tfa.__version__} (tensorflow {tf.__version__})", 20261125)
draw, rng, put = F.draw, F.rng, F.put


def monotonic(name, mode, scores, previous=None, note=None):
    """scores [B, T, N]; previous [B, N], by default all at key 0."""
    inputs = {"scores": scores} | ({} if previous is None else {"previous": previous})

    def run(i, w, dtype):
        # The recursive form makes its ones and zeros without a type, which is f32.
        ones, zeros = (functools.partial(f, dtype=dtype) for f in (tf.ones, tf.zeros))
        state = tf.constant(i["previous"]) if "previous" in i else tf.one_hot([0] * len(scores), scores.shape[2], dtype=dtype)
        steps = []
        with patch.object(tf, "ones", ones), patch.object(tf, "zeros", zeros):
            for t in range(scores.shape[1]):
                state = _monotonic_probability_fn(tf.constant(i["scores"][:, t]), state, 0.0, mode)
                steps.append(state)
        return {"weights": np.stack(steps, 1)}

    put(name, "monotonic_attention", {"mode": mode, "layout": "scores, weights [B,T,N]; previous [B,N]"}, inputs, {}, run, note)


MECHANISMS = {"luong": S.LuongAttention, "bahdanau": S.BahdanauAttention,
              "luong_monotonic": S.LuongMonotonicAttention, "bahdanau_monotonic": S.BahdanauMonotonicAttention}


def mechanism_weights(kind, query, memory, units, normed):
    """Weights of one mechanism; normed is Bahdanau's normalize or Luong's scale."""
    w = {"memory_layer.kernel": draw(memory, units) / np.float32(memory**0.5)}
    if "bahdanau" in kind:
        w |= {"query_layer.kernel": draw(query, units) / np.float32(query**0.5), "attention_v": draw(units)}
    if normed:
        w["attention_g"] = np.float32(rng.uniform(1.0, 2.0)).reshape(())
        if "bahdanau" in kind:
            w["attention_b"] = draw(units) * np.float32(0.3)
    if "monotonic" in kind:
        w["attention_score_bias"] = np.float32(-0.4).reshape(())
    return w


def mechanism(kind, units, normed, options, i, w, dtype, query_width):
    """Built, given its weights, and its memory set up with them."""
    keywords = {"normalize" if "bahdanau" in kind else "scale": normed} | options
    m = MECHANISMS[kind](units, dtype=dtype, **keywords)
    memory = [tf.constant(i["memory"])] + ([tf.constant(i["lengths"])] if "lengths" in i else [])
    m(memory, setup_memory=True)
    batch = len(i["memory"])
    m([tf.zeros([batch, query_width], dtype), m.initial_state(batch, dtype)])
    own = {"memory_layer.kernel": m.memory_layer.kernel, "attention_v": getattr(m, "attention_v", None),
           "attention_g": getattr(m, "scale_weight", None) if kind == "luong" else m.attention_g,
           "attention_b": getattr(m, "attention_b", None), "attention_score_bias": getattr(m, "attention_score_bias", None)}
    if m.query_layer is not None:
        own["query_layer.kernel"] = m.query_layer.kernel
    own = {k: v for k, v in own.items() if v is not None}
    assert own.keys() == {k for k in w if k in own} and len(own) == len(m.weights), (own.keys(), w.keys())
    for k, v in own.items():
        v.assign(w[k])
    m(memory, setup_memory=True)
    return m


def attention(name, kind, B, T, N, query, memory, units, lengths=None, normed=False, options={}, note=None):
    inputs = {"query": draw(B, T, query), "memory": draw(B, N, memory)}
    inputs |= {"lengths": np.array(lengths, "i4")} if lengths else {}
    weights = mechanism_weights(kind, query, memory, units, normed)

    def run(i, w, dtype):
        m = mechanism(kind, units, normed, options, i, w, dtype, query)
        state, steps = m.initial_state(B, dtype), []
        for t in range(T):
            alignments, state = m([tf.constant(i["query"][:, t]), state])
            steps.append(alignments)
        steps = np.stack(steps, 1)
        return {"weights": steps, "context": steps @ np.asarray(m.values)}

    attributes = {"units": units, "normalize" if "bahdanau" in kind else "scale": normed, **options, "lengths": lengths,
                  "layout": "query [B,T,*]; memory [B,N,*]; weights [B,T,N]; context [B,T,*]"}
    put(name, MECHANISMS[kind].__name__, attributes, inputs, weights, run, note)


def wrapper(name, cell, kind, B, T, I, H, N, memory, units, layer=None, activation=None, lengths=None, normed=False, options={}, note=None):
    inputs = {"x": draw(B, T, I), "memory": draw(B, N, memory)}
    inputs |= {"lengths": np.array(lengths, "i4")} if lengths else {}
    gates, fed = {"LSTM": 4, "GRU": 3}[cell], I + (layer or memory)
    weights = {"cell.kernel": draw(fed, gates * H) / np.float32(fed**0.5), "cell.recurrent_kernel": draw(H, gates * H) / np.float32(H**0.5),
               "cell.bias": draw(*{"LSTM": (4 * H,), "GRU": (2, 3 * H)}[cell]) * np.float32(0.3)}
    weights |= {"attention_layer.kernel": draw(H + memory, layer) / np.float32((H + memory) ** 0.5)} if layer else {}
    weights |= {"attention_layer.bias": draw(layer) * np.float32(0.3)} if activation else {}
    weights |= mechanism_weights(kind, H, memory, units, normed)

    def run(i, w, dtype):
        m = mechanism(kind, units, normed, options, i, w, dtype, H)
        inner = {"LSTM": tf.keras.layers.LSTMCell, "GRU": tf.keras.layers.GRUCell}[cell](H, dtype=dtype)
        dense = tf.keras.layers.Dense(layer, activation=activation, dtype=dtype) if activation else None
        wrapped = S.AttentionWrapper(inner, m, attention_layer_size=None if dense else layer, attention_layer=dense, alignment_history=True, dtype=dtype)
        state = wrapped.get_initial_state(batch_size=B, dtype=dtype)
        wrapped(tf.constant(i["x"][:, 0]), state)
        for k, v in {"kernel": inner.kernel, "recurrent_kernel": inner.recurrent_kernel, "bias": inner.bias}.items():
            v.assign(w["cell." + k])
        if layer:
            wrapped._attention_layers[0].kernel.assign(w["attention_layer.kernel"])
        if activation:
            dense.bias.assign(w["attention_layer.bias"])
        assert len(wrapped.weights) == len(w)
        state = wrapped.get_initial_state(batch_size=B, dtype=dtype)
        hidden, attended = [], []
        for t in range(T):
            _, state = wrapped(tf.constant(i["x"][:, t]), state)
            hidden.append(tf.nest.flatten(state.cell_state)[0])
            attended.append(state.attention)
        r = {"attention": np.stack(attended, 1), "cell_output": np.stack(hidden, 1), "weights": np.transpose(state.alignment_history.stack(), (1, 0, 2))}
        return r | ({"final_c": state.cell_state[1]} if cell == "LSTM" else {})

    attributes = {"cell": cell, "units": H, "gates": {"LSTM": "i,f,c,o", "GRU": "z,r,h"}[cell], **({"reset_after": True} if cell == "GRU" else {}),
                  "mechanism": MECHANISMS[kind].__name__, "attention_units": units, "normalize" if "bahdanau" in kind else "scale": normed, **options,
                  "attention_layer_size": layer, "attention_layer_activation": activation, "cell_input": "concat(x, attention)",
                  "lengths": lengths, "initial_state": "zeros", "layout": "x, attention, cell_output [B,T,*]; memory [B,N,*]; weights [B,T,N]; final_c [B,H]"}
    put(name, "AttentionWrapper", attributes, inputs, weights, run, note)


def spread(B, N, rows):
    """A previous alignment that is not one-hot; each row sums to what `rows` says."""
    p = rng.random((B, N)) ** 3
    return (p / p.sum(1, keepdims=True) * np.array(rows)[:, None]).astype("f4")


for mode in ("recursive", "parallel", "hard"):
    monotonic(f"monotonic_{mode}", mode, draw(3, 5, 7))
    monotonic(f"monotonic_{mode}_spread", mode, draw(3, 4, 9) - np.float32(0.7), spread(3, 9, [1, 1, 0.6]), "the previous alignment is not one-hot, and one row sums to 0.6")
    monotonic(f"monotonic_{mode}_65", mode, draw(2, 6, 65) - np.float32(3), spread(2, 65, [1, 1]))
    monotonic(f"monotonic_{mode}_one_key", mode, draw(3, 2, 1))
    # 1 − p is the parallel form's divisor, and f32 knows it only to 6e-8: not beyond p = 0.998 there.
    near = np.clip(draw(2, 5, 12) * np.float32(12), -30, 6 if mode == "parallel" else 30)
    monotonic(f"monotonic_{mode}_extreme", mode, near, note="probabilities near 0 and 1")
    sure = np.where(rng.random((3, 6, 10)) < 0.3, 60, -120).astype("f4")
    monotonic(f"monotonic_{mode}_certain", mode, sure, note="probabilities that are 1 or 0 in f32")
stop = draw(2, 3, 15) * np.float32(0.3) - np.float32(2)
stop[:, :, 2:9] += 7
for mode in ("recursive", "parallel"):
    monotonic(f"monotonic_{mode}_past_stops", mode, stop, spread(2, 15, [1, 1]), "seven likely stops in a row: past them the parallel form's clamp loses what lay further on")

attention("bahdanau", "bahdanau", 3, 4, 7, 5, 6, 8)
attention("bahdanau_lengths", "bahdanau", 3, 2, 9, 5, 4, 10, lengths=[9, 4, 1])
attention("bahdanau_normed", "bahdanau", 2, 4, 7, 5, 6, 8, normed=True)
attention("bahdanau_normed_lengths_65", "bahdanau", 2, 3, 65, 20, 24, 40, lengths=[65, 37], normed=True)
attention("bahdanau_hardmax", "bahdanau", 3, 4, 7, 5, 6, 8, options={"probability_fn": "hardmax"})
attention("luong", "luong", 3, 4, 7, 5, 6, 5)
attention("luong_scale_lengths", "luong", 3, 2, 9, 8, 4, 8, lengths=[3, 9, 6], normed=True)
attention("luong_hardmax", "luong", 2, 5, 9, 6, 4, 6, options={"probability_fn": "hardmax"}, normed=True)
for mode in ("parallel", "hard"):
    attention(f"bahdanau_monotonic_{mode}", "bahdanau_monotonic", 3, 5, 7, 4, 6, 8, options={"mode": mode})
    attention(f"luong_monotonic_{mode}", "luong_monotonic", 2, 5, 8, 6, 4, 6, options={"mode": mode}, normed=True)
attention("bahdanau_monotonic_normed_lengths", "bahdanau_monotonic", 3, 4, 9, 5, 6, 8, lengths=[9, 5, 2], normed=True, options={"mode": "parallel"})
attention("luong_monotonic_lengths_hard", "luong_monotonic", 3, 6, 9, 5, 7, 5, lengths=[9, 6, 3], options={"mode": "hard"})

wrapper("wrapper_lstm_luong", "LSTM", "luong", 3, 5, 4, 8, 7, 6, 8, layer=9)
wrapper("wrapper_gru_luong_scale_lengths", "GRU", "luong", 3, 6, 5, 8, 9, 7, 8, layer=10, lengths=[9, 4, 1], normed=True)
wrapper("wrapper_lstm_luong_tanh", "LSTM", "luong", 2, 5, 4, 8, 7, 6, 8, layer=9, activation="tanh", note="the attention layer has a bias and tanh, as in Luong et al. 2015, eq. 5, plus the bias")
wrapper("wrapper_lstm_bahdanau_normed_lengths", "LSTM", "bahdanau", 3, 6, 4, 8, 9, 7, 10, layer=11, lengths=[6, 9, 2], normed=True)
wrapper("wrapper_gru_bahdanau", "GRU", "bahdanau", 3, 5, 4, 8, 7, 6, 10, layer=9)
wrapper("wrapper_gru_bahdanau_context", "GRU", "bahdanau", 2, 5, 4, 8, 7, 6, 10, lengths=[7, 5], note="no attention layer: the attention is the context itself")
wrapper("wrapper_lstm_luong_40", "LSTM", "luong", 2, 9, 20, 40, 33, 24, 40, layer=30, lengths=[33, 17])
wrapper("wrapper_lstm_bahdanau_monotonic", "LSTM", "bahdanau_monotonic", 3, 5, 4, 8, 7, 6, 10, layer=9, lengths=[7, 7, 4], normed=True, options={"mode": "parallel"})
wrapper("wrapper_gru_luong_monotonic_hard", "GRU", "luong_monotonic", 3, 5, 4, 8, 7, 6, 8, layer=9, options={"mode": "hard"})

F.finish()
