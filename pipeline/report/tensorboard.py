"""A run's curves as TensorBoard's event files, for those who look at everything there."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.report.collect import RunFound, VariantFound

Points = Sequence[tuple[int, float]]
"""(step or epoch, value)."""


def write(run: RunFound, folder: Path) -> int:
    """Write the curves of all networks and brews that are done, a folder each, so that TensorBoard shows each as a run
    of its own; says how many curves there are."""
    from tensorboardX import SummaryWriter

    labels = {step.key: step.label for step in run.steps}
    count = 0
    for variant in run.variants:
        by_place: dict[str, list[tuple[str, Points]]] = {}
        for place, tag, points in scalars(variant, labels):
            by_place.setdefault(place, []).append((tag, points))
        for place, curves in by_place.items():
            with SummaryWriter(str(folder / run.run / variant.name / place)) as writer:
                for tag, points in curves:
                    for at, value in points:
                        writer.add_scalar(tag, value, at)
            count += len(curves)
    return count


def scalars(variant: VariantFound, labels: dict[str, str]) -> Iterator[tuple[str, str, Points]]:
    """The curves of a variant as (folder, tag, points). labels: of its steps, by key."""
    for networks in variant.trained.values():
        for key, curves in networks.items():
            place = labels[key].replace(" ", "-")
            for name in ("loss", "accuracy", "rate"):
                yield place, f"train/{name}", list(enumerate(curves[name], 1))
            if "alignment" in curves:
                pairs = zip(curves["watched_epochs"], curves["alignment"], strict=True)
                yield place, "train/alignment", [(int(at), one) for at, one in pairs]
    for case in variant.cases:
        for restart, losses in case.restarts.items():
            yield f"case-{case.number}-restart-{restart}", "brew/B", list(enumerate(losses))
        for kind, evaluations in (("poisoned", case.poisoned), ("clean", case.clean)):
            for victim, one in evaluations.items():
                place, found = f"case-{case.number}-{kind}-victim-{victim}", one["curves"]
                for name in ("adversarial_loss", "p_intended"):
                    yield place, f"target/{name}", list(zip(found["epochs"], found[name], strict=True))
