#!/usr/bin/env python3
"""Trained networks as PASSL's runtimes run them, against timm in PyTorch on the same processor.

One process holds all of PASSL's runtimes, another one timm's network in float32 and under bfloat16
autocast; they take turns with batches of the same shape, so that what slows the machine down slows
all of them down. A ratio is the median over the turns of timm's float32 seconds to those of that
turn: above 1 is faster than timm.

usage: python benchmarks/inference.py --reference PYTHON [--models mixer_s16_224 …] [--json FILE]
PYTHON: an interpreter with torch and timm; this one needs pip install -e ".[cpu,onnx]".
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

ROOT = Path(__file__).resolve().parent.parent
SIZE = 224
# timm's name -> the name here, and a config.
NETWORKS = {
    **{f"mixer_{size}_224": (f"mlp_mixer_{size}_224", f"mlp-mixer_{size}_224")
       for size in ("s32", "s16", "b32", "b16", "l32", "l16")},
    "vit_small_patch16_224": ("vit_s16_224", "vit_s16_224"),
    "swin_tiny_patch4_window7_224": ("swin_t_224", "swin_t_224"),
}  # fmt: skip
TIMM = "timm, PyTorch"
TIMM_BF16 = "timm, PyTorch bfloat16 autocast"


def timm_serves(name, threads):
    """Answers lines of runtime, batch and steps, with tabs between, with seconds a batch."""
    import timm
    import torch

    torch.set_num_threads(threads)
    network = timm.create_model(name).eval()
    print(json.dumps({"torch": torch.__version__, "timm": timm.__version__}), flush=True)
    batches = {}
    with torch.inference_mode():
        for line in sys.stdin:
            runtime, count, steps = line.rstrip("\n").split("\t")
            images = batches.setdefault(count, torch.randn(int(count), 3, SIZE, SIZE))
            with torch.autocast("cpu", torch.bfloat16, enabled=runtime == TIMM_BF16):
                started = time.perf_counter()
                for _ in range(int(steps)):
                    network(images)
                print((time.perf_counter() - started) / int(steps), flush=True)


def passl_runs(name, folder):
    sys.path.insert(0, str(ROOT))
    import passl

    # isort: split
    import paddle

    from passl.deployment.export import FORMATS, export
    from passl.deployment.runtimes import candidates
    from passl.utils.config import get_config

    backbone, config = NETWORKS[name]
    network = passl.create_model(backbone)
    paddle.seed(0)
    for parameter in network.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.05)
    section = get_config(config).dataloader.val
    export(network, folder, section, (SIZE, SIZE), {}, FORMATS, int8=True)
    return list(candidates(folder, network))


def measure(name, arguments, threads):
    import numpy as np

    rows, left_out = {}, {}
    with tempfile.TemporaryDirectory() as place:
        runs = {}
        for runtime, run, reason in passl_runs(name, Path(place)):
            if run is None:
                left_out[runtime] = reason
            else:
                runs[runtime] = run
        command = [arguments.reference, __file__, "--serve", name, "--threads", str(threads)]
        server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        versions = json.loads(server.stdout.readline())

        def ask(runtime, count, steps):
            server.stdin.write(f"{runtime}\t{count}\t{steps}\n")
            return float(server.stdout.readline())

        def time_one(runtime, count, steps):
            if runtime in (TIMM, TIMM_BF16):
                return ask(runtime, count, steps)
            images = np.random.default_rng(0).standard_normal((count, 3, SIZE, SIZE), np.float32)
            started = time.perf_counter()
            for _ in range(steps):
                runs[runtime](images)
            return (time.perf_counter() - started) / steps

        contestants = [TIMM, TIMM_BF16, *runs]
        for count in arguments.batch_sizes:
            turns = {runtime: [] for runtime in contestants}
            for runtime in contestants:
                time_one(runtime, count, 1)
            for _ in range(arguments.repeats):
                for runtime in contestants:
                    turns[runtime].append(time_one(runtime, count, arguments.steps))
            for runtime, seconds in turns.items():
                ratios = [a / b for a, b in zip(turns[TIMM], seconds)]
                rows.setdefault(runtime, {})[count] = {
                    "milliseconds": 1e3 * statistics.median(seconds),
                    "images_per_second": count / statistics.median(seconds),
                    "ratio": statistics.median(ratios),
                    "least": min(ratios),
                    "most": max(ratios),
                }
        server.stdin.close()
        server.wait()
    print(f"{name}, {threads} threads, torch {versions['torch']}, timm {versions['timm']}")
    for runtime, row in rows.items():
        cells = [
            f"batch {count}: {cell['milliseconds']:8.1f} ms {cell['images_per_second']:6.1f}/s "
            f"{cell['ratio']:5.2f} × timm ({cell['least']:.2f} to {cell['most']:.2f})"
            for count, cell in row.items()
        ]
        print(f"  {runtime:34} {'   '.join(cells)}")
    for runtime, reason in left_out.items():
        print(f"  {runtime:34} not measured: {reason}")
    return {"versions": versions, "threads": threads, "runtimes": rows, "left_out": left_out}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference", metavar="PYTHON", help="an interpreter with torch and timm")
    parser.add_argument("--models", nargs="+", default=["mixer_s16_224", "mixer_b16_224"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--steps", type=int, default=2, help="batches a turn")
    parser.add_argument("--repeats", type=int, default=7, help="turns")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        timm_serves(arguments.serve, arguments.threads)
        return
    if not arguments.reference:
        parser.error("--reference is needed")
    result = {name: measure(name, arguments, arguments.threads) for name in arguments.models}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
