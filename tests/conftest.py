"""Settings of every test process, and tiny models of every family."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

import json
import pathlib
import runpy

import numpy as np
import pytest
from safetensors.numpy import save_file

GOLDEN = pathlib.Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def write_family():
    """Function (case of `tests/golden/families.py`, empty folder) -> the folder, with the model.

    Beside it the arrays of its golden file.
    """
    weight = runpy.run_path(GOLDEN / "families.py")["weight"]

    def write(case, folder):
        with np.load(GOLDEN / "families" / f"{case}.npz") as golden:
            golden = dict(golden)
        (folder / "config.json").write_text(str(golden["config"]))
        shapes = json.loads(str(golden["shapes"]))
        tensors = {name: weight(name, shape) for name, shape in shapes.items()}
        save_file(tensors, folder / "model.safetensors")
        return folder, golden

    return write
