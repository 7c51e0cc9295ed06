"""``passl COMMAND``: all command lines under one name."""

from __future__ import annotations

import argparse
import difflib
import importlib
import sys
from typing import Dict, List, Optional

from passl.utils.text import accept_all_text, visible
from passl.utils.version import __version__

# What they do, for the list of them; each is a module beside this one.
COMMANDS: Dict[str, str] = {
    "train": "train as a config says, or look at a run beforehand (--dry-run)",
    "finetune": "released weights on your own images, by one line, with a report",
    "eval": "how good weights are (Top-1, Top-5, …), and a report page (--report)",
    "predict": "what is in these images: names, probabilities, contact sheets",
    "features": "what a network makes of images, and a page of those that are alike",
    "search": "images of a folder that fit words, or are like another one, and a page of them",
    "visualize": "pictures of what a network has learned",
    "export": "files for Paddle Inference and ONNX, checked as they are made",
    "convert": "weights between the formats of Google, timm, mmpretrain, PASSL 1 and others",
    "pack": "a data set as tar shards",
    "benchmark": "what a run is held back by, and what runs a trained network fastest",
    "models": "the networks, configs and released weights that there are",
}
COMPLETION = "completion"


def _parser() -> argparse.ArgumentParser:
    """Returns the parser of the first word; each command has its own for the rest."""
    width = max(map(len, [*COMMANDS, COMPLETION])) + 2
    rows = [f"  {name:{width}}{what}" for name, what in COMMANDS.items()]
    rows.append(f"  {COMPLETION:{width}}a script for bash, zsh or tcsh that completes all of this")
    parser = argparse.ArgumentParser(
        prog="passl",
        usage="passl COMMAND … (passl COMMAND --help says more)",
        description="Train and use MLP-Mixer and its relatives on PaddlePaddle.",
        epilog="commands:\n"
        + "\n".join(rows)
        + "\n\nexample:\n  passl train -c mlp-mixer_b16_224 --dry-run --synthetic\n"
        "  passl predict -c mlp-mixer_b16_224 --weights Mixer-B_16.npz cat.jpg --output out\n"
        '  eval "$(passl completion bash)"',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"passl {__version__}")
    return parser


def _command_parser(name: str) -> argparse.ArgumentParser:
    return importlib.import_module(f"passl.cli.{name}")._parser()


def completion(shell: str) -> str:
    """Returns a script for a shell that completes commands, options, choices and files."""
    import shtab

    from passl.cli.common import FILES, FOLDERS

    whole = argparse.ArgumentParser(prog="passl")
    commands = whole.add_subparsers(dest="command")
    for name, what in COMMANDS.items():
        parser = _command_parser(name)
        sub = commands.add_parser(name, help=what, parents=[parser], add_help=False)
        for action in sub._actions:
            if action.choices is None and action.metavar in FILES:
                action.complete = shtab.FILE
            elif action.choices is None and action.metavar in FOLDERS:
                action.complete = shtab.DIRECTORY
    commands.add_parser(COMPLETION).add_argument("shell", choices=shtab.SUPPORTED_SHELLS)
    return shtab.complete(whole, shell)


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command that the first argument names, and returns its exit code."""
    accept_all_text()
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = _parser()
    first = parser.parse_args(argv[:1]).command if argv else None
    if first is None:
        parser.print_help()
        return 2
    if first == COMPLETION:
        shells = argparse.ArgumentParser(
            prog="passl completion",
            description="Print a script that completes commands, options and files in a shell.",
            epilog='example:\n  eval "$(passl completion bash)"   # in ~/.bashrc',
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        shells.add_argument("shell", choices=("bash", "zsh", "tcsh"))
        print(completion(shells.parse_args(argv[1:]).shell))
        return 0
    if first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        print(
            f"error: there is no command '{visible(first)}'{hint}; passl --help lists them",
            file=sys.stderr,
        )
        return 2
    # So that usage and examples speak of what was typed; see make_parser.
    sys.argv = [f"passl {first}", *argv[1:]]
    return importlib.import_module(f"passl.cli.{first}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
