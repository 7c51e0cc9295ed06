"""``passl visualize``: pictures of what a network has learned."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Optional

from passl.cli.common import (
    add_config_arguments,
    add_weights,
    config_of,
    load_named_weights,
    make_parser,
    run_command,
)
from passl.datasets.sources.paths import ImagePaths, find_images
from passl.datasets.view import evaluation_view
from passl.deployment.predictor import prediction_loader
from passl.inspection.attention import draw_attention
from passl.inspection.visualization import visualize
from passl.modeling.architectures import build_architecture
from passl.utils.commands import command
from passl.utils.environment import select_device


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Draw what a network has learned: the kernels of the patch embedding; for MLP-Mixer the "
        "hidden units of each token-mixing MLP in pairs of opposite phase, by frequency; for ViT "
        "how alike positions are; for Swin and BEiT what is added for a distance. With --images, "
        "what the attention of a plain transformer goes to in them.",
        f"  {command('visualize')} -c mlp-mixer_b16_224 --weights Mixer-B_16.npz --output pics\n"
        f"  {command('visualize')} -c vit_b16_224 --weights ViT-B_16-224.npz --output pics "
        "--images photos/",
    )
    add_config_arguments(parser)
    add_weights(parser)
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="where the PNG files are written"
    )
    parser.add_argument(
        "--images", metavar="PATH", nargs="+",
        help="images, or folders of them, to draw the attention for",
    )  # fmt: skip
    return parser


def _main(arguments: argparse.Namespace) -> None:
    cfg = config_of(arguments)
    select_device(cfg.device, cfg.tf32)
    architecture = build_architecture(cfg.model)
    load_named_weights(architecture, arguments, cfg)
    folder = Path(arguments.output)
    written = visualize(architecture.backbone, folder)
    if arguments.images:
        section = evaluation_view(cfg)
        paths = find_images(arguments.images)
        dataset = ImagePaths(paths, section.dataset.get("transforms") or ())
        dataset.max_pixels = section.loader.max_pixels
        loader = prediction_loader(dataset, section, section.sampler.batch_size)
        written += draw_attention(architecture, loader, folder)
    for path in written:
        print(path)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv, answers=True)


if __name__ == "__main__":
    sys.exit(main())
