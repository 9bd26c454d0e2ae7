// The package in Node on Dawn, where lavapipe has f16 and subgroups: every kernel variant that they bring.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
const gpu = create([]);
// What a browser has.
Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
globalThis.Window = class { static [Symbol.hasInstance](object) { return object === globalThis; } };
globalThis.window = globalThis;
globalThis.GPU ??= gpu.constructor;

const dist = path.resolve(import.meta.dirname, "../dist/package");
const { Regard } = await import(path.join(dist, "regard.js"));
const source = fs.readFileSync(path.join(dist, "regard_web_bg.wasm"));
// `quick` has f16 in every kernel, and takes a quarter of an hour.
const sample = process.env.SAMPLE ?? "kernels";

for (const options of [{ subgroups: true }, { minimal: true }, { subgroups: true, as_card: true }]) {
  const started = Date.now();
  const regard = await Regard.open({ device: "gpu", source, ...options });
  const { f16, subgroups } = regard.info;
  assert.equal(f16 && subgroups, !options.minimal, JSON.stringify(regard.info));
  const rows = await regard.validate(sample);
  const failed = rows.filter((row) => row.failures.length);
  const by = rows.filter((row) => row.variant.includes("subgroups")).length;
  console.log(`${JSON.stringify(options)}: ${rows.length} variants, ${by} by subgroups, ${failed.length} fail, ${((Date.now() - started) / 1000).toFixed(0)} s`);
  assert.deepEqual(failed.map((row) => [row.kernel, row.variant, row.failures[0]]), []);
  assert.equal(by > 0, !options.minimal);
  if (sample !== "kernels") assert.equal(rows.some((row) => row.variant.includes("=f16")), !options.minimal);
}

// SIMD128: the case table on the CPU.
{
  const regard = await Regard.open({ device: "cpu", source });
  const rows = await regard.validate("all");
  const cases = rows.reduce((sum, row) => sum + row.cases, 0);
  console.log(`${regard.info.name}: ${rows.length} rows, ${cases} cases`);
  assert.deepEqual(rows.flatMap((row) => row.failures), []);
  assert.ok(cases > 1500 && regard.info.instructions === "SIMD128");
}

// The calls of a program, on both devices, against the formulas.
for (const device of ["gpu", "cpu"]) {
  const regard = await Regard.open({ device, source });
  const numbers = (count, seed) => Float32Array.from({ length: count }, (_, k) => Math.sin((k + 1) * (seed + 0.37)));
  const [queries, keys, dim] = [3, 5, 8];
  const [query, key, value] = [numbers(queries * dim, 1), numbers(keys * dim, 2), numbers(keys * dim, 3)];
  const found = await regard.attention({ queries, keys, dim, causal: true, weights: true }, query, key, value);
  for (let i = 0; i < queries; i++) {
    const scores = Array.from({ length: i + 1 }, (_, j) => query.subarray(i * dim, (i + 1) * dim).reduce((sum, q, d) => sum + q * key[j * dim + d], 0) / Math.sqrt(dim));
    const powers = scores.map((score) => Math.exp(score - Math.max(...scores)));
    const sum = powers.reduce((a, b) => a + b);
    for (let d = 0; d < dim; d++) {
      const wanted = powers.reduce((y, p, j) => y + (p / sum) * value[j * dim + d], 0);
      assert.ok(Math.abs(found.output[i * dim + d] - wanted) < 1e-6, `${device}: ${found.output[i * dim + d]}, not ${wanted}`);
    }
    powers.forEach((p, j) => assert.ok(Math.abs(found.weights[i * keys + j] - p / sum) < 1e-6));
  }
  const [steps, input, hidden] = [4, 3, 2];
  const weights = { weight_ih: numbers(3 * hidden * input, 4), weight_hh: numbers(3 * hidden * hidden, 5), bias_ih: numbers(3 * hidden, 6), bias_hh: numbers(3 * hidden, 7) };
  const x = numbers(steps * input, 8);
  const encoded = await regard.rnn({ cell: "gru", steps, input, hidden }, x, weights);
  const sigmoid = (v) => 1 / (1 + Math.exp(-v));
  let h = [0, 0];
  for (let t = 0; t < steps; t++) {
    const of = (matrix, bias, vector, n) => bias[n] + vector.reduce((sum, v, k) => sum + matrix[n * vector.length + k] * v, 0);
    const now = Array.from(x.subarray(t * input, (t + 1) * input));
    h = h.map((before, u) => {
      const [r, z] = [0, 1].map((g) => sigmoid(of(weights.weight_ih, weights.bias_ih, now, g * hidden + u) + of(weights.weight_hh, weights.bias_hh, h, g * hidden + u)));
      const n = Math.tanh(of(weights.weight_ih, weights.bias_ih, now, 2 * hidden + u) + r * of(weights.weight_hh, weights.bias_hh, h, 2 * hidden + u));
      return (1 - z) * n + z * before;
    });
    h.forEach((wanted, u) => assert.ok(Math.abs(encoded.output[t * hidden + u] - wanted) < 1e-5, `${device}: step ${t}`));
  }
  assert.equal(encoded.final_h.length, hidden);
  const models = path.resolve(dist, "../models/arabic-names");
  const names = regard.transliterator(fs.readFileSync(path.join(models, "model.json"), "utf8"), fs.readFileSync(path.join(models, "weights.safetensors")));
  const golden = JSON.parse(fs.readFileSync(path.resolve(dist, "../../../models/arabic-names/golden.json"), "utf8")).cases.slice(0, 12);
  const answers = await Promise.all(golden.map(({ in: text }) => names.transliterate(text, { beam: 2, top: 2 })));
  answers.forEach((answer, n) => assert.equal(answer.output, golden[n].beam2[0].text));
  await assert.rejects(regard.attention({ queries, keys: 4, dim }, query, key, value), /key|elements|numbers/);
  await assert.rejects(regard.attention({ queries, keys, dim, size: 3 }, query, key, value), /size/);
  console.log(`${device}: ${regard.info.name || regard.info.device}: attention, gru and names are right`);
}
process.exit(0);
