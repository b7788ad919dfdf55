"""One step's gradient: a batch of images of any sizes, in micro-batches, on all cores, to the same bits each time.

Every micro-batch (by default one image, without padding) goes forward and backward by itself on one thread; the
gradients are added in the order of the images. So neither the number of threads nor how they happen to run changes a
bit of the sum, and the memory is that of the micro-batches in flight, whatever the batch. Images and targets go to
where the parameters are; on a device nothing is waited for until the last micro-batch has been started.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from musiq_ref.backend import Array, namespace, on_host, to_host
from musiq_ref.config import MusiqConfig
from musiq_ref.image.tokenize import Tokens, batch, drop_padding
from musiq_ref.losses import LOSSES, ON_LOGITS
from musiq_ref.model.head import expected_score, expected_score_backward
from musiq_ref.model.inference import repeatable
from musiq_ref.model.musiq import backward, forward
from musiq_ref.model.noise import Noise
from musiq_ref.model.parameters import EndToEnd, Params, flatten, nest
from musiq_ref.ordered import in_order
from musiq_ref.team import ONE_THREAD


class BatchGradient(NamedTuple):
    """What `batch_gradient` finds.

    loss: of the batch
    gradients: to the parameters
    scores: (B,), what the model predicted; an array of the parameters' library, as the gradients are
    """

    loss: float
    gradients: Params
    scores: Array


class Rates(NamedTuple):
    """How much training drops by chance (see `model.noise.Noise`)."""

    dropout: float = 0.0
    attention_dropout: float = 0.0
    stochastic_depth: float = 0.0


def batch_gradient(
    params: Params,
    tokens: Sequence[Tokens],
    targets: np.ndarray,
    config: MusiqConfig,
    loss: str = "l1",
    *,
    loss_options: dict[str, Any] | None = None,
    micro_batch: int = 1,
    threads: int = 1,
    recompute: bool = False,
    rates: Rates | None = None,
    seed: Sequence[int] = (0,),
    whole_batch: int | None = None,
    first: int = 0,
    repeat: Callable[..., Any] | None = None,
) -> BatchGradient:
    """The mean loss over a batch and its gradient to every parameter.

    tokens: of B images
    targets: (B,) scores, or (B, C) distributions, or labels (B,) for cross-entropy
    loss: a name in LOSSES
    micro_batch: images that go through together
    threads: micro-batches that run at a time; a device takes one after another
    recompute: keep little for the backward, see `forward`; on the host attention weights are kept only to drop some
    rates, seed: dropout, drawn anew for each micro-batch from (*seed, its first image)
    whole_batch: the batch that this is a piece of, when several processes share one
    first: where in it the piece begins
    repeat: of the backend where the parameters are, for micro-batches of few patches and a shape that comes again

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> tokens = [mq.tokenize(np.full((40, 50, 3), u, np.uint8), config) for u in (0, 200)]
    >>> result = batch_gradient(mq.init_params(config), tokens, np.array([1.0, 3.0]), config, "l1")
    >>> result.loss, result.scores
    (2.0, array([0., 0.], dtype=float32))
    """
    if not 0 < len(tokens) == len(targets):
        raise ValueError(f"a batch needs images, and a target for each; there are {len(tokens)} and {len(targets)}")
    loss_forward, loss_backward = LOSSES[loss]
    weight, xp = 1 / (whole_batch or len(tokens)), namespace(params["class_token"])
    save_memory = "attention" if on_host(params["class_token"]) else False
    threads = threads if on_host(params["class_token"]) else 1
    leaves = dict(sorted(flatten(params)))  # in one order, whoever made them: the norm of gradients sums in theirs
    whole = EndToEnd(leaves)
    vectors = whole.join(leaves)

    def compute(noise: Noise, *arrays: Array):
        """Loss, scores and gradients, from vectors of parameters, tokens and targets."""
        *vectors, patches, hashes, scales, mask, aim = arrays
        logits, cache = forward(
            nest(whole.cut(vectors)),
            Tokens(patches, hashes, scales, mask),
            config,
            noise=noise,
            recompute=recompute or save_memory,
        )
        expected, cache_score = expected_score(logits)
        prediction = logits if loss in ON_LOGITS else expected.score
        value, cache_loss = loss_forward(prediction, aim, weight, **(loss_options or {}))
        dprediction = loss_backward(1.0, cache_loss)
        dlogits = dprediction if loss in ON_LOGITS else expected_score_backward(dprediction, cache_score)
        return value, expected.score, backward(dlogits, cache, want_patches=False).params

    def taken(found):
        """The same, of a device in arrays that nothing will be written into; gradients as vectors."""
        value, scores, gradients = found
        return value.copy(), scores.copy(), *whole.join(dict(flatten(gradients)))

    @ONE_THREAD  # not around the loop: whoever leaves that half-way would leave the limit behind
    @np.errstate(over="ignore", invalid="ignore")  # a loss or gradient that is not finite is for the caller to notice
    def run(start: int):
        here = slice(start, start + micro_batch)
        noise = Noise(np.random.default_rng((*seed, first + start)), *(rates or ()))
        arrays = *vectors, *batch([drop_padding(t) for t in tokens[here]]), targets[here]
        if repeat and not any(rates or ()) and repeatable(config, arrays[-2].size):
            key = config, loss, repr(loss_options), weight, recompute
            return repeat(partial(compute, noise), key, arrays, taken)
        return taken(compute(noise, *map(xp.asarray, arrays)))

    values, scores, total = [], [], []
    starts = range(0, len(tokens), micro_batch)
    for value, piece_scores, *gradients in in_order(run, starts, threads, ahead=threads):
        values.append(value)
        scores.append(piece_scores)
        total = _add(total, gradients) if total else gradients
    return BatchGradient(sum(to_host(xp.stack(values)).tolist()), nest(whole.cut(total)), xp.concatenate(scores))


def _add(total: list[Array], more: list[Array]) -> list[Array]:
    """total += more, in place: the sum of a hundred megabytes and another would be as large again."""
    for a, b in zip(total, more, strict=True):
        namespace(a).add(a, b, out=a)
    return total
