"""The explorer: one page on which the model runs in the browser, in plain JavaScript, forward and backward.

engine/ computes, beside ops/, image/ and model/, with their names; page/ shows. Here they are put together.
"""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from musiq_ref.checkpoint import Checkpoint
from musiq_ref.checkpoint.native import config_to_json
from musiq_ref.config import MusiqConfig
from musiq_ref.explorer.origin import origin_tag
from musiq_ref.image.decode import ImageLike, decode
from musiq_ref.image.tokenize import scales_of
from musiq_ref.model.parameters import Params, flatten, nest
from musiq_ref.outputs import GENERATOR

ENGINE = ("config", "kernel", "product", "ops", "activation", "convolution", "image", "stem", "encoder", "musiq")
ENGINE += ("session", "terms", "terms_forward", "terms_stem", "terms_back", "explain", "maps", "worker")
PAGE = ("dom", "picture", "strip", "magnifier", "visuals", "attention", "stations", "station_view")
PAGE += ("questions", "predict", "doubt", "spoil", "export", "app", "frame", "begin")
"""The files of engine/ and page/, each after those that it uses."""

MOST_PIXELS, MOST_PATCHES = 240_000, 1000  # of larger photographs, a reduced one: a browser takes about a second for it
ROOM = 2_200_000  # bytes of weights; compressed and as base64 they are a seventh more, and the page stays below 3 MB
MOST_WEIGHTS = 60_000_000  # in float16 the page is 140 MB
EXAMPLES = ("cat", "flower", "rocket")


def source(folder: str, name: str) -> str:
    """A file of the explorer.

    >>> source("engine", "ops.js").startswith("// The elementary")
    True
    """
    return (files(__name__) / folder / name).read_text(encoding="utf-8")


def engine() -> str:
    """The engine as one script: what the page's worker runs, and Node.js, too.

    >>> "function layer_norm_backward(" in engine()
    True
    """
    computed = f"const COMPUTED = {source('engine', 'computes.json')};\n"
    return computed + "\n".join(source("engine", f"{name}.js") for name in ENGINE)


def page_params(params: Params) -> Params:
    """The parameters as the page computes with them, in float32: all of them, if they fit into ROOM bytes; else the
    largest arrays are rounded to float16.

    Raises ValueError for a parameter that float16 cannot hold.

    >>> page_params({"head": {"bias": np.array([0.1])}})["head"]["bias"]
    array([0.1], dtype=float32)
    """
    return nest({name: value.astype(np.float32) for name, value in _packed(params).items()})


def _packed(params: Params) -> dict[str, np.ndarray]:
    """By name, in float32 or float16, the smallest first: rounding the few small ones costs the score most."""
    flat = dict(sorted(flatten(params), key=lambda item: item[1].size))
    room, packed = ROOM - 2 * sum(value.size for value in flat.values()), {}
    for name, value in flat.items():
        room -= 2 * value.size
        with np.errstate(over="ignore"):
            packed[name] = np.asarray(value, np.float32).astype("<f4" if room >= 0 else "<f2")
        if not np.isfinite(packed[name]).all():
            raise ValueError(f"{name} has values that float16 cannot hold; this checkpoint does not fit into a page")
    return packed


def page(image: ImageLike, checkpoint: Checkpoint, name: str = "the photograph") -> str:
    """The page as a string of HTML without links to anything outside it.

    image: whatever `decode` reads; reduced where it has more pixels than a browser computes in about a second
    checkpoint: the model
    name: the photograph's, for the title

    Raises ImageError for what is no image, ValueError for a model that the page cannot compute.

    >>> import musiq_ref as mq
    >>> config = mq.MusiqConfig.preset("tiny")
    >>> checkpoint = mq.Checkpoint(mq.verify.deterministic_params(config, seed=1), config, "native", None)
    >>> text = page(np.zeros((60, 80, 3), np.uint8), checkpoint, "black.png")
    >>> "black.png" in text, "http://" in text.replace("http://www.w3.org/2000/svg", "")
    (True, False)
    """
    config, most = computed_config(checkpoint.config), most_pixels(checkpoint.config)
    _check_size(checkpoint)
    photograph = decode(image)
    pixels, note = _reduced(photograph, checkpoint.config)
    scales_of(pixels.shape[0], pixels.shape[1], checkpoint.config)  # refuses what is too elongated
    weights = _packed(checkpoint.params)
    photographs = [{"name": name, "source": _address(pixels, "PNG")}]
    photographs += [{"name": one, "source": _address(_example(one), "JPEG")} for one in EXAMPLES]
    model = {
        "config": config,
        "index": {path: [value.shape, value.dtype.itemsize] for path, value in weights.items()},
        "about": {"note": note, "most_pixels": most, "of": "of 100" if checkpoint.bundled else ""},
        "photographs": photographs,
    }
    halves = [path for path, value in weights.items() if value.dtype.itemsize == 2]
    which = "All" if len(halves) == len(weights) else f"The largest {len(halves)} of"
    rounded = f"{which} {len(weights)} arrays of weights are rounded to float16. " if halves else ""
    parts = {
        "<!-- generator -->": f"{GENERATOR}\n{origin_tag(photograph, checkpoint)}",
        "<!-- title -->": html.escape(f"Follow a patch: {name}"),
        "<!-- model -->": html.escape(_model_words(checkpoint)),
        "<!-- about -->": _about(checkpoint, rounded),
        "/* style */": source("page", "style.css"),
        "/* model */": json.dumps(model).replace("<", "\\u003c"),
        "/* weights */": _compressed(weights),
        "/* engine */": engine(),
        "/* page */": "\n".join(source("page", f"{part}.js") for part in PAGE),
    }
    text = source("page", "page.html")
    for place, part in parts.items():
        before, after = text.split(place)
        text = before + part + after
    return text


def computed_config(config: MusiqConfig) -> dict[str, Any]:
    """The configuration for the engine: the fields that it knows, which are listed in engine/computes.json.

    Raises ValueError for a field that the engine does not know and that has not its default, or for a value that it
    cannot compute.

    >>> computed_config(MusiqConfig(outputs=10))["outputs"]
    10
    """
    known = json.loads(source("engine", "computes.json"))
    return _computed(json.loads(config_to_json(config)), known, MusiqConfig().to_dict(), "")


def _computed(values: dict[str, Any], known: dict[str, Any], default: dict[str, Any], path: str) -> dict[str, Any]:
    found = {}
    for field, value in values.items():
        allowed = known.get(field)
        if isinstance(allowed, dict):
            found[field] = _computed(value, allowed, default[field], f"{field}.")
        elif field in known and (allowed is None or value in allowed):
            found[field] = value
        elif field in known or field not in default or value != default[field]:
            raise ValueError(f"the page cannot compute a model with {path}{field}={value!r}; musiq_ref in Python does")
    return found


def _compressed(weights: dict[str, np.ndarray]) -> str:
    """Of each array the first bytes of all values, then the second ones, …: signs and exponents, which are much alike,
    lie together, and shrink."""
    planes = (value.reshape(-1).view(np.uint8).reshape(-1, value.dtype.itemsize).T for value in weights.values())
    return base64.b64encode(zlib.compress(b"".join(plane.tobytes() for plane in planes), 9)).decode()


def _check_size(checkpoint: Checkpoint) -> None:
    if _parameters(checkpoint) > MOST_WEIGHTS:
        raise ValueError(
            f"this model has {_parameters(checkpoint):,} parameters, and a page takes {MOST_WEIGHTS:,} at most; "
            "use a smaller model"
        )


def _parameters(checkpoint: Checkpoint) -> int:
    return sum(value.size for _, value in flatten(checkpoint.params))


def most_pixels(config: MusiqConfig) -> int:
    """Of a photograph in a page."""
    return min(MOST_PIXELS, MOST_PATCHES * config.patch_size**2)


def size_in_page(height: int, width: int, config: MusiqConfig) -> tuple[int, int]:
    """(height, width) in which a page shows a photograph: its own, or that of a reduced one.

    >>> size_in_page(1000, 1500, MusiqConfig()), size_in_page(400, 600, MusiqConfig())
    ((400, 600), (400, 600))
    """
    share = min(1, (most_pixels(config) / (height * width)) ** 0.5)
    return max(1, int(height * share)), max(1, int(width * share))


def _reduced(pixels: np.ndarray, config: MusiqConfig) -> tuple[np.ndarray, str]:
    """8-bit pixels in the size of a page, and what the reader is told about that."""
    if pixels.dtype != np.uint8:
        pixels = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    height, width = pixels.shape[:2]
    rows, columns = size_in_page(height, width, config)
    if (rows, columns) == (height, width):
        return pixels, f"{width}×{height} pixels."
    note = f"Reduced from {width}×{height} to {columns}×{rows}: the score is that of the reduced picture."
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS)), note


def _example(name: str) -> np.ndarray:
    photograph = Image.open(io.BytesIO((files("musiq_ref") / "data" / "photographs" / f"{name}.png").read_bytes()))
    photograph.thumbnail((288, 288))
    return np.asarray(photograph.convert("RGB"))


def _address(pixels: np.ndarray, kind: str) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **({"quality": 92} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _model_words(checkpoint: Checkpoint) -> str:
    blocks, width, count = checkpoint.config.layers, checkpoint.config.width, _parameters(checkpoint)
    return f"MUSIQ, {blocks} blocks of width {width}, {count:,} parameters, live in this page"


def _about(checkpoint: Checkpoint, rounded: str) -> str:
    words = f"Computed here, in your browser; nothing leaves it. {rounded}Written by musiq_ref. "
    if checkpoint.format == "deterministic":
        words += "<strong>These weights were never trained: the score means nothing.</strong> "
    if checkpoint.bundled:
        words += (
            "The bundled model learned how much a picture was spoilt by synthetic distortions; it does not know what "
            "people like. "
        )
    return words + (
        "Keys: ← → next station, r forwards and backwards; on the photograph the arrows move the patch, s goes to the "
        "same spot in another size, c to the class token."
    )
