"""``passl search``: images of a folder that fit words, or are like another image."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import List, Optional

from passl.cli.common import (
    add_config_arguments,
    add_weights,
    config_of,
    make_parser,
    run_command,
    write_json,
)
from passl.cli.named_images import add_batch_size, batch_size_of, open_network
from passl.datasets.view import evaluation_view, words_of_view
from passl.deployment.search import Answers, Gallery, Searcher
from passl.utils.commands import command
from passl.utils.errors import PasslError, shown
from passl.utils.logging import logger
from passl.weights.origin import describe_origin

_MOST = 1000  # answers to a query


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Search the images below a folder by words, or by another image, with a CLIP: the best of "
        "each query with their similarity, and a page of them. What the network makes of the "
        "images is kept in $PASSL_CACHE (or ~/.cache/passl), so that the next search looks at new "
        "and changed ones alone.",
        f"  {command('search')} -c output/clip/config.yaml 'a dog on a beach' --in photos/\n"
        f"  {command('search')} -c output/clip/config.yaml '沙滩上的狗' 'two cats' \\\n"
        "      --like cat.jpg --in photos/ --top 20 --output output/search",
    )
    parser.add_argument(
        "words", nargs="*", metavar="WORDS",
        help="what to look for; in quotes, as one argument is one query",
    )  # fmt: skip
    parser.add_argument(
        "--in", dest="folders", action="append", required=True, metavar="DIR",
        help="a folder of images, with all below it; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--like", action="append", default=[], metavar="IMAGE",
        help="an image that others are to be like; may be repeated",
    )  # fmt: skip
    add_config_arguments(parser)
    add_weights(parser)
    add_batch_size(parser)
    parser.add_argument(
        "--top", type=int, default=12, metavar="K", help="answers to each query (default: 12)"
    )
    parser.add_argument(
        "--output", metavar="DIR",
        help="where answers.html goes; default: search, in the output folder of the config",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", help="also write the answers to FILE")
    return parser


def _main(arguments: argparse.Namespace) -> None:
    if not arguments.words and not arguments.like:
        raise PasslError(
            "there is nothing to look for: give words, in quotes, or an image with --like"
        )
    if not 1 <= arguments.top <= _MOST:
        raise PasslError(f"--top lies between 1 and {_MOST}")
    given = {"--in": arguments.folders, "--like": arguments.like, "WORDS": arguments.words}
    for name, values in given.items():
        if not all(value.strip() for value in values):
            raise PasslError(f"{name} is empty; is it a shell variable that is not set?")
    for path in arguments.like:
        if not Path(path).is_file():
            raise PasslError(f"--like {shown(path)}: there is no such file")
    cfg = config_of(arguments)
    section = evaluation_view(cfg)
    batch_size = batch_size_of(arguments, section)
    architecture, report = open_network(arguments, cfg, section)
    searcher = Searcher(architecture, cfg.model, section, batch_size)
    gallery = searcher.gallery(arguments.folders)
    answers = gallery.search(searcher, arguments.words, arguments.like, arguments.top)
    for found in answers:
        print(_as_text(found, gallery))
    if arguments.json:
        write_json(arguments.json, [_as_dict(found, gallery) for found in answers])
    # Imported late: what draws takes half a second.
    from passl.deployment.answers_page import write_answers

    origin = describe_origin(report.metadata.get("origin"))
    facts = {
        "in": ", ".join(arguments.folders),
        "config": arguments.config,
        "weights": report.whence if origin is None else f"{report.whence}, {origin}",
        "view": words_of_view(section),
    }
    page = Path(arguments.output or Path(cfg.output_dir, "search")) / "answers.html"
    write_answers(page, gallery.paths, answers, section, facts)
    logger.info("%s: open it in a browser (%.1f MB)", page, page.stat().st_size / 1e6)


def _as_text(found: Answers, gallery: Gallery) -> str:
    lines = [
        f"  {round(similarity, 4) + 0.0:7.4f}  {gallery.paths[place]}"
        for place, similarity in zip(found.places, found.similarities)
    ]
    return "\n".join([found.title, *lines])


def _as_dict(found: Answers, gallery: Gallery) -> dict:
    return {
        "words": found.words,
        "like": found.like,
        "answers": [
            {"path": gallery.paths[place], "similarity": similarity}
            for place, similarity in zip(found.places, found.similarities)
        ],
    }


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    return run_command(_main, _parser(), argv, answers=True, memory="lower --batch-size")


if __name__ == "__main__":
    sys.exit(main())
