"""Connections to Tidewater's services: who answers, TLS, the token.

A service proves that it knows the token before it is sent it, as every client
should ask: another program may listen on the port.
"""

import argparse
import hashlib
import hmac
import os
import secrets

import grpc
from pyarrow import flight

from tidewater.v1 import common_pb2, common_pb2_grpc


def flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `Trust` is made of."""
    parser.add_argument("--ca", help="PEM file of the services' authority: use TLS")
    parser.add_argument("--cert", help="PEM file of this program's certificate")
    parser.add_argument("--key", help="PEM file of its key")


class Trust:
    """What this program shows to a service, and whom it believes."""

    def __init__(self, arguments: argparse.Namespace):
        def pem(path: str | None) -> bytes | None:
            return open(path, "rb").read() if path else None

        self.token = os.environ.get("TIDEWATER_TOKEN", "")
        self.ca, self.cert, self.key = pem(arguments.ca), pem(arguments.cert), pem(arguments.key)

    def metadata(self) -> list[tuple[str, str]]:
        """Of every gRPC call but Identify."""
        return [("authorization", f"Bearer {self.token}")] if self.token else []

    def channel(self, address: str, service: str) -> grpc.Channel:
        """A channel to `service` at "host:port", which has proved to be that."""
        if self.ca:
            credentials = grpc.ssl_channel_credentials(self.ca, self.key, self.cert)
            channel = grpc.secure_channel(address, credentials)
        else:
            channel = grpc.insecure_channel(address)
        nonce = secrets.token_bytes(32)
        request = common_pb2.IdentifyRequest(nonce=nonce)
        answer = common_pb2_grpc.IdentityStub(channel).Identify(request, timeout=10)
        if answer.service != service:
            raise SystemExit(f"{address} is a {answer.service}, not a {service}")
        if self.token:
            said = nonce + answer.service.encode() + b"\0" + answer.version.encode()
            proof = hmac.new(self.token.encode(), said, hashlib.sha256).digest()
            if not hmac.compare_digest(proof, answer.proof):
                raise SystemExit(f"the {service} at {address} does not know the token")
        return channel

    def flight(self, address: str) -> tuple[flight.FlightClient, flight.FlightCallOptions]:
        """A Flight client of the same port, and the options of its calls."""
        if self.ca:
            client = flight.FlightClient(
                f"grpc+tls://{address}",
                tls_root_certs=self.ca,
                cert_chain=self.cert,
                private_key=self.key,
            )
        else:
            client = flight.FlightClient(f"grpc://{address}")
        headers = [(name.encode(), value.encode()) for name, value in self.metadata()]
        return client, flight.FlightCallOptions(headers=headers)


def explain(error: grpc.RpcError) -> str:
    """What a service says is wrong, and what to do about it."""
    for name, value in error.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            detail = common_pb2.ErrorDetail.FromString(value)
            code = common_pb2.ErrorCode.Name(detail.code)
            remedy = f"\n  -> {detail.remedy}" if detail.remedy else ""
            return f"{error.details()} ({code}){remedy}"
    return error.details()
