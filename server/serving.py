"""gunicorn with gevent around the application."""

from __future__ import annotations

import itertools
import logging
import os
import resource
import signal
import socket
from types import FrameType
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from contracts import logs
from contracts.garbage import collect_rarely
from contracts.settings import Settings
from server.idle import IdleConnections
from server.shared_folder import Place, SharedFolder

CONNECTIONS = 8192  # per process; a waiting client costs a greenlet and a descriptor
GRACEFUL_SECONDS = 25


def serve(settings: Settings) -> None:
    """Serve HTTP in this process and its children until SIGTERM or SIGINT; ends the process with SystemExit.

    Call it in a process of its own: the children patch the standard library for gevent before they import Redis'
    client, and what the parent has imported already they can only patch in part.
    """
    _allow_descriptors(CONNECTIONS + 256)
    folder = SharedFolder()
    server = os.getpid()
    try:
        _Gunicorn(settings, folder).run()
    finally:
        if os.getpid() == server:  # its children come through here, too
            folder.remove()


class _Joining:
    """A client's connection on which the head of an answer waits for what comes next: gunicorn sends it alone, and a
    client would be woken twice. Nothing is between the two but the code that sends them."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._head: bytes | None = None
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def sendall(self, data: bytes) -> None:
        if not self._begun:
            self._begun, self._head = True, data
            return
        self._connection.sendall(self._taken_head() + data)

    def flush(self) -> None:
        """The answer is over; some have no body."""
        if head := self._taken_head():
            self._connection.sendall(head)

    def _taken_head(self) -> bytes:
        head, self._head = self._head, None
        return head or b""


class _Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle = IdleConnections(self.app.settings.keep_alive_seconds)

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> None:
        """A client that does not take its answer is cut off; the next request's head must be here in gunicorn's 2 s."""
        sock.settimeout(self.app.settings.slow_client_seconds)
        connection = _Joining(sock)
        try:
            try:
                super().handle_request(listener_name, req, connection, addr)
            finally:
                connection.flush()
            gevent.sleep(0)  # a client whose next request is here already would be served before all others for ever
            if self.alive and not req.unreader.buf.getbuffer():
                self._idle.wait(sock)
        except TimeoutError:
            raise StopIteration from None  # gunicorn's way to say that this connection is over

    def handle_exit(self, sig: signal.Signals, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        gevent.spawn(self._drain)  # a signal handler may run in gevent's hub, where nothing may block

    def _drain(self) -> None:
        self._idle.close()
        self.app.drain()


class _Log(Logger):  # type: ignore[misc] # gunicorn has no types
    def access(self, *_: object) -> None:
        """Requests are noted by server.traffic; gunicorn would put together a line that nobody writes."""


# Not gunicorn's `Application`: that puts the working directory on sys.path, before our own packages.
class _Gunicorn(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    def __init__(self, settings: Settings, folder: SharedFolder) -> None:
        self.settings = settings
        self._folder = folder
        self._place: Place | None = None  # of the process that is about to be started, then of that process
        super().__init__()

    def load_config(self) -> None:
        hooks = {"pre_fork": self._give_place, "child_exit": self._clear_place}
        for name, value in (_options(self.settings) | hooks).items():
            self.cfg.set(name, value)

    def _give_place(self, arbiter: Any, worker: Any) -> None:
        taken = {each.place.number for each in arbiter.WORKERS.values()}
        number = next(number for number in itertools.count() if number not in taken)
        self._place = worker.place = Place(self._folder.path, number)

    def _clear_place(self, _arbiter: Any, worker: Any) -> None:
        self._folder.forget_open(worker.place.number)

    def load(self) -> Any:
        # In the worker process, after gevent has patched the standard library.
        from server.app import create_app
        from server.services import EXTENSION
        from server.traffic import RequestIds

        for handler in logging.getLogger().handlers:
            handler.addFilter(RequestIds())
        app = create_app(self.settings, place=self._place)
        gevent.spawn(app.extensions[EXTENSION].access.warn_if_open)
        collect_rarely()
        return app

    def drain(self) -> None:
        from server.services import EXTENSION

        self.wsgi().extensions[EXTENSION].waiting.drain()


def _options(settings: Settings) -> dict[str, Any]:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return {
        "bind": f"{host}:{settings.port}",
        "workers": settings.server_processes,
        "worker_class": _Worker,
        "worker_connections": CONNECTIONS,
        "graceful_timeout": GRACEFUL_SECONDS,
        "logger_class": _Log,
        "logconfig_dict": _logging(settings),
        "control_socket_disable": True,  # nobody uses it, and it would lie at one fixed path for all installations
    }


def _logging(settings: Settings) -> dict[str, Any]:
    described = logs.configuration(settings, level="WARNING")
    described["loggers"] |= {"gunicorn.error": {"level": "WARNING", "handlers": [], "propagate": True}}
    return described


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
