# %% [markdown]
# # 05 · Attention: how one token asks all the others
#
# A patch of out-of-focus table is no flaw in a picture whose cup is sharp. Whether a patch is good can only be
# said by looking at the others, at all scales. Attention is the one place in MUSIQ where tokens meet. The
# question of this chapter:
#
# > **To whom does a patch near the middle of the photograph listen, and what does it hear?**

# %% [markdown]
# ## What you will learn
#
# - to compute queries, keys, values, weights and the output of one head, and to say what each of them is for;
# - why the logits are divided by $\sqrt{D_h}$, shown by what happens without it;
# - why many heads are one matrix product and a reshape, and what the last projection really does;
# - what attention costs, and from how many tokens on its products cost more than its projections.

# %% [markdown]
# ## What you need
#
# About 60 minutes, exercises included; matrix products; the tokens of chapters 01 and 02. Masks and the way back
# are chapter 05b.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, explore, photograph, quiz, show
from musiq_ref import explain, verify
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model import attention as library
from musiq_ref.ops.softmax import softmax

# %% [markdown]
# ## Three tokens
#
# A photograph of three patches: a sharp **cup**, a blurred **table** behind it, a **wall** farther away. Each is
# a token of two numbers: how sharp it is, and how far away.
#
# A blurred patch should ask: *is anything here sharp?* So let each token ask, with a strength that is its
# distance (its **query**). Let each offer its sharpness to be found by (its **key**; the factor $\ln 2$ only
# makes the numbers below round). And let each hand over 12 times its sharpness when it is found (its **value**):

# %%
names = ["cup", "table", "wall"]
z = np.array([[1, 0], [0, 1], [0, 2]], float)  # sharpness, distance
U_q, U_k, U_v = np.array([[0], [1]]), np.array([[math.log(2)], [0]]), np.array([[12], [0]])
Q, K, V = z @ U_q, z @ U_k, z @ U_v
for name, q, k, v in zip(names, Q[:, 0], K[:, 0], V[:, 0], strict=True):
    print(f"{name:6} query {q:.0f}   key {k:.3f}   value {v:.0f}")

# %% [markdown]
# How well does a query fit a key? Multiply them. The table's query, 1, meets the keys $\ln 2, 0, 0$. Then make
# positive numbers of the fits, $e^{\ln 2}, e^0, e^0 = 2, 1, 1$, and shares that sum to 1 (that is a **softmax**):
# ½, ¼, ¼. The table receives the values by these shares: $½·12 + ¼·0 + ¼·0 = 6$. The wall asks twice as loudly:
# $4, 1, 1$, so ⅔, ⅙, ⅙, and it receives 8. The cup asks nothing, so everybody gets the same share of its
# attention, and it receives the plain mean, 4.

# %%
S = Q @ K.T  # (3, 3): who fits whom
A = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True)  # rows sum to 1
received = A @ V
print(A.round(3), received, sep="\n")
np.testing.assert_allclose(A, [[1 / 3, 1 / 3, 1 / 3], [1 / 2, 1 / 4, 1 / 4], [2 / 3, 1 / 6, 1 / 6]])
np.testing.assert_allclose(received[:, 0], [4, 6, 8])

# %%
figure, axis = plt.subplots(figsize=(5.2, 3.2))
axis.imshow(A, vmin=0, vmax=1)
for (i, j), share in np.ndenumerate(A):
    axis.text(j, i, f"{share:.2f}", ha="center", va="center", color="w", fontsize=12)
for i in range(3):
    axis.text(2.75, i, f"receives {received[i, 0]:.0f}", va="center", fontsize=12)
axis.set_xticks(
    range(3), [f"{name}\nvalue {v:.0f}" for name, v in zip(names, V[:, 0], strict=True)]
)
axis.set_yticks(range(3), names)
axis.set(ylabel="who asks", title="shares, and what each receives", xlim=(-0.5, 4.6))
axis.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# Read the picture row by row: a row is one token's attention. Nobody told the table that the cup is sharp. It
# asked, and now carries a 6 that says so. Everything else in this chapter is this, with more numbers, and with
# matrices that are learned:

# %%
explain.attention_diagram(masked=False)

# %% [markdown]
# From bottom to top: three projections of the same tokens; queries and keys meet and become weights; the weights
# mix the values. You have computed every box but one, the division, whose turn comes below.

# %% [markdown]
# ## The tokens of one photograph
#
# We run the bundled model once and keep everything it computed: `verify.trace` gives each intermediate under a
# name. From then on we recompute, and whatever a cell claims is compared with what the model really did. Double
# precision, so that "equal" can mean equal to 12 digits.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, _ = verify.trace(params, tokens, config)

number = f"block_{max(config.layers - 2, 0):02d}"  # the last block but one
block = f"encoder/{number}"  # so the trace names it
p = params["encoder"][number]["attention"]
z = values[f"{block}/norm1"][0]  # what enters the attention: the tokens after a LayerNorm
N, D, H, D_h = len(z), config.width, config.heads, config.head_width
print(f"z: {z.shape} = ({N} tokens, width {D});  {H} heads of width {D_h}")
assert z.shape == (1 + tokens.mask.sum(), D)

# %% [markdown]
# Why not the last block? Of that only the class token's row is read (chapter 06); whatever a patch hears there is heard
# by nobody. In the block before it, every row still counts.
#
# Row 0 is the class token. The others are patches of the same photograph at several sizes. In this chapter $N$
# counts the class token, too (elsewhere, as in the glossary, that is $1 + N$), and $\mathbf{z}$ is what enters
# the attention; chapter 06 says where the LayerNorm before it comes from. One patch will be traced; it is framed
# here, in the smallest scale.

# %%
scales = scales_of(*image.shape[:2], config)
row, column = scales[0].rows // 2, scales[0].columns // 2
traced = row * scales[0].columns + column
explain.multi_scale_patches(image, config, highlight=[traced])

# %% [markdown]
# ## One head
#
# Every token makes three vectors of width $D_h$ out of itself, each with its own learned matrix:
#
# $$\begin{aligned} \mathbf{Q} &= \mathbf{z}\mathbf{U}_q \cr \mathbf{K} &= \mathbf{z}\mathbf{U}_k \cr \mathbf{V} &= \mathbf{z}\mathbf{U}_v \end{aligned} \tag{6}$$
#
# The **query** says what the token looks for, the **key** what it offers to be found by, the **value** what it
# hands over once found. The paper leaves out a bias; the authors' code adds one to each.

# %%
h = 0  # which head


def projected(name):
    """Eq. 6 for one head: (N, D) times (D, D_h), plus a bias."""
    return z @ p[name]["kernel"][:, h] + p[name]["bias"][h]


print("query's kernel, all heads:", p["query"]["kernel"].shape, "= (D, H, D_h)")
Q, K, V = (projected(name) for name in ("query", "key", "value"))
print("Q, K, V:", Q.shape, K.shape, V.shape)
for name, mine in (("query", Q), ("key", K), ("value", V)):
    np.testing.assert_allclose(mine, values[f"{block}/attention/{name}"][0, h], rtol=0, atol=1e-12)

# %% [markdown]
# How well a query fits a key is their dot product: large when they point the same way. Each row of the $N \times
# N$ **logits** holds the fits of one query with all keys; the softmax turns it into shares that sum to 1:
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
# Nothing in these lines asks how many tokens there are or in which order they come: shuffle the tokens, and the
# outputs are shuffled the same way. This is why MUSIQ can take images of any size, and why it must add where a
# patch lies (Eq. 2): attention itself would not notice.

# %%
shuffled = np.random.default_rng(0).permutation(N)
A_shuffled, _ = softmax(Q[shuffled] @ K[shuffled].T / math.sqrt(D_h))
np.testing.assert_allclose(A_shuffled @ V[shuffled], SA[shuffled], rtol=0, atol=1e-12)

# %% [markdown]
# ### One token traced
#
# The framed patch, in plain Python numbers. First the token that it fits best, by the dot product, term by term.
# Then its share of the row: $e^{S_{ij}}$ over the sum of all $e^{S_{ik}}$. The largest logit is subtracted from
# each first; that changes no share, but keeps $e^{…}$ from overflowing.

# %%
i = 1 + traced  # its row: the class token is row 0
j = int(np.argmax(S[i]))
terms = [Q[i, c] * K[j, c] for c in range(D_h)]
print(f"query {i}, key {j}: {terms[0]:+.3f} {terms[1]:+.3f} {terms[2]:+.3f} … = {sum(terms):.3f}")
print(f"divided by √{D_h}: {sum(terms) / math.sqrt(D_h):.4f}")
assert math.isclose(sum(terms) / math.sqrt(D_h), S[i, j], abs_tol=1e-12)

shifted = [math.exp(S[i, k] - S[i, j]) for k in range(N)]
share = shifted[j] / sum(shifted)
print(f"share of token {j}: {share:.4f}; with equal shares it would be {1 / N:.4f}")
assert math.isclose(share, A[i, j], abs_tol=1e-12)


# %% [markdown]
# To whom does it listen? The five largest shares, with their places, and the whole row laid over the photograph.
# The colour bar starts at 0, so twice as far along it is twice the share.


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
spread = math.exp(-(A[i] * np.log(A[i] + 1e-300)).sum())  # as many equal shares would be as spread
print(f"as spread as equal shares of {spread:.0f} of {N} tokens")
explain.over_scales(image, A[i, 1:], config, label="share of its attention", highlight=[traced])

# %% [markdown]
# **The answer to our question**, for one head: it listens to the patches that are bright *in the map*, and
# what it hears is the weighted mean of their values, row $i$ of $\mathbf{A}\mathbf{V}$. The last printed line
# says how choosy it is: near $N$ it listens to everybody alike, as the cup of the toy; near 1 to a single
# token. Why *these* places, only $\mathbf{U}_q$ and $\mathbf{U}_k$ know. They were learned, and nobody gave
# them a meaning beforehand.

# %% [markdown]
# ### Why divide by $\sqrt{D_h}$?
#
# If the entries of a query and a key are independent, with mean 0 and variance 1, their dot product is a sum of
# $D_h$ terms of mean 0 and variance 1, so its variance is $D_h$. Undivided, logits grow with the width of the
# head, and the softmax turns into a maximum: one share near 1, all others near 0. There its gradient nearly
# vanishes, and hardly anything is learned. Divided, the variance is 1 at every width.

# %%
rng = np.random.default_rng(1)
widths = [4, 16, 64, 256, 1024]
largest = {"undivided": [], "divided by √D_h": []}
for width in widths:
    dots = rng.standard_normal((200, width)) @ rng.standard_normal((100, width)).T  # (200, 100)
    largest["undivided"].append(softmax(dots)[0].max(axis=1).mean())
    largest["divided by √D_h"].append(softmax(dots / math.sqrt(width))[0].max(axis=1).mean())

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
# Divided, the line stays flat: a wide head can be as undecided as a narrow one when training begins. Undivided, a
# head of width 1024 has made up its mind before it has learned anything.

# %% [markdown]
# ## Many heads
#
# One head makes one mean. A token may need several: the sharpest place, the same place at another scale, the sky.
# So $H$ heads (the paper calls their number $s$) work side by side, each with its own $\mathbf{U}_q,
# \mathbf{U}_k, \mathbf{U}_v$ of width $D_h = D / H$, and a last matrix $\mathbf{U}_m$ mixes what they found:
#
# $$\text{MSA}(\mathbf{z}) = [\text{SA}_1(\mathbf{z}); \dots; \text{SA}_H(\mathbf{z})]\,\mathbf{U}_m \tag{9}$$
#
# The library does not loop over heads. One product computes all queries, and a reshape deals them out:

# %%
show(library.project, library.merge)

# %% [markdown]
# What "concatenate, then multiply" hides: rows of $\mathbf{U}_m$ belong to heads, so the product is a **sum over
# heads**, each head with its own $D_h \times D$ matrix. Heads do not interact here; each adds its part.

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
labels = ["itself", *map(explain.scale_name, scales)]
assert np.allclose(share_of_scale.sum(axis=0), 1)
if_equal = np.bincount(scale_of_token + 1) / N  # if every token got the same

figure, axis = plt.subplots(figsize=(7.5, 3))
bottom = np.zeros(H + 1)
for s, (label, hatch) in enumerate(zip(labels, ("", "//", "..", "xx", "++"), strict=False)):
    share = [*share_of_scale[s], if_equal[s]]
    axis.bar(range(H + 1), share, bottom=bottom, label=label, hatch=hatch, edgecolor="white")
    bottom += share
axis.set_xticks(range(H + 1), [*range(H), "equal\nshares"])
axis.set(xlabel="head", ylabel="share", title="Where the class token looks in this block")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The last bar is what a head without any preference would show: the native size has most of the tokens, and so
# most of the bar. A head that differs from it has a preference for a scale; heads that differ from one another
# look for different things.
#
# In Jupyter, with `ipywidgets` installed, choose a head and look at its attention over the photograph:


# %%
def draw(head):
    """The class token's attention in one head of this block."""
    label = f"head {head}: share"
    return explain.over_scales(image, weights[head, 0, 1:], config, label=label, share=True)


explore(draw, head=range(H))

# %% [markdown]
# The percentages over the pictures are the bars of head 0; the colours say where within a scale its attention
# lies.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on.
# Solutions are in `tutorials/solutions/05_attention.py`; try first.

# %% [markdown]
# ### Exercise 1: one head (★, 8 minutes)
#
# From tokens `z` (N, D) and three matrices (D, D_h) to what each token receives, (N, D_h): Eq. (6) to (8),
# without biases. No loops.
#
# <details><summary>Hint</summary>
#
# `softmax` of the library works along the last axis and returns the result and a cache: take the first. $D_h$ is
# the number of columns of the matrices.
#
# </details>


# %% tags=["exercise-1"]
def my_head(z, U_q, U_k, U_v):
    return ...


# %% tags=["check-1"]
def check(head):
    rng = np.random.default_rng(4)
    z = rng.standard_normal((5, 6))
    U = rng.standard_normal((3, 6, 4))
    got = head(z, *U)
    assert np.shape(got) == (5, 4), f"the output has shape {np.shape(got)}, not (5, 4)"
    for i in range(5):
        e = [math.exp((z[i] @ U[0]) @ (z[k] @ U[1]) / 2) for k in range(5)]
        wanted = sum(e[k] * (z[k] @ U[2]) for k in range(5)) / sum(e)
        assert np.allclose(got[i], wanted), (
            f"token {i} receives {got[i].round(3)}; by hand it is {wanted.round(3)}"
        )


exercise(1, my_head, check)

# %% [markdown]
# ### Exercise 2: deal out the heads (★★, 8 minutes)
#
# `x` is (N, H·D_h): for each token the numbers of head 0, then those of head 1, and so on. Return (H, N, D_h).
#
# <details><summary>Hint</summary>
#
# A reshape may only split or join axes that lie next to one another in memory; the order of axes is changed by
# `swapaxes`. You need one of each. A single reshape to (H, N, D_h) has the right shape and the wrong numbers.
#
# </details>


# %% tags=["exercise-2"]
def my_heads(x, H):
    return ...


# %% tags=["check-2"]
def check(heads):
    x = np.arange(3 * 8).reshape(3, 8)
    got = heads(x, 2)
    assert np.shape(got) == (2, 3, 4), f"the shape is {np.shape(got)}, not (2, 3, 4)"
    for h, i in np.ndindex(2, 3):
        wanted = x[i, 4 * h : 4 * h + 4]
        assert np.array_equal(got[h, i], wanted), (
            f"head {h} of token {i} is {got[h, i]}, but its numbers in x are {wanted}"
        )


exercise(2, my_heads, check)

# %% [markdown]
# ### Exercise 3: how much does attention cost? (★★, 8 minutes)
#
# How many multiply–accumulates do the two products of Eq. (7) and (8) take for $N$ tokens and width $D$, all
# heads of one block together? And the four projections of Eq. (6) and (9)? From which $N$ on do the products cost
# more than the projections? (The check asks for the first two; the last follows from them.)
#
# <details><summary>Hint</summary>
#
# An $(a, b)$ times $(b, c)$ product takes $abc$ multiply–accumulates. $H$ heads of width $D_h$: $H D_h = D$.
#
# </details>


# %% tags=["exercise-3"]
def my_counts(N, D):
    """Returns (multiply-accumulates of the products, of the projections)."""
    return ..., ...


# %% tags=["check-3"]
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


exercise(3, my_counts, check)

# %% [markdown]
# ## Quiz

# %%
quiz("05")

# %% [markdown]
# ## In practice
#
# - **Memory.** $\mathbf{A}$ has $N^2$ numbers a head, and a photograph of 12 megapixels some 12,000 patches of
#   32×32. Inference therefore never holds $\mathbf{A}$ as a whole: it takes some rows of queries at a time
#   (chapter 13), as do flash attention and, where it can, `torch.nn.functional.scaled_dot_product_attention`.
# - **The reshape.** Reshaping the queries to $(N, D_h, H)$ instead of $(N, H, D_h)$ raises no error and gives a
#   model that is wrong with weights trained elsewhere.
# - **Fused projections.** Many programs store $\mathbf{U}_q, \mathbf{U}_k, \mathbf{U}_v$ as one $(D, 3D)$ matrix;
#   when you convert weights, find out whether it is split by head first or by role first.
# - **Attention is not explanation.** A head's map says where values were gathered, not what they did to the
#   score. Chapter 05b says more with the gradient, and chapter 10 says how far either goes.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021,
#   appendix A.2.
# - A. Vaswani et al.: *Attention is all you need*, NeurIPS 2017, section 3.2.
# - S. Jain, B. C. Wallace: *Attention is not Explanation*, NAACL 2019; S. Wiegreffe, Y. Pinter: *Attention is not
#   not Explanation*, EMNLP 2019.
# - T. Dao et al.: *FlashAttention: Fast and memory-efficient exact attention with IO-awareness*, NeurIPS 2022.
# - The code: `musiq_ref/model/attention.py`, `musiq_ref/ops/softmax.py`.
