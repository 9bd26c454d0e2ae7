#!/usr/bin/env python3
"""Tiny BERT and DistilBERT encoders of Hugging Face transformers -> OUT/<case>/, a folder as the Hub has them.

    pip install torch==2.15.0 transformers==5.24.0 tokenizers==0.23.3 numpy safetensors ;  python make_bert.py OUT

Beside config.json, model.safetensors, tokenizer.json and 1_Pooling/config.json lie expected.safetensors and
expected.json. The weights are this project's own random numbers, drawn in f32; everything is computed in f64 and stored
as f32; `f32_err` is how far transformers' own f32 run is from that. `in.ids` is filled up with the pad's id and
`in.lengths` counts the others; rows of a tensor past the length are 0, also as queries in `out.attention.0`.
"""
import hashlib, json, os, shutil, sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, tokenizers, torch, transformers
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
SEED = 20261201
OUT = sys.argv[1]
rng = np.random.default_rng(SEED)
tensor = torch.from_numpy

VOCAB = """[PAD] [UNK] [CLS] [SEP] [MASK] , . ! ? ' - ( ) the a cat cafe sat on mat river un play naive eleve uber istanbul
straße σοφοσ σοφος œuvre 国 中 2 20 $ ##s ##ing ##ed ##able ##believ ##24 ##0 ##r ##a ##t x ##x i ##i new york sao paulo of
to and is it""".split()
PAD, UNK, CLS, SEP = range(4)
FIRST_WORD = 5
TEXTS = [
    "The cat sat on the mat.",
    "ÉLÈVE naïve, São Paulo — Über-CAFÉ!",  # accents go, in either form; the dash has no token
    "e\u0301le\u0300ve",
    "unbelievable (2024): plays, played and playing cats?",
    "İstanbul IS Straße ŒUVRE ΣΟΦΟΣ",  # each letter in lower case by itself, so no final sigma
    "中国 New\u00a0York\t\u200bit\u0000s \ufffd a\u0301\u0327",
    "the qqq cat's 🐈 $20",
    "x" * 100 + " " + "x" * 101,  # 100 characters are the longest word
    "the [MASK] sat on [mat]",
    "",
]


def tokenizer():
    assert len(set(VOCAB)) == len(VOCAB)
    t = Tokenizer(models.WordPiece({w: i for i, w in enumerate(VOCAB)}, unk_token="[UNK]", max_input_chars_per_word=100))
    t.add_special_tokens(VOCAB[:FIRST_WORD])
    t.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.post_processor = processors.TemplateProcessing(single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)])
    t.decoder = decoders.WordPiece()
    return t


def weight(name, shape):
    """Layer norms that are not 1 and 0, and scores wide enough that the softmax is far from even."""
    z = rng.standard_normal(shape)
    if "norm" in name.lower():
        z = 1 + 0.3 * z if name.endswith("weight") else 0.4 * z
    elif len(shape) == 1:
        z *= 0.3
    elif "embeddings" in name:
        z *= 0.4 if "token_type" in name else 0.8
    else:
        z *= (1.8 if any(n in name for n in ("query", "key", "q_lin", "k_lin")) else 1.2) * shape[1] ** -0.5
    return z.astype("f4")


def run(kind, config, state, inputs, dtype, pooling):
    m = kind._from_config(config, attn_implementation="eager").eval().to(dtype)
    m.load_state_dict({k: tensor(v) for k, v in state.items()})
    ids, lengths = (tensor(inputs["in." + k]) for k in ("ids", "lengths"))
    real = torch.arange(ids.shape[1])[None] < lengths[:, None]
    types = {"token_type_ids": tensor(inputs["in.types"])} if "in.types" in inputs else {}
    with torch.no_grad():
        o = m(input_ids=ids, attention_mask=real.long(), output_hidden_states=True, output_attentions=True, **types)
    hidden = [torch.where(real[..., None], h, 0) for h in o.hidden_states]
    assert len(hidden) == config.num_hidden_layers + 1 and torch.equal(o.last_hidden_state, o.hidden_states[-1])
    attention = torch.where(real[:, None, :, None], o.attentions[0], 0)
    assert not attention.masked_select(~real[:, None, None, :]).any()
    pooled = hidden[-1][:, 0] if pooling == "cls" else hidden[-1].sum(1) / lengths[:, None]
    out = {f"out.hidden.{i}": h for i, h in enumerate(hidden)} | {"out.attention.0": attention, "out.pooled": pooled}
    assert all(v.dtype == dtype and v.isfinite().all() for v in out.values())
    return {k: v.numpy() for k, v in out.items()}


def case(name, kind, config, lengths, N, pooling="mean", types=False, note=None):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(os.path.join(folder, "1_Pooling"))
    t = tokenizer()
    t.save(os.path.join(folder, "tokenizer.json"))

    m = kind(config).eval()
    # In order of their names, so that the numbers do not hang on how a version of the library lists them.
    state = {k: weight(k, tuple(v.shape)) for k, v in sorted(m.state_dict().items())}
    m.load_state_dict({k: tensor(v) for k, v in state.items()})
    m.save_pretrained(folder)
    modes = {f"pooling_mode_{k}": k == {"cls": "cls_token", "mean": "mean_tokens"}[pooling] for k in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")}
    with open(os.path.join(folder, "1_Pooling", "config.json"), "w") as f:
        json.dump({"word_embedding_dimension": config.hidden_size} | modes, f, indent=2)

    lengths = np.array(lengths, "i8")
    ids = np.full((len(lengths), N), PAD, "i8")
    for row, n in zip(ids, lengths):
        row[:n] = rng.integers(FIRST_WORD, len(VOCAB), n)
        row[0] = CLS
        if n > 1:
            row[n - 1] = SEP
    inputs = {"in.ids": ids, "in.lengths": lengths}
    if types:  # the second half of each row is the second text
        inputs["in.types"] = (np.arange(N)[None] >= (lengths[:, None] + 1) // 2).astype("i8") * (np.arange(N)[None] < lengths[:, None])
    exact, f32 = (run(kind, config, state, inputs, d, pooling) for d in (torch.float64, torch.float32))
    tensors = {k: np.ascontiguousarray(v) for k, v in (inputs | {k: v.astype("f4") for k, v in exact.items()}).items()}
    save_file(tensors, os.path.join(folder, "expected.safetensors"))

    files = ["config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json", "expected.safetensors"]
    for f in files:
        os.chmod(os.path.join(folder, f), 0o644)
    found = sorted(os.path.relpath(os.path.join(d, f), folder) for d, _, names in os.walk(folder) for f in names)
    assert found == sorted(files), found
    record = {
        "case": name, "model": kind.__name__, "pooling": pooling, **({"note": note} if note else {}),
        "library": f"transformers {transformers.__version__} (torch {torch.__version__}, tokenizers {tokenizers.__version__})", "numpy": np.__version__, "seed": SEED,
        "computed": "float64, CPU", "stored": "float32 (integers i64)",
        "tensors": {k: {"dtype": {"f4": "f32", "i8": "i64"}[v.dtype.str[1:]], "shape": list(v.shape)} for k, v in tensors.items()},
        "f32_err": {k: float(f"{np.abs(v - f32[k]).max():.3g}") for k, v in exact.items()},
        "texts": [{"text": s, "ids": t.encode(s).ids} for s in TEXTS],
        "files": {f: {"bytes": os.path.getsize(os.path.join(folder, f)), "sha256": hashlib.sha256(open(os.path.join(folder, f), "rb").read()).hexdigest()} for f in files},
    }
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump(record, f, indent=1)
    largest = exact["out.attention.0"].max(-1)[exact["out.attention.0"].max(-1) > 0]
    print(f"{name}: {sum(f['bytes'] for f in record['files'].values())} bytes; f32_err {max(record['f32_err'].values())}; mean of the largest weight {largest.mean():.2f}")


def bert(layers, hidden, heads, intermediate, **options):
    return BertConfig(vocab_size=len(VOCAB), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=intermediate, pad_token_id=PAD,
                      **{"max_position_embeddings": 16, "type_vocab_size": 2, **options})


case("bert", BertModel, bert(2, 24, 3, 40), [12, 7, 2], 12)
case("bert_relu_cls", BertModel, bert(1, 20, 4, 28, hidden_act="relu", layer_norm_eps=1e-3), [4, 11, 1, 8], 11, pooling="cls")
case("bert_gelu_new", BertModel, bert(3, 16, 2, 36, hidden_act="gelu_new"), [9, 2, 12], 12, types=True)
case("bert_silu", BertModel, bert(2, 16, 1, 24, hidden_act="silu", max_position_embeddings=10), [1, 10, 6], 10, note="a row that fills all positions; one head")
case("distilbert", DistilBertModel, DistilBertConfig(vocab_size=len(VOCAB), max_position_embeddings=16, n_layers=2, n_heads=3, dim=24, hidden_dim=40, pad_token_id=PAD), [5, 12, 2, 9], 12)
