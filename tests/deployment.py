"""What workers/ offers to copy, as its platforms read it, and what they publish to check it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
from check_jsonschema import main as check_jsonschema
from click.testing import CliRunner
from kubernetes_validate.utils import all_versions
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WORKERS = ROOT / "workers"
HOOKS = WORKERS / "hooks"
IMAGE = WORKERS / "Dockerfile"
COMPOSE = ROOT / "docker-compose.yml"
WORKER = WORKERS / "kubernetes" / "worker.yaml"
JOB = HOOKS / "kubernetes-job.yaml"
UNIT = WORKERS / "systemd" / "dharma-worker@.service"

OLDEST_KUBERNETES = (1, 29)
"""Before it the published schema of a Job is wrong about `podFailurePolicy`."""
KUBERNETES = [
    version
    for version in sorted(set(all_versions()))
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST_KUBERNETES
]

_RELEASE = {
    ".Release.Name": "app",
    ".Release.Namespace": "shop",
    ".Release.Revision": "7",
    ".Chart.AppVersion": "1.0.0",
}


def documents(path: Path) -> list[Any]:
    """The documents of a YAML file, after Helm; a key that is there twice is refused."""
    return list(YAML(typ="safe", pure=True).load_all(_rendered(path.read_text())))


def document(path: Path) -> Any:
    """The only document of a YAML file."""
    (found,) = documents(path)
    return found


def _rendered(text: str) -> str:
    """What Helm makes of a template that only asks for these, in its comments too."""
    return re.sub(r"(?<!\$)\{\{(.*?)\}\}", lambda found: _RELEASE[found[1].strip()], text)


def pod(path: Path) -> Any:
    """The pod of a file's first object, with its only container."""
    found = documents(path)[0]["spec"]["template"]["spec"]
    (_,) = found["containers"]
    return found


def assert_lint(*command: str | Path) -> None:
    """A linter of this environment, or of the system, finds nothing."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def assert_published(schema: str, path: Path) -> None:
    """It is what the platform publishes as valid; check-jsonschema has the schema with it."""
    done = CliRunner().invoke(check_jsonschema, ["--builtin-schema", f"vendor.{schema}", str(path)])
    assert done.exit_code == 0, done.output


def assert_kubernetes(path: Path) -> None:
    """Each object is valid for every version that is promised; unknown fields are errors."""
    for version in KUBERNETES:
        for found in documents(path):
            kubernetes_validate.validate(found, version, strict=True)


def assert_restricted(path: Path) -> None:
    """The pod keeps to the "restricted" standard, with a read-only file system and no token.

    Its URLs come from Secrets.
    """
    found = pod(path)
    assert found["automountServiceAccountToken"] is False
    (user,) = re.findall(r"^USER (\d+)$", IMAGE.read_text(), re.MULTILINE)
    assert found["securityContext"]["runAsUser"] == int(user)
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = found["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"].keys() == {"requests", "limits"}
    urls = [each for each in container["env"] if each["name"].endswith("_URL")]
    assert urls
    assert all(each["valueFrom"].keys() == {"secretKeyRef"} for each in urls)
