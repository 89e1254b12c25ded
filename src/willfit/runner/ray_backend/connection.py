"""The connection to a Ray cluster that runs already: none is ever started."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import socket
from collections.abc import Iterator
from typing import Final

import ray

from willfit.errors import InputError

CONNECTING: Final = 5.0
"""Seconds for the cluster's head to answer."""


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Ray's, for as long as it lasts; one that the caller's program has is used and left."""
    if ray.is_initialized():
        yield
        return
    with _quiet():
        _connect()
        try:
            yield
        finally:
            ray.shutdown()


def _connect() -> None:
    address = os.environ.get("RAY_ADDRESS") or "auto"
    advice = "start one with `ray start --head`, set RAY_ADDRESS, or set backend: local"
    if address == "local":
        raise InputError(f"RAY_ADDRESS is 'local', which is no cluster that runs: {advice}")
    _require_answer(address, advice)
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises what its parts raise
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"no Ray cluster can be joined at {address} ({reason}): {advice}"
        ) from error


def _require_answer(address: str, advice: str) -> None:
    """That somebody listens there: Ray itself tries for minutes."""
    found = _resolved(address, advice)
    host, _, port = found.rpartition(":")
    if "://" in found or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECTING).close()
    except OSError as error:
        raise InputError(
            f"nobody answers at {found}, where the Ray cluster should be "
            f"({error.strerror or error}): {advice}"
        ) from error


def _resolved(address: str, advice: str) -> str:
    """Where `auto` leads to; raises `InputError` where it leads nowhere."""
    if address != "auto":
        return address
    services = importlib.import_module("ray._private.services")
    find = getattr(services, "canonicalize_bootstrap_address_or_die", None)
    if find is None:
        return address
    try:
        return str(find("auto"))
    except ConnectionError as error:
        raise InputError(
            f"there is no Ray cluster that this machine belongs to: {advice}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of other processes on our stdout.

    Whatever ``log_to_driver`` says, Ray prints there what raylets report. This is the switch that
    its own debugger uses (ray/util/rpdb.py).
    """
    worker = importlib.import_module("ray._private.worker")
    name = "_worker_logs_enabled"
    before = getattr(worker, name, True)
    setattr(worker, name, False)
    try:
        yield
    finally:
        setattr(worker, name, before)
