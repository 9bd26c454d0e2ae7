#!/usr/bin/env python3
"""Tiny GPT-2 and LLaMA language models of Hugging Face transformers -> OUT/<case>/, a folder as the Hub has them.

    pip install torch==2.15.0 transformers==5.24.0 numpy safetensors ;  python make_causal.py OUT

Beside config.json and model.safetensors lie expected.safetensors and expected.json. The weights are this project's own
random numbers, drawn in f32; everything is computed in f64 and stored as f32; `f32_err` is how far transformers' own f32
run over the same tokens is from that. `in.prompts` is filled up with 0 and `in.lengths` counts the others; each row was
run alone, without padding. `out.prompt_logits.K` are row K's logits at every token of its prompt, `out.tokens` its greedy
continuation, which no token ends, and `out.logits` those from which each of these tokens was chosen. The best token of
each choice is ahead of the second by `margin` at least.
"""
import hashlib, json, os, shutil, sys, warnings
from types import MethodType

warnings.filterwarnings("ignore")
import numpy as np, torch, transformers
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
OUT = sys.argv[1]
tensor = torch.from_numpy
LENGTHS, STEPS = [6, 3, 1], 20
MARGIN = 1e-2


def weight(rng, name, shape):
    """Norms that are not 1 and 0, scores wide enough that the softmax is far from even, and layers that add so much to
    the embedding that a tied head does not repeat the last token for ever."""
    z = rng.standard_normal(shape)
    if "norm" in name or "ln_" in name:
        z = 1 + 0.3 * z if name.endswith("weight") else 0.4 * z
    elif len(shape) == 1:
        z *= 0.3
    elif "wpe" in name:
        z *= 0.5
    elif "wte" in name or "embed_tokens" in name:
        z *= 0.4
    else:  # GPT-2's matrices are [in, out]
        inputs = shape[0 if ".c_" in name else 1]
        z *= (1.8 if any(n in name for n in ("c_attn", "q_proj", "k_proj", "c_proj", "o_proj", "down_proj")) else 1.4) * inputs**-0.5
    return z.astype("f4")


def rms_norm(self, x):
    return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def rotary(self, x, position_ids):
    width = self.config.head_dim
    inverse = self.config.rope_parameters["rope_theta"] ** -(torch.arange(0, width, 2, dtype=x.dtype) / width)
    angles = (position_ids[..., None].to(x.dtype) * inverse).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


def load(kind, config, state, dtype):
    m = kind._from_config(config, attn_implementation="sdpa").eval().to(dtype)
    missing, unknown = m.load_state_dict({k: tensor(v) for k, v in state.items()}, strict=False)
    m.tie_weights()
    assert missing == ["lm_head.weight"] * config.tie_word_embeddings and not unknown, (missing, unknown)
    for part in m.modules():  # the library takes these two to f32 whatever the model's type
        for of, f in ((LlamaRMSNorm, rms_norm), (LlamaRotaryEmbedding, rotary)):
            if dtype == torch.float64 and isinstance(part, of):
                part.forward = MethodType(f, part)
    return m


def run(m, prompts, tokens=None):
    """Greedy, the whole text anew at each step; over `tokens` instead of the model's own choice where given."""
    out = {f"out.prompt_logits.{k}": None for k in range(len(LENGTHS))}
    chosen, logits = np.zeros((len(LENGTHS), STEPS), "i8"), []
    for k, n in enumerate(LENGTHS):
        text = list(prompts[k, :n])
        for step in range(STEPS):
            with torch.no_grad():
                o = m(input_ids=torch.tensor([text]), use_cache=False).logits[0]
            assert o.dtype == m.dtype and o.isfinite().all()
            if step == 0:
                out[f"out.prompt_logits.{k}"] = o.numpy()
            logits.append(o[-1].numpy())
            chosen[k, step] = o[-1].argmax()
            text.append(int(chosen[k, step] if tokens is None else tokens[k, step]))
    return out | {"out.logits": np.stack(logits).reshape(len(LENGTHS), STEPS, -1)}, chosen


def draw(kind, config, seed):
    rng = np.random.default_rng(seed)
    # In order of their names, so that the numbers do not hang on how a version of the library lists them.
    state = {k: weight(rng, k, tuple(v.shape)) for k, v in sorted(kind(config).state_dict().items()) if k != "lm_head.weight" or not config.tie_word_embeddings}
    prompts = np.zeros((len(LENGTHS), max(LENGTHS)), "i8")
    for row, n in zip(prompts, LENGTHS):
        row[:n] = rng.integers(1, config.vocab_size, n)
    exact, tokens = run(load(kind, config, state, torch.float64), prompts)
    best = np.sort(exact["out.logits"], -1)
    return state, prompts, exact, tokens, (best[..., -1] - best[..., -2]).min()


def case(name, kind, config, seed):
    folder = os.path.join(OUT, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    state, prompts, exact, tokens, margin = draw(kind, config, seed)
    assert margin >= MARGIN, (name, margin)

    m = load(kind, config, state, torch.float32)
    m.save_pretrained(folder)
    os.remove(os.path.join(folder, "generation_config.json"))
    f32, same = run(m, prompts, tokens)
    assert (same == tokens).all()
    for row, n, t in zip(prompts, LENGTHS, tokens):  # the library's own search, with its cache
        ids = torch.tensor(row[None, :n])
        found = m.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=STEPS, use_cache=True)
        assert (found[0, n:].numpy() == t).all()

    tensors = {"in.prompts": prompts, "in.lengths": np.array(LENGTHS, "i8"), "out.tokens": tokens} | {k: v.astype("f4") for k, v in exact.items()}
    tensors = {k: np.ascontiguousarray(v) for k, v in tensors.items()}
    save_file(tensors, os.path.join(folder, "expected.safetensors"))

    files = ["config.json", "model.safetensors", "expected.safetensors"]
    for f in files:
        os.chmod(os.path.join(folder, f), 0o644)
    assert sorted(os.listdir(folder)) == sorted(files), os.listdir(folder)
    record = {
        "case": name, "model": kind.__name__,
        "library": f"transformers {transformers.__version__} (torch {torch.__version__})", "numpy": np.__version__, "seed": seed,
        "computed": "float64, CPU", "stored": "float32 (integers i64)",
        "tensors": {k: {"dtype": {"f4": "f32", "i8": "i64"}[v.dtype.str[1:]], "shape": list(v.shape)} for k, v in tensors.items()},
        "f32_err": {k: float(f"{np.abs(v - f32[k]).max():.3g}") for k, v in exact.items()},
        "margin": float(f"{margin:.3g}"),
        "files": {f: {"bytes": os.path.getsize(os.path.join(folder, f)), "sha256": hashlib.sha256(open(os.path.join(folder, f), "rb").read()).hexdigest()} for f in files},
    }
    with open(os.path.join(folder, "expected.json"), "w") as f:
        json.dump(record, f, indent=1)
    distinct = [len(set(t)) for t in tokens.tolist()]
    print(f"{name}: {sum(f['bytes'] for f in record['files'].values())} bytes; f32_err {max(record['f32_err'].values())}; margin {margin:.3f}; logits' deviation {exact['out.logits'].std():.1f}; different tokens {distinct}")


def llama(layers, hidden, heads, kv_heads, theta, tied):
    return LlamaConfig(vocab_size=60, hidden_size=hidden, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=64,
                       rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": theta}, tie_word_embeddings=tied, bos_token_id=None, eos_token_id=None)


if __name__ == "__main__":
    case("gpt2", GPT2LMHeadModel, GPT2Config(vocab_size=50, n_positions=64, n_embd=24, n_layer=2, n_head=3, bos_token_id=None, eos_token_id=None), 20261217)
    case("llama", LlamaForCausalLM, llama(2, 32, 4, 2, 10000.0, False), 20261224)
    case("llama_tied", LlamaForCausalLM, llama(3, 24, 2, 1, 500000.0, True), 20261244)
