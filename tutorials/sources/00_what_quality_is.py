# %% [markdown]
# # 00 · What quality is, and what MUSIQ sees in a photograph
#
# You glance at a photograph and know whether it is a good one. Nobody shows you the original to compare with, and you
# measure nothing. MUSIQ is a program that does the same: pixels in, one number out. This chapter asks what that number
# should mean, why simple arithmetic does not find it, and what the model looks at instead. The chapters after it open
# the box.
#
# One question goes with us: **can a program tell which of two pictures is the better one, if it never sees the
# original?**

# %% [markdown]
# ## What you will learn
#
# - why the distance from the original is not quality, first on 16 pixels, then on a photograph;
# - how people's opinions become one number, and how uncertain it is;
# - ten ways to spoil a photograph by a known degree, and what a score should do along the way;
# - how to score photographs with this library, and how to judge the judge;
# - the way from a photograph to its score in one picture, with shapes, and which chapter explains which step.

# %% [markdown]
# ## What you need
#
# About 60 minutes, of which the exercises take 20; Python and NumPy. No knowledge of neural networks.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, explore, photograph, quiz, show
from musiq_ref import explain, metrics
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.pictures.distortions import DISTORTIONS, parameter
from musiq_ref.pictures.synthetic import TRAINING_PHOTOGRAPHS

# %% [markdown]
# ## Sixteen pixels
#
# Take a picture of 4×4 pixels, dark on the left and bright on the right, and three versions of it. One has moved to the
# right by a pixel, one is brighter, one is dirty. The numbers are grey levels.

# %%
original = np.array([[4, 4, 12, 12]] * 4)
dirt = np.array([[4, -4, 4, -4], [-4, 4, -4, 4]] * 2)  # a chequerboard
versions = {
    "moved": np.array([[4, 4, 4, 12]] * 4),
    "brighter": original + 4,
    "dirty": original + dirt,
}


def distance(a, b):
    """Root mean square error: the root of the mean of the squared differences."""
    return float(np.sqrt(((np.asarray(a, float) - b) ** 2).mean()))


# %% [markdown]
# How far is each from the original? The most natural distance squares the differences of all pixels, takes their mean,
# and then the root: the **root mean square error**. On paper:
#
# - moved: 4 pixels differ by 8, the other 12 by 0. The mean of the squares is $4 \cdot 64 / 16 = 16$, its root 4.
# - brighter: 16 pixels differ by 4. The mean of the squares is 16, its root 4.
# - dirty: 16 pixels differ by $+4$ or $-4$. The mean of the squares is 16, its root 4.

# %%
figure, axes = plt.subplots(1, 4, figsize=(9, 2.7))
for axis, (title, toy) in zip(axes, {"original": original, **versions}.items(), strict=True):
    axis.imshow(toy, cmap="gray", vmin=-2, vmax=18)
    for (y, x), grey in np.ndenumerate(toy):
        axis.text(x, y, grey, ha="center", va="center", color="white" if grey < 8 else "black")
    axis.set(title=title, xticks=[], yticks=[])
    axis.set_xlabel(f"distance {distance(toy, original):.0f}")
plt.show()
assert [distance(toy, original) for toy in versions.values()] == [4, 4, 4]

# %% [markdown]
# Three pictures, one distance. You would call the first two as good as the original and the third spoilt. Squared
# differences know how *much* has changed, not *what*. So we need another idea of quality, and it comes from people.

# %% [markdown]
# ## Opinions
#
# Quality is what people say it is. To measure it, ask many: each gives a grade from 1 (bad) to 5 (excellent), or to 10.
# The mean of all grades is the **mean opinion score**, MOS. It is what models like MUSIQ learn to predict. Five people
# who say 3, 4, 4, 4, 5 make a MOS of 4.
#
# People disagree, so one vote says little. How many are needed? We make up a photograph whose grades are spread out as
# they often are, and ask more and more people. (These raters are random numbers; the spread of real ones is similar.)

# %%
grades = np.arange(1, 6)
shares = np.array([0.05, 0.15, 0.35, 0.35, 0.10])  # of people who give each grade
mos = (shares * grades).sum()
spread = np.sqrt((shares * (grades - mos) ** 2).sum())
print(f"MOS {mos:.2f}, standard deviation of one vote {spread:.2f}")
np.testing.assert_allclose(shares.sum(), 1)

# %%
votes = np.random.default_rng(0).choice(grades, p=shares, size=(400, 1000))  # 400 surveys
people = np.arange(1, votes.shape[1] + 1)
running = votes.cumsum(axis=1) / people  # the mean after 1, 2, … people, for each survey
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
axes[0].bar(grades, shares, edgecolor="white", hatch="//")
axes[0].axvline(mos, color="black", linewidth=1.5)
axes[0].set(xlabel="grade", ylabel="share of the votes", title=f"One photograph: MOS {mos:.2f}")
axes[1].semilogx(people, running[:6].T, linewidth=1, color="C0", alpha=0.7)
for sign in (-2, 2):
    axes[1].semilogx(people, mos + sign * spread / np.sqrt(people), "--", color="C1")
axes[1].set(xlabel="people asked", ylabel="mean of their grades", title="Six surveys, and ±2σ/√n")
plt.show()
inside = (abs(running - mos) < 2 * spread / np.sqrt(people))[:, 20:].mean()
print(f"inside the dashed lines: {inside:.0%}")
assert 0.9 < inside < 0.99

# %% [markdown]
# The more people are asked, the closer the six surveys come to one another, and nearly always they stay between the
# dashed lines. The mean of $n$ votes is uncertain by its *standard error*, $\sigma/\sqrt{n}$. With 100 votes for a
# photograph (about what the data set KonIQ-10k collected) and $\sigma = 1$, that is a tenth of a grade. Even a perfect
# model would seem to be wrong by that much.
#
# Some data sets keep the whole histogram of votes. AVA has grades 1 to 10. A model for it has ten outputs, and its
# score is the mean of the distribution it predicts, $\sum_k k\,p_k$: the line that gave `mos` above.

# %% [markdown]
# ## Distance is not quality
#
# The toy again, with a photograph. Here are five pictures that are equally far from the original: as far as the
# original itself, moved to the right by *one pixel*.

# %%
image = photograph("coffee")
print(image.shape, "= (height, width, channels),", image.dtype)


def spoilt(name, severity):
    """The photograph, distorted by a degree from 0 to 1; always the same noise."""
    return DISTORTIONS[name](image, severity, np.random.default_rng(0))


moved = np.roll(image, 1, axis=1)
target = distance(moved, image)
print(f"moved by one pixel: {target:.1f} grey levels from the original")

# %%
equally_far = {"moved by one pixel": moved}
for name in ("contrast", "white_noise", "gaussian_blur", "jpeg"):
    low, high = 0.0, 1.0
    for _ in range(12):  # halve the interval in which the severity must lie
        middle = (low + high) / 2
        low, high = (
            (middle, high) if distance(spoilt(name, middle), image) < target else (low, middle)
        )
    equally_far[f"{name.replace('_', ' ')}, severity {high:.2f}"] = spoilt(name, high)

# %%
figure, axes = plt.subplots(2, 3, figsize=(9, 6))
part = (slice(90, 290), slice(170, 370))  # 1:1, so that the screen does not hide the damage
for axis, (title, picture) in zip(
    axes.flat, {"the original": image, **equally_far}.items(), strict=True
):
    axis.imshow(picture[part])
    axis.set(title=title, xticks=[], yticks=[])
    axis.set_xlabel(f"distance {distance(picture, image):.1f}")
plt.show()
far = [distance(picture, image) for picture in equally_far.values()]
assert max(far) < 1.1 * min(far)

# %% [markdown]
# All five are equally far, within a tenth. You would give the moved picture the same grade as the original, and perhaps
# the slightly hazy one, too. The others have dirt on them, have lost their sharpness, or have fallen into blocks. A
# distance adds up changed pixels; people see what has happened to the things in the picture. And in practice there is
# no original to compare with: the photograph from the camera *is* the original. So the task is **no-reference** quality
# assessment: judge one picture, alone.

# %% [markdown]
# ## Spoiling by degrees
#
# To study a judge, one needs pictures whose quality is known. The library has ten distortions, each with a *severity*
# from 0 (untouched) to 1. They are made comparable by a measure that follows people's opinions better than distance
# does (GMSD, which compares edges), so that equal severities look about equally bad. Three of them:

# %%
print(", ".join(DISTORTIONS))
names = ("gaussian_blur", "white_noise", "jpeg")
severities = (0.0, 0.3, 0.6, 1.0)
figure, axes = plt.subplots(3, 4, figsize=(8, 6.4))
for row, name in zip(axes, names, strict=True):
    for axis, severity in zip(row, severities, strict=True):
        axis.imshow(spoilt(name, severity)[90:290, 170:370])
        axis.set(xticks=[], yticks=[], title=f"severity {severity}")
    row[0].set_ylabel(name.replace("_", " "))
plt.show()
assert all((spoilt(name, 0.0) == image).all() for name in DISTORTIONS)

# %% [markdown]
# Each row gets worse from left to right, each in its own way: the blur loses edges, the noise adds dirt, JPEG does both,
# in blocks. Severity is a common scale for different physics. For the blur it stands for a width in pixels, for noise
# for grey levels, for JPEG for its quality setting:

# %%
for name in names:
    print(f"{name:15}", [round(parameter(name, severity), 1) for severity in severities])
show(DISTORTIONS["white_noise"])

# %% [markdown]
# ## Scoring
#
# One line. `"demo"` is the small model that comes with the library; chapter 15 shows how to get the published ones.

# %%
[score] = mq.score([image], checkpoint="demo")
print(score)
assert np.isfinite(score.value)

# %% [markdown]
# One number alone says nothing: is that a lot? Scores have the scale of what a model learned from (votes from 1 to 5 or
# 1 to 10, or, as here, 100 for untouched and 0 for spoilt), so you can only compare scores of the same model. Judge the
# judge by what it does when a picture gets worse. A good one falls along every line:

# %%
small = photograph("coffee", longer_side=200)
checkpoint = mq.load_checkpoint("demo")
curves = explain.severity_scores(
    small, checkpoint, names=[*names, "contrast"], severities=(0.0, 0.3, 0.6, 1.0)
)
explain.severity_curves(curves, severities=(0.0, 0.3, 0.6, 1.0))

# %% [markdown]
# Follow each line from left to right. Where it rises, the model preferred the worse picture. Where two lines lie far
# apart at the same severity, it takes one kind of damage more seriously than the other.
#
# How well does it *order* these pictures? Spearman's rank correlation (SRCC) compares the order of the scores with the
# order of the true qualities, here $-$severity: 1 is the same order, 0 no relation, $-1$ reversed. It does not care
# about the scale of the scores.

# %%
scores = np.concatenate([*curves.values()])
quality = np.tile([-0.0, -0.3, -0.6, -1.0], len(curves))
order = metrics.srcc(scores, quality)
print(f"SRCC of the bundled model on this one photograph, {len(scores)} versions: {order:+.2f}")
assert -1 <= order <= 1
assert "coffee" in TRAINING_PHOTOGRAPHS

# %% [markdown]
# How much of that could be luck? Deal the same scores out to the pictures at random, many times:

# %%
rng = np.random.default_rng(1)
by_luck = np.array([metrics.srcc(rng.permutation(scores), quality) for _ in range(2000)])
print(f"by luck: above {np.quantile(by_luck, 0.95):.2f} in one case of twenty")
assert 0.3 < np.quantile(by_luck, 0.95) < 0.6

# %% [markdown]
# So 0.4 on sixteen pictures means little, and even 0.9 is about *this* photograph only, one of those that the bundled
# model was trained with. Across photographs that it has never seen it does worse: its
# description, [docs/demo-model.md](../docs/demo-model.md), says how well. The published MUSIQ reaches 0.916 on two thousand
# photographs with real flaws and real votes (KonIQ-10k; table 6 of the appendix). Chapter 08b trains a model here and
# measures it properly, on pictures it has never seen.
#
# The picture and its score, side by side; with `ipywidgets` in Jupyter, move the severity:

# %%
score_of = mq.scorer(checkpoint)


def draw(distortion, tenths):
    """A spoilt picture, and its score among the curves above."""
    picture = DISTORTIONS[distortion](small, tenths / 10, np.random.default_rng(0))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3))
    left.imshow(picture)
    left.set(xticks=[], yticks=[], title=f"{distortion.replace('_', ' ')}, severity {tenths / 10}")
    for name, values in curves.items():
        chosen = {"color": "C0", "linewidth": 2} if name == distortion else {"color": "0.8"}
        right.plot((0.0, 0.3, 0.6, 1.0), values, **chosen)
    right.plot(tenths / 10, score_of(picture).value, "k*", markersize=14)
    right.set(xlabel="severity (0: untouched)", ylabel="score", title="its score: the star")


explore(draw, distortion=list(DISTORTIONS), tenths=range(5, 11))

# %% [markdown]
# The star belongs to the picture on the left, the thick line to its kind of damage. Does the score agree with your eye?

# %% [markdown]
# ## What MUSIQ sees
#
# Not one picture but several: the photograph at its own size and reduced ones, all in its own shape, cut into patches.
# Small scales show the whole (composition, light), the native one shows the details (noise, sharpness).

# %%
config = checkpoint.config
explain.multi_scale_patches(small, config)

# %% [markdown]
# The same cup at every scale. In the smallest picture a few patches hold all of it, in the native one a patch is a piece
# of its rim. Grey is padding: zeros where the picture does not fill the last patch.
#
# Every patch becomes a **token**: a vector of numbers that says what is in it, where it lies, and at which scale. A
# transformer lets all tokens compare notes, and one extra token, the *class token*, gathers the verdict. The whole way,
# with the sizes for this photograph:

# %%
explain.model_diagram(config, small.shape[:2])

# %% [markdown]
# Read it from top to bottom. Once there are tokens, there is one vector for each, to the end; only the last two steps look
# at a single one, the class token.
# %% [markdown]
# ### Optional: every step by its name
#
# You can ask for every intermediate result by its name, with a **tap**: a function that the forward calls with the name
# and the value of each. Whatever the tap returns is used from there on, so this one returns what it was given, and only
# notes the shape. (The *logits* are what the last layer puts out. With one output the logit is the score.)

# %%
tokens = mq.batch([drop_padding(mq.tokenize(small, config))])
shapes = {}


def note(name, array):
    shapes[name] = array.shape
    return array


logits, _ = mq.forward(checkpoint.params, tokens, config, tap=note)
steps = ("patches", "patch_embedding", "encoder/input", "encoder/norm", "head/logits")
for name in steps:
    print(f"{name:16} {shapes[name]}")
N = sum(scale.kept for scale in scales_of(*small.shape[:2], config))
assert shapes["encoder/input"] == (1, 1 + N, config.width)
print(f"{len(shapes)} named intermediates; the logits: {logits}")

# %% [markdown]
# ### Which chapter opens which box
#
# | step | what happens | chapter |
# |---|---|---|
# | photograph → scales → patches | resized without changing its shape, cut | 01 |
# | + where, + which scale | two small tables, and what they learn | 02, 02b |
# | the backward of simple layers | by hand, and checked | 03, 03b |
# | patch → vector | the stem, a small convolutional network | 04, 04b |
# | tokens look at each other | attention | 05, 05b |
# | again and again | the encoder; counting its cost | 06 |
# | from the score back to the pixels | the backward of the whole | 07, 07b |
# | learning | losses, metrics, a training run | 08, 08b |
#
# That is the whole model. Chapters 09 to 16 ask what can be done with it: which of its parts it needs, what maps of
# attention show, how to find the fault in somebody's port and to write your own, what rounding, a GPU and cheaper
# attention do to it, and where to get the published weights.
#
# A preview of chapters 07 and 07b: every step can be run backwards, so one can ask of every pixel, *if you were a little brighter,
# would the score rise?* A single score becomes a map.

# %%
explain.gradient_over_photograph(small, checkpoint.params, config)

# %% [markdown]
# Bright in the middle picture: here a small change of the pixel changes the score most. On the right, the sign: which way
# to change it. Such a map speaks of tiny changes only. It does not say that a bright place is a flaw.

# %% [markdown]
# ## The answer
#
# Can a program tell which of two pictures is the better one, without the original? A distance cannot: it needs the
# original, and even then it takes a moved picture for a spoilt one. A model that has seen many pictures, and what each
# was worth, may. The five pictures of this chapter, each judged alone:

# %%
candidates = {"original": image, **equally_far}
judged = {name: score_of(picture).value for name, picture in candidates.items()}
for name, value in judged.items():
    print(f"{name:32} {value:7.2f}")
untouched, moved_to, *damaged = judged.values()
worst = untouched - min(damaged)
print(f"the move changes it by {abs(moved_to - untouched):.2f}, the damage by up to {worst:.2f}")
assert abs(moved_to - untouched) < worst

# %% [markdown]
# Equally far, and yet the model tells the harmless move from the worst of the damage. Does it also rank the rest as you
# would? Look at the pictures again, then at the numbers. How it does so, step by step, is the subject of this course.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/00_what_quality_is.py`; try first.

# %% [markdown]
# ### Exercise 1: from votes to a score (★, 5 minutes)
#
# `votes` is a histogram: `votes[0]` people gave the grade 1, `votes[1]` the grade 2, and so on. Return the mean opinion
# score and its standard error: the standard deviation of a vote divided by the root of the number of people.
#
# <details><summary>Hint</summary>
#
# The grades are `np.arange(1, len(votes) + 1)`, and `votes / votes.sum()` are the shares of the first section. No
# loop is needed.
#
# </details>


# %% tags=["exercise-1"]
def my_mos(votes):
    """votes: integers (C,);  returns (MOS, standard error)"""
    return ..., ...


# %% tags=["check-1"]
def check(mos_of):
    for votes in (np.array([3, 9, 21, 21, 6]), np.array([0, 0, 1, 2, 8, 30, 41, 15, 3, 1])):
        every_vote = np.repeat(np.arange(1, len(votes) + 1), votes)
        mean, error = mos_of(votes)
        wanted = every_vote.mean(), every_vote.std() / np.sqrt(len(every_vote))
        assert np.isclose(mean, wanted[0]), (
            f"the mean of {votes} is {wanted[0]:.3f}, not {mean:.3f}"
        )
        assert np.isclose(error, wanted[1]), f"its error is {wanted[1]:.4f}, not {error:.4f}"


exercise(1, my_mos, check)

# %% [markdown]
# ### Exercise 2: PSNR (★, 5 minutes)
#
# The most used distance of all, in decibels: $10 \log_{10}(255^2 / \text{MSE})$, where MSE is the mean of the squared
# differences. For two `uint8` pictures. (The five pictures above have the same PSNR, and still most papers print it.)
#
# <details><summary>Hint</summary>
#
# What is `np.uint8(3) - np.uint8(5)`? Try it. Turn the pictures into floating numbers *before* subtracting.
#
# </details>


# %% tags=["exercise-2"]
def my_psnr(a, b):
    """a, b: uint8 arrays of the same shape;  returns decibels"""
    return ...


# %% tags=["check-2"]
def check(psnr):
    for name in ("contrast", "jpeg"):
        other = spoilt(name, 0.5)
        got, wanted = psnr(image, other), 20 * np.log10(255 / distance(image, other))
        assert np.isclose(got, wanted), f"for {name} it is {wanted:.3f} dB, not {got:.3f}"


exercise(2, my_psnr, check)

# %% [markdown]
# ### Exercise 3: SRCC by hand (★, 10 minutes)
#
# Pearson's correlation *of the ranks*: replace each number by its rank, equal numbers sharing the mean of theirs, then
# correlate. `ranks` is given.
#
# <details><summary>Hint</summary>
#
# Pearson: subtract the mean from each of the two rows of ranks; then $\sum xy / \sqrt{\sum x^2 \sum y^2}$. The shortcut
# $1 - 6\sum d^2 / (n(n^2-1))$ of old textbooks is right only if no two numbers are equal.
#
# </details>


# %%
def ranks(values):
    """1 for the smallest; equal values get the mean of their ranks."""
    values = np.asarray(values)
    below = (values[:, None] > values).sum(axis=1)
    equal = (values[:, None] == values).sum(axis=1)
    return below + (equal + 1) / 2


print(ranks([10, 30, 20, 20]))


# %% tags=["exercise-3"]
def my_srcc(a, b):
    return ...


# %% tags=["check-3"]
def check(srcc):
    rng = np.random.default_rng(3)
    for n in (5, 12, 40):
        a, b = rng.integers(0, 6, n), rng.standard_normal(n)
        b = b + 0.3 * a
        got, wanted = srcc(a, b), metrics.srcc(a, b)
        assert np.isclose(got, wanted), f"for {n} pairs it is {wanted:.4f}, not {got:.4f}"


exercise(3, my_srcc, check)

# %% [markdown]
# ## Quiz

# %%
quiz("00")

# %% [markdown]
# ## In practice
#
# - **Which quality?** KonIQ-10k and SPAQ ask about technical quality, AVA about beauty. Weights trained on one are not
#   about the other. Choose weights by the question.
# - **Compare within a model.** 72 from one model and 5.6 from another say nothing about each other.
# - **Near ties are ties.** Votes are uncertain, models more so. Between two photographs, a difference far below a
#   model's error on its test set (chapter 08) means little.
# - **Score the file itself**, not a screenshot or thumbnail of it; the flaws are in the details (chapter 01).
# - **Optimising a score** finds pictures that the model likes and nobody else does. It is a measuring device, made for
#   photographs like those it has learned from.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021.
# - Z. Wang, A. C. Bovik: *Mean squared error: love it or leave it?*, IEEE Signal Processing Magazine, 2009 (equal
#   distances, unequal quality).
# - V. Hosu, H. Lin, T. Sziranyi, D. Saupe: *KonIQ-10k: An ecologically valid database for deep learning of blind image
#   quality assessment*, IEEE Transactions on Image Processing, 2020.
# - N. Murray, L. Marchesotti, F. Perronnin: *AVA: A large-scale database for aesthetic visual analysis*, CVPR 2012.
# - W. Xue, L. Zhang, X. Mou, A. C. Bovik: *Gradient magnitude similarity deviation*, IEEE Transactions on Image
#   Processing, 2014 (GMSD, by which the severities were made comparable).
# - The code: `musiq_ref/scoring.py`, `musiq_ref/pictures/distortions.py`, `musiq_ref/metrics.py`.
