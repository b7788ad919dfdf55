// The rules of the forward: pixels, embeddings, the encoder and the head.
"use strict";

/** The terms of one value of a patch: of the photograph itself, or of the taps of the filter that resized it. */
function pixel_terms(m, n, row, column, c) {
  const { scales } = m.tokens,
    { patch_size: P, conventions } = m.config,
    { width, height, data } = m.pixels;
  const scale = scales.find(({ start, kept }) => n >= start && n < start + kept),
    index = n - scale.start;
  const y = Math.floor(index / scale.columns) * P + row - same_padding(scale.height, P, P)[0],
    x = (index % scale.columns) * P + column - same_padding(scale.width, P, P)[0];
  if (y < 0 || x < 0 || y >= scale.height || x >= scale.width) return [term("padding", 0)];
  const u = (i, j) => data[4 * (i * width + j) + c];
  if (!scale.longer_side || (conventions.resize === "bicubic" && scale.height === height && scale.width === width))
    return [term(`2·${u(y, x)}/255`, (2 * u(y, x)) / 255), term("−1", -1)];
  const rows = TAPS[conventions.resize](height, scale.height)[y],
    columns = TAPS[conventions.resize](width, scale.width)[x];
  return rows.flatMap(([i, a]) =>
    columns.map(([j, b]) => term(`pixel ${i},${j}`, a * b * ((2 * u(i, j)) / 255 - 1), a * b, (2 * u(i, j)) / 255 - 1)),
  );
}

const is_itself = (m, _, place) => pixel_terms(m, ...place.slice(1)).length <= 2;
explains(
  "patches",
  (...at) => (is_itself(...at) ? "x = 2·u/255 − 1" : "Σ weight·pixel of the photograph around it"),
  "pixels and resize",
  (...at) => (is_itself(...at) ? SOURCE.normalize : SOURCE.resize),
  (m, _, place) => pixel_terms(m, ...place.slice(1)),
);

explains("patch_embedding", "E_p = features·W + b", "Eq. 1", SOURCE.linear, (m, _, [, n, j]) =>
  linear_terms(features_of(m, n), m.params.patch_embedding, j),
);

/** What the patch embedding is made of, flat. */
const features_of = (m, n) =>
  m.config.stem === "linear" ? patch_of(m, "patches", n).data : m.of_patch("stem/output", n).data;

/** A row of a table, added to what was there. */
function add_terms(m, name, before, n, j, label, row) {
  const x = row_of(m.stage(before), before === "patch_embedding" ? m.source_of(n) : n)[j];
  return [term(`${label}[${j}]`, x), term(`${row}, ${j}]`, row_of(m.stage(name), n)[j] - x)];
}
explains("spatial_embedding", "E_p + T[hash]", "Eq. 2, E_HSE", SOURCE.add_rows, (m, _, [, n, j]) =>
  add_terms(m, "spatial_embedding", "patch_embedding", n, j, "E_p", `T[${m.tokens.hash_index[n]}`),
);
explains("scale_embedding", "E_p + E_HSE + S[scale]", "Eq. 2, E_SCE", SOURCE.add_rows, (m, _, [, n, j]) =>
  add_terms(m, "scale_embedding", "spatial_embedding", n, j, "(E_p + E_HSE)", `S[${m.tokens.scale_index[n]}`),
);
explains("encoder/input", "z₀ = [class; E_p + E_HSE + E_SCE]", "Eq. 2", SOURCE.concatenate, (m, _, [, n, j]) =>
  n === 0
    ? [term(`class[${j}]`, m.params.class_token.data[j])]
    : [term(`token ${n - 1}[${j}]`, row_of(m.stage("scale_embedding"), n - 1)[j])],
);

for (const [path, equation, input, params] of [
  ["encoder/norm", "LN in Eq. 5", (m) => input_of(m.config.layers), () => "encoder/norm"],
  ["block/norm1", "LN in Eq. 3", (m, [, , i]) => input_of(Number(i)), (b) => `${b}/norm1`],
  ["block/norm2", "LN in Eq. 4", (m, [, b]) => `${b}/residual1`, (b) => `${b}/norm2`],
])
  explains(path, NORM, equation, SOURCE.layer_norm, (m, parts, [, n, j]) =>
    norm_terms(row_of(m.stage(input(m, parts)), n), params_at(m, params(parts[1])), j),
  );

explains(
  "block/attention/(query|key|value)",
  (m, [, , , part]) => `${part[0].toUpperCase()} = LN(z)·W_${part[0]} + b`,
  "Eq. 6",
  SOURCE.linear,
  (m, [, b, , part], [, h, n, d]) =>
    linear_terms(row_of(m.stage(`${b}/norm1`), n), params_at(m, `${b}/attention/${part}`), h * head_size(m) + d),
);
const head_size = (m) => m.config.width / m.config.heads;

explains("block/attention/logits", "Q·Kᵀ/√D_h", "Eq. 7", SOURCE.logits, (m, [, b, i], [, h, q, k]) => {
  const [Q, K] = ["query", "key"].map((part) => m.stage(`${b}/attention/${part}`)),
    N = Q.shape[2];
  const bent = m.changes.logits[`block_${i}/${h}/${q}/${k}`];
  return [
    ...dot_terms(row_of(Q, h * N + q), row_of(K, h * N + k), (d) => `q[${d}]·k[${d}]/√${head_size(m)}`, head_size(m) ** -0.5),
    ...(bent ? [term("bent by you", bent)] : []),
  ];
});
explains(
  "block/attention/weights",
  "A = exp(logit) / Σ exp(logits): the shares of a row sum to 1",
  "Eq. 7",
  SOURCE.softmax,
  (m, [, b], [, h, q, k]) => {
    const A = m.stage(`${b}/attention/weights`);
    return [term(`share of ${token_name(k)}`, row_of(A, h * A.shape[2] + q)[k])];
  },
);

const is_silent = (m, i, h) => m.changes.heads.includes(`block_${i}/${h}`);
explains(
  "block/attention/heads",
  (m, [, , i], [, h]) => (is_silent(m, i, h) ? "this head was silenced" : "SA = A·V"),
  "Eq. 8",
  SOURCE.heads,
  (m, [, b, i], [, h, q, d]) => {
    const [A, V] = ["weights", "value"].map((part) => m.stage(`${b}/attention/${part}`)),
      [, , N, D_h] = V.shape;
    const v = Float32Array.from({ length: N }, (_, k) => V.data[(h * N + k) * D_h + d]);
    return is_silent(m, i, h) ? [] : dot_terms(row_of(A, h * N + q), v, (k) => `A·v of ${token_name(k)}`);
  },
);
explains("block/attention/out", "[SA_1; …; SA_H]·U_m + b", "Eq. 9", SOURCE.linear, (m, [, b], [, n, j]) =>
  linear_terms(row_of(join_heads(m.stage(`${b}/attention/heads`)), n), params_at(m, `${b}/attention/out`), j),
);

/** z′ = MSA(LN(z)) + z and its like. */
const residual_terms = (m, straight, branch, n, j, labels) =>
  [straight, branch].map((name, k) => term(`${labels[k]}[${j}]`, row_of(m.stage(name), n)[j]));
explains("block/residual1", "z′ = MSA(LN(z)) + z", "Eq. 3", SOURCE.residual1, (m, [, b, i], [, n, j]) =>
  residual_terms(m, input_of(Number(i)), `${b}/attention/out`, n, j, ["z", "MSA"]),
);
explains("block/output", "z″ = MLP(LN(z′)) + z′", "Eq. 4", SOURCE.output, (m, [, b], [, n, j]) =>
  residual_terms(m, `${b}/residual1`, `${b}/mlp/fc2`, n, j, ["z′", "MLP"]),
);

explains("block/mlp/fc1", "LN(z′)·W_1 + b_1", "MLP in Eq. 4", SOURCE.linear, (m, [, b], [, n, j]) =>
  linear_terms(row_of(m.stage(`${b}/norm2`), n), params_at(m, `${b}/mlp/fc1`), j),
);
explains(
  "block/mlp/gelu",
  (m) =>
    m.config.conventions.gelu === "erf"
      ? "GELU(x) = x·Φ(x),  Φ(x) = (1 + erf(x/√2))/2"
      : "GELU(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))",
  "MLP in Eq. 4",
  (m) => SOURCE[`gelu_${m.config.conventions.gelu}`],
  (m, [, b], [, n, j]) => {
    const x = row_of(m.stage(`${b}/mlp/fc1`), n)[j],
      y = row_of(m.stage(`${b}/mlp/gelu`), n)[j];
    return [term("x·Φ(x)", y, x, y / x)];
  },
);
explains("block/mlp/fc2", "GELU(…)·W_2 + b_2", "MLP in Eq. 4", SOURCE.linear, (m, [, b], [, n, j]) =>
  linear_terms(row_of(m.stage(`${b}/mlp/gelu`), n), params_at(m, `${b}/mlp/fc2`), j),
);
explains("head/logits", "y = LN(z_L)[class]·W + b", "Eq. 5", SOURCE.linear, (m, _, [, c]) =>
  linear_terms(m.stage("head/class_token").data, m.params.head, c),
);
explains("head/class_token", "the first row of LN(z_L)", "Eq. 5", SOURCE.head, (m, _, [, j]) => [
  term("LN(z_L)[class]", row_of(m.stage("encoder/norm"), 0)[j]),
]);
