"""`musiq-ref score`: scores of image files."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import re
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from musiq_ref.checkpoint import Checkpoint, load_checkpoint
from musiq_ref.cli.shared import (
    add_force,
    add_max_pixels,
    add_scheduler,
    add_scoring,
    check_scheduler,
    say_which_model,
    scores_of,
)
from musiq_ref.config import NAMED_CONVENTIONS
from musiq_ref.image.find import find_images
from musiq_ref.image.limits import most_bytes
from musiq_ref.outputs import check_output, write_output
from musiq_ref.score_table import ScoreTable, model_mark, open_table, part_of, table_key
from musiq_ref.scoring import Score, scorer

EXAMPLE = "musiq-ref score photo.jpg holiday/ --csv scores.csv --html gallery.html"
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # in a name, of which some would begin another line


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        metavar="FILE|FOLDER",
        help="image files, folders to search for them, quoted patterns, or - for one image from standard input",
    )
    add_scoring(parser)
    add_max_pixels(parser)
    add_scheduler(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON list instead of lines")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="also write the scores to a CSV file")
    parser.add_argument("--resume", action="store_true", help="go on with the CSV file: score what has no score in it")
    parser.add_argument(
        "--shard", metavar="I/N", type=_shard, help="score the I-th of N shares alone; an image's path decides which"
    )
    parser.add_argument("--html", metavar="FILE", type=Path, help="also write a page that shows the pictures by score")
    add_force(parser, "--csv and --html")


def run(args: argparse.Namespace) -> int:
    _check(args)
    found = find_images(name for name in args.images if name != "-")
    files: list[tuple[str, Any]] = [(str(path), path) for path in found.files]
    checkpoint = load_checkpoint(args.checkpoint, args.dtype)
    read = [*found.files, *filter(None, [checkpoint.path])]
    for output, endings in ((args.csv, (".csv",)), (args.html, (".html", ".htm"))):
        if output:
            check_output(output, read, args.force, endings)
    if args.csv:
        check_output(part_of(args.csv), read, args.force)
    if "-" in args.images:
        files.insert(0, ("-", _standard_input(most_bytes(args.max_pixels))))
    if args.shard:
        files = [file for file in files if _shard_of(file[0], args.shard[1]) == args.shard[0]]
    with warnings.catch_warnings(action="ignore"):  # said below, louder
        conventions = NAMED_CONVENTIONS.get(args.conventions)
        one = scorer(checkpoint, args.backend, args.dtype, conventions, max_pixels=args.max_pixels)
    say_which_model(checkpoint)
    if found.left_out:
        print(found.summary(), file=sys.stderr)
    rows, thumbnails = {}, {}
    with _table(args, checkpoint, [name for name, _ in files]) as table:
        if table and table.done:
            count = len(files)
            files = [file for file in files if table_key(file[0]) not in table.done]
            print(f"{count - len(files)} of {count} images have their scores in {args.csv}", file=sys.stderr)
        with _bar(len(files)) as bar:
            try:
                images = [source for _, source in files]
                progress = partial(_update, bar)
                for i, result in scores_of(args, one, checkpoint, images, progress=progress):
                    rows[i] = row = _row(files[i][0], result)
                    if args.scheduler:
                        bar.update()
                    if table:
                        table.write(row)
                    if not args.json:
                        tqdm.write(_line(row))
                    if args.html:
                        thumbnails[i] = _thumbnail(row, images[i], args.max_pixels)
            finally:  # what was scored before an interruption is printed, too
                if args.json:
                    print(json.dumps([rows[i] for i in sorted(rows)], indent=2))
                if args.html:
                    pictures = [(rows[i], thumbnails.get(i, b"")) for i in sorted(rows)]
                    _write_gallery(args.html, pictures, checkpoint, found.summary())
    failed = sum(row["error"] is not None for row in rows.values())
    if failed:
        print(f"{failed} of {len(files)} images could not be scored", file=sys.stderr)
    return 1 if failed else 0


def _check(args: argparse.Namespace) -> None:
    check_scheduler(args)
    if args.resume and not args.csv:
        raise ValueError("--resume goes on with a table; name it: --csv FILE")
    if args.resume and (args.json or args.html):
        raise ValueError("--json and --html show what one run scores; leave them out with --resume")
    if args.scheduler and "-" in args.images:
        raise ValueError("a cluster reads files, not the standard input; name the file")
    if args.resume:
        args.go_on = "the same command goes on where this one stopped"
    elif args.csv:
        other = f", once {args.csv} is moved away," if args.csv.exists() else ""
        args.go_on = f"the same command with --resume{other} goes on where this one stopped"


def _shard(text: str) -> tuple[int, int]:
    """Which share of how many, from "2/5"."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give for example 2/5, the second of five")
    return int(index), int(count)


def _shard_of(name: str, count: int) -> int:
    """Whose image it is, 1 … count: that depends on its path alone, as it is written."""
    return 1 + int.from_bytes(hashlib.sha256(table_key(name).encode()).digest()[:8]) % count


@contextlib.contextmanager
def _table(args: argparse.Namespace, checkpoint: Checkpoint, names: list[str]) -> Iterator[ScoreTable | None]:
    if not args.csv:
        yield None
        return
    mark = model_mark(checkpoint, NAMED_CONVENTIONS.get(args.conventions), args.dtype)
    with open_table(args.csv, checkpoint.config.outputs, mark, args.resume, names) as table:
        try:
            yield table
        except BaseException:
            print(f"the scores so far are in {args.csv if args.resume else part_of(args.csv)}", file=sys.stderr)
            raise


def _bar(images: int) -> tqdm:
    """Progress through the images and within each, on a terminal, if it takes more than a second."""
    shown = "{percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    return tqdm(total=images, delay=1, bar_format=shown, disable=not sys.stderr.isatty())


def _update(bar: tqdm, done: float) -> None:
    bar.update(done - bar.n)


def _standard_input(most: int) -> io.BytesIO:
    if sys.stdin.isatty():
        raise ValueError("- reads an image from standard input, which is a terminal; add for example: < photo.jpg")
    stream = io.BytesIO(sys.stdin.buffer.read(most + 1))
    stream.name = "standard input"
    return stream


def _row(name: str, result: Score | Exception) -> dict[str, Any]:
    """One image's row; what went wrong, if anything, under "error"."""
    row: dict[str, Any] = dict.fromkeys(("path", "score", "distribution", "height", "width", "error"))
    row["path"] = name
    if isinstance(result, Exception):
        return {**row, "error": str(result) or f"{name}: {type(result).__name__}"}
    distribution = None if result.distribution is None else result.distribution.tolist()
    return {**row, "score": result.value, "distribution": distribution, "height": result.height, "width": result.width}


def _line(row: dict[str, Any]) -> str:
    line = f"{row['score']:10.4f}  {row['path']}" if row["error"] is None else f"     error  {row['error']}"
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), line)


def _thumbnail(row: dict[str, Any], source: Any, max_pixels: int | None) -> bytes:
    from musiq_ref.explain.gallery import thumbnail  # loaded only for a page

    if row["error"] is not None:
        return b""
    if isinstance(source, io.BytesIO):
        source.seek(0)
    return thumbnail(source, max_pixels)


def _write_gallery(
    path: Path, pictures: list[tuple[dict[str, Any], bytes]], checkpoint: Checkpoint, left_out: str
) -> None:
    from musiq_ref.explain.gallery import Picture, gallery

    shown = [Picture(row["path"], row["score"], small, row["error"]) for row, small in pictures]
    write_output(path, gallery(shown, checkpoint, left_out))
    print(f"the pictures are in {path}", file=sys.stderr)
