"""Where a run begins, what it may go on with, and that it has its folder to itself."""

import errno
import fcntl
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from helpers import records, small_config

from passl.cli import train as train_command
from passl.datasets import build_dataset
from passl.distributed.processes import Processes
from passl.engine import train
from passl.engine.checkpoint import Checkpoint
from passl.engine.run_lock import RunLock
from passl.evaluation import Evaluator
from passl.hooks.console import Console
from passl.modeling.architectures import build_architecture
from passl.solver import Optimizer
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile, load_weights, write_tensor_file


@pytest.fixture
def run(photos, tmp_path):
    """Trains a small config with changes; returns the run's folder: ``run("name", epochs=2)``."""

    def start(name="run", overrides=(), root=photos, resume=None, epochs=1, **arguments):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(small_config(root, epochs=epochs)))
        workers = [f"dataloader.{split}.loader.num_workers=0" for split in ("train", "val", "test")]
        cfg = get_config(path, [f"output_dir={tmp_path / name}", *workers, *overrides])
        train(cfg, resume=resume, **arguments)
        return tmp_path / name

    return start


@pytest.fixture
def told(caplog):
    """Returns what has been logged so far, as one text."""
    caplog.set_level(logging.INFO)
    logging.getLogger("passl").propagate = True
    return lambda: caplog.text


# ---------------------------------------------------------------- the same data


@pytest.fixture
def checkpoint(trained):
    return Checkpoint.open(trained[1])


@pytest.fixture
def moved(photos, tmp_path):
    """The photographs in another folder, for changing them."""
    shutil.copytree(photos, tmp_path / "moved")
    return tmp_path / "moved"


def training_set(root):
    return build_dataset({"name": "ImageFolder", "dataroot": str(root / "train")})


def test_the_same_images_in_another_folder_are_the_same_data(checkpoint, moved, told):
    checkpoint.check_data(training_set(moved))
    assert "files or labels" not in told() and "compared" not in told()


def test_other_classes_are_refused_by_their_names(checkpoint, moved):
    """As many classes and images; all labels move by one."""
    (moved / "train" / "apple").rename(moved / "train" / "zebra")
    with pytest.raises(PasslError, match="classes apple, kiwi, pear; .* has kiwi, pear, zebra; "):
        checkpoint.check_data(training_set(moved))


def test_an_image_in_another_class_is_refused_and_the_classes_are_named(checkpoint, moved, told):
    (moved / "train" / "apple" / "000.jpg").rename(moved / "train" / "kiwi" / "000.jpg")
    with pytest.raises(PasslError, match=r"as many images .*\(apple 20 → 19, kiwi 20 → 21\)"):
        checkpoint.check_data(training_set(moved))
    checkpoint.check_data(training_set(moved), allow_change=True)
    assert "apple 20 → 19" in told()


def test_two_images_that_change_places_are_noticed(checkpoint, moved):
    """No class has another number of images, and no place in the order another label."""
    one, other = moved / "train" / "apple" / "000.jpg", moved / "train" / "kiwi" / "001.jpg"
    one.rename(other.with_name("000.jpg"))
    other.rename(one.with_name("001.jpg"))
    assert (training_set(moved).labels == np.repeat([0, 1, 2], 20)).all()
    with pytest.raises(PasslError, match="as many images .* other files or labels"):
        checkpoint.check_data(training_set(moved))


def test_another_number_of_images_is_told_by_class(checkpoint, moved):
    (moved / "train" / "pear" / "002.jpg").unlink()
    with pytest.raises(PasslError, match=r"60 images but .* has 59 \(pear 20 → 19\)"):
        checkpoint.check_data(training_set(moved), allow_change=True)


def test_a_corrected_label_of_a_list_is_refused(photos, tmp_path):
    lines = [f"train/{c}/{i:03d}.jpg {k}" for k, c in enumerate(("apple", "kiwi", "pear"))
             for i in range(k, 60, 3)]  # fmt: skip

    def listed(lines):
        (tmp_path / "list.txt").write_text("\n".join(lines))
        cfg = {
            "name": "ImageList",
            "dataroot": str(photos),
            "list_file": str(tmp_path / "list.txt"),
        }
        return build_dataset(cfg)

    before = listed(lines).digest()
    assert listed(lines).digest() == before
    assert listed(lines[1:] + lines[:1]).digest() != before
    assert listed([lines[0][:-1] + "1", *lines[1:]]).digest() != before


@pytest.mark.parametrize("label", [-1, 999_999_999])
def test_labels_that_number_no_classes_are_not_counted(checkpoint, photos, label):
    data = training_set(photos)
    data.labels = np.full(len(data), label)
    assert data.class_counts() == []
    with pytest.raises(PasslError, match="other files or labels .* order; restore"):
        checkpoint.check_data(data)


def test_a_checkpoint_of_an_earlier_version_goes_on_with_one_line(checkpoint, moved, told):
    del checkpoint.file.metadata["training_set"], checkpoint.file.metadata["schedule_epochs"]
    (moved / "train" / "apple" / "000.jpg").rename(moved / "train" / "kiwi" / "000.jpg")
    checkpoint.check_data(training_set(moved))
    assert told().count("could not be compared") == 1
    assert checkpoint.schedule_epochs == 2


def test_a_run_is_asked_for_its_data(run, moved):
    run(epochs=1)
    (moved / "train" / "apple").rename(moved / "train" / "zebra")
    shutil.rmtree(moved / "val" / "apple"), shutil.rmtree(moved / "test" / "apple")
    with pytest.raises(PasslError, match="has kiwi, pear, zebra"):
        run(resume="auto", root=moved)


# ---------------------------------------------------------------- one run in a folder


@pytest.fixture
def holder(tmp_path):
    """Another process that trains in ``<tmp_path>/run``, as far as its lock tells."""
    (tmp_path / "run").mkdir()
    code = (
        "import fcntl, json, sys, time\n"
        "file = open(sys.argv[1], 'a+'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "file.write(json.dumps({'process': 4711, 'host': 'elsewhere', 'since': 'noon'}) + '\\n')\n"
        "file.flush(); print('ready', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code, str(tmp_path / "run" / ".lock")],
        stdout=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    yield process
    end(process)


def end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_second_run_in_a_folder_is_refused_until_the_first_has_gone(run, holder, tmp_path):
    with pytest.raises(PasslError, match="a run goes on here .process 4711 on elsewhere, since"):
        run(resume="auto")
    assert os.listdir(tmp_path / "run") == [".lock"]
    end(holder)  # which leaves the file
    folder = run(resume="auto")
    assert len(records(folder)) == 9
    assert not (folder / ".lock").exists()


def test_what_another_run_is_writing_is_not_read(run, holder, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "latest.safetensors").write_bytes(b"half")
    for arguments in ({"resume": "auto"}, {}):
        with pytest.raises(PasslError, match="a run goes on here"):
            run(**arguments)


def test_a_run_holds_the_lock_from_its_first_line_to_its_last(run, tmp_path, monkeypatch):
    locked = []

    def look(self, *_):
        probe = (
            "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        )
        done = subprocess.run(
            [sys.executable, "-S", "-c", probe, str(tmp_path / "run" / ".lock")],
            capture_output=True,
        )
        locked.append(done.returncode != 0)

    monkeypatch.setattr("passl.hooks.console.Console.on_start", look)
    monkeypatch.setattr("passl.hooks.console.Console.on_end", look)
    run()
    assert locked == [True, True]


def test_a_file_system_without_locks_is_said_and_stops_nothing(tmp_path, monkeypatch, told):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with RunLock(tmp_path, Processes()) as lock:
        lock.take()
    assert told().count("has no locks") == 1
    assert not list(tmp_path.iterdir())


def test_a_lock_that_cannot_be_removed_hides_no_error(tmp_path, monkeypatch):
    def refuse(path, missing_ok=False):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with pytest.raises(PasslError, match="the true one"):
        with RunLock(tmp_path, Processes()) as lock:
            lock.take()
            monkeypatch.setattr(Path, "unlink", refuse)
            raise PasslError("the true one")


# ---------------------------------------------------------------- weights, then a checkpoint


def test_the_same_command_begins_from_weights_and_then_goes_on(run, trained, tmp_path, told):
    weights = tmp_path / "weights.safetensors"
    shutil.copy(trained[1], weights)
    command = {"resume": "auto", "pretrained": str(weights), "epochs": 2}
    badly = ["dataloader.val.dataset.dataroot=" + str(tmp_path / "val")]
    shutil.copytree(str(small_root(trained)) + "/val", tmp_path / "val")
    (tmp_path / "val" / "kiwi" / "bad.jpg").write_bytes(b"")
    with pytest.raises(PasslError, match="bad.jpg"):  # after the first epoch
        run("job", badly, **command)
    assert (
        f"no checkpoint in {tmp_path / 'job' / 'checkpoints'}: beginning from {weights}" in told()
    )
    assert records(tmp_path / "job")[0]["loss"] < np.log(3) - 0.01
    (tmp_path / "val" / "kiwi" / "bad.jpg").unlink()
    weights.unlink()  # is not asked for any more
    folder = run("job", badly, **command)
    assert [r["step"] for r in records(folder) if "split" not in r] == list(range(1, 15))
    with WeightFile(folder / "checkpoints" / "latest.safetensors") as file:
        assert file.metadata["pretrained"] == str(weights)
    with pytest.raises(PasslError, match="leave one of them out"):
        run("other", resume=str(trained[1]), pretrained=str(trained[1]))


def test_rows_of_the_head_are_carried_over_by_class_name(run, trained, moved):
    for split in ("train", "val", "test"):
        (moved / split / "apple").rename(moved / split / "zebra")
    still = ["lr_scheduler={name: Constant, learning_rate: 0.0}", "optimizer={name: SGD}"]
    folder = run("run", still, root=moved, pretrained=str(trained[1]))
    ours, theirs = (
        WeightFile(path).read_group("model")["head.fc.weight"]
        for path in (folder / "checkpoints" / "latest.safetensors", trained[1])
    )
    np.testing.assert_array_equal(ours[:, :2], theirs[:, 1:])  # kiwi, pear
    assert not ours[:, 2].any()  # zebra begins as a head does, at zero


def small_root(trained):
    cfg = yaml.safe_load(trained[0].read_text())
    return os.path.dirname(cfg["dataloader"]["val"]["dataset"]["dataroot"])


def test_a_head_that_differs_in_more_than_its_classes_begins_anew(trained, tmp_path, told):
    """And not as a damaged file."""
    model = small_config(tmp_path)["model"]
    model["architecture"]["embed_dim"] = 32
    load_weights(
        build_architecture(model), trained[1], allow_partial=True, new_head=True,
        class_names=["kiwi", "pear", "zebra"],
    )  # fmt: skip
    assert "its head has other shapes than the model's, so the head begins anew" in told()
    assert "rows" not in told()


def test_beginning_anew_is_said(run, told):
    folder = run(resume="auto")
    said = f"no checkpoint in {folder / 'checkpoints'}: beginning anew"
    assert said in told() and said in (folder / "train.log").read_text()
    assert "resumed" not in told()


def test_a_moved_run_goes_on_where_it_is(run, tmp_path, capsys):
    run("here").rename(tmp_path / "there")
    argv = ["-c", str(tmp_path / "there" / "config.yaml"), "--resume", "auto"]
    assert train_command.main(argv) == 0
    assert "nothing is left to train" in capsys.readouterr().out
    assert not (tmp_path / "here").exists()


# ---------------------------------------------------------------- an epoch is safe


def test_an_evaluation_that_fails_costs_nothing(run, photos, tmp_path):
    """The resumed run begins with the evaluation and ends as one that never failed."""
    val = tmp_path / "val"
    shutil.copytree(photos / "val", val)
    elsewhere = [f"dataloader.val.dataset.dataroot={val}", "checkpoint.interval_steps=null"]
    whole = run("whole", elsewhere, epochs=2)
    (val / "pear" / "bad.jpg").write_bytes(b"")
    with pytest.raises(PasslError, match="bad.jpg"):
        run("cut", elsewhere, epochs=2)
    assert os.listdir(tmp_path / "cut" / "checkpoints") == ["latest.safetensors"]
    (val / "pear" / "bad.jpg").unlink()
    assert records(run("cut", elsewhere, epochs=2, resume="auto")) == records(whole)


def test_a_checkpoint_from_before_its_evaluation_gives_one_record_of_it(run, tmp_path):
    """As when a run is killed after an evaluation that was not the best, before the next save."""
    folder = run("run", ["checkpoint.interval_steps=null", "checkpoint.keep=9"], epochs=2)
    expected = records(folder)
    before = folder / "checkpoints" / "step-00000007.safetensors"
    with WeightFile(before) as file:
        arrays = {name: array for group in ("model", "optimizer")
                  for name, array in ((f"{group}/{n}", a) for n, a in
                                      file.read_group(group).items())}  # fmt: skip
        metadata = json.loads(json.dumps(file.metadata))
    metadata["progress"].update(evaluated_step=-1, best=None)
    write_tensor_file(before, arrays, metadata)
    run(
        "run", ["checkpoint.interval_steps=null", "checkpoint.keep=9"], epochs=2, resume=str(before)
    )
    assert records(folder) == expected


def test_before_an_evaluation_is_saved_what_the_config_wants_saved(run, photos, tmp_path):
    shutil.copytree(photos / "val", tmp_path / "val")
    (tmp_path / "val" / "pear" / "bad.jpg").write_bytes(b"")
    never = [f"checkpoint.interval_{unit}=null" for unit in ("steps", "epochs")]
    with pytest.raises(PasslError, match="bad.jpg"):
        run("run", [f"dataloader.val.dataset.dataroot={tmp_path / 'val'}", *never], epochs=2)
    assert os.listdir(tmp_path / "run" / "checkpoints") == []


def test_a_best_that_could_not_be_saved_is_none(run, told, monkeypatch):
    """The last gradient before the first evaluation was not finite: the next one may be best."""
    step = Optimizer.step
    steps = []

    def seventh_is_bad(self, rate):
        finite = step(self, rate)
        steps.append(1)
        return paddle.zeros_like(finite) if len(steps) == 7 else finite

    better = Evaluator.is_better
    asked = []
    monkeypatch.setattr(Optimizer, "step", seventh_is_bad)
    monkeypatch.setattr(Evaluator, "is_better", lambda *two: asked.append(two) or better(*two))
    folder = run("run", ["checkpoint.interval_steps=null"], epochs=2)
    assert told().count("step 7: not saved") == 1
    assert not asked  # the second evaluation was compared with none
    with WeightFile(folder / "checkpoints" / "best.safetensors") as file:
        assert file.metadata["progress"]["best"]["step"] == 14


def test_a_finished_run_is_not_evaluated_again(run, monkeypatch):
    """Also where its last evaluation was not the best, so that nothing else was to be saved."""
    monkeypatch.setattr(Evaluator, "is_better", lambda self, record, best: False)
    folder = run("run", epochs=2)
    expected = (folder / "metrics.jsonl").read_text()  # with the seconds that each took
    run("run", epochs=2, resume="auto")
    assert (folder / "metrics.jsonl").read_text() == expected


def test_what_is_tested_at_the_end_stays_where_nothing_is_validated(run):
    changes = ["dataloader.val=null"]
    folder = run("run", changes)
    before = (folder / "metrics.jsonl").read_text()
    assert '"split": "test"' in before
    run("run", changes, resume="auto")
    assert (folder / "metrics.jsonl").read_text() == before


def test_weights_are_drawn_once_where_an_evaluation_is_made_again(run, monkeypatch):
    """Killed in the third epoch; the evaluation of the second was not the best."""
    changes = ["checkpoint.interval_steps=null", "log_config.histograms=1"]
    monkeypatch.setattr(Evaluator, "is_better", lambda self, record, best: False)
    whole = (run("whole", changes, epochs=3) / "histograms.jsonl").read_text()

    def end(hook, run, record):
        if record["step"] == 16:
            raise PasslError("a power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Console, "on_record", end)
        with pytest.raises(PasslError, match="a power cut"):
            run("cut", changes, epochs=3)
    assert (run("cut", changes, epochs=3, resume="auto") / "histograms.jsonl").read_text() == whole


def test_weights_are_drawn_once_where_a_run_begins_again(run, tmp_path):
    folder = run("run", ["log_config.histograms=1"])
    whole = (folder / "histograms.jsonl").read_text()
    shutil.rmtree(folder / "checkpoints")
    run("run", ["log_config.histograms=1"], resume="auto")
    assert (folder / "histograms.jsonl").read_text() == whole


def test_what_a_first_save_left_behind_is_no_checkpoint(run, tmp_path):
    """As after a kill in the middle of it."""
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / ".partial-1.safetensors").write_bytes(b"half")
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"")
    folder = run("run", resume="auto")
    assert sorted(os.listdir(folder / "checkpoints")) == ["best.safetensors", "latest.safetensors"]


# ---------------------------------------------------------------- a longer run


def rates(folder):
    return [r["lr"] for r in records(folder) if "split" not in r]


def test_a_run_is_made_longer_with_its_schedule_held(run, told):
    folder = run("run", epochs=1)
    before = rates(folder)
    for epochs, switch in ((2, None), (2, "hold"), (2, "hold"), (3, "hold"), (3, None)):
        if (epochs, switch) == (2, None):
            with pytest.raises(PasslError, match="epochs = 1, .* 2; --extend stretch or .* hold"):
                run("run", epochs=epochs, resume="auto")
            continue
        run("run", epochs=epochs, resume="auto", extend=switch)
        assert rates(folder) == before + [before[-1]] * (7 * epochs - 7)
        tests = [r["step"] for r in records(folder) if r.get("split") == "test"]
        assert tests == [7 * n for n in range(1, epochs + 1)]
    assert "goes over 1 epochs" in told()
    with pytest.raises(PasslError, match="epochs = 3, the config now says 2; restore"):
        run("run", epochs=2, resume="auto", extend="hold")


def test_a_run_is_made_longer_with_its_schedule_stretched(run):
    folder = run("run", epochs=1)
    before, whole = rates(folder), rates(run("whole", epochs=2))
    run("run", epochs=2, resume="auto", extend="stretch")
    assert rates(folder) == before + whole[7:]
    assert before[6] != whole[6]


# ---------------------------------------------------------------- the end


def test_the_end_says_what_was_best_where_it_is_and_what_comes_next(trained):
    folder = trained[1].parent.parent
    log = (folder / "train.log").read_text()
    end = log[log.index("best: epoch") :]
    with WeightFile(trained[1]) as file:
        best = file.metadata["progress"]["best"]
    assert f"best: epoch {best['epoch']}, val Top-1 {best['top1']:.2f} %" in end
    assert str(trained[1]) in end
    for command in ("eval", "predict", "export"):
        assert f"passl {command} -c {folder / 'config.yaml'}" in end
