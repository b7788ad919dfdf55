"""Small made-up folders and files of labels, in the layouts of the real ones."""

from __future__ import annotations

import zipfile

from PIL import Image


def image(path, value=128):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), (value, value, value)).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def xlsx(path, rows, inline=False):
    """A workbook as Excel writes it: texts apart, empty cells left out, a second sheet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    strings, lines = [], []
    for r, row in enumerate(rows, start=1):
        cells = ""
        for c, value in enumerate(row):
            place = f"{'ABCDEFGHIJKLMNOPQRSTUVWXYZ'[c] if c < 26 else 'A' + chr(65 + c - 26)}{r}"
            if value is None:
                continue
            if isinstance(value, str) and inline:
                cells += f'<c r="{place}" t="inlineStr"><is><t>{value}</t></is></c>'
            elif isinstance(value, str):
                cells += f'<c r="{place}" t="s"><v>{len(strings)}</v></c>'
                half = len(value) // 2
                hint = '<rPh sb="0" eb="1"><t>hint</t></rPh>'
                strings.append(f"<si><r><t>{value[:half]}</t></r><r><t>{value[half:]}</t></r>{hint}</si>")
            else:
                cells += f'<c r="{place}" s="1"><v>{value}</v></c>'
        lines.append(f'<row r="{r}">{cells}</row>')
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    rel = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    sheet = '<sheet name="{0}" sheetId="{0}" r:id="rId{0}"/>'
    with zipfile.ZipFile(path, "w") as archive:
        sheets = f"<sheets>{sheet.format(2)}{sheet.format(1)}</sheets>"  # the first one is sheet2.xml
        archive.writestr("xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{rel}">{sheets}</workbook>')
        relations = "".join(f'<Relationship Id="rId{i}" Target="worksheets/sheet{i}.xml"/>' for i in (1, 2))
        archive.writestr("xl/_rels/workbook.xml.rels", f"<Relationships>{relations}</Relationships>")
        data = f'<worksheet xmlns="{main}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
        archive.writestr("xl/worksheets/sheet2.xml", data)
        archive.writestr("xl/worksheets/sheet1.xml", f'<worksheet xmlns="{main}"><sheetData/></worksheet>')
        if not inline:
            archive.writestr("xl/sharedStrings.xml", f'<sst xmlns="{main}">{"".join(strings)}</sst>')


KONIQ = ("image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,set", "a.jpg,0,0,0.2,0.7,0.1,105,77.38,0.5,training")
KONIQ += ("b.jpg,0,0,0.5,0.5,0,96,68.7,0.6,test", "c.jpg,0.1,0.2,0.2,0.5,0,96,38.6,0.5,validation")


def make_koniq(folder, size="1024x768"):
    text(folder / "koniq10k_distributions_sets.csv", *KONIQ)
    for name in "abc":
        image(folder / size / f"{name}.jpg")


def make_ava(folder, lists=True):
    votes = ["0 1 5 17 38 36 15 6 5 1", "10 7 15 26 26 21 10 8 1 2", "0 0 0 0 0 0 0 0 0 4"]
    text(folder / "AVA.txt", *(f"{i + 1} {95 + i} {counts} 1 22 1396" for i, counts in enumerate(votes)))
    for i in range(3):
        image(folder / "images" / f"{95 + i}.jpg")
    if lists:
        text(folder / "aesthetics_image_lists" / "generic_test.jpgl", "96", "12345")
