"""Where a result comes from: the machines, versions and commit of the steps that made it."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.store import Manifest


def provenance(manifests: Iterable[Manifest]) -> dict[str, Any]:
    """Where the steps ran and with what: each fact once, as a list where steps differ. One step at least."""
    found = [manifest.provenance for manifest in manifests]
    facts: dict[str, set[str]] = {}
    for one in found:
        for name, value in {"hardware": one.get("hardware", "not recorded"), **one["versions"]}.items():
            facts.setdefault(name, set()).add(value)
    same = {name: values.pop() if len(values) == 1 else sorted(values) for name, values in sorted(facts.items())}
    seconds = round(sum(one["seconds"] for one in found))
    return {"steps": len(found), "step_seconds": seconds, "started": min(one["started"] for one in found), **same}


def doubts(facts: Mapping[str, Any]) -> list[str]:
    """Why a result with this provenance may not be had again, each as a clause; none where nothing is known to be in
    the way."""
    commit = facts.get("commit")
    found = []
    if not commit:
        found.append("of an unknown commit")
    elif "dirty" in str(commit):
        found.append("made from uncommitted changes")
    if isinstance(commit, list):
        found.append(f"made from {len(commit)} commits")
    return found
