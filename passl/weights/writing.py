"""A network as a weight file of PASSL's own, with what it says of itself."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional

from paddle import nn

from passl.utils.arrays import own_array
from passl.weights.activations import QUICK_GELU
from passl.weights.formats.safetensors import write_tensor_file
from passl.weights.loading import LoadReport, data_of
from passl.weights.origin import origin_of_weights


def write_network(
    path: os.PathLike,
    network: nn.Layer,
    report: LoadReport,
    class_names: Optional[List[str]] = None,
) -> None:
    """Writes the weights of a network and where they come from.

    Args:
        path: the file, ``.safetensors``.
        network: a backbone with a head.
        report: of the weights that it was made from.
        class_names: of a head that was made here; None: the head is that of the weights.

    Raises:
        PasslError: the file could not be written whole.
    """
    data = data_of(report.metadata, report.publisher)
    names = report.metadata.get("class_names") if class_names is None else class_names
    record: Dict[str, Any] = {"kind": "weights", "class_names": names}
    if data is not None and class_names is None:
        record["data"] = data
    origin = origin_of_weights(report.metadata, data, evaluated=class_names is None)
    if origin:
        record["origin"] = origin
    if hasattr(network.backbone, QUICK_GELU):
        record[QUICK_GELU] = {"backbone": network.backbone.quick_gelu}
    arrays = {name: own_array(tensor) for name, tensor in network.state_dict().items()}
    write_tensor_file(path, arrays, record)
