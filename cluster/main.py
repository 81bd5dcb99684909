"""The program `brewline`: the pipeline's command line, told where it runs."""

from typing import NoReturn

from cluster.connect import connected
from pipeline import cli


def main() -> NoReturn:
    """Entry point of the command `brewline`."""
    cli.main(connected)
