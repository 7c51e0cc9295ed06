"""``passl train``: train a network."""

from __future__ import annotations

import argparse
import sys
from typing import List, Optional

from passl.cli.common import (
    add_allow_partial,
    add_config_arguments,
    add_synthetic,
    add_weights_key,
    config_of,
    make_parser,
    run_command,
    weight_file,
)
from passl.engine import train
from passl.utils.commands import command, launched_command
from passl.utils.errors import PasslError


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Train as a config says, and keep config, log, metrics and checkpoints in a folder.",
        f"  {command('train')} -c mlp-mixer_b16_224\n"
        f"  {command('train')} -c mlp-mixer_cifar10 --output-dir output/mine --resume auto \\\n"
        "      -o epochs=5 -o lr_scheduler.learning_rate=1e-3\n"
        f"  {command('train')} -c mlp-mixer_b16_224 --dry-run --synthetic\n"
        f"  {launched_command('train')} -c mlp-mixer_b16_224",
    )
    add_config_arguments(parser)
    parser.add_argument("--seed", type=int, help="default: the config's, or 0")
    parser.add_argument(
        "--resume", metavar="auto|PATH",
        help="continue a run: from its latest checkpoint (auto; without one it begins, from "
        "--pretrained if that is given) or from a given one",
    )  # fmt: skip
    parser.add_argument(
        "--pretrained", metavar="PATH",
        help="begin from weights: a checkpoint, the folder of a run, a released file, the name of "
        "a release (passl models lists them) or an address, https://…; of a head for other classes "
        "the rows with the same class names are taken, and of what was pre-trained without labels "
        "the backbone",
    )  # fmt: skip
    parser.add_argument(
        "--extend", choices=("stretch", "hold"),
        help="resume with more epochs than the run had: with the learning rate of a run that long "
        "(stretch), or its schedule as it was and the last rate kept after its end (hold)",
    )  # fmt: skip
    parser.add_argument(
        "--allow-batch-change", action="store_true",
        help="resume with another number of images a step than the run had",
    )  # fmt: skip
    parser.add_argument(
        "--allow-data-change", action="store_true",
        help="resume with other images or labels than the run had, as many and of the same classes",
    )  # fmt: skip
    parser.add_argument(
        "--dry-run", action="store_true",
        help="build everything, print the recipe, make two steps, draw the learning rate and "
        "augmented images to OUTPUT_DIR/dry-run, and stop",
    )  # fmt: skip
    add_synthetic(parser)
    add_weights_key(parser)
    add_allow_partial(parser)
    return parser


def _main(arguments: argparse.Namespace) -> None:
    cfg = config_of(arguments)
    pretrained = None if arguments.pretrained is None else weight_file(arguments.pretrained)
    if arguments.dry_run:
        # Imported late: drawing takes half a second that training should not wait for.
        from passl.inspection.dry_run import dry_run, format_table

        if arguments.resume is not None:
            raise PasslError("--dry-run looks at a run from its beginning; leave --resume out")
        weights = pretrained, arguments.weights_key, arguments.allow_partial
        print(format_table(dry_run(cfg, *weights)))
        return
    train(
        cfg,
        resume=arguments.resume,
        pretrained=pretrained,
        weights_key=arguments.weights_key,
        allow_partial=arguments.allow_partial,
        allow_batch_change=arguments.allow_batch_change,
        allow_data_change=arguments.allow_data_change,
        extend=arguments.extend,
    )


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the command and returns its exit code."""
    memory = (
        "lower dataloader.train.sampler.batch_size and set global_batch_size to keep the images of "
        "a step, set recompute=true or, on a GPU, amp"
    )
    return run_command(_main, _parser(), argv, memory=memory, again="--resume auto")


if __name__ == "__main__":
    sys.exit(main())
