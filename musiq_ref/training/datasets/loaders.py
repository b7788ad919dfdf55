"""One loader for every data set that MUSIQ was trained on, and one for any CSV file.

Each is given the data set's folder. Entries whose image is missing or empty become problems of the Dataset; a folder
without the expected files, a missing column or a label outside its range raises DatasetError, which names file and row.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from musiq_ref.training.datasets.assemble import assemble, image_folder, shares
from musiq_ref.training.datasets.dataset import Dataset, DatasetError
from musiq_ref.training.datasets.tables import LabelRow, find, plain, read_table, read_text, require

Folder = str | os.PathLike[str]
IMAGE_COLUMNS = ("path", "image", "image_name", "img_name", "img_path", "name", "file", "filename")  # of any CSV file
IS_VALID = {"true": "validation", "1": "validation", "1.0": "validation"}  # in PaQ-2-PiQ
IS_VALID |= {"false": "training", "0": "training", "0.0": "training"}
PYIQA_PARTS = {"0": "train", "1": "validation", "2": "test"}  # in the column `split` of its meta_info tables


def koniq10k(folder: Folder) -> Dataset:
    """KonIQ-10k (Hosu et al. 2020): 10,073 photographs, one score from 0 to 100.

    Labels: koniq10k_distributions_sets.csv of the authors' repository (image_name, c1 … c5, c_total, MOS, SD, set),
    whose MOS is on the scale to 100 and whose `set` (training, validation, test) is the published split; or else
    koniq10k_scores_and_distributions.csv of their site (image_name, c1 … c5, c_total, MOS, SD, MOS_zscore), where the
    scale to 100 is MOS_zscore.  Images: the folder 1024x768, or else 512x384.

    >>> koniq10k("nowhere")
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: nowhere does not exist; pass the folder of the KonIQ-10k data set
    """
    names = ("koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv")
    rows = read_table(find(Path(folder), names, "KonIQ-10k"))
    score = "MOS" if rows[0].path.name == names[0] else "MOS_zscore"
    require(rows, ["image_name", score])
    images = image_folder(Path(folder), ["1024x768", "512x384"], "KonIQ-10k")
    return _scored("KonIQ-10k", rows, images, "image_name", score)


def spaq(folder: Folder) -> Dataset:
    """SPAQ (Fang et al. 2020): 11,125 photographs of smartphones, one score from 0 to 100; no published split.

    Labels: "MOS and Image attribute scores.xlsx" in the folder Annotations (Image name, MOS, Brightness, Colorfulness,
    …), or its export to CSV.  Images: the folder TestImage.  MUSIQ sees them with the shorter side reduced to 512.

    >>> spaq("nowhere")
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: nowhere does not exist; pass the folder of the SPAQ data set
    """
    names = ("MOS and Image attribute scores.xlsx", "MOS and Image attribute scores.csv")
    rows = read_table(find(Path(folder), names, "SPAQ"))
    require(rows, ["Image name", "MOS"])
    return _scored("SPAQ", rows, image_folder(Path(folder), ["TestImage"], "SPAQ"), "Image name", "MOS")


def paq2piq(folder: Folder) -> Dataset:
    """PaQ-2-PiQ, also called FLIVE (Ying et al. 2020): about 40,000 pictures, one score from 0 to 100.

    The patches that the authors cut from them are left out.

    Labels: labels_image.csv (name, mos), or "labels<=640_padded.csv" (name_image, mos_image, is_valid), where is_valid
    marks the published validation part.  Images: below the folder database or FLIVE, or beside the labels, as `name`
    says (voc_emotic_ava/AVA__149.jpg).

    >>> paq2piq("nowhere")
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: nowhere does not exist; pass the folder of the PaQ-2-PiQ data set
    """
    rows = read_table(find(Path(folder), ("labels_image.csv", "labels<=640_padded.csv"), "PaQ-2-PiQ"))
    name, score = ("name_image", "mos_image") if "name_image" in rows[0].cells else ("name", "mos")
    require(rows, [name, score])
    if "is_valid" in rows[0].cells:
        for row in rows:
            row.cells["set"] = IS_VALID.get(row.text("is_valid").lower(), row.text("is_valid"))
    images = image_folder(Path(folder), ["database", "FLIVE", "."], "PaQ-2-PiQ")
    return _scored("PaQ-2-PiQ", rows, images, name, score)


def ava(folder: Folder) -> Dataset:
    """AVA (Murray et al. 2012): about 255,000 photographs, each with its votes from 1 to 10.

    Labels: AVA.txt, in every line index, image ID, the counts of the votes 1 … 10, two tags and a challenge.  Images:
    images/ID.jpg.  The published test part is aesthetics_image_lists/generic_test.jpgl, one ID a line, if it is there;
    all others are for training.

    >>> ava("nowhere")
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: nowhere does not exist; pass the folder of the AVA data set
    """
    path = find(Path(folder), ["AVA.txt"], "AVA")
    listed = path.parent / "aesthetics_image_lists" / "generic_test.jpgl"
    test = set(read_text(listed).split()) if listed.is_file() else set()
    counts = [str(vote) for vote in range(1, 11)]
    lines = enumerate(re.split("\r\n|[\r\n]", read_text(path)), start=1)
    rows = []
    for number, fields in ((number, re.split("[ \t]+", line.strip(" \t"))) for number, line in lines if line.strip()):
        if len(fields) != 15:
            raise DatasetError(
                f"{path}, row {number}: {len(fields)} fields; an index, an ID, 10 counts and 3 tags are needed"
            )
        cells = {"image": f"{fields[1]}.jpg", **dict(zip(counts, fields[2:12], strict=True))}
        rows.append(
            LabelRow(path, number, cells | {"set": "test" if fields[1] in test else "train"} if test else cells)
        )
    if not rows:
        raise DatasetError(f"{path} has no rows; get a fresh copy")
    if test and all(row.cells["set"] == "train" for row in rows):
        raise DatasetError(f"{listed} lists no image of {path.name}; get a fresh copy, or remove it")
    images = image_folder(Path(folder), ["images", "image"], "AVA")
    targets = [shares(row, counts) for row in rows]
    return assemble("AVA", rows, targets, images, "image", (1.0, 10.0))


def csv_file(
    path: Folder,
    target: str | None = None,
    score_range: tuple[float, float] | None = None,
    images: Folder | None = None,
) -> Dataset:
    """Any table of images with scores or votes, .csv or .xlsx, such as the meta_info tables of pyiqa.

    Columns: the image (path, image, image_name, img_name, img_path, name, file or filename); the score (score or mos)
    or the votes (p1 … pC or c1 … cC, shares or counts); optionally set (training, validation, test) and group. Beside
    img_name or img_path, official_split or split (0, 1, 2) do for set.

    path: of the table
    target: "score" or "votes", needed only if both are there and the votes are wanted
    score_range: what scores may be; by default the least and the greatest that occur
    images: the folder that the images' paths are relative to; by default the table's

    Raises DatasetError for labels out of range.

    >>> csv_file("nowhere.csv")
    Traceback (most recent call last):
    musiq_ref.training.datasets.dataset.DatasetError: nowhere.csv does not exist; check the path
    """
    path = Path(path)
    folder = path.parent if images is None else Path(images)
    elsewhere = "; where the images lie elsewhere, name their folder (images=, musiq-ref evaluate --data FOLDER)"
    remedy = elsewhere if images is None else ""
    if target not in (None, "score", "votes"):
        raise ValueError(f"target is {target!r}; use score or votes")
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "is no file" if path.exists() else "does not exist"
        raise DatasetError(f"{path} {problem}; check the path")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder; pass the one that the images of {path} lie in")
    rows = [row._replace(cells={plain(name): text for name, text in row.cells.items()}) for row in read_table(path)]
    columns = rows[0].cells
    image = next((name for name in IMAGE_COLUMNS if name in columns), IMAGE_COLUMNS[0])
    score = "mos" if "mos" in columns and "score" not in columns else "score"
    letter = "p" if "p1" in columns else "c"
    count = sum(re.fullmatch(letter + r"\d*", name) is not None for name in columns)
    votes = [f"{letter}{vote}" for vote in range(1, count + 1)]
    require(rows, [image])
    if image.startswith("img_"):
        _take_pyiqas_split(rows)
    if target == "votes" or (target is None and score not in columns and votes):
        require(rows, votes or ["p1"])
        targets = [shares(row, votes) for row in rows]
        return assemble(path.stem, rows, targets, folder, image, (1.0, float(len(votes))), remedy)
    require(rows, [score])
    if {"mos", "score"} <= columns.keys():
        raise DatasetError(f"{path} has columns called score and mos; rename the one that is not meant")
    low, high = score_range or (-1e9, 1e9)
    scores = [row.value(score, low, high) for row in rows]
    targets = [(value,) for value in scores]
    return assemble(path.stem, rows, targets, folder, image, score_range or (min(scores), max(scores)), remedy)


def _take_pyiqas_split(rows: list[LabelRow]) -> None:
    column = next((name for name in ("set", "official_split", "split") if name in rows[0].cells), "set")
    for row in rows if column != "set" else ():
        part = row.text(column)
        row.cells["set"] = PYIQA_PARTS.get(part, part)


def open_dataset(name: str, folder: Folder | None = None) -> Dataset:
    """The data set of that name, or the one that a table lists (`csv_file`).

    name: "koniq", "spaq", "ava", "paq2piq", or the path of a .csv or .xlsx file; "csv" where `folder` is this path
    folder: of the data set; of a table's images, where they are not beside it

    Raises DatasetError.

    >>> open_dataset("koniq")
    Traceback (most recent call last):
    musiq_ref...DatasetError: where is the data set koniq? pass its folder (--data on the command line)
    """
    if Path(name).suffix.lower() in (".csv", ".xlsx"):
        return csv_file(name, images=folder)
    if name not in LOADERS:
        raise DatasetError(
            f"there is no data set {name!r}; choose koniq, spaq, ava, paq2piq, synthetic, or a .csv file"
        )
    if folder is None:
        remedy = "its table (--data FILE.csv" if LOADERS[name] is csv_file else "its folder (--data"
        raise DatasetError(f"where is the data set {name}? pass {remedy} on the command line)")
    return LOADERS[name](folder)


def _scored(name: str, rows: list[LabelRow], images: Path, image: str, score: str) -> Dataset:
    """A data set with one score from 0 to 100."""
    targets = [(row.value(score, 0, 100),) for row in rows]
    return assemble(name, rows, targets, images, image, (0.0, 100.0))


LOADERS: dict[str, Callable[[Folder], Dataset]] = {f.__name__: f for f in (koniq10k, spaq, ava, paq2piq)}
LOADERS |= {"koniq": koniq10k, "csv": csv_file, "imagenet": csv_file}
"""{name of a data set: its loader}"""
