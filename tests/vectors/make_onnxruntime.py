#!/usr/bin/env python3
"""ONNX LSTM, GRU and RNN nodes run by onnxruntime -> OUT/<case>.safetensors + OUT/index.json.

    pip install onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6 safetensors
    python make_onnxruntime.py OUT

onnxruntime runs these nodes in f32 only. Its results are what is stored; `f32_err` is how far they are from the
operator's formulas, written out below in f64. Tensors are `in.<name>` and `out.<name>` by the names of the operator's
specification. No row has length 0: onnxruntime gives 0 as its final state, whatever the initial one.
"""
import sys
import numpy as np, onnx, onnxruntime
from folder import Folder
from onnx import TensorProto, helper

F = Folder(sys.argv[1], f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}", 20261201)
F.computed = "float32, CPU"
OPSET = 22

# name: (function, default alpha, default beta); None where the function has no such parameter
ACTIVATIONS = {
    "Sigmoid": (lambda x, a, b: 1 / (1 + np.exp(-x)), None, None),
    "Tanh": (lambda x, a, b: np.tanh(x), None, None),
    "Relu": (lambda x, a, b: np.maximum(x, 0), None, None),
    "Affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "LeakyRelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, None),
    "ThresholdedRelu": (lambda x, a, b: np.where(x >= a, x, 0), 1.0, None),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "Elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(x)), 1.0, None),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), None, None),
    "Softplus": (lambda x, a, b: np.log1p(np.exp(x)), None, None),
}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
DEFAULT = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}


def functions(op, attributes, directions):
    """The activations of each direction; alpha and beta are used up in order by those that have them."""
    alphas, betas = (list(attributes.get(k, [])) for k in ("activation_alpha", "activation_beta"))
    made = []
    for name in attributes.get("activations", DEFAULT[op] * directions):
        f, a, b = ACTIVATIONS[name]
        a = np.float64(np.float32(alphas.pop(0))) if a is not None and alphas else a
        b = np.float64(np.float32(betas.pop(0))) if b is not None and betas else b
        made.append(lambda x, f=f, a=a, b=b: f(x, a, b))
    n = len(DEFAULT[op])
    return [made[d * n : (d + 1) * n] for d in range(directions)]


def formulas(op, attributes, i):
    """The operator's specification in f64."""
    i = {k: v.astype("f8") if v.dtype == np.float32 else v for k, v in i.items()}
    X, (directions, _, H) = i["X"], i["R"].shape
    T, B, _ = X.shape
    g, clip = GATES[op], np.float32(attributes.get("clip", np.inf)).astype("f8")
    limit = lambda x: np.clip(x, -clip, clip)
    lengths = i.get("sequence_lens", np.full(B, T))
    Y = np.zeros((T, directions, B, H))
    Yh = i.get("initial_h", np.zeros((directions, B, H))).copy()
    Yc = i.get("initial_c", np.zeros((directions, B, H))).copy()
    for d, act in enumerate(functions(op, attributes, directions)):
        W, R = (i[k][d].reshape(g, H, -1) for k in "WR")
        Wb, Rb = i["B"][d].reshape(2, g, H) if "B" in i else np.zeros((2, g, H))
        P = i["P"][d].reshape(3, H) if "P" in i else np.zeros((3, H))
        for b in range(B):
            steps = range(lengths[b])
            h, c = Yh[d, b], Yc[d, b]
            for t in reversed(steps) if d == 1 or attributes.get("direction") == "reverse" else steps:
                x = X[t, b]
                wx, uh = W @ x + Wb, R @ h + Rb
                if op == "LSTM":  # gates i, o, f, c; peepholes i, o, f
                    s = wx + uh
                    ig = act[0](limit(s[0] + P[0] * c))
                    f = 1 - ig if attributes.get("input_forget") else act[0](limit(s[2] + P[2] * c))
                    c = f * c + ig * act[1](limit(s[3]))
                    h = act[0](limit(s[1] + P[1] * c)) * act[2](c)
                elif op == "GRU":  # gates z, r, h
                    z, r = (act[0](limit(wx[k] + uh[k])) for k in (0, 1))
                    rh = r * uh[2] if attributes.get("linear_before_reset") else R[2] @ (r * h) + Rb[2]
                    h = (1 - z) * act[1](limit(wx[2] + rh)) + z * h
                else:
                    h = act[0](limit(wx[0] + uh[0]))
                Y[t, d, b] = h
            Yh[d, b], Yc[d, b] = h, c
    return {"Y": Y, "Y_h": Yh} | ({"Y_c": Yc} if op == "LSTM" else {})


def node(op, attributes, i):
    names = ["X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"][: 8 if op == "LSTM" else 6]
    outputs = ["Y", "Y_h", "Y_c"][: 3 if op == "LSTM" else 2]
    described = lambda name: helper.make_tensor_value_info(name, TensorProto.INT32 if name == "sequence_lens" else TensorProto.FLOAT, None)
    made = helper.make_node(op, [n if n in i else "" for n in names], outputs, **attributes)
    graph = helper.make_graph([made], op, [described(n) for n in i], [described(n) for n in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(outputs, i)))


def case(name, op, T, B, I, H, lengths=None, state=False, bias=True, peepholes=False, size=1.0, note=None, **attributes):
    """size: of the weights, beside the usual 1 / sqrt(fan in)."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    g = GATES[op]
    attributes["hidden_size"] = H
    i = {"X": F.draw(T, B, I), "W": F.draw(directions, g * H, I, scale=size * I**-0.5), "R": F.draw(directions, g * H, H, scale=size * H**-0.5)}
    i |= {"B": F.draw(directions, 2 * g * H, scale=0.3)} if bias else {}
    i |= {"sequence_lens": np.array(lengths, "i4")} if lengths else {}
    i |= {"initial_h": F.draw(directions, B, H)} if state else {}
    i |= {"initial_c": F.draw(directions, B, H)} if state and op == "LSTM" else {}
    i |= {"P": F.draw(directions, 3 * H, scale=0.6)} if peepholes else {}
    want, got = formulas(op, attributes, i), node(op, attributes, i)
    for k in want:
        np.testing.assert_allclose(got[k], want[k], rtol=1e-4, atol=1e-5, err_msg=f"{name} {k}")
    F.keep(name, op, {**attributes, "opset": OPSET}, i, {}, got, {k: np.abs(got[k] - want[k]).max() for k in want}, note)


case("lstm_lengths", "LSTM", 6, 5, 4, 9, lengths=[6, 2, 1, 4, 5], state=True)
case("lstm_bidirectional_lengths", "LSTM", 7, 3, 5, 11, lengths=[3, 7, 5], state=True, direction="bidirectional")
case("lstm_peepholes_reverse_lengths", "LSTM", 6, 3, 5, 10, lengths=[6, 4, 1], state=True, peepholes=True, direction="reverse")
case("lstm_clip", "LSTM", 6, 3, 5, 9, state=True, clip=0.35)
case("lstm_input_forget_peepholes_clip", "LSTM", 6, 3, 5, 9, state=True, peepholes=True, input_forget=1, clip=0.8)
case("lstm_activations", "LSTM", 6, 3, 5, 9, state=True, activations=["HardSigmoid", "ScaledTanh", "Softsign"], activation_alpha=[0.3, 1.4], activation_beta=[0.4, 0.7])
case("lstm_activations_of_two_directions", "LSTM", 5, 3, 4, 13, lengths=[5, 2, 4], state=True, direction="bidirectional",
     activations=["Sigmoid", "Affine", "Elu", "HardSigmoid", "LeakyRelu", "ScaledTanh"], activation_alpha=[0.7, 0.9, 0.25, 0.2, 1.2], activation_beta=[-0.1, 0.45, 0.8], size=0.7)
case("lstm_everything", "LSTM", 6, 4, 5, 17, lengths=[6, 1, 3, 5], state=True, peepholes=True, direction="bidirectional", clip=0.9, input_forget=1,
     activations=["Sigmoid", "Tanh", "Softsign", "HardSigmoid", "Softsign", "Tanh"], activation_alpha=[0.25], activation_beta=[0.5])
case("lstm_no_bias_65", "LSTM", 3, 2, 7, 65, bias=False)
case("gru_before_lengths", "GRU", 6, 5, 4, 9, lengths=[6, 2, 1, 4, 5], state=True)
case("gru_after_lengths", "GRU", 6, 5, 4, 9, lengths=[6, 2, 1, 4, 5], state=True, linear_before_reset=1)
case("gru_after_reverse_clip", "GRU", 6, 3, 5, 10, lengths=[4, 6, 2], state=True, direction="reverse", linear_before_reset=1, clip=0.4)
case("gru_before_bidirectional_clip", "GRU", 5, 3, 4, 7, lengths=[5, 3, 2], state=True, direction="bidirectional", clip=0.6)
case("gru_activations_of_two_directions", "GRU", 5, 3, 4, 13, lengths=[5, 2, 4], state=True, direction="bidirectional",
     activations=["HardSigmoid", "Softsign", "Sigmoid", "ScaledTanh"], activation_alpha=[0.3, 1.3], activation_beta=[0.6, 0.5])
case("gru_after_activations", "GRU", 6, 2, 5, 11, state=True, linear_before_reset=1, activations=["Sigmoid", "LeakyRelu"], activation_alpha=[0.1])
case("gru_before_no_bias_33", "GRU", 4, 2, 6, 33, bias=False)
case("rnn_bidirectional_lengths", "RNN", 6, 4, 5, 9, lengths=[6, 1, 3, 5], state=True, direction="bidirectional")
case("rnn_activations_of_two_directions", "RNN", 5, 3, 4, 10, lengths=[5, 2, 4], direction="bidirectional", activations=["Elu", "ThresholdedRelu"], activation_alpha=[0.6, 0.2], size=0.8)
case("rnn_affine_clip", "RNN", 6, 3, 5, 8, state=True, clip=1.1, activations=["Affine"], activation_alpha=[0.8], activation_beta=[0.1])
case("rnn_softplus_reverse", "RNN", 4, 3, 5, 12, state=True, direction="reverse", activations=["Softplus"], size=0.5)
case("rnn_relu_lengths", "RNN", 5, 3, 5, 9, lengths=[2, 5, 4], state=True, activations=["Relu"])

F.finish()
