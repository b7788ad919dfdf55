// How long the explorer's engine takes:  musiq-ref follow photo.jpg -o page.html && node benchmarks/explorer_speed.mjs page.html
// Milliseconds of processor time, on all cores together, so that other programs on the machine hardly count: of the
// first photograph after the page was opened, which the engine's compiling is part of, and of later ones, the best of five.
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
const best = (run) => Math.min(...[1, 2, 3, 4, 5].map(() => spent(run)));
const row = (...cells) => console.log(cells.map((cell) => (cell.toFixed?.(0) ?? cell).padStart(9)).join(""));

row("picture", "tokens", "first", "score", "changed", "gradient");
for (const [height, width] of [[400, 600], [96, 96]]) {
  const data = new Uint8ClampedArray(4 * height * width).map((_, i) => (i * 7919) % 251);
  const load = () => model.load({ width, height, data }),
    first = spent(load),
    gradient = () => (model.score(), model.gradient("image"));
  const tokens = 1 + model.tokens.mask.length;
  row(`${height}×${width}`, tokens, height === 400 ? first : "", best(load), best(() => model.score({ hidden: [0] })), best(gradient));
}
