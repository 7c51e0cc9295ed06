import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def bash(command, **options):
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, **options
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "scripts").glob("*.sh")))
def test_scripts_parse(script):
    assert bash(f"bash -n scripts/{script}") == (0, "", "")


def test_help_and_a_bad_seed():
    for script in ("quickstart", "test"):
        code, out, _ = bash(f"bash scripts/{script}.sh --help")
        assert code == 0 and "usage: bash scripts/" in out
    code, out, err = bash("bash scripts/quickstart.sh twelve")
    assert code == 2 and "'twelve'" in err and out == ""


@pytest.fixture
def bare_path(tmp_path):
    """A PATH with a few commands and no Python."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for command in ("bash", "cat", "cksum", "dirname", "basename", "sed"):
        (folder / command).symlink_to(shutil.which(command))
    return folder


def stand_in(folder, name, answer):
    script = folder / name
    script.write_text(f"#!/bin/sh\n{answer}\n")
    script.chmod(0o755)


def test_a_python_that_only_complains_is_passed_over(bare_path, tmp_path):
    env = {"PATH": str(bare_path), "HOME": str(tmp_path)}
    stand_in(bare_path, "python3", 'echo "pyenv: python3: command not found" >&2; exit 127')
    stand_in(bare_path, "python3.11", "exit 0")
    assert bash(". scripts/environment.sh; find_python", env=env) == (0, "python3.11\n", "")


def test_no_supported_python_is_said(bare_path, tmp_path):
    env = {"PATH": str(bare_path), "HOME": str(tmp_path)}
    stand_in(bare_path, "python3", "exit 1")
    command = f". scripts/environment.sh; make_environment {tmp_path}/venv cpu"
    code, _, err = bash(command, env=env)
    assert code == 2
    assert "no supported Python found: install Python 3.9 to 3.13" in err
    assert "PYTHON=/path/to/python" in err


def test_fetching_what_is_there_costs_nothing(tmp_path):
    assert (
        bash(f"bash scripts/fetch_groceries.sh {tmp_path}")[1] == f"{tmp_path}: is there already\n"
    )


@pytest.mark.parametrize(
    "result, restarts, code, again",
    [(0, 0, 0, False), (2, 0, 2, False), (143, 9, 0, True), (75, 2, 0, True), (75, 3, 75, False)],
)
def test_a_slurm_job_is_queued_again_as_long_as_that_may_help(
    bare_path, tmp_path, result, restarts, code, again
):
    """With stand-ins for Slurm's commands; there is no cluster here."""
    (bare_path / "cut").symlink_to(shutil.which("cut"))
    stand_in(bare_path, "hostname", 'echo "10.0.0.1 172.17.0.1 "')
    stand_in(bare_path, "srun", f'echo "srun $*"; exit {result}')
    stand_in(bare_path, "scontrol", 'echo "$*"')
    env = {
        "PATH": str(bare_path), "SLURM_JOB_ID": "20007",
        "SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_RESTART_COUNT": str(restarts),
    }  # fmt: skip
    found, out, _ = bash("bash scripts/train_slurm.sh -c mlp-mixer_b16_224", env=env)
    assert found == code
    assert "train_dist.sh --nnodes 2 --master 10.0.0.1:20007" in out.splitlines()[0]
    assert out.splitlines()[0].endswith("-c mlp-mixer_b16_224")
    assert ("requeue 20007" in out) == again


def test_a_slurm_job_outside_of_slurm_says_how():
    code, _, err = bash("env -u SLURM_JOB_ID bash scripts/train_slurm.sh")
    assert code == 2 and "sbatch scripts/train_slurm.sh" in err
