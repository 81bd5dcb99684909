"""`brewline report` as a user meets it: what it writes, what it refuses, and that it needs neither Ray nor torch."""

from pathlib import Path

import pytest

from handmade_sweep import trial, write
from pipeline.store import open_store
from tiny_pipeline import Brewline, Finished, refused


def test_a_report_is_a_folder_with_a_page(brewline: Brewline, finished: Finished, tmp_path: Path, no_ray) -> None:
    run, out = finished.result["run"], tmp_path / "out"
    done = brewline("report", run, "-o", out, "--store", finished.store, **no_ray)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out / "report.html")
    assert {file.name for file in out.iterdir()} == {"report.html", "figures", f"{run}.yaml"}
    again = brewline("report", run, "-o", out, "--store", finished.store)
    refused(again, f"{out}: is not empty")


def test_bad_input_is_told_before_anything_is_written(brewline: Brewline, finished: Finished, tmp_path: Path) -> None:
    run, out = finished.result["run"], tmp_path / "out"
    refused(
        brewline("report", run[:-2], "-o", out, "--store", finished.store),
        f"no run and no sweep '{run[:-2]}'",
        f"did you mean '{run}'",
    )
    refused(brewline("report", run, "--store", finished.store), "--out is missing")
    refused(brewline("report", run, run, "-o", out, "--store", finished.store), "named more than once")
    refused(brewline("report", run, "-o", out, "--tensorboard", out, "--store", finished.store), "name two folders")
    (tmp_path / "file").write_text("")
    refused(brewline("report", run, "-o", tmp_path / "file", "--store", finished.store), "is no folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_run_that_is_not_finished_has_a_report(
    brewline: Brewline, copied: Path, finished: Finished, tmp_path
) -> None:
    for manifest in (copied / "steps" / "summarize").iterdir():
        manifest.unlink()
    done = brewline("report", finished.result["run"], "-o", tmp_path / "out", "--store", copied)
    assert done.returncode == 0, done.stderr
    assert "is not finished: 11 of 12 steps are done" in done.stdout
    assert "is not finished." in (tmp_path / "out" / "report.html").read_text()


@pytest.fixture
def with_sweep(copied: Path) -> Path:
    """The finished run's store, with a sweep in it."""
    write(open_store(copied), "sweep", [trial(0, 8, 0.01, state="running", figures={})])
    return copied


def test_a_sweep_has_a_page_of_its_own(brewline: Brewline, with_sweep: Path, finished: Finished, tmp_path) -> None:
    done = brewline("report", "sweep", "-o", tmp_path / "out", "--store", with_sweep)
    assert done.returncode == 0, done.stderr
    assert "The sweep is not finished." in (tmp_path / "out" / "report.html").read_text()
    run = finished.result["run"]
    refused(brewline("report", "sweep", run, "-o", tmp_path / "two", "--store", with_sweep), "has a page of its own")
    refused(brewline("report", "sweep", "--tensorboard", tmp_path / "t", "--store", with_sweep), "is a sweep")


def test_a_store_in_s3_gives_the_same_charts(
    brewline: Brewline, finished: Finished, s3_url: str, s3_environment: dict[str, str], tmp_path: Path
) -> None:
    run, pages = finished.result["run"], {}
    copy = brewline("cache", "copy", run, "--store", finished.store, "--to", s3_url, **s3_environment)
    assert copy.returncode == 0, copy.stderr
    for url in (str(finished.store), s3_url):
        out = tmp_path / f"out-{len(pages)}"
        done = brewline("report", run, "-o", out, "--store", url, **s3_environment)
        assert done.returncode == 0, done.stderr
        pages[url] = {file.relative_to(out): file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    here, there = pages.values()
    assert here.keys() == there.keys()
    assert [str(name) for name in here if here[name] != there[name]] == ["report.html"]  # it names the store
    assert s3_environment["AWS_SECRET_ACCESS_KEY"].encode() not in there[Path("report.html")]
