"""The board in TensorBoard, read back by TensorBoard's own readers."""

import io
import json

import numpy as np
import pytest
import yaml
from helpers import CLOCK, small_config
from PIL import Image
from visualdl import LogReader

from passl.engine import train
from passl.hooks.boards import build_boards
from passl.utils.config import get_config
from passl.weights import WeightFile

pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")

# isort: split
from tensorboard.backend.event_processing import data_provider, event_accumulator
from tensorboard.backend.event_processing import plugin_event_multiplexer as multiplexing
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import (
    api_pb2,
    backend_context,
    get_experiment,
    list_session_groups,
    metadata,
)


def start(photos, folder, resume="auto", **changes):
    path = folder.parent / f"{folder.name}.yaml"
    log = {"interval": 1, "histograms": 2, "boards": ["TensorBoard"]}
    cfg = small_config(photos, **{"log_config": log, **changes})
    for section in cfg["dataloader"].values():
        section["loader"]["num_workers"] = 0
    path.write_text(yaml.safe_dump(cfg))
    train(get_config(path, [f"output_dir={folder}"]), resume=resume)
    return folder


def board_of(folder):
    files = list((folder / "tensorboard").iterdir())
    assert len(files) == 1
    everything = dict.fromkeys(("scalars", "histograms", "images", "tensors"), 0)
    return event_accumulator.EventAccumulator(str(folder / "tensorboard"), everything).Reload()


def told(folder, split=None):
    rows = map(json.loads, (folder / "metrics.jsonl").open())
    return [row for row in rows if row.get("split") == split]


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory):
    """A folder with two finished runs of three epochs, of 21 steps, that differ in their rate."""
    root = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-3), ("fast", 1e-2)):
        start(photos, root / name, lr_scheduler={"name": "Cosine", "learning_rate": rate})
    return root


def test_the_curves_are_those_of_the_records(runs):
    board = board_of(runs / "slow")
    figures = ("top1", "top5", "loss", "images_per_second")
    assert set(board.Tags()["scalars"]) == {
        *(f"train/{name}" for name in ("loss", "lr", "grad_norm", "top1", *CLOCK)),
        *(f"{split}/{name}" for split in ("val", "test") for name in figures),
    }
    for split, name in ((None, "grad_norm"), (None, "top1"), ("val", "loss"), ("test", "top1")):
        drawn, rows = board.Scalars(f"{split or 'train'}/{name}"), told(runs / "slow", split)
        assert [one.step for one in drawn] == [row["step"] for row in rows]
        np.testing.assert_allclose([one.value for one in drawn], [r[name] for r in rows], rtol=1e-6)


def test_the_first_batch_and_the_config_are_there(runs):
    board = board_of(runs / "slow")
    (image,) = board.Images("first batch")
    file = (runs / "slow" / "first_batch.png").read_bytes()
    assert image.encoded_image_string == file and image.step == 0
    with Image.open(io.BytesIO(file)) as picture:
        assert (image.width, image.height) == picture.size
    (text,) = board.Tensors("config")
    (shown,) = text.tensor_proto.string_val
    lines = shown.decode("utf-8").splitlines()
    assert all(line.startswith("    ") for line in lines)
    config = (runs / "slow" / "config.yaml").read_text(encoding="utf-8")
    assert [line[4:] for line in lines] == config.splitlines()
    assert board.SummaryMetadata("config").plugin_data.plugin_name == "text"


def test_the_weights_are_counted_as_they_are(runs):
    board = board_of(runs / "slow")
    name = "backbone.stem.proj.weight"
    drawn = board.Histograms(name)
    assert [one.step for one in drawn] == [0, 14, 21]
    latest = WeightFile(runs / "slow" / "checkpoints" / "latest.safetensors").read_group("model")
    last = drawn[-1].histogram_value
    counts, edges = np.histogram(latest[name], bins=len(last.bucket))
    assert list(last.bucket) == counts.tolist()
    np.testing.assert_allclose([last.min, *last.bucket_limit], edges, rtol=1e-6)
    assert last.num == latest[name].size and last.max == pytest.approx(edges[-1])
    assert last.sum == pytest.approx(
        latest[name].sum(), abs=0.02 * float(np.abs(latest[name]).sum())
    )


def test_runs_are_compared_by_their_settings_and_latest_figures(runs):
    """As the page HPARAMS asks TensorBoard for them."""
    multiplexer = multiplexing.EventMultiplexer().AddRunsFromDirectory(str(runs))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(runs))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    ask = RequestContext()
    shown = get_experiment.Handler(
        ask, context, "", api_pb2.GetExperimentRequest(include_metrics=True)
    ).run()
    assert "lr_scheduler learning_rate" in {info.name for info in shown.hparam_infos}
    figures = {info.name.tag for info in shown.metric_infos}
    assert {"val/top1", "train/loss"} <= figures
    request = api_pb2.ListSessionGroupsRequest(
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_UNKNOWN],
        col_params=[
            *(api_pb2.ColParams(metric=i.name, include_in_result=True) for i in shown.metric_infos),
            *(api_pb2.ColParams(hparam=i.name, include_in_result=True) for i in shown.hparam_infos),
        ],
        include_metrics=True,
    )
    groups = list_session_groups.Handler(ask, context, "", request).run().session_groups
    found = {}
    for group in groups:
        (session,) = group.sessions
        values = {value.name.tag: value.value for value in session.metric_values}
        found[session.name.split("/")[0]] = group.hparams, values
    assert set(found) == {"slow", "fast"}
    for name, rate in (("slow", 1e-3), ("fast", 1e-2)):
        settings, values = found[name]
        assert settings["lr_scheduler learning_rate"].number_value == rate
        assert settings["optimizer name"].string_value == "AdamW"
        assert settings["global_batch_size"].number_value == 8
        assert values["val/top1"] == pytest.approx(told(runs / name, "val")[-1]["top1"])
        assert values["train/loss"] == pytest.approx(told(runs / name)[-1]["loss"])


def test_the_settings_are_marked_for_the_page_that_compares_runs(runs):
    found = board_of(runs / "fast").SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    assert found.plugin_data.plugin_name == "hparams"


def test_a_resumed_run_draws_one_board(photos, tmp_path):
    """Gone back to step 10 of a finished run: what lies beyond it is drawn once, by both."""
    log = {"interval": 1, "histograms": 2, "boards": ["VisualDL", "TensorBoard"]}
    settings = {"checkpoint": {"interval_steps": 5, "keep": 9}, "log_config": log}
    folder = start(photos, tmp_path / "run", **settings)
    tenth = folder / "checkpoints" / "step-00000010.safetensors"
    start(photos, tmp_path / "run", str(tenth), **settings)
    board = board_of(folder)
    assert [one.step for one in board.Scalars("train/loss")] == list(range(1, 22))
    assert [one.step for one in board.Scalars("val/top1")] == [7, 14, 21]
    assert [one.step for one in board.Histograms("head.fc.weight")] == [0, 14, 21]
    assert len(board.Images("first batch")) == 1
    (file,) = (folder / "visualdl").glob("vdlrecords.*")
    other = LogReader(file_path=str(file))
    assert [one.id for one in other.get_data("scalar", "train/loss")] == list(range(1, 22))
    for tag in board.Tags()["scalars"]:
        drawn = [(one.id, one.value) for one in other.get_data("scalar", tag)]
        assert [(one.step, one.value) for one in board.Scalars(tag)] == drawn


def test_what_is_told_can_be_read_at_once(tmp_path):
    (board,) = build_boards(["TensorBoard"])
    board.open(tmp_path / "run" / "tensorboard")
    for step in (1, 2):
        board.add_number("train/loss", 0.5 / step, step)
        drawn = board_of(tmp_path / "run").Scalars("train/loss")
        assert [(one.step, one.value) for one in drawn] == [
            (s, 0.5 / s) for s in range(1, step + 1)
        ]
    board.add_histogram("none", [0, 0], [0.0, 0.5, 1.0], 3)
    assert board_of(tmp_path / "run").Histograms("none")[0].histogram_value.num == 0
    board.close()


def test_a_board_that_was_never_opened_can_be_closed():
    build_boards(["TensorBoard"])[0].close()
