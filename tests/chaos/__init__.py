"""Tools that break things on purpose, what must hold all the same, and the suite that tries it (`make chaos`)."""

from collections import Counter

INJECTED: Counter[str] = Counter()
"""How often each fault was done since this process started; `make chaos` ends with it."""
