"""The last of a pod's CNI plugins: tells the enforcer of network policies the pod's address.

The container runtime starts the pod's first container after this has ended, hence with the
policies that select the pod in place.
"""

import http.client
import json
import os
import socket
import sys
import urllib.parse

SOCKET = "/run/network-policies.sock"


class Enforcer(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(SOCKET)


def tell(method: str, **facts: str) -> None:
    enforcer = Enforcer("enforcer")
    enforcer.request(method, "/?" + urllib.parse.urlencode(facts))
    answer = enforcer.getresponse()
    if answer.status != 200:
        raise OSError(answer.read().decode().strip())


def main() -> None:
    command = os.environ["CNI_COMMAND"]
    if command == "VERSION":
        print(json.dumps({"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}))
        return
    configuration = json.load(sys.stdin)
    before = configuration.get("prevResult", {})
    pod = dict(pair.partition("=")[::2] for pair in os.environ.get("CNI_ARGS", "").split(";"))
    sandbox = os.environ["CNI_CONTAINERID"]
    if command == "ADD":
        address = before["ips"][0]["address"].partition("/")[0]
        namespace, name = pod["K8S_POD_NAMESPACE"], pod["K8S_POD_NAME"]
        tell("PUT", sandbox=sandbox, namespace=namespace, pod=name, address=address)
        print(json.dumps(before))
    elif command == "DEL":
        tell("DELETE", sandbox=sandbox)


try:
    main()
except OSError as error:
    print(json.dumps({"cniVersion": "1.0.0", "code": 11, "msg": f"network policies: {error}"}))
    sys.exit(1)
