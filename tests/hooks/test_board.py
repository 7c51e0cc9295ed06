"""The board of a run: read back, resumed, and opened in a real browser."""

import contextlib
import io
import json
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import yaml
from helpers import CLOCK, small_config
from PIL import Image
from visualdl import LogReader

from passl.engine import train
from passl.hooks import build_hooks
from passl.hooks.board import Board
from passl.hooks.boards import BOARDS, Writer, build_boards
from passl.modeling.graph import as_model_file, trace
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.utils.records import read_metrics
from passl.weights import WeightFile

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None
)


def start(photos, folder, **changes):
    path = folder.parent / f"{folder.name}.yaml"
    changes = {"log_config": {"interval": 1, "histograms": 2}, **changes}
    path.write_text(yaml.safe_dump(small_config(photos, **changes)))
    train(get_config(path, [f"output_dir={folder}"]), resume="auto")
    return folder


@pytest.fixture(scope="module")
def runs(photos, tmp_path_factory):
    """A folder with two finished runs of three epochs, of 21 steps, that differ in their rate."""
    root = tmp_path_factory.mktemp("runs")
    for name, rate in (("slow", 1e-3), ("fast", 1e-2)):
        start(photos, root / name, lr_scheduler={"name": "Cosine", "learning_rate": rate})
    return root


def test_the_board_holds_the_run(runs):
    board = LogReader(file_path=str(next((runs / "slow" / "visualdl").glob("vdlrecords.*"))))
    tags = board.get_tags()
    assert set(tags["scalar"]) == {
        *(f"train/{name}" for name in ("loss", "lr", "grad_norm", "top1", *CLOCK)),
        *(
            f"{s}/{n}"
            for s in ("val", "test")
            for n in ("top1", "top5", "loss", "images_per_second")
        ),
    }
    records = [json.loads(line) for line in (runs / "slow" / "metrics.jsonl").open()]
    norms = [r["grad_norm"] for r in records if "split" not in r]
    drawn = board.get_data("scalar", "train/grad_norm")
    assert [r.id for r in drawn] == list(range(1, 22))
    np.testing.assert_allclose([r.value for r in drawn], norms, rtol=1e-6)
    # Before the first epoch, after the second, and at the end.
    weights = board.get_data("histogram", "backbone.stem.proj.weight")
    assert [r.id for r in weights] == [0, 14, 21]
    latest = WeightFile(runs / "slow" / "checkpoints" / "latest.safetensors").read_group("model")
    stem = latest["backbone.stem.proj.weight"]
    counts, edges = np.histogram(stem, bins=len(weights[-1].histogram.hist))
    assert list(weights[-1].histogram.hist) == counts.tolist()
    np.testing.assert_allclose(weights[-1].histogram.bin_edges, edges, rtol=1e-6)
    with Image.open(runs / "slow" / "first_batch.png") as picture:
        assert picture.width > 900  # six columns; eight images in two rows
        assert np.asarray(picture).std() > 20
    assert tags["image"] == ["first batch"] and "config" in tags["text"]


def test_a_resumed_run_draws_one_board(photos, tmp_path):
    """Gone back to step 10 of a finished run: what lies beyond it is drawn once."""
    folder = start(photos, tmp_path / "run", checkpoint={"interval_steps": 5, "keep": 9})
    whole = (folder / "histograms.jsonl").read_text()
    tenth = folder / "checkpoints" / "step-00000010.safetensors"
    train(get_config(folder / "config.yaml"), resume=str(tenth))
    assert (folder / "histograms.jsonl").read_text() == whole
    files = list((folder / "visualdl").glob("vdlrecords.*"))
    assert len(files) == 1
    board = LogReader(file_path=str(files[0]))
    assert [r.id for r in board.get_data("scalar", "train/loss")] == list(range(1, 22))
    assert [r.id for r in board.get_data("histogram", "head.fc.weight")] == [0, 14, 21]


class Told(Writer):
    """A board that only notes what it is to draw."""

    folder, module = "told", "json"

    def __init__(self, mark: str = "told"):
        self.mark, self.drawn = mark, []

    def open(self, folder):
        self.drawn.append("open")

    def add_settings(self, settings, figures):
        self.drawn.append(("settings", figures))

    def add_text(self, tag, text):
        self.drawn.append(("text", tag))

    def add_number(self, tag, value, step):
        self.drawn.append((tag, step))

    def add_picture(self, tag, path):
        self.drawn.append(("picture", tag))

    def add_histogram(self, tag, counts, edges, step):
        self.drawn.append((tag, sum(counts)))

    def close(self):
        self.drawn.append("close")


def test_numbers_that_are_none_are_not_drawn(tmp_path):
    network = paddle.nn.Linear(2, 2)
    network.bias.set_value(paddle.to_tensor([float("nan"), 3.0]))
    network.weight.set_value(paddle.full([2, 2], float("inf")))
    board = Told()
    hook = Board([board])
    hook.on_record(None, {"step": 1, "loss": float("nan"), "lr": 0.1})
    hook.on_record(None, {"step": 2, "loss": None, "lr": 0.1})  # as a file has it
    assert board.drawn == [("train/lr", 1), ("train/lr", 2)]
    with open(tmp_path / "histograms.jsonl", "w") as hook._histograms:
        hook._note_weights(SimpleNamespace(architecture=network, progress=SimpleNamespace(step=1)))
    counts = {r["name"]: sum(r["counts"]) for r in read_metrics(tmp_path / "histograms.jsonl")}
    assert counts == {"weight": 0, "bias": 1} == dict(board.drawn[2:])


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setitem(BOARDS._factories, "Told", Told)
    built, init = [], Told.__init__
    monkeypatch.setattr(Told, "__init__", lambda self, mark="told": init(self, mark))
    monkeypatch.setattr(Told, "close", lambda self: built.append(self))
    return built


@pytest.mark.parametrize("how", ["boards", "hooks", "both"])
def test_a_board_of_ones_own_is_drawn_beside_the_others_once(photos, tmp_path, told, how):
    changes = {"epochs": 1}
    if how != "hooks":
        changes["log_config"] = {"interval": 7, "boards": ["Told", {"name": "VisualDL"}]}
    if how != "boards":
        changes["hooks"] = [{"name": "Told"}, {"name": "VisualDL"}]
    folder = start(photos, tmp_path / "run", **changes)
    (board,) = told
    figures = ["val/top1", "val/top5", "val/loss", "train/loss"]
    assert board.drawn[:3] == ["open", ("settings", figures), ("text", "config")]
    assert ("train/loss", 7) in board.drawn and ("test/top1", 7) in board.drawn
    assert board.drawn.count(("picture", "first batch")) == 1
    assert len(list((folder / "visualdl").glob("vdlrecords.*"))) == 1


def test_boards_take_arguments_and_none_are_needed(photos, tmp_path, config_file, told):
    (board,) = build_boards([{"name": "Told", "mark": "mine"}])
    assert board.mark == "mine"
    cfg = get_config(config_file(log_config={"boards": []}))
    (hook, *_) = build_hooks(cfg, None)
    assert isinstance(hook, Board) and hook._boards == []


@pytest.mark.parametrize("boards", [["Told"], ["VisualDL", "Told"]])
def test_a_library_that_is_not_installed_is_told_in_one_line(
    photos, tmp_path, told, monkeypatch, boards
):
    monkeypatch.setattr(Told, "module", "no_such_library")
    monkeypatch.setattr(Told, "package", "'mine[told]'")
    with pytest.raises(PasslError) as caught:
        start(photos, tmp_path / "run", log_config={"boards": boards})
    assert str(caught.value) == (
        f"{tmp_path / 'run.yaml'}:{caught.value.place.split(':')[1]}: the board Told needs a "
        "package that is not installed: pip install 'mine[told]'; or take Told out of "
        "log_config.boards"
    )
    assert not (tmp_path / "run").exists()


def test_an_unknown_board_is_told_with_those_there_are(photos, tmp_path):
    known = "unknown board 'Tensorboard'.*mean 'TensorBoard'"
    with pytest.raises(PasslError, match=known) as caught:
        start(photos, tmp_path / "run", log_config={"boards": ["Tensorboard"]})
    assert caught.value.place.startswith(f"{tmp_path / 'run.yaml'}:")


@pytest.mark.smoke
def test_the_graph_has_every_weight_and_both_residual_sums(photos):
    model = small_config(photos)["model"]
    graph = trace(model, [3, 16, 16])
    blocks = model["architecture"]["num_blocks"]
    assert len(graph.weights) == 2 + 12 * blocks + 2 + 2  # stem, blocks, last norm, head
    for block in range(blocks):
        inside = [op for op in graph.operations if op.layer == f"backbone/blocks_{block}"]
        sums = [op for op in inside if op.kind in ("add", "elementwise_add")]
        assert len(sums) == 2
        for layer in ("norm1", "mlp_tokens/fc1", "mlp_tokens/act", "mlp_channels/fc2"):
            assert any(op.layer == f"backbone/blocks_{block}/{layer}" for op in graph.operations)
    made = set(graph.weights) | {name for op in graph.operations for name in op.outputs}
    for op in graph.operations:
        assert {name for name in op.inputs if name != "image"} <= made
    assert graph.shapes[graph.operations[-1].outputs[0]] == [-1, 3]
    from visualdl.component.graph import analyse_model

    nodes = {node["name"] for node in analyse_model(as_model_file(graph))["nodes"]}
    assert {"/backbone", "/backbone/blocks_1/mlp_tokens", "/head/fc"} <= nodes


@pytest.fixture(scope="module")
def board(runs):
    """The address of a board over both runs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "visualdl.server.app", "--logdir", str(runs)]
    server = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}/app"
    try:
        for _ in range(150):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt install chromium")
@pytest.mark.full
def test_a_browser_shows_curves_images_graph_weights_and_settings(board, runs):
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chrome = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = chrome.new_page(viewport={"width": 1400, "height": 1200}, locale="en-US")
        failures = []
        page.on("pageerror", lambda error: failures.append(str(error)))

        page.goto(board + "/scalar")
        page.get_by_text("test", exact=True).first.click()  # closes it, which is open
        page.get_by_text("train", exact=True).first.click()
        page.wait_for_timeout(2500)  # the curves are drawn with an animation
        charts = page.locator("canvas:visible")
        assert charts.count() == 8  # loss, lr, gradient norm, Top-1, images a second, times, memory
        for chart in charts.all():
            picture = Image.open(io.BytesIO(chart.screenshot())).convert("RGB")
            pixels = np.asarray(picture).astype(int)
            # The axes are grey, a curve is not: it goes all the way across.
            coloured = pixels.max(axis=2) - pixels.min(axis=2) > 60
            assert coloured.any(axis=0).mean() > 0.5

        page.goto(board + "/sample/image")
        page.get_by_text("first batch").first.wait_for()
        picture = page.locator("img[src^=blob]").first
        picture.wait_for()
        assert picture.evaluate("image => image.naturalWidth") > 900

        page.goto(board + "/graph/dynamic_graph")
        graph = page.frame_locator("iframe")
        for name in ("backbone", "head"):
            graph.get_by_text(name, exact=True).first.wait_for()

        page.goto(board + "/histogram")
        page.get_by_text("backbone.blocks.0.mlp_channels.fc1.bias", exact=True).first.wait_for()

        page.goto(board + "/hyper-parameter")
        page.get_by_text("Parallel Coordinates View").wait_for()
        page.wait_for_timeout(1500)
        table = page.locator("body").inner_text()
        for name in ("slow", "fast"):
            records = [json.loads(line) for line in (runs / name / "metrics.jsonl").open()]
            latest = [r for r in records if r.get("split") == "val"][-1]
            assert f"{latest['top1']:.3g}"[:4] in table
        assert "0.01" in table and "0.001" in table
        chrome.close()
    assert not failures
