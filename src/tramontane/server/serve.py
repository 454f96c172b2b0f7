"""serve: one server from start to end, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator

import uvicorn

from tramontane.errors import ConfigError
from tramontane.server.app import create_app
from tramontane.server.auth import require_safe_address
from tramontane.server.connections import ConnectionLimits, Connections
from tramontane.server.http_protocol import HttpProtocol
from tramontane.server.keys import has_keys
from tramontane.server.load import ProgressOf, load_registry, no_progress
from tramontane.server.models import ModelRegistry
from tramontane.server.routes.health import is_stuck
from tramontane.server.settings import ServerSettings
from tramontane.server.state import open_state
from tramontane.server.watchdog import Watchdog

log = logging.getLogger(__name__)
WATCH_S = 0.5
ENGINE_DEAD = 3
"""Exit code after an engine has died: a supervisor that restarts on failure then does."""
SWITCH_INTERVAL_S = 0.001
"""How long a thread may keep the interpreter from others that wait for it. A step takes it several times, each time
after whatever else computes in Python, such as checking a body."""
KEEP_ALIVE_S = 75
"""How long a connection may stand idle: longer than clients keep theirs, so that they close it and never send a request
into one that is just being closed here."""
MAX_CONNECTIONS = 2048
MAX_FILES = 2**20
OTHER_FILES = 64
"""Open files that are no connection's: the database's, the models', pipes. A connection may have one besides itself."""


class Server(uvicorn.Server):
    """Ends by itself on a signal and lets the process go on to its own exit code, where uvicorn would raise the signal
    again. A second signal does not wait for running answers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(
    settings: ServerSettings, *, progress_of: ProgressOf = no_progress, on_ready: Callable[[str], None] = print
) -> int:
    """Load the models, answer until SIGTERM or SIGINT, then let running answers end for `drain_s`. Returns the exit
    code. `on_ready` gets the address once it is open. Raises ConfigError and the like for what cannot be served."""
    _check_address(settings)
    limits = connection_limits(settings)
    listener = _listen(settings)
    try:
        registry = load_registry(settings, progress_of)
    except BaseException:
        listener.close()
        raise
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        with asyncio.Runner(loop_factory=_new_loop()) as runner:
            return runner.run(_serve(settings, registry, listener, limits, on_ready))
    finally:
        for model in registry:
            model.llm.shutdown()


async def _serve(
    settings: ServerSettings,
    registry: ModelRegistry,
    listener: socket.socket,
    limits: ConnectionLimits,
    on_ready: Callable[[str], None],
) -> int:
    app = create_app(settings, registry)
    if not has_keys(app.state.services.database):
        log.warning("no key is configured: only callers on this machine are served; see tramontane keys")
    settle()
    connections = Connections(limits)
    config = uvicorn.Config(
        app,
        http=functools.partial(HttpProtocol, connections=connections),  # type: ignore[arg-type]  # makes one
        log_config=None,
        access_log=False,
        proxy_headers=False,  # who calls is who is connected, whatever a header says
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        ws="none",
        backlog=2048,
    )
    server = Server(config)
    watchers = [asyncio.create_task(work) for work in (_watch(server, registry), connections.watch())]
    address = listener.getsockname()
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    announcer = asyncio.create_task(_announce(server, lambda: on_ready(f"http://{host}:{address[1]}")))
    bases = [model for model in registry if model.adapter is None]
    watchdog = Watchdog(
        asyncio.get_running_loop(), lambda: (model.name for model in bases if is_stuck(model, settings.stall_s))
    )
    try:
        await server.serve(sockets=[listener])
    finally:
        watchdog.close()
        announcer.cancel()
        for watcher in watchers:
            watcher.cancel()
    return ENGINE_DEAD if _has_died(registry) else 0


def settle() -> None:
    """What is there by now stays: the garbage collector, which holds everybody while it runs, is to look no more at it.
    A large body, as many objects, would set it off each time, for 0.2 s."""
    gc.collect()
    gc.freeze()


def connection_limits(settings: ServerSettings) -> ConnectionLimits:
    """So many connections that files can always be opened: the process gets all that the system lets it have. Raises
    ConfigError for more than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # where the system has yet another limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            soft = most
    room = (MAX_FILES if soft == resource.RLIM_INFINITY else soft) - OTHER_FILES
    wanted = settings.max_connections
    if room // 2 < (wanted or 1):
        raise ConfigError(
            f"the process may open {soft} files; {wanted or 1} connections need {OTHER_FILES + 2 * (wanted or 1)}: "
            "raise ulimit -n (LimitNOFILE of systemd)"
        )
    return ConnectionLimits(
        max_connections=wanted or min(MAX_CONNECTIONS, room // 2),
        max_per_address=settings.max_connections_per_address,
        proxies=settings.proxy or (),
        head_s=settings.head_s,
        body_stall_s=settings.body_stall_s,
        read_stall_s=settings.read_stall_s,
        min_bytes_per_s=settings.min_bytes_per_s,
    )


def _check_address(settings: ServerSettings) -> None:
    """Before models are loaded: raises ConfigError for a database that cannot be used or is not that of the folders,
    and for an address that other machines reach while there is no key."""
    database = open_state(settings).database
    try:
        require_safe_address(settings.host, database)
    finally:
        database.close()


def _new_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, where there is one: half the time per event of a stream."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _listen(settings: ServerSettings) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        return socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        remedy = {
            errno.EADDRINUSE: "; choose another --port, or end what listens there",
            errno.EACCES: "; ports below 1024 are the system's, choose a higher --port",
            errno.EADDRNOTAVAIL: "; --host names no address of this machine",
        }.get(error.errno or 0, "; check --host")
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {reason}{remedy}") from None


async def _announce(server: uvicorn.Server, announce: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    announce()


async def _watch(server: uvicorn.Server, registry: ModelRegistry) -> None:
    """A server whose engine has died answers nothing any more: it ends, so that it is restarted."""
    while not _has_died(registry):
        await asyncio.sleep(WATCH_S)
    log.critical("an engine has died; the server ends")
    server.should_exit = True


def _has_died(registry: ModelRegistry) -> bool:
    return any(not model.llm.health().is_alive for model in registry)
