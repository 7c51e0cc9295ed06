"""The model zoo: released weights as data, from ``configs/zoo/*.yaml``."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import yaml

from passl.utils.commands import command
from passl.utils.errors import PasslError, listing, suggest
from passl.utils.shipped import config_root
from passl.utils.whole_files import sha256_of

HUGGING_FACE = "https://huggingface.co/"


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for a released network.

    Attributes:
        size: height and width of the view, in pixels.
        crop_ratio: share of the resized short side that the view shows; None: the whole image,
            squashed to a square.
        interpolation: the filter of the resize, antialiased.
        mean, std: of each channel, on the scale of 0 to 1.
    """

    size: int
    crop_ratio: Optional[float]
    interpolation: str
    mean: List[float]
    std: List[float]

    def transforms(self) -> List[Dict[str, Any]]:
        """Returns the evaluation view as configs of sample transforms."""
        if self.crop_ratio is None:
            return [{"name": "Resize", "size": self.size, "interpolation": self.interpolation}]
        return [
            {
                "name": "ResizeCenterCrop",
                "size": self.size,
                "crop_ratio": self.crop_ratio,
                "interpolation": self.interpolation,
            }
        ]

    def batch_transforms(self) -> List[Dict[str, Any]]:
        """Returns the normalisation as configs of batch transforms."""
        return [{"name": "Normalize", "mean": list(self.mean), "std": list(self.std)}]

    def __str__(self) -> str:
        crop = "squashed" if self.crop_ratio is None else f"crop ratio {self.crop_ratio}"
        return f"{self.size} px, {crop}, {self.interpolation}, mean {self.mean}, std {self.std}"


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """Top-1 and Top-5 on ImageNet-1k's validation set in percent, who measured them, and where."""

    top1: float
    by: str
    source: str
    top5: Optional[float] = None

    def __str__(self) -> str:
        return f"{self.top1:.2f} / " + ("–" if self.top5 is None else f"{self.top5:.2f}")


@dataclasses.dataclass(frozen=True)
class ReleasedFile:
    """A file that holds the weights; ``by`` says whose names and layout it uses."""

    name: str
    by: str
    url: str
    sha256: Optional[str] = None  # its first hexadecimal digits, where they are known

    def address(self) -> Optional[str]:
        """Returns where the bytes of the file are; None where ``url`` is a page for people.

        Of a repository of Hugging Face that is ``resolve/main/<file>``, as its documentation of
        downloading says: huggingface.co/docs/hub/models-downloading.
        """
        if self.url.startswith(HUGGING_FACE) and self.url.count("/") == HUGGING_FACE.count("/") + 1:
            return f"{self.url}/resolve/main/{self.name}"
        return self.url if self.url.rpartition("/")[2] == self.name else None


@dataclasses.dataclass(frozen=True)
class Release:
    """One set of released weights.

    Attributes:
        name: network, size and origin: ``mlp_mixer_b16_224.goog_in1k``.
        config: the shipped config that evaluates it, with ``overrides``.
        parameters: their number, the head's included.
        num_classes: of the head; 0 where there is none, as for CLIP.
        provenance: what it was trained on, and how.
        preprocessing: of the images.
        reported: by others.
        measured: by this project.
        files: the same weights as different publishers give them.
        quick_gelu: whether a network of CLIP was trained with QuickGELU.
        note: what one should know.
    """

    name: str
    config: str
    parameters: int
    num_classes: int
    provenance: str
    preprocessing: Preprocessing
    reported: List[Accuracy]
    measured: List[Accuracy]
    files: List[ReleasedFile]
    overrides: List[str] = dataclasses.field(default_factory=list)
    note: str = ""
    quick_gelu: Optional[bool] = None

    def command(self) -> str:
        """Returns the command that evaluates it."""
        overrides = "".join(f" -o {override}" for override in self.overrides)
        weights = self.name if any(file.address() for file in self.files) else self.files[0].name
        return f"{command('eval')} -c {self.config}{overrides} --weights {weights}"


@functools.cache
def releases() -> Dict[str, Release]:
    """Returns all releases by name."""
    found: Dict[str, Release] = {}
    for path in sorted((config_root() / "zoo").glob("*.yaml")):
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, entry in entries.items():
            assert name not in found, f"{path}: two releases are called {name}"
            found[name] = Release(
                name=name,
                **{
                    **entry,
                    "preprocessing": Preprocessing(**entry["preprocessing"]),
                    "reported": [Accuracy(**item) for item in entry["reported"]],
                    "measured": [Accuracy(**item) for item in entry["measured"]],
                    "files": [ReleasedFile(**item) for item in entry["files"]],
                },
            )
    return found


def get_release(name: str) -> Release:
    """Returns the release called ``name``.

    Raises:
        PasslError: there is none.
    """
    known = releases()
    if name not in known:
        raise PasslError(
            f"the model zoo has no '{name}'{suggest(name, known)}; known: {listing(known)}"
        )
    return known[name]


def networks() -> Dict[str, List[str]]:
    """Returns the networks that there are releases of, and these, ``<network>.<origin>``."""
    found: Dict[str, List[str]] = {}
    for name in releases():
        found.setdefault(name.partition(".")[0], []).append(name)
    return found


def files_called(path: Union[str, os.PathLike]) -> List[Tuple[Release, ReleasedFile]]:
    """Returns the releases that have a file of this name; different ones may share a name."""
    name = Path(path).name
    return [(r, file) for r in releases().values() for file in r.files if file.name == name]


def has_known_hash(path: Union[str, os.PathLike], file: ReleasedFile) -> bool:
    """Tells whether the file at ``path`` has the released file's hash, as far as it is known."""
    if file.sha256 is None:
        return True
    return sha256_of(path).startswith(file.sha256)


def as_text(names: Optional[Sequence[str]] = None) -> str:
    """Returns the zoo, or the releases of some names, for a terminal."""
    blocks = []
    for release in releases().values():
        if names is not None and release.name not in names:
            continue
        reported = [f"{a} by {a.by} ({a.source})" for a in release.reported] or ["nothing"]
        measured = [f"{a} by {a.by} ({a.source})" for a in release.measured] or ["not yet"]
        lines = [
            release.name,
            f"  network     {release.parameters:,} parameters, "
            f"{release.num_classes or 'no'} classes",
            f"  trained on  {release.provenance}",
            f"  images      {release.preprocessing}",
            *(f"  reported    {line}" for line in reported),
            *(f"  measured    {line}" for line in measured),
            *(
                f"  file        {file.name} ({file.by}"
                + (f", sha256 {file.sha256}…" if file.sha256 else "")
                + f") {file.url}"
                for file in release.files
            ),
            *([f"  note        {release.note}"] if release.note else []),
            f"  evaluate    {release.command()}",
        ]
        blocks.append("\n".join(lines))
    blocks.append(
        "reported / measured: Top-1 / Top-5 in percent on the 50,000 validation images of "
        "ImageNet-1k;\nreported by others, measured by this project."
    )
    return "\n\n".join(blocks)


def as_short_markdown(names: Sequence[str]) -> str:
    """Returns some releases as a small table of a document."""
    rows = [
        "| release | trained on | parameters | Top-1 / Top-5, reported by |",
        "|---|---|---|---|",
    ]
    for release in map(get_release, names):
        reported = "<br>".join(f"{a} ({a.by})" for a in release.reported)
        rows.append(
            f"| `{release.name}` | {release.provenance} | {release.parameters:,} | {reported} |"
        )
    return "\n".join(rows)


def as_markdown() -> str:
    """Returns the zoo as a table of a document."""
    rows = [
        "| release | config | trained on | parameters | Top-1 / Top-5 as reported by others "
        "| measured here | files |",
        "|---|---|---|---|---|---|---|",
    ]
    for release in releases().values():
        reported, measured = (
            "<br>".join(f"{a} ({a.by})" for a in accuracies)
            for accuracies in (release.reported, release.measured)
        )
        files = ", ".join(
            f"[{file.by} {Path(file.name).suffix}]({file.url})" for file in release.files
        )
        star = " \\*" if release.overrides else ""
        rows.append(
            f"| `{release.name}` | `{release.config}`{star} | {release.provenance} "
            f"| {release.parameters:,} | {reported or '–'} | {measured or 'no'} | {files} |"
        )
    return "\n".join(rows)
