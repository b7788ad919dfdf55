"""For every test: one thread each, and what is left out where a package is missing or time is short.

A test that needs a framework takes it as a fixture (`torch`, `jax`, `onnxruntime`, `cupy`, `mpi4py`, `pandas`,
`distributed`), and one that takes long and looks where others have looked is marked `long`. `make test` leaves both
out; `make test-all` does not. Plain `pytest` runs what it can and skips the rest with the reason.
"""

from __future__ import annotations

import os
import signal
from importlib.util import find_spec

import pytest

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before anything imports NumPy: several tests run at a time
os.environ.pop("PYTHONUNBUFFERED", None)  # commands are tested as most people run them

FRAMEWORKS = {
    "torch": "PyTorch",
    "jax": "JAX",
    "onnxruntime": "ONNX",
    "cupy": "CuPy",
    "mpi4py": "MPI",
    "pandas": "pandas",
    "nvidia": "NVRTC",
    "distributed": "Dask",
}
FILES = {  # that cannot be imported, or have no example that runs, without a package
    "torch": [
        "musiq_ref/verify/torch_*.py",
        "tests/*ports.py",
        "tests/[jp]*_port.py",
        "tests/test_torch_port.py",
        "tests/test_diagnosis.py",
    ],
    "matplotlib": ["tests/test_figures.py", "musiq_ref/explain/[!_r]*.py", "musiq_ref/explain/report.py"],
    "nbclient": ["tests/test_tutorials.py", "tests/test_grade.py", "tests/test_slides.py", "tests/test_site_width.py"],
    "resource": ["tests/torture/*.py", "tests/test_torture.py", "tests/test_grade.py"],  # which Windows does not have
}
FILES |= {"mlx": ["tests/mlx_port.py"], "flax": ["tests/flax_port.py"]}
collect_ignore_glob = [pattern for package in FILES if not find_spec(package) for pattern in FILES[package]]


def _framework(package: str):
    return pytest.fixture(lambda: __import__(package), scope="session", name=package)


torch, jax, onnxruntime, cupy, mpi4py, pandas, nvidia, distributed = map(_framework, FRAMEWORKS)


def frameworks_of(item: pytest.Item) -> set[str]:
    """The frameworks that a test needs: by its file, its fixtures, or @pytest.mark.frameworks("torch")."""
    found = {"torch"} if any(item.path.match(pattern) for pattern in FILES["torch"]) else set()
    for mark in item.iter_markers("frameworks"):
        found |= set(mark.args)
    return found | set(getattr(item, "fixturenames", ())) & set(FRAMEWORKS)


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_configure():
    """Children get Ctrl-C even where the tests were started in a shell's background, which ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if frameworks_of(item):
            item.add_marker("frameworks")


def pytest_runtest_setup(item):
    for name in sorted(frameworks_of(item)):
        if not find_spec(name):
            pytest.skip(f"needs {FRAMEWORKS[name]}; `make test-all` installs it")


LEFT_OUT: dict[str, int] = {}


def pytest_deselected(items):
    for item in items:
        reasons = [FRAMEWORKS[name] for name in frameworks_of(item)]
        if not reasons and item.get_closest_marker("long"):
            reasons = ["what takes long"]
        for reason in reasons:
            LEFT_OUT[reason] = LEFT_OUT.get(reason, 0) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Every process of pytest-xdist leaves out the same."""
    LEFT_OUT.update(getattr(node, "workeroutput", {}).get("left_out", {}))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session):
    """Last of all, a line about what was left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = LEFT_OUT
    yield
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if not terminal or session.config.option.keyword or session.config.args_source.name != "TESTPATHS":
        return  # it was asked for something in particular
    left_out = [f"{what} ({count} tests)" for what, count in sorted(LEFT_OUT.items())]
    left_out += [f"{' '.join(FILES[package])} ({package} is missing)" for package in FILES if not find_spec(package)]
    if left_out:
        terminal.write_line(f"Left out: {', '.join(left_out)}. `make test-all` runs everything.")
