"""The rounding of products, set for one block of code and put back after it."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from stages.config import InputError
from stages.training.config import Precision


@contextmanager
def precision(name: Precision, device: torch.device) -> Iterator[None]:
    """Compute the block in float32 (exactly, TF32 off), with TF32 products, or under bf16 autocast.

    Raises InputError for tf32 on a device that is not a GPU.
    """
    if name == "tf32" and device.type != "cuda":
        raise InputError(
            f"precision tf32 needs a GPU, and this step runs on {device.type}; set precision to float32 or bf16"
        )
    matmul, convolution = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(device.type, dtype=torch.bfloat16) if name == "bf16" else nullcontext():
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, convolution
