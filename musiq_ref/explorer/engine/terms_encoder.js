// The rules of the forward, inside the blocks and after them.
"use strict";

const FORWARD_ENCODER = [
  [
    /^(encoder\/block_\d+)\/attention\/(query|key|value)$/,
    (m, [, b, part], [, h, n, d]) => ({
      formula: `${part[0].toUpperCase()} = LN(z)·W_${part[0]} + b`,
      equation: "Eq. 6",
      source: SOURCE.linear,
      terms: linear_terms(
        row_of(m.stage(`${b}/norm1`), n),
        params_at(m, b).attention[part].kernel,
        params_at(m, b).attention[part].bias,
        h * (m.config.width / m.config.heads) + d,
      ),
    }),
  ],
  [
    /^(encoder\/block_\d+)\/attention\/logits$/,
    (m, [, b], [, h, q, k]) => {
      const query = m.stage(`${b}/attention/query`),
        key = m.stage(`${b}/attention/key`),
        [, , N, D_h] = query.shape;
      const x = row_of(query, h * N + q),
        y = row_of(key, h * N + k),
        scale = 1 / Math.sqrt(D_h);
      return {
        formula: "Q·Kᵀ/√D_h",
        equation: "Eq. 7",
        source: SOURCE.logits,
        terms: Array.from(x, (value, d) => term(`q[${d}]·k[${d}]/√${D_h}`, value * y[d] * scale, value, y[d], scale)),
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/attention\/weights$/,
    (m, [, b], [, h, q, k]) => {
      const weights = m.stage(`${b}/attention/weights`),
        row = row_of(weights, h * weights.shape[2] + q);
      return {
        formula: "A = exp(logit) / Σ exp(logits): the shares of a row sum to 1",
        equation: "Eq. 7",
        source: SOURCE.softmax,
        terms: [term(`share of ${token_name(k)}`, row[k])],
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/attention\/heads$/,
    (m, [, b], [, h, q, d]) => {
      const weights = m.stage(`${b}/attention/weights`),
        value = m.stage(`${b}/attention/value`),
        N = weights.shape[2];
      if (m.changes.heads.includes(`${b.slice(8)}/${h}`))
        return { formula: "this head was silenced", equation: "Eq. 8", source: SOURCE.heads, terms: [] };
      return {
        formula: "SA = A·V",
        equation: "Eq. 8",
        source: SOURCE.heads,
        terms: Array.from(row_of(weights, h * N + q), (a, k) =>
          term(`A·v of ${token_name(k)}`, a * row_of(value, h * N + k)[d], a, row_of(value, h * N + k)[d]),
        ),
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/attention\/out$/,
    (m, [, b], [, n, j]) => ({
      formula: "[SA_1; …; SA_H]·U_m + b",
      equation: "Eq. 9",
      source: SOURCE.linear,
      terms: linear_terms(
        row_of(join_heads(m.stage(`${b}/attention/heads`)), n),
        params_at(m, b).attention.out.kernel,
        params_at(m, b).attention.out.bias,
        j,
      ),
    }),
  ],
  [
    /^(encoder\/block_(\d+))\/residual1$/,
    (m, [, b, i], [, n, j]) => ({
      formula: "z′ = MSA(LN(z)) + z",
      equation: "Eq. 3",
      source: SOURCE.residual1,
      terms: [
        term(`z[${j}]`, row_of(m.stage(input_of(Number(i))), n)[j]),
        term(`MSA[${j}]`, row_of(m.stage(`${b}/attention/out`), n)[j]),
      ],
    }),
  ],
  [
    /^(encoder\/block_\d+)\/mlp\/fc1$/,
    (m, [, b], [, n, j]) => ({
      formula: "LN(z′)·W_1 + b_1",
      equation: "MLP in Eq. 4",
      source: SOURCE.linear,
      terms: linear_terms(
        row_of(m.stage(`${b}/norm2`), n),
        params_at(m, b).mlp.fc1.kernel,
        params_at(m, b).mlp.fc1.bias,
        j,
      ),
    }),
  ],
  [
    /^(encoder\/block_\d+)\/mlp\/gelu$/,
    (m, [, b], [, n, j]) => {
      const x = row_of(m.stage(`${b}/mlp/fc1`), n)[j],
        y = row_of(m.stage(`${b}/mlp/gelu`), n)[j];
      return {
        formula: "GELU(x) = x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))",
        equation: "MLP in Eq. 4",
        source: SOURCE.gelu,
        terms: [term("x·Φ(x)", y, x, y / x)],
      };
    },
  ],
  [
    /^(encoder\/block_\d+)\/mlp\/fc2$/,
    (m, [, b], [, n, j]) => ({
      formula: "GELU(…)·W_2 + b_2",
      equation: "MLP in Eq. 4",
      source: SOURCE.linear,
      terms: linear_terms(
        row_of(m.stage(`${b}/mlp/gelu`), n),
        params_at(m, b).mlp.fc2.kernel,
        params_at(m, b).mlp.fc2.bias,
        j,
      ),
    }),
  ],
  [
    /^(encoder\/block_\d+)\/output$/,
    (m, [, b], [, n, j]) => ({
      formula: "z″ = MLP(LN(z′)) + z′",
      equation: "Eq. 4",
      source: SOURCE.output,
      terms: [
        term(`z′[${j}]`, row_of(m.stage(`${b}/residual1`), n)[j]),
        term(`MLP[${j}]`, row_of(m.stage(`${b}/mlp/fc2`), n)[j]),
      ],
    }),
  ],
  [
    /^head\/logits$/,
    (m, _, [, c]) => ({
      formula: "y = LN(z_L)[class]·W + b",
      equation: "Eq. 5",
      source: SOURCE.linear,
      terms: linear_terms(m.stage("head/class_token").data, m.params.head.kernel, m.params.head.bias, c),
    }),
  ],
];

FORWARD.push(...FORWARD_ENCODER);
