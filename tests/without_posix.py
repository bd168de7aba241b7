"""Run commands of charlm in this process without what Windows lacks: a simulation on Linux.

Usage: python tests/without_posix.py FOLDER

After the import of the libraries, which have their own code for Windows, the modules, functions,
flags and signals that only POSIX has are removed, and opening a folder, and replacing or removing
an open file, fail as on Windows. Then all modules of charlm are imported, and commands run.
"""

import concurrent.futures.process  # noqa: F401
import ctypes
import importlib
import io
import mmap
import os
import pkgutil
import signal
import subprocess  # noqa: F401
import sys
import tempfile  # noqa: F401
import types
from pathlib import Path

import constriction  # noqa: F401
import filelock  # noqa: F401
import numpy  # noqa: F401
import optuna  # noqa: F401
import pydantic  # noqa: F401
import safetensors.torch  # noqa: F401
import tokenizers  # noqa: F401
import torch
import torch.distributed.elastic.multiprocessing.api
import torch.distributed.launcher.api
import tqdm  # noqa: F401
import typer  # noqa: F401, TID251

MODULES = (
    "curses",
    "fcntl",
    "grp",
    "posix",
    "pty",
    "pwd",
    "readline",
    "resource",
    "syslog",
    "termios",
    "tty",
)
OS_NAMES = (
    *("fork", "forkpty", "register_at_fork", "getuid", "geteuid", "getgid", "getegid", "setsid"),
    *("sched_getaffinity", "sched_setaffinity", "sysconf", "uname", "getloadavg", "statvfs"),
    *("pread", "pwrite", "preadv", "pwritev", "posix_fadvise", "posix_fallocate", "sendfile"),
    *("chown", "fchown", "mkfifo", "mknod", "killpg", "getpgid", "nice", "ttyname", "sync"),
    *("O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "O_SYNC", "O_DSYNC", "O_NOCTTY"),
)
SIGNAL_NAMES = (
    *("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL", "SIGQUIT", "SIGPIPE", "SIGCHLD"),
    *("SIGCONT", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGWINCH", "SIGXCPU"),
    *("alarm", "setitimer", "pause", "sigwait", "pthread_sigmask", "pthread_kill", "siginterrupt"),
)
SMALL = """
model: {hidden_size: 8, embedding_size: 8}
training: {batch_size: 2, window: 8, device: cpu, precision: fp32}
"""


def hide_posix() -> None:
    """Remove from this process what Windows lacks."""
    # filelock has chosen its code for POSIX already; give it the whole module.
    sys.modules["filelock._unix"].os = types.SimpleNamespace(**vars(os))
    for name in MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for module, names in ((os, OS_NAMES), (signal, SIGNAL_NAMES)):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    for name in [name for name in dir(mmap) if name.startswith("MADV_")]:
        delattr(mmap, name)
    mmap.mmap = MemoryMap  # type: ignore[misc]
    ctypes.CDLL = Library  # type: ignore[misc, assignment]
    os.open = refusing_folders(os.open)  # type: ignore[assignment]
    for name in ("replace", "rename", "remove", "unlink"):
        setattr(os, name, refusing_open_files(getattr(os, name)))


class MemoryMap(mmap.mmap):
    @property
    def madvise(self) -> None:
        raise AttributeError("mmap.mmap has no attribute madvise")


class Library(ctypes.CDLL):
    def __init__(self, name: str | None, *arguments: object, **options: object) -> None:
        if name is None:
            raise TypeError("bad argument type for built-in operation")
        super().__init__(name, *arguments, **options)


def refusing_folders(function):
    def call(path, *arguments, **options):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", path)
        return function(path, *arguments, **options)

    return call


def refusing_open_files(function):
    def call(*paths, **options):
        is_open = open_files()
        for path in paths:
            if os.path.realpath(os.fspath(path)) in is_open:
                problem = "The process cannot access the file because it is being used"
                raise PermissionError(13, problem, os.fspath(path))
        return function(*paths, **options)

    return call


def open_files() -> set[str]:
    """Return the files that this process has open or mapped."""
    maps = {
        line.split(maxsplit=5)[-1]
        for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    }
    handles = set()
    for handle in Path("/proc/self/fd").iterdir():
        try:
            handles.add(str(handle.readlink()))
        except OSError:  # The handle of this listing is closed already.
            continue
    return maps | handles


def import_all() -> None:
    import charlm

    for module in pkgutil.walk_packages(charlm.__path__, "charlm."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    hide_posix()
    import_all()
    from charlm.cli.main import run

    os.chdir(folder)
    lines = [
        f"The {noun} {verb} on the mat.\n"
        for noun in ("cat", "dog", "owl")
        for verb in ("sat", "ran")
    ]
    Path("text.txt").write_text("".join(lines) * 12, encoding="utf-8")
    Path("small.yaml").write_text(SMALL, encoding="utf-8")
    for command in (
        ["train", "text.txt", "--config", "small.yaml", "--steps", "4", "--out", "run"],
        ["train", "--resume", "run", "--steps", "8"],
        ["sample", "run", "--length", "20"],
        ["sample", "run", "--length", "20", "--state-out", "state"],
        ["sample", "run", "--length", "20", "--state-in", "state", "--state-out", "state"],
        ["eval", "perplexity", "run"],
        ["eval", "perplexity", "run", "text.txt"],
        ["inspect", "run"],
        ["compress", "run", "text.txt"],
        ["corpus", "stats", "-"],
        ["train", "-", "--config", "small.yaml", "--steps", "2"],
        ["runs"],
        ["sample", "run", "--interactive"],
    ):
        sys.stdin = io.TextIOWrapper(io.BytesIO(Path("text.txt").read_bytes()), encoding="utf-8")
        if "--interactive" in command:
            sys.stdin = io.StringIO("The cat\n/q\n")
        status = run(command)
        sys.stdout.write(f"charlm {' '.join(command)}: status {status}\n")


if __name__ == "__main__":
    main()
