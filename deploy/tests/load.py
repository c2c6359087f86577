"""Requests without end, by clients as a cluster has them: over kept connections, over new ones, and slow ones. Nothing is tried again, so every failure counts."""
import collections
import http.client
import random
import threading
import time

from pods import eventually


class Load:
    def __init__(self, port, path, slow_path, headers=None):
        self.port, self.path, self.slow_path, self.headers = port, path, slow_path, headers or {}
        # Where new connections go; who has one keeps it.
        self.endpoints = []
        self.failures, self.answered = [], collections.Counter()
        self.ending = threading.Event()
        kinds = [("kept", path, True, 0.005)] * 4 + [("new", path, False, 0.02)] * 3 + [("slow", slow_path, True, 0)] * 2
        self.threads = [threading.Thread(target=self.client, args=kind, daemon=True) for kind in kinds]

    def start(self, *endpoints):
        self.endpoints = list(endpoints)
        for thread in self.threads:
            thread.start()

    def client(self, kind, path, keeps, pause):
        connection = None
        while not self.ending.is_set():
            if connection is None:
                endpoint = random.choice(self.endpoints)
                connection = http.client.HTTPConnection(endpoint, self.port, timeout=60)
            try:
                connection.request("GET", path, headers=self.headers)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failures.append((kind, endpoint, answer.status))
                self.answered[kind] += 1
                if not keeps or answer.will_close:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((kind, endpoint, repr(error)))
                connection.close()
                connection = None
            time.sleep(max(pause, 0.005))
        if connection is not None:
            connection.close()

    def wait_for(self, more):
        """Until clients of each kind have been answered so many times more."""
        before = dict(self.answered)
        eventually("clients are answered", lambda: all(self.answered[kind] >= before.get(kind, 0) + more for kind in ("kept", "new", "slow")))

    def end(self):
        self.ending.set()
        for thread in self.threads:
            thread.join()
