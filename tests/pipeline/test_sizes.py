"""What a plan says it will write, against what a run wrote, and against what is known of ImageNet."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.experiment import Experiment, prepare_experiment
from pipeline.experiment_file import load_experiments, parse
from pipeline.plan import Plan
from pipeline.plan import plan as plan_of
from pipeline.sizes import gigabytes, sizes
from pipeline.store import open_store
from stages.config import InputError
from stages.data.dataset_config import TinyImageNet
from stages.data.datasets import resolve
from stages.shards.config import Shards

ROOM = 40_000
"""Bytes of JSON, pictures and file headers that no estimate counts."""


def test_sizes_are_what_a_run_wrote(plan_tiny: Callable[[Mapping[str, Any]], Plan], tiny: Any, finished: Any) -> None:
    plan, store = plan_tiny({}), open_store(finished.store)
    found = sizes(plan, {"": parse(tiny, "tiny")})
    assert set(found) == set(plan.steps)
    for key, step in plan.steps.items():
        if step.stage in ("select", "export", "summarize"):  # what brew wrote already, and pictures
            assert found[key] == 0
            continue
        manifest = store.read(step.stage, key)
        assert manifest is not None
        assert found[key] == pytest.approx(sum(blob.size for blob in manifest.blobs), abs=ROOM, rel=0.02), step.label


@pytest.mark.parametrize("shards", [{}, {"format": "beton"}, {"format": "beton", "jpeg_quality": 90}], ids=str)
def test_the_size_of_shards_is_near(
    tiny: Any, tiny_imagenet_folder: Path, prepared: Callable[..., Path], tmp_path: Path, shards: dict[str, Any]
) -> None:
    dataset = resolve(TinyImageNet(root=tiny_imagenet_folder, per_class=60, test_per_class=10))
    tiny |= {"dataset": dataset.model_dump(mode="json"), "shards": {"images_per_shard": 600, **shards}}
    experiment = parse(tiny, "tiny")
    plan = plan_of({"": experiment})
    estimated = sum(sizes(plan, {"": experiment})[key] for key, step in plan.steps.items() if step.stage == "shard")
    base = prepared(dataset, tmp_path, Shards.model_validate(tiny["shards"]))
    written = sum(file.stat().st_size for file in base.iterdir())
    assert estimated == pytest.approx(written, rel=0.02)


def imagenet(settings: list[str], absent_ok: bool = True) -> dict[str, Experiment]:
    loaded = load_experiments("witches-brew-imagenet", settings)
    return {variant: prepare_experiment(experiment, absent_ok) for variant, experiment in loaded.items()}


def test_imagenet_is_planned_where_it_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWLINE_DATA", str(tmp_path))
    experiments = imagenet([])
    plan = plan_of(experiments)
    counts = {stage: len(steps) for stage, steps in plan.by_stage()}
    assert counts["shard"] == -(-1_281_167 // 4096) + -(-50_000 // 4096)
    assert (counts["brew"], counts["retrain"], counts["pretrain"]) == (2 * 10 * 8, 2 * 10 + 1, 1)
    found = sizes(plan, experiments)
    by_stage = {stage: sum(found[step.key] for step in steps) for stage, steps in plan.by_stage()}
    image = 224 * 224 * 3 + 16
    assert by_stage["shard"] == (1_281_167 + 50_000) * image
    assert by_stage["brew"] == 160 * 1282 * image and by_stage["export"] == 0
    assert by_stage["pretrain"] == pytest.approx(11_689_512 * 4, rel=0.01), "torchvision's ResNet-18"
    assert gigabytes(list(plan.steps.values()), found).startswith("23")
    with pytest.raises(InputError, match="imagenet"):
        imagenet([], absent_ok=False)


def test_jpegs_are_planned_smaller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWLINE_DATA", str(tmp_path))
    raw, jpeg = imagenet([]), imagenet(["shards.format=beton", "shards.jpeg_quality=90"])
    written = [sum(sizes(plan_of(of), of).values()) for of in (raw, jpeg)]
    assert written[1] < written[0] - 150e9
