/** Loads the WebAssembly once: from beside this file, or what is given. */
export function load(source?: RequestInfo | URL | Response | BufferSource | WebAssembly.Module): Promise<unknown>;

export interface OpenOptions {
  /** "auto" takes WebGPU, or the CPU where there is none. */
  device?: "auto" | "gpu" | "cpu";
  /** WebGPU's default limits and no optional feature. */
  minimal?: boolean;
  /** Plan as for a graphics card, whatever the device is. */
  as_card?: boolean;
  /** Use subgroup operations where the adapter has them. */
  subgroups?: boolean;
  /** Where the WebAssembly comes from, if not from beside this file. */
  source?: RequestInfo | URL | Response | BufferSource | WebAssembly.Module;
}

export interface AttentionProblem {
  batch?: number;
  heads?: number;
  kv_heads?: number;
  queries: number;
  keys: number;
  dim: number;
  value_dim?: number;
  causal?: boolean;
  /** Keys visible before a query's position. */
  window?: number;
  scale?: number;
  softcap?: number;
  normalize?: "softmax" | "hardmax" | "sparsemax" | "sample";
  /** Of `sample`. */
  seed?: number;
  /** Of the mask, which is added to the scores; [queries, keys] if left out. */
  mask_shape?: number[];
  /** Of each batch row, how many keys are real. */
  lengths?: number[];
  /** Also give the weights. */
  weights?: boolean;
}

export interface RnnLayer {
  cell: "lstm" | "gru" | "rnn";
  steps: number;
  batch?: number;
  input: number;
  hidden: number;
  bidirectional?: boolean;
  /** Of each batch row, how many steps are real. */
  lengths?: number[];
}

export interface RnnWeights {
  weight_ih: Float32Array;
  weight_hh: Float32Array;
  bias_ih?: Float32Array;
  bias_hh?: Float32Array;
}

export interface Answer {
  output: string;
  candidates: { text: string; score: number }[];
  source_labels: string[];
  target_labels: string[];
  /** A row for each target label, a column for each source label. */
  weights: number[][];
  warnings: string[];
}

export interface Names {
  transliterate(text: string, options?: { beam?: number; top?: number; options?: Record<string, string> }): Promise<Answer>;
}

export interface Sentences {
  readonly layers: number;
  encode(
    text: string,
    layer?: number,
  ): Promise<{ tokens: string[]; cut: boolean; heads: number[][][]; vector: number[] }>;
}

export interface Row {
  kernel: string;
  variant: string;
  cases: number;
  /** Largest error over its tolerance; at most 1 for a pass. */
  worst: number;
  worst_case: string;
  failures: string[];
  unsound: string[];
}

export type Progress = (done: number, all: number) => boolean | void;

export class Regard {
  static open(options?: OpenOptions): Promise<Regard>;
  readonly info: { device: "gpu" | "cpu"; name: string } & Record<string, unknown>;
  attention(
    problem: AttentionProblem,
    query: Float32Array,
    key: Float32Array,
    value: Float32Array,
    mask?: Float32Array,
  ): Promise<{ output: Float32Array; weights?: Float32Array }>;
  rnn(
    layer: RnnLayer,
    input: Float32Array,
    weights: RnnWeights,
  ): Promise<{ output: Float32Array; final_h: Float32Array; final_c?: Float32Array }>;
  transliterator(card: string, weights: Uint8Array): Names;
  /** Of the BERT family, from its files as Hugging Face has them, by their paths within the folder. */
  sentences(files: Record<string, Uint8Array>): Sentences;
  validate(sample?: "kernels" | "quick" | "all", progress?: Progress): Promise<Row[]>;
  measure(progress?: Progress, row?: (row: Record<string, unknown>) => void): Promise<Record<string, unknown>>;
}
