#!/usr/bin/env python3
"""What transformers answers to 24 sentences -> golden.json and golden.safetensors beside this file.

    python3 -m pip install torch==2.15.0 transformers==5.24.0 tokenizers==0.23.3 numpy safetensors
    python3 models/minilm/fetch.py ;  python3 models/minilm/make_golden.py [FOLDER]

As sentence-transformers does it: tokens cut off at max_seq_length of sentence_bert_config.json (tokenizer.json itself
says 128, filled up to 128, which does not count), the mean of the last hidden state over all tokens, L2 norm 1. One
sentence at a time. `vectors` is the run in f32, `exact` the one in f64 stored as f32.
"""
import json
import sys
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from transformers import AutoModel

HERE = Path(__file__).resolve().parent
MODEL = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parent.parent / "target" / "models" / "all-MiniLM-L6-v2"
SENTENCES = [
    "Hello",
    "?",
    "The cat sat on the mat.",
    "A kitten was resting on the rug.",
    "The central bank raised interest rates by a quarter of a point.",
    "How do I reset my password?",
    "I can't log in because I forgot my passphrase.",
    "It was raining, so we didn't go -- or rather, we couldn't; the road (the only one!) was flooded...",
    "CAPITAL LETTERS SHOUT, small letters whisper, MiXeD ones do both.",
    "Crème brûlée, jalapeño, smörgåsbord and a naïve façade in Łódź.",
    "Cre\u0300me bru\u0302le\u0301e, written with combining marks.",
    "On 24 December 1968, at 16:40 UTC, Apollo 8 was 376,745.1 km from Earth.",
    "Pi is about 3.14159265358979, e is 2.71828 and 1/137 is not quite α.",
    "We won the match 🎉🏆 and everyone cheered 👏🏽!",
    "🙂",
    "See https://example.org/a/b?c=d&e=f#g or write to someone@example.org.",
    "let total: f32 = values.iter().map(|x| x * x).sum::<f32>().sqrt();",
    "Tabs\tand\nline breaks   and\u00a0hard spaces\u200b are all white space or nothing.",
    "東京 means the eastern capital, and Москва stands on a river.",
    "“Quoted,” she said — ‘twice’ – for £5, €6 or ¥700 §8 ©2024.",
    "Antidisestablishmentarianism and pneumonoultramicroscopicsilicovolcanoconiosis are long words; " + "z" * 101 + " is none.",
    # 39 tokens, as many as a plain sentence of a newspaper has.
    "When the ferry finally reached the small harbour on the western side of the island, most of the passengers had already gathered on the deck with their bags, coats and sleepy children beside them.",
    "The committee, which had met every Thursday since the spring in a room above the library, agreed after a long discussion that the old bridge should be repaired rather than replaced, that the cost should be shared between the town and the two villages on the other bank, and that the work should begin as soon as the river was low enough for the masons to reach the middle pier without a boat.",
    " ".join(f"In chapter {i} the traveller leaves town number {i}, crosses a valley and comes to the next inn before dark." for i in range(1, 16)),
]


def encode(model, ids):
    with torch.no_grad():
        hidden = model(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long)).last_hidden_state
        return torch.nn.functional.normalize(hidden.mean(1), p=2, dim=1)[0].numpy()


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    length = json.loads((MODEL / "sentence_bert_config.json").read_text())["max_seq_length"]
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    whole = [len(tokenizer.encode(text).ids) for text in SENTENCES]
    tokenizer.enable_truncation(length)
    ids = [tokenizer.encode(text).ids for text in SENTENCES]
    assert len(SENTENCES) == 24 and max(whole) > length == max(map(len, ids)), whole

    f32, f64 = (np.stack([encode(model, row) for row in ids]) for model in (AutoModel.from_pretrained(MODEL, dtype=dtype).eval() for dtype in (torch.float32, torch.float64)))
    assert f32.dtype == np.float32 and f64.dtype == np.float64
    save_file({"vectors": f32, "exact": f64.astype(np.float32)}, HERE / "golden.safetensors")
    (HERE / "golden.safetensors").chmod(0o644)
    head = {
        "model": "all-MiniLM-L6-v2",
        "reference": f"transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]} CPU, tokenizers {tokenizers.__version__}, one sentence per call",
        "vectors": "golden.safetensors: vectors [24, 384], run in float32; exact [24, 384], run in float64 and stored as float32; mean over all tokens, L2 norm 1",
        "f32_err": float(f"{np.abs(f32 - f64).max():.3g}"),
        "max_seq_length": length,
        "whole": "tokens of the text before it is cut off at max_seq_length, [CLS] and [SEP] included",
    }
    cases = [json.dumps({"text": text, "whole": n, "ids": row}, ensure_ascii=False, separators=(",", ":")) for text, n, row in zip(SENTENCES, whole, ids)]
    text = json.dumps(head, ensure_ascii=False, indent=1)[:-2] + ',\n "cases": [\n  ' + ",\n  ".join(cases) + "\n ]\n}\n"
    assert len(json.loads(text)["cases"]) == 24
    (HERE / "golden.json").write_text(text, encoding="utf-8")
    print("tokens", whole, "f32_err", head["f32_err"])


if __name__ == "__main__":
    main()
