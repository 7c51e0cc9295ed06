"""``passl-eval``: Top-1 and Top-5 of a checkpoint."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import List, Optional

from passl.cli.common import make_parser, overrides_of, run_command
from passl.datasets import build_dataset
from passl.engine.checkpoint import load_model
from passl.engine.checks import check_classes
from passl.engine.evaluator import crop_ratio, evaluate, evaluation_loader
from passl.hooks.checkpoint import BEST, checkpoint_folder
from passl.modeling.architectures import build_architecture
from passl.utils.config import get_config
from passl.utils.environment import select_device
from passl.utils.errors import PasslError


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Evaluate a checkpoint: Top-1, Top-5 and loss over exactly the images of a set.",
        "  python tools/eval.py -c configs/mlp_mixer/mlp-mixer_b16_224.yaml \\\n"
        "      --weights output/mlp-mixer_b16_224/checkpoints/best.safetensors",
    )
    parser.add_argument(
        "--weights", metavar="PATH",
        help="a checkpoint; default: the best one in the output folder",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=("train", "val", "test"), default="val",
        help="the section of the config's dataloader to evaluate (default: val)",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write the result to FILE")
    return parser


def _main(arguments: argparse.Namespace) -> None:
    cfg = get_config(arguments.config, overrides_of(arguments))
    section = cfg.dataloader[arguments.split]
    if section is None:
        raise PasslError(f"the config has no dataloader.{arguments.split} section")
    select_device(cfg.device)
    dataset = build_dataset(section.dataset)
    architecture = build_architecture(cfg.model)
    weights = arguments.weights or checkpoint_folder(Path(cfg.output_dir)) / BEST
    metadata = load_model(weights, architecture)
    check_classes(architecture, dataset, metadata.get("class_names"), section)
    result = evaluate(architecture, evaluation_loader(dataset, section), arguments.split)
    ratio = crop_ratio(dataset)
    print(
        f"{section.dataset.get('dataroot', section.dataset.name)} ({arguments.split}): "
        f"Top-1 {result['top1']:.2f} %  Top-5 {result['top5']:.2f} %  loss {result['loss']:.4f}  "
        f"over {result['samples']} images at crop ratio {'none' if ratio is None else ratio}, "
        f"{result['seconds']:.1f} s, {result['images_per_second']:.1f} images/s"
    )
    if arguments.json:
        _write_json(arguments.json, {**result, "crop_ratio": ratio})


def _write_json(path: str, result: dict) -> None:
    try:
        Path(path).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise PasslError(f"{path}: cannot be written ({error.strerror})") from None


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
