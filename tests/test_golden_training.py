"""The loss curve of a whole training run, step by step, and a run that learns its images by heart.

`python tests/test_golden_training.py` records the curve anew: only for a change that is meant to change it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import musiq_ref as mq
from musiq_ref.training.run import train
from musiq_ref.training.settings import Settings
from musiq_ref.verify import deterministic_image, deterministic_params

GOLDEN = Path(__file__).parent / "golden" / "training.json"
MODEL = {"layers": 2, "width": 8, "mlp_width": 6, "heads": 2, "patch_size": 8, "grid_size": 3, "longer_sides": [12]}
CURVE = Settings(
    dataset="csv",
    model=MODEL,
    loss="huber",
    optimizer="adamw",
    optimizer_options={"weight_decay": 0.02},
    groups={"head/*": {"lr_scale": 3.0}, "*/bias": {"weight_decay": 0.0}},
    learning_rate=3e-3,
    warmup=4,
    epochs=5,  # of 4 steps, the last of them with 2 images: 20 steps
    batch=3,
    clip=1.0,
    ema=0.9,
    normalize_targets=True,
    dropout=0.1,
    attention_dropout=0.1,
    stochastic_depth=0.2,
    dtype="float64",
)


def data_set(folder, training, validation):
    """A CSV of images of different sizes, made of integers alone, with scores that are spread out."""
    lines = ["path,score,set"]
    for i in range(training + validation):
        Image.fromarray(deterministic_image(i, 10 + 3 * i, 38 - 2 * i)).save(Path(folder, f"{i}.png"))
        lines.append(f"{i}.png,{15 + 7 * i},{'training' if i < training else 'validation'}")
    Path(folder, "scores.csv").write_text("\n".join(lines))
    return Path(folder, "scores.csv")


def curve(folder):
    """What a run logs: loss, gradient norm and learning rate of 20 steps, and the five validations."""
    config = CURVE.config()
    start = Path(folder, "start.safetensors")
    mq.save_checkpoint(start, deterministic_params(config, 4, "float64"), config)
    result = train(CURVE.replace(init=str(start)), Path(folder, "run"), data_set(folder, 11, 4), progress=False)
    return [json.loads(line) for line in result.log.read_text().splitlines()]


def test_the_loss_curve_of_20_steps_is_the_recorded_one(tmp_path):
    recorded, found = json.loads(GOLDEN.read_text()), curve(tmp_path)
    assert [sorted(line) for line in found] == [sorted(line) for line in recorded]
    steps = [line for line in recorded if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 21))
    for ours, theirs in zip(found, recorded, strict=True):
        for name, value in theirs.items():  # other BLAS libraries round otherwise, and 20 steps let that grow
            np.testing.assert_allclose(ours[name], value, rtol=1e-8, atol=1e-12, err_msg=f"step {ours['step']}: {name}")


def test_eight_images_are_learnt_by_heart(tmp_path):
    run = Settings(
        dataset="csv",
        model=MODEL,
        loss="huber",
        optimizer="adamw",
        learning_rate=1e-2,
        epochs=100,
        batch=8,
        clip=1.0,
        flip=False,
        normalize_targets=True,
        save_every=999,
    )
    result = train(run, tmp_path / "run", data_set(tmp_path, 8, 1), progress=False)
    losses = [line["loss"] for line in map(json.loads, result.log.read_text().splitlines()) if "loss" in line]
    assert losses[0] > 0.1
    assert losses[-1] < 1e-4
    scores = mq.score([tmp_path / f"{i}.png" for i in range(8)], mq.load_checkpoint(result.last))
    np.testing.assert_allclose([score.value for score in scores], 15 + 7 * np.arange(8), atol=1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text("[\n" + ",\n".join(map(json.dumps, curve(folder))) + "\n]\n")
        sys.exit(0)
