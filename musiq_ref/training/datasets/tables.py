"""Tables of labels, CSV files and Excel workbooks, as rows of text. What does not fit is refused, never cut."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
import reprlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from musiq_ref.training.datasets.dataset import DatasetError
from musiq_ref.training.datasets.workbook import CELLS, read_workbook

LARGEST = 2**26  # bytes of a file
NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
DELIMITER = re.compile(r'"?sep=([,;\t])"?,*(?=[\r\n])')
"""The first line of a file that says it, for Excel."""
PERHAPS_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")


class LabelRow(NamedTuple):
    """A row of a table of labels.

    path: of the table
    number: of the row; the header is row 1
    cells: {name of a column: text}
    twice: names (`plain`) that several columns have, so that none of them can be meant
    """

    path: Path
    number: int
    cells: dict[str, str]
    twice: frozenset[str] = frozenset()

    def error(self, problem: str) -> DatasetError:
        """What to raise about this row."""
        return DatasetError(f"{self.path}, row {self.number}: {problem}")

    def text(self, column: str) -> str:
        """The cell of that column, without blanks around it.  Raises DatasetError if it is empty."""
        if self.twice and plain(column) in self.twice:
            raise DatasetError(f"{self.path} has several columns called {column}; rename those that are not meant")
        value = (self.cells.get(column) or "").strip()
        if not value:
            raise self.error(f"{column} is empty; fill it in or remove the row")
        return value

    def value(self, column: str, low: float, high: float) -> float:
        """The number in that column, with a decimal point or comma.

        Raises DatasetError if it is none, lies outside low … high, or if 1,234 may be either.
        """
        text = number = self.text(column)
        if DECIMAL_COMMA.fullmatch(text):
            number = text.replace(",", ".")
            if PERHAPS_THOUSANDS.fullmatch(text):
                raise self.error(f"{column} is {text!r}; write {number} or {text.replace(',', '')}")
        value = float(number) if NUMBER.fullmatch(number) else float("nan")
        if not low <= value <= high:
            raise self.error(f"{column} is {reprlib.repr(text)}; it must be a number from {low:g} to {high:g}")
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
        own = folder.suffix.lower() in (".csv", ".xlsx")
        table = ", or add --set dataset=csv to train on this table" if own else ""
        raise DatasetError(f"{folder} {problem}; pass the folder of the {dataset} data set{table}")
    for name in names:
        for path in (folder / name, *sorted(child / name for child in folder.iterdir() if child.is_dir())):
            if path.is_file():
                return path
    raise DatasetError(f"{folder} holds no {' or '.join(names)}; pass the folder of {dataset} that this file lies in")


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte-order mark.  Raises DatasetError where it is neither.

    >>> "The text of a file" in read_text(Path(__file__))
    True
    """
    try:
        if path.stat().st_size > LARGEST:
            raise DatasetError(f"{path} has more than {LARGEST >> 20} MiB, too much for a table of labels; cut it down")
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror}); check its rights") from None
    try:
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DatasetError(f"{path} is not text in UTF-8; open it where it was made and save it as CSV (UTF-8)")
    return text


def read_table(path: Path) -> list[LabelRow]:
    """The rows of a .csv file (commas, semicolons or tabs) or of an .xlsx workbook's first sheet.

    Raises DatasetError for a file that is neither, that has no rows, or a row that does not fit the header.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp(), "labels.csv")
    >>> _ = file.write_text("image;score\\na.jpg;3.5\\n")
    >>> [(row.number, row.cells) for row in read_table(file)]
    [(2, {'image': 'a.jpg', 'score': '3.5'})]
    """
    lines = read_workbook(path) if path.suffix.lower() == ".xlsx" else _csv(path)
    if len(lines) < 2:
        raise DatasetError(f"{path} has no rows below its header; get a fresh copy")
    header = [" ".join(name.split()) for name in lines[0][1]]
    names = Counter(plain(name) for name in header)
    twice = frozenset(name for name, count in names.items() if count > 1)
    named = [(column, name) for column, name in enumerate(header) if name]
    return [LabelRow(path, number, {name: cells[i] for i, name in named}, twice) for number, cells in lines[1:]]


def plain(name: str) -> str:
    """A column's name without regard to case, and blanks as underscores.

    >>> plain("Image name")
    'image_name'
    """
    return name.lower().replace(" ", "_")


def require(rows: list[LabelRow], columns: Sequence[str]) -> None:
    """Raises DatasetError, which names what is there, unless the table has those columns.

    >>> require([LabelRow(Path("a.csv"), 2, {"image": "", "mos": ""})], ["mos"])
    """
    for column in columns:
        if column not in rows[0].cells:
            there = ", ".join(reprlib.repr(name)[1:-1] for name in list(rows[0].cells)[:30])
            raise DatasetError(f"{rows[0].path} has no column {column}, only {there}; rename or add it")


def _csv(path: Path) -> list[tuple[int, list[str]]]:
    """The rows that are not empty: number (of rows, whatever line ends are in quotes) and cells."""
    text = read_text(path)
    said = DELIMITER.match(text)
    text = text[said.end() if said else 0 :]

    def first(delimiter: str) -> list[str]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        return next((cells for cells in reader if any(cells)), [])

    lines, number, first_row = [], 0, (0, [])
    try:
        delimiter = said[1] if said else max(",;\t", key=lambda character: len(first(character)))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
        for number, cells in enumerate(reader, start=1):
            if not any(cell.strip() for cell in cells):
                continue
            header = lines[0][1] if lines else cells
            first_row = (number, cells) if len(lines) < 2 else first_row
            if len(cells) == len(first_row[1]):  # a separator behind some rows only is a slip
                cells = _fitted(cells, header)
            elif len(cells) == len(header) < len(first_row[1]):
                raise DatasetError(_misfit(path, *first_row, len(header), delimiter))
            lines.append((number, cells))
            if len(cells) != len(header):
                raise DatasetError(_misfit(path, number, cells, len(header), delimiter))
            for name, cell in zip(header[1:], cells[1:], strict=True):  # pandas leaves its index without a name
                if cell.strip() and not name.strip():
                    raise DatasetError(
                        f"{path}, row {number}: {reprlib.repr(cell)} has no name above it; name its column"
                    )
            if len(lines) * len(cells) > CELLS:
                raise DatasetError(f"{path} has more than {CELLS} cells, too many for a table of labels; cut it down")
    except csv.Error as error:
        raise DatasetError(f"{path}, row {number + 1}: {error}; is there a quotation mark too many?") from None
    return lines


def _fitted(cells: list[str], header: list[str]) -> list[str]:
    """A row without empty cells behind the header's last, and with those that stand below no name."""
    if not "".join(header[len(cells) :]).strip():
        cells = cells + [""] * (len(header) - len(cells))
    return cells if "".join(cells[len(header) :]).strip() else cells[: len(header)]


def _misfit(path: Path, number: int, cells: list[str], width: int, delimiter: str) -> str:
    """The sentence about a row that is longer or shorter than the header."""
    remedy = "fill in what is missing, or remove the row"
    if len(cells) > width:
        remedy = f"put texts that hold {delimiter!r} in quotation marks"
        pairs = itertools.pairwise(map(str.strip, cells)) if delimiter == "," else ()
        numbers = [f"{a},{b}" for a, b in pairs if re.fullmatch("[+-]?[0-9]+", a) and re.fullmatch("[0-9]+", b)]
        if not "".join(cells[width:]).strip():
            remedy = "remove the separator behind the last cell, or put one behind every row"
        elif numbers:  # a decimal comma, most likely
            remedy = f"is {numbers[0]} one number? write {numbers[0].replace(',', '.')}, or put it in quotation marks"
        elif cells[0].isdecimal():
            remedy = "does it begin with a row's name? leave these out (in R: row.names = FALSE), or name their column"
    return f"{path}, row {number}: {len(cells)} cells, where the header has {width}; {remedy}"
