"""Entry point of the command line.

The modules that a command needs are imported only when it runs, so that help and messages about
unknown commands appear at once.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxmarl_lite import compilation_cache

HELP = """usage: jaxmarl-lite COMMAND ...

  train ALGORITHM --env ENV   train an algorithm with several seeds, for example
                              train liir --env jumanji/lbf-2s-8x8-2p-2f-coop --out runs/liir
  train --resume RUN          continue an interrupted run, or extend one with --total-steps
  train --config RUN/config.json --out DIR
                              repeat a run
  evaluate RUN                evaluate the trained policies of a run
  plot RUN [RUN ...]          plot one or several runs in one figure
  compare RUN RUN [...]       compare runs in tables and plots, with intervals over seeds
  compare ALGORITHM [...] --env ENV [...] --out DIR
                              train algorithms alike and compare them
  sweep ALGORITHM --env ENV --out DIR --grid FIELD=VALUE,VALUE ...
                              train with many settings and rank them; grid, random or Optuna
  render RUN                  write an episode of a trained policy as a GIF
  export RUN FILE             write a trained policy as .safetensors, .zip or .onnx
  report RUN                  write a run as one web page
  list [NAME ...]             list algorithms and environments, or show details of some

COMMAND --help shows the options of a command, `train ALGORITHM --help` all settings of an
algorithm. RUN is the folder of a run, as given to --out. ALGORITHM and ENV may be yours, as
module:name of a function or class that Python finds from the working directory; so may --networks.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code.

    Args:
        argv: arguments of the program; None: those of the process.

    Returns:
        0 after success, 2 after invalid input, which one line on stderr describes, or 130 after
        Ctrl-C.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    if args[0] == "--version":
        from jaxmarl_lite import __version__

        print(f"jaxmarl-lite {__version__}")
        return 0
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning(warnings.showwarning)
            _command(args[0])(args[1:])
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not _expected(error):
            raise
        with contextlib.suppress(OSError):  # such as a full disk that stderr goes to
            print(f"jaxmarl-lite: {_in_one_line(error)}", file=sys.stderr, flush=True)
        return 2
    return 0


def _in_one_line(message: object) -> str:
    """Returns the text of an error without line breaks, and with control characters escaped."""
    text = " ".join(str(message).split()) or type(message).__name__
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _show_warning(usual: Callable[..., None]) -> Callable[..., None]:
    """Returns a function that shows this package's warnings in one line, and others as usual."""

    def show(
        message: Warning | str, category: type[Warning], *rest: object, **named: object
    ) -> None:
        if category.__module__.startswith("jaxmarl_lite"):
            print(f"jaxmarl-lite: {_in_one_line(message)}", file=sys.stderr)
        else:
            usual(message, category, *rest, **named)

    return show


def _command(name: str) -> Callable[[list[str]], None]:
    """Returns the function of a command; raises ValueError for an unknown name."""
    names = ("train", "evaluate", "plot", "compare", "sweep", "render", "report", "export", "list")
    if name not in names:
        from jaxmarl_lite.validation import unknown_name

        raise unknown_name("command", name, names)
    _keep_compilations()
    if name == "train":
        from jaxmarl_lite.cli import train as cli_train

        return cli_train.train
    if name == "compare":
        from jaxmarl_lite.cli import compare as cli_compare

        return cli_compare.compare
    if name == "sweep":
        from jaxmarl_lite.cli import sweep as cli_sweep

        return cli_sweep.sweep
    if name == "export":
        from jaxmarl_lite.cli import export as cli_export

        return cli_export.export
    from jaxmarl_lite.cli import inspect

    return getattr(inspect, "list_names" if name == "list" else name)


def _expected(error: Exception) -> bool:
    """Returns whether an error concerns the user's input, files or memory, not a bug.

    A ValueError does if this package raised it, and not a library that the package calls.
    """
    kinds = {"RunError", "RunFolderError", "CheckpointError"}
    if type(error).__name__ in kinds or isinstance(error, (OSError, ImportError, MemoryError)):
        return True
    if "RESOURCE_EXHAUSTED" in str(error):  # the device's memory is too small for these sizes
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    home = str(Path(__file__).parents[1])
    return (
        isinstance(error, ValueError)
        and trace is not None
        and trace.tb_frame.f_code.co_filename.startswith(home)
    )


def _keep_compilations() -> None:
    """Keeps compiled programs on disk, including small ones, so that the same run compiles once."""
    cache = compilation_cache.default_folder()
    # JAX reads these environment variables when it is imported; values that the user set stay.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


if __name__ == "__main__":
    sys.exit(main())
