"""What a user may get wrong in an experiment is told before anything runs, by field, value and what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.experiment import Experiment, prepare_experiment
from pipeline.experiment_file import load_experiments, named_experiments, parse
from pipeline.plan import plan
from stages.config import InputError
from stages.shards import ffcv_reader
from stages.training.config import Augmentation, Constant


@pytest.fixture
def file(tmp_path: Path, tiny: dict[str, Any]) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(tiny))
    return path


def load(file: Path, *settings: str) -> Experiment:
    return load_experiments(str(file), settings)[""]


MISSPELLED = {
    "atack.eps=3": ("the file", "attack"),
    "attack.epz=3": ("attack", "eps"),
    "attack.augmentation.shfit=1": ("attack.augmentation", "shift"),
    "attack.derivative={kind: finite-difference, h_rl: 0.1}": ("attack.derivative.finite-difference", "h_rel"),
    "dataset.per_clas=3": ("dataset.digits", "per_class"),
    "training.schedule={kind: cosine, warmpu: 0.1}": ("training.schedule.cosine", "warmup"),
    "surrogates.training.schedul=1": ("surrogates.training", "schedule"),
    "surrogates.networks=[{name: convnet}, {name: convnet, widht: 3}]": ("surrogates.networks.1", "width"),
    "victims.training.optimiser=adam": ("victims.training", "optimizer"),
    "runtime.stages.brew.cpu=1": ("runtime.stages.brew", "cpus"),
}


@pytest.mark.parametrize("setting", MISSPELLED)
def test_a_misspelled_field_names_where_it_stands_and_the_nearest(file: Path, setting: str) -> None:
    place, meant = MISSPELLED[setting]
    with pytest.raises(InputError) as error:
        load(file, setting)
    assert re.search(f"\n  {place}: unknown field '.*', did you mean {meant!r}", str(error.value))
    assert str(file) in str(error.value)


WRONG = {
    "dataset.kind=digitz": "dataset: unknown kind 'digitz', did you mean 'digits'?",
    "cases={}": "cases: the field `kind` is missing",
    "attack.derivative.kind=finite": "attack.derivative: unknown kind 'finite', known are double-backward, finite-diff",
    "attack.objective=cosin": "attack.objective: found 'cosin', did you mean 'cosine'?",
    "runtime.stages.brw={cpus: 1}": "found 'brw', did you mean 'brew'?",
    "attack.eps=-1": "attack.eps: .*greater than.*, found -1",
    "attack.eps=8.5": "attack.eps: .*integer.*, found 8.5",
    "attack.eps=.nan": "attack.eps: .*, found nan",
    "attack.budget=.inf": "attack.budget: .*, found inf",
    "attack.budget=1": "attack.budget: .*less than 1, found 1",
    "network.name=resnet19": "network.name: .*'resnet19'; did you mean 'resnet18'?",
    "network=null": "network: ",
    "dataset=digits": "dataset: .*'digits'",
    "surrogates.epochs=[1, 3]": "surrogates.epochs names epoch 3, but the training has epochs: 2",
    "surrogates={count: 1, epochs: [1, 2]}": "surrogates.epochs names 2, but surrogates.count is 1",
    "surrogates={training: {epochs: 1}, epochs: [2]}": "surrogates.epochs names epoch 2, but .* epochs: 1",
    "attack={objective: bullseye, derivative: {kind: double-backward}}": "derivative is given, but objective bullseye",
    "attack={objective: feature-collision, private: {noise: 0.1}}": "private is given, but objective feature-collision",
    "attack.derivative=null": "derivative is null, but objective cosine needs one; leave it out",
    "attack.private={noise: -1}": "attack.private.noise: .*greater than or equal to 0, found -1",
    "attack.private={clip: 1}": "attack.private.noise: ",
    "attack.layers={}": "attack.layers: expected 1 at least, found none",
    "attack.layers={body: -1}": "attack.layers.body: .*greater than or equal to 0, found -1",
    "attack.race={at: []}": "attack.race.at: expected 1 at least, found none",
    "attack.race={at: [0]}": "attack.race.at.0: .*greater than or equal to 1, found 0",
    "attack.race={at: [1], keep: 0}": "attack.race.keep: .*greater than 0, found 0",
    "attack.race={at: [1], keep: 1.5}": "attack.race.keep: .*less than or equal to 1, found 1.5",
    "attack.race={at: [1], kep: 0.5}": "attack.race: unknown field 'kep', did you mean 'keep'",
    "attack.race={at: [2, 1]}": "race.at names step 1 after step 2; name each once, in order",
    "attack.race={at: [2, 2]}": "race.at names step 2 after step 2; name each once",
    "attack.race={at: [1, 3]}": "race.at names step 3, but a restart has steps: 3; name steps below it",
    "attack={restarts: 1, race: {at: [1]}}": "race: there is 1 restart, and none to race it with; set restarts to 2",
    "name=a/b": "name: .*'a/b'",
    "format=2": "format: ",
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_value_is_told_with_its_field(file: Path, setting: str) -> None:
    with pytest.raises(InputError, match=WRONG[setting]):
        load(file, setting)


def test_all_faults_are_told_at_once(file: Path) -> None:
    with pytest.raises(InputError, match=r"(?s)attack\.eps.*victims\.count"):
        load(file, "attack.eps=0", "victims.count=0")


def test_set_reaches_into_mappings_and_replaces_whole_values(file: Path) -> None:
    found = load(
        file,
        "attack.eps=8",
        "surrogates={networks: [{name: convnet, width: 5}, {name: resnet20}]}",
        "training={epochs: 7, schedule: {kind: cosine}}",
        "victims.training.epochs=3",
        "runtime.stages.brew.cpus=2",
        "description=a = b",
    )
    assert found.attack.eps == 8
    assert found.surrogates.networks is not None
    assert [(network.name, network.width) for network in found.surrogates.networks] == [
        ("convnet", 5),
        ("resnet20", 16),
    ]
    assert found.training.epochs == 7
    assert found.training.learning_rate is None, "a mapping that is set replaces the one that was there"
    assert found.victims.training is not None
    assert found.victims.training.epochs == 3
    assert (found.runtime.of("brew").cpus, found.runtime.of("brew").device) == (2, "cpu")
    assert found.runtime.of("retrain").cpus == 1
    assert found.description == "a = b"


def test_a_section_s_own_training_says_what_differs(file: Path) -> None:
    common = "training={epochs: 7, optimizer: adam, schedule: {kind: cosine, warmup: 0.2}, augmentation: {pad: 1}}"
    found = load(
        file, common, "victims.training={augmentation: {flip: false}}", "surrogates.training.schedule.kind=constant"
    )
    assert found.victims.training == found.training.model_copy(update={"augmentation": Augmentation(flip=False, pad=1)})
    assert found.surrogates.training == found.training.model_copy(update={"schedule": Constant()})
    again = parse(found.model_dump(mode="json"), "again")
    assert again == found, "what a run records is the same experiment"


def test_victims_start_from_nothing_and_surrogates_differ(file: Path) -> None:
    pretrained = "network={name: torchvision/resnet18, weights: IMAGENET1K_V1}"
    found = load(file, pretrained)
    steps = plan({"": found}).steps.values()
    weights = {step.stage: step.params.network.weights for step in steps if step.stage in ("pretrain", "retrain")}
    assert weights == {"pretrain": "IMAGENET1K_V1", "retrain": None}
    with pytest.raises(InputError, match="victims are trained from scratch"):
        load(file, pretrained.replace("network=", "victims.network="))
    with pytest.raises(InputError, match="some would be the same network"):
        load(file, pretrained, "surrogates.count=2")


def test_victims_that_start_from_a_surrogate_are_its_network(file: Path) -> None:
    networks = "surrogates={networks: [{name: convnet, width: 5}, {name: torchvision/resnet18, weights: DEFAULT}]}"
    found = load(file, networks, "victims.setting={kind: transfer, surrogate: 1}")
    assert (found.victim_network.name, found.victim_network.weights) == ("torchvision/resnet18", None)
    assert load(file, networks, "victims.setting={kind: fine-tuning}").victim_network.width == 5
    for settings, told in {
        ("victims.setting={kind: transfer, surrogate: 1}",): "setting.surrogate is 1, but there are 1, counted from 0",
        ("victims.setting={kind: transfer}", "victims.network={name: resnet20}"): (
            "victims.network is resnet20, but in the setting transfer victims begin with .* another network .convnet.; "
            "leave victims.network out"
        ),
        ("cases={kind: random, threat_model: third-party}", "attack={kind: poison-frogs}"): (
            "cases: threat_model is third-party, and an attack on features .* must be of the intended class"
        ),
        ("surrogates.part=0.5", "attack={kind: metapoison, color: null, learning_rate: 0.1}"): (
            "surrogates.part: metapoison crafts its poisons from all of the train images; leave it out"
        ),
        ("victims.setting={kind: transfr}",): "victims.setting: unknown kind 'transfr', did you mean 'transfer'",
    }.items():
        with pytest.raises(InputError, match=told):
            load(file, *settings)


EXTERNAL = "attack={kind: external, format: arrow, folders: [/a], eps: 8}"
WRONG_EXTERNAL = {
    ("attack.kind=externel",): "attack: unknown kind 'externel', did you mean 'external'?",
    (EXTERNAL, "attack.format=parquet"): "attack.external.format: found 'parquet', ",
    (EXTERNAL, "attack.restarts=2"): "attack.external: unknown field 'restarts'",
    (EXTERNAL, "attack.folders=[]"): "attack.external.folders: ",
    (EXTERNAL, "attack.folders=[{path: /a, sha: 1}]"): "folders.0: unknown field 'sha', did you mean 'sha256'?",
    (EXTERNAL, "cases.count=2"): "attack.folders names 1, but there are 2 cases",
    ("attack={kind: external, format: arrow, folders: [/a]}",): "attack.external.eps: Field required",
}


@pytest.mark.parametrize("settings", WRONG_EXTERNAL)
def test_a_wrong_external_attack_is_told(file: Path, settings: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=WRONG_EXTERNAL[settings].replace("?", r"\?")):
        load(file, *settings)


def test_an_attack_of_no_kind_is_gradient_matching(file: Path) -> None:
    assert load(file).attack == load(file, "attack.kind=gradient-matching").attack
    assert load(file).attack.kind == "gradient-matching"
    found = load(file, EXTERNAL, "attack.eps=null")
    again = parse(found.model_dump(mode="json"), "again")
    assert again == found and again.attack.kind == "external"
    with pytest.raises(InputError, match="/a: there is no such folder"):
        prepare_experiment(found)


def test_layers_that_the_surrogates_lack_are_refused_before_compute(file: Path) -> None:
    fine = load(file, "attack.layers={body: 0}", "surrogates={networks: [{name: convnet}, {name: resnet20}]}")
    assert prepare_experiment(fine).attack == fine.attack
    with pytest.raises(InputError, match=r"attack\.layers: 'bodi' names no parameter .*, did you mean 'body'\?"):
        prepare_experiment(load(file, "attack.layers={bodi: 0}"))


BAD_SETTINGS = {
    "attack.eps": "--set attack.eps: expected field.path=value",
    "=3": "--set =3: expected field.path=value",
    "attack.eps.more=3": "attack.eps is 32, which has no fields",
    "attack={eps: 1, eps: 2}": "--set .*'eps' stands twice",
    "attack=[1": "--set attack=.*cannot be read as YAML",
    "surrogates.networks.0.width=3": "surrogates.networks",
}


@pytest.mark.parametrize("setting", BAD_SETTINGS)
def test_a_bad_setting_is_told(file: Path, setting: str) -> None:
    with pytest.raises(InputError, match=BAD_SETTINGS[setting]):
        load(file, setting)


def test_set_into_a_list_is_refused_with_the_field(file: Path, tiny: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(tiny | {"surrogates": {"networks": [{"name": "convnet"}]}}))
    with pytest.raises(InputError, match=r"surrogates\.networks is \[.*which has no fields"):
        load(file, "surrogates.networks.0.width=3")


def test_the_paper_s_figure_is_of_the_setting_that_it_was_given_for() -> None:
    def papers(*settings: str) -> set[float | None]:
        return {one.paper_success for one in load_experiments("witches-brew-cifar10", settings).values()}

    assert papers() == papers("dataset.root=/data", "runtime.gpus=1") == {0.9}
    assert papers("attack.eps=2") == {None}
    assert papers("attack.eps=2", "paper_success=0.1") == {0.1}


def test_an_unknown_experiment_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no experiment 'quickstar'.*did you mean 'quickstart'\?"):
        load_experiments("quickstar")


@pytest.mark.parametrize("name", named_experiments())
def test_each_shipped_experiment_is_valid_and_says_what_it_is(name: str) -> None:
    for experiment in load_experiments(name).values():
        assert experiment.name == name
        assert experiment.description


def test_variants_are_experiments_of_their_own_and_settings_are_for_all(file: Path, tiny: dict[str, Any]) -> None:
    variants = {"eps-8": {"attack.eps": 8}, "wide": {"network.width": 6, "attack.eps": 4}}
    file.write_text(yaml.safe_dump(tiny | {"variants": variants}))
    found = load_experiments(str(file), ["victims.count=3", "attack.steps=5"])
    assert {name: (e.attack.eps, e.network.width, e.victims.count) for name, e in found.items()} == {
        "eps-8": (8, 4, 3),
        "wide": (4, 6, 3),
    }
    for setting in ("attack.eps=3", "attack={eps: 3}", "network.width=5"):
        with pytest.raises(InputError, match=r"--set .*: variant .* sets .* itself"):
            load_experiments(str(file), [setting])
    for bad, message in (
        ({"A b": {}}, "variant 'A b' is no name"),
        ({"a": 3}, "variant a is 3"),
        ([], "variants is"),
        ({"a": {"attack.epz": 3}}, "variant a.*\n.*unknown field 'epz'"),
        ({"a": {}, 8: {"runtime.cpus": 2}}, "variant 8 sets name or runtime"),
    ):
        file.write_text(yaml.safe_dump(tiny | {"variants": bad}))
        with pytest.raises(InputError, match=message):
            load_experiments(str(file))


def test_what_only_the_data_tell_is_checked_before_any_compute(file: Path, tmp_path: Path) -> None:
    for settings, message in (
        (["dataset.per_class=1000"], "dataset.per_class is 1000.*use at most 131"),
        (["attack.budget=0.5"], "budget 0.5 asks for 150 poisons.*has 30 train images"),
        (
            ["cases={kind: explicit, cases: [{target_class: 3, intended_class: 4, target_ids: [0]}]}"],
            "class .*expected",
        ),
        (["cases={kind: benchmark}"], "cases.file is missing"),
        ([f"dataset={{kind: cifar10, root: {tmp_path}, download: false}}"], f"{tmp_path}: does not hold cifar10"),
    ):
        with pytest.raises(InputError, match=message):
            prepare_experiment(load(file, *settings))


def test_what_shards_cannot_hold_is_said_before_anything_runs(tiny: dict[str, Any], monkeypatch: Any) -> None:
    def prepared_with(shards: dict[str, Any], dataset: dict[str, Any]) -> None:
        prepare_experiment(parse({**tiny, "shards": shards, "dataset": dataset, "attack": {"budget": 0.001}}, "tiny"))

    with pytest.raises(InputError, match=r"shards\.format is beton, and the images of digits have 1 channel"):
        prepared_with({"format": "beton"}, {"kind": "digits"})
    with pytest.raises(InputError, match="jpeg_quality is 90, but Arrow shards are raw"):
        prepared_with({"jpeg_quality": 90}, {"kind": "cifar10"})
    ffcv_reader._library.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"apt-get install pkg-config .* -e '\.\[ffcv\]'"):
        prepared_with({"format": "beton", "jpeg_quality": 90}, {"kind": "cifar10"})
    prepared_with({"format": "beton"}, {"kind": "cifar10"})  # raw files need no FFCV
    ffcv_reader._library.cache_clear()
