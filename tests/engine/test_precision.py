"""Mixed precision: what a processor can tell of it, and what only a GPU can."""

import contextlib
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
import yaml
from helpers import NETWORK, small_config
from paddle import nn

from passl.distributed.processes import Processes
from passl.engine import train
from passl.engine.checkpoint import training_state
from passl.engine.execution import Execution, recompute_blocks
from passl.engine.plan import make_plan
from passl.engine.precision import Precision, choose_dtype
from passl.engine.step import TrainingStep
from passl.evaluation.base import ALONE
from passl.modeling.architectures import Architecture, build_architecture
from passl.solver import LossScaling, WeightAverage, build_optimizer
from passl.utils.config import get_config
from passl.utils.errors import PasslError
from passl.weights import WeightFile

needs_gpu = pytest.mark.skipif(
    not (paddle.is_compiled_with_cuda() and paddle.device.cuda.device_count()),
    reason="PaddlePaddle computes in 16 bits on a GPU alone, and there is none here",
)
V100, A100 = (7, 0), (8, 0)
# There a cast to bfloat16 cuts off on processors, and states are set up in another way.
not_on_paddle_2 = pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="PaddlePaddle 2 has other casts on a processor"
)


@pytest.mark.smoke
@pytest.mark.parametrize(
    "wanted, capability, dtype",
    [
        (None, A100, "bfloat16"),
        (None, V100, "float16"),
        ("float16", A100, "float16"),
        ("bfloat16", (9, 0), "bfloat16"),
    ],
)
def test_the_dtype_is_one_that_the_card_has(wanted, capability, dtype):
    assert choose_dtype(wanted, capability) == dtype


@pytest.mark.parametrize(
    "wanted, capability, message",
    [
        ("bfloat16", V100, r"this one has 7\.0; set -o amp\.dtype=float16"),
        (None, (6, 1), r"needs a GPU of compute capability 7\.0"),
        (None, None, r"needs a GPU: on a processor .* leave amp out \(-o amp=null\)"),
        ("half", A100, "bfloat16 or float16, not 'half'"),
    ],
)
def test_what_cannot_be_done_is_refused(wanted, capability, message):
    with pytest.raises(PasslError, match=message):
        choose_dtype(wanted, capability)


def scaled_step(scaling, gradients):
    """Tells it of gradients as ``Optimizer.step`` does; returns what is left of them."""
    bad = paddle.to_tensor([not all(np.isfinite(g.numpy()).all() for g in gradients)])
    scaling.update(bad, gradients)
    return [g.numpy() for g in gradients]


@pytest.mark.smoke
def test_the_loss_scale_moves_as_published():
    """Against the rule written out: half after an overflow, double after so many without."""
    scaling = LossScaling(interval=3)
    assert not scaling.moves and scaling.scale.item() == 1.0
    scaling.begin(8.0)
    rng = np.random.default_rng(0)
    scale, good = 8.0, 0
    for overflows in rng.random(60) < 0.3:
        value = np.inf if overflows else 1.0
        left = scaled_step(scaling, [paddle.full([2], 3.0), paddle.full([2], value)])
        if overflows:
            scale, good = max(scale / 2, 1.0), 0
            assert all((array == 0).all() for array in left)
        else:
            good += 1
            if good == 3:
                scale, good = scale * 2, 0
            assert (left[0] == 3).all()
        assert scaling.scale.item() == scale
    other = LossScaling(interval=3)
    other.load_state_dict(scaling.state_dict())
    other.begin(8.0)  # a resumed run goes on where it was
    assert other.scale.item() == scale
    with pytest.raises(PasslError, match="amp.loss_scale is at least 1, not 0.5"):
        scaling.begin(0.5)


def test_a_scaled_loss_makes_the_same_steps(monkeypatch):
    """Powers of two change no bit of a gradient; an overflow is skipped, then scaled less."""
    results = []
    for first in (None, 1024.0):
        paddle.seed(0)
        layer = nn.Linear(4, 3)
        optimizer = build_optimizer({"name": "SGD", "grad_clip": 0.5}, layer)
        if first:
            optimizer.loss_scaling.begin(first)
        rng = np.random.default_rng(0)
        for _ in range(5):
            x = paddle.to_tensor(rng.normal(size=(8, 4)).astype(np.float32))
            (layer(x).square().mean() * optimizer.loss_scaling.scale).backward()
            assert bool(optimizer.step(0.1))
        results.append(layer.weight.numpy())
    np.testing.assert_allclose(results[0], results[1], atol=1e-7)
    before = layer.weight.numpy()
    (layer(x).sum() * 1e38 * optimizer.loss_scaling.scale).backward()
    assert not bool(optimizer.step(0.1))
    np.testing.assert_array_equal(layer.weight.numpy(), before)
    assert optimizer.loss_scaling.scale.item() == 512.0
    state = optimizer.state_dict()
    assert state["loss_scaling/scale"].tolist() == [512.0]
    optimizer.load_state_dict(state)
    assert optimizer.loss_scaling.scale.item() == 512.0


def rounded(array):
    """Returns float32 numbers rounded to bfloat16, to the nearest and to even."""
    bits = np.asarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32)


def low_precision(cfg=None):
    """A layer in bfloat16 whose optimizer keeps float32 weights, and those."""
    paddle.seed(0)
    layer = nn.Linear(5, 3)
    optimizer = build_optimizer(cfg or {"name": "AdamW"}, layer)
    expected = {name: w.numpy().copy() for name, w in optimizer.weights().items()}
    optimizer.narrow(["weight", "bias"], "bfloat16")
    return layer, optimizer, expected


@pytest.mark.smoke
@pytest.mark.parametrize(
    "cfg",
    [
        *({"name": name} for name in ("AdamW", "LAMB", "SGD", "LARS")),
        {"name": "LARS", "joint_norm": True, "rate_in_velocity": True},
        {"name": "SGD", "groups": [{"parameters": "bias", "lr": 0.5}]},
    ],
    ids=str,
)
def test_steps_are_made_on_the_float32_weights(cfg):
    """Those of a twin in float32, to the last bit; the network has them rounded."""
    cfg = {"weight_decay": 0.1, "grad_clip": 1.0, **cfg}
    layer, optimizer, expected = low_precision(cfg)
    paddle.seed(0)
    twin = nn.Linear(5, 3)
    twins = build_optimizer(cfg, twin)
    assert not any((twin.state_dict()[n].numpy() != a).any() for n, a in expected.items())
    rng = np.random.default_rng(0)
    for _ in range(4):
        for network in (layer, twin):
            draw = np.random.default_rng(rng.bit_generator.state["state"]["state"] % 2**32)
            for parameter in network.parameters():
                gradient = draw.normal(size=parameter.shape).astype(np.float32)
                parameter.grad = paddle.to_tensor(gradient)
        rng.random()
        optimizer.step(0.01)
        twins.step(0.01)
        for (key, parameter), right in zip(layer.named_parameters(), twin.parameters()):
            assert parameter.dtype == paddle.bfloat16
            np.testing.assert_array_equal(optimizer.weights()[key].numpy(), right.numpy())
            if not paddle.__version__.startswith("2."):  # which cuts digits off on a processor
                np.testing.assert_array_equal(
                    parameter.astype("float32").numpy(), rounded(right.numpy())
                )
    state, right = optimizer.state_dict(), twins.state_dict()
    assert state.keys() == right.keys() and len(state) >= 2
    for key, array in right.items():
        np.testing.assert_array_equal(state[key], array)
    assert any((expected[n] != w.numpy()).any() for n, w in optimizer.weights().items())


@not_on_paddle_2
def test_checkpoints_and_averages_hold_float32():
    layer, optimizer, expected = low_precision()
    average = WeightAverage(layer, 0.5, warmup=False)
    # As in training: it has begun before the weights were cast.
    average.load_state_dict(expected)
    average._averages = {n: paddle.to_tensor(a) for n, a in expected.items()}
    average.update(1, optimizer.weights())
    state = training_state(layer, optimizer, average)
    for group in ("model", "ema"):
        for name, array in expected.items():
            assert state[f"{group}/{name}"].dtype == np.float32
            np.testing.assert_allclose(state[f"{group}/{name}"], array, atol=1e-7)
    before = layer.weight.astype("float32").numpy()
    with average.applied():
        np.testing.assert_array_equal(
            layer.weight.astype("float32").numpy(), rounded(expected["weight"])
        )
    np.testing.assert_array_equal(layer.weight.astype("float32").numpy(), before)


def network(**changes):
    paddle.seed(0)
    backbone = {"name": "MlpMixer", **NETWORK, "drop_rate": 0.2, "drop_path_rate": 0.3, **changes}
    head = {"name": "ClassificationHead", "num_classes": 3, "init": "lecun_normal"}
    model = build_architecture({"name": "Classifier", "architecture": backbone, "head": head})
    model.train()
    return model


COLUMN = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "num_blocks": 2, "num_heads": 2}
TRANSFORMERS = [
    {"name": "VisionTransformer", **COLUMN, "drop_rate": 0.2},
    {"name": "Beit", **COLUMN, "attention_drop_rate": 0.2},
    {"name": "SwinTransformer", "img_size": 32, "embed_dim": 8, "depths": [2], "num_heads": [2],
     "window_size": 4},
]  # fmt: skip


@pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="PaddlePaddle 2 recomputes on a GPU alone"
)
@pytest.mark.parametrize("backbone", TRANSFORMERS, ids=lambda backbone: backbone["name"])
def test_recomputed_transformers_give_the_same_gradients(backbone):
    size = backbone["img_size"]
    image = np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)
    batch = {"image": paddle.to_tensor(image), "label": paddle.to_tensor(np.arange(3))}
    head = {"name": "ClassificationHead", "num_classes": 3, "init": "lecun_normal"}
    results = []
    for again in (False, True):
        paddle.seed(0)
        model = build_architecture(
            {"architecture": {**backbone, "drop_path_rate": 0.3}, "head": head}
        )
        model.train()
        if again:
            recompute_blocks(model)
        paddle.seed(7)
        loss = model(batch)["loss"]
        loss.backward()
        results.append([float(loss), *(p.grad.numpy() for p in model.parameters())])
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="PaddlePaddle 2 recomputes on a GPU alone"
)
def test_recomputed_blocks_give_the_same_gradients():
    """To the last bit, dropout and stochastic depth included."""
    rng = np.random.default_rng(0)
    batch = {
        "image": paddle.to_tensor(rng.normal(size=(6, 3, 16, 16)).astype(np.float32)),
        "label": paddle.to_tensor(np.arange(6) % 3),
    }
    results = []
    for again in (False, True):
        model = network()
        calls = []
        for layer in model.backbone.blocks:
            layer.mlp_tokens.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if again:
            recompute_blocks(model)
        paddle.seed(7)
        loss = model(batch)["loss"]
        loss.backward()
        assert len(calls) == len(model.backbone.blocks) * (2 if again else 1)
        results.append([float(loss), *(p.grad.numpy() for p in model.parameters())])
    for one, other in zip(*results):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(PasslError, match="has no blocks that can be recomputed"):
        recompute_blocks(nn.Sequential(nn.Linear(2, 2)))


@pytest.fixture
def trained(photos, tmp_path):
    """Trains a small config on the device with some keys changed; returns the last weights."""

    def run(name, overrides, resume=None, **changes):
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(small_config(photos, **changes)))
        folder = tmp_path / name
        train(get_config(path, [f"output_dir={folder}", *overrides]), resume=resume)
        return WeightFile(folder / "checkpoints" / "latest.safetensors").read_group("model")

    return run


@pytest.mark.smoke
def test_a_static_program_trains_to_the_same_weights(trained):
    """Without dropout, whose numbers a static program draws in another order."""
    still = {"drop_rate": 0.0, "drop_path_rate": 0.0}
    overrides = [f"model.architecture.{key}={value}" for key, value in still.items()]
    sgd = ["optimizer={name: SGD, grad_clip: 1.0}"]
    eager = trained("eager", overrides + sgd)
    static = trained("static", [*overrides, *sgd, "to_static=true"])
    for name, array in eager.items():
        np.testing.assert_allclose(static[name], array, atol=1e-5, err_msg=name)


@pytest.mark.full
def test_a_static_program_with_dropout_is_the_same_twice(trained):
    one, other = (trained(name, ["to_static=true", "epochs=1"]) for name in ("one", "other"))
    for name, array in one.items():
        np.testing.assert_array_equal(other[name], array, err_msg=name)


@pytest.mark.smoke
def test_a_static_program_draws_the_same_numbers_from_the_same_seed(config_file):
    """Dropout and stochastic depth in four blocks draw from one generator, one after the other."""
    overrides = ["to_static=true", "device=cpu", "model.architecture.num_blocks=4"]
    cfg = get_config(config_file(), overrides)
    plan = make_plan(cfg, Processes())
    architecture = plan.architecture
    for parameter in architecture.parameters():
        parameter.set_value(paddle.randn(parameter.shape) * 0.1)
    execution = Execution(cfg, architecture, plan.optimizer, Precision(None, "cpu"), Processes())
    architecture.train()
    pixels = np.random.default_rng(0).normal(size=(8, 3, 16, 16)).astype(np.float32)
    batch = {"image": paddle.to_tensor(pixels), "label": paddle.to_tensor(np.arange(8) % 3)}
    losses = []
    for seed in [7] * 150 + [8]:
        paddle.seed(seed)
        losses.append(float(execution.backward(batch, 1.0, True)[0]))
    assert len(set(losses[:-1])) == 1
    assert losses[-1] != losses[0]


def test_asking_for_mixed_precision_on_a_processor_is_one_error(trained):
    with pytest.raises(PasslError, match="mixed precision needs a GPU"):
        trained("run", ["amp={}", "device=cpu"])
    with pytest.raises(PasslError, match="recompute and to_static exclude each other"):
        trained("run", ["recompute=true", "to_static=true", "device=cpu"])


@needs_gpu
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_mixed_precision_comes_near_float32(trained, level, dtype):
    """Never run where this was written: no GPU."""
    if dtype == "bfloat16" and paddle.device.cuda.get_device_capability() < A100:
        pytest.skip("this GPU has no bfloat16")
    full = trained("full", [])
    mixed = trained("mixed", [f"amp={{level: {level}, dtype: {dtype}}}"])
    for name, array in full.items():
        assert mixed[name].dtype == np.float32
        assert np.abs(mixed[name] - array).max() < 0.1 * max(np.abs(array).max(), 0.1), name


@needs_gpu
def test_a_resumed_run_has_the_same_loss_scale(trained, tmp_path):
    """Never run where this was written: no GPU."""
    amp = "amp={dtype: float16, loss_scale: 1024}"
    trained("run", [amp])
    file = WeightFile(tmp_path / "run" / "checkpoints" / "latest.safetensors")
    assert file.read_group("optimizer")["loss_scaling/scale"].tolist() == [1024.0]


class Line(Architecture):
    """Loss w·x; its gradient is x."""

    def __init__(self):
        super().__init__()
        self.w = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))

    def forward(self, batch):
        return {"loss": (self.w * batch["x"]).mean()}


def line_step(processes=ALONE, first_scale=None, accumulation=1):
    cfg = SimpleNamespace(
        recompute=False, to_static=False, parallel=SimpleNamespace(sharding=0, fusion_mb=1.0)
    )
    network = Line()
    optimizer = build_optimizer({"name": "SGD", "momentum": 0.0}, network)
    if first_scale:
        optimizer.loss_scaling.begin(first_scale)
    execution = Execution(cfg, network, optimizer, Precision(None, "cpu"), processes)
    return network, TrainingStep(
        network, optimizer, execution, None, accumulation, accumulation, 9, seed=0
    )


def test_a_scaled_loss_makes_the_same_step():
    network, step = line_step(first_scale=1024.0)
    result = step(0, iter([{"x": paddle.to_tensor([3.0])}]), 0.5, with_norm=True)
    assert network.w.item() == 1 - 0.5 * 3.0
    assert result.losses[0].item() == 3.0 and result.gradient_norm.item() == 3.0


def test_gradients_are_exchanged_with_the_last_micro_batch_alone(monkeypatch):
    exchanging, seen = [True], []

    class Parallel:
        def __init__(self, network, comm_buffer_size):
            self.network = network

        def __call__(self, batch):
            seen.append(exchanging[0])
            return self.network(batch)

        @contextlib.contextmanager
        def no_sync(self):
            exchanging[0] = False
            yield
            exchanging[0] = True

    monkeypatch.setattr(paddle, "DataParallel", Parallel)
    _, step = line_step(Processes(0, 2), accumulation=3)
    step(0, iter([{"x": paddle.to_tensor([1.0])}] * 3), 0.5)
    assert seen == [False, False, True]
