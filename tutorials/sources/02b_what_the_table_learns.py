# %% [markdown]
# # 02b · What a table of places learns
#
# Chapter 02 gave every patch a row of the table $T$, by the cell in which it begins. Nobody wrote anything into that table.
# Its rows start as noise, and training moves them. They are called *places*; but a table does not know what it is called.
#
# The question of this chapter: **what has the table of a trained model learned: where a patch lies, or something else?**

# %% [markdown]
# ## What you will learn
#
# - the backward of a table, and so what each of its rows learns from;
# - how to look inside a table of embeddings, and how to tell a pattern from luck;
# - that the cell of a patch gives away more than its place;
# - to make two small tables learn before your eyes, one of them places, the other not.

# %% [markdown]
# ## What you need
#
# About 60 minutes, of which the exercises take 20; chapter 02; the idea of a gradient: $\mathrm{d}x$ is how one final number,
# such as the score, changes with $x$ (chapter 03 explains it from the start).

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import explain, verify
from musiq_ref.image.hash import hash_axis, hash_index
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.ops.embedding import lookup, lookup_backward, sinusoidal_table
from musiq_ref.ops.linear import linear, linear_backward
from musiq_ref.training.settings import recipe

# %% [markdown]
# ## Three tokens, three rows
#
# Three tokens took rows 0, 0 and 2 of a table with three rows. Each token was the sum of what is in it and of its row, and
# what is added hands its gradient on unchanged: raise a number of the row by a little, and the same number of the token
# rises by as much. So a row collects the gradients of all tokens that took it. On paper:
#
# - row 0 gets $(1, 2) + (3, -2) = (4, 0)$: in the second number its two tokens disagree, and nothing is left;
# - row 1 gets $(0, 0)$: nobody took it;
# - row 2 gets $(0, 4)$.

# %%
taken = np.array([0, 0, 2])  # the row of each token
dtokens = np.array([[1, 2], [3, -2], [0, 4]])  # how the final number changes with each token
drows = np.zeros((3, 2), int)
for row, dtoken in zip(taken, dtokens, strict=True):
    drows[row] += dtoken
print(drows)
assert drows.tolist() == [[4, 0], [0, 0], [0, 4]]

# %%
figure, axis = plt.subplots(figsize=(6.5, 2.6))
box = {"boxstyle": "round,pad=0.4", "facecolor": "white"}
for i in range(3):
    axis.text(0.8, -i, f"token {i}: ({dtokens[i, 0]}, {dtokens[i, 1]})", ha="right", bbox=box)
    axis.text(2.2, -i, f"row {i}: ({drows[i, 0]}, {drows[i, 1]})", ha="left", bbox=box)
    arrow = {"arrowstyle": "->", "color": "C0", "linewidth": 2}
    axis.annotate("", (2.1, -taken[i] + 0.05), (0.9, -i + 0.05), arrowprops=arrow)
axis.set(xlim=(0, 3), ylim=(-2.5, 0.5), title="Gradients flow from the tokens back to the rows")
axis.set_axis_off()
plt.show()

# %% [markdown]
# Two arrows meet in row 0, none ends in row 1. Training moves each row against its gradient, to make a loss smaller. So a
# row learns what its tokens *agree on*, and a row without tokens learns nothing. Both sentences will explain what we find.

# %% [markdown]
# ## The backward of a table
#
# For token $n$ in $cell(n)$, with the gradient $\mathrm{d}z_n$:
#
# $$\mathrm{d}T_r = \sum_{n:\; cell(n) = r} \mathrm{d}z_n$$
#
# Now the bundled model, on a photograph so small that it cannot fill the grid. `verify.trace` runs it forward and
# backward and keeps every intermediate and its gradient.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
T, Q = params["spatial_embedding"]["table"], params["scale_embedding"]["table"]
G, P, S, D = config.grid_size, config.patch_size, config.scales, config.width


def gradients_of(longer_side):
    """The tokens of a photograph, and how the sum of the logits changes with each: (N, D)."""
    image = photograph("coffee", longer_side=longer_side)
    tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
    _, gradients = verify.trace(params, tokens, config, dlogits=np.ones((1, config.outputs)))
    return tokens, gradients["spatial_embedding"][0]


# %%
tokens, dz = gradients_of(5 * P)
where = tokens.hash_index[0]
dT = np.zeros_like(T)
for n in range(len(dz)):
    dT[where[n]] += dz[n]
_, cache = lookup(T, where)
np.testing.assert_allclose(dT, lookup_backward(dz, cache), rtol=0, atol=1e-12)
unused = np.setdiff1d(np.arange(G * G), where)
print(f"dT: {dT.shape}; {len(unused)} of {G * G} rows took no token")
assert len(unused) > 0
assert not dT[unused].any()

# %%
strength = np.linalg.norm(dT, axis=1)
strength[unused] = np.nan
figure, axis = plt.subplots(figsize=(4.2, 3.4))
shown = axis.imshow(strength.reshape(G, G), vmin=0)
figure.colorbar(shown, ax=axis, label="length of the row's gradient")
axis.set(xlabel="column of the grid", ylabel="row of the grid", title="What this picture teaches T")
plt.show()

# %% [markdown]
# White cells took no token: from this picture their rows learn nothing. In the others, a bright cell is one whose vector
# would change the score most. (Mind what this does not say: bright is not important for every photograph.)
#
# The loop in one line is a trap. `dT[where] += dz` looks right, raises no error, and keeps only *one* token per cell:

# %%
trap = np.zeros_like(T)
trap[where] += dz
lost = np.linalg.norm(trap - dT) / np.linalg.norm(dT)
print(f"wrong by {lost:.0%} of the gradient's length")
assert lost > 0.01
show(lookup_backward)

# %% [markdown]
# The library multiplies by the one-hot matrix, transposed, which is the formula above, read literally. It gives the same
# digits on every run, also on a GPU.

# %% [markdown]
# ## Inside the table
#
# What do the rows hold? Compare them by the cosine of the angle between them: 1 means the same direction, 0 unrelated, $-1$
# opposite. The appendix shows this as a grid of grids (its figures 3 and 4): the small map in row $r$, column $c$ compares
# cell $(r, c)$ with every cell. If the table has learned places, each small map is brightest around its own cell, since
# neighbours see similar things. Here is the model's:

# %%
explain.similarity_grid(T)

# %% [markdown]
# Compare the small maps with each other. Bright spots that *move* with the cell speak of places. Spots that stay where they
# are, in map after map, or maps that look alike from far apart, cannot be about places. A number instead of an impression:
# the mean cosine of cells at each distance. For a table of places it falls slowly from 1; for one that knows nothing of
# places it drops at once and stays flat.


# %%
def by_distance(table, direction):
    """Mean cosine of cells 0, 1, 2, … steps apart, down (1, 0) or to the right (0, 1)."""
    g = math.isqrt(len(table))
    similar = explain.embedding_similarity(table).reshape(g, g, g, g)
    means = []
    for d in range(g):
        down, right = d * direction[0], d * direction[1]
        r, c = np.mgrid[: g - down, : g - right]  # every cell that has another d steps on
        means.append(float(similar[r, c, r + down, c + right].mean()))
    return means


figure, axis = plt.subplots(figsize=(6.5, 2.8))
axis.plot(by_distance(T, (0, 1)), "o-", label="columns apart")
axis.plot(by_distance(T, (1, 0)), "s--", label="rows apart")
axis.set(xlabel="distance in cells", ylabel="mean cosine", title=f"The model's table, G = {G}")
axis.axhline(0, color="0.5", linewidth=0.8)
axis.legend()
plt.show()
neighbours = (by_distance(T, (0, 1))[1] + by_distance(T, (1, 0))[1]) / 2
print(f"neighbours: {neighbours:+.2f} (1 would be the same vector, 0 unrelated)")
np.testing.assert_allclose(by_distance(T, (1, 0))[0], 1)  # each with itself

# %% [markdown]
# Read the second point of each line: how much do direct neighbours have in common? And look for waves: a line that rises
# again says that cells *some steps apart* are alike. Places do not do that. What does?

# %% [markdown]
# ## A second look: who uses which cell?
#
# Few patches skip cells. The smallest scale has a handful of patches along an axis, so it uses a handful of cells, always
# the same ones. Count which tokens fall into which cell, over photographs of usual shapes that just fill the grid:

# %%
counts = np.zeros((S, G * G))
for h, w in ((4, 4), (3, 4), (4, 3), (2, 3), (3, 2)):
    unit = G * P / math.sqrt(h * w)
    for scale in scales_of(round(h * unit), round(w * unit), config):
        cells = hash_index(scale.rows, scale.columns, G)
        counts[scale.scale_index] += np.bincount(cells, minlength=G * G)
share = counts / counts.sum(axis=0)  # of the tokens in a cell, how many come from each scale

# %%
names = [explain.scale_name(scale) for scale in scales_of(G * P, G * P, config)]
figure, axes = plt.subplots(1, S, figsize=(3 * S, 3))
for axis, part, name in zip(np.atleast_1d(axes), share, names, strict=True):
    shown = axis.imshow(part.reshape(G, G), vmin=0, vmax=1)
    axis.set(title=name, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label="share of the cell's tokens", shrink=0.8)
plt.show()
np.testing.assert_allclose(share.sum(axis=0), 1)

# %% [markdown]
# The smallest scale comes in islands. In the cells of its square grid its share is larger than in all others, in a few more (those of
# elongated pictures) it is smaller, and in most it is never seen. So the cell of a patch tells where it lies, and *also*,
# without anybody wanting it, from which scale it may be. The islands' rows serve the same tokens, far apart as they lie.
# If the table has learned the scale, they must be alike:


# %%
def togetherness(table, cells):
    """Mean cosine of every two different rows in a group of cells."""
    similar = explain.embedding_similarity(table)[np.ix_(cells, cells)]
    n = len(cells)
    return float(
        (similar.sum() - n) / (n * (n - 1))
    )  # without the n cosines of rows with themselves


side = math.ceil(config.longer_sides[0] / P)  # patches along an axis of the smallest scale
islands = np.unique(hash_index(side, side, G))
rng = np.random.default_rng(0)
luck = [togetherness(T, rng.permutation(G * G)[: len(islands)]) for _ in range(1000)]
found = togetherness(T, islands)
learned_scale = found > max(luck)
print(f"the {len(islands)} islands: {found:+.2f}; 1000 random groups: at most {max(luck):+.2f}")

# %% [markdown]
# And a sharper test. The scale embedding's table $Q$ has a row for the smallest scale and one for the largest; the
# difference of the two points from large to small. How far does each row of $T$ go in that direction?

# %%
small_to_large = Q[0] - Q[-1]
along = T @ small_to_large / np.linalg.norm(small_to_large)  # (G²,)
together = float(np.corrcoef(share[0], along)[0, 1])
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].hist(luck, bins=30, color="0.7", edgecolor="white", label="random groups")
axes[0].axvline(found, color="C1", linewidth=3, label="the islands")
axes[0].set(xlabel="mean cosine within the group", ylabel="groups", title="Are the islands alike?")
axes[0].legend()
axes[1].plot(share[0], along, "o", alpha=0.6)
axes[1].set(xlabel="share of the smallest scale in the cell", ylabel="towards Q's small scale")
axes[1].set_title(f"One point per cell: correlation {together:+.2f}")
plt.show()
verdict = "has learned the scale" if learned_scale else "shows no sign of the scale"
print(f"This table {verdict}.")
assert -1 <= found <= 1

# %% [markdown]
# How to read it: if the orange line lies far to the right of all random groups, and the points on the right rise (or fall)
# with the share, then the table has learned the *scale*, which has a table of its own. If the line is among the grey bars, it
# has not, or not yet. Early in training, rows are still the noise they began as.

# %% [markdown]
# ### Why would it?
#
# Recall the toy: a row learns what its tokens agree on. What do the tokens of a scale agree on? Add up their gradients, and
# compare the length of the sum with the sum of the lengths: 1 if all point the same way, about $1/\sqrt{n}$ if each points
# anywhere.

# %%
tokens, dz = gradients_of(16 * P)
for s, name in enumerate(names):
    group = dz[tokens.scale_index[0] == s]
    agree = np.linalg.norm(group.sum(axis=0)) / np.linalg.norm(group, axis=1).sum()
    chance = 1 / math.sqrt(len(group))
    print(f"{name:16} {len(group):4} tokens agree to {agree:.2f}; by chance {chance:.2f}")
    assert agree > chance

# %% [markdown]
# They agree more than by chance. Part of the gradient is the same for all tokens of a scale, wherever they lie; this is just
# what moves $Q$. With every picture it is also handed to the rows of $T$, to each in proportion to the tokens it got from
# that scale. So an island's row drifts the way of the smallest scale's row of $Q$. Whether places win over that depends on
# whether there is something to learn from places.

# %% [markdown]
# ## Two tables, two tasks
#
# If this is right, a table learns what its tokens are asked about, and nothing else. Try it. Not MUSIQ, and not quality:
# a small table whose rows must answer, through a linear layer, one of two questions about each token:
#
# - **place**: nine smooth things about where it lies (waves across the picture, such as "is it in the middle?");
# - **scale**: is it from a grid of 3×3, 6×6 or 12×12 patches?
#
# Both start as the same noise, of size 0.02, as MUSIQ's does. Nothing in the program says which cells are neighbours, or which
# are islands.


# %%
def tokens_of_a_picture(g):
    """Cell, place (as fractions, row and column) and scale of each token of 3×3, 6×6 and 12×12."""
    cell, place, scale = [], [], []
    for s, n in enumerate((3, 6, 12)):
        rows, columns = (axis.ravel() for axis in np.mgrid[:n, :n])
        cell.append(hash_axis(n, g)[rows] * g + hash_axis(n, g)[columns])
        place.append(np.stack([rows, columns], axis=1) / n)
        scale.append(np.full(n * n, s))
    return np.concatenate(cell), np.concatenate(place), np.concatenate(scale)


cell, place, scale = tokens_of_a_picture(10)
down, right = (np.cos(np.pi * place[:, [axis]] * [0, 1, 2]) for axis in (0, 1))
asked = {
    "place": (down[:, :, None] * right[:, None, :]).reshape(-1, 9),
    "scale": np.eye(3)[scale] - np.eye(3)[scale].mean(axis=0),
}
print({task: wanted.shape for task, wanted in asked.items()})


# %%
def learn_table(wanted, width=24, steps=1000):
    """T (100, width), learned by gradient descent through `lookup` and a linear layer."""
    rng = np.random.default_rng(0)
    table = 0.02 * rng.standard_normal((100, width))
    W = rng.standard_normal((width, wanted.shape[1])) / np.sqrt(width)
    b = np.zeros(wanted.shape[1])
    for _ in range(steps):
        rows, cache_T = lookup(table, cell)
        y, cache = linear(rows, W, b)
        drows, dW, db = linear_backward((y - wanted) / len(cell), cache)
        table -= 5 * lookup_backward(drows, cache_T)
        W -= 0.1 * dW
        b -= 0.1 * db
    return table


learned = {task: learn_table(wanted) for task, wanted in asked.items()}

# %%
explain.similarity_grid(learned["place"])

# %% [markdown]
# Asked for places, each small map is bright around its own cell, and the bright spot moves with it. This is the look of the
# appendix's figures 3 and 4.

# %%
explain.similarity_grid(learned["scale"])

# %% [markdown]
# Asked for the scale, the same noise has become a mesh. There are only a few kinds of map, the same kinds far apart, and
# their spots stay where they are. In numbers, by the same test as above:

# %%
nine = np.unique(hash_index(3, 3, 10))
for task, table in learned.items():
    chance = [togetherness(table, rng.permutation(100)[:9]) for _ in range(1000)]
    near = by_distance(table, (0, 1))[1]
    print(
        f"{task}: neighbours {near:+.2f}; islands {togetherness(table, nine):+.2f}, "
        f"random groups {min(chance):+.2f} … {max(chance):+.2f}"
    )
    assert (togetherness(table, nine) > max(chance)) == (task == "scale")
assert by_distance(learned["place"], (0, 1))[1] > 0.5

# %% [markdown]
# ## The answer
#
# What has the table learned? Not what it is called, but what its tokens agree on. In a model trained on photographs rated by
# people, to whom it matters what lies where, that is largely the place, as the appendix's figures show. Where a picture is
# spoilt alike all over, as by the flaws that the bundled model learned from, places have little to say, and the
# scale can come through instead: the cell gives it away. For the model at hand:

# %%
print(f"neighbours {neighbours:+.2f}; islands {found:+.2f}, random groups up to {max(luck):+.2f}")
print(f"It {verdict}.")

# %% [markdown]
# ## Optional: other grids
#
# The appendix draws learned tables with $G = 5$ and $G = 15$. A table belongs to its grid: to see what a model *learns*
# with another $G$ you must train one. With this library that is
#
# ```sh
# musiq-ref train --recipe synthetic --set model.grid_size=5 -o g5
# ```
#
# and then `explain.similarity_grid(mq.load_checkpoint("g5/best.safetensors").params["spatial_embedding"]["table"])`.
# It takes far longer than this chapter may, although the recipe's model is smaller than the bundled one. So here we only
# make sure that it would train what we want.

# %%
settings = recipe("synthetic", model={"grid_size": 5})
trained = settings.config()
print(f"G = {trained.grid_size}; {trained.layers} blocks of width {trained.width}")
assert trained.grid_size == 5
assert trained.layers * trained.width < config.layers * config.width

# %% [markdown]
# Instead, something that needs no training and is *not* the appendix's figure: the bundled table seen through a coarser
# grid. Each of the $5 \times 5$ cells is the mean of the rows that fall into it. A model trained
# with $G = 5$ would have other numbers, but the same question to answer.

# %%
coarse = hash_index(G, G, 5)  # the grid itself, hashed: in which of 5×5 cells each of its own lies
T_5 = np.stack([T[coarse == cell].mean(axis=0) for cell in range(25)])
print("T_5:", T_5.shape)
explain.similarity_grid(T_5)

# %% [markdown]
# Look again for spots that move with the cell and for spots that stay. A mean over several cells mixes islands with their
# neighbours: if the table has a mesh, less of it is left here.

# %% [markdown]
# ## Optional: a table that needs no learning
#
# The paper also tried a **sinusoidal** table (appendix B.2). Position $p = t_r G + t_c$ becomes sines and cosines of $D/2$ frequencies:

# %%
show(sinusoidal_table)
explain.similarity_grid(sinusoidal_table(15, D))

# %% [markdown]
# Look at what it takes for near. It knows $p$, one number, not row and column. Two cells of a row are near. The
# last cell of a row and the first of the next are just as near, though they lie at opposite edges of the picture, and the
# cell below is 15 steps away.

# %%
for g in (5, 10, 15):
    similar = explain.embedding_similarity(sinusoidal_table(g, D))
    right, below, wrapped = similar[0, 1], similar[0, g], similar[g - 1, g]
    print(
        f"G = {g:2}: right {right:.3f}, below {below:.3f}, end of the row to the next {wrapped:.3f}"
    )
    assert right > below
    np.testing.assert_allclose(wrapped, right)

# %% [markdown]
# In the appendix's table 4 the learned table beats this one by 0.002 to 0.008 SRCC: even so crude a table of places will
# do.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/02b_what_the_table_learns.py`; try first.

# %% [markdown]
# ### Exercise 1: the backward of a table (★, 10 minutes)
#
# Given `dy`, the gradient with respect to the rows that were looked up, return the gradient with respect to the table.
# `cache` is what `lookup` kept: the indices,
# any shape, and the number of rows of the table. `dy` has the shape of the indices and one more axis, $D$.
#
# <details><summary>Hint</summary>
#
# `np.add.at(dT, index, dy)` does what `dT[index] += dy` does not: it adds once for each index, also where they repeat. It
# changes `dT` in place and returns nothing.
#
# </details>


# %% tags=["exercise-1"]
def my_lookup_backward(dy, cache):
    index, rows = cache
    return ...


# %% tags=["check-1"]
def check(backward):
    rng = np.random.default_rng(2)
    table, index = rng.standard_normal((6, 3)), np.array([[0, 2, 2, 5], [5, 1, 2, 0]])
    got = np.asarray(backward(rng.standard_normal((2, 4, 3)), (index, 6)))
    assert got.shape == (6, 3), f"the gradient has shape {got.shape}, the table (6, 3)"
    assert not got[[3, 4]].any(), "rows 3 and 4 are never looked up; their gradient is 0"
    verify.check_vjp(lookup, backward, [table, index])


exercise(1, my_lookup_backward, check)

# %% [markdown]
# ### Exercise 2: alike, or just lucky? (★★, 10 minutes)
#
# Write `togetherness` yourself: the mean cosine of every two *different* rows of a group. And then the judge: how many of
# the given other groups are at least as much together? Few such groups mean that it is not luck.
#
# <details><summary>Hint</summary>
#
# Scale each row to length 1. Then the matrix of all cosines is `unit @ unit.T`. Its diagonal, each row with itself, is 1 and
# must not count: subtract it from the sum, and divide by the number of the others, $n(n - 1)$.
#
# </details>


# %% tags=["exercise-2"]
def my_luck(table, group, others):
    """table: (rows, D);  group: (n,);  others: (m, n);  returns (togetherness of group, share)"""
    return ..., ...


# %% tags=["check-2"]
def check(my_luck):
    rng = np.random.default_rng(6)
    table = rng.standard_normal((20, 4))
    table[[2, 9, 15]] += 2 * rng.standard_normal(4)  # alike, a little
    others = np.stack([rng.permutation(20)[:3] for _ in range(50)])
    for group in (np.array([2, 9, 15]), np.array([0, 1, 3])):
        got, share = my_luck(table, group, others)
        wanted = togetherness(table, group)
        assert np.isclose(got, wanted), f"the rows {group} have {wanted:.3f}, not {got:.3f}"
        lucky = np.mean([togetherness(table, other) >= wanted for other in others])
        assert np.isclose(share, lucky), f"{lucky:.0%} of the others reach that, not {share:.0%}"


exercise(2, my_luck, check)

# %% [markdown]
# ## Quiz

# %%
quiz("02b")

# %% [markdown]
# ## In practice
#
# - **Names are not evidence.** A parameter called "position" holds what lowered the loss. Look, and compare with luck,
#   before you explain a model by the names of its parts.
# - **Two inputs that tell the same** share the work, and training alone decides which of them does it. Here the scale
#   can sit in $Q$, in $T$, and in the sharpness of the patches themselves.
# - **Changing G** in a trained model: `hash_index` of the grid itself says which cells to average (optional section),
#   as one interpolates a ViT's positions for larger images. Fine-tune afterwards.
# - **Rows that no picture reaches** keep the noise they began with. They may do harm on the first
#   photograph that does.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, sections
#   3.3 and 3.4, appendix B.
# - A. Dosovitskiy et al.: *An image is worth 16×16 words*, ICLR 2021 (its figure 7 shows the similarity of positions).
# - A. Vaswani et al.: *Attention is all you need*, NeurIPS 2017, section 3.5 (sinusoidal positions).
# - The code: `musiq_ref/image/hash.py`, `musiq_ref/ops/embedding.py`, `musiq_ref/explain/positions.py`.
