"""The manifests at work: the programs get exactly the arguments, variables and files that they name, at the paths and ports that they name."""
import json
import ssl
import subprocess
import threading
import time
import unittest
import urllib.request

from load import Load
from manifests import Manifests, projected
from pods import Cluster, eventually, get

# Until all proxies of a cluster know that a pod takes no more connections. The manifests allow for 5 s; the rest is for a machine that stands still.
LAG = 2


def objects(manifests, *kinds):
    return [document for document in manifests.documents if document["kind"] in kinds]


class Local(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.manifests = Manifests("local")
        cls.cluster = Cluster()
        cls.addClassCleanup(cls.cluster.close)
        start = lambda kind, name: cls.start(cls.manifests.workload(kind, name))
        cls.registry = start("StatefulSet", "registry")
        # The Service of the registry leads to its one pod.
        cls.cluster.names["registry"] = cls.registry.address
        cls.carts = [start("Deployment", "cart") for _ in range(2)]
        cls.gateways = [start("Deployment", "gateway") for _ in range(2)]
        token = cls.manifests.data("Secret", cls.token_secret())
        cls.tokens = {key: value.decode() for key, value in token.items()}
        for pod in [cls.registry, *cls.carts, *cls.gateways]:
            eventually(f"{pod.name} is ready", lambda: cls.workloads[pod.name].ready(pod))
        for pod in cls.gateways:
            eventually("the gateway has found the carts", lambda: get(pod.url(8080, "/cart/items"))[0] == 200)

    @classmethod
    def start(cls, workload):
        pod = workload.start(cls.cluster)
        cls.workloads = {**getattr(cls, "workloads", {}), pod.name: workload}
        return pod

    @classmethod
    def token_secret(cls):
        return next(document["metadata"]["name"] for document in objects(cls.manifests, "Secret"))

    def tearDown(self):
        if self._outcome.result.failures or self._outcome.result.errors:
            self.cluster.logs()

    def test_what_needs_a_token_is_shown_to_nobody_without_it(self):
        admin, registry = self.tokens["admin-token"], self.tokens["registry-token"]
        for url, token in [
            (self.gateways[0].url(9090, "/metrics"), admin),
            (self.carts[0].url(4191, "/status"), admin),
            (self.registry.url(8500, "/v1/agent/services"), registry),
        ]:
            self.assertIn(get(url)[0], (401, 403), url)
            self.assertEqual(get(url, {"Authorization": f"Bearer {token}"})[0], 200, url)
            self.assertIn(get(url, {"Authorization": "Bearer wrong"})[0], (401, 403), url)

    def test_a_changed_config_map_is_in_force_without_a_restart(self):
        pod = self.gateways[0]
        folder = self.cluster.folder / "volumes" / pod.name / "config"
        data = {"gateway.toml": (folder / "gateway.toml").read_bytes()}
        more = b'\n[[routes]]\npath = "/basket/{*rest}"\nto = "cart"\nstrip_prefix = "/basket"\n'
        self.assertEqual(get(pod.url(8080, "/basket/items"))[0], 404)
        projected(folder, {"gateway.toml": data["gateway.toml"] + more})
        eventually("the new route is there", lambda: get(pod.url(8080, "/basket/items"))[0] == 200)
        projected(folder, {"gateway.toml": b"routes = 7"})
        time.sleep(3)
        self.assertEqual(get(pod.url(8080, "/basket/items"))[0], 200, "what is wrong changes nothing")
        projected(folder, data)
        eventually("the new route is gone", lambda: get(pod.url(8080, "/basket/items"))[0] == 404)

    def test_a_rollout_of_everything_under_load_fails_no_request(self):
        """New pods first, then the end of the old ones with the timings of the manifests, as a Deployment does it. The registry, of which there is one, is away
        for a moment."""
        load = Load(8080, "/cart/items", "/cart/slow")
        load.start(*(pod.address for pod in self.gateways))
        load.wait_for(3)

        carts, gateways = list(self.carts), list(self.gateways)
        old_gateway, old_cart = gateways[0], carts[0]
        gateway, cart = self.workloads[old_gateway.name], self.workloads[old_cart.name]
        new_gateway, new_cart = self.start(gateway), self.start(cart)
        type(self).gateways, type(self).carts = [gateways[1], new_gateway], [carts[1], new_cart]
        for workload, pod in [(gateway, new_gateway), (cart, new_cart)]:
            eventually(f"{pod.name} is ready", lambda: workload.ready(pod))

        ended = {}

        def end(workload, pod):
            ended[pod.name] = pod.end(workload.timings(), workload.grace)

        def proxies():
            time.sleep(LAG)
            load.endpoints = [pod.address for pod in self.gateways]

        threads = [
            threading.Thread(target=end, args=(gateway, old_gateway)),
            threading.Thread(target=end, args=(cart, old_cart)),
            threading.Thread(target=proxies),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        registry = self.workloads[self.registry.name]
        ended[self.registry.name] = self.registry.end(registry.timings(), registry.grace)
        load.wait_for(1)
        container = registry.containers["registry"]
        # The same folder; the Service leads to where it is now, which is the same place here.
        from manifests import argv

        self.registry.start("registry", argv(container), registry.environment(container), registry.mounts(self.cluster, self.registry, container))
        eventually("the registry is back", lambda: registry.ready(self.registry))
        load.wait_for(3)
        load.end()

        for pod, containers in ended.items():
            for name, (code, seconds) in containers.items():
                expected = (0,) if name != "cart" else (0, -15)
                self.assertIn(code, expected, f"{name} of {pod}: ended with {code} after {seconds:.1f} s")
        self.assertLess(ended[old_cart.name]["sidecar"][1], cart.timings()["cart"] + 1, "the program outlives its sidecar")
        self.assertEqual(load.failures, [], f"of {dict(load.answered)}")
        self.assertGreater(load.answered["new"], 100)
        passing = get(self.registry.url(8500, "/v1/health/service/cart?passing"), {"X-Consul-Token": self.tokens["registry-token"]})[1]
        addresses = {entry["Service"]["Address"] for entry in json.loads(passing)}
        self.assertEqual(addresses, {pod.address for pod in self.carts})


class Production(unittest.TestCase):
    def test_the_front_door_speaks_tls_with_the_certificate_of_its_secret(self):
        cluster = Cluster()
        self.addCleanup(cluster.close)
        key, certificate = cluster.folder / "tls.key", cluster.folder / "tls.crt"
        subject = ["-subj", "/CN=shop.example", "-addext", "subjectAltName=DNS:shop.example"]
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command = ["openssl", "req", "-x509", *curve, "-keyout", str(key), "-out", str(certificate), "-days", "2", *subject]
        subprocess.run(command, check=True, capture_output=True)
        manifests = Manifests("production", {
            "gusset-tokens": {"registry-token": b"r3gistry", "admin-token": b"adm1n"},
            "gateway-tls": {"tls.crt": certificate.read_bytes(), "tls.key": key.read_bytes()},
        })
        pods = []
        for kind, name in [("StatefulSet", "registry"), ("Deployment", "cart"), ("Deployment", "gateway")]:
            workload = manifests.workload(kind, name)
            pods.append(workload.start(cluster))
            cluster.names.setdefault("registry", pods[0].address)
            eventually(f"{name} is ready", lambda: workload.ready(pods[-1]))
        cluster.names["shop.example"] = pods[2].address
        context = ssl.create_default_context(cafile=str(certificate))
        context.check_hostname = False

        def answer():
            try:
                with urllib.request.urlopen(f"https://{pods[2].address}:8443/cart/items", context=context, timeout=10) as answer:
                    return answer.read()
            except urllib.error.HTTPError:
                return None

        self.assertEqual(eventually("the cart answers over TLS", answer), b"three items\n")


class Overlays(unittest.TestCase):
    def test_every_container_is_bounded_and_may_do_nothing_that_it_need_not(self):
        seen = 0
        for overlay in ("local", "production"):
            for document in objects(Manifests(overlay), "Deployment", "StatefulSet"):
                pod = document["spec"]["template"]["spec"]
                self.assertFalse(pod["automountServiceAccountToken"])
                self.assertTrue(pod["securityContext"]["runAsNonRoot"])
                self.assertGreater(pod["securityContext"]["runAsUser"], 0)
                self.assertEqual(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault")
                for container in pod["containers"]:
                    context = container["securityContext"]
                    self.assertTrue(context["readOnlyRootFilesystem"])
                    self.assertFalse(context["allowPrivilegeEscalation"])
                    self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                    self.assertIn("memory", container["resources"]["limits"])
                    self.assertEqual(set(container["resources"]["requests"]), {"cpu", "memory"})
                    seen += 1
        self.assertEqual(seen, 8)

    def test_each_workload_has_a_budget_of_disruptions_and_a_policy_that_selects_it(self):
        for overlay in ("local", "production"):
            manifests = Manifests(overlay)
            selects = lambda selector, labels: all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
            for document in objects(manifests, "Deployment", "StatefulSet"):
                name, labels = document["metadata"]["name"], document["spec"]["template"]["metadata"]["labels"]
                self.assertTrue(selects(document["spec"]["selector"], labels), name)
                budget = manifests.find("PodDisruptionBudget", name)
                self.assertTrue(selects(budget["spec"]["selector"], labels), name)
                policies = [each for each in objects(manifests, "NetworkPolicy") if selects(each["spec"]["podSelector"], labels)]
                opens = {port["port"] for policy in policies for rule in policy["spec"].get("ingress", []) for port in rule.get("ports", [])}
                listens = {port["containerPort"] for container in document["spec"]["template"]["spec"]["containers"] for port in container.get("ports", [])}
                self.assertEqual(opens, listens, f"{overlay}: what {name} listens on, and who may come in")
            for document in objects(manifests, "HorizontalPodAutoscaler"):
                target = manifests.find(document["spec"]["scaleTargetRef"]["kind"], document["spec"]["scaleTargetRef"]["name"])
                self.assertNotIn("replicas", target["spec"], "an apply would undo what it did")

    def test_the_grace_of_a_pod_covers_all_that_its_containers_wait_for(self):
        manifests = Manifests("production")
        gateway, cart = manifests.workload("Deployment", "gateway"), manifests.workload("Deployment", "cart")
        self.assertGreater(gateway.grace, gateway.timings()["gateway"] + 30)
        config = next(volume["configMap"]["name"] for volume in gateway.pod["volumes"] if volume["name"] == "config")
        self.assertIn('drain_limit = "30s"', manifests.data("ConfigMap", config)["gateway.toml"].decode())
        drains = next(int(arg.removeprefix("--drain-limit=").removesuffix("s")) for arg in cart.containers["sidecar"]["args"] if arg.startswith("--drain-limit="))
        self.assertGreaterEqual(cart.timings()["cart"], drains, "the program is there as long as its sidecar finishes requests")
        self.assertGreater(cart.grace, cart.timings()["cart"])
