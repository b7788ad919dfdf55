"""Excel workbooks, Office Open XML (ECMA-376), as rows of text, by the standard library alone.

What a damaged or malicious file claims is checked first: sizes, cell names and shared texts.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from lzma import LZMAError
from pathlib import Path
from xml.etree import ElementTree

from musiq_ref.training.datasets.dataset import DatasetError

LARGEST = 2**25  # bytes of the file, and of each of its parts unpacked
ROWS, COLUMNS = 2**20, 2**14  # as many as Excel has
CELLS = 2**23
DATES = {str(number) for number in (*range(14, 23), *range(27, 37), *range(45, 48), *range(50, 59))}
"""Of the formats that every workbook has, those of dates and times (18.8.30)."""
LITERAL = re.compile(r'"[^"]*"|\[[^\]]*\]|[\\_*].')
"""What stands for itself, a colour or a blank in the code of a format."""
OFFICE = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
DAMAGED = (OSError, zipfile.BadZipFile, ElementTree.ParseError, EOFError, struct.error, zlib.error, LZMAError)
UNEXPECTED = (LookupError, ValueError, RuntimeError)  # of a zip that holds something else, or an encrypted one


class _Tree(ElementTree.TreeBuilder):
    """Without declarations, whose entities could unpack to any length."""

    def doctype(self, *_: str | None) -> None:
        raise ValueError("its XML declares a DOCTYPE")


def read_workbook(path: Path) -> list[tuple[int, list[str]]]:
    """The rows of the first sheet that are not empty: number and cells, of the same length in every row.

    Raises DatasetError for whatever is no workbook, or too large for a table of labels.

    >>> read_workbook(Path(__file__))
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: ... cannot be read as a table (File is not a zip file); ...
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"it has more than {LARGEST >> 20} MiB")
        with zipfile.ZipFile(path) as archive:
            sheet, texts = _first_sheet(archive)
            dates = _date_styles(archive)
        rows = _rows(sheet, texts, dates)
        width = max((max(cells) for _, cells in rows), default=0)
        if width * len(rows) > CELLS:
            raise ValueError(f"it has {len(rows)} rows of {width} columns")
    except (*DAMAGED, *UNEXPECTED) as error:
        raise DatasetError(
            f"{path} cannot be read as a table ({error}); get a fresh copy or save it as CSV (UTF-8)"
        ) from None
    return [(number, [cells.get(column, "") for column in range(1, width + 1)]) for number, cells in rows]


def _first_sheet(archive: zipfile.ZipFile) -> tuple[ElementTree.Element, list[str]]:
    """Its XML, and the texts that lie in a table of their own and whose numbers its cells give."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ValueError("it holds a part twice")
    workbook, relations = (_xml(archive, f"xl/{name}") for name in ("workbook.xml", "_rels/workbook.xml.rels"))
    targets = {relation.get("Id"): relation.get("Target", "") for relation in relations}
    first = workbook.findall("{*}sheets/{*}sheet")[0]
    if first.get("state", "visible") != "visible":
        raise ValueError("its first sheet is hidden")
    target = targets[first.attrib[f"{OFFICE}id"]]
    texts = _xml(archive, "xl/sharedStrings.xml").findall("{*}si") if "xl/sharedStrings.xml" in names else []
    sheet = _xml(archive, target.lstrip("/") if target.startswith("/") else f"xl/{target}")
    return sheet, [_text(item) for item in texts]


def _xml(archive: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if archive.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} has more than {LARGEST >> 20} MiB")
    return ElementTree.fromstring(archive.read(name), ElementTree.XMLParser(target=_Tree()))


def _date_styles(archive: zipfile.ZipFile) -> set[str]:
    """The numbers of the styles that show a number as a date or a time."""
    if "xl/styles.xml" not in archive.namelist():
        return set()
    styles = _xml(archive, "xl/styles.xml")
    codes = {form.get("numFmtId"): form.get("formatCode", "") for form in styles.findall("{*}numFmts/{*}numFmt")}
    dates = DATES | {number for number, code in codes.items() if re.search("[dmyh]", LITERAL.sub("", code), re.I)}
    forms = styles.findall("{*}cellXfs/{*}xf")
    return {str(index) for index, form in enumerate(forms) if form.get("numFmtId") in dates}


def _rows(sheet: ElementTree.Element, texts: list[str], dates: set[str]) -> list[tuple[int, dict[int, str]]]:
    """The rows that are not empty: number and {column from 1: text}."""
    rows, number = [], 0
    for row in sheet.findall("{*}sheetData/{*}row"):
        before, number = number, int(row.get("r", number + 1))
        if not before < number <= ROWS:
            raise ValueError(f"row {number} follows row {before}")
        cells = {column: text for column, text in _cells(row, number, texts, dates).items() if text.strip()}
        if cells:
            rows.append((number, cells))
    return rows


def _cells(row: ElementTree.Element, number: int, texts: list[str], dates: set[str]) -> dict[int, str]:
    cells: dict[int, str] = {}
    column = 0
    for cell in row.findall("{*}c"):
        before, column = column, _column(cell.get("r"), number) or column + 1
        if not before < column <= COLUMNS:
            raise ValueError(f"row {number} has a cell in column {column} after column {before}")
        kind, value = cell.get("t"), cell.findtext("{*}v", "")
        if kind == "inlineStr":
            value = _text(cell.find("{*}is"))
        elif kind == "s":
            if not value.isdecimal() or int(value) >= len(texts):
                raise ValueError(f"row {number} has text number {value[:20]!r} of {len(texts)}")
            value = texts[int(value)]
        elif kind == "b":
            value = {"0": "FALSE", "1": "TRUE"}.get(value, value)
        elif value and kind in (None, "n") and cell.get("s") in dates:  # Excel may have made it of 3.5
            value = f"{value} (a date)"
        cells[column] = value
    return cells


def _column(place: str | None, number: int) -> int:
    """Of a cell's place, A1 or XFD7: A, B, …, Z, AA, which is bijective base 26; 0 where no place is given."""
    if place is None:
        return 0
    found = re.fullmatch("([A-Z]{1,3})([0-9]{1,7})", place)
    if not found or int(found[2]) != number:
        raise ValueError(f"row {number} has a cell at {place[:20]!r}")
    column = 0
    for letter in found[1]:
        column = 26 * column + ord(letter) - ord("A") + 1
    return column


def _text(element: ElementTree.Element | None) -> str:
    """A text, plain (t) or in runs of different fonts (r/t); phonetic hints (rPh/t) are left out."""
    if element is None:
        return ""
    return "".join(t.text or "" for t in (*element.findall("{*}t"), *element.findall("{*}r/{*}t")))
