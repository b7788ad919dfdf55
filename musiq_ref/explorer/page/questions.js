// Fifteen questions. The model computes the answers; none is stored.

const few = config.outputs > 1 ? (config.outputs - 1) / 200 : 0.5; // a score that moves by less has hardly moved
const moved = (before, after) => (after > before + few ? 0 : after < before - few ? 1 : 2);
const MOVES = ["it rises", "it falls", `it hardly moves (less than ${few})`];
const best_index = (numbers) => numbers.indexOf(Math.max(...numbers));
const per_scale = (values) =>
  picture.scales.map(({ start, kept }) => values.slice(start, start + kept).reduce((a, b) => a + b, 0));
const scale_names = () =>
  picture.scales.map(({ longer_side, width, height }) => `${longer_side ? "resized to" : "the photograph itself,"} ${width}×${height}`);
const score_if = async (changes) => (await ask("score", { ...changes_none(), ...changes })).score;

/** The score of other pixels; the photograph is put back by the caller. */
const score_of = async (pixels) => (await ask("load", pixels)).score;
async function with_photograph(run) {
  try {
    return await run(photograph());
  } finally {
    await ask("load", photograph());
  }
}

/** "from 84.47 to 79.03" */
const from_to = (before, after) => `The score goes from ${before.toFixed(2)} to ${after.toFixed(2)}.`;

async function move_question(after) {
  const before = await score_if({});
  const now = await after(before);
  return { right: moved(before, now), because: from_to(before, now) };
}

/** Numbers of pixels, of colours, and of what a token has: different ones, the smallest first. */
const widths = () => [...new Set([config.patch_size ** 2, config.width, 3 * config.patch_size ** 2])].sort((a, b) => a - b);

const QUESTIONS = [
  {
    text: () => "How many numbers does one square of pixels become before the tokens meet?",
    at: "embedding",
    options: () => widths().map((n) => n.toLocaleString("en")),
    answer: async () => ({
      right: widths().indexOf(config.width),
      because: `${3 * config.patch_size ** 2} numbers of pixels become ${config.width}, on their way through the stem and one last matrix.`,
    }),
  },
  {
    text: () => "In one head, a token divides its attention among all tokens. What do the shares add up to?",
    at: "attention",
    options: () => ["1", `${picture.tokens + 1}, one for each token`, "it depends on the photograph"],
    answer: async () => ({ right: 0, because: "The softmax divides by the sum, so every row of A sums to 1." }),
  },
  {
    text: () =>
      "Taken over all blocks, one patch gets more of the class token’s attention than any other. If no token may look at it any more, what happens to the score?",
    at: "attention",
    options: () => MOVES,
    answer: () =>
      move_question(async () => {
        const r = await ask("rollout");
        return score_if({ hidden: [best_index([...r])] });
      }),
  },
  {
    text: () => "Which size of the photograph does the class token look at most, over all blocks?",
    at: "attention",
    options: scale_names,
    answer: async () => {
      await score_if({});
      const sums = per_scale([...(await ask("rollout"))]);
      return {
        right: best_index(sums),
        because: `Shares by rollout: ${sums.map((x) => `${(100 * x).toFixed(0)} %`).join(", ")}, of ${picture.scales.map(({ kept }) => kept).join(", ")} tokens.`,
      };
    },
  },
  {
    text: () => "And per token, rather than in total: which size gets the largest share for each of its tokens?",
    at: "attention",
    options: scale_names,
    answer: async () => {
      await score_if({});
      const r = per_scale([...(await ask("rollout"))]).map((x, k) => x / picture.scales[k].kept);
      return {
        right: best_index(r),
        because: `A token's share on average: ${r.map((x) => `${(100 * x).toFixed(2)} %`).join(", ")}.`,
      };
    },
  },
  {
    text: () => "All patches are told that they are in the same place. What happens to the score?",
    at: "place",
    options: () => MOVES,
    answer: () =>
      move_question(() => score_if({ places: Object.fromEntries(facts.hash_index.map((_, token) => [token, 0])) })),
  },
  {
    text: () => "In the size with the most patches, the first and the last exchange what they show. What happens to the score?",
    at: "place",
    options: () => MOVES,
    answer: () =>
      move_question(() => {
        const big = picture.scales.reduce((a, b) => (a.kept > b.kept ? a : b));
        return score_if({ swapped: [[big.start, big.start + big.kept - 1]] });
      }),
  },
  {
    text: () => "One head of the first block is silenced. Which one moves the score most?",
    at: "attention",
    options: () => Array.from({ length: config.heads }, (_, i) => `head ${i + 1}`),
    answer: async () => {
      const before = await score_if({}),
        change = [];
      for (let i = 0; i < config.heads; i++)
        change.push(Math.abs((await score_if({ heads: [`block_00/${i}`] })) - before));
      return {
        right: best_index(change),
        because: `Without each in turn, the score moves by ${change.map((x) => x.toFixed(2)).join(", ")}.`,
      };
    },
  },
  {
    text: () => "The photograph is blurred: every pixel becomes the mean of the 5×5 around it. What happens to the score?",
    at: "spoil",
    options: () => MOVES,
    answer: () => with_photograph((p) => move_question(() => score_of(spoilt(p, "blur", 0.5)))),
  },
  {
    text: () => "Noise is sprinkled over the photograph: every number moves up or down by at most 35 of 255. What happens to the score?",
    at: "spoil",
    options: () => MOVES,
    answer: () => with_photograph((p) => move_question(() => score_of(spoilt(p, "noise", 0.5)))),
  },
  {
    text: () => "The photograph is mirrored, left to right. What happens to the score?",
    at: "pixels",
    options: () => MOVES,
    answer: () => with_photograph((p) => move_question(() => score_of(mirrored(p)))),
  },
  {
    text: () => "The photograph is darkened by a third. What happens to the score?",
    at: "spoil",
    options: () => MOVES,
    answer: () => with_photograph((p) => move_question(() => score_of(spoilt(p, "darkness", 0.4)))),
  },
  {
    text: () => "Into which size of the photograph does most of the gradient flow back?",
    at: "reverse/scales",
    options: scale_names,
    answer: async () => {
      await score_if({});
      const sums = per_scale([...(await ask("strength"))]),
        all = sums.reduce((a, b) => a + b);
      return {
        right: best_index(sums),
        because: `Of Σ|d score/d pixel|: ${sums.map((x) => `${((100 * x) / all).toFixed(0)} %`).join(", ")}.`,
      };
    },
  },
  {
    text: () =>
      "Only the class token is read. What is the gradient of the score to the other tokens, after the last block?",
    at: "reverse/score",
    options: () => ["as large as the class token's", "small, but not zero", "exactly zero"],
    answer: async () => {
      await score_if({});
      const norms = await ask("norms", { name: "encoder/norm", back: true });
      return {
        right: 2,
        because: `Their lengths add up to ${shown(norms.slice(1).reduce((a, b) => a + b, 0))}. Before the last attention that is no longer so.`,
      };
    },
  },
  {
    text: () =>
      "All weights are shuffled, so that the model knows nothing. Does its rollout map still look like the trained one's?",
    at: "doubt",
    options: () => ["yes: rank correlation above 0.3", "no: it is below 0.3"],
    answer: async (say) => {
      const side = 3,
        a = await ask("doubt", { which: "trained", side }, say),
        b = await ask("doubt", { which: "shuffled", side }, say);
      const r = rank_correlation(a.rollout, b.rollout);
      return { right: r > 0.3 ? 0 : 1, because: `The rank correlation of the two maps is ${r.toFixed(2)}.` };
    },
  },
];
