# %% [markdown]
# # 02 · Where a patch lies: the hash embedding, and the scale
#
# A blurred patch at the edge of a portrait is a pleasant background; in the middle of the face it is a spoilt picture. So
# the model must know where a patch lies. But photographs have all sizes and shapes, and MUSIQ looks at each of them at
# several scales: "row 7, column 11" means something else in every picture.
#
# The question of this chapter: **how can one small table hold the places of all photographs, large and small?**

# %% [markdown]
# ## What you will learn
#
# - why attention needs to be told where a patch lies, shown by exchanging patches;
# - to compute the cell of any patch by hand, and which patches of different scales share one;
# - what happens where several patches share a cell, and how large the grid should be;
# - Eq. (2) with every term, and why embeddings are *added*;
# - if you like: why `float32` is part of the rule, and which photographs show it.
#
# What the table learns is a story of its own, in chapter 02b.

# %% [markdown]
# ## What you need
#
# About 60 minutes, of which the exercises take 25; patches and scales from chapter 01; NumPy indexing.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, explore, photograph, quiz, show
from musiq_ref import explain, verify
from musiq_ref.image.hash import hash_axis, hash_index
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model.embeddings import embed
from musiq_ref.model.encoder import encoder
from musiq_ref.model.head import head
from musiq_ref.ops.embedding import lookup

# %% [markdown]
# ## Three patches, two places
#
# A picture so narrow that it is a strip of three patches, and a table with two places: *left*, row 0, and *right*, row 1.
# Cut the strip in the middle. Patches 0 and 1 begin in the left half, patch 2 begins in the right one, so their places are
# 0, 0, 1. A longer strip of six patches uses the same two rows: 0, 0, 0, 1, 1, 1.

# %%
figure, axis = plt.subplots(figsize=(7, 1.9))
for y, n in ((1, 3), (0, 6)):
    for i in range(n):
        place = i * 2 // n
        axis.barh(y, 1 / n, left=i / n, color=f"C{place}", alpha=0.5, edgecolor="black", height=0.7)
        axis.text(
            (i + 0.5) / n, y, f"patch {i}\nplace {place}", ha="center", va="center", fontsize=9
        )
axis.axvline(0.5, color="black", linestyle="--")
axis.set(yticks=[0, 1], yticklabels=["6 patches", "3 patches"], xlim=(0, 1), xticks=[])
axis.set_title("left | right")
plt.show()

# %% [markdown]
# A patch gets the place in which it *begins*, even if half of it lies beyond the line, as in the short strip. Now the
# numbers. Each patch has become a token of two numbers that say what is in it. Patches 0 and 2 happen to look alike. Add
# to each token the row of its place, its *embedding*:

# %%
contents = np.array([[1, 2], [3, 4], [1, 2]])  # three tokens
places = np.array([0, 0, 1])
table = np.array([[10, 0], [0, 10]])  # a row for left, a row for right
with_place = contents + table[places]
print(with_place)
assert with_place.tolist() == [[11, 2], [13, 4], [1, 12]]

# %% [markdown]
# Before, tokens 0 and 2 were equal, and no program could have told which of them was on the left. Now they differ. Tokens
# 0 and 1 got the same row: they can still be told apart by what is in them, but not by where they lie. The rest of
# the chapter does the same in two dimensions.

# %% [markdown]
# ## A model that cannot see where
#
# We run the bundled model once on one photograph, in double precision. `verify.trace` keeps every intermediate of a run
# under its name.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, _ = verify.trace(params, tokens, config)

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
# other. Without embeddings the model *cannot* notice; a picture and its jigsaw get the same score. With them it can. (The
# score here is the *logit*, what the last layer puts out.)

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
# $14 \times 14$ patches: all its images are squares of 224 pixels. MUSIQ's are not, and
# each comes with several grids of patches.

# %% [markdown]
# ## The rule
#
# As in the toy, along both axes: lay a grid of $G \times G$ cells over the picture, whatever its size. Patch $i$ of $n$
# along an axis falls into cell
#
# $$t_i = \min(\lfloor i \cdot G / n \rfloor,\; G - 1)$$
#
# and a patch with row cell $t_r$ and column cell $t_c$ gets row $t_r G + t_c$ of a table $T$. The paper calls it
# *hash-based*: as in a hash table, many keys share few places.

# %%
show(hash_axis, hash_index)

# %% [markdown]
# By hand, the toy's 3 patches on 2 cells, then 4 and 12 patches on 10 cells:

# %%
for n, g in ((3, 2), (4, 10), (12, 10)):
    by_hand = [min(int(i * g / n), g - 1) for i in range(n)]
    print(f"n = {n:2}, G = {g:2}: {by_hand}")
    assert by_hand == hash_axis(n, g).tolist()

# %% [markdown]
# Few patches skip cells (0, 2, 5, 7); many share them. Here is the grid on our photograph, at every scale. Thick lines
# part the cells, the colour says how many patches are in one. In Jupyter with `ipywidgets`, you can try other grids and
# larger pictures.


# %%
def draw(grid_size, longer_side):
    """The grid over the photograph."""
    picture = photograph("coffee", longer_side=longer_side)
    return explain.hash_grid(picture, config.replace(grid_size=grid_size))


explore(draw, grid_size=[G, 5, 15], longer_side=[256, 400, 600])

# %% [markdown]
# The smallest scale uses a few cells far apart. At native size, one or two patches lie between thick lines, and a bright
# cell holds several.

# %% [markdown]
# ### The same place at every scale
#
# The point of the rule is not one picture but agreement between them: the middle is the middle, at every scale and in
# every photograph, and gets the same row of $T$. Framed below are the patches that share a cell, for one cell near the
# middle that is used at every scale. (Not all are: where there are few patches, they skip cells.)

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
# The frames differ in size, since a patch of a small scale shows a larger piece of the photograph. What they share is about
# where they *begin*, their upper left corners: as fractions of the picture, these differ by less than one cell, $1/G$.

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
# On the left dozens of patches share a place. On the right some cells are empty, and their rows learn nothing from such
# photographs. The appendix (B.1) gives a rule of thumb: $G \cdot P$ should be about the side of a typical image. With its average of
# $450 \times 500$ pixels and $P = 32$:

# %%
rule_of_thumb = np.sqrt(450 * 500) / 32
print(f"G ≈ {rule_of_thumb:.1f}")
assert 10 < rule_of_thumb < 15

# %% [markdown]
# The paper takes 10. In the appendix's table 3, every $G$ from 5 to 20 scores within 0.006 SRCC of the others on AVA. Its
# conclusion: a rough idea of the place is enough.

# %% [markdown]
# ## The scale, and the sum
#
# The cell says where. It is not meant to say at which scale: the same cell serves all of them. (Chapter 02b has a surprise
# about that.) Yet a soft patch of the reduced picture means something else than a soft patch of the original. So there
# is a second, tiny table $Q$, with one row per scale.

# %%
Q = params["scale_embedding"]["table"]
T = params["spatial_embedding"]["table"]
print("T:", T.shape, "= (G², D)   Q:", Q.shape, "= (scales, D)")

# %% [markdown]
# How to put place and scale into the token? Write them beside the patch's features, as two *one-hot* vectors
# $\mathbf{e}_{cell}$ and $\mathbf{e}_{scale}$ (one number is 1, the others are 0), and let the linear layer that makes the
# token read them, too:
#
# $$\begin{aligned} &[\mathbf{f};\, \mathbf{e}_{cell};\, \mathbf{e}_{scale}] \begin{bmatrix} \mathbf{W} \\ T \\ Q \end{bmatrix} \\ &\quad = \mathbf{f}\mathbf{W} + \mathbf{e}_{cell} T + \mathbf{e}_{scale} Q \end{aligned}$$
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
mean_length = {name: np.linalg.norm(rows, axis=1).mean() for name, rows in lengths.items()}
print({name: f"{length:.2f}" for name, length in mean_length.items()})
assert mean_length["E_p"] == max(mean_length.values())
assert min(mean_length.values()) > 0

# %% [markdown]
# The content is the longest. How loud is the place beside it, and is it heard? Leave out one term at a time, and both:

# %%
no_place, no_scale = np.zeros_like(T), np.zeros_like(Q)
for name, t, q in (("place", no_place, Q), ("scale", T, no_scale), ("both", no_place, no_scale)):
    tables = {"spatial_embedding": {"table": t}, "scale_embedding": {"table": q}}
    changed = {**params, **tables}
    logit = logit_of(embed(E_p, where, which, changed, config)[0])
    print(f"without {name:6} the logit is {logit:8.3f}; with all of Eq. 2, {original:.3f}")
    assert logit != original

# %% [markdown]
# Read the size of these changes, not their sign: they say how much *this* model makes of place and scale for *this*
# photograph. Chapter 02b asks what its table holds.

# %% [markdown]
# The library's lines. A `tap` is called with the name and value of each intermediate, which is how `verify.trace` looks
# in; `noise` is dropout, used in training only.

# %%
show(lookup, embed)

# %% [markdown]
# ## The answer
#
# How can one small table hold the places of all photographs? By giving up exactness. It knows $G^2$ places, as fractions
# of the picture, and every patch at every scale takes the one in which it begins. Small pictures skip places, large ones
# crowd several patches into one, and the middle is the middle everywhere:

# %%
for n in (2, 4, 8, 24, 200):
    middle = hash_axis(n, G)[n // 2]
    print(f"{n:3} patches along an axis: the middle one falls into cell {middle} of {G}")
    assert abs(middle - G // 2) <= 1

# %% [markdown]
# ## Optional: the corners of float32
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
# 205 patches of 32 pixels are a picture 6,560 pixels wide: a camera of nearly 30 megapixels. A program with exact
# arithmetic gives the patches of three of the 205 columns another vector than the authors'. These are few, but a port
# that says "equal" must reproduce them, and no small test picture will ever show the difference. So the arithmetic is
# part of the rule.

# %%
moved = np.flatnonzero(hash_axis(205, 10) != np.arange(205) * 10 // 205)
print("columns in another cell:", moved)
corners = [n for n in range(1, 400) if (hash_axis(n, 10) != np.arange(n) * 10 // n).any()]
print("a side of", [32 * n for n in corners], "pixels has a corner")
assert len(moved) == 3
assert corners == [205, 235, 266, 275, 305]

# %% [markdown]
# ## Optional: floor, not round
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
# The dashed steps come half a cell earlier: the first cell is too small, and the last one too large.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/02_where_a_patch_lies.py`; try first.

# %% [markdown]
# ### Exercise 1: the rule, to the last corner (★★, 10 minutes)
#
# The cells of `n` patches on a grid of `G`, as an integer array, equal to those of the authors' program for **every** n,
# also for 205. Their program divides first, and computes in `float32`.
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
# ### Exercise 2: a grid without collisions (★, 5 minutes)
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
# ### Exercise 3: Eq. (2) for a batch (★, 10 minutes)
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
# ## Quiz

# %%
quiz("02")

# %% [markdown]
# ## In practice
#
# - **Indices, not positions.** A tokenised image carries its cells as integers. A model with another $G$ needs other
#   integers; feeding those of $G = 10$ into a table of $G = 12$ raises no error in most programs. The library checks
#   the range, and still cannot notice a smaller grid's.
# - **On a GPU**, an index out of range may wrap around, or read foreign memory, without a word. Check on the host.
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
# - The code: `musiq_ref/image/hash.py`, `musiq_ref/ops/embedding.py`, `musiq_ref/model/embeddings.py`.
