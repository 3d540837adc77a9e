"""Makes one call with VMware's own SDK and prints what its user sees of the refusal.

Usage: denied.py HOST PORT CA_FILE, the caller's token on standard input.
"""

import socket
import ssl
import sys

from pyVmomi import SoapStubAdapter, vim

host, port, ca_file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
token = sys.stdin.read().strip()

# Every name is loopback here, without anybody's DNS.
resolve = socket.getaddrinfo
socket.getaddrinfo = lambda _, *rest, **more: resolve("127.0.0.1", *rest, **more)

stub = SoapStubAdapter(
    host=host,
    port=port,
    path="/sdk",
    version="vim.version.version9",
    sslContext=ssl.create_default_context(cafile=ca_file),
    customHeaders={"Culvert-Authorization": f"Bearer {token}"},
)
try:
    vim.VirtualMachine("vm-1", stub).PowerOff()
except vim.fault.NoPermission as fault:
    print(f"NoPermission: {fault.msg}")
