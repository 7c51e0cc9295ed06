"""``passl export``: a trained network as files to deploy."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

from passl.cli.common import (
    add_class_names,
    add_config_arguments,
    add_weights,
    compare_with_zoo,
    config_of,
    load_named_weights,
    make_parser,
    names_of_classes,
    run_command,
)
from passl.datasets.image_size import image_size
from passl.datasets.view import evaluation_view
from passl.deployment.export import DESCRIPTION, FORMATS, ONNX_PACKAGES, export, missing_for_onnx
from passl.modeling.architectures.classifier import Network
from passl.utils.commands import command
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.utils.logging import logger


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Write a trained network as files that run without PASSL: for Paddle Inference and as "
        "ONNX, with how to prepare images beside them. Each file is run and compared with the "
        "network before it is kept.",
        f"  {command('export')} -c mlp-mixer_b16_224 \\\n"
        "      --weights Mixer-B_16.npz --output deploy\n"
        f"  {command('export')} -c mlp-mixer_groceries --format onnx --int8 --output deploy",
    )
    add_config_arguments(parser)
    add_weights(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="where to put the files")
    parser.add_argument(
        "--format", action="append", choices=FORMATS, metavar="FORMAT",
        help="paddle (model.json or .pdmodel, and .pdiparams) or onnx (model.onnx; needs pip "
        f"install {' '.join(ONNX_PACKAGES)}); may be repeated; default: both, or paddle alone "
        "where these are not installed",
    )  # fmt: skip
    parser.add_argument(
        "--int8", action="store_true",
        help="also write model_int8.onnx, with weights of 8 bits: a quarter of the size, and not "
        "quite the same logits",
    )  # fmt: skip
    parser.add_argument(
        "--features", action="store_true",
        help="the pooled features of the backbone instead of logits",
    )  # fmt: skip
    add_class_names(parser)
    return parser


def _main(arguments: argparse.Namespace) -> None:
    formats = arguments.format or list(FORMATS)
    left_out = ""
    if arguments.format is None and not arguments.int8:
        left_out = missing_for_onnx()
        formats = ["paddle"] if left_out else formats
    if arguments.int8 and "onnx" not in formats:
        raise PasslError("--int8 makes an ONNX file; add --format onnx")
    if arguments.features and arguments.class_names is not None:
        raise PasslError("features have no classes; leave --class-names or --features out")
    cfg = config_of(arguments)
    section = evaluation_view(cfg)
    size = image_size(section)
    select_device("cpu", cfg.tf32)  # what is written is the same for all devices
    network = Network(cfg.model["architecture"], cfg.model.get("head"))
    report = load_named_weights(network, arguments, cfg)
    compare_with_zoo(report, section)
    facts: Dict[str, Any] = {"config": arguments.config, "weights": report.whence}
    if arguments.features:
        network.head = None
        facts["output"] = {"features": network.num_features}
    else:
        names = names_of_classes(network.num_classes, report, arguments, section)
        facts["output"] = {"logits": network.num_classes}
        facts["class_names"] = names
    folder = Path(arguments.output)
    made = export(network, folder, section, size, facts, formats, arguments.int8)
    for name, difference in made["differences"].items():
        print(f"{name:10} differs from the network by {difference:.1e} of the largest number")
    if left_out:
        logger.info("model.onnx was left out: %s", left_out)
    logger.info("%s: the files, and %s with how to prepare images", folder, DESCRIPTION)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
