"""The configuration with which JupyterLab opens the course: a notebook that is only opened stays as it is."""

from __future__ import annotations

import asyncio
import platform
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"
pytest.importorskip("jupyter_server", reason="needs JupyterLab; `make tutorials-lab` installs it")


@pytest.fixture
def contents(tmp_path):
    """The manager of files that the configuration names, in a folder with the start page."""
    shutil.copy(TUTORIALS / "start.ipynb", tmp_path)
    c = SimpleNamespace(ServerApp=SimpleNamespace(), ContentsManager=SimpleNamespace())
    exec((TUTORIALS / "jupyter_config.py").read_text("utf-8"), {"get_config": lambda: c})
    hidden = c.ContentsManager.hide_globs
    return c.ServerApp.contents_manager_class(root_dir=str(tmp_path), hide_globs=hidden)


def test_opening_and_saving_leaves_a_notebook_as_it_is(contents, tmp_path):
    before = (tmp_path / "start.ipynb").read_bytes()
    model = asyncio.run(contents.get("start.ipynb"))
    language = model["content"]["metadata"]["language_info"]
    assert language["version"] == platform.python_version()  # what JupyterLab would write
    asyncio.run(contents.save(model, "start.ipynb"))
    assert (tmp_path / "start.ipynb").read_bytes() == before
    model["content"]["cells"][0]["source"] += " more"
    asyncio.run(contents.save(model, "start.ipynb"))
    assert (tmp_path / "start.ipynb").read_bytes() != before


def test_notebooks_are_what_is_listed(contents, tmp_path):
    for path in TUTORIALS.iterdir():
        (tmp_path / path.name).touch()
    listed = {file["name"] for file in asyncio.run(contents.get(""))["content"]}
    assert {path.suffix for path in map(Path, listed)} <= {".ipynb", ""}
