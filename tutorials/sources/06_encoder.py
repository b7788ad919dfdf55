# %% [markdown]
# # 06 · The encoder, the class token, and the whole model
#
# You have the tokens (chapters 01, 02, 04) and attention (05). What is left is short: an MLP, two sums, a norm,
# repeated; and one row that is read at the end. Here you put the whole of MUSIQ together in ten lines. The
# question of this chapter:
#
# > **The model says a number. Which part of it said what?**

# %% [markdown]
# ## What you will learn
#
# - what a pre-norm block does, and why the sums around its halves matter more than the halves;
# - to read the encoder as a stream to which every block adds, and to split a score exactly into what each block
#   contributed;
# - what the class token is, and how much of the last block nobody reads;
# - to count parameters and multiply–accumulates from shapes, and to find the paper's 27M and 8.86·10⁹ again.

# %% [markdown]
# ## What you need
#
# About 60 minutes, exercises included; attention (chapter 05); LayerNorm and GELU (chapter 03).

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import explain
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.model.attention import allowed_pairs, merge, project
from musiq_ref.model.embeddings import embed, patch_embedding
from musiq_ref.model.encoder import block, mlp, norm
from musiq_ref.model.parameters import parameter_shapes
from musiq_ref.model.stem import stem
from musiq_ref.ops.activation import GELU
from musiq_ref.ops.softmax import softmax

# %% [markdown]
# ## Three tokens, one block
#
# A class token and two patches, **cup** and **spoon**, each two numbers wide. With width 2, a LayerNorm is easy:
# minus the mean, divided by the standard deviation, it leaves $(1, -1)$ if the first number is larger, $(-1, 1)$
# if the second is, and $(0, 0)$ if they are equal.
#
# The toy's attention listens to all alike and gives 3 times their mean; its MLP answers $(2, 0)$ to whoever shows
# $(1, -1)$. A block **adds** both to what is there. Follow the rows:

# %%
z_0 = np.array([[0, 0], [5, 1], [4, 2]], float)  # class token, cup, spoon


def ln(z):
    """LayerNorm without scale and shift."""
    centred = z - z.mean(axis=1, keepdims=True)
    return centred / (z.std(axis=1, keepdims=True) + 1e-12)


msa = 3 * np.tile(ln(z_0).mean(axis=0), (3, 1))  # the same for all three
z_mid = msa + z_0
mlp_out = np.maximum(ln(z_mid) @ [[2, 0], [0, 0]], 0)
z_1 = mlp_out + z_mid
for name, rows in (("z_0", z_0), ("LN", ln(z_0)), ("z'_1", z_mid), ("LN", ln(z_mid)), ("z_1", z_1)):
    print(f"{name:5}", *(f"({a:3.0f},{b:3.0f})" for a, b in rows))
np.testing.assert_allclose(z_mid, [[2, -2], [7, -1], [6, 0]], atol=1e-9)
np.testing.assert_allclose(z_1, [[4, -2], [9, -1], [8, 0]], atol=1e-9)

# %% [markdown]
# The class token began with nothing, and has heard something. Only its row, $(4, -2)$, is read: normalised it is
# $(1, -1)$, and a head that takes 3 times the first number says **3**.
#
# Who said 3? The row is a sum: $(0,0)$ at the start, $(2,-2)$ from attention, $(2,0)$ from the MLP. The last
# LayerNorm took off the mean and divided by 3. So do that to each summand: attention's gives $2/3$ in the first
# number, the MLP's $(2 - 1)/3 = 1/3$. Times 3: **attention said 2, and the MLP 1.**

# %%
u = {"z_0": z_0[0], "MSA": msa[0], "MLP": mlp_out[0]}
said = {name: 3 * (row - row.mean())[0] / z_1[0].std() for name, row in u.items()}
print({name: round(float(number), 6) for name, number in said.items()})
np.testing.assert_allclose(list(said.values()), [0, 2, 1], atol=1e-9)
np.testing.assert_allclose(3 * ln(z_1)[0, 0], 3, atol=1e-9)

# %%
explain.block_diagram()

# %% [markdown]
# That is the block, from bottom to top: a norm, a branch, a sum, twice. What goes up the middle is changed by a
# branch; what goes round it, by the residual path, arrives as it was. And this is where it stands:

# %%
checkpoint = mq.load_checkpoint("demo", dtype="float64")
params, config = checkpoint.params, checkpoint.config
image = photograph("coffee", longer_side=256)
tokens = mq.batch([drop_padding(mq.tokenize(image, config))])
explain.encoder_diagram(config)

# %% [markdown]
# Patches of all scales and the class token (*) enter as $\mathbf{z}_0$ (Eq. 2; three squares stand for all
# patches of a scale), all rows pass all blocks, and one row leaves. We run the model and keep every intermediate
# through a tap, a function that is shown each by name.

# %%
values = {}
logits, _ = mq.forward(
    params, tokens, config, tap=lambda name, array: values.setdefault(name, array)
)
L, D, M, N = config.layers, config.width, config.mlp_width, int(tokens.mask.sum())
z_0 = values["encoder/input"]
print(f"z_0: {z_0.shape}: {N} patches and the class token, width {D}")
assert z_0.shape == (1, 1 + N, D)

# %% [markdown]
# ## The first half of a block: ask the others
#
# The easiest way to use attention would be $\mathbf{z}' = \text{MSA}(\mathbf{z})$. But a layer that *replaces* its
# input must carry over everything worth keeping, through every one of $L$ blocks. One that *adds* to it has nothing to do
# but to add: with small weights, it starts as a block that changes next to nothing. So there is a **residual path** around it. (It
# serves the way back as well: chapter 07.)
#
# What is only ever added to can grow, and the logits of attention would grow with its square (once in the query,
# once in the key), until the softmax is hard. So what goes into the branch, and only that, is first brought to
# mean 0 and variance 1, token by token. Norm, then branch, then sum: this is called **pre-norm**.
#
# $$\begin{aligned} \mathbf{z}'_q &= \text{MSA}(\text{LN}(\mathbf{z}_{q-1})) + \mathbf{z}_{q-1}, \cr & \quad q = 1 \dots L \end{aligned} \tag{3}$$

# %%
b = "encoder/block_00"
p = params["encoder"]["block_00"]
centred = z_0 - z_0.mean(axis=-1, keepdims=True)
variance = (centred**2).mean(axis=-1, keepdims=True)
normed = p["norm1"]["scale"] * centred / np.sqrt(variance + 1e-6) + p["norm1"]["bias"]
np.testing.assert_allclose(normed, values[f"{b}/norm1"], atol=1e-9)

attended = values[f"{b}/attention/out"]  # chapter 05 computed it by hand
z_mid = attended + z_0
print("LN(z_0)", normed.shape, " MSA", attended.shape, " z'_1", z_mid.shape)
np.testing.assert_allclose(z_mid, values[f"{b}/residual1"], atol=1e-12)

# %% [markdown]
# ## The second half: think it over
#
# What a token has gathered it must now digest. Attention cannot do that: once its weights are fixed, it only
# takes weighted means of values, which is linear. (The weights themselves do depend on the tokens, so that
# attention as a whole is not linear.) Digesting is done by a network of one hidden layer,
# $\text{MLP}(\mathbf{z}) = \text{GELU}(\mathbf{z}\mathbf{W}_1 + \mathbf{b}_1)\mathbf{W}_2 + \mathbf{b}_2$, of
# width $M$ inside, the same for each token, each token by itself:
#
# $$\begin{aligned} \mathbf{z}_q &= \text{MLP}(\text{LN}(\mathbf{z}'_q)) + \mathbf{z}'_q, \cr & \quad q = 1 \dots L \end{aligned} \tag{4}$$

# %%
x, _ = norm(z_mid, p["norm2"])
hidden = x @ p["mlp"]["fc1"]["kernel"] + p["mlp"]["fc1"]["bias"]  # (1, 1 + N, M)
active, _ = GELU[config.conventions.gelu][0](hidden)
digested = active @ p["mlp"]["fc2"]["kernel"] + p["mlp"]["fc2"]["bias"]
z_1 = digested + z_mid
print("hidden", hidden.shape, " MLP", digested.shape, " z_1", z_1.shape)
np.testing.assert_allclose(z_1, values[f"{b}/output"], atol=1e-9)

# %% [markdown]
# Attention passes things from token to token; its four matrices mix channels as well, but linearly. The MLP sees
# one token at a time and is where the channels of that token act on one another. Here is the difference, and then
# the library's block (`drop` and `drop_branch` do something in training only):

# %%
rng = np.random.default_rng(2)
a, b = rng.standard_normal((2, 4, 3))  # two sets of four tokens
weights, _ = softmax(a @ a.T)
assert np.allclose(weights @ (a + b), weights @ a + weights @ b)  # fixed weights: linear
assert not np.allclose(softmax(4 * a @ a.T)[0] @ (2 * a), 2 * weights @ a)  # weights of 2a: not

# %%
show(mlp, block)

# %% [markdown]
# ## The stream
#
# Write out all sums, and the encoder is one long sum: what came in, and what $2L$ branches added.
#
# $$\mathbf{z}_L = \mathbf{z}_0 + \sum_{q=1}^{L} \big(\text{MSA}_q + \text{MLP}_q\big)$$

# %%
pieces = {"z_0": z_0}
for q in range(L):
    b = f"encoder/block_{q:02d}"
    pieces[f"MSA {q + 1}"] = values[f"{b}/attention/out"]
    pieces[f"MLP {q + 1}"] = values[f"{b}/mlp/fc2"]
z_L = values[f"encoder/block_{L - 1:02d}/output"]
np.testing.assert_allclose(sum(pieces.values()), z_L, atol=1e-9 * abs(z_L).max())

# %% [markdown]
# How large is the stream, and how large is what each block adds to it? The class token begins as the same vector
# for all images and must gather everything it will know; a patch token begins with what it shows.
#
# The vertical axis is logarithmic: from line to line it is ten times as much.


# %%
def lengths(array):
    """Mean length of a row: (class token, patches)."""
    rows = np.linalg.norm(array[0], axis=1)
    return rows[0], rows[1:].mean()


figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
blocks = range(1, L + 1)
for which, axis in enumerate(axes):
    stream = [lengths(values[f"encoder/block_{q - 1:02d}/output"])[which] for q in blocks]
    axis.semilogy(
        [0, *blocks], [lengths(z_0)[which], *stream], "k*-", label=r"stream $\mathbf{z}_q$"
    )
    for kind, style in (("MSA", "o--"), ("MLP", "s:")):
        added = [lengths(pieces[f"{kind} {q}"])[which] for q in blocks]
        axis.semilogy(blocks, added, style, label=f"added by {kind}")
    axis.set(title=("class token", "mean of the patches")[which], xlabel="block $q$")
    axis.set_xticks(range(0, L + 1, 1 + L // 8))
axes[0].set_ylabel("length of the vector")
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
assert lengths(z_0)[0] < lengths(z_0)[1]  # class token, patches

# %% [markdown]
# Where a branch's line lies above the stream's of the block before, the branch has said more than was there;
# where it lies far below, it has only retouched. Compare the two sides at $q = 0$: the class token starts shorter
# than the patches, so it has much to hear and little to forget. (Vectors may also point against one another, so
# lengths do not add up.)

# %% [markdown]
# ## One row is read
#
# After the last block, the stream is normalised once more, and of all rows one is kept, the class token's:
#
# $$\mathbf{y} = \text{LN}(\mathbf{z}_L^0) \tag{5}$$
#
# Why a token that is no patch? A rule that picks a patch, or takes the mean of all, decides beforehand whose opinion
# counts. The class token is a learned question, "how good is this?", put to all patches through attention, again in
# every block. (It is a choice, though: the authors of the vision transformer found that the mean of all patches does
# about as well, if the learning rate suits it.) The head turns $\mathbf{y}$ into the output: $\mathbf{y}\mathbf{W} +
# \mathbf{b}$.

# %%
y, _ = norm(z_L[:, :1], params["encoder"]["norm"])  # LN works row by row: the others are not needed
mine = y[:, 0] @ params["head"]["kernel"] + params["head"]["bias"]
print("y", y[:, 0].shape, " output", mine.shape, mine[0, :3])
np.testing.assert_allclose(mine, logits, atol=1e-9)

# %% [markdown]
# For the same reason, the last block need not be computed for the patches. Only their keys and values are needed,
# since the class token still listens to all:

# %%
b = f"encoder/block_{L - 1:02d}"
p = params["encoder"][f"block_{L - 1:02d}"]
x = values[f"{b}/norm1"]
q, _ = project(x[:, :1], p["attention"]["query"])  # (1, H, 1, D_h): the class token asks
k, _ = project(x, p["attention"]["key"])  # (1, H, 1 + N, D_h): all may be heard
v, _ = project(x, p["attention"]["value"])
weights, _ = softmax(q @ k.swapaxes(-1, -2) / math.sqrt(config.head_width))
before = values[f"{b}/residual1"][:, :1] - pieces[f"MSA {L}"][:, :1]
z = before + merge(weights @ v, p["attention"]["out"])[0]
z = z + mlp(norm(z, p["norm2"])[0], p["mlp"], config.conventions)[0]
print("one row of the last block:", z.shape)
np.testing.assert_allclose(z, z_L[:, :1], atol=1e-9 * abs(z_L).max())

# %% [markdown]
# ### Who made the score?
#
# The stream is a sum, and the head is linear. Only LayerNorm stands between them, and once we know by what
# $\rho = (\sigma^2 + \varepsilon)^{-1/2}$ it multiplied, it is linear as well: subtract the mean, multiply. So
# the output splits **exactly**, as in the toy, into one number for each piece $\mathbf{u}$ of the stream, and a
# constant from the last norm's $\beta$ and the head's bias ($\circ$ multiplies number by number):
#
# $$\text{output} = \text{const} + \sum_{\mathbf{u}} \rho\,(\mathbf{u} - \bar u) \cdot (\gamma \circ \mathbf{W})$$

# %%
final, head = params["encoder"]["norm"], params["head"]
rho = 1 / np.sqrt(z_L[0, 0].var() + 1e-6)
direction = final["scale"] * head["kernel"][:, 0]  # of the first output; with one output, the score
parts = {name: rho * (u[0, 0] - u[0, 0].mean()) @ direction for name, u in pieces.items()}
const = final["bias"] @ head["kernel"][:, 0] + head["bias"][0]
print(f"const {const:+.4f}, pieces {sum(parts.values()):+.4f}, output {logits[0, 0]:+.4f}")
np.testing.assert_allclose(const + sum(parts.values()), logits[0, 0], atol=1e-9)

# %%
figure, axis = plt.subplots(figsize=(8, 3))
for offset, kind, hatch in ((-0.2, "MSA", ""), (0.2, "MLP", "//")):
    heights = [parts[f"{kind} {q}"] for q in blocks]
    axis.bar(np.arange(1, L + 1) + offset, heights, 0.4, label=kind, hatch=hatch, edgecolor="white")
axis.bar(0, parts["z_0"], 0.4, color="0.4", label=r"$\mathbf{z}_0$: the learned class token")
axis.axhline(0, color="0.3", linewidth=0.8)
axis.set(
    xlabel="block",
    ylabel="part of the output",
    xticks=range(0, L + 1),
    title="What each branch wrote",
)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# **The answer.** A bar upwards raised the output, one downwards lowered it, and together with the constant
# they *are* the output, to the last digit. But read it with care: large ones may cancel; an early block's
# influence through later blocks is counted with the later ones; and $\rho$ depends on all of them. It says
# who wrote what, not what would happen without it.

# %% [markdown]
# ## The whole model in ten lines
#
# From tokens to score, with the parts as you know them now. It is the library's own forward without its
# bookkeeping, and its result is the same:


# %%
def musiq(tokens):
    """Patches, places and scales of one image to the outputs (Eq. 1–11)."""
    features, _ = stem(tokens.patches[0].astype("float64"), params["stem"], config.conventions)
    x, _ = patch_embedding(features[None], params["patch_embedding"])
    z, _ = embed(x, tokens.hash_index, tokens.scale_index, params, config)
    allowed = allowed_pairs(np.ones(z.shape[:2], bool))
    for q in range(config.layers):
        z, _ = block(z, allowed, params["encoder"][f"block_{q:02d}"], config.conventions)
    y, _ = norm(z, params["encoder"]["norm"])
    return y[:, 0] @ params["head"]["kernel"] + params["head"]["bias"]


np.testing.assert_allclose(musiq(tokens), logits, rtol=0, atol=1e-12 * max(1, abs(logits).max()))
score = mq.expected_score(logits)[0].score[0]
print(f"outputs {logits.shape}, score {score:.4f}")

# %% [markdown]
# Nothing in it asks for the number of tokens, or for their order. Shuffle the patches together with their places
# and scales, and the score stays:

# %%
order = np.random.default_rng(0).permutation(N)
shuffled = mq.Tokens(*(array[:, order] for array in tokens))
np.testing.assert_allclose(musiq(shuffled), logits, atol=1e-9 * max(1, abs(logits).max()))

# %% [markdown]
# ## Counting parameters
#
# A linear layer from $I$ to $O$ has $IO + O$ parameters, a norm $2D$. A block has four projections of the
# attention, two layers of the MLP and two norms:
#
# $$4(D^2 + D) \;+\; (DM + M) + (MD + D) \;+\; 4D$$
#
# The rest: stem, patch embedding $((P/4)^2 \cdot 256 \cdot D + D)$, tables ($G^2 D$ and $SD$), class token ($D$),
# last norm ($2D$), head ($DC + C$).


# %%
def parameters(c):
    """All parameters of a configuration, from its sizes."""
    D, M = c.width, c.mlp_width
    in_stem = (
        7 * 7 * 3 * 64 + (64 * 64 + 9 * 64 * 64 + 64 * 256 + 64 * 256) + 2 * (3 * 64 + 2 * 256)
    )
    embedding = (c.patch_size // 4) ** 2 * 256 * D + D
    tables = c.grid_size**2 * D * (c.spatial == "learnable") + c.scales * D
    in_block = 4 * (D * D + D) + (D * M + M) + (M * D + D) + 4 * D
    rest = D + 2 * D + D * c.outputs + c.outputs  # class token, last norm, head
    return in_stem + embedding + tables + c.layers * in_block + rest


printed = {"small": 27, "medium": 61, "large": 98}  # millions, appendix table 1
for name, millions in printed.items():
    preset = mq.MusiqConfig.preset(name)
    exact = parameters(preset)
    size = f"{4 * exact / 1e6:.0f} MB in float32"
    print(f"{name:7} {exact:12,}   the paper: {millions}M   {size}")
    assert exact == sum(math.prod(shape) for shape in parameter_shapes(preset).values())
    assert round(exact / 1e6) == millions

# %% [markdown]
# ## Counting multiplications
#
# An $(a, b)$ times $(b, c)$ matrix product takes $abc$ multiplications, each with an addition: a
# **multiply–accumulate** (MAC). A convolution is a product with one row per window (chapter 04). All else, norms, GELU,
# softmax, is small beside these and by custom not counted. For one patch, and for $N$ tokens *with* the class token:
#
# | part | MACs |
# |---|---|
# | a convolution, per patch | positions · $k^2 I O$ |
# | patch embedding, per patch | $(P/4)^2 \cdot 256 \cdot D$ |
# | four projections (Eq. 6, 9) | $N \cdot 4 D^2$ |
# | two products (Eq. 7, 8) | $2 N^2 D$ |
# | MLP | $N \cdot 2DM$ |
#
# Section G of the appendix gives $8.86 \cdot 10^9$ "FLOPS" for a 224×224 image. It has 49 native patches, 49 for the
# longer side 224 and 144 for 384; being square, it needs no padding:

# %%
published = mq.MusiqConfig.preset("small")
counts = mq.complexity(published, (224, 224))
for part, macs in counts.macs_by_part.items():
    print(f"{part:32} {macs:14,}  {macs / counts.macs:6.1%}")
print(f"{'all':32} {counts.macs:14,};  {counts.tokens} patches")
assert counts.tokens == 49 + 49 + 144
assert counts.macs == mq.complexity(published, (224, 224), padded=False).macs
assert abs(counts.macs / 8.86e9 - 1) < 0.005

# %% [markdown]
# Within half a percent of the paper. So its "FLOPS" are multiply–accumulates; counting additions and
# multiplications separately gives twice as many.

# %% [markdown]
# ### Optional: where the parameters are, and where the work is
#
# These are two different questions. A parameter that is used for every token costs as many multiplications as
# there are tokens; a kernel of the stem is used at every *position* of every patch.

# %%
groups = {"stem": "stem", "patch_embedding": "patch embedding", "encoder/attention": "attention"}
groups |= {"encoder/mlp": "MLP"}


def shares(by_part):
    """Of a dict of counts, the shares of the groups."""
    total = sum(by_part.values())
    return [sum(v for k, v in by_part.items() if k.startswith(g)) / total for g in groups]


rows = {}
for name in printed:
    c = mq.complexity(mq.MusiqConfig.preset(name), (224, 224))
    rows[f"{name}: {c.parameters / 1e6:.0f}M parameters"] = shares(c.parameters_by_part)
    rows[f"{name}: {c.macs / 1e9:.1f}G MACs"] = shares(c.macs_by_part)
figure, axis = plt.subplots(figsize=(8, 3))
left = np.zeros(len(rows))
for i, (label, hatch) in enumerate(zip(groups.values(), ("", "//", "..", "xx"), strict=True)):
    width = np.array([row[i] for row in rows.values()])
    axis.barh(list(rows), width, left=left, label=label, hatch=hatch, edgecolor="white")
    left += width
axis.invert_yaxis()
axis.set(
    xlabel="share",
    xlim=(0, 1),
    title="A 224×224 image: where the parameters are, and where the work is",
)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()
assert left.min() > 0.98

# %% [markdown]
# Compare the two bars of a model: the stem holds hardly any of the parameters, and in the small model it does about a
# fifth of the work. Attention's two products have no parameters at all.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on.
# Solutions are in `tutorials/solutions/06_encoder.py`; try first.

# %% [markdown]
# ### Exercise 1: a block (★, 5 minutes)
#
# Four functions are given, each of one array: `ln1`, `msa`, `ln2`, `mlp`. Return the output of the block for the
# input `z` (Eq. 3 and 4).
#
# <details><summary>Hint</summary>
#
# Two lines. The second one starts from the result of the first, both in the branch and in the sum.
#
# </details>


# %% tags=["exercise-1"]
def my_block(z, ln1, msa, ln2, mlp):
    return ...


# %% tags=["check-1"]
def check(my_block):
    rng = np.random.default_rng(1)
    z, mixing = rng.standard_normal((4, 3)), rng.standard_normal((4, 4))
    ln1, ln2 = (lambda z: z - z.mean(axis=1, keepdims=True)), (lambda z: 2 * z + 1)
    msa, mlp = (lambda z: mixing @ z), np.tanh
    nothing = np.zeros_like
    assert np.allclose(my_block(z, ln1, nothing, ln2, nothing), z), (
        "when both branches give 0, z must pass unchanged"
    )
    half = my_block(z, ln1, msa, ln2, nothing)
    assert np.allclose(half, z + msa(ln1(z))), "when the MLP gives 0, the result is not Eq. (3)"
    whole = my_block(z, ln1, msa, ln2, mlp)
    assert not np.allclose(whole, half + mlp(ln2(z))), "the MLP must read z', not z"
    assert np.allclose(whole, half + mlp(ln2(half))), "the second half is not Eq. (4)"


exercise(1, my_block, check)

# %% [markdown]
# ### Exercise 2: the parameters of the encoder (★, 8 minutes)
#
# For $L$ blocks of width $D$ with an MLP of width $M$, including the last LayerNorm. It is not a question of
# memory: write down the layers, and count.
#
# <details><summary>Hint</summary>
#
# Query, key, value and output projection: each a $D \times D$ matrix and a bias. The MLP's biases are of
# different lengths. Two norms a block, one at the end, each with scale and shift.
#
# </details>


# %% tags=["exercise-2"]
def my_encoder_parameters(L, D, M):
    return ...


# %% tags=["check-2"]
def check(count):
    for name in ("tiny", "small", "medium"):
        c = mq.MusiqConfig.preset(name)
        by_part = mq.complexity(c, (224, 224)).parameters_by_part
        wanted = sum(n for part, n in by_part.items() if part.startswith("encoder"))
        got = count(c.layers, c.width, c.mlp_width)
        assert got == wanted, (
            f"L={c.layers}, D={c.width}, M={c.mlp_width}: you say {got:,}, it is {wanted:,} "
            f"({got - wanted:+,})"
        )


exercise(2, my_encoder_parameters, check)

# %% [markdown]
# ### Exercise 3: the work that nobody reads (★★, 10 minutes)
#
# Of the last block only the class token's row is read; you saw above what is needed for it. How many
# multiply–accumulates of a block of width $D$, with an MLP of width $M$, are saved for $N$ patches (and the class
# token besides)?
#
# <details><summary>Hint</summary>
#
# Keys and values of all $1 + N$ are needed. Queries, rows of logits, weighted means, the output projection and
# the MLP are needed for one row only: $N$ rows each are saved. A row of logits has one number for each key.
#
# </details>


# %% tags=["exercise-3"]
def my_unread(N, D, M):
    return ...


# %% tags=["check-3"]
def check(unread):
    rng = np.random.default_rng(3)
    for N, D, M in rng.integers(2, 400, (6, 3)).tolist():
        T, saved = 1 + N, 0
        for a, b, c in ((T, D, D), (T, D, T), (T, T, D), (T, D, D), (T, D, M), (T, M, D)):
            saved += a * b * c - 1 * b * c  # a product of T rows, less the same of one row
        got = unread(N, D, M)
        assert got == saved, f"N={N}, D={D}, M={M}: you say {got:,}, it is {saved:,}"


exercise(3, my_unread, check)

# %% [markdown]
# ## Quiz

# %%
quiz("06")

# %% [markdown]
# ## In practice
#
# - **FLOPS, FLOPs, MACs.** Ask what a printed number counts before you compare: operations or operations per
#   second; multiply–accumulates or both halves; with or without padding tokens. The paper's 8.86 G are MACs of a
#   picture without padding; of others `mq.complexity(…, padded=False)` leaves it out.
# - **$\varepsilon$.** LayerNorm here has $10^{-6}$; PyTorch's default is $10^{-5}$. For a token of small variance
#   that shows.
# - **Pre-norm or post-norm.** The first Transformers normalised after the sum. Weights of one kind run in the
#   other without an error, and mean nothing.
# - **Parameters are not memory.** The small model's weights fit many times into the memory of any computer; what
#   fills it are the intermediates, which grow with the photograph (chapter 13), and which training must keep
#   (chapter 07b).
# - **Skip what nobody reads.** To compute the last block for one row only, as you did, changes no score and saves
#   most of its work.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021,
#   appendix A.1, A.4 and G.
# - A. Dosovitskiy et al.: *An image is worth 16x16 words*, ICLR 2021; appendix D.3 on the class token and the mean.
# - R. Xiong et al.: *On layer normalization in the Transformer architecture*, ICML 2020: pre-norm and post-norm.
# - N. Elhage et al.: *A mathematical framework for Transformer circuits*, 2021: the stream and what is written to
#   it.
# - J. Devlin et al.: *BERT*, NAACL 2019: the class token.
# - The code: `musiq_ref/model/encoder.py`, `musiq_ref/model/head.py`, `musiq_ref/counts.py`.
