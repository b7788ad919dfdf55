// The explorer's engine as a port that `musiq-ref compare` calls:  node explorer_port.mjs ENGINE.js FIXTURE OUT
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { runInThisContext } from "node:vm";
import { readManifest, readNpy, readWeights, writeStage } from "../docs/examples/readers/javascript/fixture.mjs";

const [engine, fixture, out] = process.argv.slice(2);
runInThisContext(readFileSync(engine, "utf8"));
const { session, nest, leaves, hash_axis, resized_sides } = runInThisContext("({ session, nest, leaves, hash_axis, resized_sides })");

const { config, stages } = readManifest(fixture);
const { shape: [height, width], data: rgb } = readNpy(join(fixture, "image.npy"));
const data = new Uint8ClampedArray(height * width * 4);
for (let i = 0; i < height * width; i++) data.set([rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2], 255], 4 * i);

const weight = readWeights(fixture);
const names = stages.map((stage) => stage.name).filter((name) => name.startsWith("dparams/")).map((name) => name.slice(8));
const model = session(nest(Object.fromEntries(names.map((name) => [name, weight(name)]))), config);
model.load({ width, height, data });
const wanted = new Set(stages.map((stage) => stage.name));
const put = (name, { shape, data }) => wanted.has(name) && writeStage(out, name, shape, data);
const { hash_index, scale_index, scales } = model.tokens, N = hash_index.length;
put("hash_index", { shape: [1, N], data: hash_index });
put("scale_index", { shape: [1, N], data: scale_index });
put("mask", { shape: [1, N], data: Array(N).fill(1) });
put("layout", { shape: [scales.length, 6], data: scales.flatMap((s) => [s.height, s.width, s.rows, s.columns, s.length, s.kept]) });
const cells = (n) => [...hash_axis(n, config.grid_size, config.conventions.hash), ...Array(320 - n).fill(-1)];
put("integers/hash", { shape: [320, 320], data: Array.from({ length: 320 }, (_, n) => cells(n + 1)).flat() });
if (wanted.has("integers/sides")) {
  const { shape, data } = readNpy(join(fixture, "image_sizes.npy")), arithmetic = config.conventions.resized_sides;
  const sides = (i) => config.longer_sides.map((longer) => resized_sides(data[2 * i], data[2 * i + 1], longer, arithmetic));
  const all = Array.from({ length: shape[0] }, (_, i) => sides(i));
  put("integers/sides", { shape: [shape[0], config.longer_sides.length, 2], data: all.flat(2) });
}
for (const { name } of stages) {
  if (/^(pixels|patches|stem|patch_|spatial_|scale_embedding|encoder|head|probabilities|score)/.test(name)) put(name, model.stage(name));
  else if (name.startsWith("gradient/")) put(name, model.gradient(name.slice(9)));
}
for (const [name, gradient] of leaves(model.parameter_gradients())) put(`dparams/${name}`, gradient);
