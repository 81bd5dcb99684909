"""A race on real digits: who survives is the restart that it would have been, and who is behind is dropped."""

import json

import pytest
from pydantic import ValidationError

from small_brew import ATTACK, Interrupted, context
from stages import brew, select
from stages.brew.config import Race
from stages.brew.race import Leg, in_place, legs, ranked
from stages.config import InputError
from stages.shards import poisons
from stages.stage import Checkpoint, Context, Runtime

RACED = ATTACK.model_copy(update={"steps": 9, "restarts": 5, "race": Race(at=(3, 6))})
POISONS = ("poisons.arrow", "poisons.json")


def attack(**changes):
    return RACED.model_copy(update=changes)


def figures(folder):
    return json.loads((folder / "brew.json").read_text())


def brewed(params, inputs, folder, **kept):
    """One step of the stage, in an empty folder."""
    folder.mkdir(parents=True)
    brew.run(params, inputs, folder, context(folder.parent / f"{folder.name}-kept", params.seed, **kept))
    return folder


@pytest.fixture
def leg(stage_inputs, tmp_path):
    """Runs a leg of a race as it is planned, after the folders of the leg before."""

    def run(raced, number, before=()):
        places, _, end = legs(raced)[number]
        inputs = stage_inputs | {f"raced.{n}": folder for n, folder in enumerate(before)}
        until = end if end < raced.steps else None
        who = [{"restart": None, "place": n} if before else {"restart": n} for n in range(places)]
        return [
            brewed(brew.Params(attack=raced, until=until, **one), inputs, tmp_path / f"{number}.{n}")
            for n, one in enumerate(who)
        ]

    return run


@pytest.fixture
def race(leg):
    """All legs of a race, one after another."""

    def run(raced):
        found = []
        for number in range(len(legs(raced))):
            found.append(leg(raced, number, found[-1] if found else ()))
        return found

    return run


@pytest.fixture
def unraced(stage_inputs, tmp_path):
    def run(raced):
        params = [brew.Params(attack=raced, restart=restart) for restart in range(raced.restarts)]
        return [brewed(one, stage_inputs, tmp_path / f"whole.{one.restart}") for one in params]

    return run


def chosen(folders, out):
    out.mkdir()
    inputs = {f"brew.{number}": folder for number, folder in enumerate(folders)}
    return select.run(select.Params(), inputs, out, Context(0, Runtime(device="cpu"), Checkpoint(out)))


@pytest.mark.parametrize(
    ("restarts", "race", "expected"),
    [
        (8, Race(at=(3, 6)), [(8, 0, 3), (4, 3, 6), (2, 6, 9)]),
        (5, Race(at=(3, 6)), [(5, 0, 3), (3, 3, 6), (2, 6, 9)]),
        (4, Race(at=(1,), keep=1), [(4, 0, 1), (4, 1, 9)]),
        (100, Race(at=(8,), keep=0.55), [(100, 0, 8), (55, 8, 9)]),
        (2, Race(at=(1, 2, 3), keep=0.01), [(2, 0, 1), (1, 1, 2), (1, 2, 3), (1, 3, 9)]),
        (3, None, [(3, 0, 9)]),
    ],
)
def test_the_legs(restarts, race, expected):
    """100 · 0.55 is a little more than 55 in floating point."""
    assert legs(attack(restarts=restarts, race=race)) == [Leg(*leg) for leg in expected]


def test_who_survives_is_to_the_last_bit_the_same_restart_unraced(race, unraced):
    whole, (first, second, last) = unraced(RACED), race(RACED)
    assert [len(folders) for folders in (first, second, last)] == [5, 3, 2]
    curves = [figures(folder)["losses"] for folder in whole]
    for folders, steps in ((first, 3), (second, 6), (last, 9)):
        for folder in folders:
            found = figures(folder)
            assert found["losses"] == curves[found["restart"]][:steps]
    assert [figures(folder)["restart"] for folder in first] == list(range(5))
    for before, after in ((first, second), (second, last)):
        by_loss = sorted(map(figures, before), key=lambda found: found["brew_loss"])
        assert [figures(folder)["restart"] for folder in after] == [found["restart"] for found in by_loss][: len(after)]
    for folder in last:
        same = whole[figures(folder)["restart"]]
        assert [(folder / name).read_bytes() for name in POISONS] == [(same / name).read_bytes() for name in POISONS]
        assert figures(folder) == figures(same) | {"restart": figures(folder)["restart"]}
        assert {file.name for file in folder.iterdir()} == {file.name for file in same.iterdir()}


def test_the_rank_is_the_final_b_of_a_brew_that_ends_there(leg, stage_inputs, tmp_path):
    raced = attack(restarts=2, schedule=ATTACK.schedule.model_copy(update={"after": ()}))
    for n, folder in enumerate(leg(raced, 0)):
        params = brew.Params(attack=raced.model_copy(update={"steps": 3, "race": None}), restart=n)
        short = figures(brewed(params, stage_inputs, tmp_path / f"short.{n}"))
        assert figures(folder)["brew_loss"] == short["brew_loss"] != short["losses"][-1]


def test_keeping_all_gives_what_no_race_gives(race, unraced, tmp_path):
    raced = attack(restarts=3, race=Race(at=(3, 6), keep=1))
    of_race, of_whole = chosen(race(raced)[-1], tmp_path / "a"), chosen(unraced(raced), tmp_path / "b")
    assert of_race["chosen"] == of_whole["chosen"] and of_race["brew_loss"] == of_whole["brew_loss"]
    for name in POISONS:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_of_equals_the_first_go_on_and_the_first_is_chosen(race, tmp_path):
    """Restarts that start at 0 and hardly move have equal poisons, and so equal B over the draws that all share, while
    B at their steps differs."""
    raced = attack(restarts=4, start="zero", step_size=1e-7)
    first, second, last = race(raced)
    assert len({figures(folder)["losses"][0] for folder in first}) == 4
    assert len({figures(folder)["brew_loss"] for folder in (*first, *last)}) == 1
    assert [[figures(folder)["restart"] for folder in folders] for folders in (second, last)] == [[0, 1], [0]]
    assert chosen(last, tmp_path / "out")["chosen"] == 0


def test_a_leg_that_is_killed_goes_on_from_its_own_checkpoint(leg, stage_inputs, tmp_path):
    first = leg(RACED, 0)
    whole = leg(RACED, 1, first)
    params = brew.Params(attack=RACED, restart=None, place=1, until=6)
    inputs = stage_inputs | {f"raced.{n}": folder for n, folder in enumerate(first)}
    with pytest.raises(Interrupted):
        brewed(params, inputs, tmp_path / "killed", stop_at=5)
    done = []
    out = tmp_path / "out"
    out.mkdir()
    kept = Checkpoint(tmp_path / "killed-kept")
    brew.run(
        params, inputs, out, Context(params.seed, Runtime(device="cpu"), kept, lambda *report: done.append(report))
    )
    assert [report[:2] for report in done] == [(6, 6)], "of steps 4 to 6 the first two were kept"
    for file in whole[1].iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes()


def without_loss(folders, *restarts):
    """As if B of these restarts were not finite."""
    for restart in restarts:
        (folders[restart] / "brew.json").write_text(json.dumps(figures(folders[restart]) | {"brew_loss": None}))


def test_a_restart_without_a_finite_b_never_survives(leg, tmp_path):
    first = leg(RACED, 0)
    without_loss(first, 0, 1, 3, 4)
    assert [one.restart for one in ranked(first)] == [2, 0, 1, 3, 4]
    second = leg(RACED, 1, first)
    assert [(figures(folder)["restart"], len(figures(folder)["losses"])) for folder in second] == [
        (2, 6),
        (0, 3),
        (1, 3),
    ]
    assert [figures(folder)["brew_loss"] is None for folder in second] == [False, True, True]
    last = leg(RACED, 2, second)
    assert [(figures(folder)["restart"], len(figures(folder)["losses"])) for folder in last] == [(2, 9), (0, 3)]
    assert poisons.load(last[1]).info["brew_loss"] is None
    metrics = chosen(last, tmp_path / "out")
    assert metrics["chosen"] == 2 and metrics["brew_losses"][1] is None


def test_a_race_that_nobody_survives_is_the_error_that_no_restart_is_finite(leg, tmp_path):
    first = leg(attack(race=Race(at=(3,))), 0)
    without_loss(first, *range(5))
    last = leg(attack(race=Race(at=(3,))), 1, first)
    with pytest.raises(ArithmeticError, match="none of the 3 restarts has a finite brew loss"):
        chosen(last, tmp_path / "out")


def test_a_leg_refuses_what_no_leg_before_it_left(leg):
    first = leg(attack(restarts=2), 0)
    with pytest.raises(InputError, match="place is 2, but the leg before left 2 restarts"):
        in_place(2, first)
    (first[1] / "checkpoint.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"checkpoint.safetensors: not the state of a brew; run the leg of restart 1"):
        ranked([first[1]])[0].saved()


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"restart": None}, "restart is None and place is None; give one of them"),
        ({"restart": 0, "place": 0}, "restart is 0 and place is 0; give one"),
        ({"restart": 0, "until": 9}, "until is 9, and the attack has steps: 9; leave it out"),
    ],
)
def test_params_that_make_no_leg_are_refused(fields, told):
    with pytest.raises(ValidationError, match=told):
        brew.Params(attack=RACED, **fields)
