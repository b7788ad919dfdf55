"""Data sets from small made-up folders of the real layouts, and their splits."""

from __future__ import annotations

import codecs
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from musiq_ref.training.datasets import (
    LOADERS,
    Dataset,
    DatasetError,
    Example,
    Split,
    ava,
    check_images,
    csv_file,
    digest,
    koniq10k,
    open_dataset,
    paq2piq,
    spaq,
    split,
)
from musiq_ref.training.datasets.tables import read_table


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


def test_koniq_with_its_published_split(tmp_path):
    make_koniq(tmp_path)
    dataset = koniq10k(tmp_path)
    assert dataset.name == "KonIQ-10k"
    assert [example.image for example in dataset.examples] == [tmp_path / "1024x768" / f"{n}.jpg" for n in "abc"]
    assert [example.target for example in dataset.examples] == [(77.38,), (68.7,), (38.6,)]
    assert dataset.published == Split((0,), (2,), (1,))
    assert (dataset.outputs, dataset.score_range, dataset.problems) == (1, (0, 100), ())


def test_koniq_small_images_and_the_other_table(tmp_path):
    header = "image_name,c1,c2,c3,c4,c5,c_total,MOS,SD,MOS_zscore"
    scores = tmp_path / "koniq10k_scores_and_distributions" / "koniq10k_scores_and_distributions.csv"
    text(scores, header, "a.jpg,0,0,0,1,0,99,4.0,0.5,80.25")
    image(tmp_path / "512x384" / "a.jpg")
    dataset = koniq10k(tmp_path)
    assert dataset.examples == (Example(tmp_path / "512x384" / "a.jpg", (80.25,), "a.jpg"),)
    assert dataset.published is None
    make_koniq(tmp_path / "metadata", "elsewhere")  # the table with the split is preferred
    assert koniq10k(tmp_path).published == Split((0,), (), ())


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("folder", ["Annotations", "."])
def test_spaq_from_the_workbook(tmp_path, inline, folder):
    rows = [["Image name", "MOS", None, "Sharpness"], ["00001.jpg", 31.1, None, 20], [None], ["00002.jpg", 56, 1, 70]]
    xlsx(tmp_path / folder / "MOS and Image attribute scores.xlsx", rows, inline)
    for name in ("00001.jpg", "00002.jpg"):
        image(tmp_path / "TestImage" / name)
    dataset = spaq(tmp_path)
    assert [(example.group, example.target) for example in dataset.examples] == [
        ("00001.jpg", (31.1,)),
        ("00002.jpg", (56.0,)),
    ]
    assert dataset.published is None


def test_spaq_from_csv(tmp_path):
    text(tmp_path / "Annotations" / "MOS and Image attribute scores.csv", "Image name,MOS", "00001.jpg,31.1")
    image(tmp_path / "TestImage" / "00001.jpg")
    assert spaq(tmp_path).examples[0].target == (31.1,)


@pytest.mark.parametrize("inline", [False, True])
def test_workbook_cells_keep_their_columns(tmp_path, inline):
    header = [f"column {i}" for i in range(30)]
    values = [None if i % 3 else f"text {i}" for i in range(30)]
    xlsx(tmp_path / "a.xlsx", [header, values], inline)
    (row,) = read_table(tmp_path / "a.xlsx")
    assert row.number == 2
    assert {name: cell for name, cell in row.cells.items() if cell} == {
        f"column {i}": f"text {i}" for i in range(0, 30, 3)
    }


def test_ava_votes_and_published_test(tmp_path):
    make_ava(tmp_path)
    dataset = ava(tmp_path)
    assert dataset.outputs == 10
    assert dataset.score_range == (1, 10)
    assert dataset.examples[0].image == tmp_path / "images" / "95.jpg"
    np.testing.assert_allclose(dataset.examples[0].target, np.array([0, 1, 5, 17, 38, 36, 15, 6, 5, 1]) / 124)
    assert dataset.examples[2].target == (0.0,) * 9 + (1.0,)
    assert dataset.published == Split((0, 2), (), (1,))


def test_ava_without_lists_and_in_a_subfolder(tmp_path):
    make_ava(tmp_path / "AVA_dataset", lists=False)
    dataset = ava(tmp_path)
    assert len(dataset.examples) == 3
    assert dataset.published is None


@pytest.mark.parametrize("folder", ["database", "FLIVE", "."])
def test_paq2piq(tmp_path, folder):
    text(tmp_path / "labels_image.csv", "name,mos", "voc_emotic_ava/AVA__1.jpg,71.5", "blur_dataset/b.jpg,60")
    image(tmp_path / folder / "voc_emotic_ava" / "AVA__1.jpg")
    image(tmp_path / folder / "blur_dataset" / "b.jpg")
    dataset = paq2piq(tmp_path)
    assert [example.target for example in dataset.examples] == [(71.5,), (60.0,)]
    assert dataset.examples[0].image == tmp_path / folder / "voc_emotic_ava" / "AVA__1.jpg"
    assert dataset.published is None


def test_paq2piq_with_the_published_validation_part(tmp_path):
    lines = ("name_image,mos_image,is_valid", "v/a.jpg,71.5,False", "v/b.jpg,60,True", "v/c.jpg,60,False")
    text(tmp_path / "labels<=640_padded.csv", *lines)
    for name in "abc":
        image(tmp_path / "database" / "v" / f"{name}.jpg")
    assert paq2piq(tmp_path).published == Split((0, 2), (1,), ())


def test_a_split_that_cannot_be_understood_is_refused(tmp_path):
    text(tmp_path / "labels<=640_padded.csv", "name_image,mos_image,is_valid", "a.jpg,71.5,maybe")
    image(tmp_path / "database" / "a.jpg")
    with pytest.raises(DatasetError, match="row 2: set is 'maybe'; use training, validation or test"):
        paq2piq(tmp_path)
    make_ava(tmp_path)
    text(tmp_path / "aesthetics_image_lists" / "generic_test.jpgl", "96.jpg")
    with pytest.raises(DatasetError, match=r"generic_test\.jpgl lists no image of AVA\.txt"):
        ava(tmp_path)


def test_any_csv_with_scores(tmp_path):
    text(tmp_path / "my.csv", "\ufeffPath;Score;group", "x/a.png;1.5;cat", "b.png;4;dog")
    image(tmp_path / "x" / "a.png")
    image(tmp_path / "b.png")
    dataset = csv_file(tmp_path / "my.csv")
    assert dataset.name == "my"
    assert dataset.examples[0] == Example(tmp_path / "x" / "a.png", (1.5,), "cat")
    assert dataset.score_range == (1.5, 4.0)
    assert csv_file(tmp_path / "my.csv", score_range=(1, 5)).score_range == (1, 5)


def test_any_csv_with_votes(tmp_path):
    text(tmp_path / "votes.csv", "image,c1,c2,c3,mos,set", "a.png,1,2,1,2,train", f"{tmp_path}/b.png,0,0,3,3,test")
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    assert csv_file(tmp_path / "votes.csv").outputs == 1
    dataset = csv_file(tmp_path / "votes.csv", target="votes")
    assert [example.target for example in dataset.examples] == [(0.25, 0.5, 0.25), (0.0, 0.0, 1.0)]
    assert dataset.score_range == (1, 3)
    assert dataset.published == Split((0,), (), (1,))
    text(tmp_path / "p.csv", "image,p1,p2", "a.png,0.25,0.75")
    assert csv_file(tmp_path / "p.csv").examples[0].target == (0.25, 0.75)


def test_missing_and_empty_images_are_problems_and_the_split_follows(tmp_path):
    make_koniq(tmp_path)
    (tmp_path / "1024x768" / "a.jpg").unlink()
    (tmp_path / "1024x768" / "c.jpg").write_bytes(b"")
    dataset = koniq10k(tmp_path)
    assert [example.group for example in dataset.examples] == ["b.jpg"]
    assert dataset.published == Split((), (), (0,))
    table = tmp_path / "koniq10k_distributions_sets.csv"
    missing, empty = dataset.problems
    assert (
        missing == f"{tmp_path / '1024x768' / 'a.jpg'} ({table}, row 2) does not exist; download it or remove the row"
    )
    assert "c.jpg" in empty
    assert "row 4) is empty" in empty
    (tmp_path / "1024x768" / "b.jpg").unlink()
    with pytest.raises(DatasetError, match=r"KonIQ-10k has no image: .*a\.jpg .*does not exist"):
        koniq10k(tmp_path)


def test_broken_images_are_found_when_all_are_opened(tmp_path):
    make_koniq(tmp_path)
    broken = tmp_path / "1024x768" / "a.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    before = koniq10k(tmp_path)
    assert len(before.examples) == 3
    seen = []
    after = check_images(before, progress=lambda examples: (seen.append(e) or e for e in examples))
    assert len(seen) == 3
    assert [example.group for example in after.examples] == ["b.jpg", "c.jpg"]
    assert after.published == Split((), (1,), (0,))
    assert len(after.problems) == 1
    assert "a.jpg" in after.problems[0]
    for name in "bc":
        (tmp_path / "1024x768" / f"{name}.jpg").write_text("no image")
    with pytest.raises(DatasetError, match=r"KonIQ-10k has no image that can be read; the first problem: .*jpg"):
        check_images(before)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("koniq10k", "koniq10k_distributions_sets.csv or koniq10k_scores_and_distributions.csv"),
        ("spaq", "MOS and Image attribute scores.xlsx or MOS and Image attribute scores.csv"),
        ("ava", "AVA.txt"),
        ("paq2piq", "labels_image.csv or labels<=640_padded.csv"),
    ],
)
def test_a_folder_that_is_not_the_data_set(tmp_path, name, expected):
    with pytest.raises(DatasetError, match=f"holds no {re.escape(expected)}; pass the folder of"):
        LOADERS[name](tmp_path)
    text(tmp_path / "file")
    with pytest.raises(DatasetError, match="file is not a folder; pass the folder of"):
        LOADERS[name](tmp_path / "file")
    with pytest.raises(DatasetError, match="gone does not exist; pass the folder of"):
        LOADERS[name](str(tmp_path / "gone"))


def test_labels_without_their_images(tmp_path):
    text(tmp_path / "koniq10k_distributions_sets.csv", *KONIQ)
    with pytest.raises(DatasetError, match="has no folder 1024x768 or 512x384; put the images of KonIQ-10k there"):
        koniq10k(tmp_path)


@pytest.mark.parametrize("value", ["101", "-0.5", "nan", "inf", "good"])
def test_a_label_out_of_range_names_the_row(tmp_path, value):
    make_koniq(tmp_path)
    text(tmp_path / "koniq10k_distributions_sets.csv", *KONIQ, f"d.jpg,0,0,0,1,0,9,{value},0.5,test")
    expected = f"koniq10k_distributions_sets.csv, row 5: MOS is '{value}'; it must be a number from 0 to 100"
    with pytest.raises(DatasetError, match=expected):
        koniq10k(tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("4 99 0 0 0 0 0 0 0 0 0 0 1 22 9", "row 4: there is not a single vote"),
        ("4 99 0 0 0 -1 0 0 0 0 0 3 1 22 9", "row 4: 4 is '-1'; it must be a number"),
        ("4 99 0 0", "row 4: 4 fields; an index, an ID, 10 counts and 3 tags are needed"),
    ],
)
def test_bad_votes_name_the_row(tmp_path, line, expected):
    make_ava(tmp_path)
    with (tmp_path / "AVA.txt").open("a") as file:
        file.write(line)
    with pytest.raises(DatasetError, match=expected):
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
        ("image;mos\na.png;3,9;\n", "row 2: 3 cells, .* put texts that hold ';' in quotation marks"),
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


def made_up(groups):
    examples = tuple(Example(Path(f"{i}.jpg"), (1.0,), group) for i, group in enumerate(groups))
    return Dataset("made up", examples, 1, (0.0, 1.0), None, ())


@given(groups=st.lists(st.text(max_size=4), min_size=2, max_size=60), seed=st.integers(0, 99), index=st.integers(0, 9))
def test_splits_share_no_group_and_leave_none_out(groups, seed, index):
    if len(set(groups)) < 2:
        with pytest.raises(DatasetError, match="needs at least 2"):
            split(made_up(groups), seed, index)
        return
    train, validation, test = split(made_up(groups), seed, index)
    assert validation == ()
    assert sorted((*train, *test)) == list(range(len(groups)))
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    assert len({groups[i] for i in test}) == max(1, round(0.2 * len(set(groups))))


def test_splits_are_what_sha256_says_and_ten_of_them_differ():
    names = [f"{i}.jpg" for i in range(100)]
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"5/3/{name}".encode()).hexdigest())
    found = split(made_up(names), seed=5, index=3)
    assert {names[i] for i in found.test} == set(ordered[:20])
    backwards = split(made_up(names[::-1]), seed=5, index=3)
    assert {names[::-1][i] for i in backwards.test} == set(ordered[:20])
    tests = {split(made_up(names), seed, index).test for seed in range(5) for index in range(10)}
    assert len(tests) == 50
    assert set().union(*tests) == set(range(100))


def digested(path):
    dataset = check_images(csv_file(path))
    return digest(dataset, dataset.published or split(dataset))


def test_the_digest_names_what_changed(tmp_path):
    lines = ["path,score,set", *(f"x/{i}.png,{i},{'test' if i > 3 else 'training'}" for i in range(6))]

    def changes(make):
        """What differs from the data set as it was, in another folder, after `make` changed it there."""
        folder = tmp_path / make.__name__
        for i in range(6):
            image(folder / "x" / f"{i}.png", 10 * i)
        text(folder / "a.csv", *(make(folder, lines.copy()) or lines))
        new = digested(folder / "a.csv")
        return [what for what in new if what in old and new[what] != old[what]]

    def nothing(folder, lines): ...

    def reordered(folder, lines):
        return [lines[0], *lines[:0:-1]]

    def relabelled(folder, lines):
        return [line.replace(",1,", ",1.5,") for line in lines]

    def replaced(folder, lines):
        image(folder / "x" / "2.png", 77)

    def other_split(folder, lines):
        return [line.replace("4,test", "4,training") for line in lines]

    def removed(folder, lines):
        (folder / "x" / "0.png").unlink()

    old = {}
    assert changes(nothing) == []
    old = digested(tmp_path / "nothing" / "a.csv")
    assert changes(nothing) == []
    assert changes(reordered) == ["order or names"]
    assert changes(relabelled) == ["labels"]
    assert changes(replaced) == ["images"]
    assert changes(other_split) == ["split"]
    assert changes(removed) == ["order or names", "labels", "images", "split"]
    (tmp_path / "nothing").rename(tmp_path / "moved")
    assert digested(tmp_path / "moved" / "a.csv") == old
