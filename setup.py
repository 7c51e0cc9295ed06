"""Packaging. PaddlePaddle is an extra, because its CPU and GPU builds exclude each other."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

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


class BuildWithConfigs(build_py):
    """Puts the configs, which stand at the top of the checkout, inside the package.

    Not by ``package_dir``: with more than one entry an editable installation is a finder that
    Python asks last, after it has taken a checkout called ``passl`` in the current folder for an
    empty package.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            configs = Path(self.build_lib) / "passl" / "configs"
            shutil.copytree(ROOT / "configs", configs, dirs_exist_ok=True)


setup(
    name="passl-paddle",  # on PyPI, `passl` is another project
    version=VERSION,
    description="Train and evaluate MLP-Mixer and its relatives on PaddlePaddle",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9,<3.14",
    packages=find_packages(include=["passl", "passl.*"]),
    package_dir={"": "."},
    package_data={
        "passl": ["py.typed"],
        "passl.datasets.sources": ["*.txt"],
        "passl.evaluation": ["*.txt", "*.md"],
        "passl.tokenization": ["*.txt.gz", "*.md"],
    },
    cmdclass={"build_py": BuildWithConfigs},
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
            "lightly==1.6.0",
            "open_clip_torch==3.3.0",
            "webdataset==1.0.2",
            "transformers",
            "opencv-python-headless",
        ],
        # tools/export.py --format onnx. PaddlePaddle 2 needs paddle2onnx<2.
        "onnx": ["paddle2onnx>=1.3", "onnx", "onnxoptimizer", "onnxruntime", "openvino"],
        # log_config.boards: [TensorBoard]
        "tensorboard": ["tensorboard>=2.20"],
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
            "tensorboard>=2.20",
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
