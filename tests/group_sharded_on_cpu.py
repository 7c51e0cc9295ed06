"""Training with Paddle's own group-sharded classes on processors, which it refuses by itself.

They are told that the processor is a GPU, so that the way the engine uses them can be
tried; on GPUs it has never been run. At its end each process prints how often gradients were
reduced.
"""

import contextlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import passl  # noqa: F401  before paddle

# isort: split
import paddle
from paddle import distributed
from paddle.base import core
from paddle.distributed.fleet.meta_parallel.sharding import group_sharded_storage as storage

from passl.cli import train
from passl.engine import execution, trainer


def shard(*arguments):
    """Does what the engine's function does while Paddle takes the processor for a GPU."""
    changed = [
        (paddle, "get_device", lambda: "gpu:0"),
        (core, "is_compiled_with_cuda", lambda: True),
        # On a processor ``param.cpu()`` shares its memory with the parameter, which is then freed.
        (storage.ParamStorage, "add_rank_params", _add_without_copy),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changed]
    try:
        for owner, name, value in changed:
            setattr(owner, name, value)
        return _shard(*arguments)
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


_add = storage.ParamStorage.add_rank_params
_shard = execution.shard


def _add_without_copy(self, parameters, alignment, convert_gpu=True):
    return _add(self, parameters, alignment, False)


_reduce = distributed.reduce
reductions = []


def _counted_reduce(tensor, *arguments, **options):
    reductions.append(tensor.size)
    return _reduce(tensor, *arguments, **options)


if __name__ == "__main__":
    execution.shard = shard
    trainer.check_sharding = lambda *_: None
    distributed.reduce = _counted_reduce
    storage.device_guard = lambda *_: contextlib.nullcontext()
    code = train.main()
    print(len(reductions), "reductions of gradients")
    sys.exit(code)
