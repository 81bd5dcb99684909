"""Several workers against one: real processes that talk over gloo, on real digits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import batch_norm

import stages
from stages import models
from stages.models import Network
from stages.shards import base_shards
from stages.stage import Checkpoint, Context, Runtime, Worker
from stages.training import layers, loop
from stages.training.batch_norm import Part
from stages.training.config import Augmentation, Constant, Training
from stages.training.distributed import parallel, summed

PLAIN = Training(epochs=3, batch_size=64, schedule=Constant(), augmentation=Augmentation(flip=False, pad=0))
SHAKY = PLAIN.model_copy(update={"augmentation": Augmentation(flip=True, pad=1)})
RATE = 0.02

PROGRAM = """
import json, sys
from datetime import timedelta

import torch
from safetensors.torch import save_file
from torch import distributed

sys.path.insert(0, sys.argv[1])
import test_distributed as here

from stages.stage import Worker

torch.set_num_threads(1)
for line in sys.stdin:
    rank, count, folder, name, *arguments = json.loads(line)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=count, timeout=timedelta(seconds=60)
    )
    tensors = getattr(here, name)(Worker(rank, count), *arguments)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, f"{folder}/{rank}.safetensors")
    distributed.destroy_process_group()
    print("done", flush=True)
"""


class Workers:
    """Processes that do functions of this module together, one after another."""

    def __init__(self, count):
        words = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent)]
        root = Path(stages.__file__).parents[1]
        self.processes = [
            subprocess.Popen(words, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]

    def do(self, count, folder, name, *arguments):
        """What each of `count` workers left; one that is killed leaves None."""
        folder.mkdir()
        for rank, process in enumerate(self.processes[:count]):
            process.stdin.write(json.dumps([rank, count, str(folder), name, *map(str, arguments)]) + "\n")
            process.stdin.flush()
        said = [process.stdout.readline() for process in self.processes[:count]]
        assert said == ["done\n"] * count
        return [load_file(folder / f"{rank}.safetensors") for rank in range(count)]

    def end(self):
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module")
def workers():
    started = Workers(4)
    yield started
    started.end()


class Interrupted(BaseException):
    """As a killed process: nothing in the loop may catch it."""


def build(name, info):
    """A network by name, in float64: batch normalisation of few images amplifies rounding by orders of magnitude."""
    width = {"resnet18": 4, "frozen": 4, "convnet": 8}[name]
    depth = {"depth": 3} if name == "convnet" else {}
    model = models.build(Network(name="resnet18" if name == "frozen" else name, width=width, **depth), info, 0)
    if name == "convnet":
        model.body.append(nn.Dropout(0.3))
    if name == "frozen":
        model.freeze_body()
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(),))
    return model.double()


def trained(
    worker, dataset, folder, network="resnet18", training="PLAIN", groups="1", optimizer="sgd", images="222", kill="0"
):
    """The whole training of one worker: its network, its curves and what it watched."""
    digits = base_shards.load(Path(dataset))
    model = build(network, digits.info)
    changes = {"batch_norm_groups": int(groups), "optimizer": optimizer}
    config = globals()[training].model_copy(update=changes)
    ctx = Context(
        0, Runtime(device="cpu", checkpoint_seconds=0), Checkpoint(Path(folder, str(worker.rank))), worker=worker
    )
    batches = []

    def count_batches(_, inputs):
        if model.training:
            batches.append(len(inputs[0]))
            if len(batches) == int(kill):
                raise Interrupted

    model.register_forward_pre_hook(count_batches)
    rate = RATE if optimizer == "sgd" else 0.003
    try:
        history = loop.train(model, digits.train.of(range(int(images))), config, rate, ctx, watch=digits.test)
    except Interrupted:
        return {"batches": torch.tensor(batches)}
    assert "forward" not in {name for module in model.modules() for name in vars(module)}, "layers are put back"
    return {
        **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "loss": torch.tensor(history.loss, dtype=torch.float64),
        "accuracy": torch.tensor(history.accuracy, dtype=torch.float64),
        "watched": torch.stack(history.watched_logits).float(),
        "batches": torch.tensor(batches),
    }


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"batches"}:
        # Logits are kept in float16.
        tolerance = 2e-3 if name == "watched" else 1e-6
        torch.testing.assert_close(ours[name], theirs[name], rtol=tolerance, atol=tolerance, msg=f"{name} differs")


def assert_equal(ours, theirs):
    assert [name for name in ours if name != "batches" and not torch.equal(ours[name], theirs[name])] == []


def normalised(worker, network, groups, total):
    """What a layer makes of a worker's rows, its derivatives, and its running statistics after three batches."""
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, int(total), 5, 3, 2, generator=generator) * 3 + 7
    weights = torch.linspace(-1, 1, 30).view(5, 3, 2)
    kind = {"norm": nn.BatchNorm2d(5), "dropout": nn.Dropout(0.4), "dropout2d": nn.Dropout2d(0.4)}[network]
    model = nn.Sequential(kind)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 2, generator=generator)
    part = Part(worker, int(groups), int(total))
    found = {}
    torch.manual_seed(3)
    with layers.of_part(model, part):
        network = (
            parallel(model, Context(0, Runtime(device="cpu"), Checkpoint(Path()), worker=worker))
            if kind.state_dict()
            else model
        )
        for number, batch in enumerate(whole):
            mine = batch[worker.rank :: worker.count].contiguous(memory_format=torch.channels_last).requires_grad_()
            out = network(mine)
            ((out.square() * weights).sin().sum() * worker.count).backward()
            found |= {f"out.{number}": out.detach(), f"gradient.{number}": mine.grad}
    averaged = layers.unequal_buffers(model, part)
    summed(torch.zeros(2), averaged, Context(0, Runtime(device="cpu"), Checkpoint(Path()), worker=worker))
    found |= {f"of.{name}": parameter.grad for name, parameter in model.named_parameters()}
    return found | {f"state.{name}": buffer for name, buffer in model.named_buffers()}


@pytest.mark.parametrize(
    ("kind", "groups", "total", "count"),
    [
        ("norm", 1, 11, 2),
        ("norm", 1, 3, 4),
        ("norm", 4, 22, 2),
        ("norm", 2, 11, 3),
        ("dropout", 1, 11, 2),
        ("dropout2d", 1, 3, 4),
    ],
)
def test_a_layer_does_to_the_parts_what_it_does_to_the_whole(kind, groups, total, count, workers, tmp_path):
    alone = normalised(Worker(), kind, groups, total)
    shares = workers.do(count, tmp_path / "group", "normalised", kind, groups, total)
    for name, expected in alone.items():
        if name.startswith(("out", "gradient")):
            for rank, found in enumerate(shares):
                ours = found[name] / (count if name.startswith("gradient") else 1)
                torch.testing.assert_close(ours, expected[rank::count], rtol=1e-4, atol=1e-4)
        else:
            for found in shares:
                torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 3])
def test_groups_are_normalised_each_by_itself(groups):
    found = normalised(Worker(), "norm", groups, 11)
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 11, 5, 3, 2, generator=generator) * 3 + 7
    weight, bias = (torch.empty(5).uniform_(0.5, 2, generator=generator) for _ in range(2))
    mean, variance = torch.zeros(5), torch.ones(5)
    for number, batch in enumerate(whole):
        parts = [batch[group::groups] for group in range(groups)]
        mean = 0.9 * mean + 0.1 * torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
        variance = 0.9 * variance + 0.1 * torch.stack([part.var((0, 2, 3)) for part in parts]).mean(0)
        for group, part in enumerate(parts):
            expected = batch_norm(part, None, None, weight, bias, training=True)
            torch.testing.assert_close(found[f"out.{number}"][group::groups], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found["state.0.running_mean"], mean)
    torch.testing.assert_close(found["state.0.running_var"], variance)


@pytest.mark.parametrize(
    ("network", "training", "groups", "optimizer", "images", "sizes"),
    [
        ("resnet18", "PLAIN", 1, "sgd", 222, [64, 64, 64, 30]),
        ("resnet18", "SHAKY", 4, "sgd", 198, [64, 64, 70]),
        ("convnet", "SHAKY", 1, "adam", 194, [64, 64, 64, 2]),
        ("frozen", "SHAKY", 4, "adam", 222, [64, 64, 64, 30]),
    ],
)
def test_any_number_of_workers_trains_the_same_network(
    network, training, groups, optimizer, images, sizes, digits_folder, workers, tmp_path
):
    arguments = (network, training, groups, optimizer, images)
    alone = trained(Worker(), digits_folder, tmp_path / "alone", *map(str, arguments))
    assert alone["loss"][-1] < alone["loss"][0]
    for count in (2, 4):
        folder = tmp_path / str(count)
        first, *others = workers.do(count, folder, "trained", digits_folder, folder / "checkpoint", *arguments)
        assert_close(first, alone)
        for other in others:
            assert_equal(first, other)
        assert torch.equal(sum(part["batches"] for part in (first, *others)), torch.tensor(sizes * 3))


def headed(worker, dataset, folder):
    """The last layer that one worker trains on features that it knows."""
    digits = base_shards.load(Path(dataset))
    model = models.build(Network(name="resnet18", width=4), digits.info, 0)
    model.freeze_body()
    ctx = Context(0, Runtime(device="cpu"), Checkpoint(Path(folder, str(worker.rank))), worker=worker)
    loop.train(model, digits.train.of(range(100, 322)), PLAIN, RATE, ctx)
    return {"weight": model.head.weight.detach().clone()}


def test_workers_train_the_same_last_layer_on_features_that_they_know(digits_folder, workers, tmp_path):
    alone = headed(Worker(), digits_folder, tmp_path / "alone")
    first, other, _ = workers.do(3, tmp_path / "group", "headed", digits_folder, tmp_path / "parts")
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-4)
    assert_equal(first, other)


@pytest.mark.parametrize(("network", "groups"), [("convnet", 1), ("resnet18", 2)])
def test_a_group_goes_on_where_it_was_with_any_number_of_workers(network, groups, digits_folder, workers, tmp_path):
    """Only rank 0 has the checkpoint, and dropout draws for the whole batch."""
    arguments = (network, "SHAKY", groups, "sgd", 222)
    alone = trained(Worker(), digits_folder, tmp_path / "alone", *map(str, arguments))
    left = [12]
    for number, (count, kill) in enumerate([(4, 3), (2, 4), (3, 4), (2, 0)]):
        shares = workers.do(
            count, tmp_path / str(number), "trained", digits_folder, tmp_path / "parts", *arguments, kill
        )
        done = len(shares[0]["batches"]) - (kill > 0)
        left.append(left[-1] - done)
        for rank in range(1, 4):
            assert not (tmp_path / "parts" / str(rank)).exists()
    assert left == [12, 10, 7, 4, 0]
    assert_close(shares[0], alone)
    assert_equal(*shares)
