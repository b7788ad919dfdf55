"""Tables of labels: CSV in several dialects, a workbook, AVA.txt; a strict parser says what a spoilt one holds."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from pathlib import Path
from random import Random
from typing import Any
from xml.etree import ElementTree

from musiq_ref.training.datasets import DatasetError, ava, csv_file
from musiq_ref.training.datasets.dataset import Dataset

from .core import Kind, judge
from .mutate import spoil, spoil_zip

NAMES = [f"q{i}.png" for i in range(6)]
SCORES = ["3.5", "2.25", "4", "1.75", "2.5e0", "0.5"]
VOTES = [[str((i * j) % 5 + 1) for j in range(1, 6)] for i in range(1, 7)]
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
Labels = list[tuple[str, tuple[float, ...]]]


def written(rows: list[list[str]], **dialect: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, **dialect).writerows(rows)
    return buffer.getvalue()


def prepare() -> dict[str, bytes]:
    """{name: a file}"""
    scores = [["image", "score"], *map(list, zip(NAMES, SCORES, strict=True))]
    votes = [["name", *(f"p{i}" for i in range(1, 6))], *([name, *v] for name, v in zip(NAMES, VOTES, strict=True))]
    extra = [[*row, text] for row, text in zip(scores, ["notes", "a, b", "c;d", 'e"f', "", "g\nh", "i"], strict=True)]
    counts = [[str(i), name[:-4], *v, *v, "1", "2", "3"] for i, (name, v) in enumerate(zip(NAMES, VOTES, strict=True))]
    return {
        "comma.csv": written(scores, lineterminator="\n").encode(),
        "semicolon.csv": written(votes, delimiter=";").encode(),
        "tab.csv": written(extra, delimiter="\t").encode("utf-8-sig"),
        "quoted.csv": written(extra, quoting=csv.QUOTE_ALL).encode(),
        "old.csv": written(scores, lineterminator="\r").encode(),
        "workbook.xlsx": workbook(scores),
        "AVA.txt": "".join(" ".join(row) + "\n" for row in counts).encode(),
    }


def workbook(rows: list[list[str]]) -> bytes:
    """A workbook of one sheet: names as shared texts, numbers as numbers."""
    texts = sorted({cell for row in rows for cell in row if not NUMBER.fullmatch(cell)})
    sheet = ""
    for r, row in enumerate(rows, start=1):
        cells = [
            f'<c r="{"AB"[c]}{r}"><v>{cell}</v></c>'
            if NUMBER.fullmatch(cell)
            else f'<c r="{"AB"[c]}{r}" t="s"><v>{texts.index(cell)}</v></c>'
            for c, cell in enumerate(row)
        ]
        sheet += f'<row r="{r}">{"".join(cells)}</row>'
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    parts = {
        "xl/workbook.xml": f'<workbook {space} xmlns:r="{relation}"><sheets><sheet name="a" sheetId="1" r:id="one"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}">'
        f'<Relationship Id="one" Type="{relation}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/sharedStrings.xml": f"<sst {space}>{''.join(f'<si><t>{text}</t></si>' for text in texts)}</sst>",
        "xl/worksheets/sheet1.xml": f"<worksheet {space}><sheetData>{sheet}</sheetData></worksheet>",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def spoil_sheet(data: bytes, rng: Random) -> bytes:
    """A workbook with a hostile reference, type, row number or index of a text."""
    odd = (
        "ZZZZZZ1",
        "A0",
        "1",
        "",
        "-1",
        "10" * 20,
        "é",
        "99999999999",
        "A1",
        "A99999999",
        "XFE1",
        "1e3",
        "nan",
        " 0 ",
    )
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            text = old.read(name).decode()
            if name.endswith("sheet1.xml"):
                found = rng.choice(list(re.finditer(r'(?<=r=")[^"]*|(?<=t=")[^"]*|(?<=t="s"><v>)[^<]*', text)))
                text = text[: found.start()] + rng.choice(odd) + text[found.end() :]
            new.writestr(name, text)
    return changed.getvalue()


def case(prepared: dict[str, bytes], rng: Random, folder: Path) -> tuple[str, str]:
    name = rng.choice(list(prepared))
    data, other = prepared[name], False
    if name == "workbook.xlsx" and rng.random() < 0.7:
        data, other = (spoil_sheet(data, rng), False) if rng.random() < 0.6 else spoil_zip(data, rng)
    else:
        data = spoil_text(data, rng) if name != "workbook.xlsx" and rng.random() < 0.5 else spoil(data, rng)
    path = folder / name
    path.write_bytes(data)
    images = folder / "images" if name == "AVA.txt" else folder
    images.mkdir(exist_ok=True)
    for one in NAMES:
        (images / one.replace(".png", ".jpg" if name == "AVA.txt" else ".png")).write_bytes(b"x")

    def right(found: Dataset) -> bool:
        labels = [(Path(e.image).relative_to(images).as_posix(), e.target) for e in found.examples]
        return other or list(dict.fromkeys(labels)) in (truth(name, prepared[name], images), truth(name, data, images))

    read = (lambda: ava(folder)) if name == "AVA.txt" else (lambda: csv_file(path))
    return judge(read, right, (DatasetError,), name.partition(".")[0])


def spoil_text(data: bytes, rng: Random) -> bytes:
    """A table with a delimiter, quote, line end or odd number too much or too little."""
    at = rng.randrange(len(data))
    odd = [b",", b";", b"\t", b'"', b"\n", b"\r", b"\r\n", b"\0", b"-", b"1_0", b" ", b"nan", b"1e999", b"\xe9", b"0x1"]
    odd += ["\u00a0".encode(), "٣".encode(), "\u2028".encode(), b"\x0b", b"\x1c", b"inf", b"score", b"image,"]
    return data[:at] + rng.choice(odd) + data[at + rng.randrange(3) :]


def truth(name: str, data: bytes, images: Path) -> Labels | None:
    """What a strict parser makes of a table; None where it finds anything unusual."""
    try:
        if name == "AVA.txt":
            rows = [re.split("[ \t]+", row.strip()) for row in re.split("\r\n|[\r\n]", data.decode("utf-8", "replace"))]
            found = [(f"{row[1]}.jpg", shares(row[2:12])) for row in rows if row != [""] and (len(row) == 15 or fail())]
        else:
            table = sheet(data) if name == "workbook.xlsx" else lines(data)
            header = [title.strip().lower() for title in table[0]]
            if len(set(header)) < len(header):
                fail()
            rows = [dict(zip(header, row, strict=True)) for row in table[1:]]
            image = next(title for title in ("image", "name") if title in header)
            votes = [title for title in header if re.fullmatch(r"p\d", title) and "score" not in header]
            if votes != [f"p{i}" for i in range(1, len(votes) + 1)]:
                fail()
            found = [
                (row[image].strip(), shares([row[v] for v in votes]) if votes else (number(row["score"]),))
                for row in rows
            ]
    except (ValueError, KeyError, IndexError, StopIteration, csv.Error, ElementTree.ParseError, zipfile.BadZipFile):
        return None
    labels = [(Path(name).as_posix(), target) for name, target in found if name and (images / name).is_file()]
    return list(dict.fromkeys(labels))


def lines(data: bytes) -> list[list[str]]:
    text = data.decode("utf-8-sig")
    delimiter = max(",;\t", key=re.split("[\r\n]", text)[0].count)
    return [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if any(row)]


def sheet(data: bytes) -> list[list[str]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        shared = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
        texts = [element.text or "" for element in shared.findall("{*}si/{*}t")]
        root, rows = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml")), []
    for row in root.findall("{*}sheetData/{*}row"):
        cells = [(cell.get("r"), cell.get("t"), cell.findtext("{*}v", "")) for cell in row]
        if [r for r, _, _ in cells] != [f"A{row.get('r')}", f"B{row.get('r')}"]:
            fail()
        rows.append([texts[int(v)] if t == "s" and re.fullmatch(r"\d+", v) else v for _, t, v in cells])
    return rows


def number(text: str) -> float:
    text = text.strip()
    value = float(text) if NUMBER.fullmatch(text) and text.isascii() else fail()
    return value if abs(value) <= 1e9 else fail()


def shares(texts: list[str]) -> tuple[float, ...]:
    votes = [number(text) for text in texts]
    return tuple(vote / sum(votes) for vote in votes) if min(votes) >= 0 < sum(votes) else fail()


def fail() -> Any:
    raise ValueError


KIND = Kind(prepare, case)
