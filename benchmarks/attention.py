"""Exact attention beside Linformer and Performer: time and memory against the number of tokens, and the error.

    python benchmarks/attention.py                          # writes docs/attention.json and docs/measured_attention.md
    python benchmarks/attention.py --most 1024 --photographs 2 -o attention

One multi-head attention of the published width (6 heads of 64) in float32 on one thread, forward and backward: "exact"
keeps its N² weights, "exact in blocks" computes them twice, as training does. Memory is what NumPy allocates at most.
Then the bundled model scores bundled photographs, as they are and distorted, with its attention exchanged, not trained
again: a Performer estimates the same attention; the rows of the Linformer's E and F are means of equally many
neighbouring tokens, for there are none that were learned.
"""

from __future__ import annotations

import argparse
import json
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import musiq_ref as mq
from musiq_ref.bench.machine import processor
from musiq_ref.image.tokenize import drop_padding
from musiq_ref.metrics import srcc
from musiq_ref.model.attention import allowed_keys, allowed_pairs, attention, attention_backward
from musiq_ref.model.attention_in_blocks import MSA_IN_BLOCKS
from musiq_ref.model.efficient import efficient_msa
from musiq_ref.model.parameters import Params
from musiq_ref.outputs import write_output
from musiq_ref.pictures.distortions import DISTORTIONS
from musiq_ref.pictures.synthetic import PHOTOGRAPHS

ROOT = Path(__file__).parent.parent
RANK = 256
SHAPE = mq.MusiqConfig(layers=1, attention_rank=RANK)
KEPT = 4096  # tokens up to which exact attention keeps its weights: 6·N² numbers, several times over
RANKS = (16, 64, 256, 1024)
SPOILT = ("gaussian_blur", "white_noise", "jpeg")
ERRORS = {
    "Linformer, means of neighbours": {"attention": "linformer"},
    "Performer": {"attention": "performer"},
    "Performer, ε = 0": {"attention": "performer", "attention_eps": 0.0},
}


def pairs() -> dict[str, Any]:
    """{name: (forward, backward)} with the arguments of `attention`."""
    return {
        "exact": (attention, attention_backward),
        "exact in blocks": MSA_IN_BLOCKS,
        **{
            f"{kind}, m = {RANK}": efficient_msa(SHAPE.replace(attention=kind.lower()))
            for kind in ("Linformer", "Performer")
        },
    }


def seconds(run: Callable[[], Any]) -> float:
    """The best of three, or of one that takes long."""
    taken = []
    while len(taken) < 3 and sum(taken) < 4:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)


def peak(run: Callable[[], Any]) -> int:
    """Bytes that are allocated at most."""
    tracemalloc.start()
    run()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def times(most: int) -> list[dict[str, Any]]:
    """Forward, and forward with backward, of every pair and number of tokens, the class token among them."""
    params, rows = mq.init_params(SHAPE)["encoder"]["block_00"]["attention"], []
    for tokens in tqdm([n for n in (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384) if n <= most], unit="length"):
        z = np.random.default_rng(0).standard_normal((1, tokens, SHAPE.width)).astype("float32")
        valid = np.ones((1, tokens), bool)
        matrices = np.random.default_rng(1).standard_normal((2, RANK, tokens), "float32") * np.float32(tokens**-0.5)
        for name, (run, back) in pairs().items():
            if name == "exact" and tokens > KEPT:
                continue
            own = {**params, **dict(zip("EF", matrices, strict=True))} if name.startswith("L") else params
            allowed = allowed_pairs(valid) if name.startswith("exact") else allowed_keys(valid)

            def forward(run=run, own=own, z=z, allowed=allowed):
                return run(z, allowed, own, mq.OFFICIAL)

            def both(back=back, forward=forward):
                y, cache = forward()
                return back(y, cache)

            row = {"attention": name, "tokens": tokens, "forward_s": seconds(forward), "both_s": seconds(both)}
            rows.append({**row, "forward_bytes": peak(forward), "both_bytes": peak(both)})
    return rows


def photographs(count: int) -> list[np.ndarray]:
    """The first bundled photographs, each untouched and spoilt in three ways."""
    whole = [mq.decode(path) for path in sorted(PHOTOGRAPHS.glob("*.png"))[:count]]
    spoil = [lambda x: x, *(partial(_spoilt, name) for name in SPOILT)]
    return [change(pixels) for pixels in whole for change in spoil]


def _spoilt(name: str, pixels: np.ndarray) -> np.ndarray:
    return DISTORTIONS[name](pixels, 0.5, np.random.default_rng(0))


def means(tokens: int, rank: int) -> np.ndarray:
    """E (m, N): row i is the mean of the i-th of m runs of neighbouring tokens."""
    place = np.arange(tokens) * rank // tokens
    matrix = (place == np.arange(rank)[:, None]).astype("float32")
    return matrix / matrix.sum(axis=1, keepdims=True)


def exchanged(
    checkpoint: mq.Checkpoint, changes: dict[str, Any], rank: int, tokens: int
) -> tuple[Params, mq.MusiqConfig]:
    """The model with another attention, for images of that many tokens."""
    params, linformer = checkpoint.params, changes.get("attention") == "linformer"
    rank = min(rank, tokens) if linformer else rank
    config = checkpoint.config.replace(attention_rank=rank, attention_length=tokens, attention_shared=True, **changes)
    if linformer:
        blocks = {
            name: {**block, "attention": {**block["attention"], "E": means(tokens, rank)}}
            if "attention" in block
            else block
            for name, block in params["encoder"].items()
        }
        params = {**params, "encoder": blocks}
    return params, config


def errors(count: int, ranks: tuple[int, ...] = RANKS) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """How far scores move when the bundled model's attention is exchanged, and what they were."""
    checkpoint = mq.load_checkpoint("demo")
    tokens = [drop_padding(mq.tokenize(one, checkpoint.config)) for one in photographs(count)]

    def scores(changes: dict[str, Any], rank: int) -> np.ndarray:
        found = []
        for one in tokens:
            params, config = exchanged(checkpoint, changes, rank, 1 + len(one.mask))
            found.append(float(mq.expected_score(mq.predict(params, one, config)[None])[0].score[0]))
        return np.array(found)

    exact, rows = scores({}, 1), []
    for name, changes in ERRORS.items():
        for rank in tqdm(ranks, unit="rank", desc=name):
            found = scores(changes, rank)
            rms = float(np.sqrt(np.mean((found - exact) ** 2)))
            rows.append({"attention": name, "rank": rank, "rms": rms, "srcc": srcc(found, exact)})
    counts = sorted(1 + len(one.mask) for one in tokens)
    about = {"images": len(exact), "spread": float(exact.std()), "tokens": [counts[0], counts[-1]]}
    return rows, about


def markdown(made: dict[str, Any]) -> str:
    """The tables of a report."""
    lines = [f"{made['machine']}, one thread, float32, one image, 6 heads of 64:", ""]
    names = list(dict.fromkeys(row["attention"] for row in made["times"]))
    for title, key, unit in (
        ("forward and backward, ms", "both_s", 1e3),
        ("forward, ms", "forward_s", 1e3),
        ("forward and backward, peak MB", "both_bytes", 1e-6),
    ):
        lines += [f"| tokens: {title} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for tokens in dict.fromkeys(row["tokens"] for row in made["times"]):
            here = {row["attention"]: row[key] * unit for row in made["times"] if row["tokens"] == tokens}
            cells = [
                f"{here[name]:,.3g}" if here.get(name, 1e9) < 100 else f"{here[name]:,.0f}" if name in here else "–"
                for name in names
            ]
            lines.append(f"| {tokens:,} | " + " | ".join(cells) + " |")
        lines.append("")
    about = made["about"]
    lines += [
        f"The bundled model with its attention exchanged and nothing trained again. {about['images']} images of "
        f"{about['tokens'][0]:,} to {about['tokens'][1]:,} tokens, scores of standard deviation {about['spread']:.1f}:",
        "",
        "| instead of exact attention | m | RMS error of the score | SRCC with the exact scores |",
        "|---|---|---|---|",
        *(f"| {row['attention']} | {row['rank']} | {row['rms']:.1f} | {row['srcc']:.3f} |" for row in made["errors"]),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=2**14, help="tokens (default: 16384)")
    parser.add_argument("--photographs", type=int, default=8, help="of the bundled ones (default: all 8)")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs", help="folder (default: docs)")
    args = parser.parse_args()
    if args.most < 64:
        parser.error(f"--most is {args.most}; the shortest sequence measured has 64 tokens")
    if not 1 <= args.photographs <= 8:
        parser.error(f"--photographs is {args.photographs}; there are 8: give a number from 1 to 8")
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"{args.output} is a file; name a folder with -o")
    with threadpool_limits(1):
        rows, (error_rows, about) = times(args.most), errors(args.photographs)
    made = {"machine": processor(), "times": rows, "errors": error_rows, "about": about}
    args.output.mkdir(parents=True, exist_ok=True)
    write_output(args.output / "attention.json", json.dumps(made, indent=1) + "\n")
    write_output(args.output / "measured_attention.md", markdown(made))
    print(markdown(made), end="")


if __name__ == "__main__":
    main()
