#!/usr/bin/env python3
"""TensorFlow 1's recurrent cells, and layer-normalised ones -> OUT/<case>.safetensors + OUT/index.json.

    pip install tensorflow-cpu==2.15.1 tensorflow-addons==0.23.0 'numpy<2' safetensors  # Python 3.11
    pip install --no-deps magenta==2.1.4 tf-slim==1.1.0
    python make_tensorflow.py OUT

BasicLSTMCell, LSTMCell, GRUCell and MultiRNNCell are TensorFlow's own, run by tf.compat.v1.nn.dynamic_rnn and
bidirectional_dynamic_rnn; LayerNormBasicLSTMCell and stack_bidirectional_dynamic_rnn are those of TensorFlow 1's contrib
as magenta keeps them, SketchLayerNormLSTMCell is magenta's own (sketch_rnn); LayerNormLSTMCell is TensorFlow Addons',
run by Keras' RNN. Weights lie under the names that a checkpoint has them by, in the scopes that `scopes` lists by layer
and direction. Inputs and weights are drawn in f32, everything is computed in f64 and stored as f32; `f32_err` is how far
the library's own f32 run is from that.
"""
import importlib.util, os, re, sys, warnings
from unittest.mock import patch

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
warnings.filterwarnings("ignore")
import numpy as np, tensorflow as tf, tensorflow_addons as tfa
from folder import Folder

tf.get_logger().setLevel("CRITICAL")
V1 = tf.compat.v1
CELLS = V1.nn.rnn_cell
F = Folder(sys.argv[1], f"tensorflow {tf.__version__}, tensorflow-addons {tfa.__version__}, magenta 2.1.4", 20261130)


def magenta(file):
    """One file of magenta, whose package as a whole wants far more than this."""
    [root] = importlib.util.find_spec("magenta").submodule_search_locations
    spec = importlib.util.spec_from_file_location(file.replace("/", "."), os.path.join(root, file + ".py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


contrib, sketch = magenta("contrib/rnn"), magenta("models/sketch_rnn/rnn")


class Sketch(sketch.LayerNormLSTMCell):
    """Its state is [h, c] in one tensor; its ε is f32 whatever the cell's type."""

    def __call__(self, x, state, scope=None):
        constant = lambda value, dtype=x.dtype, make=tf.constant: make(value, dtype)
        with patch.object(sketch.tf, "constant", constant):
            return super().__call__(x, state, scope=scope or "layer_norm_lstm_cell")


def scale(name, shape):
    if "gamma" in name:
        return 0.3
    if "diag" in name:
        return 0.6
    return 0.4 if len(shape) == 1 else shape[0] ** -0.5


def draw(name, shape):
    return F.draw(*shape, scale=scale(name, shape)) + np.float32("gamma" in name)


def pack(op, c, h):
    return tf.concat([h, c], 1) if op.startswith("Sketch") else h if op == "GRUCell" else CELLS.LSTMStateTuple(c, h)


def unpack(op, state):
    """(h, c) of one cell's state."""
    if op.startswith("Sketch"):
        return tf.split(state, 2, 1)
    return (state,) if op == "GRUCell" else (state.h, state.c)


def dynamic(name, op, T, B, I, H, options={}, layers=1, bi=False, lengths=None, state=False, time_major=False, note=None):
    """One call of dynamic_rnn or, for both directions, (stack_)bidirectional_dynamic_rnn."""
    directions, P = 2 if bi else 1, options.get("num_proj", H)
    lstm = op != "GRUCell"
    kinds = {"SketchLayerNormLSTMCell": Sketch, "LayerNormBasicLSTMCell": contrib.LayerNormBasicLSTMCell}

    def build(i, dtype):
        typed = {"dtype": dtype} if op not in kinds else {}
        make = lambda: kinds.get(op, getattr(CELLS, op, None))(H, **options, **typed)
        initial = [pack(op, i["c0"][k] if lstm else None, i["h0"][k]) for k in range(layers * directions)] if state else None
        length = i.get("lengths")
        x = i["x"]
        with V1.variable_scope("", dtype=dtype, use_resource=True):
            if not bi:
                cell = CELLS.MultiRNNCell([make() for _ in range(layers)]) if layers > 1 else make()
                start = None if initial is None else tuple(initial) if layers > 1 else initial[0]
                y, s = V1.nn.dynamic_rnn(cell, x, length, start, dtype=dtype, time_major=time_major)
                states = list(s) if layers > 1 else [s]
            elif layers == 1:
                start = (None, None) if initial is None else initial
                y, s = V1.nn.bidirectional_dynamic_rnn(make(), make(), x, length, *start, dtype=dtype, time_major=time_major)
                y, states = tf.concat(y, 2), list(s)
            else:
                forward, backward = ([make() for _ in range(layers)] for _ in range(2))
                start = (None, None) if initial is None else (initial[0::2], initial[1::2])
                y, *s = contrib.stack_bidirectional_dynamic_rnn(forward, backward, x, *start, dtype=dtype, sequence_length=length, time_major=time_major)
                states = [s[d][l] for l in range(layers) for d in range(2)]
        parts = list(zip(*(unpack(op, s) for s in states)))
        return {"y": y, "h": tf.stack(parts[0])} | ({"c": tf.stack(parts[1])} if lstm else {})

    def graph(i, w, dtype):
        with V1.Graph().as_default(), V1.Session() as session:
            out = build({k: tf.constant(v) for k, v in i.items()}, dtype)
            variables = {v.name.removesuffix(":0"): v for v in V1.global_variables()}
            if w is None:
                return {k: draw(k, v.shape) for k, v in variables.items()}
            assert variables.keys() == w.keys()
            for k, v in variables.items():
                v.load(w[k], session)
            return session.run(out)

    inputs = {"x": F.draw(*((T, B, I) if time_major else (B, T, I)))}
    inputs |= {"h0": F.draw(layers * directions, B, P)} if state else {}
    inputs |= {"c0": F.draw(layers * directions, B, H)} if state and lstm else {}
    inputs |= {"lengths": np.array(lengths, "i4")} if lengths else {}
    weights = graph(inputs, None, "float32")
    scopes = sorted({re.match(r".*_cell(?=/)", name)[0] for name in weights}, key=lambda s: ("/bw/" in s, s))
    scopes = [[scopes[d * layers + l] for d in range(directions)] for l in range(layers)]
    attributes = {"units": H, **options, "layers": layers, "bidirectional": bi, "scopes": scopes, "gates": "i,j,f,o" if lstm else "r,u", "lengths": lengths,
                  "initial_state": "given" if state else "zeros", "time_major": time_major, "layout": "x, y [T,B,*] if time_major, else [B,T,*]; h0, c0, h, c [layers*directions,B,*]"}
    F.put(name, op, attributes, inputs, weights, graph, note)
    for key, tensor in (("cell_clip", "c"), ("proj_clip", "h")):
        if key in options:  # it must bite, and not everywhere
            held = np.abs(graph(inputs, weights, "float32")[tensor]) >= np.float32(options[key])
            assert 0 < held.sum() < held.size, (name, held.mean())


def addons(name, T, B, I, H, bi=False, lengths=None, state=False, bias=True, note=None):
    directions = ["forward", "backward"] if bi else [""]

    def build(dtype):
        layer = lambda back: tf.keras.layers.RNN(tfa.rnn.LayerNormLSTMCell(H, use_bias=bias, dtype=dtype), return_sequences=True, return_state=True, zero_output_for_mask=True, go_backwards=back, dtype=dtype)
        if not bi:
            return layer(False)
        return tf.keras.layers.Bidirectional(layer(False), backward_layer=layer(True), dtype=dtype)

    def variables(layer):
        cells = [layer.forward_layer.cell, layer.backward_layer.cell] if bi else [layer.cell]
        out = {}
        for cell, d in zip(cells, directions):
            norms = {f"{n}.{p}": getattr(getattr(cell, n), p) for n in ("kernel_norm", "recurrent_norm", "state_norm") for p in ("gamma", "beta")}
            own = {"kernel": cell.kernel, "recurrent_kernel": cell.recurrent_kernel} | ({"bias": cell.bias} if bias else {})
            out |= {(d + "." if d else "") + k: v for k, v in (own | norms).items()}
        return out

    def run(i, w, dtype):
        tf.keras.backend.set_floatx(dtype)
        layer = build(dtype)
        mask = tf.sequence_mask(i["lengths"], T) if lengths else None
        start = [tf.constant(i[k][d]) for d in range(len(directions)) for k in ("h0", "c0")] if state else None
        x = tf.constant(i["x"])
        layer(x, mask=mask, initial_state=start)
        if w is None:
            return {k: draw(k, v.shape) for k, v in variables(layer).items()}
        for k, v in variables(layer).items():
            v.assign(w[k])
        y, *s = layer(x, mask=mask, initial_state=start)
        return {"y": y, "h": np.stack(s[0::2]), "c": np.stack(s[1::2])}

    inputs = {"x": F.draw(B, T, I)}
    inputs |= {k: F.draw(len(directions), B, H) for k in ("h0", "c0")} if state else {}
    inputs |= {"lengths": np.array(lengths, "i4")} if lengths else {}
    weights = run(inputs, None, "float32")
    attributes = {"units": H, "bidirectional": bi, "gates": "i,f,c,o", "norm_epsilon": 1e-3, "use_bias": bias, "lengths": lengths,
                  "initial_state": "given" if state else "zeros", "layout": "x, y [B,T,*]; h0, c0, h, c [directions,B,*]"}
    F.put(name, "LayerNormLSTMCell", attributes, inputs, weights, run, note)


dynamic("basic_lstm", "BasicLSTMCell", 7, 3, 5, 9, state=True)
dynamic("basic_lstm_lengths", "BasicLSTMCell", 6, 5, 4, 13, lengths=[6, 0, 3, 1, 5], state=True, time_major=True)
dynamic("basic_lstm_no_forget_bias", "BasicLSTMCell", 5, 2, 3, 7, {"forget_bias": 0.0})
dynamic("basic_lstm_3_layers_lengths", "BasicLSTMCell", 7, 3, 6, 10, layers=3, lengths=[4, 7, 2], state=True)
dynamic("basic_lstm_bi_lengths", "BasicLSTMCell", 6, 4, 5, 11, bi=True, lengths=[2, 6, 0, 5], state=True, time_major=True)
dynamic("lstm_peepholes_lengths", "LSTMCell", 6, 3, 5, 9, {"use_peepholes": True}, lengths=[6, 2, 4], state=True)
dynamic("lstm_projection", "LSTMCell", 7, 3, 5, 13, {"num_proj": 6}, state=True)
dynamic("lstm_wider_projection_lengths", "LSTMCell", 5, 4, 6, 5, {"num_proj": 11, "forget_bias": 0.3}, lengths=[5, 1, 0, 4], state=True)
dynamic("lstm_cell_clip", "LSTMCell", 9, 3, 5, 10, {"cell_clip": 0.4}, state=True)
dynamic("lstm_everything_lengths", "LSTMCell", 8, 3, 5, 14, {"use_peepholes": True, "num_proj": 9, "cell_clip": 0.5, "proj_clip": 0.15}, lengths=[8, 3, 6], state=True)
dynamic("lstm_everything_3_layers", "LSTMCell", 6, 2, 5, 12, {"use_peepholes": True, "num_proj": 7, "cell_clip": 0.5, "proj_clip": 0.15}, layers=3, state=True)
dynamic("lstm_projection_bi_2_layers_lengths", "LSTMCell", 6, 4, 5, 10, {"num_proj": 7, "proj_clip": 0.2}, layers=2, bi=True, lengths=[6, 3, 1, 5], state=True)
dynamic("gru", "GRUCell", 7, 3, 5, 9, state=True)
dynamic("gru_lengths_65", "GRUCell", 4, 3, 10, 65, lengths=[4, 0, 3], state=True, time_major=True)
dynamic("gru_3_layers", "GRUCell", 6, 2, 5, 11, layers=3)
dynamic("gru_bi_2_layers_lengths", "GRUCell", 6, 4, 5, 7, layers=2, bi=True, lengths=[6, 3, 1, 5], state=True)
dynamic("norm_basic_lstm", "LayerNormBasicLSTMCell", 6, 3, 5, 9, note="ε is 1e-12")
dynamic("norm_basic_lstm_2_layers_lengths", "LayerNormBasicLSTMCell", 6, 4, 5, 13, layers=2, lengths=[6, 2, 0, 5], state=True, note="ε is 1e-12")
dynamic("norm_sketch", "SketchLayerNormLSTMCell", 6, 3, 5, 9, note="ε is 1e-3; c is carried as it was before its normalisation")
dynamic("norm_sketch_bi_lengths", "SketchLayerNormLSTMCell", 7, 3, 4, 14, {"forget_bias": 0.5}, bi=True, lengths=[3, 7, 5], state=True, note="ε is 1e-3; c is carried as it was before its normalisation")
addons("norm_addons", 6, 3, 5, 9, state=True)
addons("norm_addons_lengths", 7, 4, 5, 13, lengths=[7, 2, 5, 1])
addons("norm_addons_no_bias_33", 4, 2, 6, 33, bias=False)
addons("norm_addons_bi_lengths", 6, 3, 5, 10, bi=True, lengths=[4, 6, 1], state=True)

F.finish()
