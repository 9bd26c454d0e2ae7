// The page: what is asked for goes to the worker, what comes back is drawn.

const $ = (id) => document.getElementById(id);

// ---------------------------------------------------------------- the worker

let worker;
let waiting = new Map();
let next = 0;

function start() {
  worker?.terminate();
  for (const { fail } of waiting.values()) fail(new Error("stopped"));
  waiting = new Map();
  worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data: { id, result, error, progress } }) => {
    const call = waiting.get(id);
    if (!call) return;
    if (progress) return call.tell?.(progress);
    waiting.delete(id);
    if (error === undefined) call.done(result);
    else call.fail(new Error(error));
  };
  worker.onerror = (event) => {
    for (const { fail } of waiting.values()) fail(new Error(event.message || "the worker could not be started"));
    waiting.clear();
  };
}

function ask(method, argument, tell) {
  return new Promise((done, fail) => {
    const id = next++;
    waiting.set(id, { done, fail, tell });
    worker.postMessage({ id, method, argument });
  });
}

// ---------------------------------------------------------------- the device

let info;
let opened;

function show(element, error) {
  element.hidden = !error;
  element.textContent = error ? error.message : "";
}

async function open() {
  start();
  const device = $("device").value;
  $("info").textContent = "opening…";
  show($("notice"));
  try {
    info = await ask("open", { device });
    $("info").textContent = info.device === "gpu" ? ["WebGPU", info.name, info.driver, info.type].filter(Boolean).join(", ") : info.name;
    if (info.device === "cpu" && device !== "cpu") {
      const why = navigator.gpu ? info.fallback : "this browser has no WebGPU";
      show($("notice"), new Error(`No WebGPU device: ${why}. This page computes on the CPU instead. Chrome and Edge have WebGPU on Windows, macOS, Android and, by chrome://flags/#enable-unsafe-webgpu, on Linux; Safari from version 26 on; Firefox on Windows and macOS.`));
    }
  } catch (error) {
    info = undefined;
    $("info").textContent = "no device";
    show($("notice"), new Error(`${error.message}. Choose the CPU above, or see whether this browser has WebGPU turned on.`));
    throw error;
  }
}

function reopen() {
  for (const id of ["layer", "sentence"]) $(id).disabled = true;
  $("folder").value = "";
  $("heads").replaceChildren();
  $("heads-state").textContent = "";
  opened = open();
  opened.then(() => { transliterate(); look(); }, () => {});
}

// ---------------------------------------------------------------- tabs

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const other of tabs) {
    other.setAttribute("aria-selected", String(other === tab));
    other.tabIndex = other === tab ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = other !== tab;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}

for (const [n, tab] of tabs.entries()) {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const other = tabs[(n + step + tabs.length) % tabs.length];
    select(other);
    other.focus();
  });
}

// ---------------------------------------------------------------- names

const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawHeat({ source_labels: labels, target_labels: rows, weights }) {
  const svg = $("heat");
  // Padding behind the text is drawn where something looks at it.
  const seen = (column) => labels[column] || weights.some((row) => row[column] > 0.02);
  let count = labels.length;
  while (count > 0 && !seen(count - 1)) count--;
  const columns = labels.slice(0, count);
  const [left, top, cell] = [68, 30, Math.max(16, Math.min(34, Math.floor(640 / Math.max(columns.length, 1))))];
  const [width, height] = [left + cell * columns.length + 4, top + cell * rows.length + 4];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.replaceChildren();
  const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
  columns.forEach((label, x) => svg.append(element("text", { x: left + cell * (x + 0.5), y: top - 10, "text-anchor": "middle", "font-size": 15 }, label || "·")));
  rows.forEach((label, y) => {
    svg.append(element("text", { x: left - 10, y: top + cell * (y + 0.5) + 5, "text-anchor": "end", "font-size": 15 }, label));
    columns.forEach((column, x) => {
      const weight = weights[y]?.[x] ?? 0;
      const rect = element("rect", { x: left + cell * x, y: top + cell * y, width: cell - 1, height: cell - 1, fill: accent, "fill-opacity": Math.max(0.04, weight) });
      rect.append(element("title", {}, `${label} ← ${column || "padding"}: ${weight.toFixed(3)}`));
      svg.append(rect);
    });
  });
  svg.setAttribute("aria-label", `Attention weights: ${rows.length} letters written, ${columns.length} read`);
  $("caption").textContent = weights.length ? "Rows: letters written, from top to bottom. Columns: letters read." : "";
}

let asked = 0;

async function transliterate() {
  const text = $("text").value.trim();
  const own = ++asked;
  if (!text) {
    $("answer").textContent = "";
    drawHeat({ source_labels: [], target_labels: [], weights: [] });
    return show($("see-error"));
  }
  try {
    await opened;
    const answer = await ask("transliterate", { name: $("model").value, text, options: {} });
    if (own !== asked) return;
    $("answer").textContent = answer.output;
    drawHeat(answer);
    show($("see-error"), answer.warnings.length ? new Error(answer.warnings.join("; ")) : undefined);
  } catch (error) {
    if (own === asked) show($("see-error"), error);
  }
}

$("text").addEventListener("input", transliterate);
$("model").addEventListener("change", () => {
  const examples = { "arabic-names": "العباهي", khmer: "srolanh" };
  if (Object.values(examples).includes($("text").value)) $("text").value = examples[$("model").value];
  transliterate();
});
$("names").addEventListener("submit", (event) => { event.preventDefault(); transliterate(); });

// ---------------------------------------------------------------- a sentence

const WANTED = ["config.json", "tokenizer.json", "model.safetensors", "1_Pooling/config.json", "sentence_bert_config.json"];

$("folder").addEventListener("change", async () => {
  show($("heads-error"));
  $("heads").replaceChildren();
  try {
    await opened;
    const files = {};
    for (const file of $("folder").files) {
      const name = file.webkitRelativePath.split("/").slice(1).join("/") || file.name;
      if (WANTED.includes(name)) files[name] = new Uint8Array(await file.arrayBuffer());
    }
    $("heads-state").textContent = "reading the model…";
    const layers = await ask("sentences", { files });
    $("layer").replaceChildren(...Array.from({ length: layers }, (_, n) => new Option(String(n), String(n))));
    $("layer").value = String(layers - 1);
    for (const id of ["layer", "sentence"]) $(id).disabled = false;
    await encode();
  } catch (error) {
    $("heads-state").textContent = "";
    show($("heads-error"), error);
  }
});

let sentence = 0;

async function encode() {
  const own = ++sentence;
  try {
    const found = await ask("encode", { text: $("sentence").value, layer: Number($("layer").value) });
    if (own !== sentence) return;
    $("heads").replaceChildren(...found.heads.map((weights, n) => drawHead(found.tokens, weights, n)));
    $("heads-state").textContent = `${found.heads.length} heads over ${found.tokens.length} tokens${found.cut ? ", the rest was cut off" : ""}`;
    show($("heads-error"));
  } catch (error) {
    if (own === sentence) show($("heads-error"), error);
  }
}

/** One head: lines from each token to those that it attends to, the stronger the more. */
function drawHead(tokens, weights, number) {
  const [line, left, right, width] = [18, 100, 150, 250];
  const svg = element("svg", { viewBox: `0 0 ${width} ${tokens.length * line + 26}`, role: "img", "aria-label": `Head ${number}` });
  svg.append(element("text", { x: width / 2, y: 14, "text-anchor": "middle", "font-size": 13 }, `head ${number}`));
  const y = (n) => 34 + n * line;
  tokens.forEach((token, n) => {
    svg.append(element("text", { x: left - 6, y: y(n) + 4, "text-anchor": "end", "font-size": 12 }, token));
    svg.append(element("text", { x: right + 6, y: y(n) + 4, "font-size": 12 }, token));
    weights[n].forEach((weight, other) => {
      if (weight < 0.02) return;
      svg.append(element("line", { x1: left, y1: y(n), x2: right, y2: y(other), stroke: "var(--accent)", "stroke-width": 2, "stroke-opacity": weight }));
    });
  });
  return svg;
}

$("sentence").addEventListener("input", encode);
$("layer").addEventListener("change", encode);
$("heads-form").addEventListener("submit", (event) => event.preventDefault());

// ---------------------------------------------------------------- a picture

const GRID = 14;
const CELL = 24;

/** A meadow with a red house, a yellow sun and green trees. */
function drawPicture(context) {
  const side = GRID * CELL;
  context.fillStyle = "#8fb7e0";
  context.fillRect(0, 0, side, side);
  context.fillStyle = "#4d9a4a";
  context.fillRect(0, side * 0.62, side, side * 0.38);
  const disc = (x, y, r, color) => { context.fillStyle = color; context.beginPath(); context.arc(x, y, r, 0, 7); context.fill(); };
  disc(side * 0.8, side * 0.18, side * 0.1, "#ffe14d");
  for (const [x, y] of [[0.14, 0.52], [0.24, 0.58], [0.9, 0.6]]) disc(side * x, side * y, side * 0.09, "#1f6b2e");
  context.fillStyle = "#b5342b";
  context.fillRect(CELL * 6, CELL * 7, CELL * 4, CELL * 4);
  context.fillStyle = "#7d1f1a";
  context.beginPath();
  context.moveTo(CELL * 5.4, CELL * 7);
  context.lineTo(CELL * 8, CELL * 4.6);
  context.lineTo(CELL * 10.6, CELL * 7);
  context.fill();
}

/** How red, yellow, green and bright each cell is, [cells, 4]. */
function annotate(context) {
  const annotations = new Float32Array(GRID * GRID * 4);
  for (let cell = 0; cell < GRID * GRID; cell++) {
    const { data } = context.getImageData((cell % GRID) * CELL, Math.floor(cell / GRID) * CELL, CELL, CELL);
    const sums = [0, 0, 0, 0];
    for (let p = 0; p < data.length; p += 4) {
      const [r, g, b] = [data[p] / 255, data[p + 1] / 255, data[p + 2] / 255];
      sums[0] += Math.max(0, r - Math.max(g, b)) * 2;
      sums[1] += Math.max(0, Math.min(r, g) - b) * 1.4 * (Math.abs(r - g) < 0.3);
      sums[2] += Math.max(0, g - Math.max(r, b)) * 3;
      sums[3] += (r + g + b) / 3;
    }
    sums.forEach((sum, k) => { annotations[cell * 4 + k] = sum / (data.length / 4); });
  }
  return annotations;
}

let picture;

async function look() {
  try {
    await opened;
    const soft = $("soft").getContext("2d", { willReadFrequently: true });
    if (!picture) {
      drawPicture(soft);
      picture = { image: soft.getImageData(0, 0, GRID * CELL, GRID * CELL), annotations: annotate(soft) };
    }
    const wanted = new FormData($("look")).getAll("feature").map(Number);
    const query = new Float32Array(4);
    for (const feature of wanted) query[feature] = 1 / Math.max(1, wanted.length);
    const problem = { queries: 1, keys: GRID * GRID, dim: 4, scale: Number($("sharp").value) * 3, weights: true };
    const call = (normalize) => ask("attention", { problem: { ...problem, normalize }, query, key: picture.annotations, value: picture.annotations });
    const [ofSoft, ofHard] = await Promise.all([call("softmax"), call("hardmax")]);
    shade(soft, ofSoft.weights);
    shade($("hard").getContext("2d", { willReadFrequently: true }), ofHard.weights);
    show($("look-error"));
  } catch (error) {
    show($("look-error"), error);
  }
}

/** The picture, dark where no weight is. */
function shade(context, weights) {
  context.putImageData(picture.image, 0, 0);
  const most = Math.max(...weights, 1e-9);
  weights.forEach((weight, cell) => {
    context.fillStyle = `rgba(0, 0, 0, ${0.82 * (1 - weight / most)})`;
    context.fillRect((cell % GRID) * CELL, Math.floor(cell / GRID) * CELL, CELL, CELL);
  });
}

$("look").addEventListener("input", look);
$("look").addEventListener("submit", (event) => event.preventDefault());

// ---------------------------------------------------------------- validate, measure

function save(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The cells of a row; those that are numbers stand to the right. */
function row(body, cells, failed) {
  const line = body.insertRow();
  if (failed) line.className = "failed";
  for (const { text, number } of cells) {
    const cell = line.insertCell();
    cell.textContent = text;
    if (number) cell.className = "number";
  }
  return line;
}

function busy(name, on) {
  $(`${name}-start`).disabled = on;
  $(`${name}-stop`).disabled = !on;
}

/** Ends what runs: asked first, and where it does not hear, as on the CPU, with the worker. */
function stopper(name) {
  $(`${name}-stop`).addEventListener("click", () => {
    $(`${name}-stop`).disabled = true;
    worker.postMessage({ method: "stop" });
    if (info?.device === "cpu") reopen();
  });
}

let report;

$("validation").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = $("rows").tBodies[0];
  body.replaceChildren();
  $("verdict").textContent = "running…";
  show($("validate-error"));
  busy("validate", true);
  try {
    await opened;
    const started = performance.now();
    let cases = [0, 1];
    const sample = $("sample").value;
    const rows = await ask("validate", { sample }, ({ done, all }) => {
      cases = [done, all];
      $("validate-progress").max = all;
      $("validate-progress").value = done;
    });
    let failed = 0;
    for (const found of rows) {
      const wrong = found.failures.length > 0;
      failed += wrong;
      row(body, [
        { text: found.kernel },
        { text: found.variant },
        { text: found.cases, number: true },
        { text: found.worst.toFixed(3), number: true },
        { text: wrong ? found.failures[0] : "pass" },
      ], wrong);
    }
    const whole = cases[0] === cases[1];
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    $("verdict").textContent = `${rows.length - failed} of ${rows.length} variants pass${whole ? "" : ", stopped early"} (${seconds} s)`;
    report = { regard: "0.1.0", date: new Date().toISOString(), browser: navigator.userAgent, device: info, sample, whole, failed, rows };
    for (const button of ["validate-save", "validate-copy"]) $(button).disabled = false;
  } catch (error) {
    $("verdict").textContent = "";
    show($("validate-error"), error);
  }
  busy("validate", false);
});
$("validate-save").addEventListener("click", () => save("regard-validate.json", JSON.stringify(report, null, 1)));
$("validate-copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(JSON.stringify(report, null, 1));
    $("verdict").textContent = "The report is in the clipboard.";
  } catch (error) {
    show($("validate-error"), new Error(`The report could not be copied (${error.message}): save it instead.`));
  }
});
stopper("validate");

let measured;

function time(nanoseconds) {
  return nanoseconds < 1e6 ? `${(nanoseconds / 1e3).toFixed(1)} µs` : `${(nanoseconds / 1e6).toFixed(2)} ms`;
}

function plot(rows) {
  const svg = $("plot");
  const [left, line, width] = [230, 20, 700];
  svg.setAttribute("viewBox", `0 0 ${width} ${rows.length * line + 8}`);
  svg.replaceChildren();
  rows.forEach((found, n) => {
    const share = Math.min(1, 1 / found.times_floor);
    const y = n * line + 4;
    svg.append(element("text", { x: left - 8, y: y + 13, "text-anchor": "end", "font-size": 12 }, found.work));
    svg.append(element("rect", { x: left, y, width: Math.max(1, share * (width - left - 60)), height: line - 5, fill: "var(--accent)" }));
    svg.append(element("text", { x: left + share * (width - left - 60) + 6, y: y + 13, "font-size": 12 }, `${(100 * share).toFixed(0)} %`));
  });
  svg.toggleAttribute("hidden", rows.length === 0);
  $("plot-caption").hidden = rows.length === 0;
}

$("measurement").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = $("times").tBodies[0];
  body.replaceChildren();
  $("ceilings").textContent = "measuring the ceilings…";
  show($("measure-error"));
  busy("measure", true);
  const rows = [];
  try {
    await opened;
    measured = await ask("measure", {}, ({ done, all, row: found }) => {
      if (found) {
        rows.push(found);
        row(body, [
          { text: found.work },
          { text: time(found.median_ns), number: true },
          { text: found.gflops.toFixed(1), number: true },
          { text: found.gbps.toFixed(2), number: true },
          { text: `${(100 / found.times_floor).toFixed(0)} %`, number: true },
        ]);
        return plot(rows);
      }
      $("measure-progress").max = all;
      $("measure-progress").value = done;
    });
    $("ceilings").textContent = `Ceilings: ${measured.fma_gflops.toFixed(0)} GFLOP/s, ${measured.copy_gbps.toFixed(1)} GB/s`;
    if (measured.wrong.length) show($("measure-error"), new Error(`Wrong answers, not timed: ${measured.wrong.join(", ")}`));
    $("measure-save").disabled = false;
  } catch (error) {
    $("ceilings").textContent = "";
    show($("measure-error"), error);
  }
  busy("measure", false);
});
$("measure-save").addEventListener("click", () => save("regard-bench.json", JSON.stringify(measured, null, 1)));
stopper("measure");

// ---------------------------------------------------------------- begin

select(tabs.find((tab) => `#${tab.getAttribute("aria-controls")}` === location.hash) ?? tabs[0]);
$("device").addEventListener("change", reopen);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", transliterate);
reopen();
