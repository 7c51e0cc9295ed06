"""``passl models``: the networks, configs and released weights that there are."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import List, Optional

from passl.cli.common import add_imports, import_named, make_parser, run_command
from passl.modeling.backbones import BACKBONES
from passl.utils import zoo
from passl.utils.errors import PasslError, suggest
from passl.utils.shipped import config_root
from passl.weights import WeightFile


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Show the networks, configs and released weights that there are; or everything known of "
        "some released weights: files, hashes, preprocessing, reported accuracy. Or fetch them "
        "ahead, for machines without a network.",
        "  passl models\n  passl models mlp_mixer_b16_224.goog_in1k\n  passl models mlp_mixer_l16\n"
        "  passl models --fetch mlp_mixer_b16_224.goog_in1k deit_ti16_224.fb_in1k",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="a release, or how its name begins"
    )
    parser.add_argument(
        "--fetch", action="store_true",
        help="fetch the weights of these releases into the cache ($PASSL_CACHE/weights or "
        "~/.cache/passl/weights), and print where they are; NAME@PUBLISHER picks one publisher's",
    )  # fmt: skip
    add_imports(parser)
    return parser


def _main(arguments: argparse.Namespace) -> None:
    import_named(arguments)
    releases = zoo.releases()
    if arguments.fetch:
        _fetch(arguments.names)
        return
    if not arguments.names:
        print(_overview())
        return
    chosen: List[str] = []
    for name in arguments.names:
        found = [release for release in releases if release.startswith(name)]
        if not found:
            raise PasslError(
                f"no released weights are called '{name}'{suggest(name, releases)}; passl models "
                "lists them"
            )
        chosen += found
    print(zoo.as_text(chosen))


def _fetch(names: List[str]) -> None:
    if not names:
        raise PasslError("--fetch takes names of releases; passl models lists them")
    for name in names:
        zoo.get_release(name.partition("@")[0])
    for name in names:
        with WeightFile(name) as file:
            print(file.path)


def _overview() -> str:
    width = min(shutil.get_terminal_size((120, 24)).columns, 120)
    lines = ["Networks (model.architecture.name in a config, or passl.create_model):"]
    lines += textwrap.wrap(
        ", ".join(BACKBONES.names()), width, initial_indent="  ", subsequent_indent="  "
    )
    lines += ["", "Configs (-c NAME):"]
    for path in sorted(config_root().glob("*/*.yaml")):
        if path.parent.name != "zoo":
            about = textwrap.shorten(_title(path), max(20, width - 36), placeholder=" …")
            lines.append(f"  {path.stem:33} {about}")
    lines += ["", "Released weights (passl models NAME for files, preprocessing and sources):"]
    for release in zoo.releases().values():
        reported = ", ".join(f"{a} {a.by}" for a in release.reported) or "no accuracy reported"
        lines.append(f"  {release.name:41} {release.parameters:>12,} parameters  {reported}")
    return "\n".join(lines)


def _title(path: Path) -> str:
    """Returns the first sentence of a config's head comment."""
    comment: List[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        comment.append(line[2:])
    return re.split(r"[.:] ", " ".join(comment) + " ")[0]


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv, answers=True)


if __name__ == "__main__":
    sys.exit(main())
