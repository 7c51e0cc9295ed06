"""Functions with gradients of their own, against Paddle's operations, float64 and formulas."""

import contextlib
import math
from types import SimpleNamespace

import numpy as np
import paddle
import paddle.nn.functional as F
import pytest
import scipy.special
from paddle import nn
from paddle.distributed.fleet.utils import recompute

from passl.modeling.layers import GELU, Conv2D, LayerNorm, Linear, functional, kernels

WORTH_IT = functional._WORTH_IT


@pytest.fixture(autouse=True)
def as_in_a_step(monkeypatch):
    monkeypatch.setattr(functional, "_WORTH_IT", 0)
    with functional.single_backward():
        yield


not_on_paddle_2 = pytest.mark.skipif(
    paddle.__version__.startswith("2."), reason="PaddlePaddle 2 recomputes on a GPU alone"
)

# More rows than the blocks in which sums are made, and sizes that fill no vector and no tile.
ROWS, CHANNELS = 150, 19
EPSILON = 2.0**-10  # Paddle rounds it to float32


def plain_shift(x, offsets, axis):
    """The definition, place by place, as one product with zeros and ones for each channel."""
    length = x.shape[axis]
    parts = []
    for c, offset in enumerate(offsets):
        move = np.zeros((length, length))
        for place in range(length):
            if 0 <= place + offset < length:
                move[place, place + offset] = 1
        move = paddle.to_tensor(move, dtype=x.dtype)
        channel = x[..., c]  # [N, H, W]
        parts.append(
            paddle.einsum("ph,nhw->npw", move, channel)
            if axis == 1
            else paddle.einsum("pw,nhw->nhp", move, channel)
        )
    return paddle.stack(parts, -1)


def plain_patches(x, height, width):
    n, c, h, w = x.shape
    cut = x.reshape([n, c, h // height, height, w // width, width])
    return cut.transpose([0, 2, 4, 1, 3, 5]).reshape([n, -1, c * height * width])


def plain_depthwise(x, weight):
    images = x.transpose([0, 3, 1, 2])
    padding = [size // 2 for size in weight.shape[2:]]
    out = F.conv2d(images, weight, padding=padding, groups=weight.shape[0])
    return out.transpose([0, 2, 3, 1])


def plain_layer_norm(x, weight, bias, epsilon):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + epsilon).sqrt() * weight + bias


def plain_weighted_sum(branches, weights):
    return sum(b * weights[:, None, None, :, i] for i, b in enumerate(branches))


# Name: (function here, the same by Paddle's operations, shapes of the tensors).
CASES = {
    "linear": (
        functional.linear,
        lambda x, w, b: paddle.matmul(x, w) + b,
        [(3, ROWS, CHANNELS), (CHANNELS, 7), (7,)],
    ),
    "linear-without-bias": (
        functional.linear, paddle.matmul, [(2, 3, 5, CHANNELS), (CHANNELS, 7)],
    ),
    "linear-of-one-axis": (
        functional.linear,
        lambda x, w, b: paddle.matmul(x, w) + b,
        [(CHANNELS,), (CHANNELS, 7), (7,)],
    ),
    "layer_norm": (
        lambda x, w, b: functional.layer_norm(x, w, b, EPSILON),
        lambda x, w, b: plain_layer_norm(x, w, b, EPSILON),
        [(3, ROWS, CHANNELS), (CHANNELS,), (CHANNELS,)],
    ),
    "scale": (functional.scale, lambda x, w: x * w, [(3, ROWS, CHANNELS), (CHANNELS,)]),
    "scale-and-shift": (
        functional.scale,
        lambda x, w, b: x * w + b,
        [(3, ROWS, CHANNELS), (CHANNELS,), (CHANNELS,)],
    ),
    "weighted_sum": (
        lambda w, *b: functional.weighted_sum(b, w),
        lambda w, *b: plain_weighted_sum(b, w),
        [(2, 5, 3), *[(2, 11, 9, 5)] * 3],
    ),
    "mean_over_positions": (
        functional.mean_over_positions, lambda x: x.mean([1, 2]), [(3, 13, 7, CHANNELS)],
    ),
    "swap_axes": (
        lambda x: functional.swap_axes(x, 1, 2),
        lambda x: x.transpose([0, 2, 1]),
        [(2, 37, CHANNELS)],
    ),
    "swap_axes-apart": (
        lambda x: functional.swap_axes(x, 1, 3),
        lambda x: x.transpose([0, 3, 2, 1, 4]),
        [(2, 3, 4, 5, 6)],
    ),
    "heads_apart": (  # a weight for each part, so that none can stand for another
        lambda x: sum((i + 1) * part for i, part in enumerate(functional.heads_apart(x, 3, 2))),
        lambda x: sum(
            (i + 1) * part.reshape([2, 7, 3, 5]).transpose([0, 2, 1, 3])
            for i, part in enumerate(x.chunk(2, axis=-1))
        ),
        [(2, 7, 30)],
    ),
    "channels_last": (
        functional.channels_last, lambda x: x.transpose([0, 2, 3, 1]), [(2, 5, 6, 7)],
    ),
    "channels_first": (
        functional.channels_first, lambda x: x.transpose([0, 3, 1, 2]), [(2, 5, 6, 7)],
    ),
    "shift_channels-along-the-height": (
        lambda x: functional.shift_channels(x, (0, 1, -1, 2, -2), 1),
        lambda x: plain_shift(x, (0, 1, -1, 2, -2), 1),
        [(2, 6, 4, 5)],
    ),
    "shift_channels-along-the-width": (
        lambda x: functional.shift_channels(x, (0, 1, -1, 2, -2), 2),
        lambda x: plain_shift(x, (0, 1, -1, 2, -2), 2),
        [(2, 4, 6, 5)],
    ),
    "halves": (
        lambda x: paddle.concat([2 * part for part in functional.halves(x)][::-1], -1),
        lambda x: paddle.concat([2 * x[..., 5:], 2 * x[..., :5]], -1),
        [(3, 4, 10)],
    ),
    "patches": (
        lambda x: functional.patches(x, 2, 3), lambda x: plain_patches(x, 2, 3), [(2, 3, 6, 12)],
    ),
    "depthwise_conv2d": (
        functional.depthwise_conv2d, plain_depthwise, [(2, 7, 6, 5), (5, 1, 3, 3)],
    ),
    "depthwise_conv2d-5x1": (
        functional.depthwise_conv2d, plain_depthwise, [(2, 7, 6, 5), (5, 1, 5, 1)],
    ),
}  # fmt: skip
for _size, _stride, _padding in (
    ((3, 3), (1, 1), (1, 1)),
    ((3, 3), (2, 2), (1, 1)),
    ((1, 1), (1, 1), (0, 0)),
    ((2, 2), (2, 2), (0, 0)),
    ((7, 7), (4, 4), (2, 2)),
    ((5, 3), (1, 3), (4, 0)),
    ((9, 9), (1, 1), (4, 4)),  # wider than the image
):
    for _bias in ([], [(4,)]):
        _text = "x".join(map(str, _size))
        _name = f"conv2d-{_text}-by-{_stride[1]}-padding-{_padding[0]}-{len(_bias)}-bias"
        CASES[_name] = (
            lambda x, w, b=None, s=_stride, p=_padding: functional.conv2d(x, w, b, s, p),
            lambda x, w, b=None, s=_stride, p=_padding: F.conv2d(x, w, b, s, p),
            [(2, 3, 8, 7), (4, 3, *_size), *_bias],
        )


def values_and_gradients(function, arrays, dtype, slope=None):
    """Returns the output of a function of tensors and its gradients by all of them, float64."""
    tensors = [paddle.to_tensor(array, dtype=dtype, stop_gradient=False) for array in arrays]
    out = function(*tensors)
    if slope is None:
        slope = np.random.default_rng(7).normal(size=out.shape)
    out.backward(paddle.to_tensor(slope, dtype=dtype))
    return [out.numpy().astype(np.float64), *(t.grad.numpy().astype(np.float64) for t in tensors)]


def draws(shapes):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape) for shape in shapes]


@pytest.mark.smoke
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_those_of_paddles_operations(name):
    function, plain, shapes = CASES[name]
    arrays = draws(shapes)
    expected = values_and_gradients(plain, arrays, "float64")
    for dtype, tolerance in (("float64", 1e-12), ("float32", 3e-6)):
        for found, right in zip(values_and_gradients(function, arrays, dtype), expected):
            assert found.shape == right.shape
            np.testing.assert_allclose(
                found, right, rtol=0, atol=tolerance * np.abs(right).max(), err_msg=dtype
            )


@pytest.mark.parametrize("name", CASES)
def test_kernels_are_what_has_computed(name, monkeypatch):
    """Else the comparison above would be one of Paddle with itself."""
    function, _, shapes = CASES[name]
    called = []
    for helper in ("_array", "_wanted"):
        known = getattr(functional, helper)
        monkeypatch.setattr(
            functional, helper, lambda *tensors, known=known: called.append(1) or known(*tensors)
        )
    values_and_gradients(function, draws(shapes), "float32")
    assert called


@pytest.mark.parametrize("name", CASES)
def test_the_same_input_gives_the_same_bits(name):
    function, _, shapes = CASES[name]
    first, *others = (values_and_gradients(function, draws(shapes), "float32") for _ in range(3))
    for other in others:
        for one, two in zip(first, other):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("name", CASES)
def test_strides_of_the_inputs_do_not_matter(name):
    """A tensor whose axes have changed places lies in memory in another order than it says."""
    function, _, shapes = CASES[name]
    arrays = draws(shapes)

    def of_turned(*tensors):
        turned = [t.transpose(list(range(t.ndim))[::-1]).contiguous() for t in tensors]
        return function(*(t.transpose(list(range(t.ndim))[::-1]) for t in turned))

    slope = np.random.default_rng(7).normal(size=function(*map(paddle.to_tensor, arrays)).shape)
    for found, right in zip(
        values_and_gradients(of_turned, arrays, "float64", slope),
        values_and_gradients(function, arrays, "float64", slope),
    ):
        np.testing.assert_array_equal(found, right)

    def turns_the_gradient(*tensors):
        out = function(*tensors)
        order = list(range(out.ndim))[::-1]
        return out.transpose(order)

    turned = slope.transpose(list(range(slope.ndim))[::-1])
    for found, right in zip(
        values_and_gradients(turns_the_gradient, arrays, "float64", turned)[1:],
        values_and_gradients(function, arrays, "float64", slope)[1:],
    ):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("name", CASES)
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(name):
    function, _, shapes = CASES[name]
    arrays = draws(shapes)
    _, *expected = values_and_gradients(function, arrays, "float64")
    for frozen in range(len(arrays) if len(arrays) > 1 else 0):
        tensors = [paddle.to_tensor(a, stop_gradient=i == frozen) for i, a in enumerate(arrays)]
        out = function(*tensors)
        out.backward(paddle.to_tensor(np.random.default_rng(7).normal(size=out.shape)))
        for i, (tensor, right) in enumerate(zip(tensors, expected)):
            if i == frozen:
                assert tensor.grad is None
            else:
                np.testing.assert_array_equal(tensor.grad.numpy(), right)


@not_on_paddle_2
@pytest.mark.parametrize("name", CASES)
def test_what_is_computed_twice_has_the_same_gradients(name):
    """Paddle's recomputation hands saved tensors back without their strides."""
    function, _, shapes = CASES[name]

    def of_turned(*tensors):  # what is saved has strides of its own
        turned = [t.transpose(list(range(t.ndim))[::-1]).contiguous() for t in tensors]
        return function(*(t.transpose(list(range(t.ndim))[::-1]) for t in turned))

    def twice(*tensors):
        return recompute(of_turned, *tensors, use_reentrant=False)

    arrays = draws(shapes)
    for one, other in zip(
        values_and_gradients(of_turned, arrays, "float64"),
        values_and_gradients(twice, arrays, "float64"),
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", CASES)
def test_gradients_have_no_strides(name):
    """Paddle's operations on all gradients together take none that have."""
    function, _, shapes = CASES[name]
    tensors = [paddle.to_tensor(array, stop_gradient=False) for array in draws(shapes)]
    function(*tensors).sum().backward()
    assert all(tensor.grad.is_contiguous() for tensor in tensors)


# ------------------------------------------------ GELU

RANGE = np.concatenate([np.linspace(-14, 14, 200_001), [-1e12, -40.0, -0.0, 0.0, 40.0, 1e12]])


def gelu_in_float64(x):
    """x Φ(x) and its derivative Φ(x) + x φ(x)."""
    density = np.exp(-np.minimum(x * x, 1400) / 2) / math.sqrt(2 * math.pi)
    return x * scipy.special.ndtr(x), scipy.special.ndtr(x) + x * density


def gelu_tanh_in_float64(x):
    x = np.clip(x, -100, 100)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return (
        0.5 * x * (1 + np.tanh(inner)),
        0.5 * (1 + np.tanh(inner)) + 0.5 * x * slope / np.cosh(np.clip(inner, -300, 300)) ** 2,
    )


@pytest.mark.smoke
@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_is_as_exact_as_float32_is(approximate):
    x = RANGE.astype(np.float32)
    formula = gelu_tanh_in_float64 if approximate else gelu_in_float64
    value, derivative = formula(x.astype(np.float64))
    if approximate:
        value[-1], value[-6] = 1e12, 0.0  # what the formula above has clipped
    tensor = paddle.to_tensor(x, stop_gradient=False)
    out = functional.gelu(tensor, approximate)
    out.sum().backward()
    unit = np.abs(x) * 2.0**-23
    assert (np.abs(out.numpy() - value) <= 2 * unit + 1e-30).all()
    np.testing.assert_allclose(tensor.grad.numpy(), derivative, rtol=0, atol=5e-7)
    # Its lower tail, where 1 + erf is left with no digits.
    tail = (x > -12) & (x < -1)
    if not approximate:
        np.testing.assert_allclose(out.numpy()[tail], value[tail], rtol=1e-5)


@pytest.mark.parametrize("approximate", [False, True])
def test_gelu_of_what_is_not_finite_is_as_paddle_has_it(approximate):
    """A step whose values are not finite must be seen to be so."""
    x = np.array([np.nan, np.inf, -np.inf], np.float32)
    found = functional.gelu(paddle.to_tensor(x), approximate).numpy()
    np.testing.assert_array_equal(found, F.gelu(paddle.to_tensor(x), approximate).numpy())
    tensor = paddle.to_tensor(x[:1], stop_gradient=False)
    functional.gelu(tensor, approximate).sum().backward()
    assert np.isnan(tensor.grad.numpy()).all()
    tensor = paddle.to_tensor(np.ones(1, np.float32), stop_gradient=False)
    functional.gelu(tensor, approximate).backward(paddle.to_tensor([np.inf], dtype="float32"))
    assert np.isinf(tensor.grad.numpy()).all()


@pytest.mark.parametrize("name", CASES)
def test_one_value_that_is_not_finite_shows_in_the_gradients(name):
    function, _, shapes = CASES[name]
    tensors = [paddle.to_tensor(a, dtype="float32", stop_gradient=False) for a in draws(shapes)]
    out = function(*tensors)
    slope = np.ones(out.shape, np.float32)
    slope.reshape(-1)[-1] = np.nan
    out.backward(paddle.to_tensor(slope))
    assert any(np.isnan(tensor.grad.numpy()).any() for tensor in tensors)


def test_a_long_sum_stays_exact():
    """Added up one after the other in float32, so many numbers of one size lose their digits."""
    matrix = np.full((2**17, 2), 0.1, np.float32)
    right = matrix.astype(np.float64).sum(0)
    assert np.abs(np.cumsum(matrix, 0)[-1] / right - 1).max() > 1e-4
    sums = np.empty(2, np.float32)
    kernels.column_sums(matrix, sums)
    np.testing.assert_allclose(sums, right, rtol=3e-5)
    scaled, weight = np.empty_like(matrix), np.ones((1, 2), np.float32)
    kernels.scale_gradient(
        matrix[None], np.ones_like(matrix)[None], weight, scaled[None], sums[None]
    )
    np.testing.assert_allclose(sums, right, rtol=3e-5)
    sums_of_products = np.empty(2, np.float32)
    kernels.layer_norm_gradient(matrix, matrix, weight[0], 1.0, scaled, sums_of_products, sums)
    np.testing.assert_allclose(sums, right, rtol=3e-5)


# ------------------------------------------------ where they are not


def test_outside_of_a_step_one_may_go_backward_twice():
    """Through a PyLayer of Paddle's that would end the process."""
    layers = nn.Sequential(Linear(5, 4), GELU(), LayerNorm(4))
    x = paddle.randn([3, 5])
    x.stop_gradient = False
    gradients = []
    with outside():
        out = layers(x).square().sum()
        for keep in (True, False):
            x.clear_gradient()
            out.backward(retain_graph=keep)
            gradients.append(x.grad.numpy())
        np.testing.assert_array_equal(*gradients)
        with paddle.no_grad():
            assert functional.runs_kernels(x)
    x.clear_gradient()
    layers(x).square().sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), gradients[0], atol=1e-5)


@contextlib.contextmanager
def outside():
    """As where no step is made: what ``as_in_a_step`` has said does not hold."""
    functional._inside.single = False
    try:
        assert not functional.runs_kernels(paddle.ones([2]))
        yield
    finally:
        functional._inside.single = True


def test_what_is_small_is_left_to_paddle(monkeypatch):
    monkeypatch.undo()
    with functional.single_backward():
        assert functional.runs_kernels(paddle.zeros([256, 256]))
        assert not functional.runs_kernels(paddle.zeros([255, 257]))


def test_the_end_of_a_step_is_the_end_of_it():
    with outside():
        for raised in (None, ZeroDivisionError):
            with contextlib.suppress(ZeroDivisionError), functional.single_backward():
                with functional.single_backward():
                    pass
                assert functional.runs_kernels(paddle.ones([2]))
                if raised:
                    raise raised
            assert not functional.runs_kernels(paddle.ones([2]))


@pytest.mark.parametrize(
    "images, weight, stride, own",
    [
        ([1, 128, 56, 56], [128, 128, 3, 3], 1, True),  # ConvMLP's
        ([1, 64, 112, 112], [64, 64, 3, 3], 1, True),
        ([1, 64, 112, 112], [64, 64, 3, 3], 4, False),
        ([128, 64, 8, 8], [64, 64, 3, 3], 1, False),  # one call for each image is what it costs
        ([128, 3, 32, 32], [8, 3, 3, 3], 2, False),
        ([1, 256, 56, 56], [64, 256, 1, 1], 1, False),
    ],
)
def test_convolutions_of_small_images_are_paddles(monkeypatch, images, weight, stride, own):
    monkeypatch.setattr(functional, "_WORTH_IT", WORTH_IT)
    ours = []
    monkeypatch.setattr(functional._Conv2D, "apply", lambda *_: ours.append(True))
    functional.conv2d(paddle.zeros(images), paddle.zeros(weight), None, [stride, stride], [1, 1])
    assert bool(ours) == own


def test_nothing_at_all_is_as_paddle_has_it():
    for function, shape in (
        (functional.gelu, [0, 5]),
        (functional.mean_over_positions, [0, 2, 2, 3]),
        (lambda x: functional.swap_axes(x, 0, 1), [0, 4]),
        (
            lambda x: functional.conv2d(x, paddle.ones([4, 3, 3, 3]), None, (1, 1), (1, 1)),
            [0, 3, 5, 5],
        ),
    ):
        x = paddle.zeros(shape)
        with outside():
            try:
                expected = function(x).shape
            except ValueError:  # PaddlePaddle 2 has neither mean nor convolution of nothing
                assert paddle.__version__.startswith("2.")
                continue
        assert function(x).shape == expected


@pytest.mark.parametrize(
    "layer, shape",
    [
        (Linear(5, 4), [3, 5]),
        (LayerNorm(5), [3, 5]),
        (GELU(), [3, 5]),
        (Conv2D(5, 4, 3, stride=2, padding=1), [2, 5, 8, 8]),
    ],
)
def test_a_static_program_has_paddles_operations(layer, shape):
    """And so have exported files: a kernel of ours could not be written into one."""
    x = paddle.randn(shape)
    static = paddle.jit.to_static(
        layer.forward, full_graph=True, input_spec=[paddle.static.InputSpec(shape, "float32")]
    )
    program = str(static.concrete_program.main_program).lower()
    assert "py_layer" not in program and "py_func" not in program
    np.testing.assert_allclose(static(x).numpy(), layer(x).numpy(), atol=1e-5)


def test_other_dtypes_are_left_to_paddle():
    assert functional.runs_kernels(paddle.ones([2])) and functional.runs_kernels(
        paddle.ones([2], "float64"), None
    )
    for dtype in ("float16", "bfloat16", "int64"):
        assert not functional.runs_kernels(paddle.ones([2]).astype(dtype))
    assert not functional.runs_kernels(paddle.ones([2]), paddle.ones([2], "float64"))
    doubled = paddle.to_tensor(RANGE[::100], stop_gradient=False)
    value, derivative = gelu_in_float64(RANGE[::100])
    out = functional.gelu(doubled)
    out.sum().backward()
    np.testing.assert_allclose(out.numpy(), value, atol=1e-12)
    np.testing.assert_allclose(doubled.grad.numpy(), derivative, atol=1e-12)


def test_layers_have_paddles_parameters():
    pairs = [
        (Linear(5, 4), nn.Linear(5, 4)),
        (LayerNorm(5), nn.LayerNorm(5)),
        (Conv2D(5, 4, 3, 2, 1), nn.Conv2D(5, 4, 3, 2, 1)),
    ]
    for ours, paddles in pairs:
        assert isinstance(ours, type(paddles))
        shapes = [{n: t.shape for n, t in layer.state_dict().items()} for layer in (ours, paddles)]
        assert shapes[0] == shapes[1]
        ours.set_state_dict(paddles.state_dict())
        x = paddle.randn([2, 5, 8, 8] if isinstance(ours, Conv2D) else [3, 5])
        np.testing.assert_allclose(ours(x).numpy(), paddles(x).numpy(), atol=1e-5)


# ------------------------------------------------ what is given to them


def as_views(arrays):
    """Returns tensors that are every other number of others, and those others."""
    others = [paddle.stack([paddle.to_tensor(a)] * 2, -1) for a in arrays]
    views = [other[..., 0] for other in others]
    assert not any(view.is_contiguous() for view in views)
    return views, others


@pytest.mark.parametrize("name", CASES)
def test_views_are_taken_whatever_their_axes_are(name):
    """One of a single axis too, a bias: its numbers lie apart."""
    function, _, shapes = CASES[name]
    arrays = draws(shapes)

    def of_views(*tensors):
        return function(*(paddle.stack([t, t], -1)[..., 0] for t in tensors))

    for found, right in zip(
        values_and_gradients(of_views, arrays, "float64"),
        values_and_gradients(function, arrays, "float64"),
    ):
        np.testing.assert_array_equal(found, right)


@pytest.mark.parametrize("name", CASES)
def test_a_view_of_the_callers_stays_one(name):
    """A buffer is filled anew, and the view of it that a network has seen must show it."""
    function, _, shapes = CASES[name]
    views, others = as_views(draws(shapes))
    with paddle.no_grad():
        function(*views)
        for view, other in zip(views, others):
            assert not view.is_contiguous()
            other.fill_(3.0)
            np.testing.assert_array_equal(view.numpy(), np.full(view.shape, 3.0))


@pytest.mark.parametrize(
    "function, plain, shapes",
    [
        (functional.scale, lambda x, w: x * w, [(4, 50), (1,)]),
        (functional.scale, lambda x, w: x * w, [(4, 50), (4, 50)]),
        (functional.scale, lambda x, w, b: x * w + b, [(4, 50), (50,), (1,)]),
        (functional.linear, F.linear, [(4, 5), (5, 6), (1,)]),
    ],
)
def test_what_paddle_broadcasts_is_broadcast(function, plain, shapes):
    tensors = [paddle.to_tensor(a) for a in draws(shapes)]
    np.testing.assert_allclose(function(*tensors).numpy(), plain(*tensors).numpy(), atol=1e-12)


@pytest.mark.parametrize(
    "function, shapes",
    [
        (functional.scale, [(4, 50), (3,)]),
        (functional.scale, [(4, 50), (50,), (3,)]),
        (functional.linear, [(4, 5), (5, 6), (3,)]),
        (functional.depthwise_conv2d, [(2, 5, 5, 8), (4, 1, 3, 3)]),
        (lambda w, *b: functional.weighted_sum(b, w), [(2, 4, 2), *[(2, 3, 3, 4)] * 3]),
        (lambda w, *b: functional.weighted_sum(b, w), [(2, 4, 2), *[(3, 3, 3, 4)] * 2]),
        (lambda w, *b: functional.weighted_sum(b, w), [(2, 4, 2), (2, 3, 3, 4), (2, 2, 2, 4)]),
    ],
)
def test_what_does_not_fit_is_an_error(function, shapes):
    """Not what happens to lie in memory behind it."""
    with pytest.raises((ValueError, IndexError)):
        function(*(paddle.to_tensor(a) for a in draws(shapes)))


def test_a_gpus_tensors_are_left_to_paddle(monkeypatch):
    """Those of its memory, and those of a processor where new ones would be made on the GPU."""
    x = paddle.ones([2])
    on_gpu = SimpleNamespace(
        dtype=x.dtype, size=x.size, place=SimpleNamespace(is_cpu_place=lambda: False)
    )
    assert functional.runs_kernels(x, None, x)
    assert not functional.runs_kernels(on_gpu, x)
    assert not functional.runs_kernels(x, None, on_gpu)
    monkeypatch.setattr(paddle, "get_device", lambda: "gpu:0")
    assert not functional.runs_kernels(x)


@pytest.mark.skipif(paddle.__version__.startswith("2."), reason="PaddlePaddle 2 has no names")
@pytest.mark.parametrize("name, approximate", [("none", False), ("tanh", True)])
def test_names_of_gelus_forms_are_paddles(name, approximate):
    x = paddle.to_tensor(RANGE.astype(np.float32))
    expected = F.gelu(x, approximate)
    np.testing.assert_array_equal(GELU(name)(x).numpy(), expected.numpy())


def test_a_translation_of_bytecode_computes_the_same():
    """``full_graph=False``, Paddle's default: it must leave the kernels to Python."""
    layers = nn.Sequential(Linear(5, 4), GELU(), LayerNorm(4))
    x = paddle.randn([3, 5])
    with paddle.no_grad():
        expected = layers(x).numpy()
        translated = paddle.jit.to_static(layers, full_graph=False)
        np.testing.assert_allclose(translated(x).numpy(), expected, atol=1e-5)
