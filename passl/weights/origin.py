"""Where weights come from: what a checkpoint tells of its run, for files that hold a part of it."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional


def origin_of_weights(metadata: Mapping[str, Any]) -> Dict[str, Any]:
    """Returns how weights were made, as far as a file tells.

    Args:
        metadata: what PASSL recorded in the file: a checkpoint, or what was converted from one.

    Returns:
        ``method`` (the name of the architecture), ``architecture`` (the config of the backbone),
        ``epochs``, ``images_seen``, and ``evaluation``, the record of the weights themselves where
        they were evaluated; nothing where nothing is known.
    """
    if "origin" in metadata:
        return dict(metadata["origin"])
    config, progress = metadata.get("config"), metadata.get("progress")
    if not isinstance(config, Mapping) or not isinstance(progress, Mapping):
        return {}
    model = config.get("model", {})
    found: Dict[str, Any] = {
        "method": model.get("name", "Classifier"),
        "architecture": model.get("architecture"),
    }
    seen, samples = metadata.get("samples_seen"), metadata.get("samples")
    if seen and samples:
        found.update(epochs=round(seen / samples, 2), images_seen=seen)
    record = progress.get("evaluation") or progress.get("best")
    if record and record.get("step") == progress.get("step"):
        found["evaluation"] = record
    return found


def describe_origin(origin: Mapping[str, Any]) -> Optional[str]:
    """Returns in words how weights were made; None where nothing is known."""
    if not origin:
        return None
    text = f"trained by {origin['method']}"
    if "epochs" in origin:
        text += f", {origin['epochs']:g} epochs"
    record = origin.get("evaluation", {})
    if "knn_top1" in record:
        text += (
            f", kNN Top-1 {record['knn_top1']:.2f} % (k {record['k']}, "
            f"T {record['temperature']:g}, bank {record['bank']:,}, {record['samples']:,} images)"
        )
    elif "top1" in record:
        text += f", Top-1 {record['top1']:.2f} % of {record['samples']:,} images"
    return text
