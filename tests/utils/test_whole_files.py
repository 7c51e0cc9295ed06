"""Files are whole or not there: full disks, links, pipes, long names and the umask."""

import ast
import contextlib
import json
import os
import resource
import stat
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import ROOT

from passl.cli.common import write_json
from passl.cli.features import _write_features
from passl.cli.predict import _write_answers
from passl.datasets.sources.paths import ImagePaths
from passl.deployment.neighbours_page import write_neighbours
from passl.deployment.predictor import Prediction
from passl.engine.trainer import _prepare_folder
from passl.inspection.pictures import draw_schedule
from passl.inspection.visualization import visualize
from passl.solver.schedules import Constant
from passl.utils.cache import cache_file
from passl.utils.config import Config
from passl.utils.errors import PasslError
from passl.utils.logging import stop_logging_to_files
from passl.utils.whole_files import filling, replacing


@contextlib.contextmanager
def full_disk(room):
    """No file of this process can become longer than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# ---------------------------------------------------------------- replacing


@pytest.mark.smoke
def test_what_fails_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "new" / "answers.json"
    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, replacing(path) as aside:
            aside.write_text("half", encoding="utf-8")
            raise error
        assert list(path.parent.iterdir()) == [], "neither it nor what was written aside"
        assert getattr(raised.value, "filename", str(path)) == str(path)  # what a message names
    with replacing(path) as aside:
        aside.write_text("one", encoding="utf-8")
        assert not path.exists()
    with pytest.raises(FileNotFoundError, match="elsewhere"), replacing(path) as aside:
        aside.write_text("two", encoding="utf-8")
        open(tmp_path / "elsewhere")
    assert path.read_text(encoding="utf-8") == "one" and len(list(path.parent.iterdir())) == 1


def test_two_at_a_time_do_not_meet(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        one.write_text("1", encoding="utf-8")
        other.write_text("22", encoding="utf-8")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "1"


def test_links_stay(tmp_path):
    place = tmp_path / "disk" / "big.json"
    link = tmp_path / "link.json"
    link.symlink_to(Path("disk", "big.json"))  # points to nothing yet
    for text in ("one", "two"):
        with replacing(link) as aside:
            assert aside.parent == place.parent, "a rename cannot go from one disk to another"
            aside.write_text(text, encoding="utf-8")
        assert link.is_symlink() and place.read_text(encoding="utf-8") == text
    assert [p.name for p in place.parent.iterdir()] == ["big.json"]


def test_what_is_no_file_is_written_to_as_it_is(tmp_path, capsys):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_text(encoding="utf-8")))
    reader.start()
    write_json(str(pipe), [1])
    reader.join(10)
    assert got == ["[\n  1\n]\n"] and stat.S_ISFIFO(os.stat(pipe).st_mode)
    write_json(os.devnull, [1])
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    for output in ("-", "/dev/stdout"):
        write_json(output, [2])
        assert capsys.readouterr().out == "[\n  2\n]\n"


def test_a_file_in_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    path = tmp_path / "mine.json"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write everywhere
    number = os.stat(path).st_ino
    write_json(str(path), [1])
    assert path.read_text(encoding="utf-8") == "[\n  1\n]\n" and os.stat(path).st_ino == number


def test_names_as_long_as_they_can_be(tmp_path):
    for name in ("x" * 250 + ".json", "苹" * 83 + ".json"):
        write_json(str(tmp_path / name), ["苹果"])
        assert "苹果" in (tmp_path / name).read_text(encoding="utf-8")
    (tmp_path / ("苹" * 85)).mkdir()
    with replacing(cache_file("index", str(tmp_path / ("苹" * 85)), "folders")) as aside:
        aside.write_bytes(b"")


def test_modes_are_those_of_the_umask(tmp_path):
    path = tmp_path / "a.json"
    before = os.umask(0o027)
    try:
        write_json(str(path), [1])
        assert mode(path) == 0o640
        path.chmod(0o604)
        write_json(str(path), [2])
        assert mode(path) == 0o604, "what somebody has set stays"
    finally:
        os.umask(before)


# ---------------------------------------------------------------- whoever writes


def config_yaml(folder):
    processes = SimpleNamespace(is_first=True, wait=lambda: None)
    try:
        _prepare_folder(
            SimpleNamespace(
                folder=folder,
                cfg=Config({"text": "x" * 2000}),
                environment={"command": "苹果"},
                processes=processes,
            )
        )
    finally:
        stop_logging_to_files()


def contact_sheets(folder):
    paths = sorted(str(path) for path in Path(folder).parent.glob("*.jpg"))
    answers = [Prediction(path, [0], ["苹果"], [1.0]) for path in paths]
    _write_answers(folder, ImagePaths(paths), answers)


def pictures(folder):
    rng = np.random.default_rng(0)
    kernels = {"stem": ("stem", rng.normal(size=(32, 3, 8, 8)))}
    visualize(SimpleNamespace(pictured_weights=lambda: kernels), folder)


def learning_rate(folder):
    with filling(folder):
        draw_schedule(folder / "schedule.png", Constant(0.1, 10, 1, 8), 10)


def page_of_neighbours(folder):
    images = ImagePaths([str(path) for path in sorted(folder.parent.glob("*.jpg"))], ())
    write_neighbours(folder / "neighbours.html", images, [0, 1, 2], np.eye(3), 2, {})


WRITERS = {
    "answers.json": lambda folder: write_json(str(folder / "answers.json"), ["x" * 2000]),
    "config.yaml": config_yaml,
    "contact_sheet_001.png": contact_sheets,
    "features.npz": lambda folder: _write_features(folder, ["a"], np.ones((1, 2000)), {}),
    "neighbours.html": page_of_neighbours,
    "stem.png": pictures,
    "schedule.png": learning_rate,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_what_was_there(name, photos, tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.jpg").write_bytes((photos / "val" / "kiwi" / "001.jpg").read_bytes())
    folder = tmp_path / "out"
    folder.mkdir()
    with full_disk(1000), pytest.raises(PasslError, match=f"{name}: cannot be written"):
        WRITERS[name](folder)
    assert not (folder / name).exists() and not list(folder.glob(".partial-*"))
    WRITERS[name](folder)
    whole = (folder / name).read_bytes()
    assert len(whole) > 1000
    with full_disk(1000), pytest.raises(PasslError):
        WRITERS[name](folder)
    assert (folder / name).read_bytes() == whole and not list(folder.glob(".partial-*"))


def test_chinese_stands_as_itself(photos, tmp_path):
    (tmp_path / "0.jpg").write_bytes((photos / "val" / "kiwi" / "001.jpg").read_bytes())
    config_yaml(tmp_path / "out")
    contact_sheets(tmp_path / "out")
    for name in ("environment.jsonl", "predictions.json"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "苹果" in text
        json.loads(text)


# ---------------------------------------------------------------- the locale


def test_no_file_is_read_or_written_by_the_locale():
    """Each text file of the program names its encoding."""
    for folder in ("passl", "tools", "scripts", "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and opens_text(node):
                    named = {keyword.arg for keyword in node.keywords}
                    assert "encoding" in named, f"{file}:{node.lineno}"


def opens_text(call):
    if isinstance(call.func, ast.Attribute):
        return call.func.attr in ("read_text", "write_text")
    if not isinstance(call.func, ast.Name) or call.func.id != "open":
        return False
    modes = [*call.args[1:2], *(k.value for k in call.keywords if k.arg == "mode")]
    return not any("b" in mode.value for mode in modes if isinstance(mode, ast.Constant))


def test_the_check_sees_texts():
    source = "open(a)\nopen(a, 'w')\nopen(a, 'rb')\np.read_text()\nopen(a, mode='wb')\ntar.open(b)"
    calls = [node.value for node in ast.parse(source).body]
    assert [opens_text(call) for call in calls] == [True, True, False, True, False, False]
