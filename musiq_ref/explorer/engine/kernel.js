// What matrix products are made of: a small WebAssembly module with 128-bit SIMD, assembled here byte by byte; plain
// JavaScript where that is missing or forbidden.
"use strict";

/** C += A·B on the floats of one memory, all addresses and steps in bytes: what the WebAssembly function does, too.
 *  a: A, element (i, k) at a + i·row + k·step;  b: B in panels of 8 columns, one after the other;
 *  c: C, row by row;  M: a multiple of 4;  N: a multiple of 8 */
function plain_kernel(memory) {
  return (a, b, c, M, K, N, row, step) => {
    const floats = memory.floats,
      stride = step >> 2;
    for (let i = 0; i < M; i++)
      for (let j = 0; j < N; j++) {
        let from = (a + i * row) >> 2,
          panel = (b >> 2) + (j - (j % 8)) * K + (j % 8),
          sum = 0;
        for (let k = 0; k < K; k++, from += stride, panel += 8) sum += floats[from] * floats[panel];
        floats[(c >> 2) + i * N + j] += sum;
      }
  };
}

/** The bytes of the module. Its one function keeps 4 rows × 8 columns of C in eight registers while it runs along k:
 *
 *    for j in 0, 8, … N:  for i in 0, 4, … M:
 *      sums = 0;  for k in 0 … K:  for r in 0 … 4:  sums[r] += splat(A[i+r, k]) · B[k, j … j+8]
 *      C[i … i+4, j … j+8] += sums
 *
 *  fused: multiply and add in one step, which not every browser knows */
function assemble(fused) {
  const leb = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...leb(n >> 7)]);
  const vector = (items) => [...leb(items.length), ...items.flat()];
  const section = (id, content) => [id, ...vector(content)];
  const get = (x) => [0x20, x],
    set = (x) => [0x21, x],
    constant = (n) => [0x41, n];
  const ADD = 0x6a,
    MULTIPLY = 0x6c,
    LESS = 0x48,
    I32 = 0x7f,
    V128 = 0x7b;
  const simd = (...code) => [0xfd, ...code],
    memory_at = (offset) => [2, ...leb(offset)]; // 2: aligned to 4 bytes
  const load = (offset) => simd(0, ...memory_at(offset)),
    splat = simd(9, ...memory_at(0));
  const store = (offset) => simd(11, ...memory_at(offset)),
    zero = simd(12, ...Array(16).fill(0));
  const vector_add = simd(...leb(228)),
    vector_multiply = simd(...leb(230)),
    vector_fused = simd(...leb(261));
  const [a, b, c, M, K, N, row, step, j, i, k, p0, p1, p2, p3, panel, place] = Array(17).keys();
  const sum = (r, half) => 17 + 2 * r + half,
    left = 25,
    right = 26,
    one = 27; // 28 locals: 17 numbers, 11 vectors
  const four = [0, 1, 2, 3],
    pointer = [p0, p1, p2, p3];
  const add_to = (x, ...amount) => [...get(x), ...amount.flat(), ADD, ...set(x)];
  const loop = (x, step_by, end, ...body) => [
    ...constant(0),
    ...set(x),
    0x03,
    0x40,
    ...body.flat(2),
    ...add_to(x, constant(step_by)),
    ...get(x),
    ...get(end),
    LESS,
    0x0d,
    0,
    0x0b,
  ];
  const along_k = [
    get(panel),
    load(0),
    set(left),
    get(panel),
    load(16),
    set(right),
    add_to(panel, constant(32)),
    ...four.map((r) =>
      [
        get(pointer[r]),
        splat,
        set(one),
        add_to(pointer[r], get(step)),
        ...[left, right].map((part, half) =>
          fused
            ? [get(one), get(part), get(sum(r, half)), vector_fused, set(sum(r, half))].flat()
            : [get(sum(r, half)), get(one), get(part), vector_multiply, vector_add, set(sum(r, half))].flat(),
        ),
      ].flat(),
    ),
  ];
  const code = loop(j, 8, N, [
    loop(i, 4, M, [
      [get(a), get(i), get(row), MULTIPLY, ADD, set(p0)].flat(),
      ...[1, 2, 3].map((r) => [get(pointer[r - 1]), get(row), ADD, set(pointer[r])].flat()),
      [get(b), get(j), get(K), MULTIPLY, constant(4), MULTIPLY, ADD, set(panel)].flat(),
      ...four.flatMap((r) => [0, 1].map((half) => [zero, set(sum(r, half))].flat())),
      loop(k, 1, K, along_k),
      [get(c), get(i), get(N), MULTIPLY, get(j), ADD, constant(4), MULTIPLY, ADD, set(place)].flat(),
      ...four.map((r) =>
        [
          ...[0, 1].map((half) =>
            [get(place), get(place), load(16 * half), get(sum(r, half)), vector_add, store(16 * half)].flat(),
          ),
          add_to(place, get(N), constant(4), MULTIPLY),
        ].flat(),
      ),
    ]),
  ]);
  const body = [...vector([[9, I32], [11, V128]]), ...code, 0x0b]; // 9 and 11 locals beside the 8 parameters
  const text = (word) => vector([...word].map((letter) => [letter.charCodeAt(0)]));
  return new Uint8Array(
    [
      ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0], // "\0asm", version 1
      ...section(1, vector([[0x60, ...vector(Array(8).fill([I32])), 0]])), // a type: eight numbers, no result
      ...section(2, vector([[...text("js"), ...text("memory"), 2, 0, 1]])), // the memory comes from outside
      ...section(3, vector([[0]])),
      ...section(7, vector([[...text("kernel"), 0, 0]])),
      ...section(10, vector([vector(body.map((byte) => [byte]))])),
    ].flat(),
  );
}

/** The module, with or without fused steps; what a browser does not know it refuses. */
function compiled() {
  try {
    return new WebAssembly.Module(assemble(true));
  } catch {
    return new WebAssembly.Module(assemble(false));
  }
}

/** The memory that products are computed in, and the function that does it. */
const scratch = (() => {
  try {
    const memory = new WebAssembly.Memory({ initial: 64 });
    const { kernel } = new WebAssembly.Instance(compiled(), { js: { memory } }).exports;
    const self = { floats: new Float32Array(memory.buffer), kernel, how: "WebAssembly" };
    self.reserve = (count) => {
      if (count <= self.floats.length) return;
      memory.grow(Math.ceil((count - self.floats.length) / 2 ** 14));
      self.floats = new Float32Array(memory.buffer);
    };
    return self;
  } catch {
    const self = { floats: new Float32Array(2 ** 20), how: "JavaScript" };
    self.kernel = plain_kernel(self);
    self.reserve = (count) => {
      if (count > self.floats.length) self.floats = new Float32Array(count);
    };
    return self;
  }
})();
