// What the stations show besides strips: tables, the hash grid, feature maps, splits and sums.

function scale_table() {
  const head = h("tr", {}, ...["size", "pixels", "patches", "tokens"].map((word) => h("th", { scope: "col" }, word)));
  const rows = picture.scales.map(({ longer_side, width, height, columns, rows, kept }) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, longer_side ? `longer side ${longer_side}` : "native"),
      h("td", {}, `${width}×${height}`),
      h("td", {}, `${columns}×${rows}`),
      h("td", {}, kept),
    ),
  );
  return [h("table", { class: "plain" }, h("thead", {}, head), h("tbody", {}, rows))];
}

/** The G × G table of places: how many patches share each cell, and which is the chosen one's. */
async function hash_grid() {
  const G = config.grid_size,
    counts = new Array(G * G).fill(0),
    cell = state.token === CLASS ? -1 : facts.hash_index[state.token];
  facts.hash_index.forEach((place) => counts[place]++);
  const most = Math.max(...counts),
    size = 20;
  const cells = counts.map((count, i) =>
    s(
      "rect",
      {
        x: (i % G) * size + 1,
        y: Math.floor(i / G) * size + 1,
        width: size - 2,
        height: size - 2,
        class: i === cell ? "cell lit" : "cell",
        style: `--share:${count / most}`,
      },
      s("title", {}, `row ${Math.floor(i / G)}, column ${i % G}: ${count} patches`),
    ),
  );
  const words =
    cell < 0
      ? "The class token has no place."
      : `Cell (${Math.floor(cell / G)}, ${cell % G}) of ${G}×${G}, shared by ${counts[cell]} patches, of all sizes.`;
  return h(
    "figure",
    { class: "visual" },
    s("svg", { viewBox: `0 0 ${G * size} ${G * size}`, class: "hash", role: "img", "aria-label": words }, ...cells),
    h("figcaption", {}, words),
  );
}

/** The stem's answers for one patch, a small map a filter. */
async function feature_maps() {
  const token = Math.max(0, state.token),
    P = config.patch_size;
  return Promise.all(
    [
      ["stem/conv_root", "first filters, 7×7", P / 2, 64],
      ["stem/pool", "strongest of each neighbourhood", P / 4, 64],
      ["stem/output", "what leaves the stem", P / 4, 256],
    ].map(async ([name, label, side, C]) => {
      const start = token * side * side * C,
        { data: values } = await ask("of_patch", { name, token, back: state.back }),
        most = largest_of(values);
      const columns = C === 64 ? 16 : 32,
        gap = 1,
        step = side + gap,
        zoom = C === 64 ? 3 : 2;
      const canvas = h("canvas", {
          width: columns * step * zoom,
          height: Math.ceil(C / columns) * step * zoom,
          class: "maps",
          role: "img",
          "aria-label": `${label}: ${C} maps of ${side} by ${side}`,
        }),
        context = canvas.getContext("2d");
      const rate = (at) => values[(at.y * side + at.x) * C + at.c];
      for (let c = 0; c < C; c++)
        for (let y = 0; y < side; y++)
          for (let x = 0; x < side; x++) {
            context.fillStyle = colour(rate({ x, y, c }), most);
            context.fillRect(
              ((c % columns) * step + x) * zoom,
              (Math.floor(c / columns) * step + y) * zoom,
              zoom,
              zoom,
            );
          }
      canvas.addEventListener("pointermove", (event) => {
        const area = canvas.getBoundingClientRect(),
          px = Math.floor(((event.clientX - area.left) / area.width) * columns * step),
          py = Math.floor(((event.clientY - area.top) / area.height) * Math.ceil(C / columns) * step);
        const x = px % step,
          y = py % step,
          c = Math.floor(py / step) * columns + Math.floor(px / step);
        if (x < side && y < side && c < C)
          show_sum_calmly(
            {
              name,
              start,
              back: state.back,
              label: `${label}: filter ${c} at ${y},${x}`,
              why: "Convolutions, normalisation, and the larger of 0 and what comes out.",
            },
            (y * side + x) * C + c,
            rate({ x, y, c }),
          );
      });
      return h(
        "figure",
        { class: "vector" },
        h("figcaption", {}, h("b", {}, label), ` ${C} filters, ${side}×${side}`),
        canvas,
      );
    }),
  );
}

/** How a gradient splits at a residual join and adds again, for the chosen token: lengths of vectors. */
async function residual_split(after, block, branch) {
  const D = config.width,
    start = (state.token + 1) * D,
    b = `encoder/block_${two(block)}`;
  const incoming = after === "output" ? `${b}/output` : `${b}/residual1`;
  const outgoing =
    after === "output" ? `${b}/residual1` : block === 0 ? "encoder/input" : `encoder/block_${two(block - 1)}/output`;
  const [before, joined] = [await slice(incoming, start, D, true), await slice(outgoing, start, D, true)];
  const length = (x) => Math.hypot(...x),
    through = joined.map((value, i) => value - before[i]);
  const [a, c, d] = [length(before), length(through), length(joined)],
    most = Math.max(a, c, d) || 1;
  const pipe = (path, size, label, x, y, anchor = "middle") => [
    s("path", { d: path, class: "pipe", "stroke-width": 2 + (14 * size) / most }),
    s("text", { x, y, class: "label", "text-anchor": anchor }, `${label} ${shown(size)}`),
  ];
  const drawing = s(
    "svg",
    {
      viewBox: "0 0 420 150",
      class: "split",
      role: "img",
      "aria-label": `gradient ${shown(a)} splits: straight ${shown(a)}, through the ${branch} ${shown(c)}; together ${shown(d)}`,
    },
    ...pipe("M10 60H110", a, "arrives", 4, 36, "start"),
    ...pipe("M110 60C150 20 270 20 310 60", a, "straight past", 210, 20),
    ...pipe("M110 60C150 130 270 130 310 60", c, `through the ${branch}`, 210, 142),
    ...pipe("M310 60H410", d, "leaves", 416, 36, "end"),
  );
  return [
    h(
      "figure",
      { class: "visual" },
      drawing,
      h(
        "figcaption",
        {},
        `Lengths of the gradient of ${token_label(state.token)}. The two ways add as vectors, so the sum may be longer or shorter than either.`,
      ),
    ),
  ];
}

function distribution_chart() {
  const shares = facts.distribution;
  if (!shares) return [];
  const most = Math.max(...shares),
    wide = 400 / shares.length;
  return [
    h(
      "figure",
      { class: "visual" },
      s(
        "svg",
        { viewBox: "0 0 400 120", class: "chart", role: "img", "aria-label": "distribution of scores" },
        ...shares.map((share, k) =>
          s(
            "rect",
            {
              x: k * wide + 1,
              y: 100 - (90 * share) / most,
              width: Math.max(1, wide - 2),
              height: (90 * share) / most,
              class: "column",
            },
            s("title", {}, `score ${k + 1}: ${(100 * share).toFixed(1)} %`),
          ),
        ),
      ),
      h("figcaption", {}, `How likely each score 1 … ${shares.length} is; the score is their mean.`),
    ),
  ];
}
