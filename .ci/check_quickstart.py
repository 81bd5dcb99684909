"""Check what `make quickstart` printed last, the first time and again: python check_quickstart.py FIRST SECOND."""

import json
import sys

first, second = (json.loads(text) for text in sys.argv[1:])
means = {name: figure["mean"] for name, figure in first["summary"].items()}
steps = second["steps"]
checks = {
    "the attack works": means["poison_success"] >= 0.5,
    "clean victims do not fall for it": means["clean_success"] <= 0.15,
    "so it is the poisons": means["poison_success"] >= means["clean_success"] + 0.4,
    "and nobody would notice": abs(means["poisoned_accuracy"] - means["clean_accuracy"]) <= 0.03,
    "again, nothing runs": (steps["ran"], steps["cached"]) == (0, steps["total"]),
    "and the result is the same": (first["summary"], first["cases"]) == (second["summary"], second["cases"]),
}
failed = [what for what, holds in checks.items() if not holds]
print(f"quickstart: {len(checks) - len(failed)} of {len(checks)} checks hold", means)
sys.exit(f"quickstart: not so: {'; '.join(failed)}" if failed else 0)
