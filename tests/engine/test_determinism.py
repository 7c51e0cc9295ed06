"""What is asked of a GPU's libraries for the same numbers in every run; none is here to ask."""

import numpy as np
import paddle
import pytest
import yaml
from helpers import small_config
from paddle import nn

from passl.engine import determinism, train
from passl.engine.determinism import ask_for_determinism, say_what_stays_open
from passl.solver import build_optimizer
from passl.utils.config import get_config
from passl.utils.logging import logger


@pytest.fixture
def asked(monkeypatch):
    """What is set, in an environment where nothing of it is."""
    flags = {}
    monkeypatch.setattr(determinism.paddle, "set_flags", flags.update)
    for name in ("CUBLAS_WORKSPACE_CONFIG", "NCCL_ALGO"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return flags


@pytest.fixture
def said(monkeypatch):
    lines = []
    for level in ("info", "warning"):
        monkeypatch.setattr(logger, level, lambda text, *values: lines.append(text % values))
    return lines


def test_a_gpu_is_asked_for_fixed_algorithms(asked, said):
    ask_for_determinism("gpu")
    assert asked == {
        "FLAGS_cudnn_deterministic": True,
        "FLAGS_cudnn_exhaustive_search": False,
        "FLAGS_embedding_deterministic": 1,
    }
    assert determinism.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert determinism.os.environ["NCCL_ALGO"] == "Ring"
    assert not said


def test_what_the_user_has_set_stays_and_is_named(asked, said, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    ask_for_determinism("gpu")
    assert determinism.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    (line,) = said
    assert "CUBLAS_WORKSPACE_CONFIG is :16:8" in line and ":4096:8" in line


def test_a_processor_is_asked_for_nothing(asked, said):
    ask_for_determinism("cpu")
    assert not asked and "NCCL_ALGO" not in determinism.os.environ
    say_what_stays_open("cpu")
    say_what_stays_open("gpu")
    assert "runs are the same in any case" in said[0] and "never been tried on a GPU" in said[1]


def test_a_run_asks_before_anything_is_computed(photos, tmp_path, monkeypatch):
    """And says so; on this processor the records are the same without."""
    order = []
    for name in ("ask_for_determinism", "join_processes", "make_plan", "say_what_stays_open"):
        known = train.__globals__[name]
        monkeypatch.setitem(
            train.__globals__,
            name,
            lambda *a, name=name, known=known, **k: order.append(name) or known(*a, **k),
        )
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config(photos, epochs=1)))
    found = []
    for choice in ("true", "false"):
        overrides = [f"deterministic={choice}", f"output_dir={tmp_path / choice}", "device=cpu"]
        record = train(get_config(path, overrides))
        found.append({k: v for k, v in record.items() if "second" not in k})
    assert order[:4] == [
        "ask_for_determinism", "join_processes", "make_plan", "say_what_stays_open",
    ]  # fmt: skip
    assert order[4:] == ["join_processes", "make_plan"] and found[0] == found[1]


# ------------------------------------------------ optimizer state where it lived


class OnAGpu:
    """State as Paddle leaves it on a GPU after it has restored it."""

    def __init__(self, value, on_cpu):
        self.value, self.on_cpu, self.moved = value, on_cpu, []

    @property
    def place(self):
        return self

    def is_cpu_place(self):
        return self.on_cpu

    def numpy(self):
        return self.value

    def get_tensor(self):
        return self

    def set(self, value, place):
        self.moved.append((value, place))


@pytest.mark.smoke
def test_restored_state_goes_where_paddle_creates_it(monkeypatch):
    """Adam's powers of beta into the processor's memory, moments onto the GPU."""
    created = {}

    def add(self, name, param, *arguments, device=None, **options):
        created[name] = OnAGpu(np.array([0.5], np.float32), on_cpu=name == "beta2_pow_acc")
        return created[name]

    monkeypatch.setattr(paddle.optimizer.Optimizer, "_add_accumulator", add)
    layer = nn.Linear(2, 2)
    inner = build_optimizer({"name": "AdamW"}, layer).paddle
    inner._add_moments_pows(layer.weight)
    assert created.keys() >= {"moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc"}
    ((value, place),) = created["beta1_pow_acc"].moved
    assert value == 0.5 and isinstance(place, paddle.CPUPlace)
    for name in ("moment1", "moment2", "beta2_pow_acc"):  # the last of them lies there already
        assert not created[name].moved
