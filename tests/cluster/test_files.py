"""The files for clouds and Kubernetes are what Ray, Kubernetes and Docker read, and agree with this repository.

They are read by the readers of those who will run them, since nothing here can run them.
"""

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dockerfile
import jsonschema
import kubernetes_validate
import pytest
import ray
import typer
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.main import cli
from pipeline.experiment_file import named_experiments

ROOT = Path(__file__).parents[2]
FILES = ROOT / "cluster"
AUTOSCALER = ("aws.yaml", "gcp.yaml")
KUBERAY = ("kuberay-raycluster.yaml", "kuberay-rayjob.yaml")
START_MINUTES = 15
"""More than a machine takes from its order to its first step: boot, an image of 10 GB, ImageNet's 150 GB."""


class Strict(yaml.SafeLoader):
    """A loader that refuses a name that stands twice in a mapping; PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(name, deep=True) for name, _ in node.value]  # type: ignore[no-untyped-call]
        assert len(names) == len(set(names)), f"{node.start_mark}: a name stands twice in {names}"
        return super().construct_mapping(node, deep)


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.load_all((FILES / name).read_text(), Strict))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    return next(document for document in documents(name) if document["kind"] == kind)


def ray_cluster(name: str) -> dict[str, Any]:
    """The RayCluster that a file makes."""
    if name == "kuberay-raycluster.yaml":
        return of_kind(name, "RayCluster")
    job = of_kind(name, "RayJob")
    return {"metadata": job["metadata"], "spec": job["spec"]["rayClusterSpec"]}


@pytest.mark.parametrize("name", AUTOSCALER)
def test_rays_autoscaler_reads_it(name: str) -> None:
    (config,) = documents(name)
    prepared = prepare_config(config)
    validate_config(prepared)
    assert prepared["available_node_types"]["gpu-spot"]["max_workers"] == 16
    # Only what the file says runs on a node: Ray's defaults would install another Ray.
    assert not [
        command for command in prepared["worker_setup_commands"] + prepared["setup_commands"] if "ray" in command
    ]


@pytest.mark.parametrize("name", AUTOSCALER)
def test_the_head_stays_and_workers_come_and_go(name: str) -> None:
    (config,) = documents(name)
    head, worker = config["available_node_types"]["head"], config["available_node_types"]["gpu-spot"]
    assert head["resources"] == {"CPU": 0, "GPU": 0} and worker["resources"]["GPU"] == 1
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert config["idle_timeout_minutes"] > START_MINUTES
    market = {"aws.yaml": "InstanceMarketOptions", "gcp.yaml": "scheduling"}[name]
    assert "SPOT" in str(worker["node_config"][market]).upper() and market not in head["node_config"]
    started = " ".join(config["head_start_ray_commands"])
    assert "--num-cpus=0" in started and "--dashboard-host=127.0.0.1" in started


@pytest.mark.parametrize("name", [*AUTOSCALER, *KUBERAY, "Dockerfile", "s3-policy.json"])
def test_it_holds_no_key(name: str) -> None:
    text = (FILES / name).read_text()
    assert not re.search("AKIA|secret_?access|aws_access_key|PRIVATE KEY|auth_token: [a-z0-9]{16}", text, re.IGNORECASE)


@pytest.mark.parametrize("name", KUBERAY)
def test_rays_reader_sees_the_groups(name: str) -> None:
    config = _derive_autoscaling_config_from_ray_cr(ray_cluster(name))
    head, worker = config["available_node_types"]["headgroup"], config["available_node_types"]["gpu-spot"]
    assert head["resources"]["CPU"] == 0 and head["resources"].get("GPU", 0) == 0
    assert (worker["resources"]["CPU"], worker["resources"]["GPU"]) == (15, 1)
    assert (worker["min_workers"], worker["max_workers"]) == (0, 16)
    assert config["idle_timeout_minutes"] > START_MINUTES


def test_anybody_may_write_into_the_store_that_google_mounts() -> None:
    commands = "\n".join(yaml.safe_load((FILES / "gcp.yaml").read_text())["initialization_commands"])
    store = re.search(r"--store (\S+) --shared", (FILES / "gcp.yaml").read_text())
    assert store is not None
    mounted, *_ = store[1].rpartition("/")
    # The share belongs to root, and nobody in a container is.
    assert re.search(rf"mount -t nfs .* {mounted}; }} && sudo install -d -m 1777 {store[1]}\n", commands)


@pytest.mark.parametrize("name", KUBERAY)
def test_its_pods_are_kubernetes(name: str) -> None:
    spec = ray_cluster(name)["spec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"] + pod["spec"]["initContainers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert pod["spec"]["serviceAccountName"] == of_kind(name, "ServiceAccount")["metadata"]["name"]
    kubernetes_validate.validate(of_kind(name, "ServiceAccount"), "1.34", strict=True)


@pytest.mark.parametrize(
    ("name", "definition"), [("kuberay-raycluster.yaml", "rayclusters"), ("kuberay-rayjob.yaml", "rayjobs")]
)
def test_kuberay_defines_every_field(name: str, definition: str, test_data: Path) -> None:
    file = test_data / f"ray.io_{definition}.yaml"
    if not file.exists():
        pytest.skip(f"{file} does not exist; it is KubeRay's, ray-operator/config/crd/bases")
    defined = yaml.load(file.read_text(), yaml.CSafeLoader)
    schema = next(v for v in defined["spec"]["versions"] if v["name"] == "v1")["schema"]["openAPIV3Schema"]
    resource = of_kind(name, "RayCluster" if definition == "rayclusters" else "RayJob")
    jsonschema.validate(resource, closed(schema))


def closed(schema: Any) -> Any:
    """The schema, refusing fields that it does not name: Kubernetes drops them without a word."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    return found


def test_a_job_and_a_cluster_are_the_same_machines() -> None:
    assert ray_cluster(KUBERAY[0])["spec"] == ray_cluster(KUBERAY[1])["spec"]


def test_a_job_goes_on_after_its_head_died_and_leaves_nothing_running() -> None:
    spec = of_kind("kuberay-rayjob.yaml", "RayJob")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True and spec["ttlSecondsAfterFinished"] > 0


def commands(text: str) -> Iterator[list[str]]:
    """Every `brewline …` in a text that is there to be run, as words."""
    for line in re.findall(r"(?:^ {4}|`|'|entrypoint: )(brewline [^`'\n#]*)", text, re.MULTILINE):
        if "…" not in line:
            yield shlex.split(line)


def section(title: str) -> str:
    text = re.sub("<!--.*?-->", "", (ROOT / "README.md").read_text())
    return text[text.index(f"## {title}") :].split("\n## ", 1)[0]


def test_every_command_in_them_is_there() -> None:
    texts = {name: (FILES / name).read_text() for name in (*AUTOSCALER, *KUBERAY)}
    texts["README.md"] = section("ImageNet on a cloud cluster")
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    found = [(name, words) for name, text in texts.items() for words in commands(text)]
    assert len(found) > 5
    for name, (_, command, *words) in found:
        options = {
            option for parameter in known[command].params for option in parameter.opts + parameter.secondary_opts
        }
        used = {word for word in words if word.startswith("-")}
        assert used <= options, f"{name}: brewline {command} has no {used - options}"
        if command in ("run", "plan", "submit") and words:
            assert words[0] in named_experiments() or words[0].endswith(".yaml"), (name, words)


def test_the_image_is_built_of_files_that_are_there() -> None:
    instructions = dockerfile.parse_file(str(FILES / "Dockerfile"))
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in instructions if line.cmd.upper() == "COPY" for source in line.value[:-1]}
    assert copied and copied <= admitted
    assert all((ROOT / source).exists() for source in copied)
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in needed["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {needed["project"]["readme"], *needed["project"]["license-files"]} <= copied
    users = [line.value[0] for line in instructions if line.cmd.upper() == "USER"]
    assert users and users[-1] not in ("root", "0")


def test_all_name_the_same_python_ray_and_brewline() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    image = (FILES / "Dockerfile").read_text()
    python = project["project"]["requires-python"].removeprefix(">=")
    assert re.search(rf"^FROM python:{re.escape(python)}-", image, re.MULTILINE)
    assert "-c constraints.txt" in image
    pinned = re.search("^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None and pinned[1] == ray.__version__
    for name in KUBERAY:
        assert ray_cluster(name)["spec"]["rayVersion"] == pinned[1]
    for name in (*AUTOSCALER, *KUBERAY):
        images = set(re.findall(r"REGISTRY/brewline:(\S+)", (FILES / name).read_text()))
        assert images == {project["project"]["version"]}, name


def test_the_policy_allows_what_the_store_does_and_no_more() -> None:
    statements = json.loads((FILES / "s3-policy.json").read_text())["Statement"]
    actions = {
        action
        for one in statements
        for action in ([one["Action"]] if isinstance(one["Action"], str) else one["Action"])
    }
    assert {"s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket", "s3:AbortMultipartUpload"} <= actions
    assert not [action for action in actions if "*" in action or "Policy" in action or action == "s3:DeleteBucket"]
    rule = json.loads((FILES / "s3-lifecycle.json").read_text())["Rules"][0]
    assert "Expiration" not in rule, "outputs are kept until somebody takes them out"
