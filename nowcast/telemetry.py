"""What the service tells about itself: Prometheus metrics and log lines."""

from __future__ import annotations

import json
import logging
import math
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

#: Bucket edges [s] that resolve both a 5 ms read and a minute on a continental grid.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Telemetry:
    """All metrics of one process in one registry; names and labels are a public interface."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.frames = Counter(
            "nowcast_frames",
            "Frames that arrived, by what became of them",
            ["domain", "outcome"],
            registry=self.registry,
        )
        self.frame_age = Gauge(
            "nowcast_frame_age_seconds",
            "Age of the newest archived frame of a domain",
            ["domain"],
            registry=self.registry,
        )
        self.forecast_age = Gauge(
            "nowcast_forecast_age_seconds",
            "Age of the frame that the newest forecast of a domain starts from",
            ["domain"],
            registry=self.registry,
        )
        self.step = Gauge(
            "nowcast_step_seconds",
            "Time between two frames of a domain, as configured",
            ["domain"],
            registry=self.registry,
        )
        self.forecasts = Counter(
            "nowcast_forecasts",
            "Forecasts by method and outcome",
            ["domain", "model", "outcome"],
            registry=self.registry,
        )
        self.stage = Histogram(
            "nowcast_stage_seconds",
            "Time a stage of the pipeline took",
            ["stage", "domain"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.arrival_to_publish = Histogram(
            "nowcast_arrival_to_publish_seconds",
            "Time from a file's arrival in the inbox to its forecast being served",
            ["domain"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.degraded = Counter(
            "nowcast_degraded",
            "Forecasts that fell back on a lesser method, by reason",
            ["domain", "reason"],
            registry=self.registry,
        )
        self.skill = Gauge(
            "nowcast_skill",
            "Pooled score of the last day, by method, threshold and lead time",
            ["domain", "model", "score", "threshold_dbz", "lead_minutes"],
            registry=self.registry,
        )
        self.queue_lag = Gauge(
            "nowcast_queue_lag",
            "Messages a consumer group has yet to finish",
            ["stream", "group"],
            registry=self.registry,
        )
        self.queue_dead = Counter(
            "nowcast_queue_dead",
            "Messages given up after repeated attempts",
            ["stream"],
            registry=self.registry,
        )
        self.cache_requests = Counter(
            "nowcast_cache_requests",
            "Product requests by where the answer came from",
            ["outcome"],
            registry=self.registry,
        )
        self.http_requests = Counter(
            "nowcast_http_requests",
            "HTTP requests by the status they were answered with",
            ["status"],
            registry=self.registry,
        )

        self.http_seconds = Histogram(
            "nowcast_http_request_seconds",
            "Time from a request to the end of its answer, by method, route and status",
            ["method", "route", "status"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )

        self.given_up = Counter(
            "nowcast_given_up",
            "Work left alone after repeated failure until the next start, by stage",
            ["stage", "domain"],
            registry=self.registry,
        )
        self.inbox_ignored = Gauge(
            "nowcast_inbox_ignored",
            "Entries that lie in the inbox and are no files of a domain, by what they are",
            ["kind"],
            registry=self.registry,
        )
        self.ingest_paused = Gauge(
            "nowcast_ingest_paused",
            "1 while frames wait in the inbox because the disk is nearly full",
            registry=self.registry,
        )
        self.disk_free = Gauge(
            "nowcast_disk_free_bytes", "Space left on the disk of the data directory", registry=self.registry
        )
        self.disk_total = Gauge(
            "nowcast_disk_total_bytes", "Size of the disk of the data directory", registry=self.registry
        )
        for gauge in (self.disk_free, self.disk_total):
            gauge.set(math.nan)

    def watch_disk(self, data_dir: Path) -> None:
        """Look at the disk of the data directory whenever metrics are read; NaN if it does not answer."""

        def look(field: str) -> float:
            try:
                return float(getattr(shutil.disk_usage(data_dir), field))
            except OSError:
                return math.nan

        self.disk_free.set_function(lambda: look("free"))
        self.disk_total.set_function(lambda: look("total"))

    @contextmanager
    def timed(self, stage: str, domain: str) -> Iterator[None]:
        """Observe how long the block takes as ``nowcast_stage_seconds``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage.labels(stage, domain).observe(time.perf_counter() - start)


#: What a log line may say of a frame or a forecast, each in a field of its own: ``extra`` of a log call.
LOG_FIELDS = ("domain", "time", "issue_time", "model", "file")

#: Loggers that come with handlers of their own, which would write in another form.
FOREIGN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access")


class TextLines(logging.Formatter):
    """Lines for people: ``time level process message``."""

    def __init__(self, process: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {process:<7} %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return when it was logged, as every time here is written."""
        return datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class JsonLines(logging.Formatter):
    """Lines for machines: one JSON object each, with what is known of frame and forecast as fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON; ``logged`` is when, to the millisecond."""
        logged = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "logged": f"{logged:%Y-%m-%dT%H:%M:%S}.{logged.microsecond // 1000:03}Z",
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: str(getattr(record, name)) for name in LOG_FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure_logging(
    level: str, process: str, stream: TextIO | None = None, *, log_format: str = "text"
) -> None:
    """Send log lines to standard error, as text or as JSON; call once, at an entry point."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(process) if log_format == "json" else TextLines(process))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name in FOREIGN_LOGGERS:
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
