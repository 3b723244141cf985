"""The metrics: declared once, and nothing else can be counted."""

import re

import pytest

from app.infrastructure.metrics import METRICS, MetricKind, PrometheusMetrics


def series(metrics: PrometheusMetrics) -> dict[str, float]:
    lines = metrics.render().decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1])
        for line in lines
        if not line.startswith("#")
    }


def test_every_declared_metric_is_exposed_under_the_prefix_with_its_help() -> None:
    text = PrometheusMetrics().render().decode()
    for spec in METRICS:
        assert f"# HELP tidemill_{spec.name} {spec.help}" in text
        assert f"# TYPE tidemill_{spec.name} {spec.kind.value}" in text


def test_names_say_their_unit() -> None:
    for spec in METRICS:
        assert re.fullmatch(r"[a-z_]+", spec.name)
        assert spec.name.endswith("_total") == (spec.kind is MetricKind.COUNTER)
        if spec.kind is MetricKind.HISTOGRAM:
            assert spec.name.endswith("_seconds")


def test_counts_observations_and_settings_show() -> None:
    metrics = PrometheusMetrics()
    metrics.count("sweep_removed_total", 3, sweep="gc_files")
    metrics.observe("job_duration_seconds", 4, operation="trim", outcome="completed")
    metrics.set("jobs", 2, status="queued")
    found = series(metrics)
    assert found['tidemill_sweep_removed_total{sweep="gc_files"}'] == 3
    assert found['tidemill_sweep_removed_total{sweep="stale_sessions"}'] == 0
    labels = '{operation="trim",outcome="completed"}'
    assert found[f"tidemill_job_duration_seconds_count{labels}"] == 1
    assert found['tidemill_jobs{status="queued"}'] == 2
    assert 'tidemill_sweep_last_success_timestamp_seconds{sweep="gc_files"}' not in found


def test_an_unknown_name_raises() -> None:
    with pytest.raises(KeyError):
        PrometheusMetrics().count("surprises_total")


def test_a_wrong_kind_or_label_raises() -> None:
    metrics = PrometheusMetrics()
    with pytest.raises(TypeError):
        metrics.set("upload_created_total", 1)
    with pytest.raises(TypeError):
        metrics.count("jobs_active")
    with pytest.raises(TypeError):
        metrics.observe("jobs_active", 1)
    with pytest.raises(ValueError, match="label"):
        metrics.count("sweep_removed_total", colour="blue")
    with pytest.raises(ValueError, match="label"):
        metrics.count("upload_created_total", colour="blue")


def test_clients_cannot_make_series() -> None:
    metrics = PrometheusMetrics()
    for method in ("GET", "BREW", "PROPFIND"):
        metrics.count("http_requests_total", method=method, status="200")
    found = series(metrics)
    assert found['tidemill_http_requests_total{method="GET",status="200"}'] == 1
    assert found['tidemill_http_requests_total{method="other",status="200"}'] == 2


def test_what_was_counted_before_is_counted_on_whatever_the_order_of_labels() -> None:
    metrics = PrometheusMetrics()
    for _ in range(3):
        metrics.count("http_requests_total", method="GET", status="200")
        metrics.count("http_requests_total", status="200", method="GET")
        metrics.count("http_requests_total", method="BREW", status="200")
    found = series(metrics)
    assert found['tidemill_http_requests_total{method="GET",status="200"}'] == 6
    assert found['tidemill_http_requests_total{method="other",status="200"}'] == 3


def test_two_instances_do_not_share_anything() -> None:
    first, second = PrometheusMetrics(), PrometheusMetrics()
    first.count("upload_created_total")
    assert series(second)["tidemill_upload_created_total"] == 0
