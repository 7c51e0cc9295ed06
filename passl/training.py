"""``passl.train``: a run from a program."""

from __future__ import annotations

import os
from typing import Any, Optional, Sequence, Union

from passl import engine
from passl.cli.common import weight_file
from passl.utils.config import Config, get_config
from passl.utils.logging import log_to_console
from passl.utils.records import Record


def train(
    config: Union[str, os.PathLike, Config],
    overrides: Sequence[str] = (),
    resume: Optional[str] = None,
    pretrained: Optional[Union[str, os.PathLike]] = None,
    **options: Any,
) -> Record:
    """Trains as a config says; what ``passl train`` does.

    Args:
        config: a YAML file, the name of a shipped config, or a config that was read.
        overrides: changes to it, ``"epochs=5"``; as ``-o`` on the command line.
        resume: ``auto`` goes on from the latest checkpoint of the output folder where there is
            one; or the path of a checkpoint.
        pretrained: weights to begin from: a release, a file, or the folder of a run.
        **options: see ``passl.engine.train``.

    Returns:
        The last evaluation record, such as ``{"split": "val", "top1": 76.6, ...}``.

    Raises:
        PasslError: anything wrong with config, data, files or device; one line says what.

    Example:
        >>> record = passl.train("mlp-mixer_own_images", ["epochs=5", "output_dir=output/mine"])
        >>> record["top1"]
        93.2
    """
    log_to_console()
    cfg = get_config(config, overrides) if not isinstance(config, Config) else config
    if isinstance(config, Config) and overrides:
        raise TypeError("overrides go to passl.get_config, where a config comes from")
    weights = None if pretrained is None else str(weight_file(os.fspath(pretrained)))
    return engine.train(cfg, resume=resume, pretrained=weights, **options)
