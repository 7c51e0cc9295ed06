"""What several test files share."""

import contextlib
import functools
import importlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from passl.hooks.base import Hook
from passl.weights import WeightFile

ROOT = Path(__file__).resolve().parent.parent


# The network of small_config.
NETWORK = {
    "img_size": 16,
    "patch_size": 8,
    "embed_dim": 64,
    "num_blocks": 2,
    "tokens_mlp_dim": 8,
    "channels_mlp_dim": 64,
}


def small_config(root, **changes):
    """A run of 7 steps an epoch that uses every part: drop path, dropout, mixup, two workers."""

    def section(split, transforms, batch):
        return {
            "dataset": {
                "name": "ImageFolder",
                "dataroot": str(root / split),
                "transforms": transforms,
            },
            "batch_transforms": [{"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}],
            "sampler": {"batch_size": batch},
            "loader": {"num_workers": 2},
        }

    augment = [{"name": "RandomResizedCrop", "size": 16}, {"name": "RandomHorizontalFlip"}]
    view = [{"name": "ResizeCenterCrop", "size": 16, "crop_ratio": 0.875}]
    cfg = {
        "model": {
            "architecture": {
                "name": "MlpMixer",
                **NETWORK,
                "drop_rate": 0.1,
                "drop_path_rate": 0.2,
            },
            "head": {"name": "ClassificationHead", "num_classes": 3},
        },
        "epochs": 3,
        "seed": 0,
        "dataloader": {
            "train": section("train", augment, 8),
            "val": section("val", view, 5),
            "test": section("test", view, 5),
        },
        "lr_scheduler": {"name": "Cosine", "learning_rate": 1e-2, "warmup_steps": 3},
        "optimizer": {"name": "AdamW", "weight_decay": 0.05, "grad_clip": 1.0},
        "log_config": {"interval": 1},
        "checkpoint": {"interval_steps": 5},
    }
    cfg["dataloader"]["train"]["batch_transforms"].append({"name": "Mixup"})
    for key, value in changes.items():
        cfg[key] = {**cfg.get(key, {}), **value} if isinstance(value, dict) else value
    return cfg


# The steps of config_for_many.
STEPS = 21


def write_images(root, size=(24, 28)):
    """200 training images in class folders, one of them damaged, 13 and 3 to evaluate."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 200), ("val", 13), ("test", 3)):
        for i in range(count):
            folder = root / split / "abc"[i % 3]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    (root / "train" / "b" / "100.png").write_bytes(b"not an image")
    return root


def config_for_many(root, batch_size, **changes):
    """A run whose answer many processes share: 64 images a step, no dropout, drop path or mixup."""
    cfg = small_config(root, epochs=7, evaluate={"interval_epochs": 7}, **changes)
    cfg["model"]["architecture"].update(drop_rate=0.0, drop_path_rate=0.0)
    cfg["dataloader"]["train"]["batch_transforms"].pop()  # mixes the images of each process
    # Not AdamW: it makes steps of full length out of the rounding errors of a gradient that is
    # zero, such as that of a token-mixing MLP's last bias, which the norms after it take out.
    cfg["optimizer"] = {"name": "SGD", "momentum": 0.9, "grad_clip": 1.0}
    cfg["lr_scheduler"]["learning_rate"] = 0.1
    cfg["global_batch_size"] = changes.get("global_batch_size", 64)
    for section in cfg["dataloader"].values():
        section["loader"] = {"num_workers": 0}
    cfg["dataloader"]["train"]["sampler"]["batch_size"] = batch_size
    return cfg


def start_tool(tool, *arguments, **options):
    """Starts ``tools/<tool>.py`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        **options,
    )


def start_processes(count, logs, tool, *arguments, **options):
    """Starts a tool, or another program, under Paddle's launcher.

    ``logs`` gets a ``workerlog.N`` of each process.
    """
    program = tool if str(tool).endswith(".py") else ROOT / "tools" / f"{tool}.py"
    return subprocess.Popen(
        [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(count),
         "--log_dir", str(logs), str(program), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **options,
    )  # fmt: skip


class Stop(Hook):
    """Ends a run in the middle of a step's aftermath, as a crash would."""

    def __init__(self, step):
        self.step = step

    def on_step(self, run):
        if run.progress.step == self.step:
            raise KeyboardInterrupt


def running(program, folders):
    """Returns what runs a program in N processes, which each say that all of it holds.

    ``run(2)`` gives the arrays that the first of two processes wrote; each number is run once.

    Args:
        program: takes the path of its results.
        folders: pytest's ``tmp_path_factory``.
    """

    @functools.lru_cache(None)
    def run(count):
        folder = folders.mktemp(f"together{count}")
        process = start_processes(count, folder / "logs", program, folder / "results.npz")
        process.communicate(timeout=300)
        logs = [path.read_text() for path in sorted((folder / "logs").glob("workerlog.*"))]
        assert process.returncode == 0, "\n".join(logs)
        assert len(logs) == count and all("all of it holds" in log for log in logs)
        return dict(np.load(folder / "results.npz"))

    return run


def run_tool(tool, *arguments, **options):
    """Runs ``tools/<tool>.py`` to its end; returns (exit code, output, error stream)."""
    process = start_tool(tool, *arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def run_here(tool, *arguments):
    """Runs a tool in this process, which spares its start; returns what ``run_tool`` does.

    For what needs no process of its own, as signals, the interpreter's end and limits do.
    """
    command = importlib.import_module(f"passl.cli.{tool}")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def children_of(pid):
    """Returns the process ids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


# What a training record says of the machine rather than of what is learned.
CLOCK = ("images_per_second", "step_seconds", "data_seconds", "memory_mb")


def records(folder):
    """Returns a run's metrics without what no two runs can share: clock and memory."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    clock = (*CLOCK, "seconds")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


def losses(folder):
    """Returns a run's loss of each step."""
    return {r["step"]: r["loss"] for r in records(folder) if "split" not in r}


def evaluations(folder):
    """Returns the set, the number of images and of right answers of each evaluation."""
    return [
        (r["split"], r["samples"], round(r["top1"] * r["samples"] / 100, 6))
        for r in records(folder)
        if "split" in r
    ]


def weights(folder):
    """Returns the arrays of a run's last checkpoint."""
    return WeightFile(folder / "checkpoints" / "latest.safetensors").read_group("model")


def assert_same_run(one, other):
    """Two runs of ``config_for_many`` came to the same."""
    assert losses(one).keys() == losses(other).keys() == set(range(1, STEPS + 1))
    for step, loss in losses(one).items():
        assert loss == pytest.approx(losses(other)[step], abs=1e-5), step
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_allclose(array, theirs[name], atol=1e-4, rtol=0, err_msg=name)
    assert evaluations(one) == evaluations(other)


def wait_for_step(process, folder, step):
    """Returns when a run has recorded a step."""
    deadline = time.monotonic() + 90
    while not (folder / "metrics.jsonl").exists() or max(losses(folder), default=0) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"step {step} has not come"
        time.sleep(0.01)


def photograph(seed=0, size=(500, 375)):
    """Something with the smooth areas, edges and texture that photographs have."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8))
    image = noise.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(6))
    draw = ImageDraw.Draw(image)
    for _ in range(30):
        x, y, r = rng.integers(0, size[0]), rng.integers(0, size[1]), rng.integers(5, 60)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    grain = rng.normal(0, 4, (size[1], size[0], 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def my_project(folder):
    """Builds the folder of docs/extending.md from the page, below ``folder``."""
    text = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    found = re.findall(
        r"`([\w/]+\.(?:py|yaml))`[^`]*?:\n\n```(?:python|yaml)\n(.*?)^```", text, re.M | re.S
    )
    for name, content in found:
        path = folder / "my_project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return {name for name, _ in found}
