"""Packaging of mcl_hf: metadata, dependencies, the `mcl-hf` command and the data files that travel in the wheel.

Floors are the oldest releases that tests ran with (`tests/floors.txt`; docs/status.md says which tests, and the
newest releases). Upper bounds stand where parts are used that a release may change without notice: the Auto classes'
tables of transformers, and the RoI heads, RPN and samplers of torchvision's detection package.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (ROOT / "mcl_hf" / "version.py").read_text(encoding="utf-8")).group(1)
README = ROOT / "README.md"

INSTALL_REQUIRES = [
    "torch>=2.6",  # tested up to 2.15.0
    "torchvision>=0.21,<0.31",  # 0.29.2; must be the build that belongs to the installed torch
    "timm>=1.0.31",  # 1.0.31
    "transformers>=5.21,<6",  # 5.24.0
    "accelerate>=1.3",  # 1.15.0
    "datasets>=4.0",  # 5.2.0
    "safetensors>=0.8",  # 0.8.0, which transformers asks for
    "huggingface-hub>=1.31",  # 2.4.0; likewise
    "jinja2>=3.1",  # 3.1.6: model cards
    "psutil>=5.9.4",  # 7.2.2
    "pycocotools>=2.0.8",  # 2.0.11
    "pydantic>=2.7",  # 2.14.4, which transformers brings along: kinds of what a run has recorded
    "pyyaml>=6.0.1",  # 6.0.4
    "tqdm>=4.66.3",  # 4.70.1
    "pillow>=11.3",  # 13.0.0; AVIF
    "numpy>=2.0",  # 2.4.6; bitwise_count
]

EXTRAS = {
    "demo": ["gradio>=6", "matplotlib"],  # 6.31.0: mcl-hf demo
    "viz": ["matplotlib"],  # curves and heat maps; montage grids need Pillow only
    "tensorboard": ["tensorboard"],
    "wandb": ["wandb"],
    "trackio": ["trackio"],
    "fast-coco": ["faster-coco-eval"],  # 1.8.0: COCO figures sooner; pycocotools is always there
    "multispectral": ["tifffile"],  # TIFF images of other than 1 or 3 channels
    "onnx": ["onnx", "onnxruntime", "onnxscript"],  # 1.23.2, 1.32.0, 0.7.2: mcl-hf export --to onnx, and running it
    "transformers-detectors": ["scipy"],  # the matching losses of DETR and Mask2Former
}
EXTRAS["docs"] = ["furo", "myst-nb", "sphinx", "sphinx-copybutton"]  # make docs
EXTRAS["all"] = sorted({requirement for extra in EXTRAS.values() for requirement in extra})
EXTRAS["test"] = [
    *EXTRAS["docs"],
    "faster-coco-eval",
    "hypothesis",
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "scipy",
    "setuptools>=77",
    "tensorboard",
    "tifffile",
    "wheel",
]
EXTRAS["dev"] = [*EXTRAS["test"], "mypy", "ruff", "types-PyYAML"]

setup(
    name="mcl-hf",
    version=VERSION,
    description="Multi-Level Contrastive Learning: pre-training of whole detection backbones, the Hugging Face way",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The mcl_hf authors",
    project_urls={
        "Paper": "https://arxiv.org/abs/2304.02010",
        "Published code of the method": "https://github.com/GuoQiushan/MCL",
    },
    license_expression="Apache-2.0",
    license_files=["LICENSE", "mcl_hf/data/photos/LICENSE-IMAGES.md", "mcl_hf/data/bccd_mini/LICENSE"],
    keywords="self-supervised, contrastive learning, object detection, feature pyramid, pre-training, backbone",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["mcl_hf", "mcl_hf.*"]),
    package_data={
        "mcl_hf": [
            "py.typed",
            "data/photos/*.parquet",
            "data/photos/*.md",
            "data/bccd_mini/*",
            "data/bccd_mini/*/*",
            "pretrained/demo/*",
            "pretrained/demo/pictures/*",
            "recipes/*/*.yaml",
            "hub/*.md",
            "comparison/*.md",
            "transfer/*.md",
            "transfer/*.yaml",
            "transfer/*.jinja",
        ]
    },
    python_requires=">=3.11",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["mcl-hf = mcl_hf.cli:main"]},
    zip_safe=False,
)
