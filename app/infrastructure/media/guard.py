"""The small process between the service and each command: sets limits, execs it, and sees it dead.

Run as a script by ``process_runner`` with ``python -I -S``; never imported by the service:

    guard.py PARENT_PID ISOLATION ADDRESS_SPACE FILE_SIZE CPU_SECONDS OPEN_FILES -- COMMAND...

It stays until the command and every process it left behind are dead and reaped. SIGTERM is passed
on to the command's group; SIGUSR1 kills the group. SIGUSR1 is also what the kernel sends when the
thread that started the guard ends, so nothing survives a ``kill -9`` of the service.
"""

import ctypes
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000

CANNOT_START = 127
WATCHED = {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def leave_network() -> None:
    """Enter a network namespace with nothing in it, through a user namespace when not root."""
    if _libc.unshare(CLONE_NEWNET) == 0:
        return
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        descriptor = os.open(f"/proc/self/{name}", os.O_WRONLY)
        os.write(descriptor, text.encode())
        os.close(descriptor)


def limit(address_space: int, file_size: int, cpu_seconds: int, open_files: int) -> None:
    """Set rlimits, soft and hard, never above what is already the hard limit; 0 leaves one alone."""
    for kind, value in (
        (resource.RLIMIT_AS, address_space),
        (resource.RLIMIT_FSIZE, file_size),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_NOFILE, open_files),
    ):
        hard = resource.getrlimit(kind)[1]
        if value and (hard == resource.RLIM_INFINITY or value < hard):
            resource.setrlimit(kind, (value, value))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def become(command: list[str], limits: list[int], guard: int, *, keep_privileges: bool) -> None:
    """In the forked child: own group, dies with the guard, limits, then the command itself."""
    os.setpgid(0, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(CANNOT_START)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)
    limit(*limits)
    if not keep_privileges:
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    os.execv(command[0], command)  # noqa: S606  (no shell is the point)


def kill_children() -> None:
    """Kill every child, adopted orphans too; the kernel hands us those of dead children next."""
    with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as listing:  # noqa: PTH123
        for pid in listing.read().split():
            os.kill(int(pid), signal.SIGKILL)


def kill_group(group: int) -> None:
    """Kill the command's process group; nothing happens when it is gone."""
    signal_group(group, signal.SIGKILL)


def signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def reap_the_rest(group: int) -> None:
    """Kill and reap whatever the command left behind, until there is no child at all."""
    while True:
        kill_group(group)
        try:
            kill_children()
            os.waitpid(-1, 0)
        except (ChildProcessError, FileNotFoundError):
            return
        except ProcessLookupError:
            continue


def watch(command: int) -> int:
    """Wait for the command, passing signals on; return its exit status for ours."""
    while True:
        received = signal.sigwait(WATCHED)
        if received == signal.SIGTERM:
            signal_group(command, signal.SIGTERM)
        elif received == signal.SIGUSR1:
            kill_group(command)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return CANNOT_START
            if pid == command:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if pid == 0:
                break


def main(arguments: list[str]) -> int:
    parent, isolation, *limits = arguments[:6]
    command = arguments[7:]
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    if isolation == "no-network":
        leave_network()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # After the namespaces: changing credentials clears the signal. Then look whether the parent
    # died before it was set.
    _prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != int(parent):
        return CANNOT_START
    guard = os.getpid()
    child = os.fork()
    if child == 0:
        try:
            become(
                command, [int(n) for n in limits], guard, keep_privileges=isolation == "bubblewrap"
            )
        except OSError as error:
            sys.stderr.write(f"cannot start {os.path.basename(command[0])}: {error.strerror}\n")  # noqa: PTH119
            sys.stderr.flush()
        finally:
            os._exit(CANNOT_START)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    try:
        return watch(child)
    finally:
        reap_the_rest(child)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
