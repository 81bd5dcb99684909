"""The benchmark's real pickles, and pickles that must not be read."""

import hashlib
import os
import pickle

import numpy as np
import pytest

from stages.config import InputError
from stages.data.benchmark import read_setups


@pytest.mark.parametrize(
    ("kind", "poisons", "first"),
    [("from-scratch", 500, (7, 7762, 3, 2386)), ("transfer", 25, (4, 9139, 7, 30330))],
)
def test_the_real_setups(test_data, kind, poisons, first):
    setups = read_setups(test_data / f"benchmark-cifar10-{kind}.pickle")
    assert len(setups) == 100
    assert (setups[0].target_class, setups[0].target_id, setups[0].base_class, setups[0].base_ids[0]) == first
    for setup in setups:
        assert len(setup.base_ids) == poisons
        assert setup.target_class != setup.base_class
        assert set(setup.base_ids).issubset(range(50000)) and setup.target_id in range(10000)


def test_what_the_plain_unpickler_reads_is_read(tmp_path):
    setup = {
        "target class": 3,
        "target index": np.int64(-7),
        "base class": 1,
        "base indices": np.array([5, 260, 2**40], dtype=np.int64),
    }
    file = tmp_path / "setups.pickle"
    for protocol in (3, 4):  # earlier ones spell bytes as a call, later ones keep arrays in buffers
        file.write_bytes(pickle.dumps([setup], protocol))
        (read,) = read_setups(file)
        assert (read.target_class, read.target_id, read.base_class, read.base_ids) == (3, -7, 1, (5, 260, 2**40))


class _Runs:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    ("call", "named"), [(os.system, "system"), (eval, "builtins.eval"), (np.fromfile, "fromfile"), (getattr, "getattr")]
)
def test_a_pickle_that_calls_anything_is_refused_and_nothing_is_run(tmp_path, call, named):
    file, witness = tmp_path / "evil.pickle", tmp_path / "witness"
    file.write_bytes(pickle.dumps([{"target class": _Runs(call, f"touch {witness}")}]))
    with pytest.raises(InputError, match=rf"evil\.pickle.*{named}"):
        read_setups(file)
    assert not witness.exists()


@pytest.mark.parametrize(
    "content",
    [np.array([1.5]), np.array([_Runs(os.system, "true")], dtype=object), np.zeros((2, 2), np.int64), "text", []],
)
def test_what_is_no_list_of_integer_setups_is_refused(tmp_path, content):
    file = tmp_path / "setups.pickle"
    file.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(InputError, match=r"setups\.pickle"):
        read_setups(file)


def test_damage_is_named(test_data, tmp_path):
    data = (test_data / "benchmark-cifar10-transfer.pickle").read_bytes()
    for cut in (0, 1, 50, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.pickle").write_bytes(data[:cut])
        with pytest.raises(InputError, match=r"cut\.pickle"):
            read_setups(tmp_path / "cut.pickle")
    with pytest.raises(InputError, match="No such file"):
        read_setups(tmp_path / "none.pickle")


def test_flipped_bytes_give_setups_or_an_input_error(test_data, tmp_path):
    data = (test_data / "benchmark-cifar10-transfer.pickle").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.integers(len(data) if refused % 2 else 600)] = rng.integers(256)
        (tmp_path / "damaged.pickle").write_bytes(damaged)
        try:
            read_setups(tmp_path / "damaged.pickle")
        except InputError:
            refused += 1
    assert refused > 50


def test_a_stated_sha256_must_match(test_data):
    file = test_data / "benchmark-cifar10-transfer.pickle"
    right = hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(read_setups(file, right)) == 100
    with pytest.raises(InputError, match=right):
        read_setups(file, "0" * 64)
