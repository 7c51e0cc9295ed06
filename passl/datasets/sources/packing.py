"""Packing a set into tar shards that are faster to read than its files.

Tar files of ``key.jpg`` and, where there are labels, ``key.cls`` (the naming of WebDataset) were
preferred to ArrayRecord, Parquet and a format of our own: every tool opens them, other loaders
stream them, and with an index of offsets they give random access as well.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import tarfile
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from PIL import Image
from tqdm import tqdm

from passl.datasets.images.decoding import UnreadableImage, decode_image
from passl.datasets.sources.files import MANIFEST, PACKING, CatalogDataset
from passl.utils.errors import PasslError
from passl.utils.logging import interactive, logger
from passl.utils.strict_json import to_json
from passl.utils.system_errors import explain_os_error
from passl.utils.whole_files import replacing, sha256_of


def _prepare(
    dataset: CatalogDataset, short_side: Optional[int], quality: int, index: int
) -> Tuple[int, Optional[bytes], str]:
    """Returns index, the bytes to store (None: unreadable), and why not."""
    try:
        data = dataset.read_bytes(index)
        image = decode_image(data, dataset.path(index), dataset.max_pixels)
    except UnreadableImage as error:
        return index, None, str(error)
    if short_side is None:
        return index, data, ""
    scale = short_side / min(image.size)
    if scale < 1:  # small images are not enlarged
        size = tuple(max(1, round(side * scale)) for side in image.size)
        image = image.resize(size, Image.Resampling.BICUBIC)
    elif data[:2] == b"\xff\xd8":
        return index, data, ""
    file = io.BytesIO()
    image.to_pil().save(file, "JPEG", quality=quality)
    return index, file.getvalue(), ""


def pack(
    dataset: CatalogDataset,
    output: str,
    short_side: Optional[int] = 256,
    quality: int = 90,
    per_shard: int = 10_000,
    num_workers: int = 1,
) -> Dict[str, Any]:
    """Writes a set as shards; goes on where an earlier call was interrupted.

    Args:
        dataset: what to pack, in its order; its transforms are not applied.
        output: a folder; new, or that of an interrupted call with the same arguments.
        short_side: images larger than this are shrunk to it and encoded again, in pixels; None
            keeps every file as it is.
        quality: of the JPEG files that are encoded again, 1 to 95.
        per_shard: images a shard.
        num_workers: threads that read and encode.

    Returns:
        the manifest: ``shards`` (name, size in bytes, sha256, images), ``class_names``,
        ``images``, ``skipped`` and the options.

    Raises:
        PasslError: a full disk, or a folder that holds something else.
    """
    if dataset.catalog.captions is not None:
        raise PasslError(
            f"{dataset.catalog.root}: images with captions are not packed; they are read as they "
            "stand, and img2dataset makes shards of a list of addresses"
        )
    if short_side is not None and short_side < 1:
        raise PasslError(f"the short side is at least 1 pixel, not {short_side}")
    if not 1 <= quality <= 95:
        raise PasslError(f"a JPEG quality lies in 1 to 95, not {quality}")
    if per_shard < 1:
        raise PasslError(f"a shard holds at least 1 image, not {per_shard}")
    options = {
        "images": len(dataset),
        "short_side": short_side,
        "quality": None if short_side is None else quality,
        "per_shard": per_shard,
        "class_names": dataset.class_names,
    }
    folder = Path(output)
    done = _begin(folder, options)
    prepare = functools.partial(_prepare, dataset, short_side, quality)
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(dataset), desc=f"packing {folder}", unit="image",
                 initial=min(len(done) * per_shard, len(dataset)), disable=not interactive())
        )  # fmt: skip
        # Threads: decoders and encoders let go of the interpreter, and there is nothing to fork.
        pool = stack.enter_context(ThreadPool(max(1, num_workers)))
        for number in range(len(done), -(-len(dataset) // per_shard)):
            span = range(number * per_shard, min((number + 1) * per_shard, len(dataset)))
            shard = _write_shard(folder, number, dataset, pool.imap(prepare, span, 16), bar)
            done.append(shard)
            with open(folder / PACKING, "a", encoding="utf-8") as file:
                file.write(to_json(shard) + "\n")
                file.flush()
                os.fsync(file.fileno())
    manifest = {**options, "shards": done, "skipped": [n for s in done for n in s["skipped"]]}
    with replacing(folder / MANIFEST) as aside:
        aside.write_text(to_json(manifest, indent=1) + "\n", encoding="utf-8")
    (folder / PACKING).unlink()
    return manifest


def _begin(folder: Path, options: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Returns the shards that are done; refuses a folder that something else stands in."""
    folder.mkdir(parents=True, exist_ok=True)
    progress = folder / PACKING
    if (folder / MANIFEST).exists():
        raise PasslError(f"{folder}: holds a packed set already; choose another --output")
    if not progress.exists():
        if any(folder.iterdir()):
            raise PasslError(f"{folder}: is not empty; choose a new folder for --output")
        with replacing(progress) as aside:
            aside.write_text(to_json(options) + "\n", encoding="utf-8")
        return []
    lines = []
    for line in progress.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(ValueError):  # the last line may be cut short
            lines.append(json.loads(line))
    if not lines or lines[0] != options:
        raise PasslError(
            f"{folder}: was begun from other images or with other options; finish it with those, "
            "or choose another --output"
        )
    # Without the line that was cut short, which the next one would be glued to.
    with replacing(progress) as aside:
        aside.write_text("".join(to_json(line) + "\n" for line in lines), encoding="utf-8")
    logger.info("%s: going on after %d shards", folder, len(lines) - 1)
    return lines[1:]


def _write_shard(
    folder: Path, number: int, dataset: CatalogDataset, images: Iterator[Any], bar: tqdm
) -> Dict[str, Any]:
    """Writes one shard aside and renames it; returns its entry of the manifest."""
    path = folder / f"shard-{number:05d}.tar"
    partial = folder / f".{path.name}"
    count, skipped = 0, []
    try:
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as archive:
            for index, data, problem in images:
                bar.update()
                if data is None:
                    logger.warning("left out: %s", problem)
                    skipped.append(dataset.path(index))
                    continue
                files = {"jpg": data}
                if dataset.labels is not None:
                    files["cls"] = str(int(dataset.labels[index])).encode()
                for extension, content in files.items():
                    member = tarfile.TarInfo(f"{index:09d}.{extension}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
                count += 1
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        known = explain_os_error(error, path)
        raise PasslError(f"{known}; then run it again: what is done is kept") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
    return {
        "name": path.name,
        "size": path.stat().st_size,
        "sha256": sha256_of(path),
        "images": count,
        "skipped": skipped,
    }


def verify(output: str) -> int:
    """Compares every shard of a packed set with its checksum; returns their number.

    Raises:
        PasslError: a shard that is missing or not as it was written.
    """
    folder = Path(output)
    try:
        noted = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        shards = [(shard["name"], shard["sha256"]) for shard in noted["shards"]]
    except OSError as error:
        raise explain_os_error(error, folder / MANIFEST, "read") from None
    except (ValueError, KeyError, TypeError) as error:
        raise PasslError(
            f"{folder / MANIFEST}: is damaged ({error}); pack the data again"
        ) from None
    for name, checksum in tqdm(shards, desc=f"verifying {folder}", disable=not interactive()):
        path = folder / name
        if not path.is_file() or sha256_of(path) != checksum:
            raise PasslError(f"{path}: is missing, or not as it was written; pack the data again")
    return len(shards)
