"""``num_classes: null``: as many classes as the data has, or the weights."""

from __future__ import annotations

from typing import List

from passl.utils.config.values import Config, plain

_KEY = "num_classes"


def open_sections(cfg: Config) -> List[str]:
    """Returns the sections of ``model`` that leave the number of classes open, such as ``head``."""
    return [
        name
        for name, section in plain(cfg.model).items()
        if isinstance(section, dict) and section.get(_KEY, 0) is None
    ]


def with_classes(cfg: Config, count: int) -> Config:
    """Returns the config with ``count`` classes where their number was left open."""
    values = plain(cfg)
    for name in open_sections(cfg):
        values["model"][name][_KEY] = count
    return Config(values, "", cfg.origins)
