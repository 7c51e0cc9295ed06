"""``passl export``: a trained network as files to deploy."""

from __future__ import annotations

import argparse
import functools
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

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
from passl.cli.words import Words, add_words, words_of
from passl.datasets.image_size import image_size
from passl.datasets.view import evaluation_view
from passl.deployment.export import (
    DESCRIPTION,
    FORMATS,
    ONNX_PACKAGES,
    OWN,
    export,
    missing_for_onnx,
)
from passl.modeling.architectures import ARCHITECTURES, build_architecture
from passl.modeling.architectures.classifier import Network
from passl.utils.commands import command
from passl.utils.config import Config
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.weights import LoadReport
from passl.weights.writing import write_network


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Write a trained network as files that run without PASSL: for Paddle Inference and as "
        "ONNX, with how to prepare images beside them. Each file is run and compared with the "
        "network before it is kept.",
        f"  {command('export')} -c mlp-mixer_b16_224 \\\n"
        "      --weights Mixer-B_16.npz --output deploy\n"
        f"  {command('export')} -c mlp-mixer_groceries --format onnx --int8 --output deploy\n"
        f"  {command('export')} -c clip_vit_b32_224 --weights ViT-B-32.pt --output deploy \\\n"
        "      --labels 'a cat,a dog'",
    )
    add_config_arguments(parser)
    add_weights(parser)
    parser.add_argument("--output", required=True, metavar="DIR", help="where to put the files")
    parser.add_argument(
        "--format", action="append", choices=(*FORMATS, OWN), metavar="FORMAT",
        help="paddle (model.json or .pdmodel, and .pdiparams), onnx (model.onnx; needs pip "
        f"install {' '.join(ONNX_PACKAGES)}) or passl (weights.safetensors, to fine-tune what "
        "tells --labels apart); may be repeated; default: paddle and onnx, or paddle alone where "
        "these packages are not installed",
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
    add_words(parser)
    return parser


def _main(arguments: argparse.Namespace) -> None:
    formats = arguments.format or list(FORMATS)
    left_out = ""
    if arguments.format is None and not arguments.int8:
        left_out = missing_for_onnx()
        formats = ["paddle"] if left_out else formats
    if arguments.int8 and "onnx" not in formats:
        raise PasslError("--int8 makes an ONNX file; add --format onnx")
    of_classes = (arguments.class_names, arguments.labels, arguments.template)
    if arguments.features and any(of_classes):
        raise PasslError(
            "features have no classes; leave --features out, or --class-names, --labels and "
            "--template"
        )
    cfg = config_of(arguments)
    section = evaluation_view(cfg)
    size = image_size(section)
    select_device("cpu", cfg.tf32)  # what is written is the same for all devices
    network, report, words = _network(arguments, cfg)
    compare_with_zoo(report, section)
    facts: Dict[str, Any] = {"config": arguments.config, "weights": report.whence}
    if arguments.features:
        facts["output"] = {"features": network.num_features}
    else:
        facts["output"] = {"logits": network.num_classes}
        if words is None:
            names = names_of_classes(network.num_classes, report, arguments, section)
        else:
            names, facts["templates"] = words.names, words.templates
        facts["class_names"] = names
    folder = Path(arguments.output)
    own = None
    if OWN in formats:
        recorded = None if words is None else words.recorded
        own = functools.partial(write_network, network=network, report=report, class_names=recorded)
    made = export(network, folder, section, size, facts, formats, arguments.int8, own)
    for name, difference in made["differences"].items():
        print(f"{name:10} differs from the network by {difference:.1e} of the largest number")
    if left_out:
        logger.info("model.onnx was left out: %s", left_out)
    logger.info("%s: the files, and %s with how to prepare images", folder, DESCRIPTION)


def _network(
    arguments: argparse.Namespace, cfg: Config
) -> Tuple[Network, LoadReport, Optional[Words]]:
    """Returns what is written, the report of its weights, and the words that it tells apart.

    Raises:
        PasslError: a network without classes, where logits are asked for, or anything wrong with
            weights or words.
    """
    name = cfg.model.get("name", "Classifier")
    by_words = ARCHITECTURES.attribute(name, "as_network", None) is not None
    if by_words and not arguments.features:
        architecture = build_architecture(cfg.model)
        words = words_of(arguments, architecture)
        report = load_named_weights(architecture, arguments, cfg)
        return architecture.as_network(words.classifier(architecture)), report, words
    network = Network(cfg.model["architecture"], cfg.model.get("head"))
    if network.head is None and not arguments.features:
        raise PasslError(
            f"{name} tells no classes apart; --features writes what its backbone makes of images"
        )
    words_of(arguments, network)
    report = load_named_weights(network, arguments, cfg)
    if arguments.features:
        network.head = None
    return network, report, None


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
