"""Every metric there is, declared in one table, and their exposition for Prometheus."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from app.domain.jobs import JobStatus
from app.domain.sweeps import SweepName
from app.infrastructure.metrics_sum import SharedCounts, SummedCollector

PREFIX = "tidemill"
OTHER = "other"
"""What an unexpected value of a closed label becomes, so that clients cannot make series."""


class MetricKind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name without prefix, and its labels with the values they may have.

    An empty tuple of values leaves a label open.
    """

    name: str
    kind: MetricKind
    help: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[float, ...] = ()


_SWEEP = {"sweep": tuple(name.value for name in SweepName)}
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_JOB_BUCKETS = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200)
_SWEEP_BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 300)
_OUTCOMES = tuple(
    status.value for status in JobStatus if status not in {JobStatus.QUEUED, JobStatus.PROCESSING}
)
_COUNTER, _GAUGE, _HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM

METRICS: tuple[MetricSpec, ...] = (
    MetricSpec(
        "jobs",
        _GAUGE,
        "Job rows by status.",
        {"status": tuple(status.value for status in JobStatus)},
    ),
    MetricSpec("jobs_active", _GAUGE, "Jobs that a worker is running."),
    MetricSpec(
        "job_duration_seconds",
        _HISTOGRAM,
        "Seconds from the start of a job's last attempt to its end, by operation and outcome.",
        {"operation": (), "outcome": _OUTCOMES},
        buckets=_JOB_BUCKETS,
    ),
    MetricSpec("job_timeouts_total", _COUNTER, "Jobs that failed with the code timeout."),
    MetricSpec(
        "job_requeued_total",
        _COUNTER,
        "Attempts after which a job was queued again, by why: it failed in a way that another "
        "attempt may cure, its worker was lost, or a worker that stopped handed it back.",
        {"why": ("failed", "worker_lost", "handed_back")},
    ),
    MetricSpec(
        "job_leases_lost_total",
        _COUNTER,
        "Attempts whose worker found that another had taken its place; it published nothing.",
    ),
    MetricSpec(
        "kept_clip_lookups_total",
        _COUNTER,
        "Steps that asked for a kept clip, by outcome: it was found; it was missing, or its file "
        "damaged, or the lookup failed, and the step ran.",
        {"outcome": ("found", "missing", "damaged", "failed")},
    ),
    MetricSpec(
        "renders_total",
        _COUNTER,
        "Synchronous renders by operation and by how they ended: delivered, failed, timed out, "
        "abandoned by the client, stopped with the service, or released to go on as a job.",
        {
            "operation": (),
            "outcome": ("delivered", "failed", "timed_out", "abandoned", "stopped", "released"),
        },
    ),
    MetricSpec("uploads_open", _GAUGE, "Uploads that are still receiving."),
    MetricSpec("upload_bytes_received_total", _COUNTER, "Bytes of uploads that were stored."),
    MetricSpec("upload_created_total", _COUNTER, "Uploads created."),
    MetricSpec(
        "upload_finished_total",
        _COUNTER,
        "Uploads that stopped receiving, by outcome: completed, or why they were removed.",
        {"outcome": ()},
    ),
    MetricSpec("sweep_removed_total", _COUNTER, "Things removed or repaired by sweeps.", _SWEEP),
    MetricSpec("sweep_bytes_freed_total", _COUNTER, "Bytes verified freed by sweeps.", _SWEEP),
    MetricSpec("sweep_errors_total", _COUNTER, "Entries that sweeps could not handle.", _SWEEP),
    MetricSpec(
        "sweep_last_success_timestamp_seconds",
        _GAUGE,
        "When a sweep last came to its end, in seconds since the epoch.",
        _SWEEP,
    ),
    MetricSpec(
        "sweep_duration_seconds",
        _HISTOGRAM,
        "Seconds that a run of a sweep took.",
        _SWEEP,
        buckets=_SWEEP_BUCKETS,
    ),
    MetricSpec("scratch_removed_total", _COUNTER, "Work folders that were removed."),
    MetricSpec(
        "scratch_remove_failed_total", _COUNTER, "Attempts to remove a work folder that failed."
    ),
    MetricSpec(
        "scratch_oldest_age_seconds",
        _GAUGE,
        "Seconds since the work folder that was left alone longest has changed; 0 without any.",
    ),
    MetricSpec("cleanup_pending", _GAUGE, "Files and folders still to be deleted."),
    MetricSpec(
        "cleanup_stuck",
        _GAUGE,
        "Those of them that five or more attempts could not delete: somebody must look.",
    ),
    MetricSpec("storage_free_bytes", _GAUGE, "Bytes free on the data folder's file system."),
    MetricSpec("storage_reserved_bytes", _GAUGE, "Bytes promised to open uploads, not yet there."),
    MetricSpec(
        "http_requests_total",
        _COUNTER,
        "HTTP responses by method and status code.",
        {"method": _METHODS, "status": ()},
    ),
)


class PrometheusMetrics:
    """The Metrics port on a registry of its own. Thread-safe.

    A name that is not declared, a wrong kind or wrong labels are bugs and raise. With ``counts``,
    what is rendered are the sums over all processes of the service.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, counts: SharedCounts | None = None) -> None:
        self._registry = CollectorRegistry()
        self._specs = {spec.name: spec for spec in METRICS}
        self._metrics = {spec.name: _make(spec) for spec in METRICS}
        self._children: dict[tuple[str, ...], MetricWrapperBase] = {}
        self._counts = counts
        self._own = [_WithoutCreated(metric) for metric in self._metrics.values()]
        for collector in [SummedCollector(self._own, counts)] if counts else self._own:
            self._registry.register(collector)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        metric = self._series(name, labels)
        if not isinstance(metric, Counter):
            msg = f"{name} is not a counter"
            raise TypeError(msg)
        metric.inc(amount)

    def observe(self, name: str, value: float, **labels: str) -> None:
        metric = self._series(name, labels)
        if not isinstance(metric, Histogram):
            msg = f"{name} is not a histogram"
            raise TypeError(msg)
        metric.observe(value)

    def set(self, name: str, value: float, **labels: str) -> None:
        metric = self._series(name, labels)
        if not isinstance(metric, Gauge):
            msg = f"{name} is not a gauge"
            raise TypeError(msg)
        metric.set(value)

    def render(self) -> bytes:
        """Return all series in the Prometheus text format (see ``content_type``)."""
        return generate_latest(self._registry)

    def share(self) -> None:
        """Show the other processes of the service, where there are any, what this one counted."""
        if self._counts is not None:
            self._counts.show(family for each in self._own for family in each.collect())

    def _series(self, name: str, labels: Mapping[str, str]) -> MetricWrapperBase:
        spec, metric = self._specs[name], self._metrics[name]
        if not spec.labels and not labels:
            return metric
        # Each request counts: to ask the library for a child costs more than to count.
        place = (name, *labels, *labels.values())
        child = self._children.get(place)
        if child is not None:
            return child
        known = {
            label: value if not spec.labels.get(label) or value in spec.labels[label] else OTHER
            for label, value in labels.items()
        }
        child = metric.labels(**known)
        if known == labels:  # others are without number: clients make them
            self._children[place] = child
        return child


class _WithoutCreated(Collector):
    """One metric without the ``_created`` series that the library adds to every counter."""

    def __init__(self, metric: MetricWrapperBase) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        for family in self._metric.collect():
            family.samples = [
                sample for sample in family.samples if not sample.name.endswith("_created")
            ]
            yield family


def _make(spec: MetricSpec) -> MetricWrapperBase:
    full_name, labels = f"{PREFIX}_{spec.name}", tuple(spec.labels)
    if spec.kind is MetricKind.COUNTER:
        metric: MetricWrapperBase = Counter(full_name, spec.help, labels, registry=None)
    elif spec.kind is MetricKind.GAUGE:
        metric = Gauge(full_name, spec.help, labels, registry=None)
    else:
        metric = Histogram(full_name, spec.help, labels, registry=None, buckets=spec.buckets)
    if len(labels) == 1 and spec.kind is not MetricKind.GAUGE:
        # A counter that starts at 0 shows its first event as a rise; a gauge would claim a value.
        for value in spec.labels[labels[0]]:
            metric.labels(value)
    return metric
