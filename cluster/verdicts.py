"""What the facts of machines mean: a verdict and an advice for each check of each, and the table of all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from cluster.examine import Facts
from stages.summarize import aligned

OK, WARN, FAIL = "OK", "WARN", "FAIL"
SEVERITY = (OK, WARN, FAIL)
BREAKING = ("python", "ray", "brewline")
"""A difference in these stops a run or mixes up its steps; in other packages it can change results' last digits."""
LEAST_FREE_GB, LEAST_SHM_GB = 10.0, 1.0
CLOCK_WARN_SECONDS, CLOCK_FAIL_SECONDS = 5.0, 300.0
"""S3 refuses requests that are 900 s off."""


@dataclass(frozen=True)
class Finding:
    """One check of one machine. shown: what the table says; advice: what is wrong and what to do."""

    check: str
    verdict: str
    shown: str
    advice: str = ""


@dataclass(frozen=True)
class Machine:
    """A machine as it was met. facts: null where it did not answer, and `problem` says how.

    kind: its column in the table.  gpus: what Ray counts; null without Ray.  offset: seconds that its clock is ahead of
    ours, known to ± `uncertainty`; null where it is our own.
    """

    name: str
    kind: str
    facts: Facts | None
    problem: str = ""
    gpus: float | None = None
    offset: float | None = None
    uncertainty: float = 0.0
    findings: list[Finding] = field(default_factory=list)


def judge(machine: Machine, ours: Facts) -> list[Finding]:
    """All findings on a machine; `ours` are the facts of the one that asks."""
    if machine.facts is None:
        return [Finding("answers", FAIL, "no", machine.problem)]
    facts = machine.facts
    findings = [Finding("answers", OK, "yes"), *_versions(facts["versions"], ours["versions"])]
    findings += _devices(facts["devices"], machine.gpus)
    for name, disk in facts["disks"].items():
        findings.append(_disk(name, disk))
    findings.append(_shm(facts["shm_gb"]))
    findings.append(Finding("memory", OK, f"{facts['memory_gb']:.0f} GB"))
    if machine.offset is not None:
        findings.append(_clock(machine.offset, machine.uncertainty))
    findings.append(_store(facts["store"]))
    findings.append(_data(facts["data"], ours["data"]))
    return findings


def _versions(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[Finding]:
    findings = []
    for name in ("python", "ray", "torch", "torchvision", "pillow", "numpy", "brewline", "commit"):
        there, here = theirs.get(name, "none"), ours.get(name, "none")
        verdict, advice = OK, ""
        if there != here:
            minor = name == "python" and there.split(".")[:2] == here.split(".")[:2]
            verdict = FAIL if name in BREAKING and not minor else WARN
            advice = f"{name} is {there}, and {here} where this runs; install the same on all (constraints.txt has it)"
        if (there, here) != ("none", "none"):
            findings.append(Finding(name, verdict, there[:12], advice))
    return findings


def _devices(devices: Mapping[str, Any], counted: float | None) -> list[Finding]:
    if "problem" in devices:
        return [Finding("GPUs", FAIL, "torch fails", f"torch does not work: {devices['problem']}; install it anew")]
    gpus, cuda = devices["gpus"], devices["cuda"] or "none"
    names = {gpu["name"] for gpu in gpus}
    shown = f"{len(gpus)} × {', '.join(sorted(names))}" if gpus else "none"
    broken = [f"GPU {index}: {gpu['problem']}" for index, gpu in enumerate(gpus) if gpu["problem"]]
    verdict, advice = OK, ""
    if broken:
        verdict, advice = FAIL, f"{'; '.join(broken)}; replace the machine, or a torch whose CUDA fits its driver"
    elif counted is not None and counted > len(gpus):
        verdict = FAIL
        advice = (
            f"Ray counts {counted:g} GPUs and torch sees {len(gpus)}: steps would go to GPUs that they cannot use; "
            f"torch is built for CUDA {cuda}, so look at the driver (nvidia-smi), or start the node without --num-gpus"
        )
    elif counted is not None and counted < len(gpus):
        verdict, advice = WARN, f"Ray counts {counted:g} of {len(gpus)} GPUs; the others are never used (--num-gpus)"
    missing = devices["ffcv"]
    return [
        Finding("CUDA of torch", OK, cuda),
        Finding("GPUs", verdict, shown, advice),
        Finding("FFCV", OK, "yes" if missing is None else "no"),
    ]


def _disk(name: str, disk: Mapping[str, Any]) -> Finding:
    shown, place = f"{disk['free_gb']:.0f} GB free", "BREWLINE_NODE_CACHE" if name == "cache" else "TMPDIR"
    if disk["problem"]:
        return Finding(
            name, FAIL, disk["problem"], f"{disk['folder']} cannot be written ({disk['problem']}); set {place}"
        )
    if disk["free_gb"] < LEAST_FREE_GB:
        return Finding(
            name, WARN, shown, f"{disk['folder']} has {shown}: point {place} to a larger disk, the node's NVMe say"
        )
    return Finding(name, OK, shown)


def _shm(gb: float | None) -> Finding:
    if gb is None or gb < LEAST_SHM_GB:
        shown = "none" if gb is None else f"{gb:.2f} GB"
        return Finding(
            "/dev/shm", WARN, shown, f"/dev/shm has {shown}: give the container --shm-size, or an emptyDir of Memory"
        )
    return Finding("/dev/shm", OK, f"{gb:.0f} GB")


def _clock(offset: float, uncertainty: float) -> Finding:
    sure = max(0.0, abs(offset) - uncertainty)
    shown = f"{offset:+.1f} s" if sure > 0 else "same"
    verdict = FAIL if sure > CLOCK_FAIL_SECONDS else WARN if sure > CLOCK_WARN_SECONDS else OK
    advice = f"its clock is {shown} off; S3 refuses what is 900 s off: start chrony or systemd-timesyncd"
    return Finding("clock", verdict, shown, "" if verdict == OK else advice)


def _store(problem: str | None) -> Finding:
    return Finding("store", FAIL, "no", problem) if problem else Finding("store", OK, "works")


def _data(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Finding:
    root, names = theirs["root"], theirs["names"]
    if names:
        return Finding("datasets", OK, f"{len(names)} in {root}")
    if ours["names"]:
        advice = f"{root} is empty or not there, and it is where this runs; mount or copy the datasets on every node"
        return Finding("datasets", FAIL, "none", advice)
    advice = f"{root} is empty or not there; set BREWLINE_DATA to the datasets' folder (digits need none)"
    return Finding("datasets", WARN if theirs["given"] else OK, "none", advice if theirs["given"] else "")


def worst(verdicts: Sequence[str]) -> str:
    """The most severe of some verdicts."""
    return max(verdicts, key=SEVERITY.index, default=OK)


def table(machines: Sequence[Machine]) -> str:
    """One row a check, one column a kind of machine; what is not OK stands below with what to do."""
    kinds = list(dict.fromkeys(machine.kind for machine in machines))
    checks = list(dict.fromkeys(finding.check for machine in machines for finding in machine.findings))
    rows = []
    for check in checks:
        of = {kind: [f for m in machines if m.kind == kind for f in m.findings if f.check == check] for kind in kinds}
        verdict = worst([finding.verdict for findings in of.values() for finding in findings])
        rows.append((check, *[_cell([finding.shown for finding in of[kind]]) for kind in kinds], verdict))
    count = {kind: sum(machine.kind == kind for machine in machines) for kind in kinds}
    head = ("check", *[f"{count[kind]} × {kind}" if count[kind] > 1 else kind for kind in kinds], "verdict")
    problems = [
        f"{finding.verdict}  {machine.name}: {finding.advice}"
        for machine in machines
        for finding in machine.findings
        if finding.verdict != OK
    ]
    return aligned(head, rows) + "".join(f"\n{problem}" for problem in problems) + ("\n" if problems else "")


def _cell(shown: Sequence[str]) -> str:
    """What the machines of a kind show: the one value, or the span of several."""
    values = sorted(set(shown), key=lambda text: (len(text), text))
    return values[0] if len(values) == 1 else f"{values[0]} … {values[-1]}" if values else "-"


def as_json(machines: Sequence[Machine]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "verdict": worst([finding.verdict for machine in machines for finding in machine.findings]),
        "nodes": [asdict(machine) for machine in machines],
    }
