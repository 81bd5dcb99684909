"""Sweeps: many experiments that differ in a few fields, scheduled by Ray Tune over one store.

A trial is an ordinary run, so trials share every step that they have in common, with each other and with all that the
store has. What a sweep remembers of its own is a log of its suggestions and of how each ended; from it the same
suggestions follow again, and nothing that is finished is repeated.
"""
