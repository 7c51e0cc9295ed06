"""Weight files: reading and writing them safely."""

from passl.weights.loading import load_weights
from passl.weights.safetensors_file import TensorFile, write_tensor_file

__all__ = ["TensorFile", "load_weights", "write_tensor_file"]
