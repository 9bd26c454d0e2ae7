// The page as a visitor has it, in Chromium: what is computed, what is drawn, what is said when there is no WebGPU.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { browser, serve } from "./browser.mjs";

const dist = path.resolve(import.meta.dirname, "../dist");
const pictures = path.resolve(import.meta.dirname, "../target/screenshots");
fs.mkdirSync(pictures, { recursive: true });
const sample = process.env.SAMPLE ?? "quick";

/** A page whose console is silent. */
async function visit(context, url) {
  const page = await context.newPage();
  const said = [];
  // Chromium's own word where it has no WebGPU.
  const own = (message) => message.text() === "Failed to create WebGPU Context Provider";
  page.on("console", (message) => { if (["error", "warning"].includes(message.type()) && !own(message)) said.push(message.text()); });
  page.on("pageerror", (error) => said.push(error.message));
  await page.goto(url);
  return { page, said };
}

const text = (page, id) => page.textContent(`#${id}`);

/** Waits until there is a text, or an error where errors are shown. */
async function settled(page, id, error, timeout = 60_000) {
  await page.waitForFunction(([id, error]) => {
    const found = document.getElementById(id).textContent;
    return (found && !found.endsWith("…")) || !document.getElementById(error).hidden;
  }, [id, error], { timeout });
  assert.equal(await text(page, error), "");
  return text(page, id);
}

async function names(page) {
  const answers = [["arabic-names", "العباهي", "Al-Abahi"], ["arabic-names", "بندق", "Bendek"], ["khmer", "srolanh", "ស្រឡាញ់"]];
  for (const [model, name, wanted] of answers) {
    await page.selectOption("#model", model);
    await page.fill("#text", name);
    await page.waitForFunction((wanted) => document.getElementById("answer").textContent === wanted, wanted, { timeout: 60_000 });
    assert.equal(await text(page, "see-error"), "");
    const cells = await page.locator("#heat rect").count();
    assert.ok(cells >= name.length * 3, `${cells} cells for ${name}`);
    // Each letter written looked somewhere: the weights of a row sum to 1.
    const titles = await page.locator("#heat rect title").allTextContents();
    const sum = titles.map((title) => Number(title.split(": ").at(-1))).reduce((a, b) => a + b, 0);
    const rows = await page.evaluate(() => document.querySelectorAll("#heat text[text-anchor=end]").length);
    assert.ok(Math.abs(sum - rows) < 0.01 * titles.length, `${sum} for ${rows} rows`);
  }
  await page.fill("#text", "123");
  await page.waitForFunction(() => document.getElementById("see-error").textContent.includes("symbols"));
  await page.fill("#text", "khmer");
  await page.waitForFunction(() => document.getElementById("see-error").hidden);
}

/** A tiny BERT of random numbers: two heads over the tokens of a sentence, whose weights sum to 1. */
async function heads(page) {
  await page.setInputFiles("#folder", path.resolve(import.meta.dirname, "../../tests/vectors/bert/bert"));
  await settled(page, "heads-state", "heads-error");
  const state = await text(page, "heads-state");
  const [count, tokens] = state.match(/^(\d+) heads over (\d+) tokens/).slice(1).map(Number);
  assert.equal(await page.locator("#heads svg").count(), count);
  for (let head = 0; head < count; head++) {
    const lines = await page.locator("#heads svg").nth(head).locator("line").evaluateAll((all) => all.map((line) => [line.getAttribute("y1"), Number(line.getAttribute("stroke-opacity"))]));
    const sums = new Map();
    for (const [y, weight] of lines) sums.set(y, (sums.get(y) ?? 0) + weight);
    assert.equal(sums.size, tokens);
    for (const sum of sums.values()) assert.ok(sum > 0.6 && sum < 1.01, `${sum}`);
  }
  const layers = await page.locator("#layer option").count();
  assert.ok(layers >= 1);
}

/** Where a canvas is brightest stands the house, or the sun. */
async function look(page) {
  const brightest = (id) => page.evaluate((id) => {
    const canvas = document.getElementById(id);
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let best = [0, 0, 0];
    for (let p = 0; p < data.length; p += 4) {
      const light = data[p] + data[p + 1] + data[p + 2];
      if (light > best[0]) best = [light, (p / 4) % canvas.width, Math.floor(p / 4 / canvas.width)];
    }
    return best.slice(1).map((x) => Math.floor(x / 24));
  }, id);
  await page.waitForTimeout(1000);
  const [x, y] = await brightest("hard");
  assert.ok(x >= 6 && x < 10 && y >= 7 && y < 11, `red at ${x}, ${y}`);
  await page.uncheck("input[name=feature][value='0']");
  await page.check("input[name=feature][value='1']");
  await page.waitForTimeout(1000);
  for (const id of ["soft", "hard"]) {
    const [x, y] = await brightest(id);
    assert.ok(x >= 9 && x < 13 && y >= 1 && y < 5, `yellow at ${x}, ${y} (${id})`);
  }
  assert.equal(await text(page, "look-error"), "");
}

async function validate(page) {
  await page.click("#tab-validate");
  await page.selectOption("#sample", sample);
  await page.click("#validate-start");
  const verdict = await settled(page, "verdict", "validate-error", 900_000);
  const [passed, all] = verdict.match(/^(\d+) of (\d+) variants pass \(/).slice(1).map(Number);
  assert.ok(all > 30 && passed === all, `${verdict}: ${await page.locator("tr.failed").allInnerTexts()}`);
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#validate-save")]);
  const report = JSON.parse(fs.readFileSync(await download.path(), "utf8"));
  assert.equal(report.rows.length, all);
  assert.ok(report.browser.includes("Chrome") && report.device.device === "gpu" && report.whole);
  return verdict;
}

async function stop(page) {
  await page.selectOption("#sample", "all");
  await page.click("#validate-start");
  await page.waitForFunction(() => document.getElementById("validate-progress").value > 3);
  await page.click("#validate-stop");
  const verdict = await settled(page, "verdict", "validate-error", 120_000);
  assert.ok(verdict.includes("stopped early"), verdict);
}

async function measure(page) {
  await page.click("#tab-measure");
  await page.click("#measure-start");
  const ceilings = await settled(page, "ceilings", "measure-error", 600_000);
  assert.match(ceilings, /Ceilings: \d+ GFLOP\/s/);
  const rows = await page.locator("#times tbody tr").count();
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#measure-save")]);
  const report = JSON.parse(fs.readFileSync(await download.path(), "utf8"));
  assert.ok(rows > 12 && report.cases.length === rows, `${rows} rows: ${report.not_run}`);
  for (const found of report.cases) {
    assert.ok(found.median_ns > 0 && found.error_ratio <= 1 && found.gflops > 0, JSON.stringify(found));
  }
  assert.equal(await page.locator("#plot rect").count(), rows);
  return `${ceilings}, ${rows} cases`;
}

/** Arrows go from tab to tab. */
async function keyboard(page) {
  await page.focus("#tab-see");
  await page.keyboard.press("ArrowRight");
  assert.ok(await page.isVisible("#validate"));
  await page.keyboard.press("ArrowLeft");
  assert.ok(await page.isVisible("#see"));
  assert.equal(await page.evaluate(() => document.activeElement.id), "tab-see");
}

const server = await serve(dist);
const started = Date.now();
try {
  for (const scheme of ["light", "dark"]) {
    const { context, close } = await browser({ scheme });
    const { page, said } = await visit(context, server.url);
    console.log(`${scheme}: ${await settled(page, "info", "notice")}`);
    await names(page);
    await look(page);
    await heads(page);
    await keyboard(page);
    const picture = async (name) => page.screenshot({ path: path.join(pictures, `${name}-${scheme}.png`), fullPage: true });
    await picture("see");
    if (scheme === "light") {
      console.log(await validate(page));
      await picture("validate");
      await stop(page);
      console.log(await measure(page));
      await picture("measure");
    }
    await page.setViewportSize({ width: 390, height: 800 });
    await page.click("#tab-see");
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "wider than a phone");
    await picture("phone");
    assert.deepEqual(said, []);
    await close();
  }
  // The example for programs, with WebGPU and without.
  for (const [webgpu, device] of [[true, "gpu"], [false, "cpu"]]) {
    const { context, close } = await browser({ webgpu });
    const { page, said } = await visit(context, `${server.url}example.html`);
    await page.waitForFunction(() => document.getElementById("out").textContent !== "computing…", null, { timeout: 60_000 });
    const [first, ...rows] = (await text(page, "out")).split("\n");
    assert.equal(first, `on ${device}`);
    assert.equal(rows[0], "1.000 0.000 0.000 0.000");
    for (const row of rows) assert.ok(Math.abs(row.split(" ").map(Number).reduce((a, b) => a + b) - 1) < 0.003, row);
    assert.equal(rows.length, 4);
    assert.deepEqual(said, []);
    await close();
  }
  // The CPU, asked for, and where there is no WebGPU.
  const { context, close } = await browser({ webgpu: false });
  const { page, said } = await visit(context, server.url);
  await page.waitForFunction(() => !document.getElementById("notice").hidden, null, { timeout: 60_000 });
  assert.match(await text(page, "notice"), /No WebGPU device/);
  assert.match(await text(page, "info"), /SIMD128/);
  await names(page);
  await page.selectOption("#device", "gpu");
  await page.waitForFunction(() => document.getElementById("info").textContent === "no device", null, { timeout: 60_000 });
  assert.match(await text(page, "notice"), /adapter/i);
  await page.selectOption("#device", "cpu");
  assert.match(await settled(page, "info", "notice"), /SIMD128/);
  await page.screenshot({ path: path.join(pictures, "cpu-light.png"), fullPage: true });
  assert.deepEqual(said, []);
  await close();
  console.log(`the page: ${((Date.now() - started) / 1000).toFixed(0)} s`);
} finally {
  server.close();
}
