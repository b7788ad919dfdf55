# %% [markdown]
# # 13 · Float32, padding, and photographs that do not fit
#
# Two correct programs give 3.417263 and 3.417266. **Is one of them wrong?** A batch gives another last digit than the images
# one by one. A 24-megapixel photograph asks for more memory than you have. This chapter is about the distance between
# the formulas and the machine: how large it is, where it comes from, and how to compute the same thing in less space.

# %% [markdown]
# ## What you will learn
#
# - what rounding does to a sum, on paper with three digits, and what a float32 can hold;
# - two lines of MUSIQ that lose everything if they are written carelessly;
# - how large the rounding errors are at every station of a deep model, forward and backward, and where they are made;
# - what "equal" should mean for two programs;
# - to compute attention of any size in blocks, exactly.

# %% [markdown]
# ## What you need
#
# About 60 minutes; attention and its mask (chapters 05 and 05b); the model as a whole (chapter 06).

# %%
import math
import tracemalloc
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import verify
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model import by_team
from musiq_ref.ops.layer_norm import layer_norm
from musiq_ref.ops.softmax import softmax

# %% [markdown]
# ## A toy: a machine with three digits
#
# A little computer keeps three digits of every number. It can hold 0.400, 8.25 and 100, but neither 100.4 nor 100.8: these become
# 100 and 101. Let it add 100 + 0.4 + 0.4:
#
# - from the left, 100 + 0.4 = 100.4 becomes 100, and once more, 100. **Result: 100.**
# - from the right, 0.4 + 0.4 = 0.8, then 100.8 becomes 101. **Result: 101.**
#
# The true sum is 100.8. Both programs are correct, they add the same numbers, and they differ by 1 %. Now subtract the 100
# again: the results are 0 and 1, the truth is 0.8. The error has not grown, but what is left of the number is so small that the error is most of it.


# %%
def three(x):
    """x as the little machine keeps it."""
    return float(f"{x:.3g}")


left = three(three(100 + 0.4) + 0.4)
right = three(100 + three(0.4 + 0.4))
print(f"from the left {left}, from the right {right}, true 100.8")
assert (left, right) == (100, 101)
assert (three(left - 100), three(right - 100)) == (0, 1)

# %%
held = [*np.arange(98, 100, 0.1), *range(100, 104)]  # all that it can hold from 98 to 103
figure, axis = plt.subplots(figsize=(7, 1.9))
axis.vlines(held, 0, 0.4, color="0.5")
for value, kept in ((100.4, 100), (100.8, 101)):
    axis.plot(value, 0.9, "o", color="C0")
    axis.annotate("", (kept, 0.42), (value, 0.85), arrowprops={"arrowstyle": "->", "color": "C0"})
    axis.text(value, 1.05, f"{value}", ha="center")
axis.set(xlim=(97.8, 103.2), ylim=(0, 1.5), yticks=[], title="All that the machine can hold")
axis.spines["left"].set_visible(False)
plt.show()

# %% [markdown]
# Below 100 the lines are ten times as dense as above. The machine's numbers are spaced in proportion to their size: an error is *relative*, half a unit in the third digit.
# Your computer does the same with more digits.
#
# ## What a float32 is
#
# A float32 number has 24 binary digits and a sign and an exponent: about 7 decimal digits, wherever the point is. Each
# operation returns the number nearest to the true result, so it makes a *relative* error of at most $u = 2^{-24}
# \approx 6 \cdot 10^{-8}$. A float64 has 53 binary digits: $u \approx 10^{-16}$.

# %%
for dtype in ("float16", "float32", "float64"):
    f = np.finfo(dtype)
    after = np.nextafter(f.dtype.type(1000), f.max)
    print(f"{dtype}: u = {f.eps / 2:.1e}, largest {f.max:.3g}, next after 1000: {after}")
u = 2.0**-24
assert np.float32(1) + np.float32(u) == 1  # too small to be seen beside 1

# %% [markdown]
# The error of a single operation is harmless. Two things are not: **many** of them, and **subtracting** nearly equal
# numbers, which removes the digits that are right and keeps those that are not.
#
# Many: as in the toy, a sum of a million numbers depends on the order. NumPy adds in pairs of pairs, whose error grows at
# worst with the logarithm of the count; one after the other, it grows at worst with the count itself.

# %%
x = np.random.default_rng(0).standard_normal(2**20).astype("float32")
true = x.astype("float64").sum()
off = {"one after the other": np.cumsum(x)[-1] - true, "in pairs of pairs": x.sum() - true}
print(", ".join(f"{name}: off by {abs(e):.1e}" for name, e in off.items()))
assert abs(off["in pairs of pairs"]) < abs(off["one after the other"])

# %% [markdown]
# ## Two careless lines
#
# **A variance.** $\sigma^2 = \overline{x^2} - \bar x^2$ is right on paper and needs only one pass. If the mean is a
# hundred times the standard deviation, it subtracts two numbers that agree in their first four digits. The library subtracts the
# mean first, and squares what is left.

# %%
show(layer_norm)

# %%
means = 10.0 ** np.arange(0, 4.5, 0.5)
errors = {"mean of squares − square of mean": [], "mean of squared deviations": []}
for mean in means:
    x = (mean + np.random.default_rng(1).standard_normal(384)).astype("float32")
    exact = x.astype("float64").var()
    found = (x * x).mean() - x.mean() ** 2, ((x - x.mean()) ** 2).mean()
    for name, value in zip(errors, found, strict=True):
        errors[name].append(abs(float(value) / exact - 1))

# %%
figure, axis = plt.subplots(figsize=(6, 3))
for (name, line), style in zip(errors.items(), ("o-", "s--"), strict=True):
    axis.loglog(means, np.maximum(line, 1e-9), style, label=name)
axis.axhline(u, color="0.6", linewidth=0.8)
axis.text(1500, 1.3 * u, "u", color="0.4")
axis.set(xlabel="mean / standard deviation", ylabel="relative error of the variance")
axis.set_title("One token of width 384, in float32")
axis.legend()
plt.show()
assert max(errors["mean of squares − square of mean"]) > 0.1
assert max(errors["mean of squared deviations"]) < 1e-5

# %% [markdown]
# The careless line loses two digits for each factor of ten, until nothing is left; the careful one stays near $u$.
#
# **A softmax.** $e^{89}$ is larger than the largest float32. Subtracting the largest logit of the row from all changes
# no share, and leaves nothing above $e^0 = 1$:

# %%
logits = np.array([90.0, 89.0, 10.0], "float32")
with np.errstate(all="ignore"):
    careless = np.exp(logits) / np.exp(logits).sum()
print("careless:", careless, " library:", softmax(logits)[0])
assert np.isnan(careless).any()
np.testing.assert_allclose(softmax(logits)[0], softmax(logits.astype("float64"))[0], rtol=1e-6)

# %% [markdown]
# ## Errors in a deep model
#
# 14 blocks, thousands of operations one after the other: do the errors pile up? We measure. The same weights (made by a
# formula; the depth is the published model's, the width is smaller) and the same pixels, once in float32 and once in
# float64, forward and backward. The float64 run is so much more exact that it may stand for the truth.

# %%
sizes = {"width": 96, "mlp_width": 192, "heads": 4, "patch_size": 16, "longer_sides": (64,)}
deep = mq.MusiqConfig(layers=14, **sizes)
image = photograph("coffee", longer_side=160)
tokens = mq.batch([drop_padding(mq.tokenize(image, deep))])  # float32 pixels, for both
weights = {d: verify.deterministic_params(deep, seed=1, dtype=d) for d in ("float32", "float64")}
runs = {d: verify.trace(weights[d], tokens, deep, np.ones((1, 1))) for d in weights}


def error(mine, truth):
    """Length of the difference, relative to the length of the truth."""
    return np.linalg.norm(mine.astype("float64") - truth) / np.linalg.norm(truth)


# %% [markdown]
# And for comparison: what if the computer were perfect, but the pixels not? We change each pixel by a random part of
# its last float32 digit, and compute in float64.

# %%
wobble = 1 + u * np.random.default_rng(2).uniform(-1, 1, tokens.patches.shape)
wobbled = tokens._replace(patches=tokens.patches.astype("float64") * wobble)
perfect, _ = verify.trace(weights["float64"], wobbled, deep)

parts = ("conv_root", "gn_root", "pool", "conv1", "conv2", "conv3", "output")
stations = ["patches", *(f"stem/{part}" for part in parts), "patch_embedding", "encoder/input"]
stations += [f"encoder/block_{q:02d}/output" for q in range(deep.layers)]
(v32, g32), (v64, g64) = runs["float32"], runs["float64"]
lines = {
    "forward, float32": [error(v32[s], v64[s]) for s in stations],
    "backward, float32": [error(g32[s], g64[s]) for s in stations],
    "forward, perfect computer, pixels rounded": [error(perfect[s], v64[s]) for s in stations],
}

# %%
figure, axis = plt.subplots(figsize=(9, 3.6))
for (name, line), style in zip(lines.items(), ("o-", "s--", "^:"), strict=True):
    axis.semilogy([e or np.nan for e in line], style, label=name)
axis.axhline(u, color="0.6", linewidth=0.8)
axis.text(len(stations) - 0.6, u, "u", color="0.4", va="center")
stem = [s.removeprefix("stem/") for s in stations[: -deep.layers]]
axis.set_xticks(range(len(stations)), [*stem, *range(deep.layers)], rotation=60, ha="right")
axis.set(ylabel="relative error", ylim=(4e-9, 3e-6), title="Where the digits are lost")
axis.set_xlabel("stem and embedding, then the blocks by number")
axis.legend(loc="lower right", fontsize=8)
plt.show()

# %% [markdown]
# The surprise: they do **not** pile up. Nearly all is lost in the stem, and from then on, through 14 blocks, the error stays where it
# is, about ten times $u$. Each block makes errors of its own, but it adds its result to a stream that carries much more, and a mean over many
# tokens has smaller errors than its terms. Backward, from right to left, they grow from block to block to about twenty $u$, and in the stem no further.
#
# The third line tells apart two things that are easily confused: how carefully we compute, and how touchy the
# *function* is. MUSIQ's score is not touchy: what a perfect computer gets wrong because of the pixels goes out as it
# came in, at about $u$. The ten $u$ are made by our own operations.

# %%
encoder = slice(stations.index("encoder/input"), None)
forward = np.array(lines["forward, float32"])
print(f"into the encoder: {forward[encoder][0] / u:.0f} u;  out of it: {forward[-1] / u:.0f} u")
assert forward[encoder].max() < 3 * forward[encoder][0]
assert u < forward[-1] < 100 * u
assert max(lines["forward, perfect computer, pixels rounded"]) < forward[-1]
assert 10 * u < max(lines["backward, float32"]) < 40 * u

# %% [markdown]
# Why the stem? Its kernels have mean 0 (weight standardisation, chapter 04): on a smooth piece of a photograph the products of weights and pixels are large, and their sum is
# small. That is the toy's subtraction. How many times larger are the terms, taken without their signs, than the sum?

# %%
kernel = weights["float64"]["stem"]["conv_root"]["kernel"]  # (7, 7, 3, 64)
windows = tokens.patches[0, :, 4:11, 4:11].astype("float64")  # one window of each patch
cancellation = {}
for name, k in {"mean 0": kernel - kernel.mean(axis=(0, 1, 2)), "one sign": abs(kernel)}.items():
    total = np.einsum("nijc,ijcf->nf", windows, k)
    terms = np.einsum("nijc,ijcf->nf", abs(windows), abs(k))
    cancellation[name] = np.median(terms / abs(total))
    print(f"kernels of {name}: terms {cancellation[name]:.1f} times as large as the sum")
assert cancellation["mean 0"] > 5 * cancellation["one sign"]

# %% [markdown]
# ## What "equal" should mean
#
# `mq.predict` and `mq.forward` compute the same, in different order: `predict` takes patches and queries in blocks. In
# float32 both are off in the last digits, and neither is the truth. How large is such a difference compared with a real
# one? Take the other GELU, which pyiqa uses, as an example of a real difference.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
config = checkpoint.config
double, single = checkpoint.params, mq.load_checkpoint("demo", dtype="float32").params
photo = drop_padding(mq.tokenize(photograph("cat", longer_side=192), config))


def logit(params, conventions=config.conventions, run=mq.predict):
    """The first output."""
    return float(np.ravel(run(params, photo, config.replace(conventions=conventions)))[0])


def batched(params, tokens, config):
    """`forward` of a batch of one."""
    return mq.forward(params, mq.batch([tokens]), config)[0]


other = "erf" if config.conventions.gelu == "tanh" else "tanh"
truth = logit(double)
differences = {
    "float64, forward": logit(double, run=batched) - truth,
    "float32, predict": logit(single) - truth,
    "float32, forward": logit(single, run=batched) - truth,
    f"float64, GELU {other}": logit(double, replace(config.conventions, gelu=other)) - truth,
}
print(f"float64, predict    {truth:.9f}")
for name, difference in differences.items():
    print(f"{name:19} {difference:+.1e}")
assert abs(differences["float64, forward"]) < 1e-9 * max(1, abs(truth))
assert abs(differences["float32, predict"]) < abs(differences[f"float64, GELU {other}"])

# %%
apart = (3.417266 - 3.417263) / 3.417263
print(f"3.417263 and 3.417266 are {apart / u:.0f} u apart")
assert 10 < apart / u < 20

# %% [markdown]
# So compare programs in **float64**, where a mistake of one part in a million stands out from rounding by nine orders
# of magnitude. Where you cannot, measure: how far is each from the float64 result? A float32 program is right if it is
# not much farther away than another float32 program. A fixed tolerance, chosen until the test passes, tests nothing.
#
# That answers the question of the beginning. 3.417263 and 3.417266 differ by about fifteen $u$, as much as the deep
# model's stages from the truth. Neither need be wrong. If they still differ there in float64, one of them is.

# %% [markdown]
# ## Padding changes the last digit
#
# From about $-104$ on $e^x$ is exactly 0 in float32, so a masked token's share is, too (chapter 05b); 0 times a value is
# 0, and adding 0 changes nothing. So all of an image's numbers must be the
# same to the bit, with padding or without? Not quite: a longer row is summed in other groups, and a larger matrix is
# multiplied in other blocks. The numbers added are the same, the *order* is not. Look at the class token, from which the score is read:

# %%
more = photo._replace(patches=np.concatenate([photo.patches, np.zeros_like(photo.patches)]))
for name in ("hash_index", "scale_index", "mask"):
    more = more._replace(**{name: np.pad(getattr(photo, name), (0, len(photo.mask)))})
assert more.mask.sum() == len(photo.mask)
for dtype, params in (("float32", single), ("float64", double)):
    traced = (verify.trace(params, mq.batch([tokens]), config) for tokens in (photo, more))
    alone, padded = (values["head/class_token"] for values, _ in traced)
    changed, off = np.mean(padded != alone), error(padded, alone) / (np.finfo(dtype).eps / 2)
    print(f"{dtype}: as much padding changes {changed:.0%} of the class token, by {off:.1f} u")
    assert off < 1e3  # 0 where a machine happens to add in the same order

# %% [markdown]
# Hence the rule of chapter 05b, in full: *padding does not change the score, but for rounding*. (A score of few digits may
# not show it.) `mq.score` does not rely on it: it drops padding before it begins.

# %% [markdown]
# ## Photographs that do not fit
#
# $\mathbf{A}$ has $H N^2$ numbers in each block. For a forward that keeps all of them, as `mq.forward` does, times $L$. The
# published model:

# %%
published = mq.MusiqConfig.preset("small")
megapixels = np.array([0.3, 1, 3, 12, 24, 48])
counts = []
for mp in megapixels:
    height = round(math.sqrt(mp * 1e6 * 3 / 4))
    counts.append(1 + sum(s.kept for s in scales_of(height, height * 4 // 3, published)))
N = np.array(counts, float)
H, L = published.heads, published.layers
memory = {
    "all blocks, kept": 4 * L * H * N**2,
    "one block, all heads": 4 * H * N**2,
    "one head": 4 * N**2,
    "some rows of one head": 4 * N * np.minimum(N, by_team.ROWS),
}

# %%
figure, axis = plt.subplots(figsize=(7, 3.3))
for (name, line), style in zip(memory.items(), ("o-", "s--", "^-.", "*:"), strict=True):
    axis.loglog(megapixels, line / 2**30, style, label=name)
axis.axhline(16, color="0.6", linewidth=0.8)
axis.text(megapixels[0], 20, "16 GiB", color="0.4")
axis.set(xlabel="megapixels", ylabel="GiB", title="Weights of attention, published model, float32")
axis.set_xticks(megapixels, [f"{mp:g}" for mp in megapixels])
axis.set_xticks([], minor=True)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
assert memory["all blocks, kept"][3] > 16 * 2**30 > memory["one head"][3]

# %% [markdown]
# All lines but the lowest rise with the *square* of the number of pixels. Kept for all blocks, they pass 16 GiB before the photograph has twelve megapixels. A few rows of one head
# fit anywhere.

# %% [markdown]
# ### In blocks of queries
#
# A row of $\mathbf{A}$ belongs to one query, and its softmax needs nothing of other rows. So take some queries at a
# time: logits, shares, weighted means, and forget the shares. No approximation, the same operations. The library does
# so when it scores:

# %%
show(by_team.attend)


# %%
def whole(q, k, v):
    """Eq. (7) and (8) at once."""
    return softmax(q @ k.T / math.sqrt(q.shape[1]))[0] @ v


def in_rows(q, k, v, rows):
    """The same, some queries at a time."""
    return np.concatenate([whole(q[i : i + rows], k, v) for i in range(0, len(q), rows)])


q, k, v = np.random.default_rng(3).standard_normal((3, 1500, 32)).astype("float32")
peaks = {}
for name, run in {"whole": whole, "in rows": lambda q, k, v: in_rows(q, k, v, 100)}.items():
    tracemalloc.start()
    result = run(q, k, v)
    peaks[name] = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"{name:8} {peaks[name] / 2**20:5.1f} MiB at most")
np.testing.assert_allclose(result, whole(q, k, v), atol=1e-6)
assert peaks["in rows"] < 0.2 * peaks["whole"]

# %% [markdown]
# ### In blocks of keys, too
#
# On a GPU even one row may be too long for the fast memory. Can a softmax be computed without seeing its whole row?
# Yes, if one is ready to correct oneself. Go through the keys in blocks, and keep three things for each query: the
# largest logit so far, $m$; the sum $\ell = \sum_j e^{s_j - m}$; and the sum $\mathbf{o} = \sum_j e^{s_j -
# m}\,\mathbf{v}_j$. A new block brings logits $s_j$ and perhaps a larger maximum $m'$. What was summed was relative to
# $m$; it should be relative to $m'$: multiply it by $e^{m - m'}$.
#
# $$\begin{aligned} m' &= \max(m, \max_j s_j) \\ \ell' &= \ell\,e^{m-m'} + \sum_j e^{s_j-m'} \\ \mathbf{o}' &= \mathbf{o}\,e^{m-m'} + \sum_j e^{s_j-m'}\mathbf{v}_j \end{aligned}$$
#
# In the end $\mathbf{o}/\ell$ is the weighted mean. Begin with $m = -\infty$, $\ell = 0$, $\mathbf{o} = 0$. This is the
# heart of FlashAttention. One row, by hand, with the keys in the least convenient order, the best fit last:

# %%
order = np.argsort(q[0] @ k.T)
s = q[0] @ k[order].T / math.sqrt(32)  # logits of one query, (1500,)
m, l, o = -math.inf, 0.0, np.zeros(32)
for j in range(0, len(s), 500):
    block, values = s[j : j + 500], v[order[j : j + 500]]
    larger = max(m, block.max())
    e = np.exp(block - larger)
    correction = math.exp(m - larger)
    l, o, m = l * correction + e.sum(), o * correction + e @ values, larger
    print(f"after {j + 500} keys: m = {m:.3f}, l = {l:.2f}, corrected by {correction:.3f}")
np.testing.assert_allclose(o / l, result[0], atol=1e-6)

# %% [markdown]
# And backward? Training needs the shares again: they are kept, or computed again from $\mathbf{Q}$ and $\mathbf{K}$, block by
# block, where $m$ and $\ell$ say at once what each share was. The first costs memory, the second time
# (`mq.forward(…, recompute="attention")`, as training on a processor does; `recompute=True` is chapter 07's).

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/13_numbers.py`; try first.

# %% [markdown]
# ### Exercise 1: a loss that does not overflow (★, 5 minutes)
#
# Training on distributions needs $\log \text{softmax}$, row by row: $y_i = s_i - \log \sum_j e^{s_j}$. Write it for
# float32 logits (n, C) of any size, even 1000 or −1000.
#
# <details><summary>Hint</summary>
#
# Subtract the row's maximum first: $y$ does not change. Do not take the logarithm of a softmax: a share that rounds to
# 0 would give $-\infty$.
#
# </details>


# %% tags=["exercise-1"]
def my_log_softmax(s):
    return ...


# %% tags=["check-1"]
def check(log_softmax):
    s = np.array([[1.0, 2, 3], [1000, 999, -1000], [-1000, -1001, -999]], "float32")
    with np.errstate(all="ignore"):
        got = log_softmax(s)
    assert np.shape(got) == s.shape, f"the shape is {np.shape(got)}, not {s.shape}"
    assert np.isfinite(got).all(), f"not all of it is finite: {got}"
    wanted = s - np.logaddexp.reduce(s.astype("float64"), axis=1, keepdims=True)
    assert np.allclose(got, wanted, rtol=1e-5), f"{got} should be {wanted.round(4)}"


exercise(1, my_log_softmax, check)

# %% [markdown]
# ### Exercise 2: attention in blocks of keys (★★★, 10 minutes)
#
# All queries at once, `size` keys at a time, never an array of more than `len(q)` × `size` numbers. Return the head's
# output, (N, D_v).
#
# <details><summary>Hint</summary>
#
# The loop above with an axis more: $m$ and $\ell$ are (N, 1), $\mathbf{o}$ is (N, D_v), maxima and sums run over the
# last axis with `keepdims=True`. Start $m$ with `np.full((len(q), 1), -np.inf)`.
#
# </details>


# %% tags=["exercise-2"]
def my_attention(q, k, v, size):
    return ...


# %% tags=["check-2"]
def check(attention):
    rng = np.random.default_rng(4)
    q, k, v = (rng.standard_normal(shape) for shape in ((5, 3), (11, 3), (11, 2)))
    k *= 4
    for size in (11, 4, 1):
        got, wanted = attention(q, k, v, size), whole(q, k, v)
        assert np.shape(got) == wanted.shape, f"the shape is {np.shape(got)}, not {wanted.shape}"
        off = abs(got - wanted).max()
        assert off < 1e-12, f"with {size} keys at a time the largest difference is {off:.1e}"
    assert np.isfinite(attention(100 * q, k, v, 4)).all(), "large logits overflow"


exercise(2, my_attention, check)

# %% [markdown]
# ### Exercise 3: a mean and a variance in two parts (★★, 6 minutes)
#
# A row is too long; two workers have each seen a part of it and report the count $n$, the mean $\mu$, and $Q = \sum
# (x-\mu)^2$ of what they saw. Merge the reports into one, without squaring anything large.
#
# <details><summary>Hint</summary>
#
# With $\delta = \mu_b - \mu_a$: the mean moves from $\mu_a$ by a part of $\delta$. All of part a then lies off the
# common mean by the same amount, and all of part b by another; the two amounts squared, times the counts, come to
# $\delta^2\, n_a n_b / (n_a + n_b)$.
#
# </details>


# %% tags=["exercise-3"]
def my_merge(n_a, mean_a, Q_a, n_b, mean_b, Q_b):
    n, mean, Q = ..., ..., ...
    return n, mean, Q


# %% tags=["check-3"]
def check(merge):
    x = (3000 + np.random.default_rng(5).standard_normal(500)).astype("float32")
    for cut in (100, 250):
        parts = x[:cut], x[cut:] + 2
        a, b = ((len(part), part.mean(), ((part - part.mean()) ** 2).sum()) for part in parts)
        n, mean, Q = merge(*a, *b)
        together = np.concatenate(parts).astype("float64")
        assert n == 500, f"the count is {n}, not 500"
        assert abs(mean - together.mean()) < 1e-3, f"the mean is {mean}, not {together.mean():.4f}"
        wanted = together.var()
        assert abs(Q / n / wanted - 1) < 1e-3, f"Q/n is {Q / n:.4f}, the variance {wanted:.4f}"


exercise(3, my_merge, check)

# %% [markdown]
# ## Quiz

# %%
quiz("13")

# %% [markdown]
# ## In practice
#
# - **Which precision?** Scoring in float32 loses nothing that you could notice: the errors are far below the difference
#   between two programs, let alone two photographs. Half precision is another matter: measure it on your own images
#   before you trust it.
# - **"Deterministic"** means the same order of additions. Another batch size, another number of threads, another BLAS,
#   another GPU give another last digit. Compare with a tolerance you have measured.
# - **Do not resize because of memory.** Scoring in blocks takes whole photographs. A resized photograph is another photograph (chapter 09b).
# - **float16 and bfloat16.** float16 overflows at 65,504: undivided logits and sums of squares get there. bfloat16 does
#   not, but has 8 binary digits: keep norms and softmax in float32.

# %% [markdown]
# ## References
#
# - N. J. Higham: *Accuracy and Stability of Numerical Algorithms*, 2nd edition, SIAM 2002; chapters 1 to 4.
# - T. F. Chan, G. H. Golub, R. J. LeVeque: *Algorithms for computing the sample variance*, The American Statistician
#   37, 1983: exercise 3.
# - M. Milakov, N. Gimelshein: *Online normalizer calculation for softmax*, 2018.
# - M. N. Rabe, C. Staats: *Self-attention does not need O(n²) memory*, 2021.
# - T. Dao et al.: *FlashAttention: Fast and memory-efficient exact attention with IO-awareness*, NeurIPS 2022.
# - The code: `musiq_ref/model/by_team.py`, `musiq_ref/model/recompute.py`, `musiq_ref/ops/softmax.py`.
