"""Mixed precision with a stand-in that really rounds: what must not be left to 16 bits."""

import contextlib
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import yaml
from clip import small_clip
from helpers import small_config
from rounding_autocast import RoundingAutocast
from self_supervised import method, views

from passl.distributed.processes import Processes
from passl.engine import train
from passl.engine.checkpoint import training_state
from passl.engine.execution import Execution
from passl.engine.precision import Precision
from passl.engine.step import TrainingStep
from passl.evaluation.classification import Classification
from passl.modeling.architectures import Architecture, build_architecture
from passl.modeling.backbones import build_backbone
from passl.modeling.heads import build_head
from passl.modeling.layers import WeightedBranches
from passl.modeling.layers.attention import watched_attention
from passl.modeling.layers.embeddings import unit
from passl.solver import WeightAverage, build_optimizer
from passl.utils.config import get_config

ALONE = Processes()
NUMPY = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
MIXER = {
    "name": "MlpMixer", "img_size": 16, "patch_size": 8, "embed_dim": 24, "num_blocks": 2,
    "tokens_mlp_dim": 8, "channels_mlp_dim": 48,
}  # fmt: skip
# A gradient of a processor's float32 is off by 1e-6 of its size, one of bfloat16 by 4e-3.
NEAR = 2e-5


@pytest.fixture(params=["float16", "bfloat16"])
def dtype(request):
    return request.param


@pytest.fixture(params=["O1", "O2"])
def level(request):
    return request.param


@pytest.fixture
def rounding(monkeypatch):
    return RoundingAutocast(monkeypatch)


def rounded(array, dtype):
    return np.asarray(array).astype(NUMPY[dtype]).astype(np.float64)


def in_16_bits(level, dtype):
    """What ``Precision`` is on a GPU that has it."""
    precision = Precision(None, "cpu")
    precision.dtype, precision.level = dtype, level
    return precision


# ------------------------------------------------ the stand-in itself


@pytest.mark.skipif(
    paddle.__version__.startswith("2."),
    reason="on a processor PaddlePaddle 2 cuts digits off where a GPU rounds",
)
def test_the_stand_in_rounds_as_a_gpu_does(rounding, level, dtype):
    """A product of bfloat16 numbers, added up in float32, comes out in bfloat16."""
    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((5, 7), (7, 3), (3,)))
    tensors = [paddle.to_tensor(a, stop_gradient=False) for a in (x, w, b)]
    with paddle.amp.auto_cast(level=level, dtype=dtype):
        out = F.linear(*tensors)
    assert str(out.dtype).endswith(dtype)
    exact = rounded(x, dtype) @ rounded(w, dtype) + rounded(b, dtype)
    found = out.astype("float32").numpy()
    np.testing.assert_array_equal(found, rounded(found, dtype))
    unit = 2.0 ** (-8 if dtype == "bfloat16" else -11)
    assert np.abs(found - exact).max() <= unit * np.abs(exact).max() * 1.01
    assert np.abs(found - exact).max() > 0.1 * unit * np.abs(exact).max()
    out.astype("float32").sum().backward()
    gradient = rounded(np.ones((5, 3)), dtype) @ rounded(w, dtype).T
    assert np.abs(tensors[0].grad.numpy() - gradient).max() <= unit * np.abs(gradient).max()
    np.testing.assert_array_equal(tensors[0].grad.numpy(), rounded(tensors[0].grad.numpy(), dtype))


def test_the_stand_in_keeps_to_the_lists(rounding, dtype):
    x, narrow = paddle.randn([4, 6]), paddle.randn([4, 6]).astype(dtype)
    weight = paddle.randn([6, 6])

    def outcome(function, level):
        with paddle.amp.auto_cast(level=level, dtype=dtype):
            return str(function().dtype).rpartition(".")[2]

    for level in ("O1", "O2"):
        assert outcome(lambda: paddle.matmul(x, weight), level) == dtype
        assert outcome(lambda: F.gelu(narrow), level) == dtype
        assert outcome(lambda: narrow + narrow, level) == dtype
        assert outcome(lambda: narrow + x, level) == "float32"
    for function in (
        lambda: F.softmax(narrow),
        lambda: narrow.mean(),
        lambda: F.layer_norm(narrow, [6]),
    ):
        assert outcome(function, "O1") == "float32" and outcome(function, "O2") == dtype
    with paddle.amp.auto_cast(level="O2", dtype=dtype), paddle.amp.auto_cast(enable=False):
        assert paddle.matmul(x, weight).dtype == paddle.float32
        assert str(F.softmax(narrow).dtype).endswith(dtype)


def test_a_linear_map_of_paddle_2_is_a_product_and_an_addition(monkeypatch, dtype):
    RoundingAutocast(monkeypatch, linear_is_white=False)
    x, weight, bias = paddle.randn([4, 6]), paddle.randn([6, 3]), paddle.randn([3])
    with paddle.amp.auto_cast(level="O1", dtype=dtype):
        assert F.linear(x, weight, bias).dtype == paddle.float32
        assert str(F.linear(x, weight).dtype).endswith(dtype)


# ------------------------------------------------ losses and softmax

LOSSES = {
    "softmax": ({"loss": "softmax"}, {}),
    "softmax-smoothed": ({"loss": "softmax", "label_smoothing": 0.1}, {}),
    "softmax-mixed": ({"loss": "softmax"}, {"partner_weight": 0.3}),
    "sigmoid": ({"loss": "sigmoid"}, {}),
    "sigmoid-mixed-and-smoothed": (
        {"loss": "sigmoid", "label_smoothing": 0.1}, {"partner_weight": 0.3},
    ),
}  # fmt: skip


def loss_in_float64(logits, label, num_classes, loss, label_smoothing=0.0, partner_weight=None):
    target = np.eye(num_classes)[label]
    if partner_weight is not None:
        weight = float(np.float32(partner_weight))
        target = target * (1 - weight) + np.eye(num_classes)[label[::-1]] * weight
    target = target * (1 - label_smoothing) + label_smoothing / num_classes
    if loss == "sigmoid":
        elements = np.logaddexp(0, logits) - target * logits
        return elements.sum(1).mean(), (1 / (1 + np.exp(-logits)) - target) / len(logits)
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return -(target * log_p).sum(1).mean(), (np.exp(log_p) - target) / len(logits)


@pytest.mark.smoke
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_16_bit_logits_are_those_of_float32(rounding, level, dtype, name):
    settings, mixed = LOSSES[name]
    head = build_head({"name": "ClassificationHead", "num_classes": 500, **settings}, in_channels=4)
    head.train()
    label = np.arange(8) * 7
    batch = {"label": paddle.to_tensor(label)}
    if mixed:
        batch["partner_label"] = paddle.to_tensor(label[::-1].copy())
        batch["partner_weight"] = paddle.full([8], mixed["partner_weight"])
    logits = paddle.to_tensor(5 * np.random.default_rng(0).normal(size=(8, 500))).astype(dtype)
    logits.stop_gradient = False
    with paddle.amp.auto_cast(level=level, dtype=dtype):
        loss = head.loss({"logits": logits}, batch)
    assert loss.dtype == paddle.float32
    exact, gradient = loss_in_float64(
        logits.detach().astype("float64").numpy(), label, 500, **settings, **mixed
    )
    assert float(loss) == pytest.approx(exact, rel=1e-6)
    # The scale of float16's first steps: a loss in 16 bits would be infinite here.
    scale = 2.0**16 if dtype == "float16" else 1.0
    (loss * scale).backward()
    found = logits.grad.astype("float64").numpy()
    assert np.isfinite(found).all()
    unit = 2.0 ** (-8 if dtype == "bfloat16" else -11)
    np.testing.assert_allclose(found, scale * gradient, rtol=2 * unit, atol=2e-7 * scale)


def test_losses_of_more_bits_are_as_they_were(dtype):
    """In float64 too, without anything cast."""
    head = build_head({"name": "ClassificationHead", "num_classes": 5}, in_channels=4)
    logits = paddle.to_tensor(np.random.default_rng(0).normal(size=(8, 5)))
    loss = head.loss({"logits": logits}, {"label": paddle.arange(8) % 5})
    exact, _ = loss_in_float64(logits.numpy(), np.arange(8) % 5, 5, "softmax")
    assert loss.dtype == paddle.float64 and abs(float(loss) - exact) < 1e-14


def test_the_weights_of_branches_are_a_softmax_in_float32(rounding, level, dtype, monkeypatch):
    seen, softmax = [], F.softmax
    monkeypatch.setattr(F, "softmax", lambda *a, **k: seen.append(softmax(*a, **k)) or seen[-1])
    paddle.seed(0)
    layer = WeightedBranches(8, reduction=1)
    with paddle.amp.auto_cast(level=level, dtype=dtype):
        layer([paddle.randn([2, 3, 3, 8]).astype(dtype) for _ in range(3)])
    (weights,) = seen
    assert weights.dtype == paddle.float32
    np.testing.assert_allclose(weights.numpy().sum(-1), 1, atol=3e-7)


# ------------------------------------------------ a whole network


def execution_of(network, precision, optimizer=None):
    cfg = SimpleNamespace(
        recompute=False, to_static=False, parallel=SimpleNamespace(sharding=0, fusion_mb=1.0)
    )
    optimizer = optimizer or build_optimizer({"name": "AdamW"}, network)
    return Execution(cfg, network, optimizer, precision, ALONE), optimizer


def mixer(frozen=None):
    paddle.seed(0)
    head = {"name": "ClassificationHead", "num_classes": 5, "init": "normal"}
    model = {"name": "Classifier", "architecture": MIXER, "head": head}
    network = build_architecture({**model, **({} if frozen is None else {"freeze": frozen})})
    network.train()
    return network


def batches(count, size=4):
    rng = np.random.default_rng(0)
    return [
        {
            "image": paddle.to_tensor(rng.normal(size=(size, 3, 16, 16)).astype(np.float32)),
            "label": paddle.to_tensor(rng.integers(0, 5, size)),
        }
        for _ in range(count)
    ]


def test_a_network_in_16_bits_learns_nearly_the_same(rounding, level, dtype):
    exact = mixer()
    loss = exact(batches(1)[0])["loss"]
    loss.backward()
    network = mixer()
    execution, _ = execution_of(network, in_16_bits(level, dtype))
    found, _ = execution.backward(batches(1)[0], 1.0, exchange=True)
    assert found.dtype == paddle.float32 and float(found) != float(loss)
    assert float(found) == pytest.approx(float(loss), rel=3e-2)
    largest = max(float(p.grad.abs().max()) for p in exact.parameters())
    for (name, one), other in zip(network.named_parameters(), exact.parameters()):
        assert one.grad.dtype == paddle.float32, name
        size = float(other.grad.abs().max())
        assert float((one.grad - other.grad).abs().max()) < 0.15 * size + 1e-3 * largest, name


def test_gradients_of_micro_batches_are_added_in_float32(rounding, level, dtype):
    """In bfloat16, a sixteenth of a sum leaves the sum unchanged but for its first bits."""
    total = {}
    for batch in batches(16):
        network = mixer()
        execution, _ = execution_of(network, in_16_bits(level, dtype))
        execution.backward(batch, 1.0, exchange=True)
        for name, parameter in network.named_parameters():
            total[name] = total.get(name, 0.0) + parameter.grad.astype("float64").numpy()
    network = mixer()
    execution, _ = execution_of(network, in_16_bits(level, dtype))
    for i, batch in enumerate(batches(16)):
        execution.backward(batch, 1.0, exchange=i == 15)
    for name, parameter in network.named_parameters():
        assert parameter.grad.dtype == paddle.float32, name
        right = total[name]
        off = np.abs(parameter.grad.numpy() - right).max() / np.abs(right).max()
        assert off < NEAR, (name, off)


def test_16_bit_weights_are_what_is_trained_but_norms(dtype):
    network = mixer()
    execution_of(network, in_16_bits("O2", dtype))
    kinds = {name: str(p.dtype).rpartition(".")[2] for name, p in network.named_parameters()}
    for name, kind in kinds.items():
        # As paddle.amp.decorate has it.
        norm = ".norm" in name
        assert kind == ("float32" if norm and dtype == "float16" else dtype), name


def test_evaluations_compute_in_float32_with_the_optimizers_weights(rounding, level, dtype):
    """So what is recorded in training is what ``tools/eval.py`` finds in the checkpoint."""
    network, batch = mixer(), batches(1)[0]
    network.eval()
    expected = network(batch)["logits"].numpy()
    before = {name: p.numpy() for name, p in network.named_parameters()}
    execution, optimizer = execution_of(network, in_16_bits(level, dtype))
    kinds = {name: p.dtype for name, p in network.named_parameters()}
    narrow = {name: p.astype("float32").numpy() for name, p in network.named_parameters()}
    with execution.evaluating():
        logits = network(batch)["logits"]
        assert logits.dtype == paddle.float32
        np.testing.assert_array_equal(logits.numpy(), expected)
    for name, parameter in network.named_parameters():
        assert parameter.dtype == kinds[name]
        np.testing.assert_array_equal(parameter.astype("float32").numpy(), narrow[name])
        np.testing.assert_array_equal(optimizer.weights()[name].numpy(), before[name])
    with paddle.amp.auto_cast(level=level, dtype=dtype):
        assert np.abs(network(batch)["logits"].astype("float32").numpy() - expected).max() > 1e-5
    with pytest.raises(ZeroDivisionError), execution.evaluating():
        raise ZeroDivisionError  # after an error too
    assert {name: p.dtype for name, p in network.named_parameters()} == kinds


def test_the_averaged_weights_are_evaluated_in_float32(rounding, level, dtype):
    network, batch = mixer(), batches(1)[0]
    average = WeightAverage(network, 0.5, warmup=False)
    for tensor in average.tensors().values():
        paddle.assign(tensor + 0.01 * paddle.randn(tensor.shape), tensor)
    network.eval()
    with average.applied():
        expected = network(batch)["logits"].numpy()
    execution, _ = execution_of(network, in_16_bits(level, dtype))
    with execution.evaluating(), average.applied():
        np.testing.assert_array_equal(network(batch)["logits"].numpy(), expected)


def test_frozen_parts_are_saved_as_they_came(dtype):
    """A linear probe's backbone comes out of it to the last bit."""
    network = mixer(frozen=["backbone"])
    before = {name: p.numpy() for name, p in network.named_parameters()}
    _, optimizer = execution_of(network, in_16_bits("O2", dtype))
    state = training_state(network, optimizer, None)
    for name, array in before.items():
        np.testing.assert_array_equal(state[f"model/{name}"], array, err_msg=name)
    trained = [n for n, p in network.named_parameters() if not p.stop_gradient]
    assert trained == ["head.fc.weight", "head.fc.bias"]


class Parallel:
    """Stands in for Paddle's, which would exchange gradients of 16 bits by itself."""

    def __init__(self, network, comm_buffer_size):
        self.network, self.exchanges = network, True

    def __call__(self, batch):
        assert not self.exchanges
        return self.network(batch)

    @contextlib.contextmanager
    def no_sync(self):
        self.exchanges = False
        yield
        self.exchanges = True


class Sums(Architecture):
    """Its loss is x·w, its gradient x."""

    def __init__(self, size):
        super().__init__()
        self.w = self.create_parameter([size])

    def forward(self, batch):
        return {"loss": (self.w.astype("float32") * batch["x"]).sum()}


def test_gradients_of_processes_are_exchanged_in_float32(monkeypatch):
    """Two processes, the other one a stand-in that sends what is given."""
    exchanged = []

    def all_reduce(tensor):
        exchanged.append((tensor.dtype, tensor.shape))
        return tensor + 0.5

    monkeypatch.setattr("passl.engine.main_gradients.all_reduce", all_reduce)
    monkeypatch.setattr(paddle, "DataParallel", Parallel)
    network = Sums(3)
    cfg = SimpleNamespace(
        recompute=False, to_static=False, parallel=SimpleNamespace(sharding=0, fusion_mb=1.0)
    )
    optimizer = build_optimizer({"name": "AdamW"}, network)
    execution = Execution(cfg, network, optimizer, in_16_bits("O2", "bfloat16"), Processes(0, 2))
    assert network.w.dtype == paddle.bfloat16
    for i, values in enumerate(([1.0, 2.0, 3.0], [256.0, 512.0, 1.0])):
        execution.backward({"x": paddle.to_tensor(values)}, 1.0, exchange=i == 1)
        assert len(exchanged) == i
    assert exchanged == [(paddle.float32, [3])]
    # (own + other) / 2; in bfloat16, 257 would be 256.
    np.testing.assert_array_equal(
        network.w.grad.numpy(), np.array([257.5, 514.5, 4.5], np.float32) / 2
    )


def test_a_run_evaluates_with_the_float32_weights(photos, tmp_path, monkeypatch):
    """Validation and test split, averages or not."""
    inside, seen = [], []
    evaluating, evaluate = Execution.evaluating, Classification.evaluate

    @contextlib.contextmanager
    def marked(self):
        inside.append(1)
        with evaluating(self):
            yield
        inside.pop()

    def noted(self, *arguments, **options):
        seen.append(list(inside))
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(Execution, "evaluating", marked)
    monkeypatch.setattr(Classification, "evaluate", noted)
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small_config(photos, epochs=1, ema={"decay": 0.5})))
    train(get_config(path, [f"output_dir={tmp_path / 'run'}", "device=cpu"]))
    assert seen == [[1], [1]]


# ------------------------------------------------ attention


@pytest.mark.parametrize("backbone", ["VisionTransformer", "Beit"])
def test_attention_weights_are_shared_out_in_float32(rounding, level, dtype, backbone):
    """A softmax in 16 bits would not add up to 1; what is added to the scores is float32 too."""
    sizes = {"patch_size": 4, "embed_dim": 12, "num_blocks": 1, "num_heads": 2}
    paddle.seed(0)
    network = build_backbone({"name": backbone, "img_size": 32, **sizes})
    seen = []
    image = paddle.to_tensor(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype("f4"))
    with paddle.amp.auto_cast(level=level, dtype=dtype):
        with watched_attention(lambda q, weights: seen.append((q.dtype, weights))):
            network(image)
    assert seen
    for queries, weights in seen:
        assert str(queries).endswith(dtype) and weights.dtype == paddle.float32
        np.testing.assert_allclose(weights.sum(-1), np.ones(weights.shape[:-1]), rtol=1e-6)


# ------------------------------------------------ twins and queues


@pytest.mark.parametrize("name", ["MoCo", "BYOL"])
def test_twins_and_queues_keep_float32(rounding, level, dtype, name):
    """The twin follows the float32 weights by less than 16 bits can tell apart: 1e-6 a step."""
    network = method(name, "MlpMixer")
    precision = in_16_bits(level, dtype)
    optimizer = build_optimizer({"name": "SGD", "momentum": 0.0}, network)
    sections = SimpleNamespace(
        recompute=False, to_static=False, parallel=SimpleNamespace(sharding=0, fusion_mb=25.0)
    )
    twin = {key: p.numpy().copy() for key, p in network.twin.named_parameters()}
    execution = Execution(sections, network, optimizer, precision, ALONE)
    network.train()
    step = TrainingStep(network, optimizer, execution, None, 8, 1, 10**9, seed=0)
    for number in range(3):
        batch = views(8, seed=number)
        assert bool(step(number, iter([batch]), 1e-4).finite)
        weights = {key: tensor.numpy() for key, tensor in optimizer.weights().items()}
        m = network.m if name == "MoCo" else network.tau
        for key, value in network.twin.named_parameters():
            assert value.dtype == paddle.float32, key
            twin[key] = m * twin[key] + (1 - m) * weights[key]
            # Two roundings of numbers near 1 apart, where 16 bits are apart by 1e-3.
            np.testing.assert_allclose(value.numpy(), twin[key], atol=5e-7, err_msg=key)
    before = dict(method(name, "MlpMixer").named_parameters())
    moved = [np.abs(twin[key] - before[key].numpy()).max() for key in twin]
    assert 0 < max(moved) < 2e-3
    if name == "MoCo":
        assert network.queue.keys.dtype == paddle.float32
        norms = np.linalg.norm(network.queue.keys.numpy(), axis=1)
        np.testing.assert_allclose(norms, 1, atol=1e-6)


# ------------------------------------------------ CLIP


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_similarities_and_their_scale_keep_float32(rounding, level, dtype, loss):
    """A processor has no 16-bit kernels for the towers: of embeddings on, all is as in float32."""
    network = small_clip("ViT", loss=loss)
    execution_of(network, in_16_bits(level, dtype))
    own = {name: p.dtype for name, p in network.named_parameters() if name.startswith("logit")}
    assert len(own) == (1 if loss == "softmax" else 2)
    assert set(own.values()) == {paddle.float32}
    assert (network.text_projection.weight.dtype == paddle.float32) == (level == "O1")
    rng = np.random.default_rng(0)
    narrow = [paddle.to_tensor(rng.normal(size=(8, 48)).astype(np.float32)) for _ in range(2)]
    narrow = [tensor.astype(dtype) for tensor in narrow]
    network.logit_scale.set_value(paddle.to_tensor(np.float32(np.log(100.0))))
    with in_16_bits(level, dtype).autocast():
        found = network.compare([unit(tensor) for tensor in narrow])
    exact = [unit(tensor.astype("float64")) for tensor in narrow]
    expected = network.to(dtype="float64").compare(exact)
    assert found["loss"].dtype == paddle.float32
    assert float(found["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
