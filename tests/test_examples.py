"""The programs in examples/ run as their first lines say."""

import re
import runpy
import sys

import pytest
import yaml
from helpers import ROOT, small_config

from passl.cli import train as train_command


@pytest.fixture
def place(photos, tmp_path, monkeypatch):
    """A folder as the examples have it: images of one's own, and a run."""
    cfg = small_config(photos, epochs=1)
    cfg["model"]["head"]["num_classes"] = None
    del cfg["dataloader"]["test"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(cfg))
    (tmp_path / "photos").symlink_to(photos / "val")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [f"examples/{name}", *arguments])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_every_example_says_how_it_is_run(monkeypatch):
    for file in sorted((ROOT / "examples").glob("*.py")):
        said = file.read_text(encoding="utf-8").split('"""')[1]
        assert f"python examples/{file.name} " in said
        with pytest.raises(SystemExit, match=re.escape(said.strip()[:40])):
            run(file.name, monkeypatch)


def test_classify(place, monkeypatch, capsys):
    assert train_command.main(["-c", "mine.yaml", "--output-dir", "output/mine"]) == 0
    capsys.readouterr()
    run("classify.py", monkeypatch, "output/mine", "photos/pear", "photos/apple/000.jpg")
    printed = capsys.readouterr().out.splitlines()
    lines = [line for line in printed if line.startswith("photos/")]
    assert len(lines) == len(list((place / "photos" / "pear").iterdir())) + 1
    assert lines[-1].startswith("photos/apple/000.jpg ") and lines[-1].count(" %") == 3


def test_compare_rates(place, monkeypatch, capsys):
    run("compare_rates.py", monkeypatch, "mine.yaml", "output/rates", "1e-2", "1e-6")
    *_, one, other, best = capsys.readouterr().out.splitlines()
    assert one.startswith("rate 1e-2: Top-1 ") and other.startswith("rate 1e-6: Top-1 ")
    rates = {line.split()[1][:-1]: float(line.split()[3]) for line in (one, other)}
    assert best == f"the best: {max(rates, key=rates.get)}"


def test_own_loop(place, monkeypatch, capsys):
    run("own_loop.py", monkeypatch, "mine.yaml", "4")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"epoch {i}" for i in range(1, 5)]
    losses = [float(line.split()[-1]) for line in lines]
    assert losses[-1] < losses[0]
