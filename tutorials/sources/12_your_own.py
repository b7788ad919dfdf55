# %% [markdown]
# # 12 · Your own implementation in PyTorch: the stem, proven
#
# You know every line of the reference. Now you write MUSIQ once more, in PyTorch, and prove that it computes the same
# function. You begin at the bottom, with the stem, and make the mistakes that nearly everybody makes, most of them by
# trusting PyTorch's defaults. No error is raised, and **every shape is right. Are the numbers?** The library's
# verification kit, `musiq_ref.verify`, finds out. Chapter 12b goes on to the score and back.

# %% [markdown]
# ## What you will learn
#
# - to write the stem as short PyTorch modules, and to load the weights by name;
# - to see inside a module with forward hooks, and to give a name to a value that has none;
# - to compare rung by rung with a fixture, and to read the report;
# - why two convolutions, or two ways to flatten, of the same shape are not the same function.

# %% [markdown]
# ## What you need
#
# About 50 minutes; the stem (chapter 04), the ladder (chapter 11), and a little PyTorch: what an `nn.Module` is.
#
# **PyTorch is not part of the course's normal installation.** It comes with the extra `verify`. Run this in a cell,
# then restart the kernel:
#
# ```
# %pip install -e "..[verify]" -c ../constraints.txt
# ```
#
# A CPU is enough. The next cell stops here, and says why, if PyTorch is missing.

# %%
from course import exercise, needs, quiz, show

needs("torch", "PyTorch", '%pip install -e "..[verify]" -c ../constraints.txt')

# %%
import itertools
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import musiq_ref as mq
from musiq_ref import verify
from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.model.parameters import flatten
from musiq_ref.ops.convolution import same_padding
from musiq_ref.verify.comparison.report import group_of
from musiq_ref.verify.torch_adapter import to_ours
from stem_in_pytorch import Bottleneck, Conv, Pool, Stem, load, pad_same, stem_hooks

_ = torch.manual_seed(0)

# %% [markdown]
# ## A toy: one patch of 4×4 pixels
#
# Every row of the patch is 1, 2, 3, 4. The kernel is 3×3 and sums the three pixels of a row (ones in its middle row,
# zeros above and below). It moves by 2. Two windows fit in a row, so 2×2 numbers come out. But where do the windows
# begin? One pixel of padding is needed on one side. Put it **after** the row: the windows see 1, 2, 3 and 3, 4, 0,
# which gives 6 and 7. Put one pixel on **both** sides, as `padding=1` does: they see 0, 1, 2 and 2, 3, 4, which gives
# 3 and 9.

# %%
patch = torch.tensor([[1.0, 2.0, 3.0, 4.0]] * 4)[None, None]  # (1, 1, 4, 4)
kernel = torch.zeros(1, 1, 3, 3)
kernel[0, 0, 1] = 1  # the middle row
after = F.conv2d(F.pad(patch, (0, 1, 0, 1)), kernel, stride=2)
both = F.conv2d(patch, kernel, stride=2, padding=1)
print(after[0, 0], both[0, 0], sep="\n")
assert after.shape == both.shape == (1, 1, 2, 2)
assert after[0, 0, 0].tolist() == [6, 7]
assert both[0, 0, 0].tolist() == [3, 9]

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2))
for axis, name, first in zip(
    axes, ("padding after", "padding on both sides"), (0, -1), strict=True
):
    for pixel in range(-1, 5):
        inside = 0 <= pixel < 4
        face = "white" if inside else "0.85"
        axis.add_patch(plt.Rectangle((pixel - 0.5, 0), 1, 0.8, fc=face, ec="0.5"))
        axis.text(pixel, 0.4, str(pixel + 1 if inside else 0), ha="center", va="center")
    for k, style in enumerate(("-", "--")):
        start = first + 2 * k - 0.42
        axis.plot([start, start + 2.84], [1.05 + 0.22 * k] * 2, style, lw=5, label=f"window {k}")
    axis.set(title=name, xlim=(-1.6, 4.6), ylim=(-0.1, 1.5), yticks=[], xticks=[])
    axis.spines[:].set_visible(False)
plt.show()

# %% [markdown]
# The bars are the two windows. The same pixels, the same kernel, the same shape of the result, and no number in
# common. PyTorch pads on both sides when it is asked for `padding=1`. TensorFlow, in which the authors' weights were
# trained, puts the single pixel after. Nothing but numbers can tell you.

# %% [markdown]
# ## What you compare with
#
# A **fixture** (chapter 11) is a folder with made-up weights, an image, and what the reference computes from them at
# every **stage**, with a tolerance for each. Two numbers are limited: the median error over the median value, and the
# length of the error over the length of the reference. The limits are measured: a few times what the reference itself
# loses when it runs in float32 and not in float64 (chapter 11b).

# %%
folder = Path(tempfile.mkdtemp())
fixture = verify.make_fixture(folder / "reference")  # or: musiq-ref fixture reference/
config = fixture.config
stage = fixture.stages["encoder/block_00/norm1"]
print(f"{config.layers} blocks, width {config.width}, {config.outputs} outputs")
print(f"{len(fixture.stages)} stages; one of them is {stage.name}, {stage.shape}")
print(f"allowed there: median error {stage.tolerance.bulk:.1e}, length {stage.tolerance.norm:.1e}")

# %% [markdown]
# The stages stand in the order of computation, as the rungs of a ladder, and in groups.

# %%
for group, names in itertools.groupby(fixture.stages, group_of):
    lowest, *others = names
    print(f"{group:26} {1 + len(others):3} stages from {lowest}")

# %% [markdown]
# You need not give all of them: what you leave out is listed as "missing", and nothing is said about it. The
# tokens come from `mq.tokenize` of chapters 01 and 02, so **this chapter proves nothing about them**: only what follows
# them is yours.

# %%
tokens = mq.batch([mq.tokenize(fixture.image, config, "float32")])
B, N = tokens.mask.shape
patches = torch.from_numpy(tokens.patches[0]).permute(0, 3, 1, 2)  # PyTorch: channels first
print("tokens.patches:", tokens.patches.shape, " for PyTorch:", tuple(patches.shape))
print(f"{tokens.mask.sum()} of {N} tokens are valid, the others are padding")

# %% [markdown]
# ## Weights by name
#
# PyTorch stores a linear layer as (out, in), a convolution as (out, in, row, column), and calls both kernels and the
# scales of a norm "weight". `to_pyiqa` hands out the weights that way, under the names of pyiqa, the PyTorch port
# that most people run. If your modules have these names, they load with one call, and so do pyiqa's own files.

# %%
theirs = to_pyiqa(fixture.params)
ours = dict(flatten(fixture.params))
for mine, name in (
    ("stem/conv_root/kernel", "conv_root.weight"),
    ("stem/gn_root/scale", "gn_root.weight"),
    ("patch_embedding/kernel", "embedding.weight"),
):
    print(f"{mine:24} {ours[mine].shape!s:16} {name:18} {theirs[name].shape}")


# %% [markdown]
# `load_state_dict` is strict, and you load parts of the model before there is a whole. So you switch strictness off
# and look yourself that nothing is missing: a part without its weights would keep its random ones, and raise no
# error.


# %%
show(load)

# %% [markdown]
# ## The stem, as one writes it at first
#
# Each kernel of the stem is standardised before it is used: mean 0, standard deviation 1, per output channel (chapter
# 04). You would write it like this, would you not?


# %%
class FirstConv(nn.Conv2d):
    """A convolution with standardised weights. It holds two mistakes."""

    def __init__(self, c_in, c_out, size, stride=1):
        super().__init__(c_in, c_out, size, stride, padding=size // 2, bias=False)
        self.standardized = nn.Identity()

    def forward(self, x):
        w = self.weight.permute(2, 3, 1, 0)  # (row, column, in, out), as in the ladder
        w = (w - w.mean(dim=(0, 1, 2))) / (w.std(dim=(0, 1, 2)) + 1e-5)
        w = self.standardized(w).permute(3, 2, 0, 1)
        return F.conv2d(x, w, stride=self.stride, padding=self.padding)


# %% [markdown]
# `self.standardized` does nothing, on purpose. PyTorch lets you watch the *output of a submodule*, so an
# `nn.Identity` gives a name to a value in the middle of a `forward`. You will find another in the bottleneck. The
# bottleneck and the stem around it are written down in `tutorials/stem_in_pytorch.py`, so that chapter 12b can use
# them again:


# %%
show(Bottleneck, Stem)

# %% [markdown]
# Two different ε: 1e-4 in the bottleneck, 1e-6 after the first convolution. Which convolution and which pooling the
# stem uses are arguments, so that you can exchange them. The first version of the pooling is PyTorch's own:


# %%
def first_pool():
    return nn.MaxPool2d(3, stride=2, padding=1)  # the third mistake


# %%
first = load(Stem(FirstConv, first_pool), fixture.params)
with torch.no_grad():
    print(tuple(patches.shape), "→", tuple(first(patches).shape))

# %% [markdown]
# The shape is right. Are the numbers?
#
# ## Hooks
#
# A **forward hook** is a function that PyTorch calls whenever a submodule has computed its output. You only have to
# say which submodule is which stage, and whether its output has the channels second ("NCHW") or lies as the ladder
# has it ("").

# %%
show(stem_hooks)
STEM_HOOKS = stem_hooks(first)
assert {stage for stage, _ in STEM_HOOKS.values()} == {
    stage for stage in fixture.stages if stage.startswith("stem/")
}


# %%
def watch(module, hooks, *inputs):
    """Runs a module; returns what the hooked submodules gave, as {stage: array}."""
    seen, handles = {}, []
    for name, (stage, layout) in hooks.items():

        def see(part, given, output, stage=stage, layout=layout):  # PyTorch gives the first three
            seen[stage] = to_ours(output.numpy(), layout, config)

        handles.append(module.get_submodule(name).register_forward_hook(see))
    with torch.no_grad():
        module(*inputs)
    for handle in handles:
        handle.remove()
    return seen


# %% [markdown]
# That is all it takes to compare. Read the report in three parts: how many stages of each group agree; where the first
# difference is, and how large; what the kit makes of it.

# %%
result = result_at_first = verify.compare(fixture, watch(first, STEM_HOOKS, patches))
print(result)

# %% [markdown]
# Three mistakes, found in one go, although each hides the next. How? The kit takes the first stage that differs, and
# plants every known mistake that could show there into the *reference*, until the reference computes your numbers.
# With the culprit left in, it goes on to the next difference. ("Every stage" means every stage that you gave.)
# Chapter 11b does it step by step.

# %%
assert [(f.name, f.stage) for f in result.diagnosis.findings] == [
    ("unbiased std", "stem/conv_root/standardized"),
    ("convolution padded on both sides", "stem/conv_root"),
    ("max-pool padded on both sides", "stem/pool"),
]

# %% [markdown]
# - `Tensor.std` divides by $n - 1$ unless told otherwise; the authors divide by $n$.
# - `padding=size // 2` pads 3 pixels before and 3 after. TensorFlow's "SAME" pads as little as it can, and puts the
#   smaller half first: 2 and 3. The output has the same shape, from windows that lie one pixel further right and
#   down.
# - The same happens in the max-pool: 0 before and 1 after. (The pixel that you put after is never read, as in the toy, so
#   "padded before only" gives the same numbers, and the report says so.)

# %%
P = config.patch_size
figure, axis = plt.subplots(figsize=(8, 2.4))
axis.axvspan(-0.5, P - 0.5, color="0.9", label="pixels of the patch")
rows = ((1, "SAME", same_padding(P, 7, 2)[0], ""), (0, "padding=3", 3, "//"))
for row, name, before, hatch in rows:
    starts = np.arange(P // 2) * 2 - before
    for i in (0, 1, P // 2 - 1):  # two windows at the start, and the last
        bar = [(starts[i] - 0.5, 7)]
        axis.broken_barh(bar, (row + 0.2 * (i % 2), 0.5), fc="none", ec="C0", hatch=hatch)
    print(f"{name:10} first window {starts[0]} … {starts[0] + 6}, last from {starts[-1]}")
axis.set(xlabel="pixel", yticks=[0.35, 1.35], yticklabels=["padding=3", "SAME"], ylim=(-0.1, 1.9))
axis.set_title("Windows of the first convolution, in one row of a patch")
axis.legend(loc="upper center", ncols=2)
plt.show()

# %% [markdown]
# The toy again, with 7 pixels in a window: each of PyTorch's windows begins one pixel further left than the authors',
# all along the row.

# %% [markdown]
# ## The stem, repaired
#
# How much to pad is a question of integers, and the library has the answer. PyTorch pads the last axis first. The
# repaired convolution and pooling are in the same file as the stem:

# %%
show(same_padding, pad_same, Conv, Pool)

# %%
stem = load(Stem(Conv, Pool), fixture.params)
result = verify.compare(fixture, watch(stem, STEM_HOOKS, patches))
assert result.passed
Counter(rung.status for rung in result.rungs)


# %% [markdown]
# "rounding" means: not the same bits, but no further off than float32 explains. And a mistake that is none: padding
# the max-pool with 0. After a ReLU nothing is below 0, so a 0 in the padding never changes a maximum. The kit rightly
# has nothing to say.


# %%
class ZeroPool(nn.Module):
    def forward(self, x):
        return F.max_pool2d(pad_same(x, 3, 2), 3, stride=2)


zero_padded = load(Stem(Conv, ZeroPool), fixture.params)
assert verify.compare(fixture, watch(zero_padded, STEM_HOOKS, patches)).passed

# %% [markdown]
# ## From features to embeddings
#
# The patch embedding of Eq. (1) flattens the features of a patch and multiplies them with one matrix. Flattened in
# which order? The trained matrix expects row, column, channel, and so do the weights in pyiqa's files. PyTorch's
# tensors have the channel first. Either way the shapes fit.

# %%
side, D = config.stem_side, config.width
embedding = load(nn.Linear(side * side * 256, D), fixture.params, "embedding.")
with torch.no_grad():
    features = stem(patches)  # (N, 256, P/4, P/4)
    by_channel = embedding(features.flatten(1))
    by_row = embedding(features.permute(0, 2, 3, 1).flatten(1))  # (N, D)

# %%
wrong = verify.compare(fixture, {"patch_embedding": by_channel.numpy()})
right = verify.compare(fixture, {"patch_embedding": by_row.numpy()})
print("channel first:", wrong.diagnosis.names)
print("row, column, channel:", "passed" if right.passed else right.first)
assert wrong.diagnosis.names == ["features flattened channel first"]
assert right.passed

# %% [markdown]
# The answer to the question of the beginning: of the stem and the embedding as one writes them at first, every shape
# was right, and not one stage.

# %%
assert all(rung.status == "differs" for rung in result_at_first.rungs if rung.distance)
assert all(r.shape == fixture.stages[n].shape for n, r in watch(first, STEM_HOOKS, patches).items())

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/12_your_own.py`; try first.

# %% [markdown]
# ### Exercise 1: the patch embedding as a convolution (★★, 8 minutes)
#
# Many ports write the patch embedding as a convolution: its kernel is as large as the feature map of a patch, so it
# fits exactly once. The matrix of `theirs["embedding.weight"]` is (D, side·side·256), flattened as row, column,
# channel. Make PyTorch's kernel (D, 256, side, side) of it.
#
# <details><summary>Hint</summary>
#
# First give the second axis back its three axes, in the order in which they were flattened. Then move them.
#
# </details>


# %% tags=["exercise-1"]
def my_kernel(weight, side):
    """weight: (D, side·side·256);  returns (D, 256, side, side)"""
    return ...


# %% tags=["check-1"]
def check(kernel):
    given = torch.tensor(theirs["embedding.weight"]).float()
    made = kernel(given, side)
    wanted = (D, 256, side, side)
    assert tuple(made.shape) == wanted, f"the kernel has shape {tuple(made.shape)}, not {wanted}"
    with torch.no_grad():
        bias = torch.tensor(theirs["embedding.bias"]).float()
        y = F.conv2d(features, made, bias)[:, :, 0, 0]
    result = verify.compare(fixture, {"patch_embedding": y.numpy().reshape(B, N, D)})
    named = ", ".join(result.diagnosis.names) if result.diagnosis else ""
    assert result.passed, f"the shape is right, the numbers are not; the kit says: {named}"


exercise(1, my_kernel, check)


# %% [markdown]
# ### Exercise 2: a backward of your own (★★★, 15 minutes)
#
# Autograd keeps what it needs, which may be more than you would. With a `torch.autograd.Function` you say yourself
# what is kept and how the gradient is computed. The one below standardises a kernel; write its backward, in PyTorch.
# Chapter 04 derives it.
#
# <details><summary>Hint</summary>
#
# `standardize_backward` in `musiq_ref/ops/weight_standardization.py` has it in NumPy, under the formula; here ddof is 0.
# Sums and means run over `dim=(0, 1, 2)`, and the mean that was subtracted must be subtracted from
# the gradient, too.
#
# </details>


# %% tags=["exercise-2"]
def my_standardize_backward(dy, centred, sigma):
    """dy, centred = w − mean: (k, k, I, O);  sigma: (1, 1, 1, O);  returns dw (k, k, I, O)"""
    return ...


# %% tags=["check-2"]
def check(backward):
    class Standardize(torch.autograd.Function):
        @staticmethod
        def forward(ctx, w):
            centred = w - w.mean(dim=(0, 1, 2), keepdim=True)
            sigma = (centred**2).mean(dim=(0, 1, 2), keepdim=True).sqrt()
            ctx.save_for_backward(centred, sigma)
            return centred / (sigma + 1e-5)

        @staticmethod
        def backward(ctx, dy):
            return backward(dy, *ctx.saved_tensors)

    w = torch.tensor(np.random.default_rng(1).standard_normal((2, 2, 3, 4)), requires_grad=True)
    y = Standardize.apply(w)
    dy = torch.tensor(np.random.default_rng(2).standard_normal(y.shape))
    (mine,) = torch.autograd.grad(y, w, dy)
    assert mine.shape == w.shape, f"the gradient has shape {tuple(mine.shape)}"
    assert abs(mine.sum()) < 1e-9, (
        "adding a constant to a kernel changes nothing, yet Σ dw is not 0"
    )
    assert abs((mine * w).sum()) < 1e-3, "scaling a kernel changes nothing, yet Σ dw·w is not 0"
    assert torch.autograd.gradcheck(Standardize.apply, w, raise_exception=False), "gradcheck fails"


exercise(2, my_standardize_backward, check)

# %% [markdown]
# ## Quiz
#
# Click on an answer, and it says whether it is right.

# %%
quiz("12")

# %% [markdown]
# ## In practice
#
# - **Start with the kit, not with the port.** A first stage that agrees after ten minutes is worth more than a whole
#   model that is off by a little after a day.
# - **PyTorch's defaults are somebody's conventions**: `std` with $n-1$, symmetric padding, LayerNorm with 1e-5, GELU
#   with the error function. So are those of every other framework; Keras's LayerNorm adds 1e-3. Write down every ε.
# - **Do not loosen a tolerance to make a test pass.** It was measured. If it is exceeded, something is different.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021.
# - C. Chen, J. Mo: *IQA-PyTorch: PyTorch Toolbox for Image Quality Assessment* (pyiqa), 2022.
# - S. Qiao, H. Wang, C. Liu, W. Shen, A. Yuille: *Micro-Batch Training with Batch-Channel Normalization and Weight
#   Standardization*, 2019.
# - The code: `tutorials/stem_in_pytorch.py`, `musiq_ref/verify/torch_adapter.py`.
