// Where a number comes from: any value of a stage, or of a gradient, as the sum that makes it, term by term.
"use strict";

const FORWARD = [],
  BACKWARD = [];

/** A rule: how the values of some stages (or the gradients to them) are made.
 *  path: the stages' names, "block" being any block;  formula, source: may be functions of what `terms` gets
 *  terms(model, parts of the name, indices of the value): [{label, value, factors}, …] */
function rule(rules, path, formula, equation, source, terms) {
  rules.push([new RegExp(`^${path.replace("block", "(encoder/block_(\\d+))")}$`), { formula, equation, source, terms }]);
}
const explains = (...about) => rule(FORWARD, ...about);
const explains_back = (...about) => rule(BACKWARD, ...about);

/** Indices along every axis of the flat index. */
function unravel(flat, shape) {
  return shape.map((n, axis) => Math.floor(flat / size_of(shape.slice(axis + 1))) % n);
}

const term = (label, value, ...factors) => ({ label, value, factors });
const token_name = (row) => (row === 0 ? "class token" : `token ${row - 1}`);
const row_of = (x, row) => x.data.subarray(row * last(x), (row + 1) * last(x));
const input_of = (i) => (i === 0 ? "encoder/input" : `${block_at(i - 1)}/output`);
const block_at = (i) => `encoder/block_${String(i).padStart(2, "0")}`;
const params_at = (m, path) => path.split("/").reduce((at, part) => at[part], m.params);
const SOURCE = { // file and line of the NumPy that computes the same
  normalize: ["image/tokenize.py", "x *= 2"],
  resize: ["image/resize.py", "rows, columns = FILTER[kind](image.shape[0], height, image.dtype)"],
  patches: ["image/patches.py", "tiles = padded.reshape(rows, P, columns, P, 3).swapaxes(1, 2)"],
  conv: ["ops/convolution.py", "y = columns.reshape(-1, size * size * x.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])"],
  pool: ["ops/max_pool.py", "y = shifted if y is None else xp.maximum(y, shifted)"],
  group_norm: ["ops/group_norm.py", "y = gamma * xhat"],
  relu: ["ops/activation.py", "y = xp.maximum(x, 0)"],
  stem_sum: ["model/stem.py", 'return rectify("output", tap("sum", x + shortcut)), cache'],
  linear: ["ops/linear.py", "y = rows @ kernel + bias"],
  add_rows: ["model/embeddings.py", "x = x + rows"],
  concatenate: ["model/embeddings.py", "z = xp.concatenate([class_token, x], axis=1)"],
  layer_norm: ["ops/layer_norm.py", "return gamma * xhat + beta, (xhat, rho, gamma)"],
  logits: ["model/attention.py", "(q * scale) @ k.swapaxes(-1, -2)"],
  softmax: ["ops/softmax.py", "y /= xp.where(total == 0, 1, total)"],
  heads: ["model/attention.py", "weights @ v"],
  residual1: ["model/encoder.py", 'z = tap("residual1", z + x)'],
  output: ["model/encoder.py", 'return tap("output", z + x), cache'],
  gelu_tanh: ["ops/activation.py", "return 0.5 * x * (1 + namespace(x).tanh(u))"],
  gelu_erf: ["ops/activation.py", "return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))"],
  gelu_tanh_back: ["ops/activation.py", "return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * du)"],
  gelu_erf_back: ["ops/activation.py", "return dy * (0.5 * (1 + erf(x * math.sqrt(0.5))) + x * density)"],
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
  head: ["model/head.py", 'tap("class_token", y[:, 0])'],
  head_back: ["model/head.py", 'dy[:, 0] = tap("class_token", dtoken)'],
  score_back: ["model/head.py", "return softmax_backward(dscore[:, None] * k, cache_softmax)"],
  one_score_back: ["model/head.py", "return dscore[:, None]"],
  group_norm_back: ["ops/group_norm.py", "dx -= xhat * (rho * mean_dot)"],
  relu_back: ["ops/activation.py", "return dy * (y > 0)"],
  pool_back: ["ops/max_pool.py", "dshifted += left * here"],
  stem_back: ["model/stem.py", 'dx = dx + conv_backward("conv_proj", norm_backward("gn_proj", dsum))'],
  stem_sum_back: ["model/stem.py", 'dsum = tap("sum", rectify_backward("output", dy))'],
  conv_back: ["ops/convolution.py", "dwindows = (dy.reshape(-1, O) @ kernel.reshape(-1, O).T)"],
  image_back: ["image/tokenize.py", "dx += resize_backward(dresized, dx.shape, config.conventions.resize)"],
};


/** Σ x_i·y_i */
const dot_terms = (x, y, name, ...more) =>
  Array.from(x, (value, i) => term(name(i), more.reduce((a, b) => a * b, value * y[i]), value, y[i], ...more));

/** Column j of a matrix. */
const column_of = (W, j, rows) => Float32Array.from({ length: rows }, (_, i) => W.data[(i * W.data.length) / rows + j]);

/** Σ x_i·W_ij + b_j */
const linear_terms = (x, { kernel, bias }, j) => [
  ...dot_terms(x, column_of(kernel, j, x.length), (i) => `x[${i}]·W[${i},${j}]`),
  term(`b[${j}]`, bias.data[j]),
];

/** Σ dy_o·W_io */
const linear_back_terms = (dy, { kernel }, i, part = "") =>
  dot_terms(dy, kernel.data.subarray(i * dy.length), (o) => `${part}dy[${o}]·W[${i},${o}]`);

const NORM = "y = γ·(x − μ)·ρ + β,  ρ = (σ² + ε)^−½",
  NORM_BACK = "dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)),  dx̂ = dy·γ";

function norm_terms(x, { scale, bias }, j) {
  const [, { rho }] = layer_norm(array([1, x.length], x), scale, bias),
    centred = x[j] - x.reduce((a, b) => a + b, 0) / x.length;
  return [
    term(`γ[${j}]·(x[${j}] − μ)·ρ`, scale.data[j] * centred * rho[0], scale.data[j], centred, rho[0]),
    term(`β[${j}]`, bias.data[j]),
  ];
}

/** The three terms of dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)); j: the place in question */
function three_terms(rho, dxhat, xhat, j, part = "") {
  const mean = dxhat.reduce((a, b) => a + b, 0) / dxhat.length,
    along = dxhat.reduce((sum, d, i) => sum + d * xhat[i], 0) / dxhat.length;
  return [
    term(`${part}ρ·dx̂`, rho * dxhat[j], rho, dxhat[j]),
    term(`${part}−ρ·mean(dx̂)`, -rho * mean, rho, -mean),
    term(`${part}−ρ·x̂·mean(dx̂·x̂)`, -rho * xhat[j] * along, rho, -xhat[j], along),
  ];
}

function norm_back_terms(dy, x, { scale, bias }, j, part) {
  const [, { xhat, rho }] = layer_norm(array([1, x.length], x), scale, bias);
  return three_terms(rho[0], dy.map((d, i) => d * scale.data[i]), xhat.data, j, part);
}
