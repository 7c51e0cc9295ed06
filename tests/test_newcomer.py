"""The README alone, from a clone to an exported file that answers: its commands, in its order."""

import json
import os
import re
import shutil
import subprocess
import time

import pytest
from helpers import ROOT
from test_docs import VIT, blocks
from weight_server import PROXIES, Site

from passl.building import create_model
from passl.cli import convert
from passl.utils.zoo import get_release
from passl.weights import write_tensor_file

LEFT_OUT = (".venv*", "output", "data", ".git", "*.egg-info", "__pycache__", ".ruff_cache")


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file as Google publishes it, of a network that knows nothing."""
    folder = tmp_path_factory.mktemp("released")
    (file,) = [file for file in get_release(VIT).files if file.by == "google"]
    network = create_model("vit_s16_224", num_classes=get_release(VIT).num_classes)
    tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    write_tensor_file(folder / "own.safetensors", tensors, {})
    assert convert.main([str(folder / "own.safetensors"), str(folder / file.name)]) == 0
    return folder / file.name


def section(page, title):
    """Returns a part of a page as a page of its own."""
    text = page.read_text(encoding="utf-8")
    return re.search(rf"^## {title}\n(.*?)(?=^## )", text, re.M | re.S)[1]


@pytest.mark.full
def test_the_readme_from_a_clone_to_an_answer(photos, released, tmp_path, capsys):
    clone = tmp_path / "passl"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(*LEFT_OUT))
    for path in sorted((photos / "train").rglob("*.jpg")):
        folder = clone / "mine" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        if len(list(folder.iterdir())) < 8:
            shutil.copyfile(path, folder / path.name)
    shutil.copytree(photos / "val", clone / "photos")
    shutil.copyfile(photos / "test" / "pear" / "002.jpg", clone / "cat.jpg")
    page = clone / "section.md"
    page.write_text(section(clone / "README.md", "Your own photographs"), encoding="utf-8")
    (commands,) = [text for _, text in blocks(page, "bash")]
    (program,) = [text for _, text in blocks(page, "python")]
    answer = next(text for _, text in blocks(clone / "docs" / "deployment.md", "python"))
    env = {
        name: value for name, value in os.environ.items()
        if name.lower() not in PROXIES and name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }  # fmt: skip
    env.update(HOME=str(tmp_path), PASSL_CACHE=str(tmp_path / "cache"))
    spent = {}

    def shell(script):
        began = time.monotonic()
        done = subprocess.run(
            ["bash", "-euc", script], cwd=clone, env=env, capture_output=True, text=True,
            timeout=1800,
        )  # fmt: skip
        spent[script.split("\n")[0][:50]] = round(time.monotonic() - began)
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    with Site() as site:
        site.files[f"/{VIT}/{released.name}"] = released.read_bytes()
        env["PASSL_WEIGHTS_MIRROR"] = site.address
        # What the quickstart does before it trains; its own training is another test.
        shell(". scripts/environment.sh; make_environment .venv cpu,photos")
        said = ""
        for command in commands.splitlines():
            said += shell(f". .venv/bin/activate; {command}")
        assert len(site.requests) == 1, "once, and afterwards from the cache"
    assert "Top-1" in said
    report = (clone / "output/photos/report/report.html").read_text(encoding="utf-8")
    assert all(name in report for name in ("apple", "kiwi", "pear"))
    answers = json.loads((clone / "output/photos/answers/predictions.json").read_text())
    assert len(answers) == len(list((clone / "photos").rglob("*.jpg")))
    (clone / "program.py").write_text(program)
    (clone / "answer.py").write_text(answer.replace('"deploy/', '"output/photos/deploy/'))
    one, other = (
        shell(f". .venv/bin/activate; python {name}.py").split()[-1]
        for name in ("program", "answer")
    )
    assert one == other and one in ("apple", "kiwi", "pear")
    with capsys.disabled():
        print("\nseconds:", spent)
