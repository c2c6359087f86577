"""A cluster of one machine: pods with addresses of their own, out of network namespaces, and containers in them, as manifests describe them.

The tests run in namespaces of their own (see `run`), so the ports that manifests name are free, and whatever is mounted is gone with them.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).parent
# For a machine that is ten times slower than it should be.
PATIENCE = 90


def eventually(what, found, patience=PATIENCE):
    since = time.monotonic()
    while True:
        result = found()
        if result:
            return result
        if time.monotonic() - since > patience:
            raise AssertionError(f"in vain, for {patience} s: {what}")
        time.sleep(0.05)


def get(url, headers=None, timeout=10):
    """Status and text; None instead of the status if nobody answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return None, str(error)


def ip(*args):
    subprocess.run(["ip", *args], check=True)


class Cluster:
    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="gusset-deploy-"))
        self.pods = []
        self.names = {}
        self.claims = {}
        self.bridge = f"br{os.getpid()}"[:15]
        ip("link", "set", "lo", "up")
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", "10.77.0.1/16", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")

    def pod(self, name):
        """A new one, with an address and nothing in it."""
        pod = Pod(self, name, len(self.pods) + 2)
        self.pods.append(pod)
        return pod

    def hosts(self):
        return "127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in self.names.items())

    def claim(self, name):
        """The folder of a persistent volume."""
        folder = self.folder / "claims" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def close(self):
        for pod in self.pods:
            pod.close()
        ip("link", "del", self.bridge)
        shutil.rmtree(self.folder)

    def logs(self):
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            print(f"--- {log.name}", *lines[-15:], sep="\n", file=sys.stderr)


class Pod:
    def __init__(self, cluster, name, number):
        self.cluster, self.name = cluster, f"{name}-{number}"
        self.address = f"10.77.{number // 250}.{number % 250 + 1}"
        self.containers = {}
        # It holds the network namespace.
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        here = os.readlink("/proc/self/ns/net")
        eventually("a network namespace", lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != here)
        wire = f"v{number}"
        ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid))
        ip("link", "set", wire, "master", cluster.bridge)
        ip("link", "set", wire, "up")
        for line in (["addr", "add", self.address + "/16", "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            subprocess.run(["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "ip", *line], check=True)

    def start(self, name, argv, env, mounts, read_only=True):
        """`mounts`: folders of this machine by where they are in the container."""
        it = {
            "argv": argv,
            # A program of the image is one of this machine's.
            "env": {"PATH": os.environ["PATH"], **env},
            "hosts": self.cluster.hosts(),
            "mounts": {place: str(folder) for place, folder in mounts.items()},
            "read_only": read_only,
        }
        command = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", "unshare", "--mount", sys.executable, str(HERE / "container.py"), json.dumps(it)]
        log = open(self.cluster.folder / f"{self.name}-{name}.log", "ab")
        self.containers[name] = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()

    def url(self, port, path):
        return f"http://{self.address}:{port}{path}"

    def end(self, timings, grace):
        """As the kubelet does it: of each container the preStop, then SIGTERM, and SIGKILL once the grace of the pod is over. Returns, by container, its exit
        code and the seconds that it took from the beginning."""
        ended, begun = {}, time.monotonic()

        def one(name, process, seconds):
            time.sleep(seconds)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(grace - (time.monotonic() - begun))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            ended[name] = (process.returncode, time.monotonic() - begun)

        threads = [threading.Thread(target=one, args=(name, process, timings.get(name, 0))) for name, process in self.containers.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.containers = {}
        return ended

    def close(self):
        for process in [*self.containers.values(), self.holder]:
            process.kill()
            process.wait()
