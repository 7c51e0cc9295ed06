#!/usr/bin/env python3
"""What the hand-over from workers costs, and what a packed set gains.

- Two processes that run the training transform on their own, side by side, against a loader with
  two workers over the same files, in turn.
- The same loader over the files, over shards of them as they are, and over shards with a short side
  of 256 pixels.
- Memory of main process and workers over 20 epochs of 800 images.

The files are those of benchmarks/input_pipeline.py.

usage: python benchmarks/loader.py [--repeats 5] [--json FILE]
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import passl  # noqa: F401

# isort: split
from input_pipeline import make_files

from passl.datasets import Loader, SampleKey, TrainingBatches, build_dataset
from passl.datasets.sources.packing import pack

CROP = [{"name": "RandomResizedCrop", "size": 224}, {"name": "RandomHorizontalFlip"}]
BATCH, BATCHES, WARM_UP = 32, 60, 8
COPIES = 20  # of each file in the set of the memory curve: 800 images, 25 batches an epoch


def dataset(name, folder):
    cfg = {"name": name, "dataroot": str(folder), "transforms": CROP}
    return build_dataset(cfg)


def alone(data, barrier, queue, seed):
    """One of two independent processes: samples a second of its own."""
    count = BATCH * BATCHES // 2
    for i in range(BATCH):
        data[SampleKey(i % len(data), 0, 0, seed)]
    barrier.wait()
    started = time.perf_counter()
    for i in range(count):
        data[SampleKey(i % len(data), 1, 0, seed)]
    queue.put(count / (time.perf_counter() - started))


def two_processes(data):
    fork = multiprocessing.get_context("fork")
    barrier, queue = fork.Barrier(2), fork.Queue()
    both = [fork.Process(target=alone, args=(data, barrier, queue, seed)) for seed in range(2)]
    for process in both:
        process.start()
    rates = [queue.get(timeout=300) for _ in both]
    for process in both:
        process.join()
    return sum(rates)


def two_workers(data):
    """Samples a second that the loader delivers; the batches under way at the start count out."""
    batches = TrainingBatches(len(data), BATCH, BATCH, 0, 0, WARM_UP + BATCHES)
    stream = iter(Loader(data, batches, num_workers=2))
    for _ in range(WARM_UP):
        next(stream)
    started, count = time.perf_counter(), 0
    for batch in stream:
        count += batch["image"].shape[0]
    return count / (time.perf_counter() - started)


def mebibytes(pid):
    """Returns the memory of a process that is its own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8")
    return sum(int(n) for n in re.findall(r"Private_\w+:\s+(\d+)", text)) / 1024


def memory(data, epochs=20):
    """Returns [main process, mean worker] in MiB at the end of each epoch."""
    steps = len(data) // BATCH
    batches = TrainingBatches(len(data), BATCH, BATCH, 0, 0, epochs * steps)
    curve = []
    for step, _ in enumerate(Loader(data, batches, num_workers=2), start=1):
        if step % steps == 0 and step < epochs * steps:
            me = os.getpid()
            children = Path(f"/proc/{me}/task/{me}/children").read_text(encoding="utf-8").split()
            curve.append([mebibytes(me), statistics.mean(map(mebibytes, children))])
    return curve


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "files" / "a").mkdir(parents=True)
        make_files(root / "files" / "a", arguments.images)
        files = dataset("ImageFolder", root / "files")
        pack(files, str(root / "kept"), None)
        pack(files, str(root / "small"), 256, 90)
        kept, small = (dataset("ImageShards", root / name) for name in ("kept", "small"))
        rows = []
        for _ in range(arguments.repeats):
            rows.append(
                {
                    "two processes": two_processes(files),
                    "files": two_workers(files),
                    "shards, as they are": two_workers(kept),
                    "shards, short side 256": two_workers(small),
                }
            )
            print("  ".join(f"{k}: {v:.0f}" for k, v in rows[-1].items()), flush=True)
        for name in ("files", "shards, as they are", "shards, short side 256"):
            own = statistics.median(row[name] / row["two processes"] for row in rows)
            over = statistics.median(row[name] / row["files"] for row in rows)
            print(f"{name:24} {own:.2f} × two processes   {over:.2f} × the files")
        (root / "many" / "a").mkdir(parents=True)
        for path in (root / "files" / "a").iterdir():
            for copy in range(COPIES):
                os.link(path, root / "many" / "a" / f"{copy}_{path.name}")
        curve = memory(dataset("ImageFolder", root / "many"))
    print("MiB after each epoch, main process:", " ".join(f"{m:.0f}" for m, _ in curve))
    print("MiB after each epoch, a worker:    ", " ".join(f"{w:.0f}" for _, w in curve))
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"rows": rows, "memory": curve}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
