"""Running tasks on a Ray cluster: as `processes`, in actors.

Ray is the scheduler only.  Tasks and outcomes are short texts; what a task reads and writes are
files that every machine of the cluster can reach.  Nothing here depends on what the tasks are.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from .errors import ClipDistillError, MissingExtraError, ServiceError
from .processes import Outcome, SetUp, done

ATTEMPTS = 3
"""How often a task is tried whose actor dies, such as with its machine."""
LOOPBACK = "127.0.0.2"
"""Of a cluster of this machine's own.  Ray replaces 127.0.0.1 with an address that others reach."""


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
        ServiceError: there is no cluster at the address, or it cannot be used.
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
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises plain ones, too
        where = "on this machine" if address in ("auto", "local") else f"at {address}"
        raise ServiceError(
            f"--ray {address}: no Ray cluster can be reached {where} ({_first(error)}). Start one "
            "with `ray start --head`, give its address, or use --ray local."
        ) from error
    return ray


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
    pending: dict[Any, tuple[Any, str]] = {}  # future -> (actor, task)

    def give(actor: Any) -> None:
        if left:
            task = left.pop()
            tries[task] += 1
            pending[actor.do.remote(task)] = (actor, task)

    for _ in range(min(workers, len(tasks))):
        give(actor_class.remote(set_up, arguments))
    while pending:
        ready, _ = ray.wait(list(pending), num_returns=1)
        actor, task = pending.pop(ready[0])
        try:
            value, reason, error = ray.get(ready[0])
        except ray.exceptions.RayError as failure:
            if tries[task] < ATTEMPTS:
                left.append(task)
            else:
                yield Outcome(task, reason=f"its actor died {ATTEMPTS} times ({_first(failure)})")
            give(actor_class.remote(set_up, arguments))
            continue
        if error is not None:
            raise error
        yield Outcome(task, value, reason)
        give(actor)


class _Actor:
    """Sets up once, then does tasks; errors are returned, so that Ray does not wrap them."""

    def __init__(self, set_up: SetUp, arguments: tuple[Any, ...]) -> None:
        self._function, self._error = None, None
        try:
            self._function = set_up(*arguments)
        except ClipDistillError as error:
            self._error = error

    def do(self, task: str) -> tuple[Any, str, ClipDistillError | None]:
        """Do one task."""
        if self._function is None:
            return None, "", self._error
        return *done(self._function, task), None
