"""The program `brewline`: the pipeline's command line, told where it runs, with the commands about clusters."""

from cluster.connect import connected
from cluster.doctor import doctor
from cluster.submit import submit
from pipeline import cli

cli.app.command()(doctor)
cli.app.command()(submit)


def main() -> None:
    """Entry point of the command `brewline`."""
    cli.main(connected)
