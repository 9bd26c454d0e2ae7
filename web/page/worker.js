// Everything that computes: the page never waits.
import { Regard } from "./package/regard.js";

let regard;
let stopped = false;
let sentences;
const models = new Map();

async function model(name) {
  if (!models.has(name)) {
    const file = async (path) => {
      const response = await fetch(new URL(`./models/${name}/${path}`, import.meta.url));
      if (!response.ok) throw new Error(`${path} of the model ${name} is not there (${response.status})`);
      return response;
    };
    const [card, weights] = await Promise.all([file("model.json"), file("weights.safetensors")]);
    models.set(name, regard.transliterator(await card.text(), new Uint8Array(await weights.arrayBuffer())));
  }
  return models.get(name);
}

const methods = {
  async open(options) {
    models.clear();
    regard = await Regard.open(options);
    return regard.info;
  },
  async transliterate({ name, text, options }) {
    return (await model(name)).transliterate(text, options);
  },
  sentences({ files }) {
    sentences = regard.sentences(files);
    return sentences.layers;
  },
  encode({ text, layer }) {
    return sentences.encode(text, layer);
  },
  attention({ problem, query, key, value }) {
    return regard.attention(problem, query, key, value);
  },
  validate({ sample }, tell) {
    stopped = false;
    return regard.validate(sample, (done, all) => { tell({ done, all }); return !stopped; });
  },
  measure(_, tell) {
    stopped = false;
    return regard.measure((done, all) => { tell({ done, all }); return !stopped; }, (row) => tell({ row }));
  },
};

onmessage = async ({ data: { id, method, argument } }) => {
  if (method === "stop") {
    stopped = true;
    return;
  }
  try {
    const result = await methods[method](argument, (progress) => postMessage({ id, progress }));
    postMessage({ id, result });
  } catch (error) {
    postMessage({ id, error: String(error?.message ?? error) });
  }
};
