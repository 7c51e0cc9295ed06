import logging

import numpy as np
import pytest
import yaml
from helpers import small_config
from PIL import Image

import passl  # noqa: F401  before anything imports paddle
from passl.hooks import board
from passl.modeling import graph
from passl.utils.config import plain
from passl.utils.environment import available_cores
from passl.utils.logging import logger

CLASSES = ("apple", "kiwi", "pear")


@pytest.hookimpl(optionalhook=True)  # pytest-xdist need not be installed
def pytest_xdist_auto_num_workers():
    """``-n auto``: a worker for each core that may be used; each takes a gigabyte or two."""
    return min(8, available_cores())


@pytest.hookimpl(hookwrapper=True)
def pytest_report_to_serializable():
    """What a test printed may hold names that are not UTF-8, which pytest-xdist cannot send."""

    def sendable(value):
        if isinstance(value, str):
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        if isinstance(value, dict):
            return {sendable(key): sendable(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [sendable(item) for item in value]
            return tuple(items) if isinstance(value, tuple) else items
        return value

    outcome = yield
    outcome.force_result(sendable(outcome.get_result()))


@pytest.fixture(scope="session", autouse=True)
def each_graph_is_traced_once():
    """The board's graph takes more than half of the time of a short run in this process."""
    graphs = {}

    def traced(model, image_shape):
        key = repr((plain(model), tuple(image_shape)))
        if key not in graphs:
            graphs[key] = graph.trace(model, image_shape)
        return graphs[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "trace", traced)
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """JPEG files in class folders: 60 train, 13 val, 11 test; a class has its own mean colour."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    colours = rng.integers(60, 200, (len(CLASSES), 3))
    for split, count in (("train", 60), ("val", 13), ("test", 11)):
        for i in range(count):
            label = i % len(CLASSES)
            pixels = rng.normal(colours[label], 40, (24 + i % 5, 28, 3)).clip(0, 255)
            folder = root / split / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.jpg", quality=90)
    return root


@pytest.fixture
def config_file(photos, tmp_path):
    """Writes a small config and returns its path: ``config_file(epochs=2)``."""

    def write(**changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(small_config(photos, **changes)))
        return str(path)

    return write


@pytest.fixture(scope="session")
def trained(photos, tmp_path_factory):
    """A small network that knows its three classes: its config and its weights."""
    from passl.engine import train
    from passl.utils.config import get_config

    folder = tmp_path_factory.mktemp("trained")
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(small_config(photos, epochs=2)))
    train(get_config(config, [f"output_dir={folder / 'run'}"]))
    return config, folder / "run" / "checkpoints" / "best.safetensors"


@pytest.fixture
def messages(caplog, monkeypatch):
    """What PASSL has said so far, a function that returns a list."""
    caplog.set_level(logging.INFO, logger="passl")
    monkeypatch.setattr(logger, "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]
