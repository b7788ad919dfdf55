# %% [markdown]
# # 02 · Where a patch lies: the hash embedding, and its scale
#
# A blurred patch at the edge of a portrait is bokeh; in the middle of the face it is a spoilt picture. So the model must
# know where a patch lies. But photographs have all sizes and shapes, and MUSIQ looks at each of them at several scales:
# "row 7, column 11" means something else in every picture. The answer is a grid of a few cells laid over *every* picture,
# and a table with one learned vector per cell.

# %% [markdown]
# ## What you will learn
#
# - why attention needs to be told where a patch lies, shown by exchanging patches;
# - to compute the cell of any patch by hand, and which patches of different scales share one;
# - what happens where several patches share a cell, and how large the grid should be;
# - why `float32` is part of the rule, and which photographs show it;
# - what a table of positions looks like inside: the model's, a sinusoidal one, and one that learns before your eyes;
# - Eq. (2) with every term, why embeddings are *added*, and what the backward of a table is.

# %% [markdown]
# ## What you need
#
# About 45 minutes; patches and scales from chapter 01; NumPy indexing. The last section uses the idea of a gradient:
# $\mathrm{d}x$ is how the score changes with $x$ (chapter 03 explains it from the start).

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, explore, photograph, show
from musiq_ref import explain, verify
from musiq_ref.image.hash import hash_axis, hash_index
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model.embeddings import embed
from musiq_ref.model.encoder import encoder
from musiq_ref.model.head import head
from musiq_ref.ops.embedding import lookup, lookup_backward, sinusoidal_table
from musiq_ref.ops.linear import linear, linear_backward
from musiq_ref.training.settings import recipe

# %% [markdown]
# ## A model that cannot see where
#
# We run the bundled model once on one photograph and keep every intermediate, in double precision.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, gradients = verify.trace(params, tokens, config, dlogits=np.ones((1, config.outputs)))

# %%
E_p = values["patch_embedding"]  # what the stem saw in each patch, and nothing else
where, which = tokens.hash_index, tokens.scale_index  # the two integers of each token
B, N, D = E_p.shape
G, S = config.grid_size, config.scales
print(f"E_p: {E_p.shape} = (images, tokens, width);  grid {G}×{G},  {S} scales")
print("where:", where.shape, where[0, :8], "…   which:", which.shape, which[0, :8], "…")

# %% [markdown]
# Everything after $\mathbf{E}_p$, in two lines. `z` is what enters the encoder; the rest of the course opens it up.


# %%
def logit_of(z):
    """From the encoder's input (1, 1 + N, D) to the first logit: the score, or a part of it."""
    y, _ = encoder(z, np.ones(z.shape[:2], bool), params["encoder"], config.conventions)
    return head(y, params["head"])[0][0, 0]


z_0, _ = embed(E_p, where, which, params, config)
print("z_0:", z_0.shape, " logit:", logit_of(z_0))
np.testing.assert_allclose(logit_of(z_0), values["head/logits"][0, 0], rtol=1e-9)

# %% [markdown]
# Now leave out the two embeddings of this chapter, and scramble the photograph: every patch takes the place of a random
# other. Without embeddings the model *cannot* notice; a picture and its jigsaw get the same score. With them it can.

# %%
scrambled = np.random.default_rng(0).permutation(N)
class_token = params["class_token"][None, None]  # (1, 1, D)


def without_places(E_p):
    return logit_of(np.concatenate([class_token, E_p], axis=1))


def with_places(E_p):
    return logit_of(embed(E_p, where, which, params, config)[0])


# %%
for name, f in (("without", without_places), ("with", with_places)):
    print(f"{name:8} places: {f(E_p):+.9f}, scrambled {f(E_p[:, scrambled]):+.9f}")
np.testing.assert_allclose(without_places(E_p[:, scrambled]), without_places(E_p), rtol=1e-9)
assert abs(with_places(E_p[:, scrambled]) - with_places(E_p)) > 1e-6 * abs(with_places(E_p))

# %% [markdown]
# So a place must be written into each token. The vision transformer (ViT) has a table with a row for each of its
# $14 \times 14$ patches, because all its images are squares of 224 pixels. MUSIQ's are not: this photograph alone comes
# with these grids of patches.

# %%
for scale in scales_of(*image.shape[:2], config):
    print(f"{explain.scale_name(scale):16} {scale.rows:3} rows × {scale.columns:3} columns")

# %% [markdown]
# ## The rule
#
# Lay a grid of $G \times G$ cells over the picture, whatever its size. Patch $i$ of $n$ along an axis falls into cell
#
# $$t_i = \min(\lfloor i \cdot G / n \rfloor,\; G - 1)$$
#
# and a patch with row cell $t_r$ and column cell $t_c$ gets row $t_r G + t_c$ of a table $T$. The paper calls it
# *hash-based*: as in a hash table, many keys share few places.

# %%
show(hash_axis, hash_index)

# %% [markdown]
# By hand, 4 patches on 10 cells, then 12 patches on 10 cells:

# %%
for n in (4, 12):
    by_hand = [min(int(i * 10 / n), 9) for i in range(n)]
    print(f"n = {n:2}: {by_hand}")
    assert by_hand == hash_axis(n, 10).tolist()

# %% [markdown]
# Few patches skip cells (0, 2, 5, 7); many share them. Here is the grid on our photograph, at every scale. Thick lines
# part the cells, the colour says how many patches are in one.

# %%
explain.hash_grid(image, config)

# %% [markdown]
# In Jupyter with `ipywidgets`, try other grids and larger pictures:


# %%
def draw(grid_size, longer_side):
    """The grid over the photograph."""
    picture = photograph("coffee", longer_side=longer_side)
    return explain.hash_grid(picture, config.replace(grid_size=grid_size))


explore(draw, grid_size=[10, 5, 15], longer_side=[400, 600, 200])

# %% [markdown]
# ### The same place at every scale
#
# The point of the rule is not one picture but agreement between them: the middle is the middle, at every scale and in
# every photograph, and gets the same row of $T$. Framed: the patches that share a cell, for one cell near the middle that
# is used at every scale. (Not all are: where there are few patches, they skip cells.)

# %%
used = [set(where[0][which[0] == s].tolist()) for s in range(S)]
print("cells in use, by scale:", [len(cells) for cells in used])
at_all_scales = set.intersection(*used)
cell = min(at_all_scales, key=lambda c: abs(c // G - G / 2) + abs(c % G - G / 2))
same_cell = np.flatnonzero(where[0] == cell)
print(f"{len(at_all_scales)} at all scales; in cell {cell} = {divmod(cell, G)}: tokens {same_cell}")
assert set(which[0][same_cell]) == set(range(S))
explain.multi_scale_patches(image, config, highlight=same_cell.tolist())

# %% [markdown]
# They need not cover each other exactly: a cell is known only to within a patch. As fractions of the picture, the
# starts of patches that share a cell differ by less than one cell, $1/G$.

# %%
for n, m in ((7, 24), (12, 24), (5, 18)):  # patches along an axis at two scales
    for i, cell in enumerate(hash_axis(n, G)):
        for j in np.flatnonzero(hash_axis(m, G) == cell):
            assert abs(i / n - j / m) < 1 / G

# %% [markdown]
# ## Collisions
#
# With more patches than cells along an axis, several patches share a cell. They get the same vector, so the model
# cannot tell their places apart: exchange two of them, and the score stays. Exchange two from different cells, and it
# moves.

# %%
scale_and_cell = which[0] * G * G + where[0]
pairs = [(a, b) for a in range(N) for b in range(a) if scale_and_cell[a] == scale_and_cell[b]]
print(f"{len(pairs)} pairs of patches share scale and cell; for example", pairs[:3])


def exchanged(a, b):
    """The logit when two patches have changed places: their contents move, the places stay."""
    order = np.arange(N)
    order[[a, b]] = b, a
    return with_places(E_p[:, order])


# %%
a, b = pairs[0]
c = int(np.flatnonzero((which[0] == which[0, a]) & (where[0] != where[0, a]))[-1])
original = with_places(E_p)
print(f"exchange {a} and {b} of one cell:   logit moves by {exchanged(a, b) - original:+.1e}")
print(f"exchange {a} and {c} of two cells: logit moves by {exchanged(a, c) - original:+.1e}")
np.testing.assert_allclose(exchanged(a, b), original, rtol=1e-9)
assert abs(exchanged(a, c) - original) > 100 * abs(exchanged(a, b) - original)

# %% [markdown]
# How large should $G$ be? Small grids collide; in large ones some rows of $T$ hardly ever see a patch and are not
# learned. Count how many patches of KonIQ-10k's photographs (all are $768 \times 1024$, here in patches of 32) fall
# into each of the $G^2$ rows, all three scales together:

# %%
koniq = scales_of(768, 1024, mq.MusiqConfig.preset("small"))
grids = [3, 5, 8, 10, 12, 15, 20, 30]
counts = {}
for g in grids:
    found = np.concatenate([hash_index(s.rows, s.columns, g) for s in koniq])
    counts[g] = np.bincount(found, minlength=g * g)
print({g: (int(c.min()), int(c.max())) for g, c in counts.items()})

# %%
figure, axis = plt.subplots(figsize=(6.5, 3))
axis.plot(grids, [c.max() for c in counts.values()], "o-", label="fullest cell")
axis.plot(grids, [c.mean() for c in counts.values()], "s--", label="mean")
axis.plot(grids, [c.min() for c in counts.values()], "^:", label="emptiest cell")
axis.set(xlabel="grid size G", ylabel="patches in a cell", yscale="symlog", xticks=grids)
axis.set_title("768×1024 pixels, three scales, patches of 32")
axis.legend()
plt.show()
assert counts[30].min() == 0
assert counts[10].min() > 0

# %% [markdown]
# The appendix (B.1) gives a rule of thumb: $G \cdot P$ should be about the side of a typical image. With its average of
# $450 \times 500$ pixels and $P = 32$:

# %%
rule_of_thumb = np.sqrt(450 * 500) / 32
print(f"G ≈ {rule_of_thumb:.1f}")
assert 10 < rule_of_thumb < 15

# %% [markdown]
# The paper takes 10. In the appendix's table 3 every $G$ from 5 to 20 scores within 0.006 SRCC on AVA: where a patch
# lies matters, but only roughly.

# %% [markdown]
# ## The corners of float32
#
# The rule looks like exact arithmetic. It is not: the authors' program computes $G/n$ first, in `float32`, and multiplies
# by $i$. Where $i \cdot G / n$ is a whole number, a quotient rounded *down* falls below it, and the floor takes the patch
# into the cell before. Four ways to write the same rule:


# %%
def cells(n, G):
    """Four programs for the same rule."""
    i, f = np.arange(n), np.float32
    places = {
        "float32 i·(G/n), the authors'": i.astype(f) * (f(G) / f(n)),
        "float32 (i·G)/n": (i * G).astype(f) / f(n),
        "float64 i·(G/n)": i * (G / n),
        "whole numbers": i * G // n,
    }
    return {name: np.minimum(np.floor(place).astype(int), G - 1) for name, place in places.items()}


results = {n: cells(n, 10) for n in range(1, 400)}
for name in results[1]:
    wrong = [n for n, by in results.items() if (by[name] != by["whole numbers"]).any()]
    print(f"{name:30} differs from exact arithmetic at n = {wrong}")

# %% [markdown]
# Look at one corner with all its digits: patch 41 of 205.

# %%
ratio = np.float32(10) / np.float32(205)
print(f"10/205 is 0.0487804878…; the nearest float32 is {ratio:.12f}")
print(f"41 times that, in float32: {np.float32(41) * ratio:.9f}; exactly it is {41 * 10 / 205}")
assert float(ratio) < 10 / 205
assert hash_axis(205, 10)[41] == 1
assert 41 * 10 // 205 == 2

# %% [markdown]
# 205 patches of 32 pixels are a picture 6,560 pixels wide: a 30-megapixel camera. A program with exact arithmetic gives
# the patches of three of the 205 columns another vector than the authors'. These are few, but a port that says "equal"
# must reproduce them, and no small test picture will ever show the difference. So the arithmetic is part of the rule.

# %%
moved = np.flatnonzero(hash_axis(205, 10) != np.arange(205) * 10 // 205)
print("columns in another cell:", moved)
corners = [n for n in range(1, 400) if (hash_axis(n, 10) != np.arange(n) * 10 // n).any()]
print("a side of", [32 * n for n in corners], "pixels has a corner")
assert len(moved) == 3
assert corners == [205, 235, 266, 275, 305]

# %% [markdown]
# ### Floor, not round
#
# The paper's text says that $t_i$ is *rounded to the nearest integer*. The released program takes the floor. Rounding
# would shift the grid by half a cell: the first cell gets about half as many patches, and the last ones would get cell
# $G$, which does not exist, so that a clip must push them back into the last.

# %%
n, g = 41, 5
figure, axis = plt.subplots(figsize=(6.5, 3))
axis.step(range(n), hash_axis(n, g), where="mid", label="floor (the program)")
axis.step(range(n), hash_axis(n, g, "round"), "--", where="mid", label="round (the text), clipped")
axis.set(xlabel=f"patch, of {n}", ylabel=f"cell, of {g}", yticks=range(g), title="Two rules")
axis.legend()
plt.show()
print("patches per cell:", np.bincount(hash_axis(n, g)), np.bincount(hash_axis(n, g, "round")))
assert np.rint(np.arange(n) * g / n).max() == g  # beyond the table, but for the clip

# %% [markdown]
# ## Inside the table
#
# $T$ has $G^2$ rows of $D$ numbers, learned like all other parameters. What does it hold? Compare rows by the cosine of
# the angle between them: 1 means the same direction, 0 unrelated. The appendix shows them as a grid of grids (its figures
# 3 and 4): the small map in row $r$, column $c$ compares cell $(r, c)$ with every cell.

# %%
T = params["spatial_embedding"]["table"]
print("T:", T.shape, "= (G², D)")
assert T.shape == (G * G, D)
explain.similarity_grid(T)

# %% [markdown]
# If the table has learned places, each small map is brightest around its own cell: neighbours have similar vectors,
# though nobody told the model which rows of $T$ are neighbours. Do not expect too much here. The bundled model was made
# for synthetic distortions, which spoil a whole picture alike, so it has little reason to learn places. The appendix's
# models learned from photographs rated by people, to whom it matters what lies where. A number instead of an impression:
# the mean similarity of cells at each distance. For a table that knows nothing it is flat beyond distance 0.


# %%
def by_distance(table, direction):
    """Mean similarity of cells 0, 1, 2, … steps apart, down (1, 0) or to the right (0, 1)."""
    g = int(len(table) ** 0.5)
    similar = explain.embedding_similarity(table).reshape(g, g, g, g)
    means = []
    for d in range(g):
        down, right = d * direction[0], d * direction[1]
        r, c = np.mgrid[: g - down, : g - right]  # every cell that has another d steps on
        means.append(float(similar[r, c, r + down, c + right].mean()))
    return means


# %%
figure, axis = plt.subplots(figsize=(6.5, 3))
axis.plot(by_distance(T, (0, 1)), "o-", label="columns apart")
axis.plot(by_distance(T, (1, 0)), "s--", label="rows apart")
axis.set(xlabel="distance in cells", ylabel="mean cosine", title=f"Bundled table, G = {G}")
axis.axhline(0, color="0.5", linewidth=0.8)
axis.legend()
plt.show()
np.testing.assert_allclose(by_distance(T, (1, 0))[0], 1)  # each with itself
neighbours = (by_distance(T, (0, 1))[1] + by_distance(T, (1, 0))[1]) / 2
print(f"neighbours: {neighbours:+.3f}; chance for width {D}: ±{1 / np.sqrt(D):.3f} a pair")

# %% [markdown]
# ### Other grids
#
# The appendix draws learned tables with $G = 5$ and $G = 15$. A table belongs to its grid: to see what a model *learns*
# with another $G$ you must train one. With this library that is
#
# ```sh
# musiq-ref train --recipe synthetic --set model.grid_size=5 -o g5
# ```
#
# and then `explain.similarity_grid(mq.load_checkpoint("g5/best.safetensors").params["spatial_embedding"]["table"])`.
# It takes far longer than this chapter may, so here we only make sure that it would train what we want. (At the end of
# the chapter a small table does learn, for $G = 5$ and $G = 15$.)

# %%
settings = recipe("synthetic", model={"grid_size": 5})
trained = settings.config()
print(f"G = {trained.grid_size}; {trained.layers} blocks of width {trained.width}")
assert trained.grid_size == 5

# %% [markdown]
# Instead, two tables that need no training; they are *not* the appendix's figures. First: the bundled table
# seen through a coarser grid. Each of the $5 \times 5$ cells is the mean of the rows that fall into it. A model trained
# with $G = 5$ would have other numbers, but the same question to answer.

# %%
coarse = hash_index(G, G, 5)  # the grid itself, hashed: in which of 5×5 cells each of its own lies
T_5 = np.stack([T[coarse == cell].mean(axis=0) for cell in range(25)])
print("T_5:", T_5.shape)
explain.similarity_grid(T_5)

# %% [markdown]
# Second, $G = 15$ with the table that needs no learning: the **sinusoidal** one (appendix B.2), which the paper tried,
# too. Position $p = t_r G + t_c$ becomes sines and cosines of $D/2$ frequencies:

# %%
show(sinusoidal_table)
explain.similarity_grid(sinusoidal_table(15, D))

# %% [markdown]
# Look at what it thinks is near. It knows $p$, one number, not row and column. Two cells of a row are near. The
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
# In the appendix's table 4 the learned table wins against this one by 0.002 to 0.008 SRCC: even so crude a table of
# places will do.

# %% [markdown]
# ## The scale, and the sum
#
# The cell says where. It does not say at which scale: the same cell serves all of them. Yet a soft patch of the reduced
# picture means something else than a soft patch of the original. So there is a second, tiny table $Q$, with one row per
# scale.

# %%
Q = params["scale_embedding"]["table"]
print("Q:", Q.shape, "= (scales, D)")
print("cosines between its rows:\n", explain.embedding_similarity(Q).round(3))

# %% [markdown]
# How to put place and scale into the token? Write them beside the patch's features, as two one-hot vectors
# $\mathbf{e}_{cell}$ and $\mathbf{e}_{scale}$, and let the linear layer that makes the token read them, too:
#
# $$[\mathbf{f};\, \mathbf{e}_{cell};\, \mathbf{e}_{scale}] \begin{bmatrix} \mathbf{W} \\ T \\ Q \end{bmatrix}
# = \mathbf{f}\mathbf{W} + \mathbf{e}_{cell} T + \mathbf{e}_{scale} Q$$
#
# A one-hot vector times a matrix is one of its rows. So *adding* a row of $T$ and a row of $Q$ to the patch embedding
# **is** concatenation, done before the linear layer, without ever building the long vector. With $\mathbf{E}_{HSE}$
# (hash-based spatial embedding) and $\mathbf{E}_{SCE}$ (scale embedding) holding those rows for each token, and the
# class token in front, which lies nowhere and gets neither:
#
# $$\mathbf{z}_0 = [\mathbf{x}_{class};\; \mathbf{E}_p + \mathbf{E}_{HSE} + \mathbf{E}_{SCE}] \tag{2}$$

# %%
E_HSE, E_SCE = T[where[0]], Q[which[0]]
print("E_p", E_p[0].shape, "+ E_HSE", E_HSE.shape, "+ E_SCE", E_SCE.shape)
by_hand = np.concatenate([params["class_token"][None], E_p[0] + E_HSE + E_SCE])
print("z_0:", by_hand.shape)
np.testing.assert_allclose(by_hand, values["encoder/input"][0], rtol=0, atol=1e-12)
np.testing.assert_allclose(E_p[0] + E_HSE, values["spatial_embedding"][0], rtol=0, atol=1e-12)

# %% [markdown]
# And the long way round, which must agree:

# %%
one_hot = np.concatenate([np.eye(G * G)[where[0]], np.eye(S)[which[0]]], axis=1)  # (N, G² + S)
long_way = E_p[0] + one_hot @ np.concatenate([T, Q])
print("one-hot:", one_hot.shape, "times", (G * G + S, D))
np.testing.assert_allclose(long_way, by_hand[1:], rtol=0, atol=1e-12)

# %% [markdown]
# A sum can be drowned by its largest term. How long are the three vectors?

# %%
lengths = {"E_p": E_p[0], "E_HSE": E_HSE, "E_SCE": E_SCE}
figure, axis = plt.subplots(figsize=(6.5, 2.2))
for i, (rows, hatch) in enumerate(zip(lengths.values(), ("", "//", ".."), strict=True)):
    axis.barh(i, np.linalg.norm(rows, axis=1).mean(), hatch=hatch, edgecolor="white")
axis.set(yticks=range(3), yticklabels=lengths, xlabel="mean length of a token's part")
axis.set_title("What a token is made of")
axis.invert_yaxis()
plt.show()

# %% [markdown]
# The library's lines. `tap` lets a trace look in; `noise` is dropout, used in training only.

# %%
show(lookup, embed)

# %% [markdown]
# ## Backward: what a table learns from
#
# $\mathbf{E}_{HSE}$ enters $\mathbf{z}_0$ by addition, and what is added passes its gradient on unchanged: raise a
# number of token $n$'s row of $\mathbf{E}_{HSE}$ by a little, and the same number of the sum rises by as much. So each
# token hands its gradient $\mathrm{d}z_n$ to the row of $T$ that it took. A row that served several tokens gets the
# **sum** of theirs; tokens of other cells do not reach it:
#
# $$\mathrm{d}T_r = \sum_{n:\; cell(n) = r} \mathrm{d}z_n$$

# %%
dz = gradients["spatial_embedding"][0]  # (N, D), how the logits' sum changes with each token
dT = np.zeros_like(T)
for n in range(N):
    dT[where[0, n]] += dz[n]
_, cache = lookup(T, where)
np.testing.assert_allclose(dT, lookup_backward(dz[None], cache), rtol=0, atol=1e-12)
print("dT:", dT.shape, " rows without a gradient:", int((dT == 0).all(axis=1).sum()), "of", G * G)

# %% [markdown]
# The loop in one line is a trap. `dT[where] += dz` looks right, raises no error, and keeps only *one* token per cell:

# %%
trap = np.zeros_like(T)
trap[where[0]] += dz
lost = np.linalg.norm(trap - dT) / np.linalg.norm(dT)
print(f"lost by the trap: {lost:.0%} of the gradient's length")
assert lost > 0.01

# %% [markdown]
# The library multiplies by the one-hot matrix, transposed, which is the formula above, read literally; it gives the same
# digits on every run, also on a GPU.

# %%
show(lookup_backward)

# %% [markdown]
# Where would moving a cell's vector change the score most? And cells that no patch falls into learn nothing from this
# picture: their gradient is exactly 0.

# %%
strength = np.linalg.norm(dT, axis=1).reshape(G, G)
figure, axis = plt.subplots(figsize=(4.2, 3.4))
figure.colorbar(axis.imshow(strength, vmin=0), ax=axis, label="length of the row's gradient")
axis.set(xlabel="column of the grid", ylabel="row of the grid", title="What this picture teaches T")
plt.show()
unused = np.setdiff1d(np.arange(G * G), where[0])
assert not dT[unused].any()

# %% [markdown]
# ### Learning places, in miniature
#
# Why would neighbours become alike? Because what is asked of them is alike. A made-up task shows it in a second: not
# MUSIQ, and not about quality. Tokens lie at random places, and from its row of $T$ alone each must tell nine smooth
# things about its place (waves across the picture, as "is it in the middle?", "is it at the left?"). The table starts as
# noise of size 0.02, as MUSIQ's does. Nothing in the program says which cells are neighbours.


# %%
def learn_table(G, width=24, steps=500):
    """T (G², width), learned by gradient descent through `lookup` and a linear layer."""
    rng = np.random.default_rng(0)
    T = 0.02 * rng.standard_normal((G * G, width))
    W, b = rng.standard_normal((width, 9)) / np.sqrt(width), np.zeros(9)
    for _ in range(steps):
        place = rng.random((256, 2))  # row and column of 256 tokens, as fractions of the picture
        down, right = (np.cos(np.pi * place[:, [axis]] * [0, 1, 2]) for axis in (0, 1))
        wanted = (down[:, :, None] * right[:, None, :]).reshape(256, 9)
        rows, cache_T = lookup(T, (place * G).astype(int) @ [G, 1])
        y, cache = linear(rows, W, b)
        drows, dW, db = linear_backward((y - wanted) / 256, cache)
        T -= 0.5 * G * G * lookup_backward(drows, cache_T)  # a row sees only 1/G² of the tokens
        W -= 0.1 * dW
        b -= 0.1 * db
    return T


small_tables = {g: learn_table(g) for g in (5, 15)}
for g, learned in small_tables.items():
    near, far = (by_distance(learned, (0, 1))[d] for d in (1, g - 1))
    print(f"G = {g:2}: mean cosine of neighbours {near:+.2f}, of opposite edges {far:+.2f}")
    assert near > 0.5 > far

# %%
explain.similarity_grid(small_tables[5])

# %%
explain.similarity_grid(small_tables[15])

# %% [markdown]
# This is the look of the appendix's figures 3 and 4: each map bright around its own cell, for $G = 5$ as for $G = 15$.
# The finer grid knows places better, and needs more examples: each of its 225 rows was visited by one token in 225.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/02_where_a_patch_lies.py`; try first.

# %% [markdown]
# ### Exercise 1: the rule, to the last corner
#
# The cells of `n` patches on a grid of `G`, as an integer array, equal to the authors' for **every** n: so
# also for 205.
#
# <details><summary>Hint</summary>
#
# Three things in `float32`, in this order: $G/n$, times $i$, floor. NumPy computes in `float32` only if *both* sides are,
# and whole numbers (`np.arange(n)`) times `float32` give `float64`. So:
# `np.arange(n, dtype=np.float32)`, `np.float32(G)`. Then no cell beyond $G - 1$ (`np.minimum`), then `.astype(int)`.
#
# </details>


# %% tags=["exercise-1"]
def my_hash_axis(n, G):
    return ...


# %% tags=["check-1"]
def check(rule):
    for g in (5, 10, 15):
        for n in range(1, 400):
            got, wanted = np.asarray(rule(n, g)), hash_axis(n, g)
            assert got.shape == (n,), f"for n = {n} the result has shape {got.shape}, not ({n},)"
            assert got.dtype.kind == "i", f"cells are whole numbers; yours are {got.dtype}"
            i = int(np.argmax(got != wanted))
            assert (got == wanted).all(), (
                f"patch {i} of {n}, G = {g}: you say {got[i]}, the authors' program {wanted[i]}; "
                "is everything in float32, also the product?"
            )


exercise(1, my_hash_axis, check)

# %% [markdown]
# ### Exercise 2: a grid without collisions
#
# For a photograph of `height` × `width` pixels at its native size, cut into patches of side `P`: the smallest $G$ such
# that no two patches share a cell, and how many numbers the table then holds for width `D`. The model "small" has 27
# million parameters in all; print what yours would need for a photograph of 3000 × 4000 pixels.
#
# <details><summary>Hint</summary>
#
# Rows and columns are hashed separately, with the same $G$. How many patches does the longer axis have? The last may be
# cut: 33 pixels are two patches of 32.
#
# </details>


# %% tags=["exercise-2"]
def my_free_grid(height, width, P, D):
    """Returns (G, numbers in the table)."""
    return ..., ...


# %% tags=["check-2"]
def check(free_grid):
    for height, width, P, D in ((480, 640, 32, 384), (100, 33, 16, 48), (3000, 4000, 32, 384)):
        got, numbers = free_grid(height, width, P, D)
        rows, columns = (int(np.ceil(side / P)) for side in (height, width))

        def collide(g, rows=rows, columns=columns):
            return len(set(hash_index(rows, columns, g).tolist())) < rows * columns

        case = f"{height}×{width} pixels, P = {P}"
        assert not collide(got), f"{case}: with G = {got} there are collisions"
        assert collide(got - 1), f"{case}: G = {got} is not the smallest"
        assert numbers == got**2 * D, f"{case}: the table holds {got**2} rows of {D} numbers"


exercise(2, my_free_grid, check)

# %% [markdown]
# ### Exercise 3: Eq. (2) for a batch
#
# Build $\mathbf{z}_0$, $(B, 1 + N, D)$. No loops. Everything arrives as arguments; `np.broadcast_to(x_class, …)`
# repeats the class token for every image.
#
# <details><summary>Hint</summary>
#
# `T[where]` with `where` of shape $(B, N)$ has shape $(B, N, D)$. The class token needs shape $(B, 1, D)$ to be
# concatenated along axis 1. It gets neither place nor scale.
#
# </details>


# %% tags=["exercise-3"]
def my_embed(E_p, where, which, T, Q, x_class):
    """E_p: (B, N, D);  where, which: integers (B, N);  T: (G², D);  Q: (S, D);  x_class: (D,)"""
    return ...


# %% tags=["check-3"]
def check(my_embed):
    rng = np.random.default_rng(1)
    E_p, T, Q, x_class = (rng.standard_normal(s) for s in ((2, 5, 7), (9, 7), (3, 7), (7,)))
    where, which = rng.integers(0, 9, (2, 5)), rng.integers(0, 3, (2, 5))
    got = my_embed(E_p, where, which, T, Q, x_class)
    assert np.shape(got) == (2, 6, 7), f"z_0 has shape {np.shape(got)}, not (2, 6, 7)"
    assert np.allclose(got[:, 0], x_class), "row 0 of each image must be the class token, unchanged"
    for b in range(2):
        for n in range(5):
            wanted = E_p[b, n] + T[where[b, n]] + Q[which[b, n]]
            assert np.allclose(got[b, n + 1], wanted), (
                f"token {n} of image {b} is not the sum of three"
            )


exercise(3, my_embed, check)

# %% [markdown]
# ### Exercise 4: the backward of a table
#
# From the gradient `dy` to the looked-up rows, the gradient to the table. `cache` is what `lookup` kept: the indices,
# any shape, and the number of rows of the table. `dy` has the shape of the indices and one more axis, $D$.
#
# <details><summary>Hint</summary>
#
# `np.add.at(dT, index, dy)` does what `dT[index] += dy` does not: it adds once for each index, also where they repeat. It
# changes `dT` in place and returns nothing.
#
# </details>


# %% tags=["exercise-4"]
def my_lookup_backward(dy, cache):
    index, rows = cache
    return ...


# %% tags=["check-4"]
def check(backward):
    rng = np.random.default_rng(2)
    table, index = rng.standard_normal((6, 3)), np.array([[0, 2, 2, 5], [5, 1, 2, 0]])
    got = np.asarray(backward(rng.standard_normal((2, 4, 3)), (index, 6)))
    assert got.shape == (6, 3), f"the gradient has shape {got.shape}, the table (6, 3)"
    assert not got[[3, 4]].any(), "rows 3 and 4 are never looked up; their gradient is 0"
    verify.check_vjp(lookup, backward, [table, index])


exercise(4, my_lookup_backward, check)

# %% [markdown]
# ## In practice
#
# - **Indices, not positions.** A tokenised image carries its cells as integers. A model with another $G$ needs other
#   integers; feeding those of $G = 10$ into a table of $G = 12$ raises no error in most programs. The library checks
#   the range, and still cannot notice a smaller grid's.
# - **On a GPU**, an index out of range may wrap around, or read foreign memory, without a word. Check on the host.
# - **Changing G** in a trained model: `hash_index` of the grid itself says which cells to average (as for `T_5` above),
#   as one interpolates a ViT's positions for larger images. Fine-tune afterwards.
# - **Cropping changes places.** A patch at the edge of a photograph may be in the middle of a crop. This is one
#   reason why the mean over crops is not the score of the whole (chapter 15).
# - **Order of scales.** Row 0 of $Q$ is the *smallest* scale in the released weights; the paper numbers the native
#   image first. Load weights with the wrong order and every scale is taken for another.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, sections
#   3.3 and 3.4, appendix B.
# - A. Dosovitskiy et al.: *An image is worth 16×16 words*, ICLR 2021 (a table with a row per patch; appendix D.4
#   compares ways to encode places).
# - A. Vaswani et al.: *Attention is all you need*, NeurIPS 2017, section 3.5 (sinusoidal positions).
# - The code: `musiq_ref/image/hash.py`, `musiq_ref/ops/embedding.py`, `musiq_ref/model/embeddings.py`.
