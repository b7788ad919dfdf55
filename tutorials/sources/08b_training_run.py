# %% [markdown]
# # 08b · A real training run
#
# You have a loss, its gradient, and a way back through every layer. What is left is to take a step, and then a thousand more.
# Here you train a MUSIQ on your own processor, in less than a minute. It will learn to see noise. **But did it learn what we
# wanted?** The loss cannot tell you that, and the validation cannot either; the last section asks the model something that nobody asked it before.

# %% [markdown]
# ## What you will learn
#
# - why a step can be too long, with a model of one weight;
# - one training step of MUSIQ, part by part, and which parameters the very first step moves;
# - dropout and stochastic depth: what they do in training, what they do in the test, and how their gradients run;
# - to read the curves of a whole run, and to find out what it did and did not learn.

# %% [markdown]
# ## What you need
#
# About 55 minutes, of which your processor needs half a minute for the training. Chapter 07 (the way back), chapter 08
# (losses and metrics).

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display

import musiq_ref as mq
from course import exercise, photograph, quiz, show
from musiq_ref import explain, metrics, verify
from musiq_ref.model.parameters import flatten
from musiq_ref.ops import dropout as dropping

# %% [markdown]
# ## A toy: one weight
#
# Three photographs have a flaw of size $x = 1, 2, 3$, and people took off $t = 2, 4, 6$ points. Our model takes off $y = w\,x$. The
# right weight is plainly 2; we start at $w = 0$ and pretend not to know. With the loss $L = \tfrac13\sum \tfrac12 (w x - t)^2$:
#
# - at the start, $L = (4 + 16 + 36)/6 = 28/3$;
# - the gradient with respect to $w$ is $\tfrac13\sum (w x - t)\,x = -(2 + 8 + 18)/3 = -28/3$;
# - a step of descent is $w \leftarrow w - \eta \cdot \text{gradient}$. With the learning rate $\eta = 3/14$ it lands at
#   $0 + \tfrac{3}{14}\cdot\tfrac{28}{3} = 2$: home in one step.

# %%
x, t = np.array([1.0, 2, 3]), np.array([2.0, 4, 6])


def loss_and_gradient(w):
    d = w * x - t
    return (d * d / 2).mean(), (d * x).mean()


def descend(rate, steps=6):
    """Where w is after each step, from 0."""
    path = [0.0]
    for _ in range(steps):
        path.append(path[-1] - rate * loss_and_gradient(path[-1])[1])
    return np.array(path)


np.testing.assert_allclose(loss_and_gradient(0.0), [28 / 3, -28 / 3])
assert math.isclose(descend(3 / 14)[1], 2)
for rate in (1 / 14, 3 / 14, 6 / 14, 7 / 14):
    print(f"rate {rate:.3f}: w = {descend(rate).round(2)}")
assert abs(descend(1 / 14) - 2).argmin() == 6  # slowly nearer
np.testing.assert_allclose(descend(6 / 14), [0, 4, 0, 4, 0, 4, 0], atol=1e-12)  # for ever
assert np.all(np.diff(abs(descend(7 / 14) - 2)) > 0)  # farther with each step

# %%
line = np.linspace(-3, 7, 100)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), sharey=True)
for axis, (name, rate) in zip(
    axes, {"too small": 1 / 14, "twice the best": 6 / 14, "too large": 7 / 14}.items(), strict=True
):
    path = descend(rate, 4)
    axis.plot(line, [loss_and_gradient(w)[0] for w in line], color="0.7")
    axis.plot(path, [loss_and_gradient(w)[0] for w in path], "o-")
    axis.set(xlabel="w", title=f"{name}: rate {rate:.2f}", xlim=(-3, 7), ylim=(-2, 50))
axes[0].set_ylabel("loss")
plt.show()

# %% [markdown]
# Left: the loss creeps down. Middle: the step is twice as long as the best one, and jumps from one side of the valley to the
# other for ever. Right: a little longer still, and each jump lands higher. A learning rate is not a matter of taste, the
# **curvature of the loss** limits it; and MUSIQ's loss has another curvature for each of its many parameters. That is why
# a warm-up begins with small steps, and why Adam scales each parameter's step by the size of its recent gradients.
#
# ## One training step
#
# Images to scores, scores to a loss, the loss's gradient back to every parameter, a step of the optimiser. You know all the
# parts; here they are in a row, in a model small enough to train on two cores. (`ema`, an average of the weights over the steps, is
# switched off, and `epoch_images` and `side` are for pictures that are made on the way; ours are given.)

# %%
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.pictures.synthetic import photograph_crop
from musiq_ref.training.optimizers import adam_init, adamw, clip_by_global_norm
from musiq_ref.training.settings import recipe
from musiq_ref.training.step import batch_gradient

SIDE = 32  # of a training image; small, because it is trained here and now
small = {"layers": 2, "width": 32, "mlp_width": 64, "heads": 4, "patch_size": 16}
changes = {"epochs": 4, "batch": 8, "learning_rate": 1.5e-3, "warmup": 20, "micro_batch": 8}
whole = {"dataset": "csv", "epoch_images": 0, "side": 0}  # all of a table's images, as they are
settings = recipe("synthetic", model={**small, "longer_sides": [16]}, ema=0.0, **changes, **whole)
config = settings.config()
parameters = mq.complexity(config, (SIDE, SIDE)).parameters
print(f"{parameters:,} parameters, {settings.loss} loss, {settings.optimizer}")

# %% [markdown]
# The data: crops of two bundled photographs, with white noise of a random severity. The target is 100 for no noise, 0
# for the worst.


# %%
def noisy_example(number):
    """A crop (SIDE, SIDE, 3) with noise, and its score; four noises on each crop."""
    name = ("astronaut", "coffee")[number // 4 % 2]
    crop = photograph_crop(name, np.random.default_rng(number // 4), SIDE, SIDE)
    rng = np.random.default_rng((number, 1))
    severity = rng.random()
    return DISTORTIONS["white_noise"](crop, severity, rng), 100 * (1 - severity)


examples = [noisy_example(number) for number in range(320)]
figure, axes = plt.subplots(1, 8, figsize=(11, 1.9))
for axis, (pixels, score) in zip(axes, examples[4:12], strict=True):
    axis.imshow(pixels)
    axis.set(title=f"{score:.0f}", xticks=[], yticks=[])
figure.suptitle("two crops, four degrees of noise each; above them the target")
plt.show()

# %% [markdown]
# The more noise, the lower the target; the same crop has four different targets, so the picture's content cannot give the answer away.

# %%
params = mq.init_params(config, seed=settings.seed)
batch = examples[: settings.batch]
tokens = [mq.tokenize(pixels, config) for pixels, _ in batch]
aim = (np.array([score for _, score in batch]) - 50) / 29  # about 0, about 1 wide
before = batch_gradient(params, tokens, aim, config, "huber")
print("scores before any training:", before.scores)  # the head starts at 0
assert not before.scores.any()

# %% [markdown]
# The gradient of the whole batch is one nested dict, with the shape of the parameters. The head's kernel starts at 0, and
# a gradient that goes back through a product with 0 is 0. So in the very first step nothing learns but the head:

# %%
moved = [path for path, gradient in flatten(before.gradients) if np.any(gradient)]
print("gradients that are not 0:", moved)
assert moved == ["head/bias", "head/kernel"] or moved == ["head/kernel", "head/bias"]

# %% [markdown]
# From the second step on the head is not 0 any more, and the rest joins in. (`clip_by_global_norm` shortens a gradient whose length
# over all parameters is above a limit. `adamw` is Adam, which you write in exercise 2, with weight decay.)

# %%
clipped, norm = clip_by_global_norm(before.gradients, settings.clip)
state = adam_init(params)
losses_by_step = [before.loss]
stepped = params
for _ in range(20):
    result = batch_gradient(stepped, tokens, aim, config, "huber", micro_batch=8)
    clipped, norm = clip_by_global_norm(result.gradients, settings.clip)
    stepped, state = adamw(stepped, clipped, state, 1e-3)
    losses_by_step.append(result.loss)
print(f"norm of the last gradient {norm:.3f}; loss {np.array(losses_by_step[1:])}")
assert np.any(result.gradients["class_token"])
assert np.mean(losses_by_step[-5:]) < 0.8 * losses_by_step[0]

# %% [markdown]
# Twenty steps on the *same* eight images make the loss fall: the first thing to try when a training does not work. If
# a model cannot learn eight images by heart, look for a wrong gradient or an unsuitable learning rate; no amount of data helps.
#
# ## Training with noise: dropout and stochastic depth
#
# Learning by heart is easy for a network, and it is not what you want. One remedy is to disturb the network while it
# trains, so that it cannot rely on any single number.
#
# **Dropout** sets each number to 0 with a probability, the *rate*, and divides those that are left by $1 - \text{rate}$. With a rate of
# ½, and a coin for each of the numbers 2, 4, 6, 8: heads, tails, tails, heads gives 4, 0, 0, 16. Why the division? So
# that the mean over all throws is what it was. There are 16 throws; you can try them all.

# %%
numbers = np.array([2.0, 4, 6, 8])
throws = np.array([[i >> bit & 1 for bit in range(4)] for i in range(16)])  # all of them
dropped = numbers * throws / (1 - 0.5)
print("heads, tails, tails, heads:", dropped[0b1001])
print("mean over all throws:      ", dropped.mean(axis=0))
np.testing.assert_array_equal(dropped[0b1001], [4, 0, 0, 16])
np.testing.assert_array_equal(dropped.mean(axis=0), numbers)

# %% [markdown]
# **Stochastic depth** is bolder. It drops a whole branch of a block, attention or MLP, and only the residual path is left (chapter 06). Let a token have 10 on the
# residual path, and let the branch add 4, dropped with a rate of ¼. Then the result is 14 three times out of four and 10 once, which is
# 13 on average. But in the test the branch is always there: 14. As the authors define it, and so does the library, what is left is *not* divided by
# $1 - \text{rate}$: the branches speak a little louder in the test than they did on average in training.

# %%
show(dropping.dropout, dropping.drop_path)

# %%
rng = np.random.default_rng(0)
branch = np.full((40_000, 1), 4.0)  # many examples, one token
in_training = 10 + dropping.drop_path(branch, 0.25, rng)[0]
print(f"stochastic depth: {in_training.mean():.2f} in training, 14 in the test")
assert set(in_training.ravel()) == {10.0, 14.0}
assert abs(in_training.mean() - 13) < 0.1
rescaled = dropping.dropout(branch, 0.25, rng)[0]
print(f"dropout:          {rescaled.mean():.2f} in training, 4 in the test")
assert abs(rescaled.mean() - 4) < 0.1

# %% [markdown]
# And backward? A number that was multiplied by 0 on the way there gets no gradient on the way back, and the others' gradient is
# multiplied by what they were multiplied by. So **the same throw** must be used in both directions: the cache keeps it. A
# gradient check needs that, too. It calls the forward again and again, and must see the same throw each time:


# %%
def always_the_same_throw(x):
    return dropping.dropout(x, 0.5, np.random.default_rng(7))


def another_throw_each_time(x):
    return dropping.dropout(x, 0.5, rng)


numbers = rng.standard_normal((3, 5))
verify.check_vjp(always_the_same_throw, dropping.dropout_backward, [numbers])
try:
    verify.check_vjp(another_throw_each_time, dropping.dropout_backward, [numbers])
    passed = True
except verify.GradientError:
    passed = False
print("with another throw each time the check", "passes" if passed else "fails, as it should")
assert not passed

# %% [markdown]
# In MUSIQ, dropout acts on the embedded tokens, after attention and inside the MLP; a rate of its own drops attention weights. The rate of
# stochastic depth grows linearly from 0 in the first block to its full value in the last: what comes first is needed by all, and is kept.
# Let us disturb the bundled model while it looks at one photograph, a hundred times:

# %%
checkpoint = mq.load_checkpoint("demo")
trained_config = checkpoint.config
noise = mq.Noise(rng, stochastic_depth=0.2)
depth = trained_config.layers
print("rates by block:", [round(noise.path_rate(q, depth), 3) for q in range(depth)])
assert noise.path_rate(0, depth) == 0
assert noise.path_rate(depth - 1, depth) == 0.2 or depth == 1
token = mq.tokenize(photograph("coffee", longer_side=96), trained_config)
many = mq.batch([token] * 20)


def disturbed(**rates):
    """A hundred scores of the same photograph."""
    found = []
    for _ in range(5):
        logits, _ = mq.forward(
            checkpoint.params, many, trained_config, noise=mq.Noise(rng, **rates)
        )
        found.append(mq.expected_score(logits)[0].score)
    return np.concatenate(found)


# %%
clean = float(mq.expected_score(mq.forward(checkpoint.params, many, trained_config)[0])[0].score[0])
scatter = {
    "dropout 0.1": disturbed(dropout=0.1),
    "stochastic depth 0.5": disturbed(stochastic_depth=0.5),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), sharex=True)
for axis, (name, scores) in zip(axes, scatter.items(), strict=True):
    axis.hist(scores, bins=30)
    axis.axvline(clean, color="black", linestyle="--", label="undisturbed")
    axis.axvline(scores.mean(), color="C1", label="mean")
    axis.set(title=name, xlabel="score")
    print(f"{name:21} undisturbed {clean:.2f}, disturbed {scores.mean():.2f} ± {scores.std():.2f}")
axes[0].legend()
axes[0].set_ylabel("how often")
plt.show()
assert scatter["dropout 0.1"].std() > 0

# %% [markdown]
# The same photograph, the same weights, a hundred different answers. Dropout makes a cloud. Stochastic depth makes a heap
# for each set of branches that is left; with many blocks the heaps run into one another. Look where the mean lies: as a rule not at the undisturbed score. Each *layer* keeps its mean under dropout, but GELU, softmax and
# LayerNorm are not linear, and a mean does not pass through them unchanged. So noise belongs to training only, and a forgotten
# switch is a classic bug: scores that differ from call to call. `mq.score` never disturbs.
#
# ## A whole run
#
# The library's loop adds what a run needs: shuffled epochs, a warm-up and a cosine for the learning rate, validation on
# images held out **by group** (all four noises of a crop are on one side of the split; else the model is asked what
# it learned by heart), and a state on disk from which a stopped run goes on to the same bits. It reads what you would
# bring: a folder of images and a table.

# %%
folder = Path(tempfile.mkdtemp())
lines = ["path,score,group"]
for number, (pixels, score) in enumerate(examples):
    plt.imsave(folder / f"{number}.png", pixels)
    lines.append(f"{number}.png,{score:.3f},crop {number // 4}")
(folder / "table.csv").write_text("\n".join(lines) + "\n")
print("\n".join(lines[:3]))

# %% [markdown]
# One more thing is borrowed. The published training starts from a model that has seen ImageNet. From random filters a short
# run gets nowhere. So the recipe begins with filters that tell coarse from fine, and with a patch embedding fitted to the
# images, without their scores (`musiq_ref/training/initial.py`). From there on, everything is learned.
#
# On the command line the same is `musiq-ref train --recipe synthetic --data table.csv -o run --set dataset=csv …`. This cell
# takes ten seconds to half a minute.

# %%
from musiq_ref.training.curves import draw_curves
from musiq_ref.training.run import train

run = train(settings, folder / "run", folder / "table.csv", progress=False)
log = [json.loads(line) for line in run.log.read_text().splitlines()]
print(f"{sum('loss' in line for line in log)} steps; a line of the log: {log[0]}")
display(Image(draw_curves(run.log, folder / "curves.png"), width=800))

# %%
for line in log:
    if "epoch" in line:
        print(f"epoch {line['epoch']}: SRCC {line['srcc']:.3f}  RMSE {line['rmse']:5.1f}")
step_losses = [line["loss"] for line in log if "loss" in line]
constant = np.std([score for _, score in examples])  # RMSE of always answering the mean
print(f"always the mean: RMSE {constant:.1f}")
assert np.mean(step_losses[-20:]) < 0.7 * np.mean(step_losses[:20])
assert run.validation["srcc"] > 0.7
assert run.validation["rmse"] < 0.75 * constant

# %% [markdown]
# Read curves like these in this order. Does the loss fall at all? Does the validation follow? (If not, the model learned by heart, or
# the two parts are different worlds.) Is the RMSE below that of always giving the mean? Is SRCC still rising at the end? (Then train longer.)
# The loss jumps from step to step because every batch is another; trust the trend.
#
# ### What did it learn?
#
# The test that counts: another photograph, the cat, never seen in training, and five times as wide as anything in it (any size
# will do, chapter 01). And then a question that the training never asked: blur.

# %%
trained = mq.load_checkpoint(run.last)
cat = photograph("cat", longer_side=160)
spoilt = explain.severity_scores(cat, trained, ["white_noise", "gaussian_blur"])
explain.severity_curves(spoilt)

# %%
quality = -np.array(explain.severity.SEVERITIES)
order = {name: metrics.srcc(values, quality) for name, values in spoilt.items()}
print("SRCC with the true order:", {name: round(value, 2) for name, value in order.items()})
assert order["white_noise"] > 0.9
assert order["gaussian_blur"] < 0.5

# %% [markdown]
# Noise it judges well, on a photograph that it never saw. Blur it does not count as a flaw: no image of the training
# said that smooth can be bad. The smoother, the less noise, the better. That answers the question of this chapter. It
# learned what the data said, and the data did not say what we wanted. **A quality model knows the flaws of its data set**, be it
# this one or KonIQ-10k.
#
# ### The bundled model
#
# `mq.load_checkpoint("demo")` is made by the same loop, with many distortions instead of one, and in hours instead of
# seconds: `make train-demo`. Its card, `docs/demo-model.md`, says what it was trained on, how good it is, and what it is not.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/08b_training_run.py`; try first.

# %% [markdown]
# ### Exercise 1: keep the throw (★★, 8 minutes)
#
# Dropout of whole *columns*: for each feature (column of `x`, shape (N, D)) one throw, the same for all tokens. Rescale what is left.
# Return the result and a function that carries a gradient back.
#
# <details><summary>Hint</summary>
#
# The throw has shape (1, D): `rng.random((1, x.shape[1])) >= rate`. Divide it by `1 - rate` and multiply by it, in both directions.
# Inside `backward` you can use what the outer function has drawn.
#
# </details>


# %% tags=["exercise-1"]
def my_dropout(x, rate, rng):
    """Returns y, and the function from the gradient with respect to y to that of x."""

    def backward(dy):
        return ...

    y = ...
    return y, backward


# %% tags=["check-1"]
def check(dropout):
    x = np.random.default_rng(1).standard_normal((6, 4))
    y, _ = dropout(x, 0.5, np.random.default_rng(2))
    assert np.shape(y) == x.shape, f"the result has shape {np.shape(y)}, not {x.shape}"
    assert np.allclose(y / x, (y / x)[:1]), "a column is dropped for some tokens only"
    mean = np.mean([dropout(x, 0.25, np.random.default_rng(i))[0] for i in range(2000)], axis=0)
    assert np.allclose(mean, x, atol=0.2), "the mean over many throws is not x: rescale"
    verify.check_vjp(
        lambda x: dropout(x, 0.5, np.random.default_rng(5)), lambda dy, back: back(dy), [x]
    )


exercise(1, my_dropout, check)

# %% [markdown]
# ### Exercise 2: one step of Adam (★, 10 minutes)
#
# Adam keeps a running mean of the gradients, $m \leftarrow \beta_1 m + (1 - \beta_1)\,g$, and of their squares, $v \leftarrow \beta_2 v + (1 - \beta_2)\,g^2$. Both
# start at 0 and are therefore too small at first; divide them by $1 - \beta_1^t$ and $1 - \beta_2^t$, where $t = 1, 2, \dots$
# counts the steps. Then $\theta \leftarrow \theta - \eta\,\hat m / (\sqrt{\hat v} + \varepsilon)$.
#
# <details><summary>Hint</summary>
#
# Update $m$ and $v$ first. Correct copies of them, $\hat m$ and $\hat v$; return the uncorrected ones. Check yourself: in the first step
# $\hat m = g$ and $\hat v = g^2$, so every parameter moves by $\eta$, however small its gradient.
#
# </details>


# %% tags=["exercise-2"]
def my_adam(theta, g, m, v, t, rate, beta1=0.9, beta2=0.999, eps=1e-8):
    theta, m, v = ..., ..., ...
    return theta, m, v


# %% tags=["check-2"]
def check(step):
    from musiq_ref.training.optimizers import adam

    rng = np.random.default_rng(3)
    theirs = {"w": rng.standard_normal(4)}
    state, mine, m, v = adam_init(theirs), theirs["w"], np.zeros(4), np.zeros(4)
    for t in range(1, 6):
        g = rng.standard_normal(4) * [1, 1, 10, 0.1]
        theirs, state = adam(theirs, {"w": g}, state, 0.01)
        mine, m, v = step(mine, g, m, v, t, 0.01)
        assert np.allclose(mine, theirs["w"], rtol=1e-9), (
            f"after step {t} your parameters are {np.round(mine, 4)}, Adam's {theirs['w'].round(4)}"
        )


exercise(2, my_adam, check)

# %% [markdown]
# ## Quiz

# %%
quiz("08b")

# %% [markdown]
# ## In practice
#
# - **The published recipes** are `musiq-ref train --recipe koniq` (SGD, L1), `ava` (SGD, EMD) and so on: batches of 96 to 512 images of up to
#   512 native patches, from weights pre-trained on ImageNet, on accelerators. Their momentum and warm-up are published nowhere; the recipes say which values are our choice.
# - **Normalise targets.** A head that starts at 0 needs long to reach 60. Train on (score − mean)/standard deviation, and fold both into the head at the end.
# - **A learning rate that is too high** often shows within a hundred steps: the loss rises, or all scores become one number.
#   Clipping the gradient's norm turns a disaster into a slow start.
# - **Split by source.** Ten versions of one picture on both sides of the split give a beautiful, meaningless SRCC.
# - **Noise**: `--set dropout=0.1`, `--set stochastic_depth=0.1`. They help where data are few and the training is long. A run of four epochs only becomes slower.
# - **Never choose the epoch by the test part.**

# %% [markdown]
# ## References
#
# - J. Ke et al.: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, section 4.2.
# - N. Srivastava et al.: *Dropout: A Simple Way to Prevent Neural Networks from Overfitting*, JMLR 2014.
# - G. Huang et al.: *Deep Networks with Stochastic Depth*, ECCV 2016.
# - D. P. Kingma, J. Ba: *Adam: A Method for Stochastic Optimization*, ICLR 2015.
# - I. Loshchilov, F. Hutter: *Decoupled Weight Decay Regularization*, ICLR 2019 (AdamW).
# - V. Hosu, H. Lin, T. Sziranyi, D. Saupe: *KonIQ-10k*, IEEE Transactions on Image Processing 2020.
# - The code: `musiq_ref/training/run.py`, `musiq_ref/training/step.py`, `musiq_ref/training/optimizers.py`,
#   `musiq_ref/model/noise.py`.
