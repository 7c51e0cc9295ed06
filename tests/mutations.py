"""Damages weight files, at random and with some knowledge of what is in them."""

import functools
import io
import pickletools
import struct
import zipfile

from hostile_pickles import evaluations, integer, name, text

# What counts, sizes and places are overwritten with.
_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_LONG_NUMBERS = (*_NUMBERS, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)

# Instructions that honest pickles of weights hardly have, or not in these places.
_INSTRUCTIONS = (
    *(name("os", "system"), name("posix", "system"), name("builtins", "exec")),
    *(name("builtins", "getattr"), name("builtins", "list"), name("numpy", "dtype")),
    name("os", "system") + text("touch harm-was-done") + b"\x85R",
    b"(" + text("touch harm-was-done") + b"ios\nsystem\n",
    *evaluations("open('harm-was-done', 'w')").values(),
    *(b"R", b"b", b"o", b"\x81", b"\x92", b"\x93", b"\x82\x01", b"Q", b"Pid\n", b"\x97", b"\x98"),
    *(b"(", b"0", b"1", b"2", b"t", b"\x85", b"\x86", b"\x87", b")", b"l", b"]", b"a", b"e"),
    *(b"d", b"}", b"s", b"u", b"\x8f", b"\x90", b"\x91", b"N", b"\x88", b"\x89", b".", b"\x94"),
    *(b"h\x00", b"h\x05", b"j\xff\xff\xff\x7f", b"q\x00", b"p0\n", b"g0\n", b"p-1\n", b"I1\n"),
    *(integer(n) for n in (-1, 0, 3, 1 << 31, 1 << 62, -(1 << 63), 1 << 400)),
    *(text("data"), text("storage"), text("0"), text("O"), text("<f4"), text("x" * 5000)),
    *(b"\x8b\xff\xff\xff\x7f", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\0" * 7 + b"\x7f"),
    *(b"\x95" + b"\xff" * 8, b"\x96" + b"\0" * 7 + b"\x7f", b"V\\ud800\n"),
    *(b"G\x7f\xf8\0\0\0\0\0\0", b"C\x04\0\0\0\0"),
)


def mutate(data, rng, others):
    """Returns a damaged copy.

    Args:
        data: the file.
        rng: decides everything.
        others: files that pieces may be taken from.
    """
    if rng.random() < 0.6:
        damaged = _inside(data, rng, others)
        if damaged is not None:
            return damaged
    return _damage(data, rng, others)


# ---------------------------------------------------------------- bytes


def _damage(data, rng, others):
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        data = rng.choice(_BYTES)(bytearray(data), rng, others)
    return bytes(data)


def _stretch(data, rng):
    begin = rng.randrange(len(data) + 1)
    return begin, begin + rng.choice((1, 2, 4, 8, 30, rng.randrange(len(data) + 1)))


def _flip(data, rng, others):
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _overwrite(data, rng, others):
    begin, end = _stretch(data, rng)
    end = min(end, begin + 16)
    data[begin:end] = bytes(rng.randrange(256) for _ in range(end - begin))
    return data


def _number(data, rng, others):
    begin, size = rng.randrange(len(data) + 1), rng.choice("BHIQ")
    number = rng.choice(_LONG_NUMBERS) & ((1 << 8 * struct.calcsize(size)) - 1)
    packed = struct.pack(rng.choice("<>") + size, number)
    data[begin : begin + len(packed)] = packed
    return data


def _cut(data, rng, others):
    return data[: rng.randrange(len(data) + 1)]


def _remove(data, rng, others):
    begin, end = _stretch(data, rng)
    del data[begin:end]
    return data


def _repeat(data, rng, others):
    begin, end = _stretch(data, rng)
    data[begin:begin] = data[begin:end] * rng.choice((1, 1, 2, 100 if end - begin < 100 else 1))
    return data


def _move(data, rng, others):
    begin, end = _stretch(data, rng)
    to = rng.randrange(len(data) + 1)
    data[to : to + end - begin] = data[begin:end]
    return data


def _splice(data, rng, others):
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


_BYTES = (_flip, _flip, _overwrite, _number, _number, _cut, _remove, _repeat, _move, _splice)

# ---------------------------------------------------------------- inside of a format


def _inside(data, rng, others):
    """Damages what a checksum or a length would hide from damage to the whole."""
    if data[:4] == b"PK\3\4":
        return _in_zip(data, rng, others)
    if data[8:9] == b"{":
        return _in_header(data, rng)
    return _in_pickles(data, rng, others)


def _in_zip(data, rng, others):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    programs = [number for number, member in enumerate(members) if member[0].endswith(".pkl")]
    number = programs[0] if programs and rng.random() < 0.7 else rng.randrange(len(members))
    filename, content = members[number]
    if filename.endswith(".pkl"):
        content = _in_pickles(content, rng, others)
    elif filename.endswith(".npy") and rng.random() < 0.7:
        content = _damage(content[:128], rng, others) + content[128:]
    else:
        content = _damage(content, rng, others)
    members[number] = (filename, content)
    change = rng.random()
    if change < 0.05:
        members[number] = (rng.choice(("../../x", "/x", "\n", "a/data.pkl", "x.npy")), content)
    elif change < 0.1:
        del members[rng.randrange(len(members))]
    elif change < 0.15:
        rng.shuffle(members)
    target = io.BytesIO()
    packed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(target, "w", packed) as archive:
        for filename, content in members:
            archive.writestr(filename, content)
    whole = target.getvalue()
    return _damage(whole, rng, others) if rng.random() < 0.1 else whole


def _in_header(data, rng):
    (length,) = struct.unpack("<Q", data[:8])
    header, numbers = data[8 : 8 + length], data[8 + length :]
    words = (b"F32", b"BF16", b"[]", b"{}", b"null", b"-1", b"1e9", b"18446744073709551616", b'"')
    if rng.random() < 0.5:
        begin, end = _stretch(header, rng)
        header = header[:begin] + rng.choice(words) + header[min(end, begin + 8) :]
    else:
        header = _damage(header, rng, [header])
    return struct.pack("<Q", len(header)) + header + numbers


@functools.lru_cache(maxsize=64)
def _split(data):
    """Returns the instructions of the pickles that a file begins with, and the rest of it."""
    file, cuts = io.BytesIO(data), [0]
    try:
        while True:
            for _, _, place in pickletools.genops(file):
                cuts.append(place)
            cuts.append(file.tell())
    except Exception:  # whatever comes after the last pickle
        pass
    cuts = sorted(set(cuts))
    return [data[a:b] for a, b in zip(cuts, cuts[1:])], data[cuts[-1] :]


def _in_pickles(data, rng, others):
    steps, rest = _split(data)
    if len(steps) < 3:
        return None
    steps = list(steps)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        at, other = rng.randrange(len(steps)), rng.randrange(len(steps))
        kind = rng.randrange(7)
        if kind == 0:
            steps[at] = rng.choice(_INSTRUCTIONS)
        elif kind == 1:
            steps.insert(at, rng.choice(_INSTRUCTIONS))
        elif kind == 2:
            steps[at], steps[other] = steps[other], steps[at]
        elif kind == 3:
            steps[at] = steps[other]
        elif kind == 4 and len(steps) > 1:
            del steps[at : at + rng.choice((1, 1, 3))]
        elif kind == 5:
            steps[at:at] = steps[other : other + rng.choice((1, 5, 40))]
        elif len(steps[at]) > 1:  # its argument
            steps[at] = steps[at][:1] + _damage(steps[at][1:], rng, [steps[other]])
        steps = steps or [b"."]
    return b"".join(steps) + rest
