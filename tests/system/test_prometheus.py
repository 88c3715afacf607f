"""What is shipped for Prometheus, judged by Prometheus: the page, the rules and their tests, and a
real server that scrapes a gateway and raises an alert."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import generate_latest

from proxy.sim import Fault
from proxy.telemetry.metrics_merge import merged
from tests.rig.house import House, OpenHouse, Plan

WAIT_S = 60.0  # only a hang gets here
CONFIG = """
global:
  scrape_interval: 250ms
  scrape_timeout: 250ms
  evaluation_interval: 250ms
rule_files:
  - {rules}
scrape_configs:
  - job_name: reelway
    static_configs:
      - targets: ["{target}"]
"""


def test_promtool_likes_the_rules_their_tests_and_the_example(
    said: Callable[..., str], deploy: Path
) -> None:
    here = deploy / "prometheus"
    count = (here / "alerts.yml").read_text().count("- alert:")
    assert f"SUCCESS: {count} rules found" in said(
        "promtool", "check", "rules", here / "alerts.yml"
    )
    assert "SUCCESS" in said("promtool", "check", "config", here / "prometheus.yml")
    assert "SUCCESS" in said("promtool", "test", "rules", here / "alerts_test.yml")


def test_promtool_understands_every_query_of_the_dashboard(
    said: Callable[..., str], deploy: Path, tmp_path: Path
) -> None:
    """As rules, for which it has a check; the panel's own words for a range stand for one."""
    dashboards = list((deploy / "grafana").glob("*.json"))
    panels = [panel for path in dashboards for panel in json.loads(path.read_text())["panels"]]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = [
        {"record": f"panel:{n}", "expr": query.replace("$__rate_interval", "5m")}
        for n, query in enumerate(asked)
    ]
    assert len(rules) > 30
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules found" in said("promtool", "check", "rules", file)


async def test_promtool_likes_the_page_of_one_worker_and_of_several(
    house: House, tool: Callable[[str], str]
) -> None:
    second = await house.another_worker()
    task_id = await house.completed()
    await house.get(f"/v1/videos/{task_id}/content")
    await house.get(f"/v1/videos/{task_id}", base=second.url)
    await house.get("/v1/nope")
    pages = [generate_latest(server.registry) for server in (house.server, second)]
    assert len(pages[0]) > 10_000
    for page in (*pages, merged(pages), merged(pages[:1], ended=pages[1:])):
        checked = await asyncio.to_thread(
            subprocess.run,
            [tool("promtool"), "check", "metrics"],
            input=page,
            capture_output=True,
            timeout=WAIT_S,
            check=False,
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


async def test_a_real_prometheus_scrapes_a_gateway_and_raises_the_first_event(
    open_house: OpenHouse,
    tool: Callable[[str], str],
    deploy: Path,
    tmp_path: Path,
) -> None:
    """A submit nobody can confirm happens once, and once has to be enough."""
    async with open_house(Plan(manual=True)) as house:
        target = house.server.admin_url.removeprefix("http://")
        rules = deploy / "prometheus" / "alerts.yml"
        async with prometheus(
            tool("prometheus"), tmp_path, CONFIG.format(rules=rules, target=target)
        ) as url:
            asked = Asked(house, url)
            await asked.ready()
            unknown = 'sum(reelway_submits_total{outcome="unknown"})'
            await asked.until('up{job="reelway"}', 1)
            await asked.until("reelway_store_up", 1)
            await asked.until(unknown, 0)
            assert await asked.alerts() == set()
            house.sim.faults.add(Fault("lost", service="openai", operation="submit"))
            assert await house.create()
            await asked.until(unknown, 1)
            await asked.raised("ReelwaySubmitsUnknown")
            for rule in await asked.rules():
                assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]


class Asked:
    """Prometheus' HTTP API."""

    def __init__(self, house: House, url: str) -> None:
        self._house = house
        self._url = url

    async def _get(self, path: str, **query: str) -> Any:
        plain = {"Accept-Encoding": "identity"}
        async with self._house.client.get(self._url + path, params=query, headers=plain) as reply:
            answer = await reply.json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def ready(self) -> None:
        """It listens before it answers."""
        async with asyncio.timeout(WAIT_S):
            while True:
                async with self._house.client.get(f"{self._url}/-/ready") as reply:
                    if reply.status == 200:
                        return
                await asyncio.sleep(0.1)

    async def until(self, expression: str, value: float) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                found = (await self._get("/api/v1/query", query=expression))["result"]
                if [float(series["value"][1]) for series in found] == [value]:
                    return
                await asyncio.sleep(0.1)

    async def alerts(self) -> set[str]:
        """Those that fire."""
        found = (await self._get("/api/v1/alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in found if alert["state"] == "firing"}

    async def raised(self, alert: str) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                if alert in await self.alerts():
                    return
                await asyncio.sleep(0.1)

    async def rules(self) -> list[dict[str, Any]]:
        groups = (await self._get("/api/v1/rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]


@asynccontextmanager
async def prometheus(program: str, folder: Path, config: str) -> AsyncIterator[str]:
    """A server of its own on a port it picks itself; yields its address."""
    path = folder / "prometheus.yml"
    path.write_text(config)
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
            stdout=log,
            stderr=log,
        )
        try:
            async with asyncio.timeout(WAIT_S):
                while (port := listening(process.pid)) is None:
                    assert process.returncode is None, (folder / "prometheus.log").read_text()
                    await asyncio.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def listening(pid: int) -> int | None:
    """The TCP port on which this process listens; it says in no log which one it was given."""
    sockets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            sockets.add(str(link.readlink()))
        except FileNotFoundError:  # closed meanwhile
            continue
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, state, inode = fields[1], fields[3], fields[9]
        if state == "0A" and f"socket:[{inode}]" in sockets:  # TCP_LISTEN
            return int(local.rpartition(":")[2], 16)
    return None
