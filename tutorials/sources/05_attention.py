# %% [markdown]
# # 05 · Attention: how one token asks all the others
#
# A patch of out-of-focus table is no flaw in a picture whose cup is sharp. Whether a patch is good can only be said by looking at
# the others, at all scales. Attention is the one place in MUSIQ where tokens meet. Here you compute it by hand, for one
# head, then for all, with a mask, forward and backward, and follow a single token through every line.

# %% [markdown]
# ## What you will learn
#
# - to compute queries, keys, values, weights and the output of one head, and to say what each of them is for;
# - why the logits are divided by $\sqrt{D_h}$, shown by what happens without it;
# - why many heads are one matrix product and a reshape, and what the last projection really does;
# - how a mask makes padding invisible, and why three programs mask in three ways and agree;
# - the backward of every line, derived, checked, and used to ask which link of attention would raise the score.

# %% [markdown]
# ## What you need
#
# About 45 minutes; matrix products; the tokens of chapters 01 and 02; the idea of a backward from chapter 03 ($\mathrm{d}x$
# is the gradient of one final number, such as the score, to $x$).

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, explore, photograph, show
from musiq_ref import explain, verify
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model import attention as library
from musiq_ref.ops.softmax import mask_logits, softmax

# %% [markdown]
# ## The tokens of one photograph
#
# We run the bundled model once and keep everything it computed. From then on we recompute: whatever a cell claims is
# compared with what the model really did. Double precision, so that "equal" can mean equal to 12 digits. `dlogits` is where
# the backward begins: with one output the score is the logit itself, and its gradient to itself is 1.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, gradients = verify.trace(params, tokens, config, dlogits=np.ones((1, config.outputs)))

# %%
last = f"block_{config.layers - 1:02d}"  # the score is read from its class token
block = f"encoder/{last}"  # so the trace names it
p = params["encoder"][last]["attention"]
z = values[f"{block}/norm1"][0]  # what enters the attention: the tokens after a LayerNorm
N, D, H, D_h = len(z), config.width, config.heads, config.head_width
print(f"z: {z.shape} = ({N} tokens, width {D});  {H} heads of width {D_h}")
assert z.shape == (1 + tokens.mask.sum(), D)

# %% [markdown]
# Row 0 is the class token. The others are patches of the same photograph at several sizes. In this chapter $N$ counts the
# class token, too (elsewhere, as in the glossary, that is $1 + N$), and $\mathbf{z}$ is what enters the attention; chapter 06
# says where the LayerNorm before it comes from. One patch will be traced; it is framed here.

# %%
scales = scales_of(*image.shape[:2], config)
row, column = scales[0].rows // 2, scales[0].columns // 2  # the middle of the smallest scale
traced = row * scales[0].columns + column
explain.multi_scale_patches(image, config, highlight=[traced])

# %% [markdown]
# ## One head
#
# Every token makes three vectors of width $D_h$ out of itself, each with its own learned matrix:
#
# $$\mathbf{Q} = \mathbf{z}\mathbf{U}_q, \quad \mathbf{K} = \mathbf{z}\mathbf{U}_k, \quad \mathbf{V} = \mathbf{z}\mathbf{U}_v
# \tag{6}$$
#
# The **query** says what the token looks for, the **key** what it offers to be found by, the **value** what it hands over
# once found. The paper leaves out a bias; the authors' code adds one to each.

# %%
h = 0  # which head


def projected(name):
    """Eq. 6 for one head: (N, D) times (D, D_h), plus a bias."""
    return z @ p[name]["kernel"][:, h] + p[name]["bias"][h]


print("query's kernel, all heads:", p["query"]["kernel"].shape, "= (D, H, D_h)")
Q, K, V = (projected(name) for name in ("query", "key", "value"))
print("Q, K, V:", Q.shape, K.shape, V.shape)

# %%
for name, mine in (("query", Q), ("key", K), ("value", V)):
    np.testing.assert_allclose(mine, values[f"{block}/attention/{name}"][0, h], rtol=0, atol=1e-12)

# %% [markdown]
# How well a query fits a key is their dot product: large when they point the same way. Each row of the $N \times N$
# logits holds the fits of one query with all keys; the softmax turns it into shares that sum to 1:
#
# $$\mathbf{A} = \text{softmax}(\mathbf{Q}\mathbf{K}^T / \sqrt{D_h}) \tag{7}$$

# %%
S = Q @ K.T / math.sqrt(D_h)  # logits
A, _ = softmax(S)
print("S, A:", S.shape, A.shape)
np.testing.assert_allclose(A, values[f"{block}/attention/weights"][0, h], rtol=0, atol=1e-12)
np.testing.assert_allclose(A.sum(axis=1), 1)

# %% [markdown]
# Each token then receives the mean of all values, weighted by its row of shares:
#
# $$\text{SA}(\mathbf{z}) = \mathbf{A}\mathbf{V} \tag{8}$$

# %%
SA = A @ V
print("SA:", SA.shape)
np.testing.assert_allclose(SA, values[f"{block}/attention/heads"][0, h], rtol=0, atol=1e-12)

# %% [markdown]
# That is all of attention. Nothing in it knows how many tokens there are or in which order they come: shuffle the tokens,
# and the outputs are shuffled the same way. This is why MUSIQ can take images of any size, and why it must add
# where a patch lies (Eq. 2): attention itself would not notice.

# %%
shuffled = np.random.default_rng(0).permutation(N)
A_shuffled, _ = softmax(Q[shuffled] @ K[shuffled].T / math.sqrt(D_h))
np.testing.assert_allclose(A_shuffled @ V[shuffled], SA[shuffled], rtol=0, atol=1e-12)

# %% [markdown]
# ### One token traced
#
# The framed patch, in plain Python numbers. First the token it fits best, by the dot product, term by term:

# %%
i = 1 + traced  # its row: the class token is row 0
j = int(np.argmax(S[i]))
terms = [Q[i, c] * K[j, c] for c in range(D_h)]
print(f"query {i}, key {j}: {terms[0]:+.3f} {terms[1]:+.3f} {terms[2]:+.3f} … = {sum(terms):.3f}")
print(f"divided by √{D_h}: {sum(terms) / math.sqrt(D_h):.4f}")
assert math.isclose(sum(terms) / math.sqrt(D_h), S[i, j], abs_tol=1e-12)

# %% [markdown]
# Then its share of the row: $e^{S_{ij}}$ over the sum of all $e^{S_{ik}}$, the largest logit subtracted from each first, which
# changes nothing but keeps $e^{…}$ from overflowing.

# %%
shifted = [math.exp(S[i, k] - S[i, j]) for k in range(N)]
share = shifted[j] / sum(shifted)
print(f"share of token {j}: {share:.4f}; with equal shares it would be {1 / N:.4f}")
assert math.isclose(share, A[i, j], abs_tol=1e-12)


# %% [markdown]
# Whom does the traced token look at? The five largest shares, with their places:


# %%
def place(token):
    """Where a row of the sequence comes from."""
    if token == 0:
        return "class token"
    number = token - 1
    for scale in scales:
        if number < scale.kept:
            row, column = divmod(number, scale.columns)
            return f"{explain.scale_name(scale)}, row {row}, column {column}"
        number -= scale.kept


for k in np.argsort(-A[i])[:5]:
    print(f"{A[i, k]:.4f}  logit {S[i, k]:+.3f}  {place(k)}")

# %% [markdown]
# And the whole row, laid over the photograph. The colour bar starts at 0, so twice as far along it is twice the share.

# %%
explain.over_scales(image, A[i, 1:], config, label="share of its attention", highlight=[traced])

# %% [markdown]
# ### Why divide by $\sqrt{D_h}$?
#
# If the entries of a query and a key are independent with variance 1, their dot product is a sum of $D_h$ terms of
# variance 1, so its variance is $D_h$. Undivided, logits grow with the width of the head, and the softmax turns into
# a maximum: one share near 1, all others near 0. There its gradient vanishes, and nothing is learned. Divided, the
# variance is 1 at every width.

# %%
rng = np.random.default_rng(1)
widths = [4, 16, 64, 256, 1024]
largest = {"undivided": [], "divided by √D_h": []}
for width in widths:
    dots = rng.standard_normal((200, width)) @ rng.standard_normal((100, width)).T  # (200, 100)
    largest["undivided"].append(softmax(dots)[0].max(axis=1).mean())
    largest["divided by √D_h"].append(softmax(dots / math.sqrt(width))[0].max(axis=1).mean())

# %%
figure, axis = plt.subplots(figsize=(6, 3))
for (label, line), style in zip(largest.items(), ("o-", "s--"), strict=True):
    axis.semilogx(widths, line, style, base=2, label=label)
axis.set(xlabel="width of the head, $D_h$", ylabel="largest of 100 shares", ylim=(0, 1))
axis.set_title("Why the root is there")
axis.legend()
plt.show()
assert largest["undivided"][-1] > 0.9
assert max(largest["divided by √D_h"]) < 0.2

# %% [markdown]
# ## Many heads
#
# One head makes one mean. A token may need several: the sharpest place, the same place at another scale, the sky. So
# $H$ heads (the paper calls their number $s$) work side by side, each with its own $\mathbf{U}_q, \mathbf{U}_k, \mathbf{U}_v$ of width $D_h = D / H$, and a last
# matrix $\mathbf{U}_m$ mixes what they found:
#
# $$\text{MSA}(\mathbf{z}) = [\text{SA}_1(\mathbf{z}); \dots; \text{SA}_H(\mathbf{z})]\,\mathbf{U}_m \tag{9}$$
#
# The library does not loop over heads. One product computes all queries, and a reshape deals them out:

# %%
show(library.project, library.merge)

# %% [markdown]
# What "concatenate, then multiply" hides: rows of $\mathbf{U}_m$ belong to heads, so the product is a **sum over heads**,
# each head with its own $D_h \times D$ matrix. Heads do not interact here; each adds its part.

# %%
heads = values[f"{block}/attention/heads"][0]  # (H, N, D_h)
U_m, b_m = p["out"]["kernel"], p["out"]["bias"]  # (H, D_h, D), (D,)
concatenated = np.concatenate(list(heads), axis=1) @ U_m.reshape(H * D_h, D) + b_m
summed = sum(heads[g] @ U_m[g] for g in range(H)) + b_m
print("MSA(z):", summed.shape)
np.testing.assert_allclose(concatenated, summed, rtol=0, atol=1e-12)
np.testing.assert_allclose(concatenated, values[f"{block}/attention/out"][0], rtol=0, atol=1e-12)

# %% [markdown]
# Do the heads look at different scales? The class token's attention, head by head, summed over each scale:

# %%
weights = values[f"{block}/attention/weights"][0]  # (H, N, N)
scale_of_token = np.concatenate([[-1], tokens.scale_index[0]])
share_of_scale = np.array(
    [weights[:, 0, scale_of_token == s].sum(axis=1) for s in [-1, *range(config.scales)]]
)
names = ["itself", *map(explain.scale_name, scales)]
assert np.allclose(share_of_scale.sum(axis=0), 1)

# %%
figure, axis = plt.subplots(figsize=(7, 3))
bottom = np.zeros(H)
for share, name, hatch in zip(share_of_scale, names, ("", "//", "..", "xx"), strict=False):
    axis.bar(range(H), share, bottom=bottom, label=name, hatch=hatch, edgecolor="white")
    bottom += share
axis.set(
    xlabel="head",
    ylabel="share",
    xticks=range(H),
    title="Where the class token of the last block looks",
)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()


# %% [markdown]
# In Jupyter, with `ipywidgets` installed, choose a head and look at its attention over the photograph:


# %%
def draw(head):
    """The class token's attention in one head of the last block."""
    label = f"head {head}: share"
    return explain.over_scales(image, weights[head, 0, 1:], config, label=label, share=True)


explore(draw, head=range(H))

# %% [markdown]
# ## The mask
#
# Images of a batch have different numbers of tokens; shorter ones are padded with zeros. Zeros are not nothing: a
# zero token still has keys and values (the biases, if nothing else) and would take its share. So a matrix $\mathbf{M}$ is added
# to the logits
#
# $$\mathbf{M}_{i,j} = \begin{cases} 0 & \text{if position } i \text{ may attend to } j \cr -\infty & \text{if not} \end{cases}
# \tag{10}$$
#
# $$\mathbf{A}_m = \text{softmax}((\mathbf{Q}\mathbf{K}^T + \mathbf{M}) / \sqrt{D_h}) \tag{11}$$
#
# since $e^{-\infty} = 0$: a forbidden position gets no share, and the others share as if it were not there.

# %%
show(library.allowed_pairs, mask_logits)

# %%
n = 5  # a small case: three real tokens, two of padding
valid = np.array([[True, True, True, False, False]])
logits = np.random.default_rng(2).standard_normal((1, 1, n, n))
allowed = library.allowed_pairs(valid)  # (1, 1, n, n)
masked, _ = mask_logits(logits, allowed, "add", -math.inf)
print(softmax(masked)[0][0, 0].round(3))

# %% [markdown]
# Rows of real tokens share among real tokens. Rows of padding would be 0/0; the library makes them zeros. The authors
# add $-10^{10}$ instead of $-\infty$, pyiqa puts $-10^3$ in the logit's place. All three agree where anything is read:

# %%
real = valid[0]
shares = {}
for name, conventions in (("paper", mq.PAPER), ("official", mq.OFFICIAL), ("pyiqa", mq.PYIQA)):
    masked, _ = mask_logits(logits, allowed, conventions.mask, conventions.mask_value)
    shares[name] = softmax(masked)[0][0, 0]
    print(f"{name:9} real {shares[name][0].round(3)}   padding {shares[name][4].round(3)}")
    np.testing.assert_array_equal(shares[name][real], shares["paper"][real])

# %% [markdown]
# Eq. (11) adds $\mathbf{M}$ before dividing by $\sqrt{D_h}$, the programs after. For $-\infty$ it is the same, and for $-10^{10}$ too: what
# is large enough to hide a token hides it divided by $\sqrt{D_h}$ as well ($8$ in the published models). The contract that matters: **padding does not change the score**.

# %%
alone, _ = mq.forward(params, tokens, config)
longer = mq.tokenize(photograph("cat", longer_side=360), config)
together = mq.batch([mq.tokenize(image, config), longer])
padded, _ = mq.forward(params, together, config)
print(f"tokens alone {tokens.mask.size}, in the batch {together.mask[0].size}")
print(f"logits alone {alone[0]}, in the batch {padded[0]}")
np.testing.assert_allclose(padded[0], alone[0], rtol=1e-10, atol=1e-10)

# %% [markdown]
# ## Backward
#
# Something downstream tells us $\mathrm{d}\text{SA}$: how the score changes with each number of the head's output. We read the forward
# from the last line to the first. Products follow the rule of chapter 03: for $\mathbf{Y} = \mathbf{X}\mathbf{W}$,
# $\mathrm{d}\mathbf{X} = \mathrm{d}\mathbf{Y}\,\mathbf{W}^T$ and $\mathrm{d}\mathbf{W} = \mathbf{X}^T\mathrm{d}\mathbf{Y}$.
#
# **Line Eq. (8)**, $\text{SA} = \mathbf{A}\mathbf{V}$, a product: $\mathrm{d}\mathbf{A} = \mathrm{d}\text{SA}\,\mathbf{V}^T$ and $\mathrm{d}\mathbf{V} = \mathbf{A}^T\,\mathrm{d}\text{SA}$. A token that many looked at
# gathers the gradients of all of them.
#
# **The softmax in Eq. (7)**: take one row, $A_k = e^{S_k} / \sum_m e^{S_m}$. A logit $S_j$ stands in the sum under every
# share, and on top of its own: by the quotient rule $\partial A_k / \partial S_j = A_k(\delta_{kj} - A_j)$, where
# $\delta_{kj}$ is 1 for $k = j$ and 0 otherwise. $S_j$ acts on the score through all shares of the row, so we sum over them:
# $\mathrm{d}S_j = \sum_k \mathrm{d}A_k\,\partial A_k / \partial S_j = A_j\,(\mathrm{d}A_j - \sum_k \mathrm{d}A_k A_k)$. In words: a logit is worth raising if what it leads to is better than what the row
# already gets *on average*; and in proportion to the share it has.
#
# **The logits in Eq. (7)**, $\mathbf{S} = \mathbf{Q}\mathbf{K}^T/\sqrt{D_h}$: $\mathrm{d}\mathbf{Q} = \mathrm{d}\mathbf{S}\,\mathbf{K}/\sqrt{D_h}$ and $\mathrm{d}\mathbf{K} = \mathrm{d}\mathbf{S}^T\mathbf{Q}/\sqrt{D_h}$.
#
# **The projections in Eq. (6)**: $\mathbf{z}$ is used three times, so its gradient is a sum of three:
# $\mathrm{d}\mathbf{z} = \mathrm{d}\mathbf{Q}\,\mathbf{U}_q^T + \mathrm{d}\mathbf{K}\,\mathbf{U}_k^T + \mathrm{d}\mathbf{V}\,\mathbf{U}_v^T$, and $\mathrm{d}\mathbf{U}_q = \mathbf{z}^T\mathrm{d}\mathbf{Q}$, and so on.

# %%
dSA = gradients[f"{block}/attention/heads"][0, h]  # the model's own gradient, for our head
dA, dV = dSA @ V.T, A.T @ dSA
dS = A * (dA - (dA * A).sum(axis=1, keepdims=True))
dQ, dK = dS @ K / math.sqrt(D_h), dS.T @ Q / math.sqrt(D_h)
print("dA", dA.shape, " dS", dS.shape, " dQ", dQ.shape, " dK", dK.shape, " dV", dV.shape)

# %%
for name, mine in (("weights", dA), ("logits", dS), ("query", dQ), ("key", dK), ("value", dV)):
    theirs = gradients[f"{block}/attention/{name}"][0, h]
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12 * max(1, abs(theirs).max()))
np.testing.assert_allclose(dS.sum(axis=1), 0, atol=1e-12)  # a row has nothing to gain as a whole

# %% [markdown]
# The same lines in the library, all heads at once. Read the backward beside the forward, from the forward's last line up.
# (`tap` lets a trace look in; `noise` and `drop` are dropout, used in training only.)

# %%
show(library.attention, library.attention_backward)

# %% [markdown]
# ### What the gradient says
#
# $\mathrm{d}\mathbf{S}$ in the class token's row answers a question: *which link, if the class token followed it a little more, would raise
# the score?* On the left what it looks at in the photograph at its native size, on the right what looking there more
# would do: purple raises the score, orange lowers it.

# %%
share, change = (explain.maps_by_scale(row[0, 1:], image.shape[:2], config)[-1] for row in (A, dS))
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
limit = abs(change).max() or 1
for axis, laid_out, title, options in (
    (axes[0], share, "share $A$", {"cmap": "cividis", "vmin": 0}),
    (axes[1], change, "d score / d logit", {"cmap": "PuOr", "vmin": -limit, "vmax": limit}),
):
    figure.colorbar(axis.imshow(laid_out, **options), ax=axis, shrink=0.8)
    axis.set(title=f"{title}, {explain.scale_name(scales[-1])}")
    axis.set(xlabel="column of patches", ylabel="row of patches")
    axis.locator_params(integer=True)
plt.show()

# %% [markdown]
# Only the class token's row is read in the last block, so all the other rows of $\mathrm{d}\mathbf{S}$ are zero there; not so one block
# earlier, from where other tokens still reach it.

# %%
assert abs(dS[1:]).max() == 0
if config.layers > 1:
    earlier = gradients[f"encoder/block_{config.layers - 2:02d}/attention/logits"][0, h]
    assert abs(earlier[1:]).max() > 0

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/05_attention.py`; try first.

# %% [markdown]
# ### Exercise 1: the backward of the softmax
#
# `y` is the softmax's output, any shape; rows are the last axis. No loops.
#
# <details><summary>Hint</summary>
#
# It is the formula for $\mathrm{d}S_j$ above. The sum runs over the last axis and must keep it (`keepdims=True`), or the
# subtraction broadcasts along the wrong one; square inputs would not notice.
#
# </details>


# %% tags=["exercise-1"]
def my_softmax_backward(dy, y):
    return ...


# %% tags=["check-1"]
def check(backward):
    x = np.random.default_rng(3).standard_normal((2, 3, 5))
    verify.check_vjp(softmax, backward, [x])


exercise(1, my_softmax_backward, check)

# %% [markdown]
# ### Exercise 2: one head, forward
#
# From queries, keys and values of one head, and which pairs are allowed, to the head's output (Eq. 8 and 11).
# A row in which nothing is allowed should give zeros.
#
# <details><summary>Hint</summary>
#
# `np.where(allowed, …, -np.inf)` makes the mask; `softmax` of the library (it returns the result and a cache) knows
# about rows of nothing but $-\infty$.
#
# </details>


# %% tags=["exercise-2"]
def my_head(q, k, v, allowed):
    """q, k: (N, D_h);  v: (N, D_v);  allowed: boolean (N, N);  returns (N, D_v)"""
    return ...


# %% tags=["check-2"]
def check(head):
    rng = np.random.default_rng(4)
    q, k, v = rng.standard_normal((6, 3)), rng.standard_normal((6, 3)), rng.standard_normal((6, 5))
    allowed = rng.random((6, 6)) < 0.6
    allowed[2] = False
    got = head(q, k, v, allowed)
    assert np.shape(got) == (6, 5), f"the output has shape {np.shape(got)}, not (6, 5)"
    assert not np.any(got[2]), "row 2 may attend to nothing, so it should be zeros"
    for i in (0, 1, 3, 4, 5):
        e = np.exp(q[i] @ k[allowed[i]].T / math.sqrt(3))
        wanted = e @ v[allowed[i]] / e.sum()
        assert np.allclose(got[i], wanted), (
            f"row {i} is {got[i].round(3)}; by hand it is {wanted.round(3)}"
        )


exercise(2, my_head, check)

# %% [markdown]
# ### Exercise 3: one head, backward
#
# The gradients to `q`, `k`, `v` from the gradient `dy` to the head's output. `cache` holds what the forward below kept.
#
# <details><summary>Hint</summary>
#
# Four lines, from the section "Backward". Check shapes: `dq` must have the shape of `q`. Where does the $1/\sqrt{D_h}$ go?
# It belongs to both `dq` and `dk`, once each.
#
# </details>


# %%
def head_forward(q, k, v):
    """Eq. 7 and 8: (N, D_h), (N, D_h), (N, D_v) to (N, D_v)."""
    weights, _ = softmax(q @ k.T / math.sqrt(q.shape[1]))
    return weights @ v, (q, k, v, weights)


# %% tags=["exercise-3"]
def my_head_backward(dy, cache):
    q, k, v, weights = cache
    dq, dk, dv = ..., ..., ...
    return dq, dk, dv


# %% tags=["check-3"]
def check(backward):
    rng = np.random.default_rng(5)
    verify.check_vjp(
        head_forward, backward, [rng.standard_normal(shape) for shape in ((4, 3), (4, 3), (4, 5))]
    )


exercise(3, my_head_backward, check)

# %% [markdown]
# ### Exercise 4: how much does attention cost?
#
# How many multiply–accumulates do the two products of Eq. (7) and (8) take for $N$ tokens and width $D$, all heads of one
# block together? And the four projections of Eq. (6) and (9)? From which $N$ on do the products cost more than the
# projections? (The check asks for the first two; the last follows from them.)
#
# <details><summary>Hint</summary>
#
# An $(a, b)$ times $(b, c)$ product takes $abc$ multiply–accumulates. $H$ heads of width $D_h$: $H D_h = D$.
#
# </details>


# %% tags=["exercise-4"]
def my_counts(N, D):
    """Returns (multiply-accumulates of the products, of the projections)."""
    return ..., ...


# %% tags=["check-4"]
def check(counts):
    for size in ((224, 224), (300, 500)):
        config = mq.MusiqConfig.preset("small")
        exact = mq.complexity(config, size)
        for mine, name in zip(
            counts(exact.tokens + 1, config.width), ("products", "projections"), strict=True
        ):
            wanted = exact.macs_by_part[f"encoder/attention/{name}"] // config.layers
            assert mine == wanted, (
                f"{name} for {exact.tokens + 1} tokens: you say {mine:,}, it is {wanted:,}"
            )


exercise(4, my_counts, check)

# %% [markdown]
# ## In practice
#
# - **Memory.** $\mathbf{A}$ has $N^2$ numbers a head. A 12-megapixel photograph has 12,000 tokens: 144 million numbers, for each
#   head of each block. Inference therefore never holds $\mathbf{A}$ as a whole: it takes some rows of queries at a time (chapter 13),
#   as do flash attention and `torch.nn.functional.scaled_dot_product_attention`.
# - **The reshape.** Queries come out of the product as $(N, H \cdot D_h)$. Reshaping to $(N, D_h, H)$ instead of $(N, H, D_h)$
#   raises no error and gives a model that is subtly wrong with weights trained elsewhere.
# - **Fused projections.** Many programs store $\mathbf{U}_q, \mathbf{U}_k, \mathbf{U}_v$ as one $(D, 3D)$ matrix; when you convert weights, find out
#   whether it is split by head first or by role first.
# - **A mask of $-\infty$** makes NaN in rows that may attend to nothing, unless the softmax looks after them; $-10^{10}$ overflows to $-\infty$ in
#   float16.
# - **Attention is not explanation.** A head's map says where values were gathered, not what they did to the score; $\mathrm{d}\mathbf{S}$
#   says more, and chapter 10 says how far either goes.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, appendix A.2 and A.3.
# - A. Vaswani et al.: *Attention is all you need*, NeurIPS 2017, section 3.2.
# - S. Jain, B. C. Wallace: *Attention is not Explanation*, NAACL 2019; S. Wiegreffe, Y. Pinter: *Attention is not not
#   Explanation*, EMNLP 2019.
# - T. Dao et al.: *FlashAttention: Fast and memory-efficient exact attention with IO-awareness*, NeurIPS 2022.
# - The code: `musiq_ref/model/attention.py`, `musiq_ref/ops/softmax.py`.
