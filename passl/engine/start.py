"""Where a run begins: at its first step, from weights, or from a checkpoint of its own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Dict, List, Optional

from passl.datasets import ImageDataset
from passl.engine.checkpoint import Checkpoint
from passl.hooks.base import Progress
from passl.modeling.architectures import Architecture
from passl.utils.config import Config
from passl.utils.errors import PasslError
from passl.utils.logging import logger
from passl.utils.run_folder import LATEST, RECORDS, checkpoint_folder
from passl.weights import load_weights


class Start:
    """What a run is to begin from, found in its folder and by its arguments.

    Args:
        folder: of the run.
        resume, pretrained, weights_key, allow_partial, allow_batch_change, allow_data_change,
            extend: see ``train``.

    Attributes:
        checkpoint: what the run goes on from; None where it begins.
        resumed_at: the step that the checkpoint was written at, 0 without one.
        pretrained: the weights that the run began or begins from, None for none.
        source: where those come from, if they were fetched; else None.

    Raises:
        PasslError: the folder holds a run that was not to be continued, the checkpoint cannot be
            read, or arguments exclude each other.
    """

    def __init__(
        self,
        folder: Path,
        resume: Optional[str] = None,
        pretrained: Optional[str] = None,
        weights_key: Optional[str] = None,
        allow_partial: bool = False,
        allow_batch_change: bool = False,
        allow_data_change: bool = False,
        extend: Optional[str] = None,
    ):
        if pretrained is not None and resume not in (None, "auto"):
            raise PasslError(
                "--pretrained begins a run and --resume PATH goes on with one: leave one of them "
                "out (--resume auto goes with --pretrained: it begins only where there is no "
                "checkpoint yet)"
            )
        self._folder, self._extend = folder, extend
        self._weights_key, self._allow_partial = weights_key, allow_partial
        self._allow_batch_change = allow_batch_change
        self._allow_data_change = allow_data_change
        self.pretrained = pretrained
        self.source: Optional[Dict[str, str]] = None
        path = self._find(resume)
        self.checkpoint = None if path is None else Checkpoint.open(path)
        self.resumed_at = 0 if self.checkpoint is None else self.checkpoint.progress.step
        if self.checkpoint is not None:
            self.pretrained = self.checkpoint.file.metadata.get("pretrained")
            self.source = self.checkpoint.file.metadata.get("pretrained_source")
        elif resume == "auto":
            logger.info(
                "no checkpoint in %s: beginning %s",
                checkpoint_folder(folder),
                "anew" if pretrained is None else f"from {pretrained}",
            )

    def _find(self, resume: Optional[str]) -> Optional[Path]:
        """Returns the checkpoint to go on from, None for none."""
        checkpoints = checkpoint_folder(self._folder)
        latest = checkpoints / LATEST
        if resume == "auto":
            path = latest if latest.exists() else None
        else:
            path = None if resume is None else Path(resume)
            if latest.exists() or (self._folder / RECORDS).exists():
                # Going back to an older checkpoint of the same run is the one other way to write.
                if path is None or path.parent.resolve() != checkpoints.resolve():
                    raise PasslError(
                        f"{self._folder}: holds a run already; continue it with --resume auto, or "
                        "choose another --output-dir"
                    )
        if path is None and any(checkpoints.glob("[!.]*.safetensors")):
            raise PasslError(
                f"{latest}: is missing, and starting anew would replace the checkpoints beside it; "
                "go on from one of them with --resume PATH, or choose another --output-dir"
            )
        return path

    def schedule_epochs(self, cfg: Config) -> int:
        """Returns the epochs over which the learning rate's schedule goes.

        Another number than the config's where an earlier start has made the run longer, or this one
        does, and the schedule stays as it was.
        """
        if self.checkpoint is None:
            return cfg.epochs
        then, epochs = self.checkpoint.epochs, self.checkpoint.schedule_epochs
        return cfg.epochs if self._extend == "stretch" and cfg.epochs > then else epochs

    def check(self, cfg: Config, dataset: ImageDataset, global_batch: int) -> Progress:
        """Compares the checkpoint with the run that is to go on; returns how far it is.

        Args:
            cfg: the whole config.
            dataset: what is trained on.
            global_batch: images an optimizer step.

        Raises:
            PasslError: they do not belong together.
        """
        if self.checkpoint is None:
            return Progress()
        self.checkpoint.check_config(cfg, self._extend)
        self.checkpoint.check_data(dataset, self._allow_data_change)
        return self.checkpoint.progress_in_steps_of(global_batch, self._allow_batch_change)

    def load_pretrained(self, architecture: Architecture, class_names: Optional[List[str]]) -> None:
        """Loads the weights that a run which begins is to begin from, if there are any.

        Args:
            architecture: gets them.
            class_names: of its classes, where they have names.
        """
        if self.checkpoint is None and self.pretrained is not None:
            report = load_weights(
                architecture,
                self.pretrained,
                self._weights_key,
                self._allow_partial,
                new_head=True,
                class_names=class_names,
            )
            self.source = None if report.source is None else dataclasses.asdict(report.source)
            architecture.after_loading(report)
