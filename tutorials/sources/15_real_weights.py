# %% [markdown]
# # 15 · Real weights: download, score, compare the conventions
#
# The authors' weights are two commands away. That is the easy part. The hard part is the question that users of MUSIQ ask most:
# *why do two programs give my photograph two scores, with the same weights?* Here you load weights in three formats, look at what
# survives the journey between them, and take the difference between two well-known programs apart, one convention at a time.

# %% [markdown]
# ## What you will learn
#
# - to download the published weights and to know that they are the published ones;
# - how two programs name, shape and transpose the same numbers, and how a conversion is proven;
# - why a checkpoint can be a program, and how one reads it without running it;
# - which convention moves the score, and by how much; what the published scores of both programs say about it.

# %% [markdown]
# ## What you need
#
# About 35 minutes. The model (chapters 01 to 06), resizing (chapter 01). **No network**: where the weights are
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
from course import exercise, photograph, show
from musiq_ref import checkpoint, metrics, verify
from musiq_ref.checkpoint.weights import locate
from musiq_ref.model.parameters import flatten

# %% [markdown]
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
# Which one for what? The name is the data set it was fine-tuned on, and a model knows the flaws of its data set (chapter 08):
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
# If one of the authors' files is in the cache, we take it. If not, we make weights of the same model from integers (SPEC 9), write
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
# Ours and the authors' is (in, head, within the head). PyTorch keeps a linear layer as (out, in): transposed, and the heads
# in one axis. Both are *square*, so a forgotten transpose raises no error; exercise 1. Convolutions move two axes:

# %%
root = params["stem"]["conv_root"]["kernel"]
print("convolution: ours", root.shape, " pyiqa", pyiqa["conv_root.weight"].shape)
np.testing.assert_array_equal(pyiqa["conv_root.weight"], root.transpose(3, 2, 0, 1))
np.testing.assert_array_equal(pyiqa[q_pyiqa], kernel.reshape(config.width, -1).T)

# %% [markdown]
# A conversion is proven when nothing changes on the way there and back: not nearly, but every bit of every parameter.

# %%
for back in (mq.checkpoint.from_official(official), mq.checkpoint.from_pyiqa(pyiqa)):
    again = dict(flatten(back))
    assert again.keys() == dict(flatten(params)).keys()
    assert all(np.array_equal(again[path], array) for path, array in flatten(params))
print(f"{len(again)} tensors, there and back, equal to the bit")

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
# We change one at a time, starting from the authors', and last all together. (`mask_value` goes with `mask`.)


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
axis.barh(list(moved), [max(abs(change), 1e-6) for change in moved.values()], log=True)
axis.invert_yaxis()
weights = f"weights: {ours[0]}" if ours else "made-up weights"
axis.set(xlabel="|change of the score| (1e-6: none)", title=f"One convention at a time, {weights}")
plt.show()
assert moved["mask"] == moved["memory layout"] == 0

# %% [markdown]
# Two of them change nothing, ever: the mask, because padding is dropped before the model when a single image is scored (and hides tokens just as well when
# it is not, chapter 05), and the layout in memory, which is a matter of exchange. The sides differ for few image sizes. The divisor of the
# weights' deviation multiplies a whole filter by one factor, which the GroupNorm behind it divides out again, but for its
# ε: hardly anything is left. GELU's two forms differ a little everywhere, and the resize filter changes the pictures themselves.
# With the released weights, GELU and weight standardisation together move it by about 1e-4, the resize filter by 1e-3 to 1e-1 and more (SPEC 5):
# the model was trained with pictures filtered in one way and is shown pictures filtered in another.
#
# ## The published scores of both
#
# Five images of TID2013 (I03, I04, I06, I08, I19), scored with four released weights by both programs, as recorded in SPEC 5.
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
# So: **compare scores only within one program, one checkpoint and one kind of preparation** (size, crops, format). When a paper reports "MUSIQ 71.3",
# it takes all of these to know what that is.
#
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/15_real_weights.py`; try first.

# %% [markdown]
# ### Exercise 1: convert a projection
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
# ### Exercise 2: the detective
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
# ### Exercise 3: many crops, one score
#
# A model with $C$ outputs, several crops of one image: `logits` is $(K, C)$. pyiqa averages the *distributions* and takes
# the mean class of that. Return the score.
#
# <details><summary>Hint</summary>
#
# Softmax in each row, mean over the rows, then $\sum_k k\,p_k$ with $k = 1 \dots C$. The softmax of the mean logits is something else.
#
# </details>


# %% tags=["exercise-3"]
def my_score(logits):
    return ...


# %% tags=["check-3"]
def check(my):
    logits = 3 * np.random.default_rng(6).standard_normal((4, 10))
    wanted = mq.expected_score(logits)[0].score.mean()  # the mean of the scores is the same
    got = my(logits)
    assert np.isclose(got, wanted), f"you get {got:.4f}; it is {wanted:.4f}"


exercise(3, my_score, check)

# %% [markdown]
# ## In practice
#
# - **State it.** "MUSIQ, KonIQ weights of the authors, official conventions, whole image, native size" is a reproducible sentence.
# - `musiq-ref score *.jpg --checkpoint koniq --json` keeps all of it in its output.
# - **Whole image or crops?** MUSIQ was made for whole images of any size; a 12-megapixel photograph has 12,000 tokens, which takes time, not
#   memory (chapter 13). Crops see no composition, and their mean hides one bad corner.
# - **JPEG decoders** differ by a grey level here and there, and so do scores, in the third decimal. Compare programs on PNG.
# - **A file from a stranger**: prefer safetensors or `.npz`; never `torch.load(…, weights_only=False)`.
# - **Converting for another program**: `musiq-ref convert koniq -o koniq.safetensors --to pyiqa`; then score one image with both.

# %% [markdown]
# ## References
#
# - J. Ke et al.: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021; code and weights: google-research/musiq.
# - C. Chen, J. Mo: *IQA-PyTorch: PyTorch Toolbox for Image Quality Assessment*, 2022 (pyiqa).
# - N. Ponomarenko et al.: *Image database TID2013*, Signal Processing: Image Communication 2015.
# - M. Slaviero: *Sour Pickles*, Black Hat USA 2011 (why a pickle is a program).
# - The code: `musiq_ref/checkpoint/`, `musiq_ref/config.py` (class `Conventions`).
