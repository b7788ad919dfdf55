# %% [markdown]
# # 08 · Losses, metrics, and a real training run
#
# So far the weights fell from the sky. Here they are learned: a loss says how wrong the model is, its gradient goes back
# through everything you derived, and an optimiser takes a step. And because a loss that falls proves little, you learn to
# measure what the field reports, SRCC and PLCC, and to say how far such a number can be trusted. At the end you train a MUSIQ
# on your own processor and test it on a photograph that it never saw.

# %% [markdown]
# ## What you will learn
#
# - what L1, MSE and Huber make of the same votes, and why two of the published recipes' losses could not be swapped;
# - the earth mover's distance and cross-entropy over ordered classes, forward and backward;
# - SRCC, PLCC, KRCC and RMSE by hand: what each sees, and what it is blind to;
# - bootstrap intervals, and which published differences are smaller than their own uncertainty;
# - one training step, number by number; then a whole run, its curves, and what it did and did not learn.

# %% [markdown]
# ## What you need
#
# About 45 minutes, of which your processor needs ten seconds for the training. Chapter 03 (backward passes); the softmax's backward from chapter
# 05.

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display

import musiq_ref as mq
from course import exercise, explore, photograph, show
from musiq_ref import explain, losses, metrics, verify
from musiq_ref.model.head import expected_score
from musiq_ref.ops.softmax import softmax, softmax_backward  # noqa: F401, for exercise 2

# %% [markdown]
# ## Losses of a score
#
# Three ways to punish a prediction $y$ for its distance $d = y - t$ from the target:
#
# | loss | $h(d)$ | gradient | used for |
# |---|---|---|---|
# | L1 | $\lvert d\rvert$ | $\mathrm{sign}(d)$ | KonIQ-10k, SPAQ, PaQ-2-PiQ (the authors) |
# | MSE | $d^2$ | $2d$ | most other quality models |
# | Huber | $d^2/2$ near 0, else $\delta(\lvert d\rvert - \delta/2)$ | $d$, clipped to $\pm\delta$ | this library's small models |

# %%
show(losses.huber, losses.huber_backward)

# %%
d = np.linspace(-3, 3, 121)
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for name, style in (("l1", "-"), ("mse", "--"), ("huber", ":")):
    forward, backward = losses.LOSSES[name]
    curve, slope = [], []
    for x in d:
        loss, cache = forward(np.array([x]), np.array([0.0]))
        curve.append(loss)
        slope.append(backward(1.0, cache)[0])
    axes[0].plot(d, curve, style, label=name, linewidth=2)
    axes[1].plot(d, slope, style, label=name, linewidth=2)
axes[0].set(xlabel="d = y − t", ylabel="loss", title="what a mistake costs", ylim=(0, 5))
axes[1].set(xlabel="d = y − t", ylabel="d loss / d y", title="how hard it pulls")
axes[0].legend()
plt.show()

# %% [markdown]
# The right picture is the one to remember. An outlier pulls MSE with a force that grows without limit, L1 always with the
# same. But L1 pulls as hard at a distance of 0.01 as at 50, so near the goal it overshoots and jitters; Huber calms down there.
#
# What do they want? Let a model answer one number to ten voters, of whom two were in a bad mood:

# %%
votes = np.array([70, 72, 74, 75, 76, 77, 79, 80, 10, 12.0])
candidates = np.linspace(0, 100, 10_001)
best = {}
for name in ("l1", "mse", "huber"):
    forward, _ = losses.LOSSES[name]
    cost = [forward(np.full(len(votes), c), votes)[0] for c in candidates]
    best[name] = candidates[int(np.argmin(cost))]
    print(f"{name:6} is least at {best[name]:.2f}")
print(f"mean {votes.mean():.2f}, median {np.median(votes):.2f}")
assert math.isclose(best["mse"], votes.mean(), abs_tol=0.01)
assert 74 <= best["l1"] <= 75  # anywhere between the two middle votes
assert best["l1"] - 1 < best["huber"] < best["l1"] + 1

# %% [markdown]
# MSE wants the mean, L1 the median, and Huber with a small $\delta$ nearly the median. The choice of the loss is a choice of what the score *means*.
#
# ## Losses of a distribution
#
# AVA has no scores but votes: how many people gave 1, 2, …, 10. MUSIQ then predicts a distribution $\mathbf{p} = \text{softmax}(\mathbf{x})$ over the
# $C = 10$ classes. The classes are **ordered**: to predict 6 where people said 7 is nearly right. Cross-entropy,
# $-\sum_k t_k \log p_k$, does not know that. The earth mover's distance does: it asks how much probability has to be carried how far,
# which for ordered classes is a difference of cumulative sums,
#
# $$e = \Big(\tfrac1C \sum_k |D_k|^r\Big)^{1/r}, \qquad D_k = \sum_{j \le k} (p_j - t_j), \qquad r = 2.$$

# %%
C = 10
k = np.arange(1, C + 1)


def bell(centre, width=0.8):
    """Logits of a bell-shaped distribution over 1 … C."""
    return -((k - centre) ** 2) / (2 * width**2)


target, _ = softmax(bell(3.0))
shifts = np.arange(0, 7)
cross_entropy, emd = [], []
for shift in shifts:
    x = bell(3.0 + shift)[None]
    cross_entropy.append(losses.cross_entropy(x, target[None])[0])
    emd.append(losses.emd(x, target[None], r=1)[0])

# %% [markdown]
# The prediction has the right shape and is `shift` classes too high. For $r = 1$ the distance is exactly that shift, over $C$:

# %%
np.testing.assert_allclose(emd[:5], shifts[:5] / C, atol=2e-3)
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].bar(k - 0.2, target, 0.4, label="people")
axes[0].bar(k + 0.2, softmax(bell(5.0))[0], 0.4, hatch="//", label="model, shift 2")
axes[0].set(xlabel="class", ylabel="probability", xticks=k, title="the same shape, shifted")
axes[0].legend()
axes[1].plot(shifts, np.array(emd) / emd[1], "o-", label="EMD, r = 1")
axes[1].plot(shifts, np.array(cross_entropy) / cross_entropy[1], "s--", label="cross-entropy")
axes[1].set(xlabel="shift in classes", ylabel="loss, shift 1 = 1", title="what each says of it")
axes[1].legend()
plt.show()

# %% [markdown]
# Cross-entropy punishes by the logarithm of the probability that the model gave to what people said; it explodes for a
# confident mistake, whatever the distance means. Nor is it 0 for a perfect prediction. And if the model is sharp, it cannot tell near from far at all:

# %%
people = np.eye(C)[[2]]  # all voted 3
said = {}
for wrong in (4, 9):
    sharp = np.where(k == wrong, 8.0, 0.0)[None]  # nearly all on one class
    ce, distance = (loss(sharp, people)[0] for loss in (losses.cross_entropy, losses.emd))
    print(f"model says {wrong}: cross-entropy {ce:.3f}, EMD {distance:.3f}")
    said[wrong] = ce, distance
assert math.isclose(said[4][0], said[9][0])  # blind to the order
assert said[9][1] > 2 * said[4][1]

# %% [markdown]
# In Jupyter, move the prediction and watch the gradient of both losses to the probabilities' logits. Bars above 0 will
# be lowered by a step of descent, bars below raised.


# %%
def draw(shift):
    """The gradients of both losses to the logits."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.6))
    for axis, name in zip(axes, ("cross_entropy", "emd"), strict=True):
        forward, backward = losses.LOSSES[name]
        _, cache = forward(bell(3.0 + shift)[None], target[None])
        axis.bar(k, backward(1.0, cache)[0])
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set(
            xlabel="class", ylabel="d loss / d logit", xticks=k, title=f"{name}, shift {shift}"
        )


explore(draw, shift=range(2, 7))

# %% [markdown]
# ### Backward of the EMD
#
# From the last line to the first. The root and the mean: $\partial e/\partial D_k = \mathrm{sign}(D_k)\,(|D_k|/e)^{r-1}/C$. The cumulative sum: $p_j$ is in every
# $D_k$ with $k \ge j$, so $\mathrm{d}p_j = \sum_{k \ge j} \mathrm{d}D_k$, a cumulative sum from the other end. Then the softmax of chapter 05. The gradient of
# cross-entropy is simpler: the logarithm undoes the exponential, and $\mathbf{p} - \mathbf{t}$ is left.

# %%
rng = np.random.default_rng(0)
x, t = rng.standard_normal((3, C)), rng.dirichlet(np.ones(C), 3)  # (B, C)
_, cache = losses.cross_entropy(x, t)
p, _ = softmax(x)
np.testing.assert_allclose(losses.cross_entropy_backward(1.0, cache), (p - t) / 3, atol=1e-15)
for name in ("emd", "cross_entropy"):
    forward, backward = losses.LOSSES[name]
    error = verify.check_vjp(
        lambda x, forward=forward: forward(x, t), lambda dy, c, b=backward: b(dy, c), [x]
    )
    print(f"{name:14} gradient check: {error:.0e}")

# %% [markdown]
# The $1/3$ is there because a loss is the **mean** over the batch. The published score of a distribution is its mean, $\sum_k k\,p_k$:

# %%
scores = expected_score(x)[0].score
print(scores)
np.testing.assert_allclose(scores, (p * k).sum(axis=1))

# %% [markdown]
# ## Metrics: what is reported
#
# A loss of 4.1 says little: of which scale, of which data? The field reports how well predictions **follow** people's scores:
#
# - **PLCC**, Pearson's correlation: does a straight line relate them?
# - **SRCC**, Spearman's: Pearson's of the *ranks*. Does a rising curve relate them?
# - **KRCC**, Kendall's: of all pairs of images, in how many do they agree which is better, minus in how many not?
# - **RMSE**: how far off, in points.

# %%
predictions, people = np.array([62.0, 40, 75, 75, 20]), np.array([55.0, 48, 90, 70, 30])


def pearson(x, y):
    """Σ(x − x̄)(y − ȳ) / √(Σ(x − x̄)²·Σ(y − ȳ)²)"""
    x, y = x - x.mean(), y - y.mean()
    return (x @ y) / math.sqrt((x @ x) * (y @ y))


ranks = [
    np.array([3, 2, 4.5, 4.5, 1]),
    np.array([3, 2, 5, 4, 1]),
]  # equal scores share the mean of their ranks
assert math.isclose(metrics.plcc(predictions, people), pearson(predictions, people))
assert math.isclose(metrics.srcc(predictions, people), pearson(*ranks))

# %%
agree = disagree = tied = 0
for i in range(5):
    for j in range(i):
        sign = (predictions[i] - predictions[j]) * (people[i] - people[j])
        agree, disagree, tied = agree + (sign > 0), disagree + (sign < 0), tied + (sign == 0)
print(f"of 10 pairs {agree} agree, {disagree} disagree, {tied} is tied")
assert math.isclose(metrics.krcc(predictions, people), (agree - disagree) / math.sqrt(9 * 10))
assert math.isclose(
    metrics.rmse(predictions, people), math.sqrt(((predictions - people) ** 2).mean())
)

# %% [markdown]
# Four models on the same images. None is right, and no single metric says so of all:

# %%
rng = np.random.default_rng(1)
truth = rng.uniform(10, 90, 60)
noise = rng.standard_normal(60)
four = {
    "noisy": truth + 8 * noise,
    "bent": 100 * (truth / 100) ** 4,
    "30 points too low": truth - 30,
    "right but for one": np.where(np.arange(60) == np.argmin(truth), 250, truth),
}
measured = {name: {m: f(x, truth) for m, f in metrics.METRICS.items()} for name, x in four.items()}
assert math.isclose(measured["bent"]["srcc"], 1)
assert measured["bent"]["plcc"] < 0.95
assert math.isclose(measured["30 points too low"]["plcc"], 1)
assert measured["30 points too low"]["rmse"] > 25
assert measured["right but for one"]["srcc"] > measured["right but for one"]["plcc"] + 0.2

# %%
figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), sharex=True)
for axis, (name, x) in zip(axes, four.items(), strict=True):
    axis.plot([0, 100], [0, 100], color="0.7", linewidth=1)
    axis.plot(truth, x, "o", markersize=3)
    m = measured[name]
    axis.set_title(f"{name}\nSRCC {m['srcc']:.2f}  PLCC {m['plcc']:.2f}\nRMSE {m['rmse']:.0f}")
    axis.set_xlabel("people")
axes[0].set_ylabel("model")
plt.show()

# %% [markdown]
# SRCC has no gradient (ranks are steps), so nothing can be trained with it directly; it is what you report, not what you descend.
# Some papers fit a logistic curve before PLCC, which flatters a bent model; MUSIQ's numbers are without.
#
# ### How far can a number be trusted?
#
# Take other images from the same world, and SRCC will be another. The **bootstrap** imitates that with the images at hand: draw as many,
# with replacement, and measure again; many times. The middle 95 % is an interval.

# %%
x = four["noisy"]
resampled = []
for _ in range(1000):
    drawn = rng.integers(len(x), size=len(x))  # a prediction and its target stay together
    resampled.append(metrics.srcc(x[drawn], truth[drawn]))
by_hand = np.quantile(resampled, [0.025, 0.975])
low, high = metrics.bootstrap_interval(metrics.srcc, x, truth)
print(f"SRCC {metrics.srcc(x, truth):.3f}, interval {low:.3f} to {high:.3f}, by hand {by_hand}")
np.testing.assert_allclose(by_hand, [low, high], atol=0.02)

# %% [markdown]
# Now the appendix: its three model sizes have an SRCC of 0.916, 0.918 and 0.916 on KonIQ-10k, whose test part has about
# 2,000 images. We make up a model of that quality, and ask how wide its interval is:

# %%
counts, intervals = [100, 500, 2000], []
rho = 2 * math.sin(math.pi * 0.916 / 6)  # Pearson's, at which normal scores have this Spearman's
for n in counts:
    quality = rng.standard_normal(n)
    guess = rho * quality + math.sqrt(1 - rho**2) * rng.standard_normal(n)
    intervals.append(metrics.bootstrap_interval(metrics.srcc, guess, quality, resamples=300))
    print(f"{n:5} images: {intervals[-1][0]:.3f} to {intervals[-1][1]:.3f}")
width = intervals[-1][1] - intervals[-1][0]
assert width > 3 * 0.002

# %%
figure, axis = plt.subplots(figsize=(6, 2.6))
for n, (low, high) in zip(counts, intervals, strict=True):
    axis.plot([low, high], [f"{n} images"] * 2, "o-", linewidth=3)
for name, value in (("0.916", 0.916), ("0.918", 0.918)):
    axis.axvline(value, color="black", linewidth=1, linestyle="-" if name == "0.916" else ":")
axis.set(xlabel="SRCC", title="95 % intervals; the lines are 0.916 and 0.918")
plt.show()

# %% [markdown]
# With 2,000 images the interval is several times as wide as the difference between the published sizes. That does not
# make the table worthless (both models saw the *same* images, exercise 3), but "Medium is better" it does not say.
#
# ## One training step
#
# A training step is: images to scores, scores to a loss, the loss's gradient back to every parameter, a step of the optimiser. All parts
# are known; here they are in a row, on a model small enough to train on two cores.

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

# %%
params = mq.init_params(config, seed=settings.seed)
batch = examples[: settings.batch]
tokens = [mq.tokenize(pixels, config) for pixels, _ in batch]
aim = (np.array([score for _, score in batch]) - 50) / 29  # in deviations from the middle
before = batch_gradient(params, tokens, aim, config, "huber")
print("scores before any training:", before.scores)  # the head starts at 0
assert not before.scores.any()

# %% [markdown]
# The gradient of the whole batch is one nested dict, with the shape of the parameters. Two parts start at 0, the
# head and the last scale of the stem, and so do gradients behind them: in the first step only the head learns.

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
assert not before.gradients["class_token"].any()  # nothing reaches it through a head of zeros
assert before.gradients["head"]["bias"].any()
assert np.mean(losses_by_step[-5:]) < 0.8 * losses_by_step[0]

# %% [markdown]
# Twenty steps on the *same* eight images make the loss fall: the first thing to try when a training does not work. If
# a model cannot learn eight images by heart, a gradient is wrong, and no amount of data helps.
#
# ## A whole run
#
# The library's loop adds what a run needs: shuffled epochs, a warm-up and a cosine for the learning rate, validation on
# images held out **by group** (all four noises of a crop are on one side of the split; else the model is asked what
# it learned by heart), and a state on disk from which a stopped run goes on to the same bits. It reads what you would bring: a folder of images
# and a table.

# %%
folder = Path(tempfile.mkdtemp())
lines = ["path,score,group"]
for number, (pixels, score) in enumerate(examples):
    plt.imsave(folder / f"{number}.png", pixels)
    lines.append(f"{number}.png,{score:.3f},crop {number // 4}")
(folder / "table.csv").write_text("\n".join(lines) + "\n")
print("\n".join(lines[:3]))

# %% [markdown]
# One more thing is borrowed. The published training starts from a model that has seen ImageNet; from random filters a short one gets nowhere. So
# the recipe begins with filters that tell coarse from fine, and with a patch embedding fitted to the images (without their
# scores): `musiq_ref/training/initial.py`. From there all is learned.
#
# The same on the command line is `musiq-ref train --recipe synthetic --data table.csv -o run --set dataset=csv …`. This cell takes about
# ten seconds.

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
# Read curves like these in this order. Does the loss fall at all? Does the validation follow (if not: learned by heart, or another world)?
# Is the RMSE below that of the constant? Does it still rise at the end (train longer), or has it settled? The loss jumps
# from step to step because every batch is another; trust the trend.
#
# ### What did it learn?
#
# The test that counts: another photograph, the cat, never seen in training, and five times as wide as anything in it (any size
# will do, chapter 01). And then a question that the training never asked, blur.

# %%
trained = mq.load_checkpoint(run.last)
cat = photograph("cat", longer_side=160)
spoilt = explain.severity_scores(cat, trained, ["white_noise", "gaussian_blur"])
explain.severity_curves(spoilt)

# %%
quality = -np.array(explain.severity.SEVERITIES)
order = {name: metrics.srcc(values, quality) for name, values in spoilt.items()}
print("SRCC with the true order:", {name: round(value, 2) for name, value in order.items()})
assert order["white_noise"] > 0.9 > order["gaussian_blur"]

# %% [markdown]
# Noise it judges on a photograph of another camera. Blur it does not count as a flaw: no image of the training
# said that smooth can be bad; the smoother, the less noise. **A quality model knows the flaws of its data set**, be it this one or KonIQ-10k.
#
# ### The bundled model
#
# `mq.load_checkpoint("demo")` is made the same way, with ten distortions instead of one, six photographs and endless scenes,
# in hours instead of seconds: `make train-demo`. Its card, `docs/demo-model.md`, says how good it is and what it is not.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/08_training.py`; try first.

# %% [markdown]
# ### Exercise 1: the number to beat
#
# A model that ignores the image can still answer the best constant. Which is it, for each loss? Return the constants for L1
# and for MSE, and the RMSE that the second one has.
#
# <details><summary>Hint</summary>
#
# The ten votes above. Set the derivative of $\sum (c - t)^2$ to 0; for $\sum |c - t|$ count on how many targets pull up and how many down.
#
# </details>


# %% tags=["exercise-1"]
def my_baseline(targets):
    """Returns (best constant for L1, best constant for MSE, RMSE of the latter)."""
    return ..., ..., ...


# %% tags=["check-1"]
def check(baseline):
    targets = np.random.default_rng(2).exponential(20, 101)
    for_l1, for_mse, error = baseline(targets)
    for name, constant in (("l1", for_l1), ("mse", for_mse)):
        forward, _ = losses.LOSSES[name]
        mine, *near = (
            float(forward(np.full(101, constant + shift), targets)[0]) for shift in (0, 0.1, -0.1)
        )
        assert mine <= min(near), f"for {name} a constant close to {constant:.3f} is better"
    wanted = metrics.rmse(np.full(101, targets.mean()), targets)
    assert math.isclose(error, wanted), f"your RMSE is {error:.4f}; it is {wanted:.4f}"


exercise(1, my_baseline, check)

# %% [markdown]
# ### Exercise 2: backward of the earth mover's distance
#
# For $r = 2$. The cache holds what the forward below kept; `dloss` is a number. Return the gradient to the logits.
#
# <details><summary>Hint</summary>
#
# Three lines: $\mathrm{d}D$, $\mathrm{d}p$, $\mathrm{d}x$. With $r = 2$ the first is $D_k/(C e)$, no sign needed; the mean over the batch adds $1/B$. A cumulative sum from the
# other end is `np.cumsum(a[:, ::-1], axis=1)[:, ::-1]`. `softmax_backward(dp, cache_softmax)` is there.
#
# </details>


# %%
def emd_forward(x, t):
    """x: logits (B, C);  t: distributions (B, C);  the mean of e over the batch."""
    p, cache_softmax = softmax(x)
    D = np.cumsum(p - t, axis=1)
    e = np.sqrt(np.mean(D**2, axis=1, keepdims=True))  # (B, 1)
    return e.mean(), (D, e, cache_softmax)


# %% tags=["exercise-2"]
def my_emd_backward(dloss, cache):
    D, e, cache_softmax = cache
    return ...


# %% tags=["check-2"]
def check(backward):
    rng = np.random.default_rng(3)
    x, t = rng.standard_normal((3, 7)), rng.dirichlet(np.ones(7), 3)
    verify.check_vjp(lambda x: emd_forward(x, t), backward, [x])
    _, cache = losses.emd(x, t)
    np.testing.assert_allclose(
        backward(1.0, emd_forward(x, t)[1]), losses.emd_backward(1.0, cache), atol=1e-12
    )


exercise(2, my_emd_backward, check)

# %% [markdown]
# ### Exercise 3: is model A better than model B?
#
# Both scored the same images, so their luck with easy and hard images is shared. Return the middle 95 % of
# $\text{SRCC}_A - \text{SRCC}_B$ over `resamples` bootstrap draws, as `(low, high)`.
#
# <details><summary>Hint</summary>
#
# In every draw the *same* images for both. Two separate intervals, or separate draws, count the shared luck twice.
#
# </details>


# %% tags=["exercise-3"]
def my_difference(a, b, targets, resamples=400):
    """a, b, targets: (n,)"""
    return ..., ...


# %% tags=["check-3"]
def check(difference):
    rng = np.random.default_rng(4)
    truth = rng.standard_normal(400)
    shared = truth + 0.5 * rng.standard_normal(400)  # both models err alike
    a, b = (shared + s * rng.standard_normal(400) for s in (0.05, 0.15))
    low, high = difference(a, b, truth)
    actual = metrics.srcc(a, truth) - metrics.srcc(b, truth)
    assert low < actual < high, f"the difference {actual:.4f} is not in your interval"
    assert high - low < 0.02, (
        f"your interval is {high - low:.3f} wide; with the same images for both it is narrower"
    )
    assert high - low > 0.004, f"your interval is only {high - low:.4f} wide"


exercise(3, my_difference, check)

# %% [markdown]
# ### Exercise 4: ranks with ties
#
# SRCC from nothing but sorting: give every score its rank, let equal scores share the mean of theirs, and correlate
# (`pearson` is above). No SciPy.
#
# <details><summary>Hint</summary>
#
# The rank of $x_i$ is 1 + how many are smaller, + half of how many *others* are equal. Comparing all with all (`x[:, None] < x`)
# is fine.
#
# </details>


# %% tags=["exercise-4"]
def my_srcc(x, y):
    return ...


# %% tags=["check-4"]
def check(srcc):
    rng = np.random.default_rng(5)
    for high in (1000, 4):  # without ties, and with many
        x, y = rng.integers(0, high, (2, 40)).astype(float)
        y += x
        wanted = metrics.srcc(x, y)
        assert math.isclose(srcc(x, y), wanted), (
            f"of scores from 0 to {high - 1} yours is {srcc(x, y):.4f}, the library's {wanted:.4f}"
        )


exercise(4, my_srcc, check)

# %% [markdown]
# ## In practice
#
# - **The published recipes** are `musiq-ref train --recipe koniq` (SGD, L1), `ava` (SGD, EMD) and so on: batches of 96 to 512 images of 512 patches, from weights
#   pre-trained on ImageNet, on accelerators. Their momentum and warm-up are published nowhere; the recipes say which values are our choice.
# - **Normalise targets.** A head that starts at 0 needs long to reach 60. Training on (score − mean)/deviation, and folding both into the head at the end, starts there.
# - **A learning rate too high** shows within a hundred steps: the loss rises, or all scores become one number. Clipping the gradient's norm turns a disaster into a slow start.
# - **Split by source.** Ten versions of one picture on both sides of the split give a beautiful, meaningless SRCC.
# - **Report** n, the interval, the split, and the seed; and never choose the epoch by the test part.
# - **Compare SRCC within a data set only.** A set with a wide range of quality gives every model a higher SRCC than a narrow one.

# %% [markdown]
# ## References
#
# - J. Ke et al.: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, section 4.2 and appendix tables 2 and 7.
# - H. Talebi, P. Milanfar: *NIMA: Neural Image Assessment*, IEEE Transactions on Image Processing 2018 (the EMD loss).
# - P. J. Huber: *Robust Estimation of a Location Parameter*, Annals of Mathematical Statistics 1964.
# - B. Efron: *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 1979.
# - I. Loshchilov, F. Hutter: *Decoupled Weight Decay Regularization*, ICLR 2019 (AdamW).
# - V. Hosu, H. Lin, T. Sziranyi, D. Saupe: *KonIQ-10k*, IEEE Transactions on Image Processing 2020.
# - The code: `musiq_ref/losses.py`, `musiq_ref/metrics.py`, `musiq_ref/training/run.py`, `musiq_ref/training/step.py`.
