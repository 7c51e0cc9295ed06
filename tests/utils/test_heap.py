"""Memory that was freed is kept, where the C library can be told so."""

import json
import os
import platform
import subprocess
import sys

import pytest
from helpers import ROOT

from passl.utils import heap

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the GNU C library alone can be told so"
)

# Pages that the system had to fill while 20 arrays of 12 MB were made and freed, one after another.
FAULTS = """
import json, resource, sys
import passl
import numpy as np
from passl.utils import environment, heap

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(3_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
kept = faults()
heap.give_freed_memory_back()
np.ones(3_000_000, np.float32)
print(json.dumps([kept, faults(), environment._applied]))
"""


def faults(**variables):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env={**os.environ, **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_memory_is_kept_until_it_is_given_back():
    kept, given_back, applied = faults()
    assert "mallopt: freed memory is kept" in applied
    assert given_back > 20 * 20 > 10 * kept  # at least a page of 2 MB each time


def test_what_the_user_has_set_is_not_changed(monkeypatch):
    asked = []
    monkeypatch.setattr(heap, "_set", lambda *setting: asked.append(setting) or True)
    for name in [name for name in os.environ if name.startswith("MALLOC_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    for name, value in (
        ("MALLOC_TRIM_THRESHOLD_", "1000"),
        ("MALLOC_ARENA_MAX", "2"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=100"),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert heap.keep_freed_memory() == "" and not asked
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.rtld.optional_static_tls=512")
    assert heap.keep_freed_memory() and len(asked) == 2


def test_without_the_gnu_c_library_nothing_is_done(monkeypatch):
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _: object())
    assert heap.keep_freed_memory() == ""
    monkeypatch.setattr(heap.sys, "platform", "darwin")
    assert heap.keep_freed_memory() == ""
