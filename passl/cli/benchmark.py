"""``passl benchmark``: what holds a run back, and what runs a trained network fastest."""

from __future__ import annotations

import argparse
import sys
from typing import Any, Dict, List, Optional

import paddle

from passl.cli.common import (
    add_config_arguments,
    add_synthetic,
    config_of,
    make_parser,
    run_command,
    write_json,
)
from passl.deployment.export import TOLERANCE
from passl.deployment.runtimes import math_threads
from passl.distributed.processes import Processes
from passl.engine.plan import with_counted_classes
from passl.inspection import benchmarks
from passl.modeling.architectures.classifier import Network
from passl.utils.commands import command
from passl.utils.config import Config, with_classes
from passl.utils.environment import describe_environment, select_device
from passl.utils.errors import PasslError


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Measure what a config's run is held back by. data: the input pipeline, stage by stage "
        "and as a whole; step: the model alone; train: both, and how long the model waits; infer: "
        "a trained network in every runtime that is installed, side by side.",
        f"  {command('benchmark')} data -c mlp-mixer_groceries\n"
        f"  {command('benchmark')} train -c mlp-mixer_b16_224 --device gpu --json speed.json\n"
        f"  {command('benchmark')} infer -c mlp-mixer_s16_224 --batch-sizes 1 8",
    )
    parser.add_argument("what", choices=("data", "step", "train", "infer"))
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
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=[1, 8], metavar="N",
        help="images at a time, for infer (default: 1 8)",
    )  # fmt: skip
    add_synthetic(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the result to FILE")
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if min(arguments.images, arguments.steps, arguments.repeats, *arguments.batch_sizes) < 1:
        raise PasslError("--images, --steps, --repeats and --batch-sizes are at least 1")
    cfg = config_of(arguments)
    if arguments.what in ("data", "train"):
        cfg, _ = with_counted_classes(cfg, Processes())
    else:  # made-up labels, and no data
        cfg = with_classes(cfg, 1000)
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
        step = benchmarks.model_steps(cfg, device, arguments.steps, arguments.repeats)
        result.update(step)
        print(
            f"{step['images_per_second']:.1f} images/s, {_batches(step)} of "
            f"{step['batch_size']}, {step['parameters']:,} parameters"
        )
    elif arguments.what == "infer":
        result.update(_infer(arguments, cfg))
    else:
        run = benchmarks.training(cfg, device, arguments.steps)
        result.update(run)
        print(
            f"{run['images_per_second']:.1f} images/s over {run['steps']} {_batches(run)}; "
            f"the model waited for data {100 * run['waiting']:.1f} % of the time"
        )
    if arguments.json:
        write_json(arguments.json, result)


def _batches(result: Dict[str, Any]) -> str:
    accumulated = result["accumulation"]
    return "batches" if accumulated == 1 else f"batches, {accumulated} an optimizer step,"


def _infer(arguments: argparse.Namespace, cfg: Config) -> Dict[str, Any]:
    network = Network(cfg.model["architecture"], cfg.model.get("head"))
    # The time does not depend on the weights; the logits compared are not to be those of a head
    # that begins at zero.
    paddle.seed(0)
    for parameter in network.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.05)
    sizes = sorted(set(arguments.batch_sizes))
    answer = benchmarks.inference(cfg, network, sizes, arguments.steps, arguments.repeats)
    print(
        f"images of {answer['image_size'][0]} × {answer['image_size'][1]} pixels, "
        f"{math_threads()} math threads; random weights"
    )
    head = "".join(f"{f'batch {size}':>34}" for size in sizes)
    print(f"{'':34}{head}{'logits differ by':>20}")
    for name, row in answer["runtimes"].items():
        cells = "".join(
            f"{row[str(size)]['milliseconds']:9.1f} ms"
            f"{row[str(size)]['images_per_second']:9.1f}/s{row[str(size)]['ratio']:7.2f} ×"
            for size in sizes
        )
        print(f"{name:36}{cells.rjust(34 * len(sizes) - 2)}{row['difference']:20.1e}")
    for name, reason in answer["left_out"].items():
        print(f"{name:36}  not measured: {reason}")
    for size in sizes:
        print(f"deploy, at batch {size}: {answer['fastest'][str(size)]}")
    rows = answer["runtimes"]
    best = {size: rows[answer["fastest"][str(size)]][str(size)]["ratio"] for size in sizes}
    faster = [
        name
        for name, row in rows.items()
        if row["difference"] > TOLERANCE and any(row[str(n)]["ratio"] > best[n] for n in sizes)
    ]
    for name in faster:
        print(f"{name} is faster, with other logits: measure its accuracy before you take it")
    return answer


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    memory = "lower dataloader.train.sampler.batch_size, or --batch-sizes of infer"
    return run_command(_main, _parser(), argv, memory=memory)


if __name__ == "__main__":
    sys.exit(main())
