# %% [markdown]
# # 09 · What is each part good for? The ablations, in small
#
# The hash embedding, the scale embedding, three scales, patches of 32 pixels: **which of its parts does MUSIQ need?** The paper
# answers with tables in which one thing changes and a correlation moves in the third decimal. Here you read such tables as a careful
# author would want you to: you run one, you measure how much of a difference is luck, and you find out that the
# question has two meanings, with two different answers.

# %% [markdown]
# ## What you will learn
#
# - that *knocking out* a part of a trained model is not *leaving it out* of the training, by hand and with real models;
# - what makes a comparison an ablation, and how to shrink one to a size that a laptop trains;
# - to tell a difference between two rows from the luck of the first weights, with seeds and a pooled standard deviation;
# - to check a table against its neighbours, and to catch the appendix in a slip.

# %% [markdown]
# ## What you need
#
# About 60 minutes, of which your processor needs one for training. Chapter 02 (the two embeddings), chapter 08 (metrics),
# chapter 08b (the training run).

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import musiq_ref as mq
from course import exercise, quiz
from musiq_ref import metrics
from musiq_ref.ablations import ABLATIONS, ablation, grid, run_grid
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.pictures.synthetic import held_out_examples, photograph_crop
from musiq_ref.training.run import train
from musiq_ref.training.settings import recipe

# %% [markdown]
# ## A toy: two witnesses
#
# Three photographs have a flaw of 1, 2 and 3, and people took off 2, 4 and 6 points. Two witnesses, say the native scale and a reduced
# one, both see the flaw exactly: $x_1 = x_2 = (1, 2, 3)$. A model that adds up what they say, $y = w_1 x_1 + w_2 x_2$,
# has learned $w_1 = w_2 = 1$. It makes no mistake. Does it need the second witness?
#
# - **Knock out**: gag the second witness in the trained model, $x_2 = 0$. It answers 1, 2, 3, half of what is right. The mistakes are 1, 2, 3.
#   The second witness seems to carry half of the work.
# - **Leave out**: train without the second witness. The model learns $w_1 = 2$ and makes no mistake. The second witness was not needed at all.

# %%
x1 = x2 = np.array([1.0, 2, 3])
points = np.array([2.0, 4, 6])
w, *_ = np.linalg.lstsq(np.stack([x1, x2], axis=1), points)  # of all perfect weights the smallest
np.testing.assert_allclose(w, [1, 1])
knocked_out = w[0] * x1
alone, *_ = np.linalg.lstsq(x1[:, None], points)
left_out = alone[0] * x1
np.testing.assert_allclose(points - knocked_out, [1, 2, 3])
np.testing.assert_allclose(left_out, points)

# %%
figure, axis = plt.subplots(figsize=(6, 2.8))
places = np.arange(3)
for shift, (name, y, hatch) in enumerate(
    [
        ("both", w[0] * x1 + w[1] * x2, ""),
        ("knocked out", knocked_out, "//"),
        ("left out", left_out, ".."),
    ]
):
    axis.bar(places + 0.25 * (shift - 1), y, 0.25, label=name, hatch=hatch)
axis.set(xticks=places, xticklabels=["photo 1", "photo 2", "photo 3"], ylabel="points taken off")
axis.legend()
plt.show()

# %% [markdown]
# The same part, half of everything by one measure, nothing by the other. Neither measure is wrong. They answer different questions: *what does this
# model use?* and *what does training need?* Keep the two apart; at the end of the chapter real models will do what these bars do.
#
# ## One change, all else equal
#
# An ablation compares models that differ in **one** thing and were given the same data, steps, learning rate and test. The appendix
# has five such tables, trained on AVA and KonIQ-10k for days. The library has them as small files, each row with the paper's figures:

# %%
for name in ABLATIONS:
    table = ablation(name)
    settings = " | ".join(row.setting for row in table.rows)
    print(f"{table.title}\n    {settings}\n    published on {table.published_on}\n")
assert ablation("grid").rows[2].published == {"srcc": 0.726, "plcc": 0.738}

# %% [markdown]
# The published value stands in brackets. A small model on small images needs small values. What counts for the grid size $G$ is how it
# relates to the number of patches along a side: about 15 in the paper's images, 6 in ours, so our $G$ is $4/10$ of the published one.
# Such rules are written down *before* the runs; who chooses them afterwards chooses the result.
#
# ### Check a table against its neighbours
#
# Before you trust a number, ask whether it agrees with the others. Appendix A.4 says of the three model sizes that their performance
# "on the AVA dataset is shown in Table 2". The caption of table 2 says "on the KonIQ-10k dataset". One of them is a slip. Which one? The same
# small model appears in other tables:

# %%
small = {
    "table 2, Small": ablation("variants").rows[0].published,
    "table 3 (AVA), G = 10": ablation("grid").rows[2].published,
    "table 6 (KonIQ-10k), l = 512": ablation("native_patches").rows[2].published,
}
for name, value in small.items():
    print(f"{name:29} SRCC {value['srcc']}  PLCC {value['plcc']}")
assert small["table 2, Small"] == small["table 6 (KonIQ-10k), l = 512"]
assert small["table 2, Small"]["srcc"] - small["table 3 (AVA), G = 10"]["srcc"] > 0.15

# %% [markdown]
# On AVA the small model has 0.726, on KonIQ-10k 0.916, to the last digit what table 2 reports. The caption is right and the text
# slipped. (Table 1 has another oddity: the Medium model's MLP size of 2,358. Three times its width would be 2,304.)
#
# ### The cells of the grid
#
# A cell is one row with one seed. The seed draws the first weights and the training images; the test images are the same for all.

# %%
every = grid("all")
cells = every.cells()
models = {cell.name for cell in cells}
rows = sum(len(table.rows) for table in every.ablations)
print(
    f"{rows} rows, {len(models)} different models, {len(cells)} cells with {len(every.seeds)} seeds"
)
base = every.base.config()
for cell in cells[:6]:
    changed = cell.settings.config().to_dict()
    different = {k: v for k, v in changed.items() if v != base.to_dict()[k]}
    print(f"  {cell.name:34} {different}")
assert len(cells) == len(models) * len(every.seeds) < rows * len(every.seeds)

# %% [markdown]
# Rows that say the same are trained once. In the second and third line several values change. A *variant* (table 2) is a change
# of size, which is not one thing. Whoever wants to know whether the width or the depth did it needs more rows.
#
# ## Run one
#
# The ResNet stem against patches that go flat into the embedding, as in ViT; with so few images that it takes seconds. On the command line this is
# `musiq-ref train --ablation stem -o runs`.

# %%
held_out = {"crops": 2, "scenes": 1, "severities": [0.4, 0.8], "mixtures": 0}
stems = grid("stem", seeds=2, epoch_images=96, held_out=held_out)
with tempfile.TemporaryDirectory() as folder:
    found = run_grid(stems, folder, jobs=2, progress=False)
for row in found["tables"][0]["rows"]:
    print(f"{row['setting']:8} SRCC of the two seeds: {np.array(row['srcc']['values'])}")
assert not found["problems"]

# %% [markdown]
# Look how far the two seeds of one row lie apart. What would have to be true for a table to say which stem is better?
#
# ## A table, and its luck
#
# The whole grid with 2,048 images a cell takes a while on two cores (`musiq-ref train --ablation all -o runs`). Its result is in the repository:

# %%
measured = json.loads(Path("..", "docs", "ablations.json").read_text(encoding="utf-8"))
seeds, images = len(measured["seeds"]), measured["held_out"]["images"]
print(f"{len(measured['tables'])} tables, {seeds} seeds, tested with {images} images")
for row in measured["tables"][1]["rows"]:
    paper = row["published"]["srcc"]
    ours = row["srcc"]
    print(f"{row['setting']:10} {ours['mean']:.3f} ± {ours['deviation']:.3f}   paper {paper:.3f}")
assert seeds >= 2
assert not measured["problems"]

# %% [markdown]
# Two seeds give a poor idea of a row's own spread. But all rows are trained alike, so if their luck has the same size, the spread can be
# **pooled**: with $m$ models of $s$ seeds each,
#
# $$\hat\sigma^2 = \frac{1}{m(s-1)} \sum_{i=1}^{m} \sum_{j=1}^{s} (r_{ij} - \bar r_i)^2,$$
#
# which has $m(s-1)$ degrees of freedom instead of $s-1$. The difference of two means then has the standard error $\hat\sigma\sqrt{2/s}$.

# %%
of_model = {row["cell"]: row["srcc"]["values"] for t in measured["tables"] for row in t["rows"]}
values = np.array(list(of_model.values()))  # (m, s), every model once
m, s = values.shape
sigma = math.sqrt(((values - values.mean(axis=1, keepdims=True)) ** 2).sum() / (m * (s - 1)))
standard_error = sigma * math.sqrt(2 / s)
limit = stats.t.ppf(0.975, m * (s - 1)) * standard_error
print(f"{m} models, pooled standard deviation {sigma:.3f}")
print(f"a difference counts from {limit:.3f} on")
assert m == len(models)

# %%
reference = np.mean(of_model["base"])


def draw(tables):
    """Every row of some tables: its seeds, its mean, and the band of luck around the base model."""
    figure, axes = plt.subplots(len(tables), 1, figsize=(7, 9), sharex=True, layout="constrained")
    figure.get_layout_engine().set(hspace=0.08)
    for axis, table in zip(axes, tables, strict=True):
        labels = [row["setting"] for row in table["rows"]]
        for i, row in enumerate(table["rows"]):
            axis.plot(row["srcc"]["values"], [i] * s, "o", color="C0", label="each seed")
            axis.plot(row["srcc"]["mean"], i, "|", color="black", markersize=14, label="mean")
        axis.axvspan(reference - limit, reference + limit, color="0.88", zorder=0)
        axis.set_yticks(range(len(labels)), labels)
        axis.set(ylim=(len(labels) - 0.5, -0.5))
        axis.set_title(table["title"].split(" (appendix")[0], loc="left")
    axes[-1].set_xlabel("SRCC")
    handles, names = axes[0].get_legend_handles_labels()
    axes[0].legend(handles[:2], names[:2], loc="lower left", fontsize=8)
    plt.show()


draw(measured["tables"][:4])

# %%
draw(measured["tables"][4:])

# %% [markdown]
# Luck alone leaves a row's mean in the grey band 19 times out of 20. A mean outside of it is a finding; the
# others are "no difference seen", which is not "no difference". Which ones are outside?

# %%
outside = {
    name: np.mean(v) - reference
    for name, v in of_model.items()
    if abs(np.mean(v) - reference) > limit
}
for name, difference in sorted(outside.items(), key=lambda item: item[1]):
    print(f"{difference:+.3f}  {name}")
print(f"{len(outside)} of {m - 1} models; by luck alone about {0.05 * (m - 1):.0f} would be")
assert "base" not in outside

# %% [markdown]
# The last line matters: who looks at many rows finds some outside by luck (exercise 2 does something about it). And a training of a few minutes says
# what helps *in the first few minutes*, on distortions: a part that pays off after days on AVA may look useless here. That is a limit
# of every small ablation, ours included, and no statistics mends it.
#
# ## Knocking out
#
# Leaving out needs a training per row. A tempting shortcut: take the trained model, switch a part off, and call the loss of
# quality its importance. Try it on the bundled model. Without HSE (the spatial embedding): every patch gets the mean of the spatial
# table. Without SCE (the scale embedding): zeros. Without a scale: its patches are masked.

# %%
checkpoint = mq.load_checkpoint("demo")
params, config = checkpoint.params, checkpoint.config
table = params["spatial_embedding"]["table"]  # (G·G, D)
blank = {"table": np.broadcast_to(table.mean(axis=0), table.shape)}
zero = {"table": np.zeros_like(params["scale_embedding"]["table"])}
without = {
    "whole model": (params, None),
    "no HSE": ({**params, "spatial_embedding": blank}, None),
    "no SCE": ({**params, "scale_embedding": zero}, None),
    **{f"no {side} scale": (params, i) for i, side in enumerate(sorted(config.longer_sides))},
    "no native scale": (params, config.scales - 1),
}


def predictions(images, params, config, scale=None):
    """The scores of images; without the patches of a scale, if one is given (0 is the smallest)."""
    scores = []
    for image in images:
        t = mq.tokenize(image, config)
        hidden = np.unique(t.scale_index)[scale] if scale is not None else -1
        logits = mq.predict(params, t._replace(mask=t.mask * (t.scale_index != hidden)), config)
        scores.append(mq.expected_score(logits[None])[0].score[0])
    return np.array(scores)


# %%
# 192 pixels: wider than any reduced scale, so that the native one shows what no other does
examples = list(held_out_examples(size=192, crops=2, scenes=1, severities=(0.3, 0.7), mixtures=1))
images, targets = [e.image for e in examples], np.array([e.score for e in examples])
srccs = {
    name: metrics.srcc(predictions(images, changed, config, scale), targets)
    for name, (changed, scale) in without.items()
}
figure, axis = plt.subplots(figsize=(6.5, 2.8))
bars = axis.barh(list(srccs), list(srccs.values()))
axis.bar_label(bars, fmt="%.3f", padding=3)
axis.invert_yaxis()
axis.set(xlabel="SRCC", title="Knocked out of the bundled model", xlim=(0, 1.1))
plt.show()
assert srccs["whole model"] > 0

# %% [markdown]
# Read it as what it is. Where a bar is clearly shorter than the first one, *this* model leans on the part. Where it is about as long, this model can do
# without it, at least for *these* pictures: it may be that what one scale shows the others show, too. Does it follow that training could have done
# without the part, or that it could not? No.
#
# ## Knocking out is not leaving out
#
# Now both, on the same task with the same data. As in chapter 08b we train small models on noisy crops of two photographs: one whole, one
# without the native scale, and one with a block fewer. Then we test all of them on new crops, and the whole one with parts knocked out, too.


# %%
def noisy_example(number, side=32):
    """A crop (side, side, 3) with white noise, and its score; four noises on each crop."""
    name = ("astronaut", "coffee")[number // 4 % 2]
    crop = photograph_crop(name, np.random.default_rng(number // 4), side, side)
    rng = np.random.default_rng((number, 1))
    severity = rng.random()
    return DISTORTIONS["white_noise"](crop, severity, rng), 100 * (1 - severity)


folder = Path(tempfile.mkdtemp())
lines = ["path,score,group"]
for number in range(320):
    pixels, score = noisy_example(number)
    plt.imsave(folder / f"{number}.png", pixels)
    lines.append(f"{number}.png,{score:.3f},crop {number // 4}")
(folder / "table.csv").write_text("\n".join(lines) + "\n")
new = [noisy_example(number) for number in range(10_000, 10_080)]

# %%
base = {"layers": 2, "width": 32, "mlp_width": 64, "heads": 4, "patch_size": 16}
settings = {"dataset": "csv", "epoch_images": 0, "side": 0, "epochs": 4, "batch": 8, "ema": 0.0}
settings |= {"learning_rate": 1.5e-3, "warmup": 20, "micro_batch": 8}
trained = {}
for name, change in {"whole": {}, "scale": {"native": False}, "block": {"layers": 1}}.items():
    made = recipe("synthetic", model={**base, "longer_sides": [16], **change}, **settings)
    run = train(made, folder / name, folder / "table.csv", progress=False)
    trained[name] = mq.load_checkpoint(run.last)
    print(f"{name:6} trained: {run.validation['srcc']:.2f} SRCC of the crops held out")

# %% [markdown]
# To knock out a block, we set the last matrices of its two branches to 0. Nothing is then added to the residual path (chapter 06).


# %%
def without_block(params, name):
    """The same parameters, but the block adds nothing."""
    block = dict(params["encoder"][name])
    for branch, last in (("attention", "out"), ("mlp", "fc2")):
        zeros = {key: 0 * array for key, array in block[branch][last].items()}
        block[branch] = {**block[branch], last: zeros}
    return {**params, "encoder": {**params["encoder"], name: block}}


whole, crops = trained["whole"], [pixels for pixels, _ in new]
first, second = (without_block(whole.params, f"block_{q:02d}") for q in range(2))
scores = {
    "whole": predictions(crops, whole.params, whole.config),
    "native scale\nknocked out": predictions(crops, whole.params, whole.config, scale=1),
    "native scale\nleft out": predictions(crops, trained["scale"].params, trained["scale"].config),
    "first block\nknocked out": predictions(crops, first, whole.config),
    "second block\nknocked out": predictions(crops, second, whole.config),
    "one block\nleft out": predictions(crops, trained["block"].params, trained["block"].config),
}
aims = np.array([score for _, score in new])
wrong = {name: metrics.rmse(x, aims) for name, x in scores.items()}

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.6))
bars = axis.barh(list(wrong), list(wrong.values()), color=["0.6", "C0", "C1", "C0", "C0", "C1"])
for bar, name in zip(bars, wrong, strict=True):
    bar.set_hatch("//" if "left out" in name else "")
axis.bar_label(bars, labels=[f"{value:.1f}" for value in wrong.values()], padding=3)
axis.invert_yaxis()
axis.set(xlabel="RMSE in points, less is better", title="The same part, asked in two ways")
plt.show()
assert wrong["native scale\nknocked out"] > 1.2 * wrong["native scale\nleft out"]
assert wrong["native scale\nknocked out"] > 1.2 * wrong["whole"]
block_out = max(wrong["first block\nknocked out"], wrong["second block\nknocked out"])
assert block_out > 1.2 * wrong["one block\nleft out"]

# %% [markdown]
# The toy's bars again. Knocked out, the native scale and one of the blocks look indispensable. Left out from the start, the training makes up for much of the
# scale, and a single block does the work of two. A knocked-out model was never trained without the part: what comes after it sees inputs that it does not know, and part of
# the damage is mere surprise.
#
# So, which parts does MUSIQ need? Our small model, as it is, *uses* its native scale. What *training needs* only trainings can
# say. All tables of the appendix are of the second kind, and so is every table that deserves the name ablation.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/09_ablations.py`; try first.

# %% [markdown]
# ### Exercise 1: pool the luck (★★, 7 minutes)
#
# Some runs crash, so rows have different numbers of seeds. Return the pooled standard deviation $\hat\sigma$ and its degrees of freedom, of a list of
# arrays, one for each row.
#
# <details><summary>Hint</summary>
#
# A row of $s_i$ seeds brings its sum of squares about its own mean, and $s_i - 1$ degrees of freedom. Add both up over the rows, divide, and take the root
# at the very end.
#
# </details>


# %% tags=["exercise-1"]
def my_pooled(rows):
    """Returns (standard deviation, degrees of freedom) of rows of unequal length."""
    return ..., ...


# %% tags=["check-1"]
def check(answer):
    deviation, freedom = answer([row for row in values])
    assert freedom == m * (s - 1), f"{freedom} degrees of freedom, of {m} rows with {s} seeds"
    assert math.isclose(deviation, sigma, rel_tol=1e-9), (
        "not the table's own pooled standard deviation"
    )
    rng = np.random.default_rng(3)
    rows = [rng.normal(mean, 2.0, size) for mean, size in ((0, 2), (50, 9), (-7, 4), (3, 1))]
    deviation, freedom = answer(rows)
    assert freedom == 12, f"rows of 2, 9, 4 and 1 seeds have 12 degrees of freedom, not {freedom}"
    right = math.sqrt(sum(((row - row.mean()) ** 2).sum() for row in rows) / 12)
    assert math.isclose(deviation, right, rel_tol=1e-9), f"{deviation:.4f} instead of {right:.4f}"


exercise(1, my_pooled, check)

# %% [markdown]
# ### Exercise 2: many rows, one mistake (★★, 10 minutes)
#
# With two dozen comparisons at 5 % about one "finding" is luck. Holm's method keeps the chance of *any* such mistake at 5 %: order the $n$ p-values from
# the smallest; compare the first with $\alpha/n$, the next with $\alpha/(n-1)$, and so on; stop at the first that is larger. Those before it are
# findings. Return an array of booleans in the order given.
#
# <details><summary>Hint</summary>
#
# `np.argsort` gives the order. Once one has failed all later ones fail, even if they are below their own limit: `np.logical_and.accumulate` or a `break`.
#
# </details>


# %% tags=["exercise-2"]
def my_holm(p_values, alpha=0.05):
    """Returns which of the p-values (n,) are findings, bool (n,)."""
    return ...


# %% tags=["check-2"]
def check(answer):
    cases = [
        ([0.04], [True], "a single p-value is compared with α itself"),
        ([0.03, 0.001, 0.02], [True, True, True], "the limits grow: α/3, α/2, α"),
        ([0.03, 0.04, 0.012], [False, False, True], "0.03 is above α/2"),
        ([0.02, 0.019, 0.9, 0.018], [False] * 4, "the smallest is above α/4, so none counts"),
        ([0.001, 0.03, 0.04, 0.002], [True, False, False, True], "0.04 comes after a failure"),
    ]
    for p_values, right, why in cases:
        found = answer(np.array(p_values))
        assert np.array_equal(found, right), f"p = {p_values}: {why}; you found {found}"


exercise(2, my_holm, check)

# %% [markdown]
# With your function you can ask the measured table again:
# `my_holm(2 * stats.t.sf(np.abs(values.mean(axis=1) - reference) / standard_error, m * (s - 1)))`.
#
# ### Exercise 3: is the patch size one thing? (★, 6 minutes)
#
# Table 5 changes $P$. Does it change anything else? Count the parameters of the patch embedding (kernel and bias), for a configuration with the
# ResNet stem and for one with the linear stem, which hands on the pixels as they are.
#
# <details><summary>Hint</summary>
#
# The stem turns a patch into $P/4 \times P/4$ places with 256 features (chapter 04). Without it a patch is $P \times P \times 3$ numbers. All are mapped to
# $D$ (`config.width`).
#
# </details>


# %% tags=["exercise-3"]
def my_embedding_parameters(config):
    """Returns the number of parameters of the patch embedding."""
    return ...


# %% tags=["check-3"]
def check(answer):
    for P in (8, 16, 24):
        for stem in ("resnet", "linear"):
            c = config.replace(patch_size=P, stem=stem, width=40, heads=4)
            right = sum(a.size for a in mq.init_params(c)["patch_embedding"].values())
            n = answer(c)
            assert n == right, f"P = {P}, {stem} stem, D = 40: {right} parameters, you count {n}"


exercise(3, my_embedding_parameters, check)

# %% [markdown]
# So $P$ changes the number of tokens, the size of the embedding, and what one token sees: three things. Table 5 cannot say which of them
# made 32 the best.

# %% [markdown]
# ## Quiz

# %%
quiz("09")

# %% [markdown]
# ## In practice
#
# - Report seeds. A table with one run per row tells what happened once; three runs and a pooled standard deviation cost three times as much and tell something.
# - Write down the rule by which an experiment was scaled down, before you run it.
# - Change one thing, or say which things changed together.
# - "No difference seen" needs the size of the difference that *would* have been seen, here the grey band.
# - A knock-out is good for understanding one trained model, and for finding bugs: a part whose removal changes nothing at all may not be connected.

# %% [markdown]
# ## References
#
# - J. Ke et al.: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, appendix tables 1–6, sections A.4 and B.2.
# - S. Holm: *A Simple Sequentially Rejective Multiple Test Procedure*, Scandinavian Journal of Statistics 1979.
# - R. Meyes et al.: *Ablation Studies in Artificial Neural Networks*, arXiv:1901.08644 (knocking out units of trained networks).
# - `docs/ablations.md`: the tables in the appendix's form; `musiq_ref/ablations/`: the rules and the rows.
