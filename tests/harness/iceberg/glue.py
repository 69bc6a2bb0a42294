"""A Glue catalog on 127.0.0.1: moto's, made as strict as AWS.

    glue.py PORT '{"key": {"secret": …, "writes": true}, …}'

moto's UpdateTable takes any VersionId. AWS refuses one that is not the table's
newest, which is how two writers notice each other; so does this. moto's Glue
takes any key; this one knows those that it is given, recomputes every signature
by botocore, and lets a key that does not write look only.
"""

import datetime
import hashlib
import io
import json
import sys
import threading

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.core.exceptions import JsonRESTError
from moto.glue.responses import GlueResponse
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

unchecked = GlueResponse.update_table
# Between the check and the update no other update may come.
updating = threading.Lock()


class Concurrent(JsonRESTError):
    code = 400

    def __init__(self):
        super().__init__("ConcurrentModificationException", "Update table failed due to concurrent modifications.")


def update_table(self):
    with updating:
        expected = self.parameters.get("VersionId")
        if expected is not None:
            database, name = self.parameters["DatabaseName"], self.parameters["TableInput"]["Name"]
            newest = self.glue_backend.get_table(database, name).as_dict()["VersionId"]
            if expected != newest:
                raise Concurrent
        return unchecked(self)


GlueResponse.update_table = update_table


class Guarded:
    """The application, for those only whose signature is right."""

    def __init__(self, application, accounts):
        self.application, self.accounts = application, accounts

    def __call__(self, environ, start_response):
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        if target.startswith("AWSGlue."):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
            refused = self.refused(environ, body, target.removeprefix("AWSGlue."))
            if refused:
                content = json.dumps(dict(zip(("__type", "message"), refused))).encode()
                start_response("400 Bad Request", [("Content-Type", "application/x-amz-json-1.1")])
                return [content]
        return self.application(environ, start_response)

    def refused(self, environ, body, action):
        """(code, message) of a request that is not to be served."""
        algorithm, _, rest = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if algorithm != "AWS4-HMAC-SHA256":
            return "MissingAuthenticationTokenException", "Missing Authentication Token"
        parts = dict(part.strip().split("=", 1) for part in rest.split(","))
        key, day, region, service, _ = parts["Credential"].split("/")
        account = self.accounts.get(key)
        if account is None:
            return "UnrecognizedClientException", "The security token included in the request is invalid."
        names = parts["SignedHeaders"].split(";")
        header = lambda name: environ.get("HTTP_" + name.upper().replace("-", "_"), environ.get(name.upper().replace("-", "_"), ""))
        date = header("x-amz-date")
        signed = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
        if abs(datetime.datetime.now(datetime.timezone.utc) - signed) > datetime.timedelta(minutes=5):
            return "InvalidSignatureException", f"Signature expired: {date} is no time of now"
        request = AWSRequest("POST", f"http://{header('host')}/", {name: header(name) for name in names}, body)
        request.context["timestamp"] = date
        auth = SigV4Auth(Credentials(key, account["secret"]), service, region)
        signature = auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)
        digest = header("x-amz-content-sha256")
        tampered = digest and digest != hashlib.sha256(body).hexdigest()
        if signature != parts["Signature"] or service != "glue" or not {"host", "x-amz-date"} <= set(names) or tampered:
            return "InvalidSignatureException", "The request signature we calculated does not match the signature you provided."
        if not account["writes"] and not action.startswith("Get"):
            return "AccessDeniedException", f"User {key} is not authorized to perform: glue:{action}"
        return None


if __name__ == "__main__":
    application = Guarded(DomainDispatcherApplication(create_backend_app), json.loads(sys.argv[2]))
    run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=True)
