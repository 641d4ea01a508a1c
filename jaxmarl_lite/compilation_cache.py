"""Compiled programs on disk, so that the next session does not compile them again.

The command line always keeps its programs. In a Python session it is the user's choice, one call of
`enable_compilation_cache`: JAX has one cache for the whole process, which then also holds programs
that are not this library's, and it fills a folder without a limit.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_SMALL_TOO = {
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
}
"""Settings of JAX with which small programs are kept too: a run has many of them."""


def default_folder() -> Path:
    """Returns the folder in which the command line keeps its programs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "jaxmarl_lite" / "programs"


def enable_compilation_cache(path: str | Path | None = None) -> Path:
    """Keeps the compiled programs of this session on disk, and uses those of earlier ones.

    A robot's training program compiles in one to three minutes, and is read in seconds. It may be
    called at any time; programs that are compiled later are kept. Removing the folder is safe.

    Args:
        path: folder of the programs; None: the folder that JAX already uses, such as that of
            ``JAX_COMPILATION_CACHE_DIR``, or else the folder of the command line.

    Returns:
        The folder.

    Raises:
        ValueError: ``path`` is no path of a folder.

    Example:
        >>> import jax, jaxmarl_lite as jml
        >>> folder = jml.enable_compilation_cache("programs")
        >>> jax.jit(lambda x: x + 0.125)(1.0).item()
        1.125
        >>> any(folder.iterdir())
        True
    """
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    from jaxmarl_lite.validation import check_path, invalid

    config: Any = jax.config
    folder = Path(config.jax_compilation_cache_dir or default_folder())
    if path is not None:
        folder = check_path("path", path).absolute()
        if folder.exists() and not folder.is_dir():
            raise invalid("path", str(path), "a folder")
    config.update("jax_compilation_cache_dir", str(folder))
    for name, value in _SMALL_TOO.items():
        if name.upper() not in os.environ:
            config.update(name, value)
    # JAX decides at the first compilation of a process whether it has a cache
    compilation_cache.reset_cache()
    return folder
