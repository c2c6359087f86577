"""What the manifests say, as a cluster would read it."""
import base64
import os
import pathlib
import sys

import yaml

DEPLOY = pathlib.Path(__file__).parent.parent
GUSSET = os.environ.get("GUSSET", "gusset")


def render(overlay):
    text = (DEPLOY / "rendered" / f"{overlay}.yaml").read_text()
    return [document for document in yaml.safe_load_all(text) if document]


class Manifests:
    def __init__(self, overlay, secrets=None):
        self.documents = render(overlay)
        # Those that stand in no repository.
        self.secrets = secrets or {}

    def find(self, kind, name):
        for document in self.documents:
            if document["kind"] == kind and document["metadata"]["name"] == name:
                return document
        raise KeyError(f"no {kind} {name}")

    def data(self, kind, name):
        """Of a ConfigMap or a Secret, by key, as bytes."""
        if kind == "Secret" and name in self.secrets:
            return self.secrets[name]
        document = self.find(kind, name)
        decode = base64.b64decode if kind == "Secret" else str.encode
        return {key: decode(value) for key, value in document["data"].items()}

    def workload(self, kind, name):
        return Workload(self, self.find(kind, name))


def projected(folder, data):
    """As the kubelet writes the files of a ConfigMap or a Secret: links to a folder that is exchanged as a whole."""
    generation = len(list(folder.glob("..v*"))) if folder.exists() else 0
    version = folder / f"..v{generation}"
    version.mkdir(parents=True)
    for key, value in data.items():
        (version / key).write_bytes(value)
        if not (folder / key).is_symlink():
            (folder / key).symlink_to(f"..data/{key}")
    new = folder / "..new"
    new.symlink_to(version.name)
    new.rename(folder / "..data")
    return folder


class Workload:
    """A Deployment or a StatefulSet."""

    def __init__(self, manifests, document):
        self.manifests, self.spec = manifests, document["spec"]
        self.name = document["metadata"]["name"]
        self.pod = self.spec["template"]["spec"]
        self.containers = {container["name"]: container for container in self.pod["containers"]}

    @property
    def grace(self):
        return self.pod["terminationGracePeriodSeconds"]

    def timings(self):
        """How long the preStop of each container takes."""
        hook = lambda container: container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        return {name: hook(container) for name, container in self.containers.items()}

    def start(self, cluster):
        pod = cluster.pod(self.name)
        for name, container in self.containers.items():
            pod.start(name, argv(container), self.environment(container), self.mounts(cluster, pod, container), container["securityContext"]["readOnlyRootFilesystem"])
        return pod

    def environment(self, container):
        variables = {}
        for variable in container.get("env", []):
            if "value" in variable:
                variables[variable["name"]] = variable["value"]
            else:
                key = variable["valueFrom"]["secretKeyRef"]
                variables[variable["name"]] = self.manifests.data("Secret", key["name"])[key["key"]].decode()
        return variables

    def mounts(self, cluster, pod, container):
        volumes = {volume["name"]: volume for volume in self.pod.get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in self.spec.get("volumeClaimTemplates", [])}
        mounts = {}
        for mount in container.get("volumeMounts", []):
            name = mount["name"]
            if name in claims:
                mounts[mount["mountPath"]] = cluster.claim(f"{name}-{self.name}-0")
                continue
            volume, folder = volumes[name], cluster.folder / "volumes" / pod.name / name
            if not folder.exists():
                source = ("ConfigMap", volume["configMap"]["name"]) if "configMap" in volume else ("Secret", volume["secret"]["secretName"])
                projected(folder, self.manifests.data(*source))
            mounts[mount["mountPath"]] = folder
        return mounts

    def ready(self, pod):
        """Whether the readiness probes of all containers succeed."""
        return all(probe(pod, container, "readinessProbe") for container in self.containers.values())


def argv(container):
    """The entry point of an image is known here; what the manifest says stands behind it, or in its place."""
    image = container["image"].rsplit(":", 1)[0].rsplit("/", 1)[-1]
    entrypoint = {"gusset": [GUSSET], "python": [sys.executable]}[image]
    command = container.get("command")
    if command is None:
        return [*entrypoint, *container.get("args", [])]
    if command[0] == "python3":
        command = [sys.executable, *command[1:]]
    return [*command, *container.get("args", [])]


def probe(pod, container, kind):
    from pods import get

    wanted = container.get(kind)
    if wanted is None:
        return True
    port = wanted["httpGet"]["port"]
    if not isinstance(port, int):
        port = next(each["containerPort"] for each in container["ports"] if each["name"] == port)
    status, _ = get(pod.url(port, wanted["httpGet"]["path"]), timeout=wanted.get("timeoutSeconds", 1))
    return status is not None and 200 <= status < 400
