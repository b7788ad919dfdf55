// The question that the page asks: where does this number come from?
"use strict";

/** Where a flat index lies in a stage, and the value there; of the stem, only one patch is computed. */
function locate(model, name, flat, back) {
  if (name.startsWith("stem/")) {
    const one = size_of(model.of_patch(name, 0).shape),
      token = Math.floor(flat / one),
      { shape: [, ...rest], data } = model.of_patch(name, token, back);
    const shape = [model.tokens.hash_index.length, ...rest];
    return { place: unravel(flat, shape), value: data[flat - token * one], shape };
  }
  const { shape, data } = back ? model.gradient(name) : model.stage(name);
  return { place: unravel(flat, shape), value: data[flat], shape };
}

/** {value, formula, equation, source, shape, terms, rest}: the largest terms first, the others together.
 *  flat: the index into the stage's numbers;  back: the gradient to it instead */
function explain(model, name, flat, back = false, most = 10) {
  const { place, value, shape } = locate(model, name, flat, back);
  const [pattern, rule] = (back ? BACKWARD : FORWARD).find(([names]) => names.test(name)) ?? [];
  if (!rule) return { name, place, value, shape, formula: "", equation: "", source: null, terms: [], rest: null };
  const at = [model, pattern.exec(name), place],
    said = (words) => (typeof words === "function" ? words(...at) : words);
  const about = { formula: said(rule.formula), equation: rule.equation, source: said(rule.source) },
    terms = rule.terms(...at);
  const sorted = [...terms].sort((a, b) => Math.abs(b.value) - Math.abs(a.value)),
    others = sorted.slice(most);
  const sum = (list) => list.reduce((total, { value }) => total + value, 0);
  return {
    name,
    place,
    value,
    shape,
    ...about,
    terms: sorted.slice(0, most),
    count: terms.length,
    total: sum(terms),
    rest: others.length ? { count: others.length, value: sum(others) } : null,
  };
}
