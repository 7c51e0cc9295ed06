"""PASSL: train and evaluate MLP-Mixer and its relatives on PaddlePaddle.

Importing any part of the package first prepares the process environment, because
PaddlePaddle reads its thread and math-library settings once, when it is imported.
"""

from passl.moved import keep_old_names
from passl.utils.environment import import_paddle, prepare_environment
from passl.utils.version import __version__  # noqa: F401

prepare_environment()
import_paddle()
keep_old_names()


def __getattr__(name):
    # Not imported above: the command lines must be able to say that Paddle is missing.
    if name == "create_model":
        from passl.building import create_model

        return create_model
    raise AttributeError(f"module 'passl' has no attribute '{name}'")
