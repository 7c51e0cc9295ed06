"""Which GELU a network of CLIP was trained with, where its file tells.

x σ(1.702 x), "QuickGELU", is what OpenAI trained with; who trained after them took the one or the
other. No array says which. Networks answer with the wrong one too: open_clip's B/32 of LAION-400M
tells 62.94 % of ImageNet by words with it, and 60.24 % without (docs/openclip_results.csv).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from passl.utils import zoo
from passl.utils.whole_files import sha256_of
from passl.weights.naming import OWN
from passl.weights.reading import WeightFile

QUICK_GELU = "quick_gelu"
# Part of a network -> where a config has its settings.
SETTINGS = {"backbone": "architecture", "text": "text"}

# How releases are called -> whether they take QuickGELU: open_clip/pretrained.py of 3.3.0, where
# every weight says so, and timm's, whose fine-tuned networks are of the exact form. Of the lines
# that fit a name, the first counts.
_NAMES = tuple(
    (re.compile(pattern), quick)
    for pattern, quick in (
        (r"(?i)quick-?gelu", True),
        # OpenAI's own files, and PASSL 1's of the same
        (r"^(RN50(x4|x16|x64)?|RN101|ViT-B-(32|16)|ViT-L-14(-336px)?)\.(pt|pdparams)$", True),
        # the same in transformers and PaddleNLP
        (r"^clip-(vit-(base|large)-patch\d\d(-336)?|rn50|rn101)$", True),
        (r"clip\w*\.\w+_ft_in\d", False),
        (r"clip\w*\.openai$", True),
        (r"(?i)dfn2b.*39b", False),
        (r"(?i)dfn[25]b", True),
        (r"altogether", False),
        (r"huge_patch14_clip_224\.metaclip2", True),
        (r"(?i)metaclip-?2(?!pt)", False),
        (r"(?i)metaclip.*(400m|2pt5b|fullcc)", True),
        (r"^(b32|b16|l14|h14|G14)_(400m|fullcc2\.5b)\.pt$", True),
        (r"(?i)(rn|resnet)(50|101).*(yfcc15m|cc12m)", True),
        (r"(?i)vit.*(b_32|patch32).*laion400m", True),
        (r"(?i)vit.*(laion-?(400m|2b|5b)|datacomp|commonpool)", False),
    )
)
# Folders that are called as their publishers call a release; any other says nothing.
_FOLDER = re.compile(r"(CLIP-ViT-|clip-|DFN\dB-CLIP-|metaclip-|vit_\w+_clip_|resnet\w+_clip\.)")
# No released file of a known hash is larger.
_LARGEST_HASHED = 1_500_000_000


def quick_gelu_of(file: WeightFile) -> Tuple[Dict[str, bool], str]:
    """Returns what a file tells of its GELU, and by what it does.

    Our own record counts most, then the SHA-256 of a released file, then the name of the file or of
    the folder that it lies in, as its publisher calls the release.

    Args:
        file: of CLIP, or of one of its towers.

    Returns:
        part (``backbone``, ``text``) -> whether it takes QuickGELU; parts of which nothing is known
        are left out; and words that name the source.
    """
    recorded = _recorded(file.metadata)
    if recorded:
        return recorded, "by its own record"
    if file.metadata and file.metadata.get("publisher", OWN) == OWN:
        return {}, ""
    if file.source is not None and file.source.release:
        quick = zoo.get_release(file.source.release).quick_gelu
        if quick is not None:
            return dict.fromkeys(SETTINGS, quick), f"as {file.source.release}"
    quick, source = _by_hash(file)
    if quick is None and not source:
        quick, source = _by_name(file.path)
    return ({} if quick is None else dict.fromkeys(SETTINGS, quick)), source


def _recorded(metadata: Mapping[str, Any]) -> Dict[str, bool]:
    handed_on = metadata.get(QUICK_GELU)
    if isinstance(handed_on, Mapping):
        return {part: quick for part, quick in handed_on.items() if isinstance(quick, bool)}
    config = metadata.get("config")
    model = config.get("model") if isinstance(config, Mapping) else None
    if not isinstance(model, Mapping):
        return {}
    sections = {part: model.get(key) for part, key in SETTINGS.items()}
    return {
        part: section.get(QUICK_GELU, False) is True
        for part, section in sections.items()
        if isinstance(section, Mapping)
    }


def _by_hash(file: WeightFile) -> Tuple[Optional[bool], str]:
    """Returns what is known of a file of this hash; words alone where only its name is known."""
    name = Path(file.path).name
    known = [
        (release, released)
        for release in zoo.releases().values()
        for released in release.files
        if release.quick_gelu is not None and released.sha256 is not None
    ]
    named = any(released.name == name for _, released in known)
    scripted = file.format == "torch" and os.path.getsize(file.path) <= _LARGEST_HASHED
    if not named and not scripted:
        return None, ""
    with file.reading():
        digest = sha256_of(file.path)
    for release, released in known:
        if digest.startswith(released.sha256):
            return release.quick_gelu, f"by its SHA-256 {release.name}"
    return None, "it has the name of a release, but not its content" if named else ""


def _by_name(path: str) -> Tuple[Optional[bool], str]:
    parts = Path(os.path.abspath(path)).parts
    folders: List[str] = [part for part in parts[-2:-1] if _FOLDER.match(part)]
    # huggingface_hub's cache: models--openai--clip-vit-base-patch32/snapshots/…/model.safetensors
    folders += [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    for name in (parts[-1], *folders):
        for pattern, quick in _NAMES:
            if pattern.search(name):
                return quick, f"by the name '{name}'"
    return None, ""
