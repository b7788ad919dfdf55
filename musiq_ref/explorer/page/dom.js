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

const slice = (name, start, count, back = false) => ask("slice", { name, start, count, back }).then(({ data }) => data);

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

/** Waits until nobody has called for a moment. */
function calmly(run, wait = 90) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => run(...args), wait);
  };
}
