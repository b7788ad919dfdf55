# %% [markdown]
# # 11 · Find the bug: broken ports and the verification kit
#
# Somebody has rewritten MUSIQ in another language. It loads the weights, it runs, it gives 5.037 where the reference
# gives 4.983. Is that a port with a bug, or two correct programs that round differently? And if it is a bug: where? A
# score is one number at the end of dozens of steps. In this chapter you look at the steps, first by hand, then with a
# kit that does it for you.

# %% [markdown]
# ## What you will learn
#
# - why a test "the scores agree within 5 %" passes more than half of our broken ports;
# - to find a bug by hand: compare intermediates in the order of computation, and look at the first that differs;
# - to tell float32 rounding from a bug, with a tolerance that was measured and not guessed;
# - to use the kit: fixtures, `compare`, its diagnosis, single-stepping, bisecting, and the ladder of gradients.

# %% [markdown]
# ## What you need
#
# About 45 minutes. You have met every stage of the model (chapters 01 to 06); float32 (the first page of chapter 13);
# the word backward (chapter 03).

# %%
import tempfile
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import exercise, photograph, show
from musiq_ref import verify
from musiq_ref.model.parameters import map_params
from musiq_ref.verify import adapters
from musiq_ref.verify.ladder import tolerance
from musiq_ref.verify.ladder.distance import distance
from musiq_ref.verify.ladder.fixture import stored, write_fixture  # noqa: F401, for exercise 3
from musiq_ref.verify.ladder.layouts import sampled_validity
from musiq_ref.verify.ladder.stages import BACK, run_stages
from musiq_ref.verify.mistakes.catalogue import MISTAKES
from musiq_ref.verify.mistakes.diagnosis import first_difference
from musiq_ref.verify.mistakes.mistake import Mistake
from musiq_ref.verify.mistakes.plant import PrivateLibrary, run_planted

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
# What is right? A **fixture** says: an image, weights, and every intermediate on the way to the score and back,
# computed in float64. This one is tiny: two blocks, and weights and image that are made from integers, so they are the
# same on every computer.

# %%
fixture = verify.build_fixture("tiny", conventions="official")
config, right_score = fixture.config, fixture.stages["score"].array[0]
print(f"image {fixture.image.shape}, {config.layers} blocks of width {config.width}")
print(f"{len(fixture.stages)} stages; score {right_score:.5f} on a scale of 1 to {config.outputs}")

# %% [markdown]
# A port runs in float32, as any program on a phone or a graphics card does. `run_planted` runs the reference with
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
# All pass. The second has lost one of its three scales. The last is as near to the right score as the port without a
# fault, and still computes something else; you will see where.
#
# Is this bad luck? We plant one fault of every family in the catalogue that concerns the way to the score, one after the
# other (but for dropout, which is different in each run). Made weights may be unusually forgiving, so we ask a trained model as
# well: the bundled one, with a photograph. This takes the longest of all cells.

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
made, trained, found_at = {}, {}, {}
for fault in catalogue:
    stages = port(fault)
    made[fault.name] = off_by(stages["score"])
    found_at[fault.name] = first_difference(fixture, stages)  # for the next section
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
assert sum(e <= 0.05 for e in trained.values()) > len(trained) / 4
assert sum(e <= 1e-6 for e in made.values()) >= 3

# %% [markdown]
# Two lessons. A tolerance of 5 % says next to nothing: a coin would do as well. And making it small does not save the
# test. At $10^{-6}$, not far above what rounding alone did to the port without a fault, some broken ports still pass.
# Even when the test does fail, it does not say where to look.

# %% [markdown]
# ## The ladder
#
# So look at everything. The stages of a fixture stand in the order in which they are computed: integers (sizes, hash,
# mask), pixels, the stem, embeddings, encoder, score; then the gradients, in reverse. This order is the **ladder**.
# Where a stage is wrong and all before it are right, the bug is in the few lines between: the **first divergence**.

# %%
print(verify.compare(fixture, port(gradients=True)))

# %% [markdown]
# That is a port without a fault. "Rounding" means that it differs from the reference, but no more than float32
# explains. How the kit knows, and what "× allowed" means, is the subject of a later section. First see that the ladder
# catches every one of the broken ports of above. These are the ones whose score was perfect:

# %%
hidden = [name for name in made if made[name] <= 1e-6]
for name in hidden:
    print(f"{name:39} score off by {made[name]:.0e}, first divergence {found_at[name]}")
assert all(found_at[fault.name] for fault in catalogue)
assert {"sides cut off, not rounded", "unbiased std", "ReLU after the max-pool"} <= set(hidden)
assert trained["sides cut off, not rounded"] > 1e-6  # another image does show it

# %% [markdown]
# There are three kinds among them. Some this *image* does not show: cutting off the resized sides instead of rounding
# them gives the same sides here, and others for the photograph. The ladder has a table of the sides of many image
# sizes, and one of the hash, for just that. Some a *later stage* takes out again. And some give the same result by
# another way, such as the ReLU after the max-pool: no bug, but you should know that your port does it.

# %% [markdown]
# ## By hand
#
# Before you let the kit do it, hunt yourself. Three ports, A, B and C; their faults are written backwards, so that you
# do not read them by accident. We run the ports in float64, where rounding is $10^{-16}$: whatever differs more is the
# bug. Of their stages we keep those of the model itself, from the patches to the logits.

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
# others, so it is not that. What is it of width $D$? A deviation with $D-1$ in the denominator, which `torch.var`
# computes unless it is told otherwise, is larger by $\sqrt{D/(D-1)}$:

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
# ## Rounding or a bug?
#
# By hand we had a luxury: the port ran in float64, with the same operations in the same order. Real ports do not. They
# run in float32, sum in another order, and differ from the reference at every stage. So we need a number: how much may
# a correct port differ?
#
# The kit measures it. It runs the *reference* in float32, once plain and three times with patches that are off by one
# rounding, as those of another program are. What these four show is the **envelope** of a stage; three times as much is
# allowed.

# %%
show(tolerance.rounded)

# %% [markdown]
# How is an error measured? The largest one is a bad measure, since one value among thousands may be unlucky, and a
# *relative* error of single values is worse: some values are nearly 0. The kit takes two numbers per stage: the median
# error over the median value (`bulk`), and the length of the error over the length of the reference (`norm`). What
# belongs to padded tokens is left out: nothing reads it, so it may be anything. (`sampled_validity` says what is left,
# also where the fixture keeps only some values of a large stage.)

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
# - **After** it, errors are handed on. They may shrink or grow; that says nothing about the stages they pass. (The few
#   points of the first fault that stay in the grey are the native image, which is not resized, and the kernels, which
#   do not depend on the picture.)
# - The **score**, the last point, of the port with the other GELU is in the grey. Given nothing but scores, even this
#   kit would pass it.
# - In the middle panel, the fault **vanishes** again and again. The kernels are too small by one factor, and the GroupNorm
#   after each convolution divides it out. So the score is right, and even the gradient to the kernels is. No test of
#   results can find it, in this model; the same code in front of a layer without a norm would be a bug.

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
# Read it from below FIRST DIVERGENCE: which stage, how much, how much float32 explains, and where the largest error is.
# Then DIAGNOSIS, the **fingerprint**. How can it see a small bug behind a large one? It does what you did by hand: it
# proves its guess. It takes the first stage that differs and plants every fault of the catalogue that would show there
# into the reference. BGR gives the port's own pixels, so BGR is what the port does. Then the reference *with* BGR takes
# the place of the reference, and the search goes on. What is not in the catalogue it cannot name; it says so, and you go
# on by hand, from the right place. The first step of the search, done here by hand:

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
# use), compared with the authors' fixture, fails, of course. The fingerprint says which **conventions** it follows; make the
# fixture with these (`conventions="pyiqa"`), and what still differs is a bug.

# %%
theirs = run_stages(single, fixture.image, config.replace(conventions=mq.PYIQA), gradients=False)
diagnosis = verify.compare(fixture, theirs).diagnosis
for topic, follows in diagnosis.conventions.items():
    print(f"{topic:15} {follows}")
assert diagnosis.complete
assert {f.kind for f in diagnosis.findings} == {"convention"}

# %% [markdown]
# ### Files instead of Python
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
# With three stages instead of 73 the diagnosis has less to go by. And a fixture that was damaged on the way is refused:
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
figure, axis = plt.subplots(figsize=(8, 3.4))
for result, style, label in ((free, "o", "free running"), (forced, "^", "single-step")):
    excess = {rung.name: rung.excess for rung in result.rungs}
    y = np.maximum([excess[name] for name in in_encoder], 1e-2)
    axis.semilogy(y, style, markersize=5, label=label, fillstyle="full" if style == "o" else "none")
axis.axhline(1, color="0.4", linewidth=1)
short = [
    n.replace("encoder/", "").replace("attention/", "").replace("mlp/", "") for n in in_encoder
]
axis.set_xticks(range(len(short)), short, rotation=90, fontsize=7)
axis.set(xlabel="stage", ylabel="error / allowed error")
axis.set_title("The same port, judged in two ways")
axis.legend(loc="upper right", bbox_to_anchor=(1, 0.75))
plt.show()

# %% [markdown]
# Free running, the whole encoder is wrong from its first line on. Single-stepped, exactly the stages remain that
# compute something else: every LayerNorm and every GELU. Two bugs, told apart in one run, and no catalogue was needed.

# %%
assert {name.rpartition("/")[2] for name in wrong} == {"norm1", "norm2", "gelu", "norm"}
assert len(wrong) == 2 * config.layers + 1 + config.layers

# %% [markdown]
# ## When you have only the blocks
#
# Some ports can show little: a compiled network gives the output of each block, and the score. Here is one of 12
# blocks. A conversion script has exchanged the two LayerNorms of one block, which is not in the catalogue.

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
# **down**, then `dparams/…`, the gradient to every parameter. The order is reversed because the computation is. So the
# first divergence is the one *nearest to the score*, and everything below it in the model is wrong with it.

# %%
fault = MISTAKES["LayerNorm's statistics taken as constants"]
result = verify.compare(fixture, port(fault, gradients=True), diagnose=False)
back = [rung for rung in result.rungs if rung.name.startswith("gradient/")]
for rung in back[:8]:
    print(f"{rung.status:9} {rung.excess:9.2g} × allowed   {rung.name}")
assert all(rung.fine for rung in result.rungs if not rung.name.startswith(BACK))
assert result.first.name == f"gradient/encoder/block_{config.layers - 1:02d}/output"

# %% [markdown]
# The score and everything on the way to it are right. Backward, the gradient to the output of `encoder/norm` is right,
# and that to its input, the last block's output, is wrong: the bug is in the backward of LayerNorm. (This one forgets
# that the mean and the deviation depend on the input, too.) Now there is one function to look at, and for one function
# there is `verify.op` (chapter 03):

# %%
verdict = verify.op("layer_norm", backward=fault.function)
print(verdict)
assert not verdict.passed
assert result.first.excess > 100

# %% [markdown]
# Note the order of work: while the forward is wrong, gradients cannot be right, and comparing them tells nothing.
# Repair the way there first.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/11_find_the_bug.py`; try first.

# %% [markdown]
# ### Exercise 1: an anonymous port
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
# ### Exercise 2: repair a port
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
# ### Exercise 3: a check that a misconfigured port cannot pass
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


# %% tags=["exercise-3"]
def my_check(fixture, mine):
    """Returns the name of the first stage that differs, or ""."""
    return ...


# %% tags=["check-3"]
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


exercise(3, my_check, check)

# %% [markdown]
# ### Exercise 4: bisect
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


# %% tags=["exercise-4"]
def my_bisect(right, blocks):
    """Returns the number of the wrong block, 1 … blocks."""
    return ...


# %% tags=["check-4"]
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


exercise(4, my_bisect, check)

# %% [markdown]
# ## In practice
#
# - **Climb while you write**, not when all is written. Dump the first stage, compare, repair, write the next. A port
#   that is compared at the end has all its bugs at once.
# - **Compare the integers first.** Sizes, hash, mask: no rounding, so any difference is a bug. Many of the traps in
#   `docs/port-guide.md` are there.
# - **Choose the input so that bugs show.** The image of the fixture has a side that rounds differently in float32, a
#   scale of its own size, padding at every scale and a faint corner. A picture whose sides are multiples of the patch
#   shows less.
# - **Never loosen a tolerance until the test passes.** Measure it: run the reference in the port's precision. For
#   float16 or a quantised port the envelope is wider, and is measured in the same way.
# - **Tiny, then real.** When the tiny fixture passes, make one with your weights and a photograph of yours:
#   `musiq-ref fixture reference/ --checkpoint FILE --image PHOTO`.
# - **Keep it.** `musiq-ref compare` in your CI takes seconds, and the next version of your framework will change
#   something.
# - **Test the test.** `musiq-ref compare reference/ --self-test` plants every fault into the reference and requires
#   that it is named. A test that never failed has not been tested.

# %% [markdown]
# ## References
#
# - J. Ke, Q. Wang, Y. Wang, P. Milanfar, F. Yang: *MUSIQ: Multi-scale Image Quality Transformer*, ICCV 2021.
# - N. J. Higham: *Accuracy and Stability of Numerical Algorithms*, 2nd ed., SIAM 2002, chapters 1 to 3.
# - R. J. Williams, D. Zipser: *A learning algorithm for continually running fully recurrent neural networks*, Neural
#   Computation 1 (1989): teacher forcing.
# - A. Zeller: *Why Programs Fail: A Guide to Systematic Debugging*, 2nd ed., Morgan Kaufmann 2009.
# - The code: `musiq_ref/verify/`; the guide: `docs/port-guide.md`; the files: `docs/fixture-format.md`.
