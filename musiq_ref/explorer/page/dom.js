// Elements, numbers as text, colours, and the conversation with the worker.

/** An element: h("button", { class: "round", onclick }, "text", another) */
function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function s(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

/** A button: what it says, and what it does. */
const pill = (words, onclick, more = {}) => h("button", { class: "pill", onclick, ...more }, words);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("aria-") && name !== "aria-current" && typeof value === "boolean")
      element.setAttribute(name, String(value));
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

const find = (id) => document.getElementById(id);

/** Words for a part of the page that screen readers listen to; nothing where they stand there already, or they would
 *  be read again. */
function tell(id, ...children) {
  const told = h("p", {}, ...children);
  if (find(id).textContent !== told.textContent) find(id).replaceChildren(...told.childNodes);
}

const { config, index, about, photographs } = JSON.parse(find("model").textContent);
const minus = (text) => text.replaceAll("-", "−");

/** A number as people write it. */
function shown(value, digits = 3) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e4 || size < 1e-3) return minus(value.toExponential(1));
  return minus(size >= 100 ? value.toFixed(1) : value.toPrecision(digits));
}

const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(2);

/** Orange for more than 0, blue for less, nothing for 0: on light and on dark. */
function colour(value, largest) {
  const share = Math.min(1, Math.abs(value) / (largest || 1));
  return `rgba(${value >= 0 ? "226,114,0" : "0,114,206"},${share.toFixed(3)})`;
}

const largest_of = (numbers) => numbers.reduce((most, value) => Math.max(most, Math.abs(value)), 0);

/** The worker, asked: ask("stage", "patches") is a Promise. Every question is answered in turn. */
const ask = (() => {
  const source = new Blob([find("engine").textContent], { type: "text/javascript" });
  const thread = new Worker(URL.createObjectURL(source)),
    open = new Map();
  let last = 0;
  thread.onmessage = ({ data: { id, result, error, progress } }) => {
    const { resolve, reject, say } = open.get(id);
    if (progress !== undefined) return say?.(progress);
    open.delete(id);
    error === undefined ? resolve(result) : reject(new Error(error));
  };
  thread.onerror = ({ message }) => open.forEach(({ reject }) => reject(new Error(message)));
  return (call, args, say) =>
    new Promise((resolve, reject) => {
      open.set(++last, { resolve, reject, say });
      thread.postMessage({ id: last, call, args });
    });
})();

/** Runs one conversation of several questions after the other, so that none sees the model as another has changed it.
 *  What it runs must not call `alone` itself, and wait. */
const alone = (() => {
  let before = Promise.resolve();
  return (run) => {
    const mine = before.then(run);
    before = mine.catch(() => {});
    return mine;
  };
})();

const slice = (name, start, count, back = false) => ask("slice", { name, start, count, back }).then(({ data }) => data);

/** A copy of pixels as an ImageData has them, on white; an Error, in one sentence, for anything else. */
function checked(pixels) {
  const { width, height, data } = pixels ?? {},
    whole = (n) => Number.isInteger(n) && n > 0,
    byte = (v) => Number.isInteger(v) && v >= 0 && v <= 255;
  if (!whole(width) || !whole(height) || data?.length !== 4 * width * height || !Array.prototype.every.call(data, byte))
    throw new Error("give {width, height, data} as an ImageData has them: red, green, blue and alpha of each pixel, 0 to 255");
  if (width * height > about.most_pixels)
    throw new Error(`${width}×${height} pixels are too many; this page takes ${about.most_pixels.toLocaleString("en")}`);
  const copy = new Uint8ClampedArray(data);
  for (let i = 0; i < copy.length; i += 4)
    if (copy[i + 3] < 255)
      for (let c = 0; c < 3; c++) copy[i + c] = 255 + ((copy[i + c] - 255) * copy[i + 3]) / 255;
  return { width, height, data: copy };
}

/** Pixels in −1 … 1 (H, W, 3) as an address that an <image> can show. */
function as_picture({ shape: [height, width], data }) {
  const canvas = h("canvas", { width, height }),
    context = canvas.getContext("2d"),
    pixels = context.createImageData(width, height);
  pixels.data.fill(255);
  for (let i = 0; i < width * height; i++)
    for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = 127.5 * (data[3 * i + c] + 1);
  context.putImageData(pixels, 0, 0);
  return canvas.toDataURL();
}

/** One colour a value, (rows, columns), as such an address. */
function as_heat(values, rows, columns, paint) {
  const canvas = h("canvas", { width: columns, height: rows }),
    context = canvas.getContext("2d");
  values.forEach((value, i) => {
    context.fillStyle = paint(value);
    context.fillRect(i % columns, Math.floor(i / columns), 1, 1);
  });
  return canvas.toDataURL();
}

/** Draws, and gives the focus to what now stands for what had it. */
function keeping_focus(draw) {
  const had = document.activeElement,
    part = had.closest("#panel, #views, #rail, #actions"),
    reached = () => [...(part?.querySelectorAll("button, input, canvas, summary, [role=slider]") ?? [])],
    named = (element) => element.id || element.getAttribute("aria-label") || element.textContent,
    place = reached().indexOf(had);
  draw();
  if (place < 0 || had.isConnected) return;
  const there = part.id === "panel" ? find("title") : reached()[place];
  (reached().find((one) => named(one) === named(had)) ?? there)?.focus();
}

/** Waits until nobody has called for a moment. */
function calmly(run, wait = 90) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...args), wait);
  };
}
