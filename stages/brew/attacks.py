"""Every attack there is: brewed here, each by a crafting loop of its own; crafted in steps of a plan, as MetaPoison's
(see pipeline/plan_meta.py); or poisons that somebody else made.

An attack is a configuration with a `kind`; one that is brewed has its loop in `LOOPS`, under that name. No torch here:
an experiment is planned, keyed and refused without loading it.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from stages.brew.cancel.config import GradientCanceling, TotalGradientAscent
from stages.brew.config import GradientMatching
from stages.brew.frogs.config import PoisonFrogs
from stages.brew.meta.config import MetaPoison
from stages.config import Config, Location, NotIdentity
from stages.data.threats import ThreatModel

if TYPE_CHECKING:
    from stages.brew.task import Loop

Brewed = Annotated[GradientMatching | PoisonFrogs, Field(discriminator="kind")]
"""The attacks that the stage `brew` crafts poisons for."""

LOOPS = {"gradient-matching": "craft.craft", "poison-frogs": "frogs.collide.collide"}
"""The crafting loop of each kind in `Brewed`, by module and name within this package."""


def crafting_loop(attack: Brewed) -> "Loop":
    """The loop that crafts the attack's poisons; imported when it is asked for."""
    module, _, function = LOOPS[attack.kind].rpartition(".")
    found: Loop = getattr(import_module(f"stages.brew.{module}"), function)
    return found


class Folder(Config):
    """A folder of somebody else's poisons; in an experiment file its path alone will do."""

    path: Location = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the files that are read; `stages.interchange.external.resolve` fills it in or checks it."""

    @model_validator(mode="before")
    @classmethod
    def _path_alone(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given


ReadFormat = Literal["arrow", "benchmark", "image-folder"]
"""The formats of `stages.interchange.FORMATS` that poisons are read from."""


class External(Config):
    """Poisons that were made elsewhere: nothing is brewed, and victims are trained on them as on our own."""

    kind: Literal["external"] = "external"
    format: ReadFormat
    """What the folders hold, as `brewline export` writes it (see stages/interchange/)."""
    folders: Annotated[tuple[Folder, ...], Field(min_length=1)]
    """One a case, in the order of the cases."""
    eps: Annotated[int, Field(ge=1, le=255)] | None
    """The largest change of a pixel that is allowed, in 1/255; null allows any."""
    budget: Annotated[float, Field(gt=0, lt=1), NotIdentity()] = 0.01
    """P/N, the part of the training images that may be poisons. The case carries it."""


def _of_no_kind(given: Any) -> Any:
    """An attack that names no kind is gradient matching; errors then name its fields as the user wrote them."""
    return GradientMatching.model_validate(given) if isinstance(given, dict) and "kind" not in given else given


Indiscriminate = GradientCanceling | TotalGradientAscent
"""The attacks without targets, that the stage `cancel` makes poisons for."""

Attack = Annotated[
    Brewed | MetaPoison | External | Indiscriminate, Field(discriminator="kind"), BeforeValidator(_of_no_kind)
]


def refuse_unfit(attack: Attack, threats: Sequence[ThreatModel]) -> None:
    """Raises ValueError where the attack is not after what the threat models of the cases are.

    Poisons made elsewhere fit all; attacks without targets are refused with any such case for another reason.
    """
    if isinstance(attack, External | Indiscriminate):
        return
    loss = getattr(attack, "adversarial_loss", None)
    if isinstance(attack, PoisonFrogs) or (isinstance(attack, GradientMatching) and attack.on_features):
        if other := next((threat for threat in threats if threat != "single-class"), None):
            raise ValueError(
                f"cases: threat_model is {other}, and an attack on features makes the target look like the poisons, "
                "so that they must be of the intended class; set threat_model to single-class, or another attack"
            )
        return
    others = [threat for threat in threats if threat != "self-concealment"]
    if len(others) < len(threats) and loss != "self-concealment":
        raise ValueError(
            "cases: threat_model is self-concealment, in which the targets are to be called anything but their own "
            f"class, and the attack's adversarial_loss is {loss}; set attack.adversarial_loss to self-concealment"
        )
    if others and loss == "self-concealment":
        raise ValueError(
            "attack.adversarial_loss is self-concealment, which drives targets from their own class, and threat_model "
            f"{others[0]} wants them called another one; set threat_model to self-concealment, or another loss"
        )
