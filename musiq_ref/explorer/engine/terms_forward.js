// The rules of the forward: pixels, stem and embeddings; then the encoder.
"use strict";

/** The terms of one value of a patch: of the photograph itself, or of the taps of the filter that resized it. */
function pixel_terms(m, n, row, column, c) {
  const { scales } = m.tokens,
    P = m.config.patch_size,
    { width, height, data } = m.pixels;
  const scale = scales.find(({ start, kept }) => n >= start && n < start + kept),
    index = n - scale.start;
  const y = Math.floor(index / scale.columns) * P + row - same_padding(scale.height, P, P)[0];
  const x = (index % scale.columns) * P + column - same_padding(scale.width, P, P)[0];
  if (y < 0 || x < 0 || y >= scale.height || x >= scale.width) return [term("padding", 0)];
  const u = (i, j) => data[4 * (i * width + j) + c],
    { resize: kind } = m.config.conventions;
  if (!scale.longer_side || (kind === "bicubic" && scale.height === height && scale.width === width))
    return [term(`2·${u(y, x)}/255`, (2 * u(y, x)) / 255), term("−1", -1)];
  const rows = TAPS[kind](height, scale.height)[y],
    columns = TAPS[kind](width, scale.width)[x];
  return rows.flatMap(([i, a]) =>
    columns.map(([j, b]) => term(`pixel ${i},${j}`, a * b * ((2 * u(i, j)) / 255 - 1), a * b, (2 * u(i, j)) / 255 - 1)),
  );
}

const FORWARD = [
  [
    /^patches$/,
    (m, _, [, n, row, column, c]) => {
      const terms = pixel_terms(m, n, row, column, c),
        itself = terms.length === 2;
      return {
        formula: itself ? "x = 2·u/255 − 1" : "Σ weight·pixel of the photograph around it",
        equation: "pixels and resize",
        source: itself ? SOURCE.normalize : SOURCE.resize,
        terms,
      };
    },
  ],
  [
    /^patch_embedding$/,
    (m, _, [, n, j]) => ({
      formula: "E_p = features·W + b",
      equation: "Eq. 1",
      source: SOURCE.linear,
      terms: linear_terms(
        m.config.stem === "linear"
          ? row_of(reshape(m.stage("patches"), m.tokens.hash_index.length, m.params.patch_embedding.kernel.shape[0]), n)
          : m.of_patch("stem/output", n).data,
        m.params.patch_embedding.kernel,
        m.params.patch_embedding.bias,
        j,
      ),
    }),
  ],
  [
    /^spatial_embedding$/,
    (m, _, [, n, j]) => ({
      formula: "E_p + T[hash]",
      equation: "Eq. 2, E_HSE",
      source: SOURCE.add_rows,
      terms: [
        term(`E_p[${j}]`, row_of(m.stage("patch_embedding"), m.source_of(n))[j]),
        term(
          `T[${m.tokens.hash_index[n]}, ${j}]`,
          row_of(m.stage("spatial_embedding"), n)[j] - row_of(m.stage("patch_embedding"), m.source_of(n))[j],
        ),
      ],
    }),
  ],
  [
    /^scale_embedding$/,
    (m, _, [, n, j]) => ({
      formula: "E_p + E_HSE + S[scale]",
      equation: "Eq. 2, E_SCE",
      source: SOURCE.add_rows,
      terms: [
        term(`(E_p + E_HSE)[${j}]`, row_of(m.stage("spatial_embedding"), n)[j]),
        term(
          `S[${m.tokens.scale_index[n]}, ${j}]`,
          row_of(m.stage("scale_embedding"), n)[j] - row_of(m.stage("spatial_embedding"), n)[j],
        ),
      ],
    }),
  ],
  [
    /^encoder\/input$/,
    (m, _, [, n, j]) => ({
      formula: "z₀ = [class; E_p + E_HSE + E_SCE]",
      equation: "Eq. 2",
      source: SOURCE.concatenate,
      terms: [term(n === 0 ? `class[${j}]` : `token ${n - 1}[${j}]`, row_of(m.stage("encoder/input"), n)[j])],
    }),
  ],
  [
    /^encoder\/norm$/,
    (m, _, [, n, j]) => ({
      formula: NORM,
      equation: "Eq. 5",
      source: SOURCE.layer_norm,
      terms: norm_terms(row_of(m.stage(input_of(m.config.layers)), n), m.params.encoder.norm, j).terms,
    }),
  ],
  [
    /^(encoder\/block_(\d+))\/norm1$/,
    (m, [, b, i], [, n, j]) => ({
      formula: NORM,
      equation: "LN in Eq. 3",
      source: SOURCE.layer_norm,
      terms: norm_terms(row_of(m.stage(input_of(Number(i))), n), params_at(m, b).norm1, j).terms,
    }),
  ],
  [
    /^(encoder\/block_\d+)\/norm2$/,
    (m, [, b], [, n, j]) => ({
      formula: NORM,
      equation: "LN in Eq. 4",
      source: SOURCE.layer_norm,
      terms: norm_terms(row_of(m.stage(`${b}/residual1`), n), params_at(m, b).norm2, j).terms,
    }),
  ],
  [
    /^stem\/pool$/,
    (m, _, [n, i, j, c]) => {
      const x = m.of_patch("stem/relu_root", n),
        half = x.shape[1],
        top = same_padding(half, 3, 2)[0],
        found = [];
      for (let a = Math.max(0, 2 * i - top); a < Math.min(half, 2 * i - top + 3); a++)
        for (let b = Math.max(0, 2 * j - top); b < Math.min(half, 2 * j - top + 3); b++)
          found.push([a, b, x.data[(a * half + b) * 64 + c]]);
      const [a, b, largest] = found.reduce((most, one) => (one[2] > most[2] ? one : most));
      return {
        formula: `the largest of ${found.length} neighbours`,
        equation: "stem",
        source: SOURCE.pool,
        terms: [term(`at ${a},${b}`, largest)],
      };
    },
  ],
  [
    /^stem\/output$/,
    (m, _, [n, i, j, c]) => {
      const [branch, shortcut] = ["stem/gn3", "stem/gn_proj"].map((name) => m.of_patch(name, n)),
        at = (i * branch.shape[2] + j) * 256 + c;
      const sum = branch.data[at] + shortcut.data[at];
      return {
        formula: "max(0, bottleneck + shortcut)",
        equation: "stem",
        source: SOURCE.stem_sum,
        terms: [
          term("bottleneck", branch.data[at]),
          term("shortcut", shortcut.data[at]),
          ...(sum < 0 ? [term("below 0: cut off", -sum)] : []),
        ],
      };
    },
  ],
  [
    /^stem\/conv_root$/,
    (m, _, [n, i, j, o]) => {
      const P = m.config.patch_size,
        patch = array([1, P, P, 3], m.stage("patches").data.slice(n * P * P * 3, (n + 1) * P * P * 3));
      const part = new Float32Array(147),
        [kernel] = standardize(m.params.stem.conv_root.kernel, m.config.conventions.weight_std_ddof);
      windows(patch, 7, 2).gather(part, 0, i * Math.ceil(P / 2) + j, 1);
      return {
        formula: "Σ pixel·ŵ over a window of 7×7×3",
        equation: "stem",
        source: SOURCE.conv,
        terms: Array.from(part, (x, k) =>
          term(
            `pixel ${Math.floor(k / 21)},${Math.floor(k / 3) % 7} ${"RGB"[k % 3]}·ŵ`,
            x * kernel.data[k * 64 + o],
            x,
            kernel.data[k * 64 + o],
          ),
        ),
      };
    },
  ],
];
