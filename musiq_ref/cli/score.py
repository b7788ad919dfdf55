"""`musiq-ref score`: scores of image files."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from musiq_ref.checkpoint import Checkpoint, load_checkpoint
from musiq_ref.cli.shared import add_force, add_max_pixels, add_scoring, say_which_model
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.image.find import find_images
from musiq_ref.image.limits import most_bytes
from musiq_ref.outputs import OutputError, check_output, write_output
from musiq_ref.scoring import Score, scorer

EXAMPLE = "musiq-ref score photo.jpg holiday/ --csv scores.csv --html gallery.html"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        metavar="FILE|FOLDER",
        help="image files, folders to search for them, quoted patterns, or - for one image from standard input",
    )
    add_scoring(parser)
    add_max_pixels(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of lines")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write the scores to a CSV file")
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page that shows the pictures by score")
    add_force(parser, "--csv and --html")


def run(args: argparse.Namespace) -> int:
    found = find_images(name for name in args.images if name != "-")
    files: list[tuple[str, Any]] = [(str(path), path) for path in found.files]
    checkpoint = load_checkpoint(args.checkpoint, args.dtype)
    read = [*found.files, *filter(None, [checkpoint.path])]
    for output, endings in ((args.csv, (".csv",)), (args.html, (".html", ".htm"))):
        if output:
            check_output(output, read, args.force, endings)
    if args.csv:
        check_output(_part(args.csv), read, args.force)
    if "-" in args.images:
        files.insert(0, ("-", _standard_input(most_bytes(args.max_pixels))))
    with warnings.catch_warnings(action="ignore"):  # said below, louder
        conventions = NAMED_CONVENTIONS.get(args.conventions)
        one = scorer(checkpoint, args.backend, args.dtype, conventions, max_pixels=args.max_pixels)
    say_which_model(checkpoint)
    if found.left_out:
        print(found.summary(), file=sys.stderr)
    rows, thumbnails = [], []
    with _csv_table(args.csv, checkpoint.config.outputs) as write_row, _bar(len(files)) as bar:
        try:
            for done, (name, source) in enumerate(files):
                row = _scored(one, name, source, lambda share, done=done: bar.update(done + share - bar.n))
                bar.update(done + 1 - bar.n)
                rows.append(row)
                if not args.json:
                    tqdm.write(
                        f"{row['score']:10.4f}  {name}" if row["error"] is None else f"     error  {row['error']}"
                    )
                write_row(row)
                if args.html:
                    thumbnails.append(_thumbnail(row, source, args.max_pixels))
        finally:  # what was scored before an interruption is printed, too
            if args.json:
                print(json.dumps(rows, indent=2))
            if args.html:
                _write_gallery(args.html, rows, thumbnails, checkpoint, found.summary())
    failed = sum(row["error"] is not None for row in rows)
    if failed:
        print(f"{failed} of {len(files)} images could not be scored", file=sys.stderr)
    return 1 if failed else 0


def _bar(images: int) -> tqdm:
    """Progress through the images and within each, on a terminal, if it takes more than a second."""
    shown = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(total=images, delay=1, bar_format=shown, disable=not sys.stderr.isatty())


def _standard_input(most: int) -> io.BytesIO:
    if sys.stdin.isatty():
        raise ValueError("- reads an image from standard input, which is a terminal; add for example: < photo.jpg")
    stream = io.BytesIO(sys.stdin.buffer.read(most + 1))
    stream.name = "standard input"
    return stream


def _scored(
    one: Callable[[Any, Callable[[float], object]], Score], name: str, source: Any, progress: Callable[[float], object]
) -> dict[str, Any]:
    """One image's row; what went wrong, if anything, under "error"."""
    row: dict[str, Any] = dict.fromkeys(("path", "score", "distribution", "height", "width", "error"))
    row["path"] = name
    try:
        score = one(source, progress)
    except (ValueError, OSError) as error:
        return {**row, "error": str(error)}
    except MemoryError:
        return {**row, "error": f"{name}: too large for the memory of this machine; reduce it, or use another"}
    distribution = None if score.distribution is None else score.distribution.tolist()
    return {**row, "score": score.value, "distribution": distribution, "height": score.height, "width": score.width}


@contextlib.contextmanager
def _csv_table(path: Path | None, outputs: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that writes a row, at once, to a file FILE.part, which becomes FILE when all is done."""
    if path is None:
        yield lambda row: None
        return
    part = _part(path)
    try:
        part.unlink(missing_ok=True)  # it may be a link
        with open(part, "w", newline="", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
            yield _row_writer(file, outputs)
        os.replace(part, _place(path))
    except BaseException as error:
        if part.exists():
            print(f"the scores so far are in {part}", file=sys.stderr)
        if isinstance(error, OSError) and error.filename is None:
            raise OutputError(f"{path} cannot be written ({error.strerror}); make space, or name another") from None
        raise


def _part(path: Path) -> Path:
    return _place(path).with_name(f"{_place(path).name}.part")


def _place(path: Path) -> Path:
    """The file itself, or the one that a link leads to."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _row_writer(file: TextIO, outputs: int) -> Callable[[dict[str, Any]], None]:
    writer = csv.writer(file)
    probabilities = [f"p{k}" for k in range(1, outputs + 1)] if outputs > 1 else []
    writer.writerow(["path", "score", "height", "width", *probabilities, "error"])

    def write_row(row: dict[str, Any]) -> None:
        p = row["distribution"] or [None] * len(probabilities)
        writer.writerow([row["path"], row["score"], row["height"], row["width"], *p, row["error"]])

    return write_row


def _thumbnail(row: dict[str, Any], source: Any, max_pixels: int | None) -> bytes:
    from musiq_ref.explain.gallery import thumbnail  # loaded only for a page

    if row["error"] is not None:
        return b""
    if isinstance(source, io.BytesIO):
        source.seek(0)
    return thumbnail(source, max_pixels)


def _write_gallery(
    path: Path, rows: list[dict[str, Any]], thumbnails: list[bytes], checkpoint: Checkpoint, left_out: str
) -> None:
    from musiq_ref.explain.gallery import Picture, gallery

    pictures = [
        Picture(row["path"], row["score"], small, row["error"])
        for row, small in zip(rows, [*thumbnails, b""], strict=False)
    ]
    write_output(path, gallery(pictures, checkpoint, left_out))
    print(f"the pictures are in {path}", file=sys.stderr)
