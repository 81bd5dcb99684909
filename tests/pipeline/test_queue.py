"""What a run starts next."""

from typing import Any

from pipeline.queue import Queue


def test_later_stages_come_first_whatever_became_ready_first(plan_tiny: Any) -> None:
    plan = plan_tiny({})
    queue, done = Queue(plan.steps), {step.key for step in plan.steps.values() if step.stage == "prepare"}
    for step in plan.steps.values():
        if step.key not in done:
            queue.add(step, plan.steps.keys() - done)
    # The dataset is there: clean victims may start before there is a case.
    assert [stage for stage, _ in queue.by_stage()] == ["retrain", "case", "pretrain"]
    for _, ready in list(queue.by_stage()):
        while ready:
            queue.done(ready.popleft())
    assert [stage for stage, _ in queue.by_stage()] == ["evaluate", "brew"]
