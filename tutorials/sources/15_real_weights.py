# %% [markdown]
# # 15 · Real weights: download, score, compare the conventions
#
# The authors' weights are two commands away. That is the easy part. The hard part is the question that users of MUSIQ ask most:
# **why do two programs give my photograph two scores, with the same weights?** Here you load weights in three formats, look at what
# survives the journey between them, and take the difference between two well-known programs apart, one convention at a time.

# %% [markdown]
# ## What you will learn
#
# - to download the published weights and to know that they are the published ones;
# - how two programs name, shape and transpose the same numbers, and what proves a conversion, and what does not;
# - why a checkpoint can be a program, and how one reads it without running it;
# - which convention moves the score, and by how much; what the published scores of both programs say about it.

# %% [markdown]
# ## What you need
#
# About 55 minutes. The model (chapters 01 to 06), resizing (chapter 01). **No network**: where the weights are
# not on this computer, the same path is walked with made-up ones, and the chapter says so.

# %%
import pickle
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import checkpoint, metrics, verify
from musiq_ref.checkpoint.weights import locate
from musiq_ref.model.parameters import flatten

# %% [markdown]
# ## A toy: four weights
#
# A layer has two inputs and two outputs. The authors' program stores its weights as (in, out), PyTorch as (out, in):
#
# $$W = \begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}, \qquad W^T = \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}.$$
#
# With the input $x = (1, 1)$ the layer gives $xW = (1 + 3,\ 2 + 4) = (4, 6)$. Copy PyTorch's numbers without turning them around, and it gives
# $xW^T = (1 + 2,\ 3 + 4) = (3, 7)$. No error, no warning: both are 2 × 2.

# %%
W, x = np.array([[1.0, 2], [3, 4]]), np.array([1.0, 1])
np.testing.assert_array_equal(x @ W, [4, 6])
np.testing.assert_array_equal(x @ W.T, [3, 7])
figure, axes = plt.subplots(1, 2, figsize=(5, 2.6))
for axis, matrix, title in (
    (axes[0], W, "(in, out): 4, 6"),
    (axes[1], W.T, "forgotten transpose: 3, 7"),
):
    axis.imshow(matrix, vmin=0, vmax=8)
    for (i, j), value in np.ndenumerate(matrix):
        axis.text(j, i, f"{value:.0f}", ha="center", va="center", fontsize=16, color="white")
    axis.set(title=title, xticks=[0, 1], yticks=[0, 1], xlabel="output", ylabel="input")
plt.show()

# %% [markdown]
# Only two of the four numbers have changed places, and the sum of the outputs is the same. A published model has 27 million numbers. Keep this
# picture in mind when you wonder whether a conversion is right.
#
# ## Download
#
# ```sh
# musiq-ref download koniq                    # the authors' file
# musiq-ref download koniq --format pyiqa     # the PyTorch port's
# ```
#
# or `mq.checkpoint.download("koniq")`. This is what there is, and which of it lies in your cache folder already:

# %%
for name, release in checkpoint.CATALOGUE.items():
    here = (checkpoint.cache_folder() / release.file).is_file()
    mark = "here" if here else "–"
    print(f"{name:15} {mark:5} {release.parameters:>11,} parameters  {release.file}")

# %% [markdown]
# Which one for what? The name is the data set it was fine-tuned on, and a model knows the flaws of its data set (chapter 08b):
#
# | name | trained on | score | take it for |
# |---|---|---|---|
# | `koniq` | 10,000 photographs from the web | 0 – 100 | photographs in general |
# | `spaq` | 11,000 smartphone pictures | 0 – 100 | phones: noise, motion, exposure |
# | `paq2piq` | 40,000 pictures of all kinds | 0 – 100 | small and odd pictures |
# | `ava` | 250,000 photographs of a contest | 1 – 10, with a distribution | beauty, not technical quality |
# | `imagenet` | 1.2 million pictures, classes | none | to start a training from |
#
# A download is not trusted because it arrived. It is put in place only if its SHA-256 begins as the port's file name says, its tensors are
# MUSIQ's by name and shape, and its parameters are as many as the paper counts. For the authors' files no
# checksum is published, so there the last two must do.

# %%
show(mq.checkpoint.fetch.verify)

# %% [markdown]
# ## The weights of this chapter
#
# If one of the authors' files is in the cache, we take it. If not, we make weights of the same model from integers by a formula (`docs/spec.md`, section 9), write
# them in the authors' format, and read them back: the same path, but **scores without any meaning**.

# %%
ours = [
    name
    for name, release in checkpoint.CATALOGUE.items()
    if release.format == "official"
    and name != "imagenet"
    and (checkpoint.cache_folder() / release.file).is_file()
]
folder = Path(tempfile.mkdtemp())
if ours:
    source = ours[0]
    print(f"Real weights: {source}. The scores below are MUSIQ's.")
else:
    source = folder / "made_up.npz"
    params = verify.deterministic_params(mq.MusiqConfig.preset("small"), seed=15)
    mq.checkpoint.save_official(source, params)
    print(
        "No published weights are on this computer, so these are made up: the scores mean nothing."
    )

# %%
loaded = mq.load_checkpoint(source)
params, config = loaded.params, loaded.config
print(f"{loaded.format}: {config.layers} layers, D = {config.width}, {config.scales} scales")
count = sum(array.size for _, array in flatten(params))
print(f"{count:,} parameters, from a file of {loaded.path.stat().st_size / 1e6:.0f} MB")
assert count == mq.complexity(config, (224, 224)).parameters

# %% [markdown]
# Nobody said how many layers there are, nor which program the file is from: both are read off the tensors' names. The
# extension is not looked at.

# %%
show(locate)

# %%
image = photograph("coffee", longer_side=160)
[result] = mq.score([image], loaded)
print(f"{result.width}×{result.height} pixels: {result.value:.4f}")
if not ours:
    loaded.path.unlink()  # a hundred megabytes that are not needed any more
assert np.isfinite(result.value)

# %% [markdown]
# ## The same numbers under other names
#
# Three layouts of one tensor, the query projection $\mathbf{U}_q$ of the first block:

# %%
official, pyiqa = mq.checkpoint.to_official(params), mq.checkpoint.to_pyiqa(params)
kernel = params["encoder"]["block_00"]["attention"]["query"]["kernel"]
q_official = "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"
q_pyiqa = "transformer_encoder.transformer.encoderblock_0.attention.query.weight"
print(f"ours      encoder/block_00/attention/query/kernel  {kernel.shape}")
print(f"official  {q_official}  {official[q_official].shape}")
print(f"pyiqa     {q_pyiqa}  {pyiqa[q_pyiqa].shape}")

# %% [markdown]
# Ours and the authors' is (in, head, within the head). PyTorch keeps a linear layer as (out, in): the toy's transpose, and the heads
# in one axis. Both are *square*, so a forgotten transpose raises no error (exercise 1). Convolutions move their axes, too:

# %%
root = params["stem"]["conv_root"]["kernel"]
print("convolution: ours", root.shape, " pyiqa", pyiqa["conv_root.weight"].shape)
np.testing.assert_array_equal(pyiqa["conv_root.weight"], root.transpose(3, 2, 0, 1))
np.testing.assert_array_equal(pyiqa[q_pyiqa], kernel.reshape(config.width, -1).T)

# %% [markdown]
# Nothing may get lost. So go there and back, and compare: not nearly, but every bit of every parameter.

# %%
for back in (mq.checkpoint.from_official(official), mq.checkpoint.from_pyiqa(pyiqa)):
    again = dict(flatten(back))
    assert again.keys() == dict(flatten(params)).keys()
    assert all(np.array_equal(again[path], array) for path, array in flatten(params))
print(f"{len(again)} tensors, there and back, equal to the bit")

# %% [markdown]
# Does that prove the conversion? It proves that nothing is *lost*. It does not prove that anything is in its *place*. Take the toy's mistake, made in both
# directions:


# %%
def to_them(kernel):
    """Wrong: the transpose is forgotten."""
    return kernel.reshape(config.width, -1)


def from_them(weight):
    """Wrong in the same way."""
    return weight.reshape(config.width, config.heads, -1)


np.testing.assert_array_equal(from_them(to_them(kernel)), kernel)  # there and back: perfect
assert not np.array_equal(to_them(kernel), pyiqa[q_pyiqa])  # and yet wrong
print("there and back, equal to the bit, and wrong")

# %% [markdown]
# The two mistakes undo each other. What proves a conversion is somebody else's program: the same photograph, the same
# intermediate values in both. That is what the library's fixtures are for (chapter 12).

# %% [markdown]
# ## A checkpoint can be a program
#
# A `.pth` file is a zip with a *pickle* in it, and a pickle is a list of instructions that may call anything. This one looks like a
# checkpoint and, when unpickled, prints a line; it could as well delete your home folder.


# %%
class Trap:
    """An object whose pickle calls print when it is loaded."""

    def __reduce__(self):
        return print, ("— this line was printed by the checkpoint itself —",)


trap = folder / "musiq_best.pth"
with zipfile.ZipFile(trap, "w") as archive:
    archive.writestr("archive/data.pkl", pickle.dumps({"head.weight": Trap()}, protocol=2))
    archive.writestr("archive/version", "3\n")
with zipfile.ZipFile(trap) as archive:
    pickle.loads(archive.read("archive/data.pkl"))  # what a careless loader does

# %%
try:
    mq.load_checkpoint(trap)
except mq.CheckpointError as error:
    refused = str(error)
print(refused)
assert "print" in refused

# %% [markdown]
# The library's reader builds dicts, numbers and tensors, and puts a placeholder that does nothing in the place of everything
# else (PyTorch since 2.6 refuses such a file by default). The authors' `.npz` is read without pickles, and safetensors cannot hold one.
#
# ## One image, two programs
#
# Now the question. The authors' code and pyiqa run the same weights, and disagree. Everything they do differently is a field of `Conventions`:

# %%
differences = {
    field: (getattr(mq.OFFICIAL, field), getattr(mq.PYIQA, field))
    for field in mq.Conventions.__dataclass_fields__
    if getattr(mq.OFFICIAL, field) != getattr(mq.PYIQA, field)
}
for field, (theirs, port) in differences.items():
    print(f"{field:16} official {theirs!s:20} pyiqa {port}")

# %% [markdown]
# We change one at a time, starting from the authors', and finally all together. (`mask_value` goes with `mask`.)


# %%
def score_with(conventions):
    """The score of the photograph under these conventions, in float32."""
    return mq.score([image], loaded, conventions=conventions)[0].value


steps = {
    "resize filter": {"resize": "bicubic"},
    "resized sides": {"resized_sides": "float64"},
    "GELU": {"gelu": "erf"},
    "weight std": {"weight_std_ddof": 1},
    "mask": {"mask": "fill", "mask_value": -1e3},
    "memory layout": {"patch_layout": "channel_row_column"},
}
assert {field for change in steps.values() for field in change} == set(differences)
base = score_with(mq.OFFICIAL)
moved = {name: score_with(replace(mq.OFFICIAL, **change)) - base for name, change in steps.items()}
moved["all: pyiqa"] = score_with(mq.PYIQA) - base

# %%
for name, change in moved.items():
    print(f"{name:16} {change:+.6f}")
figure, axis = plt.subplots(figsize=(7, 3))
sizes = np.abs(list(moved.values()))
axis.barh(list(moved), np.where(sizes > 0, sizes, np.nan), log=True)  # no change, no bar
least = sizes[sizes > 0].min() / 3
for i, size in enumerate(sizes):
    axis.text(max(size, least), i, "  no change" if size == 0 else f"  {size:.1g}", va="center")
axis.set_xlim(least, 30 * sizes.max())
axis.invert_yaxis()
weights = f"weights: {ours[0]}" if ours else "made-up weights"
axis.set(xlabel="|change of the score|", title=f"One convention at a time, {weights}")
plt.show()
assert moved["mask"] == moved["memory layout"] == 0

# %% [markdown]
# Two of them never have a bar: the mask, because padding is dropped before the model when a single image is scored (and hidden just as well when
# it is not, chapter 05b), and the layout in memory, which is a matter of exchange. The sides differ for few image sizes, and not for this one. The divisor of the
# weights' standard deviation multiplies all filters of a layer by one factor, which the GroupNorm behind it divides out again, but for its
# ε: hardly anything is left. GELU's two forms differ a little everywhere, and the resize filter changes the pictures themselves.
#
# With the released weights, GELU and weight standardisation together move the score by about 1e-4, the resize filter by 1e-3 to more than 1
# (`docs/spec.md`, section 5, and the table below): the model was trained with pictures filtered in one way and is shown pictures filtered in another.
#
# ## The published scores of both
#
# Five images of TID2013 (I03, I04, I06, I08, I19), scored with four released weights by both programs, as recorded in `docs/spec.md`, section 5.
# They are quoted, not computed here; with weights and images on your computer you can check them.

# %%
IMAGES = ["I03", "I04", "I06", "I08", "I19"]
OFFICIAL_SCORES = {
    "KonIQ": [12.494, 75.332, 73.429, 75.188, 36.938],
    "SPAQ": [17.685, 70.492, 78.740, 79.015, 49.105],
    "PaQ-2-PiQ": [46.035, 72.660, 73.625, 74.361, 69.006],
    "AVA": [3.398, 5.648, 4.635, 5.186, 4.128],
}
PYIQA_SCORES = {
    "KonIQ": [12.477, 75.776, 73.745, 75.460, 38.02],
    "SPAQ": [17.680, 70.653, 79.036, 79.318, 50.452],
    "PaQ-2-PiQ": [46.018, 72.665, 73.765, 74.387, 69.721],
    "AVA": [3.408, 5.693, 4.696, 5.196, 4.195],
}

# %%
for name, theirs in OFFICIAL_SCORES.items():
    apart = np.array(PYIQA_SCORES[name]) - theirs
    order = metrics.srcc(theirs, PYIQA_SCORES[name])
    print(f"{name:10} pyiqa − official {apart.round(3)}   SRCC {order:.2f}")
    assert np.isclose(order, 1)
    assert abs(apart).max() / np.ptp(theirs) < 0.05
    assert np.sum(apart > 0) >= 4  # of five

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.4))
x = np.arange(len(IMAGES))
for i, (name, theirs) in enumerate(OFFICIAL_SCORES.items()):
    apart = np.array(PYIQA_SCORES[name]) - theirs
    share = 100 * apart / np.ptp(theirs)
    axes[0].bar(x + 0.2 * i - 0.3, share, 0.2, label=name, hatch=("", "//", "..", "xx")[i])
    ranks = np.argsort(np.argsort(theirs)) + 1
    axes[1].plot(x + 0.06 * i, ranks, "os^D"[i], linestyle=("-", "--", ":", "-.")[i], label=name)
axes[0].axhline(0, color="black", linewidth=0.8)
axes[0].set(xticks=x, xticklabels=IMAGES, ylabel="% of the range of the five")
axes[0].set_title("the same weights, two programs")
axes[1].set(xticks=x, xticklabels=IMAGES, yticks=[1, 2, 3, 4, 5], ylabel="rank, 5 is best")
axes[1].set_title("the same program, four weights")
axes[1].legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# On the left: the two programs differ by up to a few per cent of the range, mostly upwards, and never change the order of these five. On
# the right: which data set the weights learned from matters far more than the program. The models disagree about the best picture, and the scale of AVA ends at 10.

# %%
best = {name: IMAGES[int(np.argmax(scores))] for name, scores in OFFICIAL_SCORES.items()}
print("best of the five:", best)
assert len(set(best.values())) > 1
assert max(OFFICIAL_SCORES["AVA"]) < 10

# %% [markdown]
# That answers the question of the beginning. Same weights, two scores: nearly all of it is the resize filter, a line of code that nobody calls a part of the
# model. So **compare scores only within one program, one checkpoint and one kind of preparation** (size, crops, format). When a paper reports "MUSIQ 71.3",
# it takes all of these to know what that is.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/15_real_weights.py`; try first.

# %% [markdown]
# ### Exercise 1: convert a projection (★, 6 minutes)
#
# From PyTorch's weight $(D_{out}, D_{in})$ of the query layer to the kernel $(D, H, D_h)$ of this library.
#
# <details><summary>Hint</summary>
#
# First the transpose, then split the *output* axis into heads. Reshaping alone gives the right shape and the wrong numbers.
#
# </details>


# %% tags=["exercise-1"]
def my_kernel(weight, heads):
    """weight: (D, D), out first;  returns (D, heads, D / heads)"""
    return ...


# %% tags=["check-1"]
def check(convert):
    tiny = mq.init_params(mq.MusiqConfig.preset("tiny"), seed=1)
    mapping = mq.checkpoint.to_pyiqa(tiny)
    wanted = tiny["encoder"]["block_01"]["attention"]["query"]["kernel"]
    got = convert(mapping[q_pyiqa.replace("block_0.", "block_1.")], wanted.shape[1])
    assert np.shape(got) == wanted.shape, f"the shape is {np.shape(got)}, not {wanted.shape}"
    assert np.array_equal(got, wanted), "the shape is right, the numbers are not where they belong"


exercise(1, my_kernel, check)

# %% [markdown]
# ### Exercise 2: the detective (★, 8 minutes)
#
# Somebody scored an image with your weights and one convention that is not the authors'. Which one? Return its name, `"resize"`,
# `"gelu"` or `"weight_std_ddof"`.
#
# <details><summary>Hint</summary>
#
# Try all three: `replace(mq.OFFICIAL, gelu="erf")` and so on, and `mq.score([image], checkpoint, conventions=…)`. Which
# score comes closest to the one you were told?
#
# </details>


# %% tags=["exercise-2"]
def my_detective(image, checkpoint, told):
    """told: the score;  returns the name of the convention that differs"""
    return ...


# %% tags=["check-2"]
def check(detective):
    small = mq.MusiqConfig.preset("tiny", longer_sides=(64,))
    made = mq.Checkpoint(verify.deterministic_params(small, seed=2), small, "official", None)
    pixels = verify.deterministic_image(3, 60, 80)
    values = {"resize": "bicubic", "gelu": "erf", "weight_std_ddof": 1}
    for name, value in values.items():
        other = replace(mq.OFFICIAL, **{name: value})
        told = mq.score([pixels], made, conventions=other)[0].value
        answer = detective(pixels, made, told)
        assert answer == name, f"told a score made with another {name}, you answer {answer!r}"


exercise(2, my_detective, check)

# %% [markdown]
# ### Exercise 3: many crops, one distribution (★★, 8 minutes)
#
# A model with $C$ outputs, several crops of one image: `logits` is $(K, C)$. pyiqa averages the *distributions* of the crops. For the score that is the
# same as averaging the crops' scores, because the score $\sum_k k\,p_k$ is linear in $\mathbf{p}$. For the **spread**, how much people disagree, it is not. Return the score and the
# standard deviation of the averaged distribution.
#
# <details><summary>Hint</summary>
#
# Softmax in each row, mean over the rows: $\mathbf{p}$. Then $\mu = \sum_k k\,p_k$ and $\sigma^2 = \sum_k (k - \mu)^2 p_k$, with $k = 1 \dots C$. Check yourself: one crop is certainly a 2 and
# one certainly a 9. The score is 5.5; the spread is 3.5, although each crop's own is 0.
#
# </details>


# %% tags=["exercise-3"]
def my_distribution(logits):
    """Returns (score, standard deviation)."""
    return ..., ...


# %% tags=["check-3"]
def check(my):
    logits = 3 * np.random.default_rng(6).standard_normal((4, 10))
    score, spread = my(logits)
    wanted = mq.expected_score(logits)[0].score.mean()  # linear: the mean of the scores
    assert np.isclose(score, wanted), f"your score is {score:.4f}; it is {wanted:.4f}"
    certain = np.where(np.arange(1, 11) == np.array([[2], [9]]), 50.0, 0.0)  # (2, 10)
    score, spread = my(certain)
    assert np.isclose(score, 5.5), f"a 2 and a 9 have the score 5.5, not {score:.4f}"
    assert np.isclose(spread, 3.5), (
        f"a crop that is a 2 and one that is a 9: the spread is 3.5, not {spread:.4f}"
    )


exercise(3, my_distribution, check)

# %% [markdown]
# ## Quiz

# %%
quiz("15")

# %% [markdown]
# ## In practice
#
# - **State it.** "MUSIQ, KonIQ weights of the authors, official conventions, whole image, native size" is a reproducible sentence.
# - `musiq-ref score *.jpg --checkpoint koniq --csv scores.csv` writes it beside every score: size, weights, conventions, dtype.
# - **Whole image or crops?** MUSIQ was made for whole images of any size; a 12-megapixel photograph has 12,000 tokens, which takes time, not
#   memory (chapter 13). Crops see no composition, and their mean hides one bad corner.
# - **JPEG decoders** differ by a grey level here and there, and so do scores, in the third decimal. Compare programs on PNG.
# - **A file from a stranger**: prefer safetensors or `.npz`; never `torch.load(…, weights_only=False)`.
# - **Converting for another program**: `musiq-ref convert koniq koniq.safetensors --to pyiqa`; then score one image with both.

# %% [markdown]
# ## References
#
# - J. Ke et al.: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021; code and weights: google-research/musiq.
# - C. Chen, J. Mo: *IQA-PyTorch: PyTorch Toolbox for Image Quality Assessment*, 2022 (pyiqa).
# - N. Ponomarenko et al.: *Image database TID2013*, Signal Processing: Image Communication 2015.
# - M. Slaviero: *Sour Pickles*, Black Hat USA 2011 (why a pickle is a program).
# - The code: `musiq_ref/checkpoint/`, `musiq_ref/config.py` (class `Conventions`).
