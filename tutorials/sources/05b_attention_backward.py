# %% [markdown]
# # 05b · Attention: the mask, and the way back
#
# Who listens to whom is now known. Two things are missing: how to forbid it, so that padding is not heard, and
# how to find out what it did to the score. The question of this chapter:
#
# > **Which token should the class token listen to a little more, if the score is to rise?**

# %% [markdown]
# ## What you will learn
#
# - how a mask makes padding invisible, and why three programs mask in three ways and agree;
# - the backward of every line of attention, derived and checked;
# - to read the gradient with respect to the logits as an answer to "who should be listened to?", and to try it
#   out.

# %% [markdown]
# ## What you need
#
# About 55 minutes, exercises included; chapter 05; the backward of a product from chapter 03. $\mathrm{d}x$ is
# the gradient of one final number, such as the score, with respect to $x$.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import explain, verify
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model import attention as library
from musiq_ref.model.encoder import mlp, norm
from musiq_ref.ops.softmax import mask_logits, softmax

# %% [markdown]
# ## Three tokens again
#
# Cup, table and wall of chapter 05. The table listens to them with the shares ½, ¼, ¼, and the values are 12, 0,
# 0: it receives 6.
#
# **Forbid the wall.** Its share must become 0, and the others must share as if it were not there: ⅔ and ⅓. Now
# the table receives 8. The trick is to put $-\infty$ in place of the wall's logit, since $e^{-\infty} = 0$:

# %%
S = np.array([math.log(2), 0, 0])  # the table's logits
V = np.array([12.0, 0, 0])


def shares(logits):
    """Softmax of one row."""
    return np.exp(logits) / np.exp(logits).sum()


A = shares(S)
without_wall = shares(S + np.array([0, 0, -np.inf]))
print(A, "receives", A @ V)
print(without_wall.round(3), "receives", without_wall @ V)
np.testing.assert_allclose(without_wall, [2 / 3, 1 / 3, 0])
np.testing.assert_allclose([A @ V, without_wall @ V], [6, 8])

# %% [markdown]
# **Who should be listened to more?** Say that the score grows by 1 per unit of what the table receives. A share
# of the cup is worth 12, one of the others 0: that is $\mathrm{d}A = (12, 0, 0)$. But shares sum to 1: who gets
# more takes it from all. So what counts is whether a token is worth more than the table receives now, the
# *average* 6. For the cup that is $12-6=6$, for the others $0-6=-6$. And a token that has a small share moves
# little: times $A$, that is $½·6, ¼·(-6), ¼·(-6) = 3, -1.5, -1.5$.

# %%
dA = V
dS = A * (dA - dA @ A)
print("dS", dS)
np.testing.assert_allclose(dS, [3, -1.5, -1.5])

h = 1e-6  # the same by trying it out
tried = [(shares(S + h * one) @ V - shares(S - h * one) @ V) / (2 * h) for one in np.eye(3)]
np.testing.assert_allclose(tried, dS, atol=1e-8)

# %%
figure, axis = plt.subplots(figsize=(5.6, 2.8))
for offset, numbers, name, hatch in (
    (-0.2, 12 * A, "share $A$, times 12", ""),
    (0.2, dS, "dS", "//"),
):
    axis.bar(np.arange(3) + offset, numbers, 0.38, label=name, hatch=hatch, edgecolor="white")
axis.axhline(0, color="0.3", linewidth=0.8)
axis.set_xticks(range(3), ["cup", "table itself", "wall"])
axis.set_title("Whom the table listens to, and whom it should")
axis.legend()
plt.show()

# %% [markdown]
# The bars of $\mathrm{d}S$ sum to 0: a row as a whole has nothing to gain. It can only listen to one *rather
# than* to another. That is the backward of the softmax, and the one line of attention that needs thought.

# %% [markdown]
# ## The mask
#
# Images of a batch have different numbers of tokens; the shorter ones are filled up with patches of zeros. Those
# are not nothing: zeros are a mid-grey patch, which becomes a token like any other, with a key and a value, and
# would take its share. So a matrix $\mathbf{M}$ is added to the logits
#
# $$\mathbf{M}_{i,j} = \begin{cases} 0 & \text{if } i \text{ may attend to } j \cr -\infty & \text{if not} \end{cases}
# \tag{10}$$
#
# $$\mathbf{A}_m = \text{softmax}\Big(\frac{\mathbf{Q}\mathbf{K}^T + \mathbf{M}}{\sqrt{D_h}}\Big) \tag{11}$$
#
# and a forbidden position gets no share, like the wall.

# %%
explain.attention_diagram()

# %% [markdown]
# It is the drawing of chapter 05 with one box more, in the order of Eq. (11). The library and the authors' code
# add the mask after the division. For $-\infty$ that is the same.

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
# Rows of real tokens share among real tokens. Rows of padding would be 0/0; the library makes them zeros. The
# authors add $-10^{10}$ instead of $-\infty$, pyiqa puts $-10^3$ in the logit's place. All three agree where
# anything is read:

# %%
real = valid[0]
weights = {}
for name, conventions in (("paper", mq.PAPER), ("official", mq.OFFICIAL), ("pyiqa", mq.PYIQA)):
    masked, _ = mask_logits(logits, allowed, conventions.mask, conventions.mask_value)
    weights[name] = softmax(masked)[0][0, 0]
    print(f"{name:9} real {weights[name][0].round(3)}   padding {weights[name][4].round(3)}")
    np.testing.assert_array_equal(weights[name][real], weights["paper"][real])

# %% [markdown]
# In rows of padding they differ, but nobody reads those. The contract that matters is that **padding does not
# change the score**. We put the photograph in a batch with a larger one:

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, _ = verify.trace(params, tokens, config)  # every intermediate, by name
alone = values["head/logits"]

larger = mq.tokenize(photograph("cat", longer_side=360), config)
together = mq.batch([mq.tokenize(image, config), larger])
padded, _ = mq.forward(params, together, config)
print(f"tokens alone {tokens.mask.size}, in the batch {together.mask[0].size}")
print(f"logits alone {alone[0]}, in the batch {padded[0]}")
assert not together.mask[0].all()
np.testing.assert_allclose(padded[0], alone[0], rtol=1e-10, atol=1e-10)

# %% [markdown]
# And without the mask, padding is heard. How much that changes depends on the model. A photograph scored alone,
# without empty places, does not show it at all, which makes the fault hard to find.

# %%
everybody = together._replace(mask=np.ones_like(together.mask))
unmasked, _ = mq.forward(params, everybody, config)
print(f"logits without a mask {unmasked[0]}")
assert tokens.mask.all()  # alone, there is nothing to mask
assert abs(unmasked[0] - alone[0]).max() > 1e-6

# %% [markdown]
# ## Backward
#
# Something downstream tells us $\mathrm{d}\text{SA}$: how the score changes with each number of the head's
# output. We read the forward from the last line to the first. Products follow the rule of chapter 03: for
# $\mathbf{Y} = \mathbf{X}\mathbf{W}$, $\mathrm{d}\mathbf{X} = \mathrm{d}\mathbf{Y}\,\mathbf{W}^T$ and
# $\mathrm{d}\mathbf{W} = \mathbf{X}^T\mathrm{d}\mathbf{Y}$.
#
# **Eq. (8)**, $\text{SA} = \mathbf{A}\mathbf{V}$, is a product: $\mathrm{d}\mathbf{A} =
# \mathrm{d}\text{SA}\,\mathbf{V}^T$ and $\mathrm{d}\mathbf{V} = \mathbf{A}^T\,\mathrm{d}\text{SA}$. A token that
# many listened to gathers the gradients of all of them.
#
# **The softmax in Eq. (7)**: take one row, $A_k = e^{S_k} / \sum_m e^{S_m}$. A logit $S_j$ stands in the
# denominator of every share, and in the numerator of its own: by the quotient rule $\partial A_k / \partial S_j = A_k(\delta_{kj} -
# A_j)$, where $\delta_{kj}$ is 1 for $k = j$ and 0 otherwise. $S_j$ acts on the score through all shares of the
# row, so we sum over them:
#
# $$\begin{aligned} \mathrm{d}S_j &= \sum_k \mathrm{d}A_k\,\frac{\partial A_k}{\partial S_j} \\ &= A_j\,\Big(\mathrm{d}A_j - \sum_k \mathrm{d}A_k A_k\Big) \end{aligned}$$
#
# which is what you did in your head for the table: better than the average, times the share.
#
# **The logits in Eq. (7)**, $\mathbf{S} = \mathbf{Q}\mathbf{K}^T/\sqrt{D_h}$: $\mathrm{d}\mathbf{Q} =
# \mathrm{d}\mathbf{S}\,\mathbf{K}/\sqrt{D_h}$ and $\mathrm{d}\mathbf{K} =
# \mathrm{d}\mathbf{S}^T\mathbf{Q}/\sqrt{D_h}$.
#
# **The projections in Eq. (6)**: $\mathbf{z}$ is used three times, so its gradient is a sum of three:
# $\mathrm{d}\mathbf{z} = \mathrm{d}\mathbf{Q}\,\mathbf{U}_q^T + \mathrm{d}\mathbf{K}\,\mathbf{U}_k^T +
# \mathrm{d}\mathbf{V}\,\mathbf{U}_v^T$, and $\mathrm{d}\mathbf{U}_q = \mathbf{z}^T\mathrm{d}\mathbf{Q}$, and so
# on.
#
# Given a gradient with respect to the model's outputs, `verify.trace` also runs the backward and gives each
# intermediate's gradient.

# %%
_, cache = mq.expected_score(alone)
dlogits = mq.expected_score_backward(np.ones(1), cache)  # d score / d outputs
values, gradients = verify.trace(params, tokens, config, dlogits=dlogits)

b, h = f"encoder/block_{config.layers - 1:02d}", 0  # the last block, the first head
D_h = config.head_width
Q, K, V, A = (
    values[f"{b}/attention/{name}"][0, h] for name in ("query", "key", "value", "weights")
)
dSA = gradients[f"{b}/attention/heads"][0, h]  # the model's own gradient, for our head
dA, dV = dSA @ V.T, A.T @ dSA
dS = A * (dA - (dA * A).sum(axis=1, keepdims=True))
dQ, dK = dS @ K / math.sqrt(D_h), dS.T @ Q / math.sqrt(D_h)
print("dA", dA.shape, " dS", dS.shape, " dQ", dQ.shape, " dK", dK.shape, " dV", dV.shape)

# %%
for name, mine in (("weights", dA), ("logits", dS), ("query", dQ), ("key", dK), ("value", dV)):
    theirs = gradients[f"{b}/attention/{name}"][0, h]
    np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12 * max(1, abs(theirs).max()))
assert abs(dS.sum(axis=1)).max() < 1e-10 * max(1, abs(dS).max())  # nothing to gain as a whole

# %% [markdown]
# The same lines in the library, all heads at once. Read the backward beside the forward, from the forward's last
# line up. (`tap` lets a trace look in; `noise` and `drop` are dropout, used in training only.)

# %%
show(library.attention, library.attention_backward)

# %% [markdown]
# ## Who should be listened to?
#
# $\mathrm{d}\mathbf{S}$ in the class token's row answers our question. On the left what it listens to in the
# photograph at its largest scale, on the right what listening there *more* would do: purple raises the score,
# orange lowers it.

# %%
scales = scales_of(*image.shape[:2], config)
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
assert (abs(dS[0]) <= A[0] * np.ptp(dA[0]) + 1e-12).all()  # a small share, a small gradient

# %% [markdown]
# A patch that is hardly listened to hardly matters, so what is dark on the left is pale on the right. Among
# those with a large share, the colour tells what they say: a bright patch on the left may be orange on the
# right. **Much attention is not praise**. Let us try it: raise the one logit that promises most, and compute
# what follows again.


# %%
def score_with(logits):
    """The score when the logits of our head, in the class token's row, are these (N,)."""
    heads = values[f"{b}/attention/heads"][0, :, 0].copy()  # (H, D_h)
    heads[h] = softmax(logits)[0] @ V
    p = params["encoder"][b.split("/")[1]]
    out = np.einsum("hd,hdk->k", heads, p["attention"]["out"]["kernel"])
    out = out + p["attention"]["out"]["bias"]
    before = values[f"{b}/residual1"][0, 0] - values[f"{b}/attention/out"][0, 0]
    z = (before + out)[None, None]  # (1, 1, D): only the class token goes on
    z = z + mlp(norm(z, p["norm2"])[0], p["mlp"], config.conventions)[0]
    y = norm(z, params["encoder"]["norm"])[0][:, 0]
    return mq.expected_score(y @ params["head"]["kernel"] + params["head"]["bias"])[0].score[0]


row = values[f"{b}/attention/logits"][0, h, 0]
best = int(np.argmax(dS[0]))
one = np.eye(len(row))[best]
base = score_with(row)
np.testing.assert_allclose(base, mq.expected_score(alone)[0].score[0], atol=1e-9)
print(f"token {best}, with a share of {A[0, best]:.3f}")
for step in (1e-4, 0.1, 1.0):
    gained, promised = score_with(row + step * one) - base, step * dS[0, best]
    print(f"its logit + {step:6}: the score changes by {gained:+.3e}; promised {promised:+.3e}")
gained = (score_with(row + 1e-4 * one) - score_with(row - 1e-4 * one)) / 2e-4
np.testing.assert_allclose(gained, dS[0, best], rtol=1e-4, atol=1e-7)

# %% [markdown]
# **The answer**: the token whose number is printed. For a small step the promise is kept; for a large one it need
# not be, since the share grows with the logit, and the average that it is compared with as well. And it is an
# answer about *this head of this block*, with everything before it held fixed.
#
# Only the class token's row is read in the last block, so all other rows of $\mathrm{d}\mathbf{S}$ are zero
# there; not so one block earlier, from where other tokens still reach it.

# %%
assert abs(dS[1:]).max() == 0
if config.layers > 1:
    earlier = gradients[f"encoder/block_{config.layers - 2:02d}/attention/logits"][0, h]
    assert abs(earlier[1:]).max() > 0

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on.
# Solutions are in `tutorials/solutions/05b_attention_backward.py`; try first.

# %% [markdown]
# ### Exercise 1: one head with a mask (★, 8 minutes)
#
# From queries, keys and values of one head, and which pairs are allowed, to the head's output (Eq. 8 and 11). A
# row in which nothing is allowed should give zeros.
#
# <details><summary>Hint</summary>
#
# `np.where(allowed, …, -np.inf)` makes the mask; `softmax` of the library (it returns the result and a cache)
# knows about rows of nothing but $-\infty$.
#
# </details>


# %% tags=["exercise-1"]
def my_head(q, k, v, allowed):
    """q, k: (N, D_h);  v: (N, D_v);  allowed: boolean (N, N);  returns (N, D_v)"""
    return ...


# %% tags=["check-1"]
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


exercise(1, my_head, check)

# %% [markdown]
# ### Exercise 2: the backward of the softmax (★, 8 minutes)
#
# `y` is the softmax's output, any shape; rows are the last axis. No loops.
#
# <details><summary>Hint</summary>
#
# It is the formula for $\mathrm{d}S_j$ above. The sum runs over the last axis and must keep it (`keepdims=True`),
# or the subtraction broadcasts along the wrong one; square inputs would not notice.
#
# </details>


# %% tags=["exercise-2"]
def my_softmax_backward(dy, y):
    return ...


# %% tags=["check-2"]
def check(backward):
    x = np.random.default_rng(3).standard_normal((2, 3, 5))
    verify.check_vjp(softmax, backward, [x])


exercise(2, my_softmax_backward, check)

# %% [markdown]
# ### Exercise 3: one head, backward (★★, 12 minutes)
#
# The gradients with respect to `q`, `k`, `v`, given the gradient `dy` with respect to the head's output. `cache`
# holds what the forward below kept.
#
# <details><summary>Hint</summary>
#
# Four lines, from the section "Backward". Check shapes: `dq` must have the shape of `q`. Where does the
# $1/\sqrt{D_h}$ go? It belongs to both `dq` and `dk`, once each.
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
    shapes = (4, 3), (4, 3), (4, 5)
    verify.check_vjp(head_forward, backward, [rng.standard_normal(shape) for shape in shapes])


exercise(3, my_head_backward, check)

# %% [markdown]
# ## Quiz

# %%
quiz("05b")

# %% [markdown]
# ## In practice
#
# - **A mask of $-\infty$** makes NaN in rows that may attend to nothing, unless the softmax looks after them;
#   $-10^{10}$ overflows to $-\infty$ in float16.
# - **Test with padding.** A forgotten mask, or one transposed, shows only where there are empty places. Score
#   photographs of several sizes alone, without padding, and all together, and compare.
# - **The softmax remembers its output**, not its input: that is all its backward needs, and one $N \times N$
#   array fewer to keep.
# - **Fused kernels** such as flash attention do not keep $\mathbf{A}$ at all and compute it again in the
#   backward, block by block.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021,
#   appendix A.2 and A.3.
# - A. Vaswani et al.: *Attention is all you need*, NeurIPS 2017, section 3.2.
# - T. Dao et al.: *FlashAttention: Fast and memory-efficient exact attention with IO-awareness*, NeurIPS 2022.
# - S. Jain, B. C. Wallace: *Attention is not Explanation*, NAACL 2019: gradients against weights.
# - The code: `musiq_ref/model/attention.py`, `musiq_ref/ops/softmax.py`.
