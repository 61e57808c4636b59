"""Ends a process that waits for another one which is lost, where waiting alone would not tell."""

from __future__ import annotations

import logging
import os
import secrets
import selectors
import socket
import sys
import threading
from contextlib import suppress

import torch
import torch.distributed as dist

__all__ = ["GRACE_SECONDS", "KEEPALIVE", "Watch", "told_of_loss"]

logger = logging.getLogger(__name__)

# A machine is lost that answers nothing for TCP_KEEPIDLE + TCP_KEEPCNT * TCP_KEEPINTVL seconds.
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
# In which a process may notice by itself, as over gloo it does, or end for a reason of its own.
GRACE_SECONDS = 5.0
MEETING_SECONDS = 30.0

# A forked worker of a data loader must not keep a connection open that its process has lost.
_open: set[socket.socket] = set()


def _close_all() -> None:
    for connection in _open:
        connection.close()


os.register_at_fork(after_in_child=_close_all)


def told_of_loss(rank: int, size: int, reason: str) -> str:
    """What a process says that leaves because another one is gone."""
    return (
        f"process {rank} of {size} lost another one and leaves ({reason}); "
        "start the run again to go on from its last checkpoint"
    )


class Watch:
    """A connection from each process to rank 0, on which nothing is said while all are there.

    The system closes it when a process ends, however it ends, and gives it up when a machine no
    longer answers; that of a process which is only busy stays. When rank 0 loses one of them it
    closes all others. A process that has not begun to leave by itself `GRACE_SECONDS` later says
    why, and exits with code 1 from a thread, as its main thread may wait in NCCL for ever.

    Args:
        rank, size: of the processes.
        control: connects all of them, over the CPU.
    """

    def __init__(self, rank: int, size: int, control: dist.ProcessGroup) -> None:
        self.rank, self.size, self.control = rank, size, control
        self._leaving = threading.Event()
        self._connections: list[socket.socket] = []
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch from now on; all processes call this together."""
        self.stop()
        found, failed = list[socket.socket](), torch.tensor([0])
        try:
            (self._listen if self.rank == 0 else self._connect)(found)
        except OSError as error:
            failed[0] = 1
            logger.warning(
                "process %d cannot watch the others (%s): if one is lost, all may wait for minutes",
                *(self.rank, error),
            )
        dist.all_reduce(failed, dist.ReduceOp.MAX, group=self.control)
        if failed:
            for connection in found:
                connection.close()
            return
        for connection in found:
            _keep_alive(connection)
        _open.update(found)
        self._leaving, self._connections = threading.Event(), found
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; the others take it that this process leaves."""
        self._leaving.set()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the thread, which closes it
        if self._thread is not None:
            self._thread.join()
        self._connections, self._thread = [], None

    def _listen(self, found: list[socket.socket]) -> None:
        """Collect rank 0's connections, one to each of the others."""
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        port, password = 0, secrets.token_bytes(8)
        try:
            server = socket.create_server(
                ("", 0), family=family, backlog=self.size, dualstack_ipv6=dual
            )
            port = server.getsockname()[1]
        finally:
            self._share(port.to_bytes(8, "big") + password)  # the others wait for it
        with server:
            server.settimeout(MEETING_SECONDS)
            while len(found) < self.size - 1:
                connection, _ = server.accept()
                connection.settimeout(MEETING_SECONDS)
                with suppress(OSError):
                    if connection.recv(8, socket.MSG_WAITALL) == password:
                        found.append(connection)
                        continue
                connection.close()  # a stranger

    def _connect(self, found: list[socket.socket]) -> None:
        """Connect with rank 0."""
        told = self._share(bytes(16))
        address = os.environ["MASTER_ADDR"], int.from_bytes(told[:8], "big")
        found.append(socket.create_connection(address, MEETING_SECONDS))
        found[0].sendall(told[8:])

    def _share(self, word: bytes) -> bytes:
        """Rank 0's word on all processes."""
        shared = torch.tensor(list(word), dtype=torch.uint8)
        dist.broadcast(shared, 0, group=self.control)
        return bytes(shared.tolist())

    def _watch(self) -> None:
        """Wait until a connection closes; then leave, unless the process does so by itself."""
        connections, leaving = self._connections, self._leaving
        with selectors.DefaultSelector() as selector:
            for connection in connections:
                selector.register(connection, selectors.EVENT_READ)
            selector.select()
        for connection in connections:
            _open.discard(connection)
            connection.close()
        if not leaving.wait(GRACE_SECONDS):
            told = told_of_loss(self.rank, self.size, "its connection is closed")
            sys.stderr.write(f"error: {told}\n")  # in one, as another process may say it as well
            sys.stderr.flush()
            os._exit(1)


def _keep_alive(connection: socket.socket) -> None:
    """Have the system ask whether the other machine is still there."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
