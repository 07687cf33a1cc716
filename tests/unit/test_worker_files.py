"""The workers as an image, in compose, in Kubernetes and under systemd: the files are right."""

from __future__ import annotations

import configparser
import os
import re
import shutil
from importlib import metadata
from pathlib import Path

import deployment
import pytest
from deployment import BIN, COMPOSE, IMAGE, ROOT, UNIT, WORKER, WORKERS

GRACE_SECONDS = 60
"""From SIGTERM to SIGKILL: several times what a worker was seen to take."""
MOST_EXPOSED = 20
"""What `systemd-analyze security` may give at most, in tenths; it calls less than 50 "OK"."""


def unit() -> configparser.SectionProxy:
    """What the unit says of its service; an option that is there twice has its last value."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser["Service"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit as an instance, with a program that is there in place of /opt/dharma's."""
    if shutil.which("systemd-analyze") is None:
        assert "CI" not in os.environ, "systemd-analyze is missing: .ci/run installs it"
        pytest.skip("systemd-analyze is not here (Debian, Ubuntu: apt install systemd)")
    path = tmp_path / UNIT.name.replace("@", "@all")
    path.write_text(UNIT.read_text().replace("/opt/dharma/bin/celery", shutil.which("true") or ""))
    return path


def test_image() -> None:
    """Hadolint has nothing to say; what it is told to pass over has its reason beside it."""
    deployment.assert_lint(BIN / "hadolint", IMAGE)


def test_image_is_pinned() -> None:
    """Each base by an exact tag, each package by constraints.txt, what builds the wheel too."""
    text = IMAGE.read_text()
    bases = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
    assert bases
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    builders = re.findall(r"^RUN pip install (\S+)", text, re.MULTILINE)
    assert builders
    constraints = (ROOT / "constraints.txt").read_text()
    assert all(f"\n{package}==" in constraints for package in builders)
    assert "PIP_CONSTRAINT=/src/constraints.txt" in text


def test_one_version_everywhere() -> None:
    """Our image has the package's version wherever a file or the guide names it."""
    tags = {
        tag
        for path in [*WORKERS.rglob("*"), COMPOSE]
        if path.is_file() and path.suffix != ".pyc"
        for tag in re.findall(r"\bdharma-tasks:([\w.-]+)", path.read_text())
    }
    assert tags == {metadata.version("dharma-tasks")}


def test_compose() -> None:
    """The file with everything is what compose publishes as valid."""
    deployment.assert_published("compose-spec", COMPOSE)


def test_kubernetes() -> None:
    """Valid for every Kubernetes that the file promises, and a restricted pod."""
    deployment.assert_kubernetes(WORKER)
    deployment.assert_restricted(WORKER)
    major, minor = deployment.OLDEST_KUBERNETES
    assert f"Kubernetes {major}.{minor} and newer" in WORKER.read_text()


def test_workers_are_replaced_one_by_one() -> None:
    """A new one is ready before an old one ends, and a drained node leaves one."""
    workers, budget, _ = deployment.documents(WORKER)
    spec = workers["spec"]
    assert spec["replicas"] > budget["spec"]["maxUnavailable"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == budget["spec"]["selector"]["matchLabels"] == labels


def test_the_same_grace_everywhere() -> None:
    """Kubernetes, compose and systemd give a worker the same time to end in."""
    assert deployment.pod(WORKER)["terminationGracePeriodSeconds"] == GRACE_SECONDS
    composed = deployment.document(COMPOSE)["services"]["worker"]
    assert composed["stop_grace_period"] == f"{GRACE_SECONDS}s"
    assert unit()["TimeoutStopSec"] == str(GRACE_SECONDS)


def test_unit(installed: Path) -> None:
    """Systemd knows every option and value of it."""
    deployment.assert_lint("systemd-analyze", "verify", "--man=no", installed)


def test_unit_is_hardened(installed: Path) -> None:
    """Systemd's own measure of what the service could do beyond its work."""
    most = f"--threshold={MOST_EXPOSED}"
    deployment.assert_lint("systemd-analyze", "security", "--offline=yes", most, installed)


def test_unit_ends_as_celery_does() -> None:
    """SIGTERM reaches the main process only, which is Celery's warm shutdown; then all is ended.

    Neighbours stay visible, because a worker looks whether one of them is dead.
    """
    service = unit()
    assert service["KillMode"] == "mixed"
    assert not service.keys() & {"ProtectProc", "ProcSubset", "KillSignal"}
    assert service["Restart"] == "always"
