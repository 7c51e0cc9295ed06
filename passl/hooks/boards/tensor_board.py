"""The board in TensorBoard, by the classes of its own package: TensorFlow is not needed."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from passl.hooks.boards.base import BOARDS, Writer
from passl.utils.text import as_text


@BOARDS.register
class TensorBoard(Writer):
    """TensorBoard: ``tensorboard --logdir RUN/tensorboard``, after ``pip install tensorboard``.

    Its page HPARAMS shows a row for each run below the folder that it is given, with all curves'
    latest values.
    """

    folder = module = package = "tensorboard"

    def __init__(self):
        self._file: Any = None

    def open(self, folder: Path) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("events.out.tfevents.*"):
            file.unlink()
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "wb")
        # Not by its EventFileWriter, whose thread has written what was told two minutes ago.
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")

    def add_settings(self, settings, figures):
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        start = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
        for key, value in settings.items():
            if isinstance(value, str):
                start.hparams[key].string_value = value
            else:
                start.hparams[key].number_value = value
        # No list of the figures goes with it: one that it finds is for all runs, as are the
        # settings in it, and runs of different networks have different ones.
        data = plugin_data_pb2.HParamsPluginData(session_start_info=start)
        self._add(
            metadata.SESSION_START_INFO_TAG,
            metadata=metadata.create_summary_metadata(data),
            tensor=metadata.NULL_TENSOR,
        )

    def add_text(self, tag, text):
        from tensorboard.compat.proto import tensor_pb2, types_pb2
        from tensorboard.plugins.text import metadata

        # Four spaces keep it as it is: it is shown as Markdown.
        lines = "\n".join(f"    {line}" for line in text.splitlines())
        content = tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, string_val=[as_text(lines).encode("utf-8")]
        )
        self._add(tag, metadata=metadata.create_summary_metadata(tag, ""), tensor=content)

    def add_number(self, tag, value, step):
        self._add(tag, step, simple_value=value)

    def add_picture(self, tag, path):
        from PIL import Image
        from tensorboard.compat.proto import summary_pb2

        with Image.open(path) as picture:
            width, height = picture.size
        image = summary_pb2.Summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes()
        )
        self._add(tag, image=image)

    def add_histogram(self, tag, counts, edges, step):
        from tensorboard.compat.proto import summary_pb2

        counts, edges = np.asarray(counts, float), np.asarray(edges, float)
        centres = (edges[:-1] + edges[1:]) / 2
        histogram = summary_pb2.HistogramProto(
            min=edges[0],
            max=edges[-1],
            num=counts.sum(),
            sum=(counts * centres).sum(),
            sum_squares=(counts * centres**2).sum(),
            bucket_limit=edges[1:],
            bucket=counts,
        )
        self._add(tag, step, histo=histogram)

    def close(self):
        if self._file is not None:
            self._file.close()

    def _add(self, tag: str, step: int = 0, **content: Any) -> None:
        from tensorboard.compat.proto import summary_pb2

        value = summary_pb2.Summary.Value(tag=tag, **content)
        self._write(step=step, summary=summary_pb2.Summary(value=[value]))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto import event_pb2

        event = event_pb2.Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())
        self._records.flush()
