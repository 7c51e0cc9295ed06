"""Packaging. PaddlePaddle is an extra, because its CPU and GPU builds exclude each other."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "passl" / "utils" / "version.py").read_text(encoding="utf-8").splitlines()
    if line.startswith("__version__")
)
REQUIREMENTS = [
    line
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith(("#", "paddlepaddle"))
]
CONFIG_FOLDERS = [p.name for p in sorted((ROOT / "configs").iterdir()) if p.is_dir()]

setup(
    name="passl",
    version=VERSION,
    description="Train and evaluate MLP-Mixer and its relatives on PaddlePaddle",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9,<3.14",
    # The configs stand at the top of the checkout and inside the package once installed.
    packages=find_packages(include=["passl", "passl.*"])
    + ["passl.configs"]
    + [f"passl.configs.{name}" for name in CONFIG_FOLDERS],
    package_dir={"passl.configs": "configs"},
    package_data={
        "passl.configs": ["*.yaml"],
        "passl.datasets": ["*.txt"],
        **{f"passl.configs.{name}": ["*.yaml"] for name in CONFIG_FOLDERS},
    },
    install_requires=REQUIREMENTS,
    extras_require={
        # Paddle 2.6 needs setuptools on Python 3.12, and does not ask for it.
        "cpu": ["paddlepaddle>=2.6.2,<4", "setuptools"],
        "gpu": ["paddlepaddle-gpu==2.6.2; python_version < '3.13'", "setuptools"],
        "photos": ["pyarrow>=15"],
        # What tests/reference/ runs with, in an environment without Paddle: python -m venv
        # .venv-reference; .venv-reference/bin/python -m pip install -e ".[reference]"
        "reference": [
            "torch",
            "torchvision",
            "timm>=1.0",
            "safetensors",
            "flax",
            "einops",
            "opencv-python-headless",
        ],
        # tools/export.py --format onnx. PaddlePaddle 2 needs paddle2onnx<2.
        "onnx": ["paddle2onnx>=1.3", "onnx", "onnxoptimizer", "onnxruntime", "openvino"],
        # The devkit of ImageNet's archives has its labels in a MATLAB file.
        "devkit": ["scipy"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.8",
            "ruff==0.15.22",
            "build",
            "scipy",
            "playwright",
            "docstring-parser",
        ],
    },
    entry_points={
        "console_scripts": ["passl=passl.cli.main:main"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
