"""The command line. Imports what a command needs only when it runs, so that help and wrong names
answer at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HELP = """usage: jaxmarl-lite COMMAND ...

  train ALGORITHM --env ENV   train with several seeds, e.g.
                              jaxmarl-lite train liir --env jumanji/lbf-2s-8x8-2p-2f-coop --out runs/liir
  train --resume RUN          continue a run that was cut off, or prolong it with --total-steps
  train --config RUN/config.json --out DIR
                              repeat a run
  evaluate RUN                play episodes with what a run has learned
  plot RUN [RUN ...]          draw runs in one picture
  render RUN                  write an episode as a GIF
  list [NAME ...]             algorithms and environments, or the details of some

COMMAND --help shows the options of a command, `train ALGORITHM --help` every setting of an algorithm.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; answers the exit code: 0, 2 after bad input (said in one line), 130 after
    Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if words[0] == "--version":
        from jaxmarl_lite import __version__

        print(f"jaxmarl-lite {__version__}")
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning(warnings.showwarning)
            _command(words[0])(words[1:])
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _expected(error):
            raise
        with contextlib.suppress(OSError):  # as where the disk is full that stderr goes to
            print(f"jaxmarl-lite: {_in_one_line(error)}", file=sys.stderr, flush=True)
        return 2
    return 0


def _in_one_line(message: object) -> str:
    """The text of an error without line breaks, and with control characters, such as a terminal's,
    made visible.
    """
    text = " ".join(str(message).split()) or type(message).__name__
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def _show_warning(usual: Callable[..., None]) -> Callable[..., None]:
    """How warnings are shown: this package's own in one line, others as usual."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if category.__module__.startswith("jaxmarl_lite"):
            print(f"jaxmarl-lite: {_in_one_line(message)}", file=sys.stderr)
        else:
            usual(message, category, *rest, **named)

    return show


def _command(name: str) -> Callable[[list[str]], None]:
    """The function of a command."""
    names = ("train", "evaluate", "plot", "render", "list")
    if name not in names:
        import difflib

        near = difflib.get_close_matches(name, names, 1)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"command is {name!r}; allowed is one of {', '.join(names)}{hint}")
    _keep_compilations()
    if name == "train":
        from jaxmarl_lite.cli import train as cli_train

        return cli_train.train
    from jaxmarl_lite.cli import inspect

    return getattr(inspect, "list_names" if name == "list" else name)


def _expected(error: Exception) -> bool:
    """Whether an error speaks of the user's input, files or memory, and not of a fault of this
    package.

    A ValueError does when this package's own checks raised it, not something beneath them.
    """
    kinds = {"RunError", "RunFolderError", "CheckpointError"}
    if type(error).__name__ in kinds or isinstance(error, (OSError, ImportError, MemoryError)):
        return True
    if "RESOURCE_EXHAUSTED" in str(error):  # the device has not enough memory for these sizes
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    home = str(Path(__file__).parent)
    return (
        isinstance(error, ValueError)
        and trace is not None
        and trace.tb_frame.f_code.co_filename.startswith(home)
    )


def _keep_compilations() -> None:
    """Keep compiled programs on disk, small ones too: a second start of the same run need not
    compile.
    """
    cache = (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "jaxmarl_lite"
        / "programs"
    )
    # by environment variables, which JAX reads when it is imported, and which a user may have set
    # otherwise
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


if __name__ == "__main__":
    sys.exit(main())
