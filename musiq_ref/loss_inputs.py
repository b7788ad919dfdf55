"""What the losses are given, checked and brought into one form.

Bad input raises ValueError in one sentence. Shapes are checked everywhere, values only on the host: looking at those of
a device's array would wait for the device.
"""

from __future__ import annotations

import numpy as np

from musiq_ref.backend import namespace, on_host


def residual(prediction, target, weight):
    """(y − t as (B, K), w/K for the mean over the K outputs, the shape of y)."""
    _check_arrays(target, prediction)
    shape = prediction.shape
    if target.shape != shape and (*target.shape, 1) != shape:
        raise ValueError(f"the targets have shape {target.shape}; predictions of shape {shape} need the same")
    w = example_weight(prediction, weight)
    _check_finite("target", target)
    d = prediction - target.astype(prediction.dtype).reshape(shape)
    return d.reshape(shape[0], -1), w / (prediction.size // shape[0]), shape


def example_weight(prediction, weight):
    """The weights as a Python float or as (B, 1), in the dtype of the predictions, which are checked as well."""
    if prediction.dtype.kind != "f" or prediction.ndim == 0 or prediction.size == 0:
        raise ValueError(
            f"the predictions are {prediction.dtype} of shape {prediction.shape}; they must be floating and of a batch"
        )
    _check_finite("prediction", prediction)
    if weight is None:
        return 1 / len(prediction)
    shape = getattr(weight, "shape", ())
    if shape not in ((), (len(prediction),)):
        raise ValueError(f"the weights have shape {shape}; {len(prediction)} examples need one number, or one each")
    _check_finite("weight", weight if shape else np.array([weight]))
    return weight.astype(prediction.dtype).reshape(-1, 1) if shape else float(weight)


def distribution(target, logits):
    """The target distributions (B, C) in the dtype of the logits."""
    _check_arrays(target, logits)
    if target.shape != logits.shape or logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"the target distributions have shape {target.shape} and the logits {logits.shape}; "
            "they must be the same (B, C) with at least 2 classes C"
        )
    _check_finite("target", target)
    if on_host(target):
        wrong = (target < 0).any(axis=-1) | (np.abs(target.sum(axis=-1) - 1) > 1e-4)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ValueError(
                f"the target of example {i} is no distribution: its values must be at least 0 and sum to 1, "
                f"not to {target[i].sum():.6g} with a smallest of {target[i].min():.6g}"
            )
    return target.astype(logits.dtype)


def labels_or_distribution(target, logits):
    """Distributions (B, C), or integer labels (B,) turned into such."""
    _check_arrays(target, logits)
    if target.ndim != 1:
        return distribution(target, logits)
    labels = target
    if labels.dtype.kind not in "iu" or logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"the labels are {labels.dtype} of shape {labels.shape}; logits of shape {logits.shape} need one integer "
            "for each row"
        )
    C = logits.shape[1]
    if on_host(labels) and ((labels < 0) | (labels >= C)).any():
        i = int(np.argmax((labels < 0) | (labels >= C)))
        raise ValueError(f"the label of example {i} is {labels[i]}; with {C} classes it must lie in 0 … {C - 1}")
    return (labels[:, None] == namespace(labels).arange(C)).astype(logits.dtype)


def _check_finite(what, x):
    if on_host(x) and not np.isfinite(x).all():
        i = int(np.argwhere(~np.isfinite(x))[0][0])
        raise ValueError(f"the {what} of example {i} is {x[i]}; it must be finite")


def _check_arrays(target, prediction):
    for x in (target, prediction):
        namespace(x)  # raises TypeError, saying what to do, for what is no array
