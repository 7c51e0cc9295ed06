"""``passl-benchmark``: what holds a run back."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from passl.cli.common import (
    add_config_arguments,
    add_synthetic,
    config_of,
    make_parser,
    run_command,
    write_json,
)
from passl.engine import benchmarks
from passl.utils.environment import describe_environment, select_device
from passl.utils.errors import PasslError


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Measure what a config's run is held back by. data: the input pipeline, stage by stage "
        "and as a whole; step: the model alone; train: both, and how long the model waits.",
        "  python tools/benchmark.py data -c configs/mlp_mixer/mlp-mixer_groceries.yaml\n"
        "  python tools/benchmark.py train -c mlp-mixer_b16_224 --device gpu --json speed.json",
    )
    parser.add_argument("what", choices=("data", "step", "train"))
    add_config_arguments(parser)
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="train", help="for data"
    )
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="images a stage (default: 256)"
    )
    parser.add_argument(
        "--steps", type=int, default=20, metavar="N", help="batches or steps a run (default: 20)"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, metavar="N", help="the median counts (default: 5)"
    )
    add_synthetic(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the result to FILE")
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if min(arguments.images, arguments.steps, arguments.repeats) < 1:
        raise PasslError("--images, --steps and --repeats are at least 1")
    cfg = config_of(arguments)
    device = select_device(cfg.device, cfg.tf32)
    result = {"what": arguments.what, "environment": describe_environment(device)}
    if arguments.what == "data":
        stages = benchmarks.data_stages(cfg, arguments.split, arguments.images, arguments.repeats)
        loader = benchmarks.data_loader(cfg, arguments.split, arguments.steps, arguments.repeats)
        result.update(one_process=stages, loader=loader)
        for stage, milliseconds in stages["stages"].items():
            print(f"{stage:10} {milliseconds:8.3f} ms an image")
        print(f"one process    {stages['images_per_second']:10.1f} images/s")
        print(
            f"loader         {loader['images_per_second']:10.1f} images/s "
            f"with {loader['num_workers']} workers"
        )
    elif arguments.what == "step":
        step = benchmarks.model_steps(cfg, arguments.steps, arguments.repeats)
        result.update(step)
        print(
            f"{step['images_per_second']:.1f} images/s, batches of {step['batch_size']}, "
            f"{step['parameters']:,} parameters"
        )
    else:
        run = benchmarks.training(cfg, arguments.steps)
        result.update(run)
        print(
            f"{run['images_per_second']:.1f} images/s over {run['steps']} steps; the model waited "
            f"for data {100 * run['waiting']:.1f} % of the time"
        )
    if arguments.json:
        write_json(arguments.json, result)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
