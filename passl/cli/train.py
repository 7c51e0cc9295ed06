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
)
from passl.engine import train
from passl.utils.errors import PasslError


def _parser() -> argparse.ArgumentParser:
    parser = make_parser(
        "Train as a config says, and keep config, log, metrics and checkpoints in a folder.",
        "  python tools/train.py -c configs/mlp_mixer/mlp-mixer_b16_224.yaml\n"
        "  python tools/train.py -c mlp-mixer_cifar10 --output-dir output/mine --resume auto \\\n"
        "      -o epochs=5 -o lr_scheduler.learning_rate=1e-3\n"
        "  python tools/train.py -c mlp-mixer_b16_224 --dry-run --synthetic\n"
        "  python -m paddle.distributed.launch --gpus 0,1,2,3 tools/train.py \\\n"
        "      -c mlp-mixer_b16_224",
    )
    add_config_arguments(parser)
    parser.add_argument("--seed", type=int, help="default: the config's, or 0")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume", metavar="auto|PATH",
        help="continue a run: from its latest checkpoint (auto; starts anew if there is none) "
        "or from a given one",
    )  # fmt: skip
    start.add_argument(
        "--pretrained", metavar="PATH",
        help="begin from weights: a checkpoint or a released file (see tools/eval.py --list); a "
        "head for another number of classes is left out",
    )  # fmt: skip
    parser.add_argument(
        "--allow-batch-change", action="store_true",
        help="resume with another number of images a step than the run had",
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
    if arguments.dry_run:
        # Imported late: drawing takes half a second that training should not wait for.
        from passl.engine.dry_run import dry_run, format_table

        if arguments.resume is not None:
            raise PasslError("--dry-run looks at a run from its beginning; leave --resume out")
        weights = arguments.pretrained, arguments.weights_key, arguments.allow_partial
        print(format_table(dry_run(cfg, *weights)))
        return
    train(
        cfg,
        resume=arguments.resume,
        pretrained=arguments.pretrained,
        weights_key=arguments.weights_key,
        allow_partial=arguments.allow_partial,
        allow_batch_change=arguments.allow_batch_change,
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
