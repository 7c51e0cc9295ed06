"""The command lines as real processes: train, evaluate, be killed, resume to the last bit."""

import json
import os
import random
import re
import resource
import shutil
import signal
import time

import numpy as np
import pytest
from helpers import ROOT, children_of, records, run_here, run_tool, start_tool

from passl.cli import train as train_command
from passl.weights import WeightFile

EPOCHS = 12
STEPS = 7 * EPOCHS


@pytest.fixture(scope="session")
def whole_run(photos, tmp_path_factory):
    """An uninterrupted run: (config path, folder)."""
    import yaml
    from helpers import small_config

    base = tmp_path_factory.mktemp("whole")
    path = base / "small.yaml"
    path.write_text(yaml.safe_dump(small_config(photos, epochs=EPOCHS)))
    code, out, err = run_tool("train", "-c", path, "--output-dir", base / "run")
    assert code == 0, err
    assert "Top-1" in out and "images/s" in out
    return path, base / "run"


class EndedEarly(Exception):
    pass


def wait_for_steps(process, folder, steps):
    metrics = folder / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= steps:
            return
        if process.poll() is not None:
            raise EndedEarly(process.communicate())
        time.sleep(0.002)
    process.kill()
    raise AssertionError(process.communicate())


def same_run(one, other):
    assert records(one) == records(other)
    latest = [WeightFile(folder / "checkpoints" / "latest.safetensors") for folder in (one, other)]
    for group in ("model", "optimizer"):
        arrays = [file.read_group(group) for file in latest]
        assert arrays[0] and arrays[0].keys() == arrays[1].keys()
        for name, array in arrays[0].items():
            np.testing.assert_array_equal(array, arrays[1][name], err_msg=name)


@pytest.mark.smoke
def test_killed_in_the_middle_and_resumed_it_is_the_same_run(whole_run, tmp_path):
    config, whole = whole_run
    folder = tmp_path / "run"
    process = start_tool("train", "-c", config, "--output-dir", folder, "--resume", "auto")
    wait_for_steps(process, folder, 27)
    workers = children_of(process.pid)
    assert len(workers) >= 2  # more while it evaluates
    process.kill()
    process.communicate(timeout=60)  # ends when the workers, which hold the pipe too, have gone
    written = len(records_of_whole_lines(folder))
    assert written < STEPS, "it was to be killed before its end"
    code, out, err = run_tool("train", "-c", config, "--output-dir", folder, "--resume", "auto")
    assert code == 0, err
    assert "resumed from" in out
    same_run(folder, whole)
    # The test split is reported once, and asking again costs nothing.
    code, out, err = run_here("train", "-c", config, "--output-dir", folder, "--resume", "auto")
    assert code == 0, err
    same_run(folder, whole)


def records_of_whole_lines(folder):
    lines = (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


@pytest.mark.full
def test_a_disk_that_vanishes_ends_the_run_and_back_again_it_goes_on(whole_run, photos, tmp_path):
    """The data moves away in the middle of the run: one line; put back, the run is the same."""
    config, whole = whole_run
    disk = tmp_path / "disk"
    shutil.copytree(photos, disk / "photos")
    moved = tmp_path / "small.yaml"
    moved.write_text(config.read_text().replace(str(photos), str(disk / "photos")))
    folder = tmp_path / "run"
    command = ("-c", moved, "--output-dir", folder, "--resume", "auto")
    process = start_tool("train", *command)
    wait_for_steps(process, folder, 20)
    disk.rename(tmp_path / "unplugged")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(disk / "photos") in err or "is the data folder still there?" in err
    assert "Traceback" not in err
    (tmp_path / "unplugged").rename(disk)
    code, out, err = run_tool("train", *command)
    assert code == 0, err
    assert "resumed from" in out
    same_run(folder, whole)


def test_killed_before_its_first_checkpoint_it_starts_anew(whole_run, tmp_path):
    config, whole = whole_run
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    # The graph is there: making it, which draws, is left out this time.
    shutil.copytree(whole / "visualdl", folder / "visualdl")
    code, _, err = run_here("train", "-c", config, "--output-dir", folder, "--resume", "auto")
    assert code == 0, err
    same_run(folder, whole)


def test_another_runs_folder_is_not_written_over(whole_run, tmp_path, capsys):
    config, whole = whole_run
    other = tmp_path / "other"
    other.mkdir()
    (other / "metrics.jsonl").write_text('{"step": 1}\n')
    latest = str(whole / "checkpoints" / "latest.safetensors")
    arguments = ["-c", str(config), "--output-dir", str(other)]
    for start in (["--resume", latest], ["--pretrained", latest], []):
        assert train_command.main([*arguments, *start]) == 2
        assert "holds a run already" in capsys.readouterr().err
    assert os.listdir(other) == ["metrics.jsonl"]


@pytest.mark.soak
def test_killed_at_many_random_moments(whole_run, tmp_path):
    config, whole = whole_run
    folder = tmp_path / "run"
    chance = random.Random(0)
    kills = 0
    for _ in range(20):
        process = start_tool("train", "-c", config, "--output-dir", folder, "--resume", "auto")
        written = len(records_of_whole_lines(folder)) if kills else 0
        try:
            wait_for_steps(process, folder, written + chance.randint(1, 9))
        except EndedEarly:
            break
        time.sleep(0.03 * chance.random())
        process.kill()
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
        kills += 1
    assert kills >= 5
    code, _, err = run_tool("train", "-c", config, "--output-dir", folder, "--resume", "auto")
    assert code == 0, err
    same_run(folder, whole)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_request_to_stop_saves_first(whole_run, tmp_path, signum, code):
    config, whole = whole_run
    folder = tmp_path / "run"
    process = start_tool("train", "-c", config, "--output-dir", folder, start_new_session=True)
    wait_for_steps(process, folder, 10)
    # As a terminal or a batch system does it: the workers get the signal too.
    os.killpg(process.pid, signum)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in out + err
    assert "continue with --resume auto" in out
    progress = WeightFile(folder / "checkpoints" / "latest.safetensors").metadata["progress"]
    assert progress["step"] == records(folder)[-1]["step"] < STEPS
    result, _, err = run_here("train", "-c", config, "--output-dir", folder, "--resume", "auto")
    assert result == 0, err
    same_run(folder, whole)


def interrupted_run(config, folder):
    process = start_tool("train", "-c", config, "--output-dir", folder)
    wait_for_steps(process, folder, 10)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return folder / "checkpoints" / "latest.safetensors"


@pytest.mark.full
def test_a_full_disk_leaves_the_older_checkpoint(whole_run, tmp_path):
    config, whole = whole_run
    latest = interrupted_run(config, tmp_path / "run")
    before = latest.read_bytes()

    def small_disk():
        size = len(before) - 1000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    code, _, err = run_tool(
        "train", "-c", config, "--output-dir", tmp_path / "run", "--resume", "auto",
        preexec_fn=small_disk,
    )  # fmt: skip
    assert code == 2
    assert err.count("\n") == 1 and "cannot be written" in err and "ulimit -f" in err
    assert latest.read_bytes() == before
    assert [p for p in latest.parent.iterdir() if p.name.startswith(".partial")] == []
    code, _, err = run_here(
        "train", "-c", config, "--output-dir", tmp_path / "run", "--resume", "auto"
    )
    assert code == 0, err
    same_run(tmp_path / "run", whole)


def test_a_damaged_checkpoint_and_a_changed_config(whole_run, tmp_path):
    config, _ = whole_run
    folder = tmp_path / "run"
    latest = interrupted_run(config, folder)
    whole = latest.read_bytes()
    arguments = ("train", "-c", config, "--output-dir", folder)

    code, _, err = run_here(*arguments)
    assert code == 2 and "--resume auto" in err  # it does not write over a run

    code, _, err = run_here(*arguments, "--resume", "auto", "-o", "optimizer.weight_decay=0.5")
    assert code == 2 and "optimizer.weight_decay = 0.05" in err and err.count("\n") == 1
    assert latest.read_bytes() == whole

    latest.write_bytes(whole[: len(whole) // 2])
    code, _, err = run_here(*arguments, "--resume", "auto")
    assert code == 2 and str(latest) in err and err.count("\n") == 1
    assert latest.read_bytes() == whole[: len(whole) // 2]


@pytest.mark.smoke
def test_evaluation_prints_and_writes_what_training_recorded(whole_run, tmp_path):
    config, folder = whole_run
    best = folder / "checkpoints" / "best.safetensors"
    result_file = tmp_path / "result.json"
    code, out, err = run_here(
        "eval", "-c", config, "--weights", best, "--split", "test", "--json", result_file
    )
    assert code == 0, err
    result = json.loads(result_file.read_text())
    assert set(result) == {
        "top1",
        "top5",
        "loss",
        "samples",
        "crop_ratio",
        "seconds",
        "images_per_second",
    }
    recorded = records(folder)[-1]
    assert recorded["split"] == "test"
    for key in ("top1", "top5", "loss", "samples"):
        assert result[key] == recorded[key]
    assert result["crop_ratio"] == 0.875 and result["samples"] == 11
    assert f"Top-1 {result['top1']:.2f} %" in out
    assert "over 11 images at crop ratio 0.875" in out and "test" in out

    code, _, err = run_here(
        "eval", "-c", config, "--weights", best, "-o", "model.head.num_classes=5"
    )
    assert code == 2 and "[64, 3]" in err and "[64, 5]" in err and err.count("\n") == 1


def test_tools_run_from_anywhere(tmp_path):
    code, _, err = run_tool("train", "-c", "mlp-mixer_b16_224", cwd=tmp_path)
    assert code == 2 and "data/ILSVRC2012: there is no such data folder" in err
    assert not os.listdir(tmp_path)
    # The other tools are the same program for another command.
    program = (ROOT / "tools" / "train.py").read_text()
    for tool in (ROOT / "tools").glob("*.py"):
        assert tool.read_text() == re.sub(r"\btrain\b", tool.stem, program), tool
