"""Elasticsearch's program files, put together from Maven's central repository.

The zip that Elastic publishes there for integration tests is the real server without its optional
modules. `_reindex` is such a module; its jar and what that needs are published as well.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_exponential

from dharma_tasks.local.base import EngineError
from dharma_tasks.local.programs import made_once

VERSION = "7.17.29"
_SERVER = ("org.elasticsearch.distribution.integ-test-zip", "elasticsearch")
_REINDEX = f"org.elasticsearch.plugin:reindex-client:{VERSION}"
_DESCRIPTOR = f"""\
name=reindex
description=The Reindex module
version={VERSION}
elasticsearch.version={VERSION}
java.version=1.8
classname=org.elasticsearch.reindex.ReindexPlugin
extended.plugins=
has.native.controller=false
"""


def installed(report: Callable[[str], None] = lambda _: None) -> Path:
    """The unpacked server; downloaded once per user, about 60 MB."""

    def make(folder: Path) -> None:
        report(f"downloading Elasticsearch {VERSION} (60 MB, only this once)")
        repository = folder / "maven"  # not ~/.m2: a download broken off there would stay
        _build(folder, *_download(repository))
        shutil.rmtree(repository)

    return made_once(f"elasticsearch-{VERSION}", make)


@retry(
    retry=retry_if_exception_type(OSError),  # what jgo's HTTP library raises is one, too
    stop=stop_after_attempt(4),
    wait=wait_exponential(),
    reraise=True,
)
def _fetch(repository: Path) -> tuple[Path, list[Path]]:
    from jgo.maven import MavenContext  # noqa: PLC0415 - needed once per user, and slow to load

    shutil.rmtree(repository, ignore_errors=True)
    context = MavenContext(repo_cache=repository, timeout=60)
    server = context.project(*_SERVER).at_version(VERSION).artifact(packaging="zip").resolve()
    inputs, needed = context.resolver.resolve([context.create_dependency(_REINDEX)])
    jars = [each.artifact.resolve() for each in (*inputs, *needed) if each.scope != "test"]
    return server, jars


def _download(repository: Path) -> tuple[Path, list[Path]]:
    try:
        return _fetch(repository)
    except ImportError as error:
        message = f"{error}. Run: pip install 'dharma-tasks[local]'"
        raise EngineError(message) from error
    except (OSError, RuntimeError) as error:
        message = (
            f"Elasticsearch {VERSION} could not be downloaded from Maven's central repository: "
            f"{error}\nCheck the network (HTTPS_PROXY is used where it is set) and try again."
        )
        raise EngineError(message) from error


def _build(folder: Path, server: Path, jars: list[Path]) -> None:
    """Unpack the server and give it the module, without the jars that it has itself."""
    with zipfile.ZipFile(server) as archive:
        archive.extractall(folder)  # checks each file's sum, and drops ".." from names
    (top,) = folder.glob("elasticsearch-*")
    for entry in top.iterdir():
        entry.rename(folder / entry.name)
    top.rmdir()
    module = folder / "modules" / "reindex"
    module.mkdir()
    (module / "plugin-descriptor.properties").write_text(_DESCRIPTOR)
    for jar in jars:
        if not (folder / "lib" / jar.name).exists():
            shutil.copy(jar, module)
