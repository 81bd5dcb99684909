"""Restarts raced by successive halving: the legs of a race, and who goes on from one to the next.

A race is planned before it is run, so a leg has a fixed number of places, and only its steps find out, from all that
the leg before has left, which restart each of them goes on with.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from stages.brew.attacks import Brewed
from stages.config import InputError
from stages.stage import Checkpoint, Saved

FIGURES = "brew.json"


class Leg(NamedTuple):
    """A part of a race: how many brew, after which step they start, and after which they end."""

    places: int
    start: int
    end: int


def legs(attack: Brewed) -> list[Leg]:
    """The legs of an attack's restarts, one where they are not raced."""
    if attack.race is None:
        return [Leg(attack.restarts, 0, attack.steps)]
    places, start, found = attack.restarts, 0, []
    for end in (*attack.race.at, attack.steps):
        found.append(Leg(places, start, end))
        places, start = math.ceil(places * Fraction(str(attack.race.keep))), end
    return found


@dataclass(frozen=True)
class Standing:
    """Where a restart stands at the end of a leg. loss: B of its poisons, None where that is not finite.  losses: B at
    each step so far."""

    restart: int
    loss: float | None
    losses: list[float]
    folder: Path

    def saved(self) -> Saved:
        """What its brew goes on from. Raises InputError where the folder does not hold it."""
        kept = Checkpoint(self.folder)
        saved = kept.load()
        if saved is None:
            raise InputError(f"{kept.file}: not the state of a brew; run the leg of restart {self.restart} again")
        return saved


def in_place(place: int, folders: Sequence[Path]) -> Standing:
    """Who goes on in a place, the best in place 0. Raises InputError where there are fewer restarts."""
    standings = ranked(folders)
    if place >= len(standings):
        raise InputError(f"place is {place}, but the leg before left {len(standings)} restarts; name one below that")
    return standings[place]


def leave(folder: Path, restart: int, saved: Saved, figures: dict[str, Any]) -> None:
    """Write what the next leg goes on from."""
    Checkpoint(folder).save(*saved)
    (folder / FIGURES).write_text(json.dumps({**saved[1], **figures, "restart": restart}))


def ranked(folders: Sequence[Path]) -> list[Standing]:
    """All restarts of a leg, by the B of their quantised poisons over the draws that all share, least first.

    B at single steps would not do: each has a draw of its own, and who is lucky in it is not ahead. Of equal B the
    lower restart is first. One whose B is not finite comes after all others.
    """
    standings = []
    for folder in folders:
        found = json.loads((folder / FIGURES).read_text())
        standings.append(Standing(found["restart"], found["brew_loss"], found["losses"], folder))
    return sorted(standings, key=lambda one: (one.loss is None, one.loss or 0.0, one.restart))
