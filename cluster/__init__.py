"""WHERE it runs: connecting to Ray, a cluster's or one of our own."""
