"""The hooks of workers/hooks/, each as its platform runs it: the command, and the variables."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from deployment import BIN, COMPOSE, HOOKS, JOB, document, pod
from place import DEADLINE, Place

STAND_IN = Path(__file__).parent / "stand_in_docker.py"


def secrets(place: Place) -> dict[str, str]:
    """What a hook has that nobody else is to know."""
    key = place.settings.signing_key
    assert key is not None
    url = place.settings.redis_url.get_secret_value()
    return {"DHARMA_REDIS_URL": url, "DHARMA_SIGNING_KEY": key.get_secret_value()}


@dataclass(frozen=True)
class Hook:
    """A command, with variables in its environment, and who it says is asking."""

    command: list[str]
    variables: Mapping[str, str]
    by: str


def shell(_place: Place) -> Hook:
    """By a person, or a tool that runs it for one."""
    return Hook(["sh", str(HOOKS / "migrate.sh")], {"DHARMA_BY": "ann (v1)"}, "ann (v1)")


def kubernetes(place: Place) -> Hook:
    """Kubernetes puts variables into arguments; the image has the entry point and the folder."""
    (container,) = pod(JOB)["containers"]
    variables = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    args = [
        re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], arg) for arg in container["args"]
    ]
    (entry,) = re.findall(r"^ENTRYPOINT (.+)", (HOOKS / "Dockerfile").read_text(), re.MULTILINE)
    return Hook(
        [*json.loads(entry), *args],
        variables | {"DHARMA_MIGRATIONS_DIR": str(place.folder)},
        "helm shop/app revision 7",
    )


def compose(place: Place) -> Hook:
    """The file to put beside one's own."""
    return _compose(HOOKS / "compose.yaml", place, {"DHARMA_BY": "ann at v1"}, "ann at v1")


def compose_of_all(place: Place) -> Hook:
    """The file with everything, where nobody says who asks."""
    return _compose(COMPOSE, place, {"REDIS_PASSWORD": "secret"}, "docker compose")


def _compose(path: Path, place: Place, given: dict[str, str], by: str) -> Hook:
    """Compose puts variables in, and mounts the folder."""

    def filled(text: str) -> str:
        return re.sub(
            r"\$\{(\w+)(:[-?]([^}]*))?\}", lambda found: known.get(found[1]) or found[3], text
        )

    known = given | secrets(place)
    service: Any = document(path)["services"]["migrate"]
    ((here, inside, _),) = (volume.split(":") for volume in service["volumes"])
    assert (here, service["environment"].pop("DHARMA_MIGRATIONS_DIR")) == ("./migrations", inside)
    assert service["environment"].keys() == secrets(place).keys()
    command = [filled(part) for part in (*service["entrypoint"], *service["command"])]
    return Hook(command, {"DHARMA_MIGRATIONS_DIR": str(place.folder)}, by)


def github(place: Place) -> Hook:
    """The step's script in GitHub's bash, with its expressions filled in."""
    known = {
        **{f"secrets.{name}": value for name, value in secrets(place).items()},
        "github.actor": "ann",
        "github.repository": "dharma/app",
        "github.run_id": "7",
    }
    step = document(HOOKS / "github-actions.yml")["jobs"]["migrate"]["steps"][-1]
    variables = {
        name: re.sub(r"\$\{\{ (\S+) \}\}", lambda found: known[found[1]], text)
        for name, text in step["env"].items()
    }
    docker = place.logs / "docker"
    docker.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(STAND_IN)])} "$@"\n')
    docker.chmod(0o755)
    bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
    return Hook(bash, variables, "ann (dharma/app, run 7)")


def gitlab(place: Place) -> Hook:
    """The job's script in its image's shell, with GitLab's variables in its own."""
    job = document(HOOKS / "gitlab-ci.yml")["migrate"]
    known = {
        "CI_PROJECT_DIR": str(place.folder.parent),
        "CI_PROJECT_PATH": "dharma/app",
        "CI_PIPELINE_ID": "7",
        "GITLAB_USER_LOGIN": "ann",
    }
    variables = {name: Template(text).substitute(known) for name, text in job["variables"].items()}
    return Hook(["sh", "-ec", "\n".join(job["script"])], variables, "ann (dharma/app, pipeline 7)")


SCRIPTS = (shell, github, gitlab)
"""Those between which and submit there is a shell, to pass on its exit status."""
EVERY = (*SCRIPTS, kubernetes, compose, compose_of_all)


def start(place: Place, hook: Hook, **others: str) -> subprocess.Popen[str]:
    """Start a hook where the folder of migrations is: with Redis' URL, and no database's."""
    path = [str(place.logs), str(BIN), os.environ["PATH"]]
    environment = {
        "PATH": os.pathsep.join(path),
        "DHARMA_NAMESPACE": place.settings.namespace,
        **secrets(place),
    }
    return subprocess.Popen(
        hook.command,
        env=environment | hook.variables | others,
        cwd=place.folder.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end, and return its exit status and what it said on stderr."""
    _, err = process.communicate(timeout=DEADLINE)
    return process.returncode, err
