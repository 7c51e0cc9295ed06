#!/usr/bin/env python3
"""What the environment that PASSL sets before importing Paddle gains on this CPU.

Times training steps of a small Mixer in processes of their own, in turn: as Paddle starts by
itself, with the variables that PASSL sets, and with the memory kept as well that is freed.

usage: python benchmarks/cpu_environment.py [--repeats 5] [--json FILE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VARIABLES = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE")
# A variable of the C library that changes nothing here: where there is one, PASSL sets nothing.
LEFT_ALONE = {"MALLOC_ARENA_TEST": "8"}

STEPS = """
import sys, time
if sys.argv[1] == "paddle":
    import zlib, paddle  # first, so that PASSL comes too late to set anything
import passl, paddle
from passl.modeling.architectures import build_architecture
from passl.modeling.layers.functional import single_backward
from passl.solver import build_optimizer
model = build_architecture({
    "architecture": {"name": "MlpMixer", "img_size": 64, "patch_size": 8, "embed_dim": 128,
                     "num_blocks": 6, "tokens_mlp_dim": 64, "channels_mlp_dim": 512},
    "head": {"name": "ClassificationHead", "num_classes": 14}})
optimizer = build_optimizer({"name": "AdamW"}, model)
batch = {"image": paddle.randn([32, 3, 64, 64]), "label": paddle.randint(0, 14, [32])}
for step in range(13):
    if step == 3:
        started = time.perf_counter()
    with single_backward():
        model(batch)["loss"].backward()
    optimizer.step(1e-3)
print(10 * 32 / (time.perf_counter() - started))
"""


def rate(who: str) -> float:
    """Returns images a second of training steps."""
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    if who != "passl":
        env.update(LEFT_ALONE)
    env["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", STEPS, who],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    for repeat in range(arguments.repeats):
        alone, variables, ours = rate("paddle"), rate("variables"), rate("passl")
        row = {"paddle": alone, "variables": variables, "passl": ours, "ratio": ours / alone}
        rows.append({**row, "ratio of variables": variables / alone})
        print(
            f"{repeat + 1}: Paddle alone {alone:.1f}, with the variables {variables:.1f}, and with "
            f"memory kept {ours:.1f} images/s, ratio {ours / alone:.2f}",
            flush=True,
        )
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print(
        f"median ratio of {len(rows)}: {medians['ratio']:.2f}, of the variables alone "
        f"{medians['ratio of variables']:.2f}"
    )
    if arguments.json:
        Path(arguments.json).write_text(
            json.dumps({"medians": medians, "rows": rows}, indent=2), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
