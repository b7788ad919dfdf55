# %% [markdown]
# # 11 · Find the bug, by hand: broken ports and the ladder
#
# Somebody has rewritten MUSIQ in another language. It loads the weights, it runs, it gives 5.037 where the reference
# gives 4.983. **Two correct programs that round differently, or a bug? And if it is a bug, where?** A score is one
# number at the end of dozens of steps. In this chapter you look at the steps, and find bugs with nothing but
# subtraction. In chapter 11b a kit does it for you.

# %% [markdown]
# ## What you will learn
#
# - why the test "the scores agree within 5 %" passes more than half of our broken ports;
# - why making the tolerance small does not save that test;
# - to find a bug by hand: compare intermediates in the order of computation, and look at the first that differs;
# - to prove your guess, by computing the port's wrong numbers from the right ones.

# %% [markdown]
# ## What you need
#
# About 60 minutes. You have met every stage of the model (chapters 01 to 06), and know what float32 is (the first page
# of chapter 13).

# %%
import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, quiz
from musiq_ref import verify
from musiq_ref.model.parameters import map_params
from musiq_ref.verify.ladder.distance import distance
from musiq_ref.verify.ladder.stages import BACK
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.diagnosis import first_difference
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.plant import run_planted

# %% [markdown]
# ## A toy: three tokens, three stages
#
# Three tokens hold the numbers 2, 3 and 5. A program doubles them: 4, 6, 10. It divides by their sum, 20, and gets
# shares: 0.2, 0.3, 0.5. Its score is the mean place, with the places counted 1, 2, 3:
# $1 \cdot 0.2 + 2 \cdot 0.3 + 3 \cdot 0.5 = 2.3$. Work out on paper what three ports give: A triples instead of
# doubling; B writes the shares down in reverse order; C counts the places 0, 1, 2.


# %%
def toy(factor=2, reverse=False, first=1):
    """The three stages of the toy, by name."""
    doubled = factor * np.array([2, 3, 5])
    shares = doubled / doubled.sum()
    shares = shares[::-1] if reverse else shares
    places = np.arange(first, first + 3)
    return {"doubled": doubled, "shares": shares, "score": (places * shares).sum()}


toys = {"reference": toy(), "A": toy(factor=3), "B": toy(reverse=True), "C": toy(first=0)}
np.testing.assert_allclose(toys["reference"]["shares"], [0.2, 0.3, 0.5])
np.testing.assert_allclose([t["score"] for t in toys.values()], [2.3, 2.3, 1.7, 1.3])
wrong = {
    name: [s for s in t if not np.allclose(t[s], toys["reference"][s])] for name, t in toys.items()
}
print(wrong)
assert wrong == {"reference": [], "A": ["doubled"], "B": ["shares", "score"], "C": ["score"]}

# %%
figure, axis = plt.subplots(figsize=(7, 3))
for column, (name, stages) in enumerate(toys.items()):
    for row, (stage, value) in enumerate(stages.items()):
        bad = stage in wrong[name]
        box = plt.Rectangle((column - 0.42, row - 0.35), 0.84, 0.7, fc="none", ec="0.6")
        box.set(hatch="///" if bad else "", ec="C1" if bad else "0.6", lw=2 if bad else 1)
        axis.add_patch(box)
        label = "  ".join(f"{v:g}" for v in np.round(np.atleast_1d(value), 2))
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axis.text(column, row, label, ha="center", va="center", bbox=white)
names = [n if n == "reference" else f"port {n}" for n in toys]
axis.set_xticks(range(4), names)
axis.set_yticks(range(3), list(toys["A"]))
axis.set(xlim=(-0.6, 3.6), ylim=(-0.5, 2.5), title="Hatched: not what the reference computes")
axis.tick_params(length=0)
plt.show()

# %% [markdown]
# Read each column from below. The **lowest** hatched box names the line that is wrong: the doubling in A, the shares in
# B, the score in C. B has two wrong boxes and only one wrong line, because its score was handed wrong shares. And A is
# the one to remember: it has a bug, and its score is right.
#
# The real model has the same shape, with more rungs.

# %% [markdown]
# ## Where the broken ports come from
#
# The kit has a catalogue of things that ports get wrong. Each can be **planted** into a private copy of the library,
# which then computes the wrong thing. That gives us as many broken ports as we like, without writing one. Here are two
# entries. In the first, somebody forgot that the original image is a scale, too; the second uses the other formula of
# GELU.

# %%
print(len(MISTAKES), "faults, for example:")
assert len(MISTAKES) > 100
for name in ("missing native scale", "erf for tanh"):
    fault = MISTAKES[name]
    print(f"{fault.name}\n  shows first at: {fault.stage}\n  repair: {fault.remedy}")

# %% [markdown]
# What is right? A **fixture** says. It holds an image, weights, and every intermediate on the way to the score and
# back, computed in float64. This one is tiny: two blocks, and weights and image that are made from integers, so they
# are the same on every computer.

# %%
fixture = verify.build_fixture("tiny", conventions="official")
config, right_score = fixture.config, fixture.stages["score"].array[0]
print(f"image {fixture.image.shape}, {config.layers} blocks of width {config.width}")
print(f"{len(fixture.stages)} stages; score {right_score:.5f} on a scale of 1 to {config.outputs}")

# %% [markdown]
# A port runs in float32, as most programs do. `run_planted` runs the reference with
# faults planted and returns everything that it computed, by name.

# %%
single = map_params(lambda array: array.astype(np.float32), fixture.params)


def port(*faults, gradients=False):
    """{stage: array} of a port with these faults: the reference in float32, faults planted."""
    return run_planted(faults, single, fixture.image, config, gradients=gradients)


def off_by(score):
    """How far a score is from the right one, as a share of it."""
    return float(abs(score[0] / right_score - 1))


# %% [markdown]
# ## A test that everybody writes
#
# "Run both programs, compare the scores, allow a few per cent." Four ports take that test:

# %%
for names in ((), ("missing native scale",), ("erf for tanh",), ("unbiased std",)):
    score = port(*(MISTAKES[name] for name in names))["score"]
    print(f"{', '.join(names) or 'no fault':22} {score[0]:.5f}   off by {off_by(score):.7%}")
    assert off_by(score) < 0.05

# %% [markdown]
# All pass. The second is the program of the first paragraph: it has lost one of its three scales. The last is as near
# to the right score as the port without a fault, and still computes something else; you will see where.
#
# Is this bad luck? We plant one fault of every family in the catalogue that concerns the way to the score, one after
# the other (but for dropout, whose result is another in each run). Made weights may be unusually forgiving, so we ask
# a trained model as well: the bundled one, with a photograph. This takes the longest of all cells.

# %%
score = port(MISTAKES["missing native scale"])["score"][0]
assert (round(right_score, 3), round(float(score), 3)) == (4.983, 5.037)

# %%
catalogue, families = [], set()
for fault in MISTAKES.values():
    family = fault.op, fault.stage, fault.remedy  # ε 1e-5 and ε 1e-3 need the same repair
    if (
        fault.applies(config)  # it changes something under these conventions
        and fault.stage  # and not only what nothing reads
        and not fault.stage.startswith(BACK)  # the gradients come later
        and not fault.recognise  # dropout
        and family not in families
    ):
        catalogue.append(fault)
        families.add(family)
demo, picture = mq.load_checkpoint("demo"), photograph("coffee", longer_side=128)
demo_score = run_planted([], demo.params, picture, demo.config)["score"][0]
made, trained, found_at, perfect = {}, {}, {}, {}
for fault in catalogue:
    stages = port(fault)
    made[fault.name] = off_by(stages["score"])
    found_at[fault.name] = first_difference(fixture, stages)  # for the next section
    if made[fault.name] <= 1e-6:
        perfect[fault.name] = stages
    if fault.topic != "score" and fault.applies(demo.config):  # with one output some are none
        theirs = run_planted([fault], demo.params, picture, demo.config)["score"][0]
        trained[fault.name] = float(abs(theirs / demo_score - 1))
print(f"{len(made)} broken ports with made weights, {len(trained)} with trained ones")

# %%
figure, axis = plt.subplots(figsize=(7, 3.6))
groups = (("made weights", made, "-", "o"), ("trained weights, a photograph", trained, "--", "^"))
for label, errors, line, marker in groups:
    x = np.maximum(np.sort(list(errors.values())), 1e-8)
    share = np.arange(1, len(x) + 1) / len(x)
    axis.step(x, share, line, where="post", marker=marker, markersize=4, label=label)
axis.axvline(0.05, color="0.4", linewidth=1)
axis.text(0.06, 0.03, "5 %", color="0.4")
axis.set_xscale("log")
axis.set(
    xlabel="tolerance on the score (0 is drawn at $10^{-8}$)",
    ylabel="share of ports that pass",
    ylim=(0, 1.02),
)
axis.set_title("One fault of every family, judged by the final score")
axis.legend(loc="upper left")
plt.show()

# %%
for label, errors, _, _ in groups:
    for allowed in (0.05, 0.01, 1e-3, 1e-6):
        passing = sum(e <= allowed for e in errors.values())
        print(f"{label:30} allowed {allowed:<7.2g} {passing:3} of {len(errors)} broken ports pass")
assert sum(e <= 0.05 for e in made.values()) > len(made) / 2
assert sum(e <= 0.05 for e in trained.values()) > 3
assert sum(e <= 1e-6 for e in made.values()) >= 3

# %% [markdown]
# Each step to the right is a more generous test. With made weights the line at 5 % has passed half of the ports; where
# the trained model's line stands, you have just read. Two lessons. A tolerance of 5 % says next to nothing. And making
# it small does not save the test: at $10^{-6}$, not far above what rounding alone did to the port without a fault, some
# broken ports still pass. Even when the test does fail, it does not say where to look.

# %% [markdown]
# ## The ladder
#
# So look at everything. The stages of a fixture stand in the order in which they are computed: integers (sizes, hash,
# mask), pixels, the stem, embeddings, encoder, score; then the gradients, in reverse. This order is the **ladder**.
# Where a stage is wrong and all before it are right, the bug is in the few lines between: the **first divergence**.

# %%
print(verify.compare(fixture, port(gradients=True)))

# %% [markdown]
# That is a port without a fault. "Rounding" means that it differs from the reference, but by no more than float32
# explains. How the kit knows, and what "× allowed" means, is a subject of chapter 11b. First see that the ladder
# catches every one of the broken ports above, and look at those whose score was perfect. Where do they differ first,
# and where last?

# %%
for name, stages in perfect.items():
    rungs = verify.compare(fixture, stages, diagnose=False).rungs
    bad = [rung.name for rung in rungs if rung.status == "differs"]
    print(f"{name:40} {len(bad):2} differ: {bad[0]} … {bad[-1]}")
    assert bad[0] == found_at[name]
assert all(found_at[fault.name] for fault in catalogue)
assert {"sides cut off, not rounded", "unbiased std", "ReLU after the max-pool"} <= set(perfect)
assert {"padding all at the end", "key without bias"} <= set(perfect)

# %% [markdown]
# There are four kinds among them.
#
# - Some this **image** does not show. Cutting off the resized sides instead of rounding them gives the same sides here,
#   and others for another photograph. The ladder has a table of the sides of many image sizes, and one of the hash, for
#   just that: only this table differs.
# - Some put the tokens into **another order**. All tokens differ then, but the class token does not care who sits where
#   (chapter 05), and the score is read from it.
# - Some a **later stage** takes out again: a softmax does not see a key's bias, a GroupNorm not the size of a kernel.
#   The ReLU after the max-pool even gives the same result by another way. No bug, but you should know that your port
#   does it.
# - And some are **too small** to reach the score: a wrong $\varepsilon$ in a norm, say.

# %% [markdown]
# ## By hand
#
# Before you let the kit do it, hunt yourself. Three ports, A, B and C; their faults are written backwards, so that
# you do not read them by accident. We run the ports in float64, with the reference's own operations: whatever differs
# by more than a trace of rounding is the bug. Of their stages we keep those of the model itself, from the patches to
# the logits.

# %%
ports = {
    "A": MISTAKES["ylno mottob dna thgir eht ta gniddap"[::-1]],
    "B": MISTAKES["ecnairav desaibnu htiw mroNreyaL"[::-1]],
    "C": MISTAKES["hsah desopsnart"[::-1]],
}


def traced(*faults):
    """All intermediates of a port, from the patches to the logits, in float64."""
    stages = run_planted(faults, fixture.params, fixture.image, config)
    names = list(stages)
    return {n: stages[n] for n in names[names.index("patches") : names.index("head/logits") + 1]}


values = traced()
print(f"{len(values)} intermediates; the first: {', '.join(list(values)[:4])}, …")

# %%
for letter, fault in ports.items():
    mine = traced(fault)
    errors = {name: distance(values[name], mine[name]).norm for name in values}
    wrong = [name for name in errors if errors[name] > 1e-9]
    print(f"{letter}: {len(wrong)} of {len(errors)} stages differ; the first three:")
    for name in wrong[:3]:
        print(f"     {name:35} {values[name].shape}  length of the error {errors[name]:.1e}")

# %% [markdown]
# Almost everything differs, and the largest error can be anywhere. Only the first line of each is worth looking at.
# **Stop here**, add a cell, take `mine = traced(ports["A"])`, and look at `mine` and `values` at that stage: print a
# few of both, subtract, divide, plot. What do they have in common? The same for B and C. Then read on.

# %% [markdown]
# ### Port A
#
# The first stage that differs is the very first: `patches`, the pixels cut into squares. Some patches are right and
# some are wrong, so draw one of the wrong ones beside the right one.

# %%
mine_a = traced(ports["A"])
differs = [
    bool(np.any(a != b)) for a, b in zip(values["patches"][0], mine_a["patches"][0], strict=True)
]
print("patch:", *range(len(differs)), "\nwrong:", *("x" if d else "." for d in differs))
token = differs.index(True)
figure, axes = plt.subplots(1, 2, figsize=(6, 3))
for axis, array, title in zip(axes, (values, mine_a), ("reference", "port A"), strict=True):
    axis.imshow((array["patches"][0, token] + 1) / 2)  # pixels are in −1 … 1
    axis.set(title=f"{title}, patch {token}", xlabel="column", ylabel="row")
plt.show()

# %% [markdown]
# The same picture, moved. The image does not fill the squares, and the reference pads on all sides (grey is 0), the
# smaller half before; port A puts all padding at the right and bottom. We say so in numbers: moved back, it is the
# same.

# %%
a, b = values["patches"][0, token], mine_a["patches"][0, token]
before = int(np.any(a != 0, axis=(1, 2)).argmax()), int(np.any(a != 0, axis=(0, 2)).argmax())
print("rows and columns of padding before the image:", before)
rows, columns = before
np.testing.assert_array_equal(b[: len(b) - rows, : len(b) - columns], a[rows:, columns:])

# %% [markdown]
# ### Port B
#
# Everything is right up to the input of the encoder, and wrong after its first LayerNorm. The function is
# $\gamma\,(x-\mu)/\sigma + \beta$. Undo $\beta$ and divide what is left: if the ratio is the same number everywhere,
# then $\sigma$ is wrong, and not $\mu$, $\gamma$ or $\beta$.

# %%
mine_b = traced(ports["B"])
p = fixture.params["encoder"]["block_00"]["norm1"]
name = "encoder/block_00/norm1"
ratio = (mine_b[name][0] - p["bias"]) / (values[name][0] - p["bias"])
print("ratio:", ratio.shape, f"between {ratio.min():.6f} and {ratio.max():.6f}")

# %% [markdown]
# One number, a little less than 1. An $\varepsilon$ that is too large would shrink tokens of small variance more than
# others, so it is not that. What is it of width $D$? A standard deviation with $D-1$ in the denominator, which
# `torch.var` and `torch.std` use unless told otherwise, is larger by $\sqrt{D/(D-1)}$:

# %%
print(f"√((D − 1)/D) = {np.sqrt((config.width - 1) / config.width):.6f}")
np.testing.assert_allclose(ratio, np.sqrt((config.width - 1) / config.width), rtol=1e-5)

# %% [markdown]
# ### Port C
#
# `patch_embedding` is right and `spatial_embedding`, the next, is not. Between them a row of a table is added to every
# token: which one, the hash index says. It is an integer, row·$G$ + column of a $G \times G$ grid (chapter 02).
# Integers are the best place to look: there is no rounding, and one can read them.

# %%
mine_c = traced(ports["C"])
index, index_c = (
    run_planted(faults, fixture.params, fixture.image, config)["hash_index"]
    for faults in ([], [ports["C"]])
)
last = slice(-6, None)  # the patches of the native image, 2 rows of 3
G = config.grid_size
for label, t in (("reference", index), ("port C", index_c)):
    print(f"{label:10}", *(f"({i // G}, {i % G})" for i in t[0, last]))
row, column = np.divmod(index, G)
np.testing.assert_array_equal(index_c, column * G + row)

# %% [markdown]
# Row and column are exchanged. Was the table wrong, too, or only the index? Look the right token up at the wrong place,
# and it agrees:

# %%
table = fixture.params["spatial_embedding"]["table"]
by_hand = mine_c["patch_embedding"] + table[index_c]
valid = fixture.mask.astype(bool)
np.testing.assert_allclose(by_hand[0, valid], mine_c["spatial_embedding"][0, valid], atol=1e-12)
for letter, fault in ports.items():
    print(f"{letter}: {fault.name}; the score is off by {made[fault.name]:.1%}")

# %% [markdown]
# You have used the whole method: find the first stage that differs; ask *where* it differs (which tokens, which
# channels) and *how* (moved, scaled, exchanged, another sign); guess; and **prove the guess**, by computing the port's
# numbers from the right ones. Without the last step you have an opinion.

# %% [markdown]
# ### 5.037
#
# Now the question of the beginning. The port with 5.037 runs in float32. If rounding is all that ails it, it is no
# further off than a sound port in float32. Climb its ladder from below.

# %%
lost = port(MISTAKES["missing native scale"])
sound, suspect = off_by(port()["score"]), off_by(lost["score"])
print(f"a sound port in float32 is off by {sound:.0e}, this one by {suspect:.0e}")
layouts = {"reference": fixture.stages["layout"].array, "the port": lost["layout"]}
for name, layout in layouts.items():
    print(f"{name}: {len(layout)} scales, rows and columns of patches:", layout[:, 2:4].tolist())
assert suspect > 1e4 * sound
assert first_difference(fixture, lost) == "layout"

# %% [markdown]
# A bug: a sound port in float32 is off by tens of thousands of times less. And it sits near the very bottom of the
# ladder, in the list of scales: the native image is missing. You did not have to know MUSIQ to find it, only the
# order in which things are computed.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/11_find_the_bug.py`; try first.

# %% [markdown]
# ### Exercise 1: an anonymous port (★★★, 10 minutes)
#
# `mine` below holds the intermediates of a port, traced in float64 like A, B and C; `values` are the right ones. Which
# is the first stage that differs, and which entry of the catalogue is the fault? Work by hand: no `verify.compare`, no
# `fingerprint`. The next cell prints the entries to choose from.
#
# <details><summary>Hint</summary>
#
# Subtract the two arrays at the first stage that differs. Is the difference the same for all tokens? Then something was
# added, or not added, that does not depend on the token. What of that kind is among `fixture.params`?
#
# </details>

# %%
mine = traced(MISTAKES["saib tuohtiw noitcejorp-tuo"[::-1]])
choices = [f.name for f in catalogue if f.stage.startswith(("encoder/", "spatial", "scale_emb"))]
print(*choices, sep=" · ")


# %% tags=["exercise-1"]
my_diagnosis = ..., ...  # ("name/of/the/stage", "name of the fault")


# %% tags=["check-1"]
def check(diagnosis):
    stage, name = diagnosis
    wanted = next(n for n in values if distance(values[n], mine[n]).norm > 1e-9)
    assert stage in values, f"{stage!r} is no stage; names are those of `values`"
    assert list(values).index(stage) <= list(values).index(wanted), f"{stage} is not the first"
    assert stage == wanted, f"{stage} does not differ"
    assert name in choices, f"{name!r} is not among the choices; write it as it is printed above"
    again = distance(mine[stage], traced(MISTAKES[name])[stage])
    assert again.norm < 1e-9, f"planting {name!r} gives other numbers than the port's at {stage}"


exercise(1, my_diagnosis, check)

# %% [markdown]
# ### Exercise 2: repair a port (★★, 12 minutes)
#
# This group norm of a port runs, gives the right shape, and has **two** bugs. Repair it; the check plants your function
# into the stem and climbs the ladder.


# %%
def ported_group_norm(x, gamma, beta, eps, groups=32):
    """x: (tokens, height, width, channels)"""
    n, h, w, c = x.shape
    members = x.reshape(n, h * w, c // groups, groups)
    mean = members.mean(axis=(1, 2), keepdims=True)
    var = members.var(axis=(1, 2), keepdims=True, ddof=1)
    y = ((members - mean) / np.sqrt(var + eps)).reshape(x.shape)
    return gamma * y + beta


def with_group_norm(function):
    """How a port with this group norm compares with the fixture."""
    planted = Mistake("mine", "", "group_norm", lambda *x: (function(*x), None), "stem/gn_root")
    stages = port(planted)
    return verify.compare(fixture, stages, diagnose=False)


unrepaired = with_group_norm(ported_group_norm).first
print(f"first divergence {unrepaired.name}, {unrepaired.excess:.0f} × allowed")
assert unrepaired.name == "stem/gn_root"

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which channels belong together? A group is *neighbouring* channels (chapter 04). For the second bug, remember port B.
# If one bug is repaired, the first divergence stays where it is, but the error becomes smaller: the number is worth
# reading.
#
# </details>


# %% tags=["exercise-2"]
def my_group_norm(x, gamma, beta, eps, groups=32):
    n, h, w, c = x.shape
    return ...


# %% tags=["check-2"]
def check(group_norm):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 64))
    shape = np.shape(group_norm(x, np.ones(64), np.zeros(64), 1e-6))
    assert shape == x.shape, f"of an array {x.shape} it makes one of shape {shape}"
    result = with_group_norm(group_norm)
    assert result.passed, (
        f"the first divergence is {result.first.name}, {result.first.excess:.0f} times what is "
        f"allowed; unrepaired it was {unrepaired.name}, {unrepaired.excess:.0f} times"
    )


exercise(2, my_group_norm, check)

# %% [markdown]
# ## Quiz
#
# Click on an answer, and it says whether it is right.

# %%
quiz("11")

# %% [markdown]
# ## In practice
#
# - **Climb while you write**, not when all is written. Dump the first stage, compare, repair, write the next. A port
#   that is compared at the end has all its bugs at once.
# - **Compare the integers first.** Sizes, hash, mask: there is no rounding, so whatever differs is a bug or another
#   convention. Many of the traps in `docs/port-guide.md` are there.
# - **Choose the input so that bugs show.** The image of the fixture has a side that rounds differently in float32, a
#   scale of its own size, padding at every scale and a faint corner. A picture whose sides are multiples of the patch
#   shows less.
# - **Prove the guess.** Compute the port's wrong numbers from the right ones before you change a line.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021.
# - A. Zeller: *Why Programs Fail: A Guide to Systematic Debugging*, 2nd ed., Morgan Kaufmann 2009.
# - The code: `musiq_ref/verify/`; the guide: `docs/port-guide.md`.
