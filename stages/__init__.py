"""HOW each stage computes. Knows nothing of Ray, S3 or the store; see stages/stage.py for the contract."""
