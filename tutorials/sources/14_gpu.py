# %% [markdown]
# # 14 · The GPU
#
# A graphics card can do a hundred times the arithmetic of your laptop. Give it a program that was written for the
# laptop, and it may well be slower. Why? That is the question of this chapter. You need no card to answer it: all that
# decides it can be counted, and a kernel can be run on a processor.

# %% [markdown]
# ## What you will learn
#
# - why not a line of the model has to change for a GPU;
# - what a launch is, why a plain LayerNorm takes ten of them, and how one is enough;
# - what it costs to look at a number, and how to look at none;
# - to read a kernel in CUDA C, and to tell what its barriers are for;
# - which arrays must never exist.

# %% [markdown]
# ## What you need
#
# About 60 minutes; LayerNorm (chapter 03), attention (chapter 05). To run the kernel yourself you need g++ (on
# Ubuntu, `sudo apt install g++`); without it the chapter says so and stops at its first cell.

# %%
import math
import re
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import musiq_ref as mq
from course import MissingPackage, exercise, photograph, quiz, show

if not shutil.which("g++"):
    raise MissingPackage("This chapter needs g++, which is not installed.")
ROOT = Path(mq.__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))  # the stand-ins live with the tests that use them

import cupy_double
from cuda_on_cpu import KernelError, compile_variants
from cupy_double import BACKEND, counters, cp, from_numpy, to_numpy
from musiq_ref_cupy.launch import SOURCE

from musiq_ref.backend import namespace
from musiq_ref.model.parameters import map_params
from musiq_ref.ops.layer_norm import layer_norm

# %% [markdown]
# ## Four numbers
#
# Add 3, 1, 4 and 2. One after the other that takes three steps. Four people who each hold one number can do it in two,
# if in each step everybody asks one other: first the one two places away, then the neighbour.

# %%
held = np.array([3, 1, 4, 2])
steps = [held]
for mask in (2, 1):
    held = held + held[np.arange(4) ^ mask]  # i ^ mask: the number i with one binary digit turned
    steps.append(held)
for step in steps:
    print(step)
assert (held == 10).all()

# %%
figure, axis = plt.subplots(figsize=(6, 2.6))
for level, (values, mask) in enumerate(zip(steps, (2, 1, 0), strict=True)):
    for i, value in enumerate(values):
        axis.text(i, -level, str(value), ha="center", va="center", bbox={"fc": "white"})
        if mask:
            axis.plot([i, i], [-level, -level - 1], color="C0", zorder=0)
            axis.plot([i ^ mask, i], [-level, -level - 1], color="C1", ls="--", zorder=0)
axis.set(xlabel="lane", ylabel="step", yticks=[0, -1, -2], yticklabels=[0, 1, 2], xticks=range(4))
plt.show()

# %% [markdown]
# What you see: after two steps every lane holds 10. Everybody ends with the sum, not only one of them. A GPU's **warp** is 32 such people,
# called lanes, who start together. Asking another lane is a *shuffle*, and every shuffle brings them into step. Five steps add 32 numbers, and a row of any length is first shared out: lane 0
# takes the numbers 0, 32, 64, …, lane 1 takes 1, 33, 65, …

# %% [markdown]
# ## The same code on another array
#
# CuPy is NumPy on an NVIDIA GPU: functions of the same names, for arrays that live in the card's memory. So an op of
# this library asks the array where it is from, and computes with that library.

# %%
show(layer_norm)
x = np.random.default_rng(0).standard_normal((3, 8))
there = from_numpy(x)
print(namespace(x).__name__, "|", namespace(there).__name__)

# %% [markdown]
# `there` is no array of a GPU, it is a *stand-in*: NumPy inside, but CuPy's rules outside. It has CuPy's names only, it
# refuses to meet a NumPy array, and it counts. What works with it works on a card.

# %%
gamma, beta = np.ones(8), np.zeros(8)
y, _ = layer_norm(there, from_numpy(gamma), from_numpy(beta))
assert np.allclose(to_numpy(y), layer_norm(x, gamma, beta)[0])
try:
    layer_norm(there, gamma, beta)
except TypeError as error:
    print(error)

# %% [markdown]
# The card and the processor have separate memories, so nothing crosses between them by accident. Now the whole model:

# %%
demo = mq.load_checkpoint("demo")
tokens = mq.tokenize(photograph("coffee", 200), demo.config)
params_there = map_params(from_numpy, demo.params)
counters.reset()
logits = mq.predict(params_there, tokens, demo.config, BACKEND)
print(counters)
assert (counters.transfers, counters.synchronisations) == (3, 0)
assert np.allclose(to_numpy(logits), mq.predict(demo.params, tokens, demo.config), rtol=1e-3)

# %% [markdown]
# Three transfers, the patches and their two indices (where a patch lies, and at which scale; padding stays behind), and
# not one synchronisation. Keep that word in mind.

# %% [markdown]
# ## Launches
#
# The processor does not compute here: it *starts* kernels, programs of the card. Starting one takes some microseconds,
# however little it does. How many does a LayerNorm start? Every call of a CuPy function that computes is at least one.


# %%
def launches(function, *arguments):
    """The names of the stand-in's functions that are called and compute something."""
    names, real = [], cupy_double.Function.__call__

    def counted(self, *args, **kwargs):
        if self.name not in ("broadcast_to", "sliding_window_view"):  # which only look differently
            names.append(self.name)
        return real(self, *args, **kwargs)

    cupy_double.Function.__call__ = counted
    try:
        function(*arguments)
    finally:
        cupy_double.Function.__call__ = real
    return names


names = launches(layer_norm, there, from_numpy(gamma), from_numpy(beta))
print(len(names), names)
assert len(names) == 10

# %% [markdown]
# Each of these reads its arrays from the card's memory and writes another there. The arithmetic in between is next to
# nothing. A kernel of our own does all of it in **one** launch. And so on for the model's other ops. Here is what one
# photograph starts, without any kernel of ours:

# %%
everything = launches(mq.predict, params_there, tokens, demo.config, BACKEND)
kinds, counts = np.unique(everything, return_counts=True)
order = np.argsort(counts)[-12:]
figure, axis = plt.subplots(figsize=(6, 3.2))
axis.barh(kinds[order], counts[order], hatch="//", edgecolor="white")
axis.set(xlabel="launches for one photograph", title=f"{len(everything)} in all")
plt.show()
products = counts[kinds == "matmul"].sum()
assert products < len(everything) / 2

# %% [markdown]
# The matrix products, which do nearly all of the arithmetic, are the smaller part of the launches. Say that each launch
# takes five microseconds, and it adds up before anything is computed:

# %%
time_of_launches = len(everything) * 5e-3
print(f"{len(everything)} launches, {products} of them products: {time_of_launches:.1f} ms")

# %% [markdown]
# Two remedies. **Fuse**: one kernel for what stands together. And **replay**: record the launches once, as a *graph*,
# and start all of them with a single call for the next photograph of that size (`musiq_ref_cupy/graphs.py`).

# %% [markdown]
# ## Waiting
#
# A launch returns at once; the card works through its queue. Whoever wants to *see* a number must wait until the queue
# is empty, and afterwards the card waits, because nothing new was started meanwhile. So count who looks.

# %%
batch = mq.Tokens(*map(from_numpy, mq.batch([tokens])))


def nosy(name, array):
    if name.endswith("mlp/fc2"):
        print(f"{name}: largest {float(cp.max(array)):.3f}")
    return array


waits = {}
for label, tap in (("as it is", None), ("a print in every block", nosy)):
    counters.reset()
    mq.forward(params_there, batch, demo.config, tap=tap)
    waits[label] = counters.synchronisations
print(waits)
assert waits == {"as it is": 0, "a print in every block": demo.config.layers}

# %% [markdown]
# One harmless `print`, and the card stops once a block. `float(x)`, `if x:`, `x.item()` and printing all wait. That is
# the second half of the answer: a careless program makes a fast card wait for a slow processor.

# %% [markdown]
# ## A kernel, line by line
#
# This is LayerNorm in CUDA C, as the library gives it to the card.


# %%
def kernel(name, source=SOURCE):
    """The text of a kernel, from its first line to the brace that ends it."""
    [text] = re.findall(
        rf"^template <class T> \S+ (?:void|T) {name}\(.*?^}}", source, re.MULTILINE | re.DOTALL
    )
    return text


for name in ("warp_sum", "normalise"):
    print(kernel(name), "\n")

# %%
print(re.findall(r"^template <class T> __global__ void layer_norm\(.*?^}", SOURCE, re.M | re.S)[0])

# %% [markdown]
# From the end:
#
# - `__global__` marks what the processor may start. All threads run the same text; they differ by their numbers.
# - `row = blockIdx.x * blockDim.y + threadIdx.y`: threads come in *blocks*, here of 32 × W; every warp of 32 takes a
#   row. The last block may have warps without one: `if (row < rows)`.
# - `for (d = threadIdx.x; d < D; d += 32)`: a lane's share of the row.
# - `warp_sum`: the four people from above, with 32 of them; `^` is hidden in `__shfl_xor_sync`.
# - `mu` is then known to every lane, so the second loop can subtract it: two passes, as chapter 13 asks for.
# - lane 0 alone writes mean and ρ, for the backward.
#
# Compare `normalise` with `layer_norm` above: it is the same equation. g++ can compile it through a header that plays
# the card: one *fiber*, a thread that gives way by hand, for each of the card's threads.


# %%
def compiled(names, source=SOURCE, called="chapter"):
    return compile_variants({called: (names, source)})[called]


module = compiled(["layer_norm<double>"])
rows, D = 5, 40
x = np.random.default_rng(1).standard_normal((rows, D))
gamma, beta = np.random.default_rng(2).standard_normal((2, D))
arrays = [from_numpy(a) for a in (x, gamma, beta, np.empty_like(x), np.empty(rows), np.empty(rows))]
start = module.get_function("layer_norm<double>")
start((2,), (32, 4), (*arrays, np.int32(rows), np.int32(D), np.float64(1e-6)))
y = to_numpy(arrays[3])
assert np.allclose(y, layer_norm(x, gamma, beta)[0], rtol=1e-12)
print("one launch, largest difference:", abs(y - layer_norm(x, gamma, beta)[0]).max())

# %% [markdown]
# Two blocks of four warps for five rows: three warps had nothing to do. That is how the library tests every kernel on
# machines without a card: the op is the specification.

# %% [markdown]
# ## Barriers
#
# Shuffles keep the lanes of a warp in step; nothing does so for the warps of a block. When one warp reads what another has written to their common
# fast memory, all must have written before: `__syncthreads()` waits for the whole block. Here four warps add up a
# gradient, and we take the barrier away.

# %%
name, barrier = "layer_norm_sums<double>", "own[0] = dot; own[1] = sum;\n    __syncthreads();"
assert barrier in SOURCE
broken = SOURCE.replace(barrier, barrier.replace("__syncthreads();", ""))


def bias_gradient(module, dy):
    """Σ dy over the rows, by a block of four warps."""
    rows, D = dy.shape
    given = [from_numpy(a) for a in (dy, dy, np.zeros(rows), np.ones(rows))]
    results = [from_numpy(np.empty((1, D))) for _ in range(2)]
    numbers = (np.int32(rows), np.int32(D), np.int32(rows))
    module.get_function(name)((1, 1), (32, 4), (*given, *results, *numbers), shared_mem=64 * 4 * 8)
    return to_numpy(results[1])[0]


dy = np.random.default_rng(3).standard_normal((9, 32))
for label, source in (("with the barrier", SOURCE), ("without", broken)):
    found = bias_gradient(compiled([name], source), dy)
    print(f"{label}: largest error {abs(found - dy.sum(axis=0)).max()}")
    assert np.allclose(found, dy.sum(axis=0)) == (source is SOURCE)

# %% [markdown]
# Without it the first warp adds up what the others have not written yet. The header lets one warp run ahead as far as it
# can, and fills the common memory with NaN beforehand, so the fault shows every time. On a card it might show once a
# week.

# %% [markdown]
# ## Memory
#
# A card's memory is fast and small. The attention weights of one block are $H N^2$ numbers. Drawn against the number
# of patches, with what the block's other arrays need:

# %%
H, width = demo.config.heads, demo.config.width
N = np.geomspace(100, 24000, 40)
figure, axis = plt.subplots(figsize=(6, 3.2))
axis.loglog(N, 4 * H * N**2 / 2**20, label="attention weights of one block")
axis.loglog(N, 4 * 4 * width * N / 2**20, "--", label="q, k, v and result")
axis.axhline(512, color="grey", ls=":", label="512 MiB")
axis.set(xlabel="patches", ylabel="MiB in float32")
axis.legend()
plt.show()
print(f"512 MiB are the weights of {math.isqrt(2**29 // 4 // H):,} patches")

# %% [markdown]
# The weights grow with the square, everything else with the number itself. But no query needs another's weights. Above
# 512 MiB the library takes the queries in blocks: their logits, their softmax, their sum of values, and then the next
# block in the same memory. One can go further and cut the keys, too, so that a tile of weights never leaves the fast
# memory of a kernel. We had such a kernel: forty lines that one could teach from, and several times slower than NVIDIA's
# products, which keep the arithmetic busy in ways that take a thousand lines. So it is gone. Measure, then choose.

# %% [markdown]
# ## Measured
#
# `make gpu` runs all of this on a real card and writes a file of figures. Here is what one of them says:

# %%
import json

from IPython.display import Markdown, display

sys.path.insert(0, str(ROOT / "benchmarks"))
from gpu import table

text = table(json.loads((ROOT / "docs" / "gpu.json").read_text("utf-8")))
display(Markdown(text[text.index("NVIDIA") :].split("| target |")[0].split("| step |")[0]))

# %% [markdown]
# Read the table with the question of the beginning in mind. Look for "score 1 photograph": its last column says how long
# the same launches take without a graph. Then look for the training of the bundled model, and for NumPy's time beside it.
# Where one launch has much to do, or a graph starts them all, the card shows what it can. Where Python starts a thousand
# kernels for a few small pictures that all differ in size, it waits, and is far from a hundred times as fast. A fast card is slow when it waits: for
# launches that do too little, for a processor that wants to see a number, for memory. Nothing of it shows in the
# formulas.

# %% [markdown]
# ## Exercises
#
# Each cell to fill in is followed by one that checks it. Until you do, it says so and the notebook goes on. Solutions
# are in `tutorials/solutions/14_gpu.py`; try first.

# %% [markdown]
# ### Exercise 1: how many blocks (★, 5 minutes)
#
# A kernel gives a warp to every row, `warps` of them to a block. How many blocks must be started for `rows` rows, and
# how many warps find nothing to do?
#
# <details><summary>Hint</summary>
#
# Round up: too few blocks would leave rows out, which no error reports.
#
# </details>


# %% tags=["exercise-1"]
def my_grid(rows, warps):
    blocks, idle = ..., ...
    return blocks, idle


# %% tags=["check-1"]
def check(grid):
    for rows, warps in ((5, 4), (8, 4), (1, 8), (918, 8)):
        blocks, idle = grid(rows, warps)
        assert blocks * warps >= rows, f"{blocks} blocks of {warps} warps leave rows out of {rows}"
        assert (blocks - 1) * warps < rows, f"{blocks} blocks are more than {rows} rows need"
        assert idle == blocks * warps - rows, f"{idle} is not the number of idle warps"


exercise(1, my_grid, check)

# %% [markdown]
# ### Exercise 2: the largest of 32 (★, 10 minutes)
#
# Softmax needs the maximum of a row. Given what 32 lanes hold, (32,), return what they hold after five shuffles, (32,):
# the maximum, in every lane. Use no function that looks at more than two numbers at a time, such as `np.max`.
#
# <details><summary>Hint</summary>
#
# `np.maximum(x, y)` compares pair by pair. The masks are 16, 8, 4, 2, 1.
#
# </details>


# %% tags=["exercise-2"]
def my_warp_max(x):
    return ...


# %% tags=["check-2"]
def check(warp_max):
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal(32)
        got = warp_max(x)
        assert np.shape(got) == (32,), f"the shape is {np.shape(got)}, not (32,)"
        wrong = np.flatnonzero(got != x.max())
        assert not len(wrong), f"lane {wrong[0]} holds {got[wrong[0]]:.3f}, not {x.max():.3f}"


exercise(2, my_warp_max, check)

# %% [markdown]
# ### Exercise 3: a kernel of your own (★★, 15 minutes)
#
# Write the body of a kernel that makes `y[i] = max(x[i], 0)` for all i < n; a thread an element, in blocks of
# `blockDim.x` threads. It is compiled and run on the processor, with more threads than elements.
#
# <details><summary>Hint</summary>
#
# Which element is yours: block number times threads in a block, plus your number in it. Then make sure that it exists:
# the memory behind the last one is not yours.
#
# </details>

# %% tags=["exercise-3"]
my_body = ...

# %% tags=["check-3"]
HEAD = "template <class T> __global__ void relu(const T *x, T *y, int n) {\n%s\n}\n"


def check(body):
    try:
        mine = compiled(["relu<double>"], HEAD % body, "mine")
        for n in (1, 31, 100):
            x = np.random.default_rng(n).standard_normal(n)
            y = from_numpy(np.full(n, np.nan))
            grid = (math.ceil(n / 32) + 1,)
            mine.get_function("relu<double>")(grid, (32,), (from_numpy(x), y, np.int32(n)))
            assert np.array_equal(to_numpy(y), np.maximum(x, 0)), f"of {n} elements some are wrong"
    except KernelError as error:
        raise AssertionError(str(error)[:300]) from None


exercise(3, my_body, check)

# %% [markdown]
# ## Quiz

# %%
quiz("14")

# %% [markdown]
# ## In practice
#
# - **Measure with the card idle at the end.** Without waiting you measure how fast launches are written down.
# - **Strict float32 or less?** `--backend cupy:tf32` and `cupy:float16` round the factors of products to about three
#   digits and add in float32. It moves scores by less than a thousandth (the table); chapter 13 says how to find out for
#   your own.
# - **Small models are launches, large photographs are memory.** Look at which of the two you have before you tune.
# - **A library first.** Products are cuBLAS's: nobody writes them better. Write a kernel for what stands between them.
# - **Training** waits four times a step, whatever the batch: `musiq-ref train --backend cupy`.

# %% [markdown]
# ## References
#
# - NVIDIA: *CUDA C++ Programming Guide*; threads, shuffles, barriers, graphs.
# - R. Okuta et al.: *CuPy: A NumPy-compatible library for NVIDIA GPU calculations*, LearningSys at NeurIPS 2017.
# - T. Dao et al.: *FlashAttention: Fast and memory-efficient exact attention with IO-awareness*, NeurIPS 2022.
# - S. Williams, A. Waterman, D. Patterson: *Roofline: an insightful visual performance model*, CACM 52, 2009.
# - The code: `backends/musiq_ref_cupy/kernels.cu`, `tests/cuda_on_cpu.h`, `tests/cupy_double.py`.
