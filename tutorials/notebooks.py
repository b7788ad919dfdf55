"""Executes the chapters and writes their notebooks: `python tutorials/notebooks.py [05 …] [--check | --prose]`.

NN_name.py is the chapter; NN_name.ipynb is made from it, with its outputs, and never edited. What changes from run to
run without meaning anything (timings, counters, random identifiers, how a picture is compressed) is left out, so that
building again gives a small difference, or none.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

HERE = Path(__file__).parent
SECONDS = 180  # a chapter may take, on 2 cores
TEMPORARY = re.compile(
    rf"{re.escape(tempfile.gettempdir())}/tmp\w+/"
)  # folders, another in each run
PICTURE_BYTES = 150_000  # a picture may take in a notebook
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
KEPT = (
    "image/png",
    "image/jpeg",
    "text/markdown",
    "text/html",
    "text/plain",
)  # of what an output offers


def chapters(names: list[str] | None = None) -> list[Path]:
    """The chapters, in order; or those whose name starts with one of the given beginnings, such as "05"."""
    found = sorted(HERE.glob("[0-9][0-9]_*.py"))
    if names:
        unknown = [name for name in names if not any(path.name.startswith(name) for path in found)]
        if unknown:
            raise SystemExit(
                f"no chapter begins with {unknown[0]!r}; there are {', '.join(p.stem for p in found)}"
            )
        found = [path for path in found if path.name.startswith(tuple(names))]
    return found


def read(path: Path) -> nbformat.NotebookNode:
    """A percent-format file as a notebook without outputs; a cell's id depends on its text only."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell in notebook.cells:
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
        cell.metadata = nbformat.from_dict(
            {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
        )
    return notebook


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Runs all cells in a fresh kernel in this folder; raises nbclient's CellExecutionError where one fails."""
    os.environ["MUSIQ_REF_STATIC"] = "1"  # course.explore draws once, without sliders
    client = NotebookClient(
        notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": HERE}}
    )
    return client.execute()


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leaves out what is noise, and makes pictures small."""
    notebook.metadata = nbformat.from_dict(METADATA)
    count = 0
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        count += 1
        cell.execution_count = count
        outputs = []
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                continue  # progress bars
            if outputs and output.output_type == outputs[-1].output_type == "stream":
                outputs[-1].text += output.text
                continue
            if "data" in output:
                output.data = nbformat.from_dict(
                    {k: v for k, v in output.data.items() if k in KEPT}
                )
                output.metadata = nbformat.from_dict({})
                if not output.data:
                    continue
                _shrink(output.data)
            if "execution_count" in output:
                output.execution_count = count
            outputs.append(output)
        for output in outputs:
            if "text" in output:
                output.text = TEMPORARY.sub("", output.text)
        cell.outputs = outputs
    return notebook


def _shrink(data: nbformat.NotebookNode) -> None:
    """Replaces a PNG by the smaller of a palette PNG and a JPEG, without what names the program that made it."""
    if "image/png" not in data:
        return
    picture = Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))).convert("RGB")
    png, jpeg = io.BytesIO(), io.BytesIO()
    picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
        png, "PNG", optimize=True
    )
    picture.save(jpeg, "JPEG", quality=82, optimize=True)
    kind, file = min(
        ("image/png", png), ("image/jpeg", jpeg), key=lambda choice: len(choice[1].getvalue())
    )
    data[kind] = base64.b64encode(file.getvalue()).decode()
    data["text/plain"] = f"<Figure {picture.width}x{picture.height}>"


def picture_sizes(notebook: nbformat.NotebookNode) -> list[int]:
    """Bytes of every picture among the outputs."""
    outputs = [
        o
        for cell in notebook.cells
        if cell.cell_type == "code"
        for o in cell.outputs
        if "data" in o
    ]
    return [
        len(o.data[k]) * 3 // 4 for o in outputs for k in ("image/png", "image/jpeg") if k in o.data
    ]


def build(path: Path) -> nbformat.NotebookNode:
    """The chapter's notebook, executed and tidied."""
    return tidy(execute(read(path)))


def with_stored_outputs(path: Path) -> nbformat.NotebookNode:
    """The chapter's notebook with the outputs stored before, for changes to the prose; code must be what was executed."""
    notebook, stored = read(path), nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    new, old = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, stored))
    if [c.source for c in new] != [c.source for c in old]:
        raise SystemExit(f"{path.name} has other code than its notebook; run it without --prose")
    for cell, executed in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return notebook


def problems(path: Path) -> list[str]:
    """What is wrong with the stored notebook of a chapter, in sentences; nothing is executed."""
    target = path.with_suffix(".ipynb")
    again = f"run: python tutorials/notebooks.py {path.stem[:2]}"
    if not target.exists():
        return [f"{target.name} does not exist; {again}"]
    stored, wanted = nbformat.read(target, as_version=4), read(path)
    nbformat.validate(stored)
    found = []
    if [(c.cell_type, c.source, c.id) for c in stored.cells] != [
        (c.cell_type, c.source, c.id) for c in wanted.cells
    ]:
        found.append(f"{target.name} differs from {path.name}; {again}")
    code = [cell for cell in stored.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append(f"{target.name} was not executed from top to bottom; {again}")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        found.append(f"{target.name} holds an error; mend {path.name}, then {again}")
    if any(size > PICTURE_BYTES for size in picture_sizes(stored)):
        found.append(
            f"{target.name} has a picture of more than {PICTURE_BYTES} bytes; draw it smaller, then {again}"
        )
    return found


def main() -> int:
    """Builds the chapters, or with --check says which stored notebooks are not what building would give."""
    parser = argparse.ArgumentParser(
        description="execute chapters and write their notebooks",
        epilog="example: python tutorials/notebooks.py 05",
    )
    parser.add_argument(
        "chapters", nargs="*", help='beginnings of names, such as "05"; default: all'
    )
    parser.add_argument(
        "--check", action="store_true", help="only check that the stored notebooks fit; run nothing"
    )
    parser.add_argument(
        "--prose", action="store_true", help="only the prose has changed: keep the stored outputs"
    )
    args = parser.parse_args()
    bad = []
    for path in chapters(args.chapters):
        if not args.check:
            print(path.stem, flush=True)
            try:
                notebook = with_stored_outputs(path) if args.prose else build(path)
            except CellExecutionError as error:
                if error.ename != "MissingPackage":  # of course.needs
                    raise
                print(f"{path.stem} stays as it is. {error.evalue}", file=sys.stderr)
            else:
                nbformat.write(notebook, path.with_suffix(".ipynb"))
        bad += problems(path)
    print("\n".join(bad), file=sys.stderr, end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
