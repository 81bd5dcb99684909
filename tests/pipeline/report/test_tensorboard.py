"""The event files hold the curves, point for point, as TensorBoard's own records."""

import struct
from pathlib import Path

from tensorboardX.crc32c import crc32c
from tensorboardX.proto.event_pb2 import Event

from pipeline.report.collect import collect
from pipeline.report.tensorboard import write
from pipeline.store import open_store
from tiny_pipeline import Brewline, Finished


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Of an event file: its curves by tag. A record is its length, data, and a masked checksum of each."""
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), {}
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        record, (checksum,) = data[12 : 12 + size], struct.unpack("<I", data[12 + size : 16 + size])
        plain = crc32c(record)
        assert checksum == (((plain >> 15) | (plain << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        event = Event.FromString(record)
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
        data = data[16 + size :]
    return found


def test_the_curves_are_those_of_the_run(two_variants, tmp_path):
    found = collect(open_store(two_variants.store), two_variants.run)
    count = write(found, tmp_path)
    folder = tmp_path / two_variants.run / "eps-32"
    variant = found.variants[1]
    losses = variant.cases[1].restarts[0]
    brewed = scalars(folder / "case-1-restart-0")["brew/B"]
    assert [step for step, _ in brewed] == [0, 1, 2]
    assert all(abs(value - loss) < 1e-6 for (_, value), loss in zip(brewed, losses, strict=True))
    curves = variant.cases[0].poisoned[1]["curves"]
    watched = scalars(folder / "case-0-poisoned-victim-1")["target/adversarial_loss"]
    assert [step for step, _ in watched] == curves["epochs"]
    trained = scalars(folder / "pretrain-surrogate-0")
    (surrogate,) = variant.trained["surrogate"].values()
    assert abs(trained["train/loss"][1][1] - surrogate["loss"][1]) < 1e-6
    # Of a variant: 7 networks with 3 curves each, 4 poisoned ones with one more, 4 restarts with one, 8 evaluations
    # with 2.
    assert count == 2 * (7 * 3 + 4 + 4 + 8 * 2)


def test_the_command_writes_them(brewline: Brewline, finished: Finished, tmp_path: Path):
    run, out = finished.result["run"], tmp_path / "events"
    done = brewline("report", run, "--tensorboard", out, "--store", finished.store)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    assert scalars(out / run / "case-0-restart-1")["brew/B"]
