"""A short part of `make torture`, and that it notices what goes wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of processes are Linux's")

VERDICTS = ("refused", "right", "wrong", "crashed", "over")
BEGIN = "from tests.torture.__main__ import main\n"
PLANTED = {  # name: (kind, cases, the mistake, where it must be counted)
    "checksums are not looked at": (
        "checkpoints",
        60,
        "import zipfile\nzipfile.ZipExtFile._update_crc = lambda self, data: None",
        "wrong",
    ),
    "an exception gets out": (
        "images",
        30,
        "from musiq_ref.image import decode\ndecode._damaged = lambda name, error: KeyError(name)",
        "crashed",
    ),
    "a process dies": (
        "recipes",
        20,
        "import os\nfrom musiq_ref.training import settings\nsettings.tomllib.loads = lambda text: os._exit(3)",
        "crashed",
    ),
    "a reader hangs": (
        "recipes",
        3,
        "from tests.torture import recipes\nrecipes.KIND = recipes.KIND._replace(seconds=0)\n"
        "from musiq_ref.training import settings\nsettings.tomllib.loads = lambda text: exec('while True: pass')",
        "over",
    ),
    "a row is passed over": (
        "tables",
        30,
        "from musiq_ref.training.datasets import loaders\nread = loaders.read_table\n"
        "loaders.read_table = lambda path: read(path)[1:] or read(path)",
        "wrong",
    ),
    "a file is written in its place": (
        "commands",
        5,
        "from tests.torture import commands\nfrom musiq_ref.cli import score\n"
        "score.write_output = lambda path, page: open(path, 'w').write(page)\n"
        "commands.COMMANDS = {name: text for name, text in commands.COMMANDS.items() if name == 'score-html'}",
        "wrong",
    ),
}


def run(tmp_path: Path, *arguments: str, before: str = "") -> dict[str, dict[str, int]]:
    """The table, as {kind: {heading: number}}; what failed is in the captured output."""
    command = f"{before}\n{BEGIN}raise SystemExit(main({[*arguments, '--keep', str(tmp_path / 'failed')]!r}))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", command], cwd=root, capture_output=True, text=True)
    print(done.stdout, done.stderr)
    rows = [line.split() for line in done.stdout.splitlines() if "".join(line.split()[1:]).isdigit()]
    found = {row[0]: dict(zip(("tried", *VERDICTS), map(int, row[1:]), strict=True)) for row in rows}
    failed = any(row["wrong"] + row["crashed"] + row["over"] for row in found.values())
    assert done.returncode == failed
    return found


def test_a_short_part_of_it(tmp_path):
    found = run(tmp_path, "--count", "400", "--seed", "1")
    for name, row in found.items():
        assert row["refused"] > 0, name
        assert row["tried"] == row["refused"] + row["right"], name


@pytest.mark.parametrize("name", PLANTED)
def test_what_goes_wrong_is_noticed(name, tmp_path):
    kind, count, mistake, verdict = PLANTED[name]
    found = run(tmp_path, "--kind", kind, "--count", str(count), before=mistake)[kind]
    assert found[verdict] > 0
    assert found["tried"] == sum(found.values()) - found["tried"]
    assert any((tmp_path / "failed").iterdir())
