"""Tables of labels: what is read, and what is refused, with its row."""

from __future__ import annotations

import codecs
import zipfile

import pytest
from label_files import image, make_ava, text, xlsx

from musiq_ref.training.datasets import DatasetError, Split, ava, csv_file, open_dataset, paq2piq
from musiq_ref.training.datasets.tables import read_table


def test_a_split_that_cannot_be_understood_is_refused(tmp_path):
    text(tmp_path / "labels<=640_padded.csv", "name_image,mos_image,is_valid", "a.jpg,71.5,maybe")
    image(tmp_path / "database" / "a.jpg")
    with pytest.raises(DatasetError, match="row 2: set is 'maybe'; use training, validation or test"):
        paq2piq(tmp_path)
    make_ava(tmp_path)
    text(tmp_path / "aesthetics_image_lists" / "generic_test.jpgl", "96.jpg")
    with pytest.raises(DatasetError, match=r"generic_test\.jpgl lists no image of AVA\.txt"):
        ava(tmp_path)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("image,score", "a.png,"), "row 2: score is empty; fill it in"),
        (("image,score", ",3"), "row 2: image is empty; fill it in"),
        (("image,score",), "has no rows below its header"),
        (("picture,score", "a.png,3"), "has no column path, only picture, score"),
        (("image,quality", "a.png,3"), "has no column score, only image, quality"),
        (("image,score,set", "a.png,3,dev"), "row 2: set is 'dev'; use training, validation or test"),
        (("image,score,set,group", "a.png,3,test,x", "a.png,4,train,x"), "row 3: x is in train and in test"),
        (("image,p1,p3", "a.png,3,4"), "has no column p2"),
        (("image,p1,p2,p", "a.png,3,4,5"), "has no column p3"),
    ],
)
def test_bad_tables(tmp_path, lines, expected):
    image(tmp_path / "a.png")
    text(tmp_path / "a.csv", *lines)
    with pytest.raises(DatasetError, match=expected):
        csv_file(tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            "image,mos\na.png,3,9\n",
            "row 2: 3 cells, where the header has 2; is 3,9 one number.*3.9, or put it",
        ),
        ("image,mos,std\na.png,3,9,0,1\n", "row 2: 5 cells, .* is 3,9 one number"),
        ("image,mos\na.png,3\nb, c.png,3\n", "row 3: 3 cells, .* put texts that hold ',' in quotation marks"),
        ("image,mos\na.png,3\nb.png,2.,\n", "row 3: 3 cells, .* remove the separator behind the last cell"),
        ("image,mos\na.png,3.,\nb.png,2\n", "row 2: 3 cells, .* remove the separator behind the last cell"),
        ("image;mos\na.png;3,9;x\n", "row 2: 3 cells, .* put texts that hold ';' in quotation marks"),
        ("image,mos,\na.png\n", "row 2: 1 cells, where the header has 3"),
        ('"image","mos"\n"1","a.png",3\n', "row 2: 3 cells, .* begin with a row's name.* row.names = FALSE"),
        ("sep=;\nimage;mos\na.png;x\n", "row 3: mos is 'x'"),
        ("image,mos\na.png\n", "row 2: 1 cells, where the header has 2; fill in what is missing"),
        ("image,mos,\na.png,3,9\n", "row 2: '9' has no name above it; name its column"),
        ("image,mos,Mos \na.png,3,9\n", "several columns called mos; rename"),
        ("image,image,mos\na.png,b.png,9\n", "several columns called image; rename"),
        ("Image Name,image_name,mos\na.png,b.png,9\n", "several columns called image_name; rename"),
        ("image,mos,score\na.png,3,9\n", "columns called score and mos; rename the one that is not meant"),
        ('image,mos\n\n"a\nb.png",3\na.png,x\n', "row 4: mos is 'x'"),
        (
            'image,mos\na.png,3\n"a.png,3\nb.png,3\n',
            "row 3: unexpected end of data; is there a quotation mark too many",
        ),
        ('image,mos\na.png,3\n"a".png,3\n', "row 3: .*quotation mark too many"),
        ("image,mos\na.png,3\n" + "x" * 140_000 + ",3\n", "row 3: field larger than field limit"),
        ("image,mos\rb.png,3\ra.png,x\r", "row 3: mos is 'x'"),
        ("image,mos\na\0.png,3\n", r"not text in UTF-8; .* save it as CSV \(UTF-8\)"),
        ("image,mos\na.png,1\na.png,2\n", "row 3: .*a.png has another label in row 2; keep one of the rows"),
        ("image,mos\na.png,1\n./a.png,2\n", "row 3: .*a.png has another label in row 2"),
        ("", "has no rows below its header"),
        ("image,mos", "has no rows below its header"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_row(tmp_path, table, expected):
    image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_bytes(table.encode())
    with pytest.raises(DatasetError, match=expected) as error:
        csv_file(tmp_path / "a.csv")
    assert "\n" not in str(error.value)
    assert "a.csv" in str(error.value)


@pytest.mark.parametrize(
    "table",
    [
        "image;mos\na.png;3,9;\n",
        "image,mos\na.png,3.9,,\n",
        "image,mos,,\na.png,3.9\n",
        "image,mos,\na.png,3.9,,\n\n,,\n",
        "sep=;\r\nimage;mos\r\na.png;3,9\r\n",
        '"sep=\t"\nimage\tmos\na.png\t3,9\n',
        'image, mos\n"a.png", "3.9"\n',
        '"","image","mos"\n"1","a.png",3.9\n',
    ],
)
def test_what_spreadsheets_and_statisticians_write_is_read(tmp_path, table):
    image(tmp_path / "a.png")
    (tmp_path / "a.csv").write_bytes(table.encode())
    assert csv_file(tmp_path / "a.csv").examples[0].target == (3.9,)


NUMBERS = {"3": 3, "3.9": 3.9, " 3 ": 3, "+.5": 0.5, "3.": 3, "1e-2": 0.01, "-2E+1": -20, "3,9": 3.9, "0,125": 0.125}
NUMBERS |= {"12345,678": 12345.678, "1234,5": 1234.5}
NO_NUMBERS = ["1_000", "１２", "nan", "inf", "-infinity", "1e400", "0x10", "3.5%", "1.234,5", "1,234.5", "1,2,3", "−3"]
NO_NUMBERS += ["3 9", "TRUE", "e5", ".", "9" * 100_000, "1e10"]


@pytest.mark.parametrize("text_there", NUMBERS)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_numbers_are_decimal_with_a_point_or_a_comma(tmp_path, text_there, delimiter):
    image(tmp_path / "a.png")
    text(tmp_path / "a.csv", f"image{delimiter}mos", f'a.png{delimiter}"{text_there}"')
    assert csv_file(tmp_path / "a.csv").examples[0].target == (NUMBERS[text_there],)


@pytest.mark.parametrize("text_there", NO_NUMBERS)
def test_what_is_no_decimal_number_is_refused(tmp_path, text_there):
    text(tmp_path / "a.csv", "image;mos", f"a.png;{text_there}")
    with pytest.raises(DatasetError, match=r"a\.csv, row 2: mos is '.*'; it must be a number"):
        csv_file(tmp_path / "a.csv")


def test_a_comma_that_may_separate_thousands_is_asked_about(tmp_path):
    text(tmp_path / "a.csv", "image;mos", "a.png;1,234")
    with pytest.raises(DatasetError, match=r"row 2: mos is '1,234'; write 1\.234 or 1234"):
        csv_file(tmp_path / "a.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1", "utf-16-le"])
def test_encodings_are_read_or_named(tmp_path, encoding):
    image(tmp_path / "é.png")
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    (tmp_path / "a.csv").write_bytes(mark + "image,mos\né.png,3".encode(encoding))
    if encoding in ("latin-1", "utf-16-le"):  # without a byte-order mark
        with pytest.raises(DatasetError, match=r"a\.csv is not text in UTF-8; .*save it as CSV \(UTF-8\)"):
            csv_file(tmp_path / "a.csv")
    else:
        assert csv_file(tmp_path / "a.csv").examples[0].group == "é.png"


def test_the_same_row_twice_is_left_out_and_named(tmp_path):
    image(tmp_path / "a.png")
    text(tmp_path / "a.csv", ",image,mos", "0,a.png,1", "1,a.png,1.0")  # the index that pandas writes has no name
    dataset = csv_file(tmp_path / "a.csv")
    assert len(dataset.examples) == 1
    [problem] = dataset.problems
    assert "row 3) is in row 2 already" in problem


def test_names_of_windows_and_names_that_lead_elsewhere(tmp_path):
    image(tmp_path / "x" / "a.png")
    image(tmp_path / "b.png")
    long, there = "n" * 5000, tmp_path / "x"
    names = [
        "..\\x\\a.png",
        "../b.png",
        str(tmp_path / "b.png"),
        long,
        "../../../../../../../../../etc",
        "..",
        '"a\nb"',
    ]
    text(there / "a.csv", "image;mos", *(f"{name};{1 + (i == 0)}" for i, name in enumerate(names)))
    dataset = csv_file(there / "a.csv")
    assert [example.group for example in dataset.examples] == ["../x/a.png", "../b.png"]
    assert len(dataset.problems) == 5
    assert all("\n" not in problem and len(problem) < 1000 for problem in dataset.problems)


def test_the_tables_of_pyiqa(tmp_path):
    header = "img_name,mos,std,split,c1,c2,c_total"
    text(tmp_path / "meta" / "a.csv", header, "a.jpg,7,0.5,0,0,1,9", "b.jpg,2,0.5,1,1,0,9", "c.jpg,3,0.5,2,1,0,9")
    for name in "abc":
        image(tmp_path / "512x384" / f"{name}.jpg")
    dataset = open_dataset(str(tmp_path / "meta" / "a.csv"), tmp_path / "512x384")
    assert [example.target for example in dataset.examples] == [(7.0,), (2.0,), (3.0,)]
    assert dataset.published == Split((0,), (1,), (2,))
    text(tmp_path / "512x384" / "b.csv", "img_name,mos,official_split", "a.jpg,7,train", "b.jpg,2,test")
    assert csv_file(tmp_path / "512x384" / "b.csv").published == Split((0,), (), (1,))
    text(tmp_path / "512x384" / "c.csv", "Image name,MOS,Brightness,Brightness", "a.jpg,7,1,2", "b.jpg,2,3,4")
    assert len(csv_file(tmp_path / "512x384" / "c.csv").examples) == 2
    text(tmp_path / "512x384" / "d.csv", "image,mos,split", "a.jpg,7,3", "b.jpg,2,0")  # a fold, not a part
    assert csv_file(tmp_path / "512x384" / "d.csv").published is None
    with pytest.raises(DatasetError, match=r"nowhere is no folder; pass the one that the images of .*d\.csv lie in"):
        csv_file(tmp_path / "512x384" / "d.csv", images=tmp_path / "nowhere")


def sheet(path, rows, strings="", **others):
    """A workbook whose rows are given as XML."""
    xlsx(path, [["image", "mos"]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    parts["xl/worksheets/sheet2.xml"] = f"<worksheet {main}><sheetData>{rows}</sheetData></worksheet>"
    parts["xl/sharedStrings.xml"] = f"<sst {main}>{strings}</sst>"
    parts |= others
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)


HEADER = '<row><c t="str"><v>image</v></c><c t="str"><v>mos</v></c></row>'
ROW = '<row r="{}"><c t="str"><v>a.png</v></c><c r="B{}"><v>3</v></c></row>'


def test_cells_of_every_kind(tmp_path):
    image(tmp_path / "a.png")
    sheet(tmp_path / "a.xlsx", HEADER + ROW.format(5, 5))
    [row] = read_table(tmp_path / "a.xlsx")
    assert (row.number, row.cells) == (5, {"image": "a.png", "mos": "3"})
    for kind, there in (("b", "1"), ("e", "#N/A"), ("d", "2020-01-01"), ("str", "x")):
        sheet(tmp_path / "a.xlsx", HEADER + ROW.format(2, 2).replace('"B2"><v>3', f'"B2" t="{kind}"><v>{there}'))
        with pytest.raises(DatasetError, match=r"row 2: mos is .*; it must be a number"):
            csv_file(tmp_path / "a.xlsx")


def test_a_hidden_sheet_is_not_taken_for_the_table(tmp_path):
    image(tmp_path / "a.png")
    sheet(tmp_path / "a.xlsx", HEADER + ROW.format(2, 2))
    assert len(read_table(tmp_path / "a.xlsx")) == 1
    with zipfile.ZipFile(tmp_path / "a.xlsx") as archive:
        workbook = archive.read("xl/workbook.xml").decode().replace("<sheet ", '<sheet state="hidden" ', 1)
    sheet(tmp_path / "a.xlsx", HEADER + ROW.format(2, 2), **{"xl/workbook.xml": workbook})
    with pytest.raises(DatasetError, match=r"a\.xlsx cannot be read as a table \(its first sheet is hidden\)"):
        csv_file(tmp_path / "a.xlsx")


def test_a_number_that_a_workbook_shows_as_a_date_is_no_score(tmp_path):
    image(tmp_path / "a.png")
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    styles = f"""<styleSheet {main}><numFmts><numFmt numFmtId="164" formatCode="dd\\.mmm"/>
        <numFmt numFmtId="165" formatCode='0.0" my"\\h[Red]'/></numFmts><cellXfs>
        <xf numFmtId="0"/><xf numFmtId="16"/><xf numFmtId="164"/><xf numFmtId="165"/></cellXfs></styleSheet>"""
    for style, is_date in ((0, False), (1, True), (2, True), (3, False)):
        row = ROW.format(2, 2).replace('"B2"', f'"B2" s="{style}"')
        sheet(tmp_path / "a.xlsx", HEADER + row, **{"xl/styles.xml": styles})
        [read] = read_table(tmp_path / "a.xlsx")
        assert ("(a date)" in read.text("mos")) == is_date
        if is_date:
            with pytest.raises(DatasetError, match=r"a\.xlsx, row 2: mos is '.* \(a date\)'; it must be a number"):
                csv_file(tmp_path / "a.xlsx")


BOMB = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (HEADER + '<row r="2"><c r="ZZZZZZ1"><v>3</v></c></row>', "row 2 has a cell at 'ZZZZZZ1'"),
        (HEADER + '<row r="2"><c r="ZZZ2"><v>3</v></c></row>', "row 2 has a cell in column 18278"),
        (HEADER + ROW.format(2, 3), "row 2 has a cell at 'B3'"),
        (HEADER + '<row r="2"><c r="B2"><v>3</v></c><c r="A2"><v>3</v></c></row>', "in column 1 after column 2"),
        (HEADER + ROW.format(10**9, 10**9), "row 1000000000 follows row 1"),
        (HEADER + ROW.format(3, 3) + ROW.format(2, 2), "row 2 follows row 3"),
        (HEADER + '<row r="2"><c t="s"><v>7</v></c></row>', "row 2 has text number '7' of 0"),
        (HEADER + '<row r="2"><c t="s"><v>-1</v></c></row>', "row 2 has text number '-1' of 0"),
        (HEADER + '<row r="x"/>', "invalid literal"),
        (
            HEADER + "".join(f'<row r="{i}"><c r="XFD{i}"><v>1</v></c></row>' for i in range(2, 600)),
            "599 rows of 16384",
        ),
        (HEADER + " " * 2**25, "sheet2.xml has more than 32 MiB"),
        (f'{HEADER}<row><c t="str"><v>&a11;</v></c></row>', "undefined entity"),
    ],
)
def test_workbooks_that_claim_what_is_not_so(tmp_path, rows, expected):
    sheet(tmp_path / "a.xlsx", rows)
    with pytest.raises(
        DatasetError, match=rf"a\.xlsx cannot be read as a table \(.*{expected}.*save it as CSV \(UTF-8\)"
    ):
        csv_file(tmp_path / "a.xlsx")


def test_entities_a_part_twice_and_cut_workbooks(tmp_path):
    bomb = f'<!DOCTYPE s [<!ENTITY a0 "aaaaaaaaaa">{BOMB}]><sst><si><t>&a11;</t></si></sst>'
    sheet(tmp_path / "a.xlsx", HEADER + ROW.format(2, 2), **{"xl/sharedStrings.xml": bomb})
    with pytest.raises(DatasetError, match="its XML declares a DOCTYPE"):
        csv_file(tmp_path / "a.xlsx")
    sheet(tmp_path / "a.xlsx", HEADER + ROW.format(2, 2))
    whole = (tmp_path / "a.xlsx").read_bytes()
    (tmp_path / "a.xlsx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="not a zip file"):
        csv_file(tmp_path / "a.xlsx")
    (tmp_path / "a.xlsx").write_bytes(whole)
    with zipfile.ZipFile(tmp_path / "a.xlsx", "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("xl/worksheets/sheet2.xml", "<worksheet/>")
    with pytest.raises(DatasetError, match="it holds a part twice"):
        csv_file(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    "line", ["4 99 0 0 0 1 0 0 0 0 0 1 22 9", "4 99 0 0 0 1 0 0 0 0 0 0 0 1 22 9", "4 99 0 0 0 1 0 0 0 0 0 0"]
)
def test_a_line_of_ava_that_lost_or_won_a_field_is_refused(tmp_path, line):
    make_ava(tmp_path)
    with (tmp_path / "AVA.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DatasetError, match=f"row 4: {len(line.split())} fields; an index"):
        ava(tmp_path)


def test_tables_that_are_none(tmp_path):
    (tmp_path / "a.xlsx").write_text("no workbook")
    (tmp_path / "b.csv").write_bytes(b"image,score\n\xff\xfe,3\n")
    with zipfile.ZipFile(tmp_path / "c.xlsx", "w") as archive:
        archive.writestr("other.xml", "<a/>")
    for name in ("a.xlsx", "c.xlsx"):
        with pytest.raises(DatasetError, match=f"{name} cannot be read as a table .*; .* save it as CSV"):
            csv_file(tmp_path / name)
    with pytest.raises(DatasetError, match=r"b\.csv is not text in UTF-8; .* save it as CSV \(UTF-8\)"):
        csv_file(tmp_path / "b.csv")
    with pytest.raises(DatasetError, match="is a folder; check the path"):
        csv_file(tmp_path)
    with pytest.raises(ValueError, match="target is 'both'; use score or votes"):
        csv_file(tmp_path / "a.csv", target="both")


def damaged(data, rng):
    """The data with a few bytes changed, put in, doubled or taken out."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        i, j = sorted(rng.integers(len(changed) + 1, size=2))
        kind = rng.integers(5)
        if kind == 0:
            changed[i : i + 1] = rng.bytes(1)
        elif kind == 1:
            pieces = [b",", b";", b"\n", b"\r", b'"', b"\0", b"<", b"&", b"\xff", b"9", b".", b"image"]
            changed[i:i] = pieces[rng.integers(len(pieces))]
        elif kind == 2:
            changed[i:i] = changed[i : min(j, i + 200)]
        elif kind == 3:
            del changed[i : i + 3]
        elif kind == 4 and rng.integers(3) == 0:
            del changed[i:]
    return bytes(changed)


@pytest.mark.parametrize("name", ["a.csv", "a.xlsx", "AVA.txt"])
def test_damaged_tables_are_read_or_refused_in_one_line(tmp_path, rng, name):
    make_ava(tmp_path)
    for i in range(4):
        image(tmp_path / f"{i}.png")
    text(tmp_path / "a.csv", "image,mos,set", *(f"{i}.png,{i + 0.25},test" for i in range(4)))
    xlsx(tmp_path / "a.xlsx", [["image", "mos"], *([f"{i}.png", i + 0.25] for i in range(4))])
    path, refused = tmp_path / name, []
    whole = path.read_bytes()
    for _ in range(200):
        path.write_bytes(damaged(whole, rng))
        try:
            assert len((ava(tmp_path) if name == "AVA.txt" else csv_file(path)).examples) <= 4
        except DatasetError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all("\n" not in text and (name in text or "has no image" in text) for text in refused)
