// Where a number comes from: any value of a stage, or of a gradient, as the sum that makes it, term by term.
// A rule is [names of stages, f(model, parts of the name, indices) -> {formula, equation, source, terms}].
"use strict";

/** Indices along every axis of the flat index. */
function unravel(flat, shape) {
  return shape.map((n, axis) => Math.floor(flat / size_of(shape.slice(axis + 1))) % n);
}

const term = (label, value, ...factors) => ({ label, value, factors });
const token_name = (row) => (row === 0 ? "class token" : `token ${row - 1}`);
const row_of = (x, row) => x.data.subarray(row * last(x), (row + 1) * last(x));
const SOURCE = { // file and line of the NumPy that computes the same
  normalize: ["image/tokenize.py", "x *= 2"],
  resize: ["image/resize.py", "rows, columns = FILTER[kind](image.shape[0], height, image.dtype)"],
  patches: ["image/patches.py", "tiles = padded.reshape(rows, P, columns, P, 3).swapaxes(1, 2)"],
  conv: ["ops/convolution.py", "y = columns.reshape(-1, size * size * x.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])"],
  linear: ["ops/linear.py", "y = rows @ kernel + bias"],
  add_rows: ["model/embeddings.py", "x = x + rows"],
  concatenate: ["model/embeddings.py", "z = xp.concatenate([class_token, x], axis=1)"],
  layer_norm: ["ops/layer_norm.py", "return gamma * xhat + beta, (xhat, rho, gamma)"],
  logits: ["model/attention.py", "(q * scale) @ k.swapaxes(-1, -2)"],
  softmax: ["ops/softmax.py", "y = e / xp.where(total == 0, 1, total)"],
  heads: ["model/attention.py", "weights @ v"],
  residual1: ["model/encoder.py", 'z = tap("residual1", z + x)'],
  output: ["model/encoder.py", 'return tap("output", z + x), cache'],
  gelu: ["ops/activation.py", "return 0.5 * x * (1 + namespace(x).tanh(u))"],
  gelu_back: ["ops/activation.py", "return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du)"],
  linear_back: ["ops/linear.py", "dx = drows @ kernel.T"],
  norm_back: ["ops/layer_norm.py", "dx = rho * (dxhat - mean - xhat * along)"],
  residual1_back: ["model/encoder.py", 'dz = tap("residual1", dz + dx)'],
  block_back: ["model/encoder.py", "return dz + dx, dparams"],
  value_back: ["model/attention.py", "dv = weights.swapaxes(-1, -2) @ dheads"],
  weights_back: ["model/attention.py", "dweights = dheads @ v.swapaxes(-1, -2)"],
  softmax_back: ["ops/softmax.py", "return y * (dy - xp.sum(dy * y, axis=-1, keepdims=True))"],
  key_back: ["model/attention.py", "dk = dlogits.swapaxes(-1, -2) @ (q * scale)"],
  query_back: ["model/attention.py", "dq = (dlogits @ k) * scale"],
  project_back: ["model/attention.py", "return dz_q + dz_k + dz_v, dparams"],
  head_back: ["model/head.py", 'dy[:, 0] = tap("class_token", dtoken)'],
  score_back: ["model/head.py", "return softmax_backward(dscore[:, None] * k, cache_softmax)"],
  conv_back: ["ops/convolution.py", "dwindows = (dy.reshape(-1, O) @ kernel.reshape(-1, O).T)"],
  image_back: ["image/tokenize.py", "dx += resize_backward(dresized, dx.shape, config.conventions.resize)"],
};

/** Σ x_i·W_ij + b_j */
function linear_terms(x, kernel, bias, j, name = (i) => `x[${i}]·W[${i},${j}]`) {
  const O = kernel.data.length / x.length;
  return [...Array.from(x, (value, i) => term(name(i), value * kernel.data[i * O + j], value, kernel.data[i * O + j])),
    term(`b[${j}]`, bias.data[j])];
}

/** Σ dy_o·W_io */
const linear_back_terms = (dy, kernel, i) =>
  Array.from(dy, (d, o) => term(`dy[${o}]·W[${i},${o}]`, d * kernel.data[i * dy.length + o], d, kernel.data[i * dy.length + o]));

function norm_terms(x, { scale, bias }, j) {
  const [, { xhat, rho }] = layer_norm(array([1, x.length], x), scale, bias), mean = x.reduce((a, b) => a + b, 0) / x.length;
  return { xhat: xhat.data, rho: rho[0], mean, terms: [
    term(`γ[${j}]·(x[${j}] − μ)·ρ`, scale.data[j] * xhat.data[j], scale.data[j], x[j] - mean, rho[0]), term(`β[${j}]`, bias.data[j])] };
}

/** The three terms of dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)) */
function norm_back_terms(dy, x, params, j) {
  const { xhat, rho } = norm_terms(x, params, j), dxhat = dy.map((d, i) => d * params.scale.data[i]), D = x.length;
  const mean = dxhat.reduce((a, b) => a + b, 0) / D, along = dxhat.reduce((sum, d, i) => sum + d * xhat[i], 0) / D;
  return [term("ρ·dx̂", rho * dxhat[j], rho, dxhat[j]), term("−ρ·mean(dx̂)", -rho * mean, rho, -mean),
    term("−ρ·x̂·mean(dx̂·x̂)", -rho * xhat[j] * along, rho, -xhat[j], along)];
}

const NORM = "y = γ·(x − μ)·ρ + β,  ρ = (σ² + ε)^−½", NORM_BACK = "dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)),  dx̂ = dy·γ";
const input_of = (i) => (i === 0 ? "encoder/input" : `encoder/block_${String(i - 1).padStart(2, "0")}/output`);
const block_at = (i) => `encoder/block_${String(i).padStart(2, "0")}`;
const params_at = (m, path) => path.split("/").reduce((at, part) => at[part], m.params);

/** The terms of one value of a patch: of the photograph itself, or of the taps of the filter that resized it. */
function pixel_terms(m, n, row, column, c) {
  const { scales } = m.tokens, P = m.config.patch_size, { width, height, data } = m.pixels;
  const scale = scales.find(({ start, kept }) => n >= start && n < start + kept), index = n - scale.start;
  const y = Math.floor(index / scale.columns) * P + row - same_padding(scale.height, P, P)[0];
  const x = (index % scale.columns) * P + column - same_padding(scale.width, P, P)[0];
  if (y < 0 || x < 0 || y >= scale.height || x >= scale.width) return [term("padding", 0)];
  const u = (i, j) => data[4 * (i * width + j) + c], { resize: kind } = m.config.conventions;
  if (!scale.longer_side || (kind === "bicubic" && scale.height === height && scale.width === width))
    return [term(`2·${u(y, x)}/255`, (2 * u(y, x)) / 255), term("−1", -1)];
  const rows = TAPS[kind](height, scale.height)[y], columns = TAPS[kind](width, scale.width)[x];
  return rows.flatMap(([i, a]) => columns.map(([j, b]) => term(`pixel ${i},${j}`, a * b * ((2 * u(i, j)) / 255 - 1), a * b, (2 * u(i, j)) / 255 - 1)));
}

const FORWARD = [
  [/^patches$/, (m, _, [, n, row, column, c]) => {
    const terms = pixel_terms(m, n, row, column, c), itself = terms.length === 2;
    return { formula: itself ? "x = 2·u/255 − 1" : "Σ weight·pixel of the photograph around it", equation: "pixels and resize",
      source: itself ? SOURCE.normalize : SOURCE.resize, terms };
  }],
  [/^patch_embedding$/, (m, _, [, n, j]) => ({ formula: "E_p = features·W + b", equation: "Eq. 1", source: SOURCE.linear,
    terms: linear_terms(m.config.stem === "linear" ? row_of(reshape(m.stage("patches"), m.tokens.hash_index.length, m.params.patch_embedding.kernel.shape[0]), n) : m.of_patch("stem/output", n).data,
      m.params.patch_embedding.kernel, m.params.patch_embedding.bias, j) })],
  [/^spatial_embedding$/, (m, _, [, n, j]) => ({ formula: "E_p + T[hash]", equation: "Eq. 2, E_HSE", source: SOURCE.add_rows, terms: [
    term(`E_p[${j}]`, row_of(m.stage("patch_embedding"), m.source_of(n))[j]),
    term(`T[${m.tokens.hash_index[n]}, ${j}]`, row_of(m.stage("spatial_embedding"), n)[j] - row_of(m.stage("patch_embedding"), m.source_of(n))[j])] })],
  [/^scale_embedding$/, (m, _, [, n, j]) => ({ formula: "E_p + E_HSE + S[scale]", equation: "Eq. 2, E_SCE", source: SOURCE.add_rows, terms: [
    term(`(E_p + E_HSE)[${j}]`, row_of(m.stage("spatial_embedding"), n)[j]),
    term(`S[${m.tokens.scale_index[n]}, ${j}]`, row_of(m.stage("scale_embedding"), n)[j] - row_of(m.stage("spatial_embedding"), n)[j])] })],
  [/^encoder\/input$/, (m, _, [, n, j]) => ({ formula: "z₀ = [class; E_p + E_HSE + E_SCE]", equation: "Eq. 2", source: SOURCE.concatenate,
    terms: [term(n === 0 ? `class[${j}]` : `token ${n - 1}[${j}]`, row_of(m.stage("encoder/input"), n)[j])] })],
  [/^encoder\/norm$/, (m, _, [, n, j]) => ({ formula: NORM, equation: "Eq. 5", source: SOURCE.layer_norm,
    terms: norm_terms(row_of(m.stage(input_of(m.config.layers)), n), m.params.encoder.norm, j).terms })],
  [/^(encoder\/block_(\d+))\/norm1$/, (m, [, b, i], [, n, j]) => ({ formula: NORM, equation: "LN in Eq. 3", source: SOURCE.layer_norm,
    terms: norm_terms(row_of(m.stage(input_of(Number(i))), n), params_at(m, b).norm1, j).terms })],
  [/^(encoder\/block_\d+)\/norm2$/, (m, [, b], [, n, j]) => ({ formula: NORM, equation: "LN in Eq. 4", source: SOURCE.layer_norm,
    terms: norm_terms(row_of(m.stage(`${b}/residual1`), n), params_at(m, b).norm2, j).terms })],
  [/^(encoder\/block_\d+)\/attention\/(query|key|value)$/, (m, [, b, part], [, h, n, d]) => ({
    formula: `${part[0].toUpperCase()} = LN(z)·W_${part[0]} + b`, equation: "Eq. 6", source: SOURCE.linear,
    terms: linear_terms(row_of(m.stage(`${b}/norm1`), n), params_at(m, b).attention[part].kernel, params_at(m, b).attention[part].bias,
      h * (m.config.width / m.config.heads) + d) })],
  [/^(encoder\/block_\d+)\/attention\/logits$/, (m, [, b], [, h, q, k]) => {
    const query = m.stage(`${b}/attention/query`), key = m.stage(`${b}/attention/key`), [, , N, D_h] = query.shape;
    const x = row_of(query, h * N + q), y = row_of(key, h * N + k), scale = 1 / Math.sqrt(D_h);
    return { formula: "Q·Kᵀ/√D_h", equation: "Eq. 7", source: SOURCE.logits,
      terms: Array.from(x, (value, d) => term(`q[${d}]·k[${d}]/√${D_h}`, value * y[d] * scale, value, y[d], scale)) };
  }],
  [/^(encoder\/block_\d+)\/attention\/weights$/, (m, [, b], [, h, q, k]) => {
    const weights = m.stage(`${b}/attention/weights`), row = row_of(weights, h * weights.shape[2] + q);
    return { formula: "A = exp(logit) / Σ exp(logits): the shares of a row sum to 1", equation: "Eq. 7", source: SOURCE.softmax,
      terms: [term(`share of ${token_name(k)}`, row[k])] };
  }],
  [/^(encoder\/block_\d+)\/attention\/heads$/, (m, [, b], [, h, q, d]) => {
    const weights = m.stage(`${b}/attention/weights`), value = m.stage(`${b}/attention/value`), N = weights.shape[2];
    if (m.changes.heads.includes(`${b.slice(8)}/${h}`)) return { formula: "this head was silenced", equation: "Eq. 8", source: SOURCE.heads, terms: [] };
    return { formula: "SA = A·V", equation: "Eq. 8", source: SOURCE.heads,
      terms: Array.from(row_of(weights, h * N + q), (a, k) => term(`A·v of ${token_name(k)}`, a * row_of(value, h * N + k)[d], a, row_of(value, h * N + k)[d])) };
  }],
  [/^(encoder\/block_\d+)\/attention\/out$/, (m, [, b], [, n, j]) => ({ formula: "[SA_1; …; SA_H]·U_m + b", equation: "Eq. 9", source: SOURCE.linear,
    terms: linear_terms(row_of(join_heads(m.stage(`${b}/attention/heads`)), n), params_at(m, b).attention.out.kernel, params_at(m, b).attention.out.bias, j) })],
  [/^(encoder\/block_(\d+))\/residual1$/, (m, [, b, i], [, n, j]) => ({ formula: "z′ = MSA(LN(z)) + z", equation: "Eq. 3", source: SOURCE.residual1, terms: [
    term(`z[${j}]`, row_of(m.stage(input_of(Number(i))), n)[j]), term(`MSA[${j}]`, row_of(m.stage(`${b}/attention/out`), n)[j])] })],
  [/^(encoder\/block_\d+)\/mlp\/fc1$/, (m, [, b], [, n, j]) => ({ formula: "LN(z′)·W_1 + b_1", equation: "MLP in Eq. 4", source: SOURCE.linear,
    terms: linear_terms(row_of(m.stage(`${b}/norm2`), n), params_at(m, b).mlp.fc1.kernel, params_at(m, b).mlp.fc1.bias, j) })],
  [/^(encoder\/block_\d+)\/mlp\/gelu$/, (m, [, b], [, n, j]) => {
    const x = row_of(m.stage(`${b}/mlp/fc1`), n)[j], y = row_of(m.stage(`${b}/mlp/gelu`), n)[j];
    return { formula: "GELU(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))", equation: "MLP in Eq. 4", source: SOURCE.gelu,
      terms: [term("x·Φ(x)", y, x, y / x)] };
  }],
  [/^(encoder\/block_\d+)\/mlp\/fc2$/, (m, [, b], [, n, j]) => ({ formula: "GELU(…)·W_2 + b_2", equation: "MLP in Eq. 4", source: SOURCE.linear,
    terms: linear_terms(row_of(m.stage(`${b}/mlp/gelu`), n), params_at(m, b).mlp.fc2.kernel, params_at(m, b).mlp.fc2.bias, j) })],
  [/^(encoder\/block_\d+)\/output$/, (m, [, b], [, n, j]) => ({ formula: "z″ = MLP(LN(z′)) + z′", equation: "Eq. 4", source: SOURCE.output, terms: [
    term(`z′[${j}]`, row_of(m.stage(`${b}/residual1`), n)[j]), term(`MLP[${j}]`, row_of(m.stage(`${b}/mlp/fc2`), n)[j])] })],
  [/^head\/logits$/, (m, _, [, c]) => ({ formula: "y = LN(z_L)[class]·W + b", equation: "Eq. 5", source: SOURCE.linear,
    terms: linear_terms(m.stage("head/class_token").data, m.params.head.kernel, m.params.head.bias, c) })],
  [/^stem\/conv_root$/, (m, _, [n, i, j, o]) => {
    const P = m.config.patch_size, patch = array([1, P, P, 3], m.stage("patches").data.slice(n * P * P * 3, (n + 1) * P * P * 3));
    const part = new Float32Array(147), [kernel] = standardize(m.params.stem.conv_root.kernel, m.config.conventions.weight_std_ddof);
    windows(patch, 7, 2).gather(part, 0, i * Math.ceil(P / 2) + j, 1);
    return { formula: "Σ pixel·ŵ over a window of 7×7×3", equation: "stem", source: SOURCE.conv,
      terms: Array.from(part, (x, k) => term(`pixel ${Math.floor(k / 21)},${Math.floor(k / 3) % 7} ${"RGB"[k % 3]}·ŵ`, x * kernel.data[k * 64 + o], x, kernel.data[k * 64 + o])) };
  }],
];
