"""Tables of labels: CSV files and Excel workbooks as rows of text, by the standard library alone."""

from __future__ import annotations

import csv
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from musiq_ref.training.datasets.dataset import DatasetError

UNREADABLE = (OSError, csv.Error, zipfile.BadZipFile, ElementTree.ParseError)
DAMAGED = (LookupError, ValueError, RuntimeError, zlib.error)  # of a zip that holds something else, or an encrypted one


class LabelRow(NamedTuple):
    """A row of a table of labels: its file, its number there (the header is row 1) and its cells by column name."""

    path: Path
    number: int
    cells: dict[str, str]

    def text(self, column: str) -> str:
        """The cell of that column, without blanks around it.  Raises DatasetError if it is empty."""
        value = (self.cells.get(column) or "").strip()
        if not value:
            raise DatasetError(f"{self.path}, row {self.number}: {column} is empty; fill it in or remove the row")
        return value

    def value(self, column: str, low: float, high: float) -> float:
        """The number in that column.  Raises DatasetError if it is none or lies outside low … high."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            where = f"{self.path}, row {self.number}"
            raise DatasetError(f"{where}: {column} is {text!r}; it must be a number from {low:g} to {high:g}")
        return value


def find(folder: Path, names: Sequence[str], dataset: str) -> Path:
    """The first of the named files that lies in the folder or in a folder of it.

    Raises DatasetError, which names the expected files, when there is none.

    >>> find(Path("nowhere"), ["AVA.txt"], "AVA")
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: nowhere does not exist; pass the folder of the AVA data set
    """
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise DatasetError(f"{folder} {problem}; pass the folder of the {dataset} data set")
    for name in names:
        for path in (folder / name, *sorted(child / name for child in folder.iterdir() if child.is_dir())):
            if path.is_file():
                return path
    raise DatasetError(f"{folder} holds no {' or '.join(names)}; pass the folder of {dataset} that this file lies in")


def read_table(path: Path) -> list[LabelRow]:
    """The rows of a .csv file (commas, semicolons or tabs; UTF-8) or of an .xlsx workbook's first sheet.

    Raises DatasetError for a file that is neither, or that has no rows.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "labels.csv")
    >>> _ = file.write_text("image;score\\na.jpg;3.5\\n")
    >>> [(row.number, row.cells) for row in read_table(file)]
    [(2, {'image': 'a.jpg', 'score': '3.5'})]
    """
    try:
        lines = _xlsx(path) if path.suffix.lower() == ".xlsx" else _csv(path)
    except (*UNREADABLE, *DAMAGED) as error:
        raise DatasetError(f"{path} cannot be read as a table ({error}); get a fresh copy or save it as CSV") from None
    lines = [(number, cells) for number, cells in lines if any(cells)]
    if len(lines) < 2:
        raise DatasetError(f"{path} has no rows below its header; get a fresh copy")
    header = [name.strip() for name in lines[0][1]]
    return [LabelRow(path, number, dict(zip(header, cells, strict=False))) for number, cells in lines[1:]]


def require(rows: list[LabelRow], columns: Sequence[str]) -> None:
    """Raises DatasetError, which names what is there, unless the table has those columns.

    >>> require([LabelRow(Path("a.csv"), 2, {"image": "", "mos": ""})], ["mos"])
    """
    for column in columns:
        if column not in rows[0].cells:
            there = ", ".join(name for name in rows[0].cells if name)
            raise DatasetError(f"{rows[0].path} has no column {column}, only {there}; rename or add it")


def _csv(path: Path) -> list[tuple[int, list[str]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        reader = csv.reader(file, delimiter=max(",;\t", key=header.count))
        return [(reader.line_num, cells) for cells in reader]


def _xlsx(path: Path) -> list[tuple[int, list[str]]]:
    """Office Open XML (ECMA-376): a zip of XML files; texts lie in a table of their own and cells give their number."""
    with zipfile.ZipFile(path) as archive:
        workbook = ElementTree.fromstring(archive.read("xl/workbook.xml"))
        relations = ElementTree.fromstring(archive.read("xl/_rels/workbook.xml.rels"))
        targets = {relation.get("Id"): relation.get("Target", "") for relation in relations}
        first = workbook.findall("{*}sheets/{*}sheet")[0]
        target = targets[first.attrib["{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"]]
        name = target.lstrip("/") if target.startswith("/") else f"xl/{target}"
        texts = []
        if "xl/sharedStrings.xml" in archive.namelist():
            strings = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
            texts = [_text(item) for item in strings.findall("{*}si")]
        rows = ElementTree.fromstring(archive.read(name)).findall("{*}sheetData/{*}row")
    return [(int(row.get("r", i)), _cells(row, texts)) for i, row in enumerate(rows, start=1)]


def _cells(row: ElementTree.Element, texts: list[str]) -> list[str]:
    cells: list[str] = []
    for cell in row.findall("{*}c"):
        letters = re.match("[A-Z]+", cell.get("r", ""))
        if letters:  # A, B, …, Z, AA: bijective base 26; empty cells are left out of the file
            column = 0
            for letter in letters.group():
                column = 26 * column + ord(letter) - ord("A") + 1
            cells += [""] * (column - 1 - len(cells))
        if cell.get("t") == "inlineStr":
            cells.append(_text(cell.find("{*}is")))
        else:
            value = cell.findtext("{*}v", "")
            cells.append(texts[int(value)] if cell.get("t") == "s" else value)
    return cells


def _text(element: ElementTree.Element | None) -> str:
    """A text, plain (t) or in runs of different fonts (r/t); phonetic hints (rPh/t) are left out."""
    if element is None:
        return ""
    return "".join(t.text or "" for t in (*element.findall("{*}t"), *element.findall("{*}r/{*}t")))
