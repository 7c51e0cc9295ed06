"""Functions on arrays that numba compiles to machine code."""

from __future__ import annotations

from typing import Any, Callable

import numba


def compiled(*signature: Any, **options: Any) -> Callable[[Callable], Callable]:
    """Returns a decorator that compiles a function and keeps the result in numba's cache.

    With a signature the function is compiled at once, without one at the first call with arrays of
    a dtype; the next process finds it in the cache. The GIL is released while it runs.

    Args:
        *signature: of numba, or nothing.
        **options: further ones of ``numba.njit``.
    """

    def compile_it(function: Callable) -> Callable:
        plain = numba.njit(*signature, nogil=True, **options)
        try:
            cached = numba.njit(*signature, nogil=True, cache=True, **options)(function)
        # Neither the package's folder nor the user's can be written, or that has no room left.
        except (RuntimeError, OSError):
            return plain(function)
        return cached if signature else _Uncached(function, cached, plain)

    return compile_it


class _Uncached:
    """A function that is compiled when it is called, without the cache where that has no room."""

    def __init__(self, function: Callable, cached: Callable, plain: Callable):
        self._function, self._plain = function, plain
        self._compiled = cached

    def __call__(self, *arguments: Any) -> Any:
        try:
            return self._compiled(*arguments)
        except OSError:
            self._compiled = self._plain(self._function)
            return self._compiled(*arguments)
