"""The board in VisualDL."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from passl.hooks.boards.base import BOARDS, Writer
from passl.modeling.graph import as_model_file
from passl.utils.lent_home import writable_home
from passl.utils.whole_files import replacing


@BOARDS.register
class VisualDL(Writer):
    """PaddlePaddle's own: ``visualdl --logdir RUN/visualdl``."""

    folder = module = package = "visualdl"

    def __init__(self):
        self._writer: Any = None

    def open(self, folder: Path) -> None:
        # Imported late: it takes a second that an evaluation or --help should not.
        with writable_home():
            from visualdl import LogWriter

        for file in folder.glob("vdlrecords.*"):
            file.unlink()
        self._folder = folder
        self._writer = LogWriter(logdir=str(folder))

    def add_settings(self, settings, figures):
        from visualdl.component.base_component import hparam

        # add_hparams takes no folder whose name is not UTF-8.
        name = hashlib.md5(os.fsencode(self._writer.file_name)).hexdigest()
        # The table takes a dot for a path and shows nothing.
        settings = {key.replace(".", " "): value for key, value in settings.items()}
        self._writer._get_file_writer().add_record(
            hparam(name, settings, list(figures), walltime=round(1000 * time.time()))
        )

    def add_text(self, tag, text):
        self._writer.add_text(tag, text, 0)

    def add_number(self, tag, value, step):
        self._writer.add_scalar(tag, value, step)

    def add_picture(self, tag, path):
        from PIL import Image

        with Image.open(path) as picture:
            self._writer.add_image(tag, np.asarray(picture.convert("RGB")), 0)

    def add_histogram(self, tag, counts, edges, step):
        from visualdl.component.base_component import histogram

        # add_histogram would count again, and takes nothing that has been counted.
        self._writer._get_file_writer().add_record(
            histogram(
                tag=tag,
                hist=np.asarray(counts),
                bin_edges=np.asarray(edges),
                step=step,
                walltime=0,
            )
        )

    def add_graph(self, trace):
        file = self._folder / "vdlgraph.pdmodel"  # the board goes by the name
        if not file.exists():
            content = as_model_file(trace())
            with replacing(file) as aside:
                aside.write_bytes(content)

    def close(self):
        if self._writer is not None:
            self._writer.close()
