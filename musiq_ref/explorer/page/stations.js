// The ten stations: what is said at each, and which vectors of the chosen token are shown there.

const two = (n) => String(n).padStart(2, "0");
const in_block = (part) => `encoder/block_${two(state.block)}/${part}`;
const token_label = (token) => (token === CLASS ? "the class token" : `token ${token}`);
const head_width = () => config.width / config.heads;

/** A vector of the chosen token: row n of a stage (…, D). */
const of_token = (name, label, note, width = config.width) => ({
  name,
  start: (state.token + 1) * width,
  count: width,
  label,
  note,
});
/** The same for stages that the class token has no part in. */
const of_patch = (name, label, note) => ({
  name,
  start: Math.max(0, state.token) * config.width,
  count: config.width,
  label,
  note,
});
/** The same for one head. */
const of_head = (name, label, note) => {
  const N = picture.tokens + 1,
    d = head_width();
  return { name, start: (state.head * N + state.token + 1) * d, count: d, label, note };
};

const STATIONS = [
  {
    id: "pixels",
    rail: "pixels",
    title: "A photograph is numbers",
    back_title: "At the pixels",
    words: () => [
      `A neural network looks at this photograph and gives it a score: ${state.score.toFixed(2)}. How does it arrive at that number? It runs right here, in this page: follow one small square on its way through ten stations.`,
      "Every pixel is three numbers from 0 to 255: how much red, green and blue. The model stretches them to −1 … 1, so that mid-grey is 0.",
      "Here is one square, enlarged. Point at its pixels, or choose another square in the photograph.",
    ],
    reverse: () => [
      "The journey ends here: for every pixel, how fast the score would change if that pixel became a little brighter. In the enlarged square, orange means that the score would rise, blue that it would fall.",
      "No pixel was really changed for this: it is the backward pass, the same steps that you have just followed.",
    ],
    visual: () => (state.back ? pixel_gradient() : magnifier()),
  },
  {
    id: "scales",
    rail: "scales",
    title: "Seen from near and far",
    back_title: "Every size sends its share back",
    words: () => [
      picture.scales.length === 1
        ? "This model is shown the photograph in one size only. Others see several: in a small one, a square may hold a whole face or a tree; in a large one, grain, sharpness, traces of compression."
        : `The model is shown the photograph ${picture.scales.length} times, in different sizes. In a small one, a square may hold a whole face or a tree; in a large one, grain, sharpness, traces of compression.`,
      "Click a square of the picture: the same spot lights up in every size. The card shows which pixels of the photograph were blended into one pixel of a small size.",
    ],
    reverse: () => [
      "Every size has sent its own gradient back. Each goes backwards through the filter that resized it: a pixel that gave a share of its value gets that share of the gradient, and what arrives at a pixel is added: the card shows it for the one in the middle of your patch.",
    ],
    visual: () => scale_table(),
  },
  {
    id: "patches",
    rail: "patches",
    title: "Cut into squares",
    back_title: "One square’s gradient",
    words: () => [
      `Each picture is cut into squares of ${config.patch_size}×${config.patch_size} pixels: ${picture.tokens} in all. From here on a square is called a token, and travels with the others in one long queue.`,
      config.spatial === "none"
        ? "This model is not told where a square was."
        : `Photographs of all sizes share one table of ${config.grid_size}×${config.grid_size} places. The lit cell is the place of your patch; the blue patches in the picture have the same.`,
    ],
    reverse: () => [
      `The gradient to the pixels of one square, enlarged.${config.stem === "linear" ? "" : " All windows of the stem’s filters that saw a pixel add up here."}`,
    ],
    visual: async () => [h("div", { class: "side-by-side" }, ...(await magnifier()), ...hash_grid())],
  },
  {
    id: "stem",
    rail: "stem",
    title: "Filters look for edges and textures",
    back_title: "Back through the filters",
    words: () => [
      ...(config.stem === "linear"
        ? []
        : [
            "Small filters slide over every square and answer strongly where they find what they look for: an edge, a grain, a colour. Each little map is the answer of one filter.",
            "The answers are evened out, what is below zero is cut off, and the strongest of each neighbourhood is kept. Three more layers of filters mix them, and a shortcut leads past those: the square has become a stack of 256 small maps.",
          ]),
    ],
    reverse: () => [
      "The same maps, as gradients: which answers of which filters would change the score, and in what direction.",
    ],
    visual: () => stem_maps(),
  },
  {
    id: "embedding",
    rail: "embedding",
    title: `A square becomes a short list of numbers`,
    back_title: "Back through one matrix",
    words: () => [
      `All ${config.stem === "linear" ? "its pixels" : "answers"} are weighed and summed, ${config.width} times with different weights. What is left of the square is this strip of ${config.width} numbers. Orange is more than zero, blue less.`,
      "Point at a cell to see the sum that made it.",
    ],
    reverse: () => [
      "A gradient for each of the numbers. From here, one matrix, read backwards, carries it towards the pixels.",
    ],
    strips: () => [of_patch("patch_embedding", "what it shows", "E_p")],
  },
  {
    id: "place",
    rail: "+ place",
    title: "… plus where it was",
    back_title: "Back through a sum",
    words: () => [
      config.spatial === "none"
        ? "A list of numbers does not know where it came from, and this model is not told either: nothing is added here."
        : "A list of numbers does not know where it came from. So the table's row for its place is added, cell by cell. Patches in the same cell of the grid get the same row: the model cannot tell them apart by place.",
    ],
    reverse: () => [
      "A sum hands its gradient on to both of its terms, unchanged: that is why the two strips are alike.",
    ],
    strips: () => [
      of_patch("patch_embedding", "what it shows", "E_p"),
      difference("spatial_embedding", "patch_embedding", "+ its place", "E_HSE"),
      of_patch("spatial_embedding", "= both", ""),
    ],
    visual: () => hash_grid(),
  },
  {
    id: "scale",
    rail: "+ scale",
    title: "… plus how close up",
    back_title: "Out of the encoder",
    words: () => [
      config.scale_embedding
        ? "Another row says which size of the photograph the square was cut from. Now the token is complete."
        : "This model is not told which size a square was cut from: the token is complete as it is.",
      "At the head of the queue stands one more token, which belongs to no square: the class token. It starts the same for every photograph, and collects the verdict.",
    ],
    reverse: () => [
      "The gradients of all tokens come out of the first block here. The class token’s own ends here: no pixel made it.",
    ],
    strips: () => [
      ...(state.token === CLASS
        ? []
        : [
            of_patch("spatial_embedding", "so far", "E_p + E_HSE"),
            difference("scale_embedding", "spatial_embedding", "+ its scale", "E_SCE"),
          ]),
      state.token === CLASS || state.back
        ? of_token("encoder/input", "= into the encoder", "z₀")
        : of_patch("scale_embedding", "= into the encoder", "z₀"),
    ],
  },
  {
    id: "attention",
    rail: "attention",
    title: "Tokens look at each other",
    back_title: "Blame travels along the lines",
    block: true,
    words: () => [
      "Each token asks a question (its query), and every token offers an answer (its key). The better they match, the larger the share. Then the token takes the others' contents (values), mixed by these shares.",
      `The lines show where ${token_label(state.token)} looks. Choose another, silence a head, or bend one line yourself: the score follows.`,
    ],
    reverse: () => [
      "Where two paths met in a sum, the gradient goes both ways; where a value was used twice, the gradients add. Blame travels along the same lines, backwards.",
    ],
    strips: () => [
      of_token(in_block("norm1"), "evened out", "LN"),
      of_head(in_block("attention/query"), "question", `Q, head ${state.head + 1}`),
      of_head(in_block("attention/key"), "offer", `K, head ${state.head + 1}`),
      of_head(in_block("attention/value"), "content", `V, head ${state.head + 1}`),
      of_head(in_block("attention/heads"), "what it took home", `A·V, head ${state.head + 1}`),
      of_token(in_block("attention/out"), "all heads together", "MSA"),
      of_token(in_block("residual1"), "added to what it was", "z′ = z + MSA"),
    ],
    visual: () => (state.back ? residual_split("residual1", state.block, "attention") : attention_panel()),
  },
  {
    id: "mlp",
    rail: "MLP",
    title: "Each token thinks for itself",
    back_title: "Back through each token",
    block: true,
    words: () => [
      `No looking around here. Every token is stretched to ${config.mlp_width} numbers, small and negative ones are quieted (GELU), and what is left is squeezed back to ${config.width} and added.`,
      ...(state.block < config.layers - 1
        ? [`That was block ${state.block + 1} of ${config.layers}: tokens look around, then think. The next one does the same with weights of its own.`]
        : []),
    ],
    reverse: () => [
      "Where GELU was flat, the gradient dies; where it was steep, it passes. Then it joins the gradient that went straight past.",
    ],
    strips: () => [
      of_token(in_block("norm2"), "evened out", "LN"),
      of_token(in_block("mlp/fc1"), "stretched", "W₁", config.mlp_width),
      of_token(in_block("mlp/gelu"), "quieted", "GELU", config.mlp_width),
      of_token(in_block("mlp/fc2"), "squeezed back", "W₂"),
      of_token(in_block("output"), "added to what it was", "z″ = z′ + MLP"),
    ],
    visual: () => (state.back ? residual_split("output", state.block, "MLP") : []),
  },
  {
    id: "score",
    rail: "score",
    title: "One number",
    back_title: "We begin at the end",
    words: () =>
      config.outputs > 1
        ? [
            `Only the class token is read. Its numbers, evened out a last time, are weighed and summed, once for each of the scores 1 … ${config.outputs}. A softmax turns these logits into shares, and the mean of the scores, weighed by their shares, is ${state.score.toFixed(2)}.`,
          ]
        : [
            "Only the class token is read. Its numbers, evened out a last time, are weighed and summed. That is the score.",
            `Every cell pushes it up (orange) or down (blue); all of them and a constant make ${state.score.toFixed(2)}.`,
          ],
    reverse: () => [
      "A gradient says: if this number grew a little, how much would the score grow, per unit?",
      `${config.outputs === 1 ? "For the class token’s cells it is simply their weight in the last sum." : "Each logit’s gradient is its share, times how far its score lies above the mean; the weights of the last sum carry that to the class token’s cells."} The other tokens were not read: their gradient is zero here, and comes only through attention.`,
    ],
    strips: () => [
      { name: "head/class_token", start: 0, count: config.width, label: "the class token", note: "LN(z_L)" },
      ...(config.outputs === 1 ? [contributions()] : []),
      {
        name: "head/logits",
        start: 0,
        count: config.outputs,
        label: config.outputs === 1 ? "the score" : "logits of the scores 1, 2, …",
        note: "",
      },
    ],
    visual: () => distribution_chart(),
  },
];

const station = () => STATIONS.find(({ id }) => id === state.station);
