// Pixels: the enlarged patch, and the gradient to every pixel.

/** The chosen patch, enlarged: a square a pixel. Forward its colours, backward its gradient. */
async function magnifier() {
  const P = config.patch_size,
    token = Math.max(0, state.token),
    start = token * P * P * 3,
    values = await slice("patches", start, P * P * 3, state.back);
  const most = largest_of(values),
    zoom = Math.max(6, Math.floor(288 / P));
  const canvas = h("canvas", {
    width: P * zoom,
    height: P * zoom,
    class: "magnifier",
    role: "slider",
    tabindex: 0,
    "aria-valuemin": 0,
    "aria-valuemax": P * P - 1,
    "aria-valuenow": 0,
    "aria-label": `${token_label(token)}, enlarged: ${P} by ${P} pixels`,
  });
  const context = canvas.getContext("2d"),
    words = h("p", { class: "readout", "aria-live": "polite" }, "Move over a pixel.");
  let at = -1;
  const paint = () => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < P * P; i++) {
      const [r, g, b] = values.subarray(3 * i, 3 * i + 3);
      context.fillStyle = state.back
        ? colour(r + g + b, most * 2)
        : `rgb(${[r, g, b].map((v) => Math.round(127.5 * (v + 1))).join()})`;
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
    words.textContent =
      `row ${Math.floor(i / P)}, column ${i % P}: ` +
      (state.back
        ? `gradient ${rgb.map((v) => shown(v)).join(", ")}`
        : `red, green, blue = ${rgb.map((v) => Math.round(127.5 * (v + 1))).join(", ")} → ${rgb.map((v) => shown(v, 2)).join(", ")}`);
    canvas.setAttribute("aria-valuenow", i);
    canvas.setAttribute("aria-valuetext", words.textContent);
    show_sum_calmly(
      { name: "patches", start, back: state.back, label: `pixels of ${token_label(token)}` },
      3 * i,
      values[3 * i],
    );
  };
  canvas.addEventListener("pointermove", (event) => {
    const area = canvas.getBoundingClientRect();
    point(
      Math.floor(((event.clientY - area.top) / area.height) * P) * P +
        Math.floor(((event.clientX - area.left) / area.width) * P),
    );
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
  const {
      shape: [height, width],
      data,
    } = await ask("gradient", "image"),
    side = Math.max(1, Math.round(width / 150));
  const columns = Math.ceil(width / side),
    rows = Math.ceil(height / side),
    strength = new Float32Array(rows * columns);
  for (let i = 0; i < data.length; i++)
    strength[
      Math.floor(Math.floor(i / (3 * width)) / side) * columns + Math.floor((Math.floor(i / 3) % width) / side)
    ] += Math.abs(data[i]);
  const most = strength.slice().sort()[Math.floor(0.995 * strength.length)];
  const canvas = h("canvas", {
      width: columns,
      height: rows,
      class: "wide-map",
      role: "img",
      "aria-label": "how strongly the score depends on every pixel",
    }),
    context = canvas.getContext("2d");
  strength.forEach((value, i) => {
    context.fillStyle = colour(value, most);
    context.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
  canvas.addEventListener("pointermove", (event) => {
    const area = canvas.getBoundingClientRect(),
      x = Math.floor(((event.clientX - area.left) / area.width) * width),
      y = Math.floor(((event.clientY - area.top) / area.height) * height);
    if (x >= 0 && y >= 0 && x < width && y < height)
      show_sum_calmly(
        { name: "image", start: 0, back: true, label: `pixel ${y},${x}, red` },
        (y * width + x) * 3,
        data[(y * width + x) * 3],
      );
  });
  return [
    h(
      "figure",
      { class: "visual" },
      canvas,
      h(
        "figcaption",
        {},
        "The stronger the orange, the more the score depends on these pixels. Move over it for the sum.",
      ),
    ),
    h("h3", {}, `With its signs, in ${token_label(Math.max(0, state.token))}`),
    ...(await magnifier()),
  ];
}
