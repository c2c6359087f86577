"""compose.yaml at work, with a real Prometheus: each service gets the arguments, variables and files of the file, under its name. What rules and dashboard ask
for is there."""
import json
import os
import pathlib
import shutil
import subprocess
import unittest
import urllib.parse

import yaml

from manifests import DEPLOY, argv
from pods import Cluster, eventually, get
from promql import needs, samples

TOKENS = {"GUSSET_TOKEN": "r3gistry", "GUSSET_ADMIN_TOKEN": "adm1n", "POSTGRES_PASSWORD": "p0stgres"}
# What Prometheus adds to all that it scrapes.
TARGET = {"job", "instance", "service"}


def filled(value):
    """`${NAME:?what it is}`, as compose fills it in."""
    if value.startswith("${"):
        return TOKENS[value[2:].split(":", 1)[0]]
    return value


class Compose:
    def __init__(self, cluster):
        self.cluster, self.file = cluster, yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        self.pods = {}

    def start(self, name, argv, **replaced):
        service = self.file["services"][name]
        network = service.get("network_mode", "").removeprefix("service:")
        pod = self.pods[network] if network else self.cluster.pod(name)
        self.pods[name] = pod
        self.cluster.names.setdefault(name, pod.address)
        mounts = {}
        for config in service.get("configs", []):
            source = DEPLOY / self.file["configs"][config["source"]]["file"]
            mounts[config["target"]] = replaced.get(config["source"], source)
        for secret in service.get("secrets", []):
            path = self.cluster.folder / secret
            path.write_text(TOKENS[self.file["secrets"][secret]["environment"]])
            mounts[f"/run/secrets/{secret}"] = path
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            if source in self.file["volumes"]:
                mounts[target] = self.cluster.claim(source)
        environment = {key: filled(value) for key, value in service.get("environment", {}).items()}
        pod.start(name, argv, environment, mounts, service.get("read_only", False))
        return pod

    def argv(self, name):
        service = self.file["services"][name]
        if service["image"].startswith("prom/"):
            return [shutil.which("prometheus"), *service["command"]]
        python = service["image"].startswith("python:")
        return argv({"image": service["image"], "command" if python else "args": service["command"]})

    def healthy(self, name):
        """Whether its own check succeeds."""
        test = self.file["services"][name]["healthcheck"]["test"]
        assert test[:2] == ["CMD", "/gusset"], test
        holder = self.pods[name].holder.pid
        command = ["nsenter", f"--net=/proc/{holder}/ns/net", os.environ["GUSSET"], *test[2:]]
        return subprocess.run(command, capture_output=True).returncode == 0


def dashboard():
    board = json.loads((DEPLOY / "grafana/gusset.json").read_text())
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$service", ".*")
            yield panel["title"], expression, target["legendFormat"]


def rules():
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yml").read_text())["groups"]:
        yield from group["rules"]


def shop(cluster):
    """What the services of the demo tell of themselves, on a machine of their own with a registry."""
    pod = cluster.pod("shop")
    pod.start("registry", [os.environ["GUSSET"], "registry", "--listen", "127.0.0.1:8500"], {}, {})
    enter = ["nsenter", f"--net=/proc/{pod.holder.pid}/ns/net"]

    def asked(path, of="127.0.0.1:8500"):
        command = [*enter, "curl", "--silent", "--max-time", "10", f"http://{of}{path}"]
        return subprocess.run(command, capture_output=True, text=True).stdout

    eventually("the registry of the shop", lambda: asked("/v1/status/leader"))
    options = ["--headless", "--port", "0", "--seconds", "20", "--registry", "http://127.0.0.1:8500"]
    pod.start("shop", [os.environ["ECOMMERCE_DEMO"], *options], {}, {})

    found = {}

    def told():
        targets = [target for entry in json.loads(asked("/v1/prometheus") or "[]") for target in entry["targets"]]
        for target in targets:
            for name, labels in samples(asked("/metrics", target)).items():
                found.setdefault(name, set()).update(labels)
        # By now a call has failed for good, and a message has come.
        failed = any("error_type" in found.get(f"{kind}_duration_seconds_count", ()) for kind in ("http_client_request", "rpc_client_call"))
        return failed and {"gusset_broker_dead_total", "gusset_retries_given_up_total"} <= set(found)

    eventually("the shop has told its story", told)
    pod.close()
    return found


class Whole(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()
        cls.addClassCleanup(cls.cluster.close)
        cls.compose = compose = Compose(cls.cluster)
        # Here a second is a quarter of a minute.
        quick = cls.cluster.folder / "prometheus.yml"
        text = (DEPLOY / "prometheus/prometheus.yml").read_text()
        quick.write_text(text.replace("15s", "1s"))
        for name in ("registry", "gateway", "cart", "cart-sidecar"):
            compose.start(name, compose.argv(name))
        for name in ("registry", "gateway", "cart-sidecar"):
            eventually(f"{name} is healthy", lambda: compose.healthy(name))
        cls.prometheus = compose.start("prometheus", compose.argv("prometheus"), prometheus=quick)
        eventually("Prometheus is ready", lambda: get(cls.prometheus.url(9090, "/-/ready"))[0] == 200)
        cls.shop = shop(cls.cluster)

    def tearDown(self):
        if self._outcome.result.failures or self._outcome.result.errors:
            self.cluster.logs()

    def ask(self, path, **parameters):
        status, text = get(self.prometheus.url(9090, f"/api/v1/{path}?" + urllib.parse.urlencode(parameters)))
        answer = json.loads(text)
        self.assertEqual((status, answer["status"]), (200, "success"), f"{parameters}: {answer.get('error')}")
        return answer["data"]

    def test_prometheus_finds_all_of_it_and_is_let_in(self):
        front = self.compose.pods["gateway"].url(8080, "/cart/items")
        eventually("the cart answers through the front door", lambda: get(front)[0] == 200)

        def up():
            targets = {target["labels"]["job"]: target["health"] for target in self.ask("targets")["activeTargets"]}
            return targets == {"gateway": "up", "registry": "up", "sidecars": "up"}

        eventually("all targets are up", up)
        for group in self.ask("rules")["groups"]:
            for rule in group["rules"]:
                eventually(f"{rule['name']} is evaluated", lambda: self.health(rule["name"]) == "ok")

    def health(self, name):
        return next(rule["health"] for group in self.ask("rules")["groups"] for rule in group["rules"] if rule["name"] == name)

    def test_rules_and_dashboard_use_only_metrics_and_labels_that_exist(self):
        front = self.compose.pods["gateway"].url(8080, "/cart/items")
        eventually("requests of a sidecar are counted", lambda: get(front) and self.ask("series", **{"match[]": 'http_server_request_duration_seconds_count{job="sidecars"}'}))
        # A call of the gateway that is refused by whom it calls.
        lost = self.compose.pods["gateway"].url(8080, "/cart/nowhere")
        eventually("a failed call is counted", lambda: get(lost) and self.ask("series", **{"match[]": 'http_client_request_duration_seconds_count{job="gateway",error_type!=""}'}))
        known = {name: labels | TARGET for name, labels in self.shop.items()}
        for series in self.ask("series", **{"match[]": '{__name__=~".+"}'}):
            known.setdefault(series["__name__"], set()).update(series)
        # What rules record is made of what was looked at before.
        known.update({rule["record"]: {"service"} for rule in rules() if "record" in rule})
        expressions = [(title, expression) for title, expression, _ in dashboard()]
        expressions += [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
        self.assertGreater(len(expressions), 50)
        for title, expression in expressions:
            asked, grouped = needs(expression)
            self.assertTrue(asked, title)
            for name, labels in asked.items():
                self.assertIn(name, known, f"{title}: {expression}")
                self.assertLessEqual(labels, known[name], f"{title}: labels of {name} in {expression}")
            self.assertLessEqual(grouped, set().union(*(known[name] for name in asked)), f"{title}: {expression}")
            self.ask("query", query=expression)
        self.assertEqual(needs('sum by (a) (rate(b_total{c=~"d e"}[5m])) / 2 > on (f) g'), ({"b_total": {"c"}, "g": set()}, {"a", "f"}))

    def test_legends_name_labels_that_their_expressions_leave(self):
        for title, expression, legend in dashboard():
            # What is not grouped keeps all that it has.
            grouped = needs(expression)[1] or {"service", "instance", "job"}
            named = {part.split("}}")[0].strip() for part in legend.split("{{")[1:]}
            self.assertLessEqual(named, grouped, title)


class Files(unittest.TestCase):
    def test_what_compose_mounts_is_there(self):
        file = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        for config in file["configs"].values():
            self.assertTrue((DEPLOY / config["file"]).is_file(), config)
        for service in file["services"].values():
            for volume in service.get("volumes", []):
                source = volume.split(":")[0]
                self.assertTrue(source in file["volumes"] or (DEPLOY / source).exists(), volume)

    def test_nothing_but_the_front_door_is_reached_from_other_machines(self):
        file = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        ports = {name: port for name, service in file["services"].items() for port in service.get("ports", []) if not port.startswith("127.0.0.1:")}
        self.assertEqual(ports, {"gateway": "8080:8080"})
        self.assertTrue(pathlib.Path(DEPLOY / "Dockerfile").read_text().count("USER 65532:65532") == 2)
