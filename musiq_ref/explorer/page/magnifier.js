// Pixels: the enlarged patch, and the gradient to every pixel.

/** The chosen patch, enlarged: a square a pixel. Forward its colours, backward its gradient. */
async function magnifier() {
  const P = config.patch_size,
    token = Math.max(0, state.token),
    start = token * P * P * 3,
    { back } = state,
    values = await slice("patches", start, P * P * 3, back),
    most = largest_of(values);
  const rgb = (i) => [...values.subarray(3 * i, 3 * i + 3)],
    bytes = (i) => rgb(i).map((v) => Math.round(127.5 * (v + 1))),
    place = (i) => `row ${Math.floor(i / P)}, column ${i % P}`,
    words = (i) =>
      `${place(i)}: ${back ? `gradient ${rgb(i).map((v) => shown(v)).join(", ")}` : `red, green, blue ${bytes(i).join(", ")}`}`;
  const readout = h("figcaption", {}, "Point at a pixel, or reach it with the arrow keys.");
  const box = cells({
    columns: P,
    count: P * P,
    zoom: Math.max(6, Math.floor(288 / P)),
    kind: "magnifier",
    label: `${token_label(token)}, enlarged: ${P} by ${P} pixels`,
    paint: (i) => (back ? colour(rgb(i).reduce((a, b) => a + b), most * 2) : `rgb(${bytes(i).join()})`),
    words,
    told: (i) => {
      readout.textContent = words(i);
      const c = rgb(i).reduce((best, v, k, all) => (Math.abs(v) > Math.abs(all[best]) ? k : best), 0);
      show_sum_calmly({ name: "patches", start, back, place: `${["red", "green", "blue"][c]} at ${place(i)}` }, 3 * i + c, rgb(i)[c]);
    },
  });
  return [h("figure", { class: "visual" }, box, readout)];
}

/** The gradient to every pixel of the photograph: its strength everywhere, and its signs in the chosen patch. */
async function pixel_gradient() {
  const { shape: [height, width], data } = await ask("gradient", "image"),
    side = Math.max(1, Math.round(width / 150)),
    columns = Math.ceil(width / side),
    strength = new Float32Array(columns * Math.ceil(height / side));
  for (let i = 0; i < data.length; i++) {
    const pixel = Math.floor(i / 3),
      x = pixel % width,
      y = Math.floor(pixel / width);
    strength[Math.floor(y / side) * columns + Math.floor(x / side)] += Math.abs(data[i]);
  }
  const most = strength.slice().sort()[Math.floor(0.995 * strength.length)];
  const pixel = (i) => ({
    y: Math.min(height - 1, Math.floor(i / columns) * side + (side >> 1)),
    x: Math.min(width - 1, (i % columns) * side + (side >> 1)),
  });
  const words = (i) => `red of the pixel in row ${pixel(i).y}, column ${pixel(i).x}`;
  const box = cells({
    columns,
    count: strength.length,
    zoom: 4,
    kind: "wide-map",
    label: "how strongly the score depends on every pixel",
    paint: (i) => colour(strength[i], most),
    words,
    told: (i) => {
      const at = (pixel(i).y * width + pixel(i).x) * 3;
      show_sum_calmly({ name: "image", start: 0, back: true, place: words(i) }, at, data[at]);
    },
  });
  const caption = "The stronger the orange, the more the score depends on these pixels. Point at one for its sum over the sizes.";
  return [
    h("figure", { class: "visual" }, box, h("figcaption", {}, caption)),
    h("h3", {}, `With its signs: what came through ${token_label(Math.max(0, state.token))}`),
    ...(await magnifier()),
  ];
}
