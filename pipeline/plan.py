"""From an experiment to its steps. Pure: no file is read and nothing runs, so a plan can be printed and counted."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, islice

from pipeline import plan_indiscriminate, plan_meta
from pipeline.experiment import Experiment
from pipeline.step import Ref, Step, canonical
from stages import brew, case, evaluate, export, prepare, pretrain, retrain, select, shard, summarize
from stages.brew import race
from stages.brew.attacks import External, Indiscriminate
from stages.brew.meta.config import MetaPoison
from stages.config import Config
from stages.data.cases import BenchmarkCases, OutlierCases, only
from stages.data.dataset_config import Digits
from stages.data.indiscriminate import IndiscriminateCases
from stages.data.part import Part
from stages.shards.config import SPLITS, Shards
from stages.stage import STAGES, derive_seed
from stages.training.setting import FromSurrogate


@dataclass(frozen=True)
class Plan:
    """The steps of a run by key, inputs before those who need them.

    summaries: the step that sums up each variant of the experiment; under "" where there are no variants.
    variants: the variant that each step is of, the first one where several share it.
    """

    name: str
    steps: dict[str, Step] = field(default_factory=dict)
    summaries: dict[str, Ref] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)

    @cached_property
    def run(self) -> str:
        """The name of the run: the same experiment gives the same run, on every machine."""
        keys = {variant: ref.key for variant, ref in self.summaries.items()}
        return f"{self.name}-{hashlib.sha256(canonical(keys)).hexdigest()[:8]}"

    def by_stage(self) -> Iterator[tuple[str, list[Step]]]:
        """The steps of each stage that has any, in the order of the pipeline."""
        for stage in STAGES:
            if steps := [step for step in self.steps.values() if step.stage == stage]:
                yield stage, steps

    def add(self, stage: str, params: Config, label: str, inputs: Mapping[str, Ref]) -> Ref:
        """Add a step and name its output; a step that is there already is not added again."""
        step = Step(stage, params, inputs, label)
        self.steps.setdefault(step.key, step)
        return step.ref


def plan(experiments: Mapping[str, Experiment]) -> Plan:
    """All steps of an experiment's variants. Equal steps (clean victims of several cases, say) are one."""
    made = Plan(next(iter(experiments.values())).name)
    for variant, experiment in experiments.items():
        made.summaries[variant] = _plan(experiment, made)
        for key in islice(reversed(made.steps), len(made.steps) - len(made.variants)):
            made.variants[key] = variant
    return made


def _plan(experiment: Experiment, made: Plan) -> Ref:
    """Add one experiment's steps; the last one sums it up."""
    dataset = {"dataset": _dataset(experiment, made)}
    surrogates = _surrogates(experiment, made, dataset)
    victims = [_victim_params(experiment, v) for v in range(experiment.victims.count)]
    attack, cases = experiment.attack, experiment.cases
    if isinstance(attack, Indiscriminate) and isinstance(cases, IndiscriminateCases):
        return plan_indiscriminate.add(made, attack, cases, dataset, surrogates["surrogate.0"], victims)
    legs = _legs(experiment)
    given = dataset | _begun_from(experiment, surrogates)
    clean = _victims(made, victims, "clean", given)
    summary = dict(dataset)
    for c in range(experiment.cases.count):
        drawn = _case(experiment, made, c, dataset, surrogates)
        if isinstance(experiment.attack, MetaPoison):
            brews = [plan_meta.crafted(experiment, experiment.attack, made, c, dataset, drawn, surrogates)]
        else:
            brews = _brews(made, legs, c, dataset | drawn | surrogates)
        overlay = {"overlay": _overlay(experiment, made, c, dataset, drawn, brews[-1])}
        summary |= {f"case.{c}": drawn["case"], f"overlay.{c}": overlay["overlay"]}
        summary |= _roles(f"brew.{c}", chain.from_iterable(brews))
        told = drawn if experiment.victims.record_alignment else {}
        poisoned = _victims(made, victims, f"case {c}", given | overlay | told)
        for kind, trained in (("poisoned", poisoned), ("clean", clean)):
            for v, victim in enumerate(trained):
                label = f"evaluate case {c} {kind} victim {v}"
                inputs = dataset | drawn | {"victim": victim}
                if kind == "poisoned" and given != dataset:
                    inputs |= {"clean": clean[v], **overlay}  # whose features and boundary its own are held against
                summary[f"{kind}.{c}.{v}"] = made.add("evaluate", evaluate.Params(), label, inputs)
    restarts = 0 if isinstance(attack, External | Indiscriminate) else attack.restarts
    counts = summarize.Params(cases=experiment.cases.count, victims=len(victims), restarts=restarts)
    return made.add("summarize", counts, "summarize", summary)


def _dataset(experiment: Experiment, made: Plan) -> Ref:
    """An image tree is cut into shards, each a step; a published dataset is one step."""
    config, shards = experiment.dataset, experiment.shards
    counts = None if isinstance(config, Digits) else config.images
    parts = {}
    for split, count in zip(SPLITS, counts or (), strict=False):
        for index in range(shards.of(count)):
            params = shard.Params(dataset=config, shards=shards, split=split, index=index)
            parts[f"{split}.{index}"] = made.add("shard", params, f"shard {split} {index}", {})
    # A published dataset is in one shard a split, so its key is of no number of images.
    form = shards if parts else Shards(format=shards.format, jpeg_quality=shards.jpeg_quality)
    return made.add("prepare", prepare.Params(dataset=config, shards=form), f"prepare {config.kind}", parts)


def _surrogates(experiment: Experiment, made: Plan, dataset: Mapping[str, Ref]) -> dict[str, Ref]:
    wanted = isinstance(experiment.cases, OutlierCases) or isinstance(experiment.victims.setting, FromSurrogate)
    if isinstance(experiment.attack, External) and not wanted:
        return {}  # nobody looks at them
    own = experiment.surrogates
    ends = [own.epochs[k % len(own.epochs)] if own.epochs else None for k in range(own.size)]
    if isinstance(experiment.attack, MetaPoison):
        ends = [*plan_meta.stagger(experiment)]
    ensemble = dict[str, Ref]()
    for k, end in enumerate(ends):
        if end == 0:
            continue  # it begins at random weights
        params = pretrain.Params(
            network=own.network_of(k, experiment.network),
            training=own.training or experiment.training,
            stop_after=end,
            seed=derive_seed(own.seed, "surrogate", k),
            part=own.part and Part(fraction=own.part, seed=derive_seed(own.seed, "attacker's part")),
        )
        ensemble[f"surrogate.{len(ensemble)}"] = made.add("pretrain", params, f"pretrain surrogate {k}", dataset)
    return ensemble


def _case(
    experiment: Experiment, made: Plan, c: int, dataset: Mapping[str, Ref], surrogates: Mapping[str, Ref]
) -> dict[str, Ref]:
    if isinstance(experiment.cases, IndiscriminateCases):
        raise TypeError("a case without targets is not drawn by stage `case`")
    if isinstance(experiment.cases, BenchmarkCases):
        raise TypeError("the benchmark's setups are not read yet: plan what prepare_experiment returns")
    cases, index = only(experiment.cases, c)
    params = case.Params(cases=cases, index=index, budget=experiment.attack.budget)
    inputs = {**dataset, **surrogates} if isinstance(cases, OutlierCases) else dataset
    return {"case": made.add("case", params, f"case {c}", inputs)}


def _overlay(
    experiment: Experiment,
    made: Plan,
    c: int,
    dataset: Mapping[str, Ref],
    drawn: Mapping[str, Ref],
    brews: Sequence[Ref],
) -> Ref:
    attack = experiment.attack
    if isinstance(attack, External):
        folder = attack.folders[c]
        if folder.sha256 is None:
            raise TypeError("the folders of poisons are not read yet: plan what prepare_experiment returns")
        source = export.FromFolder(format=attack.format, folder=folder.path, sha256=folder.sha256)
        params = export.Params(eps=attack.eps, made_elsewhere=source)
        return made.add("export", params, f"export case {c}", {**dataset, **drawn})
    chosen = made.add("select", select.Params(), f"select case {c}", _roles("brew", brews))
    eps = attack.largest_change if isinstance(attack, MetaPoison) else attack.eps
    return made.add("export", export.Params(eps=eps), f"export case {c}", {**dataset, "poisons": chosen})


Leg = list[tuple[str, brew.Params]]
"""The brews of one leg of a race, or of all restarts; each with what it is called."""


def _legs(experiment: Experiment) -> list[Leg]:
    """The brews of each case, leg after leg: one leg, unless restarts are raced; none where `brew` is not asked."""
    attack = experiment.attack
    if isinstance(attack, External | Indiscriminate | MetaPoison):
        return []
    legs: list[Leg] = []
    for places, start, end in race.legs(attack):
        raced, until = "" if attack.race is None else f" steps {start + 1}-{end}", end if end < attack.steps else None
        if legs:
            leg = [brew.Params(attack=attack, restart=None, place=n, until=until) for n in range(places)]
        else:
            leg = [brew.Params(attack=attack, restart=n, until=until) for n in range(places)]
        legs.append([(f"{'place' if legs else 'restart'} {n}{raced}", params) for n, params in enumerate(leg)])
    return legs


def _brews(made: Plan, legs: Sequence[Leg], c: int, inputs: Mapping[str, Ref]) -> list[list[Ref]]:
    """The brews of a case, leg after leg; each takes all that the leg before has left."""
    found: list[list[Ref]] = [[]]
    for leg in legs:
        before = _roles("raced", found[-1])
        found.append([made.add("brew", params, f"brew case {c} {what}", {**inputs, **before}) for what, params in leg])
    return found


def _roles(role: str, refs: Iterable[Ref]) -> dict[str, Ref]:
    """The inputs `role.0`, `role.1`, …"""
    return {f"{role}.{number}": ref for number, ref in enumerate(refs)}


def _victims(made: Plan, victims: Sequence[retrain.Params], of: str, inputs: Mapping[str, Ref]) -> list[Ref]:
    return [made.add("retrain", params, f"retrain {of} victim {v}", inputs) for v, params in enumerate(victims)]


def _begun_from(experiment: Experiment, surrogates: Mapping[str, Ref]) -> dict[str, Ref]:
    """What victims start from: nothing, or a surrogate."""
    setting = experiment.victims.setting
    return {"surrogate": surrogates[f"surrogate.{setting.surrogate}"]} if isinstance(setting, FromSurrogate) else {}


def _victim_params(experiment: Experiment, v: int) -> retrain.Params:
    own = experiment.victims
    return retrain.Params(
        network=experiment.victim_network,
        training=own.training or experiment.training,
        setting=own.setting,
        record_every=own.record_every,
        seed=derive_seed(own.seed, "victim", v),
        part=own.part and Part(fraction=own.part, seed=derive_seed(own.seed, "victim's part", v)),
    )
