"""WHAT runs, in what order, and what is already done."""
