"""What a running stage is given: random numbers that depend on seed and role alone, and whole checkpoints."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.config import Config, InputError
from stages.stage import STAGES, Checkpoint, Context, Runtime, Worker, derive_seed, load_stage, numbered


def context(folder, seed=0, device="cpu"):
    return Context(seed, Runtime(device=device), Checkpoint(folder))


@pytest.mark.parametrize(
    ("arguments", "seed"),
    [
        ((0,), 7520536977032167579),
        ((0, "start"), 6317472877055261659),
        ((7, "epoch", 3), 2190502078753683576),
        ((2**62, "init"), 9016578614354619075),
    ],
)
def test_derived_seeds_are_the_same_for_ever(arguments, seed):
    """Half of the first 16 hex digits of `printf '[7, "epoch", "3"]' | sha256sum`."""
    assert derive_seed(*arguments) == seed


def test_derived_seeds_differ_by_seed_role_and_where_one_part_ends():
    calls = [
        (0,),
        (1,),
        (0, "a"),
        (0, "b"),
        (0, "a", "b"),
        (0, "ab"),
        (0, "a", 1),
        (0, "a1"),
        (0, "a", 11),
        (0, "a1", 1),
    ]
    assert len({derive_seed(*call) for call in calls}) == len(calls)


@settings(deadline=None)
@given(st.integers(0, 2**63), st.text(), st.integers())
def test_derived_seeds_have_63_bits(seed, role, number):
    derived = derive_seed(seed, role, number)
    assert 0 <= derived < 2**63 and derive_seed(seed, role, number) == derived


def test_the_first_draws_are_the_same_for_ever(tmp_path):
    ctx = context(tmp_path, 5)
    assert ctx.rng("epoch", 0).integers(0, 1000, 4).tolist() == [178, 79, 42, 400]
    assert torch.randint(0, 1000, (4,), generator=ctx.torch_rng("start")).tolist() == [185, 225, 644, 336]


def test_a_stream_depends_on_seed_and_role_alone(tmp_path):
    def draws(seed, *role):
        ctx = context(tmp_path, seed)
        return ctx.rng(*role).random(), torch.rand(1, generator=ctx.torch_rng(*role)).item()

    roles = [(0, "a"), (0, "b"), (0, "a", 1), (1, "a")]
    assert draws(0, "a") == draws(0, "a")
    assert len({draws(*role)[0] for role in roles}) == len({draws(*role)[1] for role in roles}) == len(roles)


def test_global_generators_are_left_alone(tmp_path):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    ctx = context(tmp_path)
    ctx.rng("a").random(10)
    torch.rand(10, generator=ctx.torch_rng("a"))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002


def test_progress_goes_where_it_is_reported(tmp_path):
    seen = []
    Context(0, Runtime(), Checkpoint(tmp_path), lambda *report: seen.append(report)).progress(3, 10, loss=0.5)
    assert seen == [(3, 10, {"loss": 0.5})]
    context(tmp_path).progress(3, 10)  # nobody listens


def test_the_device(tmp_path):
    assert context(tmp_path).device.type == "cpu"
    assert context(tmp_path, device="auto").device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"runtime\.device is cuda, but torch sees no GPU"):
            _ = context(tmp_path, device="cuda").device


def test_every_stage_is_a_module_with_its_three_names():
    for name in STAGES:
        stage = load_stage(name)
        assert isinstance(stage.VERSION, int) and issubclass(stage.Params, Config) and callable(stage.run)
    with pytest.raises(KeyError, match="no stage is called 'train'; the stages are shard"):
        load_stage("train")


def test_stages_are_planned_without_torch():
    program = f"import sys; from stages.stage import load_stage; [load_stage(s).Params for s in {STAGES!r}]; "
    program += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_numbered_inputs_are_in_order_beyond_ten(tmp_path):
    inputs = {f"brew.{number}": tmp_path / str(number) for number in (*range(11, -1, -1), 13)}
    assert numbered(inputs, "brew") == [tmp_path / str(number) for number in range(12)]
    with pytest.raises(InputError, match=r"needs inputs surrogate\.0"):
        numbered(inputs, "surrogate")


def test_runtime_refuses_what_no_machine_has():
    for fields in ({"cpus": 0}, {"gpus": -1}, {"micro_batch": 0}, {"device": "tpu"}, {"memory": 3}, {"workers": 0}):
        with pytest.raises(ValidationError):
            Runtime.model_validate(fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"gpus": 1.5}, "gpus is 1.5; Ray gives parts of one GPU, or whole ones"),
        ({"workers": 2, "min_workers": 3}, "min_workers is 3, but there are 2 workers; lower it"),
        (
            {"workers": 2, "gpus": 0.5},
            r"gpus is 0\.5 for each of 2 workers, which cannot share a GPU; give each a whole",
        ),
    ],
)
def test_workers_that_cannot_be_had_are_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        Runtime.model_validate(fields)


def test_only_the_first_worker_reports_and_saves(tmp_path):
    seen = []
    for rank in (0, 1):
        runtime, worker = Runtime(checkpoint_seconds=0), Worker(rank, 2)
        ctx = Context(0, runtime, Checkpoint(tmp_path), lambda done, *_, rank=rank: seen.append(rank), worker=worker)
        ctx.progress(1, 2)
        assert ctx.save_due() == (rank == 0)
    assert seen == [0]


def test_saving_that_takes_long_comes_less_often(tmp_path):
    class Slow(Checkpoint):
        def save(self, tensors, facts):
            time.sleep(0.05)

    ctx = Context(0, Runtime(checkpoint_seconds=0.01), Slow(tmp_path))
    time.sleep(0.02)
    assert ctx.save_due()
    ctx.save({}, {})
    time.sleep(0.1)
    assert not ctx.save_due(), "it is to take a twentieth of the time"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(allow_nan=False), max_size=5), st.integers(0, 2**53))
def test_a_checkpoint_is_read_as_it_was_saved(tmp_path_factory, losses, epoch):
    checkpoint = Checkpoint(tmp_path_factory.mktemp("checkpoint"))
    images = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {"half": torch.rand(3).half(), "images": images, "steps": torch.tensor(3), "ids": torch.arange(3)}
    checkpoint.save(tensors, {"losses": losses, "epoch": epoch})
    saved = checkpoint.load()
    assert saved is not None
    read, facts = saved
    assert facts == {"losses": losses, "epoch": epoch} and read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in tensors.items())


def test_no_checkpoint_is_none(tmp_path):
    assert Checkpoint(tmp_path / "missing").load() is None


def test_a_checkpoint_that_was_read_stays_when_the_next_is_saved(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"a": torch.zeros(1000)}, {})
    saved = checkpoint.load()
    checkpoint.save({"a": torch.ones(1000)}, {})
    assert saved is not None and not saved[0]["a"].any()


def test_a_save_that_fails_leaves_the_former(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"a": torch.zeros(3)}, {"epoch": 1})
    with pytest.raises(TypeError):
        checkpoint.save({"a": torch.ones(3)}, {"epoch": object()})
    saved = checkpoint.load()
    assert saved is not None and saved[1] == {"epoch": 1}


PROGRAM = """
import resource, signal, sys
from pathlib import Path
import torch
from stages.stage import Checkpoint
checkpoint = Checkpoint(Path(sys.argv[1]))
checkpoint.save({"a": torch.zeros(100_000)}, {"epoch": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the kernel kills the process in the middle of the next write
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
checkpoint.save({"a": torch.ones(100_000)}, {"epoch": 2})
"""


def test_a_writer_killed_in_mid_write_leaves_the_former(tmp_path):
    ended = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGXFSZ
    checkpoint = Checkpoint(tmp_path)
    saved = checkpoint.load()
    assert saved is not None and saved[1] == {"epoch": 1} and torch.equal(saved[0]["a"], torch.zeros(100_000))
    checkpoint.save({"a": torch.ones(3)}, {"epoch": 3})
    saved = checkpoint.load()
    assert saved is not None and saved[1] == {"epoch": 3}


@pytest.mark.parametrize("left", [0, 5, 100])
def test_a_checkpoint_that_is_cut_short_counts_as_none(left, tmp_path, caplog):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"a": torch.zeros(1000)}, {"epoch": 1})
    os.truncate(checkpoint.file, left)
    assert checkpoint.load() is None and checkpoint.facts() is None
    assert "the step begins anew" in caplog.text
