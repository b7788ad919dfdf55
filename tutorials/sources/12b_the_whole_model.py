# %% [markdown]
# # 12b · Your own implementation in PyTorch: the whole model, proven
#
# The stem of chapter 12 agrees at every stage. Now you add the encoder and the head, and get a score that is right to
# four digits. **Is a port whose score is that right a right port?** You will look at every stage, at
# every gradient, and at two more models that pass some test and are wrong.

# %% [markdown]
# ## What you will learn
#
# - to write attention, the encoder and the head as short PyTorch modules;
# - to tell a wrong stage from one that was handed wrong numbers;
# - to prove the backward, too: a right forward may have a wrong one;
# - what such a proof says, and what it does not.

# %% [markdown]
# ## What you need
#
# About 55 minutes; chapter 12; attention and the encoder (chapters 05 and 06); what `backward()` does in PyTorch.
# PyTorch comes with the extra `verify`: run this in a cell, then restart the kernel.
#
# ```
# %pip install -e "..[verify]" -c ../constraints.txt
# ```

# %%
from course import exercise, needs, photograph, quiz

needs("torch", "PyTorch", '%pip install -e "..[verify]" -c ../constraints.txt')

# %%
import itertools
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import musiq_ref as mq
from musiq_ref import verify
from musiq_ref.model.parameters import flatten
from musiq_ref.verify.adapters import compare_port, single_step
from musiq_ref.verify.ladder.stages import STEP
from musiq_ref.verify.torch_adapter import pyiqa_hooks, torch_port
from stem_in_pytorch import Conv, Pool, Stem, load, pad_same, stem_hooks

_ = torch.manual_seed(0)

# %% [markdown]
# ## A toy: three tokens, one of them padding
#
# Three tokens have the values 2, 4 and 100; the third is padding. All logits are 0. The first token may look at
# itself and the second, half and half: it receives $(2 + 4)/2 = 3$. If nobody tells it what is padding, it receives
# $(2 + 4 + 100)/3 = 35\tfrac13$. And if the mask is understood the other way round, as some functions of PyTorch do,
# it receives 100. Each time a number comes out, of the right shape.

# %%
value = torch.tensor([2.0, 4.0, 100.0])
valid = torch.tensor([True, True, False])
allowed = valid[:, None] & valid[None, :]  # who may look at whom
readings = {"as meant": allowed, "no mask": torch.ones(3, 3, dtype=bool), "reversed": ~allowed}
weights = {n: torch.zeros(3, 3).masked_fill(~m, -1e10).softmax(-1) for n, m in readings.items()}
received = {name: (A @ value)[0].item() for name, A in weights.items()}
print(received)
np.testing.assert_allclose(list(received.values()), [3, 106 / 3, 100], rtol=1e-6)

# %%
figure, axes = plt.subplots(1, 3, figsize=(7.5, 2.8), sharey=True)
for axis, (name, A) in zip(axes, weights.items(), strict=True):
    axis.imshow(A, cmap="cividis", vmin=0, vmax=1)
    for i, j in itertools.product(range(3), range(3)):
        color = "black" if A[i, j] > 0.5 else "white"
        axis.text(j, i, f"{A[i, j]:.2f}", ha="center", va="center", color=color)
    axis.set_xticks(range(3), ["2", "4", "100\n(padding)"])
    axis.set_yticks(range(3), ["2", "4", "100"])
    axis.set(title=f"{name}: {received[name]:.3g}", xlabel="looked at")
axes[0].set_ylabel("token that looks")
plt.show()

# %% [markdown]
# Row 0 is the token of the example. The last row at the left is the padding's own: it may look at nobody, so all its
# logits are −1e10, and their softmax is a third each. Nothing reads it; with $-\infty$ it would be NaN (chapter 05b).

# %% [markdown]
# ## What you start from: the fixture of chapter 12, and the tokens

# %%
folder = Path(tempfile.mkdtemp())
fixture = verify.make_fixture(folder / "reference")
config = fixture.config
tokens = mq.batch([mq.tokenize(fixture.image, config, "float32")])
STEM_HOOKS = stem_hooks(Stem())

# %% [markdown]
# ## Attention and the encoder
#
# From here on it is a plain Transformer (Eq. 3–11), and PyTorch has every part of it. Softmax and GELU are submodules
# here, not functions, because submodules can be watched. $n$ counts the class token.


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
# The block is pre-norm. The parts of the MLP get names instead of numbers, since weights and hooks go by name. ε and the
# GELU's formula are arguments, to be repaired later.


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
# The encoder looks up where a patch lies and at which scale, puts the class token in front (Eq. 2), and runs the
# blocks. A pair of tokens may look at each other if both are valid; the class token always is. The odd names are
# pyiqa's.


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
# `Musiq` inherits from `Stem` for one reason: the parts of the stem then have pyiqa's names, without a "stem." in
# front. With several outputs the score is the mean of a distribution over the classes 1 … C (not 0 … C − 1).


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
assert abs(score / reference - 1) < 1e-4

# %% [markdown]
# Here you would usually stop: less than a ten-thousandth off, "that will be float32". It is not.

# %% [markdown]
# ## The adapter
#
# `torch_port` does what `watch` of chapter 12 does, and more: it loads the weights, runs the backward as well,
# collects the gradients with respect to every hooked value and every parameter, and can put the reference's numbers
# in the place of yours. It wants three things: the module, the hooks, and how to call the module with an image.


# %%
def hooks_of(config):
    """{submodule: (stage, layout)} of a whole Musiq."""
    hooks = pyiqa_hooks(config) | STEM_HOOKS  # those with pyiqa's names are known to the kit
    hooks |= {"patches": ("patches", ""), "class_token": ("head/class_token", "")}
    encoder = "transformer_encoder"
    around = {"spatial": "spatial_embedding", "scale": "scale_embedding"}
    around |= {"input": "encoder/input", "encoder_norm": "encoder/norm"}
    hooks |= {f"{encoder}.{part}": (stage, "") for part, stage in around.items()}
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
    twins = {f"block1.{norm}.bias": f"stem/{norm}/bias" for norm in ("gn3", "gn_proj")}  # see below
    hooks = hooks_of(model.config)
    return torch_port(model, call, hooks, gradients=gradients, parameters=twins)


# %%
result = compare_port(fixture, port_of(first))
print(result)

# %% [markdown]
# The first difference is a few millionths. One more digit of tolerance, and nobody would have seen it. `nn.LayerNorm`
# adds 1e-5 under its root where the authors add 1e-6; `nn.GELU` uses the error function where the authors use the
# tanh approximation.

# %%
assert result.diagnosis.names == ["LayerNorm with ε 1e-5", "erf for tanh"]
assert result.first.name == "encoder/block_00/norm1"

# %% [markdown]
# ### Wrong, or only handed on?
#
# After the first mistake everything is wrong, right code included: it computes rightly from wrong numbers.
# **Single-step** mode separates the two. It gives every stage the reference's input, by the hooks: a hook may return
# something, and that takes the place of the output. What is wrong now is wrong by itself. (Gradients cannot flow
# through numbers put in, so they are left out.)

# %%
stepped = single_step(fixture, port_of(first, gradients=False))
alone = [rung.name for rung in stepped.rungs if rung.status == "differs"]
print(*alone, sep="\n")
assert alone[0] == "encoder/block_00/norm1"
assert {name.rpartition("/")[2] for name in alone[1:]} == {"gelu"}


# %% [markdown]
# Two kinds of stages, the two mistakes, and nothing else. (The ε of the other norms is just as wrong. But an ε
# weighs little where a token's numbers vary much.) Both ways to run, stage by stage:

# %%
figure, axis = plt.subplots(figsize=(8, 3.2))
stages = [rung.name for rung in stepped.rungs if rung.distance]
for judged, style, label in ((result, "o", "running freely"), (stepped, "^", "single-step")):
    excess = {rung.name: rung.excess for rung in judged.rungs}
    y = np.maximum([excess[name] for name in stages], 1e-2)
    axis.semilogy(y, style, markersize=5, fillstyle="full" if style == "o" else "none", label=label)
axis.axhline(1, color="0.4", linewidth=1)
axis.text(0, 1.2, "allowed", color="0.4")
axis.set(xlabel="stage, from the patches to the score", ylabel="error / allowed error")
axis.set_title("The same port, judged in two ways")
axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
plt.show()
assert sum(r.status == "differs" for r in result.rungs) > 10 * len(alone)
norms = [r for r in stepped.rungs if "norm" in r.name and r.name not in alone and r.distance]
assert [0.05 < r.excess < 1 for r in norms] == [True] * 4

# %% [markdown]
# Running freely, nearly every stage from the encoder on lies above the line. In single-step mode only the culprits do; the four triangles next below it are the other norms.
#
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
# "PASSED", and the count beside it is part of the answer: so many stages were compared, and the others were not. Those
# are the tokens, the losses, what the optimiser would do (exercise 3), the distribution that no hook watches but the score
# follows, and the gradient with respect to the image, which would have to go through tokens that are not PyTorch's.

# %%
missing = {r.name for r in result.rungs if r.status == "missing"} - {"gradient/image"}
kinds = {"integers", "layout", "hash_index", "scale_index", "mask", "pixels", "probabilities"}
assert {name.partition("/")[0] for name in missing} == kinds | {"loss", "step"}

# %% [markdown]
# ## Backward
#
# You have written no line of a backward: autograd did, from your forward. The reference's was derived and written by
# hand, in chapters 03 to 07. Two ways that share no code, and the comparison above found the same gradients on both.

# %%
backward = [r for r in result.rungs if r.name.startswith(("gradient/", "dparams/")) and r.distance]
worst = max(backward, key=lambda rung: rung.excess)
print(f"{len(backward)} gradients; the worst, {worst.name}: {worst.excess:.2f} of what is allowed")
assert all(rung.fine for rung in backward)
parameters = {f"dparams/{path}" for path, _ in flatten(fixture.params)}
assert parameters == {r.name for r in backward if r.name.startswith("dparams/")}


# %% [markdown]
# Does autograd make this check superfluous? No: it differentiates what you wrote, not what you meant. Here the
# statistics of the kernels are computed under `no_grad`, "because they are only statistics". The forward is right to
# the last digit.


# %%
class FrozenConv(Conv):
    """The same forward, but mean and standard deviation are constants to autograd."""

    def forward(self, input):
        w = self.weight.permute(2, 3, 1, 0)
        with torch.no_grad():
            std, mean = torch.std_mean(w, dim=(0, 1, 2), correction=0)
        w = self.standardized((w - mean) / (std + 1e-5)).permute(3, 2, 0, 1)
        return F.conv2d(pad_same(input, self.kernel_size[0], self.stride[0]), w, stride=self.stride)


# %%
frozen = compare_port(fixture, port_of(Musiq(config, conv=FrozenConv)))
print([rung.name for rung in frozen.rungs if rung.status == "differs"])
assert frozen.first.name.startswith("dparams/stem/conv")
assert frozen.diagnosis.names == ["standardisation's statistics taken as constants"]

# %% [markdown]
# Only the gradients with respect to the five kernels are wrong, and the score is perfect. No test of scores shows it.
# (In training, such a model would waste a part of each step on shifting and stretching its kernels, which the
# standardisation takes out again.)

# %% [markdown]
# ## The proof, on a trained model and a photograph
#
# A made-up model is a good test because nearly all its numbers matter. A trained one is what you will use, and it has
# other sizes: the bundled one here. The same class, other weights, a photograph. (The adapter knows a parameter by its
# values. Two it cannot tell apart: the outputs of `gn3` and `gn_proj` are added, so their biases have had the same
# gradient in every step of the training, and are equal. So `port_of` names these twins.)

# %%
coffee = photograph("coffee", longer_side=100)
trained = verify.make_fixture(folder / "trained", checkpoint="demo", image=coffee)
proof = compare_port(trained, port_of(Musiq(trained.config)))
print(proof)
assert proof.passed
assert not [r.name for r in proof.rungs if r.name.startswith("dparams/") and not r.distance]

# %% [markdown]
# In a terminal, or in your continuous integration, the same is `musiq-ref compare reference/ my_port.py:port`.

# %% [markdown]
# ## What "proven" means, and what it does not
#
# It means: for these weights and this image, every compared intermediate and gradient of your program is the
# reference's, no further off than rounding explains. Because made-up weights leave hardly a number without effect,
# that is strong evidence for the same function. It does not mean:
#
# - **that the reference is right.** It is compared with recorded numbers of the authors' program, by its own tests.
# - **anything about stages that were missing**, here the tokens and the losses.
# - **anything about inputs that the fixture does not have**: it is one image, in one batch, at one size.
# - **that the score is good.** Two programs can agree on a bad model.
#
# The third point deserves an example. This model takes the places of the patches from the first image of a batch, for
# all images. It passes: the fixture has one image.


# %%
class OneImage(Musiq):
    def forward(self, patches, hash_index, scale_index, mask):
        return super().forward(patches, hash_index[:1].expand_as(hash_index), scale_index, mask)


broken = OneImage(config)
assert compare_port(fixture, port_of(broken, gradients=False)).passed

# %%
pictures = [coffee, photograph("cat", longer_side=90)[:, :40]]
pair = mq.batch([mq.tokenize(picture, config, "float32") for picture in pictures])
logits, _ = mq.forward(fixture.params, pair._replace(patches=pair.patches.astype("f8")), config)
wanted = mq.model.head.expected_score(logits)[0].score
with torch.no_grad():
    scores = {m: m(*map(torch.from_numpy, pair[:4])).numpy() for m in (model, broken)}
print(f"reference {wanted}\nyours     {scores[model]}\nbroken    {scores[broken]}")
np.testing.assert_allclose(scores[model], wanted, rtol=1e-5)
assert abs(scores[broken][0] - wanted[0]) < 1e-4 < abs(scores[broken][1] - wanted[1])

# %% [markdown]
# So add what your program will meet. A panorama, one patch, your own weights: each is one more fixture
# (`musiq-ref fixture suite/ --suite` writes eight). A batch is not, for a fixture holds one image: compare the scores.
#
# And the question of the beginning? A score that is right to four digits was made with the wrong ε and the wrong
# GELU; a perfect one came with five wrong gradients; and a model that passed every stage of one image is wrong for
# the second of two. A score proves little, a ladder much, and a ladder of one image not everything.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/12b_the_whole_model.py`; try first.

# %% [markdown]
# ### Exercise 1: the fast attention (★, 6 minutes)
#
# The method `look` of `Attention` holds all $n^2$ weights. PyTorch has `F.scaled_dot_product_attention`, which does
# not, and chooses a fast implementation by itself. Write `look` with it. The check puts it into the model and
# compares. ($n$ counts the class token.)
#
# <details><summary>Hint</summary>
#
# It takes `attn_mask`, and divides by $\sqrt{D_h}$ itself. In a boolean mask True means "take part" — the opposite of
# `key_padding_mask` in `nn.MultiheadAttention`, where True means "leave out".
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
# ### Exercise 2: wrong, or handed on? (★★, 8 minutes)
#
# You get the port of a colleague. Return two lists of stages: those that are wrong **by themselves**, and those that
# differ when the port runs freely although they are right by themselves, because they were handed wrong numbers. The
# check gives you a port that is right, and two with numbers that are off by a ten-thousandth.
#
# <details><summary>Hint</summary>
#
# `compare_port(fixture, port, diagnose=False)` runs freely; `single_step(fixture, port)` is the other mode. Both return
# rungs with a `name` and a `status`.
#
# </details>


# %% tags=["exercise-2"]
def my_findings(fixture, port):
    wrong, handed_on = ..., ...
    return wrong, handed_on


# %% tags=["check-2"]
def check(findings):
    last = config.layers - 1
    for places in ([], [(last, "norm2")], [(0, "attention/query"), (last, "norm1")]):
        model = Musiq(config)
        for i, place in places:
            name = f"transformer_encoder.transformer.encoderblock_{i}.{place.replace('/', '.')}"
            part = model.get_submodule(name)
            part.register_forward_hook(lambda part, given, output: output * 1.0001)
        port = port_of(model, gradients=False)
        culprits = {f"encoder/block_{i:02d}/{place}" for i, place in places}
        free = compare_port(fixture, port, diagnose=False)
        innocent = {r.name for r in free.rungs if r.status == "differs"} - culprits
        wrong, handed_on = map(set, findings(fixture, port))
        both = {"wrong by themselves": (wrong, culprits), "handed on": (handed_on, innocent)}
        for label, (said, wanted) in both.items():
            off = f"lacks {len(wanted - said)} and has {len(said - wanted)} too many"
            assert said == wanted, (
                f"of {len(culprits)} wrong stages: your list of those {label} {off}"
            )


exercise(2, my_findings, check)

# %% [markdown]
# ### Exercise 3: the last rung (★, 6 minutes)
#
# If you want to train, one step of the optimiser must agree as well. The fixture's is plain SGD with momentum and
# weight decay (`STEP`), along the gradient of the score. Take that step with PyTorch, and return the parameters after
# it.
#
# <details><summary>Hint</summary>
#
# `torch.optim.SGD` takes the settings under the very names that they have in `STEP`. The gradients are those of
# `score.sum()`. Beware of optimisers that decay the weights apart from the gradient, such as AdamW.
#
# </details>

# %%
print(STEP)


# %% tags=["exercise-3"]
def my_step(model, score):
    """score: (1,), computed by the model.  Returns {name: parameter after the step}"""
    return ...


# %% tags=["check-3"]
def check(step):
    model = load(Musiq(config), fixture.params)
    after = step(model, model(*inputs))
    stages = {f"step/{name}": value.detach().numpy() for name, value in after.items()}
    given = len(stages), len(list(model.parameters()))
    assert given[0] == given[1], f"you return {given[0]} parameters; the model has {given[1]}"
    result = verify.compare(fixture, stages, diagnose=False)
    assert result.passed, f"{result.first.name} is {result.first.excess:.0f} times too far off"


exercise(3, my_step, check)

# %% [markdown]
# ## Quiz

# %%
quiz("12b")

# %% [markdown]
# ## In practice
#
# - **Fused layers have no inside to watch**, and hooks cost speed. Prove the plain module, then compare the fast one
#   with it.
# - **In float64**, where you can run both, a true difference stays as large as it is while rounding all but vanishes:
#   an error of one part in a hundred million, which float32 would hide, stands out (chapter 13).
# - **On a GPU** PyTorch may use TF32, with 10 bits of mantissa, in convolutions; the kit will rightly complain. Set
#   `torch.backends.cudnn.allow_tf32 = False` while you compare.
# - **Ports to other frameworks** go the same way: adapters for JAX, ONNX Runtime and Keras, or `.npy` files from any
#   language. See `docs/port-guide.md`.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021.
# - C. Chen, J. Mo: *IQA-PyTorch: PyTorch Toolbox for Image Quality Assessment* (pyiqa), 2022.
# - D. Hendrycks, K. Gimpel: *Gaussian Error Linear Units (GELUs)*, 2016: both formulas.
# - The code: `musiq_ref/verify/torch_adapter.py`; a whole port, tokens included: `musiq_ref/verify/torch_port.py`.
