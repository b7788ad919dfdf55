"""Data sets from small made-up folders of the real layouts, and their splits."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from label_files import KONIQ, image, make_ava, make_koniq, text, xlsx

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
    paq2piq,
    spaq,
    split,
)
from musiq_ref.training.datasets.tables import read_table


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


@pytest.mark.parametrize(("in_table", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFC", "NFC")])
def test_accents_are_found_in_either_form(tmp_path, in_table, on_disk):
    name = "café/été.png"
    path = tmp_path / unicodedata.normalize(on_disk, name)
    image(path)
    table = tmp_path / "labels.csv"
    table.write_text(f"path,score\n{unicodedata.normalize(in_table, name)},3\n", encoding="utf-8")
    [example] = csv_file(table).examples
    assert example.image == path
    assert example.group == unicodedata.normalize(in_table, name)  # by which the split is made, on every machine


def test_a_table_whose_images_lie_elsewhere_says_so(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,score\na.png,3\n")
    with pytest.raises(
        DatasetError, match=r"where the images lie elsewhere, name their folder .*evaluate --data FOLDER"
    ):
        csv_file(table)
    with pytest.raises(DatasetError, match=r"or remove the row$"):
        csv_file(table, images=tmp_path)


def test_a_table_for_a_folder_says_which_data_set_reads_it(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("path,score\na.png,3\n")
    with pytest.raises(DatasetError, match=r"is not a folder; .*or add --set dataset=csv to train on this table"):
        koniq10k(table)
