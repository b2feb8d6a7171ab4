"""Environment variables that make NumPy, OpenBLAS and Numba compute the same bytes on every x86-64 processor."""

import platform
from collections.abc import Mapping
from pathlib import Path

# Each of these libraries chooses its kernels by the processor, and kernels of different vector widths round
# differently. All x86-64 processors of the last ten years support AVX2. The variables are read at import.
AVX2 = {
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    "OPENBLAS_CORETYPE": "Haswell",
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "",  # otherwise, Numba adds the features of the host
}


def same_on_every_processor(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set for the jobs of a study, except those that are already set.

    Parameters
    ----------
    environment : mapping
        Environment variables that are set.

    Returns
    -------
    dict
        Empty if the processor is not an x86-64 processor with AVX2.
    """
    if platform.machine().lower() not in ("x86_64", "amd64") or not _has_avx2():
        return {}
    return {name: value for name, value in AVX2.items() if name not in environment}


def _has_avx2() -> bool:
    try:
        return " avx2 " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
