# %% [markdown]
# # 16 · Efficient attention: without $N^2$ numbers
#
# In chapter 05 every token asked every other, so $N$ tokens made $N^2$ weights. A photograph of 12 megapixels has 12,000 tokens:
# 144 million weights for each head of each block. The paper's appendix G says that MUSIQ goes together with two kinds of attention
# that never make them, Performer and Linformer, and leaves it at that. Here you build both. One question
# runs through the chapter: **what does it cost to leave the $N^2$ weights out, and from how many tokens on does it pay?**

# %% [markdown]
# ## What you will learn
#
# - why the order in which three matrices are multiplied decides between $N^2$ and $N$;
# - how random numbers turn $e^{q \cdot k}$ into an inner product, without bias, and how wrong that is with $m$ of them;
# - how a Linformer sums the keys before anybody asks them, and what it gives up for that;
# - the backward of both;
# - what happens to the bundled model's score when its attention is exchanged, and when it is worth it.

# %% [markdown]
# ## What you need
#
# About 60 minutes; attention from chapter 05; the rule for the backward of a product from chapter 03. $N$ counts the class
# token here, as in chapter 05.

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import verify
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.model import performer as favor
from musiq_ref.model.attention import attention
from musiq_ref.model.linformer import compress, linformer
from musiq_ref.model.performer import EPS, features, performer, random_features

# %% [markdown]
# ## Three tokens by hand
#
# Suppose the fit of query $i$ with key $n$ were a plain inner product of two short vectors, $\phi(q_i) \cdot \phi(k_n)$, none of
# whose numbers is negative. Three tokens, vectors of two numbers, and values that are single numbers:

# %%
phi_q = np.array([[1, 0], [1, 1], [0, 2]])  # one row a query
phi_k = np.array([[1, 1], [2, 0], [0, 1]])  # one row a key
v = np.array([6, 3, 0])

# %% [markdown]
# As in chapter 05: first all fits, each row divided by its sum, then the mean of the values. Query 0 fits the keys 1, 2
# and 0; its shares are 1/3, 2/3 and 0; its output is $6/3 + 3 \cdot 2/3 = 4$.

# %%
fits = phi_q @ phi_k.T  # (3, 3): one number for every pair of tokens
print(fits)
shares = fits / fits.sum(axis=1, keepdims=True)
print("outputs:", shares @ v)

# %% [markdown]
# Now put the brackets elsewhere. The output of query $i$ is
#
# $$\begin{aligned} &\frac{\sum_n (\phi(q_i) \cdot \phi(k_n))\, v_n}{\sum_n \phi(q_i) \cdot \phi(k_n)} \\[1ex]
# &= \frac{\phi(q_i) \cdot \left(\sum_n \phi(k_n)\, v_n\right)}{\phi(q_i) \cdot \left(\sum_n \phi(k_n)\right)} \end{aligned}$$
#
# and neither bracket on the right knows which query asks. On paper: $\sum_n \phi(k_n) v_n = 6 \cdot (1, 1) + 3 \cdot (2, 0) = (12, 6)$ and
# $\sum_n \phi(k_n) = (3, 2)$. Query 0 gets $12/3 = 4$, query 1 gets $18/5$, query 2 gets $12/4 = 3$. The nine fits were never made.

# %%
summary, total = phi_k.T @ v, phi_k.sum(axis=0)
print("Σ φ(k)·v =", summary, "  Σ φ(k) =", total)
np.testing.assert_allclose(phi_q @ summary / (phi_q @ total), shares @ v)
np.testing.assert_allclose(shares @ v, [4, 18 / 5, 3])


# %% [markdown]
# That is half of the chapter. With vectors of $m$ numbers and values of width $D_h$, the left order makes $N \times N$ fits, the right
# one an $m \times D_h$ summary that all queries share:


# %%
def boxes(axis, shapes, title):
    """Matrices as boxes side by side: (name, rows, columns), in units of a tenth."""
    x = 0.0
    for name, rows, columns in shapes:
        hatch = "//" if rows == columns else ""
        axis.add_patch(plt.Rectangle((x, -rows / 2), columns, rows, fill=False, hatch=hatch))
        axis.text(x + columns / 2, -rows / 2 - 1, name, ha="center", va="top", fontsize=9)
        x += columns + 6
    axis.set(xlim=(-2, 21), ylim=(-8, 6), title=title, aspect="equal")
    axis.set_axis_off()


figure, axes = plt.subplots(1, 2, figsize=(9, 2.8))
boxes(axes[0], [("weights: N×N", 10, 10), ("V: N×D", 10, 3)], "(φ(Q)·φ(K)ᵀ)·V")
boxes(axes[1], [("φ(Q): N×m", 10, 2), ("φ(K)ᵀ·V: m×D", 2, 3)], "φ(Q)·(φ(K)ᵀ·V)")
plt.show()

# %% [markdown]
# The hatched square is the only thing that grows with $N^2$, and on the right there is none.
#
# What is missing: the fit in attention is no inner product. It is $e^{q \cdot k / \sqrt{D_h}}$. Are there vectors $\phi$ whose inner
# product is an exponential?

# %% [markdown]
# ## An exponential as an inner product
#
# There are, if $m$ may be infinite, and a good guess if it may not. Take a vector $w$ of independent normal numbers. Then
#
# $$\begin{aligned} e^{q \cdot k} &= \mathrm{E}_w\left[\phi_w(q)\,\phi_w(k)\right] \\ \phi_w(x) &= e^{w \cdot x - |x|^2/2} \end{aligned}$$
#
# because $\phi_w(q)\phi_w(k) = e^{w \cdot (q + k)}\, e^{-(|q|^2 + |k|^2)/2}$, the mean of $e^{w \cdot s}$ is $e^{|s|^2/2}$, and $|q + k|^2 = |q|^2 + |k|^2 + 2\, q \cdot k$.
# Draw $m$ such $w$, and $\phi(x) = (\phi_{w_1}(x), \dots, \phi_{w_m}(x))/\sqrt{m}$ has an inner product that is right *on average*. All its numbers
# are positive, so shares stay shares. This is the FAVOR+ of the paper "Rethinking Attention with Performers". Try one pair:

# %%
q, k = np.array([0.8, 0.6]), np.array([0.3, 0.4])  # |q| = 1, |k| = 0.5, q·k = 0.48
w = np.random.default_rng(0).standard_normal((100_000, 2))
products = np.exp(w @ q - 0.5) * np.exp(w @ k - 0.125)
print(f"exactly {math.exp(0.48):.4f}; mean of {len(w):,} products {products.mean():.4f}", end=", ")
print(f"standard deviation of one {products.std():.2f}")
assert abs(products.mean() - math.exp(0.48)) < 5 * products.std() / math.sqrt(len(w))
assert products.std() > math.exp(0.48)

# %% [markdown]
# One product is off by more than what it estimates; the mean of $m$ is off by $1/\sqrt{m}$ of that. How wide one product scatters
# depends on how long $q + k$ is: its variance is $e^{|q + k|^2} - 1$ times the square of what it estimates. Keep that in mind.

# %%
lengths = np.linspace(0.1, 2, 8)
scatter = []
for length in lengths:
    a = np.exp(w @ (length * q) - length**2 / 2)  # of q with itself, both of that length
    scatter.append((a * a).std() / math.exp(length**2))
formula = np.sqrt(np.expm1(4 * lengths**2))  # |q + k|² is 4 length²
figure, axis = plt.subplots(figsize=(6, 3))
axis.semilogy(lengths, scatter, "o-", label=f"measured with {len(w):,} draws")
axis.semilogy(lengths, formula, "--", label="the formula")
axis.set(xlabel="length of query and key", ylabel="scatter / exact value")
axis.set_title("One random feature, for a query and the same key")
axis.legend()
plt.show()
np.testing.assert_allclose(scatter[:3], formula[:3], rtol=0.2)
assert scatter[-1] < formula[-1] / 5

# %% [markdown]
# The verdict: for short vectors a feature is off by a fraction, for long ones by a multiple. And look at the right end, where
# the measurement falls behind the formula: most of the scatter comes from draws so rare and so huge that not even a hundred
# thousand have met them. A mean of a few hundred features misses them as well, and is too small, nearly always. How long the
# vectors are is up to training, not to us.
#
# Two refinements make the Performer's features what they are. The $w$ are drawn **orthogonal**, $D_h$ at a time, so that they do not
# repeat each other, and each gets the length of a normal vector. And before $e^{…}$ a maximum is subtracted, as in every softmax: for a
# query its own, for the keys of a head the one over all of them. Both divide out, but for a small number that is added after them and
# of which we shall hear again.

# %%
show(features)
W = random_features(6, 3, seed=0)  # six draws of width 3: two orthogonal blocks
print((W @ W.T).round(3))
np.testing.assert_allclose(W[0] @ W[1], 0, atol=1e-12)
assert abs(W[0] @ W[3]) > 1e-3

# %% [markdown]
# ## The bundled model's attention, estimated
#
# Now the real thing: queries, keys and values of the last block, as the model computed them for a photograph (`verify.trace`
# gives every intermediate result by name).

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
tokens = mq.batch([drop_padding(mq.tokenize(photograph("coffee", longer_side=160), config))])
values, _ = verify.trace(params, tokens, config)
block = f"encoder/block_{config.layers - 1:02d}/attention"
Q, K, V = (values[f"{block}/{name}"] for name in ("query", "key", "value"))  # (1, H, N, D_h)
H, N, D_h = Q.shape[1:]
print(f"{H} heads, {N} tokens, heads {D_h} wide")

# %%
everybody = np.ones((1, 1, N, 1), bool)  # no padding among these tokens


def estimate(q, k, v, W, eps=EPS):
    """The output of every head with m features: (1, H, N, D_h), three times, to (1, H, N, D_h)."""
    phi_q, phi_k = features(q, W, None, eps)[0], features(k, W, everybody, eps)[0]  # (1, H, N, m)
    total = phi_q @ phi_k.sum(axis=-2)[..., None]  # (1, H, N, 1), the normalisers
    total = total + 2 * eps * (total <= eps)
    return (phi_q @ (phi_k.swapaxes(-1, -2) @ v)) / total


heads, exact = estimate(Q, K, V, random_features(256, D_h, seed=0)), values[f"{block}/heads"]
print("estimated", heads[0, 0, 0, :4], "\nexactly  ", exact[0, 0, 0, :4])
assert heads.shape == exact.shape

# %% [markdown]
# `EPS` ($\varepsilon = 10^{-6}$) is the authors': it is added to every exponential, and a normaliser that is next to nothing gets
# $2\varepsilon$ more, so that nothing is divided by 0. The library computes the same; only then it merges the heads. A Performer has
# no parameters of its own, so the model's are taken as they are:

# %%
as_performer = config.replace(attention="performer", attention_rank=256, attention_seed=0)
there, _ = verify.trace(params, tokens, as_performer)
assert f"{block}/weights" not in there  # nobody made them
first = "encoder/block_00/attention"  # its input is the same in both models
q, k, v = (there[f"{first}/{name}"] for name in ("query", "key", "value"))
np.testing.assert_array_equal(q, values[f"{first}/query"])
mine = estimate(q, k, v, random_features(256, D_h, seed=0))
np.testing.assert_allclose(mine, there[f"{first}/heads"], rtol=1e-9, atol=1e-12)
show(performer)

# %% [markdown]
# ### The error against $m$
#
# Exact attention is there to compare with. Every $m$ is tried with several seeds; with the model's queries and keys, as the
# authors' code would and without $\varepsilon$, and with the same made a quarter as long, which no model asked for but the formula likes.


# %%
def error(q, k, rank, eps=EPS, seeds=6):
    """Root mean square error of the heads' outputs, relative to their own size."""
    weights = np.exp(q @ k.swapaxes(-1, -2) / math.sqrt(D_h))
    wanted = weights @ V / weights.sum(axis=-1, keepdims=True)
    draws = [random_features(rank, D_h, seed) for seed in range(seeds)]
    found = [estimate(q, k, V, W, eps) - wanted for W in draws]
    return np.sqrt(np.mean(np.square(found)) / np.mean(wanted**2))


ranks = [16, 64, 256, 1024, 4096]
long = [error(Q, K, rank) for rank in ranks]
unbiased = [error(Q, K, rank, eps=0) for rank in ranks]
short = [error(Q / 4, K / 4, rank) for rank in ranks]
assert 1.6 < short[0] / short[1] < 2.5  # four times as many features: half the error
assert 1.6 < short[2] / short[3] < 2.5
assert unbiased[-1] < unbiased[0]

# %%
figure, axis = plt.subplots(figsize=(6, 3))
axis.loglog(ranks, long, "o-", label="the model's queries and keys")
axis.loglog(ranks, unbiased, "^-.", label="the same without ε")
axis.loglog(ranks, short, "s--", label="a quarter as long")
axis.loglog(ranks, short[0] * np.sqrt(ranks[0] / np.array(ranks)), ":", label="$1/\\sqrt{m}$")
axis.set(xlabel="random features $m$", ylabel="relative error of a head")
axis.set_title("More features, less error?")
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# The verdict: where vectors are short, four times as many features halve the error, as promised. Those of a trained model are
# long, since it learned to look at some tokens and not at others. With them the promise takes far more features to come true: a
# handful of draws with a huge $e^{w \cdot (q + k)}$ decide, and most draws miss them. And $\varepsilon$, meant to be harmless, is not. Long vectors
# have tiny features, since $e^{-|x|^2/2}$ stays after the maximum of $w \cdot x$ is gone, and the more features there are, the larger is that maximum;
# so more and more normalisers fall below $\varepsilon$, and what comes out is pulled towards 0. How many?

# %%
low = []
for rank in ranks:
    W = random_features(rank, D_h, seed=0)
    total = features(Q, W)[0] @ features(K, W, everybody)[0].sum(axis=-2)[..., None]
    low.append(np.mean(total <= EPS))
    print(f"m = {rank:4}: {low[-1]:4.0%} of the normalisers are not above ε")
assert low[-1] >= low[0]

# %% [markdown]
# A model that is trained as a Performer arranges itself with that. To run one that was not, leave $\varepsilon$ out (`attention_eps=0`).

# %% [markdown]
# ### And the score?
#
# The errors of all blocks add up in one number. Nothing is trained again here.


# %%
def score(config, params=params):
    return float(mq.forward(params, tokens, config)[0][0, 0])


whole = score(config)
print(f"exact attention: {whole:.1f}")
for rank in ranks:
    changes = {"attention": "performer", "attention_rank": rank, "attention_eps": 0}
    tried = [score(config.replace(**changes, attention_seed=seed)) for seed in range(5)]
    print(f"Performer, m = {rank:4}:", "  ".join(f"{s:6.1f}" for s in tried))
assert max(abs(s - whole) for s in tried) > 0.1  # not even the most features bring it back

# %% [markdown]
# Compare each row with the first line, and see whether more features bring the draws nearer. None of them gives the exact score, and each seed
# gives another. A model that is to run as a Performer is therefore trained as one: then it can keep its queries and keys at a length that its
# features bear. `musiq-ref train --ablation attention` does so in small.

# %% [markdown]
# ## Linformer: sum the keys first
#
# The other idea is older than computers: ask a few representatives. With three tokens and two representatives,
# $\mathbf{E} = \begin{pmatrix} 1/2 & 1/2 & 0 \\ 0 & 0 & 1 \end{pmatrix}$ makes the keys $4, 2, 7$ into $3$ and $7$. Queries then choose among two, not three:

# %%
E = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
keys = np.array([4.0, 2.0, 7.0]).reshape(1, 1, 3, 1)  # (B, H, N, D_h)
summed, _ = compress(keys, E, np.ones((1, 1, 3), bool))
assert summed.ravel().tolist() == [3.0, 7.0]

# %% [markdown]
# So $\text{SA} = \text{softmax}(\mathbf{Q}(\mathbf{E}\mathbf{K})^T/\sqrt{D_h})\,\mathbf{F}\mathbf{V}$ with $\mathbf{E}, \mathbf{F}$ of shape $m \times N$: $N \cdot m$ weights instead of $N^2$. $\mathbf{E}$ and
# $\mathbf{F}$ are learned, one pair a block. If $m = N$ and both are the identity, nothing is lost:

# %%
p = params["encoder"][f"block_{config.layers - 1:02d}"]["attention"]
z = values[f"encoder/block_{config.layers - 1:02d}/norm1"]
allowed = np.ones((1, 1, N, N), bool)
usual, _ = attention(z, allowed, p, config.conventions)
identical, _ = linformer(z, allowed, {**p, "E": np.eye(N), "F": np.eye(N)}, config.conventions)
np.testing.assert_allclose(identical, usual, rtol=0, atol=1e-10)
show(linformer)

# %% [markdown]
# The bundled model never learned an $\mathbf{E}$. The obvious one that needs no learning: every row the mean of a run of neighbouring
# tokens. Neighbours in a photograph are alike, so their mean may stand for them. How well, the numbers say:


# %%
def means(rank):
    """E (m, N): row i is the mean of the i-th of m runs of neighbouring tokens."""
    runs = np.arange(N) * rank // N == np.arange(rank)[:, None]
    return runs / runs.sum(axis=1, keepdims=True)


counts = [m for m in (8, 16, 32, 64, 128) if m <= N]
errors = []
for m in counts:
    y, _ = linformer(z, allowed, {**p, "E": means(m), "F": means(m)}, config.conventions)
    errors.append(np.sqrt(np.mean((y - usual) ** 2) / np.mean(usual**2)))
print("relative error:", {m: round(float(e), 3) for m, e in zip(counts, errors, strict=True)})
assert errors[-1] < errors[0]

# %% [markdown]
# What is given up: column $n$ of $\mathbf{E}$ belongs to the $n$-th token, so the **order matters**, and no sequence may be longer than
# $\mathbf{E}$ is wide. Chapter 05 praised attention for needing neither. A Performer keeps both freedoms.

# %%
order = np.random.default_rng(0).permutation(N)
own = {**p, "E": means(16), "F": means(16)}
straight = linformer(z, allowed, own, config.conventions)[0][:, order]
assert not np.allclose(linformer(z[:, order], allowed, own, config.conventions)[0], straight)
straight = performer(z, allowed, p, config.conventions)[0][:, order]
shuffled = performer(z[:, order], allowed, p, config.conventions)[0]
np.testing.assert_allclose(shuffled, straight, rtol=0, atol=1e-8)

# %% [markdown]
# ## Backward
#
# A Performer's head is a fraction, $\text{SA} = \mathbf{T}/\mathbf{t}$ with $\mathbf{T} = \phi(\mathbf{Q})\,\mathbf{S}$, $\mathbf{S} = \phi(\mathbf{K})^T \mathbf{V}$ and $\mathbf{t} = \phi(\mathbf{Q})\,\mathbf{s}$, $\mathbf{s} = \sum_n \phi(k_n)$. From the last line to
# the first, with nothing but the product rule:
#
# - the fraction: $\mathrm{d}\mathbf{T} = \mathrm{d}\text{SA}/\mathbf{t}$ and $\mathrm{d}\mathbf{t} = -\sum \mathrm{d}\text{SA} \cdot \text{SA}/\mathbf{t}$, the sum over the width of the head;
# - the queries' features are used twice: $\mathrm{d}\phi(\mathbf{Q}) = \mathrm{d}\mathbf{T}\,\mathbf{S}^T + \mathrm{d}\mathbf{t}\,\mathbf{s}^T$;
# - the summary: $\mathrm{d}\mathbf{S} = \phi(\mathbf{Q})^T \mathrm{d}\mathbf{T}$ and $\mathrm{d}\mathbf{s} = \phi(\mathbf{Q})^T \mathrm{d}\mathbf{t}$;
# - from there to each key and value: $\mathrm{d}\phi(\mathbf{K}) = \mathbf{V}\,\mathrm{d}\mathbf{S}^T + \mathrm{d}\mathbf{s}^T$, the same row for every token, and $\mathrm{d}\mathbf{V} = \phi(\mathbf{K})\,\mathrm{d}\mathbf{S}$.
#
# Not one of these is $N \times N$ either. Checked against the gradients of the model's score, run as a Performer:

# %%
there, back = verify.trace(params, tokens, as_performer, dlogits=np.ones((1, config.outputs)))
names = ("query_features", "key_features", "value", "heads")
fq, fk, V, SA = (there[f"{first}/{name}"] for name in names)
dSA = back[f"{first}/heads"]
S, s = fk.swapaxes(-1, -2) @ V, fk.sum(axis=-2, keepdims=True)  # (1, H, m, D_h), (1, H, 1, m)
t = fq @ s.swapaxes(-1, -2)  # (1, H, N, 1)
t = t + 2 * EPS * (t <= EPS)
dT, dt = dSA / t, -(dSA * SA).sum(axis=-1, keepdims=True) / t
dS, ds = fq.swapaxes(-1, -2) @ dT, fq.swapaxes(-1, -2) @ dt
mine = {
    "query_features": dT @ S.swapaxes(-1, -2) + dt * s,
    "key_features": V @ dS.swapaxes(-1, -2) + ds.swapaxes(-1, -2),
    "value": fk @ dS,
}
for name, gradient in mine.items():
    theirs = back[f"{first}/{name}"]
    print(f"d{name}: {gradient.shape}")
    np.testing.assert_allclose(gradient, theirs, rtol=1e-7, atol=1e-10 * abs(theirs).max())

# %% [markdown]
# The features' own backward has one surprise. The maximum that is subtracted would cancel between numerator and
# denominator, so one is tempted to treat it as a constant. But a small $\varepsilon = 10^{-6}$ is added to every exponential, so that no
# normaliser is 0, and with it nothing cancels exactly. The library differentiates through the maximum, as the authors' code does.
# Its backward, to read beside `performer` from the last line to the first:

# %%
show(favor.performer_backward)

# %% [markdown]
# ## Does it pay?
#
# Count first. Exact attention takes $2N^2D$ multiply–accumulates a block; either of the others $4NmD$ (and a Performer a little
# more for its normaliser). They are equal at $N = 2m$, whatever the width:

# %%
published = mq.MusiqConfig()  # the published model
sizes = [(224, 224), (480, 640), (768, 1024), (1536, 2048), (3000, 4000)]
table = {}
for kind in ("softmax", "performer"):
    as_kind = published.replace(attention=kind, attention_rank=256)
    for size in sizes:
        counts = mq.complexity(as_kind, size, padded=False)
        parts = counts.macs_by_part
        table[kind, size] = sum(n for part, n in parts.items() if "attention/" in part)
        table[kind, size] -= parts["encoder/attention/projections"]
        table["tokens", size] = 1 + counts.tokens
for size in sizes:
    ratio = table["performer", size] / table["softmax", size]
    print(f"{size}: {table['tokens', size]:6,} tokens, Performer / exact = {ratio:.2f}")
    normaliser = published.heads / (4 * published.width)
    assert (ratio < 1) == (table["tokens", size] > 2 * 256 * (1 + normaliser))

# %% [markdown]
# The verdict, and the answer to the question. Leaving the $N^2$ weights out costs accuracy, which only training can give back, and
# for the few hundred tokens that MUSIQ is trained with (705 at most) it saves a quarter of the products or nothing: the counts are equal at
# $2m$ tokens, 512 for $m = 256$. There is a further reason why MUSIQ never needed it: exact attention need not *keep* its
# weights. Inference makes them a few rows at a time (chapter 13), so its memory grows with $N$ as well. What remains is
# time, for photographs of several megapixels at full size. But counting is not timing, since an exponential costs more than a
# product: `python benchmarks/attention.py` measures on your machine, up to 16,384 tokens.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/16_efficient_attention.py`; try first.

# %% [markdown]
# ### Exercise 1: the other brackets (★, 4 minutes)
#
# From features and values of one head to its output, for sequences so long that $N \times N$ numbers would not fit.
#
# <details><summary>Hint</summary>
#
# The toy, with matrices: `phi_k.T @ v` first. The normaliser needs `keepdims`, or a `[:, None]`.
#
# </details>


# %% tags=["exercise-1"]
def my_outputs(phi_q, phi_k, v):
    """phi_q, phi_k: (N, m);  v: (N, D_h);  returns (N, D_h)"""
    return ...


# %% tags=["check-1"]
def check(outputs):
    rng = np.random.default_rng(6)
    a, b, v = rng.random((5, 2)), rng.random((5, 2)), rng.standard_normal((5, 3))
    wanted = (a @ b.T) @ v / (a @ b.T).sum(axis=1, keepdims=True)
    got = outputs(a, b, v)
    assert np.shape(got) == (5, 3), f"the output has shape {np.shape(got)}, not (5, 3)"
    assert np.allclose(got, wanted), f"row 0 is {got[0].round(3)}; by hand {wanted[0].round(3)}"
    n = 20_000  # N × N numbers would be 3.2 GB
    start = time.perf_counter()
    outputs(rng.random((n, 2)), rng.random((n, 2)), rng.standard_normal((n, 3)))
    assert time.perf_counter() - start < 0.5, f"for {n:,} tokens it takes long: is there an N×N?"


exercise(1, my_outputs, check)

# %% [markdown]
# ### Exercise 2: its backward (★★★, 12 minutes)
#
# The gradients with respect to `phi_q`, `phi_k` and `v` from `dy`, the gradient with respect to the output. `cache` holds what
# the forward below kept.
#
# <details><summary>Hint</summary>
#
# The four points of the section "Backward". Both features get two terms, one through $\mathbf{T}$, one through $\mathbf{t}$. Check shapes:
# `dt` is (N, 1), and what it adds to `dphi_k` is the same row for every token.
#
# </details>


# %%
def forward_of_head(phi_q, phi_k, v):
    summary, total = phi_k.T @ v, phi_q @ phi_k.sum(axis=0)[:, None]  # (m, D_h), (N, 1)
    y = phi_q @ summary / total
    return y, (phi_q, phi_k, v, summary, total, y)


# %% tags=["exercise-2"]
def my_backward(dy, cache):
    phi_q, phi_k, v, summary, total, y = cache
    dphi_q, dphi_k, dv = ..., ..., ...
    return dphi_q, dphi_k, dv


# %% tags=["check-2"]
def check(backward):
    rng = np.random.default_rng(7)
    phi_q, phi_k = 0.5 + rng.random((2, 4, 3))
    verify.check_vjp(forward_of_head, backward, [phi_q, phi_k, rng.standard_normal((4, 5))])


exercise(2, my_backward, check)

# %% [markdown]
# ### Exercise 3: how many features may it cost? (★, 6 minutes)
#
# A Linformer is to take at most a given share of exact attention's multiply–accumulates (the products alone, no projections) for
# sequences of $N$ tokens. What is the largest $m$?
#
# <details><summary>Hint</summary>
#
# $4NmD \le \text{share} \cdot 2N^2D$. $D$ drops out; $m$ is a whole number.
#
# </details>


# %% tags=["exercise-3"]
def my_rank(N, share):
    return ...


# %% tags=["check-3"]
def check(rank):
    for N, share in ((706, 0.5), (706, 0.9), (12_001, 0.1), (58, 1.0)):
        m = rank(N, share)
        assert m == int(m), f"m = {m} for N = {N} is no whole number"
        exact, own, more = 2 * N**2, 4 * N * m, 4 * N * (m + 1)
        assert own <= share * exact, f"with m = {m} it takes {own / exact:.3f}, allowed is {share}"
        assert more > share * exact, f"for N = {N} and {share}, m = {m + 1} would still do"


exercise(3, my_rank, check)

# %% [markdown]
# ## Quiz

# %%
quiz("16")

# %% [markdown]
# ## In practice
#
# - **Linear is not fast.** Read off from which length on a method wins with *your* width, $m$ and hardware. Exact attention is two large
#   products, which every library has polished for years; flash attention keeps it exact and its memory linear.
# - **Redraw or not.** The Performer's authors draw new features again and again during training, so that the model cannot lean on one draw. Here
#   they belong to the configuration (`attention_seed`), and the same file gives the same score.
# - **Signs.** An orthogonal matrix from a QR decomposition is uniformly distributed only if the signs of R's diagonal are put right. Without
#   that the estimate is biased, and no test with a single draw notices.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, appendix G.
# - K. Choromanski et al.: *Rethinking Attention with Performers*, ICLR 2021.
# - S. Wang, B. Z. Li, M. Khabsa, H. Fang, H. Ma: *Linformer: Self-Attention with Linear Complexity*, 2020.
# - F. Mezzadri: *How to generate random matrices from the classical compact groups*, Notices of the AMS 54, 2007.
# - The code: `musiq_ref/model/performer.py`, `musiq_ref/model/linformer.py`, `benchmarks/attention.py`.
