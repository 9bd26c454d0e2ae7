#!/usr/bin/env python3
"""The node test cases that ship inside onnx -> OUT/<Op>/<case>.safetensors + OUT/index.json.

    pip install onnx==1.23.2 numpy==2.4.6 ml_dtypes==0.6.0 ;  python make_onnx.py OUT [Op ...]

Tensors are `in.<position>.<name>` and `out.<position>.<name>` in the node's own order (an absent optional one leaves a
gap), in their own types. onnx draws and computes the cases itself, in numpy, when asked for them; a sum may differ in
its last bit from one processor to the next. rtol and atol are the ones the case asks for.
"""
import hashlib, json, os, struct, sys, warnings
import numpy as np, onnx
from onnx import helper, numpy_helper

warnings.filterwarnings("ignore")
from onnx.backend.test.case.node import collect_testcases

OPS = "Attention FlexAttention RotaryEmbedding TensorScatter LSTM GRU RNN Softmax LogSoftmax Hardmax".split()
TYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}


def array(x):
    return numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)


def save(path, tensors):
    """safetensors with bf16 as it is, in the order given."""
    header, blobs, at = {}, [], 0
    for name, a in tensors.items():
        blob = a.tobytes()  # C order
        header[name] = {"dtype": TYPES[a.dtype.name], "shape": list(a.shape), "data_offsets": [at, at + len(blob)]}
        at += len(blob)
        blobs.append(blob)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(head)) + head + b"".join(blobs))


def attribute(a):
    v = helper.get_attribute_value(a)
    if isinstance(v, onnx.GraphProto):
        return {"proto": "GraphProto", "text": onnx.printer.to_text(v)}
    return v.decode() if isinstance(v, bytes) else list(v) if isinstance(v, (list, tuple)) else v


def main(out, ops):
    index = []
    for case in collect_testcases(None):
        graph = case.model.graph
        node = graph.node[0]
        if len(graph.node) != 1 or node.op_type not in ops or "_expanded" in case.name:
            continue
        [(inputs, outputs)] = case.data_sets
        ins = {i.name: array(v) for i, v in zip(graph.input, inputs)}
        outs = {o.name: array(v) for o, v in zip(graph.output, outputs)}
        file = f"{node.op_type}/{case.name}.safetensors"
        path = os.path.join(out, file)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        tensors = {f"in.{p}.{n}": ins[n] for p, n in enumerate(node.input) if n in ins}
        save(path, tensors | {f"out.{p}.{n}": outs[n] for p, n in enumerate(node.output) if n in outs})
        describe = lambda names, of: [{"name": n, "dtype": of[n].dtype.name, "shape": list(of[n].shape)} if n in of else {"name": ""} for n in names]
        index.append({
            "case": case.name, "op": node.op_type, "domain": node.domain,
            "opset": {o.domain or "ai.onnx": o.version for o in case.model.opset_import},
            "attributes": {a.name: attribute(a) for a in node.attribute}, "expanded": False,
            "inputs": describe(node.input, ins), "outputs": describe(node.output, outs), "rtol": case.rtol, "atol": case.atol,
            "file": file, "bytes": os.path.getsize(path), "sha256": hashlib.sha256(open(path, "rb").read()).hexdigest(),
        })
    index.sort(key=lambda c: (c["op"], c["file"]))
    with open(os.path.join(out, "index.json"), "w") as f:
        json.dump({"onnx": onnx.__version__, "numpy": np.__version__, "cases": index}, f, indent=1)
    for op in ops:
        print(op, sum(c["op"] == op for c in index))


main(sys.argv[1], sys.argv[2:] or OPS)
