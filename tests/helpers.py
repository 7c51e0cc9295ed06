"""What several test files share."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

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
    """A run of 7 steps an epoch that uses every part: drop path, dropout, two workers."""

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
    for key, value in changes.items():
        cfg[key] = {**cfg.get(key, {}), **value} if isinstance(value, dict) else value
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


def run_tool(tool, *arguments, **options):
    """Runs ``tools/<tool>.py`` to its end; returns (exit code, output, error stream)."""
    process = start_tool(tool, *arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def children_of(pid):
    """Returns the process ids of a process's children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def records(folder):
    """Returns a run's metrics without what no two runs can share: the clock."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    clock = ("images_per_second", "seconds")
    return [{k: v for k, v in json.loads(line).items() if k not in clock} for line in lines]


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
