"""Memory of a process is what its container and limits allow, not what the machine has."""

from __future__ import annotations

import resource

import pytest

from sparsify_cli.maths.memory import machine_memory

GB = 10**9


def made(root, files):
    """A root folder with these files."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": f"{GB}\n"}, GB),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{GB}", "sys/fs/cgroup/a/b/memory.max": "max"}, GB),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": f"{2 * GB}", "sys/fs/cgroup/memory.max": f"{GB}"}, GB),
        ({"proc/self/cgroup": "4:cpu,memory:/job\n", "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GB}\n"}, GB),
        ({"proc/self/cgroup": "4:memory:/host/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{GB}\n"}, GB),
        ({"proc/self/cgroup": "4:cpu:/job\nnonsense\n", "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{GB}\n"}, None),
        ({"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{1 << 63}"}, None),
    ],
)
def test_containers(tmp_path, files, limit):
    """Both versions of control groups, a group around that allows less, no limit, and what cannot be read."""
    whole = machine_memory(tmp_path / "nothing")
    assert machine_memory(made(tmp_path, files)) == (min(whole, limit) if limit else whole)


def test_ulimit(tmp_path, monkeypatch):
    """`ulimit -v` counts, in bytes."""
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (GB, resource.RLIM_INFINITY) if kind == resource.RLIMIT_AS else (1, 1))
    assert machine_memory(tmp_path) == GB


def test_this_machine():
    """There is some."""
    assert machine_memory() > 10**8
