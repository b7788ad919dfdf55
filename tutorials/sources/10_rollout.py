# %% [markdown]
# # 10 · Attention rollout: what the heat map shows, and what it does not
#
# Figure 5 of the appendix lays bright spots over photographs and calls them attention. Such maps are in every paper on
# transformers, and they are easy to believe. **May you believe the bright spot?** Here you compute the maps by hand, for every scale, and
# then do what papers seldom do: you test them. Does the map follow what was learned? Does hiding the bright part change the score? Does it
# agree with the gradient? You will find models whose map is beautiful and whose score does not depend on the photograph at all.

# %% [markdown]
# ## What you will learn
#
# - to compute attention rollout on paper, then line by line, and to read it scale by scale;
# - how much of a map is only the number of patches, or the number of layers;
# - three tests of any explanation: a changed head, an occluded region, randomised weights;
# - how far rollout, gradient and occlusion agree, and how much agreement chance alone would give.

# %% [markdown]
# ## What you need
#
# About 55 minutes; attention (chapter 05), the gradient with respect to the pixels (chapter 07b), rank correlation (chapter 08).

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, explore, photograph, quiz, show
from musiq_ref import explain, metrics
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.pictures.distortions import DISTORTIONS

# %% [markdown]
# ## A toy: who never looked at b?
#
# A class token $c$, two patches $a$ and $b$, two layers, one head. In the first layer $c$ looks at $a$, $a$ looks at $b$, and
# $b$ at itself. In the second layer $c$ looks at $a$ again, the patches at themselves. Nobody let $c$ look at $b$. Of what is $c$ made at the end?
#
# Let a token keep half of what it is and take the other half from where it looks. After the first layer
#
# - $c$ is ½ $c$ + ½ $a$,
# - $a$ is ½ $a$ + ½ $b$,
# - $b$ is $b$.
#
# In the second layer $c$ takes half of *that* $a$: it becomes ½ (½ $c$ + ½ $a$) + ½ (½ $a$ + ½ $b$) = ¼ $c$ + ½ $a$ + ¼ $b$. A quarter of $c$ is $b$, by way of
# $a$. The attention of the last layer alone would have said: none.

# %%
first = np.array([[0.0, 1, 0], [0, 0, 1], [0, 0, 1]])  # row: who looks, column: at whom; c, a, b
second = np.array([[0.0, 1, 0], [0, 1, 0], [0, 0, 1]])
half_first, half_second = (np.eye(3) + first) / 2, (np.eye(3) + second) / 2
print(half_second @ half_first)
np.testing.assert_array_equal((half_second @ half_first)[0], [0.25, 0.5, 0.25])
np.testing.assert_array_equal((half_first @ half_second)[0], [0.25, 0.75, 0])  # the wrong order

# %%
figure, axis = plt.subplots(figsize=(6, 2.8))
for layer, mixed in enumerate((half_first, half_second)):
    for target in range(3):
        for source in range(3):
            if mixed[target, source]:
                line = dict(linewidth=6 * mixed[target, source], color="C0", alpha=0.6)
                axis.plot([layer, layer + 1], [-source, -target], **line)
for layer in range(3):
    for token, name in enumerate("cab"):
        style = dict(ha="center", va="center", fontsize=13)
        axis.text(layer, -token, name, bbox=dict(boxstyle="circle", facecolor="white"), **style)
axis.set(xticks=range(3), xticklabels=["input", "after layer 1", "after layer 2"], yticks=[])
axis.set(title="Thick lines carry all, thin lines half", xlim=(-0.3, 2.3), ylim=(-2.5, 0.5))
plt.show()

# %% [markdown]
# Follow the lines backwards from the $c$ on the right. One way leads to $b$, with a half on each of its two steps: ¼. Rollout adds up all ways. And the
# *first* layer is the rightmost factor of the product: with the factors exchanged, $b$ would get nothing.
#
# ## The model

# %%
checkpoint = mq.load_checkpoint("demo")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=160)
size = image.shape[:2]
scales = scales_of(*size, config)
names = [explain.scale_name(scale) for scale in scales]
print(f"{config.layers} blocks of {config.heads} heads; weights: {checkpoint.format}")
print({name: f"{scale.rows}×{scale.columns}" for name, scale in zip(names, scales, strict=True)})

# %% [markdown]
# If it says `deterministic`, your version of the library has no trained weights, and the maps below are those of a model
# that never saw a picture. All the arithmetic holds. Keep it in mind when you look at them: could you tell?
#
# ## Rollout
#
# Attention of one layer says where a token looked *in that layer*. But what lies there has been mixed already, by the
# layers before. Rollout follows the flow through all of them. In each layer a token is, roughly, half what it was (the
# residual path) and half what it attended to, averaged over the heads:
#
# $$\begin{aligned} \bar{\mathbf{A}}_q &= \tfrac12\Big(\mathbf{I} + \tfrac1H \sum_h \mathbf{A}_q^{(h)}\Big) \\ \mathbf{R} &= \bar{\mathbf{A}}_L \cdots \bar{\mathbf{A}}_2\,\bar{\mathbf{A}}_1. \end{aligned}$$
#
# Row 0 of $\mathbf{R}$ says of what the class token, from which the score is read, is made.

# %%
tokens = drop_padding(mq.tokenize(image, config))
layers = []  # of (H, 1 + N, 1 + N)


def collect(name, array):
    """A tap: keeps the attention weights of each block."""
    if name.endswith("attention/weights"):
        layers.append(array[0].astype(np.float64))
    return array


mq.forward(params, mq.batch([tokens]), config, tap=collect)
N = len(tokens.mask)
print(f"{len(layers)} layers, each {layers[0].shape}")
assert layers[0].shape == (config.heads, 1 + N, 1 + N)

# %%
R = np.eye(1 + N)
kept = [1.0]  # by the class token of itself
for A in layers:
    mixed = (np.eye(1 + N) + A.mean(axis=0)) / 2  # rows sum to 1, as those of A and I do
    R = mixed @ R
    kept.append(R[0, 0])
np.testing.assert_allclose(R.sum(axis=1), 1)
rollout = R[0, 1:]  # (N,), by token
print(f"the class token is {R[0, 0]:.1%} itself and {rollout.sum():.1%} patches")

# %% [markdown]
# The library does the same from the other end: it carries the one row that is wanted, a vector times a matrix per layer
# instead of a matrix times a matrix.

# %%
show(explain.attention_rollout)

# %%
maps = mq.attention_rollout(params, tokens, config, size)
for mine, theirs in zip(explain.maps_by_scale(rollout, size, config), maps, strict=True):
    np.testing.assert_allclose(mine, theirs, atol=1e-9)

# %% [markdown]
# And here is figure 5 for our photograph, one picture per scale:

# %%
explain.over_scales(image, rollout, config, label="share of the class token", share=True)

# %% [markdown]
# Bright patches make up more of the class token. Look what is in the brightest one: it need not be what you would look at. Trained
# transformers are known to pick a plain patch now and then and keep something of their own there. Still it is natural to say: there it looks, and that is why the score is what it is. Hold
# that thought; it has four weak places.
#
# ## First doubt: how much of it is counting?
#
# Above each picture stands its share of the whole. (Together they are less than 100 %: the rest is what the class token kept of itself. Below we
# count among the patches only.) It is tempting to read "the model relies on the native size". But a
# scale with more patches gets more, even if attention is the same everywhere. The fair question is: more than its number of patches?

# %%
share = np.array([np.nansum(m) for m in maps]) / rollout.sum()
count = np.array([scale.kept for scale in scales]) / N
for name, s, c in zip(names, share, count, strict=True):
    print(f"{name:16} {s:6.1%} of the rollout, {c:6.1%} of the patches: {s / c:.2f} per patch")
assert np.isclose(share.sum(), 1)
assert np.isclose(count.sum(), 1)

# %% [markdown]
# Depth, too, is counting. With $L$ layers the class token keeps at least $2^{-L}$ of itself, whatever the attention:

# %%
half = 0.5 ** np.arange(config.layers + 1)
assert np.all(np.array(kept) >= half - 1e-9)
figure, axis = plt.subplots(figsize=(6, 2.8))
axis.plot(kept, "o-", label="this model")
axis.plot(half, "s--", label="least possible, $2^{-L}$")
axis.set(
    xlabel="after block",
    ylabel="share of itself",
    title="What the class token keeps",
    ylim=(0, 1),
    xticks=range(config.layers + 1),
)
axis.legend()
plt.show()

# %% [markdown]
# The line of the model can never go below the dashed one: the residual path alone keeps half per block. What it has more, the class
# token got back, from itself or from patches that had looked at it.
#
# And what if there were very many layers? Then all rows of $\mathbf{R}$ become the *same*: wherever you start, after enough steps you are
# anywhere. The same, but not flat: patches at which everybody looks stay bright. Take the first layer a thousand times:

# %%
mixed = (np.eye(1 + N) + layers[0].mean(axis=0)) / 2
limit = np.linalg.matrix_power(mixed, 1000)
apart = abs(limit - limit[0]).max()
print(f"two rows differ by at most {apart:.1e}")
print(f"within a row the largest share is {limit[0].max() / limit[0].min():.2f} times the smallest")
assert apart < 1e-4
assert limit[0].max() > 1.05 * limit[0].min()

# %% [markdown]
# In that limit the map of the class token is the map of every other token, too. The deeper a model, the more its rollout says about
# attention as such, and the less about the class token.
#
# ## Second doubt: the head
#
# The score is a linear function of the class token. Turn the sign of that function, and the model says the opposite of
# every photograph. Set it to zero, and it says the same of every photograph. What does rollout say?

# %%
cat = photograph("cat", longer_side=160)


def score(pixels, params=params):
    """The score of uint8 (H, W, 3)."""
    logits = mq.predict(params, mq.tokenize(pixels, config), config)
    return float(mq.expected_score(logits[None])[0].score[0])


def with_head(factor):
    """The same model, its head times a factor."""
    return {**params, "head": {name: factor * array for name, array in params["head"].items()}}


for factor in (1, -1, 0):
    changed = with_head(np.float32(factor))
    both = score(image, changed), score(cat, changed)
    print(f"head × {factor:2}: coffee {both[0]:8.3f}, cat {both[1]:8.3f}")
    same = mq.attention_rollout(changed, tokens, config, size)
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(maps, same, strict=True))

# %% [markdown]
# Identical maps, to the last bit, for a model, its opposite, and one that ignores its input. Of course: rollout ends at the
# class token and never sees the head. It **cannot** say whether a bright patch speaks for or against the photograph, nor whether it matters.
#
# ## Third doubt: the values
#
# It gets worse. Attention weights say from where values are fetched, not what is in them. We set all values to zero, in
# every block. Now nothing can flow from any patch to the class token: each token stays alone.


# %%
def without_values(params):
    """The same model, all values 0: attention still looks everywhere, and fetches nothing."""
    blocks = dict(params["encoder"])
    for name in [name for name in blocks if name.startswith("block_")]:
        attention = dict(blocks[name]["attention"])
        attention["value"] = {key: 0 * array for key, array in attention["value"].items()}
        blocks[name] = {**blocks[name], "attention": attention}
    return {**params, "encoder": blocks}


deaf = without_values(params)
claimed = mq.attention_rollout(deaf, tokens, config, size)
print(f"coffee {score(image, deaf):.6f}, cat {score(cat, deaf):.6f}")
print(f"share that rollout says comes from the patches: {sum(np.nansum(m) for m in claimed):.1%}")
assert np.isclose(score(image, deaf), score(cat, deaf), rtol=1e-5)
assert sum(np.nansum(m) for m in claimed) > 0.3

# %% [markdown]
# The score is the same for every photograph in the world, and rollout reports that a large part of it comes from the patches. The
# "half residual, half attention" of the definition is an assumption, and here it is false. In a real model the true mixture
# differs by layer, head and token.
#
# ## Fourth doubt: is it the training?
#
# A map that shows what a model *learned* must change when what was learned is thrown away. We draw all weights anew and
# compare. (Adebayo et al. found explanations in wide use that hardly noticed.)

# %%
untrained = mq.init_params(config, seed=1)
random_maps = mq.attention_rollout(untrained, tokens, config, size)
random_rollout = np.concatenate([m[np.isfinite(m)] for m in random_maps])
explain.over_scales(image, random_rollout, config, label="share, random weights", share=True)

# %% [markdown]
# Without the title, would you have known that this model has learned nothing? What both maps have in common cannot come from learning. Patch by patch:

# %%
figure, axes = plt.subplots(1, len(scales), figsize=(10, 3))
for axis, name, ours, theirs in zip(np.atleast_1d(axes), names, maps, random_maps, strict=True):
    x, y = theirs.ravel() * N, ours.ravel() * N
    axis.plot(x, y, "o", markersize=3)
    axis.set(xlabel="rollout × N, random weights", title=f"{name}\nSRCC {metrics.srcc(x, y):.2f}")
np.atleast_1d(axes)[0].set_ylabel("rollout × N, this model")
plt.show()
spread = [np.std(r) / np.mean(r) for r in (rollout, random_rollout)]
print(f"standard deviation over mean: this model {spread[0]:.3f}, random weights {spread[1]:.3f}")

# %% [markdown]
# Look at two things: the correlation (what of the map survives without any learning?) and the range (how much does
# attention choose at all?). A map is always stretched to the full range of colours, so a choice of ±1 % looks as
# dramatic as one of ±100 %. That is why this course's colour bars start at 0.
#
# ## The test that counts: hide it and look
#
# All four doubts have one root: rollout looks at a part of the model and not at its answer. So ask for the answer. If a region
# matters, hiding it changes the score. We paint the regions of a 4 × 4 grid grey, one at a time, and score each
# picture. No assumption about flow; only the model's own answer. It has its own flaw: a grey square is a new kind of
# picture, which the model may dislike for its edges, or like because it is clean.

# %%
GRID = 4
rows = np.linspace(0, size[0], GRID + 1).astype(int)
columns = np.linspace(0, size[1], GRID + 1).astype(int)
regions = [
    (slice(*rows[i : i + 2]), slice(*columns[j : j + 2])) for i in range(GRID) for j in range(GRID)
]
grey = image.mean(axis=(0, 1)).astype(np.uint8)


def occluded(region):
    """A copy of the photograph with a region painted in its mean colour."""
    copy = image.copy()
    copy[region] = grey
    return copy


# %%
value, dimage = mq.image_gradient(image, params, config)  # of pixels in 0 … 1
effect = np.array([score(occluded(region)) - value for region in regions])  # (16,)
print(f"score {value:.4f}; hiding one region: {effect.min():+.4f} … {effect.max():+.4f}")
assert np.isclose(value, score(image), rtol=1e-3, atol=1e-3)

# %% [markdown]
# Where hiding lowers the score, the region spoke for the photograph, or the model dislikes the paint; where it raises the score, the other way round.
#
# The gradient makes a prediction of the same number: to first order, painting changes the score by
# $\sum \partial\text{score}/\partial x \cdot \Delta x$ over the pixels painted. And rollout gives each region a share, if we
# let a patch's share go to the regions it covers. (A patch at the border that is mostly padding puts its whole share on a
# thin strip of image: one more way in which counting looks like attention.)

# %%
step = (image.astype(np.float64) - grey) / 255
first_order = np.array([(dimage[region] * step[region]).sum() for region in regions])


def covered(patches, P, length, parts):
    """(parts, patches): which fraction of a patch lies in which part of an axis of a length."""
    start = np.arange(patches) * P - (patches * P - length) // 2
    low, high = np.clip(start, 0, length), np.clip(start + P, 0, length)
    edges = np.linspace(0, length, parts + 1)[:, None]
    inside = np.clip(np.minimum(high, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)
    return inside / (high - low)


by_region = np.zeros((GRID, GRID))
for laid_out, scale in zip(maps, scales, strict=True):
    down = covered(scale.rows, config.patch_size, scale.height, GRID)
    across = covered(scale.columns, config.patch_size, scale.width, GRID)
    by_region += down @ np.nan_to_num(laid_out) @ across.T
assert np.isclose(by_region.sum(), rollout.sum())

# %%
answers = {
    "rollout": by_region.ravel(),
    "|gradient · change|": np.abs(first_order),
    "|occlusion|": np.abs(effect),
}
figure, axes = plt.subplots(1, 4, figsize=(11, 2.6))
axes[0].imshow(image)
axes[0].set(title="the photograph", xticks=columns[1:-1], yticks=rows[1:-1])
axes[0].set(xticklabels=[], yticklabels=[])
axes[0].grid(color="white")
for axis, (name, values) in zip(axes[1:], answers.items(), strict=True):
    shape = size[1] / size[0]
    shown = axis.imshow(values.reshape(GRID, GRID), vmin=0, aspect=1 / shape)
    axis.set(title=name, xticks=[], yticks=[])
    figure.colorbar(shown, ax=axis, shrink=0.7)
axes[1].set_xlabel("share")
axes[2].set_xlabel("predicted change of the score")
axes[3].set_xlabel("change of the score")
plt.show()

# %% [markdown]
# Do they agree? Rank correlations, and, as chapter 08 taught, what chance would give: with 16 regions, not little.

# %%
labels = list(answers)
table = np.array([[metrics.srcc(answers[a], answers[b]) for b in labels] for a in labels])
rng = np.random.default_rng(0)
shuffled = [
    metrics.srcc(answers["rollout"], rng.permutation(answers["|occlusion|"])) for _ in range(1000)
]
chance = np.quantile(np.abs(shuffled), 0.95)
for label, row in zip(labels, table, strict=True):
    print(f"{label:20}", row.round(2))
print(f"by chance, 95 % lie within ±{chance:.2f}")
assert 0.3 < chance < 0.7

# %% [markdown]
# Only what is outside the range of chance is agreement, and this is one photograph; for a statement about the model you
# would need dozens. The gradient knows the model's answer but only in the smallest neighbourhood; occlusion is causal but
# makes strange pictures; rollout is neither causal nor signed. And only ranks were compared: the colour bars show how
# far the gradient's sizes are from those of occlusion. Where all three agree in order, you may believe the order.

# %% [markdown]
# ### Optional: a flaw in a known place
#
# One more test, with a known answer: blur the left half. Does the map of where the model *looks* move towards the flaw, or away?

# %%
flawed = image.copy()
middle = size[1] // 2
flawed[:, :middle] = DISTORTIONS["gaussian_blur"](image[:, :middle], 1.0, rng)
flawed_maps = mq.attention_rollout(params, mq.tokenize(flawed, config), config, size)


def left_half(maps):
    """The share of the rollout that lies in the left half of the image."""
    total = 0.0
    for laid_out, scale in zip(maps, scales, strict=True):
        across = covered(scale.columns, config.patch_size, scale.width, 2)
        total += (np.nan_to_num(laid_out) @ across.T).sum(axis=0)[0]
    return total / sum(np.nansum(m) for m in maps)


print(f"score {value:.3f}, left half blurred {score(flawed):.3f}")
print(f"left half's share: {left_half(maps):.1%} before, {left_half(flawed_maps):.1%} blurred")
assert 0 < left_half(flawed_maps) < 1

# %% [markdown]
# Compare the two changes. The score says whether the flaw counts, and whether against the photograph or for it (a picture that is sharp in one half may well pass as a photograph with a
# background out of focus). The share says whether the model looks towards the blurred half or away from it. Whether the one happens *because* of the other, the map does not say.
#
# In Jupyter, with `ipywidgets`, look at the rollout of the three photographs, intact or with the left half blurred:


# %%
def draw(photo, left):
    """The rollout over a photograph."""
    from IPython.display import display

    pixels = photograph(photo, longer_side=128)
    if left == "blurred":
        half = pixels.shape[1] // 2
        pixels[:, :half] = DISTORTIONS["gaussian_blur"](pixels[:, :half], 1.0, rng)
    display(explain.rollout_over_photograph(pixels, params, config))


explore(draw, photo=["astronaut", "cat", "coffee"], left=["blurred", "intact"])

# %% [markdown]
# ## What it shows, what it does not
#
# May you believe the bright spot? As a statement about attention, yes. As a reason for the score, no, unless another test agrees.
#
# | question | rollout |
# |---|---|
# | From where could information have come, through attention? | yes, under the assumption of half and half |
# | Which scale is looked at more, per patch? | yes, divided by the number of patches |
# | Does the region raise or lower the score? | no: it has no sign, and does not see the head |
# | Does the region matter at all? | no: it does not see the values |
# | Does the model look at what a person would? | only after comparison with random weights |

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/10_rollout.py`; try first.

# %% [markdown]
# ### Exercise 1: rollout (★★, 7 minutes)
#
# From the attention weights of all layers to the class token's row of $\mathbf{R}$ (row 0, with the class token's own share).
#
# <details><summary>Hint</summary>
#
# Matrices do not commute: the *first* layer is the rightmost factor. Or start from the last layer with the row
# $(1, 0, \dots, 0)$ and multiply from the right.
#
# </details>


# %% tags=["exercise-1"]
def my_rollout(layers):
    """layers: list of (H, 1 + N, 1 + N), first block first;  returns (1 + N,)"""
    return ...


# %% tags=["check-1"]
def check(my):
    rng = np.random.default_rng(2)
    made = [rng.dirichlet(np.full(7, 0.3), (3, 7)) for _ in range(4)]  # 4 layers, 3 heads, 7 tokens
    wanted = np.eye(7)[0]
    for A in made[::-1]:
        wanted = (wanted + wanted @ A.mean(axis=0)) / 2
    got = my(made)
    assert np.shape(got) == (7,), f"the result has shape {np.shape(got)}, not (7,)"
    assert np.isclose(np.sum(got), 1), f"the shares sum to {np.sum(got):.3f}, not 1"
    assert np.allclose(got, wanted), f"you get {np.round(got, 3)}; it is {wanted.round(3)}"


exercise(1, my_rollout, check)

# %% [markdown]
# ### Exercise 2: a rollout that sees the head (★★, 10 minutes)
#
# Chefer et al. weight attention with its gradient: $\bar{\mathbf{A}} = \tfrac1H\sum_h \max(0,\ \mathrm{d}\mathbf{A}^{(h)} \odot \mathbf{A}^{(h)})$, and from the first layer on
# $\mathbf{R} \leftarrow \mathbf{R} + \bar{\mathbf{A}}\mathbf{R}$, starting with $\mathbf{I}$. Return row 0 without the class token. (For the real model `verify.trace`, chapter 05, gives
# both lists: the weights and the gradients with respect to them.)
#
# <details><summary>Hint</summary>
#
# The maximum is taken head by head, *before* the mean: what one head holds against the photograph must not cancel what another holds for it.
#
# </details>


# %% tags=["exercise-2"]
def my_relevance(layers, gradients):
    """layers, gradients: lists of (H, 1 + N, 1 + N), first block first;  returns (N,)"""
    return ...


# %% tags=["check-2"]
def check(relevance):
    rng = np.random.default_rng(4)
    made = [rng.dirichlet(np.ones(6), (3, 6)) for _ in range(3)]
    slopes = [rng.standard_normal((3, 6, 6)) for _ in range(3)]
    wanted = np.eye(6)
    for A, dA in zip(made, slopes, strict=True):
        wanted = wanted + np.maximum(dA * A, 0).mean(axis=0) @ wanted
    got = relevance(made, slopes)
    assert np.shape(got) == (5,), f"the result has shape {np.shape(got)}, not (5,)"
    assert np.allclose(got, wanted[0, 1:]), (
        f"you get {np.round(got, 3)}; it is {wanted[0, 1:].round(3)}"
    )
    assert not np.any(relevance(made, [0 * slope for slope in slopes])), (
        "if nothing depends on attention (all gradients 0), nothing is relevant"
    )


exercise(2, my_relevance, check)

# %% [markdown]
# ## Quiz

# %%
quiz("10")

# %% [markdown]
# ## In practice
#
# - **Never show one map alone.** Beside it put the map of random weights, in the same colours, from 0.
# - **Sum over patches before you compare scales**, then divide by their number.
# - **Artefacts at the border.** A patch that is mostly padding puts its whole share on a thin strip of the image, which then looks bright.
# - **"The model looks at X"** is a statement about attention. "The score depends on X" needs an intervention: hide X, blur X, replace X.
# - **The authors' figure** averages heads and multiplies layers as here; whether the residual was mixed half and half the appendix does
#   not say ("accounting for the mixing of attention across tokens"). The library's choice is that of Abnar and Zuidema.
# - `musiq-ref explain photo.jpg -o report.html` puts rollout and gradient side by side.

# %% [markdown]
# ## References
#
# - J. Ke et al.: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, appendix H and figure 5.
# - S. Abnar, W. Zuidema: *Quantifying Attention Flow in Transformers*, ACL 2020 (rollout).
# - A. Dosovitskiy et al.: *An Image is Worth 16x16 Words*, ICLR 2021, appendix D.8.
# - J. Adebayo et al.: *Sanity Checks for Saliency Maps*, NeurIPS 2018.
# - H. Chefer, S. Gur, L. Wolf: *Generic Attention-model Explainability*, ICCV 2021.
# - T. Darcet et al.: *Vision Transformers Need Registers*, ICLR 2024 (bright spots in plain patches).
# - M. D. Zeiler, R. Fergus: *Visualizing and Understanding Convolutional Networks*, ECCV 2014 (occlusion).
# - The code: `musiq_ref/explain/rollout.py`, `musiq_ref/explain/scales.py`.
