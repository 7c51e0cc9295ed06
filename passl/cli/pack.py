"""``passl pack``: a data set as tar shards that are faster to read."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from passl.cli.common import add_config_arguments, make_parser, overrides_of, run_command
from passl.datasets import build_dataset
from passl.datasets.sources.files import CatalogDataset
from passl.datasets.sources.packing import pack, verify
from passl.utils.commands import command
from passl.utils.config import get_config, split_section
from passl.utils.environment import available_cores
from passl.utils.errors import PasslError


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Pack the images of a config's data set into tar shards, resized or as they are. Run "
        "again after an interruption, it goes on.",
        f"  {command('pack')} -c mlp-mixer_b16_224 --split train \\\n"
        "      --output data/ILSVRC2012-256/train --short-side 256 --quality 90\n"
        f"  {command('train')} -c mlp-mixer_b16_224 \\\n"
        "      -o dataloader.train.dataset.dataroot=data/ILSVRC2012-256",
    )
    add_config_arguments(parser)
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--output", required=True, metavar="DIR", help="folder of the shards")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--short-side", type=int, default=256, metavar="PIXELS",
        help="shrink larger images to this (default: 256)",
    )  # fmt: skip
    size.add_argument("--keep", action="store_true", help="keep every file as it is")
    parser.add_argument("--quality", type=int, default=90, help="JPEG quality (default: 90)")
    parser.add_argument(
        "--per-shard", type=int, default=10_000, metavar="N", help="images a shard (default: 10000)"
    )
    parser.add_argument(
        "--workers", type=int, default=available_cores(), metavar="N", help="default: all cores"
    )
    parser.add_argument(
        "--verify", action="store_true", help="only compare an existing DIR with its checksums"
    )
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if arguments.verify:
        print(f"{arguments.output}: {verify(arguments.output)} shards are as they were written")
        return
    if min(arguments.workers, arguments.per_shard) < 1:
        raise PasslError("--workers and --per-shard are at least 1")
    cfg = get_config(arguments.config, overrides_of(arguments), arguments.imports)
    section = split_section(cfg, arguments.split)
    dataset = build_dataset(section.dataset, section.loader.max_pixels)
    if not isinstance(dataset, CatalogDataset):
        raise PasslError(f"{section.dataset.name} does not read image files; there is no need")
    manifest = pack(
        dataset,
        arguments.output,
        None if arguments.keep else arguments.short_side,
        arguments.quality,
        arguments.per_shard,
        arguments.workers,
    )
    shards, skipped = manifest["shards"], len(manifest["skipped"])
    size = sum(shard["size"] for shard in shards)
    print(
        f"{arguments.output}: {manifest['images'] - skipped:,} images in {len(shards)} shards, "
        f"{size / 1e6:,.0f} MB, {skipped} left out"
    )


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
