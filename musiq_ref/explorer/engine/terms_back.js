// The same for gradients: where every one of them comes from.
"use strict";

/** What a residual join adds up: the straight way, and the way through the branch and its LayerNorm. */
function join_terms(m, straight, branch, x_name, params, n, j) {
  const skip = row_of(m.gradient(straight), n)[j], dy = row_of(m.gradient(branch), n), x = row_of(m.stage(x_name), n);
  return [term("straight past the branch", skip), ...norm_back_terms(dy, x, params, j).map((t) => ({ ...t, label: `through the branch: ${t.label}` }))];
}

const JOIN = "dz + dx: a sum's gradient goes to both terms; where they meet again, they add";

const BACKWARD = [
  [/^head\/logits$/, (m, _, [, c]) => ({ formula: m.config.outputs === 1 ? "d score / d score = 1" : "dlogit_k = p_k·(k − score)", equation: "score",
    source: SOURCE.score_back, terms: [term("d score", m.gradient("head/logits").data[c])] })],
  [/^head\/class_token$/, (m, _, [, j]) => ({ formula: "dx = dy·Wᵀ", equation: "Eq. 5, backward", source: SOURCE.linear_back,
    terms: linear_back_terms(m.gradient("head/logits").data, m.params.head.kernel, j) })],
  [/^encoder\/norm$/, (m, _, [, n, j]) => ({ formula: "only the class token is read", equation: "Eq. 5, backward", source: SOURCE.head_back,
    terms: [term(token_name(n), n === 0 ? m.gradient("head/class_token").data[j] : 0)] })],
  [/^encoder\/block_(\d+)\/output$/, (m, [, i], [, n, j]) => {
    const next = Number(i) + 1;
    if (next === m.config.layers)
      return { formula: NORM_BACK, equation: "Eq. 5, backward", source: SOURCE.norm_back,
        terms: norm_back_terms(row_of(m.gradient("encoder/norm"), n), row_of(m.stage(input_of(next)), n), m.params.encoder.norm, j) };
    const b = block_at(next);
    return { formula: JOIN, equation: "Eq. 3, backward", source: SOURCE.block_back,
      terms: join_terms(m, `${b}/residual1`, `${b}/norm1`, input_of(next), params_at(m, b).norm1, n, j) };
  }],
  [/^encoder\/input$/, (m, _, [, n, j]) => ({ formula: JOIN, equation: "Eq. 3, backward", source: SOURCE.block_back,
    terms: join_terms(m, `${block_at(0)}/residual1`, `${block_at(0)}/norm1`, "encoder/input", params_at(m, block_at(0)).norm1, n, j) })],
  [/^(encoder\/block_\d+)\/residual1$/, (m, [, b], [, n, j]) => ({ formula: JOIN, equation: "Eq. 4, backward", source: SOURCE.residual1_back,
    terms: join_terms(m, `${b}/output`, `${b}/norm2`, `${b}/residual1`, params_at(m, b).norm2, n, j) })],
  [/^(encoder\/block_\d+)\/mlp\/fc2$/, (m, [, b], [, n, j]) => ({ formula: "a sum hands its gradient on", equation: "Eq. 4, backward",
    source: SOURCE.residual1_back, terms: [term("d block output", row_of(m.gradient(`${b}/output`), n)[j])] })],
  [/^(encoder\/block_\d+)\/mlp\/gelu$/, (m, [, b], [, n, j]) => ({ formula: "dx = dy·W_2ᵀ", equation: "MLP in Eq. 4, backward", source: SOURCE.linear_back,
    terms: linear_back_terms(row_of(m.gradient(`${b}/mlp/fc2`), n), params_at(m, b).mlp.fc2.kernel, j) })],
  [/^(encoder\/block_\d+)\/mlp\/fc1$/, (m, [, b], [, n, j]) => {
    const dy = row_of(m.gradient(`${b}/mlp/gelu`), n)[j], dx = row_of(m.gradient(`${b}/mlp/fc1`), n)[j];
    return { formula: "dx = dy·GELU′(x)", equation: "MLP in Eq. 4, backward", source: SOURCE.gelu_back, terms: [term("dy·GELU′(x)", dx, dy, dx / dy)] };
  }],
  [/^(encoder\/block_\d+)\/norm2$/, (m, [, b], [, n, j]) => ({ formula: "dx = dy·W_1ᵀ", equation: "MLP in Eq. 4, backward", source: SOURCE.linear_back,
    terms: linear_back_terms(row_of(m.gradient(`${b}/mlp/fc1`), n), params_at(m, b).mlp.fc1.kernel, j) })],
  [/^(encoder\/block_\d+)\/attention\/out$/, (m, [, b], [, n, j]) => ({ formula: "a sum hands its gradient on", equation: "Eq. 3, backward",
    source: SOURCE.residual1_back, terms: [term("d residual1", row_of(m.gradient(`${b}/residual1`), n)[j])] })],
  [/^(encoder\/block_\d+)\/attention\/heads$/, (m, [, b], [, h, n, d]) => ({ formula: "dSA = dy·U_mᵀ", equation: "Eq. 9, backward", source: SOURCE.linear_back,
    terms: m.changes.heads.includes(`${b.slice(8)}/${h}`) ? [] : linear_back_terms(row_of(m.gradient(`${b}/attention/out`), n), params_at(m, b).attention.out.kernel, h * (m.config.width / m.config.heads) + d) })],
  [/^(encoder\/block_\d+)\/attention\/value$/, (m, [, b], [, h, k, d]) => {
    const weights = m.stage(`${b}/attention/weights`), dheads = m.gradient(`${b}/attention/heads`), N = weights.shape[2];
    return { formula: "dV = Aᵀ·dSA", equation: "Eq. 8, backward", source: SOURCE.value_back, terms: Array.from({ length: N }, (_, q) =>
      term(`A·dSA of ${token_name(q)}`, row_of(weights, h * N + q)[k] * row_of(dheads, h * N + q)[d], row_of(weights, h * N + q)[k], row_of(dheads, h * N + q)[d])) };
  }],
  [/^(encoder\/block_\d+)\/attention\/weights$/, (m, [, b], [, h, q, k]) => {
    const dheads = m.gradient(`${b}/attention/heads`), value = m.stage(`${b}/attention/value`), N = value.shape[2];
    return { formula: "dA = dSA·Vᵀ", equation: "Eq. 8, backward", source: SOURCE.weights_back,
      terms: Array.from(row_of(dheads, h * N + q), (g, d) => term(`dSA[${d}]·v[${d}]`, g * row_of(value, h * N + k)[d], g, row_of(value, h * N + k)[d])) };
  }],
  [/^(encoder\/block_\d+)\/attention\/logits$/, (m, [, b], [, h, q, k]) => {
    const N = m.stage(`${b}/attention/weights`).shape[2], p = row_of(m.stage(`${b}/attention/weights`), h * N + q);
    const dp = row_of(m.gradient(`${b}/attention/weights`), h * N + q), along = dp.reduce((sum, d, i) => sum + d * p[i], 0);
    return { formula: "dx = A·(dA − Σ dA·A)", equation: "Eq. 7, backward", source: SOURCE.softmax_back,
      terms: [term("A·dA", p[k] * dp[k], p[k], dp[k]), term("−A·Σ dA·A", -p[k] * along, p[k], -along)] };
  }],
  [/^(encoder\/block_\d+)\/attention\/(query|key)$/, (m, [, b, part], [, h, n, d]) => {
    const dlogits = m.gradient(`${b}/attention/logits`), other = m.stage(`${b}/attention/${part === "query" ? "key" : "query"}`);
    const [, , N, D_h] = other.shape, scale = 1 / Math.sqrt(D_h), is_query = part === "query";
    const one = (t) => (is_query ? row_of(dlogits, h * N + n)[t] : row_of(dlogits, h * N + t)[n]);
    return { formula: is_query ? "dQ = dlogits·K/√D_h" : "dK = dlogitsᵀ·Q/√D_h", equation: "Eq. 7, backward",
      source: is_query ? SOURCE.query_back : SOURCE.key_back, terms: Array.from({ length: N }, (_, t) =>
        term(`dlogit·${is_query ? "k" : "q"} of ${token_name(t)}`, one(t) * row_of(other, h * N + t)[d] * scale, one(t), row_of(other, h * N + t)[d], scale)) };
  }],
  [/^(encoder\/block_\d+)\/norm1$/, (m, [, b], [, n, j]) => ({ formula: "dx = dQ·W_qᵀ + dK·W_kᵀ + dV·W_vᵀ", equation: "Eq. 6, backward", source: SOURCE.project_back,
    terms: ["query", "key", "value"].flatMap((part) => linear_back_terms(row_of(join_heads(m.gradient(`${b}/attention/${part}`)), n), params_at(m, b).attention[part].kernel, j)
      .map((t) => ({ ...t, label: `${part}: ${t.label}` }))) })],
  [/^(scale|spatial|patch)_embedding$/, (m, [name], [, n, j]) => ({ formula: "a sum hands its gradient on", equation: "Eq. 2, backward", source: SOURCE.add_rows,
    terms: [term("d encoder input", row_of(m.gradient("encoder/input"), n + 1)[j])] })],
  [/^stem\/output$/, (m, _, place) => {
    const [n, ...rest] = place, shape = [m.config.patch_size / 4, m.config.patch_size / 4, 256], i = rest.reduce((at, index, axis) => at * shape[axis] + index, 0);
    return { formula: "dfeatures = dE_p·Wᵀ", equation: "Eq. 1, backward", source: SOURCE.linear_back,
      terms: linear_back_terms(row_of(m.gradient("patch_embedding"), m.place_of(n)), m.params.patch_embedding.kernel, i) };
  }],
  [/^patches$/, (m, _, [, n, row, column, channel]) => {
    if (m.config.stem === "linear") return { formula: "the linear stem hands its gradient on", equation: "Eq. 1, backward", source: SOURCE.linear_back, terms: [] };
    const P = m.config.patch_size, half = Math.ceil(P / 2), dconv = m.of_patch("stem/conv_root", n, true), before = same_padding(P, 7, 2)[0], terms = [];
    const [kernel] = standardize(m.params.stem.conv_root.kernel, m.config.conventions.weight_std_ddof);
    for (let i = 0; i < half; i++)
      for (let j = 0; j < half; j++) {
        const a = row - 2 * i + before, b = column - 2 * j + before;
        if (a < 0 || a > 6 || b < 0 || b > 6) continue;
        const w = kernel.data.subarray(((a * 7 + b) * 3 + channel) * 64), d = dconv.data.subarray((i * half + j) * 64);
        for (let o = 0; o < 64; o++) terms.push(term(`window ${i},${j} · filter ${o}`, d[o] * w[o], d[o], w[o]));
      }
    return { formula: "every window that saw this pixel: Σ dy·ŵ", equation: "stem, backward", source: SOURCE.conv_back, terms };
  }],
  [/^image$/, (m, _, [row, column, channel]) => {
    const { scales } = m.tokens, { width } = m.pixels, dpatches = m.gradient("patches");
    return { formula: "2·Σ over the scales of Rᵀ·dscale", equation: "resize, backward", source: SOURCE.image_back, terms: scales.map((scale) =>
      term(scale.longer_side ? `through the scale of ${scale.height}×${scale.width}` : "through the photograph itself",
        tokenize_backward(dpatches, m.pixels, [scale], m.config).data[(row * width + column) * 3 + channel])) };
  }],
];

/** Where a flat index lies in a stage, and the value there; of the stem, only one patch is computed. */
function locate(model, name, flat, back) {
  if (name.startsWith("stem/")) {
    const one = size_of(model.of_patch(name, 0).shape), token = Math.floor(flat / one), { shape: [, ...rest], data } = model.of_patch(name, token, back);
    const shape = [model.tokens.hash_index.length, ...rest];
    return { place: unravel(flat, shape), value: data[flat - token * one], shape };
  }
  const { shape, data } = back ? model.gradient(name) : model.stage(name);
  return { place: unravel(flat, shape), value: data[flat], shape };
}

/** {value, formula, equation, source, shape, terms, rest}: the largest terms first, the others together.
 *  flat: the index into the stage's numbers;  back: the gradient to it instead */
function explain(model, name, flat, back = false, most = 10) {
  const { place, value, shape } = locate(model, name, flat, back);
  const [pattern, rule] = (back ? BACKWARD : FORWARD).find(([names]) => names.test(name)) ?? [];
  if (!rule) return { name, place, value, shape, formula: "", equation: "", source: null, terms: [], rest: null };
  const { terms, ...about } = rule(model, pattern.exec(name), place);
  const sorted = [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)), others = sorted.slice(most);
  const sum = (list) => list.reduce((total, { value }) => total + value, 0);
  return { name, place, value, shape, ...about, terms: sorted.slice(0, most), count: terms.length, total: sum(terms),
    rest: others.length ? { count: others.length, value: sum(others) } : null };
}
