// Matrix products, in parts that fit into the processor's cache; kernel.js multiplies them.
"use strict";

/** A matrix as a view of numbers: element (i, k) is data[offset + i·row + k·column]. */
function matrix(data, rows, columns, row = columns, column = 1, offset = 0) {
  return { data, rows, columns, row, column, offset };
}

/** The same numbers with rows and columns exchanged; nothing is copied. */
function transposed(m) {
  return { ...m, rows: m.columns, columns: m.rows, row: m.column, column: m.row };
}

const PANEL = 8,
  ROWS = 4,
  DEPTH = 512, // DEPTH: terms that are summed in float32 before they are added to the rest
  LONG = 1024; // longer sums are made in parts, so that what a part needs stays in the processor's cache

/** A·B as a Float32Array (M·N), added to `out`.
 *  A: a matrix, or { rows, columns, gather(floats, at, first, count) } that writes some of its rows when asked */
function product(A, B, out = zeros(A.rows * B.columns)) {
  const M = A.rows,
    K = A.columns,
    N = B.columns,
    wide = Math.ceil(N / PANEL) * PANEL;
  if (K > LONG && !A.gather) {
    for (let k = 0; k < K; k += LONG) product(columns_of(A, k), transposed(columns_of(transposed(B), k)), out);
    return out;
  }
  const most = Math.max(ROWS, Math.min(Math.ceil(M / ROWS) * ROWS, (2 ** 17 / K) & ~(ROWS - 1)));
  const b_at = 0,
    a_at = K * wide,
    c_at = a_at + most * K;
  scratch.reserve(c_at + most * wide);
  pack(B, scratch.floats, b_at, wide);
  for (let first = 0; first < M; first += most) {
    const count = Math.min(most, M - first),
      padded = Math.ceil(count / ROWS) * ROWS,
      floats = scratch.floats;
    const [row, step] = put_rows(A, floats, a_at, first, count, padded);
    each_row((there, here, length) => floats.set(out.subarray(there, there + length), here), c_at, first, count, N, wide);
    for (let k = 0; k < K; k += DEPTH)
      scratch.kernel(
        4 * (a_at + k * step),
        4 * (b_at + k * wide),
        4 * c_at,
        padded,
        Math.min(DEPTH, K - k),
        wide,
        4 * row,
        4 * step,
      );
    each_row((there, here, length) => out.set(floats.subarray(here, here + length), there), c_at, first, count, N, wide);
  }
  return out;
}

/** Calls copy(place in the result, place in the memory, how many) for rows of C; for all at once, if they are not padded. */
function each_row(copy, at, first, count, N, wide) {
  if (N === wide) return copy(first * N, at, count * N);
  for (let i = 0; i < count; i++) copy((first + i) * N, at + i * wide, N);
}

/** At most LONG columns of a matrix, from one on. */
function columns_of(m, first) {
  return { ...m, columns: Math.min(LONG, m.columns - first), offset: m.offset + first * m.column };
}

/** B into panels of 8 columns: for each DEPTH rows, for each panel, row by row. */
function pack(B, floats, at, wide) {
  const { data, row, column, offset } = B;
  for (let first = 0; first < B.rows; first += DEPTH)
    for (let j = 0, end = Math.min(first + DEPTH, B.rows); j < wide; j += PANEL) {
      const full = Math.min(PANEL, B.columns - j);
      for (let k = first; k < end; k++, at += PANEL) {
        const from = offset + k * row + j * column;
        for (let i = 0; i < full; i++) floats[at + i] = data[from + i * column];
        for (let i = full; i < PANEL; i++) floats[at + i] = 0;
      }
    }
}

/** Rows first … first + count of A into the memory; returns the steps from row to row and from column to column. */
function put_rows(A, floats, at, first, count, padded) {
  const K = A.columns;
  if (A.gather) {
    A.gather(floats, at, first, count);
    return [K, 1];
  }
  const { data, row, column, offset } = A;
  if (column === 1 && row === K) {
    floats.set(data.subarray(offset + first * K, offset + (first + count) * K), at);
    return [K, 1];
  }
  if (column === 1) {
    for (let i = 0, from = offset + first * row; i < count; i++, from += row)
      floats.set(data.subarray(from, from + K), at + i * K);
    return [K, 1];
  }
  for (let k = 0; k < K; k++)
    for (let i = 0, from = offset + first * row + k * column; i < count; i++, from += row)
      floats[at + k * padded + i] = data[from];
  return [1, padded];
}
