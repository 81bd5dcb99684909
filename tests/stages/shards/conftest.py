"""Real photographs, and files of them: by brewline, and by FFCV's own writer in a process that can be killed."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from stages.shards import beton, jpeg

HEIGHT, WIDTH, PAGE = 128, 160, 1 << 21
COUNT = 80
"""34 of the raw images fill a page: 80 need three."""

FFCV_WRITES = """
import sys
import numpy as np
from ffcv.fields import IntField, RGBImageField
from ffcv.writer import DatasetWriter

file, photographs = sys.argv[1:]
images = np.load(photographs)
fields = {"name": IntField(), "photo": RGBImageField(write_mode="proportion", compress_probability=0.5)}
writer = DatasetWriter(file, fields, page_size=1 << 21, num_workers=3)
writer.from_indexed_dataset([(7 * row - 100, image) for row, image in enumerate(images)], chunksize=3)
"""


@pytest.fixture(scope="session")
def photographs() -> np.ndarray:
    """uint8 [80, 128, 160, 3]: pieces of scikit-learn's two photographs."""
    pieces = []
    for photograph in load_sample_images().images:
        rows = np.linspace(0, photograph.shape[0] - HEIGHT, 5).astype(int)
        columns = np.linspace(0, photograph.shape[1] - WIDTH, 8).astype(int)
        pieces += [photograph[row : row + HEIGHT, column : column + WIDTH] for row in rows for column in columns]
    return np.stack(pieces)


@pytest.fixture(scope="session")
def mixed_file(photographs: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third sample a JPEG, the others raw; labels are 3 - row; never write into it."""
    file = tmp_path_factory.mktemp("beton") / "mixed.beton"
    with beton.Writer(file, COUNT, PAGE) as writer:
        for row, image in enumerate(photographs):
            if row % 3 == 0:
                writer.add_jpeg(jpeg.encode(image, 90), HEIGHT, WIDTH, 3 - row)
            else:
                writer.add(image, 3 - row)
    return file


@pytest.fixture(scope="session")
def ffcv_file(photographs: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By FFCV's three workers: the label first, JPEG or raw by chance, samples in no order; never write into it."""
    # Not importorskip: importing FFCV sets torch to one thread for the whole session.
    if importlib.util.find_spec("ffcv") is None:
        pytest.skip("FFCV is not installed: pip install -c constraints.txt -e '.[ffcv]'")
    folder = tmp_path_factory.mktemp("ffcv")
    np.save(folder / "photographs.npy", photographs)
    file = folder / "theirs.beton"
    command = [sys.executable, "-c", FFCV_WRITES, str(file), str(folder / "photographs.npy")]
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    return file
