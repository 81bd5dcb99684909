"""The program `brewline`: the pipeline's command line, told where it runs, with the commands about clusters."""

from cluster.connect import connected
from cluster.doctor import doctor
from cluster.submit import submit
from pipeline import cli
from pipeline.cli_store import with_s3_options

cli.app.command()(with_s3_options(doctor))
cli.app.command()(with_s3_options(submit))


def main() -> None:
    """Entry point of the command `brewline`."""
    cli.main(connected)
