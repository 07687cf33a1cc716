"""What workers/prometheus/ offers to copy: Prometheus takes it, and workers export what it asks."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from deployment import WORKER, WORKERS, assert_lint, document, documents, pod
from prometheus_client import generate_latest
from ruamel.yaml import YAML

from dharma_tasks.metrics.page import Page
from dharma_tasks.metrics.pipe import Pipe
from dharma_tasks.metrics.standing import Position, Seen, Standing
from dharma_tasks.run import Ended, Progress, RunState

PROMETHEUS = WORKERS / "prometheus"
ALERTS = PROMETHEUS / "alerts.yml"
CONFIG = PROMETHEUS / "prometheus.yml"
CASES = Path(__file__).parent / "alerts_test.yml"
GUIDE = WORKERS.parent / "docs" / "monitoring.md"


@pytest.fixture
def promtool() -> str:
    """Prometheus' own checker."""
    found = shutil.which("promtool")
    if found is None:
        assert "CI" not in os.environ, "promtool is missing: .ci/run installs it"
        pytest.skip("promtool is not here (Debian, Ubuntu: apt install prometheus)")
    return found


def page() -> str:
    """A page on which everything has a value."""
    progress = Progress(
        version="1.0.0",
        name="n",
        number=1,
        count=1,
        type="t",
        summary="s",
        worker="w",
        total=7,
        since=0,
        heartbeat=0,
    )
    seen = Seen(
        at=time.monotonic(),
        snapshots=(),
        ended=Ended({}, dict.fromkeys(("mongodb",), RunState.FAILED)),
        serving=Counter(),
        positions={"mongodb": Position(Standing.WORKING, progress, lease=1.0)},
    )
    shown = Page(Pipe(), keep_seconds=60)
    shown.show(seen)
    return generate_latest(shown.registry).decode()


def rules() -> list[dict[str, Any]]:
    """The rules."""
    groups = YAML(typ="safe", pure=True).load(ALERTS)["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_prometheus_takes_them(promtool: str) -> None:
    """The configuration, and the rules that it names."""
    assert_lint(promtool, "check", "config", CONFIG)


def test_what_fires_when(promtool: str) -> None:
    """Each rule for what it is for, over two workers; and none while all is well."""
    assert_lint(promtool, "test", "rules", CASES)


def test_each_alert_has_a_case() -> None:
    """A rule that is added is tried too: by its name and its reason."""
    cases = CASES.read_text()
    for rule in rules():
        reason = rule["labels"].get("reason")
        text = f'{{alertname="{rule["alert"]}"' + (f', reason="{reason}"' if reason else "")
        assert text in cases, text


def test_workers_export_what_the_rules_ask_for() -> None:
    """Names of metrics, and the states that they are asked for."""
    exported, asked = page(), "\n".join(rule["expr"] for rule in rules())
    names = set(re.findall(r"\bdharma_\w+", asked))
    assert len(names) >= 5
    for name in names:
        assert re.search(rf"^# TYPE {name} ", exported, re.MULTILINE), name
    states = set(re.findall(r'(\w+)\{state="(\w+)"\}', asked))
    assert states
    for name, state in states:
        assert re.search(rf'^{name}{{.*state="{state}"', exported, re.MULTILINE), (name, state)


def test_the_guide_names_all_of_them() -> None:
    """Each metric and each alert has its line, and nothing has one that is not there."""
    text = GUIDE.read_text()
    exported = set(re.findall(r"^# TYPE (dharma_\w+) ", page(), re.MULTILINE))
    told = set(re.findall(r"^\| `(dharma_\w+)`", text, re.MULTILINE))
    assert told == exported
    alerts = {(rule["alert"], rule["labels"].get("reason", "")) for rule in rules()}
    assert set(re.findall(r"^\| `(Dharma\w+)`(?:, (\w+))? \|", text, re.MULTILINE)) == alerts


def test_the_same_port_everywhere() -> None:
    """Where the pods listen, what their Service says, and where Prometheus asks."""
    (container,) = pod(WORKER)["containers"]
    variables = {each["name"]: each.get("value") for each in container["env"]}
    (port,) = container["ports"]
    service = next(each for each in documents(WORKER) if each["kind"] == "Service")
    on_machines, in_kubernetes = document(CONFIG)["scrape_configs"]
    (asked,) = in_kubernetes["dns_sd_configs"]
    assert asked["names"] == [f"{service['metadata']['name']}.dharma.svc"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"].items() <= document_labels().items()
    static = on_machines["static_configs"][0]["targets"]
    ports = {int(each.rpartition(":")[2]) for each in static}
    ports |= {port["containerPort"], asked["port"], service["spec"]["ports"][0]["port"]}
    assert ports == {int(variables["DHARMA_METRICS_PORT"] or 0)}
    assert variables["DHARMA_METRICS_HOST"] == "0.0.0.0"  # noqa: S104 - in the pod


def document_labels() -> dict[str, str]:
    """The labels of the workers' pods."""
    labels: dict[str, str] = documents(WORKER)[0]["spec"]["template"]["metadata"]["labels"]
    return labels
