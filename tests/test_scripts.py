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


@pytest.fixture
def train_dist(bare_path, tmp_path):
    """Runs scripts/train_dist.sh with a stand-in for Python; returns what it was called with.

    The n-th start of the launcher says and does the n-th of ``starts``; there are no GPUs but 0, 1.
    """
    for command in ("head", "mkdir", "mkfifo", "mktemp", "rm", "tee"):
        (bare_path / command).symlink_to(shutil.which(command))
    stand_in(bare_path, "sleep", f'[ "$1" = 3 ] || {shutil.which("sleep")} "$1"')
    stand_in(
        bare_path,
        "python",
        """
case "$*" in
*this_host.py*) echo "10.0.0.1:6170 10.0.0.2 eth0"; exit 0 ;;
*parse_device*) echo " 0 1 "; exit 0 ;;
esac
echo "$*" >>"$CALLS"
eval "$(sed -n "$(sed -n '$=' "$CALLS")p" "$STARTS")"
""",
    )

    def run(arguments, starts=("exit 0",)):
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        (tmp_path / "starts").write_text("\n".join(starts) + "\n")
        env = {"PATH": str(bare_path), "CALLS": str(calls), "STARTS": str(tmp_path / "starts")}
        logs = f"--log-dir {tmp_path}/logs"
        command = f"bash scripts/train_dist.sh {logs if '--log-dir' not in arguments else ''} "
        code, out, err = bash(command + arguments, env=env)
        words = calls.read_text().splitlines() if calls.exists() else []
        logs = logs.replace("-dir", "_dir")
        words = [call.replace("-m paddle.distributed.launch", "LAUNCH") for call in words]
        words = [call.replace(f"{logs} ", "").replace(f"{ROOT}/tools/", "") for call in words]
        return code, words, out + err

    return run


@pytest.mark.parametrize(
    "given, passed",
    [
        ("-c x", "LAUNCH train.py -c x --resume auto"),
        ("-c x --resume=old/7", "LAUNCH train.py -c x --resume old/7"),
        ("--pretrained=a=b.npz -c x", "LAUNCH train.py -c x --pretrained a=b.npz --resume auto"),
        ("-c x --pretrained f -o a=1", "LAUNCH train.py -c x -o a=1 --pretrained f --resume auto"),
        ("-c x --dry-run", "train.py -c x --dry-run"),
        ("-c x --dry-run --pretrained f", "train.py -c x --pretrained f --dry-run"),
        # What it does not allow is train's to say.
        ("-c x --dry-run --resume y", "train.py -c x --dry-run --resume y"),
        ("--gpus=0,1 -c x", "LAUNCH --gpus 0,1 train.py -c x --device gpu --resume auto"),
        ("--processes=2 -c x",
         "LAUNCH --nproc_per_node 2 train.py -c x --device cpu --resume auto"),
        ("--nnodes=2 --master=h:6170 -c x",
         "LAUNCH --nnodes 2 --master 10.0.0.1:6170 --host 10.0.0.2 train.py -c x --resume auto"),
    ],
)  # fmt: skip
def test_options_are_told_apart(train_dist, given, passed):
    assert train_dist(given)[:2] == (0, [passed])


@pytest.mark.parametrize(
    "given, said",
    [
        ("", "which config"),
        ("-c x --gpus", "--gpus needs a value"),
        ("-c x --pretrained=", "--pretrained is empty"),
        ("-c x --nnodes 2", "--nnodes 2 needs --master HOST:PORT"),
        ("-c x --nnodes two", "not 'two'"),
        ("-c x --gpus 0 --processes 2", "exclude each other"),
        ("-c x --gpus 0-3", "not '0-3'"),
        ("-c x --gpus 0,2", "there is no GPU 2 here, only 0 1"),
        ("-c x --processes 0", "not '0'"),
        ("-c x --restarts=-1", "not '-1'"),
        ("-c x --log-dir setup.py/logs", "--log-dir setup.py/logs: "),
        ("-c x --log-dir=/proc/logs", "--log-dir /proc/logs: "),
    ],
)
def test_a_mistake_is_one_line_before_anything_starts(train_dist, given, said):
    code, calls, output = train_dist(given)
    assert (code, calls) == (2, [])
    assert output.startswith("error: ") and said in output and output.count("\n") == 1


def failed(rank, code):
    return f"echo 'Container rank {rank} status failed cmd [x] code {code} log l/{rank}'; "


def test_after_a_crash_it_goes_on_from_its_own_checkpoint(train_dist):
    starts = [failed(1, -9) + "exit 75", failed(0, 1) + "exit 1", "exit 0"]
    code, calls, output = train_dist("-c x --resume old --restarts 2 --pretrained f", starts)
    begun, again = "--pretrained f --resume old", "--pretrained f --resume auto"
    assert code == 0
    assert calls == [f"LAUNCH train.py -c x {how}" for how in (begun, again, again)]
    assert "restart 1 of 2: process 1 of this host ended with -9 (l/1)" in output
    assert "restart 2 of 2: process 0 of this host ended with 1 (l/0)" in output
    code, calls, output = train_dist("-c x --restarts 1", starts)
    assert (code, len(calls)) == (1, 2) and "error: the run failed with 1: process 0" in output


@pytest.mark.parametrize(
    "start, result",
    [
        ("exit 2", 2),
        # The launcher has ended process 0, whose code is its own, because process 1 had failed.
        (failed(1, 2) + "exit 241", 2),
        ("exit 143", 143),
        ("exit 130", 130),
    ],
)
def test_a_mistake_or_a_stop_is_not_tried_again(train_dist, start, result):
    code, calls, _ = train_dist("-c x --restarts 3", [start])
    assert (code, len(calls)) == (result, 1)


@pytest.mark.parametrize("master", ["host", "host:", ":6170", "host:0", "host:65536", "host:six"])
def test_a_master_is_an_address_and_a_port(master, monkeypatch, capsys):
    import this_host

    with pytest.raises(SystemExit) as ended:
        this_host.main(master)
    assert ended.value.code == 2 and f"'{master}' is not HOST:PORT" in capsys.readouterr().out


def test_a_slurm_job_outside_of_slurm_says_how():
    code, _, err = bash("env -u SLURM_JOB_ID bash scripts/train_slurm.sh")
    assert code == 2 and "sbatch scripts/train_slurm.sh" in err


def told(folder, **records):
    """The table of results that are written as the script writes them."""
    import json

    import self_supervised_cifar10

    (folder / "raw pixels.json").write_text(json.dumps({"k20": 40.0, "k200": 36.0}))
    for name, before in records.items():
        record = {
            "before": {"k20": before, "k200": before + 1},
            "after": {"k20": before + 2, "k200": before + 3},
            "last": {"loss": 4.5},
        }
        if "lightly" not in name:
            record["first"], record["last"]["spread"] = {"loss": 5.0}, 0.25
        (folder / f"{name}.json").write_text(json.dumps(record))
    rows = self_supervised_cifar10.tell(folder).splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.smoke
def test_every_self_supervised_run_stands_in_the_table_once(tmp_path):
    rows = told(
        tmp_path,
        **{
            "MoCo v2, m = 0, seed 0": 10.0,
            "SimCLR, shuffled partners, seed 0": 20.0,
            "SimCLR, lightly, seed 0": 30.0,
            "SimCLR, seed 1": 52.0,
            "SimCLR, seed 0": 50.0,
        },
    )
    assert [row[0] for row in rows] == [
        "raw pixels", "SimCLR, seed 0", "SimCLR, seed 1", "**SimCLR, mean of 2**",
        "SimCLR, lightly, seed 0", "SimCLR, shuffled partners, seed 0", "MoCo v2, m = 0, seed 0",
    ]  # fmt: skip
    # √(0.5 · 0.5 / 10,000) = 0.5 %; two runs that differ by 2 have a standard error of 1.
    assert rows[1][1:] == [
        "50.00 ± 0.50", "52.00 ± 0.50", "51.00 ± 0.50", "53.00 ± 0.50", "0.25", "", "5.000 → 4.500"
    ]  # fmt: skip
    assert rows[3][1:5] == ["51.00 ± 1.00", "53.00 ± 1.00", "52.00 ± 1.00", "54.00 ± 1.00"]
    assert rows[4][5:] == ["", "", "4.500"]


def test_neighbours_are_weighed_by_their_similarity():
    """Worked out by hand: one near neighbour against many a little farther off."""
    import numpy as np
    import self_supervised_cifar10

    # Cosines with (1, 0): 1 for the class 3, 0.8 for the 19 of class 5, 0 for the rest.
    bank = np.array([[2.0, 0.0]] + [[4.0, 3.0]] * 19 + [[0.0, 1.0]] * 280)
    classes = np.array([3] + [5] * 19 + [7] * 280)
    queries, labels = np.array([[1.0, 0.0], [0.0, 5.0]]), np.array([5, 7])
    found = self_supervised_cifar10.neighbours((bank, classes), (queries, labels))
    # k 20, T 0.07: e^(1/.07) against 19·e^(.8/.07), 17.4 times 1 against 19: class 5.
    # k 200, T 0.1: e^10 against 19·e^8, 7.4 against 19, and 180 of 1: class 5 as well.
    assert found == {"k20": 100.0, "k200": 100.0}
    bank[1:20] = [4.0, 3.3]  # cosine 0.7714: e^(1/.07) is 26.2 times e^(.7714/.07)
    found = self_supervised_cifar10.neighbours((bank, classes), (queries, labels))
    assert found == {"k20": 50.0, "k200": 100.0}
