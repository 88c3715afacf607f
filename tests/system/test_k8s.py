"""What we ship for Kubernetes: rendered by kubectl, valid to the letter, and of one mind with the
gateway."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import Config, load
from proxy.providers import PROVIDERS
from proxy.server.supervisor import MARGIN_S
from proxy.server.worker import CUT_S

OVERLAYS = ("valkey", "sentinel")
KINDS = ("base", *(f"overlays/{name}" for name in OVERLAYS))
MONITOR = "ServiceMonitor"  # the Prometheus operator's; Kubernetes itself has no schema of it
# The words of config.toml that are secret: the Secret `reelway-secrets` has them.
SECRET = ("REELWAY_SECRET", "REELWAY_ADMIN_TOKEN", "KLING_AK", "KLING_SK")
MIB = 1 << 20

Said = Callable[..., str]
Document = dict[str, Any]


class Rendered:
    """The documents of one overlay."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.documents: list[Document] = list(yaml.safe_load_all(text))

    def of(self, kind: str, name: str = "reelway") -> Document:
        """The one of this kind whose name is `name`, or `name` and a hash."""
        (found,) = (
            each
            for each in self.documents
            if each["kind"] == kind
            and re.fullmatch(rf"{name}(-[0-9a-z]{{10}})?", each["metadata"]["name"])
        )
        return found

    def pods(self) -> Iterator[Document]:
        """The pods that Deployments and StatefulSets make."""
        for each in self.documents:
            if each["kind"] in ("Deployment", "StatefulSet"):
                yield each["spec"]["template"]

    def words(self) -> dict[str, str]:
        """What the gateway's environment has, the secret ones made up."""
        return {**self.of("ConfigMap", "reelway-env")["data"], **dict.fromkeys(SECRET, "x" * 32)}


@pytest.fixture(scope="module")
def rendered(said: Said, deploy: Path) -> dict[str, Rendered]:
    return {name: Rendered(said("kubectl", "kustomize", deploy / "k8s" / name)) for name in KINDS}


@pytest.fixture(params=KINDS)
def each(request: pytest.FixtureRequest, rendered: dict[str, Rendered]) -> Rendered:
    return rendered[request.param]


def configured(each: Rendered, tmp_path: Path) -> Config:
    """What the gateway in the pod reads."""
    path = tmp_path / "config.toml"
    path.write_text(each.of("ConfigMap", "reelway-config")["data"]["config.toml"])
    return load(path, each.words(), PROVIDERS)


def container(each: Rendered) -> Document:
    (only,) = each.of("Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(only)


# ---------------------------------------------------------------- form


def test_every_document_is_valid_to_the_letter(each: Rendered, said: Said, tmp_path: Path) -> None:
    """No unknown field, nothing of a wrong type, nothing the next version has dropped."""
    known = [document for document in each.documents if document["kind"] != MONITOR]
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(known))
    told = said("kubernetes-validate", "--strict", path)
    assert told.count("passed for resource") == len(known), told
    assert "WARN" not in told


def test_names_that_are_referred_to_exist(each: Rendered) -> None:
    """Selectors find their pods, the autoscaler its Deployment, the Ingress its port; the one
    Secret is referred to and never made."""
    template = each.of("Deployment")["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    for selector in (
        each.of("Deployment")["spec"]["selector"]["matchLabels"],
        each.of("Service")["spec"]["selector"],
        each.of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        each.of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector
        assert selector.items() <= labels
    target = each.of("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "reelway")
    (rule,) = each.of("Ingress")["spec"]["rules"]
    backend = rule["http"]["paths"][0]["backend"]["service"]
    ports = {port["name"]: port["targetPort"] for port in each.of("Service")["spec"]["ports"]}
    named = {port["name"] for port in container(each)["ports"]}
    assert backend["name"] == "reelway"
    assert ports[backend["port"]["name"]] in named
    assert set(ports.values()) == named
    made = {(document["kind"], document["metadata"]["name"]) for document in each.documents}
    config, secrets = container(each)["envFrom"]
    assert ("ConfigMap", config["configMapRef"]["name"]) in made
    assert secrets["secretRef"]["name"] == "reelway-secrets"
    assert not [kind for kind, _ in made if kind == "Secret"]
    mounted = template["spec"]["volumes"][0]["configMap"]["name"]
    assert ("ConfigMap", mounted) in made


def test_pods_are_restricted(each: Rendered) -> None:
    """By Kubernetes' own standard of that name, with a file system nobody writes to."""
    for pod in each.pods():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for each_container in spec["containers"]:
            assert each_container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each_container["resources"]["limits"]["memory"]


# ---------------------------------------------------------------- of one mind with the gateway


def test_the_configuration_is_sound(each: Rendered, said: Said, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(each.of("ConfigMap", "reelway-config")["data"]["config.toml"])
    assert ": ok (" in said("reelway", "check", "--config", path, env=each.words())


def test_every_word_of_the_configuration_is_given(each: Rendered) -> None:
    """By the ConfigMap or the Secret, and nothing is given that is not used."""
    text = each.of("ConfigMap", "reelway-config")["data"]["config.toml"]
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    assert set(re.findall(r"\$\{(\w+)\}", code)) == set(each.words())


def test_a_pod_has_time_to_drain(each: Rendered, tmp_path: Path) -> None:
    pod = each.of("Deployment")["spec"]["template"]["spec"]
    pause = container(each)["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = configured(each, tmp_path).timeouts.drain_s + CUT_S + MARGIN_S
    assert pod["terminationGracePeriodSeconds"] > pause + drain


def test_probes_ask_the_admin_port(each: Rendered, tmp_path: Path) -> None:
    """Starting: until it is ready. Ready: for as long as known tokens may read without the
    store. Alive: whatever the store does."""
    config = configured(each, tmp_path)
    only = container(each)
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}
    listening = {"web": config.server.listen, "admin": config.admin.listen}
    assert listening == {name: f"0.0.0.0:{port}" for name, port in ports.items()}
    probes = {name: only[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["httpGet"]["path"] for name, probe in probes.items()} == {
        "startup": "/readyz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"admin"}
    patience = probes["readiness"]["periodSeconds"] * probes["readiness"]["failureThreshold"]
    assert patience > config.timeouts.redis_grace_s


def test_the_ingress_says_what_the_shipped_nginx_says(
    each: Rendered, deploy: Path, tmp_path: Path
) -> None:
    shipped = (deploy / "nginx" / "reelway.conf").read_text()
    prefix = "nginx.ingress.kubernetes.io/"
    told = {
        name.removeprefix(prefix): value
        for name, value in each.of("Ingress")["metadata"]["annotations"].items()
    }
    assert told.pop("enable-access-log") == "false"
    assert told.pop("proxy-body-size") == directive(shipped, "client_max_body_size")
    for name, value in told.items():
        ours = directive(shipped, name.replace("-", "_"))
        assert value == ours.removesuffix("s" if "timeout" in name else ""), name
    assert {"proxy-buffering", "proxy-request-buffering", "proxy-read-timeout"} <= set(told)
    limits = configured(each, tmp_path).limits
    assert max(limits.json_bytes, limits.upload_bytes + limits.form_text_bytes) < 96 * MIB


def directive(shipped: str, name: str) -> str:
    (value,) = re.findall(rf"^ *{name} +(\S+);$", shipped, re.MULTILINE)
    return str(value)


def test_the_files_a_pod_writes_have_room(each: Rendered, tmp_path: Path) -> None:
    volumes = {
        volume["name"]: volume["emptyDir"]["sizeLimit"]
        for volume in each.of("Deployment")["spec"]["template"]["spec"]["volumes"]
        if "emptyDir" in volume
    }
    assert volumes["state"] == "1Gi"
    assert configured(each, tmp_path).limits.spool_bytes < 1024 * MIB


# ---------------------------------------------------------------- the stores


def test_the_example_store_forgets_nothing(rendered: dict[str, Rendered], tmp_path: Path) -> None:
    """Its options are those the durability asked for needs, and its network lets only the gateway
    in."""
    each = rendered["overlays/valkey"]
    (only,) = each.of("StatefulSet", "valkey")["spec"]["template"]["spec"]["containers"]
    options = dict(zip(only["args"][1::2], only["args"][2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"
    config = configured(each, tmp_path)
    assert (config.redis.url, config.redis.durability) == ("redis://valkey:6379/0", "fsync")
    (rule,) = each.of("NetworkPolicy", "valkey")["spec"]["ingress"]
    (peer,) = rule["from"]
    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "reelway"}
    labels = each.of("StatefulSet", "valkey")["spec"]["template"]["metadata"]["labels"]
    allowed = [
        peer["podSelector"]["matchLabels"].items() <= labels.items()
        for rule in each.of("NetworkPolicy")["spec"]["egress"]
        for peer in rule["to"]
        if "podSelector" in peer and "namespaceSelector" not in peer
    ]
    assert allowed == [True]


def test_sentinels_are_asked_for_a_store_that_fails_over(
    rendered: dict[str, Rendered], tmp_path: Path
) -> None:
    config = configured(rendered["overlays/sentinel"], tmp_path)
    assert config.redis.url.startswith("redis+sentinel://")
    assert config.redis.durability == "replica"


@pytest.mark.parametrize("name", OVERLAYS)
def test_prometheus_finds_every_pod(rendered: dict[str, Rendered], name: str) -> None:
    each = rendered[f"overlays/{name}"]
    monitor = each.of(MONITOR)["spec"]
    service = each.of("Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "reelway"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"
