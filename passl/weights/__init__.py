"""Weight files: reading and writing them safely, whoever's they are."""

from passl.weights.formats.safetensors import write_tensor_file
from passl.weights.loading import LoadReport, count_classes, load_weights
from passl.weights.reading import AVERAGE, MODEL, WeightFile

__all__ = [
    "AVERAGE",
    "MODEL",
    "LoadReport",
    "WeightFile",
    "count_classes",
    "load_weights",
    "write_tensor_file",
]
