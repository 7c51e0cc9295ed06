"""Hooks: what happens around the steps of a run. A new file here registers itself.

The console, the board and checkpoints are hooks like any other; a config adds more by name under
``hooks``.
"""

from __future__ import annotations

from typing import List, Mapping

from passl.evaluation import Evaluator
from passl.hooks.base import HOOKS, Hook, Run
from passl.hooks.boards import BOARDS, build_boards
from passl.utils.config import Config, origin_of
from passl.utils.discovery import import_modules
from passl.utils.errors import PasslError

import_modules(__name__, __path__)


def build_hooks(cfg: Config, evaluator: Evaluator, is_first: bool = True) -> List[Hook]:
    """Builds Board, Console, what a config adds, and Checkpoint, which look on in this order.

    In a process that is not the first of its run only those that every process needs are left.

    Args:
        cfg: the whole config.
        evaluator: the run's.
        is_first: whether this is the first process.

    Raises:
        PasslError: a hook cannot be built, or not look on at such a run.
    """
    # The name of a board among the hooks says the same as in log_config.boards.
    named = [one for one in cfg.hooks if isinstance(one, Mapping) and one.get("name") in BOARDS]
    try:
        boards = build_boards([*cfg.log_config.boards, *named])
    except PasslError as error:
        error.place = error.place or origin_of(cfg.log_config, "boards")
        raise
    extra = [section for section in cfg.hooks if section not in named]
    hooks = [HOOKS.build({"name": "Board"}, boards=boards)]
    hooks += [HOOKS.build(section) for section in ({"name": "Console"}, *extra)]
    hooks.append(HOOKS.build({"name": "Checkpoint"}))
    for hook, section in zip(hooks, (None, None, *extra, None)):
        try:
            hook.check(cfg, evaluator)
        except PasslError as error:
            error.place = error.place or origin_of(section)
            raise
    return [hook for hook in hooks if is_first or hook.in_every_process]


__all__ = ["HOOKS", "Hook", "Run", "build_hooks"]
