"""Tools that break things on purpose, what must hold all the same, and the suite that tries it (`make chaos`)."""
