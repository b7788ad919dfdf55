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
const SOURCE = {
  // file and line of the NumPy that computes the same
  normalize: ["image/tokenize.py", "x *= 2"],
  resize: ["image/resize.py", "rows, columns = FILTER[kind](image.shape[0], height, image.dtype)"],
  patches: ["image/patches.py", "tiles = padded.reshape(rows, P, columns, P, 3).swapaxes(1, 2)"],
  conv: [
    "ops/convolution.py",
    "y = columns.reshape(-1, size * size * x.shape[-1]) @ kernel.reshape(-1, kernel.shape[-1])",
  ],
  pool: ["ops/max_pool.py", "y = shifted if y is None else xp.maximum(y, shifted)"],
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
  return [
    ...Array.from(x, (value, i) => term(name(i), value * kernel.data[i * O + j], value, kernel.data[i * O + j])),
    term(`b[${j}]`, bias.data[j]),
  ];
}

/** Σ dy_o·W_io */
const linear_back_terms = (dy, kernel, i) =>
  Array.from(dy, (d, o) =>
    term(`dy[${o}]·W[${i},${o}]`, d * kernel.data[i * dy.length + o], d, kernel.data[i * dy.length + o]),
  );

function norm_terms(x, { scale, bias }, j) {
  const [, { xhat, rho }] = layer_norm(array([1, x.length], x), scale, bias),
    mean = x.reduce((a, b) => a + b, 0) / x.length;
  return {
    xhat: xhat.data,
    rho: rho[0],
    mean,
    terms: [
      term(`γ[${j}]·(x[${j}] − μ)·ρ`, scale.data[j] * xhat.data[j], scale.data[j], x[j] - mean, rho[0]),
      term(`β[${j}]`, bias.data[j]),
    ],
  };
}

/** The three terms of dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)) */
function norm_back_terms(dy, x, params, j) {
  const { xhat, rho } = norm_terms(x, params, j),
    dxhat = dy.map((d, i) => d * params.scale.data[i]),
    D = x.length;
  const mean = dxhat.reduce((a, b) => a + b, 0) / D,
    along = dxhat.reduce((sum, d, i) => sum + d * xhat[i], 0) / D;
  return [
    term("ρ·dx̂", rho * dxhat[j], rho, dxhat[j]),
    term("−ρ·mean(dx̂)", -rho * mean, rho, -mean),
    term("−ρ·x̂·mean(dx̂·x̂)", -rho * xhat[j] * along, rho, -xhat[j], along),
  ];
}

const NORM = "y = γ·(x − μ)·ρ + β,  ρ = (σ² + ε)^−½",
  NORM_BACK = "dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)),  dx̂ = dy·γ";
const input_of = (i) => (i === 0 ? "encoder/input" : `encoder/block_${String(i - 1).padStart(2, "0")}/output`);
const block_at = (i) => `encoder/block_${String(i).padStart(2, "0")}`;
const params_at = (m, path) => path.split("/").reduce((at, part) => at[part], m.params);
