"""Mixed precision on a processor: ``paddle.amp.auto_cast`` that really rounds.

By itself Paddle computes in float32 on a processor whatever it is asked for, so that nothing there
could tell whether a cast is missing. Here operations do as on a GPU: what the lists of
``paddle/amp/amp_lists.py`` and the rules of ``paddle/fluid/eager/amp_utils.h`` say is cast to 16
bits, computed, and comes out in 16 bits. For want of kernels it is computed in float32 in between,
of operands and to a result that are rounded; so are the gradients.

- level O1: "white" operations in 16 bits, "black" ones in float32, all others in the widest type of
  what they are given.
- level O2: the black list is another one, on which there is no operation of these networks.
- Batch normalisation ("own") takes and gives what it is given, with scales in float32 and sums of
  them.
- Paddle 2.6 has no white linear map: it is a product, then an addition, which is no white one.
"""

import contextlib

import paddle
import paddle.nn.functional as F

from passl.modeling.layers import functional

NARROW = (paddle.float16, paddle.bfloat16)
FLOATS = (*NARROW, paddle.float32)

# What the networks and heads here call: where it is found, its name, and its list under O1.
OPERATIONS = [
    (paddle, "matmul", "white"),
    (paddle.Tensor, "__matmul__", "white"),
    (F, "conv2d", "white"),
    (F.conv, "_conv_nd", "white"),
    (F, "max_pool2d", "white"),
    (F, "softmax", "black"),
    (F, "log_softmax", "black"),
    (F, "layer_norm", "black"),
    (F, "batch_norm", "own"),
    (F, "cross_entropy", "black"),
    (F, "binary_cross_entropy_with_logits", "black"),
    (paddle.Tensor, "mean", "black"),
    (paddle.Tensor, "sum", "black"),
    (F, "gelu", "other"),
    (F, "relu", "other"),
    (F, "normalize", "other"),
    (F, "label_smooth", "other"),
    *((paddle.Tensor, f"__{name}__", "other") for name in ("add", "radd", "sub", "rsub")),
    *((paddle.Tensor, f"__{name}__", "other") for name in ("mul", "rmul", "truediv", "neg")),
]


class RoundingAutocast:
    """Stands in for Paddle's mixed precision while it is installed.

    Args:
        monkeypatch: pytest's.
        linear_is_white: as from Paddle 3 on; not so in 2.6.
    """

    def __init__(self, monkeypatch, linear_is_white=True):
        self._level, self._dtype = None, None
        self._inside = False
        monkeypatch.setattr(functional, "runs_kernels", lambda *_: False)
        monkeypatch.setattr(paddle.amp, "auto_cast", self.auto_cast)
        for owner, name, kind in OPERATIONS:
            monkeypatch.setattr(owner, name, self._operation(getattr(owner, name), kind))
        white = self._operation(F.linear, "white")

        def linear(x, weight, bias=None, name=None):
            if linear_is_white or bias is None:
                return white(x, weight, bias)
            return paddle.matmul(x, weight) + bias

        monkeypatch.setattr(F, "linear", linear)

    @contextlib.contextmanager
    def auto_cast(self, enable=True, level="O1", dtype="float16", **_):
        before = self._level, self._dtype
        self._level, self._dtype = (level, dtype) if enable else (None, None)
        try:
            yield
        finally:
            self._level, self._dtype = before

    def _computed_in(self, kind, dtypes):
        """Returns the dtype that an operation takes its operands in."""
        widest = paddle.float32 if paddle.float32 in dtypes else dtypes[0]
        if self._level is None:
            return widest
        if kind == "white":
            return paddle.bfloat16 if self._dtype == "bfloat16" else paddle.float16
        if kind == "black" and self._level == "O1":
            return paddle.float32
        return widest

    def _operation(self, original, kind):
        def run(*arguments, **options):
            floats = [
                a.dtype
                for a in (*arguments, *options.values())
                if isinstance(a, paddle.Tensor) and a.dtype in FLOATS
            ]
            if self._inside or not floats:
                return original(*arguments, **options)
            dtype = paddle.float32 if kind == "own" else self._computed_in(kind, floats)
            given = arguments[0].dtype if kind == "own" else dtype

            def cast(value):
                if not isinstance(value, paddle.Tensor) or value.dtype not in FLOATS:
                    return value
                if value.dtype != dtype:
                    value = value.astype(dtype)
                return value.astype("float32") if dtype in NARROW else value

            arguments = [cast(value) for value in arguments]
            options = {name: cast(value) for name, value in options.items()}
            self._inside = True
            try:
                result = original(*arguments, **options)
            finally:
                self._inside = False
            return result.astype(given) if given in NARROW else result

        return run
