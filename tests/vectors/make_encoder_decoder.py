#!/usr/bin/env python3
"""Tiny BART and Marian models of Hugging Face transformers -> OUT/<case>/, a folder as the Hub has them.

    pip install torch==2.15.0 transformers==5.24.0 numpy safetensors ;  python make_encoder_decoder.py OUT

Beside config.json, generation_config.json and model.safetensors lie expected.safetensors and expected.json. The weights are
this project's own random numbers, drawn in f32; everything is computed in f64 and stored as f32; `f32_err` is how far
transformers' own f32 run over the same tokens is from that. `in.sources` is filled up with 0 and `in.lengths` counts the
others; each row was run alone, without padding. `out.memory.K` are the encoder's states of row K, `out.tokens` its greedy
answer behind the tokens that every answer begins with, which no token ends, and `out.logits` those from which each of these
tokens was chosen. The best token of each choice is ahead of the second by `margin` at least. `out.beams` [rows, WIDTH, BEAM]
are the best answers of the library's own beam search, and `out.beam_scores` the sums of their log-probabilities, in f64.
"""
import hashlib, json, os, shutil, sys, warnings

warnings.filterwarnings("ignore")
import numpy as np, torch, transformers
from safetensors.numpy import save_file
from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig, MarianConfig, MarianMTModel

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
OUT = sys.argv[1]
tensor = torch.from_numpy
LENGTHS, STEPS, WIDTH, BEAM = [7, 4, 1], 12, 4, 6
MARGIN = 2e-3


def weight(rng, name, shape):
    """Norms that are not 1 and 0, scores wide enough that the softmax is far from even, and layers that add so much to the
    embedding that a tied head does not repeat the last token for ever."""
    z = rng.standard_normal(shape)
    if "norm" in name:
        z = 1 + 0.3 * z if name.endswith("weight") else 0.1 * z
    elif name == "final_logits_bias":
        z *= 0.1
    elif len(shape) == 1:
        z *= 0.1
    elif "embed_positions" in name:
        z *= 1.0
    elif "shared" in name:
        z *= 0.5
    else:
        z *= gain(name) * shape[1] ** -0.5
    return z.astype("f4")


def gain(name):
    if "out_proj" in name:
        return 0.8
    if "fc2" in name:
        return 3.0
    return 2.2 if "_attn" in name else 2.0


def names(kind, config):
    """What is drawn: not what is tied to another tensor, nor sines and cosines."""
    tied = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    fixed = ("embed_positions",) if kind is MarianMTModel else ()
    return {k: tuple(v.shape) for k, v in sorted(kind(config).state_dict().items()) if k not in tied and not any(f in k for f in fixed)}


def load(kind, config, state, dtype):
    m = kind._from_config(config, attn_implementation="sdpa").eval().to(dtype)
    missing, unknown = m.load_state_dict({k: tensor(v) for k, v in state.items()}, strict=False)
    m.tie_weights()
    assert not unknown, unknown
    if kind is MarianMTModel:  # which the library draws in f32 whatever the model's type
        for part in (m.model.encoder, m.model.decoder):
            rows, width = part.embed_positions.weight.shape
            angles = np.arange(rows)[:, None] / 10000.0 ** (2 * np.arange(width // 2) / width)
            table = np.concatenate([np.sin(angles), np.cos(angles)], 1)
            part.embed_positions.weight = torch.nn.Parameter(tensor(table).to(dtype), requires_grad=False)
    return m


def run(m, prefix, sources, banned, tokens=None):
    """Greedy, the whole answer anew at each step; over `tokens` instead of the model's own choice where given."""
    out, chosen, logits = {}, np.zeros((len(LENGTHS), STEPS), "i8"), []
    for k, n in enumerate(LENGTHS):
        source = torch.tensor(sources[None, k, :n])
        answer = list(prefix)
        with torch.no_grad():
            out[f"out.memory.{k}"] = m.get_encoder()(input_ids=source).last_hidden_state[0].numpy()
        for step in range(STEPS):
            with torch.no_grad():
                o = m(input_ids=source, decoder_input_ids=torch.tensor([answer]), use_cache=False).logits[0, -1]
            assert o.dtype == m.dtype and o.isfinite().all()
            logits.append(o.numpy())
            allowed = o.clone()
            allowed[banned] = -torch.inf
            chosen[k, step] = allowed.argmax()
            answer.append(int(chosen[k, step] if tokens is None else tokens[k, step]))
    return out | {"out.logits": np.stack(logits).reshape(len(LENGTHS), STEPS, -1)}, chosen


def search(m, prefix, sources, banned):
    """The library's own beam search, and its greedy one."""
    beams, scores, greedy = [], [], []
    bad = [[b] for b in banned] or None
    for k, n in enumerate(LENGTHS):
        source = torch.tensor(sources[None, k, :n])
        common = dict(attention_mask=torch.ones_like(source), decoder_input_ids=torch.tensor([prefix]), do_sample=False, bad_words_ids=bad, use_cache=True)
        found = m.generate(source, num_beams=WIDTH, num_return_sequences=WIDTH, max_new_tokens=BEAM, length_penalty=0.0, early_stopping=False, return_dict_in_generate=True, output_scores=True, **common)
        beams.append(found.sequences[:, len(prefix):].numpy())
        scores.append(found.sequences_scores.numpy())
        greedy.append(m.generate(source, max_new_tokens=STEPS, **common)[0, len(prefix):].numpy())
    return np.stack(beams), np.stack(scores), np.stack(greedy)


def case(name, kind, config, forced, banned, seeds):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    prefix = [config.decoder_start_token_id] + ([] if forced is None else [forced])
    for seed in seeds:
        rng = np.random.default_rng(seed)
        state = {k: weight(rng, k, shape) for k, shape in names(kind, config).items()}
        sources = np.zeros((len(LENGTHS), max(LENGTHS)), "i8")
        for row, n in zip(sources, LENGTHS):
            row[:n] = rng.integers(3, config.vocab_size, n)
        m64 = load(kind, config, state, torch.float64)
        exact, tokens = run(m64, prefix, sources, banned)
        allowed = exact["out.logits"].copy()
        allowed[..., banned] = -np.inf
        best = np.sort(allowed, -1)
        margin = (best[..., -1] - best[..., -2]).min()
        beams, scores, greedy = search(m64, prefix, sources, banned)
        apart = (scores[:, :-1] - scores[:, 1:]).min()
        if margin >= MARGIN and apart >= MARGIN and sum(len(set(t)) for t in tokens.tolist()) > 8:
            break
    else:
        raise AssertionError((name, "no seed"))
    assert (greedy == tokens).all()

    m = load(kind, config, state, torch.float32)
    m.generation_config = GenerationConfig(decoder_start_token_id=config.decoder_start_token_id, forced_bos_token_id=forced, bad_words_ids=[[b] for b in banned] or None, num_beams=WIDTH, max_length=32)
    m.save_pretrained(folder)
    f32, same = run(m, prefix, sources, banned, tokens)
    assert (same == tokens).all()

    tensors = {"in.sources": sources, "in.lengths": np.array(LENGTHS, "i8"), "out.tokens": tokens, "out.beams": beams, "out.beam_scores": scores.astype("f4")}
    tensors |= {k: v.astype("f4") for k, v in exact.items()}
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    save_file(tensors, os.path.join(folder, "expected.safetensors"))
    files = ["config.json", "generation_config.json", "model.safetensors", "expected.safetensors"]
    for f in files:
        os.chmod(os.path.join(folder, f), 0o644)
    assert sorted(os.listdir(folder)) == sorted(files), os.listdir(folder)
    record = {
        "case": name, "model": kind.__name__,
        "library": f"transformers {transformers.__version__} (torch {torch.__version__})", "numpy": np.__version__, "seed": seed,
        "computed": "float64, CPU", "stored": "float32 (integers i64)", "prefix": prefix,
        "tensors": {k: {"dtype": {"f4": "f32", "i8": "i64"}[v.dtype.str[1:]], "shape": list(v.shape)} for k, v in tensors.items()},
        "f32_err": {k: float(f"{np.abs(v - f32[k]).max():.3g}") for k, v in exact.items()},
        "margin": float(f"{margin:.3g}"), "beams_apart": float(f"{apart:.3g}"),
        "files": {f: {"bytes": os.path.getsize(os.path.join(folder, f)), "sha256": hashlib.sha256(open(os.path.join(folder, f), "rb").read()).hexdigest()} for f in files},
    }
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump(record, f, indent=1)
    distinct = [len(set(t)) for t in tokens.tolist()]
    print(f"{name}: seed {seed}; {sum(f['bytes'] for f in record['files'].values())} bytes; f32_err {max(record['f32_err'].values())}; margin {margin:.3f}; beams apart {apart:.3f}; logits' deviation {exact['out.logits'].std():.1f}; different tokens {distinct}")


if __name__ == "__main__":
    none = dict(bos_token_id=None, eos_token_id=None, forced_eos_token_id=None, pad_token_id=0)
    bart = BartConfig(vocab_size=48, d_model=24, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2, decoder_attention_heads=3, encoder_ffn_dim=40, decoder_ffn_dim=32,
                      max_position_embeddings=40, activation_function="gelu", scale_embedding=False, decoder_start_token_id=2, **none)
    case("bart", BartForConditionalGeneration, bart, 1, [], range(20261301, 20262300))
    marian = MarianConfig(vocab_size=45, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
                          max_position_embeddings=40, activation_function="swish", scale_embedding=True, decoder_start_token_id=44, share_encoder_decoder_embeddings=True,
                          **(none | {"pad_token_id": 44}))
    case("marian", MarianMTModel, marian, None, [44], range(20262301, 20263300))
