# %% [markdown]
# # 07 · The backward pass: from the score to the tokens
#
# The forward answers "how good is this photograph?". The backward answers, in one sweep, a great many questions
# at once: what would happen to the score if *this* weight, *this* token were a little larger? Here you walk back
# from the score through the encoder, by hand, and compare each station with the model's own gradient. The
# question of this chapter:
#
# > **The score is read from one row, the class token's. How does every patch come to have a say in it?**
#
# Chapter 07b goes on from the tokens to the pixels.

# %% [markdown]
# ## What you will learn
#
# - why gradients are computed from the last line to the first, and what each line must remember for that;
# - how the gradient leaves a single row and reaches all tokens of all scales;
# - what a residual path does to a gradient, and what a LayerNorm does to that of a short token;
# - which parameter of every block has no gradient at all.

# %% [markdown]
# ## What you need
#
# About 55 minutes, exercises included; the backward of linear, GELU and LayerNorm (chapter 03) and of attention
# (05b). As there, $\mathrm{d}x$ means the gradient of the score with respect to $x$: it has the shape of $x$.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import explain, verify
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.model.attention import allowed_pairs
from musiq_ref.model.encoder import block, block_backward
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.layer_norm import layer_norm, layer_norm_backward
from musiq_ref.ops.linear import linear, linear_backward

# %% [markdown]
# ## Three tokens, there and back
#
# A class token and two patches, each a single number: 0, 4 and 8. One block without norms:
#
# - attention: the class token listens with the shares ½, ¼, ¼ (fixed, here) and hears $½·0 + ¼·4 + ¼·8 = 3$;
#   added: $0 + 3 = 3$;
# - an "MLP" that answers $x^2/2$, so $4.5$; added: $3 + 4.5 = 7.5$. That is the score.
#
# Now back, asking at every station by how much the score changes per unit of this number.
#
# - The score with respect to itself: **1**.
# - The 3 acts in two ways: as it is, 1; and through $x^2/2$, whose slope at 3 is 3. Together $1 + 3 = $ **4**.
# - The patch 4 acts through its share only: $¼ · 4 = $ **1**. So does the patch 8: **1**.
# - The class token's 0 acts as it is, 4, and through its own share, $½ · 4 = 2$: together **6**.


# %%
def toy(class_token, cup, spoon):
    """The score of three numbers."""
    heard = class_token / 2 + cup / 4 + spoon / 4
    middle = class_token + heard
    return middle + middle**2 / 2


h, z = 1e-6, np.array([0.0, 4.0, 8.0])
tried = [(toy(*(z + h * one)) - toy(*(z - h * one))) / (2 * h) for one in np.eye(3)]
print("score", toy(*z), " gradients by trying", np.round(tried, 6))
assert toy(*z) == 7.5
np.testing.assert_allclose(tried, [6, 1, 1], atol=1e-8)

# %%
boxes = {  # name: (x, y, "value | gradient")
    "class": (0, 2, "0 | 6"),
    "cup": (0, 1, "4 | 1"),
    "spoon": (0, 0, "8 | 1"),
    "sum": (2, 2, "3 | 4"),
    "square": (3.3, 1, "4.5 | 1"),
    "score": (4.6, 2, "7.5 | 1"),
}
arrows = [("class", "sum", "× (1 + ½)"), ("cup", "sum", "× ¼"), ("spoon", "sum", "× ¼")]
arrows += [("sum", "score", "× 1"), ("sum", "square", "slope 3"), ("square", "score", "× 1")]

figure, axis = plt.subplots(figsize=(7.5, 2.8))
for start, end, label in arrows:
    (x0, y0, _), (x1, y1, _) = boxes[start], boxes[end]
    style = {"arrowstyle": "->", "shrinkA": 32, "shrinkB": 32}
    axis.annotate("", (x1, y1), (x0, y0), arrowprops=style)
    blank = {"color": "white", "pad": 1}
    axis.text((x0 + x1) / 2, (y0 + y1) / 2, label, ha="center", va="center", bbox=blank)
for name, (x, y, text) in boxes.items():
    frame = {"boxstyle": "round", "facecolor": "white"}
    axis.text(x, y, f"{name}\n{text}", ha="center", va="center", bbox=frame)
axis.set(xlim=(-0.6, 5.2), ylim=(-0.5, 2.5), title="value | gradient")
axis.set_axis_off()
plt.show()

# %% [markdown]
# In each box, value | gradient. Values were computed from left to right, gradients from right to left, and each
# only from its neighbours on the right: what arrives on an arrow, times the number at the arrow, and **a sum
# where several arrows leave**. Nothing else happens in this chapter, nor in any program that trains a network.

# %% [markdown]
# ## Last line first
#
# MUSIQ is a chain of functions, $\text{score} = f_n(\dots f_2(f_1(\text{pixels})))$. By the chain rule its
# derivative is a product of the derivatives of the links. What matters is where we begin to multiply. The score
# is **one** number. Beginning there, what we carry is never larger than one gradient per intermediate, and each
# link only has to turn $\mathrm{d}y$ (a *cotangent*) into $\mathrm{d}x$ (a *vector–Jacobian product*, VJP, hence
# `check_vjp`). Beginning at the pixels we would have to carry one column for each of them.
#
# So every function of this library comes as a pair. `forward` returns its result and a **cache**, what it must
# remember; `backward` takes $\mathrm{d}y$ and the cache and returns $\mathrm{d}x$ and the gradients of its
# parameters. The whole model is such a pair, too. Read this from its first line to its last, and you have read
# the forward from its last line to its first. (`tap` only looks on; `within` puts a part's name before the names
# it sees; `parts` holds the functions of stem and block, which can be had in a memory-saving form.)

# %%
show(mq.backward)

# %% [markdown]
# We run the pair once. A **tap** sees every intermediate as it goes by; ours keeps them, those of the forward in
# `values`, and the gradients with respect to them in `gradients`, under the same names. In double precision, so
# that "equal" can mean equal to 9 digits.

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
values, gradients = {}, {}

logits, kept = mq.forward(params, tokens, config, tap=lambda name, x: values.setdefault(name, x))
expected, cache = mq.expected_score(logits)
dlogits = mq.expected_score_backward(np.ones(1), cache)
dmodel = mq.backward(dlogits, kept, tap=lambda name, dx: gradients.setdefault(name, dx))

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
# With one output the score *is* the logit and $\mathrm{d}\text{logit} = 1$. With $C$ outputs the model predicts
# how many people would give each mark: $\mathbf{p} = \text{softmax}(\text{logits})$, and the score is the mean
# mark $s = \sum_k k\,p_k$. From $\mathrm{d}p_k = k$ and the softmax's backward of chapter 05b,
# $\mathrm{d}\text{logit}_k = p_k\,(\mathrm{d}p_k - \sum_j \mathrm{d}p_j\,p_j)$:
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
# Half a block is $y = z + f(z)$ (chapter 06), $f$ being LayerNorm followed by the MLP, or by the attention. Here
# $z$ is used **twice**: as it is, and inside $f$. Change it a little, and both uses change the score. So
#
# $$\mathrm{d}z = \mathrm{d}y + f^{\leftarrow}(\mathrm{d}y)$$
#
# where $f^{\leftarrow}$ is the backward of $f$. The rule holds everywhere: *what is used several times gets the
# sum of what comes back from each use*. In the library, from the last line of the block to its first (`drop` and
# `drop_branch` belong to dropout, which is off here: they pass on what they get):

# %%
show(block_backward)

# %% [markdown]
# The second half of the last block by hand: sum, `fc2`, GELU, `fc1`, LayerNorm, and the sum again. (`mlp/gelu` is
# the name of the GELU's output, `mlp/fc1` that of its input, which is all its backward must remember.)

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
# The first half is the same with attention in place of the MLP; its backward is chapter 05b. All blocks are
# alike, so a loop does the rest, beginning with the `dz` of station 2. Look at what it needs: of each block only
# its **input**. The cache is computed again by running the block's forward, just before its backward. That is
# slower by one forward, and it is how one trains with little memory (`mq.forward(…, recompute=True)`).

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
# Where did the gradient go on its way? Read the picture from right to left:

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
# **The answer to our question.** At the right end, behind the last block, the gradient has a single row: only the
# class token's star stands at the line. The attention of the last block hands it to everyone whom the class token
# listened to, by their shares, as in the toy (and through their keys, since in the model the shares are not
# fixed). One block earlier every token of every scale has a part in the score. That the lines lie at different
# heights says how much *one* token of a scale counts. It does not say how much the scale counts: a scale of many
# tokens may have a large say with a little from each.
#
# ### What the sums and the norms do to it
#
# However weak the branches are, the first summand, $\mathrm{d}y$ itself, arrives unchanged. Without it the
# gradient would have to pass $2L$ branches one after another, and a product of many factors tends to vanish or to
# explode. How much does each path bring back?

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
# "As it is" is the residual path, the other two are what the branches add. Do not expect them to be smaller:
# where they lie *above* it, look at the LayerNorm that each branch begins with. Its backward divides by the
# token's standard deviation $\sigma$ (chapter 03: $\rho = 1/\sigma$), so a small push
# turns a short token far, and its gradient is large. The class token is the one to look at:

# %%
print("before                class token: σ    times 1/σ      mean patch: σ")
for q in range(L):
    for norm, name in (("norm1", inputs[q]), ("norm2", f"encoder/block_{q:02d}/residual1")):
        sigma = values[name][0].std(axis=1)
        print(
            f"block {q + 1}, {norm} {sigma[0]:18.3f} {1 / sigma[0]:12.1f} {sigma[1:].mean():18.3f}"
        )

x = values[inputs[0]][:, 1:2]  # a patch
scale, bias = (params["encoder"]["block_00"]["norm1"][name] for name in ("scale", "bias"))
cotangent = np.random.default_rng(1).standard_normal(x.shape)
brought = []
for factor in (1, 0.1):  # as it is, and ten times as short
    _, cache = layer_norm(factor * x, scale, bias)
    brought.append(np.linalg.norm(layer_norm_backward(cotangent, cache)[0]))
print(f"a patch ten times as short: its gradient is {brought[1] / brought[0]:.1f} times as large")
assert brought[1] > 5 * brought[0]

# %% [markdown]
# If the class token begins near 0, that is not a fault: what is short is turned easily, and the first block is to
# turn it towards the photograph at hand. But then its gradient before the first block is large: in the figure of the
# answer, look at the star on the far left.

# %% [markdown]
# One parameter of every block has **no** gradient. A bias of the keys adds the same number, $\mathbf{q}_i \cdot
# \mathbf{b}$, to all logits of row $i$, and a softmax ignores a shift of its whole row. Optimisers should not be
# surprised, and comparisons of gradients must not divide by it.

# %%
for name, d in dparams.items():
    key, query = (abs(d["attention"][which]["bias"]).max() for which in ("key", "query"))
    assert key < 1e-8 * max(query, abs(d["attention"]["value"]["bias"]).max()), name
print(f"block_00: largest gradient of the query's bias {query:.1e}, of the key's bias {key:.1e}")

# %% [markdown]
# So $\mathrm{d}\mathbf{z}_0$ is found, and with it what every token is worth. Chapter 07b takes it from here.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on.
# Solutions are in `tutorials/solutions/07_backward.py`; try first.

# %% [markdown]
# ### Exercise 1: the mean opinion score, backward (★, 10 minutes)
#
# `p` holds one distribution per row, (B, C); the score of a row is $\sum_k k\,p_k$ with $k = 1 \dots C$. `dscore`
# (B,) is the gradient of a loss with respect to the scores. Return the gradient with respect to the logits, (B,
# C).
#
# <details><summary>Hint</summary>
#
# Station 1 has it for `dscore` = 1; any other is a factor. `p` is (B, C), `dscore` and the scores of the rows are
# (B,): give them an axis more, `dscore[:, None]`, so that they are (B, 1) and each row gets its own.
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
# ### Exercise 2: a residual branch, backward (★★, 12 minutes)
#
# Below is a small half of a block, $\mathbf{y} = \mathbf{z} + \text{LN}(\mathbf{z})\,\mathbf{W} + \mathbf{b}$.
# Write its backward. It returns the gradients with respect to `z`, `gamma`, `beta`, `kernel` and `bias`, in this
# order. `linear_backward(dy, cache)` returns (dx, dkernel, dbias); `layer_norm_backward(dy, cache)` returns (dx,
# dgamma, dbeta).
#
# <details><summary>Hint</summary>
#
# Three lines. Both summands of $\mathbf{y}$ get `dy`. Go through the branch from its end: linear first, then
# LayerNorm, which receives the linear's `dx`. How often is `z` used?
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
# ## Quiz

# %%
quiz("07")

# %% [markdown]
# ## In practice
#
# - **Automatic differentiation** does what you did: it records the lines of the forward with what they must
#   remember, and plays them back. Knowing the lines tells you what it keeps, why memory runs out, and which of
#   your operations cut the path (`detach`, integer casts, NumPy in between).
# - **Zero rows are a hint.** A gradient that is exactly 0 where you expected something means that the number is
#   not read, or that the path is cut. Here it was the patches' rows behind the last block. (The keys' bias is read,
#   but cancels: its gradient is 0 but for rounding.)
# - **Short tokens.** If training is unstable in its first steps, look at the smallest $\sigma$ before a
#   LayerNorm: whatever stands there gets its gradient divided by it. A warm-up of the learning rate helps.

# %% [markdown]
# ## References
#
# - S. Linnainmaa: *Taylor expansion of the accumulated rounding error*, BIT 16, 1976: the reverse sweep.
# - D. E. Rumelhart, G. E. Hinton, R. J. Williams: *Learning representations by back-propagating errors*, Nature
#   323, 1986.
# - A. Griewank, A. Walther: *Evaluating Derivatives*, 2nd edition, SIAM 2008; chapter 3 on cost.
# - R. Xiong et al.: *On layer normalization in the Transformer architecture*, ICML 2020: norms and gradients.
# - The code: `musiq_ref/model/musiq.py`, `musiq_ref/model/encoder.py`, `musiq_ref/model/recompute.py`.
