"""One registry class, and the one way in which a config becomes an object."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import inspect
import sys
import typing
from types import ModuleType
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

import typeguard

from passl.utils.config import origin_of
from passl.utils.errors import PasslError, listing, suggest


@dataclasses.dataclass
class Argument:
    """An argument that a config may give to an entry.

    Attributes:
        type: what it has to be, in words where there are some.
        needed: whether a config must give it.
        default: what it is otherwise.
    """

    type: str
    needed: bool
    default: Any


class Registry:
    """Maps names to the classes (or functions) that a config can ask for.

    Args:
        kind: what the entries are, in the singular, for messages (``"backbone"``).

    Example:
        >>> BACKBONES = Registry("backbone")
        >>> @BACKBONES.register
        ... class MlpMixer(nn.Layer): ...
        >>> BACKBONES.register_variant("mlp_mixer_b16_224", MlpMixer, patch_size=16)
        >>> BACKBONES.build({"name": "mlp_mixer_b16_224", "img_size": 448})
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._factories: Dict[str, Callable[..., Any]] = {}
        self._modules: Dict[str, Optional[ModuleType]] = {}  # which registered them

    def register(self, factory: Callable[..., Any]) -> Callable[..., Any]:
        """Adds a class under its own name; usable as a decorator."""
        self._add(factory.__name__, factory)
        return factory

    def register_variant(self, name: str, factory: Callable[..., Any], **defaults: Any) -> None:
        """Adds ``name`` as ``factory`` with other defaults, which a config can still override."""
        self._add(name, functools.partial(factory, **defaults))

    def _add(self, name: str, factory: Callable[..., Any]) -> None:
        if name in self._factories:
            module, file = _source_of(self._factories[name])
            # Python has let go of a module whose import failed half way: what it left is replaced.
            if sys.modules.get(module) is self._modules.get(name):
                raise PasslError(self._clash(name, (module, file), _source_of(factory)))
        self._factories[name] = factory
        self._modules[name] = sys.modules.get(_source_of(factory)[0])

    def _clash(self, name: str, one: Tuple[str, str], other: Tuple[str, str]) -> str:
        if one[1] != other[1]:
            return (
                f"two {self.kind}s are called '{name}': one in {one[1]}, one in {other[1]}; give "
                "yours another name"
            )
        if one == other:
            return f"two {self.kind}s are called '{name}', both in {one[1]}; rename one of them"
        return (
            f"{one[1]}: is imported twice, as {one[0]} and as {other[0]}; call it by one name "
            "everywhere"
        )

    def __contains__(self, name: str) -> bool:
        return name in self._factories

    def names(self) -> List[str]:
        """Returns all registered names, sorted."""
        return sorted(self._factories)

    def variants(self) -> List[str]:
        """Returns the names that ``register_variant`` added, sorted."""
        return sorted(n for n, f in self._factories.items() if isinstance(f, functools.partial))

    def get(self, name: str) -> Callable[..., Any]:
        """Returns the factory called ``name``.

        Raises:
            PasslError: there is none; the message lists what exists and the nearest name.
        """
        if not isinstance(name, str) or name not in self._factories:
            raise PasslError(
                f"unknown {self.kind} '{name}'{suggest(name, self._factories)}; "
                f"known: {listing(self._factories)}"
            )
        return self._factories[name]

    def attribute(self, name: str, attribute: str, default: Any) -> Any:
        """Returns an attribute of the class behind ``name``, without building it."""
        factory = self.get(name)
        while isinstance(factory, functools.partial):
            factory = factory.func
        return getattr(factory, attribute, default)

    def arguments(self, name: str) -> Dict[str, Argument]:
        """Returns what a config may say about ``name``, in the order of its constructor."""
        factory = self.get(name)
        hints = _type_hints(factory)
        empty = inspect.Parameter.empty
        return {
            key: Argument(
                _readable(hints[key]) if key in hints else "anything",
                parameter.default is empty,
                None if parameter.default is empty else parameter.default,
            )
            for key, parameter in inspect.signature(factory).parameters.items()
        }

    def build(self, cfg: Mapping[str, Any], default: Optional[str] = None, **context: Any) -> Any:
        """Builds what ``cfg`` describes, and leaves ``cfg`` as it was.

        Args:
            cfg: ``name`` and keyword arguments.
            default: the name to take where ``cfg`` has none.
            **context: arguments that the caller supplies and a config may not; each is passed
                only if the factory takes it.

        Raises:
            PasslError: an unknown name or argument, a missing argument, or a value of the wrong
                type; the message names the config file and line where that is known.
        """
        if not isinstance(cfg, Mapping):
            raise PasslError(f"a {self.kind} is described by a mapping with 'name', not by {cfg!r}")
        arguments = dict(cfg)
        name = arguments.pop("name", default)
        if name is None:
            raise PasslError(
                f"a {self.kind} needs a 'name'; known: {listing(self._factories)}",
                place=origin_of(cfg),
            )
        try:
            factory = self.get(name)
        except PasslError as error:
            error.place = origin_of(cfg, "name")
            raise
        parameters = dict(inspect.signature(factory).parameters)
        supplied = {key: context[key] for key in context if parameters.pop(key, None)}
        for key in arguments:
            if key not in parameters:
                raise PasslError(
                    f"unknown argument '{key}' of {self.kind} '{name}'"
                    f"{suggest(key, parameters)}; it takes: {listing(parameters) or 'none'}",
                    place=origin_of(cfg, key),
                )
        missing = [
            key
            for key, parameter in parameters.items()
            if parameter.default is inspect.Parameter.empty and key not in arguments
        ]
        if missing:
            raise PasslError(
                f"{self.kind} '{name}' needs the argument '{missing[0]}'", place=origin_of(cfg)
            )
        hints = _type_hints(factory)
        for key in cfg:
            if key in hints and not _has_type(arguments[key], hints[key]):
                value = arguments[key]
                # YAML takes 2024 and no for something else, and they may be a folder's name.
                text = isinstance(value, (bool, int, float)) and _mentions(hints[key], (str,))
                raise PasslError(
                    f"'{key}' of {self.kind} '{name}' must be {_readable(hints[key])}, not "
                    f"{value!r}{'; in quotes it is text' if text else ''}",
                    place=origin_of(cfg, key),
                )
        try:
            return factory(**arguments, **supplied)
        except PasslError as error:
            # The innermost builder is nearest to the mistake: its place stands. A message begins
            # with the argument that it is about, which may be an override of a file's.
            about = str(error.args[0]).split(" ", 1)[0].strip("'")
            error.place = error.place or origin_of(cfg, about if about in cfg else None)
            raise


def _source_of(factory: Callable[..., Any]) -> Tuple[str, str]:
    """Returns the module that an entry is defined in, and its file."""
    while isinstance(factory, functools.partial):
        factory = factory.func
    module = sys.modules.get(factory.__module__)
    return factory.__module__, getattr(module, "__file__", None) or factory.__module__


def _type_hints(factory: Callable[..., Any]) -> Dict[str, Any]:
    while isinstance(factory, functools.partial):
        factory = factory.func
    target = factory.__init__ if inspect.isclass(factory) else factory
    if (getattr(target, "__module__", None) or "").partition(".")[0] == "paddle":
        return {}  # of a constructor inherited from Paddle's layers; it names what is not there
    return typing.get_type_hints(target)


def _has_type(value: Any, hint: Any) -> bool:
    # bool is an int to Python, but `size: true` is a mistake in a config.
    leaves = value if isinstance(value, (list, tuple)) else [value]
    if any(isinstance(leaf, bool) for leaf in leaves) and not _mentions(hint, (bool, Any)):
        return False
    # A text is a sequence of letters to Python, but `freeze: backbone` is a mistake as well.
    if isinstance(value, str) and not _mentions_itself(hint, (str, Any)):
        return False
    try:
        typeguard.check_type(
            value, hint, collection_check_strategy=typeguard.CollectionCheckStrategy.ALL_ITEMS
        )
    except typeguard.TypeCheckError:
        return False
    return True


def _mentions_itself(hint: Any, types: Tuple[Any, ...]) -> bool:
    """Tells whether a hint is one of some types, or a union with one, not a container of one."""
    if typing.get_origin(hint) is typing.Union:
        return any(_mentions_itself(part, types) for part in typing.get_args(hint))
    return hint in types or typing.get_origin(hint) not in (collections.abc.Sequence, list, tuple)


def _mentions(hint: Any, types: Tuple[Any, ...]) -> bool:
    return hint in types or any(_mentions(part, types) for part in typing.get_args(hint))


_WORDS = {
    int: ("an integer", "integers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bool: ("true or false", "booleans"),
    type(None): ("null", "nulls"),
    Any: ("anything", "values"),
}


def _readable(hint: Any, several: bool = False) -> str:
    """Returns a type hint in the words of someone who writes YAML."""
    if hint in _WORDS:
        return _WORDS[hint][several]
    kind, parts = typing.get_origin(hint), typing.get_args(hint)
    if kind is typing.Union:
        return " or ".join(_readable(part, several) for part in parts)
    if kind is not None and issubclass(kind, collections.abc.Mapping):
        return "mappings" if several else "a mapping"
    if kind is not None and issubclass(kind, collections.abc.Sequence):
        return f"{'lists' if several else 'a list'} of {_readable(parts[0], several=True)}"
    return str(hint).replace("typing.", "")
