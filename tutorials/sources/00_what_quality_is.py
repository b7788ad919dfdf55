# %% [markdown]
# # 00 · What quality is, and what MUSIQ sees in a photograph
#
# You glance at a photograph and know whether it is a good one. Nobody shows you the original to compare with, and you
# do not measure anything. MUSIQ is a program that does the same: pixels in, one number out. This chapter asks what that
# number is supposed to mean, why simple arithmetic does not find it, and what the model looks at instead. All the
# following chapters open the box.

# %% [markdown]
# ## What you will learn
#
# - how people's opinions become one number, and how uncertain it is;
# - why the distance from the original is not quality;
# - ten ways to spoil a photograph by a known degree, and what a score should do along the way;
# - how to score photographs with this library, and how to judge the judge;
# - the way from a photograph to its score in one picture, with shapes, and which chapter explains which step.

# %% [markdown]
# ## What you need
#
# About 30 minutes; Python and NumPy. No knowledge of neural networks.

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, explore, photograph, show
from musiq_ref import explain, metrics
from musiq_ref.image.tokenize import drop_padding, scales_of
from musiq_ref.pictures.distortions import DISTORTIONS, parameter

image = photograph("coffee")
print(image.shape, "= (height, width, channels),", image.dtype)

# %% [markdown]
# ## Opinions
#
# Quality is what people say it is. To measure it, ask many: each gives a grade from 1 (bad) to 5 (excellent), or to 10.
# The mean of all grades is the **mean opinion score**, MOS. It is what models like MUSIQ learn to predict.
#
# People disagree, so one vote says little. How many are needed? We make up a photograph whose grades are spread as they
# often are, and ask more and more people. (These raters are random numbers; the spread of real ones is similar.)

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
# The mean of $n$ votes is uncertain by $\sigma/\sqrt{n}$. With 100 votes for a photograph (about what the data set
# KonIQ-10k collected), a tenth of a grade. No model can be expected to do better than that, nor can two groups of
# people agree better.
#
# Some data sets keep the whole histogram of votes. AVA has grades 1 to 10; a model for it has ten outputs, and its
# score is the mean of the distribution it predicts, $\sum_k k\,p_k$: the line you have just computed for the MOS.

# %% [markdown]
# ## Distance is not quality
#
# If you have the original, why not compare? The **root mean square error** is the natural distance between two
# pictures. Here are five pictures equally far from the original: as far as the original, moved to the right by *one
# pixel*.


# %%
def distance(a, b):
    """Root mean square error in grey levels."""
    return float(np.sqrt(((a.astype(float) - b) ** 2).mean()))


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
# You would give the moved picture the same grade as the original, and the others very different ones. A distance counts
# changed pixels; people see lost edges, dirt, blocks. And in practice there is no original to compare with: the
# photograph from the camera *is* the original. So the task is **no-reference** quality assessment: judge one picture,
# alone.

# %% [markdown]
# ## Spoiling by degrees
#
# To study a judge one needs pictures whose quality is known. The library has ten distortions, each with a *severity*
# from 0 (untouched) to 1, tuned so that equal severities look about equally bad. Three of them:

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
assert (spoilt("jpeg", 0.0) == image).all()

# %% [markdown]
# Severity is a common scale for different physics. For the blur it is a width in pixels, for noise grey levels, for JPEG
# its quality setting:

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
# One number alone says nothing: is that much? Scores have the scale of the votes that a model learned from (1 to 5, 1
# to 10, 0 to 100), so only scores of the same model compare. Judge the judge by what it does when a picture gets worse.
# A good one falls along every line:

# %%
small = photograph("coffee", longer_side=200)
checkpoint = mq.load_checkpoint("demo")
curves = explain.severity_scores(
    small, checkpoint, names=[*names, "contrast"], severities=(0.0, 0.3, 0.6, 1.0)
)
explain.severity_curves(curves, severities=(0.0, 0.3, 0.6, 1.0))

# %% [markdown]
# How well does it *order* these pictures? Spearman's rank correlation (SRCC) compares the order of the scores with the
# order of the true qualities, here $-$severity: 1 is the same order, 0 no relation, $-1$ reversed. It does not care
# about the scale of the scores.

# %%
scores = np.concatenate([*curves.values()])
quality = np.tile([-0.0, -0.3, -0.6, -1.0], len(curves))
order = metrics.srcc(scores, quality)
print(f"SRCC of the bundled model on this one photograph, {len(scores)} versions: {order:+.2f}")
assert -1 <= order <= 1

# %% [markdown]
# Sixteen versions of one photograph prove little: by luck alone, an untrained model may reach 0.4 on them. Published
# MUSIQ models reach 0.92 on thousands of photographs with real flaws and real votes (KonIQ-10k); chapter 08 trains one
# here and measures it properly, on pictures it has never seen.
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
# ## What MUSIQ sees
#
# Not one picture but several: the photograph at its own size and reduced ones, all in its own shape, cut into patches.
# Small scales show the whole (composition, light), the native one shows the details (noise, sharpness).

# %%
config = checkpoint.config
explain.multi_scale_patches(small, config)

# %% [markdown]
# Every patch becomes a **token**: a vector of numbers that says what is in it, where it lies, and at which scale. A
# transformer lets all tokens compare notes, and one extra token, the *class token*, gathers the verdict. The whole way,
# with the sizes for this photograph:

# %%
explain.model_diagram(config, small.shape[:2])

# %% [markdown]
# You can ask for every intermediate result by its name. The same, as numbers:

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
# | step | what happens | chapter |
# |---|---|---|
# | photograph → scales → patches | resized without changing its shape, cut | 01 |
# | + where, + which scale | two small tables | 02 |
# | the backward of simple layers | by hand, and checked | 03 |
# | patch → vector | the stem, a small convolutional network | 04 |
# | tokens look at each other | attention | 05 |
# | again and again | the encoder; counting its cost | 06 |
# | from the score back to the pixels | the backward of the whole | 07 |
# | learning | losses, metrics, a training run | 08 |
#
# The last picture is a preview of chapter 07. Every step can be run backwards, so one can ask of every pixel: *if you
# were brighter, would the score rise?* A single score becomes a map.

# %%
explain.gradient_over_photograph(small, checkpoint.params, config)

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/00_what_quality_is.py`; try first.

# %% [markdown]
# ### Exercise 1: from votes to a score
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
# ### Exercise 2: PSNR
#
# The most used distance of all, in decibels: $10 \log_{10}(255^2 / \text{MSE})$, where MSE is the mean of the squared
# differences. For two `uint8` pictures. (It was useless above, and still every paper prints it.)
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
# ### Exercise 3: SRCC by hand
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
# ## In practice
#
# - **Which quality?** KonIQ-10k and SPAQ ask about technical quality, AVA about beauty. Weights trained on one are not
#   about the other. Choose weights by the question.
# - **Compare within a model.** 72 from one model and 5.6 from another say nothing about each other.
# - **Near ties are ties.** Votes are uncertain, models more so. A difference far below a model's RMSE on its test set
#   means nothing.
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
#   Processing, 2014 (how the severities were made comparable).
# - The code: `musiq_ref/scoring.py`, `musiq_ref/pictures/distortions.py`, `musiq_ref/metrics.py`.
