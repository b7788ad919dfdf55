"""Training: gradients of batches, the loop, resuming to the bit, and what goes wrong in practice."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from op_table import random_params
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

import musiq_ref as mq
from musiq_ref.checkpoint import to_pyiqa
from musiq_ref.cli import main
from musiq_ref.losses import l1, l1_backward
from musiq_ref.model.parameters import flatten, nest
from musiq_ref.ordered import in_order
from musiq_ref.outputs import is_ours
from musiq_ref.training.datasets import DatasetError
from musiq_ref.training.log import Log
from musiq_ref.training.parallel import world_gradient
from musiq_ref.training.run import _thinned, train
from musiq_ref.training.settings import RECIPES, Settings, recipe
from musiq_ref.training.state import TrainingError, load_state
from musiq_ref.training.step import Rates, batch_gradient
from musiq_ref.training.stream import open_stream
from musiq_ref.verify import deterministic_params

MODEL = {
    "layers": 1,
    "width": 8,
    "mlp_width": 6,
    "heads": 2,
    "patch_size": 8,
    "grid_size": 3,
    "longer_sides": [12],
}
CONFIG = Settings(model=MODEL).config()


@pytest.fixture
def images(rng):
    """Eight pictures of different sizes; their scores are spread out."""
    return [rng.integers(0, 256, (10 + 3 * i, 30 - 2 * i, 3), dtype=np.uint8) for i in range(8)]


@pytest.fixture
def table(tmp_path, images):
    """A data set: a CSV of paths and scores, half of it for validation."""
    lines = ["path,score,set"]
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{20 + 10 * i},{'training' if i < 6 else 'validation'}")
    path = tmp_path / "scores.csv"
    path.write_text("\n".join(lines))
    return path


def settings(**changes):
    base = Settings(
        dataset="csv",
        model=MODEL,
        loss="huber",
        optimizer="adamw",
        learning_rate=3e-3,
        epochs=3,
        batch=2,
        clip=1.0,
        ema=0.9,
        normalize_targets=True,
        save_every=2,
        dropout=0.1,
        stochastic_depth=0.1,
    )
    return base.replace(**changes)


def same(a, b):
    return all(np.array_equal(x, y) for (_, x), (_, y) in zip(flatten(a), flatten(b), strict=True))


def close(a, b, tolerance=1e-12):
    b = dict(flatten(b))
    scale = max(np.linalg.norm(y) for y in b.values())
    return all(np.abs(x - b[path]).max() <= tolerance * scale for path, x in flatten(a))


@pytest.mark.parametrize("loss", ["l1", "mse", "huber", "emd", "cross_entropy"])
def test_gradient_of_a_batch_is_the_mean_over_its_images(images, loss, rng):
    config = CONFIG.replace(outputs=5 if loss in ("emd", "cross_entropy") else 1)
    params = random_params(config)
    tokens = [mq.tokenize(image, config, "float64") for image in images]
    targets = {"emd": rng.dirichlet(np.ones(5), 8), "cross_entropy": rng.integers(0, 5, 8)}.get(loss, rng.random(8))
    whole = batch_gradient(params, tokens, targets, config, loss)
    alone = [batch_gradient(params, [t], targets[i : i + 1], config, loss) for i, t in enumerate(tokens)]
    assert whole.loss == pytest.approx(np.mean([a.loss for a in alone]), rel=1e-12)
    mean = {path: sum(dict(flatten(a.gradients))[path] for a in alone) / 8 for path, _ in flatten(whole.gradients)}
    assert close(whole.gradients, mq.model.parameters.nest(mean))
    np.testing.assert_allclose(whole.scores, [a.scores[0] for a in alone], rtol=1e-12)


def test_accumulation_recomputation_and_threads_change_nothing(images):
    params = random_params(CONFIG)
    tokens, targets = [mq.tokenize(image, CONFIG, "float64") for image in images], np.arange(8.0)
    first = batch_gradient(params, tokens, targets, CONFIG, "mse")
    for part in (2, 3, 8):
        assert close(
            batch_gradient(params, tokens, targets, CONFIG, "mse", micro_batch=part).gradients, first.gradients
        )
    for options in ({"threads": 3}, {"recompute": True}, {"threads": 2, "recompute": True}):
        again = batch_gradient(params, tokens, targets, CONFIG, "mse", **options)
        assert again.loss == first.loss
        assert same(again.gradients, first.gradients)
    halves = [batch_gradient(params, tokens[i::2], targets[i::2], CONFIG, "mse", whole_batch=8) for i in (0, 1)]
    total = mq.model.parameters.add_params(halves[0].gradients, halves[1].gradients)
    assert close(total, first.gradients)


@pytest.mark.parametrize(("images", "targets"), [(0, 0), (2, 1), (1, 2)])
def test_a_batch_without_images_or_with_other_targets_is_refused(images, targets):
    tokens = [mq.tokenize(np.zeros((20, 30, 3), np.uint8), CONFIG)] * images
    with pytest.raises(ValueError, match=f"a target for each; there are {images} and {targets}$"):
        batch_gradient(random_params(CONFIG), tokens, np.zeros(targets), CONFIG)


def test_an_image_of_which_all_is_padding_is_refused(images):
    tokens = [mq.tokenize(image, CONFIG) for image in images[:2]]
    tokens[1] = tokens[1]._replace(mask=np.zeros_like(tokens[1].mask))
    for micro_batch in (1, 2):
        with pytest.raises(ValueError, match=r"^all tokens are masked"):
            batch_gradient(random_params(CONFIG), tokens, np.ones(2), CONFIG, micro_batch=micro_batch)


def test_gradients_come_in_one_order_whatever_the_parameters(images):
    """Those of a file come in another than new ones, and a run that goes on must find the same norm to the bit."""
    params, tokens = random_params(CONFIG), [mq.tokenize(images[0], CONFIG)]
    turned = nest(dict(reversed(list(flatten(params)))))
    one, other = (batch_gradient(p, tokens, np.ones(1), CONFIG).gradients for p in (params, turned))
    assert [path for path, _ in flatten(one)] == [path for path, _ in flatten(other)]


def test_recomputing_is_asked_of_the_model(images, monkeypatch):
    params, tokens = random_params(CONFIG), [mq.tokenize(images[0], CONFIG)]
    asked, real = [], mq.training.step.forward
    monkeypatch.setattr(
        "musiq_ref.training.step.forward", lambda *a, **k: asked.append(k["recompute"]) or real(*a, **k)
    )
    for options in ({}, {"recompute": False}, {"recompute": True}):
        batch_gradient(params, tokens, np.zeros(1), CONFIG, **options)
    assert asked == ["attention", "attention", True]


def test_the_log_knows_the_last_validation_as_soon_as_it_is_written(tmp_path):
    log = Log(tmp_path / "log.jsonl", 0)
    assert log.last_validation() == {}
    log.add(step=1, loss=0.5, norm=1.0, learning_rate=0.1)
    log.add(step=1, epoch=1, srcc=0.25)
    log.add(step=2, loss=0.4, norm=1.0, learning_rate=0.1)
    assert log.last_validation() == {"srcc": 0.25}
    assert Log(tmp_path / "log.jsonl", 2, log.digest).last_validation() == {"srcc": 0.25}
    assert Log(tmp_path / "log.jsonl", 0).last_validation() == {}


def test_noise_depends_on_the_seed_alone(images):
    params, tokens = random_params(CONFIG), [mq.tokenize(image, CONFIG) for image in images]
    losses = [
        batch_gradient(
            params, tokens, np.arange(8.0), CONFIG, "l1", rates=Rates(0.3), seed=(seed,), threads=threads
        ).loss
        for seed, threads in ((1, 1), (1, 3), (2, 1))
    ]
    assert losses[0] == losses[1] != losses[2]


def test_a_piece_of_a_batch_has_the_noise_of_its_place_in_it(images):
    params, tokens, targets = random_params(CONFIG), [mq.tokenize(image, CONFIG) for image in images], np.arange(8.0)
    whole = batch_gradient(params, tokens, targets, CONFIG, rates=Rates(0.3))
    piece = batch_gradient(params, tokens[5:], targets[5:], CONFIG, rates=Rates(0.3), whole_batch=8, first=5)
    np.testing.assert_array_equal(piece.scores, whole.scores[5:])


def test_patches_are_left_out_but_for_the_last_fifth(table, images, tmp_path, monkeypatch):
    seen = []

    def noted(world, params, tokens, *rest, **more):
        seen.append([(int(t.mask.sum()), t.hash_index[:3].tolist()) for t in tokens])
        return world_gradient(world, params, tokens, *rest, **more)

    monkeypatch.setattr("musiq_ref.training.run.world_gradient", noted)
    run = settings(epochs=5, batch=6, patch_dropout=0.75)
    first = train(run, tmp_path / "run", table, progress=False)
    *early, whole = [sorted(length for length, _ in batch) for batch in seen]
    assert whole == sorted(int(mq.tokenize(image, CONFIG).mask.sum()) for image in images[:6])
    assert early == 4 * [sorted(round(length / 4) for length in whole)]
    assert len({str(batch) for batch in seen}) == 5, "the same patches in two epochs"
    again = train(run, tmp_path / "again", table, progress=False)
    assert first.log.read_bytes() == again.log.read_bytes()


def test_what_is_left_of_an_image_is_valid_in_order_and_never_nothing(rng):
    order = np.arange(20)
    tokens = mq.Tokens(order, order, order, order % 4 > 0)
    for rate, count in ((0.6, 6), (0.99, 1)):
        left = _thinned(tokens, rate, rng)
        assert len(left.mask) == count
        assert left.mask.all()
        assert (np.diff(left.patches) > 0).all()  # a Linformer knows places
        assert np.array_equal(left.patches, left.hash_index)


def test_each_image_epoch_and_seed_leaves_out_other_patches(table, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("musiq_ref.training.run._thinned", lambda tokens, _, rng: drawn.append(rng.random()) or tokens)
    for seed in (1, 2):
        run = settings(epochs=2, batch=6, patch_dropout=0.75, seed=seed)
        train(run, tmp_path / str(seed), table, progress=False)
    assert len(set(drawn)) == len(drawn) == 24


def test_results_come_in_order_however_long_they_take():
    assert list(in_order(lambda t: time.sleep(t) or t, [0.03, 0.0, 0.02, 0.0], workers=3)) == [0.03, 0.0, 0.02, 0.0]


@pytest.mark.long  # test_golden_training.py has one like it
def test_overfits_a_few_images(table, tmp_path):
    calm = {"dropout": 0.0, "stochastic_depth": 0.0, "flip": False, "ema": 0.0}
    run = settings(epochs=120, batch=6, learning_rate=1e-2, save_every=999, **calm)
    result = train(run, tmp_path / "run", table, progress=False)
    losses = [line["loss"] for line in map(json.loads, result.log.read_text().splitlines()) if "loss" in line]
    assert losses[0] > 0.1
    assert losses[-1] < 1e-4
    scores = mq.score([tmp_path / f"{i}.png" for i in range(6)], mq.load_checkpoint(result.last))
    np.testing.assert_allclose([score.value for score in scores], 20 + 10 * np.arange(6), atol=1)


def test_the_loss_curve_is_pytorchs(torch, images):
    """The same weights, batches and optimiser in the PyTorch port: 50 steps of SGD with momentum, in float64."""
    from musiq_ref.verify.torch_port import TorchMusiq

    config = mq.MusiqConfig.preset("tiny", conventions=mq.PYIQA, longer_sides=(40,), layers=1, patch_size=16)
    params, lr, momentum = deterministic_params(config, 3, "float64"), 1e-3, 0.9
    model = TorchMusiq(config).double()
    model.load_state_dict({name: torch.tensor(array) for name, array in to_pyiqa(params).items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    state = mq.training.optimizers.sgd_init(params)
    pictures = [np.ascontiguousarray(image[:16, :12]) for image in images]
    pictures = [np.pad(p, ((0, 30 - p.shape[0]), (0, 40 - p.shape[1]), (0, 0)), "edge") for p in pictures]
    targets = np.linspace(-1, 1, 8)
    for step in range(50):
        chosen = [(2 * step) % 8, (2 * step + 1) % 8]
        tokens = [mq.tokenize(pictures[i], config, "float64") for i in chosen]
        ours = batch_gradient(params, tokens, targets[chosen], config, "l1")
        params, state = mq.training.optimizers.sgd(params, ours.gradients, state, lr, momentum=momentum)
        x = torch.tensor(np.stack([pictures[i] for i in chosen])).permute(0, 3, 1, 2).double() / 255
        optimizer.zero_grad()
        theirs = torch.nn.functional.l1_loss(model(x).reshape(-1), torch.tensor(targets[chosen]))
        theirs.backward()
        optimizer.step()
        assert ours.loss == pytest.approx(theirs.item(), rel=1e-6)
    _, cache = l1(np.zeros(2), targets[:2])
    assert l1_backward(1.0, cache).shape == (2,)


def test_same_seed_same_result_and_another_seed_another(table, tmp_path):
    runs = [
        train(settings(seed=s), tmp_path / name, table, progress=False) for name, s in (("a", 1), ("b", 1), ("c", 2))
    ]
    first, again, other = (mq.load_checkpoint(run.last).params for run in runs)
    assert same(first, again)
    assert not same(first, other)
    assert runs[0].log.read_text() == runs[1].log.read_text()


def test_threads_do_not_change_the_result(table, tmp_path):
    runs = [train(settings(threads=n), tmp_path / str(n), table, progress=False) for n in (1, 3)]
    assert same(*(mq.load_checkpoint(run.last).params for run in runs))


def test_stopped_between_any_two_steps_it_goes_on_to_the_same_bits(table, tmp_path, monkeypatch):
    whole = train(settings(), tmp_path / "whole", table, progress=False)
    expected = mq.load_checkpoint(whole.last).params
    original = mq.training.run.world_gradient
    for stop in range(1, 10):
        calls = []

        def interrupted(*args, calls=calls, stop=stop, **kwargs):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr("musiq_ref.training.run.world_gradient", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(settings(), tmp_path / str(stop), table, progress=False)
        monkeypatch.setattr("musiq_ref.training.run.world_gradient", original)
        resumed = train(settings(), tmp_path / str(stop), table, progress=False)
        assert same(mq.load_checkpoint(resumed.last).params, expected)
        assert resumed.log.read_text() == whole.log.read_text()


def test_killed_outright_it_goes_on_to_the_same_bits(table, tmp_path):
    """`kill -9` at random moments, as often as it takes to finish."""
    changes = ["epochs=6", "dropout=0.1", "save_every=1", *(f"model.{k}={json.dumps(v)}" for k, v in MODEL.items())]
    options = [option for change in changes for option in ("--set", change)]
    recipe_file = tmp_path / "mine.toml"
    recipe_file.write_text('dataset = "csv"\nloss = "l1"\noptimizer = "adam"\nlearning_rate = 1e-3\nbatch = 1\n')
    command = [
        sys.executable,
        "-m",
        "musiq_ref.cli",
        "train",
        "--recipe",
        str(recipe_file),
        "--data",
        str(table),
        *options,
    ]
    assert subprocess.run([*command, "-o", str(tmp_path / "whole"), "--json"], capture_output=True).returncode == 0
    log, rng, kills = tmp_path / "killed" / "log.jsonl", np.random.default_rng(0), 0
    for kill_at in [*np.cumsum(rng.integers(1, 4, 10)), 10**6]:  # lines of the log; the last run is left alone
        process = subprocess.Popen(
            [*command, "-o", str(tmp_path / "killed"), "--json"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and (not log.exists() or len(log.read_bytes().splitlines()) < kill_at):
            time.sleep(0.001)
        if process.poll() is None:
            time.sleep(rng.uniform(0, 0.01))
            process.kill()
            process.wait()
            kills += 1
    assert process.returncode == 0
    assert kills == 10
    whole, killed = (mq.load_checkpoint(tmp_path / name / "last.safetensors").params for name in ("whole", "killed"))
    assert same(whole, killed)
    assert (tmp_path / "killed" / "log.jsonl").read_text() == (tmp_path / "whole" / "log.jsonl").read_text()


def test_fine_tuning_replaces_a_head_that_does_not_fit(table, tmp_path):
    ten = CONFIG.replace(outputs=10)
    mq.save_checkpoint(tmp_path / "ten.safetensors", random_params(ten), ten)
    run = settings(
        init=str(tmp_path / "ten.safetensors"), epochs=1, groups={"stem/*": {"lr_scale": 0}}, dtype="float64", ema=0.0
    )
    trained = mq.load_checkpoint(train(run, tmp_path / "run", table, progress=False).last, "float64").params
    given = mq.load_checkpoint(tmp_path / "ten.safetensors", "float64").params
    assert trained["head"]["kernel"].shape == (8, 1)
    assert same(trained["stem"], given["stem"])
    assert not same(trained["encoder"], given["encoder"])


def test_a_checkpoint_of_another_shape_is_refused(table, tmp_path):
    wide = CONFIG.replace(width=16)
    mq.save_checkpoint(tmp_path / "wide.safetensors", random_params(wide), wide)
    with pytest.raises(TrainingError, match=r"wide\.safetensors has patch_embedding/kernel of shape .* needs"):
        train(settings(init=str(tmp_path / "wide.safetensors")), tmp_path / "run", table, progress=False)


def test_divergence_stops_with_a_sentence_and_keeps_the_last_good_state(table, tmp_path):
    run = settings(
        optimizer="sgd", learning_rate=1e3, clip=0.0, ema=0.0, normalize_targets=False, loss="mse", save_every=1
    )
    with pytest.raises(TrainingError, match=r"step \d+: .* finite.*; if the run has diverged, lower learning_rate"):
        train(run, tmp_path / "run", table, progress=False)
    kept = load_state(tmp_path / "run" / "state.safetensors", run)
    assert kept.step >= 1


def test_going_on_with_other_settings_or_a_damaged_state_is_refused(table, tmp_path):
    train(settings(epochs=1), tmp_path / "run", table, progress=False)
    with pytest.raises(TrainingError, match=r"with learning_rate = 0\.003, not 0\.1; set what it was, or name another"):
        train(settings(epochs=1, learning_rate=0.1), tmp_path / "run", table, progress=False)
    longer = train(settings(epochs=2), tmp_path / "run", table, progress=False)
    assert len([line for line in longer.log.read_text().splitlines() if "epoch" in line]) == 2
    state = tmp_path / "run" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(TrainingError, match=r"state\.safetensors cannot be gone on from: cut short.* name another"):
        train(settings(epochs=3), tmp_path / "run", table, progress=False)


def test_what_an_earlier_version_wrote_is_read(table, tmp_path):
    """The setting micro_batch was called part."""
    train(settings(epochs=1, micro_batch=2), tmp_path / "run", table, progress=False)
    state = tmp_path / "run" / "state.safetensors"
    with safe_open(state, "numpy") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    numbers = {name: json.loads(metadata["numbers"])[name] for name in ("step", "centre", "spread", "best")}
    told = metadata["settings"].replace('"micro_batch": 2', '"part": 2')
    assert "micro_batch" not in told
    save_file(tensors, state, {"settings": told, "numbers": json.dumps(numbers)})
    with pytest.raises(TrainingError, match="is a run with micro_batch = 2, not 1; set what it was, or name another"):
        train(settings(epochs=2), tmp_path / "run", table, progress=False)
    longer = train(settings(epochs=2, part=2), tmp_path / "run", table, progress=False)
    assert len([line for line in longer.log.read_text().splitlines() if "epoch" in line]) == 2


def test_a_full_disk_leaves_the_last_good_state(table, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    train(settings(epochs=1), tmp_path / "run", table, progress=False)
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    monkeypatch.setattr("musiq_ref.outputs.os.fsync", full)
    with pytest.raises(TrainingError, match="No space left"):
        train(settings(epochs=2), tmp_path / "run", table, progress=False)
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before


def test_missing_images_are_listed_and_missing_data_is_a_sentence(table, tmp_path, capsys):
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").write_bytes(b"not an image")
    train(settings(epochs=1), tmp_path / "run", table)
    err = capsys.readouterr().err
    assert "0.png" in err
    assert "1.png" in err
    with pytest.raises(DatasetError, match="where is the data set csv"):
        train(settings(), tmp_path / "other", None, progress=False)
    with pytest.raises(DatasetError, match="does not fit a model with 10 outputs"):
        train(
            settings(model={"outputs": 10}, normalize_targets=False, loss="emd"), tmp_path / "x", table, progress=False
        )


def test_spaq_is_trained_on_at_a_shorter_side_of_512(tmp_path, rng):
    (tmp_path / "TestImage").mkdir()
    (tmp_path / "Annotations").mkdir()
    rows = ["Image name,MOS"]
    for i in range(5):
        rows.append(f"{i}.jpg,{20 + 10 * i}")
        picture = rng.integers(0, 256, (600, 700 + i, 3) if i else (40, 30, 3), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / "TestImage" / f"{i}.jpg")
    (tmp_path / "Annotations" / "MOS and Image attribute scores.csv").write_text("\n".join(rows))
    stream = open_stream(settings(dataset="spaq"), tmp_path)
    shapes = {stream.example(0, i)[0].shape for i in range(stream.length)}
    shapes |= {stream.validation(i)[0].shape for i in range(stream.validation_length)}
    assert shapes == {(40, 30, 3), *((512, 512 * (700 + i) // 600, 3) for i in range(1, 5))}


def test_the_synthetic_set_validates_with_no_more_pictures_than_an_epoch_has():
    lengths = [open_stream(recipe("synthetic", epoch_images=n)).validation_length for n in (6, 5000)]
    assert lengths == [6, 256]


def test_an_unwritable_folder_is_one_sentence(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be made"):
        train(settings(), tmp_path / "file" / "run", table, progress=False)


def test_command_trains_and_draws_curves(table, tmp_path, capsys, monkeypatch):
    recipe_file = tmp_path / "mine.toml"
    recipe_file.write_text('dataset = "csv"\nloss = "l1"\nepochs = 1\nbatch = 3\n')
    changes = [option for k, v in MODEL.items() for option in ("--set", f"model.{k}={json.dumps(v)}")]
    command = ["train", "--recipe", str(recipe_file), "--data", str(table), "-o", str(tmp_path / "run"), *changes]
    assert main(command) == 0
    assert "best" in capsys.readouterr().out
    with Image.open(tmp_path / "run" / "curves.png") as drawn:
        assert drawn.width > 900
    assert main([*command, "--json"]) == 0  # nothing left to do: the same answer again
    again = json.loads(capsys.readouterr().out)
    assert is_ours(tmp_path / "run" / "curves.png")
    Image.new("RGB", (9, 9)).save(tmp_path / "run" / "curves.png")
    assert main(command) == 2
    assert "curves.png is there and was not written by a training" in capsys.readouterr().err
    (tmp_path / "run" / "curves.png").unlink()
    with monkeypatch.context() as patched:
        patched.setattr("musiq_ref.cli.train.draw_curves", lambda *a: 1 / 0)
        assert main(command) == 0
    printed = capsys.readouterr()
    assert "best" in printed.out
    assert "the curves were not drawn (division by zero)" in printed.err
    assert again["last"].endswith("last.safetensors")
    assert again["rmse"] > 0
    assert main([*command, "--set", "batch=0"]) == 2
    assert "batch is 0" in capsys.readouterr().err
    assert main([*command, "--set", "loss=mse", "--set", "loss_options.delta=1"]) == 2
    assert "loss_options has 'delta', which mse does not know" in capsys.readouterr().err
    assert main([*command, "--set", "speed=3"]) == 2
    assert "has no setting 'speed'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_recipes_have_the_published_numbers(name):
    published = {
        "imagenet": ("adamw", 1e-3, 300, 4096, "cross_entropy", 1000),
        "paq2piq": ("sgd", 2e-4, 10, 128, "l1", 1),
        "koniq": ("sgd", 2e-3, 30, 96, "l1", 1),
        "spaq": ("sgd", 1e-4, 30, 128, "l1", 1),
        "ava": ("sgd", 0.12, 20, 512, "emd", 10),
    }
    if name in published:
        s = recipe(name)
        assert (s.optimizer, s.learning_rate, s.epochs, s.batch, s.loss, s.config().outputs) == published[name]
        assert s.config().max_native_patches == 512
        assert s.schedule == "cosine"
    else:
        assert name in ("demo", "synthetic")
        assert recipe(name).config().scales == 3
