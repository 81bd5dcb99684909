"""All that needs FFCV itself: reading a file back as a training script will see it, and its JPEG decoder.

What brewline writes is only right if FFCV's own reader says so. It reads in a child process, since it may crash or hang
on a file that is wrong. Its JPEG decoder (libjpeg-turbo with the fast DCT) gives other pixels than others do, so who
trains on a file's JPEGs with brewline gets them from here.
"""

import ctypes
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from stages.config import InputError
from stages.shards import beton, jpeg


def require_ffcv() -> None:
    """Raises InputError that says what to install where FFCV is missing, or a system library that it needs."""
    try:
        _library()
    except (ImportError, OSError) as error:
        raise InputError(
            f"FFCV cannot be used ({error}); install what it is built with, `apt-get install pkg-config "
            "libturbojpeg0-dev libopencv-dev g++`, then `pip install -c constraints.txt -e '.[ffcv]'` in the checkout"
        ) from error


@cache
def _library() -> ctypes.CDLL:
    """FFCV's compiled part alone: to import all of it takes seconds, and sets torch to one thread."""
    found = importlib.util.find_spec("ffcv")
    places = (found and found.submodule_search_locations) or ()
    for place in places:
        for file in Path(place).glob("_libffcv*.so"):
            return ctypes.CDLL(str(file))
    raise ImportError("there is no package ffcv with its library _libffcv")


def read_back(file: Path, rows: Sequence[int] | np.ndarray, timeout: float = 600) -> tuple[np.ndarray, np.ndarray]:
    """Samples as FFCV's own Loader and decoders give them: images, uint8 [P, H, W, 3], and labels, int64 [P].

    rows: any samples, in any order, of a file whose images are all of one size (FFCV's simple decoder needs that).
    timeout: seconds, of which the Loader compiles for about 10.
    Raises InputError where FFCV is missing, `beton.read` or `check_jpegs` refuses the file, or FFCV fails on it.
    """
    chosen = np.asarray(rows, np.int64)
    base = beton.read(file)
    if chosen.size == 0 or chosen.min() < 0 or chosen.max() >= len(base):
        raise InputError(f"{file}: samples {chosen.tolist()[:8]} asked for, expected some of 0 to {len(base) - 1}")
    sizes = np.unique(np.stack([base.heights, base.widths]), axis=1)
    if sizes.shape[1] > 1:
        raise InputError(f"{file}: has images of {sizes.shape[1]} sizes, FFCV's simple decoder reads files of one")
    base.check_jpegs(chosen)
    require_ffcv()
    with TemporaryDirectory() as folder:
        work = {"file": str(file.resolve()), "rows": chosen.tolist(), "out": folder}
        _child(file, json.dumps(work), timeout)
        images = np.load(Path(folder) / "images.npy", allow_pickle=False)
        labels = np.load(Path(folder) / "labels.npy", allow_pickle=False)
    return images, labels


def decode_jpegs(sources: Sequence[np.ndarray], out: np.ndarray, names: Sequence[object]) -> None:
    """Decode JPEGs into `out`, to the very bytes that FFCV's SimpleRGBImageDecoder gives.

    sources: the bytes of B JPEGs, uint8 each.  out: uint8 [B, H, W, 3], contiguous.  names: what errors call them.
    Several threads may decode at once; the decoder keeps its memory by thread and never frees it, so let them be few.
    Raises InputError that names the first that is no JPEG of [H, W] or is damaged, which FFCV itself passes over; what
    is in `out` then is undefined.
    """
    height, width, _ = out.shape[1:]
    if out.dtype != np.uint8 or out.shape != (len(sources), height, width, 3) or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}, expected contiguous uint8 [{len(sources)}, H, W, 3]")
    imdecode, target, step = _imdecode(), out.ctypes.data, out.strides[0]
    for row, source in enumerate(sources):
        if (found := jpeg.shape(source.data)) != (height, width):
            raise InputError(
                f"image {names[row]}: {jpeg.describe(found)}, expected a JPEG of {height}x{width}; make the file again"
            )
        to, start = target + row * step, source.ctypes.data
        if imdecode(start, len(source), height, width, to, height, width, 0, 0, 1, 1, False, False):
            raise InputError(f"image {names[row]}: FFCV's decoder finds the JPEG damaged; make the file again")


@cache
def _imdecode() -> Callable[..., int]:
    require_ffcv()
    imdecode = _library().imdecode
    size = ctypes.c_uint32
    imdecode.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint64,
        size,
        size,
        ctypes.c_void_p,
        *[size] * 6,
        *[ctypes.c_bool] * 2,
    ]
    return imdecode


def _child(file: Path, work: str, timeout: float) -> None:
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "stages.shards.ffcv_reader"]
    try:
        ended = subprocess.run(
            command,
            input=work,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{file}: FFCV did not read it in {timeout:g} seconds; raise timeout, or make it again"
        ) from error
    if ended.returncode:
        how = signal.Signals(-ended.returncode).name if ended.returncode < 0 else f"exit code {ended.returncode}"
        last = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise InputError(f"{file}: FFCV's reader ended with {how}: {last}")


def _read_in_this_process(file: str, rows: list[int], out: str) -> None:
    from ffcv.fields.basics import IntDecoder
    from ffcv.fields.rgb_image import RGBImageField, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.reader import Reader

    def stop(failure: threading.ExceptHookArgs) -> None:
        print(f"{failure.exc_type.__name__}: {failure.exc_value}", file=sys.stderr, flush=True)
        os._exit(1)

    # The Loader reads in a thread, and waits for ever where that fails.
    threading.excepthook = stop
    handlers = Reader(file).handlers
    images = {name: isinstance(handler, RGBImageField) for name, handler in handlers.items()}
    loader = Loader(
        file,
        batch_size=min(256, len(rows)),
        num_workers=1,
        order=OrderOption.SEQUENTIAL,
        indices=rows,
        drop_last=False,
        pipelines={name: [SimpleRGBImageDecoder() if image else IntDecoder()] for name, image in images.items()},
    )
    batches = [[part.copy() for part in batch] for batch in loader]
    for parts, image in zip(zip(*batches, strict=True), images.values(), strict=True):
        whole = np.concatenate(parts)
        np.save(Path(out) / ("images.npy" if image else "labels.npy"), whole if image else whole.reshape(-1))


if __name__ == "__main__":
    _read_in_this_process(**json.loads(sys.stdin.read()))
