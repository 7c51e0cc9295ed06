"""The config object: a mapping with attribute access that knows where each key was written."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

import yaml

from passl.utils.config.yaml_dialect import ConfigDumper
from passl.utils.errors import suggest


class Config(dict):
    """A mapping whose keys are also attributes, and which knows where each was written.

    Example:
        >>> cfg = get_config("configs/mlp_mixer/mlp-mixer_b16_224.yaml")
        >>> cfg.model.head.num_classes
        1000
    """

    def __init__(
        self, values: Mapping[str, Any], path: str = "", origins: Optional[Dict[str, str]] = None
    ):
        self.__dict__["_path"] = path
        self.__dict__["_origins"] = {} if origins is None else origins
        super().__init__(
            (key, _wrap(value, join_path(path, key), self._origins))
            for key, value in values.items()
        )

    def __getattr__(self, key: str) -> Any:
        try:
            return self[key]
        except KeyError:
            raise AttributeError(
                f"the config has no '{join_path(self.__dict__.get('_path', ''), key)}'"
                f"{suggest(key, self)}"
            ) from None

    def __setattr__(self, key: str, value: Any) -> None:
        raise AttributeError("a config is not changed after loading; use get_config(overrides=…)")

    @property
    def origins(self) -> Dict[str, str]:
        """Where each key was written, by its path from the top."""
        return dict(self._origins)

    def to_yaml(self) -> str:
        """Returns the config as YAML text that get_config reads back unchanged."""
        return yaml.dump(plain(self), Dumper=ConfigDumper, sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """Returns a config (or part of one) as plain dicts, lists and scalars."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def quoted(text: str) -> str:
    """Returns a text as an override has it that is not to be taken for anything else."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(letter: str) -> str:
    itself = letter.isascii() and letter.isprintable() and letter not in '"\\'
    return letter if itself else f"\\U{ord(letter):08x}"


def _wrap(value: Any, path: str, origins: Dict[str, str]) -> Any:
    if isinstance(value, Mapping):
        return Config(value, path, origins)
    if isinstance(value, list):
        return [_wrap(item, join_path(path, i), origins) for i, item in enumerate(value)]
    return value


def join_path(path: str, key: object) -> str:
    """Returns the path of a key below another: ``a.b``."""
    return f"{path}.{key}" if path else str(key)


def origin_of(cfg: Any, key: Optional[str] = None) -> str:
    """Returns ``"file:line: "`` for a part of a config, or an empty string where unknown."""
    if not isinstance(cfg, Config):
        return ""
    path = join_path(cfg._path, key) if key is not None else cfg._path
    return place_of(path, cfg._origins)


def place_of(path: str, origins: Mapping[str, str]) -> str:
    """Returns ``"file:line: "`` for a path, or for what it is in; empty where unknown."""
    while path:
        if path in origins:
            return origins[path] + ": "
        path = path.rpartition(".")[0]
    return ""
