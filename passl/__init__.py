"""PASSL: train and evaluate MLP-Mixer and its relatives on PaddlePaddle.

Importing any part of the package first prepares the process environment, because
PaddlePaddle reads its thread and math-library settings once, when it is imported.

What a program needs most:

    list_models     the networks, and the released weights
    create_model    a network, with released weights if you like
    load_run        the network of a run, its class names, its view of images
    load_release    the same of released weights
    transforms_of   how images are prepared for released weights
    Predictor       what is in an image
    train           a run
    get_config      a config, to look at or to change
"""

import importlib

from passl.moved import keep_old_names
from passl.utils.environment import import_paddle, prepare_environment
from passl.utils.version import __version__

prepare_environment()
import_paddle()
keep_old_names()

# Imported when they are asked for: the command lines must be able to say that Paddle is missing.
_WHERE = {
    "Predictor": "passl.using",
    "create_model": "passl.building",
    "get_config": "passl.utils.config",
    "list_models": "passl.building",
    "load_release": "passl.using",
    "load_run": "passl.using",
    "train": "passl.training",
    "transforms_of": "passl.using",
}
__all__ = ["__version__", *_WHERE]


def __getattr__(name):
    if name in _WHERE:
        found = getattr(importlib.import_module(_WHERE[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'passl' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
