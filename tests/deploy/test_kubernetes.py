"""deploy/kubernetes against the schemas of Kubernetes and of the Dask operator."""

import functools
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dask.utils import parse_bytes

from bigspec import errors
from bigspec.cli import statuses
from tests.deploy.interrupting import DEPLOY

CORE_VERSIONS = ("1.31", "1.37")  # podFailurePolicy became stable in 1.31
FILES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the operator's schemas are 1 MB
RETRIED = {statuses.SAVED, errors.ClusterError.exit_status}


def documents(path):
    return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=LOADER))


RESOURCES = [
    pytest.param(resource, id=f"{path.stem}-{resource['kind']}")
    for path in FILES
    for resource in documents(path)
]


def of_kind(*kinds):
    return [p for p in RESOURCES if p.values[0]["kind"] in kinds]


def operator():
    """The folder of the operator's package, which is not imported."""
    (package,) = importlib.util.find_spec("dask_kubernetes").submodule_search_locations
    return Path(package) / "operator"


@functools.cache
def operator_schema(kind):
    """The schema that the operator installs."""
    chart = operator() / "deployment" / "helm" / "dask-kubernetes-operator"
    (definition,) = documents(chart / "crds" / f"{kind.lower()}.yaml")
    (version,) = definition["spec"]["versions"]
    assert definition["spec"]["names"]["kind"] == kind
    return f"{definition['spec']['group']}/{version['name']}", strict(
        version["schema"]["openAPIV3Schema"]
    )


def strict(schema):
    """Refuse unknown fields, which the API server would drop without a word."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    known = made.get("properties")
    if (
        isinstance(known, dict)
        and "type" in made
        and not made.get("x-kubernetes-preserve-unknown-fields")
    ):
        made.setdefault("additionalProperties", False)
    return made


def violations(resource):
    """Messages of all violations of the schema of the resource's kind."""
    if not resource["apiVersion"].startswith("kubernetes.dask.org/"):
        found = []
        for version in CORE_VERSIONS:
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(error.message)
        return found
    version, schema = operator_schema(resource["kind"])
    known = schema["properties"] | {"apiVersion": {"const": version}, "kind": {}, "metadata": {}}
    schema = schema | {"properties": known}
    found = jsonschema.Draft202012Validator(schema).iter_errors(resource)
    return [error.message for error in found]


@pytest.mark.parametrize("resource", RESOURCES)
def test_manifest_is_valid(resource):
    assert violations(resource) == []


def test_manifests_of_all_kinds_are_there():
    kinds = {p.values[0]["kind"] for p in RESOURCES}
    assert kinds == {
        "CronJob", "DaskCluster", "DaskJob", "PersistentVolumeClaim",
        "Role", "RoleBinding", "ServiceAccount",
    }  # fmt: skip


@pytest.mark.parametrize("resource", of_kind("CronJob", "DaskCluster", "DaskJob"))
def test_schemas_see_a_misspelt_field(resource):
    spoilt = yaml.safe_load(yaml.safe_dump(resource))
    for spec in pod_specs(spoilt):
        spec["terminationGracePeriodSecs"] = 60
    assert "terminationGracePeriodSecs" in "".join(violations(spoilt))


def pod_specs(value):
    """Every pod spec inside a resource."""
    if isinstance(value, list):
        for item in value:
            yield from pod_specs(item)
    elif isinstance(value, dict):
        if "containers" in value:
            yield value
        for item in value.values():
            yield from pod_specs(item)


def containers(resource):
    return [c for spec in pod_specs(resource) for c in spec["containers"]]


def all_containers(spec):
    return [*spec.get("initContainers", []), *spec["containers"]]


def option(container, name):
    found = [a.partition("=")[2] for a in container["args"] if a.startswith(f"{name}=")]
    return found[0] if found else None


@pytest.mark.parametrize("resource", of_kind("CronJob"))
def test_exit_statuses_decide_what_is_tried_again(resource):
    job = resource["spec"]["jobTemplate"]["spec"]
    by_action = {rule["action"]: rule for rule in job["podFailurePolicy"]["rules"]}
    raised = {getattr(errors, name).exit_status for name in errors.__all__} - {
        errors.BigspecError.exit_status
    }
    hopeless = {statuses.EXCEEDED, statuses.UNDECIDED, statuses.BUG} | (raised - RETRIED)
    assert set(by_action["FailJob"]["onExitCodes"]["values"]) == hopeless
    assert set(by_action["Count"]["onExitCodes"]["values"]) == RETRIED
    assert by_action["Ignore"]["onPodConditions"] == [
        {"type": "DisruptionTarget", "status": "True"}
    ]
    assert list(by_action) == ["Ignore", "FailJob", "Count"]  # the first that fits counts
    named = {r["onExitCodes"]["containerName"] for r in by_action.values() if "onExitCodes" in r}
    assert named == {"norm"}
    assert job["backoffLimit"] > 0


@pytest.mark.parametrize("resource", of_kind("CronJob", "DaskJob"))
def test_the_command_can_save_and_is_not_restarted_in_place(resource):
    (spec,) = (s for s in pod_specs(resource) if s["containers"][0]["name"] == "norm")
    assert spec["restartPolicy"] == "Never"
    assert spec["terminationGracePeriodSeconds"] == 60
    assert spec["securityContext"]["runAsNonRoot"]
    (norm,) = spec["containers"]
    assert norm["args"][0] == "norm"
    assert "command" not in norm  # the image's entrypoint: no shell between Kubernetes and bigspec
    assert option(norm, "--checkpoint").startswith("/state/")
    mounted = {volume["name"]: volume for volume in spec["volumes"]}
    (claim,) = (resource for resource in documents(DEPLOY / "kubernetes" / "storage.yaml"))
    assert mounted["state"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize("resource", of_kind("CronJob", "DaskCluster", "DaskJob"))
def test_memory_limits_of_pods_leave_room_beside_what_is_planned(resource):
    for container in containers(resource):
        asked, allowed = (container["resources"][k]["memory"] for k in ("requests", "limits"))
        assert asked == allowed, "memory cannot be throttled: ask for what may be used"
        planned = option(container, "--memory-limit")
        if planned is not None:
            assert parse_bytes(planned) == 0.75 * parse_bytes(f"{allowed}B")


def test_threads_are_the_cores_asked_for():
    (cluster,) = documents(DEPLOY / "kubernetes" / "cluster.yaml")
    (worker,) = containers(cluster["spec"]["worker"])
    assert option(worker, "--nthreads") == worker["resources"]["requests"]["cpu"]
    (cron,) = documents(DEPLOY / "kubernetes" / "cronjob.yaml")
    (norm,) = containers(cron)
    threads = {v["name"]: v.get("value") for v in norm["env"]}["DASK_NUM_WORKERS"]
    assert threads == norm["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("resource", of_kind("CronJob", "DaskCluster", "DaskJob"))
def test_variables_in_arguments_are_set(resource):
    (controller,) = operator().glob("**/controller.py")
    by_operator = set(re.findall(r'"name": "(DASK_\w+)"', controller.read_text(encoding="utf-8")))
    for spec in pod_specs(resource):
        for container in all_containers(spec):
            known = {v["name"] for v in container.get("env", [])}
            if resource["kind"] != "CronJob":
                known |= by_operator
            used = re.findall(r"\$\((.*?)\)", " ".join(container.get("args", [])))
            assert set(used) <= known, container["name"]


@pytest.mark.parametrize("resource", of_kind("CronJob", "DaskCluster", "DaskJob"))
def test_pods_may_run_where_restricted_ones_only_may(resource):
    """Pod Security's level `restricted`, and a root file system that nobody writes to."""
    for spec in pod_specs(resource):
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert ("serviceAccountName" in spec) != (spec.get("automountServiceAccountToken") is False)
        writable = {volume["name"] for volume in spec["volumes"] if "configMap" not in volume}
        for container in all_containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            mounts = {m["mountPath"]: m["name"] for m in container["volumeMounts"]}
            assert set(mounts.values()) <= {volume["name"] for volume in spec["volumes"]}
            assert mounts.get("/tmp") in writable or container["name"] == "tidy"


@pytest.mark.parametrize("resource", of_kind("CronJob"))
def test_checkpoints_of_past_nights_are_removed_and_nothing_else(resource, tmp_path):
    (spec,) = pod_specs(resource)
    tidy = spec["initContainers"][0]
    name = resource["metadata"]["name"]
    for folder in (f"{name}-1", f"{name}-2", "other"):
        (tmp_path / folder / "blocks").mkdir(parents=True)
    for file in (f"{name}-1.json", "history.sqlite"):
        (tmp_path / file).touch()
    for path in (tmp_path / f"{name}-1", tmp_path / f"{name}-1.json", tmp_path / "other"):
        os.utime(path, (0, 0))
    (script,) = tidy["args"]
    command = [*tidy["command"], script.replace("/state", str(tmp_path))]
    subprocess.run(command, check=True)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"{name}-1.json", f"{name}-2", "history.sqlite", "other"}


def test_job_and_cron_job_run_on_the_same_kind_of_cluster():
    (job,) = documents(DEPLOY / "kubernetes" / "daskjob.yaml")
    (cluster,) = documents(DEPLOY / "kubernetes" / "cluster.yaml")
    spec = dict(cluster["spec"])
    assert spec.pop("idleTimeout") > 0
    assert job["spec"]["cluster"]["spec"] == spec
    *_, cron = documents(DEPLOY / "kubernetes" / "cronjob-cluster.yaml")
    (norm,) = (c for c in containers(cron) if c["name"] == "norm")
    service = f"{cluster['metadata']['name']}-scheduler"  # as the operator names it
    assert option(norm, "--scheduler") == f"tcp://{service}:8786"
    for resource in (job, cluster):
        selector = resource["spec"].get("cluster", resource)["spec"]["scheduler"]["service"]
        assert selector["selector"]["dask.org/cluster-name"] == resource["metadata"]["name"]
