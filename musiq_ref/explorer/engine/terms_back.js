// The rules of the gradients: from the score to the embeddings, and from the patches to the pixels.
"use strict";

const HANDED_ON = "a sum hands its gradient on";
const JOIN = "dz + dx: a sum's gradient goes to both terms; where they meet again, they add";

/** What a residual join adds up: the straight way, and the way through the branch and its LayerNorm. */
const join_terms = (m, straight, branch, x, n, j) => [
  term("straight past the branch", row_of(m.gradient(straight), n)[j]),
  ...norm_back_terms(row_of(m.gradient(branch), n), row_of(m.stage(x), n), params_at(m, branch), j, "through the branch: "),
];

explains_back(
  "head/logits",
  (m) => (m.config.outputs === 1 ? "d score / d score = 1" : "dlogit_k = p_k·(k − score)"),
  "score",
  (m) => (m.config.outputs === 1 ? SOURCE.one_score_back : SOURCE.score_back),
  (m, _, [, c]) => {
    const { score, distribution } = m.expected;
    if (!distribution) return [term("d score", 1)];
    const p = distribution.data[c];
    return [term("p_k·(k − score)", p * (c + 1 - score), p, c + 1 - score)];
  },
);
explains_back("head/class_token", "dx = dy·Wᵀ", "Eq. 5, backward", SOURCE.linear_back, (m, _, [, j]) =>
  linear_back_terms(m.gradient("head/logits").data, m.params.head, j),
);
explains_back("encoder/norm", "only the class token is read", "Eq. 5, backward", SOURCE.head_back, (m, _, [, n, j]) => [
  term(token_name(n), n === 0 ? m.gradient("head/class_token").data[j] : 0),
]);

const is_last = (m, i) => Number(i) + 1 === m.config.layers;
explains_back(
  "block/output",
  (m, [, , i]) => (is_last(m, i) ? NORM_BACK : JOIN),
  "Eq. 3 and 5, backward",
  (m, [, , i]) => (is_last(m, i) ? SOURCE.norm_back : SOURCE.block_back),
  (m, [, b, i], [, n, j]) => {
    const next = block_at(Number(i) + 1);
    return is_last(m, i)
      ? norm_back_terms(row_of(m.gradient("encoder/norm"), n), row_of(m.stage(`${b}/output`), n), m.params.encoder.norm, j, "")
      : join_terms(m, `${next}/residual1`, `${next}/norm1`, `${b}/output`, n, j);
  },
);
explains_back("encoder/input", JOIN, "Eq. 3, backward", SOURCE.block_back, (m, _, [, n, j]) =>
  join_terms(m, `${block_at(0)}/residual1`, `${block_at(0)}/norm1`, "encoder/input", n, j),
);
explains_back("block/residual1", JOIN, "Eq. 4, backward", SOURCE.residual1_back, (m, [, b], [, n, j]) =>
  join_terms(m, `${b}/output`, `${b}/norm2`, `${b}/residual1`, n, j),
);

for (const [path, equation, from, label] of [
  ["block/mlp/fc2", "Eq. 4, backward", (b) => `${b}/output`, "d block output"],
  ["block/attention/out", "Eq. 3, backward", (b) => `${b}/residual1`, "d residual1"],
])
  explains_back(path, HANDED_ON, equation, SOURCE.residual1_back, (m, [, b], [, n, j]) => [
    term(label, row_of(m.gradient(from(b)), n)[j]),
  ]);
for (const [path, from, matrix] of [["block/mlp/gelu", "mlp/fc2", "W_2"], ["block/norm2", "mlp/fc1", "W_1"]])
  explains_back(path, `dx = dy·${matrix}ᵀ`, "MLP in Eq. 4, backward", SOURCE.linear_back, (m, [, b], [, n, j]) =>
    linear_back_terms(row_of(m.gradient(`${b}/${from}`), n), params_at(m, `${b}/${from}`), j),
  );
explains_back(
  "block/mlp/fc1",
  "dx = dy·GELU′(x)",
  "MLP in Eq. 4, backward",
  (m) => SOURCE[`gelu_${m.config.conventions.gelu}_back`],
  (m, [, b], [, n, j]) => {
    const [dy, dx] = ["gelu", "fc1"].map((part) => row_of(m.gradient(`${b}/mlp/${part}`), n)[j]);
    return [term("dy·GELU′(x)", dx, dy, dx / dy)];
  },
);

explains_back("block/attention/heads", "dSA = dy·U_mᵀ", "Eq. 9, backward", SOURCE.linear_back, (m, [, b, i], [, h, n, d]) =>
  is_silent(m, i, h)
    ? []
    : linear_back_terms(row_of(m.gradient(`${b}/attention/out`), n), params_at(m, `${b}/attention/out`), h * head_size(m) + d),
);
explains_back("block/attention/value", "dV = Aᵀ·dSA", "Eq. 8, backward", SOURCE.value_back, (m, [, b], [, h, k, d]) => {
  const A = m.stage(`${b}/attention/weights`),
    dSA = m.gradient(`${b}/attention/heads`),
    N = A.shape[2];
  const to_k = Float32Array.from({ length: N }, (_, q) => row_of(A, h * N + q)[k]),
    d_of = Float32Array.from({ length: N }, (_, q) => row_of(dSA, h * N + q)[d]);
  return dot_terms(to_k, d_of, (q) => `A·dSA of ${token_name(q)}`);
});
explains_back("block/attention/weights", "dA = dSA·Vᵀ", "Eq. 8, backward", SOURCE.weights_back, (m, [, b], [, h, q, k]) => {
  const V = m.stage(`${b}/attention/value`),
    N = V.shape[2];
  return dot_terms(row_of(m.gradient(`${b}/attention/heads`), h * N + q), row_of(V, h * N + k), (d) => `dSA[${d}]·v[${d}]`);
});
explains_back("block/attention/logits", "dx = A·(dA − Σ dA·A)", "Eq. 7, backward", SOURCE.softmax_back, (m, [, b], [, h, q, k]) => {
  const A = m.stage(`${b}/attention/weights`),
    row = h * A.shape[2] + q,
    p = row_of(A, row),
    dp = row_of(m.gradient(`${b}/attention/weights`), row),
    along = dp.reduce((sum, d, i) => sum + d * p[i], 0);
  return [term("A·dA", p[k] * dp[k], p[k], dp[k]), term("−A·Σ dA·A", -p[k] * along, p[k], -along)];
});
explains_back(
  "block/attention/(query|key)",
  (m, [, , , part]) => (part === "query" ? "dQ = dlogits·K/√D_h" : "dK = dlogitsᵀ·Q/√D_h"),
  "Eq. 7, backward",
  (m, [, , , part]) => SOURCE[`${part}_back`],
  (m, [, b, , part], [, h, n, d]) => {
    const dlogits = m.gradient(`${b}/attention/logits`),
      [other, name] = part === "query" ? ["key", "k"] : ["query", "q"],
      x = m.stage(`${b}/attention/${other}`),
      N = x.shape[2];
    const of_all = (f) => Float32Array.from({ length: N }, (_, t) => f(t));
    return dot_terms(
      of_all((t) => (part === "query" ? row_of(dlogits, h * N + n)[t] : row_of(dlogits, h * N + t)[n])),
      of_all((t) => row_of(x, h * N + t)[d]),
      (t) => `dlogit·${name} of ${token_name(t)}`,
      head_size(m) ** -0.5,
    );
  },
);
explains_back("block/norm1", "dx = dQ·W_qᵀ + dK·W_kᵀ + dV·W_vᵀ", "Eq. 6, backward", SOURCE.project_back, (m, [, b], [, n, j]) =>
  ["query", "key", "value"].flatMap((part) =>
    linear_back_terms(
      row_of(join_heads(m.gradient(`${b}/attention/${part}`)), n),
      params_at(m, `${b}/attention/${part}`),
      j,
      `${part}: `,
    ),
  ),
);

explains_back("(scale|spatial|patch)_embedding", HANDED_ON, "Eq. 2, backward", SOURCE.add_rows, (m, _, [, n, j]) => [
  term("d encoder input", row_of(m.gradient("encoder/input"), n + 1)[j]),
]);
explains_back("image", "2·Σ over the scales of Rᵀ·dscale", "resize, backward", SOURCE.image_back, (m, _, [row, column, channel]) =>
  m.tokens.scales.map((scale) =>
    term(
      scale.longer_side ? `through the scale of ${scale.width}×${scale.height}` : "through the photograph itself",
      tokenize_backward(m.gradient("patches"), m.pixels, [scale], m.config).data[(row * m.pixels.width + column) * 3 + channel],
    ),
  ),
);
