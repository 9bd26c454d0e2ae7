#!/usr/bin/env python3
"""Fetch the pretrained Hindi model and convert it for `regard`.

    python3 -m pip install h5py numpy safetensors
    python3 models/hindi/fetch_and_convert.py --out FOLDER
    regard transliterate --model FOLDER नमस्ते

`pip` downloads the wheel of `indicate` 0.5.1 (MIT, 56.5 MB); nothing of it is installed or run. FOLDER then holds
model.json, weights.safetensors, golden.json, LICENSE and PROVENANCE.md.
"""
import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

try:
    import h5py
    import numpy as np
    from safetensors.numpy import save_file
except ImportError as missing:
    sys.exit(f"error: {missing}\nhint: {sys.executable} -m pip install h5py numpy safetensors")

HERE = Path(__file__).resolve().parent
PACKAGE = "indicate==0.5.1"
WHEEL_SHA256 = "078387688ffee0c28696c2b583ad92e3d4229d72bd42608f897b416acf8238b6"
WEIGHTS = "indicate/data/hindi_to_english/saved_weights/"


def fetch(folder):
    """Download the wheel through pip; return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    # The wheel holds no compiled code: any interpreter may fetch it.
    command += ["--python-version", "3.12", "--dest", folder, PACKAGE]
    print("fetching", PACKAGE, "(56.5 MB)", flush=True)
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: pip could not download {PACKAGE}\nhint: fetch the wheel by other means and name it with --wheel")
    return next(Path(folder).glob("*.whl"))


def lstm(file, path, prefix):
    """Keras' LSTM layer as PyTorch's tensors.

    Keras: kernel [in, 4H], recurrent kernel [H, 4H], bias [4H]; gates i, f, c, o are PyTorch's i, f, g, o.
    PyTorch: matrices are [4H, …] and there are two biases, of which the second is 0 here.
    """
    kernel, recurrent, bias = (file[f"{path}/vars/{i}"][()] for i in range(3))
    return {
        f"{prefix}.weight_ih_l0": kernel.T,
        f"{prefix}.weight_hh_l0": recurrent.T,
        f"{prefix}.bias_ih_l0": bias,
        f"{prefix}.bias_hh_l0": np.zeros_like(bias),
    }


def linear(file, path, name):
    """Keras' Dense kernel [in, out] as a Linear weight [out, in], and its bias."""
    kernel, bias = (file[f"{path}/vars/{i}"][()] for i in range(2))
    return {f"{name}.weight": kernel.T, f"{name}.bias": bias}


def convert(wheel):
    """The tensors of model.json from the two HDF5 files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        encoder = h5py.File(io.BytesIO(archive.read(WEIGHTS + "encoder.weights.h5")), "r")
        decoder = h5py.File(io.BytesIO(archive.read(WEIGHTS + "decoder.weights.h5")), "r")
    return {
        "encoder.embedding.weight": encoder["embedding/vars/0"][()],
        **lstm(encoder, "layers/lstm/cell", "encoder.rnn"),
        "decoder.embedding.weight": decoder["embedding/vars/0"][()],
        **lstm(decoder, "decoder_rnn/cell", "decoder.rnn"),
        **linear(decoder, "layers/dense_1", "attention.query"),
        **linear(decoder, "fc", "output"),
    }


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="where the model goes")
    parser.add_argument("--dtype", default="f16", choices=["f16", "f32"], help="stored type (f16, as the goldens)")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="a wheel that is already here")
    arguments = parser.parse_args()

    card = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        wheel = arguments.wheel or fetch(folder)
        if not wheel.is_file():
            sys.exit(f"error: {wheel}: no such file")
        if sha256(wheel) != WHEEL_SHA256:
            sys.exit(f"error: {wheel}: sha256 {sha256(wheel)}, expected {WHEEL_SHA256}")
        tensors = convert(wheel)
    dtype = np.float16 if arguments.dtype == "f16" else np.float32
    tensors = {name: np.ascontiguousarray(value, dtype=dtype) for name, value in tensors.items()}
    for name, value in tensors.items():
        if list(value.shape) != card["tensors"][name]["shape"]:
            sys.exit(f"error: {name}: {list(value.shape)}, the card says {card['tensors'][name]['shape']}")

    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = arguments.out / card["weights"]["file"]
    partial = weights.with_suffix(".partial")
    save_file(tensors, partial)
    found, expected = sha256(partial), card["weights"]["sha256" if arguments.dtype == "f16" else "sha256_f32"]
    if found != expected:
        partial.unlink()
        sys.exit(
            f"error: the converted tensors have sha256 {found}, expected {expected}\n"
            "hint: the expected file was written by safetensors 0.8.0"
        )
    partial.chmod(0o644)
    os.replace(partial, weights)
    for name in ["model.json", "golden.json", "LICENSE", "PROVENANCE.md"]:
        if arguments.out.resolve() != HERE:
            shutil.copyfile(HERE / name, arguments.out / name)
    print(f"{arguments.out}: {sum(v.size for v in tensors.values()):,} weights, {weights.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
