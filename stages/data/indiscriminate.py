"""Cases of attacks without targets, which are measured by what all test images are called."""

from typing import Annotated, Literal

from pydantic import Field

from stages.config import Config, NotIdentity


class IndiscriminateCases(Config):
    """Draws of the train images where the poisons begin, evenly over the train set; nothing else differs in them."""

    kind: Literal["indiscriminate"] = "indiscriminate"
    seed: int = 0
    count: Annotated[int, Field(ge=1), NotIdentity()] = 1
