"""What a call costs: the memory it takes at the highest, whatever the process took and let go before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# The freed blocks stay in the heap, below one that is alive: room that the call would find there.
MEASURE = """
import torch
from benchmarks.cost import measured

def call():
    return torch.ones(1 << 24).sum()

call()
torch.ones(7 << 20)  # letting a large block go makes the allocator keep the next ones in the heap
blocks = [torch.ones(1 << 22) for _ in range(8)]
above = torch.ones(5 << 18)
del blocks
print(measured(call)["memory_mb"], measured(call)["memory_mb"], measured(lambda: None)["memory_mb"])
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells")
def test_memory_is_the_highest_while_a_call_runs():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second, nothing = map(float, done.stdout.split())
    assert 63 < first < 70
    assert 63 < second < 70
    assert nothing < 2
