// The library's unit tests in Node: the test program as Cargo builds it. It has no standard output; a test that fails ends it.
import assert from "node:assert/strict";
import fs from "node:fs";

const module = new WebAssembly.Module(fs.readFileSync(process.argv[2]));
// No unit test speaks to a browser: what it would call is told by name.
const imports = {};
for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
  assert.equal(kind, "function");
  imports[from] ??= {};
  imports[from][name] = () => { throw new Error(`a unit test calls ${name}`); };
}
const { exports } = new WebAssembly.Instance(module, imports);
const started = Date.now();
assert.equal(exports.main(0, 0), 0);
console.log(`unit tests pass in ${((Date.now() - started) / 1000).toFixed(1)} s`);
