// How long the explorer's engine takes:  musiq-ref follow photo.jpg -o page.html && node benchmarks/explorer_speed.mjs page.html
// Milliseconds of processor time, the best of three: other programs on the machine hardly count.
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const page = readFileSync(process.argv[2], "utf8");
const part = (id) => new RegExp(`id="${id}">([^]*?)</script>`).exec(page)[1];
runInThisContext(part("engine"));
const { session, nest, read_weights } = runInThisContext("({ session, nest, read_weights })");
const { config, index } = JSON.parse(part("model"));
const model = session(nest(await read_weights(index, part("weights"))), config);

const spent = (run) => {
  const start = process.cpuUsage();
  run();
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
};
const best = (run) => Math.min(...[1, 2, 3].map(() => spent(run))).toFixed(0).padStart(6);

console.log("picture    score  changed  gradient of the pixels   (milliseconds)");
for (const [height, width] of [[96, 96], [400, 600]]) {
  const data = new Uint8ClampedArray(4 * height * width).map((_, i) => (i * 7919) % 251);
  const score = best(() => model.load({ width, height, data })), changed = best(() => model.score({ hidden: [0] }));
  const gradient = best(() => (model.score(), model.gradient("image")));
  console.log(`${height}×${width}`.padEnd(9), score, ` ${changed}`, ` ${gradient}`);
}
