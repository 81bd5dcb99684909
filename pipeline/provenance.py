"""Where a result comes from: the machines, versions and commit of the steps that made it."""

from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.store import Manifest

UNKNOWN = "unknown"
"""The commit of steps that an installed package computed."""


def provenance(manifests: Iterable[Manifest]) -> dict[str, Any]:
    """Where the steps ran and with what: each fact once, as a list where steps differ. One step at least."""
    found = [manifest.provenance for manifest in manifests]
    facts: dict[str, set[str]] = {}
    for one in found:
        known = {"hardware": one.get("hardware", "not recorded"), "commit": UNKNOWN, **one["versions"]}
        for name, value in known.items():
            facts.setdefault(name, set()).add(value)
    same = {name: values.pop() if len(values) == 1 else sorted(values) for name, values in sorted(facts.items())}
    seconds = round(sum(one["seconds"] for one in found))
    return {"steps": len(found), "step_seconds": seconds, "started": min(one["started"] for one in found), **same}


def doubts(facts: Mapping[str, Any]) -> list[str]:
    """Why a result with this provenance may not be had again, each as a clause; none where nothing is known to be in
    the way."""
    stated = facts.get("commit") or UNKNOWN
    commits = stated if isinstance(stated, list) else [stated]
    found = []
    if UNKNOWN in commits:
        found.append("of an unknown commit" if len(commits) == 1 else "in part of an unknown commit")
    if "dirty" in str(commits):
        found.append("made from uncommitted changes")
    if len(known := [commit for commit in commits if commit != UNKNOWN]) > 1:
        found.append(f"made from {len(known)} commits")
    return found
