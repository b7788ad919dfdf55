"""How well a model's scores follow the targets of the validation images."""

from __future__ import annotations

import contextlib
import math

import numpy as np

from musiq_ref.backend import NUMPY, Backend
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import tokens_for
from musiq_ref.metrics import plcc, srcc
from musiq_ref.model.folded import fold
from musiq_ref.model.head import expected_score
from musiq_ref.model.inference import predict
from musiq_ref.model.parameters import Params, check_params, map_params
from musiq_ref.ordered import in_order
from musiq_ref.team import ONE_THREAD
from musiq_ref.training.stream import Stream


def validate(
    params: Params, config: MusiqConfig, stream: Stream, threads: int = 1, device: Backend = NUMPY
) -> dict[str, float]:
    """SRCC, PLCC and RMSE of the scores, computed on a device, of the validation images; of classes, the accuracy."""
    dtype = check_params(params, config)
    model = fold(params, config) if device is NUMPY else map_params(device.from_numpy, params)

    @ONE_THREAD
    def one(number: int):
        image, target = stream.validation(number)
        logits = device.to_numpy(predict(model, tokens_for(image, config, dtype), config, device, threads=1))
        expected, _ = expected_score(logits[None])
        hit = float(np.argmax(logits) == target) if np.ndim(target) == 0 and config.outputs > 1 else math.nan
        mean = target if np.ndim(target) == 0 else float(np.sum(np.arange(1, len(target) + 1) * target))
        return float(expected.score[0]), float(mean), hit

    scores, targets, hits = np.array(list(in_order(one, range(stream.validation_length), threads))).T
    if not np.isnan(hits).any():
        return {"accuracy": float(hits.mean()), "rmse": 1 - float(hits.mean())}
    result = {"rmse": float(np.sqrt(np.mean((scores - targets) ** 2)))}
    with contextlib.suppress(ValueError):  # all scores equal, as before training: no correlation
        result.update(srcc=srcc(scores, targets), plcc=plcc(scores, targets))
    return result
