# %% [markdown]
# # Solutions of chapter 11b
#
# Each is followed by a mistake that people make, which the check must catch.

# %% tags=["solution-1"]
def my_check(fixture, mine):
    for name, stage in fixture.stages.items():
        if name not in mine:
            continue
        if np.shape(mine[name]) != stage.shape:
            return name
        kept, _ = stored(mine[name])
        valid = sampled_validity(stage, fixture)
        if not stage.tolerance.allows(distance(stage.array, kept, valid)):
            return name
    return ""


# %% tags=["wrong-1"]
def my_check(fixture, mine):
    for name, stage in fixture.stages.items():  # one tolerance for all stages, and padding compared
        if name not in mine:
            continue
        kept, _ = stored(mine[name])
        if kept.shape != stage.array.shape or not np.allclose(
            stage.array, kept, rtol=1e-2, atol=1e-3
        ):
            return name
    return ""


# %% tags=["solution-2"]
def my_bisect(right, blocks):
    low, high = 0, blocks  # right(low) is false, right(high) is true
    while high - low > 1:
        middle = (low + high) // 2
        if right(middle):
            high = middle
        else:
            low = middle
    return high


# %% tags=["wrong-2"]
def my_bisect(right, blocks):
    low, high = 0, blocks
    while high - low > 1:
        middle = (low + high) // 2
        if right(middle):
            high = middle
        else:
            low = middle
    return low  # the last that was not repaired: one too early
