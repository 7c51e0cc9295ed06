"""What is set before Paddle is imported, and what is said where that is too late."""

import re
import sys
import warnings

import pytest
from helpers import ROOT

import passl.cli
from passl.utils import environment


@pytest.fixture
def late(monkeypatch):
    """Prepares the environment after Paddle's import; returns what was warned of."""
    monkeypatch.setattr(environment, "_applied", [])
    monkeypatch.delenv("PADDLE_TRAINER_ID", raising=False)

    def prepare(cores, vendor, **variables):
        monkeypatch.setattr(environment, "available_cores", lambda: cores)
        monkeypatch.setattr(environment, "_processor_vendor", lambda: vendor)
        for name in ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        before = dict(environment.os.environ)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            environment.prepare_environment()
        assert dict(environment.os.environ) == before
        return "\n".join(str(warning.message) for warning in caught)

    return prepare


def test_paddle_before_passl_is_warned_of(late):
    said = late(8, "AuthenticAMD", OMP_NUM_THREADS="1")
    assert "1 thread on 8 cores" in said and "MKL" in said and "import passl first" in said
    said = late(8, "GenuineIntel", OMP_NUM_THREADS="1")
    assert "1 thread on 8 cores" in said and "MKL" not in said
    said = late(1, "AuthenticAMD", OMP_NUM_THREADS="1")
    assert "thread" not in said and "MKL" in said


def test_nothing_is_said_where_nothing_is_lost(late, monkeypatch):
    assert late(8, "AuthenticAMD", OMP_NUM_THREADS="8", MKL_DEBUG_CPU_TYPE="5") == ""
    assert late(8, "GenuineIntel", OMP_NUM_THREADS="4") == ""
    assert late(1, "GenuineIntel", OMP_NUM_THREADS="1") == ""
    # The launcher gives its processes one thread each.
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    assert late(8, "GenuineIntel", OMP_NUM_THREADS="1") == ""
    monkeypatch.setattr(sys.modules["paddle"], "is_compiled_with_cuda", lambda: True)
    assert late(8, "AuthenticAMD", OMP_NUM_THREADS="1") == ""


def test_a_command_says_what_is_not_installed(monkeypatch, tmp_path):
    assert passl.cli.what_is_missing() == ""
    monkeypatch.setattr(passl.cli, "CHECKOUT", tmp_path)
    monkeypatch.setattr(passl.cli, "REQUIRED", ("numpy", "no_such_module"))
    assert passl.cli.what_is_missing() == "", "pip has installed what a wheel requires"
    with monkeypatch.context() as patch:
        patch.setattr(passl.cli, "import_paddle", lambda: False)
        assert "pip install paddlepaddle " in passl.cli.what_is_missing()
    (tmp_path / "setup.py").touch()
    said = passl.cli.what_is_missing()
    assert said.startswith("no_such_module: ") and f'pip install -e "{tmp_path}"' in said
    with monkeypatch.context() as patch:
        patch.setattr(passl.cli, "import_paddle", lambda: False)
        said = passl.cli.what_is_missing()
        assert said.startswith("PaddlePaddle: ") and f'pip install -e "{tmp_path}[cpu]"' in said
    # The quickstart has made an environment, and the shell has another Python.
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").touch()
    assert passl.cli.what_is_missing().endswith(f"run  . {tmp_path}/.venv/bin/activate")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert f'pip install -e "{tmp_path}"' in passl.cli.what_is_missing()


def test_what_a_command_needs_is_what_is_required():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    names = [re.match(r"[\w.-]+", line).group() for line in lines if not line.startswith("#")]
    modules = {"fonttools": "fontTools", "pillow": "PIL", "pyyaml": "yaml"}
    assert {modules.get(name, name) for name in names} == {"paddlepaddle", *passl.cli.REQUIRED}
