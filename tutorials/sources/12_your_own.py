# %% [markdown]
# # 12 · Your own implementation in PyTorch, proven
#
# You know every line of the reference. Now you write MUSIQ once more, in PyTorch, and prove that it computes the same function:
# every intermediate and every gradient. On the way you make the mistakes that nearly everybody makes, most of them by
# trusting PyTorch's defaults. No error is raised, and the score looks right. The library's verification kit, `musiq_ref.verify`,
# finds them and says what they are.

# %% [markdown]
# ## What you will learn
#
# - to write the stem, the embeddings, the encoder and the head as short PyTorch modules, and to load the weights by name;
# - to see inside a module with forward hooks, and to give a name to a value that has none;
# - to compare rung by rung with a fixture, to read the report, and to tell a wrong stage from one that was handed wrong numbers;
# - to prove the backward, too: a right forward may have a wrong one;
# - what such a proof says, and what it does not.

# %% [markdown]
# ## What you need
#
# About 45 minutes; the stem (chapter 04), attention and the encoder (chapters 05 and 06), and a little PyTorch:
# what an `nn.Module` is, and what `backward()` does.
#
# **PyTorch is not part of the course's normal installation.** It comes with the extra `verify`. Run this in a cell, then restart the
# kernel:
#
# ```
# %pip install -e "..[verify]" -c ../constraints.txt
# ```
#
# A CPU is enough. The next cell stops here, and says why, if PyTorch is missing.

# %%
from course import exercise, needs, photograph, show

needs("torch", "PyTorch", '%pip install -e "..[verify]" -c ../constraints.txt')

# %%
import itertools
import math
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
from musiq_ref.verify.adapters import compare_port, run_port, single_step
from musiq_ref.verify.comparison.page import as_page
from musiq_ref.verify.comparison.report import group_of, grouped
from musiq_ref.verify.ladder.distance import distance
from musiq_ref.verify.ladder.stages import STEP, run_stages, validity
from musiq_ref.verify.torch_adapter import pyiqa_hooks, to_ours, torch_port

torch.manual_seed(0)

# %% [markdown]
# ## What you compare with
#
# The usual test of a port compares final scores, with a tolerance somebody guessed. It says *that* something is wrong, if it is wrong
# enough. A **fixture** says *where*: a folder with made-up weights, an image, and what the reference computes from them at every
# **stage**, with a tolerance for each. Two numbers are limited: the median error over the median value, and the length of the error over
# the length of the reference. The limits are measured: a few times what the reference itself loses when it runs in float32
# and not in float64.

# %%
folder = Path(tempfile.mkdtemp())
fixture = verify.make_fixture(folder / "reference")  # or: musiq-ref fixture reference/
config = fixture.config
stage = fixture.stages["encoder/block_00/norm1"]
print(f"{config.layers} blocks, width {config.width}, {config.outputs} outputs")
print(f"{len(fixture.stages)} stages; one of them is {stage.name}, {stage.shape}")
print(f"allowed there: median error {stage.tolerance.bulk:.1e}, length {stage.tolerance.norm:.1e}")

# %% [markdown]
# The stages stand in the order of computation, as the rungs of a ladder, and in groups. You climb from below: the first
# rung that differs is where to look, whatever comes after it.

# %%
for group, names in itertools.groupby(fixture.stages, group_of):
    lowest, *others = names
    print(f"{group:26} {1 + len(others):3} stages from {lowest}")

# %% [markdown]
# You need not give all of them: what you leave out is listed as "missing", and nothing is said about it. Here you leave
# out the integers, the resized pixels, and the losses. The tokens come from `mq.tokenize` of chapters 01 and 02, so **this chapter
# proves nothing about them**: only what follows them is yours.

# %%
tokens = mq.batch([mq.tokenize(fixture.image, config, "float32")])
B, N = tokens.mask.shape
patches = torch.from_numpy(tokens.patches[0]).permute(0, 3, 1, 2)  # PyTorch: channels first
print("tokens.patches:", tokens.patches.shape, " for PyTorch:", tuple(patches.shape))
print(f"{tokens.mask.sum()} of {N} tokens are valid, the others are padding")

# %% [markdown]
# ## Weights by name
#
# PyTorch stores a linear layer as (out, in), a convolution as (out, in, row, column), and calls both kernels and the scales of a
# norm "weight". `to_pyiqa` hands out the weights that way, under the names of pyiqa, the PyTorch port that most people run. If your
# modules have these names, they load with one call, and so do pyiqa's own files.

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
# `load_state_dict` is strict, and you load parts of the model before there is a whole. So you switch strictness off and look
# yourself that nothing is missing: a part without its weights would keep its random ones, and raise no error.


# %%
def load(part, params, prefix=""):
    """The weights of a part of the model, those whose names begin with the prefix."""
    tensors = {
        name.removeprefix(prefix): torch.tensor(array)
        for name, array in to_pyiqa(params).items()
        if name.startswith(prefix)
    }
    missing, _ = part.load_state_dict(tensors, strict=False)
    assert not missing, f"no weights were found for {missing}"
    return part


# %% [markdown]
# ## The stem, as one writes it at first
#
# Each kernel of the stem is standardised before it is used: mean 0, standard deviation 1, per output channel (chapter 04). You
# would write it like this, would you not?


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
# `self.standardized` does nothing, on purpose. PyTorch lets you watch the *output of a submodule*, so `nn.Identity` is
# the way to give a name to a value in the middle of a `forward`. You will find more of them below.


# %%
class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1 convolutions and a shortcut: (N, 64, h, w) to (N, 256, h, w)."""

    def __init__(self, conv):
        super().__init__()
        self.conv1, self.gn1, self.relu1 = conv(64, 64, 1), nn.GroupNorm(32, 64, 1e-4), nn.ReLU()
        self.conv2, self.gn2, self.relu2 = conv(64, 64, 3), nn.GroupNorm(32, 64, 1e-4), nn.ReLU()
        self.conv3, self.gn3 = conv(64, 256, 1), nn.GroupNorm(32, 256, 1e-4)
        self.conv_proj, self.gn_proj = conv(64, 256, 1), nn.GroupNorm(32, 256, 1e-4)
        self.sum = nn.Identity()

    def forward(self, x):
        shortcut = self.gn_proj(self.conv_proj(x))
        x = self.relu1(self.gn1(self.conv1(x)))
        x = self.relu2(self.gn2(self.conv2(x)))
        return F.relu(self.sum(self.gn3(self.conv3(x)) + shortcut))


# %% [markdown]
# Two different ε: 1e-4 in the bottleneck, 1e-6 after the first convolution. Which convolution and which pooling the stem
# uses are arguments, so that you can repair them later without writing the stem again.


# %%
class Stem(nn.Module):
    """(N, 3, P, P) to (N, 256, P/4, P/4)."""

    def __init__(self, conv, pool):
        super().__init__()
        self.conv_root, self.gn_root = conv(3, 64, 7, stride=2), nn.GroupNorm(32, 64, 1e-6)
        self.relu_root, self.pool, self.block1 = nn.ReLU(), pool(), Bottleneck(conv)

    def forward(self, x):
        x = self.relu_root(self.gn_root(self.conv_root(x)))  # (N, 64, P/2, P/2)
        return self.block1(self.pool(x))  # pooled: (N, 64, P/4, P/4)


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
# A **forward hook** is a function that PyTorch calls whenever a submodule has computed its output. You only have to say which
# submodule is which stage, and whether its output has the channels second ("NCHW") or lies as the ladder has it ("").

# %%
STEM_HOOKS = {"block1": ("stem/output", "NCHW")}  # {submodule: (stage, layout)}
for name in ("conv_root", "gn_root", "relu_root", "pool"):
    STEM_HOOKS[name] = (f"stem/{name}", "NCHW")
for name, _ in first.block1.named_children():  # conv1, gn1, relu1, …, sum
    STEM_HOOKS[f"block1.{name}"] = (f"stem/{name}", "NCHW")
for name, (stage, _) in list(STEM_HOOKS.items()):
    if "conv" in name:
        STEM_HOOKS[f"{name}.standardized"] = (f"{stage}/standardized", "")
assert {stage for stage, _ in STEM_HOOKS.values()} == {
    s for s in fixture.stages if s[:5] == "stem/"
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
result = verify.compare(fixture, watch(first, STEM_HOOKS, patches))
print(result)

# %% [markdown]
# Three mistakes, found in one go, although each hides the next. How? The kit takes the first stage that differs, and
# plants every known mistake that could show there into the *reference*, until the reference computes your numbers. With the culprit left
# in, it goes on to the next difference. ("Every stage" means every stage that you gave.)

# %%
assert [(f.name, f.stage) for f in result.diagnosis.findings] == [
    ("unbiased std", "stem/conv_root/standardized"),
    ("convolution padded on both sides", "stem/conv_root"),
    ("max-pool padded on both sides", "stem/pool"),
]

# %% [markdown]
# - `Tensor.std` divides by $n - 1$ unless told otherwise; the authors divide by $n$.
# - `padding=size // 2` pads 3 pixels before and 3 after. TensorFlow's "SAME" pads as little as it can, and puts the smaller half first: 2
#   and 3. The output has the same shape, from windows that lie one pixel further right and down.
# - The same in the max-pool: 0 before and 1 after.

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
# ## The stem, repaired
#
# How much to pad is a question of integers, and the library has the answer. PyTorch pads the last axis first.

# %%
show(same_padding)


# %%
def pad_same(x, size, stride, value=0.0):
    """x (N, C, h, w), padded as TensorFlow's "SAME" does."""
    (top, bottom), (left, right) = (same_padding(n, size, stride) for n in x.shape[-2:])
    return F.pad(x, (left, right, top, bottom), value=value)


class Conv(FirstConv):
    """A convolution with standardised weights and SAME padding."""

    def forward(self, x):
        w = self.weight.permute(2, 3, 1, 0)  # (row, column, in, out)
        std, mean = torch.std_mean(w, dim=(0, 1, 2), correction=0)
        w = self.standardized((w - mean) / (std + 1e-5)).permute(3, 2, 0, 1)
        return F.conv2d(pad_same(x, self.kernel_size[0], self.stride[0]), w, stride=self.stride)


class Pool(nn.Module):
    """Max-pool over 3×3, every second pixel; padding never wins."""

    def forward(self, x):
        return F.max_pool2d(pad_same(x, 3, 2, -math.inf), 3, stride=2)


# %%
stem = load(Stem(Conv, Pool), fixture.params)
result = verify.compare(fixture, watch(stem, STEM_HOOKS, patches))
assert result.passed
Counter(rung.status for rung in result.rungs)


# %% [markdown]
# "rounding" means: not the same bits, but no further off than float32 explains. And a mistake that is none: padding the max-pool with 0.
# After a ReLU nothing is below 0, so a 0 in the padding never changes a maximum. The kit rightly has nothing to say.


# %%
class ZeroPool(nn.Module):
    def forward(self, x):
        return F.max_pool2d(pad_same(x, 3, 2), 3, stride=2)


zero_padded = load(Stem(Conv, ZeroPool), fixture.params)
assert verify.compare(fixture, watch(zero_padded, STEM_HOOKS, patches)).passed

# %% [markdown]
# ## From features to embeddings
#
# The patch embedding of Eq. (1) flattens the features of a patch and multiplies them with one matrix. Flattened in which order? The
# trained matrix expects row, column, channel, and so do the weights in pyiqa's files. PyTorch's tensors have the channel
# first. Either way the shapes fit.

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
# ## Attention and the encoder
#
# From here on it is a plain Transformer (Eq. 3–11), and PyTorch has every part of it. Softmax and GELU are submodules here, not
# functions, because submodules can be watched. The logits between a pair of which one is padding become −1e10; Eq. (10) has $-\infty$, which would give NaN in
# rows that may attend to nothing.


# %%
class Attention(nn.Module):
    """Multi-head self-attention: z (B, n, D), allowed (B, 1, n, n) to (B, n, D)."""

    def __init__(self, config):
        super().__init__()
        D, self.H = config.width, config.heads
        self.query, self.key, self.value, self.out = (nn.Linear(D, D) for _ in range(4))
        self.logits, self.weights, self.heads = nn.Identity(), nn.Softmax(dim=-1), nn.Identity()

    def look(self, q, k, v, allowed):
        logits = self.logits(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))  # (B, H, n, n)
        return self.weights(logits.masked_fill(~allowed, -1e10)) @ v

    def forward(self, z, allowed):
        q, k, v = (
            f(z).unflatten(-1, (self.H, -1)).transpose(1, 2)  # (B, H, n, D_h)
            for f in (self.query, self.key, self.value)
        )
        heads = self.heads(self.look(q, k, v, allowed))  # (B, H, n, D_h)
        return self.out(heads.transpose(1, 2).flatten(2))


# %% [markdown]
# The block is pre-norm: it normalises what enters a branch, and adds the branch to what was not normalised. The parts of the MLP get names
# instead of numbers, since weights and hooks go by name. ε and the GELU's formula are arguments, to be repaired later.


# %%
class Block(nn.Module):
    """Eq. (3) and (4)."""

    def __init__(self, config, eps, gelu):
        super().__init__()
        D, M = config.width, config.mlp_width
        self.norm1, self.attention = nn.LayerNorm(D, eps), Attention(config)
        self.residual1, self.norm2 = nn.Identity(), nn.LayerNorm(D, eps)
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(D, M))
        self.mlp.add_module("gelu", nn.GELU(gelu))
        self.mlp.add_module("fc2", nn.Linear(M, D))

    def forward(self, z, allowed):
        z = self.residual1(z + self.attention(self.norm1(z), allowed))
        return z + self.mlp(self.norm2(z))


# %% [markdown]
# The encoder looks up where a patch lies and at which scale, puts the class token in front (Eq. 2), and runs the blocks. A pair of tokens may
# look at each other if both are valid; the class token always is. The odd names are pyiqa's.


# %%
class Encoder(nn.Module):
    """Patch embeddings (B, N, D) to the tokens after the last norm (B, 1 + N, D)."""

    def __init__(self, config, eps, gelu):
        super().__init__()
        D, G = config.width, config.grid_size
        self.posembed_input = nn.ParameterDict({"position_emb": torch.zeros(1, G * G, D)})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": torch.zeros(config.scales, D)})
        self.cls = nn.Parameter(torch.zeros(1, 1, D))
        self.spatial, self.scale, self.input = nn.Identity(), nn.Identity(), nn.Identity()
        self.transformer = nn.ModuleDict(
            {f"encoderblock_{i}": Block(config, eps, gelu) for i in range(config.layers)}
        )
        self.encoder_norm = nn.LayerNorm(D, eps)

    def forward(self, x, hash_index, scale_index, mask):
        x = self.spatial(x + self.posembed_input["position_emb"][0, hash_index])
        x = self.scale(x + self.scaleembed_input["scale_emb"][scale_index])
        z = self.input(torch.cat([self.cls.expand(len(x), 1, -1), x], dim=1))
        valid = F.pad(mask, (1, 0), value=True)  # (B, 1 + N)
        allowed = valid[:, None, :, None] & valid[:, None, None, :]
        for block in self.transformer.values():
            z = block(z, allowed)
        return self.encoder_norm(z)


# %% [markdown]
# ## The whole model
#
# `Musiq` inherits from `Stem` for one reason: the parts of the stem then have pyiqa's names, without a "stem." in front.
# With several outputs the score is the mean of a distribution over the classes 1 … C (not 0 … C − 1).


# %%
class Musiq(Stem):
    """Tokens to scores (B,)."""

    def __init__(self, config, conv=Conv, eps=1e-6, gelu="tanh"):
        super().__init__(conv, Pool)
        self.config, self.patches, self.class_token = config, nn.Identity(), nn.Identity()
        self.embedding = nn.Linear(config.stem_side**2 * 256, config.width)
        self.transformer_encoder = Encoder(config, eps, gelu)
        head = nn.Linear(config.width, config.outputs)
        self.head = head if config.outputs == 1 else nn.Sequential(head, nn.Softmax(dim=-1))

    def forward(self, patches, hash_index, scale_index, mask):
        x = self.patches(patches).flatten(0, 1)  # (B·N, P, P, 3), as the tokens have them
        x = super().forward(x.permute(0, 3, 1, 2))  # (B·N, 256, P/4, P/4)
        x = self.embedding(x.permute(0, 2, 3, 1).flatten(1)).unflatten(0, mask.shape)
        y = self.transformer_encoder(x, hash_index, scale_index, mask)  # (B, 1 + N, D)
        p = self.head(self.class_token(y[:, 0]))  # (B, C)
        if self.config.outputs == 1:
            return p[:, 0]
        return p @ torch.arange(1, self.config.outputs + 1, dtype=p.dtype)


# %% [markdown]
# Its first version trusts PyTorch once more: `nn.LayerNorm` with its default ε and `nn.GELU` with its default formula.

# %%
first = load(Musiq(config, eps=nn.LayerNorm(1).eps, gelu=nn.GELU().approximate), fixture.params)
inputs = [torch.from_numpy(array) for array in tokens[:4]]
reference = float(fixture.stages["score"].array[0])
with torch.no_grad():
    score = float(first(*inputs)[0])
print(f"score {score:.6f}, reference {reference:.6f}")
print(f"parameters: {sum(p.numel() for p in first.parameters()):,}")
assert abs(score / reference - 1) < 1e-3

# %% [markdown]
# Here you would usually stop: less than a thousandth off, "that will be float32". It is not.
#
# ## The adapter
#
# `torch_port` does what `watch` does, and more: it loads the weights, runs the backward as well, collects the gradients to every hooked
# value and to every parameter, and can put the reference's numbers in the place of yours. It wants three things: the module, the
# hooks, and how to call the module with an image.


# %%
def hooks_of(config):
    """{submodule: (stage, layout)} of a whole Musiq."""
    hooks = pyiqa_hooks(config) | STEM_HOOKS  # those with pyiqa's names are known to the kit
    hooks |= {"patches": ("patches", ""), "class_token": ("head/class_token", "")}
    encoder = "transformer_encoder"
    hooks[f"{encoder}.spatial"] = ("spatial_embedding", "")
    hooks[f"{encoder}.scale"] = ("scale_embedding", "")
    hooks[f"{encoder}.input"] = ("encoder/input", "")
    hooks[f"{encoder}.encoder_norm"] = ("encoder/norm", "")
    ours = ("attention/logits", "attention/weights", "attention/heads", "residual1", "mlp/gelu")
    for i, name in itertools.product(range(config.layers), ours):
        part = f"{encoder}.transformer.encoderblock_{i}.{name.replace('/', '.')}"
        hooks[part] = (f"encoder/block_{i:02d}/{name}", "")
    return hooks


# %%
def call(model, image):
    """Image (1, 3, H, W) in [0, 1], as the adapter gives it, to the score (1,)."""
    pixels = image[0].permute(1, 2, 0).detach().numpy()
    tokens = mq.batch([mq.tokenize(pixels, model.config, pixels.dtype)])
    patches, *places = (torch.from_numpy(array) for array in tokens[:4])
    return model(patches.requires_grad_(), *places)  # so that patches get a gradient, too


def port_of(model, gradients=True):
    return torch_port(model, call, hooks_of(model.config), gradients=gradients)


# %%
result = compare_port(fixture, port_of(first))
print(result)

# %% [markdown]
# The first difference is a few millionths. One more digit of tolerance, and nobody would have seen it. `nn.LayerNorm` adds
# 1e-5 under its root where the authors add 1e-6; `nn.GELU` uses the error function where the authors use the tanh
# approximation.

# %%
assert result.diagnosis.names == ["LayerNorm with ε 1e-5", "erf for tanh"]
assert result.first.name == "encoder/block_00/norm1"

# %% [markdown]
# ### Wrong, or only handed on?
#
# After the first mistake everything is wrong, right code included: it computes rightly from wrong numbers. **Single-step** mode separates
# the two. It gives every stage the reference's input, by the hooks: a hook may return something, and that takes the place of the output. What
# is wrong now is wrong by itself. (Gradients cannot flow through numbers put in, so they are left out.)

# %%
stepped = single_step(fixture, port_of(first, gradients=False))
alone = [rung.name for rung in stepped.rungs if rung.status == "differs"]
print(*alone, sep="\n")
assert alone[0] == "encoder/block_00/norm1"
assert {name.rpartition("/")[2] for name in alone[1:]} == {"gelu"}


# %% [markdown]
# Two kinds of stages, the two mistakes, and nothing else. (The ε of the second block's norms is just as wrong. But an ε shows
# only where a token's variance is small, and there it is not.) As a picture, one square a stage, its colour how many times what is
# allowed it is off, a cross where that is too much:


# %%
def draw_ladder(axis, result, title):
    """The rungs of a comparison from bottom to top, each with its stages from left to right."""
    squares = []
    groups = [g for g in grouped(result.rungs).items() if any(r.distance for r in g[1])]
    for row, (_, rungs) in enumerate(groups):
        for column, rung in enumerate(rungs):
            squares.append((column, row, rung.excess, rung.status))
    columns, rows, excess, status = map(np.array, zip(*squares, strict=True))
    given, bad = status != "missing", status == "differs"
    axis.scatter(columns[~given], rows[~given], marker="s", s=12, color="0.85")
    level = np.log10(np.clip(excess[given].astype(float), 1e-2, 1e4))
    drawn = axis.scatter(
        columns[given], rows[given], c=level, marker="s", s=22, vmin=-2, vmax=4, cmap="cividis"
    )
    axis.plot(columns[bad], rows[bad], "x", color="black", markersize=3.5)
    axis.set(yticks=range(len(groups)), yticklabels=[name for name, _ in groups])
    axis.set(title=title, xlabel="stage")
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)
    return drawn


# %%
figure, axes = plt.subplots(2, 1, figsize=(9, 4.6), height_ratios=(6, 5))
draw_ladder(axes[0], result, "every stage on what the one before it gave")
drawn = draw_ladder(axes[1], stepped, "single-step: every stage on the reference's input")
axes[1].set_xlim(axes[0].get_xlim())
bar = figure.colorbar(drawn, ax=axes, ticks=range(-2, 5), label="error, times what is allowed")
bar.ax.set_yticklabels([f"$10^{{{k}}}$" for k in range(-2, 5)])
plt.show()
assert sum(r.status == "differs" for r in result.rungs) > 10 * len(alone)

# %% [markdown]
# ### Repaired
#
# The two arguments that are wrong have the right values by default:

# %%
model = Musiq(config)
result = compare_port(fixture, port_of(model))
print(result)
assert result.passed
assert single_step(fixture, port_of(model, gradients=False)).passed

# %% [markdown]
# "PASSED", and the count beside it is part of the answer: so many stages were compared, and the others were not. Which? Those
# that you left out at the start, what the optimiser would do (exercise 4), the distribution that no hook watches but
# the score follows, and the gradient to the image, which would have to go through tokens that are not PyTorch's.

# %%
missing = [rung.name for rung in result.rungs if rung.status == "missing"]
print(Counter(name.partition("/")[0] for name in missing))
kinds = {"integers", "layout", "hash_index", "scale_index", "mask", "pixels", "probabilities"}
assert {name.partition("/")[0] for name in missing} == kinds | {"gradient", "loss", "step"}
assert [name for name in missing if name.startswith("gradient")] == ["gradient/image"]

# %% [markdown]
# ## Backward
#
# You have written no line of a backward: autograd did, from your forward. The reference's was derived and written by hand,
# in chapters 03 to 07. Two ways that share nothing, and the comparison above found the same gradients on both, to every value on the way
# and to every parameter.

# %%
backward = [r for r in result.rungs if r.name.startswith(("gradient/", "dparams/")) and r.distance]
worst = max(backward, key=lambda rung: rung.excess)
print(
    f"{len(backward)} gradients; the worst, {worst.name}, is {worst.excess:.2f} of what is allowed"
)
assert all(rung.fine for rung in backward)
assert {r.name[8:] for r in backward if r.name[:8] == "dparams/"} == set(ours)


# %% [markdown]
# Does autograd make this check superfluous? No: it differentiates what you wrote, not what you meant. Here the statistics of the kernels are computed
# under `no_grad`, "because they are only statistics". The forward is right to the last digit.


# %%
class FrozenConv(Conv):
    """The same forward, but mean and deviation are constants to autograd."""

    def forward(self, x):
        w = self.weight.permute(2, 3, 1, 0)
        with torch.no_grad():
            std, mean = torch.std_mean(w, dim=(0, 1, 2), correction=0)
        w = self.standardized((w - mean) / (std + 1e-5)).permute(3, 2, 0, 1)
        return F.conv2d(pad_same(x, self.kernel_size[0], self.stride[0]), w, stride=self.stride)


# %%
frozen = compare_port(fixture, port_of(Musiq(config, conv=FrozenConv)))
print([rung.name for rung in frozen.rungs if rung.status == "differs"])
for finding in frozen.diagnosis.findings:
    print(f"{finding.name}: {finding.about}")
assert frozen.first.name.startswith("dparams/stem/conv")
assert frozen.diagnosis.names == ["standardisation's statistics taken as constants"]

# %% [markdown]
# Only the gradients to the five kernels are wrong. Such a model scores perfectly, and trains badly.
#
# ### In double precision
#
# "No further off than float32 explains" leaves room for a small error that hides in the rounding. Run both in float64, and a
# true difference stays as large as it is, while rounding all but vanishes.

# %%
exact = run_stages(fixture.params, fixture.image, config)  # the reference, in float64
names = [n for n in exact if n in dict(hooks_of(config).values()) or n.startswith("gradient/")]
errors = {}
for dtype in (torch.float32, torch.float64):
    mine = run_port(fixture, port_of(Musiq(config).to(dtype)))
    errors[dtype] = {}
    for name in (n for n in names if n in mine):
        valid = validity(name, exact[name].shape, fixture.mask)
        mine_as_theirs = mine[name].reshape(exact[name].shape)
        errors[dtype][name] = distance(exact[name], mine_as_theirs, valid).norm

# %%
figure, axis = plt.subplots(figsize=(8, 3.2))
for (dtype, by_stage), style in zip(errors.items(), ("o-", "s--"), strict=True):
    label = str(dtype).removeprefix("torch.")
    axis.semilogy(list(by_stage.values()), style, markersize=3, linewidth=0.8, label=label)
turn = sum(not name.startswith("gradient/") for name in by_stage)
axis.axvline(turn - 0.5, color="0.5", linestyle=":")
axis.text(turn, 2e-5, "the way back")
axis.set(xlabel="stage, from the patches to the logits and back", ylabel="error / size")
axis.set(title="PyTorch and the reference", ylim=(1e-17, 1e-4))
axis.legend(loc="center right")
plt.show()
middle, best = (np.median(list(by_stage.values())) for by_stage in errors.values())
print(f"median {middle:.1e} in float32, {best:.1e} in float64")
assert middle > 1e7 * best
assert max(errors[torch.float64].values()) < 1e-11

# %% [markdown]
# The error falls with the unit of rounding, at every stage: nothing else is in it. An error of one part in a hundred million
# would have stopped the lower curve. This is the strongest statement in this chapter.
#
# ## The proof, on a trained model and a photograph
#
# A made-up model is a good test because all its numbers matter. A trained one is what you will use, and it has other sizes: the
# bundled one here. The same class, other weights, a photograph:

# %%
trained = verify.make_fixture(
    folder / "trained", checkpoint="demo", image=photograph("coffee", longer_side=100)
)
proof = compare_port(trained, port_of(Musiq(trained.config)))
print(proof)
assert proof.passed

# %%
figure, axis = plt.subplots(figsize=(9, 2.6))
drawn = draw_ladder(axis, proof, "the bundled model on a photograph")
bar = figure.colorbar(drawn, ax=axis, ticks=range(-2, 5), label="times what is allowed")
bar.ax.set_yticklabels([f"$10^{{{k}}}$" for k in range(-2, 5)])
plt.show()
assert not any(rung.status == "differs" for rung in proof.rungs)

# %% [markdown]
# The same comparison as a page for the browser, with the errors against depth and a histogram of each stage, and as values for a
# program. In a terminal it is `musiq-ref compare reference/ my_port.py:port --html report.html`; it ends with 0 if the port agrees, and with 1 if
# it does not, so your continuous integration can run it.

# %%
page = folder / "report.html"
page.write_text(as_page(proof), encoding="utf-8")
print(f"report.html: {page.stat().st_size // 1000} kB, complete in itself")
print({key: proof.to_dict()[key] for key in ("passed", "mode", "first_divergence")})


# %% [markdown]
# ## What "proven" means, and what it does not
#
# It means: for these weights and this image, every compared intermediate and gradient of your program is the reference's, no further off than
# rounding explains. Because made-up weights leave no number without effect, that is strong evidence for the same function. It does not mean:
#
# - **that the reference is right.** It is compared with recorded numbers of the authors' program, by its own tests.
# - **anything about stages that were missing**, here the tokens and the losses.
# - **anything about inputs that the fixture does not have**: it is one image, in one batch, at one size.
# - **that the score is good.** Two programs can agree on a bad model.
#
# The third point deserves an example. This model takes the places of the patches from the first image of a batch, for all images. It passes: the
# fixture has one image.


# %%
class OneImage(Musiq):
    def forward(self, patches, hash_index, scale_index, mask):
        return super().forward(patches, hash_index[:1].expand_as(hash_index), scale_index, mask)


broken = OneImage(config)
assert compare_port(fixture, port_of(broken, gradients=False)).passed

# %%
pictures = [photograph("coffee", longer_side=100), photograph("cat", longer_side=90)[:, :40]]
pair = mq.batch([mq.tokenize(picture, config, "float32") for picture in pictures])
logits, _ = mq.forward(fixture.params, pair._replace(patches=pair.patches.astype("f8")), config)
wanted = mq.model.head.expected_score(logits)[0].score
with torch.no_grad():
    scores = {m: m(*map(torch.from_numpy, pair[:4])).numpy() for m in (model, broken)}
print(f"reference {wanted}\nyours     {scores[model]}\nbroken    {scores[broken]}")
np.testing.assert_allclose(scores[model], wanted, rtol=1e-5)
assert abs(scores[broken][0] - wanted[0]) < 1e-4 < abs(scores[broken][1] - wanted[1])

# %% [markdown]
# So add what your program will meet: a batch of different images, a panorama, one patch, your own weights. Each is one more fixture.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/12_your_own.py`; try first.

# %% [markdown]
# ### Exercise 1: the fast attention
#
# The method `look` of `Attention` holds all $n^2$ weights. PyTorch has `F.scaled_dot_product_attention`, which does not, and chooses a fast
# implementation by itself. Write `look` with it. The check puts it into the model and compares. ($n$ counts the class token.)
#
# <details><summary>Hint</summary>
#
# It takes `attn_mask`, and divides by $\sqrt{D_h}$ itself. In a boolean mask True means "take part" — the opposite of `key_padding_mask` in
# `nn.MultiheadAttention`, where True means "leave out".
#
# </details>


# %% tags=["exercise-1"]
def my_look(q, k, v, allowed):
    """q, k, v: (B, H, n, D_h);  allowed: boolean (B, 1, n, n);  returns (B, H, n, D_h)"""
    return ...


# %% tags=["check-1"]
def check(look):
    model = Musiq(config)
    for block in model.transformer_encoder.transformer.values():
        block.attention.look = look
    result = compare_port(fixture, port_of(model, gradients=False))
    first = result.first.name if result.first else ""
    named = f"; the kit says: {', '.join(names)}" if (names := result.diagnosis.names) else ""
    assert result.passed, f"{first} is the first stage that differs{named}"


exercise(1, my_look, check)


# %% [markdown]
# ### Exercise 2: a backward of your own
#
# Autograd keeps what it needs, which may be more than you would. With a `torch.autograd.Function` you say yourself what is kept and how the gradient
# is computed. The one below standardises a kernel; write its backward, in PyTorch. Chapter 04 derives it.
#
# <details><summary>Hint</summary>
#
# `musiq_ref/ops/weight_standardization.py` has the two lines in NumPy, in the docstring of `standardize_backward`; here ddof is 0. Sums and means
# run over `dim=(0, 1, 2)`, and the mean that was subtracted must be subtracted from the gradient, too.
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
# ### Exercise 3: which stages are wrong by themselves?
#
# You get the port of a colleague. Return two things: the first stage that differs when it runs freely ("" if none does), and the list of all
# stages that are wrong by themselves. The check gives you one that is right, and two with numbers that are off by a ten-thousandth.
#
# <details><summary>Hint</summary>
#
# `compare_port(fixture, port, diagnose=False)` is quick; `single_step(fixture, port)` is the other mode. Both return rungs with a `name` and a
# `status`, and `first`, which may be None.
#
# </details>


# %% tags=["exercise-3"]
def my_findings(fixture, port):
    first, wrong = ..., ...
    return first, wrong


# %% tags=["check-3"]
def check(findings):
    for places in ([], [(1, "norm2")], [(0, "attention/query"), (1, "norm1")]):
        model = Musiq(config)
        for i, place in places:
            name = f"transformer_encoder.transformer.encoderblock_{i}.{place.replace('/', '.')}"
            part = model.get_submodule(name)
            part.register_forward_hook(lambda part, given, output: output * 1.0001)
        wanted = [f"encoder/block_{i:02d}/{place}" for i, place in places]
        first, wrong = findings(fixture, port_of(model, gradients=False))
        start = wanted[0] if wanted else ""
        assert first == start, f"a port breaks first at {start!r}, and you say {first!r}"
        assert list(wrong) == wanted, (
            f"wrong by themselves are {wanted}; you say {list(wrong)[:4]} …"
        )


exercise(3, my_findings, check)

# %% [markdown]
# ### Exercise 4: the last rung
#
# If you want to train, one step of the optimiser must agree as well. The fixture's is plain SGD with momentum and weight decay (`STEP`), along the
# gradient of the score. Take that step with PyTorch, and return the parameters after it.
#
# <details><summary>Hint</summary>
#
# `torch.optim.SGD` takes the settings under the very names that they have in `STEP`. The gradients are those of `score.sum()`. Beware of
# optimisers that decay the weights apart from the gradient, such as AdamW.
#
# </details>

# %%
print(STEP)


# %% tags=["exercise-4"]
def my_step(model, score):
    """score: (1,), computed by the model.  Returns {name: parameter after the step}"""
    return ...


# %% tags=["check-4"]
def check(step):
    model = load(Musiq(config), fixture.params)
    after = step(model, model(*inputs))
    stages = {f"step/{name}": value.detach().numpy() for name, value in after.items()}
    given = len(stages), len(list(model.parameters()))
    assert given[0] == given[1], f"you return {given[0]} parameters; the model has {given[1]}"
    result = verify.compare(fixture, stages, diagnose=False)
    assert result.passed, f"{result.first.name} is {result.first.excess:.0f} times too far off"


exercise(4, my_step, check)

# %% [markdown]
# ## In practice
#
# - **Start with the kit, not with the port.** A first stage that agrees after ten minutes is worth more than a whole model that is off by a
#   little after a day.
# - **PyTorch's defaults are somebody's conventions**: `std` with $n-1$, LayerNorm with 1e-5, GELU with erf, symmetric padding. So are those of every other
#   framework; Keras's LayerNorm adds 1e-3. Write down every ε.
# - **Do not loosen a tolerance to make a test pass.** It was measured. If it is exceeded, something is different.
# - **Hooks cost speed, and `torch.compile` and fused layers remove what they watch.** Prove the plain module, then compare the fast one with it.
# - **On a GPU** PyTorch may use TF32, with 10 bits of mantissa, in convolutions; the kit will rightly complain. Set
#   `torch.backends.cudnn.allow_tf32 = False` while you compare.
# - **Ports to other frameworks** go the same way: adapters for JAX, ONNX Runtime and Keras, or `.npy` files from any language. See
#   `docs/port-guide.md`.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021.
# - C. Chen, J. Mo: *IQA-PyTorch: PyTorch Toolbox for Image Quality Assessment* (pyiqa), 2022.
# - S. Qiao, H. Wang, C. Liu, W. Shen, A. Yuille: *Micro-Batch Training with Batch-Channel Normalization and Weight Standardization*, 2019.
# - D. Hendrycks, K. Gimpel: *Gaussian Error Linear Units (GELUs)*, 2016: both formulas.
# - The code: `musiq_ref/verify/torch_adapter.py`; a whole port, tokens included: `musiq_ref/verify/torch_port.py`.
