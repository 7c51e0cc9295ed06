"""``passl features``: what a network makes of images, and which of them it takes for alike."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Mapping, Optional

import numpy as np

from passl.cli.common import add_config_arguments, add_weights, config_of, make_parser, run_command
from passl.cli.named_images import add_images, open_images
from passl.datasets.view import words_of_view
from passl.deployment.features import features
from passl.utils.commands import command
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.utils.whole_files import filling, replacing
from passl.weights.origin import describe_origin

_MOST = 100  # neighbours of an image on the page


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Write the pooled features of images as arrays, and a page that shows to each image those "
        "that are nearest to it. For any network: of a classifier, or pre-trained without labels.",
        f"  {command('features')} -c output/simclr/config.yaml photos/ --output output/features\n"
        f"  {command('features')} -c mlp-mixer_b16_224 --weights Mixer-B_16.npz photos/ \\\n"
        "      --output output/features --neighbours 12",
    )
    add_images(parser)
    add_config_arguments(parser)
    add_weights(parser)
    parser.add_argument(
        "--output", metavar="DIR", required=True,
        help="where features.npz (paths, features float32 [images, numbers], and config, weights "
        "and view, which they come from) and neighbours.html go",
    )  # fmt: skip
    parser.add_argument(
        "--neighbours", type=int, default=8, metavar="K",
        help="images beside each on the page; 0 writes none (default: 8)",
    )  # fmt: skip
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if not 0 <= arguments.neighbours <= _MOST:
        raise PasslError(f"--neighbours lies between 0 and {_MOST}")
    cfg = config_of(arguments)
    section, architecture, report, loader = open_images(arguments, cfg, "backbone")
    places, rows = features(architecture, loader)
    folder, dataset = Path(arguments.output), loader.dataset
    paths = [dataset.where(place) for place in places]
    origin = describe_origin(report.metadata.get("origin"))
    facts = {
        "config": arguments.config,
        "weights": report.whence if origin is None else f"{report.whence}, {origin}",
        "view": words_of_view(section),
    }
    _write_features(folder, paths, rows, facts)
    if not arguments.neighbours:
        return
    if len(paths) == 1:
        logger.info("one image has no neighbours: no page is written")
        return
    # Imported late: what draws takes half a second.
    from passl.deployment.neighbours_page import write_neighbours

    page = folder / "neighbours.html"
    write_neighbours(page, dataset, places, rows, arguments.neighbours, facts)
    logger.info("%s: open it in a browser (%.1f MB)", page, page.stat().st_size / 1e6)


def _write_features(
    folder: Path, paths: List[str], rows: np.ndarray, facts: Mapping[str, str]
) -> None:
    file = folder / "features.npz"
    with filling(folder), replacing(file) as aside, open(aside, "wb") as target:
        np.savez(target, paths=np.array(paths), features=rows, **facts)
    logger.info("%s: features of %d images, %d numbers each", file, *rows.shape)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
