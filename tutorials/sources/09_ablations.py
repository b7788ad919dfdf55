# %% [markdown]
# # 09 · What is each part good for? The ablations, in small
#
# The hash embedding, the scale embedding, three scales, patches of 32 pixels: why these? The paper answers with tables in which one
# thing changes and a correlation moves in the third decimal. Here you read such tables as their author would want you to: you run
# one, measure how much of a difference is luck, and take parts out of a trained model to see what it leans on.

# %% [markdown]
# ## What you will learn
#
# - what makes a comparison an ablation, and how to shrink one to a size that a laptop trains;
# - to tell a difference between two rows from the luck of the first weights, with seeds and a pooled deviation;
# - how certain the paper's own third decimal is;
# - that a part which a trained model leans on need not be a part that training needs: *knocking out* is not *leaving out*.

# %% [markdown]
# ## What you need
#
# About 40 minutes, of which your processor needs half a minute for training. Chapter 02 (the two embeddings), chapter 08 (metrics, the training loop).

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

import musiq_ref as mq
from course import exercise
from musiq_ref import metrics
from musiq_ref.ablations import ABLATIONS, ablation, grid, run_grid
from musiq_ref.pictures.synthetic import held_out_examples

# %% [markdown]
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
# In brackets stands the published value. A small model on small images needs small values: what counts for $G$ is how it relates to the number
# of patches along a side, so images with 6 patches along a side get $4/10$ of it. Such rules are written down *before* the runs;
# choosing them afterwards is choosing the result.
#
# Every cell of the grid is one row with one seed. The seed draws the first weights and the training images, the test images are the same for all.

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
# Rows that say the same are trained once. Look at the second and third line: several values change. A *variant* (table 2) is a change
# of size, which is not one thing; whoever wants to know whether the width or the depth did it needs more rows.
#
# ## Run one
#
# ResNet stem against patches flat into the embedding, as in ViT; with so few images that it takes seconds. On the command line this is
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
# The whole grid with 2,048 images a cell takes a while on two cores (`musiq-ref train --ablation all -o runs`). Its result lies in the repository:

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
# Two seeds give a poor idea of a row's own spread. But all rows are trained alike, so if their luck has the same size, it can be
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
print(f"{m} models, pooled deviation {sigma:.3f}; a difference counts from {limit:.3f} on")
assert m == len(models)

# %%
figure, axes = plt.subplots(2, 4, figsize=(12, 6), sharey=True, layout="constrained")
reference = np.mean(of_model["base"])
for axis, table in zip(axes.flat, measured["tables"], strict=True):
    for i, row in enumerate(table["rows"]):
        axis.plot([i] * s, row["srcc"]["values"], "o", color="C0", label="each seed")
        axis.plot(i, row["srcc"]["mean"], "_", color="black", markersize=16, label="mean")
    axis.margins(x=0.15)
    axis.axhspan(reference - limit, reference + limit, color="0.88", zorder=0)
    labels = [row["setting"] for row in table["rows"]]
    axis.set_xticks(range(len(labels)), labels, rotation=40, ha="right", fontsize=7)
    axis.set_title(table["title"].split(" (appendix")[0], fontsize=8)
for axis in axes[:, 0]:
    axis.set_ylabel("SRCC")
handles, names = axes[0, 0].get_legend_handles_labels()
axes[0, 0].legend(handles[:2], names[:2], fontsize=7)
plt.show()

# %% [markdown]
# The grey band is what luck alone does to the difference from the base model, 19 times of 20. A mean outside the band is a finding; the
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
# The last line matters: who looks at many rows finds some outside by luck (exercise 2 does something about it). And what was trained for a few minutes says
# what helps *in the first few minutes*, on distortions: a part that pays off after days on AVA may look useless here. That is a limit
# of every small ablation, ours included, and no statistics mends it.
#
# ## How certain is the paper's third decimal?
#
# The appendix gives one number a row, no seeds. One part of its uncertainty can be worked out, the choice of the test images:
# table 3 was tested on about 20,000 of AVA. Make up predictions with that correlation, and draw the test set again and again:

# %%
rng = np.random.default_rng(0)
n, rho = 20_000, 2 * math.sin(math.pi * 0.726 / 6)  # Pearson's, of a normal pair with that SRCC
redrawn = []
for _ in range(60):
    truth = rng.standard_normal(n)
    guess = rho * truth + math.sqrt(1 - rho**2) * rng.standard_normal(n)
    redrawn.append(metrics.srcc(guess, truth))
test_sigma = np.std(redrawn)
published = [row["published"]["srcc"] for row in measured["tables"][1]["rows"]]
spread = max(published) - min(published)
print(
    f"one table's rows lie within {spread:.3f}; redrawing the test moves a row by ±{test_sigma:.4f}"
)
assert spread < 2.5 * test_sigma

# %% [markdown]
# All six values of $G$ lie within about two standard deviations of a redrawn test set. They were tested on the *same* images, so their differences
# are more certain than that (chapter 08, exercise 3), but the luck of the first weights is on top and unknown. What table 3 shows well is that
# **$G$ hardly matters between 5 and 20**; that 10 is best it does not show.
#
# ## Knocking out is not leaving out
#
# A tempting shortcut: take the trained model, switch a part off, and call the loss of quality its importance. Try it on the bundled model.
# Without HSE: every patch gets the mean of the spatial table. Without SCE: no scale embedding. Without a scale: its patches are masked.

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
    "no small scale": (params, 0),
    "no middle scale": (params, 1),
    "no native scale": (params, 2),
}

# %%
# 192 pixels: twice as wide as the middle scale, so that the native one shows what no other does
examples = list(held_out_examples(size=192, crops=2, scenes=1, severities=(0.3, 0.7), mixtures=1))
tokens = [mq.tokenize(example.image, config) for example in examples]
targets = np.array([example.score for example in examples])
order = np.unique(tokens[0].scale_index)  # the smallest scale has the lowest index
knocked = {}
for name, (weights, scale) in without.items():
    predicted = []
    for t in tokens:
        mask = t.mask if scale is None else t.mask * (t.scale_index != order[scale])
        logits = mq.predict(weights, t._replace(mask=mask), config)
        predicted.append(mq.expected_score(logits[None])[0].score[0])
    knocked[name] = np.array(predicted)
    print(f"{name:16} SRCC {metrics.srcc(knocked[name], targets):.3f}")
srccs = {name: metrics.srcc(predicted, targets) for name, predicted in knocked.items()}
assert len(order) == config.scales == 3
assert srccs["whole model"] > 0.5
assert srccs["no native scale"] < srccs["whole model"]

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
bars = axes[0].bar(list(srccs), list(srccs.values()), color="C0")
axes[0].bar_label(bars, fmt="%.2f", fontsize=8)
axes[0].set_xticks(range(len(srccs)), list(srccs), rotation=35, ha="right", fontsize=8)
axes[0].set(ylabel="SRCC", title="knocked out of a trained model", ylim=(0, 1))
smaller = [t for t in measured["tables"] if t["name"] in ("scales", "embeddings")]
left_out = [row for t in smaller for row in t["rows"]]
labels = [row["setting"] for row in left_out]
means = [row["srcc"]["mean"] for row in left_out]
errors = [standard_error / math.sqrt(2)] * len(means)
axes[1].bar(range(len(means)), means, yerr=errors, color="C1", hatch="//", capsize=3)
axes[1].set_xticks(range(len(labels)), labels, rotation=35, ha="right", fontsize=7)
axes[1].set(ylabel="SRCC", title="left out from the start (another, shorter training)", ylim=(0, 1))
plt.show()

# %% [markdown]
# The two pictures answer different questions. Left: *what does this model use?* It was never trained without the part, so what comes after
# sees inputs that it does not know; a loss of quality may be mere surprise. Right: *what does training need?* The model without
# the part learned to do without, as far as it could. Of the tables in the appendix all are of the second kind, and so is every table that deserves the
# name ablation.
#
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/09_ablations.py`; try first.

# %% [markdown]
# ### Exercise 1: pool the luck
#
# Some runs crash, so rows have different numbers of seeds. Return the pooled deviation $\hat\sigma$ and its degrees of freedom, of a list of
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
    """Returns (deviation, degrees of freedom) of rows of unequal length."""
    return ..., ...


# %% tags=["check-1"]
def check(answer):
    deviation, freedom = answer([row for row in values])
    assert freedom == m * (s - 1), f"{freedom} degrees of freedom, of {m} rows with {s} seeds"
    assert math.isclose(deviation, sigma, rel_tol=1e-9), "not the table's own pooled deviation"
    rng = np.random.default_rng(3)
    rows = [rng.normal(mean, 2.0, size) for mean, size in ((0, 2), (50, 9), (-7, 4), (3, 1))]
    deviation, freedom = answer(rows)
    assert freedom == 12, f"rows of 2, 9, 4 and 1 seeds have 12 degrees of freedom, not {freedom}"
    right = math.sqrt(sum(((row - row.mean()) ** 2).sum() for row in rows) / 12)
    assert math.isclose(deviation, right, rel_tol=1e-9), f"{deviation:.4f} instead of {right:.4f}"


exercise(1, my_pooled, check)

# %% [markdown]
# ### Exercise 2: many rows, one mistake
#
# With 24 comparisons at 5 % about one "finding" is luck. Holm's method keeps the chance of *any* such mistake at 5 %: order the $n$ p-values from
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
# ### Exercise 3: is the patch size one thing?
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
#
# ## In practice
#
# - Report seeds. A table with one run a row tells what happened once; three runs and a pooled deviation cost three times as much and tell something.
# - Write down the rule by which an experiment was scaled down, before running it.
# - Change one thing, or say which things changed together.
# - "No difference seen" needs the size of the difference that *would* have been seen, here the grey band.
# - A knock-out is good for understanding one trained model, and for finding bugs: a part whose removal changes nothing may not be connected.
#
# ## References
#
# - Ke et al., MUSIQ: Multi-scale Image Quality Transformer, ICCV 2021, appendix tables 2–6 and section B.2.
# - Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
# - Meyes et al., Ablation Studies in Artificial Neural Networks, arXiv:1901.08644 (knocking out units of trained networks).
# - `docs/ablations.md`: the tables in the appendix's form; `musiq_ref/ablations/`: the rules and the rows.
