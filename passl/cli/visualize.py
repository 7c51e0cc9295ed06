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
from passl.inspection.visualization import visualize
from passl.modeling.architectures import build_architecture
from passl.utils.commands import command
from passl.utils.environment import select_device


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Draw what a network has learned: for MLP-Mixer the kernels of the patch embedding, and "
        "the hidden units of each token-mixing MLP in pairs of opposite phase, by frequency.",
        f"  {command('visualize')} -c mlp-mixer_b16_224 --weights Mixer-B_16.npz --output pics",
    )
    add_config_arguments(parser)
    add_weights(parser)
    parser.add_argument(
        "--output", metavar="DIR", required=True, help="where the PNG files are written"
    )
    return parser


def _main(arguments: argparse.Namespace) -> None:
    cfg = config_of(arguments)
    select_device(cfg.device, cfg.tf32)
    architecture = build_architecture(cfg.model)
    load_named_weights(architecture, arguments, cfg)
    for path in visualize(architecture.backbone, Path(arguments.output)):
        print(path)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv, answers=True)


if __name__ == "__main__":
    sys.exit(main())
