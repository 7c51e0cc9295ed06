"""Images that a command line names, and the network that is to look at them."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional, Tuple

from passl.cli.common import compare_with_zoo, load_named_weights
from passl.datasets import Loader
from passl.datasets.sources.paths import ImagePaths, find_images
from passl.datasets.view import evaluation_view
from passl.deployment.predictor import prediction_loader
from passl.modeling.architectures import Architecture, build_architecture
from passl.utils.config import Config
from passl.utils.environment import select_device
from passl.utils.errors import PasslError
from passl.weights import LoadReport


def add_images(parser: argparse.ArgumentParser) -> None:
    """Adds the images, and how many are taken at a time."""
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE",
        help="image files, folders with all images below them, or - for a list of such on the "
        "standard input, one a line",
    )  # fmt: skip
    add_batch_size(parser)


def add_batch_size(parser: argparse.ArgumentParser) -> None:
    """Adds how many images are taken at a time."""
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="images at a time; default: the config's"
    )


def batch_size_of(arguments: argparse.Namespace, section: Config) -> int:
    """Returns how many images are taken at a time.

    Raises:
        PasslError: none are.
    """
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise PasslError("--batch-size is at least 1")
    return arguments.batch_size or section.sampler.batch_size


def open_images(
    arguments: argparse.Namespace, cfg: Config, part: Optional[str] = None
) -> Tuple[Config, Architecture, LoadReport, Loader]:
    """Returns the section that says how images are looked at, the network and its weights' report.

    And a loader over the images, see ``prediction_loader``; its set is an ``ImagePaths``.

    Args:
        arguments: of the command line.
        cfg: the config that they name.
        part: the sub-network that is used alone (``backbone``), so that weights of that are enough.

    Raises:
        PasslError: no images, or anything wrong with config, weights or device.
    """
    section = evaluation_view(cfg)
    batch_size = batch_size_of(arguments, section)
    paths = find_images(_given(arguments.images))
    architecture, report = open_network(arguments, cfg, section, part)
    dataset = ImagePaths(paths, section.dataset.get("transforms") or ())
    dataset.max_pixels = section.loader.max_pixels
    return section, architecture, report, prediction_loader(dataset, section, batch_size)


def open_network(
    arguments: argparse.Namespace, cfg: Config, section: Config, part: Optional[str] = None
) -> Tuple[Architecture, LoadReport]:
    """Returns the network with its weights, and their report.

    Args:
        arguments: of the command line.
        cfg: the config that they name.
        section: that says how images are looked at.
        part: see ``open_images``.

    Raises:
        PasslError: anything wrong with model, weights or device.
    """
    select_device(cfg.device, cfg.tf32)
    architecture = build_architecture(cfg.model)
    used = architecture if part is None else getattr(architecture, part, None)
    if used is None:
        raise PasslError(f"{type(architecture).__name__} has no part called '{part}'")
    report = load_named_weights(used, arguments, cfg)
    compare_with_zoo(report, section)
    return architecture, report


def _given(images: List[str]) -> List[str]:
    """Returns the paths, those on the standard input in the place of ``-``."""
    given: List[str] = []
    for place in images:
        given += _listed() if place == "-" else [place]
    if not given:
        raise PasslError("the standard input holds no path")
    return given


def _listed() -> List[str]:
    """Returns the paths on the standard input; lists made on Windows are taken as well."""
    lines = [line.rstrip("\r\n") for line in sys.stdin]
    if lines:
        lines[0] = lines[0].lstrip("\ufeff")
    if any("\0" in line for line in lines):
        raise PasslError(
            "the standard input holds NUL characters; give one path a line, in UTF-8 (UTF-16, or "
            "paths that end in NUL, are not read)"
        )
    return [line for line in lines if line.strip()]
