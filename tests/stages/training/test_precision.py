"""The rounding of products, inside a block and after it."""

import pytest
import torch

from stages.config import InputError
from stages.training.precision import precision

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture(params=[(False, True), (True, False)])
def before(request):
    kept = flags()
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = request.param
    yield request.param
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = kept


@pytest.mark.parametrize(("name", "device", "inside"), [("float32", CPU, False), ("bf16", CPU, False)])
def test_the_flags_are_set_inside_and_put_back(name, device, inside, before):
    with precision(name, device):
        assert flags() == (inside, inside)
    assert flags() == before


def test_tf32_is_allowed_inside_a_block_on_a_gpu(before):
    with precision("tf32", GPU):  # flags only: no GPU is touched
        assert flags() == (True, True)
        with precision("float32", GPU):
            assert flags() == (False, False)
        assert flags() == (True, True)
    assert flags() == before


@pytest.mark.parametrize("name", ["float32", "bf16"])
def test_an_exception_puts_everything_back(name, before):
    with pytest.raises(KeyboardInterrupt), precision(name, CPU):
        raise KeyboardInterrupt
    assert flags() == before and not torch.is_autocast_enabled("cpu")


def test_products_are_rounded_as_said():
    a, b = torch.rand(8, 8), torch.rand(8, 8)
    with precision("bf16", CPU):
        assert (a @ b).dtype == torch.bfloat16
    with precision("float32", CPU):
        assert torch.equal(a @ b, torch.mm(a, b)) and (a @ b).dtype == torch.float32


def test_tf32_without_a_gpu_is_refused(before):
    with pytest.raises(InputError, match=r"tf32 needs a GPU, and this step runs on cpu; set .*float32 or bf16"):
        precision("tf32", CPU).__enter__()
    assert flags() == before
