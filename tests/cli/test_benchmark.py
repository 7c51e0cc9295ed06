"""tools/benchmark.py: what it counts is what it says. How fast anything is, no test asks."""

import json

import pytest
from paddle import nn

from passl.cli import benchmark as benchmark_command
from passl.deployment import runtimes


@pytest.fixture
def measure(config_file, tmp_path, capsys):
    def run(what, *arguments):
        path = tmp_path / "result.json"
        argv = [what, "-c", config_file(), "--repeats", "2", "--steps", "3", "--images", "20"]
        assert benchmark_command.main([*argv, "--json", str(path), *arguments]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out

    return run


@pytest.mark.smoke
def test_data(measure):
    result, out = measure("data")
    one, loader = result["one_process"], result["loader"]
    assert list(one["stages"]) == ["read", "decode", "transform", "collate", "transfer"]
    assert all(milliseconds > 0 for milliseconds in one["stages"].values())
    assert one["images"] == 20
    assert one["images_per_second"] == pytest.approx(1e3 / sum(one["stages"].values()))
    assert loader["num_workers"] == 2 and len(loader["rates"]) == 2
    assert "with 2 workers" in out and "decode" in out
    assert result["environment"] and result["what"] == "data"


def test_step_and_train(measure):
    step, _ = measure("step")
    assert step["batch_size"] == 8 and step["images_per_second"] > 0
    train, out = measure("train")
    assert train["steps"] == 3 and 0 <= train["waiting"] <= 1
    assert "waited for data" in out


def test_what_a_user_can_get_wrong(config_file, capsys):
    for arguments, said in (
        (["data", "-c", config_file(), "--images", "0"], "are at least 1"),
        (["data", "-c", config_file(), "-o", "dataloader.val=null", "--split", "val"], "no data"),
        (["step", "-c", "nothing"], "no such config"),
    ):
        assert benchmark_command.main(arguments) == 2
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_what_paddle_cannot_prepare_is_told_and_the_others_go_on(monkeypatch, tmp_path):
    def prepare(folder, onednn=False, bfloat16=False):
        if bfloat16:
            raise ValueError("(InvalidArgument) Broadcast dimension mismatch.\n  [Hint: …]")
        return "run"

    monkeypatch.setattr(runtimes, "paddle_inference", prepare)
    monkeypatch.setattr(runtimes, "has_avx512", lambda: True)
    found = {name: (run, why) for name, run, why in runtimes.candidates(tmp_path, nn.Linear(2, 2))}
    assert found["Paddle Inference, oneDNN"] == ("run", "")
    run, why = found["Paddle Inference, oneDNN bfloat16"]
    assert run is None and why.endswith("(InvalidArgument) Broadcast dimension mismatch.")
    assert "OpenVINO" in found
