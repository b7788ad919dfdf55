// Numbers as cells, each of which tells where it comes from; and the card in which it does.

const CELL = 16,
  NARROW = matchMedia("(max-width: 56rem)"); // as in style.css

/** Moves the mark of the latest cells: {to(step), columns}; null where there is none. */
let pointed = null;

/** A grid of coloured cells, which pointer, finger and arrow keys reach.
 *  zoom: pixels a cell;  every: cells between the lines (0: none);  words(i): what a screen reader says of a cell
 *  told(i, now): called when a cell is pointed at; `now` by a click or a key */
function cells({ columns, count, zoom, every = 0, kind, label, paint, words, told }) {
  const rows = Math.ceil(count / columns),
    canvas = h("canvas", { width: columns * zoom, height: rows * zoom, "aria-hidden": "true" }),
    mark = h("span", { class: "mark", hidden: true }),
    context = canvas.getContext("2d");
  for (let i = 0; i < count; i++) {
    context.fillStyle = paint(i);
    context.fillRect((i % columns) * zoom, Math.floor(i / columns) * zoom, zoom, zoom);
  }
  context.fillStyle = "rgba(128,128,128,.4)";
  for (let x = 0; every && x <= columns; x += every) context.fillRect(Math.min(x * zoom, canvas.width - 1), 0, 1, canvas.height);
  for (let y = 0; every && y <= rows; y += every) context.fillRect(0, Math.min(y * zoom, canvas.height - 1), canvas.width, 1);
  let at = -1;
  const point = (i, now) => {
    if (i < 0 || i >= count || (i === at && !now)) return;
    at = i;
    pointed = { to, columns };
    mark.hidden = false;
    mark.style = `left:${(100 * (i % columns)) / columns}%;top:${(100 * Math.floor(i / columns)) / rows}%;width:${100 / columns}%;height:${100 / rows}%`;
    box.setAttribute("aria-valuenow", i);
    box.setAttribute("aria-valuetext", words(i));
    told(i, now);
  };
  const to = (step) => point(Math.min(count - 1, Math.max(0, at + step)), true);
  const under = ({ clientX, clientY }) => {
    const { left, top, width, height } = canvas.getBoundingClientRect(),
      column = Math.floor(((clientX - left) / width) * columns);
    return column >= 0 && column < columns ? Math.floor(((clientY - top) / height) * rows) * columns + column : -1;
  };
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -count, End: count };
  const box = h(
    "div",
    {
      class: `cells ${kind}`,
      style: kind === "strip" ? `max-width:${(NARROW.matches ? 24 : 17) * columns}px` : null,
      role: "slider",
      tabindex: 0,
      "aria-label": label,
      "aria-valuemin": 0,
      "aria-valuemax": count - 1,
      "aria-valuenow": 0,
      onpointermove: (event) => point(under(event)),
      onclick: (event) => point(under(event), true),
      onfocus: () => at < 0 && point(0, true),
      onkeydown: (event) => {
        if (!(event.key in steps)) return;
        event.preventDefault();
        event.stopPropagation();
        to(steps[event.key]);
      },
    },
    canvas,
    mark,
  );
  return Object.assign(box, { point });
}

/** A vector as a strip.  about: {name of the stage, start: flat index of its first number, back, label, note} */
function strip(values, about) {
  const largest = largest_of(values);
  const box = cells({
    columns: Math.min(values.length, NARROW.matches ? 16 : 32),
    count: values.length,
    zoom: CELL,
    every: 1,
    kind: "strip",
    label: `${about.label}, ${values.length} numbers`,
    paint: (i) => colour(values[i], largest),
    words: (i) => `cell ${i} of ${values.length}: ${shown(values[i])}`,
    told: (i, now) => (now ? show_sum : show_sum_calmly)(about, i, values[i]),
  });
  box.show_largest = () => box.point(values.findIndex((value) => Math.abs(value) === largest), true);
  return h("figure", { class: "vector" }, h("figcaption", {}, h("b", {}, about.label), ` ${about.note ?? ""}`), box);
}

let asked = 0,
  unfolded = !NARROW.matches; // on a phone the card is a line at the bottom, until it is tapped

/** The same cell's neighbours, for fingers. */
function neighbours_of({ to, columns }) {
  const steps = { "←": ["left", -1], "→": ["right", 1], "↑": ["above", -columns], "↓": ["below", columns] };
  const buttons = Object.entries(steps).map(([arrow, [where, step]]) =>
    pill(arrow, () => to(step), { "aria-label": `the number ${where}` }),
  );
  return h("div", { class: "row beside", role: "group", "aria-label": "the numbers beside it" }, ...buttons);
}

/** The card "Where this number comes from" for number i of a strip. */
async function show_sum(about, i, value) {
  const mine = ++asked,
    card = find("sum");
  const found = about.name
    ? await alone(() => mine === asked && ask("explain", { name: about.name, flat: about.start + i, back: about.back })).catch(() => null)
    : null;
  if (mine !== asked) return;
  const cell = about.place ?? `${about.label}, cell ${i}`,
    number = h("b", {}, shown(found?.value ?? value, 4));
  const what = h("span", { class: "what" }, about.back ? `gradient of the score to “${cell}”: ` : `${cell}: `, number);
  const title = h("h3", {}, "Where this number comes from");
  const show = (...parts) =>
    card.replaceChildren(
      h(
        "details",
        { open: unfolded, ontoggle: (event) => (unfolded = event.target.open) },
        h("summary", {}, title, what),
        pointed && neighbours_of(pointed),
        ...parts,
      ),
    );
  if (!found?.formula) return show(h("p", {}, about.why ?? ""));
  const largest = largest_of(found.terms.map((one) => one.value));
  const row = (label, number, factors = "", kind = "") =>
    h(
      "li",
      { class: kind },
      h("span", {}, label, factors ? h("span", { class: "factors" }, factors) : null),
      h("span", { class: "number" }, shown(number)),
      h("span", {
        class: "bar",
        style: `background:${colour(Math.sign(number) || 1, 1)};width:${Math.min(100, (100 * Math.abs(number)) / (largest || 1))}%`,
      }),
    );
  const [file, line] = found.source;
  show(
    h("p", { class: "formula" }, found.formula, " ", h("span", { class: "equation" }, found.equation)),
    h(
      "ol",
      { class: "terms" },
      ...found.terms.map((one) => row(one.label, one.value, one.factors.map((factor) => shown(factor)).join(" × "))),
      found.rest ? row(`${found.rest.count.toLocaleString("en")} smaller terms`, found.rest.value, "", "rest") : null,
      found.count > 1 ? row(`sum of ${found.count.toLocaleString("en")}`, found.total, "", "total") : null,
    ),
    h(
      "p",
      { class: "source" },
      `${about.back ? "gradient/" : ""}${found.name} (${found.shape.join(", ")})`,
      h("code", {}, line),
      `musiq_ref/${file}`,
    ),
  );
}

const show_sum_calmly = calmly(show_sum);
