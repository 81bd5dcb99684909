"""The program `brewline`: the pipeline's command line, told where it runs."""

from cluster.connect import connected
from pipeline import cli


def main() -> None:
    """Entry point of the command `brewline`."""
    cli.main(connected)
