"""What a PASSL v1 config must change: one table, old key to new key."""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, Tuple

# (key, value or None for any value, what to write instead); `*` stands for one key or index.
V1_CHANGES: Tuple[Tuple[str, Any, str], ...] = (
    ("model.name", "MlpMixerWrapper", "leave it out (Classifier is the default)"),
    ("model.backbone", None, "model.architecture"),
    ("model.head.name", "MlpMixerClsHead", "ClassificationHead"),
    ("model.architecture.in_chans", None, "in_channels"),
    ("total_iters", None, "epochs"),
    ("use_simclr_iters", None, "leave it out"),
    ("dataloader.*.num_workers", None, "dataloader.*.loader.num_workers"),
    ("dataloader.*.sampler.name", None, "leave it out"),
    ("dataloader.*.sampler.shuffle", None, "leave it out (train shuffles, val and test do not)"),
    (
        "dataloader.*.sampler.drop_last",
        None,
        "leave it out (train drops a short last batch, val and test count every image)",
    ),
    (
        "dataloader.*.dataset.return_label",
        None,
        "leave it out; ImageNet takes the folder above train and val as dataroot, and split: train "
        "or val; for other data there is ImageFolder",
    ),
    ("dataloader.*.dataset.transforms.*.name", "ToRGB", "leave it out (images are read as RGB)"),
    ("dataloader.*.dataset.transforms.*.name", "Transpose", "leave it out (Normalize does it)"),
    (
        "dataloader.*.dataset.transforms.*.name",
        "NormalizeImage",
        "dataloader.*.batch_transforms: [{name: Normalize, mean: […], std: […]}]",
    ),
    ("lr_scheduler.name", "CosineWarmup", "Cosine"),
    ("lr_scheduler.name", "CosineAnnealingDecay", "Cosine"),
    ("lr_scheduler.name", "LinearWarmup", "Linear, Cosine, Step or Constant with warmup_steps"),
    ("lr_scheduler.T_max", None, "leave it out (the schedule ends with the last epoch)"),
    ("optimizer.grad_clip.name", None, "optimizer.grad_clip: 1.0 (a global norm)"),
    ("log_config.name", None, "leave it out"),
    ("checkpoint.interval", None, "checkpoint.interval_epochs or checkpoint.interval_steps"),
    ("custom_config", None, "evaluate.interval_epochs"),
)


def renamed_keys(values: Dict[str, Any]) -> List[Tuple[str, str, str]]:
    """Returns (key, how it reads, what to write instead) for every v1 key in ``values``."""
    found = []
    for path, value in _walk(values, ""):
        for pattern, old, new in V1_CHANGES:
            expression = re.escape(pattern).replace(r"\*", r"[^.]+")
            if re.fullmatch(expression, path) and old in (None, value):
                found.append((path, path if old is None else f"{path}: {value}", new))
    return found


def _walk(value: Any, path: str) -> Iterator[Tuple[str, Any]]:
    if path:
        yield path, value
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from _walk(item, f"{path}.{key}" if path else str(key))
