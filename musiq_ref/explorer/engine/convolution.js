// Convolution, weight standardisation and max-pooling, with TensorFlow's "SAME" padding; beside musiq_ref/ops.
"use strict";

/** [before, after]: what to add to an axis of length n so that it has ⌈n/stride⌉ windows; the smaller half first. */
function same_padding(n, size, stride) {
  const total = Math.max((Math.ceil(n / stride) - 1) * stride + size - n, 0);
  return [total >> 1, total - (total >> 1)];
}

/** Every size × size window of x (N, h, w, C) as the rows of a matrix, written when `product` asks for them. */
function windows({ shape: [N, h, w, C], data }, size, stride) {
  const high = Math.ceil(h / stride),
    wide = Math.ceil(w / stride),
    K = size * size * C;
  const top = same_padding(h, size, stride)[0],
    left = same_padding(w, size, stride)[0];
  const gather = (floats, at, first, count) => {
    for (let window = first; window < first + count; window++) {
      const j = window % wide,
        i = ((window - j) / wide) % high,
        n = Math.floor(window / (wide * high));
      const from = Math.max(0, left - j * stride),
        to = Math.min(size, w + left - j * stride); // columns inside
      for (let a = 0; a < size; a++, at += size * C) {
        const row = i * stride + a - top;
        if (row < 0 || row >= h) {
          floats.fill(0, at, at + size * C);
          continue;
        }
        const start = ((n * h + row) * w + j * stride - left) * C;
        for (let c = 0; c < from * C; c++) floats[at + c] = 0;
        for (let c = from * C; c < to * C; c++) floats[at + c] = data[start + c];
        for (let c = to * C; c < size * C; c++) floats[at + c] = 0;
      }
    }
  };
  return { rows: N * high * wide, columns: K, gather, shape: [N, high, wide] };
}

/** y[n,i,j,o] = Σ_abc x̃[n, i·s+a, j·s+b, c]·w[a,b,c,o],  x̃ = x zero-padded "SAME"      (stem, SPEC 4)
 *  x: (N, h, w, I);  kernel: (k, k, I, O) */
function convolution(x, kernel, stride = 1) {
  const [size, , I, O] = kernel.shape,
    columns = windows(x, size, stride);
  const y = product(columns, matrix(kernel.data, size * size * I, O));
  return [array([...columns.shape, O], y), { x, kernel, stride }];
}

/** dx̃[n, i·s+a, j·s+b, c] += Σ_o dy[n,i,j,o]·w[a,b,c,o];  dw[a,b,c,o] = Σ_nij x̃[n, i·s+a, j·s+b, c]·dy[n,i,j,o] */
function convolution_backward(dy, cache, want_kernel = true) {
  const { x, kernel, stride } = cache,
    [size, , I, O] = kernel.shape,
    [N, h, w] = x.shape,
    [, high, wide] = dy.shape;
  const top = same_padding(h, size, stride)[0],
    left = same_padding(w, size, stride)[0],
    dx = array(x.shape),
    to = dx.data;
  const dwindows = product(matrix(dy.data, N * high * wide, O), transposed(matrix(kernel.data, size * size * I, O)));
  for (let n = 0, at = 0; n < N; n++)
    for (let i = 0; i < high; i++)
      for (let j = 0; j < wide; j++)
        for (let a = 0; a < size; a++)
          for (let b = 0; b < size; b++, at += I) {
            const row = i * stride + a - top,
              column = j * stride + b - left;
            if (row < 0 || row >= h || column < 0 || column >= w) continue;
            for (let c = 0, place = ((n * h + row) * w + column) * I; c < I; c++) to[place + c] += dwindows[at + c];
          }
  return want_kernel ? [dx, kernel_gradient(dy, cache)] : [dx];
}

/** The second half of `convolution_backward`, some windows at a time. */
function kernel_gradient(dy, { x, kernel, stride }) {
  const columns = windows(x, kernel.shape[0], stride),
    K = columns.columns,
    O = last(dy),
    most = 256;
  const part = new Float32Array(most * K),
    dkernel = array(kernel.shape);
  for (let first = 0; first < columns.rows; first += most) {
    const count = Math.min(most, columns.rows - first);
    columns.gather(part, 0, first, count);
    product(transposed(matrix(part, count, K)), matrix(dy.data, count, O, O, 1, first * O), dkernel.data);
  }
  return dkernel;
}

const STANDARDIZE_EPS = 1e-5;

/** ŵ = c/(σ + ε),  c = w − μ,  σ = (Σ c²/(n − ddof))^½; μ, σ per output channel           (stem, SPEC 4) */
function standardize(kernel, ddof = 0) {
  const O = last(kernel),
    n = kernel.data.length / O,
    divisor = n - ddof;
  const mean = new Float64Array(O),
    sigma = new Float64Array(O),
    centred = new Float64Array(n * O);
  for (let at = 0; at < n * O; at++) mean[at % O] += kernel.data[at] / n;
  for (let at = 0; at < n * O; at++) centred[at] = kernel.data[at] - mean[at % O];
  for (let at = 0; at < n * O; at++) sigma[at % O] += centred[at] ** 2 / divisor;
  for (let o = 0; o < O; o++) sigma[o] = Math.sqrt(sigma[o]);
  const y = Float32Array.from(centred, (value, at) => value / (sigma[at % O] + STANDARDIZE_EPS));
  return [array(kernel.shape, y), { centred, sigma, divisor }];
}

/** dc = dŵ/(σ + ε) + dσ·c/((n − ddof)·σ),  dσ = −Σ dŵ·c/(σ + ε)²;  dw = dc − mean(dc) */
function standardize_backward(dy, { centred, sigma, divisor }) {
  const O = sigma.length,
    n = centred.length / O,
    dsigma = new Float64Array(O),
    mean = new Float64Array(O);
  for (let at = 0; at < n * O; at++)
    dsigma[at % O] -= (dy.data[at] * centred[at]) / (sigma[at % O] + STANDARDIZE_EPS) ** 2;
  const dcentred = centred.map((c, at) => {
    const s = sigma[at % O];
    return dy.data[at] / (s + STANDARDIZE_EPS) + (s ? (dsigma[at % O] * c) / (divisor * s) : 0);
  });
  for (let at = 0; at < n * O; at++) mean[at % O] += dcentred[at] / n;
  return array(dy.shape, Float32Array.from(dcentred, (value, at) => value - mean[at % O]));
}

/** y[n,i,j,c] = max_ab x̃[n, i·s+a, j·s+b, c],  x̃ = x padded "SAME" with −∞           (stem, SPEC 4) */
function max_pool(x, size = 3, stride = 2) {
  const [N, h, w, C] = x.shape,
    high = Math.ceil(h / stride),
    wide = Math.ceil(w / stride);
  const top = same_padding(h, size, stride)[0],
    left = same_padding(w, size, stride)[0];
  const y = array([N, high, wide, C]),
    to = y.data.fill(-Infinity),
    data = x.data;
  const place = new Int32Array(to.length); // where each maximum stands in x
  for (let n = 0, at = 0; n < N; n++)
    for (let i = 0; i < high; i++)
      for (let j = 0; j < wide; j++, at += C)
        for (let row = Math.max(0, i * stride - top); row < Math.min(h, i * stride - top + size); row++)
          for (let column = Math.max(0, j * stride - left); column < Math.min(w, j * stride - left + size); column++) {
            const from = ((n * h + row) * w + column) * C;
            for (let c = 0; c < C; c++)
              if (data[from + c] > to[at + c]) {
                to[at + c] = data[from + c];
                place[at + c] = from + c;
              }
          }
  return [y, { place, shape: x.shape }];
}

/** dx̃ += dy at the place of the maximum; of several equal ones, the first in row-major order */
function max_pool_backward(dy, { place, shape }) {
  const dx = array(shape);
  for (let i = 0; i < place.length; i++) dx.data[place[i]] += dy.data[i];
  return dx;
}
