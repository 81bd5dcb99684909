"""A file of a user's that cannot be read is named, with what it holds and what was expected."""

from pathlib import Path

import pytest

from pipeline.experiment_file import load_experiments
from pipeline.user_yaml import read_yaml
from stages.config import InputError

FILES = {
    "- 1\n- 2\n": "holds list; expected a mapping",
    "": "holds NoneType; expected a mapping",
    "name: a\nname: b\n": "'name' stands twice, line 1",
    "attack:\n  eps: 1\n  steps: 3\n  eps: 2\n": "'eps' stands twice, line 2",
    "name: [\n": "cannot be read as YAML",
    "name: !!python/object/apply:os.system [true]\n": "cannot be read as YAML",
    "name: 2026-99-99\n": "cannot be read as YAML",
}


@pytest.mark.parametrize("text", FILES)
def test_a_file_that_is_no_experiment_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=FILES[text]) as error:
        load_experiments(str(file))
    assert str(file) in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for name in ("latin.yaml", "absent.yaml", ""):
        with pytest.raises(InputError, match=str(tmp_path / name)):
            read_yaml(tmp_path / name)
