# %% [markdown]
# # 08 · Losses and metrics
#
# So far the weights fell from the sky. They come from training, and training needs one number that says how wrong the model
# is: the **loss**. When the training is over, you need another number, to tell people how good the model has become: a
# **metric**. The two are not the same, and each answers its own question. **Two models judged the same photographs. Which
# one is better?** Ask that now; at the end of the chapter you will want to ask back: better at what, and how sure do you want to be?

# %% [markdown]
# ## What you will learn
#
# - what L1, MSE and Huber make of the same mistake, and which kind of average each of them wants;
# - the earth mover's distance and cross-entropy over ordered classes, forward and backward;
# - SRCC, PLCC, KRCC and RMSE by hand: what each sees, and what it is blind to;
# - bootstrap intervals: how far a number from a few images can be trusted.
#
# The second half, 08b, puts a loss to work: it trains a MUSIQ on your own processor.

# %% [markdown]
# ## What you need
#
# About 60 minutes. Chapter 03 (backward passes); the softmax's backward from chapter 05b.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

from course import exercise, explore, quiz, show
from musiq_ref import losses, metrics, verify
from musiq_ref.model.head import expected_score
from musiq_ref.ops.softmax import softmax, softmax_backward  # noqa: F401, for exercise 2

# %% [markdown]
# ## A toy: three photographs, two models
#
# People gave three photographs 20, 50 and 80 points. Model A says 30, 50, 70. Model B says 20, 50, 62. Take a pencil:
#
# - A is wrong by 10, 0 and 10 points, B by 0, 0 and 18.
# - The **mean mistake** is 20/3 for A and 18/3 = 6 for B. B is better.
# - The **mean squared mistake** is 200/3 for A and 324/3 = 108 for B. A is better.
# - Both put the three in the right **order**. Neither is better.

# %%
people = np.array([20.0, 50, 80])
a, b = np.array([30.0, 50, 70]), np.array([20.0, 50, 62])
l1 = [losses.l1(model, people)[0] for model in (a, b)]
mse = [losses.mse(model, people)[0] for model in (a, b)]
print("L1 ", np.round(l1, 2), " MSE", np.round(mse, 2))
np.testing.assert_allclose(l1, [20 / 3, 6])
np.testing.assert_allclose(mse, [200 / 3, 108])
assert math.isclose(metrics.srcc(a, people), 1)
assert math.isclose(metrics.srcc(b, people), 1)

# %%
figure, axis = plt.subplots(figsize=(5, 3.6))
axis.plot([10, 90], [10, 90], color="0.7", linewidth=1)
for model, name, style in ((a, "A", "o-"), (b, "B", "s--")):
    axis.plot(people, model, style, label=f"model {name}", markersize=8)
axis.set(xlabel="people", ylabel="model", title="Which one is better? The grey line is right.")
axis.legend()
plt.show()

# %% [markdown]
# A is a little timid everywhere: its points lie on a straight line, only too flat. B is perfect but for one photograph.
# One large mistake or two small ones: which is worse is not a matter of fact, but of the loss that you choose.
#
# ## Losses of a score
#
# Three ways to punish a prediction $y$ for its distance $d = y - t$ from the target $t$:
#
# | loss | $h(d)$ | gradient with respect to $y$ | used for |
# |---|---|---|---|
# | L1 | $\lvert d\rvert$ | $\mathrm{sign}(d)$ | KonIQ-10k, SPAQ, PaQ-2-PiQ (the authors) |
# | MSE | $d^2$ | $2d$ | many other quality models |
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
# The right picture is the one to remember. An outlier pulls MSE with a force that grows without limit, and L1 always with the
# same force. But L1 pulls as hard at a distance of 0.01 as at 50, so near the goal it overshoots and jitters. Huber calms down there.
#
# What do they want? Let a model answer one number to ten voters, two of whom were in a bad mood:

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
# MSE wants the mean, L1 the median, and Huber with a small $\delta$ nearly the median. The choice of the loss is a choice of
# what the score *means*.
#
# ## Losses of a distribution
#
# The data set AVA has votes instead of scores: how many people gave 1, 2, …, 10. MUSIQ then predicts a distribution over
# $C = 10$ classes, $\mathbf{p} = \text{softmax}(\mathbf{x})$. The classes are **ordered**: to say 6 where people said 7 is
# nearly right.
#
# Again a toy, with three classes. Half of the people voted 2 and half voted 3. The model says: half 1, half 2. How much
# probability has to be carried how far to make one into the other? Half of it, over two classes. Or, as a computer counts it:
# write down the cumulative sums and subtract.
#
# | class | people $t$ | model $p$ | $D$: model so far − people so far |
# |---|---|---|---|
# | 1 | 0 | ½ | ½ |
# | 2 | ½ | ½ | ½ |
# | 3 | ½ | 0 | 0 |
#
# The sum of $|D|$ is 1 = ½ × 2 classes. Divided by $C = 3$ it is the **earth mover's distance**, 1/3.

# %%
toy = np.array([[0.5, 0.5, 0.0]])  # what the model says
logits = np.log(np.maximum(toy, 1e-300))  # a softmax of these gives it back
distance, _ = losses.emd(logits, np.array([[0.0, 0.5, 0.5]]), r=1)
print(f"{distance:.4f}")
assert math.isclose(distance, 1 / 3)

# %% [markdown]
# In general, with an exponent $r$ that says how much worse far is than near (the authors take 2),
#
# $$\begin{aligned} e &= \Big(\tfrac1C \sum_k |D_k|^r\Big)^{1/r} \\ D_k &= \sum_{j \le k} (p_j - t_j). \end{aligned}$$
#
# The other common loss, cross-entropy $-\sum_k t_k \log p_k$, looks at each class by itself and does not know the order.
# Take a bell-shaped prediction of the right shape that is a few classes too high:

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
# For $r = 1$ the distance is that shift, divided by $C$, as long as the bell is not cut off at the last class:

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
# EMD grows in a straight line. Cross-entropy runs away: it takes the logarithm of
# the probability that the model gave to what people said, however near its guess was. Nor is it 0 for a perfect
# prediction, unless all people agree; what is left is the entropy of their votes:

# %%
entropy = -(target * np.log(target)).sum()
print(f"cross-entropy of the perfect prediction {cross_entropy[0]:.3f}, entropy {entropy:.3f}")
assert math.isclose(cross_entropy[0], entropy)
assert entropy > 1
assert emd[0] < 1e-12

# %% [markdown]
# And if the model is sharp, cross-entropy cannot tell near from far at all:

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
# ### Optional: watch the gradients
#
# In Jupyter, move the prediction and watch the gradient of both losses with respect to the logits. A step of descent lowers
# the logits whose bars are above 0, and raises the others.


# %%
def draw(shift):
    """The gradients of both losses with respect to the logits."""
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
# With cross-entropy the people's classes are raised and the model's lowered. With EMD the model's own bell is moved: the side
# that faces the people is raised, the far side lowered; the order of the classes is in the gradient.

# %% [markdown]
# ### Backward of the EMD
#
# From the last line to the first. The root and the mean: $\partial e/\partial D_k = \mathrm{sign}(D_k)\,(|D_k|/e)^{r-1}/C$. The
# cumulative sum: $p_j$ is in every $D_k$ with $k \ge j$, so $\mathrm{d}p_j = \sum_{k \ge j} \mathrm{d}D_k$, a cumulative sum from
# the other end. Then the softmax of chapter 05b. The gradient of cross-entropy is simpler: the logarithm undoes the
# exponential, and $\mathbf{p} - \mathbf{t}$ is left.

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
# A loss of 4.1 says little: on which scale, for which data? The field reports how well predictions **follow** people's scores:
#
# - **PLCC**, Pearson's correlation: does a straight line relate them?
# - **SRCC**, Spearman's: Pearson's of the *ranks*. Does a rising curve relate them?
# - **KRCC**, Kendall's $\tau_b$: take all pairs of images. In how many do model and people agree which of the two is better, in
#   how many do they disagree? The difference, divided by $\sqrt{n_x n_y}$, where $n_x$ is the number of pairs that the
#   model does not call equal, and $n_y$ the number that people do not. Without ties it is agreeing minus disagreeing pairs, over all pairs.
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
print(f"of 10 pairs {agree} agree, {disagree} disagree, {tied} is tied, by the model")
krcc = metrics.krcc(predictions, people)
assert math.isclose(krcc, (agree - disagree) / math.sqrt(9 * 10))
assert not math.isclose(krcc, (agree - disagree) / 10)  # what one gets if ties are forgotten
assert math.isclose(
    metrics.rmse(predictions, people), math.sqrt(((predictions - people) ** 2).mean())
)

# %% [markdown]
# Four models on the same images. None is right. Which metric notices, and does it say what is wrong?

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
# SRCC is blind to a bend, SRCC and PLCC are both blind to a shift of 30 points, and a single wild value ruins PLCC and RMSE, while
# SRCC loses far less. RMSE is above 0 for all four, but never says why. So report at least two, and look at the picture.
#
# SRCC is what you report, not what you descend. Ranks are steps: move every prediction a little, no rank changes, and the
# gradient is zero:

# %%
x = four["noisy"]
nudged = x + 1e-7 * rng.standard_normal(60)
assert metrics.srcc(nudged, truth) == metrics.srcc(x, truth)
assert metrics.plcc(nudged, truth) != metrics.plcc(x, truth)

# %% [markdown]
# Some papers fit a logistic curve to the predictions before they compute PLCC, which flatters a bent model. MUSIQ's
# numbers are without.
#
# A warning before you compare two papers: a correlation depends on the **range of quality** in the data. The same model, with the same
# mistakes, on photographs that are all about equally good:

# %%
many = rng.uniform(0, 100, 4000)
judged = many + 8 * rng.standard_normal(4000)
narrow = (many > 45) & (many < 65)
wide, close = metrics.srcc(judged, many), metrics.srcc(judged[narrow], many[narrow])
print(f"SRCC of all {wide:.2f}, of the middle fifth {close:.2f}")
print(f"RMSE {metrics.rmse(judged, many):.1f} and {metrics.rmse(judged[narrow], many[narrow]):.1f}")
assert wide > 0.9 > 0.7 > close

# %% [markdown]
# ### How far can a number be trusted?
#
# Take other images from the same world, and SRCC will be another. The **bootstrap** imitates that with the images at hand: draw
# as many again, with replacement, and measure; many times. The middle 95 % of what you get is an interval.

# %%
resampled = []
for _ in range(1000):
    drawn = rng.integers(len(x), size=len(x))  # a prediction and its target stay together
    resampled.append(metrics.srcc(x[drawn], truth[drawn]))
by_hand = np.quantile(resampled, [0.025, 0.975])
low, high = metrics.bootstrap_interval(metrics.srcc, x, truth)
print(f"SRCC {metrics.srcc(x, truth):.3f}, interval {low:.3f} to {high:.3f}, by hand {by_hand}")
np.testing.assert_allclose(by_hand, [low, high], atol=0.02)

# %% [markdown]
# How many images does it take? We make up a model whose SRCC is 0.916, the appendix's number for KonIQ-10k, and test it on more and more:

# %%
counts, intervals = [100, 500, 2000], []
rho = 2 * math.sin(math.pi * 0.916 / 6)  # Pearson's, at which normal scores have this Spearman's
for n in counts:
    quality = rng.standard_normal(n)
    guess = rho * quality + math.sqrt(1 - rho**2) * rng.standard_normal(n)
    intervals.append(metrics.bootstrap_interval(metrics.srcc, guess, quality, resamples=300))
    print(f"{n:5} images: {intervals[-1][0]:.3f} to {intervals[-1][1]:.3f}")
widths = [high - low for low, high in intervals]
assert widths[0] > 2 * widths[2] > 4 * 0.002

# %%
figure, axis = plt.subplots(figsize=(6, 2.6))
for n, (low, high) in zip(counts, intervals, strict=True):
    axis.plot([low, high], [f"{n} images"] * 2, "o-", linewidth=3)
for name, value in (("0.916", 0.916), ("0.918", 0.918)):
    axis.axvline(value, color="black", linewidth=1, linestyle="-" if name == "0.916" else ":")
axis.set(xlabel="SRCC", title="95 % intervals; the lines are 0.916 and 0.918")
plt.show()

# %% [markdown]
# The interval shrinks with the root of the number of images: twenty times as many make it $\sqrt{20} \approx 4.5$ times
# narrower, give or take the luck of one draw. The two lines are published values of two model sizes. A single test on 2,000 images could not tell them apart. (The appendix
# reports means over ten splits; what that improves, and how two models are compared on the *same* images, is chapter 09b.)
#
# So, which model of the toy is better? A, if large mistakes are what hurts; B, if you count points; neither, if only the order
# matters; and with three photographs, nobody knows.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Solutions are in `tutorials/solutions/08_training.py`; try first.

# %% [markdown]
# ### Exercise 1: the number to beat (★, 5 minutes)
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
# ### Exercise 2: backward of the earth mover's distance (★★★, 10 minutes)
#
# For $r = 2$. The cache holds what the forward below kept; `dloss` is a number. Return the gradient with respect to the logits.
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
# ### Exercise 3: ranks with ties (★, 8 minutes)
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


# %% tags=["exercise-3"]
def my_srcc(x, y):
    return ...


# %% tags=["check-3"]
def check(srcc):
    rng = np.random.default_rng(5)
    for high in (1000, 4):  # without ties, and with many
        x, y = rng.integers(0, high, (2, 40)).astype(float)
        y += x
        wanted = metrics.srcc(x, y)
        assert math.isclose(srcc(x, y), wanted), (
            f"of scores from 0 to {high - 1} yours is {srcc(x, y):.4f}, the library's {wanted:.4f}"
        )


exercise(3, my_srcc, check)

# %% [markdown]
# ## Quiz

# %%
quiz("08")

# %% [markdown]
# ## In practice
#
# - **Report** SRCC *and* PLCC, the number of images, an interval, and the split.
# - **Compare SRCC within a data set only.** You have seen what a narrow range of quality does to it.
# - **Which loss?** L1 or Huber for mean scores from few voters; a loss of distributions if you have the votes, and want to know
#   whether people disagreed.
# - **`musiq-ref evaluate`** prints all four metrics with their intervals.

# %% [markdown]
# ## References
#
# - J. Ke et al.: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021, section 4.2 and appendix tables 2 and 7.
# - H. Talebi, P. Milanfar: *NIMA: Neural Image Assessment*, IEEE Transactions on Image Processing 2018 (the EMD loss).
# - P. J. Huber: *Robust Estimation of a Location Parameter*, Annals of Mathematical Statistics 1964.
# - M. G. Kendall: *The Treatment of Ties in Ranking Problems*, Biometrika 1945 ($\tau_b$).
# - B. Efron: *Bootstrap Methods: Another Look at the Jackknife*, Annals of Statistics 1979.
# - The code: `musiq_ref/losses.py`, `musiq_ref/metrics.py`.
