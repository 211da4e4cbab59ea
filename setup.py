"""Packaging of gpt-keras. Ranges live here; `constraints.txt` pins what the tests ran with."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="gpt-keras",
    version="0.1.0",
    description="GPT models for TensorFlow and Keras 3: train, fine-tune, and serve text to text "
    "on an unmodified TensorFlow Serving",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["gpt_keras*", "trainers*", "export*"]),
    package_data={"export": ["data/*"], "gpt_keras": ["tokenizers/*.json"]},
    install_requires=[
        "absl-py>=2.1",
        "gguf>=0.17",
        "grain>=0.2.18",
        "grpcio-health-checking>=1.70",
        "grpcio-reflection>=1.70",
        "h11>=0.14",
        "h5py>=3.11",
        "huggingface-hub>=0.30",
        "jinja2>=3.1.6",
        "keras>=3.13,<4",
        "keras-nlp>=0.29",
        "matplotlib>=3.9",
        "ml-dtypes>=0.4",
        "numpy>=2.0",
        "psutil>=5.9",
        "pyarrow>=17",
        "pyyaml>=6.0",
        "safetensors>=0.5",
        "scikit-learn>=1.5",
        "sentencepiece>=0.2",
        "starlette>=0.40",
        "tensorboard>=2.20,<2.22",
        "tensorflow>=2.20,<2.22",
        "tensorflow-serving-api>=2.19,<2.22",
        "tensorflow-text>=2.20,<2.22",
        "tokenizers>=0.21",
        "tqdm>=4.66",
        "uvicorn>=0.30",
    ],
    extras_require={
        "tune": ["optuna>=5.0,<6"],  # trainers.tune
        "baselines": ["python-crfsuite>=0.9.11"],  # examples.crf_baseline
        "wandb": ["wandb>=0.31,<1"],  # --wandb_project
        "test": [
            "check-jsonschema>=0.39",  # carries the schema of docker-compose.yml
            "hypothesis>=6.100",
            "kubernetes-validate>=1.37",  # carries the schemas of Kubernetes
            "promql-parser>=0.12",
            "pytest>=8.3",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "ruff>=0.9",
            "trustme>=1.2",
        ],
        # The peers: what the oracle tests and the benchmarks compare with.
        "bench": ["accelerate>=1.2", "seqeval>=1.2.2", "torch>=2.6", "transformers>=5.0"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
