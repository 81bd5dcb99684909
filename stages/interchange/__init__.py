"""Poisoned datasets in the forms that other people's tools read, and poisons that others made, on their way back.

Each format is a module with one `FORMAT`; nobody outside knows which there are but by this dict.
"""

from stages.interchange import arrow, automl, benchmark, beton, image_folder, parquet
from stages.interchange.content import Content, Format

__all__ = ["FORMATS", "Content", "Format"]

FORMATS: dict[str, Format] = {
    "image-folder": image_folder.FORMAT,
    "parquet": parquet.FORMAT,
    "arrow": arrow.FORMAT,
    "beton": beton.FORMAT,
    "benchmark": benchmark.FORMAT,
    "automl": automl.FORMAT,
}
