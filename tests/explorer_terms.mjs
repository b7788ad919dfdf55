// For every rule, whether some terms add up to the values:  node explorer_terms.mjs ENGINE.js  prints JSON
import { readFileSync } from "node:fs";
import { runInThisContext } from "node:vm";

const { weights, config, pixels } = JSON.parse(readFileSync(0, "utf8"));
runInThisContext(readFileSync(process.argv[2], "utf8"));
const names_of = "({ session, nest, explain, rollout, gradient_strength, coarse_regions, FORWARD, BACKWARD, SOURCE })";
const { session, nest, explain, rollout, gradient_strength, coarse_regions, FORWARD, BACKWARD, SOURCE } = runInThisContext(names_of);

for (const weight of Object.values(weights)) weight.data = Float32Array.from(weight.data);
const model = session(nest(weights), config);
model.load({ ...pixels, data: Uint8ClampedArray.from(pixels.data) });
model.score();
const maps = { rollout: [...rollout(model)], gradient: [...gradient_strength(model)], regions: coarse_regions(model.tokens.scales, 2) };
model.score({ swapped: [[0, 3]], heads: ["block_00/1"] });

const found = [];
const names = [...model.names(), "image"];
for (const [rules, back] of [[FORWARD, false], [BACKWARD, true]])
  for (const [pattern] of rules)
    for (const name of names.filter((name) => pattern.test(name))) {
      const { data } = back ? model.gradient(name) : model.stage(name);
      for (const share of [0, 0.29, 0.618, 1]) {
        const at = Math.floor(share * (data.length - 1)), { total, value, terms } = explain(model, name, at, back);
        const size = Math.max(...terms.map((term) => Math.abs(term.value)), Math.abs(value));
        found.push({ rule: `${back ? "gradient " : ""}${pattern}`, name, error: Math.abs(total - value), size });
      }
    }
console.log(JSON.stringify({ found, maps, rules: FORWARD.length + BACKWARD.length, source: SOURCE }));
