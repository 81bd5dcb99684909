"""An experiment: one pydantic model for each concept, every value checked before anything runs."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stages.brew.attacks import Attack, External, Indiscriminate, refuse_unfit
from stages.brew.config import GradientMatching
from stages.brew.layers import precheck_layers
from stages.brew.meta.config import MetaPoison
from stages.config import Config, InputError
from stages.data.cases import CasesConfig, OutlierCases, resolve_cases, threat_model
from stages.data.dataset_config import DatasetConfig, name_of
from stages.data.datasets import Description, describe, resolve
from stages.data.draw import precheck
from stages.data.indiscriminate import IndiscriminateCases
from stages.interchange import external
from stages.models.config import Network
from stages.shards.config import Shards, precheck_shards
from stages.stage import STAGES, Runtime
from stages.training.config import Cosine, Training
from stages.training.setting import FromScratch, FromSurrogate, Setting


class Surrogates(Config):
    """The attacker's ensemble, trained on the clean dataset."""

    count: Annotated[int, Field(ge=1)] | None = None
    """K; null is one a network and epoch named below, or else 1."""
    networks: tuple[Network, ...] | None = None
    """Surrogate k is of network k modulo their number; null is the experiment's `network`."""
    epochs: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """A staggered ensemble: surrogate k ends after epochs[k]; null trains all to the end."""
    training: Training | None = None
    """Fields that differ from the experiment's `training`; null is none."""
    seed: int = 0
    part: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The random part of the train images that the attacker knows, the same for all surrogates; null is all. The images
    that become poisons are the attacker's own, in it or not."""

    @property
    def size(self) -> int:
        """K."""
        return self.count or max(len(self.networks or ()), len(self.epochs or ()), 1)

    def network_of(self, k: int, default: Network) -> Network:
        """The network of surrogate k, where the experiment's is `default`."""
        networks = self.networks or (default,)
        return networks[k % len(networks)]


class Victims(Config):
    """The networks trained on the poisoned dataset, and the clean ones of the same seeds."""

    count: Annotated[int, Field(ge=1)] = 8
    """V, for each case; there are as many clean ones in all, shared between the cases."""
    network: Network | None = None
    """Null is the experiment's `network`, or the surrogate's that the setting starts from."""
    setting: Setting = FromScratch()
    """From random weights, or from those of a surrogate: `fine-tuning` trains all layers on, `transfer` a new last
    layer alone."""
    training: Training | None = None
    """Fields that differ from the experiment's `training`; null is none."""
    record_every: Annotated[int, Field(ge=1)] = 1
    """Epochs between two points of the curves of adversarial loss."""
    record_alignment: bool = False
    """Whether those points also tell how the gradients of poisons and targets agree in the poisoned victims."""
    seed: int = 0
    part: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The random part of the train images, poisons and others alike, that each victim trains on; null is all. Victims
    have a part each, a clean one that of the poisoned one of its seed. Poisons outside it are never seen."""


class Runtimes(Runtime):
    """What steps need to run, for all stages and for single ones. Nothing here changes a result or a key."""

    stages: dict[Literal[STAGES], Runtime] = Field(default_factory=dict)  # type: ignore[valid-type]
    """Fields that differ for one stage, as in `stages: {brew: {cpus: 2}}`."""

    def of(self, stage: str) -> Runtime:
        """The runtime of a stage: its own fields over the common ones."""
        common = {name: getattr(self, name) for name in Runtime.model_fields}
        own = self.stages.get(stage, Runtime())
        return Runtime(**{**common, **{name: getattr(own, name) for name in own.model_fields_set}})


class Experiment(Config):
    """One experiment: a dataset, cases, surrogates, an attack and victims."""

    format: Literal[1] = 1
    """The version of this file format."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=80)]
    description: str = ""
    paper: str = ""
    """What the paper got, for comparison."""
    paper_success: Annotated[float, Field(ge=0, le=1)] | None = None
    """The paper's avg. poison success where it has this very setting, a fraction; reports draw it beside ours."""
    dataset: DatasetConfig
    shards: Shards = Shards()
    cases: Annotated[CasesConfig | IndiscriminateCases, Field(discriminator="kind")]
    network: Network
    training: Training = Training()
    surrogates: Surrogates = Surrogates()
    attack: Attack = GradientMatching()
    victims: Victims = Victims()
    runtime: Runtimes = Runtimes()

    @model_validator(mode="after")
    def _wanted(self) -> Self:
        if isinstance(self.cases, IndiscriminateCases):
            return self
        threats = [threat_model(self.cases, index) for index in range(self.cases.count)]
        refuse_unfit(self.attack, threats)
        if self.victims.record_alignment and "self-concealment" in threats:
            raise ValueError(
                "victims.record_alignment: the alignment is of gradients towards the intended class, and with "
                "threat_model self-concealment there is none; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        training = self.surrogates.training or self.training
        late = [epoch for epoch in self.surrogates.epochs or () if epoch > training.epochs]
        if late:
            raise ValueError(f"surrogates.epochs names epoch {late[0]}, but the training has epochs: {training.epochs}")
        sizes = {name: len(given) for name in ("networks", "epochs") if (given := getattr(self.surrogates, name))}
        for name, size in sizes.items():
            if size > self.surrogates.size:
                raise ValueError(f"surrogates.{name} names {size}, but surrogates.count is {self.surrogates.size}")
        if self.victims.network and self.victims.network.weights:
            raise ValueError("victims.network.weights: victims are trained from scratch; leave weights out")
        networks = self.surrogates.networks or (self.network,)
        if any(network.weights for network in networks) and self.surrogates.size > len(set(networks)):
            raise ValueError(
                f"surrogates: {self.surrogates.size} of them, but pretrained weights are not trained further, so some "
                "would be the same network; name as many in surrogates.networks, each once, or leave weights out"
            )
        if isinstance(self.attack, Indiscriminate) or isinstance(self.cases, IndiscriminateCases):
            self._refuse_targets()
        if isinstance(self.attack, MetaPoison):
            self._check_meta(self.attack, networks, training)
        if self.surrogates.part is not None and any(network.weights for network in networks):
            raise ValueError(
                "surrogates.part: pretrained weights are not of a part of the train images; leave out part or weights"
            )
        if self.surrogates.part is not None and isinstance(self.attack, MetaPoison | Indiscriminate):
            raise ValueError(
                f"surrogates.part: {self.attack.kind} crafts its poisons from all of the train images; leave it out"
            )
        if isinstance(self.attack, External) and len(self.attack.folders) != self.cases.count:
            raise ValueError(
                f"attack.folders names {len(self.attack.folders)}, but there are {self.cases.count} cases; "
                "name one folder a case"
            )
        return self

    @model_validator(mode="after")
    def _startable(self) -> Self:
        setting, own = self.victims.setting, self.victims.network
        if isinstance(setting, FromSurrogate) and (k := setting.surrogate) >= (size := self.surrogates.size):
            raise ValueError(
                f"victims.setting.surrogate is {k}, but there are {size}, counted from 0; name one of them"
            )
        if own is not None and own != (begun := self.victim_network):
            raise ValueError(
                f"victims.network is {own.name}, but in the setting {setting.kind} victims begin with the weights of a "
                f"surrogate, which is another network ({begun.name}); leave victims.network out"
            )
        return self

    @property
    def victim_network(self) -> Network:
        """What victims are, without weights: one that begins with a surrogate is as that is."""
        setting = self.victims.setting
        begun = isinstance(setting, FromSurrogate) and self.surrogates.network_of(setting.surrogate, self.network)
        return (begun or self.victims.network or self.network).model_copy(update={"weights": None})

    def _refuse_targets(self) -> None:
        """Raises ValueError where one part of the experiment has targets and another has none."""
        if not isinstance(self.attack, Indiscriminate):
            raise ValueError(
                f"cases.kind is indiscriminate, without targets, and the attack {self.attack.kind} needs some; "
                "use attack.kind: gradient-canceling or tgda, or other cases"
            )
        if not isinstance(self.cases, IndiscriminateCases):
            raise ValueError(
                f"attack.kind is {self.attack.kind}, which has no targets, and cases.kind is {self.cases.kind}; "
                "use cases: {kind: indiscriminate}"
            )
        if self.surrogates.size != 1:
            raise ValueError(
                f"there are {self.surrogates.size} surrogates, and {self.attack.kind} begins from one clean "
                "network; leave surrogates.count, networks and epochs at one"
            )
        if self.victims.record_alignment:
            raise ValueError("victims.record_alignment is about targets, and the attack has none; leave it out")
        if isinstance(self.victims.setting, FromSurrogate) or self.victims.part is not None:
            field = "part" if self.victims.part is not None else "setting"
            raise ValueError(
                f"victims.{field}: victims of {self.attack.kind} are trained from scratch on all images; leave it out"
            )

    def _check_meta(self, attack: MetaPoison, networks: tuple[Network, ...], training: Training) -> None:
        """Raises ValueError where the surrogates are no networks that MetaPoison can look ahead with."""
        if any(network.weights for network in networks):
            raise ValueError(
                "network.weights: the networks of metapoison are trained from random weights; leave weights out"
            )
        if training.optimizer != "sgd" and attack.learning_rate is None:
            raise ValueError(
                f"attack.learning_rate is missing: metapoison unrolls steps of SGD, whose rate is not that of "
                f"{training.optimizer}; name one, 0.01 say, or let the surrogates' training.optimizer be sgd"
            )
        if attack.learning_rate is None and isinstance(training.schedule, Cosine) and training.schedule.warmup > 0:
            raise ValueError(
                "attack.learning_rate is missing: the surrogates' schedule warms up from 0, and steps of rate 0 tell "
                "nothing of the poisons; name a rate, or leave warmup out"
            )
        size, T = self.surrogates.size, training.epochs
        if isinstance(self.cases, OutlierCases) and self.surrogates.epochs is None and (size - 1) * T // size == 0:
            raise ValueError(
                "cases are outlier, and all networks of metapoison begin at random weights, which know no outlier; "
                "set surrogates.epochs, or a larger surrogates.count"
            )
        if isinstance(self.victims.setting, FromSurrogate):
            raise ValueError(
                f"victims.setting is {self.victims.setting.kind}, but the networks of metapoison are in the middle of "
                "their training, and nobody begins with one; leave it out"
            )


def prepare_experiment(experiment: Experiment, absent_ok: bool = False) -> Experiment:
    """Fill in what only the data can tell (fingerprints), and check the experiment against the data.

    Reads listings and labels only. absent_ok: whether ImageNet may be absent, for a plan that is only looked at.
    Raises InputError for everything that can be known to be wrong before compute.
    """
    return prepare_experiments({"": experiment}, absent_ok)[""]


Seen = dict[DatasetConfig, tuple[DatasetConfig, Description]]
"""Datasets that were looked at, which may take long: as they were given -> resolved, and described."""


def prepare_experiments(
    variants: Mapping[str, Experiment], absent_ok: bool = False, seen: Seen | None = None
) -> dict[str, Experiment]:
    """`prepare_experiment` for all variants. seen: adds to it what it looks at, and looks at nothing that is there."""
    seen = {} if seen is None else seen
    for experiment in variants.values():
        if experiment.dataset not in seen:
            dataset = resolve(experiment.dataset, absent_ok)
            seen[experiment.dataset] = dataset, describe(dataset, absent_ok)
    return {variant: _prepared(experiment, *seen[experiment.dataset]) for variant, experiment in variants.items()}


def _prepared(experiment: Experiment, dataset: DatasetConfig, description: Description) -> Experiment:
    precheck_shards(experiment.shards, name_of(dataset), description.shape)
    if isinstance(experiment.cases, IndiscriminateCases):
        return experiment.model_copy(update={"dataset": dataset})
    cases = resolve_cases(experiment.cases)
    precheck(cases, description, experiment.attack.budget)
    attack = external.resolve(experiment.attack) if isinstance(experiment.attack, External) else experiment.attack
    if isinstance(attack, GradientMatching) and attack.layers is not None:
        networks = experiment.surrogates.networks or (experiment.network,)
        precheck_layers(attack.layers, networks, description.shape, len(description.classes))
    if isinstance(attack, MetaPoison) and attack.color is not None and description.shape[2] != 3:
        raise InputError(
            f"attack.color: the images of {name_of(dataset)} have {description.shape[2]} channel, and only three make "
            "colours to move; set attack.color to null"
        )
    return experiment.model_copy(update={"dataset": dataset, "cases": cases, "attack": attack})
