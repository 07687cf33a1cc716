"""The hooks of workers/hooks/: the files are what their platforms publish as valid, and ours."""

from __future__ import annotations

import os
import re

import deployment
import pytest
from deployment import BIN, HOOKS, JOB

from dharma_tasks.submit import EXIT_STATUS, STOPPED_WAITING


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("compose-spec", "compose.yaml"),
        ("github-workflows", "github-actions.yml"),
        ("gitlab-ci", "gitlab-ci.yml"),
    ],
)
def test_published_schema(schema: str, name: str) -> None:
    """Compose, GitHub and GitLab would take the file."""
    deployment.assert_published(schema, HOOKS / name)


def test_image() -> None:
    """Hadolint has nothing to say about the hook's image."""
    deployment.assert_lint(BIN / "hadolint", HOOKS / "Dockerfile")


def test_shell() -> None:
    """The shell hook is plain POSIX sh, and shellcheck has nothing to say about it."""
    path = HOOKS / "migrate.sh"
    assert path.read_text().startswith("#!/bin/sh\n")
    assert os.access(path, os.X_OK)
    deployment.assert_lint(BIN / "shellcheck", "--shell", "sh", path)


@pytest.mark.parametrize(
    "name",
    ["compose.yaml", "github-actions.yml", "gitlab-ci.yml", "kubernetes-job.yaml", "migrate.sh"],
)
def test_redis_only(name: str) -> None:
    """The databases' credentials live with the workers: no hook has a variable for them."""
    text = (HOOKS / name).read_text()
    assert "DHARMA_REDIS_URL" in text
    assert not re.findall(r"DHARMA_(?:MONGODB|POSTGRESQL|ELASTICSEARCH)_URL", text)


def test_job() -> None:
    """Valid for every Kubernetes that is promised, and a restricted pod."""
    deployment.assert_kubernetes(JOB)
    deployment.assert_restricted(JOB)


def test_job_is_helms_first() -> None:
    """A plain Job that Helm runs before all else, of this release, and that says so to --by."""
    job = deployment.document(JOB)
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    annotations = job["metadata"]["annotations"]
    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert int(annotations["helm.sh/hook-weight"]) < 0
    assert "before-hook-creation" in annotations["helm.sh/hook-delete-policy"].split(",")
    (container,) = deployment.pod(JOB)["containers"]
    assert container["image"].endswith(":1.0.0")
    variables = {each["name"]: each.get("value") for each in container["env"]}
    assert variables["DHARMA_BY"] == "helm shop/app revision 7"
    assert container["args"][-2:] == ["--by", "$(DHARMA_BY)"]


def test_job_repeats_what_may_go_better() -> None:
    """Where nobody could be reached (4) it is tried again; all else would only come out the same.

    A container that has failed is not begun again in place (`Never`), so that its status counts.
    """
    spec = deployment.document(JOB)["spec"]
    pod = deployment.pod(JOB)
    (container,) = pod["containers"]
    assert pod["restartPolicy"] == "Never"
    assert 0 < spec["backoffLimit"] < 10
    (final,) = (
        rule["onExitCodes"]
        for rule in spec["podFailurePolicy"]["rules"]
        if rule["action"] == "FailJob"
    )
    assert (final["containerName"], final["operator"]) == (container["name"], "In")
    assert final["values"] == sorted({*EXIT_STATUS.values(), STOPPED_WAITING} - {0, 4})
    timeout = float(container["args"][container["args"].index("--timeout") + 1])
    assert timeout < spec["activeDeadlineSeconds"]
