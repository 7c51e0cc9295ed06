"""``passl convert``: released weights from one format to another."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Dict, List, Optional

from passl.cli.common import (
    add_imports,
    add_weights_key,
    import_named,
    make_parser,
    run_command,
)
from passl.modeling.backbones import BACKBONES
from passl.utils.commands import command
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.weights.converting import convert_weights
from passl.weights.naming import ReleasedNames
from passl.weights.origin import describe_origin


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Convert weights between the names and formats of Google, timm, mmpretrain, PASSL 1 and "
        "others, and PASSL's own. Numbers stay as they are, bit for bit; nothing in the source "
        "is run.",
        f"  {command('convert')} Mixer-B_16.npz mixer_b16.safetensors\n"
        f"  {command('convert')} output/mine/checkpoints/best.safetensors best.pth --to timm\n"
        f"  {command('convert')} output/simclr/checkpoints/latest.safetensors backbone.safetensors "
        "--part backbone\n"
        f"  {command('convert')} ViT-B-32.pt mean.safetensors --mean finetuned.safetensors",
    )
    parser.add_argument(
        "source", metavar="SRC", help="any weight file, or name of a release, that eval takes"
    )
    parser.add_argument(
        "target", metavar="DST",
        help="what to write; its suffix picks the format: .npz, .pth, .pt, .bin, .pdparams, "
        ".safetensors",
    )  # fmt: skip
    publishers = sorted({publisher for names in _families().values() for publisher in names})
    parser.add_argument(
        "--to", metavar="PUBLISHER",
        help=f"whose names, as far as they have the network: passl, {', '.join(publishers)}; "
        "default: google for .npz, timm for torch's formats, passl_v1 for .pdparams, passl for "
        ".safetensors",
    )  # fmt: skip
    parser.add_argument(
        "--part", choices=("backbone", "twin"),
        help="write the backbone alone, without head or projector, with a record of the method, "
        "the epochs and the kNN accuracy where the source has them; twin: that of the momentum "
        "encoder, which MoCo's and BYOL's authors do not release; default: everything",
    )  # fmt: skip
    parser.add_argument(
        "--mean", metavar="FILE",
        help="write the mean of SRC and this other file of the same network (WiSE-FT), which after "
        "fine-tuning is often better on other images than either",
    )  # fmt: skip
    parser.add_argument(
        "--share", type=float, metavar="A",
        help="of --mean's file in the mean, from 0 to 1 (default: 0.5)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="write over DST where it exists")
    add_weights_key(parser)
    add_imports(parser)
    return parser


def _families() -> Dict[str, ReleasedNames]:
    """Returns the names of released files, by the class of the backbone that they are for."""
    names = {BACKBONES.attribute(name, "__name__", name): name for name in BACKBONES.names()}
    return {
        family: released
        for family, name in names.items()
        if (released := BACKBONES.attribute(name, "released_names", None))
    }


def _main(arguments: argparse.Namespace) -> None:
    if Path(arguments.target).exists() and not arguments.overwrite:
        raise PasslError(
            f"{arguments.target}: exists already; name another file, or write over it with "
            "--overwrite"
        )
    if arguments.share is not None and arguments.mean is None:
        raise PasslError("--share is that of --mean's file in the mean; add --mean FILE")
    import_named(arguments)
    done = convert_weights(
        arguments.source,
        arguments.target,
        _families(),
        arguments.to,
        arguments.weights_key,
        arguments.part,
        arguments.mean,
        0.5 if arguments.share is None else arguments.share,
    )
    aside = f"; left aside: {', '.join(map(repr, done.dropped))}" if done.dropped else ""
    origin = describe_origin(done.origin)
    print(
        f"{arguments.target}: {done.tensors} tensors, {done.source} names to {done.target} names"
        f"{f', {origin}' if origin else ''}{aside}"
    )
    if done.nameless:
        logger.warning(
            "%s: has no place for the names of the classes, which %s has; give them with "
            "--class-names FILE, or convert to .safetensors", arguments.target, arguments.source,
        )  # fmt: skip


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
