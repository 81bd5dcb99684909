"""Who holds a lease, and whether that process is surely dead."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.store.lease import is_dead, this_process

BOOT = Path("/proc/sys/kernel/random/boot_id")


def name_of_a_dead_process() -> str:
    code = "from pipeline.store.lease import this_process; print(this_process())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_process_that_ended_is_dead_and_this_one_is_not() -> None:
    assert is_dead(name_of_a_dead_process())
    assert not is_dead(this_process())
    assert f" {os.getpid()} " in this_process()


@pytest.mark.skipif(not BOOT.exists(), reason="this kernel does not say when it started")
def test_a_process_of_a_machine_of_the_same_name_is_not_taken_for_dead() -> None:
    """Neither is one of before this machine was started anew, nor one whose older brewline did not say."""
    dead, boot = name_of_a_dead_process(), BOOT.read_text().strip()
    assert f" {boot} " in dead
    assert not is_dead(dead.replace(boot, "0" * len(boot)))
    assert not is_dead(dead.replace(f" {boot}", ""))


@pytest.mark.parametrize("name", ["", "me", "of another machine", "a b c d e"])
def test_a_name_that_says_nothing_is_not_taken_for_dead(name: str) -> None:
    assert not is_dead(name)
