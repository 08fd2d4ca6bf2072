"""gunicorn with gevent around the application."""

from __future__ import annotations

import resource
import signal
import socket
from types import FrameType
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.workers.ggevent import GeventWorker

from contracts.settings import Settings

CONNECTIONS = 8192  # per process; a waiting client costs a greenlet and a descriptor
GRACEFUL_SECONDS = 25
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"}},
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "root": {"level": "WARNING", "handlers": ["console"]},
    "loggers": {"gunicorn.error": {"level": "WARNING", "handlers": [], "propagate": True}},
}


def serve(settings: Settings) -> None:
    """Serve HTTP in this process and its children until SIGTERM or SIGINT; ends the process with SystemExit.

    Call it in a process of its own: the children patch the standard library for gevent before they import Redis'
    client, and what the parent has imported already they can only patch in part.
    """
    _allow_descriptors(CONNECTIONS + 256)
    _Gunicorn(settings).run()


class _Worker(GeventWorker):  # type: ignore[misc] # gunicorn has no types
    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> Any:
        """A client that does not take its answer is cut off; the next request's head must be here in gunicorn's 2 s."""
        sock.settimeout(self.app.settings.slow_client_seconds)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:
            raise StopIteration from None  # gunicorn's way to say that this connection is over

    def handle_exit(self, sig: signal.Signals, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        gevent.spawn(self.app.drain)  # a signal handler may run in gevent's hub, where nothing may block


# Not gunicorn's `Application`: that puts the working directory on sys.path, before our own packages.
class _Gunicorn(BaseApplication):  # type: ignore[misc] # gunicorn has no types
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        super().__init__()

    def load_config(self) -> None:
        for name, value in _options(self.settings).items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        # In the worker process, after gevent has patched the standard library.
        from server.app import create_app
        from server.services import EXTENSION

        app = create_app(self.settings)
        gevent.spawn(app.extensions[EXTENSION].access.warn_if_open)
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
        "logconfig_dict": LOGGING,
        "control_socket_disable": True,  # nobody uses it, and it would lie at one fixed path for all installations
    }


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        enough = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
