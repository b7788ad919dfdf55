// From pixels to tokens, and from gradients of patches to gradients of pixels; beside musiq_ref/image (SPEC 3).
// Where the authors compute in float32 it changes integers, so f() rounds to float32 as they do.
"use strict";

const f = Math.fround;

/** To the nearest whole number, halves to the even one. */
function half_even(x) {
  const below = Math.floor(x),
    rest = x - below;
  return rest < 0.5 || (rest === 0.5 && below % 2 === 0) ? below : below + 1;
}

/** Height and width after the longer side has become `longer_side`. */
function resized_sides(height, width, longer_side, arithmetic = "float32") {
  const real = arithmetic === "float32" ? f : Number,
    ratio = real(longer_side / Math.max(height, width));
  const sides = [half_even(real(height * ratio)), half_even(real(width * ratio))];
  if (sides.includes(0)) throw new Error(`a picture of ${height}×${width} pixels is too elongated; crop it`);
  return sides;
}

/** For each of n_out positions, the pixels of n_in that it reads and their weights: a Gaussian of sigma 0.5. */
function gaussian_taps(n_in, n_out) {
  const scale = f(1 / f(n_out / n_in)),
    clip = (i) => Math.min(Math.max(i, 0), n_in - 1);
  return Array.from({ length: n_out }, (_, x) => {
    const s = f(f(x + 0.5) * scale);
    const first = clip(Math.ceil(f(f(s - 1.5) - 0.5))),
      final = clip(Math.floor(f(f(s + 1.5) - 0.5)));
    const taps = [];
    for (let i = first; i <= final; i++) {
      const d = Math.abs(f(f(i + 0.5) - s));
      if (d < 1.5) taps.push([i, Math.exp((-d * d) / 0.5)]);
    }
    const total = taps.reduce((sum, [, weight]) => sum + weight, 0);
    return taps.map(([i, weight]) => [i, weight / total]);
  });
}

/** The same for pyiqa's bicubic filter, a = −0.75, pixels beyond the edge moved onto it. */
function bicubic_taps(n_in, n_out) {
  const near = (d) => (1.25 * d - 2.25) * d * d + 1,
    far = (d) => ((-0.75 * d + 3.75) * d - 6) * d + 3;
  return Array.from({ length: n_out }, (_, x) => {
    const centre = (x + 0.5) * (n_in / n_out) - 0.5,
      left = Math.floor(centre),
      t = centre - left;
    const weights = [far(t + 1), near(t), near(1 - t), far(2 - t)];
    return weights.map((weight, i) => [Math.min(Math.max(left - 1 + i, 0), n_in - 1), weight]);
  });
}

const TAPS = { gaussian: gaussian_taps, bicubic: bicubic_taps };

/** y = R·x along axis 0 or 1 of (H, W, 3); with `back`, x = Rᵀ·y. */
function along_axis(x, axis, n, kind, back = false) {
  const [H, W] = x.shape,
    taps = back ? TAPS[kind](n, x.shape[axis]) : TAPS[kind](x.shape[axis], n);
  const y = array(axis ? [H, n, 3] : [n, W, 3]),
    source = x.data,
    target = y.data,
    lines = axis ? H : W,
    step = axis ? 3 : 3 * W;
  const x_line = axis ? 3 * W : 3,
    y_line = axis ? 3 * n : 3; // from one line to the next
  taps.forEach((pixels, out) => {
    for (const [i, weight] of pixels) {
      const [from, to] = back ? [out, i] : [i, out];
      for (let line = 0; line < lines; line++)
        for (let c = 0, at = line * x_line + from * step, put = line * y_line + to * step; c < 3; c++)
          target[put + c] += weight * source[at + c];
    }
  });
  return y;
}

/** The image (H, W, 3) at another size, filtered along its height, then along its width. */
function resize(image, height, width, kind = "gaussian") {
  return along_axis(along_axis(image, 0, height, kind), 1, width, kind);
}

/** dx = R_rowsᵀ · dy · R_columns */
function resize_backward(dy, [H, W], kind = "gaussian") {
  return along_axis(along_axis(dy, 1, W, kind, true), 0, H, kind, true);
}

/** Calls visit(place in the patches, place in the image) for every run of pixels of one patch's row, in number. */
function each_run([H, W], P, visit) {
  const rows = Math.ceil(H / P),
    columns = Math.ceil(W / P),
    top = same_padding(H, P, P)[0],
    left = same_padding(W, P, P)[0];
  for (let patch = 0; patch < rows * columns; patch++) {
    const y0 = Math.floor(patch / columns) * P - top,
      x0 = (patch % columns) * P - left;
    const from = Math.max(0, -x0),
      to = Math.min(P, W - x0);
    for (let row = Math.max(0, -y0); row < Math.min(P, H - y0); row++)
      visit(((patch * P + row) * P + from) * 3, ((y0 + row) * W + x0 + from) * 3, (to - from) * 3);
  }
}

/** Non-overlapping P × P patches, row by row, the image zero-padded "SAME".  (H, W, 3) -> (n, P, P, 3) */
function extract_patches(image, P) {
  const [H, W] = image.shape,
    patches = array([Math.ceil(H / P) * Math.ceil(W / P), P, P, 3]);
  each_run(image.shape, P, (to, from, count) => patches.data.set(image.data.subarray(from, from + count), to));
  return patches;
}

/** Every pixel's gradient is that of the one patch it lies in. */
function extract_patches_backward(dpatches, H, W) {
  const dimage = array([H, W, 3]),
    P = dpatches.shape[1];
  each_run([H, W], P, (from, to, count) => dimage.data.set(dpatches.data.subarray(from, from + count), to));
  return dimage;
}

/** Grid row (or column) of each of n patches along an axis: min(⌊i·(G/n)⌋, G − 1) in float32. */
function hash_axis(n, G, rule = "floor") {
  const whole = rule === "floor" ? Math.floor : half_even,
    share = f(f(G) / f(n));
  return Array.from({ length: n }, (_, i) => Math.min(whole(f(i * share)), G - 1));
}

/** t_row·G + t_column of every patch, row by row. */
function hash_index(rows, columns, G, rule = "floor") {
  const t_column = hash_axis(columns, G, rule);
  return hash_axis(rows, G, rule).flatMap((row) => t_column.map((column) => row * G + column));
}

/** The scales of an image, in the order of their tokens: `start` is the first token of each, `kept` how many it has,
 *  `length` how many with the authors' padding. */
function scales_of(height, width, config) {
  const { conventions, patch_size: P } = config,
    sides = [...config.longer_sides];
  if (config.native) conventions.scale_order === "native_first" ? sides.unshift(0) : sides.push(0);
  let start = 0;
  return sides.map((longer_side, scale_index) => {
    const [h, w] = longer_side ? resized_sides(height, width, longer_side, conventions.resized_sides) : [height, width];
    const rows = Math.ceil(h / P),
      columns = Math.ceil(w / P);
    const most = longer_side ? Math.ceil(longer_side / P) ** 2 : config.max_native_patches;
    const length = most < 0 ? rows * columns : most,
      kept = Math.min(rows * columns, length);
    const scale = { longer_side, scale_index, height: h, width: w, rows, columns, length, kept, start };
    start += kept;
    return scale;
  });
}

/** The tokens of 8-bit pixels, padding left out.
 *  pixels: {width, height, data}, four bytes a pixel as the browser's ImageData has them
 *  returns {patches (1, N, P, P, 3), hash_index, scale_index, mask, scales} */
function tokenize({ width, height, data }, config, tap = (name, x) => x) {
  const x = array([height, width, 3]),
    { patch_size: P, grid_size: G, conventions } = config;
  for (let pixel = 0; pixel < width * height; pixel++)
    for (let c = 0; c < 3; c++) x.data[3 * pixel + c] = 2 * f(data[4 * pixel + c] / 255) - 1;
  const scales = scales_of(height, width, config),
    N = scales.reduce((sum, scale) => sum + scale.kept, 0);
  const tokens = {
    patches: array([1, N, P, P, 3]),
    hash_index: [],
    scale_index: [],
    mask: new Uint8Array(N).fill(1),
    scales,
  };
  scales.forEach((scale, k) => {
    const untouched =
      !scale.longer_side || (conventions.resize === "bicubic" && scale.height === height && scale.width === width);
    const resized = tap(`pixels/scale_${k}`, untouched ? x : resize(x, scale.height, scale.width, conventions.resize));
    const values = scale.kept * P * P * 3;
    tokens.patches.data.set(extract_patches(resized, P).data.subarray(0, values), scale.start * P * P * 3);
    tokens.hash_index.push(...hash_index(scale.rows, scale.columns, G, conventions.hash).slice(0, scale.kept));
    tokens.scale_index.push(...Array(scale.kept).fill(scale.scale_index));
  });
  return tokens;
}

/** d/d image, for pixels measured in 0 … 1: `tokenize`, linear in the pixels, transposed.  (1, N, P, P, 3) -> (H, W, 3) */
function tokenize_backward(dpatches, { width, height }, scales, config) {
  const P = config.patch_size,
    values = P * P * 3;
  let dx = array([height, width, 3]);
  for (const { longer_side, start, kept, rows, columns, height: h, width: w } of scales) {
    const all = array([rows * columns, P, P, 3]);
    all.data.set(dpatches.data.subarray(start * values, (start + kept) * values));
    const dresized = extract_patches_backward(all, h, w);
    dx = add(dx, longer_side ? resize_backward(dresized, [height, width], config.conventions.resize) : dresized);
  }
  return array(dx.shape, dx.data.map((value) => 2 * value));
}
