// The elementary forward/backward pairs, beside musiq_ref/ops: the same names, the same equations (SPEC 4).
// A forward returns [y, cache]; the backward takes (dy, cache) and returns gradients in the order of the arguments.
// An array is {shape, data}, data a Float32Array with the last axis fastest; sums are made in float64.
"use strict";

const size_of = (shape) => shape.reduce((a, b) => a * b, 1);
const array = (shape, data = zeros(size_of(shape))) => ({ shape, data });
const reshape = (x, ...shape) => ({ shape, data: x.data });
const last = (x) => x.shape[x.shape.length - 1];
const zip = (x, y, f) =>
  array(x.shape, x.data.map((value, i) => f(value, y.data[i])));

const brief = { floats: new Float32Array(2 ** 22), used: 0, open: false };

/** The result of run(), whose arrays lie in memory that the next run overwrites: what is to stay must be copied.
 *  To ask the browser for memory costs more than to compute what is written into it. */
function briefly(run) {
  Object.assign(brief, { used: 0, open: true });
  try {
    return run();
  } finally {
    brief.open = false;
  }
}

function zeros(count) {
  const from = brief.used;
  if (!brief.open || from + count > brief.floats.length) return new Float32Array(count);
  brief.used += count;
  return brief.floats.subarray(from, from + count).fill(0);
}

/** x + y */
function add(x, y) {
  const sum = array(x.shape);
  for (let i = 0; i < sum.data.length; i++) sum.data[i] = x.data[i] + y.data[i];
  return sum;
}

/** y = x·W + b                                                              (Eq. 6 and 9, the MLP of Eq. 4) */
function linear(x, kernel, bias) {
  const [I, O] = kernel.shape,
    rows = x.data.length / I;
  const y = product(matrix(x.data, rows, I), matrix(kernel.data, I, O));
  for (let at = 0; at < y.length; at += O) for (let o = 0; o < O; o++) y[at + o] += bias.data[o];
  return [array([...x.shape.slice(0, -1), O], y), { x, kernel }];
}

/** dx = dy·Wᵀ;  dW = Σ xᵀ·dy;  db = Σ dy */
function linear_backward(dy, { x, kernel }, want_kernel = true) {
  const [I, O] = kernel.shape,
    rows = dy.data.length / O,
    drows = matrix(dy.data, rows, O);
  const dx = array(x.shape, product(drows, transposed(matrix(kernel.data, I, O))));
  if (!want_kernel) return [dx];
  return [dx, array([I, O], product(transposed(matrix(x.data, rows, I)), drows)), sum_rows(dy)];
}

function sum_rows(x) {
  const n = last(x),
    sum = new Float64Array(n);
  for (let at = 0; at < x.data.length; at += n) for (let i = 0; i < n; i++) sum[i] += x.data[at + i];
  return array([n], Float32Array.from(sum));
}

/** y = γ·x̂ + β,  x̂ = (x − μ)·ρ,  ρ = (σ² + ε)^−½                           (LN in Eq. 3–5) */
function layer_norm(x, gamma, beta, eps = 1e-6) {
  const D = last(x),
    rows = x.data.length / D,
    y = array(x.shape),
    xhat = array(x.shape),
    rho = new Float64Array(rows);
  for (let row = 0, at = 0; row < rows; row++, at += D) {
    let mean = 0,
      variance = 0;
    for (let i = 0; i < D; i++) mean += x.data[at + i] / D;
    for (let i = 0; i < D; i++) variance += (x.data[at + i] - mean) ** 2 / D;
    rho[row] = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < D; i++) {
      xhat.data[at + i] = (x.data[at + i] - mean) * rho[row];
      y.data[at + i] = gamma.data[i] * xhat.data[at + i] + beta.data[i];
    }
  }
  return [y, { xhat, rho, gamma }];
}

/** dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)),  dx̂ = dy·γ;  dγ = Σ dy·x̂;  dβ = Σ dy */
function layer_norm_backward(dy, { xhat, rho, gamma }) {
  const D = last(dy),
    dx = array(dy.shape);
  for (let row = 0, at = 0; at < dy.data.length; row++, at += D) {
    let mean = 0,
      along = 0;
    for (let i = 0; i < D; i++) {
      const dxhat = dy.data[at + i] * gamma.data[i];
      mean += dxhat / D;
      along += (dxhat * xhat.data[at + i]) / D;
    }
    for (let i = 0; i < D; i++)
      dx.data[at + i] = rho[row] * (dy.data[at + i] * gamma.data[i] - mean - xhat.data[at + i] * along);
  }
  return [dx, sum_rows(zip(dy, xhat, (d, x) => d * x)), sum_rows(dy)];
}

/** y = γ·x̂ + β with μ, σ² per example and group of C/32 neighbouring channels     (stem, SPEC 4);  x: (N, h, w, C)
 *  x̂ is not kept: it is made again from x, which costs less than memory. */
function group_norm(x, gamma, beta, eps, groups = 32) {
  const [N, h, w, C] = x.shape,
    one = h * w * C,
    from = x.data,
    y = zeros(N * one);
  const mu = new Float64Array(N * C),
    rho = new Float64Array(N * C),
    sums = new Float64Array(C),
    squares = new Float64Array(C);
  for (let n = 0, start = 0; n < N; n++, start += one) {
    for (let c = 0; c < C; c++) {
      let sum = 0,
        square = 0; // in float64, so that σ² = mean(x²) − μ² loses nothing
      for (let at = start + c; at < start + one; at += C) {
        sum += from[at];
        square += from[at] * from[at];
      }
      sums[c] = sum;
      squares[c] = square;
    }
    const mean = group_mean(sums, h * w, groups),
      mean_square = group_mean(squares, h * w, groups);
    for (let c = 0; c < C; c++) {
      const scale = 1 / Math.sqrt(Math.max(mean_square[c] - mean[c] * mean[c], 0) + eps),
        slope = gamma.data[c] * scale,
        shift = beta.data[c] - slope * mean[c];
      mu[n * C + c] = mean[c];
      rho[n * C + c] = scale;
      for (let at = start + c; at < start + one; at += C) y[at] = slope * from[at] + shift;
    }
  }
  return [array(x.shape, y), { x, mu, rho, gamma, groups }];
}

/** dx = ρ·(dx̂ − mean(dx̂) − x̂·mean(dx̂·x̂)), means per example and group,  dx̂ = dy·γ;  dγ = Σ dy·x̂;  dβ = Σ dy */
function group_norm_backward(dy, { x, mu, rho, gamma, groups }) {
  const [N, h, w, C] = dy.shape,
    one = h * w * C,
    d = dy.data,
    from = x.data,
    dx = zeros(N * one);
  const dgamma = new Float64Array(C),
    dbeta = new Float64Array(C),
    sums = new Float64Array(C), // Σ dx̂ and Σ dx̂·x̂ of a channel
    dots = new Float64Array(C);
  for (let n = 0, start = 0; n < N; n++, start += one) {
    for (let c = 0; c < C; c++) {
      let sum = 0,
        dot = 0;
      for (let at = start + c; at < start + one; at += C) {
        sum += d[at];
        dot += d[at] * (from[at] - mu[n * C + c]);
      }
      dot *= rho[n * C + c]; // Σ dy·x̂
      dbeta[c] += sum;
      dgamma[c] += dot;
      sums[c] = sum * gamma.data[c];
      dots[c] = dot * gamma.data[c];
    }
    const mean = group_mean(sums, h * w, groups),
      along = group_mean(dots, h * w, groups);
    for (let c = 0; c < C; c++) {
      const scale = rho[n * C + c],
        slope = scale * gamma.data[c],
        tilt = scale * scale * along[c],
        shift = scale * mean[c] - tilt * mu[n * C + c];
      for (let at = start + c; at < start + one; at += C) dx[at] = slope * d[at] - tilt * from[at] - shift;
    }
  }
  return [array(dy.shape, dx), array([C], Float32Array.from(dgamma)), array([C], Float32Array.from(dbeta))];
}

/** Of sums over positions, one a channel: for every channel the mean over its group. */
function group_mean(sums, positions, groups) {
  const wide = sums.length / groups,
    mean = new Float64Array(sums.length);
  for (let c = 0; c < sums.length; c++) mean[c - (c % wide)] += sums[c] / (positions * wide);
  for (let c = 0; c < sums.length; c++) mean[c] = mean[c - (c % wide)];
  return mean;
}
