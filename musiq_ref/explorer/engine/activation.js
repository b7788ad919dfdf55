// Softmax, ReLU, GELU in its two forms, and look-up of rows; beside musiq_ref/ops.
"use strict";

const STEPS = 16, // to a halving
  DOWN = Float64Array.from({ length: 128 * STEPS }, (_, k) => 2 ** (-k / STEPS));

/** e^x for x ≤ 0, as 2^(-k/16)·e^r with |r| ≤ ln(2)/32 and e^r by Taylor's series, to 1e-8: faster than Math.exp. */
function exp_down(x) {
  if (x < -87) return 0; // float32 ends here
  const k = (0.5 - x * (STEPS * Math.LOG2E)) | 0,
    r = x + k * (Math.LN2 / STEPS);
  return DOWN[k] * (1 + r + r * r * (1 / 2 + r * (1 / 6)));
}

/** tanh x = (1 − e^−2|x|)/(1 + e^−2|x|), with the sign of x */
function tanh(x) {
  const e = exp_down(-2 * Math.abs(x));
  return x < 0 ? (e - 1) / (1 + e) : (1 - e) / (1 + e);
}

/** y = exp(x) / Σ exp(x) over the last axis                                 (Eq. 7) */
function softmax(x) {
  const N = last(x),
    from = x.data,
    to = zeros(from.length),
    y = array(x.shape, to);
  for (let at = 0; at < from.length; at += N) {
    let peak = -Infinity,
      total = 0;
    for (let i = at; i < at + N; i++) if (from[i] > peak) peak = from[i];
    if (peak === -Infinity) continue; // nothing may be attended to: zeros
    for (let i = at; i < at + N; i++) total += to[i] = exp_down(from[i] - peak);
    for (let i = at, share = 1 / total; i < at + N; i++) to[i] *= share;
  }
  return [y, y];
}

/** dx = y·(dy − Σ dy·y) */
function softmax_backward(dy, y) {
  const N = last(dy),
    d = dy.data,
    p = y.data,
    dx = zeros(d.length);
  for (let at = 0; at < d.length; at += N) {
    let along = 0;
    for (let i = at; i < at + N; i++) along += d[i] * p[i];
    for (let i = at; i < at + N; i++) dx[i] = p[i] * (d[i] - along);
  }
  return array(dy.shape, dx);
}

/** y = max(x, 0), as (x + |x|)/2: half of the time, a processor would guess wrong which of the two it is */
function relu(x) {
  const from = x.data,
    to = zeros(from.length),
    y = array(x.shape, to);
  for (let i = 0; i < to.length; i++) to[i] = 0.5 * (from[i] + Math.abs(from[i]));
  return [y, y];
}

/** dx = dy where y > 0, else 0 */
function relu_backward(dy, y) {
  const d = dy.data,
    value = y.data,
    dx = zeros(d.length);
  for (let i = 0; i < dx.length; i++) dx[i] = d[i] * (value[i] > 0);
  return array(dy.shape, dx);
}

const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI),
  CUBIC = 0.044715;

/** y = x/2·(1 + tanh u),  u = √(2/π)·(x + 0.044715·x³)                      (MLP in Eq. 4, official) */
function gelu_tanh(x) {
  return [array(x.shape, x.data.map((v) => 0.5 * v * (1 + tanh(SQRT_2_OVER_PI * (v + CUBIC * v * v * v))))), x];
}

/** dx = dy·[(1 + t)/2 + x/2·(1 − t²)·u′],  t = tanh u,  u′ = √(2/π)·(1 + 3·0.044715·x²) */
function gelu_tanh_backward(dy, x) {
  return zip(dy, x, (d, v) => {
    const t = tanh(SQRT_2_OVER_PI * (v + CUBIC * v * v * v)),
      du = SQRT_2_OVER_PI * (1 + 3 * CUBIC * v * v);
    return d * (0.5 * (1 + t) + 0.5 * v * (1 - t * t) * du);
  });
}

/** erf in float32: tanh(x·P(x²)), an odd fit with an error of 1.4e-7 */
function erf(x) {
  const s = Math.min(x * x, 17.64);
  const P = [-5.9856084e-6, 8.971223e-5, -6.2571891e-4, -1.8438424e-4, 0.10276548, 1.1283797];
  return tanh(x * P.reduce((sum, factor) => sum * s + factor, 1.5895365e-7));
}

/** y = x·Φ(x),  Φ(x) = (1 + erf(x/√2))/2                                    (MLP in Eq. 4, pyiqa) */
function gelu_erf(x) {
  return [array(x.shape, x.data.map((v) => 0.5 * v * (1 + erf(v * Math.SQRT1_2)))), x];
}

/** dx = dy·[Φ(x) + x·φ(x)],  φ(x) = exp(−x²/2)/√(2π) */
function gelu_erf_backward(dy, x) {
  return zip(
    dy,
    x,
    (d, v) => d * (0.5 * (1 + erf(v * Math.SQRT1_2)) + (v * Math.exp(-0.5 * v * v)) / Math.sqrt(2 * Math.PI)),
  );
}

const GELU = { tanh: [gelu_tanh, gelu_tanh_backward], erf: [gelu_erf, gelu_erf_backward] };

/** y[…] = T[index[…]]                                                       (E_HSE and E_SCE in Eq. 2) */
function lookup(table, index) {
  const D = last(table),
    y = array([index.length, D]);
  index.forEach((row, i) => y.data.set(table.data.subarray(row * D, (row + 1) * D), i * D));
  return [y, { index, shape: table.shape }];
}

/** dT[r] = Σ dy where index = r */
function lookup_backward(dy, { index, shape }) {
  const D = last(dy),
    dtable = new Float64Array(size_of(shape));
  index.forEach((row, i) => {
    for (let j = 0; j < D; j++) dtable[row * D + j] += dy.data[i * D + j];
  });
  return array(shape, Float32Array.from(dtable));
}
