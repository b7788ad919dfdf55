// The rules of the stem, in both directions: convolutions, GroupNorm, ReLU, max-pooling, and the bottleneck's sum.
"use strict";

const STEM_INPUT = {
  conv_root: "patches", gn_root: "conv_root", relu_root: "gn_root", pool: "relu_root",
  conv_proj: "pool", gn_proj: "conv_proj",
  conv1: "pool", gn1: "conv1", relu1: "gn1", conv2: "relu1", gn2: "conv2", relu2: "gn2", conv3: "relu2", gn3: "conv3",
};

/** A stage of one patch, or the gradient to it: (1, h, w, C) */
function patch_of(m, name, n, back = false) {
  if (name !== "patches") return m.of_patch(`stem/${name}`, n, back);
  return some(reshape(m.stage("patches"), ...m.stage("patches").shape.slice(1)), n, 1);
}

const value_at = ({ shape: [, , w, C], data }, [, i, j, c]) => data[(i * w + j) * C + c];
const stride_of = (name) => (name === "conv_root" ? 2 : 1);
const standardized_kernel = (m, name) =>
  standardized_kernels(m.params.stem, m.config.conventions.weight_std_ddof, (_, x) => x)[0][name];

/** Σ x·ŵ over a window */
function conv_terms(m, name, [n, i, j, o]) {
  const x = patch_of(m, STEM_INPUT[name], n),
    kernel = standardized_kernel(m, name),
    [size, , I] = kernel.shape,
    columns = windows(x, size, stride_of(name)),
    part = new Float32Array(columns.columns);
  columns.gather(part, 0, i * columns.shape[2] + j, 1);
  const place = (k) => (size > 1 ? `${Math.floor(k / (size * I))},${Math.floor(k / I) % size} ` : "");
  return dot_terms(part, column_of(kernel, o, part.length), (k) =>
    name === "conv_root" ? `pixel ${place(k)}${"RGB"[k % 3]}·ŵ` : `${place(k)}x[${k % I}]·ŵ`,
  );
}

/** Σ dy·ŵ over all windows that saw a value, and over all filters */
function conv_back_terms(m, name, [n, row, column, c], part = "") {
  const { shape: [, high, wide], data } = patch_of(m, name, n, true),
    { shape: [size, , I, O], data: w } = standardized_kernel(m, name),
    stride = stride_of(name),
    before = same_padding(high * stride, size, stride)[0],
    terms = [];
  for (let i = 0; i < high; i++)
    for (let j = 0; j < wide; j++) {
      const a = row - stride * i + before,
        b = column - stride * j + before;
      if (a < 0 || b < 0 || a >= size || b >= size) continue;
      for (let o = 0, at = ((a * size + b) * I + c) * O, from = (i * wide + j) * O; o < O; o++)
        terms.push(term(`${part}window ${i},${j} · filter ${o}`, data[from + o] * w[at + o], data[from + o], w[at + o]));
    }
  return terms;
}

explains("stem/(conv\\w+)", "Σ x·ŵ over a window; ŵ: the kernel, standardised", "stem", SOURCE.conv, (m, [, name], place) =>
  conv_terms(m, name, place),
);

const group_normed = (m, name, n) =>
  group_norm(
    patch_of(m, STEM_INPUT[name], n),
    m.params.stem[name].scale,
    m.params.stem[name].bias,
    name === "gn_root" ? ROOT_EPS : BLOCK_EPS,
  )[1];
explains("stem/(gn\\w+)", `${NORM}; μ, σ over the patch, a group of channels`, "stem", SOURCE.group_norm, (m, [, name], place) => {
  const { x, mu, rho, gamma } = group_normed(m, name, place[0]),
    c = place[3],
    centred = value_at(x, place) - mu[c];
  return [
    term(`γ[${c}]·(x − μ)·ρ`, gamma.data[c] * centred * rho[c], gamma.data[c], centred, rho[c]),
    term(`β[${c}]`, m.params.stem[name].bias.data[c]),
  ];
});

explains("stem/(relu\\w+)", "max(0, x)", "stem", SOURCE.relu, (m, [, name], place) => {
  const x = value_at(patch_of(m, STEM_INPUT[name], place[0]), place);
  return [term("x", x), ...(x < 0 ? [term("below 0: cut off", -x)] : [])];
});

/** The values that a window of the max-pooling looks at: [[row, column, value], …] */
function neighbours(m, [n, i, j, c]) {
  const x = patch_of(m, "relu_root", n),
    half = x.shape[1],
    top = same_padding(half, 3, 2)[0],
    found = [];
  for (let a = Math.max(0, 2 * i - top); a < Math.min(half, 2 * i - top + 3); a++)
    for (let b = Math.max(0, 2 * j - top); b < Math.min(half, 2 * j - top + 3); b++)
      found.push([a, b, value_at(x, [n, a, b, c])]);
  return found;
}
const winner = (found) => found.reduce((most, one) => (one[2] > most[2] ? one : most));

explains("stem/pool", "the largest of the 3×3 neighbours", "stem", SOURCE.pool, (m, _, place) => {
  const [a, b, largest] = winner(neighbours(m, place));
  return [term(`the one at ${a},${b}`, largest)];
});

const branches = (m, place) => [
  term("bottleneck", value_at(patch_of(m, "gn3", place[0]), place)),
  term("shortcut", value_at(patch_of(m, "gn_proj", place[0]), place)),
];
explains("stem/sum", "bottleneck + shortcut", "stem", SOURCE.stem_sum, (m, _, place) => branches(m, place));
explains("stem/output", "max(0, bottleneck + shortcut)", "stem", SOURCE.stem_sum, (m, _, place) => {
  const both = branches(m, place),
    sum = both[0].value + both[1].value;
  return sum < 0 ? [...both, term("below 0: cut off", -sum)] : both;
});

explains_back("stem/output", "dfeatures = dE_p·Wᵀ", "Eq. 1, backward", SOURCE.linear_back, (m, _, [n, i, j, c]) =>
  linear_back_terms(
    row_of(m.gradient("patch_embedding"), m.place_of(n)),
    m.params.patch_embedding,
    ((i * m.config.patch_size) / 4 + j) * 256 + c,
  ),
);

/** Through a ReLU: what comes, where something was let through. */
const relu_back_terms = (m, after, place, part) => {
  const open = value_at(patch_of(m, after, place[0]), place) > 0;
  return open ? [term(part, value_at(patch_of(m, after, place[0], true), place))] : [term("nothing was let through", 0)];
};
for (const [name, after] of [["sum", "output"], ["gn_root", "relu_root"], ["gn1", "relu1"], ["gn2", "relu2"]])
  explains_back(`stem/${name}`, "dx = dy where y > 0, else 0", "stem, backward", SOURCE.relu_back, (m, _, place) =>
    relu_back_terms(m, after, place, "dy"),
  );
explains_back("stem/(gn3|gn_proj)", "a sum hands its gradient on", "stem, backward", SOURCE.stem_sum_back, (m, _, place) => [
  term("d sum", value_at(patch_of(m, "sum", place[0], true), place)),
]);

explains_back(
  "stem/conv(\\w+)",
  `${NORM_BACK}; means over the patch, a group of channels`,
  "stem, backward",
  SOURCE.group_norm_back,
  (m, [, which], [n, i, j, c]) => {
    const name = `gn${which}`,
      { x, mu, rho, gamma, groups } = group_normed(m, name, n),
      dy = patch_of(m, name, n, true).data,
      [, , w, C] = x.shape,
      wide = C / groups,
      first = c - (c % wide);
    const of_group = (f) =>
      Float64Array.from({ length: (x.data.length / C) * wide }, (_, k) => {
        const channel = first + (k % wide);
        return f(Math.floor(k / wide) * C + channel, channel);
      });
    const dxhat = of_group((at, channel) => dy[at] * gamma.data[channel]),
      xhat = of_group((at, channel) => (x.data[at] - mu[channel]) * rho[channel]);
    return three_terms(rho[c], dxhat, xhat, (i * w + j) * wide + (c % wide));
  },
);

for (const [name, after] of [["relu1", "conv2"], ["relu2", "conv3"]])
  explains_back(`stem/${name}`, "every window that saw this value: Σ dy·ŵ", "stem, backward", SOURCE.conv_back, (m, _, place) =>
    conv_back_terms(m, after, place),
  );
explains_back("stem/pool", "both ways add: bottleneck and shortcut", "stem, backward", SOURCE.stem_back, (m, _, place) => [
  ...conv_back_terms(m, "conv1", place, "bottleneck, "),
  ...conv_back_terms(m, "conv_proj", place, "shortcut, "),
]);
explains_back("stem/relu_root", "dy of the windows in which it was the largest", "stem, backward", SOURCE.pool_back, (m, _, [n, row, column, c]) => {
  const dy = patch_of(m, "pool", n, true),
    terms = [];
  for (let i = 0; i < dy.shape[1]; i++)
    for (let j = 0; j < dy.shape[2]; j++) {
      const [a, b] = winner(neighbours(m, [n, i, j, c]));
      if (a === row && b === column) terms.push(term(`window ${i},${j}`, value_at(dy, [n, i, j, c])));
    }
  return terms.length ? terms : [term("another one was larger", 0)];
});
explains_back(
  "patches",
  (m) => (m.config.stem === "linear" ? "dx = dE_p·Wᵀ" : "every window that saw this pixel: Σ dy·ŵ"),
  "stem, backward",
  (m) => (m.config.stem === "linear" ? SOURCE.linear_back : SOURCE.conv_back),
  (m, _, [, n, row, column, c]) =>
    m.config.stem === "linear"
      ? linear_back_terms(
          row_of(m.gradient("patch_embedding"), m.place_of(n)),
          m.params.patch_embedding,
          (row * m.config.patch_size + column) * 3 + c,
        )
      : conv_back_terms(m, "conv_root", [n, row, column, c]),
);
