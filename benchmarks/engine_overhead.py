#!/usr/bin/env python3
"""What the engine adds to a training step over the same loop written out by hand.

Both train the same tiny Mixer on the same in-memory images through the same Loader, in turn, in one
process or in several; the engine with all its hooks, a record every ``--interval`` steps and no
evaluation.

usage: python benchmarks/engine_overhead.py [--processes 1] [--repeats 7] [--steps 300]
"""

import argparse
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import passl  # noqa: F401  before Paddle, which reads its settings at import

# isort: split
import numpy as np
import paddle
import yaml
from PIL import Image

from passl.datasets import DATASETS, ImageDataset, Loader, TrainingBatches, build_dataset
from passl.distributed.processes import join_processes, launched_size
from passl.engine import train
from passl.hooks import HOOKS, Hook
from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config

BATCH, WARMUP = 8, 20


@DATASETS.register
class Memory(ImageDataset):
    """Random 8×8 images, as many as a run of one epoch needs."""

    def __init__(self, length: int, transforms=()):
        super().__init__(np.arange(length) % 4, None, transforms)
        self.image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))

    def read(self, index):
        return self.image

    def where(self, index):
        return f"image {index}"


class Clock:
    """Seconds between the first step after warm-up and the last."""

    times: list = []


@HOOKS.register
class StepClock(Hook):
    """Notes when each step is over."""

    in_every_process = True

    def on_step(self, run):
        Clock.times.append(time.perf_counter())


def config(steps: int, interval: int, processes: int) -> dict:
    return {
        "epochs": 1,
        "model": {
            "architecture": {
                "name": "MlpMixer",
                "img_size": 8,
                "patch_size": 4,
                "embed_dim": 16,
                "num_blocks": 2,
                "tokens_mlp_dim": 8,
                "channels_mlp_dim": 32,
            },
            "head": {"name": "ClassificationHead", "num_classes": 4},
        },
        "dataloader": {
            "train": {
                "dataset": {"name": "Memory", "length": BATCH * steps * processes},
                "batch_transforms": [{"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}],
                "sampler": {"batch_size": BATCH},
                "loader": {"num_workers": 0},
            }
        },
        "lr_scheduler": {"name": "Constant", "learning_rate": 1e-3},
        "optimizer": {"name": "AdamW"},
        "log_config": {"interval": interval},
        "checkpoint": {"interval_epochs": None},
        "hooks": [{"name": "StepClock"}],
    }


def by_engine(cfg: dict, folder: Path) -> float:
    """Returns milliseconds a step."""
    path = folder / f"{os.getpid()}.yaml"  # each process writes its own
    path.write_text(yaml.safe_dump(cfg), encoding="utf-8")
    Clock.times = []
    train(get_config(path, [f"output_dir={folder / 'run'}"]))
    # The last step also writes the final checkpoint.
    times = Clock.times[WARMUP:-1]
    return 1e3 * (times[-1] - times[0]) / (len(times) - 1)


def by_hand(cfg: dict, processes: int) -> float:
    """Returns milliseconds a step."""
    model = build_architecture(cfg["model"])
    model.train()
    network = paddle.DataParallel(model) if processes > 1 else model
    optimizer = paddle.optimizer.AdamW(1e-3, parameters=model.parameters(), weight_decay=0.0)
    section = cfg["dataloader"]["train"]
    dataset = build_dataset(section["dataset"])
    steps = len(dataset) // (BATCH * processes)
    loader = Loader(
        dataset,
        TrainingBatches(
            len(dataset),
            BATCH * processes,
            BATCH * processes,
            0,
            0,
            steps,
            rank=paddle.distributed.get_rank(),
            size=processes,
        ),
        section["batch_transforms"],
    )
    times = []
    for batch in loader:
        loss = network(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        times.append(time.perf_counter())
    times = times[WARMUP:-1]
    return 1e3 * (times[-1] - times[0]) / (len(times) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1, help="with one math thread each")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--interval", type=int, default=50)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--folder", help=argparse.SUPPRESS)  # that the processes share
    arguments = parser.parse_args()
    if arguments.processes > 1 and launched_size() == 1:
        launcher = [sys.executable, "-m", "paddle.distributed.launch"]
        with tempfile.TemporaryDirectory() as folder:
            options = ["--log_dir", folder, "--nproc_per_node", str(arguments.processes)]
            sys.exit(subprocess.call([*launcher, *options, *sys.argv, "--folder", folder]))
    logging.getLogger("passl").setLevel(logging.WARNING)
    cfg = config(arguments.steps, arguments.interval, arguments.processes)
    first = join_processes().is_first
    rows = []
    with contextlib.ExitStack() as stack:
        shared = arguments.folder or stack.enter_context(tempfile.TemporaryDirectory())
        for repeat in range(arguments.repeats):
            folder = Path(shared) / str(repeat)
            folder.mkdir(exist_ok=True)
            engine, hand = by_engine(cfg, folder), by_hand(cfg, arguments.processes)
            rows.append({"engine_ms": engine, "hand_ms": hand, "added_ms": engine - hand})
            if first:
                print(
                    f"{repeat + 1}: engine {engine:.3f}, by hand {hand:.3f} ms a step", flush=True
                )
    if not first:
        return
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print(
        f"median of {len(rows)}: engine {medians['engine_ms']:.3f} ms, by hand "
        f"{medians['hand_ms']:.3f} ms, added {medians['added_ms']:.3f} ms a step "
        f"({medians['engine_ms'] / medians['hand_ms']:.3f} times)"
    )
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"medians": medians, "rows": rows}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
