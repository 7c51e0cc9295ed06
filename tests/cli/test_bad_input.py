"""What a user can get wrong: one clear line, exit code 2, nothing half-written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, run_tool
from PIL import Image

from passl.cli import convert as convert_command
from passl.cli import eval as eval_command
from passl.cli import export as export_command
from passl.cli import train as train_command


@pytest.fixture
def train_error(config_file, tmp_path, capsys):
    """Runs passl train with a mistake; returns its one line, after checking it wrote nothing."""

    def run(*arguments, config=None, **changes):
        out = tmp_path / "out"
        argv = ["-c", config or config_file(**changes), "--output-dir", str(out), *arguments]
        assert train_command.main(argv) == 2
        captured = capsys.readouterr()
        assert not out.exists(), "nothing half-written"
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
        assert "Traceback" not in captured.err
        return captured.err

    return run


@pytest.mark.smoke
def test_config_that_does_not_exist(train_error):
    line = train_error(config="configs/mlp_mixer/mlp-mixer_b16.yaml")
    assert "mlp-mixer_b16.yaml" in line and "did you mean 'mlp-mixer_b16_224'" in line


def test_config_that_is_not_yaml(train_error, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("model: {name: [\nepochs: 3\n")
    assert f"{path}:" in train_error(config=str(path))


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("model.architecture.name=MlpMixr", ("unknown backbone", "did you mean 'MlpMixer'")),
        ("dataloader.train.dataset.transforms.0.name=RandomCropp", ("unknown transform",)),
        ("dataloader.train.batch_transforms.0.name=Normalise", ("did you mean 'Normalize'",)),
        ("dataloader.test.batch_transforms.0.std=[0.5, 0.0, 0.5]", ("std above 0",)),
        ("optimizer.name=AdamX", ("unknown optimizer", "did you mean 'AdamW'")),
        ("lr_scheduler.name=Cosin", ("unknown lr_scheduler", "Cosine")),
        ("hooks=[{name: Nothing}]", ("unknown hook",)),
        ("model.architecture.embed_dims=4", ("unknown argument", "did you mean 'embed_dim'")),
        ("epoch=4", ("unknown key 'epoch'", "did you mean 'epochs'")),
        ("epochs=many", ("epochs", "many")),
        ("device=tpu", ("device",)),
        ("global_batch_size=12", ("global_batch_size 12", "batch_size 8")),
        ("dataloader.train.sampler.batch_size=61", ("60 images",)),
        ("lr_scheduler.warmup_steps=99", ("warm-up of 99 steps",)),
        ("model.head.in_channels=3", ("in_channels", "64")),
        ("model.head.num_classes=4", ("3 classes", "num_classes=3")),
        ("dataloader.train.dataset.dataroot=nowhere", ("nowhere", "no such data folder")),
        ("model.architecture.patch_size=5", ("patch_size", "divide")),
    ],
)
def test_overrides(train_error, override, fragments):
    line = train_error("-o", override)
    for fragment in fragments:
        assert fragment in line
    assert "-o " in line or "small.yaml:" in line  # it says where the mistake was made


def test_a_mistake_in_a_file_is_named_by_its_line(train_error, config_file):
    path = config_file(optimizer={"name": "AdamW", "weight_decay": 0.05, "beta3": 1.0})
    number = next(i for i, line in enumerate(open(path), 1) if "beta3" in line)
    assert f"{path}:{number}: unknown argument 'beta3'" in train_error(config=path)


def test_an_empty_data_folder_and_a_class_without_images(train_error, tmp_path, photos):
    empty = tmp_path / "empty"
    empty.mkdir()
    key = "dataloader.train.dataset.dataroot"
    assert "no class folders" in train_error("-o", f"{key}={empty}")
    copy = tmp_path / "copy"
    shutil.copytree(photos / "train", copy)
    (copy / "plum").mkdir()
    assert "plum" in train_error("-o", f"{key}={copy}")


def test_lists(train_error, tmp_path):
    for name in ("a", "b"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.jpg")
    listing = tmp_path / "list.txt"
    dataset = f"dataloader.train.dataset={{name: ImageList, dataroot: {tmp_path}, "
    dataset += f"list_file: {listing}}}"
    listing.write_text("a.jpg 0\nb.jpg\n")
    assert f"{listing}:2: " in train_error("-o", dataset)
    listing.write_text("a.jpg 0\nb.jpg 3\n")
    assert f"{listing}:2: label 3" in train_error("-o", dataset)


def test_gpu_on_the_cpu_build(train_error):
    assert "--device cpu" in train_error("--device", "gpu")


def test_weights_and_checkpoints_that_are_not(train_error, tmp_path):
    assert "no such file" in train_error("--pretrained", str(tmp_path / "none.safetensors"))
    junk = tmp_path / "junk.safetensors"
    junk.write_bytes(b"\x00" * 100)
    assert str(junk) in train_error("--pretrained", str(junk))
    assert "cannot resume" in train_error("--resume", str(junk))


def test_a_folder_that_cannot_be_made(config_file, tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("")
    argv = ["-c", config_file(), "--output-dir", str(blocker / "out")]
    assert train_command.main(argv) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_evaluation(config_file, tmp_path, capsys):
    def error(*arguments, **changes):
        assert eval_command.main(["-c", config_file(**changes), *map(str, arguments)]) == 2
        return capsys.readouterr().err

    assert "no such file" in error("--weights", tmp_path / "none.safetensors")
    assert "checkpoints/best.safetensors" in error("--output-dir", tmp_path / "nothing")


def test_debug_shows_the_traceback(config_file):
    from passl.utils.errors import PasslError

    with pytest.raises(PasslError):
        train_command.main(["-c", config_file(), "-o", "epoch=1", "--debug"])


def test_help_has_an_example(capsys):
    for command in (train_command, eval_command):
        with pytest.raises(SystemExit) as stopped:
            command.main(["--help"])
        assert stopped.value.code == 0
        assert "example:" in capsys.readouterr().out


def test_an_output_folder_is_taken_by_the_letter(config_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["-c", config_file(epochs=1), "--output-dir", "run #1: a"]
    assert train_command.main(argv) == 0
    assert (tmp_path / "run #1: a" / "metrics.jsonl").exists()


def test_the_working_folder_stays_clean(train_error, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    train_error("-o", "epoch=1")
    assert sorted(os.listdir(tmp_path)) == ["small.yaml"]


def test_too_little_memory_is_one_line(config_file):
    code, _, err = run_tool(
        "train", "-c", config_file(), "-o", "model.architecture.channels_mlp_dim=1000000000"
    )
    assert code == 2
    assert err.startswith("error: the memory is full; lower") and err.count("\n") == 1


def one_line(capsys):
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dataloader.val.dataset.transforms.0.size=12", "built for images of 16×16"),
        ("dataloader.test.dataset.transforms.0.size=12", "built for images of 16×16"),
        ("dataloader.val.batch_transforms=[]", "dataloader.val"),
        ("model.architecture.in_channels=1", "build the network with in_channels=3"),
        ("hooks=[{name: Nope}]", "unknown hook 'Nope'"),
        ("ema.decay=2", "decay"),
        ("model.freeze=backbone", "must be a list of texts, not 'backbone'"),
        ("lr_scheduler.learning_rate=.inf", "'lr_scheduler.learning_rate' is inf"),
        ("epochs=abc", "'epochs' takes a whole number"),
        ("dataloader.train.sampler.batch_size=100", "to at most 60"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_would_stop_a_run_later_stops_it_before_it_begins(
    config_file, tmp_path, capsys, override, said, dry
):
    argv = ["-c", config_file(), "--output-dir", str(tmp_path / "run"), "-o", override]
    assert train_command.main([*argv, *(["--dry-run"] if dry else [])]) == 2
    assert said in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_an_override_is_named_and_not_the_line_that_it_replaces(config_file, capsys):
    argv = ["-c", config_file(), "--dry-run", "-o", "model.head.num_classes=0"]
    assert train_command.main(argv) == 2
    assert "-o model.head.num_classes=0: num_classes must be" in one_line(capsys)


def test_places_that_cannot_work_are_refused_before_any_work(trained, tmp_path, capsys):
    config, weights = map(str, trained)
    file = tmp_path / "file"
    file.write_text("mine")
    base = ["-c", config, "--weights", weights]
    for command, arguments, said in (
        (export_command, [*base, "--output", str(file)], "is a file, and a folder is needed"),
        (export_command, [*base, "--output", ""], "--output is empty"),
        (eval_command, [*base, "--report", str(file)], "is a file, and a folder is needed"),
        (eval_command, [*base, "--json", str(tmp_path / "none" / "x.json")], "no place for a file"),
        (eval_command, ["-c", config, "--output-dir", str(tmp_path / "x")], "train first, or name"),
        (convert_command, [weights, str(file)], "exists already"),
        (convert_command, [weights, weights], "exists already"),
    ):
        assert command.main(arguments) == 2
        assert said in one_line(capsys)
    assert file.read_text() == "mine"


def test_a_run_without_its_latest_checkpoint_is_not_begun_anew(trained, tmp_path, capsys):
    config, _ = trained
    folder = tmp_path / "run"
    shutil.copytree(config.parent / "run", folder)
    (folder / "checkpoints" / "latest.safetensors").unlink()
    best = (folder / "checkpoints" / "best.safetensors").read_bytes()
    argv = ["-c", str(config), "--output-dir", str(folder), "--resume", "auto"]
    assert train_command.main(argv) == 2
    assert "latest.safetensors: is missing" in one_line(capsys)
    assert (folder / "checkpoints" / "best.safetensors").read_bytes() == best


def test_a_moved_run_folder_is_still_one(trained, tmp_path, capsys):
    config, _ = trained
    shutil.copytree(config.parent / "run", tmp_path / "moved")
    assert eval_command.main(["-c", str(tmp_path / "moved" / "config.yaml")]) == 0
    assert "Top-1" in capsys.readouterr().out


def test_a_pipe_that_closes_and_an_output_that_is_full(trained):
    config, weights = trained
    tool = f"{sys.executable} {ROOT / 'tools' / 'eval.py'} -c {config} --weights {weights}"
    closed = subprocess.run(["bash", "-c", f"{tool} | head -c 1"], capture_output=True, text=True)
    assert "Traceback" not in closed.stderr
    if Path("/dev/full").exists():
        full = subprocess.run(["bash", "-c", f"{tool} >/dev/full"], capture_output=True, text=True)
        assert full.returncode != 0 and "Traceback" not in full.stderr
        assert "error: the output: cannot be read or written (No space left" in full.stderr
