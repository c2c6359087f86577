"""A shopping cart. Nothing in it knows of a sidecar."""
import http.server
import sys
import urllib.request


class Cart(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path == "/items":
            self.answer("three items")
        else:
            request = urllib.request.Request("http://mail/send", data=b"order", method="POST")
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.answer("ordered, " + answer.read().decode())

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Cart).serve_forever()
