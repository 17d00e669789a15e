"""Running tasks on a Ray cluster: as `processes`, in actors.

Ray is the scheduler only.  Tasks and outcomes are short texts; what a task reads and writes are
files that every machine of the cluster can reach.  Nothing here depends on what the tasks are.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .errors import ClipDistillError, MissingExtraError, ServiceError, first_line
from .processes import Outcome, SetUp, done
from .progress import message

ATTEMPTS = 3
"""How often a task is tried whose actor dies, such as with its machine."""
LOOPBACK = "127.0.0.2"
"""Of a cluster of this machine's own.  Ray replaces 127.0.0.1 with an address that others reach."""
ANSWER_SECONDS = 10.0
"""Time for a cluster's address to answer."""
ROOM_SECONDS = 60.0
"""Time after which a command says that no actor has started."""
SAME_VERSIONS = "Every machine needs the same versions of clipdistill, its extra `train`, and Ray."


def run_actors(
    set_up: SetUp,
    arguments: tuple[Any, ...],
    tasks: Sequence[str],
    workers: int,
    *,
    address: str,
    gpus: int = 0,
) -> Iterator[Outcome]:
    """Do tasks in actors and yield what became of each, in the order of finishing.

    An actor that dies is replaced, and its task is tried again.

    Args:
        set_up: a function of a module that every machine of the cluster can import.
        arguments: for `set_up`, small and picklable.
        tasks: what to do.
        workers: number of actors; those for which there is no room yet wait for it.
        address: of the cluster; "auto": the running one; "local": a new one on this machine.
        gpus: GPUs per actor.

    Raises:
        MissingExtraError: Ray is not installed.
        ServiceError: there is no cluster at the address, its versions of Ray and Python are others,
            or an actor cannot start on one of its machines.
        ClipDistillError: `set_up` raised it.
    """
    ray = _connected(address, workers)
    try:
        yield from _run(ray, set_up, arguments, tasks, workers, gpus)
    finally:
        ray.shutdown()


def _connected(address: str, workers: int) -> Any:
    """Import Ray and connect it to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray", "--ray") from error
    # Actors import what this process imports, and know no accelerator that they did not ask for.
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": workers, "include_dashboard": False, "_node_ip_address": LOOPBACK}
    where = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    _check_answers(address, where)
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises plain ones, too
        versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
        if len(versions) == 2:
            theirs, ours = (f"Ray {one} with Python {other}" for one, other in versions)
            raise ServiceError(
                f"--ray {address}: the cluster runs {theirs}, this process {ours}. Install the "
                "same versions of both on every machine."
            ) from error
        raise _unreachable(address, first_line(error)) from error
    return ray


def _check_answers(address: str, where: str) -> None:
    """Check that something listens at HOST:PORT: Ray itself would try for minutes.

    Raises:
        ServiceError: nothing answers.
    """
    found = re.fullmatch(r"(?:ray://)?\[?([^/]*?)\]?:(\d{1,5})", where)
    if found is None:
        return
    try:
        socket.create_connection((found[1], int(found[2])), ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise _unreachable(address, f"{where}: {reason}") from error


def _unreachable(address: str, reason: str) -> ServiceError:
    where = "on this machine" if address in ("auto", "local") else f"at {address}"
    return ServiceError(
        f"--ray {address}: no Ray cluster can be reached {where} ({reason}). Start one with "
        "`ray start --head`, give its address, or use --ray local."
    )


def _cannot_start(failure: BaseException) -> ServiceError:
    """The error for an actor whose machine lacks what it imports, from the words of Ray."""
    text = str(failure)
    machine = re.search(r"ip=([^,)\s]+)", text)
    where = f" on {machine[1]}" if machine else ""
    reason = text.strip().splitlines()[-1].strip()[:200]
    return ServiceError(f"--ray: an actor cannot start{where} ({reason}). {SAME_VERSIONS}")


def _run(
    ray: Any,
    set_up: SetUp,
    arguments: tuple[Any, ...],
    tasks: Sequence[str],
    workers: int,
    gpus: int,
) -> Iterator[Outcome]:
    actor_class = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)(_Actor)
    left = list(reversed(tasks))
    tries = dict.fromkeys(tasks, 0)
    # A task is given to an actor that has started: one for which there is no room may never do so.
    starting: dict[Any, Any] = {}  # future -> actor
    pending: dict[Any, tuple[Any, str]] = {}  # future -> (actor, task)
    died = 0

    def start() -> None:
        actor = actor_class.remote(set_up, arguments)
        starting[actor.started.remote()] = actor

    def give(actor: Any) -> None:
        if left:
            task = left.pop()
            tries[task] += 1
            pending[actor.do.remote(task)] = (actor, task)

    for _ in range(min(workers, len(tasks))):
        start()
    while left or pending:
        if left and not starting and not pending:
            start()
        future = _next(ray, [*starting, *pending], bool(pending))
        if future in starting:
            actor = starting.pop(future)
            try:
                error = ray.get(future)
            except ray.exceptions.RayError as failure:
                died += 1
                if getattr(failure, "_actor_init_failed", False) or died >= ATTEMPTS * workers:
                    raise _cannot_start(failure) from failure
                start()
                continue
            if error is not None:
                raise error
            died = 0
            give(actor)
        else:
            actor, task = pending.pop(future)
            try:
                value, reason = ray.get(future)
            except ray.exceptions.RayError as failure:
                if tries[task] < ATTEMPTS:
                    left.append(task)
                else:
                    reason = f"its actor died {ATTEMPTS} times ({first_line(failure)})"
                    yield Outcome(task, reason=reason, died=True)
                if left:
                    start()
            else:
                yield Outcome(task, value, reason)
                give(actor)
        del actor  # without a task it ends, and makes room for one that waits to start


def _next(ray: Any, futures: list[Any], working: bool) -> Any:
    """Wait for one of several futures, and say so where the cluster may have no room."""
    ready, _ = ray.wait(futures, num_returns=1, timeout=None if working else ROOM_SECONDS)
    if not ready:
        message("--ray: no actor has started yet. The cluster may have no free processor or GPU.")
        ready, _ = ray.wait(futures, num_returns=1)
    return ready[0]


class _Actor:
    """Sets up once, then does tasks; errors are returned, so that Ray does not wrap them."""

    def __init__(self, set_up: SetUp, arguments: tuple[Any, ...]) -> None:
        self._function: Callable[[str], Any] | None = None
        self._error: ClipDistillError | None = None
        try:
            self._function = set_up(*arguments)
        except ClipDistillError as error:
            error.args = (f"On {platform.node()}: {error}",)
            self._error = error

    def started(self) -> ClipDistillError | None:
        """The error of the set-up, if there was one."""
        return self._error

    def do(self, task: str) -> tuple[Any, str]:
        """Do one task."""
        assert self._function is not None
        return done(self._function, task)
