# %% [markdown]
# # 11b · Find the bug, with the kit: rounding, diagnosis, single steps
#
# In chapter 11 you hunted bugs in float64, where whatever differs is a bug. Real ports run in float32, sum in another
# order, and differ from the reference at *every* stage. **How much may a correct port differ, and what does a kit
# need to know to find two bugs, one of them thousands of times smaller than the other?** This chapter measures
# the first, and opens `verify.compare` to see the second.

# %% [markdown]
# ## What you will learn
#
# - to tell float32 rounding from a bug, with a tolerance that was measured and not guessed;
# - to read the report of `compare`, and to know how its diagnosis proves what it says;
# - to judge every stage by itself, by single steps, and to find a wrong block in few runs, by bisecting;
# - to climb the ladder of gradients, in the right order.

# %% [markdown]
# ## What you need
#
# About 60 minutes; the ladder and the first divergence of chapter 11; float32 (the first page of chapter 13); the word
# backward (chapter 03).

# %%
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, quiz, show
from musiq_ref import verify
from musiq_ref.model.parameters import map_params
from musiq_ref.verify import adapters
from musiq_ref.verify.ladder import tolerance
from musiq_ref.verify.ladder.distance import distance
from musiq_ref.verify.ladder.fixture import stored, write_fixture  # noqa: F401, for exercise 1
from musiq_ref.verify.ladder.layouts import sampled_validity
from musiq_ref.verify.ladder.stages import BACK, run_stages
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.plant import PrivateLibrary, run_planted

# %% [markdown]
# ## A toy: three numbers, three digits
#
# A computer that keeps three digits adds 100, 0.4 and 0.4. From the left: 100 + 0.4 = 100.4, kept as 100; again + 0.4,
# again 100. From the right: 0.4 + 0.4 = 0.8, and 100 + 0.8 = 100.8, kept as 101. The exact sum is 100.8. Both programs
# are correct, and they differ by 1.


# %%
def three_digits(x):
    return float(f"{x:.2e}")


def added(numbers):
    total = 0.0
    for number in numbers:
        total = three_digits(total + number)
    return total


exact = 100.8
sums = sorted({added(order) for order in itertools.permutations((100, 0.4, 0.4))})
errors = [abs(s - exact) for s in sums]
allowed = 3 * max(errors)
print("sums:", sums, f"largest error {max(errors):.1f}, allowed {allowed:.1f}")
assert sums == [100, 101]
np.testing.assert_allclose(allowed, 2.4)

# %% [markdown]
# Now one port gives 102, and another 104. What shall we say? We measured what rounding does to correct programs: up to
# 0.8. We allow three times as much, because we have not tried every way to round.

# %%
figure, axis = plt.subplots(figsize=(7, 1.9))
axis.axvspan(exact - allowed, exact + allowed, color="0.88", label="allowed")
axis.axvspan(exact - max(errors), exact + max(errors), color="0.72", label="measured")
axis.axvline(exact, color="0.2", linewidth=1)
axis.plot(sums, [0, 0], "o", label="correct programs")
axis.plot([102], [0], "s", label="a port: 102")
axis.plot([104], [0], "X", markersize=9, label="a port: 104")
axis.set(yticks=[], xlabel="sum, in three digits (line: exact)", xlim=(97.5, 108), ylim=(-1, 1))
axis.legend(loc="upper right", ncols=1, fontsize=8)
plt.show()
assert abs(102 - exact) <= allowed < abs(104 - exact)

# %% [markdown]
# 104 is outside: a bug. 102 may be one, too, but this sum cannot say so. To see such a bug one must look where its
# number is not yet mixed with a large one, at an earlier stage. This is the kit in miniature: a measured envelope, a
# margin, and many stages.

# %% [markdown]
# ## The ports
#
# As in chapter 11: a fixture holds the right intermediates, in float64, and faults are planted into a private copy of
# the library, which runs in float32.

# %%
fixture = verify.build_fixture("tiny", conventions="official")
config, right_score = fixture.config, fixture.stages["score"].array[0]
print(f"image {fixture.image.shape}, {config.layers} blocks of width {config.width}")
print(f"{len(fixture.stages)} stages; score {right_score:.5f} on a scale of 1 to {config.outputs}")

# %%
single = map_params(lambda array: array.astype(np.float32), fixture.params)


def port(*faults, gradients=False):
    """{stage: array} of a port with these faults: the reference in float32, faults planted."""
    return run_planted(faults, single, fixture.image, config, gradients=gradients)


# %% [markdown]
# ## Rounding or a bug?
#
# The kit measures the envelope of every stage as we did in the toy. It runs the *reference* in float32, once plain and
# three times with patches that are off by about one rounding, as those of another program are. What the
# worst of these four shows is allowed three times on the way to the score, and four times on the way back.

# %%
show(tolerance.rounded)

# %% [markdown]
# How is an error measured? The largest one is a bad measure, since one value among thousands may be unlucky, and a
# *relative* error of single values is worse: some values are nearly 0. The kit takes two numbers per stage: the median
# error over the median value (`bulk`), and the length of the error over the length of the reference (`norm`). What
# belongs to padded tokens is left out: nothing reads it, so it may be anything. (`sampled_validity` says what is left,
# also where the fixture keeps only some values of a large stage.) And a gradient that is 0 in exact arithmetic, as that
# of the keys' bias is, has nothing to be divided by, and gets an absolute limit.

# %%
name, mine = "encoder/norm", port()
stage = fixture.stages[name]
valid = np.concatenate([[True], fixture.mask.astype(bool)])  # the class token, and tokens
r = stage.array[0, valid].astype("float64")
m = mine[name][0, valid].astype("float64")
bulk = np.median(abs(m - r)) / np.median(abs(r))
norm = np.linalg.norm(m - r) / np.linalg.norm(r)
print(f"{name}: bulk {bulk:.1e}, norm {norm:.1e}")
print(f"allowed: bulk {stage.tolerance.bulk:.1e}, norm {stage.tolerance.norm:.1e}")
theirs = distance(stage.array, mine[name], sampled_validity(stage, fixture))
np.testing.assert_allclose((bulk, norm), (theirs.bulk, theirs.norm))
assert stage.tolerance.allows(theirs)
zero = [n for n, s in fixture.stages.items() if s.tolerance.absolute is not None]
assert zero
assert all(n.endswith("key/bias") for n in zero)

# %%
runs = tolerance.rounded(fixture.params, fixture.image, config, gradients=False)
envelope = [distance(stage.array, run[name], sampled_validity(stage, fixture)).bulk for run in runs]
print("bulk of four float32 runs:", *(f"{e:.1e}" for e in envelope))
print(f"three times the largest: {3 * max(envelope):.1e}; allowed: {stage.tolerance.bulk:.1e}")
assert 0.5 < 3 * max(envelope) / stage.tolerance.bulk < 2  # another machine sums otherwise

# %% [markdown]
# Now three faults against the envelope. One begins at the pixels, one in the stem, one in the MLP. Every point is a
# stage, in the order of the ladder; the grey area is what is allowed.

# %%
faults = [MISTAKES[name] for name in ("resized in 8 bit", "unbiased std", "erf for tanh")]
compared = {fault.name: verify.compare(fixture, port(fault), diagnose=False) for fault in faults}
forward = [
    name
    for name, stage in fixture.stages.items()
    if stage.array.dtype.kind == "f" and not name.startswith((*BACK, "loss/"))
]
allowed = np.array([fixture.stages[name].tolerance.bulk for name in forward])
begins = {"pixels": "pixels/scale_0", "stem": "stem/conv_root/standardized"}
begins |= {"emb.": "patch_embedding", "block 0": "encoder/block_00/norm1"}
begins |= {"block 1": "encoder/block_01/norm1", "score": "head/class_token"}

# %%
figure, axes = plt.subplots(3, 1, figsize=(8, 6), sharex=True, sharey=True)
for axis, (title, result), marker in zip(axes, compared.items(), "o^s", strict=True):
    errors = {rung.name: rung.distance.bulk for rung in result.rungs if rung.distance}
    y = np.maximum([errors[name] for name in forward], 1e-8)
    axis.fill_between(range(len(forward)), 1e-8, allowed, color="0.85", step="mid")
    axis.semilogy(y, marker, markersize=4, label=title)
    for name in list(begins.values())[1:]:
        axis.axvline(forward.index(name) - 0.5, color="0.7", linewidth=0.6)
    axis.set(ylabel="error (bulk)", ylim=(1e-8, 300))
    axis.legend(loc="upper right")
axes[-1].set_xticks(
    [forward.index(name) for name in begins.values()], list(begins), ha="left", fontsize=8
)
axes[-1].set_xlabel("stages, in the order of the ladder")
axes[0].set_title("Three faults along the ladder; grey: what float32 explains")
plt.show()

# %% [markdown]
# - **Before** its first divergence, a port with a fault is as good as a correct one.
# - **At** it, the step is not subtle: thousands of times what is allowed for two of them, and still far outside for the
#   GELU, although its two formulas are hard to tell apart in a plot.
# - **After** it, errors are handed on. They may shrink or grow; that says nothing about the stages they pass. (Points
#   of the first fault that stay in the grey are the native image, which is not resized, and the kernels, which do not
#   depend on the picture.)
# - The **score**, the last point, of the port with the other GELU is in the grey. Given nothing but scores, even this
#   kit would pass it.
# - In the middle panel, the fault **vanishes** again and again. The kernels are too small by one factor, and the
#   GroupNorm after each convolution divides it out, up to its tiny $\varepsilon$. So the score is right, and even the
#   gradient with respect to the kernels is. No test of results can find it, in this model; the same code in front of
#   a layer without a norm would be a bug.

# %%
for title, result in compared.items():
    rung = result.first
    print(f"{title:16} {rung.name}: bulk {rung.distance.bulk:.1e}, {rung.excess:.0f} × allowed")
    assert rung.excess > (10 if title == "erf for tanh" else 1000)
and_back = port(MISTAKES["unbiased std"], gradients=True)
result = verify.compare(fixture, and_back, diagnose=False)
status = {rung.name: rung.status for rung in result.rungs}
assert status["gradient/stem/conv_root"] == "differs"
assert status["dparams/stem/conv_root/kernel"] == "rounding"
assert status["stem/conv_root"] == "differs"
assert status["stem/gn_root"] == "rounding"
assert status["score"] == "rounding"
assert {r.name: r.status for r in compared["erf for tanh"].rungs}["score"] == "rounding"

# %% [markdown]
# ## With the kit
#
# `verify.compare` climbs the ladder for you. This port has two bugs that real ports had: OpenCV reads blue first, and
# PyTorch's LayerNorm has another $\varepsilon$. The second is far smaller than the first, and comes after it.

# %%
broken = port(MISTAKES["BGR"], MISTAKES["LayerNorm with ε 1e-5"])
result = verify.compare(fixture, broken)
print(result)
assert result.first.name == "pixels/scale_0"
assert result.diagnosis.names == ["BGR", "LayerNorm with ε 1e-5"]
assert result.diagnosis.complete

# %% [markdown]
# Read it from below FIRST DIVERGENCE: which stage, how much, how much float32 explains, and where the largest error
# is. Then DIAGNOSIS, the **fingerprint**. How can it see a small bug behind a large one? It does what you did by
# hand: it proves its guess. It takes the first stage that differs and plants every fault of the catalogue that would
# show there into the reference. BGR gives the port's own pixels, so BGR is what the port does. Then the reference
# *with* BGR takes the place of the reference, and the search goes on. What is not in the catalogue it cannot name; it
# says so, and you go on by hand, from the right place. The first step of the search, done here by hand:

# %%
with_bgr = run_planted([MISTAKES["BGR"]], fixture.params, fixture.image, config)  # float64
for name, stage in fixture.stages.items():
    if not stage.tolerance.allows(distance(with_bgr[name], broken[name])):
        break
print("compared with the reference that has BGR, the port first differs at", name)
norms = [distance(r, broken[name]).norm for r in (with_bgr[name], stage.array)]
print(f"there the ε makes an error of length {norms[0]:.0e}, beside one of {norms[1]:.0e} from BGR")
assert norms[0] < norms[1] / 1000
assert name == "encoder/block_00/norm1"

# %% [markdown]
# ### Other programs are not broken
#
# Programs in use differ on purpose, or for historical reasons. One that follows pyiqa (the PyTorch program that many
# use), compared with the authors' fixture, fails, of course. The fingerprint says which **conventions** it follows;
# make the fixture with these (`conventions="pyiqa"`), and what still differs is a bug.

# %%
theirs = run_stages(single, fixture.image, config.replace(conventions=mq.PYIQA), gradients=False)
diagnosis = verify.compare(fixture, theirs).diagnosis
for topic, follows in diagnosis.conventions.items():
    print(f"{topic:15} {follows}")
assert diagnosis.complete
assert {f.kind for f in diagnosis.findings} == {"convention"}

# %% [markdown]
# ### Optional: files instead of Python
#
# A port in C++ or Swift cannot be called from here, and need not be. A fixture is a folder of `.npy` files that any
# language can read; the port writes its own stages under the same names, as many as it likes. Its folder is compared in
# the same way. In a terminal:
#
# ```sh
# musiq-ref fixture reference/ --conventions official
# musiq-ref compare reference/ mine/ --html report.html     # exit code 0: agrees, 1: differs, 2: bad use
# ```

# %%
with tempfile.TemporaryDirectory() as folder:
    write_fixture(Path(folder, "reference"), fixture)
    for name in ("patches", "encoder/input", "score"):
        file = Path(folder, "mine", f"{name}.npy")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, broken[name])
    few = verify.compare(Path(folder, "reference"), Path(folder, "mine"))
    damaged = Path(folder, "reference", "stages", "score.npy")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    try:
        verify.load_fixture(Path(folder, "reference"))
    except verify.FixtureError as error:
        refusal = str(error).replace(folder, "…")
print(str(few).splitlines()[-1], "| named:", *few.diagnosis.names, "\n" + refusal)
assert few.first.name == "patches"
assert "BGR" in few.diagnosis.names

# %% [markdown]
# With three stages the diagnosis has less to go by. And a fixture that was damaged on the way is refused:
# a reference that may have been edited is none.

# %% [markdown]
# ## Which stages are wrong by themselves?
#
# After the first divergence nearly everything is wrong, because every stage gets a wrong input. Are there more bugs
# further down? The trick is known from training language models as **teacher forcing**: after each stage, throw the
# port's result away and go on with the *reference's*. Then each stage is judged alone.
#
# For this a port must let itself be stepped: it is a function that hands every stage to `tap` and goes on with what the
# tap returns. With hooks, that takes a few lines in PyTorch (`docs/port-guide.md` shows them).

# %%
show(adapters.run_port, adapters.single_step)

# %%
two = [MISTAKES[name] for name in ("LayerNorm with unbiased variance", "quick GELU")]


def stepped_port(fixture, tap):
    """The reference in float32 with two faults, as a port that can be stepped."""
    library = PrivateLibrary()
    library.plant(two)
    return library.run_stages(single, fixture.image, fixture.config, tap=tap, gradients=False)


free = adapters.compare_port(fixture, stepped_port, diagnose=False)
forced = adapters.single_step(fixture, stepped_port)
wrong = [rung.name for rung in forced.rungs if rung.status == "differs"]
print("free running:", sum(rung.status == "differs" for rung in free.rungs), "stages differ")
print("single-step:", len(wrong), "stages differ:", *wrong)

# %%
in_encoder = [name for name in forward if name.startswith("encoder/block")] + ["encoder/norm"]
figure, axis = plt.subplots(figsize=(6.5, 6.2))
for result, style, label in ((free, "o", "free running"), (forced, "^", "single-step")):
    excess = {rung.name: rung.excess for rung in result.rungs}
    x = np.maximum([excess[name] for name in in_encoder], 1e-2)
    fill = "full" if style == "o" else "none"
    axis.semilogx(x, range(len(x)), style, markersize=5, label=label, fillstyle=fill)
axis.axvline(1, color="0.4", linewidth=1)
short = [n.removeprefix("encoder/").replace("attention/", "") for n in in_encoder]
axis.set_yticks(range(len(short)), short, fontsize=8)
axis.invert_yaxis()
axis.set(xlabel="error / allowed error (line: what is allowed)", ylabel="stage")
axis.set_title("The same port, judged in two ways")
axis.legend(loc="center", bbox_to_anchor=(0.62, 0.5))
plt.show()

# %% [markdown]
# Free running, the whole encoder is wrong from its first line on. Single-stepped, exactly the stages remain that
# compute something else: every LayerNorm and every GELU. Two bugs, told apart in one run, and no catalogue was needed.

# %%
assert {name.rpartition("/")[2] for name in wrong} == {"norm1", "norm2", "gelu", "norm"}
assert all({r.name: r.excess for r in free.rungs}[name] > 1 for name in in_encoder)
assert len(wrong) == 2 * config.layers + 1 + config.layers

# %% [markdown]
# ## When you have only the blocks
#
# Some ports can show little: a compiled network gives the output of each block, and the score. Here is one of 12
# blocks. A conversion script has exchanged the two LayerNorms, in one block only.

# %%
deep = mq.MusiqConfig(layers=12, width=48, mlp_width=96, heads=4, longer_sides=(56,), stem="linear")
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "deep.safetensors")
    mq.save_checkpoint(file, verify.deterministic_params(deep, seed=5), deep)
    deep_fixture = verify.build_fixture(checkpoint=file, image=fixture.image)


# %%
def converted(params):
    """What the conversion script made of the weights."""
    encoder = dict(params["encoder"])
    block = encoder["block_07"]
    encoder["block_07"] = {**block, "norm1": block["norm2"], "norm2": block["norm1"]}
    return {**params, "encoder": encoder}


def deep_port(fixture, tap):
    deep_port.runs += 1
    return run_stages(
        converted(fixture.params), fixture.image, fixture.config, tap=tap, gradients=False
    )


deep_port.runs = 0
blamed = adapters.bisect(deep_fixture, deep_port)
print(f"the fault is in {blamed}; found in {deep_port.runs} runs for {deep.layers} blocks")
assert blamed == "encoder/block_07"
assert deep_port.runs <= 3 + np.ceil(np.log2(deep.layers))

# %% [markdown]
# `bisect` is teacher forcing at one place only. Give the port the reference's output of block 5. If the score is right
# then, the fault lies in what was replaced, at or before block 5; if not, after it. Each run halves what is left, so 24
# blocks cost one run more than 12. Three runs are spent on the questions "is there a fault at all, is it before the
# encoder, is it after?". It assumes *one* fault; with several it finds the last.

# %% [markdown]
# ## The way back
#
# A port that trains needs right gradients, and the ladder goes on: `gradient/…` for every stage, from the score
# **down**, then `dparams/…`, the gradient with respect to every parameter. The order is reversed because the
# computation is. So the first divergence is the one *nearest to the score*, and everything below it in the model is
# wrong with it.

# %%
fault = MISTAKES["LayerNorm's statistics taken as constants"]
result = verify.compare(fixture, port(fault, gradients=True), diagnose=False)
back = [rung for rung in result.rungs if rung.name.startswith("gradient/")]
for rung in back[:8]:
    print(f"{rung.status:9} {rung.excess:9.2g} × allowed   {rung.name}")
assert all(rung.fine for rung in result.rungs if not rung.name.startswith(BACK))
assert result.first.name == f"gradient/encoder/block_{config.layers - 1:02d}/output"

# %% [markdown]
# The score and everything on the way to it are right. Backward, the gradient with respect to the output of
# `encoder/norm` is right, and that with respect to its input, the last block's output, is wrong: the bug is in the
# backward of LayerNorm. (This one forgets that the mean and the standard deviation depend on the input, too.) Now
# there is one function to look at, and for one function there is `verify.op`:

# %%
verdict = verify.op("layer_norm", backward=fault.function)
print(verdict)
assert not verdict.passed
assert result.first.excess > 100

# %% [markdown]
# Repair the way there first. While the forward is wrong, a wrong gradient may be nothing but its consequence. And a
# right gradient does not prove the forward right: a port that counts the classes from 0 is off by a whole point on
# every image, and every gradient of its score is right.

# %%
from_zero = port(MISTAKES["scores 0 … C−1"], gradients=True)
result = verify.compare(fixture, from_zero, diagnose=False)
wrong_there = [rung.name for rung in result.rungs if rung.status == "differs"]
print(f"score {from_zero['score'][0]:.4f} instead of {fixture.stages['score'].array[0]:.4f}")
print("wrong:", *wrong_there)
assert wrong_there[0] == "score"
assert not [name for name in wrong_there if name.startswith("gradient/")]

# %% [markdown]
# ### The answer
#
# How much may a correct port differ? As much as the reference itself does in that precision, measured stage by stage,
# with a margin. And what does it take to find a small bug behind a large one? A proof of the large one: put it into
# the reference, and the small one is the first thing left.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/11b_the_kit.py`; try first.

# %% [markdown]
# ### Exercise 1: a check that a misconfigured port cannot pass (★★★, 15 minutes)
#
# Write the heart of `compare`: from a fixture and `{stage: array}` of a port to the name of the first stage that
# differs, or `""` when none does. Stages that the port lacks are skipped; a wrong shape differs. It must accept correct
# ports in float32, also one that writes rubbish at padded tokens, and reject wrong settings of the configuration, and
# NaN.
#
# What you have: `fixture.stages` in the order of the ladder, with `array`, `shape` and `tolerance.allows(distance)`;
# `distance(reference, mine, valid)`; `sampled_validity(stage, fixture)`, which is the `valid` of a stage. Large stages
# are stored as a sample: `stored(array)[0]` is of your array what the fixture keeps of its own.
#
# <details><summary>Hint</summary>
#
# One loop with three ways out: not in `mine`, wrong shape, not allowed. `np.allclose` needs a tolerance that you
# guess: with `rtol=1e-2, atol=1e-3`, a common choice, the other GELU passes.
#
# </details>


# %% tags=["exercise-1"]
def my_check(fixture, mine):
    """Returns the name of the first stage that differs, or ""."""
    return ...


# %% tags=["check-1"]
def check(first_wrong):
    plain = port()
    rubbish = {**plain, "encoder/norm": plain["encoder/norm"].copy()}
    rubbish["encoder/norm"][0, 1:][fixture.mask == 0] = 99
    shaken = run_stages(
        single, fixture.image, config, tap=tolerance.shaken(9), gradients=False
    )  # as another program rounds
    for label, mine in (
        ("right", plain),
        ("right (shaken)", shaken),
        ("right but for padding", rubbish),
    ):
        got = first_wrong(fixture, mine)
        assert got == "", f"a port that is {label} is blamed at {got!r}"
    assert first_wrong(fixture, {"score": plain["score"]}) == "", "missing stages are skipped"
    assert first_wrong(fixture, {"score": plain["score"] * np.nan}) == "score", "NaN passes"
    bad = first_wrong(fixture, {"encoder/input": np.zeros((3, 7))})
    assert bad == "encoder/input", "an array of the wrong shape passes"
    changes = ({"gelu": "erf"}, {"weight_std_ddof": 1}, {"resize": "bicubic"}, {"hash": "round"})
    for change in (*changes, {"resized_sides": "float64"}, {"scale_order": "native_first"}):
        wrong = config.replace(conventions=replace(config.conventions, **change))
        mine = run_stages(single, fixture.image, wrong, gradients=False)
        wanted = verify.compare(fixture, mine, diagnose=False).first.name
        got = first_wrong(fixture, mine)
        assert got == wanted, f"with {change} the first divergence is {wanted}; you say {got!r}"


exercise(1, my_check, check)

# %% [markdown]
# ### Exercise 2: bisect (★★, 8 minutes)
#
# A port of `blocks` blocks has one wrong block $b$, counted from 1. `right(k)` runs it with the reference's output of
# block $k$ put in the place of its own ($k = 0$: the input of the encoder), and says whether the score is right then.
# Return $b$. You may call `right` at most $\lceil\log_2 \text{blocks}\rceil$ times.
#
# <details><summary>Hint</summary>
#
# `right(k)` is true exactly if $k \ge b$. You know two answers without asking: `right(0)` is false, `right(blocks)` is
# true. Keep a `k` of each kind, ask in the middle, stop when they are neighbours. Which of the two is $b$?
#
# </details>


# %% tags=["exercise-2"]
def my_bisect(right, blocks):
    """Returns the number of the wrong block, 1 … blocks."""
    return ...


# %% tags=["check-2"]
def check(bisect):
    for blocks in (1, 2, 3, 12, 14, 100):
        for wrong in range(1, blocks + 1):
            asked = []

            def right(k, wrong=wrong, asked=asked):
                asked.append(k)
                return k >= wrong

            got, most = bisect(right, blocks), int(np.ceil(np.log2(blocks)))
            assert got == wrong, f"of {blocks} blocks, number {wrong} is wrong; you say {got}"
            assert len(asked) <= most, f"{len(asked)} runs for {blocks} blocks; {most} are enough"


exercise(2, my_bisect, check)

# %% [markdown]
# ## Quiz
#
# Click on an answer, and it says whether it is right.

# %%
quiz("11b")

# %% [markdown]
# ## In practice
#
# - **Never loosen a tolerance until the test passes.** Measure it: run the reference in the port's precision. For
#   float16 or a quantised port the envelope is wider, and is measured in the same way.
# - **Tiny, then real.** When the tiny fixture passes, make one with your weights and a photograph of yours:
#   `musiq-ref fixture reference/ --checkpoint FILE --image PHOTO`.
# - **Keep it.** `musiq-ref compare` in your continuous integration takes seconds, and the next version of your
#   framework will change something.
# - **Test the test.** `musiq-ref compare reference/ --self-test` plants every fault into the reference and requires
#   that it is named. A test that never failed has not been tested.

# %% [markdown]
# ## References
#
# - N. J. Higham: *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002, chapters 1 to 3.
# - R. J. Williams, D. Zipser: *A learning algorithm for continually running fully recurrent neural networks*, Neural
#   Computation 1 (1989): teacher forcing.
# - The code: `musiq_ref/verify/`; the guide: `docs/port-guide.md`; the files: `docs/fixture-format.md`.
