"""What no poison can do: the least ratio of poisons from which target parameters can be reached at all.

Poisons nu, eps_d of them for each clean image of mu, leave a network with parameters w where it is if
g(mu) + eps_d g(nu) = 0. Along w itself, ⟨w, g⟩ is the mean of Σ_k p_k z_k - z_y over logits z and their softmax p,
whatever the inputs are, and a single image can bring it down to -W((c - 1)/e) and no further; W is Lambert's function.
So from ⟨w, g(mu)⟩ alone follows a threshold tau (Lu, Kamath & Yu 2023, theorem 1 and its extension to c classes).
For a deep network the same holds of its last layer, for any features: below tau nothing reaches it, above it is open.
"""

import numpy as np
from scipy.special import lambertw, log_softmax


def largest_pull(classes: int) -> float:
    """How far one image can bring ⟨w, g⟩ below 0: W((c - 1)/e), 0.278 for two classes and 1.16 for ten."""
    return float(lambertw((classes - 1) / np.e).real)


def push(logits: np.ndarray, labels: np.ndarray) -> float:
    """⟨w, g(mu)⟩ of the layer that makes the logits, weights and biases, under cross-entropy.

    logits: float [N, c]; of a binary logistic regression (0, w·x).  labels: int64 [N].
    """
    exact = logits.astype(np.float64)
    mean = (np.exp(log_softmax(exact, axis=1)) * exact).sum(1)
    return float((mean - exact[np.arange(len(labels)), labels]).mean())


def threshold(logits: np.ndarray, labels: np.ndarray) -> float:
    """tau: with fewer poisons for each clean image, target parameters with these logits on the clean images stay out of
    reach (Lu et al. 2023, equation 7; equation 10 for c classes). 0 where ⟨w, g(mu)⟩ <= 0.

    logits, labels: as `push` takes them, over the clean images that are trained on.
    """
    return max(push(logits, labels), 0.0) / largest_pull(logits.shape[1])
