import importlib.util
import os
import subprocess
from pathlib import Path

import pytest
from helpers import ROOT

from passl.modeling.layers import functional


@pytest.fixture(params=["kernels", "paddle"])
def each_way(request, monkeypatch):
    """As a processor computes a step, and as everything else does: by Paddle's operations."""
    if request.param == "paddle":
        monkeypatch.setattr(functional, "runs_kernels", lambda *_: False)
    monkeypatch.setattr(functional, "_WORTH_IT", 0)
    with functional.single_backward():
        yield


@pytest.fixture(scope="session")
def reference():
    """Runs a script of tests/reference/ with the interpreter PASSL_REFERENCE_PYTHON names.

    It is another process, and another environment: torch and Paddle do not get on in one.
    """
    python = os.environ.get("PASSL_REFERENCE_PYTHON")
    if not python:
        pytest.skip(
            "compares with timm as it runs: bash scripts/test.sh --reference PYTHON, where PYTHON "
            "has what the extra `reference` in setup.py names"
        )

    def run(script, *arguments):
        done = subprocess.run(
            [python, str(ROOT / "tests" / "reference" / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=500,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        assert done.returncode == 0, f"{script}:\n{done.stdout}{done.stderr}"

    return run


@pytest.fixture(scope="session")
def photographs():
    """The twenty JPEG files of ImageNet's kind that the PyPI package foolbox carries.

    Of the package only the files are wanted, so its requirements are left out.
    """
    package = importlib.util.find_spec("foolbox")
    if package is None:
        pytest.skip("needs twenty photographs: pip install --no-deps foolbox==3.3.4")
    found = sorted(Path(package.submodule_search_locations[0], "data").glob("imagenet_*.jpg"))
    assert len(found) == 20
    return found
