#!/usr/bin/env python3
"""What several processes cost: bytes sent a step, and two processes against two threads.

Bytes are those that the loopback device counts while processes train side by side, through gloo;
the ideal is that of a ring, 2 (N - 1) times the bytes of the gradients over all N processes. Other
traffic on the loopback device is counted with them: let nothing else run.

Throughput is that of the same network and the same images a step, in one process with two math
threads and in two processes with one each, in turn.

usage: python benchmarks/distributed.py [--repeats 5] [--steps 20] [--json FILE]
"""

import argparse
import json
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
from paddle import distributed

from passl.distributed.processes import join_processes
from passl.modeling.architectures import build_architecture
from passl.solver import build_optimizer

BATCH = 16  # images a step, over all processes
NETWORK = {
    "name": "Classifier",
    "architecture": {
        "name": "MlpMixer",
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 512,
        "num_blocks": 8,
        "tokens_mlp_dim": 256,
        "channels_mlp_dim": 2048,
    },
    "head": {"name": "ClassificationHead", "num_classes": 100},
}


def loopback_bytes() -> int:
    for line in Path("/proc/net/dev").read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("lo:"):
            return int(line.split(":")[1].split()[8])
    raise SystemExit("error: there is no loopback device to count bytes on")


def work(steps: int, fusion_mb: float, file: str) -> None:
    """Trains as one of the processes; the first one writes what it measured."""
    paddle.set_device("cpu")
    processes = join_processes()
    paddle.seed(0)
    model = build_architecture(NETWORK)
    model.train()
    optimizer = build_optimizer({"name": "AdamW"}, model)
    network = model
    if processes.size > 1:
        network = paddle.DataParallel(model, comm_buffer_size=fusion_mb)
    share = BATCH // processes.size
    batch = {
        "image": paddle.randn([share, 3, 64, 64]),
        "label": paddle.to_tensor(np.arange(share) % 100),
    }

    def step() -> None:
        network(batch)["loss"].backward()
        optimizer.step(1e-4)

    for _ in range(3):
        step()
    wait = distributed.barrier if processes.size > 1 else int  # no polling within what is timed
    wait()
    before, started = loopback_bytes(), time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    seconds, sent = time.perf_counter() - started, loopback_bytes() - before
    if processes.is_first:
        gradients = sum(4 * p.size for p in model.parameters())
        result = {
            "bytes": sent / steps,
            "gradients": gradients,
            "images_per_second": steps * BATCH / seconds,
        }
        Path(file).write_text(json.dumps(result), encoding="utf-8")


def measure(processes: int, threads: int, fusion_mb: float, steps: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [
            sys.executable, "-m", "paddle.distributed.launch",
            "--nproc_per_node", str(processes), "--log_dir", folder, __file__,
            "--worker", str(file), "--steps", str(steps), "--fusion-mb", str(fusion_mb),
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"error: {done.stdout}{done.stderr}")
        return json.loads(file.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--fusion-mb", type=float, default=25.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.steps, arguments.fusion_mb, arguments.worker)
        return
    traffic = []
    print("| processes | fusion_mb | MB sent a step | ideal | of the ideal |")
    print("|---|---|---|---|---|")
    for processes, fusion_mb in ((2, 25.0), (2, 1.0), (4, 25.0), (4, 1.0)):
        result = measure(processes, 1, fusion_mb, arguments.steps)
        ideal = 2 * (processes - 1) * result["gradients"]
        row = {"processes": processes, "fusion_mb": fusion_mb, "ideal": ideal, **result}
        traffic.append(row)
        print(
            f"| {processes} | {fusion_mb:g} | {result['bytes'] / 1e6:.1f} | {ideal / 1e6:.1f} | "
            f"{result['bytes'] / ideal:.3f} |",
            flush=True,
        )
    rates = {"1 x 2": [], "2 x 1": []}
    for _ in range(arguments.repeats):
        rates["1 x 2"].append(measure(1, 2, 25.0, arguments.steps)["images_per_second"])
        rates["2 x 1"].append(measure(2, 1, 25.0, arguments.steps)["images_per_second"])
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(
        f"images/s, medians of {arguments.repeats}: 1 process × 2 threads {medians['1 x 2']:.2f}, "
        f"2 processes × 1 thread {medians['2 x 1']:.2f}: "
        f"{medians['2 x 1'] / medians['1 x 2']:.2f} times"
    )
    if arguments.json:
        result = {"traffic": traffic, "images_per_second": rates}
        Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
