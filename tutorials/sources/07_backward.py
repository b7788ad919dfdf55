# %% [markdown]
# # 07 · The backward pass of the whole model, to the pixels
#
# The forward answers "how good is this photograph?". The backward answers, in one sweep, a million questions at once: what
# would happen to the score if *this* weight, *this* token, *this* pixel were a little larger? Here you walk back from the
# score through every part of MUSIQ, by hand, compare each station with the model's own gradient, and end on the photograph.

# %% [markdown]
# ## What you will learn
#
# - why gradients are computed from the last line to the first, and what each line must remember for that;
# - how the gradient leaves a single row, the class token's, and reaches all tokens of all scales;
# - what residual paths, shared tables and the class token do to a gradient: everything that is used twice gets a sum;
# - why the way back from a resized image is a transposed matrix and not another resize;
# - how to prove a backward of millions of numbers with two runs of the forward, and what a gradient does not tell.

# %% [markdown]
# ## What you need
#
# About 45 minutes; the backward of linear, GELU and LayerNorm (chapter 03), of the stem (04) and of attention (05). As
# there, $\mathrm{d}x$ means the gradient of the score to $x$: it has the shape of $x$.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, show
from musiq_ref import explain, verify
from musiq_ref.image.patches import extract_patches_backward
from musiq_ref.image.resize import FILTER, resize
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model.attention import allowed_pairs
from musiq_ref.model.encoder import block, block_backward
from musiq_ref.model.parameters import map_params
from musiq_ref.model.stem import stem, stem_backward
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.embedding import lookup_backward
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.linear import linear, linear_backward

# %% [markdown]
# ## Last line first
#
# MUSIQ is a chain of functions, $\text{score} = f_n(\dots f_2(f_1(\text{pixels})))$. By the chain rule its derivative
# is a product of the derivatives of the links. All that matters is where we begin to multiply. The score is **one**
# number. Beginning there, what we carry is never larger than one gradient per intermediate, and each link only has to
# turn $\mathrm{d}y$ into $\mathrm{d}x$. Beginning at the pixels we would have to carry one column for each of them.
#
# So every function of this library comes as a pair. `forward` returns its result and a **cache**, what it must
# remember; `backward` takes $\mathrm{d}y$ and the cache and returns $\mathrm{d}x$ and the gradients of its parameters.
# The whole model is such a pair, too. Read this from its first line to its last, and you have read the forward from its
# last line to its first. (`tap` only looks on; `within` puts a part's name before the names it sees; `parts` holds the
# functions of stem and block, which can be had in a memory-saving form.)

# %%
show(mq.backward)

# %% [markdown]
# We run the pair once. A **tap** sees every intermediate as it goes by; ours keeps them, those of the forward in
# `values`, and the gradients to them in `gradients`, under the same names. In double precision, so that "equal" can
# mean equal to 9 digits. The image is made of floating-point numbers, and a little paler than the photograph, to leave
# room for changes: 0 … 1 is all that the model takes.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = 0.1 + 0.8 * photograph("coffee", longer_side=256) / 255  # (H, W, 3), a little paler
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, gradients = {}, {}


def into(store):
    """A tap that keeps everything it sees."""
    return lambda name, array: store.setdefault(name, array)


logits, kept = mq.forward(params, tokens, config, tap=into(values))
expected, cache = mq.expected_score(logits)
dlogits = mq.expected_score_backward(np.ones(1), cache)
dmodel = mq.backward(dlogits, kept, tap=into(gradients))

# %%
L, D, N = config.layers, config.width, 1 + tokens.mask.sum()
print(f"score {expected.score[0]:.4f};  {N} tokens with the class token, width {D}, {L} blocks")
print(f"{len(values)} intermediates, {sum(v.size for v in values.values()):,} numbers")
assert all(gradients[name].shape == value.shape for name, value in values.items())


def agrees(mine, name):
    """Our gradient is the model's, to rounding."""
    theirs = gradients[name]
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-11 * abs(theirs).max())


# %% [markdown]
# ## Station 1: the score
#
# With one output the score *is* the logit and $\mathrm{d}\text{logit} = 1$. With $C$ outputs the model predicts how
# many people would give each mark: $\mathbf{p} = \text{softmax}(\text{logits})$, and the score is the mean mark $s =
# \sum_k k\,p_k$. From $\mathrm{d}p_k = k$ and the softmax's backward of chapter 05, $\mathrm{d}\text{logit}_k =
# p_k\,(\mathrm{d}p_k - \sum_j \mathrm{d}p_j\,p_j)$:
#
# $$\mathrm{d}\text{logit}_k = p_k\,(k - s)$$
#
# Marks above the mean want to be likelier, marks below it less likely, and those that nobody gives do not count.

# %%
ten = np.random.default_rng(0).standard_normal((1, 10))
mean, cache = mq.expected_score(ten)
by_hand = mean.distribution * (np.arange(1, 11) - mean.score)
print("p", mean.distribution[0].round(2), " score", mean.score.round(2))
print("d", by_hand[0].round(2))
np.testing.assert_allclose(by_hand, mq.expected_score_backward(np.ones(1), cache), atol=1e-12)
np.testing.assert_allclose(by_hand.sum(), 0, atol=1e-12)

# %% [markdown]
# ## Station 2: the head and the last LayerNorm
#
# The head is a linear layer that reads one row, the class token's. Its backward puts
# $\mathrm{d}\text{logits}\,\mathbf{W}^T$ into that row and **zeros into all others**: nobody asked them.

# %%
dy = np.zeros_like(values["encoder/norm"])  # (1, N, D)
dy[:, 0] = dlogits @ params["head"]["kernel"].T
agrees(dy, "encoder/norm")

p = params["encoder"]["norm"]
_, cache = layer_norm(values[f"encoder/block_{L - 1:02d}/output"], p["scale"], p["bias"])
dz, _, _ = layer_norm_backward(dy, cache)  # LayerNorm works row by row: zeros stay zeros
agrees(dz, f"encoder/block_{L - 1:02d}/output")
print("rows with a gradient:", np.flatnonzero(abs(dz[0]).max(axis=1)))
assert abs(dz[0, 1:]).max() == 0

# %% [markdown]
# ## Station 3: the blocks
#
# Half a block is $y = z + f(z)$, $f$ being LayerNorm followed by the MLP, or by the attention. Here $z$ is used
# **twice**: as it is, and inside $f$. Change it a little, and both uses change the score. So
#
# $$\mathrm{d}z = \mathrm{d}y + f^{\leftarrow}(\mathrm{d}y)$$
#
# where $f^{\leftarrow}$ is the backward of $f$. The rule holds everywhere: *what is used several times gets the sum of
# what comes back from each use*. In the library, from the last line of the block to its first (`drop` and `drop_branch`
# belong to dropout, which is off here: they pass on what they get):

# %%
show(block_backward)

# %% [markdown]
# The second half of the last block by hand: sum, `fc2`, GELU, `fc1`, LayerNorm, and the sum again. (`mlp/gelu` is the name
# of the GELU's output, `mlp/fc1` that of its input, which is all its backward must remember.)

# %%
number = f"block_{L - 1:02d}"
last, p = f"encoder/{number}", params["encoder"][number]
dfc2 = gradients[f"{last}/output"]  # what comes into the branch is what comes into the sum
fc2 = p["mlp"]["fc2"]
_, cache = linear(values[f"{last}/mlp/gelu"], fc2["kernel"], fc2["bias"])
dgelu, dkernel, _ = linear_backward(dfc2, cache)  # (1, N, M), (M, D)
agrees(dgelu, f"{last}/mlp/gelu")
theirs = dmodel.params["encoder"][number]["mlp"]["fc2"]["kernel"]
np.testing.assert_allclose(dkernel, theirs, rtol=0, atol=1e-11 * abs(theirs).max())

dfc1 = GELU[config.conventions.gelu][1](dgelu, values[f"{last}/mlp/fc1"])
agrees(dfc1, f"{last}/mlp/fc1")
dnorm2 = dfc1 @ p["mlp"]["fc1"]["kernel"].T
agrees(dnorm2, f"{last}/norm2")
_, cache = layer_norm(values[f"{last}/residual1"], p["norm2"]["scale"], p["norm2"]["bias"])
dbranch, _, _ = layer_norm_backward(dnorm2, cache)
agrees(dfc2 + dbranch, f"{last}/residual1")  # the sum of the two uses

# %% [markdown]
# The first half is the same with attention in place of the MLP; its backward is chapter 05. All blocks are alike, so a
# loop does the rest, beginning with the `dz` of station 2. Look at what it needs: of each block only its **input**. The cache is
# computed again by running the block's forward, just before its backward. That is slower by one forward, and it is how
# one trains with little memory (`mq.forward(…, recompute=True)`).

# %%
inputs = ["encoder/input", *(f"encoder/block_{q:02d}/output" for q in range(L))]  # z_0 … z_L
allowed = allowed_pairs(np.ones((1, N), bool))  # no token is padding
dparams = {}
for q in reversed(range(L)):
    name = f"block_{q:02d}"
    _, cache = block(values[inputs[q]], allowed, params["encoder"][name], config.conventions)
    dz, dparams[name] = block_backward(dz, cache)
    agrees(dz, inputs[q])

# %% [markdown]
# Where did the gradient go on its way? Read the picture from right to left. In the last block, $\mathrm{d}z$ has one
# row. The attention of that block then hands it to everyone whom the class token looked at. From there on every token
# of every scale has a part in the score.

# %%
scale_of_token = np.concatenate([[-1], tokens.scale_index[0]])
scales = scales_of(*image.shape[:2], config)
norms = np.array([np.linalg.norm(gradients[name][0], axis=1) for name in inputs])  # (L + 1, N)
figure, axis = plt.subplots(figsize=(7, 3.2))
axis.semilogy(norms[:, 0], "k*-", label="class token")
for scale, style in zip(scales, ("o-", "s--", "^:"), strict=False):
    mean = norms[:-1, scale_of_token == scale.scale_index].mean(axis=1)
    axis.semilogy(mean, style, label=f"mean token, {explain.scale_name(scale)}")
axis.axvline(L, color="0.7", zorder=0)
axis.set(xlabel=r"$q$, blocks passed", ylabel=r"length of $\mathrm{d}\mathbf{z}_q$ per token")
axis.set(
    title="One row at the end, all tokens one block earlier", xticks=range(0, L + 1, 1 + L // 8)
)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
assert norms[L, 1:].max() == 0
assert norms[L - 1, 1:].min() > 0

# %% [markdown]
# The sum has one more consequence. However weak the branches are, the first summand, $\mathrm{d}y$ itself, arrives
# unchanged. Without it the gradient would be a product of $2L$ branches, and such products vanish or explode. How much
# each path brings back:

# %%
paths = {"as it is": [], "through the MLP": [], "through the attention": []}
for q in range(L):
    b = f"encoder/block_{q:02d}"
    dout, dmid, din = (gradients[name] for name in (f"{b}/output", f"{b}/residual1", inputs[q]))
    # each sum adds one branch to what came in, so the differences are what the branches brought
    for label, part in zip(paths, (dout, dmid - dout, din - dmid), strict=True):
        paths[label].append(np.linalg.norm(part))

# %%
figure, axis = plt.subplots(figsize=(6.5, 3))
for (label, line), style in zip(paths.items(), ("k*-", "o--", "s:"), strict=True):
    axis.semilogy(range(1, L + 1), line, style, label=label)
axis.set(xlabel="block $q$", ylabel="length, all tokens", xticks=range(1, L + 1))
axis.set_title("Three ways back through each block")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# One parameter of every block has **no** gradient. A bias of the keys adds the same number, $\mathbf{q}_i \cdot
# \mathbf{b}$, to all logits of row $i$, and a softmax ignores a shift of its whole row. Optimisers should not be
# surprised, and comparisons of gradients must not divide by it.

# %%
for name, d in dparams.items():
    key, query = (abs(d["attention"][which]["bias"]).max() for which in ("key", "query"))
    assert key < 1e-8 * max(query, abs(d["attention"]["value"]["bias"]).max()), name
print(f"block_00: largest gradient to the query's bias {query:.1e}, to the key's bias {key:.1e}")

# %% [markdown]
# ## Station 4: the embeddings
#
# Eq. (2) puts the class token in front and adds to each patch a row of the spatial table and a row of the scale table.
# Backward, row 0 is the gradient to the class token, and each of the three summands gets the other rows, unchanged.
#
# The rows of a table are shared: on a large photograph, several patches hash to the same cell, and all scales use the
# same table. Each use brings back its gradient, so a row of the table gets the **sum** over all tokens that looked it
# up:

# %%
dx = dz[:, 1:]  # (1, N − 1, D): to the patch embeddings, and to each row that was added to them
agrees(dx, "patch_embedding")
theirs = dmodel.params["class_token"]
np.testing.assert_allclose(dz[0, 0], theirs, rtol=1e-9, atol=1e-11 * abs(theirs).max())
index, rows = tokens.hash_index, config.grid_size**2
dtable = np.zeros((rows, D))
for token, row in enumerate(index[0]):
    dtable[row] += dx[0, token]
for theirs in (lookup_backward(dx, (index, rows)), dmodel.params["spatial_embedding"]["table"]):
    np.testing.assert_allclose(dtable, theirs, rtol=1e-9, atol=1e-11 * abs(theirs).max())
uses = np.bincount(index[0], minlength=rows)
print(f"{N - 1} tokens; rows of the table are used {uses.min()} to {uses.max()} times")
assert uses.max() > 1

# %% [markdown]
# Beware of `dtable[index] += dx`. NumPy reads all rows, adds, and writes all rows back: of several additions to one row
# only the last survives. The loop is right; so is `np.add.at`. The library multiplies by a one-hot matrix, which is
# fast on every device, and always adds in the same order.

# %%
careless = np.zeros((rows, D))
careless[index[0]] += dx[0]
lost = abs(careless - dtable).max(axis=1) > 1e-12 * abs(dtable).max()
print(f"wrong rows: {lost.sum()}; rows used more than once: {(uses > 1).sum()}")
assert lost.sum() == (uses > 1).sum()

# %% [markdown]
# ## Station 5: patch embedding and stem
#
# The patch embedding is a linear layer on the flattened features of the stem: $\mathrm{d}\text{features} =
# \mathrm{d}\mathbf{E}_p\,\mathbf{W}^T$, folded back into $P/4 \times P/4 \times 256$. The stem sees each patch by
# itself, so we may take a few of them through it.

# %%
few = slice(0, 4)
dfeatures = (dx[0, few] @ params["patch_embedding"]["kernel"].T).reshape(
    -1, config.stem_side, config.stem_side, 256
)
_, cache = stem(tokens.patches[0, few], params["stem"], config.conventions)
dpatches_few, _ = stem_backward(dfeatures, cache)
print("dfeatures", dfeatures.shape, " dpatches", dpatches_few.shape)
theirs = gradients["patches"][0]
np.testing.assert_allclose(dpatches_few, theirs[few], rtol=0, atol=1e-10 * abs(theirs).max())

# %% [markdown]
# ## Station 6: the pixels
#
# How did the pixels become patches? They were stretched from 0 … 1 to −1 … 1, resized for all but the native scale,
# padded with zeros, cut. All of this is **linear**: a resize multiplies the rows of the image by a matrix $\mathbf{R}$
# and its columns by a matrix $\mathbf{C}$ (chapter 01), $\mathbf{Y} = \mathbf{R}\mathbf{X}\mathbf{C}^T$ for each
# colour. In components, $Y_{ij} = \sum_{ab} R_{ia} X_{ab} C_{jb}$, so that $X_{ab}$ takes part in each $Y_{ij}$ with
# the factor $R_{ia} C_{jb}$, and
#
# $$\mathrm{d}X_{ab} = \sum_{ij} R_{ia}\,\mathrm{d}Y_{ij}\,C_{jb}, \qquad \mathrm{d}\mathbf{X} = \mathbf{R}^T\,\mathrm{d}\mathbf{Y}\,\mathbf{C}$$
#
# **Transposed**, not inverted: one does not resize the gradient back. A pixel that the filter passes over gets nothing,
# one that it counts twice gets twice. A small case, 12 pixels resized to 3:

# %%
column = np.linspace(0, 1, 12)[:, None, None]  # an image 12 high, 1 wide, of one colour
R = FILTER[config.conventions.resize](12, 3, "float64").toarray()  # (3, 12): no antialiasing
print("how much each of 12 pixels takes part in the 3:", R.sum(axis=0).round(2))
theirs = resize(column, 3, 1, config.conventions.resize)
np.testing.assert_allclose(R @ column[:, 0], theirs[:, 0], atol=1e-12)

# %% [markdown]
# What padding added was no pixel: its gradient is dropped. And every pixel is used at **each scale**: the gradients of
# the scales are added. The 2 is the stretch from 0 … 1 to −1 … 1.

# %%
dpatches, start, parts = gradients["patches"][0], 0, []
for scale in scales:
    here = dpatches[start : start + scale.kept]
    start += scale.kept
    part = extract_patches_backward(here, scale.height, scale.width)  # puts together, drops padding
    if scale.longer_side:
        make = FILTER[config.conventions.resize]
        R = make(image.shape[0], scale.height, "float64")
        C = make(image.shape[1], scale.width, "float64")
        part = np.stack([R.T @ part[:, :, c] @ C for c in range(3)], axis=2)
    parts.append(2 * part)
    print(f"{explain.scale_name(scale)}: {here.shape} -> {part.shape}")
dimage = sum(parts)

# %% [markdown]
# We are there. The library walks the same way in one call:

# %%
score, theirs = mq.image_gradient(image, params, config)
np.testing.assert_allclose(dimage, theirs, rtol=0, atol=1e-9 * abs(theirs).max())
print(f"score {score:.4f};  gradient {dimage.shape}, {dimage.size:,} numbers")

# %% [markdown]
# The strength of the gradient, $\sum_{rgb} |\mathrm{d}\,\text{score} / \mathrm{d}\,\text{pixel}|$, as each scale
# contributes it, and of their sum. The grid of the patches may show through, because every patch is normalised and
# convolved for itself. (`explain.gradient_over_photograph` draws a photograph with its gradient.)

# %%
strength = [abs(part).sum(axis=2) for part in [*parts, dimage]]
top = np.quantile(strength[-1], 0.995)  # so that single pixels do not darken the rest
figure, axes = plt.subplots(1, len(strength), figsize=(10, 2.6))
titles = [explain.scale_name(scale) for scale in scales] + ["all scales"]
for axis, one, title in zip(axes, strength, titles, strict=True):
    shown = axis.imshow(one, vmin=0, vmax=top)
    axis.set(title=title, xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label="|d score / d pixel|", extend="max", shrink=0.7)
plt.show()

# %% [markdown]
# ## Is it right?
#
# We compared the model's backward with its own parts. The real test asks the **forward**. Choose a random direction
# $\mathbf{v}$, one number for each pixel. If $\mathbf{g}$ is the gradient, the score of $\mathbf{x} + h\mathbf{v}$
# grows with $\mathbf{g} \cdot \mathbf{v}$ per $h$. Two runs of the forward, at $\pm h$, test all numbers of the
# gradient at once: an error anywhere would change the product, for almost every $\mathbf{v}$.


# %%
def score_of(pixels):
    """The score in double precision, without a backward; pixels are kept within 0 … 1."""
    logits = mq.predict(params, mq.tokenize(np.clip(pixels, 0, 1), config), config)
    return mq.expected_score(logits[None])[0].score[0]


rng = np.random.default_rng(1)
v, h = rng.standard_normal(image.shape), 1e-9
differences = (score_of(image + h * v) - score_of(image - h * v)) / (2 * h)
print(f"by differences {differences:.8f};  gradient · v {np.sum(dimage * v):.8f}")
assert abs(differences - np.sum(dimage * v)) < 1e-4 * np.linalg.norm(dimage)

# %% [markdown]
# Why so small a step? A difference has two kinds of errors. Rounding: the score has 16 digits, and an error in
# the last of them, divided by $2h$, grows as the step shrinks. And the straight line: the curve bends, which costs $h^2$; worse, each ReLU and each max-pool has a kink, and of their millions a share proportional to $h$ lies
# so close to its kink that the step crosses it. The best step lies between; the more kinks, the smaller it is. A model
# small enough to try all steps shows it, in single precision, too:

# %%
small = mq.MusiqConfig.preset("tiny", longer_sides=(64,))
weights = verify.deterministic_params(small, seed=1, dtype="float64")
little = 0.3 + 0.4 * photograph("cat", longer_side=80) / 255
_, g = mq.image_gradient(little, weights, small)
v = rng.standard_normal(little.shape)
steps, errors = 10.0 ** np.arange(-12, -1), {"float64": [], "float32": []}
for dtype, line in errors.items():
    cast = map_params(lambda a, dtype=dtype: a.astype(dtype), weights)
    for h in steps:
        at = [
            mq.predict(cast, mq.tokenize(little + sign * h * v, small, dtype), small)[0]
            for sign in (1, -1)
        ]
        line.append(
            abs((float(at[0]) - float(at[1])) / (2 * h) - np.sum(g * v)) / np.linalg.norm(g)
        )

# %%
figure, axis = plt.subplots(figsize=(6, 3.2))
for (dtype, line), style in zip(errors.items(), ("o-", "s--"), strict=True):
    axis.loglog(steps, np.maximum(line, 1e-16), style, label=dtype)
axis.set(xlabel="step $h$", ylabel="error / length of the gradient", xticks=steps[::2])
axis.set_title("Too large a step meets kinks, too small a step rounds")
axis.legend()
plt.show()
assert min(errors["float64"]) < 1e-6
assert min(errors["float64"]) < min(errors["float32"]) / 10

# %% [markdown]
# This is why gradients are checked in double precision: in single precision no step is good, and a wrong gradient
# would pass for a rounded one.

# %% [markdown]
# ## What it tells, and what not
#
# The gradient is the steepest direction, for a *small* step. Let us follow it: move each pixel along it, so that the
# root mean square of the change is a thousandth of an 8-bit level, a tenth, one level, and compare with what the
# straight line promises, and with noise of the same size.

# %%
levels = [0.001, 0.1, 1.0]  # of 255
n = image.size
directions = {"gradient": dimage, "noise": rng.standard_normal(image.shape)}
changes = {}
for name, direction in directions.items():
    unit = direction / np.linalg.norm(direction) * np.sqrt(n) / 255  # rms: one level
    changes[name] = [score_of(image + level * unit) - score for level in levels]
promised = [np.linalg.norm(dimage) * np.sqrt(n) / 255 * level for level in levels]
for i, level in enumerate(levels):
    print(
        f"{level:6} levels: promised {promised[i]:+.5f}, "
        f"gradient {changes['gradient'][i]:+.5f}, noise {changes['noise'][i]:+.5f}"
    )
assert abs(changes["gradient"][0] - promised[0]) < 0.1 * promised[0]
assert abs(changes["noise"][0]) < 0.1 * changes["gradient"][0]

# %% [markdown]
# The first row keeps the promise. Noise of the same size, which you would see as well or as little, hardly moves the
# score: in a space of so many dimensions a random direction is almost perpendicular to any given one. So the gradient
# finds changes that nobody sees and the model rates highly (an *adversarial* change). It shows what **this model** is
# sensitive to here, not what is wrong with the photograph, and not what a large step would do.

# %% [markdown]
# ## What it costs
#
# A product $\mathbf{Y} = \mathbf{X}\mathbf{W}$ has two products behind it, $\mathrm{d}\mathbf{X} =
# \mathrm{d}\mathbf{Y}\,\mathbf{W}^T$ and $\mathrm{d}\mathbf{W} = \mathbf{X}^T\mathrm{d}\mathbf{Y}$: the backward costs
# about two forwards. The memory is the greater matter: what the lines remember. Most of the intermediates must wait
# until the backward comes by.

# %%
groups = {"stem": 0, "attention weights and logits": 0, "rest of the encoder": 0, "other": 0}
for name, value in values.items():
    if name.endswith(("attention/weights", "attention/logits")):
        group = "attention weights and logits"
    elif name.startswith("encoder/"):
        group = "rest of the encoder"
    else:
        group = "stem" if name.startswith("stem/") else "other"
    groups[group] += value.size
for group, size in groups.items():
    print(f"{group:30} {4 * size / 2**20:7.1f} MiB in float32")
inputs_only = sum(values[name].size for name in inputs)
print(f"{'only the inputs of the blocks':30} {4 * inputs_only / 2**20:7.1f} MiB")
assert inputs_only < 0.2 * sum(groups.values())

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/07_backward.py`; try first.

# %% [markdown]
# ### Exercise 1: the mean opinion score, backward
#
# `p` holds one distribution per row, (B, C); the score of a row is $\sum_k k\,p_k$ with $k = 1 \dots C$. `dscore` (B,)
# is the gradient of a loss to the scores. Return the gradient to the logits, (B, C).
#
# <details><summary>Hint</summary>
#
# Station 1 has it for `dscore` = 1; any other is a factor. `p` is (B, C), `dscore` and the scores of the rows are (B,):
# give them an axis more, `dscore[:, None]`, so that they are (B, 1) and each row gets its own.
#
# </details>


# %% tags=["exercise-1"]
def my_score_backward(dscore, p):
    return ...


# %% tags=["check-1"]
def check(backward):
    def forward(logits):
        expected, _ = mq.expected_score(logits)
        return expected.score, expected.distribution

    verify.check_vjp(forward, backward, [np.random.default_rng(2).standard_normal((3, 5))])


exercise(1, my_score_backward, check)

# %% [markdown]
# ### Exercise 2: a residual branch, backward
#
# Below is a small half of a block, $\mathbf{y} = \mathbf{z} + \text{LN}(\mathbf{z})\,\mathbf{W} + \mathbf{b}$. Write
# its backward. It returns the gradients to `z`, `gamma`, `beta`, `kernel` and `bias`, in this order.
# `linear_backward(dy, cache)` returns (dx, dkernel, dbias); `layer_norm_backward(dy, cache)` returns (dx, dgamma,
# dbeta).
#
# <details><summary>Hint</summary>
#
# Three lines. Both summands of $\mathbf{y}$ get `dy`. Go through the branch from its end: linear first, then LayerNorm,
# which receives the linear's `dx`. How often is `z` used?
#
# </details>


# %%
def branch(z, gamma, beta, kernel, bias):
    """z: (N, D);  gamma, beta, bias: (D,);  kernel: (D, D);  y: (N, D)"""
    normed, cache_norm = layer_norm(z, gamma, beta)
    x, cache_linear = linear(normed, kernel, bias)
    return z + x, (cache_norm, cache_linear)


# %% tags=["exercise-2"]
def my_branch_backward(dy, cache):
    cache_norm, cache_linear = cache
    dz, dgamma, dbeta, dkernel, dbias = ..., ..., ..., ..., ...
    return dz, dgamma, dbeta, dkernel, dbias


# %% tags=["check-2"]
def check(backward):
    rng = np.random.default_rng(3)
    shapes = (4, 5), (5,), (5,), (5, 5), (5,)
    verify.check_vjp(branch, backward, [rng.standard_normal(shape) for shape in shapes])


exercise(2, my_branch_backward, check)

# %% [markdown]
# ### Exercise 3: two tables, backward
#
# `y = spatial[place] + scale[which]`: the two look-ups of Eq. (2). `place` and `which` are integer arrays (N,), `dy` is
# (N, D). Return the gradients to the two tables, of `rows_spatial` and `rows_scale` rows.
#
# <details><summary>Hint</summary>
#
# `np.add.at(table, index, dy)` adds `dy[i]` to `table[index[i]]`, one after the other, in place. A row that nobody
# looked up keeps its zeros.
#
# </details>


# %% tags=["exercise-3"]
def my_tables_backward(dy, place, which, rows_spatial, rows_scale):
    dspatial, dscale = ..., ...
    return dspatial, dscale


# %% tags=["check-3"]
def check(backward):
    place, which = np.array([2, 0, 2, 6, 2, 0]), np.array([1, 1, 0, 1, 0, 0])

    def forward(spatial, scale):
        return spatial[place] + scale[which], None

    rng = np.random.default_rng(4)
    verify.check_vjp(
        forward,
        lambda dy, _: backward(dy, place, which, 7, 2),
        [rng.standard_normal((7, 3)), rng.standard_normal((2, 3))],
    )


exercise(3, my_tables_backward, check)

# %% [markdown]
# ### Exercise 4: to the pixels of a grey image
#
# An image `x` (H, W) is given to a model at two scales: resized, `R @ x @ C.T`, and as it is. `dresized` and `dnative`
# are the gradients to the two. Return the gradient to `x`.
#
# <details><summary>Hint</summary>
#
# Shapes tell most of it: with `R` (h, H) and `C` (w, W), `dresized` is (h, w), and the result is (H, W). Station 6 has
# the formula. Resizing the gradient back to (H, W) has the right shape as well, and is wrong.
#
# </details>


# %% tags=["exercise-4"]
def my_pixels(dresized, dnative, R, C):
    return ...


# %% tags=["check-4"]
def check(pixels):
    rng = np.random.default_rng(5)
    R = FILTER["gaussian"](7, 3, "float64").toarray()
    C = FILTER["gaussian"](9, 4, "float64").toarray()

    def forward(x):
        return np.concatenate([(R @ x @ C.T).ravel(), x.ravel()]), None

    def backward(dy, _):
        return pixels(dy[:12].reshape(3, 4), dy[12:].reshape(7, 9), R, C)

    verify.check_vjp(forward, backward, [rng.standard_normal((7, 9))])


exercise(4, my_pixels, check)

# %% [markdown]
# ## In practice
#
# - **Automatic differentiation** does what you did: it records the lines of the forward with what they must remember,
#   and plays them back. Knowing the lines tells you what it keeps, why memory runs out, and which of your operations
#   cut the path (`detach`, integer casts, NumPy in between).
# - **Check first the whole, then the parts.** One random direction through all parameters says *that* something is
#   wrong; directions through single inputs, as `verify.check_vjp` takes them, say *where*.
# - **8-bit input.** The score is a function of floating-point pixels; rounding to 8 bits has no useful derivative.
#   `image_gradient` treats the rounding as if it were not there.
# - **Do not ask for what you do not need.** Training needs no gradient to the patches; `want_patches=False` leaves out
#   the first convolution's. A frozen stem would save all of it.
# - **Zero rows are a hint.** A gradient that is exactly 0 where you expected something means that the number is not
#   read, or that the path is cut.
# - **A loss that uses the gradient** as a "perceptual" guide, to make pictures better, meets the adversarial direction
#   first. Restrain it: small steps, smooth changes, several models.

# %% [markdown]
# ## References
#
# - S. Linnainmaa: *Taylor expansion of the accumulated rounding error*, BIT 16, 1976: the reverse sweep.
# - D. E. Rumelhart, G. E. Hinton, R. J. Williams: *Learning representations by back-propagating errors*, Nature 323, 1986.
# - A. Griewank, A. Walther: *Evaluating Derivatives*, 2nd edition, SIAM 2008; chapter 3 on cost, chapter 12 on
#   recomputation.
# - C. Szegedy et al.: *Intriguing properties of neural networks*, ICLR 2014: adversarial changes.
# - K. Simonyan, A. Vedaldi, A. Zisserman: *Deep inside convolutional networks*, ICLR 2014 workshop: gradients to the
#   pixels as pictures.
# - The code: `musiq_ref/model/musiq.py`, `musiq_ref/model/encoder.py`, `musiq_ref/image/tokenize.py`,
#   `musiq_ref/model/recompute.py`.
