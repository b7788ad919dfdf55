"""Executes the chapters and writes their notebooks: `python tutorials/notebooks.py [05 …] [--check | --prose]`.

sources/NN_name.py is the chapter; NN_name.ipynb is made from it, with its outputs, and never edited. What changes from
run to run without meaning anything (timings, counters, random identifiers, how a picture is compressed) is left out, so
that building again gives a small difference, or none.
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
SOURCES = HERE / "sources"
SECONDS = 180  # a chapter may take, on 2 cores
TEMPORARY = re.compile(
    rf"{re.escape(tempfile.gettempdir())}/tmp\w+/"
)  # folders, another in each run
PICTURE_BYTES = 150_000  # a picture may take in a notebook
METADATA = {  # as JupyterLab writes it, so that a notebook that is only opened does not count as changed
    "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
HEADING = re.compile(r"(#{2,3}) (.*)")
KEPT = (
    "image/png",
    "image/jpeg",
    "text/markdown",
    "text/html",
    "text/plain",
)  # of what an output offers


def number(path: Path) -> str:
    """What a chapter is called: "05", or "05b" for its second half."""
    return path.stem.partition("_")[0]


def stored(path: Path) -> Path:
    """Where a chapter's notebook lies: beside the folder of the sources."""
    return path.parent.parent / f"{path.stem}.ipynb"


def chapters(names: list[str] | None = None) -> list[Path]:
    """The sources of the chapters, in order; or those with the given numbers, such as "05"."""
    found = sorted(SOURCES.glob("[0-9][0-9]*_*.py"))
    if names:
        unknown = [name for name in names if name not in map(number, found)]
        if unknown:
            there = ", ".join(map(number, found))
            raise SystemExit(f"there is no chapter {unknown[0]!r}; there are {there}")
        found = [path for path in found if number(path) in names]
    return found


def read(path: Path) -> nbformat.NotebookNode:
    """A percent-format file as a notebook without outputs; a cell's id depends on its text only.

    Sections whose heading begins with "Optional:" are folded away, in JupyterLab and on the site.
    """
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen: dict[str, int] = {}
    for cell, optional in zip(notebook.cells, _optional(notebook), strict=True):
        digest = hashlib.sha256(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = f"{digest}-{seen[digest]}"
        tags = cell.metadata.get("tags", [])
        if optional and cell.cell_type == "code":
            tags = [*tags, "hide-cell"]  # for the site
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        if optional and HEADING.match(cell.source):
            cell.metadata["jp-MarkdownHeadingCollapsed"] = True
    return notebook


def _optional(notebook: nbformat.NotebookNode) -> list[bool]:
    """For each cell whether it belongs to an optional section, which ends at the next heading of its level or above."""
    found, level = [], 0  # of the heading of the optional section that we are in; 0 outside
    for cell in notebook.cells:
        heading = HEADING.match(cell.source) if cell.cell_type == "markdown" else None
        if heading and (not level or len(heading[1]) <= level):
            level = len(heading[1]) if heading[2].startswith("Optional:") else 0
        found.append(level > 0)
    return found


def minutes(path: Path) -> float:
    """What a chapter asks of a careful reader, estimated; optional sections do not count.

    130 words or 15 lines of code a minute, two minutes for three figures, four for the quiz, and what its exercises say.
    """
    notebook = read(path)
    text, code, figures = "", 0, 0
    for cell, optional in zip(notebook.cells, _optional(notebook), strict=True):
        if optional:
            continue
        if cell.cell_type == "markdown":
            text += cell.source + "\n"
            continue
        lines = [line for line in cell.source.splitlines() if line.strip()]
        code += sum(not line.startswith(("import ", "from ")) for line in lines)
        figures += len(re.findall(r"plt\.show|explain\.\w+\(|explore\(", cell.source))
    exercises = sum(map(int, re.findall(r"^### Exercise .*\b(\d+) minutes\)$", text, re.M)))
    return len(text.split()) / 130 + code / 15 + figures * 2 / 3 + 4 + exercises


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
    notebook, before = read(path), nbformat.read(stored(path), as_version=4)
    new, old = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, before))
    if [c.source for c in new] != [c.source for c in old]:
        raise SystemExit(f"{path.name} has other code than its notebook; run it without --prose")
    for cell, executed in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    return notebook


def problems(path: Path) -> list[str]:
    """What is wrong with the stored notebook of a chapter, in sentences; nothing is executed."""
    target = stored(path)
    again = f"run: python tutorials/notebooks.py {number(path)}"
    if not target.exists():
        return [f"{target.name} does not exist; {again}"]
    held, wanted = nbformat.read(target, as_version=4), read(path)
    nbformat.validate(held)
    found = []
    if [(c.cell_type, c.source, c.id) for c in held.cells] != [
        (c.cell_type, c.source, c.id) for c in wanted.cells
    ]:
        found.append(f"{target.name} differs from {path.name}; {again}")
    code = [cell for cell in held.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append(f"{target.name} was not executed from top to bottom; {again}")
    if any(output.output_type == "error" for cell in code for output in cell.outputs):
        found.append(f"{target.name} holds an error; mend {path.name}, then {again}")
    if any(size > PICTURE_BYTES for size in picture_sizes(held)):
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
    parser.add_argument("chapters", nargs="*", help='their numbers, such as "05"; default: all')
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
                nbformat.write(notebook, stored(path))
        bad += problems(path)
    print("\n".join(bad), file=sys.stderr, end="\n" if bad else "")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
