"""Several processes under Paddle's launcher: the same answer, exact counts, ways to fail."""

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import (
    ROOT,
    STEPS,
    assert_same_run,
    children_of,
    config_for_many,
    evaluations,
    losses,
    records,
    run_here,
    start_processes,
    wait_for_step,
    weights,
    write_images,
)

from passl.weights import WeightFile


def slow(*values):
    """Values whose test takes half a minute like that of its neighbours: with --full alone."""
    return pytest.param(*values, marks=pytest.mark.full)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def config(images, tmp_path_factory):
    """Writes ``config_for_many`` and returns its path."""

    def write(batch_size, **changes):
        path = tmp_path_factory.mktemp("config") / "small.yaml"
        path.write_text(yaml.safe_dump(config_for_many(images, batch_size, **changes)))
        return path

    return write


def launch(count, folder, *arguments, tool="train"):
    """Runs a tool on ``count`` processes; returns (exit code, what process 0 said, all logs)."""
    logs = Path(f"{folder}.logs")
    process = start_processes(count, logs, tool, *arguments)
    process.communicate(timeout=120)
    return process.returncode, *said(logs)


def said(logs):
    texts = [path.read_text() for path in sorted(logs.glob("workerlog.*"))]
    return texts[0], "\n".join(texts)


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone") / "run"
    code, _, err = run_here("train", "-c", config(64), "--output-dir", folder)
    assert code == 0, err
    assert [split for split, *_ in evaluations(folder)] == ["val", "test"]
    assert [samples for _, samples, _ in evaluations(folder)] == [13, 3]
    return folder


@pytest.mark.smoke
@pytest.mark.parametrize("count, batch_size", [(2, 32), slow(4, 16), slow(2, 16), slow(2, 1)])
def test_however_many_processes_the_answer_is_the_same(alone, config, tmp_path, count, batch_size):
    """64 images a step as 1 × 64, 2 × 32, 4 × 16, 2 × 16 twice and 2 × 1; one is unreadable."""
    folder = tmp_path / "run"
    code, out, logs = launch(count, folder, "-c", config(batch_size), "--output-dir", folder)
    assert code == 0, logs
    assert f"on {count} processes" in out and "skipped an image" in logs
    assert logs.count("step 21/21") == 1, "one process speaks"
    assert_same_run(folder, alone)
    assert sorted(path.name for path in folder.glob("train.*log")) == sorted(
        ["train.log", *(f"train.process{rank}.log" for rank in range(1, count))]
    )


@pytest.mark.full
def test_a_checkpoint_of_two_processes_goes_on_in_one_and_in_four(alone, config, tmp_path):
    folder = tmp_path / "two"
    arguments = ("--output-dir", folder, "-o", "checkpoint.interval_steps=1")
    process = start_processes(2, tmp_path / "logs", "train", "-c", config(32), *arguments)
    stop_after(process, folder, 8, signal.SIGTERM)
    assert 8 <= len(losses(folder)) < STEPS
    for count, batch_size in ((1, 64), (4, 16)):
        other = tmp_path / str(count)
        shutil.copytree(folder, other)
        resume = ("-c", config(batch_size), "--output-dir", other, "--resume", "auto")
        code, out, logs = launch(count, other, *resume)
        assert code == 0 and "resumed from" in out, logs
        assert_same_run(other, alone)


@pytest.mark.full
def test_another_number_of_images_a_step_is_refused_unless_asked_for(config, tmp_path):
    folder = tmp_path / "run"
    first = (
        "-c", config(32, global_batch_size=32), "--output-dir", folder,
        "-o", "checkpoint.interval_steps=5",
    )  # fmt: skip
    process = start_processes(1, tmp_path / "logs", "train", *first)
    stop_after(process, folder, 7, signal.SIGTERM)
    before = records(folder)
    done = before[-1]["step"]
    resume = ("-c", config(64), "--output-dir", folder, "--resume", "auto")
    code, _, err = run_here("train", *resume)
    assert code == 2
    assert "was trained with 32 images a step, now it would be 64" in err
    code, out, err = run_here("train", *resume, "--allow-batch-change")
    assert code == 0, err
    # 200 images are 6 steps of 32 an epoch, or 3 of 64.
    step = 3 * (done // 6) + -(-(done % 6) // 2)
    assert f"at step {step}" in out
    after = records(folder)
    assert after[: len(before)] == before, "nothing that was recorded is lost"
    assert after[len(before)]["step"] == step + 1 and max(r["step"] for r in after) == 21


def test_evaluation_counts_each_image_once_for_any_number_of_processes(alone, config, tmp_path):
    """Thirteen images in batches of five leave one of four processes without any."""
    best = alone / "checkpoints" / "best.safetensors"
    expected = next(r for r in records(alone) if r.get("split") == "val")
    counts = []
    for count in (1, 4):
        result = tmp_path / f"{count}.json"
        arguments = ("-c", config(64), "--weights", best, "--json", result)
        if count == 1:
            code, *logs = run_here("eval", *arguments)
            logs = "\n".join(logs)
        else:
            code, _, logs = launch(count, tmp_path / str(count), *arguments, tool="eval")
        assert code == 0, logs
        assert logs.count("Top-1") == 1
        result = json.loads(result.read_text())
        counts.append([result["samples"], result["top1"], result["top5"]])
        assert result["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert counts[0] == counts[1] and counts[0][0] == 13


@pytest.mark.parametrize("batch_size", [slow(8), slow(32)])
def test_a_shared_out_optimizer_state_gives_the_same_weights(alone, config, tmp_path, batch_size):
    """With Paddle's own classes, made to run on processors; four micro-batches a step, clipped."""
    program = ROOT / "tests" / "group_sharded_on_cpu.py"
    folder = tmp_path / "run"
    arguments = ("-c", config(batch_size), "--output-dir", folder, "-o", "parallel.sharding=2")
    code, out, logs = launch(2, folder, *arguments, tool=program)
    assert code == 0, logs
    # The gradients for each of the two processes lie in a buffer of their own.
    assert f"\n{2 * STEPS} reductions of gradients" in out, "one exchange a step"
    assert_same_run(folder, alone)
    states = [
        WeightFile(run / "checkpoints" / "latest.safetensors").read_group("optimizer")
        for run in (folder, alone)
    ]
    assert states[0].keys() == states[1].keys()
    for name, array in states[1].items():
        np.testing.assert_allclose(states[0][name], array, atol=1e-4, rtol=0, err_msg=name)


@pytest.mark.skipif(
    not paddle.is_compiled_with_cuda() or paddle.device.cuda.device_count() < 2,
    reason="needs two GPUs, and they are not here",
)
@pytest.mark.parametrize("option", ["parallel.sharding=2", "recompute=true", "amp={}"])
def test_on_gpus(alone, config, tmp_path, option):
    """Never run where this was written: no GPU. In 16 bits the answer is only a near one."""
    folder = tmp_path / "run"
    arguments = ("-c", config(16), "--output-dir", folder, "--device", "gpu", "-o", option)
    code, _, logs = launch(2, folder, *arguments)
    assert code == 0, logs
    tolerance = 0.05 if option == "amp={}" else 1e-3
    for step, loss in losses(alone).items():
        assert losses(folder)[step] == pytest.approx(loss, abs=tolerance), step


@pytest.mark.full
def test_recomputed_blocks_on_two_processes_give_the_same_answer(alone, config, tmp_path):
    folder = tmp_path / "run"
    arguments = ("-c", config(16), "--output-dir", folder, "-o", "recompute=true")
    code, _, logs = launch(2, folder, *arguments)
    assert code == 0, logs
    assert_same_run(folder, alone)


@pytest.mark.full
@pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="PaddlePaddle 2 recomputes on a GPU alone"
)
def test_gradients_of_ones_own_on_two_processes_give_the_same_answer(alone, config, tmp_path):
    """Those of ``passl.modeling.layers.functional``, which tensors so small do without."""
    small = tmp_path / "all_sizes.py"
    small.write_text(
        "from passl.modeling.layers import functional\n"
        "functional._WORTH_IT = 0\n"
        "apply, kernels = functional._Linear.apply, []\n"
        "def counted(*tensors):\n"
        "    if not kernels:\n"
        "        print('a kernel has run', flush=True)\n"
        "    kernels.append(1)\n"
        "    return apply(*tensors)\n"
        "functional._Linear.apply = counted\n"
    )
    folder = tmp_path / "run"
    arguments = ("-c", config(16), "--output-dir", folder, "--import", small)
    code, out, logs = launch(2, folder, *arguments, "-o", "recompute=true")
    assert code == 0, logs
    assert logs.count("a kernel has run") == 2
    assert_same_run(folder, alone)


def test_sharing_out_is_refused_on_processors(config, tmp_path):
    arguments = ("-c", config(64), "--output-dir", tmp_path / "run", "--device", "cpu")
    code, _, err = run_here("train", *arguments, "-o", "parallel.sharding=2")
    assert code == 2 and "needs several processes, each on a GPU" in err and err.count("\n") == 1


# ---------------------------------------------------------------- failures


def processes_of(launcher_pid):
    """Returns the process ids of ranks 0, 1, … below a launcher."""
    found = {}
    for pid in children_of(launcher_pid):
        with contextlib.suppress(OSError, KeyError):
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            rank = dict(e.partition(b"=")[::2] for e in environment)[b"PADDLE_TRAINER_ID"]
            found[int(rank)] = pid
    return [found[rank] for rank in sorted(found)]


def stop_after(process, folder, step, signum, rank=None):
    """Sends a signal to the launcher or a rank; returns (exit code, seconds it took)."""
    wait_for_step(process, folder, step)
    started = time.monotonic()
    os.kill(process.pid if rank is None else processes_of(process.pid)[rank], signum)
    process.communicate(timeout=60)
    return process.returncode, time.monotonic() - started


@pytest.fixture
def long_run(config, tmp_path):
    """Starts a run of 700 steps on two processes: (launcher, its folder, its logs)."""
    folder, logs = tmp_path / "run", tmp_path / "logs"
    options = ("-o", "epochs=300", "-o", "parallel.lost_after=8")
    process = start_processes(2, logs, "train", "-c", config(32), "--output-dir", folder, *options)
    yield process, folder, logs
    for pid in processes_of(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.kill()
    process.communicate()


@pytest.fixture
def start_script(config, tmp_path):
    """Starts scripts/train_dist.sh on two processes of the processor."""
    started = []

    def start(folder, *arguments):
        started.append(
            subprocess.Popen(
                ["bash", str(ROOT / "scripts" / "train_dist.sh"), "--processes", "2",
                 "--log-dir", str(tmp_path / "logs"), "-c", str(config(32)),
                 "--output-dir", str(folder), *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHON": sys.executable},
                start_new_session=True,
            )
        )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def launcher_of(script):
    """Returns the launcher's process id below the script."""
    (pid,) = (
        pid
        for pid in children_of(script.pid)
        if b"paddle.distributed.launch" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return pid


@pytest.mark.parametrize("rank", [0, slow(1)])
def test_when_one_process_is_killed_the_run_ends_and_names_it(start_script, tmp_path, rank):
    script = start_script(tmp_path / "run", "-o", "epochs=300")
    wait_for_step(script, tmp_path / "run", 10)
    started = time.monotonic()
    os.kill(processes_of(launcher_of(script))[rank], signal.SIGKILL)
    out, _ = script.communicate(timeout=60)
    assert time.monotonic() - started < 25, "sooner than by parallel.lost_after"
    assert script.returncode not in (0, 2)
    assert "error: the run failed with " in out and "--restarts N" in out


@pytest.mark.full
def test_killed_it_starts_again_by_itself_and_ends_as_if_nothing_had_been(
    alone, start_script, tmp_path
):
    folder = tmp_path / "run"
    script = start_script(folder, "--restarts", "2", "-o", "checkpoint.interval_steps=2")
    for step in (4, 11):
        wait_for_step(script, folder, step)
        os.kill(processes_of(launcher_of(script))[step % 2], signal.SIGKILL)
        time.sleep(1)
    out, _ = script.communicate(timeout=90)
    assert script.returncode == 0, out
    assert "restart 1 of 2: process " in out and "restart 2 of 2: process " in out
    assert_same_run(folder, alone)


def kill_job(process):
    """SIGKILL for the launcher and all its processes, as when a machine goes down."""
    pids = [*processes_of(process.pid), process.pid]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("kills", [slow(2), pytest.param(20, marks=pytest.mark.soak)])
def test_killed_whole_at_any_moment_it_resumes_to_the_same_bits(config, tmp_path, kills):
    """Every other kill falls into the writing of a checkpoint; the others anywhere."""
    settings = (
        "-c", config(32), "-o", "checkpoint.interval_steps=1", "-o", "checkpoint.keep=2",
        "-o", f"epochs={30 + 8 * kills}",
    )  # fmt: skip
    whole, folder = tmp_path / "whole", tmp_path / "run"
    code, _, logs = launch(2, whole, *settings, "--output-dir", whole)
    assert code == 0, logs
    chance, during_a_save = random.Random(0), 0
    checkpoints = folder / "checkpoints"
    for kill in range(kills):
        process = start_processes(
            2, tmp_path / "logs", "train", *settings, "--output-dir", folder, "--resume", "auto"
        )
        begun = max(losses(folder), default=0) if (folder / "metrics.jsonl").exists() else 0
        wait_for_step(process, folder, begun + 2)
        if kill % 2:
            deadline = time.monotonic() + 30
            while not list(checkpoints.glob(".partial-*")) and process.poll() is None:
                assert time.monotonic() < deadline
            during_a_save += process.poll() is None
        else:
            time.sleep(0.3 * chance.random())
        kill_job(process)
    assert during_a_save >= kills // 2 - 1
    code, _, logs = launch(2, folder, *settings, "--output-dir", folder, "--resume", "auto")
    assert code == 0, logs
    for name, array in weights(whole).items():
        np.testing.assert_array_equal(weights(folder)[name], array, err_msg=name)
    assert records(folder) == records(whole)
    assert not list(checkpoints.glob(".partial-*"))


@pytest.mark.full
def test_a_full_disk_ends_all_and_leaves_the_checkpoint_before(config, tmp_path):
    """A limit on the size of files, which records fit in but no checkpoint."""
    folder = tmp_path / "run"
    arguments = ("-c", config(32), "--output-dir", folder, "-o", "checkpoint.interval_steps=1")
    process = start_processes(2, tmp_path / "logs", "train", *arguments)
    stop_after(process, folder, 3, signal.SIGTERM)
    latest = folder / "checkpoints" / "latest.safetensors"
    before = latest.read_bytes()
    limit = len(before) // 2
    process = start_processes(
        2, tmp_path / "full", "train", *arguments, "--resume", "auto",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    process.communicate(timeout=60)
    assert process.returncode == 2
    first, logs = said(tmp_path / "full")
    assert "cannot be written" in first and "ulimit -f" in first
    assert "Traceback" not in logs
    assert latest.read_bytes() == before
    assert not list(latest.parent.glob(".partial-*"))


@pytest.mark.full
def test_a_script_that_is_asked_to_stop_stops_its_run(start_script, tmp_path):
    script = start_script(tmp_path / "run", "-o", "epochs=300", "--restarts", "5")
    wait_for_step(script, tmp_path / "run", 10)
    script.send_signal(signal.SIGTERM)
    out, _ = script.communicate(timeout=60)
    assert script.returncode == 143
    assert "restart 1 of" not in out
    assert "saved at step" in said(tmp_path / "logs")[0]


@pytest.mark.full
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_hangs_is_named_by_the_other(long_run, rank):
    process, folder, logs = long_run
    code, seconds = stop_after(process, folder, 10, signal.SIGSTOP, rank)
    assert code != 0 and seconds < 40
    assert f"process {rank} on " in said(logs)[1]
    assert "has not been heard of for 8 s" in said(logs)[1]


@pytest.mark.full
def test_a_pause_shorter_than_that_is_survived(long_run):
    process, folder, logs = long_run
    wait_for_step(process, folder, 10)
    paused = processes_of(process.pid)[1]
    os.kill(paused, signal.SIGSTOP)
    time.sleep(2)
    os.kill(paused, signal.SIGCONT)
    wait_for_step(process, folder, max(losses(folder)) + 10)


@pytest.mark.smoke
@pytest.mark.parametrize("rank, code", [slow(None, 15), (0, 143), slow(1, 143)])
def test_a_request_to_stop_stops_all_at_the_same_step(long_run, rank, code):
    """The launcher exits with 15 where it was asked itself, else with what its process did."""
    process, folder, logs = long_run
    found, seconds = stop_after(process, folder, 10, signal.SIGTERM, rank)
    assert found == code and seconds < 40, said(logs)[1]
    file = WeightFile(folder / "checkpoints" / "latest.safetensors")
    step = file.metadata["progress"]["step"]
    assert step == max(losses(folder)) < 900
    assert f"saved at step {step}" in said(logs)[0]
    assert "error" not in said(logs)[1].lower().replace("errors", "")
