"""What is done at one go: in C where that module was built and knows the machine, else in Python, a call at a time.

The module in C needs a compiler when framefetch is installed, Linux, and an x86 processor with AVX2.
"""

from __future__ import annotations

from types import ModuleType

__all__ = ["at_once"]


def _module() -> ModuleType:
    try:
        from framefetch.native import _native
    except ImportError:
        from framefetch.native import plain

        return plain
    return _native


at_once = _module()
