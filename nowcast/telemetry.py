"""What the service tells about itself: Prometheus metrics and log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

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

    @contextmanager
    def timed(self, stage: str, domain: str) -> Iterator[None]:
        """Observe how long the block takes as ``nowcast_stage_seconds``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stage.labels(stage, domain).observe(time.perf_counter() - start)


def configure_logging(level: str, process: str, stream: TextIO | None = None) -> None:
    """Send log lines ``time level process message`` to standard error; call once, at an entry point."""
    handler = logging.StreamHandler(stream or sys.stderr)
    formatter = logging.Formatter(
        f"%(asctime)sZ %(levelname)-7s {process:<7} %(message)s", datefmt="%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
