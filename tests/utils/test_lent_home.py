"""Libraries that write to the user's home, where that cannot be written."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import paddle
import pytest

from passl.distributed.processes import Processes
from passl.engine.execution import Execution
from passl.utils.lent_home import lend_home, writable_home


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A home below a file, which root cannot write to either."""
    (tmp_path / "file").write_text("")
    home = str(tmp_path / "file" / "home")
    monkeypatch.setenv("HOME", home)
    return home


def test_another_home_is_lent_and_taken_back(nowhere):
    with writable_home():
        lent = Path.home()
        (lent / ".cache" / "x").mkdir(parents=True, exist_ok=True)
        assert stat.S_IMODE(lent.stat().st_mode) == 0o700
    assert os.environ["HOME"] == nowhere
    with pytest.raises(KeyError), writable_home():
        raise KeyError
    assert os.environ["HOME"] == nowhere
    lend_home()
    assert Path.home() == lent  # until the process ends


def test_a_home_that_can_be_written_stays(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with writable_home():
        assert Path.home() == tmp_path
    monkeypatch.delenv("HOME")
    with writable_home():
        assert "HOME" not in os.environ


def test_a_board_its_graph_and_an_export_are_made_all_the_same(nowhere, tmp_path):
    """In a process of its own: what is imported is imported once."""
    code = (
        "import passl, sys\n"
        "from pathlib import Path\n"
        "from types import SimpleNamespace\n"
        "from passl.deployment.export import export\n"
        "from passl.evaluation.classification import Classification\n"
        "from passl.hooks.board import Board\n"
        "from passl.hooks.boards import build_boards\n"
        "from passl.modeling.graph import trace\n"
        "from passl.modeling.architectures.classifier import Network\n"
        "from passl.utils.config import get_config\n"
        "cfg, folder = get_config('mlp-mixer_cifar10'), Path(sys.argv[1])\n"
        "run = SimpleNamespace(cfg=cfg, folder=folder, global_batch=8)\n"
        "run.evaluator = Classification()\n"
        "Board(build_boards(['VisualDL'])).on_start(run)\n"
        "sizes = dict(img_size=8, patch_size=4, embed_dim=4, num_blocks=1, tokens_mlp_dim=4,\n"
        "             channels_mlp_dim=4)\n"
        "backbone = {'name': 'MlpMixer', **sizes}\n"
        "assert trace({'architecture': backbone}, [3, 8, 8]).operations\n"
        "export(Network(backbone), folder, cfg.dataloader.val, (8, 8), {}, ['paddle'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "run" / "visualdl").glob("vdlrecords.*"))
    assert (tmp_path / "run" / "preprocessing.json").exists()
    assert list(tmp_path.glob("passl-home-*")) == [], "what was lent is taken away at the end"


def test_training_as_a_static_program_is_lent_one(nowhere):
    cfg = SimpleNamespace(
        recompute=False, to_static=True, parallel=SimpleNamespace(sharding=0, fusion_mb=1)
    )
    precision = SimpleNamespace(prepare=lambda *_: None, has_narrow_weights=False)
    Execution(cfg, paddle.nn.Linear(2, 2), None, precision, Processes())
    assert Path.home().is_dir()
