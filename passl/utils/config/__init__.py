"""Configs: YAML files with inheritance and overrides, checked, with attribute access.

A config file is plain data. ``_base_`` names one file or a list of files, relative to the
file itself, that it builds on; mappings are merged, lists and scalars replaced, and a mapping
that gives another ``name`` replaces its base's altogether, because another component takes
other arguments. Nothing in a file is ever evaluated as code.
"""

from passl.utils.config.files import shipped_configs
from passl.utils.config.open_classes import open_sections, with_classes
from passl.utils.config.reading import get_config, split_section
from passl.utils.config.schema import (
    AverageSection,
    CheckpointSection,
    DataloaderSection,
    EvaluateSection,
    LoaderSection,
    LogSection,
    ParallelSection,
    PrecisionSection,
    SamplerSection,
    Schema,
    SplitSection,
    with_defaults,
)
from passl.utils.config.values import Config, origin_of, plain, quoted

__all__ = [
    "AverageSection",
    "CheckpointSection",
    "Config",
    "DataloaderSection",
    "EvaluateSection",
    "LoaderSection",
    "LogSection",
    "ParallelSection",
    "PrecisionSection",
    "SamplerSection",
    "Schema",
    "SplitSection",
    "get_config",
    "open_sections",
    "origin_of",
    "plain",
    "quoted",
    "shipped_configs",
    "split_section",
    "with_classes",
    "with_defaults",
]
