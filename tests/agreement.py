"""How closely the library agrees with the golden values. `python tests/agreement.py` prints the table of the README.

The errors are the largest difference of an array, divided by the array's norm, but for pixels and logits from an image,
which are compared as they are. The tests hold every one of them against a tolerance.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import musiq_ref as mq
from musiq_ref.checkpoint import to_official
from musiq_ref.image.patches import flatten_patches
from musiq_ref.verify import bits, deterministic_image, deterministic_params, trace, unit

GOLDEN = Path(__file__).parent / "golden"
MODELS = {"tiny_c1_s1": (1, 1), "tiny_c10_s2": (10, 2)}  # name -> outputs, seed of the weights
PADDED = [5, 17, 23]  # tokens of the golden input that are masked out
STEM = ("conv_proj", "gn_proj", "conv1", "gn1", "conv2", "gn2", "conv3", "gn3")
RELU_INPUTS = ("stem/gn_root", "stem/gn1", "stem/gn2", "stem/sum")
BLOCK = {
    "": "output",
    "/LayerNorm_0": "norm1",
    "/MultiHeadDotProductAttention_1/query": "attention/query",
    "/MultiHeadDotProductAttention_1/key": "attention/key",
    "/MultiHeadDotProductAttention_1/value": "attention/value",
    "/MultiHeadDotProductAttention_1/out": "attention/out",
    "/MultiHeadDotProductAttention_1": "attention/out",
    "/LayerNorm_2": "norm2",
    "/MlpBlock_3/Dense_0": "mlp/fc1",
    "/MlpBlock_3/Dense_1": "mlp/fc2",
    "/MlpBlock_3": "mlp/fc2",
}
OFFICIAL_ACTIVATIONS = {
    "conv_root": "stem/conv_root",
    "gn_root": "stem/gn_root",
    **{f"block1/unit1/{name}": f"stem/{name}" for name in STEM},
    "block1/unit1": "stem/output",
    "block1": "stem/output",
    "embedding": "patch_embedding",
    "Transformer/posembed_input": "spatial_embedding",
    "Transformer/scaleembed_input": "scale_embedding",
    **{
        f"Transformer/encoderblock_{i}{theirs}": f"encoder/block_{i:02d}/{ours}"
        for i in range(2)
        for theirs, ours in BLOCK.items()
    },
    "Transformer/encoder_norm": "encoder/norm",
    "Transformer": "encoder/norm",
    "pre_logits": "head/class_token",
    "head": "head/logits",
    "": "head/logits",
}


def golden(file: str, prefix: str = "") -> dict[str, np.ndarray]:
    """The golden values whose names begin with the prefix, without it."""
    with np.load(GOLDEN / f"{file}.npz") as archive:
        return {key[len(prefix) :]: archive[key] for key in archive.files if key.startswith(prefix)}


def sampled(array, count):
    return array.ravel()[np.linspace(0, array.size - 1, count).astype(int)]


def preprocessing_cases() -> list[str]:
    return sorted({key.split("/")[0] for key in golden("preprocess") if key.endswith("/mask")})


def preprocessing(case: str) -> tuple[mq.Tokens, mq.MusiqConfig, dict[str, np.ndarray]]:
    """Our tokens, the configuration and the golden values of a case such as "variant_G5_P16_l8_L224_64x96"."""
    height, width = map(int, case.rsplit("_", 1)[1].split("x"))
    config = mq.MusiqConfig()
    variant = re.match(r"variant_G(\d+)_P(\d+)_l(-?\d+)_L([^_]+)_", case)
    if variant:
        G, P, l = map(int, variant.group(1, 2, 3))
        sides = () if variant[4] == "none" else tuple(map(int, variant[4].split("-")))
        config = mq.MusiqConfig(grid_size=G, patch_size=P, max_native_patches=l, longer_sides=sides)
    return mq.tokenize(deterministic_image(3, height, width), config), config, golden("preprocess", f"{case}/")


def integers_that_differ(case: str) -> int:
    """How many hash indices, scale indices and masks are not equal."""
    tokens, _, expected = preprocessing(case)
    return sum(int((getattr(tokens, name) != expected[name]).sum()) for name in ("hash_index", "scale_index", "mask"))


def pixel_error(case: str) -> float:
    tokens, config, expected = preprocessing(case)
    patches = flatten_patches(tokens.patches, config.conventions.patch_layout)
    return float(np.abs(patches.ravel()[expected["patches_sample_index"]] - expected["patches_sample"]).max())


def official(model: str, dtype: str) -> dict[str, dict[str, float]]:
    """Relative errors on the golden tokens, by kind ("logits", "activations", "gradients") and official name."""
    (outputs, seed), expected = MODELS[model], golden("model", f"{model}/")
    config = mq.MusiqConfig.preset("tiny", outputs=outputs)
    params = deterministic_params(config, seed, dtype)
    mask = np.ones((1, 24), bool)
    mask[0, PADDED] = False
    tokens = mq.Tokens(
        unit(seed, "tokens/patches", (1, 24, 32, 32, 3)),
        bits(seed, "tokens/hash", 24)[None] % 100,
        bits(seed, "tokens/scale", 24)[None] % 3,
        mask,
    )
    values, _ = trace(params, tokens, config)
    logits, cache = mq.forward(params, tokens, config)
    if dtype == "float32":
        exact, _ = trace(deterministic_params(config, seed, "float64"), tokens, config)
        _, cache = mq.forward(params, tokens, config, tap=deciding_as(exact))
    gradients = mq.backward(expected["dlogits"][None].astype(dtype), cache)
    assert logits.dtype == gradients.patches.dtype == dtype
    return {
        "logits": {"logits": float(np.abs(logits[0] - expected["logits"]).max() / np.linalg.norm(expected["logits"]))},
        "activations": {name: _activation_error(values, name, expected) for name in names(expected, "act_norm/")},
        "padded queries": padded_rows(values, expected),
        "gradients": {
            name: _error(gradient, expected, "grad", name)
            for name, gradient in {**to_official(gradients.params), "patches": gradients.patches}.items()
        },
    }


def deciding_as(exact: dict[str, np.ndarray]):
    """A tap that lets every ReLU decide as it does in the exact run.

    Of the million inputs of the ReLUs one may lie so near 0 that float32 puts it on the other side; whether it does
    depends on the processor, and it changed the stem's gradients by 6e-4. Such an input becomes the exact one.
    """

    def tap(name, value):
        if name not in RELU_INPUTS:
            return value
        other = (value > 0) != (exact[name] > 0)
        assert np.count_nonzero(other) <= 2
        assert np.all(np.abs(exact[name][other]) < 5e-6)  # measured: 5.5e-7
        return np.where(other, exact[name], value).astype(value.dtype)

    return tap


def names(expected: dict[str, np.ndarray], prefix: str) -> list[str]:
    return [key[len(prefix) :] for key in expected if key.startswith(prefix)]


def _activation_error(values, name, expected) -> float:
    value = values[OFFICIAL_ACTIVATIONS[name]]
    if value.ndim == 4 and "MultiHead" in name:
        value = value.swapaxes(1, 2)  # (B, H, N, D_h) here, (B, N, H, D_h) there
    if value.ndim >= 3 and value.shape[1] == 25:
        return _row_error(value, name, expected, np.delete(np.arange(25), np.add(PADDED, 1)))
    return _error(value, expected, "act", name)


def padded_rows(values: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """The relative errors of the encoder's activations at padded queries, which nothing reads.

    There the logits are rounded where −1e10 is added, to 2e-6 in float64; which way depends on the last bit.
    """
    errors = {}
    for name in names(expected, "act_norm/"):
        value = values[OFFICIAL_ACTIVATIONS[name]]
        value = value.swapaxes(1, 2) if value.ndim == 4 and "MultiHead" in name else value
        if value.ndim >= 3 and value.shape[1] == 25:
            errors[name] = _row_error(value, name, expected, np.add(PADDED, 1))
    return errors


def _row_error(value, name, expected, rows) -> float:
    difference = value[:, rows] - expected[f"act/{name}"].reshape(value.shape)[:, rows]
    return float(np.abs(difference).max() / expected[f"act_norm/{name}"])


def _error(value, expected, kind, name) -> float:
    """The larger of the relative errors of the (sampled) values and of the norm."""
    norm = expected[f"{kind}_norm/{name}"]
    if f"{kind}/{name}" in expected:
        difference = value - expected[f"{kind}/{name}"].reshape(value.shape)
    else:
        difference = sampled(value, 1021) - expected[f"{kind}_sample/{name}"]
    if name.endswith("key/bias"):  # zero in exact arithmetic, because softmax ignores a shift: compared as it is
        return float(np.abs(difference).max())
    return float(max(np.abs(difference).max(), abs(np.linalg.norm(value) - norm)) / norm)


def from_the_image(model: str, dtype: str) -> dict[str, float]:
    """Largest difference of the logits, the whole way from the image, by the image's size."""
    (outputs, seed), expected = MODELS[model], golden("model", f"{model}/end_to_end/v")
    config = mq.MusiqConfig.preset("tiny", outputs=outputs)
    params, errors = deterministic_params(config, seed, dtype), {}
    for key, logits in expected.items():
        size = key.removesuffix("/logits")
        tokens = mq.tokenize(deterministic_image(3, *map(int, size.split("x"))), config)
        batched, _ = mq.forward(params, mq.batch([tokens]), config)
        alone = mq.predict(params, tokens, config)
        errors[size] = float(max(np.abs(batched[0] - logits).max(), np.abs(alone - logits).max()))
    return errors


def pyiqa(model: str, dtype: str) -> dict[str, dict[str, float]]:
    """Errors under pyiqa's conventions, by kind ("score", "distribution", "gradient to the image") and image size."""
    (outputs, seed), expected = MODELS[model], golden("pyiqa", f"pyiqa_{model}/v")
    config = mq.MusiqConfig.preset("tiny", outputs=outputs, conventions=mq.PYIQA)
    params = deterministic_params(config, seed, dtype)
    errors: dict[str, dict[str, float]] = {"score": {}, "distribution": {}, "gradient to the image": {}}
    for size in sorted({key.split("/")[0] for key in expected}):
        image = deterministic_image(3, *map(int, size.split("x")))
        value, dimage = mq.image_gradient(image, params, config)
        assert dimage.dtype == dtype
        norm = expected[f"{size}/dimage_norm"]
        difference = np.abs(sampled(dimage, 257) - expected[f"{size}/dimage_sample"]).max()
        errors["score"][size] = abs(value - expected[f"{size}/mos"][0])
        errors["gradient to the image"][size] = float(max(difference, abs(np.linalg.norm(dimage) - norm)) / norm)
        logits = mq.predict(params, mq.tokenize(image, config, dtype), config)
        distribution = mq.expected_score(logits[None])[0].distribution
        if distribution is not None:
            errors["distribution"][size] = float(np.abs(distribution[0] - expected[f"{size}/dist"]).max())
    return errors


def main() -> None:
    def row(against, what, *errors):
        worst = [f"{max(e):.1e}" for e in errors]
        print(f"| {against} | {what} | {' | '.join(worst)} |")

    print("| against | what | float64 | float32 |\n|---|---|---|---|")
    different = sum(integers_that_differ(case) for case in preprocessing_cases())
    worst = f"{max(map(pixel_error, preprocessing_cases())):.1e}"
    print(
        f"| authors' code | tokens: hash, scale, mask | – | {different} differ |\n| | patches, absolute | – | {worst} |"
    )
    runs = {dtype: [official(model, dtype) for model in MODELS] for dtype in ("float64", "float32")}
    for kind, what in (
        ("logits", "logits from tokens"),
        ("activations", "every activation"),
        ("gradients", "every gradient"),
    ):
        row("", what, *([e for run in runs[dtype] for e in run[kind].values()] for dtype in runs))
    ends = ([e for model in MODELS for e in from_the_image(model, dtype).values()] for dtype in runs)
    row("", "logits from the image, absolute", *ends)
    theirs = {dtype: [pyiqa(model, dtype) for model in MODELS] for dtype in runs}
    for i, kind in enumerate(("score", "distribution", "gradient to the image")):
        what = kind if "gradient" in kind else f"{kind}, absolute"
        row("" if i else "pyiqa", what, *([e for run in theirs[d] for e in run[kind].values()] for d in runs))


if __name__ == "__main__":
    main()
