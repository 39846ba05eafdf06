"""What is known to be wrong before a part of the service starts: one line for the operator, no restarts."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

from nowcast.errors import SettingsError
from nowcast.settings import Settings


def check_data_dir(settings: Settings, *, writes: bool) -> None:
    """Return if the data directory can be used; one that is to be written to is made.

    Raises:
        SettingsError: If it is no folder, is missing, or refuses what the part must do.
    """
    folder = settings.data_dir
    wanted = "expected a folder this process may " + ("write to" if writes else "read")
    try:
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
        os.stat(f"{folder}/.")  # a file has none; a Path would drop the dot
    except OSError as error:
        raise SettingsError(f"NOWCAST_DATA_DIR: {wanted}, got {folder}: {error.strerror}") from error
    if not os.access(folder, os.R_OK | os.X_OK | (os.W_OK if writes else 0)):
        reason = "read-only" if writes and os.access(folder, os.R_OK | os.X_OK) else "permission denied"
        raise SettingsError(f"NOWCAST_DATA_DIR: {wanted}, got {folder}: {reason}")


def check_weights(settings: Settings) -> None:
    """Return if the folder of weights is a folder, or is not there yet.

    Raises:
        SettingsError: If it is something else.
    """
    folder: Path = settings.weights_dir
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"NOWCAST_WEIGHTS_DIR: expected a folder, got the file {folder}")


def check_broker(settings: Settings) -> None:
    """Return if a worker that runs by itself knows its broker.

    Raises:
        SettingsError: If it does not.
    """
    if not settings.redis_url:
        raise SettingsError(
            "NOWCAST_REDIS_URL: expected redis://host:port/db for a worker by itself, got nothing"
        )


def check_port(host: str, port: int, *, prefix: str = "NOWCAST_") -> None:
    """Return if one can listen on ``host`` and ``port``; ``prefix`` begins the names of the two settings.

    Raises:
        SettingsError: If another process does, or it is no address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server itself does
            probe.bind(address)
    except socket.gaierror as error:
        raise SettingsError(f"{prefix}HOST: expected an address of this machine, got {host!r}") from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            message = f"{prefix}HOST: expected an address of this machine, got {host!r}"
        elif error.errno == errno.EADDRINUSE:
            message = f"{prefix}PORT: expected a free port, {port} on {host} is in use"
        else:
            message = f"{prefix}PORT: cannot listen on {port} of {host}: {error.strerror}"
        raise SettingsError(message) from error
