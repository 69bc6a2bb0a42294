"""A Glue catalog on 127.0.0.1: moto's, made as strict as AWS.

    glue.py PORT

moto's UpdateTable takes any VersionId. AWS refuses one that is not the table's
newest, which is how two writers notice each other; so does this.
"""

import sys
import threading

from moto.core.exceptions import JsonRESTError
from moto.glue.responses import GlueResponse
from moto.server import main

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

if __name__ == "__main__":
    main(["--host", "127.0.0.1", "--port", sys.argv[1]])
