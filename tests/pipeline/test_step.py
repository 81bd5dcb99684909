"""Keys: what they are made of is pinned here, since a key that moves throws away everybody's results."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from pipeline.experiment_file import load_experiments
from pipeline.plan import plan
from pipeline.step import ABSENT, Ref, Step, canonical, difference
from stages import brew, evaluate, export, prepare
from stages.brew.config import GradientMatching, Race
from stages.data.dataset_config import Cifar10, Digits

GOLDEN = Path(__file__).parent / "golden_keys.json"
A, B = "a" * 64, "b" * 64
MADE_OF = {
    '{"inputs":{},"params":{"dataset":{"kind":"digits","per_class":null,"test_per_class":null},'
    '"shards":{"format":"arrow","images_per_shard":4096,"jpeg_quality":null}},'
    '"stage":"prepare","version":2}': Step("prepare", prepare.Params(dataset=Digits())),
    '{"inputs":{},"params":{"dataset":{"fingerprint":null,"kind":"cifar10","per_class":500,"test_per_class":null},'
    '"shards":{"format":"arrow","images_per_shard":4096,"jpeg_quality":null}},'
    '"stage":"prepare","version":2}': Step("prepare", prepare.Params(dataset=Cifar10(per_class=500))),
    f'{{"inputs":{{"dataset":"{A}","poisons":"{B}"}},"params":{{"eps":16.0,"made_elsewhere":null}},'
    '"stage":"export","version":1}': Step(
        "export", export.Params(eps=16), {"poisons": Ref("select", B), "dataset": Ref("prepare", A)}
    ),
    f'{{"inputs":{{"victim":"{B}"}},"params":{{}},"stage":"evaluate","version":1}}': Step(
        "evaluate", evaluate.Params(), {"victim": Ref("retrain", B)}
    ),
}


@pytest.mark.parametrize("text", MADE_OF)
def test_a_key_is_the_sha256_of_this_very_text(text: str) -> None:
    assert canonical(MADE_OF[text].made_of).decode() == text
    assert MADE_OF[text].key == sha256(text.encode()).hexdigest()


def test_a_key_is_pinned_as_a_number_too() -> None:
    """Should `canonical` and this file ever be changed alike."""
    digits = Step("prepare", prepare.Params(dataset=Digits()))
    assert digits.key == "0042ce18cca107f276ea062c1636b7dd200eb913a8549e19fcbc046074304276"


def test_the_key_of_a_leg_of_a_race_is_pinned() -> None:
    """`test_the_keys_of_the_named_experiments_have_not_moved` sees the first brew of a plan alone."""
    legs = {
        "47525228af024164b6e0910a2fbc83f49c37778a099ab08fd40d1cd336f6085c": {"restart": 3, "until": 60},
        "13a2bb86f454e26336b0c41bffaf197f3727a1a52b66e19c3339ed064213a560": {"restart": None, "place": 1, "until": 120},
        "25f56f5487926530f68c3c14914fec45ff74042726aeabe2e6ab7d315fade199": {"restart": None, "place": 1},
    }
    attack = GradientMatching(race=Race(at=(60, 120)))
    for key, fields in legs.items():
        before = {} if "place" not in fields else {"raced.0": Ref("brew", A), "raced.1": Ref("brew", B)}
        assert Step("brew", brew.Params(attack=attack, **fields), before).key == key


def test_the_keys_of_the_named_experiments_have_not_moved() -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden
    found = {name: {stage: steps[0].key for stage, steps in plan(load_experiments(name)).by_stage()} for name in golden}
    for name, keys in found.items():
        moved = [stage for stage in keys if keys[stage] != golden[name].get(stage)]
        assert not moved, (
            f"the keys of {name} moved, first at stage {moved[0]}: nobody's results of these stages would be found "
            f"again. Undo what changed their identity; or, if it is meant, raise the stage's VERSION where its output "
            f"changed, say why in the commit, and put this into {GOLDEN.name}:\n{json.dumps(found, indent=1)}"
        )
        assert list(keys) == list(golden[name])


def test_what_is_no_identity_does_not_move_a_key(tmp_path: Path) -> None:
    def key(attack: GradientMatching, label: str = "") -> str:
        return Step("brew", brew.Params(attack=attack, restart=0), {}, label).key

    assert key(GradientMatching()) == key(GradientMatching(restarts=3, budget=0.2), "another label")
    assert key(GradientMatching()) != key(GradientMatching(eps=15))
    here, there = Cifar10(root=tmp_path), Cifar10(download=False)
    assert Step("prepare", prepare.Params(dataset=here)).key == Step("prepare", prepare.Params(dataset=there)).key


def test_an_input_under_another_role_or_of_another_key_is_another_step() -> None:
    keys = {
        Step("evaluate", evaluate.Params(), {role: Ref("case", key)}).key
        for role in ("case", "victim")
        for key in (A, B)
    }
    assert len(keys) == 4


def test_difference_names_each_field() -> None:
    one = {"stage": "brew", "params": {"attack": {"eps": 16, "after": [1, 2]}, "restart": 0}, "inputs": {"case": A}}
    two = {"stage": "brew", "params": {"attack": {"eps": 8, "after": [1, 2]}}, "inputs": {"case": A, "brew.0.1": B}}
    assert difference(one, two) == [
        ("inputs.brew.0.1", ABSENT, B),
        ("params.attack.eps", 16, 8),
        ("params.restart", 0, ABSENT),
    ]
    assert difference(one, one) == []


def test_nan_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        canonical({"eps": float("nan")})
