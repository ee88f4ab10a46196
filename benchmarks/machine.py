"""What figures were measured on, and the most memory that was in use."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from engine.checkpoints.manager import pick_dtype


def settle(device: torch.device) -> None:
    """Waits for the device, gives back what nothing holds, and begins a new count of the most memory in use."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):  # Linux's own count of a process
        Path("/proc/self/clear_refs").write_text("5", encoding="utf8")


def peak(device: torch.device) -> dict[str, float]:
    """The most memory in use since `settle`, in MB: the allocator's on a GPU, else what was resident."""
    if device.type == "cuda":
        most = {"allocated_mb": torch.cuda.max_memory_allocated(), "reserved_mb": torch.cuda.max_memory_reserved()}
        return {name: round(count / 2**20) for name, count in most.items()}
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf8").splitlines()
        return {"resident_mb": round(int(next(s for s in lines if s.startswith("VmHWM")).split()[1]) / 1024)}
    except (OSError, StopIteration):
        return {"resident_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def describe(device: torch.device) -> dict[str, Any]:
    """Processor or card, its memory, and the versions that matter."""
    dtype = str(pick_dtype(device)).removeprefix("torch.")
    out: dict[str, Any] = {"kind": device.type, "torch": torch.__version__, "python": platform.python_version()}
    out["dtype"] = dtype
    if device.type != "cuda":
        named = [s.partition(": ")[2] for s in _text("/proc/cpuinfo").splitlines() if s.startswith("model name")]
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        out |= {"device": named[0] if named else platform.processor(), "memory_gb": round(total, 1)}
        return out | {"cores": os.cpu_count(), "threads": torch.get_num_threads()}
    found, driver = torch.cuda.get_device_properties(device), "unknown"
    with suppress(OSError, subprocess.SubprocessError, IndexError):
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(asked, capture_output=True, text=True, timeout=30).stdout.split()[0]
    out |= {"device": found.name, "memory_gb": round(found.total_memory / 2**30, 1), "driver": driver}
    tf32 = [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32]
    return out | {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "tf32": tf32}


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf8")
    except OSError:
        return ""
