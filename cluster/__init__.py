"""WHERE it runs: connecting to Ray, and what each stage takes of a machine."""
