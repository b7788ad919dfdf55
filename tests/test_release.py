"""A release: the files that are built, what they say of themselves, and the workflows that publish them."""

from __future__ import annotations

import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import musiq_ref as mq

yaml = pytest.importorskip("yaml")
ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (ROOT / ".github").exists(), reason="a source distribution has no workflows")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ADDRESS = PROJECT["project"]["urls"]["Source"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the wheel and the sdist."""
    pytest.importorskip("hatch_fancy_pypi_readme", reason="needs hatch-fancy-pypi-readme, which the extra test brings")
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", folder], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return folder


@pytest.fixture(scope="module")
def wheel(built):
    [path] = built.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel):
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_string(wheel.read(name).decode())


def test_the_wheel_holds_both_packages_and_all_that_lies_in_them(wheel):
    packages = [ROOT / "musiq_ref", ROOT / "backends" / "musiq_ref_cupy"]
    here = {
        file.relative_to(package.parent).as_posix()
        for package in packages
        for file in package.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == here
    assert {"musiq_ref/data/demo.safetensors", "musiq_ref/data/photographs/cat.png"} <= here
    assert {"musiq_ref/training/recipes/koniq.toml", "musiq_ref_cupy/__init__.py"} <= here
    licences = {name.rpartition("/")[2] for name in wheel.namelist() if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_the_sdist_has_what_builders_and_testers_need_and_nothing_of_the_automation(built):
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    hidden = {name for name in names if re.search(r"(^|/)(\.|__pycache__)", name)}
    assert hidden == {".gitignore"}  # hatchling needs it, to build the wheel from the sdist
    assert {"musiq_ref/ops/linear.py", "tests/test_ops.py", "docs/spec.md", "tutorials/05_attention.ipynb"} <= names
    assert {"pyproject.toml", "Makefile", "constraints.txt", "README.md", "CHANGELOG.md", "CITATION.cff"} <= names


def test_the_version_is_said_once(metadata):
    assert metadata["Version"] == mq.__version__
    assert "version" not in PROJECT["project"]
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    release = mq.__version__.partition(".dev")[0]
    assert re.search(rf"^## {re.escape(release)} ", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)


def test_links_and_pictures_of_the_long_description_are_absolute_and_lead_somewhere(metadata):
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    targets = re.findall(r"\]\(([^)]*)\)", text)
    assert len(targets) > 30
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    pictures = set(re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text))
    for target in filter(lambda target: target.startswith(ADDRESS), targets):
        kind, version, path = target.removeprefix(ADDRESS + "/").split("/", 2)
        assert (kind, version) == ("raw" if target in pictures else "blob", "v" + mq.__version__)
        assert (ROOT / path.partition("#")[0]).exists(), path
    assert re.search(r"(src|href)=", text) is None  # HTML is not rewritten


def test_the_address_of_the_repository_stands_in_pyproject_alone():
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    made = [*PROJECT["project"]["urls"].values(), *(row["replacement"][2:] for row in hook["substitutions"])]
    assert [address for address in made if not address.startswith(ADDRESS)] == []
    assert (ROOT / "pyproject.toml").read_text("utf-8").count(ADDRESS) == len(made)
    texts = [path for pattern in ("*.md", "*.cff", "docs/*.md", ".github/**/*.*") for path in ROOT.glob(pattern)]
    assert len(texts) > 20
    assert [path for path in texts if ADDRESS in path.read_text("utf-8")] == []


def test_every_supported_python_is_declared_and_tested(metadata):
    declared = [row.rpartition(" ")[2] for row in metadata.get_all("Classifier") if re.search(r":: 3\.\d+$", row)]
    assert declared == PYTHONS
    jobs = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text("utf-8"))["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == PYTHONS


def requirements(path):
    lines = (line.partition(" #")[0] for line in path.read_text("utf-8").splitlines())
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_the_constraints_name_one_version_of_each_package(python, system):
    environment = {"python_version": python, "python_full_version": python + ".9", "sys_platform": system}
    here = [row for row in requirements(ROOT / "constraints.txt") if not row.marker or row.marker.evaluate(environment)]
    names = [row.name.lower() for row in here]
    assert sorted(names) == sorted(set(names))
    assert all(re.fullmatch(r"==[^,*]+", str(row.specifier)) for row in here)


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_the_constraints_are_within_what_the_project_asks_for(file):
    extras = PROJECT["project"]["optional-dependencies"].values()
    asked = [Requirement(row) for rows in (PROJECT["project"]["dependencies"], *extras) for row in rows]
    for row in requirements(ROOT / file):
        for wanted in (wanted for wanted in asked if wanted.name == row.name):
            assert wanted.specifier.contains(str(row.specifier).removeprefix("==")), f"{row} against {wanted}"


@each_workflow
def test_actions_are_pinned_and_hold_no_credentials(path):
    text = path.read_text("utf-8")
    used = re.findall(r"uses: (.*)", text)
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+(\.\d+)*", line)] == []
    everywhere = {line for other in WORKFLOWS for line in re.findall(r"uses: (.*)", other.read_text("utf-8"))}
    assert len(everywhere) == len({line.partition("@")[0] for line in everywhere}), "one version of each action"
    for job in yaml.safe_load(text)["jobs"].values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


@each_workflow
def test_what_workflows_make_exists(path):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert set(re.findall(r"run: make (.*)", path.read_text("utf-8"))) <= set(targets)


@each_workflow
def test_workflows_have_the_least_permissions_and_limits(path):
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {}
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 60, name
        writes = {key for key, right in job["permissions"].items() if right == "write"}
        allowed = {"publish": {"id-token", "pages"}, "announce": {"contents"}}.get(name, set())
        assert writes <= allowed, name


def test_what_is_published_was_built_once_and_tested():
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text("utf-8"))["jobs"]
    assert [(name, job.get("needs")) for name, job in jobs.items()] == [
        ("build", None),
        ("test", "build"),
        ("publish", "test"),
        ("announce", "publish"),
    ]
    steps = {name: " ".join(str(step) for step in job["steps"]) for name, job in jobs.items()}
    assert [name for name in steps if "-m build" in steps[name]] == ["build"]
    assert "twine check --strict" in steps["build"]
    assert "password" not in steps["publish"]  # trusted publishing


def test_pre_commit_runs_the_ruff_of_make_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"][0]["hooks"]
    pinned = {row for hook in hooks for row in hook["additional_dependencies"]}
    assert all("==" in row for row in pinned)
    [ruff] = [row for row in pinned if row.startswith("ruff==")]
    assert any(ruff in extra for extra in PROJECT["project"]["optional-dependencies"].values())


def test_the_citation_is_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "title", "message", "authors"} <= citation.keys()
    paper, bibtex = citation["preferred-citation"], (ROOT / "README.md").read_text("utf-8").partition("```bibtex")[2]
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert re.search(r"author += {(.*)}", bibtex)[1].split(" and ") == names
    assert re.search(r"title += {(.*)}", bibtex)[1].translate(str.maketrans("", "", "{}")) == paper["title"]
    assert f"year      = {{{paper['year']}}}" in bibtex


def test_issue_forms_ask_for_something():
    forms = [path for path in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml") if path.stem != "config"]
    assert {path.stem for path in forms} == {"bug", "port", "course"}
    for path in forms:
        form = yaml.safe_load(path.read_text("utf-8"))
        ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert form["name"]
        assert form["description"]
        assert len(ids) == len(set(ids)) >= 2
        assert any(field.get("validations", {}).get("required") for field in form["body"])
