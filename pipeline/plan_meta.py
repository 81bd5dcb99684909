"""The steps that craft MetaPoison's poisons: each epoch of each network is one, and each step of the poisons."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.experiment import Experiment
from pipeline.step import Ref
from stages import adapt, unroll
from stages.brew.meta.config import MetaPoison
from stages.stage import derive_seed

if TYPE_CHECKING:
    from pipeline.plan import Plan


def stagger(experiment: Experiment) -> list[int]:
    """After how many epochs each network is first looked at: `surrogates.epochs`, or ⌊m·T/M⌋ (Algorithm 1, line 3)."""
    own = experiment.surrogates
    length = (own.training or experiment.training).epochs
    return [own.epochs[m % len(own.epochs)] if own.epochs else m * length // own.size for m in range(own.size)]


def crafted(
    experiment: Experiment,
    attack: MetaPoison,
    made: "Plan",
    c: int,
    dataset: Mapping[str, Ref],
    drawn: Mapping[str, Ref],
    pretrained: Mapping[str, Ref],
) -> list[Ref]:
    """The last crafting step of each restart of a case (Algorithm 1).

    pretrained: the networks that do not begin at random weights, in order, as their staggered training left them.
    """
    own, inputs, found = experiment.surrogates, {**dataset, **drawn}, []
    training = own.training or experiment.training
    begins = stagger(experiment)
    left = iter(pretrained.values())
    start = {m: {"pretrained": next(left)} if begin else {} for m, begin in enumerate(begins)}
    for restart in range(attack.restarts):

        def adapted(step: int, before: Mapping[str, Ref], restart: int = restart) -> Ref:
            used = attack.used_budget if step == attack.steps else None
            params = adapt.Params(attack=attack, restart=restart, step=step, used_budget=used)
            return made.add("adapt", params, f"adapt case {c} restart {restart} step {step}", {**inputs, **before})

        poisons, trained = adapted(0, {}), dict[int, Ref]()
        for step in range(attack.steps):
            for m, begin in enumerate(begins):
                life, epoch = divmod(begin + step, training.epochs)
                seed = derive_seed(own.seed, "surrogate", m)
                params = unroll.Params(
                    how=attack.lookahead,
                    network=own.network_of(m, experiment.network),
                    training=training,
                    epoch=epoch,
                    seed=seed if life == 0 else derive_seed(seed, "life", life),
                )
                label = f"unroll case {c} restart {restart} step {step + 1} network {m}"
                network = {} if epoch == 0 else {"network": trained[m]} if step else start[m]
                trained[m] = made.add("unroll", params, label, {**inputs, **network, "poisons": poisons})
            told = {f"unroll.{m}": ref for m, ref in trained.items()}
            poisons = adapted(step + 1, {"before": poisons, **told})
        found.append(poisons)
    return found
