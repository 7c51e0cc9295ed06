"""PASSL: train and evaluate MLP-Mixer and its relatives on PaddlePaddle.

Importing any part of the package first prepares the process environment, because
PaddlePaddle reads its thread and math-library settings once, when it is imported.
"""

from passl.utils.environment import import_paddle, prepare_environment

__version__ = "0.1.0"

prepare_environment()
import_paddle()
