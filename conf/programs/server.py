import signal
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"served\n")


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/pki/server.pem", "/etc/pki/server.key")


def reload(*_):
    context.load_cert_chain("/etc/pki/server.pem", "/etc/pki/server.key")
    print("loaded again", flush=True)


signal.signal(signal.SIGHUP, reload)
server = ThreadingHTTPServer(("127.0.0.1", 8443), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
