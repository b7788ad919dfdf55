// Attention, to be looked at and bent: lines, heads, single logits.

const changes_none = () => ({ hidden: [], places: {}, heads: [], logits: {}, swapped: [] });

/** The shares that the chosen token gives to all others, one head or their mean: (1 + N,) */
async function shares_of(token = state.token) {
  const N = picture.tokens + 1,
    heads = state.all_heads ? [...Array(config.heads).keys()] : [state.head];
  const rows = await Promise.all(
    heads.map((head) => slice(in_block("attention/weights"), (head * N + token + 1) * N, N)),
  );
  return rows[0].map((_, k) => rows.reduce((sum, row) => sum + row[k], 0) / rows.length);
}

/** What the picture shows at this station: heat by share, lines to the largest. */
async function attention_look() {
  const shares = await shares_of(),
    largest = Math.max(...shares),
    best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 14);
  return {
    heat: shares.slice(1).map((share) => share / largest),
    class_heat: shares[0] / largest,
    paint: (share) => `rgba(226,114,0,${(0.75 * share).toFixed(3)})`,
    from: state.token,
    lines: best.filter((k) => k - 1 !== state.token).map((k) => ({ to: k - 1, share: shares[k] / largest })),
  };
}

const key_of = () => `block_${two(state.block)}/${state.head}/${state.token + 1}/${state.key + 1}`;

const token_of = (row) => (row === 0 ? "class token" : `token ${row - 1}`);

/** A head to choose and to silence. */
function head_choice(i) {
  const name = `block_${two(state.block)}/${i}`,
    { heads } = state.changes,
    silent = heads.includes(name);
  const mute = () => change({ heads: silent ? heads.filter((one) => one !== name) : [...heads, name] });
  return h(
    "span",
    { class: "head-choice" },
    pill(`head ${i + 1}`, () => go({ head: i, all_heads: false }), { "aria-pressed": !state.all_heads && state.head === i }),
    pill("mute", mute, {
      class: "mute",
      "aria-pressed": silent,
      "aria-label": `mute head ${i + 1}`,
    }),
  );
}

/** Heads, who asks, the largest shares, and a slider for one logit. */
async function attention_panel() {
  const shares = await shares_of(),
    best = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 6),
    patch = state.token === CLASS ? state.last_patch : state.token,
    asker = token_label(state.token),
    row = (...children) => h("div", { class: "row", role: "group" }, ...children);
  const share = (k) => [
    h("span", { class: "bar", style: `width:${Math.max(2, (110 * shares[k]) / shares[best[0]])}px` }),
    ` ${token_of(k)} `,
    h("b", {}, `${(100 * shares[k]).toFixed(1)} %`),
  ];
  const choose = (k) => () => go({ key: k - 1, all_heads: false }),
    look = (k) => ({ class: "plain-button", "aria-pressed": state.key === k - 1 });
  const parts = [
    row(
      pill("mean of all", () => go({ all_heads: true }), { "aria-pressed": state.all_heads }),
      ...Array.from({ length: config.heads }, (_, i) => head_choice(i)),
    ),
    row(
      pill("ask from the class token", () => go({ token: CLASS }), { "aria-pressed": state.token === CLASS }),
      pill(`ask from token ${patch}`, () => go({ token: patch }), { "aria-pressed": state.token !== CLASS }),
    ),
    h("p", { class: "small" }, `${asker[0].toUpperCase()}${asker.slice(1)} looks most at`),
    h("ol", { class: "shares" }, ...best.map((k) => h("li", {}, pill(share(k), choose(k), look(k))))),
  ];
  if (state.key == null || state.all_heads)
    return [...parts, h("p", { class: "hint" }, "Choose one of them to bend its line.")];
  const N = picture.tokens + 1,
    D_h = head_width(),
    vector = (part, token) => slice(in_block(`attention/${part}`), (state.head * N + token + 1) * D_h, D_h);
  const [q, k] = await Promise.all([vector("query", state.token), vector("key", state.key)]),
    logit = q.reduce((sum, value, d) => sum + (value * k[d]) / Math.sqrt(D_h), 0),
    added = state.changes.logits[key_of()] ?? 0;
  const bend = (event) => change({ logits: { ...state.changes.logits, [key_of()]: Number(event.target.value) } });
  const slider = { type: "range", min: -10, max: 10, step: 0.25, value: added, id: "logit", oninput: calmly(bend, 60) };
  const label = `Bend the line from ${asker} to ${token_label(state.key)}, head ${state.head + 1}: add to its logit`,
    share_now = `${(100 * shares[state.key + 1]).toFixed(1)} %`;
  return [
    ...parts,
    h("label", { class: "slider" }, label, h("input", slider)),
    h("output", {}, `logit ${shown(logit)} ${added ? signed(added) : ""} → ${share_now}`),
  ];
}
