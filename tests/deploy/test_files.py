"""deploy/: what can be checked without Docker, Kubernetes and a running systemd."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions, packages_distributions, requires
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from click import Context
from compose_spec import PyCompose

from cli.main import cli
from contracts.settings import ENVIRONMENT_PREFIX, Settings, variable

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SETTINGS = {variable(name) for name in Settings.__dataclass_fields__} | {"KAMISHIBAI_API_KEY"}  # which commands take
OF_COMPOSE = {"PORT", "EXTRAS", "PIP_EXTRA_INDEX_URL", "DEVICE", "STORE"}  # compose.yaml asks its own environment
KUBERNETES = "1.34"
KUBECTL = shutil.which("kubectl") or ""
SYSTEMD_ANALYZE = shutil.which("systemd-analyze") or ""
needs_kubectl = pytest.mark.skipif(not KUBECTL, reason="kubectl, which renders the manifests, is not here")


def interpolated(text):
    """As Compose does with an empty environment."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.fixture(scope="module")
def compose():
    return yaml.safe_load(interpolated((DEPLOY / "compose.yaml").read_text()))


@pytest.fixture(scope="module", params=["kubernetes", "kubernetes-pull"])
def manifests(request):
    rendered = subprocess.run(
        [KUBECTL, "kustomize", str(DEPLOY / request.param)], capture_output=True, text=True, check=True
    )
    return list(yaml.safe_load_all(rendered.stdout))


def containers(manifests):
    for manifest in manifests:
        if manifest["kind"] in ("Deployment", "StatefulSet"):
            yield from manifest["spec"]["template"]["spec"]["containers"]


def assert_understood(arguments):
    """Whether our command takes these; the values are not looked at."""
    name, *options = arguments
    command = cli.get_command(Context(cli), name)
    assert command is not None, name
    context = Context(command, help_option_names=["-h", "--help"])  # the command keeps its help option
    command.make_parser(context).parse_args(list(options))


def assert_known(names):
    assert {name for name in names if name.startswith(ENVIRONMENT_PREFIX)} <= SETTINGS


def test_hadolint_finds_nothing_in_the_dockerfile():
    hadolint = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run([hadolint, DEPLOY / "docker" / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_dockerfile_sets_what_there_is_and_starts_commands_that_there_are():
    text = (DEPLOY / "docker" / "Dockerfile").read_text()
    assert_known(re.findall(r"\b(KAMISHIBAI_\w+)=", text))
    for command in re.findall(r"^CMD (\[.*\])$", text, re.MULTILINE):
        assert_understood(json.loads(command))
    assert text.count("USER 10001:10001") == 2


def plain(name):
    """A distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def with_what_they_need(names):
    installed = {plain(each.name) for each in distributions()}
    found, pending = set(), list(names)
    while pending:
        if (name := pending.pop()) not in found and name in installed:
            found.add(name)
            needed = [line for line in requires(name) or [] if "extra ==" not in line]
            pending += [plain(re.split(r"[^\w.-]", line)[0]) for line in needed]
    return found


def test_the_servers_image_has_all_that_the_server_imports_and_no_pytorch():
    lines = (DEPLOY / "docker" / "server-requirements.txt").read_text().splitlines()
    listed = {plain(line.partition("[")[0]) for line in lines if not line.startswith("#")}
    script = "import sys, cli.main, cli.clerk, server.app, server.serving, server.clerk; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    packages = packages_distributions()
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    imported = {plain(each) for module in modules for each in packages.get(module, [])}
    assert imported - {"kamishibai", "setuptools", "hiredis"} <= with_what_they_need(listed)
    assert not with_what_they_need(listed) & {"torch", "transformers", "accelerate"}


def test_the_compose_files_are_what_the_specification_says(compose):
    beside = [yaml.safe_load((DEPLOY / f"compose.{name}.yaml").read_text()) for name in ("gpu", "pull")]
    for document in (compose, *beside):
        PyCompose.from_json(json.dumps(document))
    with pytest.raises(ValueError, match="expected a set"):
        PyCompose.from_json(json.dumps({"services": {"server": {"image": "a", "ports": 3}}}))
    for document in beside:
        assert document["services"].keys() <= compose["services"].keys()
        for service in document["services"].values():
            assert_known(service.get("environment", {}))


def test_compose_starts_commands_that_there_are_with_settings_that_there_are(compose):
    text = (DEPLOY / "compose.yaml").read_text()
    asked = {name.removeprefix(ENVIRONMENT_PREFIX) for name in re.findall(r"\$\{(\w+)", text)}
    assert asked == OF_COMPOSE
    for name, service in compose["services"].items():
        if service["image"].startswith("kamishibai-"):
            assert_known(service["environment"])
            assert_understood(service.get("command", ["serve"]))
            assert service["read_only"], name
        else:
            assert re.search(r":v?\d+\.\d+", service["image"]), f"{name} is not pinned"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source == "../store" or (DEPLOY / source).exists(), source


def queries():
    dashboard = json.loads((DEPLOY / "grafana" / "dashboards" / "kamishibai.json").read_text())
    yield from (target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    for file in (DEPLOY / "kubernetes").rglob("*.yaml"):
        yield from re.findall(r"(?:query: |value: ')((?:sum|histogram_quantile)\(.*\))", file.read_text())


def test_dashboard_and_scaling_ask_for_metrics_that_there_are():
    documented = set(re.findall(r"`(kamishibai_\w+)`", (ROOT / "docs" / "operations.md").read_text()))
    asked = {name for query in queries() for name in re.findall(r"kamishibai_\w+", query)}
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} <= documented
    assert len(list(queries())) > 20


@needs_kubectl
def test_the_manifests_are_what_kubernetes_says(manifests):
    for manifest in manifests:
        if manifest["kind"] == "ScaledObject":
            continue  # KEDA's own kind, whose schema is not at hand
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**manifests[0], "metadata": 3}, KUBERNETES, strict=True)


@needs_kubectl
def test_the_manifests_start_commands_that_there_are_with_settings_that_there_are(manifests):
    ours = [each for each in containers(manifests) if each["image"].startswith("kamishibai-")]
    assert len(ours) == 4
    for container in ours:
        assert_understood(container["args"])
        assert_known(entry["name"] for entry in container["env"])
        assert container["securityContext"]["readOnlyRootFilesystem"]


@needs_kubectl
def test_every_scaled_object_and_budget_is_about_a_deployment_that_there_is(manifests):
    deployments = {each["metadata"]["name"]: each for each in manifests if each["kind"] == "Deployment"}
    for each in manifests:
        if each["kind"] in ("ScaledObject", "HorizontalPodAutoscaler"):
            assert each["spec"]["scaleTargetRef"]["name"] in deployments
        if each["kind"] == "PodDisruptionBudget":
            labels = each["spec"]["selector"]["matchLabels"].items()
            chosen = [d for d in deployments.values() if labels <= d["spec"]["template"]["metadata"]["labels"].items()]
            assert len(chosen) == 1
    text = deployments["worker-text"]["spec"]["template"]["spec"]
    assert text["terminationGracePeriodSeconds"] > 25, "a worker drains for 25 s"
    assert text["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


@needs_kubectl
def test_workers_that_pull_have_a_store_of_their_own_and_may_reach_servers(manifests):
    workers = [each for each in manifests if each["kind"] == "Deployment" and "worker-" in each["metadata"]["name"]]
    services = {each["metadata"]["name"]: each["spec"] for each in manifests if each["kind"] == "Service"}
    assert len(workers) == 2
    for worker in workers:
        pod = worker["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        environment = {entry["name"]: entry.get("value") for entry in container["env"]}
        (mount,) = (each for each in container["volumeMounts"] if each["name"] == "store")
        (volume,) = (each for each in pod["volumes"] if each["name"] == "store")
        pulls = "models" in services
        assert ("emptyDir" in volume, mount.get("readOnly", False)) == (pulls, not pulls)
        assert environment.get("KAMISHIBAI_STORE_FROM") == ("http://models" if pulls else None)
        assert not pulls or services["models"]["publishNotReadyAddresses"]


@pytest.mark.skipif(not SYSTEMD_ANALYZE, reason="systemd-analyze is not here")
def test_systemd_understands_the_units(tmp_path):
    for unit in (DEPLOY / "systemd").glob("*.service"):
        text = unit.read_text().replace(
            "/opt/kamishibai/bin/kamishibai", str(Path(sysconfig.get_path("scripts")) / "kamishibai")
        )
        (tmp_path / unit.name).write_text(text)
        (line,) = re.findall(r"^ExecStart=\S+ (.*)$", text, re.MULTILINE)
        assert_understood(line.split())
        done = subprocess.run([SYSTEMD_ANALYZE, "verify", tmp_path / unit.name], capture_output=True, text=True)
        assert unit.stem not in done.stderr, done.stderr
