// What the stations show besides strips: the enlarged patch, feature maps, the hash grid, splits and sums.

/** The chosen patch, enlarged: a square a pixel. Forward its colours, backward its gradient. */
async function magnifier() {
  const P = config.patch_size, token = Math.max(0, state.token), start = token * P * P * 3, values = await slice("patches", start, P * P * 3, state.back);
  const most = largest_of(values), zoom = Math.max(6, Math.floor(288 / P));
  const canvas = h("canvas", { width: P * zoom, height: P * zoom, class: "magnifier", role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": P * P - 1, "aria-valuenow": 0, "aria-label": `${token_label(token)}, enlarged: ${P} by ${P} pixels` });
  const context = canvas.getContext("2d"), words = h("p", { class: "readout", "aria-live": "polite" }, "Move over a pixel.");
  let at = -1;
  const paint = () => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < P * P; i++) {
      const [r, g, b] = values.subarray(3 * i, 3 * i + 3);
      context.fillStyle = state.back ? colour(r + g + b, most * 2) : `rgb(${[r, g, b].map((v) => Math.round(127.5 * (v + 1))).join()})`;
      context.fillRect((i % P) * zoom, Math.floor(i / P) * zoom, zoom, zoom);
    }
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    if (at >= 0) context.strokeRect((at % P) * zoom + 1, Math.floor(at / P) * zoom + 1, zoom - 2, zoom - 2);
  };
  const point = (i) => {
    if (i < 0 || i >= P * P || i === at) return;
    at = i;
    paint();
    const rgb = [...values.subarray(3 * i, 3 * i + 3)];
    words.textContent = `row ${Math.floor(i / P)}, column ${i % P}: ` + (state.back ? `gradient ${rgb.map((v) => shown(v)).join(", ")}` : `red, green, blue = ${rgb.map((v) => Math.round(127.5 * (v + 1))).join(", ")} → ${rgb.map((v) => shown(v, 2)).join(", ")}`);
    canvas.setAttribute("aria-valuenow", i);
    canvas.setAttribute("aria-valuetext", words.textContent);
    show_sum_calmly({ name: "patches", start, back: state.back, label: `pixels of ${token_label(token)}` }, 3 * i, values[3 * i]);
  };
  canvas.addEventListener("pointermove", (event) => {
    const area = canvas.getBoundingClientRect();
    point(Math.floor(((event.clientY - area.top) / area.height) * P) * P + Math.floor(((event.clientX - area.left) / area.width) * P));
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: P, ArrowUp: -P }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    point(Math.min(P * P - 1, Math.max(0, at + step)));
  });
  paint();
  return [h("figure", { class: "visual" }, canvas, words)].flat();
}

/** The gradient to every pixel of the photograph: its strength everywhere, and its signs in the chosen patch. */
async function pixel_gradient() {
  const { shape: [height, width], data } = await ask("gradient", "image"), side = Math.max(1, Math.round(width / 150));
  const columns = Math.ceil(width / side), rows = Math.ceil(height / side), strength = new Float32Array(rows * columns);
  for (let i = 0; i < data.length; i++) strength[Math.floor(Math.floor(i / (3 * width)) / side) * columns + Math.floor((Math.floor(i / 3) % width) / side)] += Math.abs(data[i]);
  const most = strength.slice().sort()[Math.floor(0.995 * strength.length)];
  const canvas = h("canvas", { width: columns, height: rows, class: "wide-map", role: "img", "aria-label": "how strongly the score depends on every pixel" }), context = canvas.getContext("2d");
  strength.forEach((value, i) => {
    context.fillStyle = colour(value, most);
    context.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
  canvas.addEventListener("pointermove", (event) => {
    const area = canvas.getBoundingClientRect(), x = Math.floor(((event.clientX - area.left) / area.width) * width), y = Math.floor(((event.clientY - area.top) / area.height) * height);
    if (x >= 0 && y >= 0 && x < width && y < height) show_sum_calmly({ name: "image", start: 0, back: true, label: `pixel ${y},${x}, red` }, (y * width + x) * 3, data[(y * width + x) * 3]);
  });
  return [h("figure", { class: "visual" }, canvas, h("figcaption", {}, "The stronger the orange, the more the score depends on these pixels. Move over it for the sum.")),
    h("h3", {}, `With its signs, in ${token_label(Math.max(0, state.token))}`), ...(await magnifier())];
}

function scale_table() {
  const head = h("tr", {}, ...["size", "pixels", "patches", "tokens"].map((word) => h("th", { scope: "col" }, word)));
  const rows = picture.scales.map(({ longer_side, width, height, columns, rows, kept }) => h("tr", {}, h("th", { scope: "row" }, longer_side ? `longer side ${longer_side}` : "native"), h("td", {}, `${width}×${height}`), h("td", {}, `${columns}×${rows}`), h("td", {}, kept)));
  return [h("table", { class: "plain" }, h("thead", {}, head), h("tbody", {}, rows))];
}

/** The G × G table of places: how many patches share each cell, and which is the chosen one's. */
async function hash_grid() {
  const G = config.grid_size, counts = new Array(G * G).fill(0), cell = state.token === CLASS ? -1 : facts.hash_index[state.token];
  facts.hash_index.forEach((place) => counts[place]++);
  const most = Math.max(...counts), size = 20;
  const cells = counts.map((count, i) => s("rect", { x: (i % G) * size + 1, y: Math.floor(i / G) * size + 1, width: size - 2, height: size - 2, class: i === cell ? "cell lit" : "cell", style: `--share:${count / most}` }, s("title", {}, `row ${Math.floor(i / G)}, column ${i % G}: ${count} patches`)));
  const words = cell < 0 ? "The class token has no place." : `Cell (${Math.floor(cell / G)}, ${cell % G}) of ${G}×${G}, shared by ${counts[cell]} patches, of all sizes.`;
  return h("figure", { class: "visual" }, s("svg", { viewBox: `0 0 ${G * size} ${G * size}`, class: "hash", role: "img", "aria-label": words }, ...cells), h("figcaption", {}, words));
}

/** The stem's answers for one patch, a small map a filter. */
async function feature_maps() {
  const token = Math.max(0, state.token), P = config.patch_size;
  return Promise.all([["stem/conv_root", "first filters, 7×7", P / 2, 64], ["stem/pool", "strongest of each neighbourhood", P / 4, 64], ["stem/output", "what leaves the stem", P / 4, 256]].map(async ([name, label, side, C]) => {
    const start = token * side * side * C, { data: values } = await ask("of_patch", { name, token, back: state.back }), most = largest_of(values);
    const columns = C === 64 ? 16 : 32, gap = 1, step = side + gap, zoom = C === 64 ? 3 : 2;
    const canvas = h("canvas", { width: columns * step * zoom, height: Math.ceil(C / columns) * step * zoom, class: "maps", role: "img", "aria-label": `${label}: ${C} maps of ${side} by ${side}` }), context = canvas.getContext("2d");
    const rate = (at) => values[(at.y * side + at.x) * C + at.c];
    for (let c = 0; c < C; c++)
      for (let y = 0; y < side; y++)
        for (let x = 0; x < side; x++) {
          context.fillStyle = colour(rate({ x, y, c }), most);
          context.fillRect(((c % columns) * step + x) * zoom, (Math.floor(c / columns) * step + y) * zoom, zoom, zoom);
        }
    canvas.addEventListener("pointermove", (event) => {
      const area = canvas.getBoundingClientRect(), px = Math.floor(((event.clientX - area.left) / area.width) * columns * step), py = Math.floor(((event.clientY - area.top) / area.height) * Math.ceil(C / columns) * step);
      const x = px % step, y = py % step, c = Math.floor(py / step) * columns + Math.floor(px / step);
      if (x < side && y < side && c < C) show_sum_calmly({ name, start, back: state.back, label: `${label}: filter ${c} at ${y},${x}`, why: "Convolution, normalisation, the larger of 0 and it: see the expert's list below." }, (y * side + x) * C + c, rate({ x, y, c }));
    });
    return h("figure", { class: "vector" }, h("figcaption", {}, h("b", {}, label), ` ${C} filters, ${side}×${side}`), canvas);
  }));
}

/** How a gradient splits at a residual join and adds again, for the chosen token: lengths of vectors. */
async function residual_split(after, block, branch) {
  const D = config.width, start = (state.token + 1) * D, b = `encoder/block_${two(block)}`;
  const incoming = after === "output" ? `${b}/output` : `${b}/residual1`;
  const outgoing = after === "output" ? `${b}/residual1` : block === 0 ? "encoder/input" : `encoder/block_${two(block - 1)}/output`;
  const [before, joined] = [await slice(incoming, start, D, true), await slice(outgoing, start, D, true)];
  const length = (x) => Math.hypot(...x), through = joined.map((value, i) => value - before[i]);
  const [a, c, d] = [length(before), length(through), length(joined)], most = Math.max(a, c, d) || 1;
  const pipe = (path, size, label, x, y) => [s("path", { d: path, class: "pipe", "stroke-width": 2 + (14 * size) / most }), s("text", { x, y, class: "label middle" }, `${label} ${shown(size)}`)];
  const drawing = s("svg", { viewBox: "0 0 420 150", class: "split", role: "img", "aria-label": `gradient ${shown(a)} splits: straight ${shown(a)}, through the ${branch} ${shown(c)}; together ${shown(d)}` },
    ...pipe("M10 60H110", a, "arrives", 60, 40), ...pipe("M110 60C150 20 270 20 310 60", a, "straight past", 210, 20), ...pipe("M110 60C150 130 270 130 310 60", c, `through the ${branch}`, 210, 142), ...pipe("M310 60H410", d, "leaves", 362, 40));
  return [h("figure", { class: "visual" }, drawing, h("figcaption", {}, `Lengths of the gradient of ${token_label(state.token)}. The two ways add as vectors, so the sum may be longer or shorter than either.`))];
}

function distribution_chart() {
  const shares = facts.distribution;
  if (!shares) return [];
  const most = Math.max(...shares), wide = 400 / shares.length;
  return [h("figure", { class: "visual" }, s("svg", { viewBox: "0 0 400 120", class: "chart", role: "img", "aria-label": "distribution of scores" },
    ...shares.map((share, k) => s("rect", { x: k * wide + 1, y: 100 - (90 * share) / most, width: Math.max(1, wide - 2), height: (90 * share) / most, class: "column" }, s("title", {}, `score ${k + 1}: ${(100 * share).toFixed(1)} %`)))),
    h("figcaption", {}, `How likely each score 1 … ${shares.length} is; the score is their mean.`))];
}
