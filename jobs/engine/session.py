"""Open the engine: Sail in this process, Apache Spark, or a Spark Connect service.

Jobs use only the DataFrame API that all three share.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from pyspark.sql import SparkSession

from corpus.worker import num_cores
from schemas.errors import UserError

MIN_JAVA = 17
SESSION_SECONDS = 30 * 86_400


@dataclass(frozen=True)
class Engine:
    """An open session, and the engine's name and version for manifests and tables."""

    name: str
    spark: SparkSession


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose the engine: `--master`, `--remote`, `--verbose`."""
    text = "run on Apache Spark, e.g. local[2] or yarn (needs Java 17)"
    parser.add_argument("--master", metavar="URL", help=text)
    text = "run on a Spark Connect service, e.g. sc://HOST"
    parser.add_argument("--remote", metavar="URL", help=text)
    parser.add_argument("--verbose", action="store_true", help="show the engine's log")


@contextlib.contextmanager
def open_engine(master: str | None, remote: str | None, verbose: bool) -> Iterator[Engine]:
    """A session on `remote` (sc://...), on Apache Spark at `master`, or on the embedded Sail.

    Under spark-submit the session that it prepared is used unless a flag is given.
    """
    if master and remote:
        raise UserError(f"--master {master} and --remote {remote}: give only one of them")
    if remote:
        yield from _connect(remote)
    elif master or _under_spark_submit():
        yield from _spark(master, verbose)
    else:
        yield from _sail(verbose)


def _under_spark_submit() -> bool:
    return "PYSPARK_GATEWAY_PORT" in os.environ


def _connect(remote: str) -> Iterator[Engine]:
    address = urlsplit(remote)
    if address.scheme != "sc" or not address.hostname:
        raise UserError(f"--remote {remote}: must look like sc://HOST or sc://HOST:15002")
    try:
        socket.create_connection((address.hostname, address.port or 15002), timeout=10).close()
    except OSError as error:
        raise UserError(f"--remote {remote}: no Spark Connect service there: {error}") from None
    spark = SparkSession.builder.remote(remote).create()
    try:
        yield Engine(f"spark connect {spark.version}", spark)
    finally:
        spark.stop()


def _sail(verbose: bool) -> Iterator[Engine]:
    # Sail reads its log filter from here, once, when its library is loaded.
    os.environ.setdefault("RUST_LOG", "info" if verbose else "error")
    # Its sessions would end after minutes without a query, while this process trains a tokenizer.
    os.environ.setdefault("SAIL_SPARK__SESSION_TIMEOUT_SECS", str(SESSION_SECONDS))
    import pysail
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer(ip="127.0.0.1", port=0)
    server.start(background=True)
    _, port = server.listening_address
    spark = SparkSession.builder.remote(f"sc://127.0.0.1:{port}").create()
    try:
        yield Engine(f"sail {pysail.__version__}", spark)
    finally:
        spark.stop()
        server.stop()


def _spark(master: str | None, verbose: bool) -> Iterator[Engine]:
    if not _under_spark_submit():
        require_java(f"--master {master}")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("gristmill")
    if master:
        builder = builder.master(master)
    for name, value in _spark_settings(verbose).items():
        builder = builder.config(name, value)
    with contextlib.nullcontext() if verbose else _quiet_stderr():
        spark = builder.getOrCreate()
    try:
        yield Engine(f"spark {spark.version}", spark)
    finally:
        spark.stop()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Discard what a JVM started in the block prints on stderr; failures raise exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _spark_settings(verbose: bool) -> dict[str, str]:
    settings = {
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
        "spark.ui.showConsoleProgress": "false",
    }
    if not verbose:
        settings["spark.log.level"] = "ERROR"
    if not _under_spark_submit():
        # Local mode: both addresses, or large results are lost; no web server for a short run.
        # The second compiler costs more CPU than it saves in minutes.
        settings |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1",
            "spark.sql.shuffle.partitions": str(2 * num_cores()),
        }
    return settings


def require_java(asked_by: str) -> None:
    """Raise `UserError` if no Java of version 17 or newer is found for Apache Spark."""
    home = os.environ.get("JAVA_HOME")
    java = os.path.join(home, "bin", "java") if home else shutil.which("java")  # noqa: PTH118
    found = _java_version(java) if java else None
    if found is None:
        raise UserError(
            f"{asked_by}: Apache Spark needs Java {MIN_JAVA} or newer, and none was found on PATH "
            "or in JAVA_HOME; without --master the embedded engine runs and needs no Java"
        )
    if found < MIN_JAVA:
        raise UserError(f"{asked_by}: {java} is Java {found}; Apache Spark needs {MIN_JAVA}")


def _java_version(java: str) -> int | None:
    try:
        run = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = run.stderr.split('"')
    major = words[1].split(".")[0] if len(words) > 1 else ""
    return int(major) if major.isdigit() else None
