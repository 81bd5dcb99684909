"""What a plan will cost before any of it runs: time, GPU-hours and money on a cluster that a prices file describes.

prices.py      the prices file: nodes, what an hour of each costs, and what is assumed of them
work.py        how much computing a step is, in operations and bytes
rates.py       how long that takes on a node: measured, scaled from what was measured, or assumed
simulate.py    the plan's steps on the cluster's nodes, one after another as the runner would start them
estimate.py    all of it together, as a table and as JSON
"""
