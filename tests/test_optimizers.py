"""Optimisers step by step against PyTorch's, clipping, averages, frozen parameters, saved states; schedules."""

from __future__ import annotations

import math

import numpy as np
import pytest
import safetensors.numpy

from musiq_ref.model.parameters import flatten, map_params, nest
from musiq_ref.training.groups import group_settings
from musiq_ref.training.optimizers import (
    OPTIMIZERS,
    adam,
    adam_init,
    adamw,
    clip_by_global_norm,
    ema,
    sgd,
    sgd_init,
)
from musiq_ref.training.schedules import SCHEDULES, constant, cosine, steps

SHAPES = {"stem/conv/kernel": (3, 2, 4), "stem/gn/scale": (4,), "encoder/block_00/bias": (2, 3), "head/kernel": (4, 1)}


def random_tree(rng, dtype="float64"):
    """A nested dict of arrays that cannot be written to."""
    leaves = {path: rng.normal(size=shape).astype(dtype) for path, shape in SHAPES.items()}
    for leaf in leaves.values():
        leaf.flags.writeable = False
    return nest(leaves)


def same(a, b):
    """Whether two nested dicts are the same bit by bit."""
    a, b = dict(flatten(a)), dict(flatten(b))
    return a.keys() == b.keys() and all(a[p].dtype == b[p].dtype and a[p].tobytes() == b[p].tobytes() for p in a)


GROUPS = {"*/bias": {"weight_decay": 0.0}, "stem/*": {"lr_scale": 0.1, "weight_decay": 0.3}}
CASES = {
    "sgd": ("sgd", "SGD", {}),
    "sgd with weight decay": ("sgd", "SGD", {"weight_decay": 0.1}),
    "momentum": ("sgd", "SGD", {"momentum": 0.9, "weight_decay": 0.05}),
    "nesterov": ("sgd", "SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}),
    "adam": ("adam", "Adam", {}),
    "adam with other constants": ("adam", "Adam", {"beta1": 0.7, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    "adamw": ("adamw", "AdamW", {}),
    "adamw with more decay": ("adamw", "AdamW", {"weight_decay": 0.5, "beta2": 0.99}),
}


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["one group", "groups"])
@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_agree_with_pytorch(torch, case, groups, rng):
    name, reference, options = CASES[case]
    init, optimizer = OPTIMIZERS[name]
    params = random_tree(rng)
    tensors = {path: torch.tensor(p, requires_grad=True) for path, p in flatten(params)}
    theirs = dict(options)
    if "beta1" in theirs or "beta2" in theirs:
        theirs["betas"] = theirs.pop("beta1", 0.9), theirs.pop("beta2", 0.999)
    lr, decay = 0.03, options.get("weight_decay", 0.01 if name == "adamw" else 0.0)
    settings = group_settings(params, groups, decay)
    torch_optimizer = getattr(torch.optim, reference)(
        [
            {"params": [tensors[p]], "lr": lr * settings[p].lr_scale, "weight_decay": settings[p].weight_decay}
            for p in tensors
        ],
        **{**theirs, "lr": lr},
    )
    state = init(params)
    for _ in range(50):
        grads = random_tree(rng)
        for path, g in flatten(grads):
            tensors[path].grad = torch.tensor(g)
        torch_optimizer.step()
        params, state = optimizer(params, grads, state, lr, groups=groups, **options)
        for path, p in flatten(params):
            np.testing.assert_allclose(p, tensors[path].detach().numpy(), rtol=1e-12, atol=1e-12)
    assert state["step"] == 50


def test_the_learning_rate_may_change_between_steps(torch, rng):
    params, grads = random_tree(rng), random_tree(rng)
    tensor = torch.tensor(params["head"]["kernel"], requires_grad=True)
    optimizer = torch.optim.SGD([tensor], lr=1.0, momentum=0.9)
    state = sgd_init(params)
    for lr in (0.5, 0.1, 0.0, 0.2):
        optimizer.param_groups[0]["lr"] = lr
        tensor.grad = torch.tensor(grads["head"]["kernel"])
        optimizer.step()
        params, state = sgd(params, grads, state, lr, momentum=0.9)
    np.testing.assert_allclose(params["head"]["kernel"], tensor.detach().numpy(), rtol=1e-12)


def test_hand_computed_steps():
    params = {"w": np.array([1.0, -2.0])}
    grads = {"w": np.array([0.5, 0.25])}
    params, state = sgd(params, grads, sgd_init(params), 0.1, momentum=0.5)
    assert params["w"] == pytest.approx([0.95, -2.025])
    params, state = sgd(params, grads, state, 0.1, momentum=0.5)
    assert params["w"] == pytest.approx([0.95 - 0.075, -2.025 - 0.0375])
    params, _ = adam({"w": np.array([1.0])}, {"w": np.array([-1e-3])}, adam_init({"w": np.zeros(1)}), 0.1)
    assert params["w"] == pytest.approx([1 + 0.1 / (1 + 1e-5)])  # one step is η·sign(g), but for ε/|g|


def test_decay_of_adamw_is_decoupled_from_the_gradient():
    params = {"w": np.array([10.0])}
    coupled, _ = adam(params, {"w": np.array([1.0])}, adam_init(params), 0.1, weight_decay=0.5)
    decoupled, _ = adamw(params, {"w": np.array([1.0])}, adam_init(params), 0.1, weight_decay=0.5)
    assert coupled["w"] == pytest.approx([9.9])
    assert decoupled["w"] == pytest.approx([10 * 0.95 - 0.1])


@pytest.mark.parametrize("case", CASES)
def test_frozen_parameters_and_their_state_stay_as_they_are(case, rng):
    name, _, options = CASES[case]
    init, optimizer = OPTIMIZERS[name]
    params = random_tree(rng)
    _, state = optimizer(params, random_tree(rng), init(params), 0.1, **options)
    now, later = params, state
    for _ in range(3):
        grads = random_tree(rng)
        now, later = optimizer(now, grads, later, 0.1, groups={"stem/*": {"lr_scale": 0}}, **options)
    assert same(now["stem"], params["stem"])
    for slot in set(state) - {"step"}:
        assert same(later[slot]["stem"], state[slot]["stem"])
    assert not np.array_equal(now["head"]["kernel"], params["head"]["kernel"])
    del grads["stem"]  # a frozen parameter needs no gradient
    optimizer(now, grads, later, 0.1, groups={"stem/*": {"lr_scale": 0}}, **options)


@pytest.mark.parametrize("case", CASES)
def test_float32_stays_float32(case, rng):
    name, _, options = CASES[case]
    init, optimizer = OPTIMIZERS[name]
    params = random_tree(rng, "float32")
    state = init(params)
    for _ in range(2):
        grads, _ = clip_by_global_norm(random_tree(rng, "float32"), np.float64(1.0))
        params, state = optimizer(params, grads, state, np.float64(0.1), groups=GROUPS, **options)
    state_leaves = [leaf for path, leaf in flatten(state) if path != "step"]
    for leaf in [*dict(flatten(params)).values(), *dict(flatten(grads)).values(), *state_leaves]:
        assert leaf.dtype == np.float32
    assert {leaf.dtype for _, leaf in flatten(ema(params, params, 0.9))} == {np.dtype("float32")}


@pytest.mark.parametrize("case", CASES)
def test_a_saved_state_continues_bit_by_bit(case, rng, tmp_path):
    name, _, options = CASES[case]
    init, optimizer = OPTIMIZERS[name]
    gradients = [map_params(np.asfortranarray, random_tree(rng, "float32")) for _ in range(6)]
    params = random_tree(rng, "float32")
    state = init(map_params(np.asfortranarray, params))  # safetensors writes arrays in another order wrongly
    for grads in gradients[:3]:
        params, state = optimizer(params, grads, state, 0.1, **options)
    safetensors.numpy.save_file(dict(flatten({"params": params, "state": state})), tmp_path / "state.safetensors")
    restored = nest(safetensors.numpy.load_file(tmp_path / "state.safetensors"))
    assert same(restored["state"], state)
    resumed, resumed_state = restored["params"], restored["state"]
    for grads in gradients[3:]:
        params, state = optimizer(params, grads, state, 0.1, **options)
        resumed, resumed_state = optimizer(resumed, grads, resumed_state, 0.1, **options)
    assert same(resumed, params)
    assert same(resumed_state, state)
    assert int(resumed_state["step"]) == 6


@pytest.mark.parametrize("case", CASES)
def test_same_numbers_on_the_device(case, device, rng):
    """With groups of two settings, and of a third that is frozen; a gradient in another order and in another layout."""
    name, _, options = CASES[case]
    init, optimizer = OPTIMIZERS[name]
    groups, params = {**GROUPS, "stem/gn/*": {"lr_scale": 0}}, random_tree(rng)
    there = map_params(device.from_numpy, params)
    average, average_there, state, state_there = params, there, init(params), init(there)
    for _ in range(2):
        grads = random_tree(rng)
        grads_there = map_params(device.from_numpy, dict(reversed(grads.items())))
        grads_there["head"]["kernel"] = device.from_numpy(grads["head"]["kernel"].T).T
        clipped, norm = clip_by_global_norm(grads, 1.5, groups)
        clipped_there, norm_there = clip_by_global_norm(grads_there, 1.5, groups)
        np.testing.assert_allclose(device.to_numpy(norm_there), norm, rtol=1e-12)
        params, state = optimizer(params, clipped, state, 0.1, groups=groups, **options)
        there, state_there = optimizer(there, clipped_there, state_there, 0.1, groups=groups, **options)
        average, average_there = ema(average, params, 0.6), ema(average_there, there, 0.6)
    here = dict(flatten({"params": params, "state": state, "average": average}))
    found = dict(flatten({"params": there, "state": state_there, "average": average_there}))
    assert list(found) == list(here)
    for path, array in found.items():
        np.testing.assert_allclose(device.to_numpy(array), here[path], rtol=1e-12, atol=1e-14)
        assert array.shape == here[path].shape
        assert array.flags.c_contiguous
    assert type(state_there["step"]) is np.ndarray
    assert {type(a) for path, a in found.items() if path != "state/step"} == {
        type(norm_there + there["head"]["kernel"])
    }


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 6.0, 100.0])
def test_clipping_agrees_with_pytorch(torch, max_norm, rng):
    grads = random_tree(rng)
    tensors = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for _, g in flatten(grads)]
    for tensor, (_, g) in zip(tensors, flatten(grads), strict=True):
        tensor.grad = torch.tensor(g)
    expected = torch.nn.utils.clip_grad_norm_(tensors, max_norm).item()
    clipped, norm = clip_by_global_norm(grads, max_norm)
    assert float(norm) == pytest.approx(expected, rel=1e-12)
    for tensor, (_, g) in zip(tensors, flatten(clipped), strict=True):
        assert tensor.grad is not None
        np.testing.assert_allclose(g, tensor.grad.numpy(), rtol=1e-12)
    assert same(clipped, grads) == (norm < max_norm)


def test_frozen_gradients_do_not_count_in_the_norm():
    grads = {"a": np.array([3.0, 4.0]), "b": np.array([100.0])}
    clipped, norm = clip_by_global_norm(grads, 1.0, {"b": {"lr_scale": 0}})
    assert norm == 5
    assert clipped["b"] is grads["b"]
    assert clipped["a"] == pytest.approx([0.6, 0.8], rel=1e-6)


def test_norm_of_large_float32_gradients_does_not_overflow():
    clipped, norm = clip_by_global_norm({"w": np.array([3e30, 4e30], "f4")}, 1.0)
    assert norm == pytest.approx(5e30)
    assert clipped["w"] == pytest.approx([0.6, 0.8], rel=1e-6)


def test_average_is_the_weighted_sum_of_its_past(rng):
    past = [random_tree(rng) for _ in range(4)]
    average = past[0]
    for params in past[1:]:
        average = ema(average, params, 0.9)
    weights = [0.9**3, 0.1 * 0.9**2, 0.1 * 0.9, 0.1]
    for path, a in flatten(average):
        expected = sum(w * dict(flatten(p))[path] for w, p in zip(weights, past, strict=True))
        np.testing.assert_allclose(a, expected, rtol=1e-12, atol=1e-15)
    assert same(ema(average, average, 0.9), average)


PARAMS = {"head": {"kernel": np.ones((2, 3)), "bias": np.ones(3)}}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sgd(PARAMS, {"head": {"bias": np.ones(3)}}, sgd_init(PARAMS), 0.1), "no gradient of float64 .*kernel"),
        (
            lambda: sgd(PARAMS, PARAMS, adam_init(PARAMS), 0.1),
            r"no momentum of float64 \(2, 3\) for parameter",
        ),
        (
            lambda: sgd(PARAMS, map_params(np.transpose, PARAMS), sgd_init(PARAMS), 0.1),
            r"no gradient of float64 \(2, 3",
        ),
        (lambda: sgd(PARAMS, map_params(np.float32, PARAMS), sgd_init(PARAMS), 0.1), "no gradient of float64"),
        (lambda: sgd(PARAMS, PARAMS, sgd_init(PARAMS), math.nan), "the learning rate is nan"),
        (lambda: adam(PARAMS, PARAMS, adam_init(PARAMS), -1.0), "the learning rate is -1"),
        (lambda: group_settings(PARAMS, {"haed/*": {"lr_scale": 0}}), "'haed/.' cannot be applied: no parameter match"),
        (lambda: group_settings(PARAMS, {"*": {"lr": 0}}), "cannot be applied: lr=0 is no setting"),
        (lambda: group_settings(PARAMS, {"*": {"lr_scale": -1}}), "lr_scale=-1 is no setting"),
        (lambda: clip_by_global_norm(PARAMS, 0.0), "2 gradients cannot be clipped to the norm 0"),
        (lambda: clip_by_global_norm({}, 1.0), "0 gradients cannot be clipped"),
        (
            lambda: clip_by_global_norm({"a": np.ones(2), "b": np.array([1, np.nan])}, 1.0),
            "the gradient of parameter b is not finite",
        ),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_without_groups_every_rate_is_whole_and_nothing_decays():
    assert group_settings(PARAMS) == {"head/kernel": (1, 0), "head/bias": (1, 0)}


def test_later_groups_override_earlier_ones():
    groups = {"*": {"weight_decay": 0.2}, "*/bias": {"weight_decay": 0, "lr_scale": 2}, "head/b*": {"lr_scale": 3}}
    settings = group_settings(PARAMS, groups, weight_decay=0.1)
    assert settings == {"head/kernel": (1, 0.2), "head/bias": (3, 0)}


# ----------------------------------------------------------------------------------------------------------- schedules


def torch_rates(torch, make, n):
    """The learning rates that a PyTorch scheduler gives to the first n steps, from a base of 1."""
    tensor = torch.zeros(1, requires_grad=True)
    tensor.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([tensor], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_schedules_agree_with_pytorch(torch):
    lr_scheduler = torch.optim.lr_scheduler
    rates = torch_rates(torch, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=37, eta_min=0.2), 38)
    assert [cosine(s, 37, final=0.2) for s in range(38)] == pytest.approx(rates, rel=1e-12)
    rates = torch_rates(torch, lambda o: lr_scheduler.MultiStepLR(o, milestones=[10, 25], gamma=0.3), 40)
    assert [steps(s, 40, milestones=(0.25, 0.625), factor=0.3) for s in range(40)] == pytest.approx(rates, rel=1e-12)
    rates = torch_rates(torch, lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 5, end_factor=1, total_iters=4), 9)
    assert [constant(s, 9, warmup=4) for s in range(9)] == pytest.approx(rates, rel=1e-12)
    rates = torch_rates(
        torch,
        lambda o: lr_scheduler.LambdaLR(
            o, lambda s: (s + 1) / 6 if s < 5 else (1 + math.cos(math.pi * (s - 5) / 15)) / 2
        ),
        20,
    )
    assert [cosine(s, 20, warmup=5) for s in range(20)] == pytest.approx(rates, rel=1e-12)


def test_hand_computed_schedules():
    assert [cosine(s, 6, 2) for s in range(7)] == pytest.approx(
        [1 / 3, 2 / 3, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4, 0]
    )
    assert [steps(s, 8, 1) for s in range(8)] == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert [constant(s, 4, 1) for s in range(4)] == [0.5, 1, 1, 1]
    assert [cosine(s, 6, final=0.1) for s in range(6, 20)] == pytest.approx([0.1] * 14)  # it does not rise again


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_refuse_what_makes_no_sense(name):
    schedule = SCHEDULES[name]
    with pytest.raises(ValueError, match="the step is -1"):
        schedule(-1, 10)
    with pytest.raises(ValueError, match="10 steps of warm-up do not fit into a training of 10 steps"):
        schedule(0, 10, 10)
    assert schedule(0, 1) == 1


def test_milestones_are_fractions():
    with pytest.raises(ValueError, match=r"milestones are \(30,\); each must be a fraction"):
        steps(0, 40, milestones=[30])
