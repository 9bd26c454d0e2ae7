// regard for programs: attention, recurrent encoders and transliteration over typed arrays, on WebGPU or on the CPU.
//
//   import { Regard } from "./regard.js";
//   const regard = await Regard.open();
//   const { output } = await regard.attention({ queries, keys, dim }, query, key, value);
import init, { Engine, ModelFiles, Sentences, Transliterator } from "./regard_web.js";

let loaded;

/** Loads the WebAssembly once: from beside this file, or what is given (a URL, a response, bytes or a module). */
export function load(source) {
  loaded ??= init(source === undefined ? undefined : { module_or_path: source });
  return loaded;
}

/** A device that computes. */
export class Regard {
  #engine;

  constructor(engine) {
    this.#engine = engine;
  }

  /** Opens a device: `{ device: "auto" | "gpu" | "cpu", minimal, as_card, subgroups, source }`. */
  static async open({ source, subgroups = false, ...options } = {}) {
    await load(source);
    const open = async (options) => new Regard(await Engine.open(JSON.stringify(options)));
    const there = subgroups && options.device !== "cpu" && (await hasSubgroups());
    return there ? withSubgroups(() => open({ ...options, subgroups: true })) : open(options);
  }

  /** What it is: `device` ("gpu" or "cpu"), `name` and more. */
  get info() {
    return JSON.parse(this.#engine.describe());
  }

  /**
   * softmax(query · keyᵀ · scale + mask) · value, of Float32Arrays: query [batch, heads, queries, dim], key [batch, kv_heads, keys,
   * dim], value [batch, kv_heads, keys, value_dim]. `problem` says the shapes, and causal, window, scale, softcap, lengths, weights.
   */
  async attention(problem, query, key, value, mask) {
    const found = await this.#engine.attention(JSON.stringify(problem), query, key, value, mask);
    return taken(found, ["output", "weights"]);
  }

  /**
   * A recurrent layer over input [steps, batch, input]. `layer` says the cell ("lstm", "gru", "rnn"), the shapes, bidirectional and
   * lengths; `weights` has weight_ih, weight_hh, bias_ih and bias_hh as PyTorch has them, of both directions one behind the other.
   */
  async rnn(layer, input, { weight_ih, weight_hh, bias_ih, bias_hh }) {
    const found = await this.#engine.rnn(JSON.stringify(layer), input, weight_ih, weight_hh, bias_ih, bias_hh);
    return taken(found, ["output", "final_h", "final_c"]);
  }

  /** A model that writes names in another script, from its card (a string) and its file of tensors (a Uint8Array). */
  transliterator(card, weights) {
    return new Names(new Transliterator(this.#engine, card, weights));
  }

  /** A sentence encoder of the BERT family, from its files as Hugging Face has them: `{ "config.json": Uint8Array, … }`. */
  sentences(files) {
    const own = new ModelFiles();
    for (const [name, bytes] of Object.entries(files)) own.add(name, bytes);
    return new SentenceModel(new Sentences(this.#engine, own));
  }

  /** Every kernel variant against the f64 oracle; `progress(done, all)` ends it with `false`. */
  async validate(sample = "quick", progress = () => true) {
    return JSON.parse(await this.#engine.validate(sample, progress));
  }

  /** How fast this device is, in the form of `regard bench --json`; `progress(done, all)` ends it with `false`. */
  async measure(progress = () => true, row = () => {}) {
    return JSON.parse(await this.#engine.measure(progress, (json) => row(JSON.parse(json))));
  }
}

/** Whether the adapter has subgroup operations. */
async function hasSubgroups() {
  const adapter = await globalThis.navigator?.gpu?.requestAdapter();
  return adapter?.features.has("subgroups") ?? false;
}

/** What the WebAssembly side cannot ask a browser for is asked here: `requestDevice` with the feature `subgroups`. */
async function withSubgroups(open) {
  const adapter = Object.getPrototypeOf(await navigator.gpu.requestAdapter());
  const request = adapter.requestDevice;
  adapter.requestDevice = function (descriptor = {}) {
    const features = new Set([...(descriptor.requiredFeatures ?? []), "subgroups"]);
    return request.call(this, { ...descriptor, requiredFeatures: [...features] });
  };
  try {
    return await open();
  } finally {
    adapter.requestDevice = request;
  }
}

/** A model on a device. */
class Names {
  #model;
  #last = Promise.resolve();

  constructor(model) {
    this.#model = model;
  }

  /** The answer to a text: output, candidates, weights with their labels, warnings. One after the other, in the order asked. */
  transliterate(text, options = {}) {
    const answer = this.#last.then(async () => JSON.parse(await this.#model.answer(text, JSON.stringify(options))));
    this.#last = answer.catch(() => {});
    return answer;
  }
}

/** A sentence encoder on a device. */
class SentenceModel {
  #model;
  #last = Promise.resolve();

  constructor(model) {
    this.#model = model;
  }

  /** Number of layers. */
  get layers() {
    return this.#model.layers;
  }

  /** A sentence: tokens, heads of a layer [heads][tokens][tokens], and its vector. One after the other, in the order asked. */
  encode(text, layer = 0) {
    const answer = this.#last.then(async () => JSON.parse(await this.#model.encode(text, layer)));
    this.#last = answer.catch(() => {});
    return answer;
  }
}

/** The fields of an answer, whose memory is then given back. */
function taken(found, fields) {
  const answer = Object.fromEntries(fields.map((field) => [field, found[field]]).filter(([, array]) => array));
  found.free();
  return answer;
}
