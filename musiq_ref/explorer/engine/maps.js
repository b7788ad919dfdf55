// Three maps of what mattered, none of which is the truth: attention rollout, gradient, occlusion.
"use strict";

/** What share of the class token comes from each token, by multiplying the attention of all blocks  (appendix H): (N,) */
function rollout(model) {
  let flow = null;
  for (let i = model.config.layers - 1; i >= 0; i--) {
    const weights = model.stage(`${block_at(i)}/attention/weights`),
      [, H, N] = weights.shape;
    flow ??= Float64Array.from({ length: N }, (_, n) => (n === 0 ? 1 : 0));
    const before = flow.map((share) => share / 2); // half stays where it is, for the residual path
    for (let h = 0; h < H; h++)
      for (let q = 0; q < N; q++) {
        const share = flow[q] / (2 * H),
          row = (h * N + q) * N;
        if (share) for (let k = 0; k < N; k++) before[k] += share * weights.data[row + k];
      }
    flow = before;
  }
  return Float32Array.from(flow.subarray(1));
}

/** How strongly the score depends on the pixels of each token: Σ |d score / d pixel|, (N,) */
function gradient_strength(model) {
  const {
      data,
      shape: [, N],
    } = model.gradient("patches"),
    one = data.length / N;
  return Float32Array.from({ length: N }, (_, n) =>
    data.subarray(n * one, (n + 1) * one).reduce((sum, d) => sum + Math.abs(d), 0),
  );
}

/** By how much the score falls when a region is hidden at all scales: region r is the tokens with regions[n] = r. */
function* occlusion(model, regions) {
  const whole = model.score(),
    names = [...new Set(regions)].sort((a, b) => a - b);
  for (const name of names) {
    const hidden = [];
    regions.forEach((region, token) => {
      if (region === name) hidden.push(token);
    });
    yield {
      region: name,
      fall: hidden.length < regions.length ? whole - model.score({ hidden }) : 0,
      of: names.length,
    };
  }
  model.score();
}

/** The region of each token: a cell of a coarse grid of `side` × `side` over the photograph, the same at all scales. */
function coarse_regions(scales, side) {
  return scales.flatMap(({ rows, columns, kept }) =>
    Array.from({ length: kept }, (_, i) => {
      const row = Math.floor(((Math.floor(i / columns) + 0.5) / rows) * side),
        column = Math.floor((((i % columns) + 0.5) / columns) * side);
      return row * side + column;
    }),
  );
}

/** The same numbers in another order, weight by weight: a model that has learned nothing. */
function shuffled(params, seed = 1) {
  let state = seed;
  const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32;
  const other = {};
  for (const [path, { shape, data }] of leaves(params)) {
    const mixed = data.slice();
    for (let i = mixed.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [mixed[i], mixed[j]] = [mixed[j], mixed[i]];
    }
    other[path] = array(shape, mixed);
  }
  return nest(other);
}
