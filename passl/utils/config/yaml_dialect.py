"""The YAML of configs, for PyYAML: what is a number, and which names can be written."""

from __future__ import annotations

import re
from typing import Any, Dict

import yaml


class ConfigLoader(yaml.SafeLoader):
    """YAML's safe loader, except that ``1e-3`` is a number as in YAML 1.2.

    It also takes names that are not UTF-8, as the command line gives them: PyYAML's own check has
    no place for the half pairs of surrogates that stand for their bytes.
    """

    NON_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ufffd\U00010000-\U0010ffff]")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):  # which PyYAML itself refuses
                continue
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class ConfigDumper(yaml.SafeDumper):
    """Writes what ``ConfigLoader`` reads back unchanged: it puts the text ``'1e-3'`` in quotes."""


for _class in (ConfigLoader, ConfigDumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+0123456789."),
    )
