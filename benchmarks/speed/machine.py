"""What is known of the machine a figure was measured on; nothing that names it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_MATTERS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8", "asimd", "bf16")


def facts(cores: list[int]) -> dict[str, Any]:
    """Processor, cores, what of bfloat16 it has, memory, load, versions."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    lines = dict(line.split("\t: ", 1) for line in text.replace("\t\t", "\t").splitlines() if "\t: " in line)
    flags = set(lines.get("flags", lines.get("Features", "")).split())
    meminfo = Path("/proc/meminfo")
    total = int(meminfo.read_text().split()[1]) * 1024 / 1e9 if meminfo.exists() else None
    return {
        "cpu": lines.get("model name") or platform.processor() or platform.machine(),
        "cpu_model": " ".join(lines[name] for name in ("cpu family", "model", "stepping") if name in lines),
        "flags": [flag for flag in _MATTERS if flag in flags],
        "cores": os.cpu_count(),
        "pinned": cores,
        "memory_gb": round(total, 1) if total else None,
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "pytorch-lightning", "tokenizers", "graftlm")},
    }


def foot(machine: dict[str, Any]) -> str:
    """The same in a line, for below the table."""
    cores = len(machine["pinned"])
    return (
        f"{machine['cpu']} (family, model, stepping {machine['cpu_model']}; {', '.join(machine['flags'])}), "
        f"{machine['cores']} cores, {machine['memory_gb']} GB; each process on {cores} core{'s' if cores > 1 else ''}, "
        f"unless said otherwise, with a thread each; load before: {machine['load']}; torch {machine['torch']}, "
        f"transformers {machine['transformers']}, Lightning {machine['pytorch-lightning']}"
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
