"""Package metadata. The versions that are tested together, with their hashes, are in the constraints files: `make install`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

# Lower bound: the oldest minor that the checks run with. Upper bound: the next major release.
REQUIREMENTS = [
    "accelerate>=1.15,<2",
    "defusedxml>=0.7,<1",
    "fastapi>=0.160,<1",
    "filelock>=4.1,<5",
    "gradio>=6.30,<7",
    "h11>=0.16,<1",
    "jinja2>=3.1,<4",
    "matplotlib>=3.10,<4",
    "nltk>=3.9,<4",  # METEOR
    "numpy>=2.2,<3",
    "omegaconf>=2.4,<3",
    "orjson>=3.13,<4",
    "packaging>=26,<27",
    "pillow>=12.3,<13",
    "prometheus-client>=0.25,<1",
    "protobuf>=7.36,<8",  # transformers needs it to read a sentencepiece tokenizer.model
    "pydicom>=3.0,<4",
    "pylibjpeg>=2.1,<3",
    "pylibjpeg-openjpeg>=2.5,<3",  # JPEG 2000 in DICOM files
    "pyyaml>=6.0,<7",
    "rapidfuzz>=3.14,<4",  # longest common subsequences, for ROUGE-L
    "sacrebleu>=2.6,<3",
    "safetensors>=0.8,<1",
    "scipy>=1.15,<2",
    "sentencepiece>=0.2,<1",
    "timm>=1.0.31,<2",
    "tokenizers>=0.23,<1",
    "torch>=2.14,<3",
    "torchvision>=0.29,<1",
    "tqdm>=4.70,<5",
    "transformers>=5.20,<6",
    "uvicorn>=0.50,<1",
]

BERTSCORE = ["bert-score>=0.3.13,<1"]
GDCM = ["python-gdcm>=3.2,<4"]  # JPEG Lossless, and every other JPEG, in DICOM files
PARQUET = ["pyarrow>=24,<27"]  # own tables in Parquet files
QUANT = ["bitsandbytes>=0.50,<1"]  # frozen parts in 8 or 4 bits
RADGRAPH = ["radgraph>=0.1.18,<0.2"]
REWRITE = ["openai>=3.57,<4"]  # a language model that rewrites summaries

EXTRAS = {
    "bertscore": BERTSCORE,
    "dev": [
        *BERTSCORE,
        "detect-secrets>=1.5,<2",
        *GDCM,
        "hypothesis>=6.168,<7",
        "mypy>=2.4,<3",
        *PARQUET,
        "pip-audit>=2.9,<3",
        "playwright>=1.60,<2",  # drives a browser through the web page
        "pre-commit>=4.6,<5",
        "pycocoevalcap>=1.2,<2",  # the metrics are tested against it and rouge-score
        "pytest>=9.2,<10",
        "pytest-cov>=7.1,<8",
        "pytest-xdist>=3.8,<4",
        *QUANT,
        *RADGRAPH,
        *REWRITE,
        "rouge-score>=0.1.2,<1",
        "ruff>=0.17,<0.18",  # a minor release of ruff may change the format
        "scikit-learn>=1.7,<2",
        "types-PyYAML>=6.0,<7",
    ],
    "gdcm": GDCM,
    "parquet": PARQUET,
    "quant": QUANT,
    "radgraph": RADGRAPH,
    "rewrite": REWRITE,
    "tensorboard": ["tensorboard>=2.21,<3"],
}


def read_version() -> str:
    """The `__version__` of the package, read as text: importing the package would need its dependencies."""
    text = (ROOT / "xraygpt" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('xraygpt/__init__.py must hold a line `__version__ = "x.y.z"`.')
    return match.group(1)


setup(
    name="xraygpt",
    version=read_version(),
    description="Train, evaluate and talk to chest-X-ray report models. For research only.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["xraygpt", "xraygpt.*"]),
    package_data={
        "xraygpt": [
            "configs/**/*.yaml",
            "datasets/preparation/*.txt",
            "datasets/preparation/templates/*",
            "processors/*.yaml",
            "serving/assets/*",
            "evaluation/*.yaml",
            "evaluation/templates/*",
        ]
    },
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["xraygpt=xraygpt.cli.main:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
)
