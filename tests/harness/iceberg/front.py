"""A front before a REST catalog on 127.0.0.1, which does what the catalog does not.

    front.py PORT SETTINGS

SETTINGS is a JSON object:

    upstream   "host:port" of the catalog
    warehouse  the catalog's own name of the warehouse that is called `lake` here;
               another one is not known
    tls        [certificate, key]: speaks TLS only
    uses       requests that a token is good for. Tokens are issued here; a
               request without a good one is refused
    expires_in what is said of a token's life; nobody takes it away then
    keys       [access key, secret key], lent with every table that is described
               to who asks for it
    store      "host:port" of the store, told with them
    keys_life  seconds that they live, as is said of them; nobody takes them away
    spoiled    of the first so many loans the secret is wrong
    closed     no more tokens are issued
    broken     so many requests are answered by 503

    POST /-/set {…}   changes settings
    GET /-/told       {"tokens": issued, "refused": requests, "loans": keys lent,
                       "broken": requests answered by 503}
"""

import http.client
import json
import ssl
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

settings = json.loads(sys.argv[2])
told = {"tokens": 0, "refused": 0, "loans": 0, "broken": 0}
alive = {}
lock = threading.Lock()


def upstream(method, path, headers, body):
    connection = http.client.HTTPConnection(settings["upstream"], timeout=60)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def refusal(status, kind, message):
    return status, json.dumps({"error": {"message": message, "type": kind, "code": status}}).encode()


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, content = self.handled(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if status != 204 and self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_POST = do_DELETE = do_HEAD = answer

    def log_message(self, *_):
        pass

    def handled(self, body):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/-/told":
            return 200, json.dumps(told).encode()
        if url.path == "/-/set":
            settings.update(json.loads(body))
            return 200, b"{}"
        with lock:
            if settings.get("broken", 0) > 0:
                settings["broken"] -= 1
                told["broken"] += 1
                return refusal(503, "ServiceUnavailableException", "out of order")
        if url.path == "/v1/oauth/tokens":
            return self.token(body)
        headers = {name: self.headers[name] for name in ("Content-Type",) if name in self.headers}
        if "uses" in settings:
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            with lock:
                left, theirs = alive.get(token, (0, None))
                if left == 0:
                    told["refused"] += 1
                    return refusal(401, "NotAuthorizedException", "the token has expired")
                alive[token] = (left - 1, theirs)
            headers["Authorization"] = f"Bearer {theirs}"
        elif "Authorization" in self.headers:
            headers["Authorization"] = self.headers["Authorization"]
        path = self.path
        if url.path == "/v1/config" and "warehouse" in settings:
            asked = urllib.parse.parse_qs(url.query).get("warehouse", [""])[0]
            if asked not in ("lake", settings["warehouse"]):
                return refusal(404, "NoSuchWarehouseException", f"there is no warehouse {asked}")
            path = "/v1/config?" + urllib.parse.urlencode({"warehouse": settings["warehouse"]})
        status, content = upstream(self.command, path, headers, body)
        if "keys" in settings and status == 200 and self.wants_keys():
            content = self.lent(content)
        return status, content

    def token(self, body):
        if settings.get("closed"):
            return 401, b'{"error": "invalid_client", "error_description": "the client is unknown"}'
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        status, content = upstream("POST", "/v1/oauth/tokens", form, body)
        if status != 200:
            return status, content
        answer = json.loads(content)
        with lock:
            told["tokens"] += 1
            if "uses" in settings:
                own = f"token-{told['tokens']}"
                alive[own] = (settings["uses"], answer["access_token"])
                answer["access_token"] = own
            answer["expires_in"] = settings.get("expires_in", 3600)
        return 200, json.dumps(answer).encode()

    def wants_keys(self):
        return self.headers.get("X-Iceberg-Access-Delegation") == "vended-credentials"

    def lent(self, content):
        table = json.loads(content)
        location = table.get("metadata", {}).get("location")
        if location is None:
            return content
        with lock:
            told["loans"] += 1
            number = told["loans"]
        key, secret = settings["keys"]
        if number <= settings.get("spoiled", 0):
            secret = "spoiled"
        config = {"s3.access-key-id": key, "s3.secret-access-key": secret}
        if "keys_life" in settings:
            end = int((time.time() + settings["keys_life"]) * 1000)
            config["s3.session-token-expires-at-ms"] = str(end)
        # The way is told once, the keys by prefix; a shorter one has others.
        bucket = "/".join(location.split("/")[:3])
        table["config"] = {
            "s3.endpoint": f"http://{settings['store']}",
            "s3.path-style-access": "true",
            "client.region": "us-east-1",
        }
        table["storage-credentials"] = [
            {"prefix": location, "config": config},
            {"prefix": bucket, "config": {"s3.access-key-id": "nobody", "s3.secret-access-key": "nothing"}},
        ]
        return json.dumps(table).encode()


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Front)
if "tls" in settings:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*settings["tls"])
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
