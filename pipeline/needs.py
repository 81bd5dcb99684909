"""Which steps of a plan are done, and which must run."""

from pipeline.execute import is_whole
from pipeline.plan import Plan
from pipeline.store import Store


def cached_steps(plan: Plan, store: Store) -> set[str]:
    """The keys of the plan's steps that are done and whole."""
    found = store.look((step.stage, step.key) for step in plan.steps.values())
    return {manifest.key for manifest, missing in found if is_whole(plan.steps[manifest.key], manifest, missing)}


def needed_steps(plan: Plan, cached: set[str]) -> set[str]:
    """The steps to run: the summaries that are not there, and whatever a step to run needs that is not there."""
    needed = {ref.key for ref in plan.summaries.values()} - cached
    for step in reversed(plan.steps.values()):
        if step.key in needed:
            needed |= {ref.key for ref in step.inputs.values()} - cached
    return needed
