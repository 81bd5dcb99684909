"""Where a victim has the target, the poisons and their bases in the space of its features, seen in two dimensions.

After Poison Frogs, figure 3: it shows whether poisons collide with the target, and how the decision boundary turns to
take them in.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stages.data.cases import Case
from stages.data.images import Dataset
from stages.models.classifier import Classifier
from stages.shards.poisons import PoisonSet
from stages.stage import Context
from stages.training.batches import pixels, to_tensor
from stages.training.precision import precision

MOST = 200
"""Most train images of a class that are shown, and most poisons."""

VIEW = "features.json"
"""What stage `evaluate` writes, where it has the clean victim too: a view of each, `clean` and `poisoned`."""


def view(model: Classifier, dataset: Dataset, poisons: PoisonSet, case: Case, ctx: Context) -> dict[str, Any]:
    """Two coordinates of each image's features, `points`, by what it is, and the decision `boundary` among them.

    The first axis goes through the centroids of the target's class and the intended one, with the middle between them
    at 0; the second is what is left of the boundary's normal, the difference of the two classes' weights. As the normal
    lies in that plane, the side of the boundary on which an image is shown is the side on which it is: with
    boundary = (p, q, r), p·x + q·y + r is its logit of the intended class less that of the target's.
    """
    train, intended = dataset.train, case.intended_class
    assert intended is not None

    def of_class(label: int) -> np.ndarray:
        clean = np.setdiff1d(np.flatnonzero(train.labels == label), train.rows_of(poisons.ids))
        return np.asarray(train.images[clean[:MOST]])

    images = {
        "target class": of_class(case.target_class),
        "intended class": of_class(intended),
        "base": train.of(poisons.ids[:MOST]).array,
        "poison": poisons.images[:MOST],
        "target": dataset.test.of(case.target_ids).array,
    }
    features = {name: _features(model, of, ctx) for name, of in images.items()}
    centres = [features[name].mean(0) for name in ("target class", "intended class")]
    middle, line = (centres[0] + centres[1]) / 2, centres[1] - centres[0]
    weight, bias = (tensor.detach().double().cpu() for tensor in (model.head.weight, model.head.bias))
    normal = weight[intended] - weight[case.target_class]
    first = line / line.norm()
    rest = normal - (normal @ first) * first
    second = rest / rest.norm()
    offset = normal @ middle + bias[intended] - bias[case.target_class]
    axes = torch.stack([first, second], dim=1)
    return {
        "points": {name: ((of - middle) @ axes).tolist() for name, of in features.items()},
        "boundary": [*(normal @ axes).tolist(), offset.item()],
    }


@torch.no_grad()
def _features(model: Classifier, images: np.ndarray, ctx: Context) -> torch.Tensor:
    """float64 [N, d] on the CPU."""
    model.to(ctx.device).eval()
    parts: Sequence[int] = range(0, len(images), ctx.runtime.micro_batch)
    with precision("float32", ctx.device):
        found = [
            model.features(pixels(to_tensor(images[first : first + ctx.runtime.micro_batch], ctx.device)))
            for first in parts
        ]
    return torch.cat(found).double().cpu()
