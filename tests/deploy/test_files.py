"""Example manifests and the dashboard name only what there is."""

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from streamward.distributed.config import ApplicationArguments
from streamward.engine.outputs import EngineStatistics
from streamward.observability import Metrics
from streamward.server.config import ServeConfig

ROOT = Path(__file__).parent.parent.parent
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
DASHBOARD = ROOT / "deploy" / "grafana" / "streamward.json"


def documents(path):
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def containers(document):
    """Every container of a document, wherever its pods are described."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name == "containers":
                yield from value
            else:
                yield from containers(value)
    elif isinstance(document, list):
        for each in document:
            yield from containers(each)


def test_there_are_manifests():
    assert [path.name for path in MANIFESTS] == ["ray.yaml", "vllm.yaml"]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_document_is_named_and_refers_to_what_is_there(path):
    found = documents(path)
    names = {(each["kind"], each["metadata"]["name"]) for each in found}
    assert len(names) == len(found)
    assert all(each["apiVersion"] for each in found)
    labels = [each["spec"]["template"]["metadata"]["labels"] for each in found if each["kind"] == "Deployment"]
    for each in found:
        if each["kind"] == "Service":
            assert each["spec"]["selector"] in labels
        if each["kind"] == "Deployment":
            assert each["spec"]["selector"]["matchLabels"] == each["spec"]["template"]["metadata"]["labels"]
            for volume in each["spec"]["template"]["spec"].get("volumes", []):
                assert "configMap" not in volume or ("ConfigMap", volume["configMap"]["name"]) in names


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_services_settings_are_settings_and_its_secrets_are_given(path):
    (config,) = [each for each in documents(path) if each["kind"] == "ConfigMap"]
    settings = ServeConfig.parse(tomllib.loads(config["data"]["serve.toml"]), source=path.name)
    (service,) = [each for each in containers(documents(path)) if each["name"] == "streamward"]
    given = {variable["name"] for variable in service["env"]}
    wanted = {settings.auth.admin_key_env, settings.store.url_env, settings.audit.hash_key_env}
    assert wanted | ({settings.vllm.api_key_env} if settings.vllm else set()) <= given
    assert settings.listen.port == service["ports"][0]["containerPort"]


def test_the_ray_application_can_be_built_as_it_is_configured():
    (service,) = [each for each in documents(MANIFESTS[0]) if each["kind"] == "RayService"]
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    source = (ROOT / "src" / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    assert name in {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    arguments = ApplicationArguments.parse(application["args"], source="test")
    assert arguments.ray.max_replicas == 16
    (settings,) = [each for each in documents(MANIFESTS[0]) if each["kind"] == "ConfigMap"]
    served = ServeConfig.parse(tomllib.loads(settings["data"]["serve.toml"]), source="test")
    assert (served.ray.application, served.guard) == (application["name"], arguments.guard)


def exported():
    """Names and labels of everything the service counts."""
    registry = counted().registry
    found = {}
    for collector, names in registry._collector_to_names.items():
        for name in names:
            found[name] = {*collector._labelnames, "le", "job"}
    for sample in (sample for metric in registry.collect() for sample in metric.samples):
        found.setdefault(sample.name, {*sample.labels, "job"})
    return found


def counted():
    """What a service counts whose guard has an engine in its process."""
    metrics = Metrics()
    metrics.watch_engine(lambda: EngineStatistics(0, 0, 0))
    return metrics


def expressions():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    return texts + [each["query"] for each in dashboard["templating"]["list"] if each["type"] == "query"]


def test_the_dashboard_names_only_metrics_and_labels_there_are():
    names = exported()
    for text in expressions():
        (name,) = set(re.findall(r"streamward_\w+", text))
        assert name in names, text
        labels = set(re.findall(r"(\w+)=~?\"", text))
        for group in re.findall(r"by \(([^)]*)\)", text):
            labels |= {label.strip() for label in group.split(",")}
        assert labels <= names[name], text


def test_the_dashboard_shows_every_metric():
    shown = {name for text in expressions() for name in re.findall(r"streamward_\w+", text)}
    families = {metric.name for metric in counted().registry.collect()}
    assert {name.removesuffix("_total").removesuffix("_bucket") for name in shown} == families


def test_panels_do_not_lie_on_each_other():
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(panels) == len({panel["id"] for panel in panels})
